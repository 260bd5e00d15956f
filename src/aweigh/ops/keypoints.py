"""Keypoints of a region as maps: the cell that a point lies in, and the point that a map says.

A map is `[S, S]` logits over its region (He et al. 2017, Mask R-CNN, section 5).

Legend: R regions, K keypoints, S cells of a map's side, n pixels of a side that are tried, T the best of them, W pixels
of a window's side.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from aweigh.errors import UsageError

NOWHERE = -1  # the cell of a point that teaches nothing
BICUBIC = -0.75  # torch's and torchvision's: the slope of the cubic convolution one cell away (Keys 1981, equation 4)
TRIED = 4  # pixels tried first for each cell of an axis
BEST = 16  # of them, near which every pixel is looked at: ours; of 1,020 maps with many summits 4 missed 11, 16 none
REACH = 9  # pixels to each side of a window: each one in regions of up to 19 * 224 = 4,256 pixels


def cells_of_points(keypoints: Tensor, regions: Tensor, size: int) -> Tensor:
    """The cell of a map `[size, size]` over its region that each keypoint lies in: `[R, K]` int64, row by row.

    keypoints: `[R, K, 3]` (x, y, visibility). regions: `[R, 4]`. `NOWHERE` for a keypoint that is not labelled
    (visibility 0) or outside the region; on its right and lower edge it is in the last cell, as torchvision has it.
    """
    points, corner, end = keypoints[..., :2], regions[:, None, :2], regions[:, None, 2:]
    cell = ((points - corner) * (size / (end - corner))).floor().long()  # [R, K, 2]
    cell = torch.where(points == end, size - 1, cell)
    inside = ((cell >= 0) & (cell < size)).all(dim=-1) & (keypoints[..., 2] > 0)
    return torch.where(inside, cell[..., 1] * size + cell[..., 0], NOWHERE)


def highest_pixels(maps: Tensor, boxes: Tensor) -> Tensor:
    """Where each map is highest once it is resized bicubically to the whole pixels of its box, and how high.

    maps: `[R, K, S, S]` float32 logits. boxes: `[R, 4]`, a side below one pixel counting as one. Returns `[R, K, 3]`:
    x and y of that pixel's centre in the frame of the boxes, and its logit.

    No map is resized, since its value at a pixel is a product of three matrices. Of each axis 4 S pixels are tried,
    then every pixel near one of the 16 best. Work, memory and shapes are the same for boxes of any size.
    """
    size = maps.shape[-1]
    count = TRIED * size
    side = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)[..., None]  # [R, 2, 1] width, height
    pixels = side.ceil()
    step = (pixels / count).clamp(min=1)
    tried = ((torch.arange(count, device=maps.device) + 0.5) * step).floor()  # [R, 2, n]
    there_x, there_y = (tried < pixels).unbind(dim=1)  # a small box has fewer
    there = there_y[:, :, None] & there_x[:, None, :]
    tried = tried.minimum(pixels - 1)
    columns, rows = _shares(_places(tried, pixels, size), torch.arange(size + 4, device=maps.device)).unbind(dim=1)

    reach = (step.ceil() / 2).floor()  # half the way to the next one tried
    stride = (reach / REACH).ceil()
    offsets = torch.arange(-REACH, REACH + 1, device=maps.device) * stride
    offsets = offsets.maximum(-reach).minimum(reach)[:, :, None]  # [R, 2, 1, W]
    numbers = torch.arange(maps.shape[0], device=maps.device)[:, None, None, None]
    padded = F.pad(maps, (2, 2, 2, 2), mode="replicate")  # the cells beyond the edge are as those at the edge
    found = []
    for heights in padded.unbind(dim=1):  # one keypoint at a time, which bounds the memory
        coarse = torch.einsum("ryi,rij,rxj->ryx", rows, heights, columns)
        best = torch.where(there, coarse, -torch.inf).flatten(1).topk(BEST).indices  # [R, T]
        middle = torch.stack([tried[:, 0].gather(1, best % count), tried[:, 1].gather(1, best // count)], dim=1)
        window = (middle[..., None] + offsets).clamp(min=0).minimum(pixels[..., None] - 1)  # [R, 2, T, W]
        places = _places(window, pixels[..., None], size)
        # A window is a cell wide at most, so that five cells of an axis have a share in it.
        cells = (places[..., :1].floor() - 1).clamp(max=size - 1) + torch.arange(5, device=maps.device)  # [R, 2, T, 5]
        shares_x, shares_y = _shares(places, cells).unbind(dim=1)  # [R, T, W, 5]
        cells_x, cells_y = cells.long().unbind(dim=1)
        patches = heights[numbers, cells_y[..., :, None], cells_x[..., None, :]]  # [R, T, 5, 5]
        fine = torch.einsum("rtyi,rtij,rtxj->rtyx", shares_y, patches, shares_x).flatten(1)  # [R, T * W * W]
        height, at = fine.max(dim=1, keepdim=True)
        width = offsets.shape[-1]
        x = window[:, 0].flatten(1).gather(1, at // width**2 * width + at % width)
        y = window[:, 1].flatten(1).gather(1, at // width)
        found.append(torch.cat([x, y, height], dim=1))
    highest = torch.stack(found, dim=1)  # [R, K, 3]
    points = (highest[..., :2] + 0.5) * (side / pixels).mT + boxes[:, None, :2]
    return torch.cat([points, highest[..., 2:]], dim=2)


def _places(pixels: Tensor, count: Tensor, size: int) -> Tensor:
    """Where the centres of `pixels` of `count` lie in a map of `size` cells with two more on each side, in cells."""
    return size / count * (pixels + 0.5) + 1.5


def _shares(places: Tensor, cells: Tensor) -> Tensor:
    """What each of `cells` `[..., m]` gives to the value at each of `places` `[..., n]`: `[..., n, m]`, cubically."""
    away = (places[..., :, None] - cells[..., None, :]).abs()
    near = ((BICUBIC + 2) * away - (BICUBIC + 3)) * away * away + 1
    far = ((BICUBIC * away - 5 * BICUBIC) * away + 8 * BICUBIC) * away - 4 * BICUBIC
    return torch.where(away < 1, near, torch.where(away < 2, far, 0))


def checked_keypoints(keypoints: Tensor | None, number: int, *, image: int, what: str) -> Tensor:
    """The keypoints `[N, K, 3]` of the objects of an image; `UsageError` where they are not there, or not `number`.

    image, what: which it is, and who asks, for the message.
    """
    if keypoints is None or keypoints.shape[1:] != (number, 3):
        got = "none" if keypoints is None else f"[N, {keypoints.shape[1]}, {keypoints.shape[2]}]"
        raise UsageError(
            f"{what}: the objects of image {image} need keypoints [N, {number}, 3], got {got}; "
            "give data with keypoints, and build the model with the `keypoints` they have."
        )
    return keypoints
