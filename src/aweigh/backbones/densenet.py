"""A small DenseNet, which ShuffleNet V2 compares itself with: every layer reads all those of its stage before it.

Not one of the networks of Huang et al. (CVPR 2017), whose smallest costs 2.8 G multiply-adds. Ma et al. (2018,
section 4 of ShuffleNet V2) put dense blocks into stages 2 to 4 of their own layout, adjusted the channels to four
sizes, and say no more. Ours: of the 4, 8 and 4 units of the stages the first is the transition that halves the map
and keeps the number of channels; the others give 25 times the width channels each, through a bottleneck of four times
as many. This meets the 42 M, 142 M, 295 M and 519 M of table 8 there to 1.2 %. No weights of the authors are
published.

A transition averages before its 1x1 convolution and not behind it, which is the same function at a quarter of the
cost.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from aweigh.arguments import checked_class
from aweigh.backbones.stages import Stages
from aweigh.errors import UsageError
from aweigh.layers import Norm, make_norm

WIDTHS = (0.5, 1.0, 1.5, 2.0)
STEM = 24  # channels of the first convolution (table 5 of ShuffleNet V2)
LAYERS = (3, 7, 3)  # dense ones of each stage, behind the transition
GROWTH = 25  # channels that a layer gives at width 1
BOTTLENECK = 4  # its width in those (Huang et al., section 3)


@checked_class(Stages)
class DenseNet(Stages):
    """Image in, feature maps out, fine to coarse: what the layers of a stage gave, before any normalisation.

    width: 0.5, 1.0, 1.5 or 2.0. norm: the normalisation before every convolution but the first. Settings: those of
    `Stages`.
    """

    def __init__(self, width: float = 1.0, *, norm: Norm = "bn", **settings: Any) -> None:
        if width not in WIDTHS:
            raise UsageError(f"The small DenseNet has the widths {', '.join(map(str, WIDTHS))}, got {width}.")
        growth = int(GROWTH * width)

        def stage(read: int, given: int, count: int, stride: int) -> Sequence[nn.Module]:
            layers = [DenseLayer(read + index * growth, growth, norm=norm) for index in range(count)]
            return [Transition(read, read, norm=norm), *layers]

        channels = list(accumulate((count * growth for count in LAYERS), initial=STEM))[1:]
        name = f"densenet_small_x{width}".replace(".", "_")
        super().__init__(name, [STEM], channels, LAYERS, stage, norm=norm, **settings)

    def top(self, num_classes: int) -> dict[str, nn.Module]:
        """What makes a classifier of it."""
        return {
            "norm": make_norm("bn", self.channels[-1]),
            "activation": nn.ReLU(inplace=True),
            **super().top(num_classes),
        }


class DenseLayer(nn.Module):
    """A 1x1 and a 3x3 convolution of all that is there; what they give is put behind it."""

    def __init__(self, in_channels: int, growth: int, *, norm: Norm = "bn") -> None:
        super().__init__()
        middle = BOTTLENECK * growth
        self.main = nn.Sequential(
            make_norm(norm, in_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, middle, 1, bias=False),
            make_norm(norm, middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.main(x)), dim=1)  # [B, in_channels + growth, H, W]


class Transition(nn.Sequential):
    """The map halved, by means over 2 x 2 (over what there is of it at the edge), and a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: Norm = "bn") -> None:
        super().__init__(
            make_norm(norm, in_channels),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(2, ceil_mode=True),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
        )
