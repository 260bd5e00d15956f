"""More than 300 strange files that are called like images, drawn from scratch: the same ones every time."""

import io
import os
import random
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

SIZES = ((1, 1), (1, 90), (90, 1), (2, 3), (700, 3), (57, 41))
MODES = {
    ".png": ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"),
    ".jpg": ("L", "RGB", "CMYK", "YCbCr", "1"),
    ".tif": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16", "I;16B", "RGBX", "PA"),
    ".bmp": ("1", "L", "P", "RGB", "RGBA"),
    ".gif": ("1", "L", "P", "RGB", "RGBA"),
    ".webp": ("L", "RGB", "RGBA"),
    ".ppm": ("1", "L", "RGB", "I"),
    ".jp2": ("L", "LA", "RGB", "RGBA"),
    ".avif": ("RGB", "RGBA"),
}
COMPRESSIONS = ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "group4", "zstd", "lzma", "webp", "tiff_adobe_deflate")


def make(folder: Path) -> None:
    """Write them all into a new folder."""
    folder.mkdir()
    files: list[tuple[str, bytes]] = []
    for part in (modes, orientations, frames, damaged, wrong_suffixes, no_pictures, headers, names):
        files += part()
    for name, content in files:
        (folder / name).write_bytes(content)
    with (folder / "vast 16 bits.png").open("wb") as stream:
        stream.writelines(vast(13_000))
    special(folder)


def picture(mode: str, size_wh: tuple[int, int]) -> Image.Image:
    values = np.random.default_rng(sum(size_wh)).integers(0, 256, (size_wh[1], size_wh[0], 3), dtype=np.uint8)
    colour = Image.fromarray(values)
    if mode in ("I", "F", "I;16", "I;16B"):
        kind = {"I": np.int32, "F": np.float32, "I;16": np.uint16, "I;16B": np.dtype(">u2")}[mode]
        grey = values[..., 0].astype(np.float64)
        return Image.fromarray((grey / 255 if mode == "F" else grey * 257).astype(kind))
    if mode == "LAB":
        return Image.frombytes("LAB", size_wh, values.tobytes())
    if mode == "PA":
        return colour.convert("P").convert("PA")
    return colour.convert(mode)


def saved(image: Image.Image, suffix: str, **options: object) -> bytes | None:
    """The bytes of a file; None where this Pillow does not write such ones."""
    stream = io.BytesIO()
    try:
        image.save(stream, Image.registered_extensions()[suffix], **options)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SystemError):
        return None
    return stream.getvalue()


def gathered(pairs: Iterator[tuple[str, bytes | None]]) -> list[tuple[str, bytes]]:
    return [(name, content) for name, content in pairs if content is not None]


def modes() -> list[tuple[str, bytes]]:
    def each() -> Iterator[tuple[str, bytes | None]]:
        for suffix, kinds in MODES.items():
            for mode in kinds:
                for number, size in enumerate(SIZES[::3] if suffix in (".bmp", ".gif") else SIZES[1::2]):
                    yield f"mode {mode.replace(';', '')} {number}{suffix}", saved(picture(mode, size), suffix)
        for compression in COMPRESSIONS:
            mode = "1" if compression == "group4" else "RGB"
            yield f"tiff {compression}.tif", saved(picture(mode, (57, 41)), ".tif", compression=compression)

    return gathered(each())


def orientations() -> list[tuple[str, bytes]]:
    def each() -> Iterator[tuple[str, bytes | None]]:
        for orientation in (0, *range(1, 10), 65535):
            exif = Image.Exif()
            exif[0x0112] = orientation
            for suffix in (".jpg", ".png", ".webp", ".tif"):
                yield f"turn {orientation}{suffix}", saved(picture("RGB", (57, 41)), suffix, exif=exif)
            directory = TiffImagePlugin.ImageFileDirectory_v2()
            directory[0x0112] = orientation
            deep = saved(picture("I;16", (57, 41)), ".tif", tiffinfo=directory)
            yield f"turn {orientation} deep.tiff", deep

    return gathered(each())


def frames() -> list[tuple[str, bytes]]:
    several = [picture("RGB", (57, 41)) for _ in range(4)]
    options: dict[str, object] = {"save_all": True, "append_images": several[1:]}
    files = gathered((f"frames{suffix}", saved(several[0], suffix, **options)) for suffix in (".gif", ".tif", ".png"))
    stream = io.BytesIO()
    several[0].save(stream, "MPO", **options)
    return [*files, ("frames mpo.jpg", stream.getvalue())]


def bases() -> dict[str, bytes]:
    whole = {suffix: saved(picture("RGB", (57, 41)), suffix) for suffix in MODES}
    whole["deflate.tif"] = saved(picture("RGB", (57, 41)), ".tif", compression="tiff_deflate")
    whole["jpeg.tif"] = saved(picture("RGB", (57, 41)), ".tif", compression="jpeg")
    whole["progressive.jpg"] = saved(picture("RGB", (57, 41)), ".jpg", progressive=True)
    return {name: content for name, content in whole.items() if content is not None}


