"""MATLAB's files of level 5 (`save -v6` and `-v7`): arrays of numbers, texts, and cells of these; nothing else.

The format is that of MathWorks' "MAT-File Format". Files of version 7.3 are HDF5 and are not read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.errors import DataError, counted
from aweigh.files import read_bytes

HEADER = 128  # bytes: a text, the version, the order of bytes
MATRIX, COMPRESSED = 14, 15  # kinds of elements
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # as stored
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, CHAR = 1, 4  # classes of arrays
# What an array of numbers is, however it is stored: double, single, and whole numbers of 1, 2, 4, 8 bytes.
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
DEEPEST = 8  # cells within cells
COMPLEX = 0x0800  # flag


def read_mat(path: Path) -> dict[str, Any]:
    """The variables by name: `np.ndarray`, `str`, or a list of these for a cell array (column by column).

    Variables of other kinds (structures, objects, sparse arrays) are left out. `DataError` for another format.
    """
    content = read_bytes(path)
    if content.startswith(b"\x89HDF") or content[:10] == b"MATLAB 7.3":
        raise DataError(f"{path} is a MATLAB file of version 7.3; save it as -v7 (in MATLAB: save NAME -v7).")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:HEADER])
    if order is None:
        raise DataError(f"{path} is no MATLAB file of level 5.")
    found: dict[str, Any] = {}
    try:
        for kind, data in _elements(content[HEADER:], order):
            if kind == COMPRESSED:
                ((kind, data),) = _elements(zlib.decompress(data), order)
            if kind == MATRIX:
                name, value = _array(data, order, 0)
                if value is not None:
                    found[name] = value
    except (struct.error, zlib.error, ValueError, KeyError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is cut short or broken ({' '.join(str(error).split())[:120]}).") from error
    return found


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """The elements that follow each other: kind and data."""
    at = 0
    while at < len(content):
        (kind,) = struct.unpack_from(f"{order}I", content, at)
        if kind >> 16:  # a short one: its length, its kind, and up to four bytes of data
            kind, length, start, padding = kind & 0xFFFF, kind >> 16, at + 4, 4
        else:
            (length,) = struct.unpack_from(f"{order}I", content, at + 4)
            start, padding = at + 8, 1 if kind == COMPRESSED else 8
        if start + length > len(content):
            raise ValueError(f"an element of {counted(length, 'byte')} where {len(content) - start} are left")
        yield kind, content[start : start + length]
        at = start + -(-length // padding) * padding


def _array(content: bytes, order: str, depth: int) -> tuple[str, Any]:
    """Name and value of an array; None for a kind that is not read."""
    if not content:
        return "", np.zeros((0, 0))  # an empty cell
    if depth > DEEPEST:
        raise ValueError(f"cells more than {DEEPEST} deep")
    parts = _elements(content, order)
    flags = struct.unpack(f"{order}II", _next(parts)[1])[0]
    _, dimensions = _next(parts)
    shape = np.frombuffer(dimensions, f"{order}i4").tolist()
    name = _next(parts)[1].decode("latin-1")
    kind = flags & 0xFF
    if min(shape, default=-1) < 0:
        raise ValueError(f"an array of shape {shape}")
    if kind == CELL:
        cells = [_array(data, order, depth + 1)[1] for _, data in parts]
        if len(cells) != prod(shape):
            raise ValueError(f"{counted(len(cells), 'cell')} where {prod(shape)} are said to be")
        return name, cells
    if kind == CHAR:
        stored, data = next(parts, (1, b""))
        text = data.decode(TEXTS[stored] + ("" if TEXTS[stored] in ("latin-1", "utf-8") else _endian(order)))
        return name, text
    if kind not in CLASSES or flags & COMPLEX:
        return name, None
    stored, data = next(parts, (9, b""))
    values = np.frombuffer(data, f"{order}{NUMBERS[stored]}").astype(CLASSES[kind])
    return name, values.reshape(shape, order="F")


def _next(parts: Iterator[tuple[int, bytes]]) -> tuple[int, bytes]:
    part = next(parts, None)
    if part is None:
        raise ValueError("an array without its flags, sides or name")
    return part


def _endian(order: str) -> str:
    return "-le" if order == "<" else "-be"
