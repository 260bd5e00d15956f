"""RoIWarp, and RoIAlign with the largest of its points, against loops over single points; values and gradients."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align, roi_pool

from aweigh.ops.roi import Pool, numbered, region_pooling

STRIDE, SIZE = 8, 3
HEIGHT, WIDTH = 11, 14  # of the map
EDGES = [  # of boxes in an image of 112 x 88 pixels
    [0.0, 0, 112, 88],  # all of it
    [-50, -40, 60, 50],  # beyond the upper left corner
    [90, 70, 200, 190],  # beyond the lower right one
    [150, 20, 190, 60],  # outside
    [30, 100, 60, 140],  # below
    [40, 30, 40, 70],  # without width
    [41, 31, 43, 32],  # within a pixel of the map
    [70, 60, 30, 20],  # turned round
    [4, 4, 108, 12],  # long and flat
    [12, 20, 36, 44],  # halves of a pixel
]


def regions() -> Tensor:
    """`[R, 5]` of two images."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(6, 2, generator=generator) * torch.tensor([90.0, 70])
    usual = torch.cat([corner, corner + 2 + 40 * torch.rand(6, 2, generator=generator)], dim=1)
    return numbered([torch.tensor(EDGES), usual]).double()


def feature() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)


def of_warp(low: float, high: float, cell: int, pixels: int) -> Iterator[float]:
    """Where the points of a cell lie along one axis: of the region rounded to pixels, from edge to edge of the cell."""
    low, high = (math.copysign(math.floor(abs(side) / STRIDE + 0.5), side) for side in (low, high))
    width = max(high - low, 0) / SIZE
    steps = max(math.ceil(width), 1)
    for step in range(steps + 1):
        at = low + (cell + step / steps) * width
        if -0.5 <= at <= pixels - 0.5:
            yield at


def of_align(low: float, high: float, cell: int, pixels: int, samples: int, aligned: bool) -> Iterator[float]:
    low, high = (side / STRIDE - (0.5 if aligned else 0) for side in (low, high))
    width = (high - low if aligned else max(high - low, 1)) / SIZE
    number = samples or math.ceil(width)
    for sample in range(number):
        at = low + (cell + (sample + 0.5) / number) * width
        if -1 <= at <= pixels:
            yield at


def slowly(maps: Tensor, where, largest: bool) -> Tensor:
    """Point by point. where: sides of a region, the number of its cell and the pixels of the map to places."""
    result = []
    for image, x0, y0, x1, y1 in regions().tolist():
        for i in range(SIZE):
            for j in range(SIZE):
                values = [
                    bilinear(maps[int(image)], y, x) for y in where(y0, y1, i, HEIGHT) for x in where(x0, x1, j, WIDTH)
                ]
                if not values:
                    result.append(torch.zeros(4, dtype=maps.dtype))
                else:
                    together = torch.stack(values)
                    result.append(together.amax(dim=0) if largest else together.mean(dim=0))
    return torch.stack(result).view(-1, SIZE, SIZE, 4).permute(0, 3, 1, 2)


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    """`[C]` of `[C, H, W]`; the map goes on beyond its edge."""
    y, x = min(max(y, 0), HEIGHT - 1), min(max(x, 0), WIDTH - 1)
    up, left = math.floor(y), math.floor(x)
    down, right = min(up + 1, HEIGHT - 1), min(left + 1, WIDTH - 1)
    above = image[:, up, left] * (left + 1 - x) + image[:, up, right] * (x - left)
    below = image[:, down, left] * (left + 1 - x) + image[:, down, right] * (x - left)
    return above * (up + 1 - y) + below * (y - up)


@pytest.mark.parametrize("pool", ["warp", "warp_max"])
def test_warp_and_its_gradient_are_those_of_a_loop(pool: Pool) -> None:
    assert_same(pool, lambda *sides: of_warp(*sides))


@pytest.mark.parametrize(("samples", "aligned"), [(2, True), (3, False), (0, True), (0, False)])
def test_the_largest_point_and_its_gradient_are_those_of_a_loop(samples: int, aligned: bool) -> None:
    assert_same("align_max", lambda *sides: of_align(*sides, samples, aligned), samples=samples, aligned=aligned)


def assert_same(pool: Pool, where, **options) -> None:
    ours, theirs = feature().requires_grad_(), feature().requires_grad_()
    got = region_pooling(pool, [STRIDE], **options)([ours], regions(), size=SIZE)
    expected = slowly(theirs, where, largest=pool.endswith("_max"))
    torch.testing.assert_close(got, expected)
    assert expected[3].abs().sum() == 0 and (expected[1] == 0).any() and expected.std() > 0.3
    weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for each in (got, expected):
        (each * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("pool", ["align", "align_max", "warp", "warp_max", "pool"])
def test_each_region_is_read_from_its_level(pool: Pool) -> None:
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(2, 3, 64 // 2**level, 80 // 2**level, generator=generator) for level in range(3)]
    boxes = torch.tensor([[3.0, 5, 40, 31], [20, 10, 170, 140], [0, 0, 319, 250], [8, 8, 30, 30]])
    given = numbered([boxes, boxes[:2]])
    strides, of_each = [4, 8, 16], [0, 1, 2, 0, 0, 1]  # 224 px and more: the third
    got = region_pooling(pool, strides)(levels, given, size=5)
    for row, level in enumerate(of_each):
        alone = region_pooling(pool, strides[level : level + 1])([levels[level]], given[row : row + 1], size=5)
        torch.testing.assert_close(got[row : row + 1], alone)
    assert region_pooling(pool, strides)(levels, given[:0], size=5).shape == (0, 3, 5, 5)


def test_names_mean_what_they_say() -> None:
    """Torchvision's operators where it has them; each other name another function."""
    maps, given = feature().float(), regions().float()
    read = {pool: region_pooling(pool, [STRIDE])([maps], given, size=SIZE) for pool in ("align", "align_max", "pool")}
    torch.testing.assert_close(read["align"], roi_align(maps, given, SIZE, 1 / STRIDE, 2, True), rtol=0, atol=1e-5)
    torch.testing.assert_close(read["pool"], roi_pool(maps, given, SIZE, 1 / STRIDE))
    assert (read["align_max"] >= read["align"] - 1e-5)[10:].all()  # of regions inside the map
