"""ShuffleNet V1 (Zhang et al., CVPR 2018): 1x1 convolutions in groups, and channels shuffled between the groups.

The form is that of the models its authors published later (ShuffleNet-Series), whose weights load
(`weights/convert/shufflenet_series.py`). It differs from the paper in this:

- The shuffle stands behind the depthwise convolution, not before it, which is the same function: that one treats every
  channel alone. It deals the channels out by turns, as the paper's does, but in the other direction.
- A strided unit has its ReLU before the concatenation. What is averaged is not negative, so that is the same function.
- At width 1.5 the first convolution has 24 channels; at width 0.5 in 8 groups it has 16, which the groups divide.
- Their networks read pixels from 0 to 255, so that beyond the image lies black (`BlackBorder`).

Ours: in 2 and 4 groups, widths 0.5 and 1.5 have the next number of channels that the groups divide.

Legend: B images, C channels, g groups.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import passes_on
from aweigh.backbones.stages import Stages, small_stages
from aweigh.errors import UsageError
from aweigh.layers import Norm, make_norm

CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # of stage 2 at width 1, by groups (table 1)
STEM = {0.5: 12, 1.0: 24, 1.5: 24, 2.0: 48}  # channels of the first convolution, by width (ShuffleNet-Series)


@passes_on(Stages, without=("activation", "black_border"))
def shufflenet_v1(width: float = 1.0, groups: int = 3, *, norm: Norm = "bn", **settings: Any) -> Stages:
    """The backbone; `classifier` puts the rest round it.

    width: 0.5, 1.0, 1.5 or 2.0. groups: 1, 2, 3, 4 or 8; ShuffleNet V2 compares itself with 3. norm: the normalisation
    after every convolution. Settings: those of `Stages`.
    """
    if width not in STEM:
        raise UsageError(f"ShuffleNet V1 has the widths {', '.join(map(str, STEM))}, got {width}.")
    if groups not in CHANNELS:
        raise UsageError(f"ShuffleNet V1: groups are one of {', '.join(map(str, CHANNELS))}; got {groups}.")
    stem = math.ceil(STEM[width] / groups) * groups
    channels = math.ceil(width * CHANNELS[groups] / (4 * groups)) * 4 * groups

    def unit(read: int, given: int, stride: int) -> Unit:
        # The first of all reads too few channels for groups (section 3.2).
        return Unit(read, given, stride, groups=groups, first_groups=1 if read == stem else groups, norm=norm)

    name = f"shufflenet_v1_g{groups}_x{width}".replace(".", "_")
    return small_stages(name, stem, channels, unit, norm=norm, black_border=True, **settings)


class Unit(nn.Module):
    """Figure 2 of the paper: (b) without a stride, (c) with one. The bottleneck has a quarter of the channels given.

    groups: of the 1x1 convolutions, first_groups: of the first of them.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, *, groups: int, first_groups: int, norm: Norm = "bn"
    ) -> None:
        super().__init__()
        middle = out_channels // 4
        given = out_channels - in_channels if stride == 2 else out_channels
        self.reduce = nn.Sequential(
            nn.Conv2d(in_channels, middle, 1, groups=first_groups, bias=False),
            make_norm(norm, middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, middle, 3, stride=stride, padding=1, groups=middle, bias=False),
            make_norm(norm, middle),
        )
        self.expand = nn.Sequential(nn.Conv2d(middle, given, 1, groups=groups, bias=False), make_norm(norm, given))
        self.stride, self.groups = stride, groups

    def forward(self, x: Tensor) -> Tensor:
        main = self.expand(shuffle(self.reduce(x), self.groups))
        if self.stride == 2:
            return torch.cat((F.avg_pool2d(x, 3, stride=2, padding=1), F.relu(main)), dim=1)
        return F.relu(main + x)


def shuffle(x: Tensor, groups: int) -> Tensor:
    """`[B, C, H, W]`: each of the new groups gets every g-th channel, and so some of each old group."""
    return torch.unflatten(x, 1, (-1, groups)).transpose(1, 2).flatten(1, 2)  # [B, C / g, g, H, W] -> [B, C, H, W]
