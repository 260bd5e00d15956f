"""ShuffleNet V2 (Ma et al., 2018): a backbone made for low memory access cost.

Parameter names and channel order are torchvision's, so its published weights load. Ours differs from torchvision's
code in that concatenation and channel shuffle are one interleaving copy.

There are two forms, which compute different functions and whose weights do not fit each other:

=======================  ==========================  ====================================================
value                    torchvision (default)       authors
=======================  ==========================  ====================================================
stride-2 unit gives      half by each branch         in by the projection, out - in by the main branch
stride-1 unit keeps      the first half              the even channels
a unit ends with         the channel shuffle         the concatenation
beyond the image is      the mean colour             black
=======================  ==========================  ====================================================

The first row makes a difference in stage 2 alone (elsewhere in = out / 2). The numbers of multiply-adds in the paper
are those of the authors' form; torchvision's has up to 1.4 % fewer.

Legend: B images, C channels of a unit's output, half = C / 2 the channels of the main branch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from aweigh.arguments import checked_class
from aweigh.backbones.stages import Stages
from aweigh.errors import UsageError
from aweigh.layers import Activation, Norm, make_norm, pointwise_conv

Form = Literal["torchvision", "authors"]


class Layout(NamedTuple):
    """Channels of the stem's 3x3 convolutions, after each stage (the last of stride 32) and of conv5; units a stage."""

    stem: tuple[int, ...]
    channels: tuple[int, ...]
    units: tuple[int, ...]
    last: int


# By width (table 5 of the paper) and by depth (table in its appendix, whose numbers are those of a unit's output: read
# as those of a branch, the networks would cost four times what the table says).
LAYOUTS = {
    0.5: Layout((24,), (48, 96, 192), (4, 8, 4), 1024),
    1.0: Layout((24,), (116, 232, 464), (4, 8, 4), 1024),
    1.5: Layout((24,), (176, 352, 704), (4, 8, 4), 1024),
    2.0: Layout((24,), (244, 488, 976), (4, 8, 4), 2048),
    50: Layout((64,), (244, 488, 976, 1952), (3, 4, 6, 3), 2048),
    164: Layout((64, 64, 128), (340, 680, 1360, 2720), (10, 10, 23, 10), 2048),
}
WIDTHS = (0.5, 1.0, 1.5, 2.0)


@checked_class(Stages)
class ShuffleNetV2(Stages):
    """Image in, feature maps out, fine to coarse.

    width: 0.5, 1.0, 1.5 or 2.0. depth: 50 or 164, the deep networks of the appendix, which have one width each and a
    map at level 2 too. activation: `"leaky_relu"` has slope 0.1, which some published detectors use with this backbone.
    extra_depthwise, squeeze, residual: variants of the unit, see `Unit`. form: see the top of this file. norm: the
    normalisation after every convolution. Settings: those of `Stages`.
    """

    activation: Activation

    def __init__(
        self,
        width: float = 1.0,
        *,
        depth: Literal[50, 164] | None = None,
        extra_depthwise: bool = False,
        squeeze: bool = False,
        residual: bool = False,
        form: Form = "torchvision",
        norm: Norm = "bn",
        activation: Activation = "relu",
        **settings: Any,
    ) -> None:
        if depth is None and width not in WIDTHS:
            raise UsageError(f"ShuffleNet V2 has the widths {', '.join(map(str, WIDTHS))}, got {width}.")
        layout = LAYOUTS[depth or width]
        variants = {"dw": extra_depthwise, "se": squeeze, "res": residual, "authors": form == "authors"}
        name = f"shufflenet_v2_{depth or f'x{width}'}".replace(".", "_")
        unit = partial(
            Unit,
            norm=norm,
            activation=activation,
            extra_depthwise=extra_depthwise,
            squeeze=squeeze,
            residual=residual,
            form=form,
        )

        def stage(read: int, given: int, count: int, stride: int) -> list[Unit]:
            return [unit(read, given, stride=stride), *(unit(given, given) for _ in range(count - 1))]

        super().__init__(
            "_".join([name, *(variant for variant in variants if variants[variant])]),
            layout.stem,
            layout.channels,
            layout.units,
            stage,
            norm=norm,
            activation=activation,
            black_border=form == "authors",
            **settings,
        )
        self.activation, self.layout = activation, layout

    def top(self, num_classes: int) -> dict[str, nn.Module]:
        """What makes a classifier of it. Dropout of 0.2 at width 2.0 alone, as the authors have it."""
        layout = self.layout
        return {
            "conv5": pointwise_conv(layout.channels[-1], layout.last, "bn", self.activation),
            "pool": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            "dropout": nn.Dropout(0.2 if layout == LAYOUTS[2.0] else 0.0),
            "fc": nn.Linear(layout.last, num_classes),
        }


