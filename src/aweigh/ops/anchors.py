"""Anchor boxes: their shapes, and their places on a feature map.

Legend: K anchors in each cell, P cells of a level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from aweigh.ops import boxes as box_ops


def anchor_shapes(sizes: Sequence[float], ratios: Sequence[float], *, rounded: bool = False) -> Tensor:
    """Every size in every ratio, round the origin: `[K, 4]` xyxy in pixels, all sizes of the first ratio first.

    sizes: the root of an anchor's area, pixels. ratios: height over width (Lin et al. 2017, RetinaNet, section 4).
    rounded: corners at whole pixels, as in torchvision. They have values where a detector is built on the meta device.
    """
    height = torch.tensor(ratios, dtype=torch.float32, device="cpu").sqrt()  # at size 1
    sides = torch.stack([1 / height, height], dim=1)  # [R, 2]
    each = torch.tensor(sizes, dtype=torch.float32, device="cpu")
    half = (sides[:, None] * each[:, None]).flatten(0, 1) / 2  # [R * S, 2]
    shapes = torch.cat([-half, half], dim=1)
    return shapes.round() if rounded else shapes


def place_anchors(shapes: Tensor, points: Tensor) -> Tensor:
    """Shapes `[K, 4]` round each of the points `[P, 2]`: `[P * K, 4]` xyxy, the K of the first point first."""
    shapes = shapes.to(points.device)
    return (points.repeat(1, 2)[:, None] + shapes).flatten(0, 1)  # [P * K, 4]


def level_anchors(shapes: Tensor, feature: Tensor, pixels: Tensor, stride: int, *, fitted: bool) -> Tensor:
    """Shapes `[K, 4]` round the upper left corner of each cell of `feature` `[B, C, H, W]`: `[H*W*K, 4]` xyxy, pixels.

    Cells are `stride` pixels apart, or, as in torchvision, where `fitted`: the size of `pixels` // that of the map.
    """
    height, width = feature.shape[-2:]
    steps = (pixels.shape[-2] // height, pixels.shape[-1] // width) if fitted else (stride, stride)
    return place_anchors(shapes, box_ops.grid_points(height, width, steps, (0, 0), like=feature))


def anchor_rows(cells: Tensor, width: int) -> Tensor:
    """What a head says of K anchors in each cell, one row each: `[B, K * width, H, W]` to `[B, H*W*K, width]`."""
    return cells.permute(0, 2, 3, 1).reshape(cells.shape[0], -1, width)
