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

from aweigh.feeding.randomness import random_window, uniform
from aweigh.geometry.frames import Frame
from aweigh.images.reader import reduction
from aweigh.structures import IMAGENET_MEAN, Targets

CROP_TRIES = 10
CROP_SIDE = (0.5, 1.0)  # the sides of a random crop, as a share of the image's
OBJECT_CROP = 255  # the side of an object crop for which these lengths are
# Of the longer side of an object in the image: above which length, and what it becomes in the crop, at random.
OBJECT_LENGTHS = ((96, (96, 254)), (32, (32, 96)), (0, (16, 32)))
OBJECT_REACH = 15  # pixels of the crop between its middle and that of the object, at most
NO_OBJECT_SCALES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # where there is none
CROP_BORDER = 128  # pixels from the edge of an image to the middle of an affine crop (the authors' code of CenterNet)


def random_crop(
    image: Tensor, targets: Targets, generator: Generator, *, min_visible: float = 0.25
) -> tuple[Tensor, Targets]:
    """A random window that leaves at least one object to learn from, when there was one; else the whole image."""
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
    """The part `(x0, y0, x1, y1)`, whole pixels, of an image `[3, H, W]`; of its objects see `cut_targets`."""
    x0, y0, x1, y1 = window
    return image[:, y0:y1, x0:x1], cut_targets(targets, window, min_visible=min_visible)


def cut_targets(targets: Targets, window: tuple[int, int, int, int], *, min_visible: float = 0.25) -> Targets:
    """What is in sight of the objects of an image in a part `(x0, y0, x1, y1)` of it, in the pixels of that part.

    Boxes are moved and clipped, to what is left of the mask where there is one; those with no pixel left are dropped,
    those with less than `min_visible` of their area left become regions to ignore, or stay uncertain. Areas shrink with
    the visible share; keypoints outside become "not given". Proposals are clipped, and dropped with less than a pixel.
    """
    x0, y0, x1, y1 = window
    size_hw = (y1 - y0, x1 - x0)
    moved = targets.moved(Frame.shift(-x0, -y0), size_hw)
    boxes = _clipped(moved.boxes, size_hw)
    untouched = (boxes == moved.boxes).all(dim=1)
    visible = ((boxes[:, 2:] - boxes[:, :2]).clamp(min=0) / (moved.boxes[:, 2:] - moved.boxes[:, :2])).prod(dim=1)
    if targets.masks is not None and moved.masks is not None:
        before = pixel_counts(targets.masks)
        by_mask = (before > 0) & ~untouched
        visible = torch.where(by_mask, pixel_counts(moved.masks) / before, visible)
        boxes = torch.where(by_mask[:, None], intersection(boxes, boxes_of_masks(moved.masks)), boxes)
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = ((sides >= 1).all(dim=1) | untouched) & (sides > 0).all(dim=1)
    keypoints, proposals = moved.keypoints, moved.proposals
    if keypoints is not None:
        places = keypoints[:, :, :2]
        inside = ((places >= 0) & (places <= places.new_tensor([x1 - x0, y1 - y0]))).all(dim=2, keepdim=True)
        keypoints = torch.where(inside & (keypoints[:, :, 2:] > 0), keypoints, 0.0)
    if proposals is not None:
        clipped = _clipped(proposals, size_hw)
        whole = (clipped == proposals).all(dim=1)
        proposals = clipped[whole | (clipped[:, 2:] - clipped[:, :2] >= 1).all(dim=1)]
    cut = replace(
        moved,
        boxes=torch.where(keep[:, None], boxes, moved.boxes),  # valid until the rows are dropped below
        ignore=moved.ignore | ((visible < min_visible) & ~moved.uncertain),
        area=torch.where(untouched, moved.area, moved.area * visible),
        keypoints=keypoints,
        proposals=proposals,
    )
    return cut[keep]


