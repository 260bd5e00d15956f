"""The experiments behind the four guidelines of "ShuffleNet V2" (Ma et al., 2018, section 2), on this machine.

Tables 1 to 4: ten stacked blocks of equal multiply-adds, of which one property varies; and figure 1: networks of about
40, 140, 300 and 500 million multiply-adds. Speeds are compared as ratios to the first row, since the paper's machines
(a GTX 1080 Ti; one thread of a Snapdragon 810, "ARM") are others.

What the text leaves open is read so: convolutions have neither normalisation nor activation in tables 1 to 3 and a bias
everywhere (the paper fused its operators); parallel fragments each read all channels and give a part of the output;
serial fragments are as narrow as equal multiply-adds ask for; the images of table 4 have 56 pixels, as those of the
others have. Widths are those of the paper's ARM columns.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from aweigh.backbones.classifier import classifier, network
from aweigh.errors import counted
from aweigh.profiling.engines import Call, EngineName, Setting, opened
from aweigh.profiling.networks import Network
from aweigh.profiling.sweep import in_turn
from aweigh.ranks import spearman
from aweigh.speed import Noise

Name = Literal["G1", "G2", "G3", "G4", "figure 1"]
BLOCKS, SIDE = 10, 56
ALIKE = 0.02  # ours: ratios of the paper this near to 1 tell no direction
TIMES = (1, 2, 4)  # the columns of tables 1 to 4: how many times as wide


@dataclass(frozen=True)
class Row:
    """build: from the number of the column to the module. channels: of its input, by column. gpu, arm: speeds that the
    paper prints, by column."""

    name: str
    build: Callable[[int], nn.Module]
    channels: tuple[int, ...]
    gpu: tuple[float, ...]
    arm: tuple[float, ...]


@dataclass(frozen=True)
class Experiment:
    """A table of the paper. varies: in words. columns: their titles. side: of the images."""

    name: Name
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    side: int = SIDE


@dataclass(frozen=True, eq=False)
class Found:
    """What was measured. seconds: `[R, C]` medians, by row and column."""

    experiment: Experiment
    seconds: np.ndarray

    @property
    def here(self) -> np.ndarray:
        """`[R, C]`: how many times as fast as the first row."""
        ratios: np.ndarray = self.seconds[:1] / self.seconds
        return ratios

    def paper(self, machine: Literal["gpu", "arm"]) -> np.ndarray:
        """The same of the paper's speeds."""
        speeds = np.array([getattr(row, machine) for row in self.experiment.rows])
        ratios: np.ndarray = speeds / speeds[:1]
        return ratios

    @property
    def spearman(self) -> float:
        """Of our ratios with those of ARM, over all rows and columns."""
        return float(spearman(self.here.ravel(), self.paper("arm").ravel()))

    def __str__(self) -> str:
        """Whether rows are faster or slower than the first here as they are in the paper, where they are not alike."""
        here, arm = self.here[1:], self.paper("arm")[1:]
        told = np.abs(arm - 1) > ALIKE
        same = told & (np.sign(here - 1) == np.sign(arm - 1))
        found, all_told = int(same.sum()), int(told.sum())
        said = f"{counted(found, 'place')} of {all_told} as on the paper's ARM; Spearman {self.spearman:.2f}"
        turned = [
            f"{row.name}, {column} ({here[r, c]:.2f} here, {arm[r, c]:.2f} there)"
            for r, row in enumerate(self.experiment.rows[1:])
            for c, column in enumerate(self.experiment.columns)
            if told[r, c] and not same[r, c]
        ]
        return f"Faster or slower than the first row in {said}." + (f" Not: {'; '.join(turned)}." if turned else "")

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "name": self.experiment.name,
            "title": self.experiment.title,
            "columns": list(self.experiment.columns),
            "rows": [row.name for row in self.experiment.rows],
            "ms": (self.seconds * 1000).tolist(),
            "here": self.here.tolist(),
            "arm": self.paper("arm").tolist(),
            "gpu": self.paper("gpu").tolist(),
            "spearman": self.spearman,
            "said": str(self),
        }


