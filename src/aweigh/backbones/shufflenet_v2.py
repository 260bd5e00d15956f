"""ShuffleNet V2 (Ma et al., 2018): a body made for low memory access cost.

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

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import SqueezeExcitation

from aweigh.arguments import Colour, Deviation, Frozen, checked_class
from aweigh.backbones.timm import Normalise
from aweigh.errors import UsageError
from aweigh.layers import Activation, Norm, make_activation, make_norm, pointwise_conv
from aweigh.structures import IMAGENET_MEAN, IMAGENET_STD

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


@checked_class()
class ShuffleNetV2(nn.Module):
    """Image in, feature maps out, fine to coarse.

    width: 0.5, 1.0, 1.5 or 2.0. depth: 50 or 164, the deep networks of the appendix, which have one width each.
    levels: the maps wanted, of strides 2^l: 3, 4 and 5 are the last three stages (a deep network has a stage at 2 too).
    norm: the normalisation after every convolution.
    frozen_stages: so many stages, from the image on, get no gradient and keep their batch statistics; the stem
    (`conv1`) is stage 1, `stage2` is stage 2.
    activation: `"leaky_relu"` has slope 0.1, which some published detectors use with this body.
    extra_depthwise, squeeze, residual: variants of the unit, see `Unit`. form: see the top of this file.
    pixel_mean, pixel_std: of RGB in `[0, 1]`, by which images are normalised.
    """

    stride_divisor = 32

    def __init__(
        self,
        width: float = 1.0,
        *,
        depth: Literal[50, 164] | None = None,
        levels: Sequence[int] = (3, 4, 5),
        norm: Norm = "bn",
        frozen_stages: Frozen = 0,
        activation: Activation = "relu",
        extra_depthwise: bool = False,
        squeeze: bool = False,
        residual: bool = False,
        form: Form = "torchvision",
        pixel_mean: Colour = IMAGENET_MEAN,
        pixel_std: Deviation = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if depth is None and width not in WIDTHS:
            raise UsageError(f"ShuffleNet V2 has the widths {', '.join(map(str, WIDTHS))}, got {width}.")
        layout = LAYOUTS[depth or width]
        known = range(6 - len(layout.channels), 6)
        if not levels or list(levels) != sorted(set(known) & set(levels)):
            raise UsageError(
                f"ShuffleNet V2: levels must be of {', '.join(map(str, known))}, fine to coarse, got {list(levels)}."
            )
        stages = max(levels) + 1 - known[0]
        if not 0 <= frozen_stages <= 1 + stages:
            raise UsageError(f"ShuffleNet V2: frozen_stages must lie in 0..{1 + stages}, got {frozen_stages}.")
        variants = {"dw": extra_depthwise, "se": squeeze, "res": residual, "authors": form == "authors"}
        self.name = "_".join(
            [f"shufflenet_v2_{depth or f'x{width}'}".replace(".", "_"), *(name for name in variants if variants[name])]
        )
        self.activation, self.layout = activation, layout
        self.levels = tuple(levels)
        self.channels = tuple(layout.channels[level - known[0]] for level in levels)
        self.strides = tuple(2**level for level in levels)
        self.normalise = Normalise(pixel_mean, pixel_std)
        self.border = BlackBorder() if form == "authors" else nn.Identity()
        self.conv1 = _stem(layout.stem, norm, activation, padding=0 if form == "authors" else 1)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        unit = partial(
            Unit,
            norm=norm,
            activation=activation,
            extra_depthwise=extra_depthwise,
            squeeze=squeeze,
            residual=residual,
            form=form,
        )
        in_channels = layout.stem[-1]
        for stage, (out_channels, units) in enumerate(zip(layout.channels[:stages], layout.units)):
            # The max-pool has brought a deep network to stride 4 already, where its first stage lies.
            first = unit(in_channels, out_channels, stride=1 if known[stage] == 2 else 2)
            rest = [unit(out_channels, out_channels) for _ in range(units - 1)]
            self.add_module(f"stage{stage + 2}", nn.Sequential(first, *rest))
            in_channels = out_channels
        self._frozen = ("conv1", *(f"stage{stage + 2}" for stage in range(stages)))[:frozen_stages]
        for name in self._frozen:
            self.get_submodule(name).requires_grad_(False)
        self.train()

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: `[B, 3, H, W]` RGB. Returns `[B, channels[i], ceil(H / strides[i]), ...]`, fine to coarse."""
        x = self.maxpool(self.conv1(self.border(self.normalise(x))))
        maps = []
        first = 6 - len(self.layout.channels)
        for level in range(first, self.levels[-1] + 1):
            x = self.get_submodule(f"stage{level - first + 2}")(x)
            if level in self.levels:
                maps.append(x)
        return maps

    def train(self, mode: bool = True) -> "ShuffleNetV2":
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        return self

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


class BlackBorder(nn.Module):
    """One pixel of black round a normalised image.

    The authors' networks read 0..255, where the zeros that a convolution pads with are black. With this border (and
    none of its own) the first convolution can take in mean and standard deviation exactly.
    """

    def __init__(self) -> None:
        super().__init__()
        self.black: Tensor
        self.register_buffer("black", -torch.tensor(IMAGENET_MEAN) / torch.tensor(IMAGENET_STD), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        black = self.black[:, None, None].to(x.dtype)
        return F.pad(x - black, (1, 1, 1, 1)) + black


def _stem(channels: Sequence[int], norm: Norm, activation: Activation, padding: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(zip((3, *channels), channels)):
        first = index == 0
        convolution = nn.Conv2d(before, after, 3, stride=2 if first else 1, padding=padding if first else 1, bias=False)
        layers += [convolution, make_norm(norm, after), make_activation(activation)]
    return nn.Sequential(*layers)


def _depthwise(channels: int, stride: int, norm: Norm) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)
    return [convolution, make_norm(norm, channels)]


# Every network of the paper by name; a body, round which `classifier` puts the rest. Options as `ShuffleNetV2`.
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
