"""Several images in one: mosaic, copy-paste and mixup, for training only and only when asked for.

- Mosaic: Bochkovskiy, Wang, Liao, "YOLOv4", 2020, arXiv 2004.10934: four images round a random point.
  Ours: each is shrunk by a random factor, at most until it just covers its quarter, and is never enlarged.
- Copy-paste: Ghiasi et al., CVPR 2021, arXiv 2012.07177: some objects of another image are laid over this
  one, and what they cover is taken out of its objects. Without blurred edges: the paper finds that they gain nothing.
  Ours: cut along the box where the data have no masks.
- Mixup: Zhang et al., ICLR 2018, arXiv 1710.09412; for detection Zhang et al. 2019, arXiv 1902.04103: the pixels are
  blended, the objects of both are kept. Ours: the weights lie near one half, since the loss does not weigh objects by
  them, and an object that cannot be seen must not be taught.

Every image was changed by the transform on its own before. A `Pair` is an image `[3, H, W]`, uint8 or float in
`[0, 1]`, and the targets in its pixels; what comes out is uint8 where all that went in is. All that is random comes
from the generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from aweigh.feeding.randomness import random_window, uniform
from aweigh.feeding.resize import resize_pixels, to_float
from aweigh.feeding.transforms import Augmentation
from aweigh.feeding.windows import (
    blank,
    boxes_of_masks,
    cut_window,
    intersection,
    pixel_counts,
    without_depth,
)
from aweigh.geometry.frames import Frame
from aweigh.structures import IMAGENET_MEAN, Targets

MOSAIC_CENTER = (0.3, 0.7)  # where the four images meet, as a share of the sides; ours
MIXUP_WEIGHT = (0.4, 0.6)  # of the first image; ours
PASTED = 0.5  # probability of each object to be pasted, "a random subset" in the paper

Pair = tuple[Tensor, Targets]


@dataclass(frozen=True)
class Plan:
    """What is done to one sample."""

    mosaic: bool = False
    copy_paste: bool = False
    mixup: bool = False

    @classmethod
    def draw(cls, augmentation: Augmentation, generator: Generator) -> Plan:
        chances = (augmentation.mosaic, augmentation.copy_paste, augmentation.mixup)
        return cls(*(uniform(generator) < chance for chance in chances))

    @property
    def mixes(self) -> bool:
        return self.mosaic or self.copy_paste or self.mixup


def epochs_with_mixing(epochs: int, close: float) -> int:
    """How many epochs at the beginning of a run are with mixing, when its last part `close` is to be without.

    At least the last epoch is without, if close is above 0 and there is more than one.
    """
    without = math.ceil(close * epochs - 1e-9)
    return epochs - (without if close == 1 else min(without, epochs - 1))


def mix(
    base: Pair, plan: Plan, partner: Callable[[bool], Pair], generator: Generator, *, min_visible: float = 0.25
) -> Pair:
    """The sample by its plan. partner: draws another image, with `True` one that has objects."""
    if plan.mosaic:
        base = mosaic([base, partner(False), partner(False), partner(False)], generator, min_visible=min_visible)
    if plan.copy_paste:
        base = copy_paste(base, partner(True), generator, min_visible=min_visible)
    if plan.mixup:
        base = mixup(base, partner(False), generator)
    return base


def mosaic(
    parts: Sequence[Pair],
    generator: Generator,
    *,
    min_visible: float = 0.25,
    fill: Sequence[float] = IMAGENET_MEAN,
) -> Pair:
    """Four images in the quarters round a random point: top left, top right, bottom left, bottom right.

    The canvas has the size of the largest. Of each a random window is kept, next to the point; where an image is
    smaller than its quarter the rest is filled with `fill`.
    """
    height, width = max((tuple(image.shape[1:]) for image, _ in parts), key=math.prod)
    center_x = min(max(1, round(width * uniform(generator, *MOSAIC_CENTER))), width)
    center_y = min(max(1, round(height * uniform(generator, *MOSAIC_CENTER))), height)
    images = _alike([image for image, _ in parts])
    canvas = blank(images[0], (height, width), fill)
    placed = []
    for number, (image, (_, targets)) in enumerate(zip(images, parts)):
        right, below = number % 2 == 1, number >= 2
        quarter_hw = (height - center_y if below else center_y, width - center_x if right else center_x)
        if min(quarter_hw) == 0:
            continue
        image, targets = _shrunk_to_cover((image, targets), quarter_hw, generator)
        window = random_window((image.shape[1], image.shape[2]), quarter_hw, generator)
        image, targets = cut_window(image, targets, window, min_visible=min_visible)
        x0 = center_x if right else center_x - image.shape[2]
        y0 = center_y if below else center_y - image.shape[1]
        canvas[:, y0 : y0 + image.shape[1], x0 : x0 + image.shape[2]] = image
        placed.append(targets.moved(Frame.shift(x0, y0), (height, width)))
    return canvas, join(placed)


def copy_paste(base: Pair, donor: Pair, generator: Generator, *, min_visible: float = 0.25) -> Pair:
    """Some objects of `donor` laid over `base`, at a random place where the two images overlap most.

    What belongs to no mask, or to no box where an object has none, is not pasted. Objects of the base are cut by what
    covers them: hidden ones are dropped, those less than `min_visible` in sight become regions to ignore, keypoints
    under the paste become hidden (2 becomes 1). Other objects of the donor that show in what is pasted come along by
    the same rule; with a mask only from `min_visible` on, as outlines of neighbours often overlap a little.
    """
    image, other = _alike([base[0], donor[0]])
    targets = base[1]
    size_hw = (image.shape[1], image.shape[2])
    window, (x0, y0) = _overlap(size_hw, (other.shape[1], other.shape[2]), generator)
    pasted, objects = cut_window(other, donor[1], window, min_visible=min_visible)
    chosen = _random_subset(objects.learned, generator)
    if not bool(chosen.any()):
        return image, targets
    shown = torch.zeros(pasted.shape[1:], dtype=torch.bool)  # [h, w], what is pasted
    for index in chosen.nonzero().flatten().tolist():
        rows, columns, shape = _shape(objects, index, shown)
        shown[rows, columns] |= shape
    objects = in_sight(
        _without_slivers(objects, shown, min_visible), shown, min_visible=min_visible, hidden_keypoints=0
    )
    image = image.clone()
    part = image[:, y0 : y0 + pasted.shape[1], x0 : x0 + pasted.shape[2]]
    part.copy_(torch.where(shown, pasted, part))
    covered = torch.zeros(size_hw, dtype=torch.bool)
    covered[y0 : y0 + pasted.shape[1], x0 : x0 + pasted.shape[2]] = shown
    targets = in_sight(targets, ~covered, min_visible=min_visible, hidden_keypoints=1)
    return image, join([targets, objects.moved(Frame.shift(x0, y0), size_hw)])


def mixup(base: Pair, partner: Pair, generator: Generator) -> Pair:
    """The partner blended into the base, with the objects of both.

    The partner is shrunk to fit in, where it is larger, and lies at a random place; round it the base stays as it is.
    """
    image, other = _alike([base[0], partner[0]])
    targets, objects = base[1], partner[1]
    height, width = image.shape[1:]
    fit = min(1.0, height / other.shape[1], width / other.shape[2])
    other, objects = _scaled((other, objects), fit, (height, width))
    weight = uniform(generator, *MIXUP_WEIGHT)
    x0, y0, x1, y1 = random_window((height, width), (other.shape[1], other.shape[2]), generator)
    image = image.clone()
    blended = weight * image[:, y0:y1, x0:x1] + (1 - weight) * other
    image[:, y0:y1, x0:x1] = blended if image.is_floating_point() else blended.round()
    return image, join([targets, objects.moved(Frame.shift(x0, y0), (height, width))])


def join(parts: Sequence[Targets]) -> Targets:
    """The objects of all; masks, keypoints, cuboids and proposals where all parts have them, labelled for what all were
    labelled for."""

    def joined(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else torch.cat(values)

    names = ("boxes", "labels", "ignore", "area", "ids", "masks", "keypoints", "uncertain", "cuboids", "proposals")
    known = [part.known for part in parts if part.known is not None]
    everywhere = torch.stack(known).all(dim=0) if known else None
    return Targets(**{name: joined(name) for name in names}, known=everywhere)  # type: ignore[arg-type]


def in_sight(targets: Targets, shown: Tensor, *, min_visible: float, hidden_keypoints: int) -> Targets:
    """What is left of objects of which only the pixels `shown`, `[H, W]` bool, can be seen.

    An object is its mask, or its whole box where it has none. Boxes are drawn in to what is left, areas shrink with it;
    an object of which nothing is left is dropped, one of which less than `min_visible` is left is to be ignored, unless
    it is uncertain.
    hidden_keypoints: the visibility of keypoints of cut objects that are not shown; 0 is "not given".
    """
    changed = {name: getattr(targets, name).clone() for name in ("boxes", "ignore", "area")}
    keypoints = None if targets.keypoints is None else targets.keypoints.clone()
    keep = torch.ones(len(targets), dtype=torch.bool)
    for index in range(len(targets)):
        rows, columns, shape = _shape(targets, index, shown)
        left = shape & shown[rows, columns]
        before, after = int(shape.sum()), int(left.sum())
        if after == before:
            continue
        offset = torch.tensor([columns.start, rows.start] * 2)
        box = intersection(targets.boxes[index : index + 1], boxes_of_masks(left[None]) + offset)[0]
        keep[index] = after > 0 and bool((box[2:] - box[:2] >= 1).all())
        if not keep[index]:
            continue
        changed["boxes"][index] = box
        changed["area"][index] *= after / before
        changed["ignore"][index] |= after / before < min_visible and not bool(targets.uncertain[index])
        if keypoints is not None:
            keypoints[index] = _hidden(keypoints[index], shown, hidden_keypoints)
    masks = None if targets.masks is None else targets.masks & shown
    return replace(targets, **changed, masks=masks, keypoints=keypoints)[keep]


def _alike(images: Sequence[Tensor]) -> list[Tensor]:
    """All as they are where all are uint8, else all float."""
    if all(image.dtype == torch.uint8 for image in images):
        return list(images)
    return [to_float(image) for image in images]


def _without_slivers(targets: Targets, shown: Tensor, min_visible: float) -> Targets:
    """Without objects of whose mask less than `min_visible` is shown."""
    if targets.masks is None:
        return targets
    whole = pixel_counts(targets.masks)
    return targets[(whole == 0) | (pixel_counts(targets.masks & shown) >= min_visible * whole)]


def _shape(targets: Targets, index: int, frame: Tensor) -> tuple[slice, slice, Tensor]:
    """Rows, columns and `[h, w]` bool: the pixels of one object, within its box."""
    x0, y0, x1, y1 = targets.boxes[index].tolist()
    rows = slice(max(0, math.floor(y0)), min(frame.shape[0], math.ceil(y1)))
    columns = slice(max(0, math.floor(x0)), min(frame.shape[1], math.ceil(x1)))
    if targets.masks is not None and bool((shape := targets.masks[index, rows, columns]).any()):
        return rows, columns, shape
    return rows, columns, torch.ones(rows.stop - rows.start, columns.stop - columns.start, dtype=torch.bool)


def _hidden(keypoints: Tensor, shown: Tensor, visibility: int) -> Tensor:
    """Keypoints `[K, 3]`, those that lie on a pixel that is not shown with another visibility."""
    height, width = shown.shape
    columns = keypoints[:, 0].floor().long().clamp(0, width - 1)
    rows = keypoints[:, 1].floor().long().clamp(0, height - 1)
    gone = ~shown[rows, columns] & (keypoints[:, 2] > visibility)
    if visibility == 0:
        return torch.where(gone[:, None], 0.0, keypoints)
    return torch.cat([keypoints[:, :2], torch.where(gone, float(visibility), keypoints[:, 2])[:, None]], dim=1)


def _random_subset(candidates: Tensor, generator: Generator) -> Tensor:
    """`[N]` bool: each candidate with probability `PASTED`, at least one where there are any."""
    drawn = torch.rand(len(candidates), generator=generator) < PASTED
    one = int(uniform(generator) * int(candidates.sum()))
    chosen = candidates & drawn
    if bool(candidates.any()) and not bool(chosen.any()):
        chosen[candidates.nonzero()[one]] = True
    return chosen


def _overlap(
    base_hw: tuple[int, int], donor_hw: tuple[int, int], generator: Generator
) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """The window of the donor that comes to lie on the base, and its place there; along each axis the smaller one is
    wholly inside the larger one."""
    start, place, length = [], [], []
    for base, donor in zip(base_hw, donor_hw):
        shift = int(torch.randint(abs(base - donor) + 1, (), generator=generator))
        start.append(shift if donor > base else 0)
        place.append(shift if donor <= base else 0)
        length.append(min(base, donor))
    return (start[1], start[0], start[1] + length[1], start[0] + length[0]), (place[1], place[0])


def _shrunk_to_cover(pair: Pair, quarter_hw: tuple[int, int], generator: Generator) -> Pair:
    """The image times a random factor between that at which it just covers a quarter and 1."""
    image = pair[0]
    cover = max(quarter_hw[0] / image.shape[1], quarter_hw[1] / image.shape[2])
    factor = uniform(generator, min(cover, 1.0), 1.0)
    return _scaled(pair, factor, (image.shape[1], image.shape[2]))


def _scaled(pair: Pair, factor: float, limit_hw: tuple[int, int]) -> Pair:
    image, targets = pair
    if factor == 1.0:
        return pair
    before_hw = (image.shape[1], image.shape[2])
    height, width = (max(1, min(limit, round(side * factor))) for side, limit in zip(before_hw, limit_hw))
    return (
        resize_pixels(image, (height, width), antialias=True),
        without_depth(targets.resized(before_hw, (height, width))),
    )
