"""What is drawn at random: from the generator of one sample, so that it depends on (seed, epoch, index) alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator


def sample_generator(seed: int, epoch: int, index: int, turn: int = 0) -> Generator:
    """The random numbers of one sample in one epoch; turn: how often it was drawn before in this epoch."""
    return torch.Generator().manual_seed(mixed_seed(seed, epoch, index, *([turn] if turn else [])))


def mixed_seed(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def uniform(generator: Generator, lo: float = 0.0, hi: float = 1.0) -> float:
    return lo + (hi - lo) * float(torch.rand((), generator=generator, dtype=torch.float64))


def random_window(
    size_hw: tuple[int, int], window_hw: tuple[int, int], generator: Generator
) -> tuple[int, int, int, int]:
    height, width = min(size_hw[0], window_hw[0]), min(size_hw[1], window_hw[1])
    y0 = int(torch.randint(size_hw[0] - height + 1, (), generator=generator))
    x0 = int(torch.randint(size_hw[1] - width + 1, (), generator=generator))
    return x0, y0, x0 + width, y0 + height
