"""The small Xception of Light-Head R-CNN (Li et al., 2017), which ShuffleNet V2 compares itself with in detection.

Not the network of Chollet (2017), whose smallest form in timm costs thirty times as much (4.6 G multiply-adds).

The paper gives the stages: 24 channels, then 144, 288 and 576 in 4, 8 and 4 units, 145 M multiply-adds; and says that
a unit is a bottleneck whose convolutions are all separable, with activations behind and not before them. It does not
give the channels inside a unit, nor what a strided unit adds. Ours: 2 / 9 of the channels (32, 64 and 128), and nothing
added. This meets the 40 M, 145 M, 305 M and 525 M of the four widths (Ma et al. 2018, ShuffleNet V2, table 8) to 2 %,
and a unit sees 7 pixels, as section 4 there says. No weights of the authors are published.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import passes_on
from aweigh.backbones.stages import Stages, small_stages
from aweigh.errors import UsageError
from aweigh.layers import Norm, SeparableConv2d

WIDTHS = (0.5, 1.0, 1.5, 2.0)


@passes_on(Stages, without=("activation", "black_border"))
def xception(width: float = 1.0, *, norm: Norm = "bn", **settings: Any) -> Stages:
    """The backbone; `classifier` puts the rest round it.

    width: 0.5, 1.0, 1.5 or 2.0. norm: the normalisation after every separable convolution. Settings: those of `Stages`.
    """
    if width not in WIDTHS:
        raise UsageError(f"The small Xception has the widths {', '.join(map(str, WIDTHS))}, got {width}.")
    name = f"xception_small_x{width}".replace(".", "_")
    unit = partial(Unit, norm=norm)
    return small_stages(name, int(24 * width), int(144 * width), unit, norm=norm, **settings)


class Unit(nn.Module):
    """Three separable 3x3 convolutions, the first two of them narrow; without a stride, what was read is added."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, norm: Norm = "bn") -> None:
        super().__init__()
        middle = out_channels * 2 // 9
        self.main = nn.Sequential(
            SeparableConv2d(in_channels, middle, 3, stride=stride, norm=norm, activation="relu"),
            SeparableConv2d(middle, middle, 3, norm=norm, activation="relu"),
            SeparableConv2d(middle, out_channels, 3, norm=norm, activation=None),
        )
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        main: Tensor = self.main(x)
        return F.relu(main + x if self.stride == 1 else main)
