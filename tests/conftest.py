"""Fixtures every test may use."""

import gc
import multiprocessing
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Where the environment wants no bytecode beside the sources, every process that runs tests or is started by one would
# compile torch anew, which takes two thirds of its time: it is kept in a folder of ours.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(REPOSITORY / ".pytest_cache" / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# On the tiny tensors of tests a second thread costs more than it gains (four times the processor time); read when torch
# is first imported, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = (
    "tests.annotated",
    "tests.exported",
    "tests.runs",
)  # fixtures: they import torch, which is too early at the top

# The server of "forkserver" loads torch and aweigh once; a process forked from it starts in tenths of a second, not in
# ten.
PRELOADED = ("aweigh.cli.resume", "aweigh.cli.train", "aweigh.training.train", "matplotlib.figure")
multiprocessing.set_forkserver_preload([*PRELOADED, "torch.distributed.run"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """What is loaded by now stays to the end, and need not be looked through for garbage again and again: a twelfth of
    all processor time went there. Nor is every seven hundredth object a reason to look."""
    gc.freeze()
    gc.set_threshold(10_000)


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


@pytest.fixture
def memory_needed() -> Callable[[Callable[[], object]], int]:
    """Calls a function and says by how many bytes the process grew at most while it ran."""

    def peak() -> int:
        if sys.platform != "linux":  # the largest since the process began, and no word on what was freed
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024

    def measure(work: Callable[[], object]) -> int:
        if sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")  # the largest begins anew at what is held now
        before = peak()
        work()
        return peak() - before

    return measure
