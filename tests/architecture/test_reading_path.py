"""To follow FCOS through one training step, or one prediction, a reader opens five of our files at most."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
import torch

import aweigh
from aweigh.models import create
from aweigh.structures import Images, Targets

PACKAGE = Path(aweigh.__file__).parent
MOST = 5


@pytest.fixture(scope="module")
def detector() -> torch.nn.Module:
    return create("fcos_resnet18_fpn", num_classes=3)


@pytest.fixture(scope="module")
def images() -> Images:
    return Images(torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)), [(128, 96), (100, 128)])


def test_one_training_step(detector: torch.nn.Module, images: Images) -> None:
    targets = [Targets(torch.tensor([[10.0, 20, 60, 90]]), torch.tensor([1])), Targets.empty()]
    detector.train()

    files = files_entered(lambda: sum(detector(images, targets).values()).backward())
    print("one training step:", *files)
    assert "models/fcos.py" in files
    assert len(files) <= MOST, files


def test_one_prediction(detector: torch.nn.Module, images: Images) -> None:
    detector.eval()
    detector.score_threshold = 0.0  # so that post-processing has something to do

    found = []
    with torch.inference_mode():
        files = files_entered(lambda: found.extend(detector(images)))
    print("one prediction:", *files)
    assert sum(map(len, found)) > 0
    assert "models/fcos.py" in files
    assert len(files) <= MOST, files


def files_entered(run: Callable[[], object]) -> list[str]:
    """The files of the package in which a function was called while `run` ran."""
    entered = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and (file := Path(frame.f_code.co_filename)).is_relative_to(PACKAGE):
            entered.add(file.relative_to(PACKAGE).as_posix())

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return sorted(entered)
