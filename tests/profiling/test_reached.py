"""Operators beside the roof of a machine that is made up, with times that are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from aweigh.errors import UsageError
from aweigh.profiling.cost import count_run
from aweigh.profiling.machine import Machine
from aweigh.profiling.operators import record
from aweigh.profiling.timing import Profile, points, reached
from aweigh.speed import Noise

QUIET = Noise(waited=0.0, spread=1.0)
MACHINE = Machine(1, {"float32": 100.0}, {1024: 10.0}, QUIET)  # an operation takes 10 ps, a byte 100


def profiled(seconds: float, machine: Machine | None = MACHINE) -> Profile:
    """Two equal convolutions with an activation between, each of which takes this long."""
    module = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)).eval()
    image = torch.zeros(1, 8, 10, 10)
    operators = record(module, lambda: module(image))
    timed = tuple(replace(each, seconds=seconds) for each in operators)
    return Profile(count_run(module, operators), timed, np.array([3 * seconds]), QUIET, machine)


def test_equal_operators_are_together_beside_the_roof() -> None:
    relu, convolution = sorted(reached(profiled(1e-6)), key=lambda each: len(each.modules))
    adds, values = 100 * 8 * 8 * 9, 2 * 800 + 8 * 8 * 9
    assert convolution.modules == ("0", "2") and relu.modules == ("1",)
    assert convolution.bytes == 4 * values and convolution.seconds == pytest.approx(2e-6)
    assert convolution.limit == "arithmetic" and convolution.at_roof == pytest.approx(2 * 2 * adds * 10e-12)
    assert relu.limit == "memory" and relu.at_roof == pytest.approx(2 * 800 * 4 * 100e-12)
    assert convolution.gflops == pytest.approx(2 * adds / 1e-6 / 1e9)
    assert relu.gflops == 0 and relu.gbytes == pytest.approx(2 * 800 * 4 / 1e-6 / 1e9)
    assert convolution.lost == pytest.approx(2e-6 - convolution.at_roof)
    said = convolution.to_dict()
    assert (said["modules"], said["limit"], said["kernel"]) == (["0", "2"], "arithmetic", (3, 3))


def test_the_roofs_of_the_operators_are_that_of_the_whole() -> None:
    profile = profiled(1e-6)
    assert sum(each.at_roof for each in reached(profile)) == pytest.approx(profile.at_roof(profile.operators))


def test_what_loses_most_comes_first() -> None:
    # With equal times an activation is further above its low roof than one convolution is; two of them lose more.
    lost = [each.lost for each in reached(profiled(1e-4))]
    assert lost == sorted(lost, reverse=True) and lost[0] > lost[1] > 0
    assert len(reached(profiled(1e-4))[0].modules) == 2


def test_points_are_the_operators_with_arithmetic() -> None:
    found = points(profiled(1e-6))
    assert list(found) == ["convolution"]
    adds, values = 100 * 8 * 8 * 9, 2 * 800 + 8 * 8 * 9
    np.testing.assert_allclose(found["convolution"], [[2 * adds / (4 * values), 2 * adds / 1e-6 / 1e9, 1e-6]] * 2)


def test_a_machine_that_was_not_measured_is_refused() -> None:
    with pytest.raises(UsageError, match="measure_machine"):
        reached(profiled(1e-6, machine=None))
