"""Arrays in a file as safetensors itself reads and writes them."""

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from aweigh.array_file import TYPES, read_arrays, write_arrays
from aweigh.errors import DataError

ARRAYS: dict[str, np.ndarray] = {
    "boxes": np.arange(12, dtype=np.float32).reshape(3, 4),
    "first": np.array([0, 3], np.int64),
    "sizes": np.array([[5, 6]], np.int32),
    "bytes": np.array([7], np.uint8),
    "none": np.zeros((0, 4), np.float64),
}
TEXTS = {"aweigh": '{"files": ["ä.jpg"]}'}


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.safetensors", ARRAYS, TEXTS)
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        assert file.metadata() == TEXTS and {*file.keys()} == {*ARRAYS}
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(file.get_tensor(name), array, strict=True)


def test_what_safetensors_writes_is_read(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "a.safetensors", metadata=TEXTS)
    texts, arrays = read_arrays(tmp_path / "a.safetensors", {*ARRAYS, "another"} - {"first"})
    assert texts == TEXTS and {*arrays} == {*ARRAYS} - {"first"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name], strict=True)
        assert array.flags.writeable


def test_what_is_no_such_array_is_refused(tmp_path: Path) -> None:
    save_file({"half": np.zeros(2, np.float16)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=f"half is of type 'F16'; known: {', '.join(TYPES)}"):
        read_arrays(tmp_path / "a.safetensors", ["half"])
    write_arrays(tmp_path / "b.safetensors", {"x": np.zeros(2, np.float32)}, {})
    whole = (tmp_path / "b.safetensors").read_bytes()
    (tmp_path / "b.safetensors").write_bytes(whole.replace(b'"shape": [2]', b'"shape": [3]'))
    with pytest.raises(ValueError, match="cannot reshape array of size 2 into shape"):
        read_arrays(tmp_path / "b.safetensors", ["x"])
    (tmp_path / "b.safetensors").write_bytes(whole[:-1])
    with pytest.raises(DataError, match="is truncated"):
        read_arrays(tmp_path / "b.safetensors", ["x"])
