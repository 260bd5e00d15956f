"""What an ONNX file says about itself, without its graph being read. The format is protobuf, little of it is needed."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Set
from pathlib import Path
from typing import IO

from aweigh.errors import DataError, UsageError

METADATA, NAME, VALUE = 14, 1, 2  # fields: of a model, of an entry of its metadata
WIDTHS = {0: 0, 1: 8, 2: 0, 5: 4}  # bytes of each kind of field: a number, 8 bytes, as many as it says, 4 bytes


def metadata(path: Path) -> dict[str, str]:
    """The texts in the metadata. `UsageError` where there is no file, `DataError` for another one, or one cut short."""
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    try:
        with open(path, "rb") as file:
            entries = [dict(_texts(io.BytesIO(entry), {NAME, VALUE})) for _, entry in _texts(file, {METADATA})]
        return {entry[NAME].decode(): entry.get(VALUE, b"").decode() for entry in entries}
    except (OSError, ValueError, LookupError) as error:
        raise DataError(f"{path} is truncated or is no ONNX file ({error}).") from error


def _texts(file: IO[bytes], wanted: Set[int]) -> Iterator[tuple[int, bytes]]:
    """The bytes of the wanted fields of a message, by their numbers; the others are passed over."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    while (start := file.tell()) < size:
        key = _number(file)
        field, kind = key >> 3, key & 7
        if field == 0 or kind not in WIDTHS:
            raise ValueError(f"byte {start} begins no field")
        following = _number(file) if kind in (0, 2) else 0
        length = following if kind == 2 else WIDTHS[kind]
        if file.tell() + length > size:
            raise ValueError(f"field {field} at byte {start} ends beyond the file")
        if kind == 2 and field in wanted:
            yield field, file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)


def _number(file: IO[bytes]) -> int:
    """A whole number, of which each byte holds seven bits, the lowest first, and whether another follows."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("it ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number without an end")
