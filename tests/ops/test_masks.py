"""What regions show of masks: torchvision's crops where they are not aligned, whole pixels where they are."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from aweigh.ops.masks import crop


def some_masks(count: int, side: int) -> Tensor:
    """Smooth shapes, `[count, side, side]` bool."""
    noise = torch.randn(count, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, size=(side, side), mode="bicubic")[:, 0] > 0


def some_regions(count: int) -> Tensor:
    """Boxes of all sizes, some of which leave an image of 87 x 61 by up to ten pixels: `[count, 4]`."""
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([86.0, 60.0])
    sides = (torch.tensor([87.0, 61.0]) - corners) * torch.rand(count, 2, generator=generator) ** 2 + 0.05
    shift = 10 * (2 * torch.rand(count, 2, generator=generator) - 1)
    return torch.cat([corners + shift, corners + sides + shift], dim=1)


@pytest.mark.parametrize("size", [7, 28])
def test_crops_are_torchvisions_where_they_are_not_aligned(size: int) -> None:
    masks, boxes = some_masks(9, side=61), some_regions(40)
    index = torch.randint(9, (40,), generator=torch.Generator().manual_seed(0))
    theirs = project_masks_on_boxes(masks, boxes, index, size)
    assert 0.2 < theirs.mean() < 0.8
    for budget in (2**28, 3 * 4 * 61 * 61, 1):  # all at once, three at a time, one by one
        assert torch.equal(crop(masks, index, boxes, size, aligned=False, byte_budget=budget), theirs)


def test_an_aligned_crop_of_whole_pixels_is_the_picture() -> None:
    masks = some_masks(2, side=40)
    boxes = torch.tensor([[4.0, 6, 18, 20], [20, 20, 34, 34]])
    cropped = crop(masks, torch.tensor([1, 0]), boxes, 14)
    assert torch.equal(cropped, torch.stack([masks[1, 6:20, 4:18], masks[0, 20:34, 20:34]]).float())
    assert crop(masks[:0], torch.tensor([], dtype=torch.int64), boxes[:0], 14).shape == (0, 14, 14)
