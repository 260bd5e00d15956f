"""Places of an image that are looked at closer, by what a look at the whole of it says.

Paper: Law et al., "CornerNet-Lite", 2019, section 3; numbers that it leaves out are those of its authors' code.

Legend: B images, k places of an image.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from aweigh.ops.boxes import longer_sides
from aweigh.ops.heatmaps import columns_rows
from aweigh.ops.patches import Patches, out_of_patches

WIDEST, CLOSEST = 2.0, 4.0  # the scale of a view from which no look is closer, and of the closest look (their code)


class Places(NamedTuple):
    """The middles of closer looks at each image."""

    middles: Tensor  # [B, k, 2] x, y in pixels of the image
    scales: Tensor  # [B, k] pixels of the closer look for one of the image
    scores: Tensor  # [B, k] 0 for none


def attended(
    logits: Tensor, views: Patches, sizes_hw: Tensor, side: int, *, stride: float, zoom: float, threshold: float
) -> Places:
    """Where attention maps `[B, 1, H, W]` of one view of each image are higher than all round, and than `threshold`.

    stride: of a cell in pixels of the view, whose sides are `side` pixels. zoom: how many times closer the look is. No
    place lies beyond its image, of `sizes_hw` `[B, 2]`, and there is none where the view itself is close enough.
    """
    height, width = logits.shape[-2:]
    cells = columns_rows(torch.arange(height * width, device=logits.device), width)  # [k, 2]
    at = (cells * stride).to(logits.dtype).expand(logits.shape[0], -1, -1)  # `len` would fix the number of images
    middles = out_of_patches(at, views, side)  # [B, k, 2]
    scale = zoom * views.scales  # [B]
    inside = ((middles >= 0) & (middles < sizes_hw.flip(1)[:, None])).all(dim=-1)
    allowed = (views.scales <= WIDEST) & (scale <= CLOSEST)
    scores = logits.sigmoid()
    kept = (logits == F.max_pool2d(logits, 3, stride=1, padding=1)) & (scores > threshold)  # [B, 1, H, W]
    kept = kept.flatten(1) & inside & allowed[:, None]
    return Places(middles, scale[:, None].expand(-1, height * width), torch.where(kept, scores.flatten(1), 0))


def around_boxes(boxes: Tensor, scores: Tensor, *, threshold: float) -> Places:
    """Looks round boxes `[B, k, 4]` whose scores `[B, k]` are above `threshold`, before all other places, in which the
    longer side of the box is 192, 64 or 24 pixels, by what it is in the image."""
    longest = longer_sides(boxes).clamp(min=1)
    wanted = torch.where(longest > 96, 192, torch.where(longest > 32, 64, 24))
    return Places((boxes[..., :2] + boxes[..., 2:]) / 2, wanted / longest, (scores > threshold).to(scores.dtype))


def best_places(places: Places, count: int, *, distance: float) -> Places:
    """The best `count` places of each image, best first, of which each hides what is near to it: `[B, count]` of them.

    Near is what lies `distance` pixels of the closer look away or less, by its column or by its row, and has 0.8 to 1.2
    of its scale (the authors' code takes the smaller of both distances).
    """
    remaining = places.scores
    chosen: list[Places] = []
    for _ in range(count):
        score, best = remaining.max(dim=1, keepdim=True)  # [B, 1]
        middle = places.middles.gather(1, best[..., None].expand(-1, -1, 2))  # [B, 1, 2]
        scale = places.scales.gather(1, best)
        near = (places.middles - middle).abs().amin(dim=-1) <= distance / scale
        ratio = scale / places.scales
        hidden = near & (ratio >= 0.8) & (ratio <= 1.2)
        remaining = torch.where(hidden, 0, remaining).scatter(1, best, 0)
        chosen.append(Places(middle, scale, score))
    return Places(*(torch.cat(parts, dim=1) for parts in zip(*chosen, strict=True)))
