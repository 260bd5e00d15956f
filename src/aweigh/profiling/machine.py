"""What the machine can do at most: arithmetic in a large matrix product, and moving values in a plain copy.

The two are the roof of "Roofline" (Williams et al., 2009): an operator takes at least its arithmetic at the one rate,
and its values at the other. A copy is measured at several sizes, since what stays in the caches of a processor moves
several times as fast as what does not. What writes over its own input (`relu_`) touches half the memory of a copy, and
can be faster than this roof while that is in a cache.

A peak is the fastest of several runs. With one thread the clock is the processor time of that thread, which stands
still while the machine does other things; several threads wait for each other, and have the clock on the wall.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from aweigh.speed import FixedComputation, Noise

Format = Literal["float32", "bf16"]
DTYPES: dict[Format, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16}
SIDES = (512, 768, 1024, 1536, 2048)  # of square matrices; the fastest counts
COPIES = tuple(2**power for power in (17, 19, 21, 23, 25, 27))  # bytes of the array that is copied: 128 KiB to 128 MiB
AT_ONCE = 2**24  # bytes: smaller arrays are copied so often that the call itself does not count
REPEATS = 7


@dataclass(frozen=True)
class Machine:
    """What was measured with a number of threads.

    gflops: 1e9 floating point operations a second (a multiply-add is two), by number format. gbytes: 1e9 bytes a
    second, by the bytes that a copy works on; what is read and what is written, together.
    """

    threads: int
    gflops: Mapping[Format, float]
    gbytes: Mapping[int, float]
    noise: Noise

    def seconds(self, multiply_adds: int, values: int, *, format: Format = "float32") -> float:
        """The time that this much arithmetic and this many values take at least: the roof."""
        return max(self.arithmetic_seconds(multiply_adds, format), self.memory_seconds(values, format))

    def arithmetic_seconds(self, multiply_adds: int, format: Format = "float32") -> float:
        return 2 * multiply_adds / (self.gflops[format] * 1e9)

    def memory_seconds(self, values: int, format: Format = "float32") -> float:
        """Values move at the rate of the next smaller copy, or of any larger one that was faster, so that none that
        partly stay in a cache beat the roof."""
        moved = values * DTYPES[format].itemsize
        least = max((size for size in self.gbytes if size <= moved), default=min(self.gbytes))
        return moved / (max(rate for size, rate in self.gbytes.items() if size >= least) * 1e9)

    @property
    def slowest_gbytes(self) -> float:
        """Of the largest copy: the memory itself."""
        return self.gbytes[max(self.gbytes)]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "threads": self.threads,
            "gflops": dict(self.gflops),
            "gbytes": {str(size): rate for size, rate in self.gbytes.items()},
            "noise": {"waited": self.noise.waited, "spread": self.noise.spread, "too_much": self.noise.too_much},
        }


def measure_machine(
    threads: int = 0,
    *,
    formats: Sequence[Format] = ("float32",),
    sides: Sequence[int] = SIDES,
    copies: Sequence[int] = COPIES,
    repeats: int = REPEATS,
    clock: Callable[[], float] | None = None,
) -> Machine:
    """Measure the processor, all products and copies in turn.

    threads: of torch; as many as it takes by itself when 0. They are as before afterwards. sides: of the matrices.
    copies: bytes of the arrays. clock: seconds; see the top of this file.
    """
    before, fixed = torch.get_num_threads(), FixedComputation()
    used = threads or before
    torch.set_num_threads(used)
    try:
        products = {(form, side): _product(side, DTYPES[form]) for form in formats for side in sides}
        copied = {size: _copy(size) for size in copies}
        runs = [*products.values(), *copied.values()]
        fastest = _fastest(runs, repeats, clock or clock_of(used), fixed)
    finally:
        torch.set_num_threads(before)
    gflops = {form: max(2e-9 * side**3 / fastest[products[form, side]] for side in sides) for form in formats}
    gbytes = {2 * size: 2e-9 * size * _times(size) / fastest[copied[size]] for size in copies}
    return Machine(used, gflops, gbytes, fixed.noise())


def clock_of(threads: int) -> Callable[[], float]:
    """Seconds, for work that so many threads do: see the top of this file."""
    return time.thread_time if threads == 1 else time.perf_counter


def _product(side: int, dtype: torch.dtype) -> Callable[[], object]:
    first, second = (torch.randn(side, side).to(dtype) for _ in range(2))
    result = torch.empty(side, side, dtype=dtype)
    return lambda: torch.mm(first, second, out=result)


def _copy(size: int) -> Callable[[], object]:
    source, times = torch.ones(size // 4), _times(size)
    target = torch.empty_like(source)

    def copy() -> None:
        for _ in range(times):
            target.copy_(source)

    return copy


def _times(size: int) -> int:
    return max(1, AT_ONCE // size)


def _fastest(
    runs: Sequence[Callable[[], object]], repeats: int, clock: Callable[[], float], fixed: FixedComputation
) -> dict[Callable[[], object], float]:
    """Seconds of the fastest of several turns of each, after one that is not timed."""
    taken: dict[Callable[[], object], float] = {}
    for turn in range(repeats + 1):
        for run in runs:
            start = clock()
            run()
            if turn:
                taken[run] = min(taken.get(run, float("inf")), clock() - start)
        fixed.compute()
    return taken
