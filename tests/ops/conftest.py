"""Boxes to test with."""

from collections.abc import Callable

import pytest
import torch


@pytest.fixture(name="random_boxes")
def random_boxes_function() -> Callable[..., torch.Tensor]:
    """A function `(count, seed=0, scale=100.0)` that draws boxes `[count, 4]` of positive size."""
    return random_boxes


def random_boxes(count: int, seed: int = 0, scale: float = 100.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * scale
    size = 0.5 + torch.rand(count, 2, generator=generator) * scale / 2
    return torch.cat([corner, corner + size], dim=1)
