"""What the benchmarks share: times taken in turn, peak memory, the steps of a run, the name of the processor."""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from aweigh.training.logs.json_lines import read_log


def in_turn(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each run, taken alternately so that a drift of the machine hits all; each is warmed up first."""
    for run in runs.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken[name].append((time.perf_counter() - start) * 1000)
    return taken


def ratio(first: list[float], second: list[float]) -> float:
    """The median, over the rounds, of how many times as long the first took: neighbours in time are compared."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def peak_memory(run: Callable[[], object]) -> float:
    """Bytes that torch's CPU allocator held at the peak of `run`, above what it held when it began."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def processor() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def step_seconds(folder: Path) -> list[float]:
    """Of each logged step of a training run, reading included."""
    steps = [row for row in read_log(folder / "log.jsonl") if row["kind"] == "step"]
    return [row["step_seconds"] + row["data_seconds"] for row in steps]
