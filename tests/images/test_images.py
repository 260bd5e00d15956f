"""Every kind of image becomes the same kind of array, and what is no image is told in one line."""

import io
import struct
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aweigh.errors import DataError, UsageError
from aweigh.images import decode, opening, reader
from aweigh.images.reader import REDUCED_MARGIN, read_image, read_reduced, read_size, reduction
from aweigh.images.resize import Resize


@pytest.fixture
def color() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def test_all_sources_give_the_same_pixels(tmp_path: Path, color: np.ndarray) -> None:
    path = save(tmp_path / "a.png", color)
    tensor = torch.from_numpy(color.copy()).permute(2, 0, 1)
    for source in (path, str(path), Image.fromarray(color), color, tensor, tensor.float() / 255, color / 255.0):
        image = read_image(source)
        assert image.dtype == np.uint8 and image.flags.c_contiguous
        np.testing.assert_array_equal(image, color)


def test_the_bytes_of_a_file_are_read_like_the_file(tmp_path: Path) -> None:
    """Also reduced, turned by EXIF, and from inside an archive."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    scene(640, 480).save(path, quality=95, exif=exif)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "turned.jpg")
    content = path.read_bytes()
    whole, reduced = read_image(path), read_reduced(path, scaled(80, 60))
    assert whole.shape == (640, 480, 3) and reduced[0].shape == (160, 120, 3)
    with ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(tmp_path / "a.zip"))
        forms = [bytes, bytearray, memoryview, io.BytesIO]
        forms += [lambda _: stack.enter_context(path.open("rb")), lambda _: archive.open("turned.jpg")]
        for form in forms:
            source = form(content)
            np.testing.assert_array_equal(read_image(source), whole)
            assert not getattr(source, "closed", False)
            pixels, full_hw = read_reduced(form(content), scaled(80, 60))
            np.testing.assert_array_equal(pixels, reduced[0])
            assert full_hw == (640, 480)


def test_bytes_and_open_files_that_are_no_image_are_told_in_one_line(tmp_path: Path) -> None:
    def message(source: object, kind: type[DataError] | type[UsageError]) -> str:
        with pytest.raises(kind) as caught:
            read_image(source)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
        return str(caught.value)

    path = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = path.read_bytes()
    for broken, why in ((b"", "0 bytes"), (b"no image", "not an image"), (content[:6000], "cut short")):
        assert why in message(broken, DataError) and message(bytearray(broken), DataError) == message(broken, DataError)
    with path.open() as text, path.open("rb") as read, (tmp_path / "new").open("wb") as written:
        for source in (text, io.StringIO("a"), written):
            assert "open for reading bytes" in message(source, UsageError)
        assert "a.png" in message(text, UsageError) and "new" in message(written, UsageError)
        read.read()
        assert "a.png" in message(read, DataError) and "at its end" in message(read, DataError)
    assert "closed" in message(read, UsageError) and "a.png" in message(read, UsageError)
    assert "empty" in message(io.BytesIO(), DataError)
    with (tmp_path / "empty.png").open("xb"):
        pass
    with (tmp_path / "empty.png").open("rb") as empty:
        assert "empty.png" in message(empty, DataError)


def test_the_result_owns_its_memory(color: np.ndarray) -> None:
    before = color.copy()
    read_image(color)[:] = 0
    chw = torch.from_numpy(color.copy()).permute(2, 0, 1).contiguous()
    read_image(chw)[:] = 0
    assert np.array_equal(color, before) and chw.any()


def test_grey(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    path = save(tmp_path / "grey.png", grey)
    for source in (path, grey, grey[:, :, None], torch.from_numpy(grey)[None], torch.from_numpy(grey)):
        np.testing.assert_array_equal(read_image(source), expected)


def test_one_bit(tmp_path: Path) -> None:
    bits = np.array([[True, False], [False, True]])
    Image.fromarray(bits).save(tmp_path / "bits.png")
    assert Image.open(tmp_path / "bits.png").mode == "1"
    for source in (tmp_path / "bits.png", bits):
        assert read_image(source)[:, :, 0].tolist() == [[255, 0], [0, 255]]


def test_what_is_transparent_lies_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 3] = 0, 128, 255
    expected = [255, 127, 0]
    path = save(tmp_path / "rgba.png", rgba)
    assert read_image(path)[0, :, 0].tolist() == expected
    assert read_image(rgba)[0, :, 0].tolist() == expected
    Image.fromarray(rgba).convert("LA").save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png")[0, :, 0].tolist() == expected


def test_palette_with_a_transparent_color(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([0, 1])
    picture.save(tmp_path / "plain.png")
    assert read_image(tmp_path / "plain.png")[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    picture.save(tmp_path / "holed.png", transparency=0)
    assert read_image(tmp_path / "holed.png")[0].tolist() == [[255, 255, 255], [40, 50, 60]]


def test_cmyk(tmp_path: Path) -> None:
    picture = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # red
    picture.save(tmp_path / "cmyk.jpg")
    red, green, blue = read_image(tmp_path / "cmyk.jpg")[4, 4].tolist()
    assert red > 200 and green < 60 and blue < 60


def test_16_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    deep = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    for name in ("deep.png", "deep.tif"):
        assert read_image(save(tmp_path / name, deep))[0, :, 0].tolist() == [0, 100, 255]
    assert read_image(deep)[0, :, 0].tolist() == [0, 100, 255]
    assert read_image(torch.from_numpy(deep))[0, :, 0].tolist() == [0, 100, 255]
    twelve = np.array([[0, 2048, 4095]], dtype=np.uint16)
    assert read_image(save(tmp_path / "12.png", twelve), value_range=(0, 4095))[0, :, 0].tolist() == [0, 128, 255]


def test_float_tiff(tmp_path: Path) -> None:
    unit = np.array([[0, 0.5, 1]], dtype=np.float32)
    assert read_image(save(tmp_path / "unit.tif", unit))[0, :, 0].tolist() == [0, 128, 255]
    wide = save(tmp_path / "wide.tif", unit * 3000)
    with pytest.raises(DataError, match=r"wide\.tif.*0 to 3000.*value_range"):
        read_image(wide)
    assert read_image(wide, value_range=(0, 3000))[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(DataError, match="not finite"):
        read_image(np.array([[np.nan, 0.0]]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), dtype=np.uint8)
    upright[:8, :8] = 255  # white in the upper left corner
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = Image.fromarray(upright)
    if undo is not None:
        stored = stored.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    stored.save(path, exif=exif, quality=95)
    assert np.abs(read_image(path).astype(int) - upright).max() < 30
    assert read_size(path) == (16, 32)
    width, height = stored.size
    assert read_image(path, exif="ignore").shape == (height, width, 3)
    assert read_size(path, exif="ignore") == (height, width)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_no_reason_to_stop(tmp_path: Path) -> None:
    path = tmp_path / "exif.jpg"
    Image.new("RGB", (8, 8)).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + struct.pack(">H", 0x0112))
    assert read_image(path).shape == (8, 8, 3)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (30_000, 3), (3, 30_000)])
def test_extreme_sizes(tmp_path: Path, width: int, height: int) -> None:
    Image.new("RGB", (width, height), (1, 2, 3)).save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").shape == (height, width, 3)


def test_what_cannot_be_read_is_named(tmp_path: Path, color: np.ndarray) -> None:
    def message(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            read_image(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        assert caught.value.exit_code == 3
        return str(caught.value)

    assert "no such file" in message(tmp_path / "missing.jpg")
    assert "folder" in message(tmp_path)
    (tmp_path / "text.jpg").write_text("not an image")
    assert "not an image" in message(tmp_path / "text.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    assert "empty" in message(tmp_path / "empty.jpg")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for suffix in ("jpg", "png"):
        whole = save(tmp_path / f"whole.{suffix}", noise).read_bytes()
        (tmp_path / f"half.{suffix}").write_bytes(whole[: len(whole) // 2])
        assert "damaged or cut short" in message(tmp_path / f"half.{suffix}")


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (400, 300)).save(path)
    with pytest.raises(DataError, match=r"400 x 300 is more than 1,000 pixels.*max_pixels"):
        read_image(path, max_pixels=1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses from twice as many on
    assert read_image(path, max_pixels=120_000).shape == (300, 400, 3)  # a raised limit is honoured
    assert Image.MAX_IMAGE_PIXELS == 1000
    monkeypatch.setattr(opening, "MOST_PIXELS", 100_000)
    with pytest.raises(DataError, match="too large to read safely"):
        read_image(path)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((3, 8, 8), np.uint8), np.zeros((0, 4, 3), np.uint8), torch.zeros(8, 8, 3), 7, np.array(["a"]), [b"a"]],
)
def test_wrong_shapes_say_what_is_expected(wrong: object) -> None:
    with pytest.raises(UsageError, match=r"\(H, W, 3\)|\[3, H, W\]"):
        read_image(wrong)  # type: ignore[arg-type]


def test_tensor_out_of_range() -> None:
    with pytest.raises(DataError, match=r"0 to 200.*value_range"):
        read_image(torch.tensor([0.0, 200.0]).expand(3, 4, 2))
    assert read_image(torch.tensor([0.0, 255.0]).expand(3, 4, 2), value_range=(0, 255)).max() == 255


def test_value_range_leaves_8_bits_alone(tmp_path: Path, color: np.ndarray) -> None:
    for source in (save(tmp_path / "a.png", color), color):
        np.testing.assert_array_equal(read_image(source, value_range=(0, 100)), color)
    with pytest.raises(UsageError, match="lo < hi"):
        read_image(color, value_range=(5, 5))


def scaled(height: int, width: int) -> Callable[[int, int], tuple[int, int]]:
    return lambda full_height, full_width: (height, width)


def scene(width: int, height: int) -> Image.Image:
    """Smooth shades with a white square whose corners lie at 3/4 and 7/8 of the sides."""
    y, x = np.mgrid[:height, :width]
    shades = np.stack([x * 120 // width, y * 120 // height, (x + y) * 60 // (width + height)], axis=2)
    shades[height * 3 // 4 : height * 7 // 8, width * 3 // 4 : width * 7 // 8] = 255
    return Image.fromarray(shades.astype(np.uint8))


@pytest.mark.parametrize(
    ("needed", "factor"), [((120, 160), 2), ((60, 80), 4), ((30, 40), 8), ((5, 5), 8), ((121, 160), 1), ((480, 640), 1)]
)
def test_a_much_larger_photograph_is_decoded_at_reduced_size(
    tmp_path: Path, needed: tuple[int, int], factor: int
) -> None:
    scene(640, 480).save(tmp_path / "large.jpg", quality=95)
    reduced, full_hw = read_reduced(tmp_path / "large.jpg", scaled(*needed))
    assert full_hw == (480, 640) and reduced.shape == (480 // factor, 640 // factor, 3)
    assert reduction((480 // factor, 640 // factor), full_hw) == factor
    assert all(side >= REDUCED_MARGIN * least for side, least in zip(reduced.shape, needed)) or factor == 1
    assert read_image(tmp_path / "large.jpg").shape == (480, 640, 3)


def test_only_jpeg_files_are_reduced(tmp_path: Path) -> None:
    for suffix in ("png", "tif", "webp"):
        scene(64, 48).save(tmp_path / f"a.{suffix}")
        assert read_reduced(tmp_path / f"a.{suffix}", scaled(4, 4))[0].shape == (48, 64, 3)
    assert read_reduced(scene(64, 48), scaled(4, 4))[0].shape == (48, 64, 3)
    assert read_reduced(torch.zeros(3, 48, 64, dtype=torch.uint8), None)[1] == (48, 64)
    for mode in ("L", "CMYK"):
        scene(64, 48).convert(mode).save(tmp_path / "b.jpg")
        assert read_reduced(tmp_path / "b.jpg", scaled(6, 8))[0].shape == (12, 16, 3)


def place_of_the_square(image: np.ndarray, full_hw: tuple[int, int]) -> list[float]:
    """Left, top, right, bottom of the white square as shares of the sides, from where brightness crosses its middle."""
    bright = (Resize(48, None)(image, full_hw=full_hw).mean(axis=0) - 0.45).clip(0, 0.5)
    edges = []
    for profile in (bright.max(axis=0), bright.max(axis=1)):
        inside = np.flatnonzero(profile > 0.25)
        first, last = int(inside[0]), int(inside[-1])
        lead, trail = (float(profile[index]) / 0.5 for index in (first - 1, last + 1))
        edges += [(first - lead) / len(profile), (last + 1 + trail) / len(profile)]
    return [edges[0], edges[2], edges[1], edges[3]]


@pytest.mark.parametrize(("width", "height"), [(1001, 809), (1007, 801), (1003, 1015), (1000, 800)])
@pytest.mark.parametrize("turn", [1, 3, 6])
def test_what_is_in_a_reduced_picture_stays_where_it_was(tmp_path: Path, width: int, height: int, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    scene(width, height).save(tmp_path / "odd.jpg", quality=95, exif=exif)
    whole = read_image(tmp_path / "odd.jpg")
    reduced, full_hw = read_reduced(tmp_path / "odd.jpg", Resize(48, None).needed_size)
    assert full_hw == whole.shape[:2]
    assert reduced.shape[0] < whole.shape[0] or (turn != 1 and width % 2 == 1)
    before, after = (place_of_the_square(image, full_hw) for image in (whole, reduced))
    assert max(abs(a - b) for a, b in zip(before, after)) < 0.15 / 48  # an eighth of a pixel of 60; 1 would be 0.02


def test_reduced_photographs_look_like_whole_ones(shared: Path) -> None:
    """Grey levels beside the whole image scaled down, on average over each photograph; see REDUCED_MARGIN."""
    apart = []
    for path in sorted((shared / "data" / "coco_person" / "images").glob("*.jpg"))[:24]:
        resize = Resize(100, 104)
        reduced, full_hw = read_reduced(path, resize.needed_size)
        assert reduced.shape[0] < full_hw[0] and reduced.shape[1] < full_hw[1]
        from_reduced, from_whole = resize(reduced, full_hw=full_hw), resize(read_image(path))
        apart.append(float(np.abs(from_reduced - from_whole).mean() * 255))
    assert max(apart) < 2 and sum(apart) / len(apart) < 1


def test_a_reduced_picture_is_damaged_where_the_whole_is(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = save(tmp_path / "whole.jpg", noise).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"half\.jpg.*cut short"):
        read_reduced(tmp_path / "half.jpg", scaled(4, 4))


def test_what_does_not_fit_the_memory_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", np.zeros((8, 8, 3), dtype=np.uint8))

    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    for owner, name in ((Image.Image, "load"), (np, "empty")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fails)
            patch.setattr("PIL.PngImagePlugin.PngImageFile.load", fails) if name == "load" else None
            with pytest.raises(DataError, match=r"a\.png: there is not enough memory for an image of 8 x 8"):
                read_image(path)
    assert read_image(path).shape == (8, 8, 3)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "RGB", "RGBA", "P", "F", "1", "CMYK"])
@pytest.mark.parametrize("factor", [1, 2])
def test_strips_give_the_pixels_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, factor: int
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (41, 30, 3), dtype=np.uint8)
    if mode in ("I;16", "I;16B", "F"):
        kind = {"I;16": "<u2", "I;16B": ">u2", "F": "<f4"}[mode]
        grey = values[..., 0] / 255 if mode == "F" else values[..., 0].astype(np.int64) * 257
        picture = Image.fromarray(grey.astype(kind))
    else:
        picture = Image.fromarray(values).convert(mode)
    for turn in range(1, 9):
        whole = decode.pixels_of(picture, turn, "auto", "a", factor)
        with monkeypatch.context() as patch:
            patch.setattr(decode, "STRIP", 7 * 30)
            np.testing.assert_array_equal(decode.pixels_of(picture, turn, "auto", "a", factor), whole)
    deep = np.random.default_rng(0).integers(0, 65536, (41, 30), dtype=np.uint16)
    monkeypatch.setattr(reader, "STRIP", 7 * 30)
    assert np.array_equal(read_image(deep)[:, :, 0], ((deep / 257.0) + 0.5).astype(np.uint8))


def test_a_large_picture_of_16_bits_takes_little_memory(
    tmp_path: Path, memory_needed: Callable[[Callable[[], object]], int]
) -> None:
    """8,000 x 8,000: 0.13 GB as Pillow has it, 0.5 GB as float64."""
    Image.fromarray(np.zeros((8000, 8000), dtype=np.uint16)).save(tmp_path / "deep.png", compress_level=1)
    assert memory_needed(lambda: read_reduced(tmp_path / "deep.png", scaled(400, 400))) < 300e6


def test_messages_of_pillow_and_libtiff_are_not_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = save(tmp_path / "whole.tif", noise, compression="tiff_deflate").read_bytes()
    broken = bytearray(whole)
    broken[200:260] = bytes(60)
    (tmp_path / "broken.tif").write_bytes(bytes(broken))
    Image.new("1", (10_000, 9_500)).save(tmp_path / "large.png")  # Pillow warns from 89 megapixels on
    Image.new("RGB", (8, 8)).save(tmp_path / "exif.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    with pytest.raises(DataError, match=r"broken\.tif"):
        read_image(tmp_path / "broken.tif")
    read_size(tmp_path / "large.png", exif="ignore")
    read_image(tmp_path / "exif.jpg")
    assert capfd.readouterr() == ("", "") and not recwarn.list
