"""Features of regions against torchvision's pooler over several levels."""

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from aweigh.ops.roi import numbered, pool_regions, pyramid_level

STRIDES = (4, 8, 16, 32)


def maps() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 256 // stride, 320 // stride, generator=generator) for stride in STRIDES]


def boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([320, 256]) * 0.9
    return torch.cat([corner, corner + 2 ** (torch.rand(count, 2, generator=generator) * 9)], dim=1)


@pytest.mark.parametrize("counts", [(40, 25), (0, 3), (0, 0)])
@pytest.mark.parametrize(("size", "samples"), [(7, 2), (14, 0)])
def test_equals_torchvision(counts: tuple[int, int], size: int, samples: int) -> None:
    features, regions = maps(), [boxes(count, seed) for seed, count in enumerate(counts)]
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], size, samples)
    expected = pooler({str(level): each for level, each in enumerate(features)}, regions, [(256, 320)] * 2)
    got = pool_regions(features, numbered(regions), size=size, strides=STRIDES, samples=samples)
    assert got.shape == (sum(counts), 3, size, size)
    assert torch.equal(got, expected)


def test_the_level_of_a_size() -> None:
    sides = torch.tensor([1.0, 111.9, 112, 223.9, 224, 447, 448, 5000])
    regions = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    assert pyramid_level(regions, 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert pyramid_level(torch.zeros(1, 4), 4).tolist() == [0]  # padding


def test_a_gradient_reaches_each_level_that_is_read() -> None:
    features = [each.requires_grad_() for each in maps()]
    regions = torch.tensor([[0.0, 0, 0, 30, 30], [1, 0, 0, 300, 250]])
    pool_regions(features, regions, size=3, strides=STRIDES).sum().backward()
    assert [float(each.grad.abs().sum()) > 0 for each in features] == [True, False, True, False]
