"""Where the time of a module goes, operator by operator, beside the roof of the machine.

The module runs several times as it is, and several times with a clock around each operator, in turn; an operator's time
is the median of its own. Together they account for nearly the whole: what is left is Python's time between them.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from aweigh.errors import UsageError
from aweigh.profiling.cost import NOWHERE, Cost, count_run
from aweigh.profiling.machine import DTYPES, Format, Machine, clock_of
from aweigh.profiling.operators import Operator, record
from aweigh.speed import FixedComputation, Noise, percentiles

REPEATS = 11


@dataclass(frozen=True)
class Share:
    """All operators of a kind, or of a stage. seconds: of one run. of_whole: of the time of all operators. gflops: 1e9
    floating point operations a second (a multiply-add is two). at_roof: seconds that the machine would need at least;
    None where it was not measured."""

    name: str
    calls: int
    seconds: float
    of_whole: float
    gflops: float
    at_roof: float | None


@dataclass(frozen=True)
class Profile:
    """What one module costs, and how long it takes.

    cost: counted, for these inputs. operators: all calls, with seconds. runs: seconds of the whole module, `[N]`.
    """

    cost: Cost
    operators: tuple[Operator, ...]
    runs: np.ndarray
    noise: Noise
    machine: Machine | None = None
    format: Format = "float32"

    @property
    def accounted(self) -> float:
        """The time of all operators as a share of the time of the whole."""
        return self._seconds(self.operators) / float(np.median(self.runs))

    def by_kind(self) -> tuple[Share, ...]:
        """The paper's figure 2: convolutions, element-wise work, data movement ..., the longest first."""
        return self._shares(lambda operator: operator.kind)

    def by_part(self) -> tuple[Share, ...]:
        """By the module's children, in the order in which they run."""
        return self._shares(lambda operator: operator.module.split(".")[0] or NOWHERE, longest_first=False)

    def by_stage(self) -> tuple[Share, ...]:
        """By the parts of the parts (see `Cost.stages`), in the order in which they run."""
        return self._shares(lambda operator: self.cost.stage_of(operator.module) or NOWHERE, longest_first=False)

    def at_roof(self, operators: Sequence[Operator]) -> float | None:
        """Seconds that these take at least on the measured machine."""
        if self.machine is None:
            return None
        return sum(
            self.machine.seconds(each.multiply_adds, each.memory_access, format=self.format) for each in operators
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "ms": {name: value * 1000 for name, value in percentiles(self.runs).items()},
            "accounted": self.accounted,
            "kinds": [vars(share) for share in self.by_kind()],
            "parts": [vars(share) for share in self.by_part()],
            "stages": [vars(share) for share in self.by_stage()],
            "noise": {"waited": self.noise.waited, "spread": self.noise.spread, "too_much": self.noise.too_much},
            "cost": self.cost.to_dict(),
            **({} if self.machine is None else {"machine": self.machine.to_dict()}),
        }

    def _shares(self, group: Callable[[Operator], str], *, longest_first: bool = True) -> tuple[Share, ...]:
        grouped: dict[str, list[Operator]] = {}
        for operator in self.operators:
            grouped.setdefault(group(operator), []).append(operator)
        whole = self._seconds(self.operators)
        shares = [self._share(name, calls, whole) for name, calls in grouped.items()]
        return tuple(sorted(shares, key=lambda share: -share.seconds) if longest_first else shares)

    def _share(self, name: str, calls: Sequence[Operator], whole: float) -> Share:
        seconds = self._seconds(calls)
        arithmetic = 2e-9 * sum(each.multiply_adds for each in calls)
        return Share(name, len(calls), seconds, seconds / whole, arithmetic / seconds, self.at_roof(calls))

    @staticmethod
    def _seconds(operators: Sequence[Operator]) -> float:
        return sum(each.seconds or 0.0 for each in operators)