def measure_guidelines(
    names: Sequence[Name],
    *,
    engine: EngineName = "eager",
    threads: int = 1,
    repeats: int = 7,
    progress: Callable[[int], object] = lambda done: None,
) -> tuple[list[Found], Noise]:
    """Run experiments, all their networks in turn. progress: called with the number of rounds done.

    One thread of torch is timed by its own processor time, which other programs do not disturb.
    """
    calls: dict[tuple[Name, int, int], Call] = {}
    for name in names:
        experiment = EXPERIMENTS[name]
        for r, row in enumerate(experiment.rows):
            for c in range(len(experiment.columns)):
                setting = Setting(row.name, engine, size=experiment.side, threads=threads)
                module = Network(row.build(c).eval(), nn.Module.__call__)
                calls[name, r, c] = opened(setting, module, channels=row.channels[c])
    clock = time.thread_time if engine == "eager" and threads == 1 else time.perf_counter
    runs, noise = in_turn(calls, repeats, progress, clock)
    found = []
    for name in names:
        rows, columns = len(EXPERIMENTS[name].rows), len(EXPERIMENTS[name].columns)
        seconds = [[float(np.median(runs[name, r, c])) for c in range(columns)] for r in range(rows)]
        found.append(Found(EXPERIMENTS[name], np.array(seconds)))
    return found, noise


# --- the blocks ---------------------------------------------------------------------------------------------------


def two_widths(first: int, second: int) -> nn.Module:
    """G1: 1x1 convolutions from `first` to `second` channels and back."""
    return nn.Sequential(nn.Conv2d(first, second, 1), nn.Conv2d(second, first, 1))


