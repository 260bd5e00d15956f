"""Path aggregation: down the pyramid and up again, so that what a fine map knows is a few steps from a coarse one.

Paper: Liu et al., "Path Aggregation Network for Instance Segmentation", CVPR 2018, section 3.1.

`PAN` is the paper's. How ours differs: the path goes on to the levels above the backbone's maps, and stays at its size
from one map to another of the same stride.

`LitePAN` is cut to what pays on a CPU by the guidelines of ShuffleNet V2 (Ma et al. 2018, section 2): every map has the
same width (G1), no convolution has groups but the depthwise ones (G2), maps are added and not concatenated, so that
there is one convolution per map and direction (G3), and normalisation and activation come once per separable
convolution (G4).

Legend: C3..C5 are the backbone's maps at strides 8..32, P3..P7 those of the way down, N3..N7 of the way up.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import checked_class
from aweigh.layers import Activation, Norm, SeparableConv2d, make_norm, pointwise_conv
from aweigh.necks.fpn import FPN, check_maps


@checked_class(FPN)
class PAN(nn.Module):
    """A feature pyramid, and a path from its finest map up to its coarsest.

    in_channels, in_strides: the backbone's `.channels` and `.strides`. Settings: those of `FPN`.
    norm: normalisation after each convolution but those of `top`, which then have no bias; None as in the paper.
    """

    def __init__(
        self, in_channels: Sequence[int], in_strides: Sequence[int], *, norm: Norm | None = None, **settings: Any
    ) -> None:
        super().__init__()
        self.fpn = FPN(in_channels, in_strides, norm=norm, **settings)
        self.channels, self.strides = self.fpn.channels, self.fpn.strides
        width, steps = self.channels[0], [coarse // fine for fine, coarse in pairwise(self.strides)]
        self.up = nn.ModuleList(_convolution(width, step, norm) for step in steps)
        self.output = nn.ModuleList(_convolution(width, 1, norm) for _ in steps)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps `[B, in_channels[i], H_i, W_i]` to `[B, channels, H_i, W_i]`, fine to coarse."""
        finest, *pyramid = self.fpn(features)
        path = [finest]  # N3 is P3
        for level, up, output in zip(pyramid, self.up, self.output, strict=True):
            path.append(output(level + up(path[-1])))
        return path


def _convolution(channels: int, stride: int, norm: Norm | None) -> nn.Sequential:
    """A 3x3 convolution with ReLU, as all of the path; it starts as those of the `FPN`."""
    convolution = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=norm is None)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, make_norm(norm, channels) if norm else nn.Identity(), nn.ReLU(inplace=True))


class LitePAN(nn.Module):
    """Maps of a backbone, fine to coarse, in; one map more, all of `channels` channels, fine to coarse, out.

    in_channels, in_strides: the backbone's `.channels` and `.strides`; each stride doubles the one before.
    kernel: of the depthwise convolutions.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        *,
        channels: int,
        activation: Activation,
        kernel: int = 5,
        norm: Norm = "bn",
    ) -> None:
        super().__init__()
        check_maps("LitePAN", in_channels, in_strides)

        def separable(stride: int = 1, norm: Norm | None = norm) -> SeparableConv2d:
            return SeparableConv2d(channels, channels, kernel, stride=stride, norm=norm, activation=activation)

        self.lateral = nn.ModuleList(pointwise_conv(width, channels, norm, activation) for width in in_channels)
        steps = range(len(in_channels) - 1)
        self.top_down = nn.ModuleList(separable() for _ in steps)
        self.down = nn.ModuleList(separable(stride=2) for _ in steps)
        self.bottom_up = nn.ModuleList(separable() for _ in steps)
        self.extra = separable(stride=2, norm=None)  # of a small image it is one cell, which has no statistics
        self.strides = (*in_strides, 2 * in_strides[-1])
        self.channels = (channels,) * len(self.strides)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """features: `[B, in_channels[i], H_i, W_i]`, fine to coarse. Returns `[B, channels, H_i, W_i]`, fine to coarse.

        The additional map has ceil(H / 2) rows of the coarsest one; columns likewise.
        """
        pyramid = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for level in range(len(pyramid) - 2, -1, -1):
            coarse = F.interpolate(pyramid[level + 1], size=pyramid[level].shape[-2:], mode="nearest")
            pyramid[level] = self.top_down[level](pyramid[level] + coarse)
        for level, (down, merge) in enumerate(zip(self.down, self.bottom_up, strict=True)):
            pyramid[level + 1] = merge(pyramid[level + 1] + down(pyramid[level]))
        return [*pyramid, self.extra(pyramid[-1])]
