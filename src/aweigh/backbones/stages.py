"""What ShuffleNet V1, ShuffleNet V2 and the small Xception have in common: all but their units.

A strided 3x3 convolution, a max-pool, and stages of units, of which the first halves the map.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Frozen, checked_class
from aweigh.backbones.timm import Normalise
from aweigh.errors import UsageError
from aweigh.layers import Activation, Norm, make_activation, make_norm
from aweigh.structures import IMAGENET_MEAN, IMAGENET_STD

LEVELS = (3, 4, 5)
Stage = Callable[[int, int, int, int], Sequence[nn.Module]]
"""From channels read, channels given, the number of units and the stride of the first one to the units."""


@checked_class(Normalise)
class Stages(nn.Module):
    """Image in, feature maps out, fine to coarse.

    name: for messages and published weights. stem: channels of the first convolutions. channels: of each stage, units:
    how many it has; the last stage lies at level 5. stage: makes one, of stride 2, or 1 at level 2, to which the
    max-pool has brought the map already.
    levels: the maps wanted, of strides 2^l, each the last of a stage. norm, activation: behind the first convolutions.
    frozen_stages: so many stages, from the image on, get no gradient and keep their batch statistics; the stem
    (`conv1`) is stage 1, `stage2` is stage 2.
    black_border: beyond the image lies black, not the mean colour (`BlackBorder`). Pixels: the arguments of
    `Normalise`.
    """

    stride_divisor = 32
    activation: Activation | None = None

    def __init__(
        self,
        name: str,
        stem: Sequence[int],
        channels: Sequence[int],
        units: Sequence[int],
        stage: Stage,
        *,
        levels: Sequence[int] = LEVELS,
        norm: Norm = "bn",
        activation: Activation = "relu",
        frozen_stages: Frozen = 0,
        black_border: bool = False,
        **pixels: Any,
    ) -> None:
        super().__init__()
        known = range(6 - len(channels), 6)
        if not levels or list(levels) != sorted(set(known) & set(levels)):
            raise UsageError(
                f"{name}: levels must be of {', '.join(map(str, known))}, fine to coarse, got {list(levels)}."
            )
        stages = [f"stage{number}" for number in range(2, 2 + levels[-1] + 1 - known[0])]
        if not 0 <= frozen_stages <= 1 + len(stages):
            raise UsageError(f"{name}: frozen_stages must lie in 0..{1 + len(stages)}, got {frozen_stages}.")
        self.name = name
        self.levels = tuple(levels)
        self.channels = tuple(channels[level - known[0]] for level in levels)
        self.strides = tuple(2**level for level in levels)
        self.normalise = Normalise(**pixels)
        self.border = BlackBorder() if black_border else nn.Identity()
        layers: list[nn.Module] = []
        for index, (read, given) in enumerate(zip((3, *stem), stem)):
            stride, padding = (1, 1) if index else (2, 0 if black_border else 1)
            convolution = nn.Conv2d(read, given, 3, stride=stride, padding=padding, bias=False)
            layers += [convolution, make_norm(norm, given), make_activation(activation)]
        self.conv1 = nn.Sequential(*layers)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        read = stem[-1]
        for level, part, given, count in zip(known, stages, channels, units):
            self.add_module(part, nn.Sequential(*stage(read, given, count, 1 if level == 2 else 2)))
            read = given
        self._stages = dict(zip(known, stages))
        self._frozen = ("conv1", *stages)[:frozen_stages]
        for part in self._frozen:
            self.get_submodule(part).requires_grad_(False)
        self.train()

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: `[B, 3, H, W]` RGB. Returns `[B, channels[i], ceil(H / strides[i]), ...]`, fine to coarse."""
        x = self.maxpool(self.conv1(self.border(self.normalise(x))))
        maps = []
        for level, part in self._stages.items():
            x = self.get_submodule(part)(x)
            if level in self.levels:
                maps.append(x)
        return maps

    def train(self, mode: bool = True) -> "Stages":
        super().train(mode)
        for part in self._frozen:
            self.get_submodule(part).eval()
        return self

    def top(self, num_classes: int) -> dict[str, nn.Module]:
        """What makes a classifier of it."""
        return {
            "pool": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            "fc": nn.Linear(self.channels[-1], num_classes),
        }


def small_stages(
    name: str, stem: int, channels: int, unit: Callable[[int, int, int], nn.Module], **settings: Any
) -> Stages:
    """Three stages of 4, 8 and 4 units, each with twice the channels of the one before (Zhang et al. 2018, ShuffleNet,
    table 1; Li et al. 2017, Light-Head R-CNN, table of the small network).

    stem: channels of the first convolution. channels: of the first stage. unit: from channels read, channels given and
    stride to a unit. Settings: those of `Stages`.
    """

    def stage(read: int, given: int, count: int, stride: int) -> Sequence[nn.Module]:
        rest = [unit(given, given, 1) for _ in range(count - 1)]
        return [unit(read, given, stride), *rest]

    return Stages(name, [stem], [channels, 2 * channels, 4 * channels], (4, 8, 4), stage, **settings)


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
