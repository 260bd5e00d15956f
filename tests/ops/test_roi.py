"""Features of regions against torchvision's pooler over several levels; position-sensitive ones also against a loop."""

import math

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, ps_roi_align, roi_align

from aweigh.ops.roi import max_pool_regions, numbered, pool_position_sensitive, pool_regions, pyramid_level

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
    corner = torch.rand(60, 2, generator=generator) * 460 - 60  # some lie outside the image, some are inverted
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


def position_sensitive() -> tuple[torch.Tensor, torch.Tensor]:
    """Maps `[2, 5 * 3 * 3, 13, 17]` at stride 16, and regions, of which some reach far out of them."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(60, 2, generator=generator) * torch.tensor([320.0, 256]) - 40
    sides = 2 ** (torch.rand(60, 2, generator=generator) * 9)
    image = torch.randint(0, 2, (60, 1), generator=generator).float()
    degenerate = torch.tensor([[0.0, 50, 60, 50, 60], [1, 30, 20, 10, 5], [0, 0, 0, 272, 208]])
    return torch.randn(2, 45, 13, 17, generator=generator), torch.cat(
        [torch.cat([image, corner, corner + sides], dim=1), degenerate]
    )


def slowly(feature: torch.Tensor, regions: torch.Tensor, stride: int, size: int, samples: int, pooling) -> torch.Tensor:
    """Position-sensitive RoIAlign, one number after the other."""
    _, maps, height, width = feature.shape
    result = torch.zeros(len(regions), maps // size**2, size, size)
    for number, (image, *box) in enumerate(regions.tolist()):
        x0, y0, x1, y1 = (side / stride - 0.5 for side in box)
        for channel in range(maps // size**2):
            for i in range(size):
                for j in range(size):
                    plane = feature[int(image), channel * size**2 + i * size + j]
                    values = []
                    for k in range(samples):
                        for m in range(samples):
                            y = y0 + (y1 - y0) / size * (i + (k + 0.5) / samples)
                            x = x0 + (x1 - x0) / size * (j + (m + 0.5) / samples)
                            if y < -1 or y > height or x < -1 or x > width:
                                values.append(0.0)
                                continue
                            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                            up, left = math.floor(y), math.floor(x)
                            down, right = min(up + 1, height - 1), min(left + 1, width - 1)
                            top = plane[up, left] * (left + 1 - x) + plane[up, right] * (x - left)
                            bottom = plane[down, left] * (left + 1 - x) + plane[down, right] * (x - left)
                            values.append(float(top * (up + 1 - y) + bottom * (y - up)))
                    result[number, channel, i, j] = max(values) if pooling == "max" else sum(values) / len(values)
    return result


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("samples", [1, 2])
def test_position_sensitive_is_what_a_loop_says(pooling, samples) -> None:
    feature, regions = position_sensitive()
    got = pool_position_sensitive([feature], regions[-16:], stride=16, size=3, samples=samples, pooling=pooling)
    expected = slowly(feature, regions[-16:], 16, 3, samples, pooling)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert pool_position_sensitive([feature], regions[:0], stride=16, size=3).shape == (0, 5, 3, 3)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_the_mean_and_its_gradient_are_torchvisions(samples) -> None:
    feature, regions = position_sensitive()
    weight = torch.randn(len(regions), 5, 3, 3, generator=torch.Generator().manual_seed(1))
    found = []
    for pool in (
        lambda maps: pool_position_sensitive([maps], regions, stride=16, size=3, samples=samples, pooling="mean"),
        lambda maps: ps_roi_align(maps, regions, 3, 1 / 16, samples),
    ):
        maps = feature.clone().requires_grad_()
        pooled = pool(maps)
        found.append((pooled.detach(), torch.autograd.grad((pooled * weight).sum(), maps)[0]))
    (ours, our_gradient), (theirs, their_gradient) = found
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=0, atol=1e-4)


def test_the_maximum_and_its_gradient_are_those_of_four_shifted_regions() -> None:
    """One sample in the middle of each cell of a region that lies a quarter of a cell aside is one of the four."""
    feature, regions = position_sensitive()
    quarter = (regions[:, 3:] - regions[:, 1:3]) / 3 / 4
    aside = [torch.tensor(signs) for signs in ((-1.0, -1), (1, -1), (-1, 1), (1, 1))]
    shifted = [regions + torch.cat([torch.zeros(len(regions), 1), *[quarter * signs] * 2], dim=1) for signs in aside]
    maps, theirs = feature.clone().requires_grad_(), feature.clone().requires_grad_()
    got = pool_position_sensitive([maps], regions, stride=16, size=3)
    expected = torch.stack([ps_roi_align(theirs, each, 3, 1 / 16, 1) for each in shifted]).amax(dim=0)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(1))
    gradients = [
        torch.autograd.grad((each * weight).sum(), leaf)[0] for each, leaf in ((got, maps), (expected, theirs))
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-4)


def test_position_sensitive_is_one_graph() -> None:
    class Pool(torch.nn.Module):
        def forward(self, feature: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
            return pool_position_sensitive([feature], regions, stride=16, size=3)

    feature, regions = position_sensitive()
    program = torch.export.export(Pool(), (feature, regions[:40])).module()
    assert torch.equal(program(feature, regions[20:60]), Pool()(feature, regions[20:60]))


def test_roipool_takes_the_largest_of_whole_cells() -> None:
    """Against loops: the region is rounded to cells, both ends included; parts overlap where they share a cell."""
    edges = [[-50.0, -40, 60, 50], [300, 230, 500, 400], [400, 20, 450, 60], [40, 30, 40, 70], [70, 60, 30, 20]]
    feature, regions = maps()[1], numbered([boxes(12, 0), torch.cat([boxes(9, 1), torch.tensor(edges)])])
    assert feature.shape[2:] == (32, 40)  # at stride 8; some regions lie beyond it, some are empty
    size = 5
    expected = torch.zeros(len(regions), 3, size, size)
    for number, (image, *box) in enumerate(regions.tolist()):
        x0, y0, x1, y1 = (int(math.copysign(math.floor(abs(side) / 8 + 0.5), side)) for side in box)
        height, width = max(y1 - y0 + 1, 1) / size, max(x1 - x0 + 1, 1) / size
        for row in range(size):
            for column in range(size):
                top, bottom = (y0 + math.floor(row * height), y0 + math.ceil((row + 1) * height))
                left, right = (x0 + math.floor(column * width), x0 + math.ceil((column + 1) * width))
                cells = feature[int(image), :, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
                if cells[0].numel():
                    expected[number, :, row, column] = cells.amax(dim=(1, 2))
    got = max_pool_regions([feature], regions, size=size, strides=[8])
    torch.testing.assert_close(got, expected, atol=0, rtol=0)


def test_roipool_is_exported_and_takes_no_region() -> None:
    class Pool(torch.nn.Module):
        def forward(self, feature: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
            return max_pool_regions([feature], regions, size=4, strides=[8])

    feature, regions = maps()[1], numbered([boxes(6, 0), boxes(2, 1)])
    program = torch.export.export(Pool(), (feature, regions), strict=False).module()
    torch.testing.assert_close(program(feature, regions), Pool()(feature, regions))
    assert Pool()(feature, regions[:0]).shape == (0, 3, 4, 4)
    feature.requires_grad_()
    inside = torch.minimum(regions, torch.tensor([1.0, 310, 240, 310, 240]))
    Pool()(feature, inside).sum().backward()
    assert feature.grad.sum() == 8 * 3 * 16  # each of the 16 parts of a region has one largest cell
