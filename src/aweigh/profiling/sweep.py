"""How fast networks run in different engines, number formats, batches, sizes and numbers of threads, in turn.

Each setting runs once in every round, in another order every time, so that what else the machine does meets all.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from aweigh.errors import AweighError
from aweigh.profiling.engines import Call, Setting, export, opened
from aweigh.profiling.networks import Network
from aweigh.speed import FixedComputation, Noise, memory_mib, percentiles, reset_peak

REPEATS = 15

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Timed:
    """What one setting took.

    first_s: seconds from opening it to the end of its first run, compiling included and exporting not. memory_mib: by
    how much the memory of the process rose meanwhile at its peak; None where the system does not tell. runs: seconds,
    `[N]`.
    """

    setting: Setting
    first_s: float
    memory_mib: float | None
    runs: np.ndarray

    @property
    def ms(self) -> dict[str, float]:
        """p50, p95 and p99 of a run of the whole batch."""
        return {name: value * 1000 for name, value in percentiles(self.runs).items()}

    @property
    def images_per_second(self) -> float:
        return self.setting.batch / float(np.median(self.runs))


@dataclass(frozen=True)
class Sweep:
    """rows: in the order in which they were asked for. left_out: settings that cannot be run here, and why."""

    rows: tuple[Timed, ...]
    left_out: tuple[tuple[Setting, str], ...]
    noise: Noise

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "rows": [
                {**_said(row.setting), "first_s": row.first_s, "memory_mib": row.memory_mib, "ms": row.ms,
                 "images_per_second": row.images_per_second}
                for row in self.rows
            ],
            "left_out": [{**_said(setting), "why": why} for setting, why in self.left_out],
            "noise": {"waited": self.noise.waited, "spread": self.noise.spread, "too_much": self.noise.too_much},
        }  # fmt: skip


def _said(setting: Setting) -> dict[str, Any]:
    return {**asdict(setting), "format": setting.shown_format, "threads": setting.cores}


def sweep(
    settings: Sequence[Setting],
    networks: Mapping[str, Network | None],
    *,
    repeats: int = REPEATS,
    progress: Callable[[int], object] = lambda done: None,
) -> Sweep:
    """Time the settings.

    networks: by the models' names, None for an exported file. progress: called after each round.
    """
    calls: dict[Setting, Call] = {}
    first: dict[Setting, tuple[float, float | None]] = {}
    left_out: list[tuple[Setting, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        files: dict[tuple[str, int, int], Path] = {}
        for setting in settings:
            try:
                exported = _exported(setting, networks[setting.model], files, Path(folder))
                before, start = reset_peak(), time.perf_counter()
                call = opened(setting, networks[setting.model], exported=exported)
                call()
            except AweighError as error:
                left_out.append((setting, str(error)))
                continue
            seconds, peak = time.perf_counter() - start, memory_mib("VmHWM")
            calls[setting] = call
            first[setting] = seconds, None if before is None or peak is None else peak - before
    runs, noise = in_turn(calls, repeats, progress)
    rows = tuple(Timed(setting, *first[setting], runs[setting]) for setting in calls)
    return Sweep(rows, tuple(left_out), noise)


def _exported(
    setting: Setting, network: Network | None, files: dict[tuple[str, int, int], Path], folder: Path
) -> Path | None:
    """The file of a network for the engines that need one, written once for each size and batch."""
    if network is None or not setting.needs_export:
        return None
    key = setting.model, setting.size, setting.batch
    if key not in files:
        files[key] = export(setting, network, folder / f"{len(files)}.onnx")
    return files[key]


def in_turn(
    calls: Mapping[T, Call],
    repeats: int,
    progress: Callable[[int], object] = lambda done: None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[T, np.ndarray], Noise]:
    """Seconds of each call, `[repeats]`, and how noisy the machine was. Each is called once before it is timed, so that
    the threads and caches of the one before do not count."""
    taken: dict[T, list[float]] = {name: [] for name in calls}
    order, fixed = [*calls], FixedComputation()
    for round in range(repeats):
        turn = round % max(1, len(order))
        for name in order[turn:] + order[:turn]:
            calls[name]()
            start = clock()
            calls[name]()
            taken[name].append(clock() - start)
        fixed.compute()
        progress(round + 1)
    return {name: np.array(seconds) for name, seconds in taken.items()}, fixed.noise()
