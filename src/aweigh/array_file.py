"""Arrays by name in one file, as safetensors has them, without the package of that name: a header in JSON behind its
length in 8 bytes, little-endian, then the numbers (github.com/huggingface/safetensors, "Format")."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from aweigh.files import atomic_file, safetensors_header

TYPES = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U8": "|u1"}  # as the format and as NumPy calls them
_NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}


def read_arrays(path: Path, names: Collection[str]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The texts of a file, and its arrays of these names as far as they are there.

    `DataError` where it is no such file; `ValueError` for an array whose type is not in `TYPES`, or whose numbers are
    more or fewer than its shape has.
    """
    texts, entries, start = safetensors_header(path)
    arrays = {}
    with open(path, "rb") as file:
        for name in sorted({*names} & entries.keys()):
            kind, shape, (begin, end) = (entries[name][key] for key in ("dtype", "shape", "data_offsets"))
            if kind not in TYPES:
                raise ValueError(f"{name} is of type {kind!r}; known: {', '.join(TYPES)}")
            file.seek(start + begin)
            arrays[name] = np.frombuffer(file.read(end - begin), TYPES[kind]).reshape(shape).copy()
    return texts, arrays


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> None:
    """Write arrays, of types in `TYPES`, and texts; the file is whole or not there."""
    header: dict[str, object] = {"__metadata__": dict(texts)}
    largest_first = dict(sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])))  # each lies aligned
    begin = 0
    for name, array in largest_first.items():
        place = [begin, begin + array.nbytes]
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": place}
        begin += array.nbytes
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as aside, open(aside, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in largest_first.values():
            file.write(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)
