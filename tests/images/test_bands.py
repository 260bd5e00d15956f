"""Large PNG and TIFF files read by rows have the pixels they have when they are read whole, whatever their kind."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from aweigh.errors import DataError
from aweigh.images import reader
from aweigh.images.bands import bands, png, tiff
from aweigh.images.reader import read_by_rows, read_image, read_reduced, read_size

HEIGHT, WIDTH = 203, 157


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the small images of these tests, whose bands are some thirty rows."""
    monkeypatch.setattr(reader, "LARGE", 0)
    for module in (bands, png, tiff):
        monkeypatch.setattr(module, "PIXELS", WIDTH * 30)


def picture(channels: int = 3, kind: type = np.uint8) -> np.ndarray:
    """Smooth in parts and noisy in others, so that a PNG of it has rows of every filter."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    smooth = np.stack([(x * (channel + 1) + y * 2) % 256 for channel in range(channels)], axis=2)
    noisy = random.integers(0, 256, smooth.shape)
    values = np.where((y // 20 % 2 == 0)[..., None], smooth, noisy)
    return (values * (257 if kind is np.uint16 else 1)).astype(kind).squeeze()


def by_rows(path: Path, rows: int = 64, apart: int = 47) -> np.ndarray:
    """The whole of an image from ranges that overlap; how the rows in the overlap agree is seen here too."""
    image = read_by_rows(path)
    height, width = image.size_hw
    whole = np.zeros((height, width, 3), np.uint8)
    ranges = [(top, min(height, top + rows)) for top in range(0, height, apart)]
    for (top, last), part in zip(ranges, image.read(ranges), strict=True):
        assert part.shape == (last - top, width, 3)
        assert not whole[top:last].any() or top == 0 or np.array_equal(whole[top : top + 1], part[:1])
        whole[top:last] = part
    return whole


def is_in_bands(path: Path) -> bool:
    with reader.opened(path) as image:
        return reader.bands_of(path, image) is not None


PNG: dict[str, Callable[[], Image.Image]] = {
    "RGB": lambda: Image.fromarray(picture()),
    "L": lambda: Image.fromarray(picture(1)),
    "LA": lambda: Image.fromarray(picture(2), "LA"),
    "RGBA": lambda: Image.fromarray(picture(4), "RGBA"),
    "P": lambda: Image.fromarray(picture()).quantize(200),
    "P of 4 bits": lambda: Image.fromarray(picture()).quantize(16),
    "1": lambda: Image.fromarray(picture(1)).convert("1"),
    "16 bits": lambda: Image.fromarray(picture(1, np.uint16)),
}


@pytest.mark.parametrize("kind", PNG)
def test_every_png_has_the_pixels_of_the_whole(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    PNG[kind]().save(path, **({"bits": 4} if "4 bits" in kind else {}))
    assert is_in_bands(path)
    assert np.array_equal(by_rows(path), read_image(path))


def png_of(lines: bytes, depth: int, colour: int, *, interlaced: int = 0, more: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, interlaced)
    packed = zlib.compress(lines) + more
    pixels = chunk(b"IDAT", packed[:100]) + chunk(b"IDAT", b"") + chunk(b"IDAT", packed[100:])
    return png.SIGNATURE + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)])
@pytest.mark.parametrize("filters", [(0,), (1,), (2,), (3,), (4,), (4, 2, 0, 3, 1)])
def test_sixteen_bits_and_every_filter(colour: int, channels: int, filters: tuple[int, ...], tmp_path: Path) -> None:
    row = WIDTH * channels * 2
    random = np.random.default_rng(1).integers(0, 256, (HEIGHT, row + 1), dtype=np.uint8)
    random[:, 0] = [filters[number % len(filters)] for number in range(HEIGHT)]
    (tmp_path / "a.png").write_bytes(png_of(random.tobytes(), 16, colour))
    assert is_in_bands(tmp_path / "a.png")
    assert np.array_equal(by_rows(tmp_path / "a.png"), read_image(tmp_path / "a.png"))


TIFF: dict[str, dict[str, object]] = {
    "one strip": {},
    "strips": {"rowsperstrip": 7},
    "a row per strip": {"rowsperstrip": 1},
    "tiles": {"tile": (32, 48)},
    "BigTIFF": {"tile": (32, 48), "bigtiff": True, "compression": "zlib"},
    "big-endian": {"rowsperstrip": 9, "byteorder": ">"},
    "deflate, differences": {"tile": (64, 32), "compression": "zlib", "predictor": 2},
    "LZW": {"rowsperstrip": 11, "compression": "lzw"},
    "Zstandard": {"tile": (16, 16), "compression": "zstd"},
    "JPEG": {"tile": (32, 32), "compression": "jpeg"},
    "planes": {"tile": (32, 48), "planarconfig": "separate", "compression": "zlib"},
    "planes in strips": {"rowsperstrip": 8, "planarconfig": "separate"},
}


SORTS: dict[str, np.ndarray] = {
    "RGB": picture(),
    "RGBA": picture(4),
    "grey": picture(1),
    "16 bits": picture(1, np.uint16),
    "float": (picture(1) / 255).astype(np.float32),
}
COMBINED = [
    (kind, sort)
    for kind in TIFF
    for sort in SORTS
    if not (kind == "JPEG" and sort in ("16 bits", "float", "RGBA"))
    and not ("planes" in kind and not sort.startswith("RGB"))
    and not (kind == "deflate, differences" and sort == "float")
]


@pytest.mark.parametrize(("kind", "sort"), COMBINED)
def test_every_tiff_has_the_pixels_of_the_whole(kind: str, sort: str, tmp_path: Path) -> None:
    path, values, settings = tmp_path / "a.tif", SORTS[sort], TIFF[kind]
    if "planes" in kind:
        values = np.moveaxis(values, 2, 0)
    if sort == "RGBA":
        settings = settings | {"extrasamples": ["unassalpha"]}
    tifffile.imwrite(path, values, photometric="rgb" if sort.startswith("RGB") else "minisblack", **settings)
    assert is_in_bands(path)
    assert np.array_equal(by_rows(path), read_image(path))


@pytest.mark.parametrize("mode", ["P", "1", "CMYK", "YCbCr", "LA"])
def test_colours_of_tiff(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    compression = {"1": "group4", "YCbCr": "jpeg"}.get(mode, "tiff_lzw")
    Image.fromarray(picture()).convert(mode).save(path, compression=compression, strip_size=WIDTH * 3 * 20)
    assert is_in_bands(path)
    assert np.array_equal(by_rows(path), read_image(path))


TURNED = Image.Exif()
TURNED[0x0112] = 6


def save_turned(path: Path) -> None:
    Image.fromarray(picture()[:200, :152]).save(path, exif=TURNED)  # sides that 8 divides: a turned one is reduced so


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_an_image_that_has_to_be_turned_is_read_whole_and_reduced_by_rows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    save_turned(path)
    assert read_size(path) == (152, 200) and read_size(path, exif="ignore") == (200, 152)
    assert np.array_equal(by_rows(path), read_image(path))
    read = [read_reduced(path, lambda *size_hw: (19, 19), exif=exif) for exif in ("apply", "ignore")]
    monkeypatch.setattr(reader, "bands_of", lambda file, image: None)
    for (small, size_hw), exif in zip(read, ("apply", "ignore"), strict=True):
        whole, whole_hw = read_reduced(path, lambda *size_hw: (19, 19), exif=exif)
        assert size_hw == whole_hw and small.shape == ((38, 50, 3) if exif == "apply" else (50, 38, 3))
        assert np.array_equal(small, whole)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_what_is_reduced_by_rows_is_what_is_reduced_whole(
    name: str, factor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    Image.fromarray(picture(4), "RGBA").save(path)
    monkeypatch.setattr(reader, "STRIP", WIDTH * 50)

    def needed(height: int, width: int) -> tuple[int, int]:
        return height // (2 * factor), width // (2 * factor)

    small, size_hw = read_reduced(path, needed)
    assert size_hw == (HEIGHT, WIDTH) and small.shape == (-(-HEIGHT // factor), -(-WIDTH // factor), 3)
    monkeypatch.setattr(reader, "bands_of", lambda file, image: None)
    assert np.array_equal(small, read_reduced(path, needed)[0])


def test_an_interlaced_png_is_read_whole_and_refused_where_it_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_of(bytes(2 * HEIGHT * (WIDTH + 8)), 8, 0, interlaced=1))
    assert not is_in_bands(path) and read_by_rows(path).size_hw == (HEIGHT, WIDTH)
    monkeypatch.setattr(reader, "MAX_PIXELS", 1000)
    with pytest.raises(DataError, match=r"157 x 203 is more than 1,000 pixels, too large to be read whole.*--tile"):
        read_by_rows(path)


def damaged_png(path: Path, what: str) -> None:
    lines = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH + 1), dtype=np.uint8)
    lines[:, 0] = 0
    if what == "an unknown filter":
        lines[99, 0] = 9
    if "rows that are missing" in what:
        lines = lines[:140]
    more = b"more" if "something" in what else b""
    content = bytearray(png_of(lines.tobytes(), 8, 0, more=more))
    if what == "bytes that are changed":
        content[len(content) // 2] ^= 0xFF
    if what == "an end that is missing":
        del content[len(content) // 2 :]
    path.write_bytes(content)


@pytest.mark.parametrize(
    "what",
    [
        "an unknown filter",
        "rows that are missing",
        "rows that are missing, and something behind them",
        "bytes that are changed",
        "an end that is missing",
    ],
)
def test_a_damaged_png_is_told_in_one_line(what: str, tmp_path: Path) -> None:
    damaged_png(tmp_path / "a.png", what)
    with pytest.raises(DataError, match=r"a\.png: the image is damaged or cut short \([^\n]+\)\. Fetch"):
        by_rows(tmp_path / "a.png")


STORED: dict[str, dict[str, object]] = {
    "plain strips": {"rowsperstrip": 8},
    "strips": {"rowsperstrip": 8, "compression": "lzw"},
    "tiles": {"tile": (32, 32)},
}


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("what", ["an end that is missing", "a place beyond the end", "a length without measure"])
def test_a_damaged_tiff_is_told_in_one_line(what: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", **STORED[kind])
    with tifffile.TiffFile(path, mode="r+b") as file:
        names = ("TileOffsets", "TileByteCounts") if kind == "tiles" else ("StripOffsets", "StripByteCounts")
        offsets, lengths = (file.pages[0].tags[name] for name in names)
        if what == "a place beyond the end":
            offsets.overwrite([*offsets.value[:-1], 1 << 30], dtype="I")
        if what == "a length without measure":
            lengths.overwrite([*lengths.value[:-1], 1 << 31], dtype="I")
    if what == "an end that is missing":
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 3 // 4])
    if (what, kind) == ("a length without measure", "plain strips"):  # it is known without being told
        assert np.array_equal(by_rows(path), picture())
        return
    with pytest.raises(DataError, match=r"a\.tif: the image is damaged or cut short \([^\n]+\)\. Fetch"):
        by_rows(path)


def test_a_tiff_that_names_too_few_strips_or_a_strip_too_large_is_no_matter_of_bands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", rowsperstrip=100, compression="lzw")
    assert is_in_bands(path)
    monkeypatch.setattr(tiff, "WIDEST", 99 * WIDTH)
    assert not is_in_bands(path)
    monkeypatch.undo()
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["StripOffsets"].overwrite([8])
    assert not is_in_bands(path)


@pytest.mark.parametrize("kind", ["PNG", "LZW", "tiles", "planes in strips"])
def test_whatever_is_changed_in_a_file_is_told_in_one_line_or_seen(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, random = tmp_path / "a", np.random.default_rng(0)
    if kind == "PNG":
        Image.fromarray(picture()).save(path, "PNG")
    else:
        values = np.moveaxis(picture(), 2, 0) if "planes" in kind else picture()
        tifffile.imwrite(path, values, photometric="rgb", **TIFF[kind])
    whole, told = path.read_bytes(), 0
    monkeypatch.setattr(reader, "MAX_PIXELS", HEIGHT * WIDTH)
    for _ in range(40):
        content = bytearray(whole)
        for place in random.integers(0, [80, 1000, len(content)]).tolist():
            content[place if random.random() < 0.5 else -1 - place] = random.integers(256)
        try:
            image = read_by_rows(bytes(content))
            if image.size_hw[0] * image.size_hw[1] <= HEIGHT * WIDTH:
                assert sum(len(part) for part in image.read([(0, 9), (9, image.size_hw[0])])) == image.size_hw[0]
        except DataError as error:
            assert "\n" not in str(error)
            told += 1
    assert 5 < told < 40
