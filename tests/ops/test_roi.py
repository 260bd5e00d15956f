"""Features of regions against torchvision's pooler over several levels."""

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align

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
    # Sums of rows, where there are as many samples in each cell, add up in another order.
    torch.testing.assert_close(got, expected, atol=1e-6 if samples else 0, rtol=0)


@pytest.mark.parametrize("aligned", [False, True])
def test_values_and_gradients_on_one_level_equal_torchvisions_operator(aligned: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(2, 3, 40, 50, generator=generator, dtype=torch.float64)
    corner = torch.rand(60, 2, generator=generator) * 460 - 60  # some lie outside the picture, some are inverted
    regions = torch.cat([corner, corner + torch.rand(60, 2, generator=generator) * 200 - 10], dim=1)
    regions = torch.cat([torch.arange(60)[:, None] % 2, regions], dim=1).double()
    weights = torch.randn(60, 3, 5, 5, generator=generator, dtype=torch.float64)
    ours, theirs = feature.clone().requires_grad_(), feature.clone().requires_grad_()
    got = pool_regions([ours], regions, size=5, strides=[8], samples=3, aligned=aligned)
    expected = roi_align(theirs, regions, 5, spatial_scale=1 / 8, sampling_ratio=3, aligned=aligned)
    torch.testing.assert_close(got, expected)
    for result in (got, expected):
        (result * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


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