class Parallel(nn.Module):
    """G3: 1x1 convolutions side by side, of all channels each, which give a part of the output each."""

    def __init__(self, channels: int, fragments: int) -> None:
        super().__init__()
        self.fragments = nn.ModuleList(nn.Conv2d(channels, channels // fragments, 1) for _ in range(fragments))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([fragment(x) for fragment in self.fragments], dim=1)


class Bottleneck(nn.Module):
    """G4: 1x1, 3x3 and 1x1 convolutions of one width, with or without activations and the shortcut."""

    def __init__(self, channels: int, *, relu: bool, shortcut: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, side, padding=side // 2) for side in (1, 3, 1))
        self.relu, self.shortcut = relu, shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number, conv in enumerate(self.convs):
            y = conv(y)
            if self.relu and number < 2:
                y = y.relu_()
        if self.shortcut:
            y = y.add_(x)
        return y.relu_() if self.relu else y


def _stacked(block: Callable[[int], nn.Module], column: int) -> nn.Module:
    return nn.Sequential(*(block(TIMES[column]) for _ in range(BLOCKS)))


def _row(
    name: str, block: Callable[[int], nn.Module], channels: int, gpu: Sequence[float], arm: Sequence[float]
) -> Row:
    """block: from how many times as wide to the block. channels: of its input in the first column."""
    widths = tuple(channels * times for times in TIMES)
    return Row(name, partial(_stacked, block), widths, tuple(gpu), tuple(arm))


def _g1(ratio: str, first: int, second: int, gpu: Sequence[float], arm: Sequence[float]) -> Row:
    return _row(ratio, lambda times: two_widths(first * times, second * times), first, gpu, arm)


def _g2(groups: int, channels: int, gpu: Sequence[float], arm: Sequence[float]) -> Row:
    """The widths of the paper are divisible by the groups in each column but for rounding down."""
    widths = tuple(channels * times // groups * groups for times in TIMES)

    def block(times: int) -> nn.Module:
        width = channels * times // groups * groups
        return nn.Conv2d(width, width, 1, groups=groups)

    row = _row(counted(groups, "group"), block, channels, gpu, arm)
    return replace(row, channels=widths)


def _g3(name: str, gpu: Sequence[float], arm: Sequence[float], *, serial: int = 1, parallel: int = 1) -> Row:
    channels = round(64 / serial**0.5)

    def block(times: int) -> nn.Module:
        width = channels * times
        if parallel > 1:
            return Parallel(width, parallel)
        return nn.Sequential(*(nn.Conv2d(width, width, 1) for _ in range(serial)))

    return _row(name, block, channels, gpu, arm)


def _g4(relu: bool, shortcut: bool, gpu: Sequence[float], arm: Sequence[float]) -> Row:
    name = f"{'ReLU' if relu else 'no ReLU'}, {'shortcut' if shortcut else 'no shortcut'}"
    return _row(name, lambda times: Bottleneck(32 * times, relu=relu, shortcut=shortcut), 32, gpu, arm)


def _classifiers(title: str, names: Sequence[str], gpu: Sequence[float], arm: Sequence[float]) -> Row:
    return Row(title, lambda column: classifier(network(names[column])), (3,) * len(names), tuple(gpu), tuple(arm))


def _named(stem: str, widths: Sequence[str]) -> list[str]:
    return [f"{stem}_x{width}" for width in widths]


_COLUMNS = ("1x", "2x", "4x")
_WIDTHS = ("0_5", "1_0", "1_5", "2_0")
EXPERIMENTS: Mapping[Name, Experiment] = {
    "G1": Experiment(
        "G1", "Equal channel widths (table 1)", _COLUMNS,
        (
            _g1("1:1", 32, 32, (1480, 723, 232), (76.2, 21.7, 5.3)),
            _g1("1:2", 22, 44, (1296, 586, 206), (72.9, 20.5, 5.1)),
            _g1("1:6", 13, 78, (876, 489, 189), (69.1, 17.9, 4.6)),
            _g1("1:12", 9, 108, (748, 392, 163), (57.6, 15.1, 4.4)),
        ),
    ),
    "G2": Experiment(
        "G2", "Group convolution (table 2)", _COLUMNS,
        (
            _g2(1, 64, (2451, 1289, 437), (40.0, 10.2, 2.3)),
            _g2(2, 90, (1725, 873, 341), (35.0, 9.5, 2.2)),
            _g2(4, 128, (1026, 644, 338), (32.9, 8.7, 2.1)),
            _g2(8, 180, (634, 445, 230), (27.8, 7.5, 1.8)),
        ),
    ),
    "G3": Experiment(
        "G3", "Fragments (table 3)", _COLUMNS,
        (
            _g3("1 fragment", (2446, 1274, 434), (40.2, 10.1, 2.3)),
            _g3("2 in series", (1790, 909, 336), (38.6, 10.1, 2.2), serial=2),
            _g3("4 in series", (752, 745, 349), (38.4, 10.1, 2.3), serial=4),
            _g3("2 in parallel", (1537, 803, 320), (33.4, 9.1, 2.2), parallel=2),
            _g3("4 in parallel", (691, 572, 292), (35.0, 8.4, 2.1), parallel=4),
        ),
    ),
    "G4": Experiment(
        "G4", "Element-wise work (table 4)", _COLUMNS,
        (
            _g4(True, True, (2427, 2066, 1436), (56.7, 16.9, 5.0)),
            _g4(True, False, (2647, 2256, 1735), (61.9, 18.8, 5.2)),
            _g4(False, True, (2672, 2121, 1458), (57.3, 18.2, 5.1)),
            _g4(False, False, (2842, 2376, 1782), (66.3, 20.2, 5.4)),
        ),
    ),
    "figure 1": Experiment(
        "figure 1", "Networks of equal multiply-adds (figure 1)", ("40M", "140M", "300M", "500M"),
        (
            _classifiers(
                "ShuffleNet V2", _named("shufflenet_v2", _WIDTHS), (417, 341, 255, 217), (57.0, 24.4, 11.8, 6.7)
            ),
            _classifiers(
                "ShuffleNet V1", _named("shufflenet_v1_g3", _WIDTHS), (347, 213, 164, 133), (56.8, 21.8, 10.3, 6.4)
            ),
            _classifiers(
                "MobileNet V2", _named("mobilenet_v2", ("0_15", "0_6", "1_0", "1_4")), (351, 249, 180, 137),
                (33.6, 14.9, 8.9, 5.4),
            ),
            _classifiers(
                "Xception", _named("xception_small", _WIDTHS), (384, 278, 219, 174), (52.9, 19.5, 10.5, 6.7)
            ),
        ),
        side=224,
    ),
}  # fmt: skip