class Unit(nn.Module):
    """One unit of the paper's figure 3: (c) without a stride, (d) with one.

    stride: 2, or 1 for the first unit of a deep network; None: the unit splits its input and keeps one part as it is.
    extra_depthwise: v2* of section 4, for detection: a 3x3 depthwise convolution before the first 1x1 convolution, so
    that the unit sees 5 pixels instead of 3.
    squeeze: squeeze and excitation behind the main branch (figure 2(b) of the appendix), its two layers as wide as the
    branch: as the authors' released SE network has them, and the only width with the paper's 597M and 12.7G.
    residual: the main branch adds what it read to what it gives, where it splits (figure 2(a) of the appendix).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int | None = None,
        norm: Norm = "bn",
        activation: Activation = "relu",
        extra_depthwise: bool = False,
        squeeze: bool = False,
        residual: bool = False,
        form: Form = "torchvision",
    ) -> None:
        super().__init__()
        half = out_channels // 2
        kept = in_channels if form == "authors" and stride else half
        read = in_channels if stride else half
        self.branch1 = nn.Sequential()
        if stride:
            self.branch1 = nn.Sequential(
                *_depthwise(in_channels, stride, norm), *pointwise_conv(in_channels, kept, norm, activation)
            )
        self.before = nn.Sequential(*_depthwise(read, 1, norm) if extra_depthwise else ())
        self.branch2 = nn.Sequential(
            *pointwise_conv(read, half, norm, activation),
            *_depthwise(half, stride or 1, norm),
            *pointwise_conv(half, out_channels - kept, norm, activation),
        )
        self.squeeze = SqueezeExcitation(out_channels - kept, out_channels - kept) if squeeze else nn.Identity()
        self.splits, self.residual, self.form = stride is None, residual and stride is None, form

    def forward(self, x: Tensor) -> Tensor:
        kept, x = self.split(x) if self.splits else (self.branch1(x), x)
        main = self.squeeze(self.branch2(self.before(x)))
        return self.join(kept, main + x if self.residual else main)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The channels that are kept and those the main branch reads, each `[B, half, H, W]`."""
        if self.form == "authors":
            return x[:, 0::2], x[:, 1::2]
        kept, read = x.chunk(2, dim=1)
        return kept, read

    def join(self, kept: Tensor, main: Tensor) -> Tensor:
        """Both branches in the order the next unit expects, `[B, C, H, W]`."""
        return torch.cat((kept, main), dim=1) if self.form == "authors" else interleave(kept, main)


def interleave(first: Tensor, second: Tensor) -> Tensor:
    """Channels of two maps `[B, half, H, W]` by turns, `[B, 2 half, H, W]`: concatenation, then shuffle in 2 groups."""
    return torch.stack((first, second), dim=2).flatten(1, 2)  # [B, half, 2, H, W] -> [B, C, H, W]


def _depthwise(channels: int, stride: int, norm: Norm) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)
    return [convolution, make_norm(norm, channels)]


# Every network of the paper by name; a backbone, round which `classifier` puts the rest. Options as `ShuffleNetV2`.
BUILDERS: dict[str, Callable[..., ShuffleNetV2]] = {
    "shufflenet_v2_x0_5": partial(ShuffleNetV2, 0.5),
    "shufflenet_v2_x1_0": partial(ShuffleNetV2, 1.0),
    "shufflenet_v2_x1_5": partial(ShuffleNetV2, 1.5),
    "shufflenet_v2_x2_0": partial(ShuffleNetV2, 2.0),
    "shufflenet_v2_x2_0_se": partial(ShuffleNetV2, 2.0, squeeze=True),
    "shufflenet_v2_50": partial(ShuffleNetV2, depth=50),
    "shufflenet_v2_164_se": partial(ShuffleNetV2, depth=164, squeeze=True, residual=True),
    **{
        f"shufflenet_v2_x{width}_dw".replace(".", "_"): partial(ShuffleNetV2, width, extra_depthwise=True)
        for width in WIDTHS
    },
}
