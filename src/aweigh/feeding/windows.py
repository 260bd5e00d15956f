"""Windows of an image: what is cut out of it or put into another, and what of its objects is left in sight.

Boxes stay true: they are moved, scaled and clipped with the pixels, and areas, ignore flags, ids, masks and keypoints
with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as kernels

from aweigh.feeding.randomness import random_window, uniform
from aweigh.images.reader import reduction
from aweigh.images.resize import _sampling
from aweigh.ops import cuboids as cuboid_ops
from aweigh.structures import IMAGENET_MEAN, Targets, swapped

CROP_TRIES = 10

CROP_SIDE = (0.5, 1.0)  # the sides of a random crop, as a share of the picture's

CROP_BORDER = 128  # pixels from the edge of a picture to the middle of an affine crop (the authors' code of CenterNet)


def resize_targets(targets: Targets, before_hw: tuple[float, float], after_hw: tuple[int, int]) -> Targets:
    """Boxes and keypoints times the exact ratio of the sides, areas times their product, masks to the new size."""
    ratio_y, ratio_x = after_hw[0] / before_hw[0], after_hw[1] / before_hw[1]
    if ratio_y == ratio_x == 1:
        return targets
    masks, keypoints, cuboids, proposals = targets.masks, targets.keypoints, targets.cuboids, targets.proposals
    ratio = targets.boxes.new_tensor([ratio_x, ratio_y, ratio_x, ratio_y])
    if masks is not None:
        masks = _resize_masks(masks, after_hw, before_hw)
    if keypoints is not None:
        keypoints = keypoints * keypoints.new_tensor([ratio_x, ratio_y, 1.0])
    if cuboids is not None:
        cuboids = cuboids * cuboids.new_tensor([ratio_x, ratio_y, 1, 1, 1, 1, 1])
    return replace(
        targets,
        boxes=targets.boxes * ratio,
        area=targets.area * (ratio_x * ratio_y),
        masks=masks,
        keypoints=keypoints,
        cuboids=cuboids,
        proposals=None if proposals is None else proposals * ratio,
    )


def _resize_masks(masks: Tensor, size_hw: tuple[int, int], span_hw: tuple[float, float]) -> Tensor:
    """`[N, H, W]` bool to `[N, h, w]` bool: each pixel is that of the source in which its centre lies."""
    if len(masks) == 0:
        return masks.new_zeros(0, *size_hw)
    how = _sampling((masks.shape[1], masks.shape[2]), size_hw, span_hw)
    return functional.interpolate(masks[:, None].to(torch.uint8), mode="nearest-exact", **how)[:, 0].bool()


def flip_horizontally(
    image: Tensor,
    targets: Targets,
    keypoint_pairs: Sequence[tuple[int, int]] = (),
    class_pairs: Sequence[tuple[int, int]] = (),
) -> tuple[Tensor, Targets]:
    """Mirror a picture `[3, H, W]`; keypoints and classes of a pair change places."""
    width = image.shape[2]
    labels, keypoints, known = targets.labels, targets.keypoints, targets.known
    if class_pairs:
        count = 1 + max([*labels.tolist(), *(index for pair in class_pairs for index in pair)])
        labels = swapped(count, class_pairs)[labels]
        known = None if known is None else known[swapped(len(known), class_pairs)]
    if keypoints is not None:
        seen = keypoints[:, :, 2:] > 0
        mirrored = torch.cat([width - keypoints[:, :, :1], keypoints[:, :, 1:]], dim=2)
        keypoints = torch.where(seen, mirrored, keypoints)  # a point that is not given stays at 0, 0
        keypoints = keypoints[:, swapped(keypoints.shape[1], keypoint_pairs)]
    flipped = replace(
        targets,
        boxes=_mirrored(targets.boxes, width),
        labels=labels,
        masks=None if targets.masks is None else kernels.horizontal_flip(targets.masks),
        keypoints=keypoints,
        cuboids=None if targets.cuboids is None else cuboid_ops.mirrored(targets.cuboids, width),
        known=known,
        proposals=None if targets.proposals is None else _mirrored(targets.proposals, width),
    )
    return kernels.horizontal_flip(image), flipped


def _mirrored(boxes: Tensor, width: int) -> Tensor:
    x0, y0, x1, y1 = boxes.unbind(1)
    return torch.stack([width - x1, y0, width - x0, y1], dim=1)


def random_crop(
    image: Tensor, targets: Targets, generator: Generator, *, min_visible: float = 0.25
) -> tuple[Tensor, Targets]:
    """A random window that leaves at least one object to learn from, when there was one; else the whole picture."""
    height, width = image.shape[1:]
    has_objects = bool(targets.learned.any())
    for _ in range(CROP_TRIES):
        sides = [max(1, round(side * uniform(generator, *CROP_SIDE))) for side in (height, width)]
        window = random_window((height, width), (sides[0], sides[1]), generator)
        cut_image, cut_targets = cut_window(image, targets, window, min_visible=min_visible)
        if not has_objects or bool(cut_targets.learned.any()):
            return cut_image, cut_targets
    return image, targets


def cut_window(
    image: Tensor, targets: Targets, window: tuple[int, int, int, int], *, min_visible: float = 0.25
) -> tuple[Tensor, Targets]:
    """The part `(x0, y0, x1, y1)`, whole pixels, of a picture `[3, H, W]`.

    Boxes are moved and clipped, to what is left of the mask where there is one; those with no pixel left are dropped,
    those with less than `min_visible` of their area left become regions to ignore, or stay uncertain. Areas shrink with
    the visible share; keypoints outside become "not given". Proposals are clipped, and dropped with less than a pixel.
    """
    x0, y0, x1, y1 = window
    moved = targets.boxes - targets.boxes.new_tensor([x0, y0, x0, y0])
    limits = moved.new_tensor([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
    boxes = torch.minimum(moved.clamp(min=0), limits)
    untouched = (boxes == moved).all(dim=1)
    visible = ((boxes[:, 2:] - boxes[:, :2]).clamp(min=0) / (moved[:, 2:] - moved[:, :2])).prod(dim=1)
    masks, keypoints = targets.masks, targets.keypoints
    if masks is not None:
        before, masks = pixel_counts(masks), masks[:, y0:y1, x0:x1]
        by_mask = (before > 0) & ~untouched
        visible = torch.where(by_mask, pixel_counts(masks) / before, visible)
        boxes = torch.where(by_mask[:, None], intersection(boxes, boxes_of_masks(masks)), boxes)
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = ((sides >= 1).all(dim=1) | untouched) & (sides > 0).all(dim=1)
    if keypoints is not None:
        shifted = keypoints - keypoints.new_tensor([x0, y0, 0])
        inside = ((shifted[:, :, :2] >= 0) & (shifted[:, :, :2] <= limits[:2])).all(dim=2, keepdim=True)
        keypoints = torch.where(inside & (keypoints[:, :, 2:] > 0), shifted, 0.0)
    cut = replace(
        targets,
        boxes=torch.where(keep[:, None], boxes, targets.boxes),  # valid until the rows are dropped below
        ignore=targets.ignore | ((visible < min_visible) & ~targets.uncertain),
        area=torch.where(untouched, targets.area, targets.area * visible),
        masks=masks,
        keypoints=keypoints,
        cuboids=None if targets.cuboids is None else moved_cuboids(targets.cuboids, (-x0, -y0)),
        proposals=None if targets.proposals is None else _within(targets.proposals, window),
    )
    return image[:, y0:y1, x0:x1], cut[keep]


def moved_cuboids(cuboids: Tensor, shift: tuple[int, int]) -> Tensor:
    """Cuboids `[N, 7]` in a picture whose origin lies elsewhere."""
    return cuboids + cuboids.new_tensor([*shift, 0, 0, 0, 0, 0])


def without_depth(targets: Targets) -> Targets:
    """The targets in a picture that was scaled: of cuboids the depth and the sides are not known any more."""
    if targets.cuboids is None:
        return targets
    kept = targets.cuboids.new_tensor([True, True, False, False, False, False, True]).bool()
    return replace(targets, cuboids=targets.cuboids.where(kept, torch.nan))


def affine_crop(
    image: Tensor,
    targets: Targets,
    shares: Sequence[float],
    generator: Generator,
    *,
    full_hw: tuple[int, int] | None = None,
    min_visible: float = 0.25,
) -> tuple[Tensor, Targets]:
    """A square round a random point of a picture `[3, H, W]`, which is grey (ImageNet's mean) beyond the picture.

    The rule is that of the authors' code of "Objects as Points" (Zhou et al. 2019), of which the affine map that scales
    the square to the input is the one part, and resizing the other: its side is one of `shares` of the longer side; its
    middle is a pixel `CROP_BORDER` away from each edge or more, or half of that, a quarter and so on where a side is
    shorter than twice the border. Its corners are whole pixels here. Boxes, masks and keypoints as in `cut_window`.
    full_hw: the size of the whole picture, in which the border is measured, where it was decoded at a reduced one.
    """
    before_hw = (image.shape[1], image.shape[2])
    whole_hw = full_hw or before_hw
    factor = reduction(before_hw, whole_hw)
    share = shares[int(torch.randint(len(shares), (), generator=generator))]
    side = max(1, round(share * max(whole_hw) / factor))
    corner = []
    for length in whole_hw:
        border = crop_border(length)
        middle = int(torch.randint(border, length - border, (), generator=generator))
        corner.append(math.floor(middle / factor - side / 2 + 0.5))
    y0, x0 = corner
    return padded_window(image, targets, (x0, y0, x0 + side, y0 + side), min_visible=min_visible)


def crop_border(length: int) -> int:
    """How many pixels from the edge of a side of `length` pixels the middle of an affine crop is at least."""
    border = CROP_BORDER
    while border and 2 * border >= length:
        border //= 2
    return border


def padded_window(
    image: Tensor, targets: Targets, window: tuple[int, int, int, int], *, min_visible: float = 0.25
) -> tuple[Tensor, Targets]:
    """As `cut_window`, of a window that lies on the picture in part at least, and is grey elsewhere."""
    x0, y0, x1, y1 = window
    height, width = image.shape[1:]
    inside = (max(x0, 0), max(y0, 0), min(x1, width), min(y1, height))
    part, targets = cut_window(image, targets, inside, min_visible=min_visible)
    place, size_hw = (inside[0] - x0, inside[1] - y0), (y1 - y0, x1 - x0)
    canvas = blank(image, size_hw)
    canvas[:, place[1] : place[1] + part.shape[1], place[0] : place[0] + part.shape[2]] = part
    return canvas, move_targets(targets, place, size_hw)


def blank(like: Tensor, size_hw: tuple[int, int], fill: Sequence[float] = IMAGENET_MEAN) -> Tensor:
    """A picture `[3, h, w]` of one colour, RGB in `[0, 1]`, uint8 or float as `like`."""
    colour = torch.tensor(fill) if like.is_floating_point() else (torch.tensor(fill) * 255).round().byte()
    return colour.repeat(*size_hw, 1).permute(2, 0, 1)


def move_targets(targets: Targets, place: tuple[int, int], size_hw: tuple[int, int]) -> Targets:
    """The targets of a part that lies at `place` (x, y) of a canvas."""
    x0, y0 = place
    masks, keypoints = targets.masks, targets.keypoints
    if masks is not None:
        moved = masks.new_zeros(len(masks), *size_hw)
        moved[:, y0 : y0 + masks.shape[1], x0 : x0 + masks.shape[2]] = masks
        masks = moved
    if keypoints is not None:
        given = keypoints[:, :, 2:] > 0  # a point that is not given stays at 0, 0
        keypoints = torch.where(given, keypoints + keypoints.new_tensor([x0, y0, 0]), keypoints)
    shift = targets.boxes.new_tensor([x0, y0, x0, y0])
    proposals = None if targets.proposals is None else targets.proposals + shift
    cuboids = None if targets.cuboids is None else moved_cuboids(targets.cuboids, place)
    return replace(
        targets, boxes=targets.boxes + shift, masks=masks, keypoints=keypoints, cuboids=cuboids, proposals=proposals
    )


def _within(proposals: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    """Proposals `[P, 4]` as seen from a window; those of which less than a pixel is left are dropped."""
    x0, y0, x1, y1 = window
    moved = proposals - proposals.new_tensor([x0, y0, x0, y0])
    clipped = torch.minimum(moved.clamp(min=0), moved.new_tensor([x1 - x0, y1 - y0, x1 - x0, y1 - y0]))
    whole = (clipped == moved).all(dim=1)
    return clipped[whole | ((clipped[:, 2:] - clipped[:, :2]) >= 1).all(dim=1)]


def boxes_of_masks(masks: Tensor) -> Tensor:
    """`[N, H, W]` bool to `[N, 4]` float32 xyxy tight round the pixels of each; zeros where there are none."""
    ends = []
    pixels = masks.view(torch.uint8)  # of bytes the largest is found sixty times as fast as whether any is true
    for side in (pixels.amax(dim=1).bool(), pixels.amax(dim=2).bool()):  # [N, W], [N, H]
        length = side.shape[1]
        numbers = torch.arange(length, device=masks.device)
        first = torch.where(side, numbers, length).amin(dim=1)
        last = torch.where(side, numbers + 1, 0).amax(dim=1)
        ends += [torch.minimum(first, last), last]
    x0, x1, y0, y1 = ends
    return torch.stack([x0, y0, x1, y1], dim=1).float()


def pixel_counts(masks: Tensor) -> Tensor:
    """`[N, H, W]` bool to `[N]` int64: the pixels of each; by numpy, two hundred times as fast as the sum in torch."""
    return torch.tensor([int(np.count_nonzero(mask)) for mask in masks.numpy()], dtype=torch.int64)


def intersection(boxes: Tensor, others: Tensor) -> Tensor:
    """Row by row what two `[N, 4]` xyxy have in common; x1 <= x0 or y1 <= y0 where that is nothing."""
    corners = torch.maximum(boxes[:, :2], others[:, :2]), torch.minimum(boxes[:, 2:], others[:, 2:])
    return torch.cat(corners, dim=1)
