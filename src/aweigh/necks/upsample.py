"""Necks that bring a backbone's maps back up to one map of stride 4, from which CenterNet reads.

Papers: Zhou et al., "Objects as Points", 2019, section 5 and figure 6; Xiao et al., "Simple Baselines for Human Pose
Estimation and Tracking", ECCV 2018 (transposed convolutions); Yu et al., "Deep Layer Aggregation", CVPR 2018.

How ours differs: behind a deformable convolution a transposed one starts as bilinear interpolation of each channel, as
section 5 says; the authors' code writes the kernels of the first output channel only, and leaves the rest to chance.

A table of builders names one of these as a detector's neck; what stands behind the `*` is an argument of the detector.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Width, checked_class
from aweigh.errors import UsageError, counted
from aweigh.layers import DeformableConv2d, Norm, SeparableConv2d, make_norm, pointwise_conv


@checked_class()
class TransposedUpsample(nn.Module):
    """The coarsest map doubled several times by transposed convolutions, to stride 4 (figure 6b).

    in_channels, in_strides: the backbone's; only the last map is read.
    channels: after each doubling. deformable: before each a modulated deformable convolution brings the map to as many
    channels, which the transposed one keeps. All have a normalisation and ReLU behind them.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        channels: Sequence[int] = (256, 128, 64),
        deformable: bool = True,
        *,
        neck_norm: Norm = "bn",
    ) -> None:
        super().__init__()
        if in_strides[-1] != 4 * 2 ** len(channels):
            raise UsageError(
                f"TransposedUpsample: {counted(len(channels), 'doubling', 'brings')} stride {4 * 2 ** len(channels)} "
                f"to 4, and the backbone's coarsest map has stride {in_strides[-1]}."
            )
        layers: list[nn.Module] = []
        for before, width in pairwise([in_channels[-1], *channels]):
            if deformable:
                layers += _deformable(before, width, neck_norm)
                up = _bilinear(width, 2, groups=1)
            else:
                up = nn.ConvTranspose2d(before, width, 4, stride=2, padding=1, bias=False)
                nn.init.normal_(up.weight, std=0.001)  # Xiao et al., the authors' code
            layers += [up, make_norm(neck_norm, width), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.channels, self.strides = (channels[-1],), (4,)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """features: `[B, in_channels[i], H_i, W_i]`, fine to coarse. Returns one map, `[B, channels[-1], ...]`."""
        return [self.layers(features[-1])]


@checked_class()
class AggregationUpsample(nn.Module):
    """Iterative deep aggregation of all maps, then of the three finest results, to stride 4 (figure 6d).

    in_channels, in_strides: the backbone's, from stride 4 on, each stride twice the one before.
    """

    def __init__(self, in_channels: Sequence[int], in_strides: Sequence[int], *, neck_norm: Norm = "bn") -> None:
        super().__init__()
        if len(in_channels) < 4 or list(in_strides) != [4 * 2**level for level in range(len(in_channels))]:
            raise UsageError(
                f"AggregationUpsample needs four maps or more of strides 4, 8, 16 ..., got channels "
                f"{list(in_channels)}, strides {list(in_strides)}."
            )
        # From the second coarsest map to the finest: what is coarser has been brought to one size and width by then.
        self.steps = nn.ModuleList(
            Aggregation([width, *[coarser] * count], [2] * count, neck_norm)
            for count, (width, coarser) in enumerate(reversed(list(pairwise(in_channels))), start=1)
        )
        self.last = Aggregation(in_channels[:3], [2, 4], neck_norm)
        self.channels, self.strides = (in_channels[0],), (4,)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """features: `[B, in_channels[i], H_i, W_i]`, fine to coarse. Returns one, `[B, in_channels[0], H_0, W_0]`."""
        waiting, maps = list(features[:-1]), [features[-1]]
        results: list[Tensor] = []  # fine to coarse
        for step in self.steps:
            maps = step([waiting.pop(), *maps])
            results.insert(0, maps[-1])
        return [self.last(results[:3])[-1]]


class Aggregation(nn.Module):
    """Each map but the first brought to the first one's size and width, then added to the one before and smoothed.

    channels: of each map. factors: by which each but the first is enlarged.
    """

    def __init__(self, channels: Sequence[int], factors: Sequence[int], norm: Norm) -> None:
        super().__init__()
        width = channels[0]
        self.project = nn.ModuleList(nn.Sequential(*_deformable(before, width, norm)) for before in channels[1:])
        self.up = nn.ModuleList(_bilinear(width, factor, groups=width) for factor in factors)
        self.node = nn.ModuleList(nn.Sequential(*_deformable(width, width, norm)) for _ in factors)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        result = [maps[0]]
        for x, project, up, node in zip(maps[1:], self.project, self.up, self.node, strict=True):
            result.append(node(up(project(x)) + result[-1]))
        return result


class NoUpsample(nn.Identity):
    """Of a backbone whose maps have been brought up already, such as an hourglass network's."""

    def __init__(self, in_channels: Sequence[int], in_strides: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.strides = tuple(in_channels), tuple(in_strides)


@checked_class()
class LiteUpsample(nn.Module):
    """A way up in depthwise-separable convolutions of one width, for a CPU; ours, after `LitePAN`.

    in_channels, in_strides: the backbone's; strides double from map to map, and the finest is 8, or 4.
    """

    def __init__(
        self, in_channels: Sequence[int], in_strides: Sequence[int], *, channels: Width = 64, neck_norm: Norm = "bn"
    ) -> None:
        super().__init__()
        if in_strides[0] not in (4, 8) or any(coarse != 2 * fine for fine, coarse in pairwise(in_strides)):
            raise UsageError(f"LiteUpsample needs strides that double from 4 or 8 on, got {list(in_strides)}.")
        self.lateral = nn.ModuleList(pointwise_conv(width, channels, neck_norm, "relu") for width in in_channels)
        self.merge = nn.ModuleList(
            SeparableConv2d(channels, channels, 5, norm=neck_norm, activation="relu") for _ in in_channels[1:]
        )
        self.doublings = in_strides[0] // 4 - 1
        self.channels, self.strides = (channels,), (4,)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """features: `[B, in_channels[i], H_i, W_i]`, fine to coarse. Returns one, `[B, channels, ...]`, stride 4."""
        x = self.lateral[-1](features[-1])
        for level in range(len(features) - 2, -1, -1):
            side = self.lateral[level](features[level])
            x = self.merge[level](side + F.interpolate(x, size=side.shape[-2:], mode="nearest"))
        return [F.interpolate(x, scale_factor=2, mode="bilinear") if self.doublings else x]


def _deformable(in_channels: int, channels: int, norm: Norm) -> list[nn.Module]:
    deformable = DeformableConv2d(in_channels, channels, 3, padding=1)
    deformable.conv.reset_parameters()  # as DCNv2's: uniform up to 1 / sqrt(9 in_channels), and without bias
    nn.init.zeros_(cast(Tensor, deformable.conv.bias))
    return [deformable, make_norm(norm, channels), nn.ReLU(inplace=True)]


def _bilinear(channels: int, factor: int, *, groups: int) -> nn.ConvTranspose2d:
    """A transposed convolution that starts by enlarging each channel by itself, bilinearly, and learns from there."""
    up = nn.ConvTranspose2d(
        channels, channels, 2 * factor, stride=factor, padding=factor // 2, groups=groups, bias=False
    )
    weight = 1 - (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor
    itself = torch.eye(channels) if groups == 1 else torch.ones(channels, 1)
    with torch.no_grad():
        up.weight.copy_(itself[:, :, None, None] * weight[:, None] * weight)
    return up
