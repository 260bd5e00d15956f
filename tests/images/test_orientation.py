"""Every orientation in every container that Pillow writes: sizes and pixels agree, upright and as stored."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from aweigh.images.reader import read_image, read_reduced, read_size, reduction
from aweigh.inspect.image_files import look_at

UPRIGHT_HW = (48, 80)
# Value of each quadrant of the upright image: upper left, upper right, lower left, lower right.
CORNERS = (250, 180, 110, 40)
# What makes an upright image of the stored one, by the definition of the tag: which side the first row and the first
# column of the file are. Written out with numpy, so that it shares nothing with Pillow or the reader.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


def upright_picture() -> np.ndarray:
    height, width = UPRIGHT_HW
    picture = np.empty(UPRIGHT_HW, dtype=np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = CORNERS[:2]
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = CORNERS[2:]
    return picture


def stored_picture(orientation: int) -> np.ndarray:
    """The rows that a file of this orientation holds."""
    upright = upright_picture()
    for candidate in UPRIGHT.values():
        stored = np.ascontiguousarray(candidate(upright))
        if np.array_equal(UPRIGHT[orientation](stored), upright):
            return stored
    raise AssertionError(orientation)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def xmp(orientation: int) -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>'
    ) % orientation


def tiff_options(orientation: int, **tags: int) -> dict[str, object]:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory[0x0112] = orientation
    return {"tiffinfo": directory, **tags}


def png_with_exif_at_the_end(picture: Image.Image, path: Path, orientation: int) -> None:
    """eXIf behind the pixels, where the standard allows it."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", exif=exif(orientation))
    data = stream.getvalue()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    last = data.index(b"IEND") - 4
    path.write_bytes(data[:start] + data[end:last] + data[start:end] + data[last:])


def mpo(picture: Image.Image, path: Path, orientation: int) -> None:
    picture.save(path, "MPO", save_all=True, append_images=[picture], exif=exif(orientation), quality=95)


def many_frames(picture: Image.Image, path: Path, orientation: int) -> None:
    picture.save(path, "TIFF", save_all=True, append_images=[picture], **tiff_options(orientation))


def deep(picture: Image.Image, path: Path, orientation: int) -> None:
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(path, **tiff_options(orientation))


def deep_png(picture: Image.Image, path: Path, orientation: int) -> None:
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(path, exif=exif(orientation))


def floats(picture: Image.Image, path: Path, orientation: int) -> None:
    values = np.asarray(picture.convert("L"), dtype=np.float32) / 255
    Image.fromarray(values).save(path, **tiff_options(orientation))


Write = Callable[[Image.Image, Path, int], None]
CONTAINERS: dict[str, tuple[str, Write]] = {
    "jpeg": (".jpg", lambda p, path, o: p.save(path, exif=exif(o), quality=95)),
    "jpeg grey": (".jpg", lambda p, path, o: p.convert("L").save(path, exif=exif(o), quality=95)),
    "jpeg cmyk": (".jpg", lambda p, path, o: p.convert("CMYK").save(path, exif=exif(o), quality=95)),
    "jpeg progressive": (".jpg", lambda p, path, o: p.save(path, exif=exif(o), quality=95, progressive=True)),
    "jpeg xmp": (".jpg", lambda p, path, o: p.save(path, xmp=xmp(o), quality=95)),
    "mpo": (".jpg", mpo),
    "png": (".png", lambda p, path, o: p.save(path, exif=exif(o))),
    "png palette": (".png", lambda p, path, o: p.quantize(8).save(path, exif=exif(o))),
    "png late": (".png", png_with_exif_at_the_end),
    "png 16": (".png", deep_png),
    "webp": (".webp", lambda p, path, o: p.save(path, exif=exif(o), lossless=True)),
    "webp alpha": (".webp", lambda p, path, o: p.convert("RGBA").save(path, exif=exif(o), lossless=True)),
    "webp xmp": (".webp", lambda p, path, o: p.save(path, xmp=xmp(o), lossless=True)),
    "avif": (".avif", lambda p, path, o: p.save(path, exif=exif(o), quality=95)),
    "tiff": (".tif", lambda p, path, o: p.save(path, **tiff_options(o))),
    "tiff exif": (".tif", lambda p, path, o: p.save(path, exif=exif(o))),
    "tiff strips": (".tif", lambda p, path, o: p.save(path, **tiff_options(o), strip_size=80 * 3 * 4)),
    "tiff deflate": (".tif", lambda p, path, o: p.save(path, compression="tiff_deflate", **tiff_options(o))),
    "tiff lzw strips": (
        ".tif",
        lambda p, path, o: p.save(path, compression="tiff_lzw", strip_size=80 * 3 * 4, **tiff_options(o)),
    ),
    "tiff jpeg": (".tif", lambda p, path, o: p.save(path, compression="jpeg", quality=95, **tiff_options(o))),
    "tiff big": (".tif", lambda p, path, o: p.save(path, big_tiff=True, **tiff_options(o))),
    "tiff frames": (".tif", many_frames),
    "tiff 16": (".tif", deep),
    "tiff float": (".tif", floats),
    "tiff palette": (".tif", lambda p, path, o: p.quantize(8).save(path, **tiff_options(o))),
    "tiff bits": (
        ".tif",
        lambda p, path, o: p.point(lambda v: 255 * (v > 127)).convert("1").save(path, **tiff_options(o)),
    ),
    "tiff alpha": (".tif", lambda p, path, o: p.convert("RGBA").save(path, **tiff_options(o))),
    "tiff xmp": (".tif", lambda p, path, o: p.save(path, tiffinfo={700: xmp(o)})),
}


