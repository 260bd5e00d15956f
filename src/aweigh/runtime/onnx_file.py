"""What an ONNX file says about itself, and whether it keeps to itself, before a runtime opens it.

The format is protobuf, little of which is needed: a message is a row of fields, each with its number and its length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from aweigh.errors import DataError, UsageError, counted, printable
from aweigh.files import read_bytes

METADATA, NAME, VALUE = 14, 1, 2  # fields: of a model, of an entry of its metadata
NUMBER, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5  # kinds of fields
DEEPEST = 16  # graphs inside each other; ours are two

# The messages that hold others, by the numbers of the fields that do, see onnx.proto3.
INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
# What `aweigh export` never writes.
REFUSED = {
    ("model", 20): "is meant to be trained",
    ("model", 25): "has functions of its own, by which a small file can expand without end",
    ("tensor", 13): "keeps numbers in another file",
}
DIMENSIONS, LOCATION = 1, 14  # of a tensor: its sides, and whether its numbers are in another file
DOMAIN = 7  # of a node: whose operator it is
OURS = (b"", b"ai.onnx")  # ONNX's own


class _Foreign(Exception):
    """What a graph has that ours have not."""


class _Field(NamedTuple):
    """A field of a message: its number and kind, and from where to where it goes; of a number, with its bytes."""

    number: int
    kind: int
    start: int
    stop: int


def metadata(path: Path) -> dict[str, str]:
    """The texts in the metadata. `UsageError` where there is no file. `DataError` for another one, for one cut short,
    and for a graph that asks for another file, or has what `aweigh export` never writes."""
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    data = read_bytes(path)
    try:
        _check(data, 0, len(data), "model", 0)
        entries = [
            {each.number: data[each.start : each.stop] for each in _fields(data, entry.start, entry.stop)}
            for entry in _fields(data, 0, len(data))
            if (entry.number, entry.kind) == (METADATA, LENGTH)
        ]
        return {entry[NAME].decode(): entry.get(VALUE, b"").decode() for entry in entries}
    except _Foreign as error:
        raise DataError(f"{path}: the graph {error}; `aweigh export` writes none such.") from error
    except (ValueError, LookupError) as error:
        raise DataError(f"{path} is truncated or is no ONNX file ({error}).") from error


def _check(data: bytes, start: int, stop: int, message: str, depth: int) -> None:
    """`_Foreign` for what is refused in a message, and in all it holds."""
    if depth > 3 * DEEPEST:  # a graph in an attribute of a node of a graph
        raise _Foreign(f"has more than {DEEPEST} graphs inside each other")
    sides = []
    for number, kind, begin, end in _fields(data, start, stop):
        if why := REFUSED.get((message, number)):
            raise _Foreign(why)
        if (inner := INSIDE[message].get(number)) and kind == LENGTH:
            _check(data, begin, end, inner, depth + 1)
        elif message == "tensor" and number == LOCATION and data[begin:end] != b"\0":
            raise _Foreign(REFUSED["tensor", 13])
        elif message == "node" and number == DOMAIN and data[begin:end] not in OURS:
            raise _Foreign(f"has operators of {printable(data[begin:end].decode(errors='replace'))}")
        elif message == "tensor" and number == DIMENSIONS:
            while begin < end:
                side, begin = _number(data, begin)
                sides.append(side)
    if math.prod(sides) > 8 * len(data):  # a bit for each, at the least
        raise _Foreign(f"promises {counted(math.prod(sides), 'number')} in a file of {len(data):,} B")


def _fields(data: bytes, start: int, stop: int) -> Iterator[_Field]:
    """The fields of a message; `ValueError` where there are none, or one ends beyond it."""
    while start < stop:
        key, begin = _number(data, start)
        field, kind = key >> 3, key & 7
        if kind == LENGTH:
            length, begin = _number(data, begin)
            end = begin + length
        elif kind == NUMBER:
            _, end = _number(data, begin)
        else:
            end = begin + {EIGHT_BYTES: 8, FOUR_BYTES: 4}.get(kind, 0)
        if field == 0 or (end == begin and kind not in (NUMBER, LENGTH)):
            raise ValueError(f"byte {start} begins no field")
        if end > stop:
            raise ValueError(f"field {field} at byte {start} ends beyond its message")
        yield _Field(field, kind, begin, end)
        start = end


def _number(data: bytes, start: int) -> tuple[int, int]:
    """A whole number, of which each byte holds seven bits, the lowest first, and whether another follows; its end."""
    value = 0
    for shift in range(0, 70, 7):
        if start >= len(data):
            raise ValueError("it ends within a number")
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
    raise ValueError("a number without an end")
