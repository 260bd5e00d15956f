"""Fixtures every test may use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# On the tiny tensors of tests a second thread costs more than it gains (four times the processor time); read when torch
# is first imported, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photographs and published weights (`data/`, `weights/`); the test is skipped without it.

    It is too large for the repository. `AWEIGH_SHARED` says where it lies; by default `shared/` beside the clone.
    """
    folder = Path(os.environ.get("AWEIGH_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"the folder of real photographs is not here ({folder}); set AWEIGH_SHARED to its place")
    return folder


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests never download: the library's own switch is set, and its cache is an empty folder."""
    monkeypatch.setenv("AWEIGH_OFFLINE", "1")
    monkeypatch.setenv("AWEIGH_CACHE", str(tmp_path_factory.getbasetemp() / "aweigh-cache"))
    yield
