"""Where time goes, by a clock of our own."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from aweigh.models import create
from aweigh.profiling import profile
from aweigh.profiling.machine import Machine
from aweigh.profiling.networks import run_network
from aweigh.speed import Noise

QUIET = Noise(0.0, 1.0)


class Clock:
    """A second more at every look."""

    def __init__(self) -> None:
        self.ticks = itertools.count()

    def __call__(self) -> float:
        return float(next(self.ticks))


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 5, 1), nn.ReLU()))


def test_each_operator_has_its_time_and_the_whole_has_its_own() -> None:
    module = small().train()
    found = profile(module, torch.rand(2, 3, 8, 8), repeats=3, clock=Clock())
    assert [each.seconds for each in found.operators] == [1.0] * 4
    assert found.runs.tolist() == [1.0] * 3 and found.accounted == 4.0
    assert [(share.name, share.calls, share.seconds) for share in found.by_kind()] == [
        ("convolution", 2, 2.0),
        ("element-wise", 2, 2.0),
    ]
    assert [(share.name, share.of_whole) for share in found.by_part()] == [("0", 0.25), ("1", 0.25), ("2", 0.5)]
    assert found.by_kind()[0].gflops == 2e-9 * found.cost.total.multiply_adds / 2
    assert module.training and found.by_kind()[0].at_roof is None
    assert found.to_dict()["ms"]["p50"] == 1000.0


def test_the_roof_of_a_profile_is_that_of_its_operators() -> None:
    machine = Machine(1, {"float32": 2.0}, {1000: 4.0, 100_000: 1.0}, QUIET)
    found = profile(small(), torch.rand(1, 3, 8, 8), repeats=1, clock=Clock(), machine=machine)
    each = sum(machine.seconds(call.multiply_adds, call.memory_access) for call in found.operators)
    assert found.at_roof(found.operators) == pytest.approx(each)
    assert sum(share.at_roof or 0 for share in found.by_kind()) == pytest.approx(each)
    assert found.to_dict()["machine"]["gflops"] == {"float32": 2.0}


def test_the_stages_of_a_detector_are_timed() -> None:
    detector = create("fcos_shufflenet_v2_x0_5_fpn", num_classes=2)
    found = profile(detector, torch.rand(1, 3, 64, 64), run=run_network, repeats=1)
    names = [share.name for share in found.by_stage()]
    assert {"backbone.stage2", "neck.lateral", "head.logits"} < set(names)
    for shares in (found.by_kind(), found.by_part(), found.by_stage()):
        assert math.isclose(sum(share.of_whole for share in shares), 1)
        assert sum(share.calls for share in shares) == len(found.operators)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["resnet50", "shufflenet_v2_x1_0"])
def test_operators_account_for_nearly_the_whole(name: str) -> None:
    """Of processor time, which other programs do not take."""
    import time

    import torchvision

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        module = torchvision.models.get_model(name, weights=None)
        found = profile(module, torch.rand(1, 3, 224, 224), clock=time.thread_time)
    finally:
        torch.set_num_threads(before)
    print(f"{name}: {found.accounted:.1%}")
    assert 0.9 < found.accounted < 1.15 and np.isfinite(found.runs).all()