def profile(
    module: nn.Module,
    inputs: Tensor | tuple[Any, ...],
    *,
    run: Callable[..., object] = nn.Module.__call__,
    repeats: int = REPEATS,
    machine: Machine | None = None,
    clock: Callable[[], float] | None = None,
) -> Profile:
    """Count and time a module on a CPU, without gradients and in evaluation mode; it is left as it was.

    inputs: what it is called with. run: how, for one that is not simply called: `run(module, *inputs)`. machine: from
    `measure_machine`, for the distance from the roof. clock: seconds; when not given, the processor's time where torch
    computes with one thread, so that what else the machine does does not count, and else the time that passes.
    """
    clock = clock or clock_of(torch.get_num_threads())
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    training = module.training
    module.eval()
    try:
        runs, timed, noise = _timed(module, lambda: run(module, *given), repeats, clock)
        cost = count_run(module, timed[0])
    finally:
        module.train(training)
    operators = tuple(
        replace(calls[0], seconds=statistics.median(call.seconds or 0.0 for call in calls))
        for calls in zip(*timed, strict=True)
    )
    return Profile(cost, operators, runs, noise, machine)


def _timed(
    module: nn.Module, call: Callable[[], object], repeats: int, clock: Callable[[], float]
) -> tuple[np.ndarray, list[list[Operator]], Noise]:
    """The whole and its operators, in turn, after once that is not counted."""
    runs, timed, fixed = [], [], FixedComputation()
    with torch.no_grad():
        call()
        record(module, call, clock=clock)
        for _ in range(repeats):
            start = clock()
            call()
            runs.append(clock() - start)
            timed.append(record(module, call, clock=clock))
            fixed.compute()
    return np.array(runs), timed, fixed.noise()


# --- beside the roof of the machine -----------------------------------------------------------------------------------

_OF_ONE_CALL = ("module", "sources", "seconds")  # fields of an operator in which its calls differ


@dataclass(frozen=True)
class Reached:
    """What operators of equal shapes reached, all their calls together.

    operator: the first of them. modules: that call them. bytes: that one call reads and writes. seconds: they took.
    at_roof: seconds that the machine needs at least. limit: what the roof is made of.
    """

    operator: Operator
    modules: tuple[str, ...]
    bytes: int
    seconds: float
    at_roof: float
    limit: Literal["arithmetic", "memory"]

    @property
    def lost(self) -> float:
        """Seconds above the roof."""
        return self.seconds - self.at_roof

    @property
    def gflops(self) -> float:
        """1e9 floating point operations a second, a multiply-add being two."""
        return 2e-9 * len(self.modules) * self.operator.multiply_adds / self.seconds

    @property
    def gbytes(self) -> float:
        """1e9 bytes a second, read and written."""
        return 1e-9 * len(self.modules) * self.bytes / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        operator = {name: value for name, value in asdict(self.operator).items() if name not in _OF_ONE_CALL}
        taken = {"seconds": self.seconds, "at_roof": self.at_roof, "limit": self.limit, "lost": self.lost}
        return {**operator, "modules": list(self.modules), **taken, "gflops": self.gflops, "gbytes": self.gbytes}


def reached(profile: Profile) -> tuple[Reached, ...]:
    """Operators beside the roof, those that lose most time first. `UsageError` where the machine was not measured."""
    if profile.machine is None:
        raise UsageError("The roof is not known: give `profile` a machine, from `measure_machine`.")
    equal: dict[Operator, list[Operator]] = {}
    for each in profile.operators:
        equal.setdefault(replace(each, module="", sources=(), seconds=None), []).append(each)
    found = [_reached(calls, profile.machine, profile.format) for calls in equal.values()]
    return tuple(sorted(found, key=lambda each: -each.lost))


def points(profile: Profile) -> dict[str, np.ndarray]:
    """Where operators with arithmetic lie under the roof, by kind, `[N, 3]`: floating point operations for each byte,
    GFLOP/s, seconds."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for each in profile.operators:
        if each.multiply_adds and each.seconds:
            operations = 2 * each.multiply_adds
            intensity = operations / (each.memory_access * DTYPES[profile.format].itemsize)
            found.setdefault(each.kind, []).append((intensity, 1e-9 * operations / each.seconds, each.seconds))
    return {kind: np.array(own) for kind, own in found.items()}


def _reached(calls: Sequence[Operator], machine: Machine, format: Format) -> Reached:
    first = calls[0]
    arithmetic = machine.arithmetic_seconds(first.multiply_adds, format)
    memory = machine.memory_seconds(first.memory_access, format)
    return Reached(
        first,
        tuple(each.module for each in calls),
        first.memory_access * DTYPES[format].itemsize,
        sum(each.seconds or 0.0 for each in calls),
        len(calls) * max(arithmetic, memory),
        "arithmetic" if arithmetic > memory else "memory",
    )
