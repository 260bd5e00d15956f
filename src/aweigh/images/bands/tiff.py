"""A TIFF read by rows: those of its strips or tiles that lie side by side become a small TIFF, still compressed.

Pillow reads it as it would read the whole, with libtiff where it is compressed. BigTIFF is the same with longer
numbers. A strip that is not compressed is cut into rows; one that is, and holds much of the image, cannot be.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from PIL.TiffImagePlugin import IFDRational, TiffImageFile

from aweigh.errors import counted
from aweigh.images.bands.bands import PIXELS, WIDEST, Bands, reopened
from aweigh.images.decode import damaged, orientation
from aweigh.images.opening import name_of

WIDTH, LENGTH, BITS, COMPRESSION, SAMPLES, PLANES = 256, 257, 258, 259, 277, 284
STRIPS, STRIP_ROWS, STRIP_BYTES = 273, 278, 279
TILE_WIDTH, TILE_LENGTH, TILES, TILE_BYTES = 322, 323, 324, 325
# How pixels are decoded: beside these photometric interpretation, fill order, T4 and T6 options, predictor, colour map,
# extra samples, sample format, JPEG tables, YCbCr coefficients, subsampling, positioning, reference black and white.
DECODING = (BITS, COMPRESSION, SAMPLES, PLANES, 262, 266, 292, 293, 317, 320, 338, 339, 347, 529, 530, 531, 532)
PLAIN, OLD_JPEG = 1, 6  # compressions: none; one whose tables lie anywhere in the file
SHORT, LONG, RATIONAL, UNDEFINED = 3, 4, 5, 7  # types of values

Values = bytes | tuple[int, ...] | tuple[IFDRational, ...]  # of a tag


@dataclass(frozen=True)
class _Line:
    """Strips or tiles that lie side by side, in a file with planes those of each plane.

    rows: of the image. places: offset and length of each in the file.
    """

    rows: int
    places: list[tuple[int, int]]


@dataclass(frozen=True)
class _Blocks:
    """order: of bytes in numbers, "<" or ">". decoding: the tags of `DECODING`. size_hw: of a strip or tile.
    bytes: of one that is not compressed. lines: from the top."""

    order: str
    decoding: dict[int, Values]
    width: int
    tiled: bool
    size_hw: tuple[int, int]
    planes: int
    bytes: int
    lines: list[_Line]


def bands_of_tiff(file: Path | BytesIO, image: TiffImageFile) -> Bands | None:
    """The bands of a TIFF that Pillow opened; None where its strips or tiles are too large, or not what is known."""
    blocks = _blocks(image.tag_v2)
    if blocks is None:
        return None
    height = sum(line.rows for line in blocks.lines)
    return Bands((height, blocks.width), orientation(image), lambda: _files(file, blocks))


def _blocks(tags: Any) -> _Blocks | None:
    """The strips or tiles by the tags of an image; None where they are too large, or not what is known."""
    decoding = {tag: _values(tags[tag]) for tag in DECODING if tag in tags}

    def number(tag: int, otherwise: int = 0) -> int:
        return int(_integers(tags.get(tag, otherwise))[0])

    width, height, tiled = number(WIDTH), number(LENGTH), TILES in tags
    block_h = number(TILE_LENGTH) if tiled else min(number(STRIP_ROWS, height), height)
    block_w = number(TILE_WIDTH) if tiled else width
    samples, compression = number(SAMPLES, 1), number(COMPRESSION, PLAIN)
    planes = samples if number(PLANES, 1) == 2 else 1
    if not all(decoding.values()) or min(width, height, block_h, block_w, samples) < 1 or compression == OLD_JPEG:
        return None
    row_bytes = math.ceil(block_w * number(BITS, 1) * samples // planes / 8)  # Pillow reads samples of one depth alone
    across = math.ceil(width / block_w)
    offsets, lengths = (_integers(tags.get(tag)) for tag in ((TILES, TILE_BYTES) if tiled else (STRIPS, STRIP_BYTES)))
    if not len(offsets) == len(lengths) == planes * across * math.ceil(height / block_h):
        return None
    lines = _lines([*zip(offsets, lengths)], height, block_h, across, planes)
    if not tiled and compression == PLAIN:
        lines = [part for line in lines for part in _cut(line, max(1, PIXELS // width), row_bytes)]
    if max(line.rows for line in lines) * across * block_w > WIDEST:
        return None
    order = "<" if tags.prefix.startswith(b"II") else ">"
    known = {tag: values for tag, values in decoding.items() if values is not None}
    return _Blocks(order, known, width, tiled, (block_h, block_w), planes, row_bytes * block_h, lines)


def _integers(value: Any) -> tuple[int, ...]:
    """Whole numbers of a tag; a single 0 where it holds anything else."""
    several = value if isinstance(value, tuple) else (value,)
    return several if all(type(number) is int and 0 <= number < 1 << 64 for number in several) else (0,)


def _values(value: Any) -> Values | None:
    """What a tag holds, as it can be written again; None where that is of a kind that none of these tags has."""
    if isinstance(value, bytes):
        return value
    several = value if isinstance(value, tuple) else (value,)
    numbers = [number for one in several for number in _numbers(one)]
    known = all(type(number) is int and 0 <= number < 1 << 32 for number in numbers)
    alike = len({isinstance(one, IFDRational) for one in several}) == 1
    return several if known and alike else None


def _numbers(value: Any) -> tuple[Any, ...]:
    return (value.numerator, value.denominator) if isinstance(value, IFDRational) else (value,)


def _lines(places: list[tuple[int, int]], height: int, block_h: int, across: int, planes: int) -> list[_Line]:
    """places: of all strips or tiles, line by line, plane by plane."""
    down = math.ceil(height / block_h)
    lines = []
    for row in range(down):
        starts = [(plane * down + row) * across for plane in range(planes)]
        own = [place for start in starts for place in places[start : start + across]]
        lines.append(_Line(min(block_h, height - row * block_h), own))
    return lines


def _cut(line: _Line, step: int, row_bytes: int) -> Iterator[_Line]:
    """Strips that are not compressed, `step` rows of them at a time."""
    for top in range(0, line.rows, step):
        rows = min(step, line.rows - top)
        yield _Line(rows, [(offset + top * row_bytes, rows * row_bytes) for offset, _ in line.places])


def _files(file: Path | BytesIO, blocks: _Blocks) -> Iterator[bytes]:
    with reopened(file) as stream:
        for band in _bands(blocks):
            yield _file(blocks, band, _content(stream, name_of(file), blocks, band))


def _bands(blocks: _Blocks) -> Iterator[list[_Line]]:
    """Lines as many as a band has; all of a band are equally high, but for the last."""
    band: list[_Line] = []
    for line in blocks.lines:
        full = (len(band) + 1) * line.rows * blocks.width > PIXELS
        if band and (full or band[-1].rows != band[0].rows or line.rows > band[0].rows):
            yield band
            band = []
        band.append(line)
    yield band


def _content(stream: BinaryIO, name: str, blocks: _Blocks, band: Sequence[_Line]) -> list[bytes]:
    """What the strips or tiles hold, as it is stored, plane by plane."""
    end = stream.seek(0, os.SEEK_END)
    most = 4 * blocks.bytes + (1 << 16)  # ours: more than any compression makes of so many pixels
    across = len(band[0].places) // blocks.planes
    content = []
    for plane in range(blocks.planes):
        for offset, length in (at for line in band for at in line.places[plane * across : (plane + 1) * across]):
            if offset + length > end:
                raise damaged(name, f"bytes {offset:,} to {offset + length:,} of {end:,} are not there")
            if length > most:
                raise damaged(name, f"{counted(length, 'byte')} for {blocks.size_hw[1]} x {blocks.size_hw[0]} pixels")
            stream.seek(offset)
            content.append(stream.read(length))
    return content


def _file(blocks: _Blocks, band: Sequence[_Line], content: list[bytes]) -> bytes:
    """A band as a TIFF of its own: its head, what the strips or tiles hold, and the tags."""
    tags = blocks.decoding | {WIDTH: (blocks.width,), LENGTH: (sum(line.rows for line in band),)}
    if blocks.tiled:
        tags |= {TILE_WIDTH: (blocks.size_hw[1],), TILE_LENGTH: (blocks.size_hw[0],)}
    else:
        tags |= {STRIP_ROWS: (band[0].rows,)}
    where, sizes = (TILES, TILE_BYTES) if blocks.tiled else (STRIPS, STRIP_BYTES)
    lengths = [len(part) for part in content]
    tags |= {where: tuple(8 + sum(lengths[:number]) for number in range(len(lengths))), sizes: tuple(lengths)}
    data = b"".join(content)
    data += bytes(len(data) % 2)  # tags begin at an even place
    order = blocks.order
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    return head + data + _directory(order, tags, 8 + len(data))


def _directory(order: str, tags: dict[int, Values], place: int) -> bytes:
    """The tags of a TIFF, which begin at this place; values of more than four bytes stand behind them."""
    entries, further = struct.pack(f"{order}H", len(tags)), b""
    place += len(entries) + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        kind, packed = _packed(order, values)
        entries += struct.pack(f"{order}HHI", tag, kind, len(values))
        if len(packed) > 4:
            entries += struct.pack(f"{order}I", place + len(further))
            further += packed + bytes(len(packed) % 2)
        else:
            entries += packed.ljust(4, b"\0")
    return entries + bytes(4) + further


def _packed(order: str, values: Values) -> tuple[int, bytes]:
    """The type of a tag's values, and their bytes."""
    if isinstance(values, bytes):
        return UNDEFINED, values
    numbers = [number for one in values for number in _numbers(one)]
    kind = RATIONAL if isinstance(values[0], IFDRational) else SHORT if max(numbers) < 1 << 16 else LONG
    return kind, struct.pack(f"{order}{len(numbers)}{'H' if kind == SHORT else 'I'}", *numbers)
