"""The one visible resize of an image, the same in training, evaluation and prediction, kept in the checkpoint.

Of `antialias=False` size and pixels equal those of torchvision's detection models.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from aweigh.errors import REACH, UsageError
from aweigh.images.reader import reduction
from aweigh.images.resample import resample

LARGEST_SIDE, LARGEST_SCALE = int(REACH["size"][1]), 100  # ours; no network has room for more


@dataclass(frozen=True)
class Resize:
    """Scale an image, keeping its shape, until its short side is `short` or its long side is `long`.

    The new sides are `floor(side * min(short / shortest, long / longest))`, at least 1 pixel: with
    `antialias=False` size and pixels equal those of torchvision's detection models. `short=None`: the longest side
    becomes exactly `long`, which serves inputs of fixed size. `long=None`: no bound. antialias: smooth when shrinking;
    uint8 images then stay uint8, at most one grey level beside the float kernel, and four times as fast in training.
    scale: a factor on the sides that this gives, by which test-time augmentation looks closer or from further away.
    within: height and width that are never exceeded, as of a graph for images of one size.
    """

    short: int | None = 800
    long: int | None = 1333
    antialias: bool = True
    scale: float = 1.0
    within: tuple[int, int] | None = None

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
        if self.within is not None:
            within = tuple(self.within) if isinstance(self.within, list | tuple) else ()
            if len(within) != 2 or not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in within):
                raise UsageError(f"Resize: within must be a height and a width in pixels or None, got {self.within!r}.")
            object.__setattr__(self, "within", within)

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing an image of `height` x `width`."""
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
        if self.within is not None:
            fitting = min(1.0, *(most / side for most, side in zip(self.within, sides, strict=True)))
            sides = [max(1, math.floor(side * fitting)) for side in sides]
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

    def for_tiles(self, side: int) -> Resize:
        """This step as one of square tiles of `side` pixels: by the factor that a whole tile gets, also where the image
        is smaller than one, so that objects have one size in all of them."""
        return replace(self, short=None, long=None, scale=self.size_for(side, side)[0] / side)

    def needed_size(self, height: int, width: int) -> tuple[int, int]:
        """In which size an image is needed at least; without antialias every pixel counts, so in full."""
        return self.size_for(height, width) if self.antialias else (height, width)

    def __call__(self, image: np.ndarray, *, full_hw: tuple[int, int] | None = None) -> np.ndarray:
        """uint8 or floating-point `(H, W, 3)`, of the latter in `[0, 1]`, to float32 `[3, h, w]` in `[0, 1]`.

        full_hw: the size of the whole image, where it was decoded at a reduced one.
        """
        if image.ndim != 3 or not (image.dtype == np.uint8 or image.dtype.kind == "f"):
            raise UsageError(f"An image must be uint8 or float (H, W, 3), got {image.dtype} {image.shape}.")
        before_hw = (image.shape[0], image.shape[1])
        size_hw = self.size_for(*full_hw or before_hw)
        if size_hw == before_hw:
            return unit_range(image.transpose(2, 0, 1))
        pixels = image if self.antialias else unit_range(image)
        return unit_range(resample(pixels, size_hw, antialias=self.antialias, span_hw=span(before_hw, full_hw)))

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; a scale of 1, and no limit, are left out."""
        plain = {"scale": 1, "within": None}
        return {name: value for name, value in asdict(self).items() if name not in plain or value != plain[name]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Resize:
        known = [entry.name for entry in fields(cls)]
        if unknown := sorted(set(values) - {*known}):
            raise UsageError(f"Resize: unknown argument {unknown[0]!r}; known: {', '.join(known)}.")
        return cls(**values)


def span(image_hw: tuple[int, int], full_hw: tuple[int, int] | None) -> tuple[float, float]:
    """The part of an image that its content fills: all, unless it was decoded at a size that is not exactly reduced.

    full_hw: the size of the whole, of which the image is the half (or a quarter, or an eighth), rounded up.
    """
    if full_hw is None or full_hw == image_hw:
        return image_hw
    factor = reduction(image_hw, full_hw)
    return full_hw[0] / factor, full_hw[1] / factor


def unit_range(pixels: np.ndarray) -> np.ndarray:
    """uint8, or float in `[0, 1]`, to float32 in `[0, 1]`."""
    result: np.ndarray = np.asarray(pixels, dtype=np.float32)
    return result / np.float32(255) if pixels.dtype == np.uint8 else result
