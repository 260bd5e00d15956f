"""The roof of the machine: rates by a clock that is known, and the time that they ask of an operator."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch

from aweigh.profiling.machine import Machine, measure_machine
from aweigh.speed import Noise

MIB = 2**20
QUIET = Noise(waited=0.0, spread=1.0)


def test_rates_are_work_by_time() -> None:
    # Each run takes two seconds of this clock. A product of side n has 2 n^3 operations; a copy reads and writes its
    # bytes, small ones so often that 16 MiB are moved.
    found = measure_machine(sides=(8, 16), copies=(MIB, 32 * MIB), repeats=2, clock=ticking(2.0))
    assert found.gflops == {"float32": pytest.approx(2e-9 * 16**3 / 2)}
    assert found.gbytes == {2 * MIB: pytest.approx(2e-9 * 16 * MIB / 2), 64 * MIB: pytest.approx(2e-9 * 32 * MIB / 2)}


def test_a_peak_is_the_fastest_run_and_the_first_does_not_count() -> None:
    # Readings before and after: the untimed turn takes one reading, the others two.
    readings = iter([0.0, 10.0, 15.0, 20.0, 24.0, 30.0, 37.0, 0.0, 0.0, 0.0])
    found = measure_machine(sides=(8,), copies=(), repeats=3, clock=lambda: next(readings))
    assert found.gflops["float32"] == pytest.approx(2e-9 * 8**3 / 4)


@pytest.mark.parametrize("fails", [False, True])
def test_the_threads_are_as_before(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = torch.get_num_threads(), []

    def mm(*_: object, **__: object) -> None:
        seen.append(torch.get_num_threads())
        if fails:
            raise RuntimeError

    monkeypatch.setattr(torch, "mm", mm)
    with pytest.raises(RuntimeError) if fails else nullcontext():
        found = measure_machine(before + 1, sides=(8,), copies=(), repeats=1, clock=ticking(1.0))
        assert found.threads == before + 1
    assert seen[0] == before + 1
    assert torch.get_num_threads() == before


def test_the_roof_is_the_slower_of_arithmetic_and_memory() -> None:
    machine = Machine(1, {"float32": 100.0, "bf16": 200.0}, {8 * MIB: 10.0}, QUIET)
    assert machine.seconds(50_000_000, 0) == pytest.approx(1e-3)
    assert machine.seconds(50_000_000, 0, format="bf16") == pytest.approx(0.5e-3)
    assert machine.seconds(0, 2_500_000) == pytest.approx(1e-3)
    assert machine.seconds(0, 2_500_000, format="bf16") == pytest.approx(0.5e-3)
    assert machine.seconds(50_000_000, 5_000_000) == pytest.approx(2e-3)


def test_values_move_at_the_rate_of_the_next_smaller_copy_or_a_faster_larger_one() -> None:
    gbytes = {1 * MIB: 80.0, 4 * MIB: 30.0, 16 * MIB: 40.0, 64 * MIB: 10.0}
    machine = Machine(1, {"float32": 100.0}, gbytes, QUIET)

    def rate(mib: float) -> float:
        values = int(mib * MIB / 4)
        return values * 4 / machine.memory_seconds(values) / 1e9

    assert [rate(mib) for mib in (0.5, 1, 3, 5, 16, 63, 64, 1000)] == pytest.approx([80, 80, 80, 40, 40, 40, 10, 10])
    assert machine.slowest_gbytes == 10


def test_as_json_can_hold_it() -> None:
    said = Machine(2, {"float32": 100.0}, {MIB: 80.0}, Noise(waited=0.5, spread=1.0)).to_dict()
    assert said == {
        "threads": 2,
        "gflops": {"float32": 100.0},
        "gbytes": {"1048576": 80.0},
        "noise": {"waited": 0.5, "spread": 1.0, "too_much": True},
    }


def ticking(step: float) -> Callable[[], float]:
    """A clock that is `step` later at each reading."""
    now = [0.0]

    def clock() -> float:
        now[0] += step
        return now[0]

    return clock
