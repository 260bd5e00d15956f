"""The one visible resize of an image, the same in training, evaluation and prediction, kept in the checkpoint.

Of `antialias=False` size and pixels equal those of torchvision's detection models.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aweigh.errors import REACH, UsageError
from aweigh.images.reader import reduction

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
