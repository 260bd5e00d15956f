"""CenterNet of triplets: CornerNet, where a pair of corners counts if a centre of its class lies in its middle.

Paper: Duan et al., "CenterNet: Keypoint Triplets for Object Detection", ICCV 2019 (arXiv 1904.08189); not the CenterNet
of "Objects as Points", which is `centernet`. Two corners see the edges of an object only; so a third heat map finds
centres, and of each box its central region has to hold one (section 3.2). What a centre's cell reads is the largest
value of its row and of its column; what a corner's reads is the largest value along an edge plus, at each place of the
edge, what is largest inside of it (section 3.3).

How ours differs, beside what `cornernet` says:
- A box's size, which decides how large its central region is, is measured in the pixels of the image the network sees;
  the authors' network sees images in their own size.
- The authors drop boxes that reach 5 pixels or more beyond the image; ours end at its edge.

Legend: B images, C classes, P pairs, k centres.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from aweigh.backbones import hourglass_backbone, shufflenet_v2_backbone
from aweigh.heads.corners import convolution, corner_points, corner_pools, directions
from aweigh.layers import Norm
from aweigh.models.builders import Builder
from aweigh.models.cornernet import cornernet
from aweigh.necks.upsample import LiteUpsample, NoUpsample
from aweigh.ops import boxes as box_ops
from aweigh.weights.convert.cornernet import cornernet_record
from aweigh.weights.record import by_builder

LARGE = 150.0  # the side, in pixels, of the square from whose area on a box's central region is narrow (section 3.2)


def score_triplets(
    boxes: Tensor, scores: Tensor, labels: Tensor, centers: Tensor, center_scores: Tensor, center_labels: Tensor
) -> Tensor:
    """Scores of pairs with the best centre of their class in their central region: the mean of all three points, or 0
    where there is none: `[B, P]`.

    boxes: `[B, P, 4]` in pixels; scores and labels: `[B, P]`, of pairs (0: none). centers: `[B, k, 2]` (x, y) in
    pixels, their scores and labels `[B, k]`.
    """
    start, end = central_regions(boxes).chunk(2, dim=-1)  # [B, P, 2] each
    points = centers[:, None]  # [B, 1, k, 2]
    inside = ((points > start[:, :, None]) & (points < end[:, :, None])).all(dim=-1)  # [B, P, k]
    fitting = inside & (labels[:, :, None] == center_labels[:, None])
    best = torch.where(fitting, center_scores[:, None], 0).amax(dim=-1)  # [B, P]
    return torch.where((scores > 0) & (best > 0), (2 * scores + best) / 3, 0)


def central_regions(boxes: Tensor) -> Tensor:
    """The middle n-th of boxes `[..., 4]` along both sides (equation 1): n is 3, or 5 for a box of more than `LARGE`
    squared pixels, whose third would hold other things' centres."""
    n = torch.where(box_ops.areas(boxes) > LARGE**2, 5, 3)[..., None]
    start, end = boxes.chunk(2, dim=-1)
    return torch.cat([(n + 1) * start + (n - 1) * end, (n - 1) * start + (n + 1) * end], dim=-1) / (2 * n)


class CenterPool(nn.Module):
    """What is largest in each cell's row, plus what is largest in its column (figure 4a)."""

    def __init__(self, channels: int, *, hidden: int, norm: Norm, separable: bool) -> None:
        super().__init__()
        self.vertical, self.horizontal = (
            convolution(channels, hidden, norm=norm, separable=separable) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        vertical, horizontal = cast(Tensor, self.vertical(x)), cast(Tensor, self.horizontal(x))
        return vertical.amax(dim=2, keepdim=True) + horizontal.amax(dim=3, keepdim=True)


class CascadeCornerPool(nn.Module):
    """Corner pooling of a map to which, before looking along an edge, the largest value inside of it is added
    (figure 4c, figure 5b)."""

    def __init__(self, channels: int, *, bottom_right: bool, hidden: int, norm: Norm, separable: bool) -> None:
        super().__init__()
        self.vertical, self.horizontal, self.inside_vertical, self.inside_horizontal = (
            convolution(channels, hidden, norm=norm, separable=separable) for _ in range(4)
        )
        self.mix_vertical, self.mix_horizontal = (_plain(hidden, separable) for _ in range(2))
        self.bottom_right = bottom_right

    def forward(self, x: Tensor) -> Tensor:
        down, across = directions(self.bottom_right)
        vertical = self.mix_vertical(self.vertical(x) + across(self.inside_vertical(x)))
        horizontal = self.mix_horizontal(self.horizontal(x) + down(self.inside_horizontal(x)))
        return down(vertical) + across(horizontal)


def _plain(channels: int, separable: bool) -> nn.Module:
    """A 3x3 convolution alone; separable: its like for a CPU."""
    if not separable:
        return nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(channels, channels, 1, bias=False))


# Builders: each architecture with its numbers, and the weights its authors have published

_FORM = partial(cornernet, rescore=score_triplets)
_POINTS = partial(corner_points, gathers={**corner_pools(CascadeCornerPool), "center": CenterPool})
# What the authors' code has: the radius of CornerNet's first code, and 70 points of a kind.
_VALUES = {"radius": "official", "radius_iou": 0.7, "points_per_kind": 70}

BUILDERS = {
    # AP 44.9 on test-dev; with `stacks=1`, which the paper calls Hourglass-52, 41.6.
    "centernet_triplets_hourglass104": Builder(
        _FORM, hourglass_backbone, _VALUES, {"neck": NoUpsample, "heads": _POINTS}
    ),
    # Light enough to be trained on a CPU, as `cornernet_shufflenet_v2_x0_5_lite` is.
    "centernet_triplets_shufflenet_v2_x0_5_lite": Builder(
        _FORM,
        partial(shufflenet_v2_backbone, 0.5),
        {**_VALUES, "point_channels": None},
        {"neck": LiteUpsample, "heads": partial(_POINTS, separable=True)},
    ),
}

_HOURGLASS = "centernet_triplets_hourglass104"
_MIT = "MIT (Duankaiwen/CenterNet)"
PUBLISHED = by_builder(
    cornernet_record(_HOURGLASS, "CenterNet-104_480000", "open?id=1GVN-YrgExbPPcmzn_Lkr49f2IKjodg15", _MIT, 44.9),
    replace(
        cornernet_record(_HOURGLASS, "CenterNet-52_480000", "open?id=14vJYw4P9sxDoltjp5zDkOS3QjUa2zZIP", _MIT, 41.6),
        name="hourglass52",
        arguments={"stacks": 1},
    ),
)