def quadrants(pixels: np.ndarray) -> list[int]:
    """The value in the middle of each quadrant of `(H, W)`."""
    height, width = pixels.shape
    places = [(height // 4 + down, width // 4 + right) for down in (0, height // 2) for right in (0, width // 2)]
    return [int(pixels[y, x]) for y, x in places]


def test_an_image_in_memory_is_left_as_it_was(tmp_path: Path) -> None:
    Image.fromarray(stored_picture(6)).save(tmp_path / "a.tif", **tiff_options(6))
    with Image.open(tmp_path / "a.tif") as image:
        first, again = read_image(image), read_image(image)
        assert np.array_equal(first, again) and image.filename == str(tmp_path / "a.tif")
    grey = Image.fromarray(upright_picture())
    grey.info["exif"] = exif(8).tobytes()
    for mode, shape in (("apply", (80, 48, 3)), ("ignore", (48, 80, 3)), ("apply", (80, 48, 3))):
        assert read_image(grey, exif=mode).shape == shape  # type: ignore[arg-type]


def test_a_data_set_of_turned_tiffs_has_no_problem(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.tif"
        Image.fromarray(stored_picture(orientation)).save(path, **tiff_options(orientation))
        found = look_at(path, UPRIGHT_HW)
        assert (found.problem is None or orientation in (2, 3, 4)) and found.readable, (orientation, found.problem)


@pytest.mark.parametrize("container", CONTAINERS)
def test_sizes_and_pixels_agree(tmp_path: Path, container: str) -> None:
    suffix, write = CONTAINERS[container]
    if suffix == ".avif" and ".avif" not in Image.registered_extensions():
        pytest.skip("this Pillow has no AVIF")
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}{suffix}"
        stored = stored_picture(orientation)
        write(Image.fromarray(stored).convert("RGB"), path, orientation)
        for mode, picture in (("apply", upright_picture()), ("ignore", stored)):
            said = read_size(path, exif=mode)  # type: ignore[arg-type]
            assert said == picture.shape, (orientation, mode)
            for source in (path, Image.open(path)):
                pixels = read_image(source, exif=mode)  # type: ignore[arg-type]
                assert pixels.shape[:2] == picture.shape, (orientation, mode)
                found, right = quadrants(pixels[:, :, 1]), quadrants(picture)
                if container == "tiff bits":
                    right = [255 * (value > 127) for value in right]
                assert max(abs(a - b) for a, b in zip(found, right)) <= 8, (orientation, mode, found, right)
            reduced, full_hw = read_reduced(path, lambda height, width: (height // 8, width // 8), exif=mode)  # type: ignore[arg-type]
            assert full_hw == said
            assert reduction(reduced.shape[:2], full_hw) == (4 if suffix == ".jpg" else 1)