def damaged() -> list[tuple[str, bytes]]:
    """Cut short, with bits turned, and with a piece taken out."""
    files = []
    dice = random.Random(0)
    for name, content in bases().items():
        for share in (0.02, 0.3, 0.7, 0.97):
            files.append((f"cut {share:g} {name}", content[: int(len(content) * share)]))
        for number in range(5):
            turned = bytearray(content)
            reach = len(turned) if number % 2 else min(200, len(turned))
            for _ in range(3 + number * 4):
                turned[dice.randrange(reach)] ^= 1 << dice.randrange(8)
            files.append((f"bits {number} {name}", bytes(turned)))
        start = dice.randrange(len(content) // 2)
        files.append((f"hole {name}", content[:start] + content[start + len(content) // 4 :]))
    return files


def wrong_suffixes() -> list[tuple[str, bytes]]:
    others = {name: saved(picture("RGB", (64, 64)), name) for name in (".tga", ".ico", ".pcx", ".eps", ".pdf", ".sgi")}
    pairs = {**bases(), **others}
    return gathered((f"called otherwise {name.strip('.')}.jpg", content) for name, content in pairs.items())


def no_pictures() -> list[tuple[str, bytes]]:
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch started) (w) file\n"
    return [
        ("nothing.jpg", b""),
        ("nothing.png", b""),
        ("text.jpg", b"not a picture\n"),
        ("zeros.png", bytes(5000)),
        ("noise.tif", random.Random(1).randbytes(5000)),
        ("archive.jpg", b"PK\x03\x04" + bytes(100)),
        ("page.webp", b"<html><body>404</body></html>"),
        ("drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
        ("script.jpg", script),
        ("pickle.png", b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94."),
        ("only a header.jpg", b"\xff\xd8\xff\xe0"),
        ("only a header.png", b"\x89PNG\r\n\x1a\n"),
        ("only a header.tif", b"II*\0\x08\0\0\0"),
        ("only a header.gif", b"GIF89a"),
        ("only a header.bmp", b"BM"),
        ("only a header.webp", b"RIFF\x04\0\0\0WEBP"),
    ]


def png(width: int, height: int, *further: bytes, bits: int = 8, kind: int = 0) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(further) + chunk(b"IEND", b"")


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def vast(side: int) -> Iterator[bytes]:
    """A PNG of 16 bits without content: a few hundred kilobytes that become hundreds of megabytes."""
    packer = zlib.compressobj(1)
    rows = bytes((1 + 2 * side) * 100)
    data = b"".join([*(packer.compress(rows) for _ in range(side // 100)), packer.flush()])
    yield png(side, side, chunk(b"IDAT", data), bits=16)


def headers() -> list[tuple[str, bytes]]:
    """What a header promises and the file does not hold."""
    rows = zlib.compress(bytes(10 * 9))
    floats = np.full((20, 30), 0.5, dtype=np.float32)
    files = [
        ("bomb.png", png(100_000, 100_000, chunk(b"IDAT", rows))),
        ("large.png", png(12_000, 12_000, chunk(b"IDAT", rows))),
        ("no width.png", png(0, 9, chunk(b"IDAT", rows))),
        ("no height.png", png(9, 0, chunk(b"IDAT", rows))),
        ("no pixels.png", png(9, 9)),
        (
            "bomb of text.png",
            png(9, 9, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(9_000_000))), chunk(b"IDAT", rows)),
        ),
        ("colour profile.png", png(9, 9, chunk(b"iCCP", b"x\0\0broken"), chunk(b"IDAT", zlib.compress(bytes(90))))),
        ("exif.jpg", saved(picture("RGB", (9, 9)), ".jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12") or b""),
        ("profile.jpg", saved(picture("RGB", (9, 9)), ".jpg", icc_profile=b"broken" * 9) or b""),
        ("no pixels.ppm", b"P6 0 0 255\n"),
        ("vast.ppm", b"P6 99999999 99999999 255\n"),
        ("negative.ppm", b"P6 -5 5 255\n"),
        (
            "bomb.bmp",
            b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        ),
        (
            "bomb.gif",
            b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
        ),
    ]
    for name, value in (("not a number", np.nan), ("infinite", np.inf), ("wide", 3000.0), ("negative", -1.0)):
        floats[3, 4] = value
        files.append((f"{name}.tif", saved(Image.fromarray(floats), ".tif") or b""))
    return files


def names() -> list[tuple[str, bytes]]:
    content = saved(picture("RGB", (9, 9)), ".png") or b""
    long = ("x" * 251 + ".png", "ü" * 125 + ".png", "日" * 83 + ".png", "z" * 251 + ".jpg")
    shown = ("two\nlines", "\x1b[2J\x1b]0;title\x07", "back\rward", "tab\tbed", "\u202egnp", "quote'\"`", "=1+1", "@x")
    further = (
        "-o",
        "--help",
        "a b",
        "50%",
        "#1",
        "[1]",
        "*",
        "?",
        "$HOME",
        "~",
        "a&b;c|d",
        "größe 猫 🙂",
        "caf\udce9",
        "x.y.z",
    )
    same = ("same.jpg", "same.png", "same.tif", "same-2.jpg", "SAME.JPG", "classes.jpg")
    return [(name, content) for name in (*long, *(f"{name}.png" for name in (*shown, *further)), *same)]


def special(folder: Path) -> None:
    """What is no ordinary file, or leads elsewhere."""
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "another name.png").symlink_to("same.png")
    (folder / "to a folder.jpg").symlink_to(".")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as opened:  # its file stays
        before = os.getcwd()
        os.chdir(folder)  # the name of a socket is short
        try:
            opened.bind("socket.jpg")
        finally:
            os.chdir(before)
