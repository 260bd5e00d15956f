"""A data set drawn once, a detector trained on it once, and a way to type commands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from aweigh.cli.main import run

TINY = ["--recipe", "synthetic", "--long", "96", "--workers", "0", "--device", "cpu"]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def mistake(self) -> str:
        """The one line of a user's mistake."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert self.err.endswith(lines[0] + "\n") and "Traceback" not in self.err
        return lines[0]


@pytest.fixture
def aweigh(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Types a command: `aweigh("predict", path, "--model", file)`. In this process, so that torch starts once."""

    def type_command(*words: object) -> Ended:
        capsys.readouterr()
        code = run([str(word) for word in words])
        return Ended(code, *capsys.readouterr())

    return type_command


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic data set of 24, 6 and 6 images."""
    folder = tmp_path_factory.mktemp("drawn") / "data"
    assert typed("data", "synth", folder, "--train", 24, "--val", 6, "--test", 6, "--size", 128) == 0
    return folder


@pytest.fixture(scope="session")
def trained(drawn: Path) -> Path:
    """The folder of a run of one epoch on it; what it finds is noise, but it is the whole path."""
    folder = drawn.parent / "run"
    assert typed("train", drawn, "--epochs", 1, "--output", folder, *TINY) == 0
    return folder


def typed(*words: object) -> int:
    return run(as_words(words))


def as_words(words: Sequence[object]) -> list[str]:
    return [str(word) for word in words]
