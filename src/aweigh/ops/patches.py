"""Square parts of images, each brought to one size by a scale of its own.

Legend: B images, P patches, S the side of a patch in pixels. Middles are `[P, 2]` (x, y) in pixels of the image, scales
`[P]` pixels of the patch for one of the image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Patches(NamedTuple):
    """Where patches lie: a pixel x of an image is `(x - middle) * scale + S / 2` in its patch."""

    image: Tensor  # [P] int64, which image each is of
    middles: Tensor  # [P, 2]
    scales: Tensor  # [P]

    def portions(self, size: int) -> list[Patches]:
        """So many of them at a time; nothing of none."""
        starts = range(0, len(self.scales), size)
        return [Patches(*(part[start : start + size] for part in self)) for start in starts]


def whole_images(sizes_hw: Tensor, longer_side: int) -> Patches:
    """The whole of images of `sizes_hw` `[B, 2]`, their longer side so many pixels long."""
    sizes = sizes_hw.float()
    image = torch.arange(sizes_hw.shape[0], device=sizes_hw.device)  # `len` would fix the number of images
    return Patches(image, sizes.flip(1) / 2, longer_side / sizes.amax(dim=1))


def cut_patches(pixels: Tensor, sizes_hw: Tensor, patches: Patches, side: int, beyond: Tensor) -> Tensor:
    """Patches `[P, 3, S, S]` of images `[B, 3, H, W]` whose sizes within their padding are `sizes_hw` `[B, 2]`.

    Bilinear between the middles of pixels, without any filter before where a patch is a reduced part, as the authors'
    code of CornerNet-Lite has it. beyond: `[3]`, the colour of what lies outside of the image.
    """
    steps = torch.arange(side, device=pixels.device) + (0.5 - side / 2)  # [S], from the middle, pixels of the patch
    places = steps / patches.scales[:, None, None] + patches.middles[:, :, None]  # [P, 2, S]
    limits = sizes_hw[patches.image].flip(1)[:, :, None].to(places.dtype)  # [P, 2, 1] width, height
    inside = (places > 0) & (places < limits)
    centers = torch.minimum((places - 0.5).clamp(min=0), limits - 1)  # in steps from the middle of the first pixel
    before = centers.floor()
    share_x, share_y = (centers - before).to(pixels.dtype).unbind(1)  # [P, S], of the pixel behind
    behind = torch.minimum(before + 1, limits - 1).long()
    (x0, y0), (x1, y1) = before.long().unbind(1), behind.unbind(1)  # [P, S]
    rows, image = pixels.permute(0, 2, 3, 1), patches.image[:, None, None]  # [B, H, W, 3]

    def line(y: Tensor) -> Tensor:  # [P, S, S, 3], between two columns
        left, right = (rows[image, y[:, :, None], x[:, None, :]] for x in (x0, x1))
        return left + (right - left) * share_x[:, None, :, None]

    upper, lower = line(y0), line(y1)
    mixed = upper + (lower - upper) * share_y[:, :, None, None]
    there = inside[:, 1, :, None] & inside[:, 0, None, :]  # [P, S, S]
    return torch.where(there[..., None], mixed, beyond.to(mixed.dtype)).permute(0, 3, 1, 2)


def into_patches(boxes: Tensor, patches: Patches, side: int) -> Tensor:
    """Boxes `[P, N, 4]` in pixels of their images, in those of the patch of each row."""
    return (boxes - patches.middles.repeat(1, 2)[:, None]) * patches.scales[:, None, None] + side / 2


def out_of_patches(places: Tensor, patches: Patches, side: int) -> Tensor:
    """Boxes `[P, N, 4]` or points `[P, N, 2]` in pixels of the patch of each row, in those of its image."""
    middles = patches.middles.repeat(1, places.shape[-1] // 2)[:, None]
    return (places - side / 2) / patches.scales[:, None, None] + middles
