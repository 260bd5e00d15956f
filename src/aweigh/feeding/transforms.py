"""From a picture as read to a picture as the model sees it: one visible resize, and random changes for training.

Everything random is drawn from the generator that is passed in, so that a sample depends on nothing else. Boxes stay
true: they are moved, scaled and clipped with the pixels, and areas, ignore flags, ids, masks and keypoints with them.
Where a picture is scaled at random, or a part of it is, the depths and sides of cuboids become unknown: what is as
large as before is seen as if it were nearer or farther, so that only where the middle lies and the angle stay true.
Pixel work is done by the functional kernels of `torchvision.transforms.v2`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as kernels

from aweigh.annotations.pairs import describe_pairs
from aweigh.classes import Classes
from aweigh.errors import REACH, UsageError, counted
from aweigh.images.reader import reduction
from aweigh.ops import cuboids as cuboid_ops
from aweigh.structures import IMAGENET_MEAN, Targets, swapped

CROP_TRIES = 10
CROP_SIDE = (0.5, 1.0)  # the sides of a random crop, as a share of the picture's
COLOR_REACH = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.04}  # at color=1; ours
CROP_BORDER = 128  # pixels from the edge of a picture to the middle of an affine crop (the authors' code of CenterNet)
# The principal components of COCO's colours, RGB in [0, 1], as columns: eigenvectors times eigenvalues, both those of
# the authors' code of CenterNet.
PRINCIPAL_COLORS = torch.tensor(
    [
        [-0.56089297, 0.71832671, 0.41158938],
        [-0.58327470, 0.00994535, -0.81221408],
        [-0.58752847, -0.69563484, 0.41340352],
    ]
) * torch.tensor([0.2141788, 0.01817699, 0.00341571])


LARGEST_SIDE, LARGEST_SCALE = int(REACH["size"][1]), 100  # ours; no network has room for more


@dataclass(frozen=True)
class Resize:
    """Scale a picture, keeping its shape, until its short side is `short` or its long side is `long`.

    The new sides are `floor(side * min(short / shortest, long / longest))`, at least 1 pixel: with
    `antialias=False` size and pixels equal those of torchvision's detection models. `short=None`: the longest side
    becomes exactly `long`, which serves inputs of fixed size. `long=None`: no bound. antialias: smooth when shrinking;
    uint8 pictures then go through the 8-bit kernel, four times as fast and at most one grey level beside the float one.
    scale: a factor on the sides that this gives, by which test augmentation looks closer or from further away.
    """

    short: int | None = 800
    long: int | None = 1333
    antialias: bool = True
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("short", "long"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and 1 <= value <= LARGEST_SIDE):
                raise UsageError(
                    f"Resize: {name} must be a whole number of pixels above 0 (at most {LARGEST_SIDE}) or None, "
                    f"got {value!r}."
                )
        number = isinstance(self.scale, int | float) and not isinstance(self.scale, bool)
        if not (number and 0 < self.scale <= LARGEST_SCALE):  # nor NaN
            raise UsageError(f"Resize: scale must be a number above 0, at most {LARGEST_SCALE}, got {self.scale!r}.")

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing a picture of `height` x `width`."""
        shortest, longest = min(height, width), max(height, width)
        scales = [limit / side for limit, side in ((self.short, shortest), (self.long, longest)) if limit is not None]
        scale = min(scales, default=1.0)
        sides = [max(1, math.floor(float(side) * scale)) for side in (height, width)]
        if self.short is None and self.long is not None:
            sides = [
                self.long if side == longest else scaled for side, scaled in zip((height, width), sides)
            ]  # exactly
        if self.scale != 1:
            sides = [max(1, round(side * self.scale)) for side in sides]
        return sides[0], sides[1]

    def with_size(self, text: str) -> Resize:
        """This step for another size: `"original"` changes none, `"512"` makes the long side 512 pixels, `"800,1333"`
        the short side 800 where the long one then is at most 1333."""
        try:
            sides = [] if text == "original" else [int(part) for part in text.split(",")]
            if len(sides) > 2:
                raise ValueError
        except ValueError:
            raise UsageError(
                f"resize = {text!r}: expected original, the long side as 512, or short side and limit as 800,1333."
            ) from None
        short, long = [None, None, *sides][-2:]
        return replace(self, short=short, long=long)

    def needed_size(self, height: int, width: int) -> tuple[int, int]:
        """In which size a picture is needed at least; without antialias every pixel counts, so in full."""
        return self.size_for(height, width) if self.antialias else (height, width)

    def __call__(self, image: Tensor, *, full_hw: tuple[int, int] | None = None) -> Tensor:
        """uint8 or float `[3, H, W]` to float32 `[3, h, w]` in `[0, 1]`.

        full_hw: the size of the whole picture, where it was decoded at a reduced one.
        """
        before_hw = (image.shape[-2], image.shape[-1])
        size_hw = self.size_for(*full_hw or before_hw)
        return resize_image(image, size_hw, antialias=self.antialias, span_hw=span(before_hw, full_hw))

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; a scale of 1 is left out."""
        return {name: value for name, value in asdict(self).items() if name != "scale" or value != 1}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Resize:
        unknown = set(values) - {"short", "long", "antialias", "scale"}
        if unknown:
            raise UsageError(f"Resize: unknown argument {sorted(unknown)[0]!r}; known: short, long, antialias, scale.")
        return cls(**values)


@dataclass(frozen=True)
class Augmentation:
    """The random changes of training; nothing happens that is not named here.

    flip: probability of a horizontal flip. short_sides: `(lo, hi)` draws the short side between the two, three and
    more values draw one of them; it takes the place of `Resize.short`. scale_jitter: `(lo, hi)`, a factor on the size;
    beyond the size of `Resize` a random window of that size is kept, below it the picture stays smaller and is padded
    with its batch. (0.1, 2) is the large-scale jitter of Ghiasi et al. 2021 (arXiv 2012.07177), 0.8 to 1.25 their
    standard one; the window there is a square of fixed size. crop: probability of cutting a random window out.
    affine_crop: shares of the longer side of a picture, one of which is drawn: the side of a square round a random
    point, which is cut out and may reach beyond the picture, see `affine_crop`; (0.6, 0.7, ..., 1.3) is CenterNet's.
    color: 0 to 1, the strength of changes in brightness, contrast, saturation and hue. shuffled_color: largest change
    of the first three, made in random order; CenterNet's is 0.4. lighting: standard deviation of a shift along the
    principal components of colours (Krizhevsky et al. 2012, section 4.1), 0.1 there and in CenterNet. mosaic,
    copy_paste, mixup: probabilities of putting several pictures into one, see `aweigh.feeding.mixing`. min_visible: an
    object of which less than this share is left in sight becomes a region to ignore: neither found nor background.
    keypoint_pairs, class_pairs: indices that change places in a flip, such as left and right, see `annotations.pairs`.
    """

    flip: float = 0.5
    short_sides: tuple[int, ...] = ()
    scale_jitter: tuple[float, float] | None = None
    crop: float = 0.0
    affine_crop: tuple[float, ...] = ()
    color: float = 0.0
    shuffled_color: float = 0.0
    lighting: float = 0.0
    mosaic: float = 0.0
    copy_paste: float = 0.0
    mixup: float = 0.0
    min_visible: float = 0.25
    keypoint_pairs: tuple[tuple[int, int], ...] = ()
    class_pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in ("flip", "crop", "color", "shuffled_color", "mosaic", "copy_paste", "mixup", "min_visible"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"Augmentation: {name} must lie between 0 and 1, got {getattr(self, name)!r}.")
        if any(side < 1 for side in self.short_sides) or (len(self.short_sides) == 2 and self._sides_inverted()):
            raise UsageError(f"Augmentation: short_sides must be (lo, hi) or a list of sides, got {self.short_sides}.")
        if self.scale_jitter is not None and not 0 < self.scale_jitter[0] <= self.scale_jitter[1]:
            raise UsageError(f"Augmentation: scale_jitter must be (lo, hi) with 0 < lo <= hi, got {self.scale_jitter}.")
        if not all(0 < share < math.inf for share in self.affine_crop):
            raise UsageError(f"Augmentation: affine_crop must be shares above 0, got {self.affine_crop}.")
        if not 0 <= self.lighting < math.inf:
            raise UsageError(f"Augmentation: lighting must be 0 or more, got {self.lighting!r}.")

    def _sides_inverted(self) -> bool:
        return self.short_sides[0] > self.short_sides[1]

    @classmethod
    def none(cls) -> Augmentation:
        """No change at all."""
        return cls(flip=0.0)

    @property
    def mixes(self) -> bool:
        """Whether pictures are ever put together."""
        return max(self.mosaic, self.copy_paste, self.mixup) > 0

    def describe(
        self,
        classes: Classes | None = None,
        keypoint_names: Sequence[str] = (),
        *,
        mixing_until_epoch: int | None = None,
    ) -> list[str]:
        """Every change that can happen, one line each, in the order in which they are applied.

        mixing_until_epoch: as for `DetectionDataset`, the number of epochs with mosaic, copy-paste and mixup.
        """
        lines = []
        ignored = f"objects less than {self.min_visible:.0%} visible are ignored"
        if self.crop:
            sides = f"sides {CROP_SIDE[0]:.0%} to {CROP_SIDE[1]:.0%} of the picture"
            lines.append(f"random crop, probability {self.crop:g}: {sides}; {ignored}")
        if self.affine_crop:
            shares = ", ".join(f"{share:g}" for share in self.affine_crop)
            what = "a square round a random point, grey beyond the picture"
            lines.append(f"affine crop: {what}, its side {shares} of the longer side; {ignored}")
        if self.short_sides:
            sides = f"one of {', '.join(map(str, self.short_sides))}"
            sides = " to ".join(map(str, self.short_sides)) if len(self.short_sides) == 2 else sides
            lines.append(f"short side {sides} pixels")
        if self.scale_jitter:
            beyond = f", a random window where larger; {ignored}" if self.scale_jitter[1] > 1 else ""
            lines.append(f"scale jitter: size times {self.scale_jitter[0]:g} to {self.scale_jitter[1]:g}{beyond}")
        if self.flip:
            lines.append(f"horizontal flip, probability {self.flip:g}")
            lines += describe_pairs("classes", classes.names if classes else (), self.class_pairs)
            lines += describe_pairs("keypoints", keypoint_names, self.keypoint_pairs)
        if self.color:
            reach = ", ".join(f"{name} +-{value * self.color:.0%}" for name, value in COLOR_REACH.items())
            lines.append(f"colour: {reach}")
        if self.shuffled_color:
            kinds = "brightness, contrast and saturation in random order"
            lines.append(f"colour: {kinds}, each +-{self.shuffled_color:.0%}")
        if self.lighting:
            lines.append(f"lighting: along the principal colours, standard deviation {self.lighting:g}")
        few = {None: "", 0: ", in no epoch of this run", 1: ", in the first epoch"}
        until = few.get(mixing_until_epoch, f", in the first {counted(mixing_until_epoch or 0, 'epoch')}")
        mixing = {
            "mosaic": f"four pictures in one; {ignored}",
            "copy_paste": f"objects of another picture pasted in; {ignored}",
            "mixup": "another picture blended in, with its objects",
        }
        for name, text in mixing.items():
            if probability := getattr(self, name):
                lines.append(f"{name.replace('_', '-')}, probability {probability:g}{until}: {text}")
        return lines or ["none: every picture is used as it is"]


@dataclass(frozen=True)
class EvalTransform:
    """Resizing alone: what evaluation and prediction do."""

    resize: Resize

    def needed_size(self, height: int, width: int) -> tuple[int, int]:
        """In which size the picture is needed at least."""
        return self.resize.needed_size(height, width)

    def __call__(
        self,
        image: Tensor,
        targets: Targets,
        generator: Generator | None = None,
        *,
        full_hw: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Targets]:
        """uint8 `[3, H, W]` to `[3, h, w]`, uint8, or float32 in `[0, 1]` where `antialias` is off.

        full_hw: the size of the whole picture, where it was decoded at a reduced one.
        """
        before_hw = (image.shape[1], image.shape[2])
        size_hw = self.resize.size_for(*full_hw or before_hw)
        span_hw = span(before_hw, full_hw)
        resized = resize_pixels(image, size_hw, antialias=self.resize.antialias, span_hw=span_hw)
        return resized, resize_targets(targets, span_hw, size_hw)


@dataclass(frozen=True)
class TrainTransform:
    """Crop, affine crop, resize (with its jitter), flip and colour, in this order."""

    resize: Resize
    augmentation: Augmentation

    def needed_size(self, height: int, width: int) -> tuple[int, int]:
        """In which size the picture is needed at least, whatever is drawn."""
        change, resize = self.augmentation, self.resize
        if not resize.antialias:
            return height, width
        if change.short_sides:
            resize = replace(resize, short=max(change.short_sides))
        factor = max(1.0, change.scale_jitter[1]) if change.scale_jitter else 1.0
        if change.crop:
            factor /= CROP_SIDE[0]  # the smallest window is enlarged to what the whole would be
        if change.affine_crop:
            factor /= min(1.0, *change.affine_crop)
        height, width = resize.size_for(height, width)
        return math.ceil(height * factor), math.ceil(width * factor)

    def __call__(
        self, image: Tensor, targets: Targets, generator: Generator, *, full_hw: tuple[int, int] | None = None
    ) -> tuple[Tensor, Targets]:
        """image uint8 `[3, H, W]` and its targets to `[3, h, w]` and its targets.

        The picture stays uint8 where it can; it is float32 in `[0, 1]` after changes of colour and where `antialias` is
        off. full_hw: the size of the whole picture, where it was decoded at a reduced one.
        """
        change = self.augmentation
        if change.crop and uniform(generator) < change.crop:
            image, targets = random_crop(image, targets, generator, min_visible=change.min_visible)
            full_hw, targets = None, without_depth(targets)
        if change.affine_crop:
            shares, visible = change.affine_crop, change.min_visible
            image, targets = affine_crop(image, targets, shares, generator, full_hw=full_hw, min_visible=visible)
            full_hw, targets = None, without_depth(targets)
        before_hw = (image.shape[1], image.shape[2])
        size_hw, limit_hw = self._draw_size(full_hw or before_hw, generator)
        span_hw = span(before_hw, full_hw)
        image = resize_pixels(image, size_hw, antialias=self.resize.antialias, span_hw=span_hw)
        targets = resize_targets(targets, span_hw, size_hw)
        if change.short_sides or change.scale_jitter is not None:
            targets = without_depth(targets)
        if size_hw[0] > limit_hw[0] or size_hw[1] > limit_hw[1]:
            window = random_window(size_hw, limit_hw, generator)
            image, targets = cut_window(image, targets, window, min_visible=change.min_visible)
        if change.flip and uniform(generator) < change.flip:
            image, targets = flip_horizontally(image, targets, change.keypoint_pairs, change.class_pairs)
        if change.color:
            image = jitter_color(to_float(image), change.color, generator)
        if change.shuffled_color:
            image = shuffle_color(to_float(image), change.shuffled_color, generator)
        if change.lighting:
            image = shift_color(to_float(image), change.lighting, generator)
        return image, targets

    def _draw_size(self, before_hw: tuple[int, int], generator: Generator) -> tuple[tuple[int, int], tuple[int, int]]:
        """The size to scale to, and the size that a window may have."""
        change, resize = self.augmentation, self.resize
        if len(change.short_sides) == 2:
            lo, hi = change.short_sides
            resize = replace(resize, short=int(torch.randint(lo, hi + 1, (), generator=generator)))
        elif change.short_sides:
            choice = int(torch.randint(len(change.short_sides), (), generator=generator))
            resize = replace(resize, short=change.short_sides[choice])
        limit_hw = resize.size_for(*before_hw)
        if change.scale_jitter is None:
            return limit_hw, limit_hw
        factor = uniform(generator, *change.scale_jitter)
        return (max(1, math.floor(limit_hw[0] * factor)), max(1, math.floor(limit_hw[1] * factor))), limit_hw


def span(image_hw: tuple[int, int], full_hw: tuple[int, int] | None) -> tuple[float, float]:
    """The part of a picture that its content fills: all, unless it was decoded at a size that is not exactly reduced.

    full_hw: the size of the whole, of which the picture is the half (or a quarter, or an eighth), rounded up.
    """
    if full_hw is None or full_hw == image_hw:
        return image_hw
    factor = reduction(image_hw, full_hw)
    return full_hw[0] / factor, full_hw[1] / factor


def resize_image(
    image: Tensor, size_hw: tuple[int, int], *, antialias: bool, span_hw: tuple[float, float] | None = None
) -> Tensor:
    """uint8 or float `[3, H, W]` to float32 `[3, h, w]` in `[0, 1]`, bilinear.

    span_hw: the part of the picture, from its upper left corner, that becomes the whole result.
    """
    return to_float(resize_pixels(image, size_hw, antialias=antialias, span_hw=span_hw))


def resize_pixels(
    image: Tensor, size_hw: tuple[int, int], *, antialias: bool, span_hw: tuple[float, float] | None = None
) -> Tensor:
    """As `resize_image`, but what goes through the 8-bit kernel, or through none, stays uint8."""
    if image.ndim != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise UsageError(f"An image must be uint8 or float [3, H, W], got {image.dtype} {tuple(image.shape)}.")
    if tuple(image.shape[1:]) == tuple(size_hw):
        return image
    if antialias and size_hw[1] == 1 and image.dtype == torch.uint8:  # torch 2.15 fails, or gives other pixels
        return (resize_pixels(to_float(image), size_hw, antialias=True, span_hw=span_hw) * 255).round().byte()
    pixels = image if antialias else to_float(image)
    # Strides by which torch sees that the memory is channels-last, where it is; image[None] has others. Twice as fast.
    batch = pixels.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    how = _sampling((image.shape[1], image.shape[2]), size_hw, span_hw)
    resized: Tensor = functional.interpolate(batch, mode="bilinear", align_corners=False, antialias=antialias, **how)
    return resized[0]


def _sampling(
    image_hw: tuple[int, int], size_hw: tuple[int, int], span_hw: tuple[float, float] | None
) -> dict[str, Any]:
    """How `interpolate` is told that `span_hw` becomes `size_hw`: by the size, or by factors that give this size."""
    if span_hw is None or span_hw == image_hw:
        return {"size": size_hw}
    factors = [size / side * (1 + 1e-9) for size, side in zip(size_hw, span_hw)]  # rounded down by torch, to the size
    exact = all(math.floor(side * factor) == size for side, factor, size in zip(image_hw, factors, size_hw))
    return {"scale_factor": factors} if exact else {"size": size_hw}


def to_float(image: Tensor) -> Tensor:
    """uint8, or float in `[0, 1]`, to float32 in `[0, 1]`."""
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


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


def jitter_color(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Random brightness, contrast, saturation and hue of a float picture `[3, H, W]` in `[0, 1]`."""
    reach = {name: value * strength for name, value in COLOR_REACH.items()}
    image = kernels.adjust_brightness(image, uniform(generator, 1 - reach["brightness"], 1 + reach["brightness"]))
    contrast = uniform(generator, 1 - reach["contrast"], 1 + reach["contrast"])
    mean = kernels.rgb_to_grayscale(image).double().mean().float()  # in double: the same with any number of threads
    image = (image * contrast + (1 - contrast) * mean).clamp(0, 1)
    image = kernels.adjust_saturation(image, uniform(generator, 1 - reach["saturation"], 1 + reach["saturation"]))
    return kernels.adjust_hue(image, uniform(generator, -reach["hue"], reach["hue"]))


