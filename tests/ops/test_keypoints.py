"""Cells of points and highest pixels of maps against torchvision's own functions and a slow look at every point."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, keypoints_to_heatmap

from aweigh.ops.keypoints import NOWHERE, cells_of_points, highest_pixels

SIZE = 56


def maps(regions: int, keypoints: int, *, smooth: int = 1, seed: int = 0) -> torch.Tensor:
    """As the head gives them: 28 x 28 values, brought to 56 x 56; the larger `smooth`, the broader the summits."""
    low = torch.randn(regions, keypoints, 28, 28, generator=torch.Generator().manual_seed(seed))
    low = F.avg_pool2d(F.pad(low, (smooth // 2,) * 4, mode="replicate"), smooth, stride=1) * smooth
    return F.interpolate(low, scale_factor=2, mode="bilinear")


def boxes(sides: torch.Tensor, seed: int = 0) -> torch.Tensor:
    corner = torch.rand(len(sides), 2, generator=torch.Generator().manual_seed(seed)) * 300
    return torch.cat([corner, corner + sides], dim=1)


def sides(kind: str, count: int) -> torch.Tensor:
    lowest, highest = {"below a pixel": (0.01, 2), "small": (2, 112), "usual": (112, 700), "thin": (0.5, 900)}[kind]
    share = torch.rand(count, 2, generator=torch.Generator().manual_seed(1))
    return lowest * (highest / lowest) ** share


@pytest.mark.parametrize("smooth", [1, 5])
@pytest.mark.parametrize("kind", ["below a pixel", "small", "usual", "thin"])
def test_the_highest_pixel_is_torchvisions(kind: str, smooth: int) -> None:
    given, regions = maps(30, 2, smooth=smooth), boxes(sides(kind, 30))
    places, scores = heatmaps_to_keypoints(given, regions)
    found = highest_pixels(given, regions)
    torch.testing.assert_close(found[..., 2], scores, atol=1e-4, rtol=0)
    assert found.shape == (30, 2, 3) and scores.std() > 0.1
    apart = (found[..., :2] - places[..., :2]).abs().amax(dim=-1)
    assert (apart < 0.01).float().mean() > 0.98  # where it is not, two pixels are equally high


@pytest.mark.parametrize("side", [(225.0, 449.0), (672.5, 673.0), (4256.0, 2990.4)])
def test_the_highest_pixel_is_torchvisions_where_not_all_are_tried_first(side: tuple[float, float]) -> None:
    given, region = maps(1, 2, smooth=3), boxes(torch.tensor([side]))
    places, scores = heatmaps_to_keypoints(given, region)
    found = highest_pixels(given, region)
    torch.testing.assert_close(found[..., :2], places[..., :2], atol=0.01, rtol=0)
    torch.testing.assert_close(found[..., 2], scores, atol=1e-4, rtol=0)


def test_a_summit_in_the_last_column_of_few_hides_no_higher_one() -> None:
    """Fewer columns than are tried: the last one must not stand for the others."""
    given = torch.zeros(1, 1, SIZE, SIZE)
    given[0, 0, 8:13, -1] = 0.99
    given[0, 0, 26, 28] = 1  # lower than that at the pixels tried first
    region = torch.tensor([[0.0, 0, SIZE, 900]])
    places, scores = heatmaps_to_keypoints(given, region)
    found = highest_pixels(given, region)
    torch.testing.assert_close(found[..., :2], places[..., :2], atol=0.01, rtol=0)
    assert float(scores) > 0.995 and found[0, 0, 2] == pytest.approx(float(scores), abs=1e-4)


def test_in_a_region_larger_than_photographs_every_third_pixel_is_looked_at() -> None:
    given, region = maps(1, 4, smooth=3), torch.tensor([[0.0, 0, 9000, 60]])
    places, scores = heatmaps_to_keypoints(given, region)
    found = highest_pixels(given, region)
    assert ((found - places)[..., :2].abs() <= torch.tensor([1.5, 0.01])).all()
    torch.testing.assert_close(found[..., 2], scores, atol=1e-3, rtol=0)


def test_memory_does_not_grow_with_the_size_of_a_region(memory_needed: Callable[[Callable[[], object]], int]) -> None:
    given = maps(30, 17)
    large = torch.tensor([[0.0, 0, 4000, 3000]]).expand(30, 4)
    highest_pixels(given[:2], large[:2])
    assert memory_needed(lambda: highest_pixels(given, large)) < 100e6  # one person's resized maps: 816 MB


def test_no_region_is_an_ordinary_case() -> None:
    assert highest_pixels(torch.zeros(0, 5, SIZE, SIZE), torch.zeros(0, 4)).shape == (0, 5, 3)
    assert cells_of_points(torch.zeros(0, 5, 3), torch.zeros(0, 4), SIZE).shape == (0, 5)


def test_cells_are_torchvisions_and_those_of_a_slow_look() -> None:
    regions = boxes(sides("usual", 60))
    generator = torch.Generator().manual_seed(3)
    share = torch.rand(60, 9, 2, generator=generator) * 1.2 - 0.1  # some outside
    points = regions[:, None, :2] + share * (regions[:, None, 2:] - regions[:, None, :2])
    points[:20, 0] = regions[:20, 2:]  # at the lower right corner
    points[:20, 1, 0] = regions[:20, 2]  # on the right edge
    points[:20, 2] = regions[:20, :2]  # at the upper left corner
    visible = torch.randint(0, 3, (60, 9, 1), generator=generator).float()
    keypoints = torch.cat([points, visible], dim=2)
    cells = cells_of_points(keypoints, regions, SIZE)
    theirs, valid = keypoints_to_heatmap(keypoints, regions, SIZE)
    assert torch.equal(cells, torch.where(valid > 0, theirs, NOWHERE))
    for region, row in zip(range(60), cells.tolist(), strict=True):
        x0, y0, x1, y1 = regions[region].double().tolist()
        for (x, y, seen), cell in zip(keypoints[region].double().tolist(), row, strict=True):
            if seen == 0 or not (x0 <= x <= x1 and y0 <= y <= y1):
                assert cell == NOWHERE
            else:
                right, down = cell % SIZE, cell // SIZE
                width, height = (x1 - x0) / SIZE, (y1 - y0) / SIZE
                assert x0 + right * width - 1e-3 <= x <= x0 + (right + 1) * width + 1e-3
                assert y0 + down * height - 1e-3 <= y <= y0 + (down + 1) * height + 1e-3
    assert 0.2 < float((cells == NOWHERE).float().mean()) < 0.8 and int((cells == SIZE**2 - 1).sum()) >= 1
