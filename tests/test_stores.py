"""Files in a store: written as a whole, listed folder by folder, and asked for again where it does not answer.

The store is fsspec's in memory; a server of S3 is asked in `tests/cluster`.
"""

from pathlib import Path
from uuid import uuid4

import pytest

from aweigh import stores
from aweigh.errors import DataError
from aweigh.stores import DeniedError, StoreError

pytest.importorskip("pyarrow")


@pytest.fixture
def folder() -> str:
    return f"memory://{uuid4().hex}"


def test_a_file_is_read_as_it_was_written(folder: str) -> None:
    stores.write(f"{folder}/a/b.bin", b"\0\xff")

    assert stores.read(f"{folder}/a/b.bin") == b"\0\xff"
    assert stores.is_file(f"{folder}/a/b.bin") and not stores.is_file(f"{folder}/a")


def test_a_folder_lists_its_own_files_and_no_unfinished_one(folder: str) -> None:
    stores.write(f"{folder}/b.txt", b"12")
    stores.write(f"{folder}/deep/c.txt", b"123")

    assert stores.sizes_in(folder) == {"b.txt": 2}
    assert stores.sizes_in(f"{folder}/nothing") == {}


def test_a_folder_of_this_machine_is_one_too(tmp_path: Path) -> None:
    stores.write(stores.joined(str(tmp_path / "new"), "a.txt"), b"1")

    assert stores.sizes_in(str(tmp_path / "new")) == {"a.txt": 1}
    assert stores.read(str(tmp_path / "new/a.txt")) == b"1"
    assert stores.sizes_in(str(tmp_path / "nothing")) == {}


def test_names_come_folder_by_folder(folder: str) -> None:
    for name in ("c.txt", "a/z.txt", "b.txt", "a/y/x.txt"):
        stores.write(f"{folder}/{name}", b"")

    assert [*stores.names_below(folder, recursive=False)] == [f"{folder}/b.txt", f"{folder}/c.txt"]
    below = ["b.txt", "c.txt", "a/z.txt", "a/y/x.txt"]
    assert [*stores.names_below(folder, recursive=True)] == [f"{folder}/{name}" for name in below]


def test_what_is_not_there_or_too_large_is_data(folder: str) -> None:
    stores.write(f"{folder}/a.bin", b"12345")

    with pytest.raises(DataError, match="no such file"):
        stores.read(f"{folder}/b.bin")
    with pytest.raises(DataError, match="holds 5 bytes, more than 4 bytes"):
        stores.read(f"{folder}/a.bin", most_bytes=4)


@pytest.mark.parametrize(
    ("failure", "error", "asked"),
    [
        (OSError("curlCode: 7, Could not connect"), StoreError, 3),
        (OSError("AWS Error ACCESS_DENIED during HeadObject"), DeniedError, 1),
        (PermissionError("no"), DeniedError, 1),
        (OSError("AWS Error NO_SUCH_KEY during GetObject"), DataError, 1),
    ],
)
def test_a_store_is_asked_again_only_where_it_does_not_answer(
    failure: OSError, error: type[Exception], asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PAUSES", (0.0, 0.0))
    tries = []

    def ask() -> bytes:
        tries.append(1)
        raise failure

    with pytest.raises(error, match="s3://bucket/a"):
        stores._patiently(ask, "s3://bucket/a")
    assert len(tries) == asked


def test_an_answer_that_comes_late_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "PAUSES", (0.0, 0.0))
    answers = [OSError("slow down"), b"here"]

    def ask() -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert stores._patiently(ask, "s3://bucket/a") == b"here"
