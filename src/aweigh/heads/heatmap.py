"""Heads over one map, by name: heat maps and what belongs to their peaks; and how the targets of a batch lie on it.

Papers: Law and Deng, "CornerNet", ECCV 2018; Zhou et al., "Objects as Points", 2019, section 4.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from aweigh.layers import Norm, SeparableConv2d, make_norm
from aweigh.ops import boxes as box_ops
from aweigh.ops.losses import unknown_in_batch
from aweigh.structures import Targets

HEATMAP_BIAS = -2.19  # a score of 0.1 at the start, as in the authors' code


def make_heads(
    channels: int,
    outputs: Mapping[str, int],
    *,
    hidden: int,
    kernel: int = 3,
    norm: Norm | None = None,
    separable: bool = False,
) -> nn.ModuleDict:
    """Heads by name, each a 3x3 convolution, ReLU and a 1x1 convolution (section 4), over `channels` channels.

    outputs: name -> channels. A heat map, which has `heatmap` in its name, starts at a score of 0.1. hidden: channels
    between the two. kernel: of the first, which is 1 in CornerNet-Squeeze. norm: behind the first, which is none in the
    papers. separable: the first one is a 5x5 depthwise and a 1x1 convolution, for a CPU (ours).
    """
    heads = nn.ModuleDict()
    for name, count in outputs.items():
        first: nn.Module = nn.Conv2d(channels, hidden, kernel, padding=kernel // 2)
        if separable:
            first = SeparableConv2d(channels, hidden, 5, norm=None, activation=None)
        last = nn.Conv2d(hidden, count, 1)
        nn.init.constant_(cast(Tensor, last.bias), HEATMAP_BIAS if "heatmap" in name else 0.0)
        between = nn.Identity() if norm is None else make_norm(norm, hidden)
        heads[name] = nn.Sequential(first, between, nn.ReLU(inplace=True), last)
    return heads


class MapObjects(NamedTuple):
    """The N objects of a batch that are learned, as they lie on a map."""

    row: Tensor  # [N] of an object among all objects of all images
    image: Tensor  # [N] which image it is of
    labels: Tensor  # [N]
    boxes: Tensor  # [N, 4] xyxy, cells, inside the map


def objects_on_map(targets: Sequence[Targets], size_hw: tuple[int, int], stride: float) -> MapObjects:
    """Of a box only what lies on the map of `size_hw` cells counts; a box that lies nowhere on it teaches nothing."""
    learned = [target.learned for target in targets]
    image = torch.repeat_interleave(torch.stack([kept.sum() for kept in learned]))
    labels = torch.cat([target.labels[kept] for target, kept in zip(targets, learned, strict=True)])
    boxes = torch.cat([target.boxes[kept] for target, kept in zip(targets, learned, strict=True)]) / stride
    height, width = size_hw
    boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))  # [N, 4] cells
    there = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    row = torch.cat(learned).nonzero().squeeze(1)[there]
    return MapObjects(row, image[there], labels[there], boxes[there])


def unknown_cells(
    targets: Sequence[Targets], size_hw: tuple[int, int], stride: float, num_classes: int, *, margin: float = 0
) -> Tensor | None:
    """Which cells of heat maps nobody calls background, `[B, C, H, W]` bool, by their middles; None: there are none.

    margin: pixels by which what is to ignore, or uncertain, reaches beyond its box.
    """
    points = box_ops.grid_points(*size_hw, (stride, stride), (stride / 2, stride / 2), like=targets[0].boxes)
    wider = points.new_tensor([-margin, -margin, margin, margin])
    unknown = unknown_in_batch(points, targets, num_classes, margin=margin)  # [B * H * W, C]
    ignored = [box_ops.covered(points, t.boxes[t.ignore] + wider) if t.ignore.any() else None for t in targets]
    if all(part is None for part in (unknown, *ignored)):
        return None
    nowhere = points.new_zeros(len(points), dtype=torch.bool)
    everything = torch.stack([nowhere if part is None else part for part in ignored])[:, None]  # [B, 1, H * W]
    if unknown is not None:
        everything = everything | unknown.view(len(targets), len(points), -1).transpose(1, 2)  # [B, C, H * W]
    return everything.expand(-1, num_classes, -1).reshape(len(targets), -1, *size_hw)