def _clipped(boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    height, width = size_hw
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def without_depth(targets: Targets) -> Targets:
    """The targets in an image that was scaled: of cuboids the depth and the sides are not known any more."""
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
    """A square round a random point of an image `[3, H, W]`, which is grey (ImageNet's mean) beyond the image.

    The rule is that of the authors' code of "Objects as Points" (Zhou et al. 2019), of which the affine map that scales
    the square to the input is the one part, and resizing the other: its side is one of `shares` of the longer side; its
    middle is a pixel `CROP_BORDER` away from each edge or more, or half of that, a quarter and so on where a side is
    shorter than twice the border. Its corners are whole pixels here. Boxes, masks and keypoints as in `cut_window`.
    full_hw: the size of the whole image, in which the border is measured, where it was decoded at a reduced one.
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


def object_crop(
    image: Tensor, targets: Targets, generator: Generator, *, min_visible: float = 0.5
) -> tuple[Tensor, Targets]:
    """A square of an image `[3, H, W]` in which an object has one of the sizes that CornerNet-Saccade sees.

    The rule is that of the authors' code of CornerNet-Saccade (Law et al. 2019). One object is drawn; a length is drawn
    for its longer side, by how long that is in the image (`OBJECT_LENGTHS`), which it has where the square is scaled to
    255 pixels. The square has its
    middle near the object's middle, or lies anywhere round the object, as often as not; where the image is shorter than
    the square, it lies in the middle, and grey beyond it. Corners are whole pixels here. Of an object of which less
    than `min_visible` is in sight, see `cut_window`.
    """
    size_wh = (image.shape[2], image.shape[1])
    boxes = _clipped(targets.boxes, (size_wh[1], size_wh[0]))[targets.learned]
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]
    chosen: list[float] = []
    if len(boxes):
        chosen = boxes[int(torch.randint(len(boxes), (), generator=generator))].tolist()
        longest = max(chosen[2] - chosen[0], chosen[3] - chosen[1])
        low, high = next(lengths for above, lengths in OBJECT_LENGTHS if longest > above)
        scale = int(torch.randint(low, high + 1, (), generator=generator)) / longest
    else:
        scale = NO_OBJECT_SCALES[int(torch.randint(len(NO_OBJECT_SCALES), (), generator=generator))]
    window, reach = max(1, round(OBJECT_CROP / scale)), OBJECT_REACH / scale
    centred = uniform(generator) < 0.5
    x0, y0 = (
        _start(length, window, chosen[axis::2], reach if centred else None, generator)
        for axis, length in enumerate(size_wh)
    )
    return padded_window(image, targets, (x0, y0, x0 + window, y0 + window), min_visible=min_visible)


def _start(length: int, window: int, ends: Sequence[float], reach: float | None, generator: Generator) -> int:
    """Where a window begins on a side of `length` pixels, by an object from one of the `ends` to the other, if any:
    with its middle no farther than `reach` from the object's, or anywhere where the object is in it."""
    if length <= window:
        return (length - window) // 2
    if ends and reach is not None:
        middle = sum(ends) / 2
        nearest = max(0.0, middle - reach * uniform(generator))
        farthest = min(length - 1.0, middle + reach * uniform(generator))
        return round(uniform(generator, nearest, farthest) - window / 2)
    first, last = (max(0.0, ends[1] - window), min(length - window, ends[0])) if ends else (0, length - window)
    return int(torch.randint(int(first), int(max(first, last)) + 1, (), generator=generator))


def padded_window(
    image: Tensor, targets: Targets, window: tuple[int, int, int, int], *, min_visible: float = 0.25
) -> tuple[Tensor, Targets]:
    """As `cut_window`, of a window that lies on the image in part at least, and is grey elsewhere."""
    x0, y0, x1, y1 = window
    height, width = image.shape[1:]
    inside = (max(x0, 0), max(y0, 0), min(x1, width), min(y1, height))
    part, targets = cut_window(image, targets, inside, min_visible=min_visible)
    place, size_hw = (inside[0] - x0, inside[1] - y0), (y1 - y0, x1 - x0)
    canvas = blank(image, size_hw)
    canvas[:, place[1] : place[1] + part.shape[1], place[0] : place[0] + part.shape[2]] = part
    return canvas, targets.moved(Frame.shift(*place), size_hw)


def blank(like: Tensor, size_hw: tuple[int, int], fill: Sequence[float] = IMAGENET_MEAN) -> Tensor:
    """An image `[3, h, w]` of one colour, RGB in `[0, 1]`, uint8 or float as `like`."""
    colour = torch.tensor(fill) if like.is_floating_point() else (torch.tensor(fill) * 255).round().byte()
    return colour.repeat(*size_hw, 1).permute(2, 0, 1)


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
