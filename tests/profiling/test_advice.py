"""Planted faults are found, and nothing else; what they cost is the difference to the mended network."""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from aweigh.profiling.advice import advise, breaks
from aweigh.profiling.operators import record
from aweigh.profiling.sweep import in_turn
from aweigh.speed import Noise

QUIET = Noise(0.0, 1.0)


class Fragments(nn.Module):
    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(channels, channels // count, 1) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([part(x) for part in self.parts], dim=1)


def planted(width: int = 32) -> nn.Sequential:
    """1:12 widths, 8 groups, 4 fragments, needless activations; a clean convolution between any two."""

    def clean(read: int, given: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(read, given, 3, padding=1), nn.BatchNorm2d(given), nn.ReLU())

    return nn.Sequential(
        clean(3, width // 4),
        nn.Sequential(nn.Conv2d(width // 4, 3 * width, 1), nn.Conv2d(3 * width, width // 4, 1)),
        clean(width // 4, width),
        nn.Conv2d(width, width, 1, groups=8),
        clean(width, width),
        Fragments(width, 4),
        clean(width, width),
        nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.ReLU()),
    )


def mended(width: int = 32) -> nn.Sequential:
    network = planted(width)
    mean = round((width // 4 * 3 * width) ** 0.5)
    network[1] = nn.Sequential(*(Narrow(nn.Conv2d(mean, mean, 1)) for _ in range(2)))
    narrow = round(width / 8**0.5)
    network[3] = Narrow(nn.Conv2d(narrow, narrow, 1))
    network[5] = nn.Conv2d(width, width, 1)
    network[7] = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU())
    return network


class Narrow(nn.Module):
    """Runs a layer of other widths, on values of their own that all such layers share, and lets its input through."""

    values: ClassVar[dict[tuple[int, ...], torch.Tensor]] = {}

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (x.shape[0], self.layer.in_channels, *x.shape[2:])
        if shape not in self.values:
            self.values[shape] = torch.rand(shape)
        self.layer(self.values[shape])
        return x


def test_planted_faults_are_found_and_nothing_else() -> None:
    network = planted().eval()
    x = torch.rand(1, 3, 12, 12)
    found = advise(network, x, repeats=1)
    told = {(each.guideline, each.modules) for each in found.advice}
    assert told == {
        ("G1", ("1.0",)), ("G1", ("1.1",)), ("G2", ("3",)), ("G3", ("5.parts",)), ("G4", ("7.2",)),
    }  # fmt: skip
    words = {each.guideline: (each.what, each.form) for each in found.advice}
    assert words["G2"] == (
        "1x1 convolution of 32 to 32 channels in 8 groups at 12 x 12",
        "11 to 11 channels in one group",
    )
    assert words["G3"][1] == "one 1x1 convolution of 32 to 32 channels"
    assert words["G4"][0] == "element-wise work beyond one activation (relu, relu, relu) on 32 channels at 12 x 12"
    assert found.to_dict()["advice"][0]["of_whole"] == found.advice[0].cost / found.whole


def test_a_clean_network_gets_no_advice_and_stays_as_it_is() -> None:
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, 1),
    ]
    network = nn.Sequential(*layers).train()
    assert advise(network, torch.rand(1, 3, 12, 12), repeats=1).advice == ()
    assert network.training and isinstance(network[1], nn.BatchNorm2d)
    assert not any(each._forward_hooks for each in network.modules())


class Shortcut(nn.Module):
    """A convolution whose map is normalised, added to what came in, and rectified."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(2, channels)
        self.gate, self.act = nn.Conv2d(channels, channels, 1), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.norm(self.conv(x))
        return self.act(made + self.gate(nn.functional.max_pool2d(x, 3, 1, 1)))


def test_element_wise_work_belongs_to_the_map_it_reads() -> None:
    """The normalisation to the convolution it follows; the sum to the later one, whose activation is kept."""
    network = Shortcut(8).eval()
    x = torch.rand(1, 8, 6, 6)
    found = breaks(network, lambda: network(x))
    assert [(each.module, each.what) for each in found] == [
        ("norm", "element-wise work beyond one activation (native_group_norm) on 8 channels at 6 x 6"),
        ("gate", "element-wise work beyond one activation (add) on 8 channels at 6 x 6"),
    ]
    names = [[operator.name for operator in record(nn.Module(), each.obeys)] for each in found]
    assert names == [["aten::convolution"], ["aten::convolution", "aten::relu"]]


def test_forms_have_equal_multiply_adds() -> None:
    network = planted(64).eval()
    x = torch.rand(1, 3, 16, 16)
    for each in breaks(network, lambda: network(x)):
        if each.guideline == "G4":
            continue
        whole, form = (sum(op.multiply_adds for op in record(nn.Module(), call)) for call in (each.run, each.obeys))
        assert form == pytest.approx(whole, rel=0.06), each.what


def test_equal_parts_are_measured_once_and_counted_all() -> None:
    network = nn.Sequential(*(layer for _ in range(3) for layer in (nn.Conv2d(8, 32, 1), nn.Conv2d(32, 8, 1))))
    found = advise(nn.Sequential(nn.Conv2d(3, 8, 1), *network), torch.rand(1, 3, 6, 6), repeats=1)
    assert sorted(each.modules for each in found.advice) == [("1", "3", "5"), ("2", "4", "6")]


def without_most_of_what_is_clean(network: nn.Sequential) -> nn.Sequential:
    """From 64 channels to 64: the parts of `planted(64)` or `mended(64)` that differ, and what fits them together."""
    return nn.Sequential(nn.Conv2d(64, 16, 3, padding=1), *(network[part] for part in (1, 2, 3, 5, 7)))


def saved_and_told(number: int) -> tuple[float, float]:
    """Seconds that the mended network saves, and those that the advice tells, in this process."""
    torch.manual_seed(number)
    torch.set_num_threads(1)
    # Several times one after the other, so that what is planted stands out of the noise.
    network, better = (
        nn.Sequential(*(without_most_of_what_is_clean(made(64)) for _ in range(6))).eval() for made in (planted, mended)
    )
    x = torch.rand(1, 64, 56, 56)
    better(x)
    found = advise(network, x, repeats=41, clock=time.thread_time)
    with torch.no_grad():
        runs, _ = in_turn({"planted": lambda: network(x), "mended": lambda: better(x)}, 41, clock=time.thread_time)
    return float(np.median(runs["planted"] - runs["mended"])), sum(each.cost for each in found.advice)


def test_a_cost_is_what_all_of_its_parts_save(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(calls, repeats, progress, clock):  # the whole 12 seconds, a part 3, its form 1
        seconds = {name: 12.0 if name == "whole" else {"run": 3.0, "obeys": 1.0}[name[1]] for name in calls}
        return {name: np.full(repeats, value) for name, value in seconds.items()}, QUIET

    monkeypatch.setattr("aweigh.profiling.advice.in_turn", timed)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1), *(nn.Conv2d(*widths, 1) for _ in range(3) for widths in ((8, 32), (32, 8)))
    )
    found = advise(network, torch.rand(1, 3, 6, 6), repeats=2)
    assert [(each.seconds, each.obeying, each.cost, each.of_whole) for each in found.advice] == [(3, 1, 6, 0.5)] * 2
    assert found.to_dict()["whole_ms"] == 12_000


@pytest.mark.thorough
def test_costs_add_up_to_what_the_mended_network_saves() -> None:
    """Over several processes, since where a process has its memory changes a time by a fifth."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        saved, told = zip(*processes.map(saved_and_told, range(7)), strict=True)
    print(f"advice {np.mean(told) * 1000:.2f} ms, mended {np.mean(saved) * 1000:.2f} ms")
    assert np.mean(told) == pytest.approx(np.mean(saved), rel=0.2)