def shuffle_color(image: Tensor, reach: float, generator: Generator) -> Tensor:
    """Brightness, contrast and saturation in random order, each times 1 - `reach` to 1 + `reach`, of a float picture
    `[3, H, W]` in `[0, 1]`.

    As the authors' code of CenterNet has it: grey is that of the picture as it was, and nothing is cut off in between.
    """
    grey = kernels.rgb_to_grayscale(image)
    mean = grey.double().mean().float()  # in double: the same with any number of threads
    towards = (torch.zeros_like(mean), mean, grey)
    for kind in torch.randperm(3, generator=generator).tolist():
        factor = uniform(generator, 1 - reach, 1 + reach)
        image = factor * image + (1 - factor) * towards[kind]
    return image.clamp(0, 1)


def shift_color(image: Tensor, deviation: float, generator: Generator) -> Tensor:
    """All pixels of a float picture `[3, H, W]` in `[0, 1]` by the same amount along each of `PRINCIPAL_COLORS`."""
    amounts = deviation * torch.randn(3, generator=generator)
    return (image + (PRINCIPAL_COLORS @ amounts)[:, None, None]).clamp(0, 1)


def _resize_masks(masks: Tensor, size_hw: tuple[int, int], span_hw: tuple[float, float]) -> Tensor:
    """`[N, H, W]` bool to `[N, h, w]` bool: each pixel is that of the source in which its centre lies."""
    if len(masks) == 0:
        return masks.new_zeros(0, *size_hw)
    how = _sampling((masks.shape[1], masks.shape[2]), size_hw, span_hw)
    return functional.interpolate(masks[:, None].to(torch.uint8), mode="nearest-exact", **how)[:, 0].bool()


def random_window(
    size_hw: tuple[int, int], window_hw: tuple[int, int], generator: Generator
) -> tuple[int, int, int, int]:
    height, width = min(size_hw[0], window_hw[0]), min(size_hw[1], window_hw[1])
    y0 = int(torch.randint(size_hw[0] - height + 1, (), generator=generator))
    x0 = int(torch.randint(size_hw[1] - width + 1, (), generator=generator))
    return x0, y0, x0 + width, y0 + height


def uniform(generator: Generator, lo: float = 0.0, hi: float = 1.0) -> float:
    return lo + (hi - lo) * float(torch.rand((), generator=generator, dtype=torch.float64))
