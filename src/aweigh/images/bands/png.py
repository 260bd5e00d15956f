"""A PNG read by rows: what is compressed is inflated by and by, and some rows at a time become a small PNG.

A row is stored as differences from the pixels at its left and above it, by one of five filters (PNG specification,
section 9), so a band has to know the last row of the one before. Pillow undoes the filters: it is handed the row before
and those of the band as a small image of 8 bits, since filters know bytes alone. An interlaced PNG (Adam7) holds its
rows in seven passes over the whole and cannot be read so.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from aweigh.errors import counted
from aweigh.images.bands.bands import PIXELS, WIDEST, Bands, reopened
from aweigh.images.decode import BROKEN, damaged, line, orientation
from aweigh.images.opening import name_of

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by colour type
COLOUR_OF = {1: 0, 2: 4, 3: 2, 4: 6}  # the colour type of 8 bits with so many samples
COLOURS, TEXTS = (b"PLTE", b"tRNS"), (b"eXIf", b"iTXt", b"tEXt", b"zTXt")  # what the pixels need; where EXIF may be
LONGEST_TEXT = 1 << 20  # bytes, ours; a longer one is no orientation
READ = 1 << 20  # bytes of the file at a time

Chunk = tuple[bytes, bytes]  # its kind and what it holds


def bands_of_png(file: Path | BytesIO) -> Bands | None:
    """The bands of a PNG that Pillow could open; None where it is interlaced, or too wide."""
    with reopened(file) as stream:
        kept = [(kind, stream.read(length)) for kind, length in _chunks(stream) if _is_kept(kind, length)]
    width, height, depth, colour, interlaced = struct.unpack(">IIBBxxB", dict(kept)[b"IHDR"])
    rows = _Rows(width, depth, colour, tuple(chunk for chunk in kept if chunk[0] in COLOURS))
    if interlaced or width > WIDEST:
        return None
    texts = [chunk for chunk in kept if chunk[0] in TEXTS]
    with Image.open(BytesIO(_png(1, 1, 8, 0, bytes(2), texts)), formats=["PNG"]) as told:  # Pillow knows all its forms
        turn = orientation(told)
    return Bands((height, width), turn, lambda: _files(file, height, rows))


def _is_kept(kind: bytes, length: int) -> bool:
    return kind in (b"IHDR", *COLOURS) or (kind in TEXTS and length <= LONGEST_TEXT)


def _chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The kind and the length of each chunk, when the stream is at its first byte."""
    place = stream.seek(len(SIGNATURE))
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        yield kind, length
        place = stream.seek(place + length + 12)  # with its head and its checksum


@dataclass(frozen=True)
class _Rows:
    """width: in pixels. depth: bits of a sample. colour: the colour type. chunks: that say what colours are."""

    width: int
    depth: int
    colour: int
    chunks: tuple[Chunk, ...]

    @property
    def row_bytes(self) -> int:
        return -(-self.width * SAMPLES[self.colour] * self.depth // 8)

    def unfiltered(self, before: np.ndarray, filtered: bytes) -> np.ndarray:
        """`[n, row_bytes]` uint8, of n rows, each behind the number of its filter. before: the row above them."""
        pixel = max(1, SAMPLES[self.colour] * self.depth // 8)  # bytes that filters take as one
        above = np.concatenate([[0], before]).astype(np.uint8)  # of filter 0: as it is
        rows = np.concatenate([above[None], np.frombuffer(filtered, np.uint8).reshape(-1, self.row_bytes + 1)])
        filters, values = rows[:, :1], rows[:, 1:].reshape(len(rows), -1, pixel)
        parts = 2 if pixel > 4 else 1  # of 16 bits: filters know no neighbours within a pixel, so each half is an image
        result = np.empty_like(values)
        for part in range(parts):
            samples = values[:, :, part::parts]
            lines = np.concatenate([filters, samples.reshape(len(rows), -1)], axis=1)
            content = _png(samples.shape[1], len(rows), 8, COLOUR_OF[samples.shape[2]], lines.tobytes(), ())
            with Image.open(BytesIO(content), formats=["PNG"]) as image:
                result[:, :, part::parts] = np.asarray(image).reshape(samples.shape)
        return result[1:].reshape(len(rows) - 1, -1)

    def file(self, rows: np.ndarray) -> bytes:
        """Rows `[n, row_bytes]` as an image."""
        lines = np.pad(rows, ((0, 0), (1, 0))).tobytes()  # of filter 0
        return _png(self.width, len(rows), self.depth, self.colour, lines, self.chunks)


def _files(file: Path | BytesIO, height: int, rows: _Rows) -> Iterator[bytes]:
    name, line_bytes = name_of(file), rows.row_bytes + 1
    step, before = max(1, PIXELS // rows.width), np.zeros(rows.row_bytes, np.uint8)
    with reopened(file) as stream:
        inflated, done = _inflated(stream, step * line_bytes, name), 0
        while done < height:
            filtered = next(inflated, b"")[: (height - done) * line_bytes]
            if len(filtered) < min(step, height - done) * line_bytes:
                raise damaged(name, f"{counted(done, 'row')} of {height:,}")
            try:
                band = rows.unfiltered(before, filtered)
            except MemoryError:
                raise
            except BROKEN as error:
                raise damaged(name, line(error)) from error
            yield rows.file(band)
            done, before = done + len(band), band[-1]


def _inflated(stream: BinaryIO, size: int, name: str) -> Iterator[bytes]:
    """What the pixels' chunks hold, in pieces of this size; the last may be shorter."""
    inflater, piece = zlib.decompressobj(), bytearray()
    try:
        for data in _compressed(stream):
            while data and not inflater.eof:
                piece += inflater.decompress(data, size - len(piece))
                data = inflater.unconsumed_tail
                if len(piece) == size:
                    yield bytes(piece)
                    piece.clear()
        yield bytes(piece + inflater.flush())
    except zlib.error as error:
        raise damaged(name, line(error)) from error


def _compressed(stream: BinaryIO) -> Iterator[bytes]:
    for kind, length in _chunks(stream):
        if kind == b"IEND":
            return
        while kind == b"IDAT" and length and (data := stream.read(min(length, READ))):
            length -= len(data)
            yield data


def _png(width: int, height: int, depth: int, colour: int, lines: bytes, chunks: Sequence[Chunk]) -> bytes:
    """A PNG of these lines, each a filter's number and what it left, without compression."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines, 0)), (b"IEND", b"")]
    ends = [struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))) for kind, data in parts]
    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + end for (kind, data), end in zip(parts, ends)
    )
