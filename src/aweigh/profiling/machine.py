"""What the machine can do at most: arithmetic in a large matrix product, and moving values in a plain copy.

The two are the roof of "Roofline" (Williams et al., 2009): no operator is faster than its arithmetic at the one rate
and its values at the other. A copy is measured at several sizes, since what stays in the caches of a processor moves
several times as fast as what does not.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from aweigh.speed import FixedComputation, Noise

Format = Literal["float32", "bf16"]
DTYPES: dict[Format, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16}
SIDES = (768, 1024, 1536, 2048)  # of square matrices; the fastest counts
COPIES = tuple(2**power for power in (17, 19, 21, 23, 25, 27))  # bytes of the array that is copied: 128 KiB to 128 MiB
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
        """The time that this much arithmetic and this many values take at least: the roof.

        Values that fit a smaller copy move at the rate of the smallest one that they fit.
        """
        moved = values * DTYPES[format].itemsize
        rate = next((rate for size, rate in sorted(self.gbytes.items()) if moved <= size), self.slowest_gbytes)
        return max(2 * multiply_adds / (self.gflops[format] * 1e9), moved / (rate * 1e9))

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


def measure_machine(threads: int = 0, *, formats: Sequence[Format] = ("float32",), repeats: int = REPEATS) -> Machine:
    """Measure the processor. threads: of torch; as many as it takes by itself when 0. They are as before afterwards."""
    before, fixed = torch.get_num_threads(), FixedComputation()
    torch.set_num_threads(threads or before)
    try:
        gflops = {format: max(_product(side, DTYPES[format], repeats, fixed) for side in SIDES) for format in formats}
        gbytes = {2 * size: _copy(size, repeats, fixed) for size in COPIES}
    finally:
        torch.set_num_threads(before)
    return Machine(threads or before, gflops, gbytes, fixed.noise())


def _product(side: int, dtype: torch.dtype, repeats: int, fixed: FixedComputation) -> float:
    first, second = (torch.randn(side, side).to(dtype) for _ in range(2))
    result = torch.empty(side, side, dtype=dtype)
    return 2e-9 * side**3 / _fastest(lambda: torch.mm(first, second, out=result), repeats, fixed)


def _copy(size: int, repeats: int, fixed: FixedComputation) -> float:
    """Small arrays are copied many times, so that the call itself does not count."""
    source, times = torch.ones(size // 4), max(1, 2**24 // size)
    target = torch.empty_like(source)

    def copy() -> None:
        for _ in range(times):
            target.copy_(source)

    return 2e-9 * size * times / _fastest(copy, repeats, fixed)


def _fastest(work: Callable[[], object], repeats: int, fixed: FixedComputation) -> float:
    """Seconds of the fastest of some runs: a peak is what is reached at all."""
    work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
        fixed.compute()
    return min(taken)
