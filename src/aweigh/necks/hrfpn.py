"""HRNet's pyramid: all maps joined at the finest, and a pyramid pooled from them.

Paper: Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", 2019, HRNetV2p (figure 4c);
the 3x3 convolutions, and that FCOS strides them, are of its authors' programs.

How ours differs: at the right and lower border, where windows of a level reach beyond the map, the mean is that of the
cells there are; the authors leave these cells out. In images whose sides are multiples of the coarsest stride there
are none.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Few, Width, checked_class
from aweigh.layers import Norm, make_norm
from aweigh.necks.fpn import check_maps


@checked_class()
class HRFPN(nn.Module):
    """Maps of a backbone, fine to coarse, in; `levels` maps of `channels` channels each, fine to coarse, out.

    in_channels, in_strides: the backbone's `.channels` and `.strides`; each stride doubles the one before or equals it.
    stride: of the 3x3 convolution of each level: with 1 the finest level is as large as the finest map, with 2, as FCOS
    has it, half as large.
    norm: normalisation after each convolution, which then has no bias; None as in the paper.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        *,
        channels: Width = 256,
        levels: Few = 5,
        stride: Few = 1,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        check_maps("HRFPN", in_channels, in_strides, may_stay=True)
        self.join = _convolution(sum(in_channels), channels, 1, 1, norm)
        self.output = nn.ModuleList(_convolution(channels, channels, 3, stride, norm) for _ in range(levels))
        self.strides = tuple(in_strides[0] * stride * 2**level for level in range(levels))
        self.channels = (channels,) * levels

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps `[B, in_channels[i], H_i, W_i]` to `[B, channels, ...]`, each half as large as the one before."""
        finest, *others = features
        size = finest.shape[-2:]
        enlarged = [F.interpolate(each, size=size, mode="bilinear", align_corners=False) for each in others]
        joined = self.join(torch.cat([finest, *enlarged], dim=1))
        return [output(_pooled(joined, 2**level)) for level, output in enumerate(self.output)]


def _pooled(x: Tensor, side: int) -> Tensor:
    """The means of windows of `side` x `side` cells; of what there is of a window at the border."""
    return F.avg_pool2d(x, side, ceil_mode=True, count_include_pad=False) if side > 1 else x


def _convolution(in_channels: int, channels: int, kernel: int, stride: int, norm: Norm | None) -> nn.Module:
    convolution = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=norm is None)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution if norm is None else nn.Sequential(convolution, make_norm(norm, channels))
