"""From an image as read to an image as the model sees it: one visible resize, and random changes for training.

Everything random is drawn from the generator that is passed in, so that a sample depends on nothing else. Boxes stay
true: they are moved, scaled and clipped with the pixels, and areas, ignore flags, ids, masks and keypoints with them.
Where an image is scaled at random, or a part of it is, the depths and sides of cuboids become unknown: what is as
large as before is seen as if it were nearer or farther, so that only where the middle lies and the angle stay true.
Pixel work is done by the functional kernels of `torchvision.transforms.v2`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as kernels

from aweigh.annotations.flip_pairs import describe_pairs
from aweigh.classes import Classes, Pairs
from aweigh.errors import UsageError, counted
from aweigh.feeding.colour import COLOR_REACH, jitter_color, shift_color, shuffle_color
from aweigh.feeding.randomness import random_window, uniform
from aweigh.feeding.resize import resize_pixels, to_float
from aweigh.feeding.windows import CROP_SIDE, affine_crop, cut_window, object_crop, random_crop, without_depth
from aweigh.geometry.frames import Frame
from aweigh.images.resize import Resize, span
from aweigh.structures import Targets


@dataclass(frozen=True)
class Augmentation:
    """The random changes of training; nothing happens that is not named here.

    flip: probability of a horizontal flip. short_sides: `(lo, hi)` draws the short side between the two, three and
    more values draw one of them; it takes the place of `Resize.short`. scale_jitter: `(lo, hi)`, a factor on the size;
    beyond the size of `Resize` a random window of that size is kept, below it the image stays smaller and is padded
    with its batch. (0.1, 2) is the large-scale jitter of Ghiasi et al. 2021 (arXiv 2012.07177), 0.8 to 1.25 their
    standard one; the window there is a square of fixed size. crop: probability of cutting a random window out.
    affine_crop: shares of the longer side of an image, one of which is drawn: the side of a square round a random
    point, which is cut out and may reach beyond the image, see `affine_crop`; (0.6, 0.7, ..., 1.3) is CenterNet's.
    object_crop: side in pixels of a square round one of the objects, cut out so that the object has a size in it that
    CornerNet-Saccade sees, see `object_crop`; it takes the place of the resize; 0 is off, 255 theirs.
    color: 0 to 1, the strength of changes in brightness, contrast, saturation and hue. shuffled_color: largest change
    of the first three, made in random order; CenterNet's is 0.4. lighting: standard deviation of a shift along the
    principal components of colours (Krizhevsky et al. 2012, section 4.1), 0.1 there and in CenterNet. mosaic,
    copy_paste, mixup: probabilities of putting several images into one, see `aweigh.feeding.mixing`. min_visible: an
    object of which less than this share is left in sight becomes a region to ignore: neither found nor background.
    keypoint_pairs, class_pairs: indices that change places in a flip, as left and right, see `annotations.flip_pairs`.
    """

    flip: float = 0.5
    short_sides: tuple[int, ...] = ()
    scale_jitter: tuple[float, float] | None = None
    crop: float = 0.0
    affine_crop: tuple[float, ...] = ()
    object_crop: int = 0
    color: float = 0.0
    shuffled_color: float = 0.0
    lighting: float = 0.0
    mosaic: float = 0.0
    copy_paste: float = 0.0
    mixup: float = 0.0
    min_visible: float = 0.25
    keypoint_pairs: Pairs = ()
    class_pairs: Pairs = ()

    def __post_init__(self) -> None:
        for name in ("flip", "crop", "color", "shuffled_color", "mosaic", "copy_paste", "mixup", "min_visible"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"Augmentation: {name} must lie between 0 and 1, got {getattr(self, name)!r}.")
        sides = self.short_sides
        if min(sides, default=1) < 1 or (len(sides) == 2 and sides[0] > sides[1]):
            raise UsageError(f"Augmentation: short_sides must be (lo, hi) or a list of sides, got {sides}.")
        if self.scale_jitter is not None and not 0 < self.scale_jitter[0] <= self.scale_jitter[1]:
            raise UsageError(f"Augmentation: scale_jitter must be (lo, hi) with 0 < lo <= hi, got {self.scale_jitter}.")
        if not all(0 < share < math.inf for share in self.affine_crop):
            raise UsageError(f"Augmentation: affine_crop must be shares above 0, got {self.affine_crop}.")
        if self.object_crop < 0:
            raise UsageError(f"Augmentation: object_crop must be a side in pixels, 0 for none, got {self.object_crop}.")
        if not 0 <= self.lighting < math.inf:
            raise UsageError(f"Augmentation: lighting must be 0 or more, got {self.lighting!r}.")

    @classmethod
    def none(cls) -> Augmentation:
        """No change at all."""
        return cls(flip=0.0)

    @property
    def mixes(self) -> bool:
        """Whether images are ever put together."""
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
        pairs = describe_pairs("classes", classes.names if classes else (), self.class_pairs)
        pairs += describe_pairs("keypoints", keypoint_names, self.keypoint_pairs)
        lines = [*self._windows_and_sizes()]
        if self.flip:
            lines += [f"horizontal flip, probability {self.flip:g}", *pairs]
        lines += [*self._colours(), *self._mixing(mixing_until_epoch)]
        return lines or ["none: every image is used as it is"]

    @property
    def _ignored(self) -> str:
        return f"objects less than {self.min_visible:.0%} visible are ignored"

    def _windows_and_sizes(self) -> Iterator[str]:
        if self.crop:
            sides = f"sides {CROP_SIDE[0]:.0%} to {CROP_SIDE[1]:.0%} of the image"
            yield f"random crop, probability {self.crop:g}: {sides}; {self._ignored}"
        if self.affine_crop:
            shares = ", ".join(f"{share:g}" for share in self.affine_crop)
            what = "a square round a random point, grey beyond the image"
            yield f"affine crop: {what}, its side {shares} of the longer side; {self._ignored}"
        if self.object_crop:
            what = f"a square round one object, scaled to {self.object_crop} x {self.object_crop} pixels"
            yield f"object crop: {what}, grey beyond the image; objects less than 50% visible are ignored"
        if self.short_sides:
            sides = f"one of {', '.join(map(str, self.short_sides))}"
            sides = " to ".join(map(str, self.short_sides)) if len(self.short_sides) == 2 else sides
            yield f"short side {sides} pixels"
        if self.scale_jitter:
            beyond = f", a random window where larger; {self._ignored}" if self.scale_jitter[1] > 1 else ""
            yield f"scale jitter: size times {self.scale_jitter[0]:g} to {self.scale_jitter[1]:g}{beyond}"

    def _colours(self) -> Iterator[str]:
        if self.color:
            reach = ", ".join(f"{name} +-{value * self.color:.0%}" for name, value in COLOR_REACH.items())
            yield f"colour: {reach}"
        if self.shuffled_color:
            kinds = "brightness, contrast and saturation in random order"
            yield f"colour: {kinds}, each +-{self.shuffled_color:.0%}"
        if self.lighting:
            yield f"lighting: along the principal colours, standard deviation {self.lighting:g}"

    def _mixing(self, until_epoch: int | None) -> Iterator[str]:
        few = {None: "", 0: ", in no epoch of this run", 1: ", in the first epoch"}
        until = few.get(until_epoch, f", in the first {counted(until_epoch or 0, 'epoch')}")
        mixing = {
            "mosaic": (self.mosaic, f"four images in one; {self._ignored}"),
            "copy-paste": (self.copy_paste, f"objects of another image pasted in; {self._ignored}"),
            "mixup": (self.mixup, "another image blended in, with its objects"),
        }
        for name, (probability, text) in mixing.items():
            if probability:
                yield f"{name}, probability {probability:g}{until}: {text}"


@dataclass(frozen=True)
class Transform:
    """From an image as read to one as the model sees it: the resize, and in training what changes at random.

    Crop, affine crop, resize (with its jitter) or object crop, flip and colour, in this order. Without an
    `augmentation` it resizes alone, as evaluation and prediction do, and draws nothing. tile: the side of the tiles
    that the images are, each of which is resized as a whole one; 0 where they are no tiles.
    """

    resize: Resize
    augmentation: Augmentation = field(default_factory=Augmentation.none)
    tile: int = 0

    def needed_size(self, height: int, width: int) -> tuple[int, int]:
        """In which size the image is needed at least, whatever is drawn."""
        change, resize = self.augmentation, self.largest_resize
        if not resize.antialias or change.object_crop:  # which enlarges what it cuts out
            return height, width
        factor = max(1.0, change.scale_jitter[1]) if change.scale_jitter else 1.0
        if change.crop:
            factor /= CROP_SIDE[0]  # the smallest window is enlarged to what the whole would be
        if change.affine_crop:
            factor /= min(1.0, *change.affine_crop)
        height, width = resize.size_for(height, width)
        return math.ceil(height * factor), math.ceil(width * factor)

    @property
    def largest_resize(self) -> Resize:
        """The resize to the longest of the short sides that are drawn."""
        sides = self.augmentation.short_sides
        return self._sized(max(sides)) if sides else self._sized()

    def _sized(self, short: int | None = None) -> Resize:
        """The resize, with this short side where one is given."""
        resize = self.resize if short is None else replace(self.resize, short=short)
        return resize.for_tiles(self.tile) if self.tile else resize

    def __call__(
        self, image: Tensor, targets: Targets, generator: Generator, *, full_hw: tuple[int, int] | None = None
    ) -> tuple[Tensor, Targets]:
        """image uint8 `[3, H, W]` and its targets to `[3, h, w]` and its targets.

        The image stays uint8 where it can; it is float32 in `[0, 1]` after changes of colour and where `antialias` is
        off. full_hw: the size of the whole image, where it was decoded at a reduced one.
        """
        change = self.augmentation
        if change.crop and uniform(generator) < change.crop:
            image, targets = random_crop(image, targets, generator, min_visible=change.min_visible)
            full_hw, targets = None, without_depth(targets)
        if change.affine_crop:
            shares, visible = change.affine_crop, change.min_visible
            image, targets = affine_crop(image, targets, shares, generator, full_hw=full_hw, min_visible=visible)
            full_hw, targets = None, without_depth(targets)
        if change.object_crop:
            image, targets = self._object_crop(image, targets, generator)
        else:
            image, targets = self._resized(image, targets, generator, full_hw)
        if change.flip and uniform(generator) < change.flip:
            image, targets = flip_horizontally(
                image, targets, keypoint_pairs=change.keypoint_pairs, class_pairs=change.class_pairs
            )
        if change.color:
            image = jitter_color(to_float(image), change.color, generator)
        if change.shuffled_color:
            image = shuffle_color(to_float(image), change.shuffled_color, generator)
        if change.lighting:
            image = shift_color(to_float(image), change.lighting, generator)
        return image, targets

    def _object_crop(self, image: Tensor, targets: Targets, generator: Generator) -> tuple[Tensor, Targets]:
        side = self.augmentation.object_crop
        image, targets = object_crop(image, targets, generator)
        before_hw, size_hw = (image.shape[1], image.shape[2]), (side, side)
        image = resize_pixels(image, size_hw, antialias=self.resize.antialias)
        return image, without_depth(targets.resized(before_hw, size_hw))

    def _resized(
        self, image: Tensor, targets: Targets, generator: Generator, full_hw: tuple[int, int] | None
    ) -> tuple[Tensor, Targets]:
        """To the size that is drawn, and where that is larger than the image may be, a random window of it."""
        change, before_hw = self.augmentation, (image.shape[1], image.shape[2])
        size_hw, limit_hw = self._draw_size(full_hw or before_hw, generator)
        span_hw = span(before_hw, full_hw)
        image = resize_pixels(image, size_hw, antialias=self.resize.antialias, span_hw=span_hw)
        targets = targets.resized(span_hw, size_hw)
        if change.short_sides or change.scale_jitter is not None:
            targets = without_depth(targets)
        if size_hw[0] > limit_hw[0] or size_hw[1] > limit_hw[1]:
            window = random_window(size_hw, limit_hw, generator)
            image, targets = cut_window(image, targets, window, min_visible=change.min_visible)
        return image, targets

    def _draw_size(self, before_hw: tuple[int, int], generator: Generator) -> tuple[tuple[int, int], tuple[int, int]]:
        """The size to scale to, and the size that a window may have."""
        change, resize = self.augmentation, self._sized()
        if len(change.short_sides) == 2:
            lo, hi = change.short_sides
            resize = self._sized(int(torch.randint(lo, hi + 1, (), generator=generator)))
        elif change.short_sides:
            choice = int(torch.randint(len(change.short_sides), (), generator=generator))
            resize = self._sized(change.short_sides[choice])
        limit_hw = resize.size_for(*before_hw)
        if change.scale_jitter is None:
            return limit_hw, limit_hw
        factor = uniform(generator, *change.scale_jitter)
        return (max(1, math.floor(limit_hw[0] * factor)), max(1, math.floor(limit_hw[1] * factor))), limit_hw


def flip_horizontally(
    image: Tensor, targets: Targets, *, keypoint_pairs: Pairs = (), class_pairs: Pairs = ()
) -> tuple[Tensor, Targets]:
    """Mirror an image `[3, H, W]`; keypoints and classes of a pair change places."""
    height, width = image.shape[1:]
    frame = Frame.mirror(width)
    moved = targets.moved(frame, (height, width), class_pairs=class_pairs, keypoint_pairs=keypoint_pairs)
    return kernels.horizontal_flip(image), moved
