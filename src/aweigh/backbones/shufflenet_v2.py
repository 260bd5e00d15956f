"""ShuffleNet V2 (Ma et al., 2018): a body made for low memory access cost.

Parameter names and channel order are torchvision's, so its published weights load; the classifier (`conv5`, `fc`) is
left out. Ours differs from torchvision's code in that concatenation and channel shuffle are one interleaving copy.
The paper's authors publish weights in another channel order, which do not fit (their units split even and odd
channels and shuffle first).

Legend: B images, C channels of a unit's output, half = C / 2 the channels of one branch.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from aweigh.errors import UsageError
from aweigh.layers import Norm, make_norm

Activation = Literal["relu", "leaky_relu"]

# Paper, table 5: channels after stages 2, 3 and 4 for each width.
STAGE_CHANNELS = {0.5: (48, 96, 192), 1.0: (116, 232, 464), 1.5: (176, 352, 704), 2.0: (244, 488, 976)}
STAGE_UNITS = (4, 8, 4)
STEM_CHANNELS = 24


class ShuffleNetV2(nn.Module):
    """Image in, feature maps out, fine to coarse.

    width: 0.5, 1.0, 1.5 or 2.0. levels: the maps wanted, of strides 2^l: 3, 4 and 5 are stages 2, 3 and 4.
    norm: the normalisation after every convolution.
    frozen_stages: so many stages, from the image on, get no gradient and keep their batch statistics; the stem
    (`conv1`) is stage 1, `stage2` is stage 2.
    activation: `"leaky_relu"` has slope 0.1, which some published detectors use with this body.
    """

    def __init__(
        self,
        width: float = 1.0,
        *,
        levels: Sequence[int] = (3, 4, 5),
        norm: Norm = "bn",
        frozen_stages: int = 0,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        if width not in STAGE_CHANNELS:
            raise UsageError(f"ShuffleNet V2 has the widths {', '.join(map(str, STAGE_CHANNELS))}, got {width}.")
        if not levels or list(levels) != sorted({3, 4, 5} & set(levels)):
            raise UsageError(f"ShuffleNet V2: levels must be of 3, 4, 5, fine to coarse, got {list(levels)}.")
        if activation not in ("relu", "leaky_relu"):
            raise UsageError(f"ShuffleNet V2: unknown activation {activation!r}; known: relu, leaky_relu.")
        stages = max(levels) - 2
        if not 0 <= frozen_stages <= 1 + stages:
            raise UsageError(f"ShuffleNet V2: frozen_stages must lie in 0..{1 + stages}, got {frozen_stages}.")
        self.name = f"shufflenet_v2_x{width}".replace(".", "_")
        self.activation = activation
        self.levels = tuple(levels)
        self.channels = tuple(STAGE_CHANNELS[width][level - 3] for level in levels)
        self.strides = tuple(2**level for level in levels)
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, STEM_CHANNELS, 3, stride=2, padding=1, bias=False),
            make_norm(norm, STEM_CHANNELS),
            _activation(activation),
        )
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        in_channels = STEM_CHANNELS
        for stage in range(stages):
            out_channels = STAGE_CHANNELS[width][stage]
            units = [_Unit(in_channels, out_channels, 2, norm, activation)]
            units += [_Unit(out_channels, out_channels, 1, norm, activation) for _ in range(STAGE_UNITS[stage] - 1)]
            self.add_module(f"stage{stage + 2}", nn.Sequential(*units))
            in_channels = out_channels
        self._frozen = ("conv1", "stage2", "stage3", "stage4")[:frozen_stages]
        for name in self._frozen:
            self.get_submodule(name).requires_grad_(False)
        self.train()

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: `[B, 3, H, W]` normalised RGB. Returns `[B, channels[i], ceil(H / strides[i]), ...]`, fine to coarse."""
        x = self.maxpool(self.conv1(x))
        maps = []
        for level in range(3, self.levels[-1] + 1):
            x = self.get_submodule(f"stage{level - 1}")(x)
            if level in self.levels:
                maps.append(x)
        return maps

    def train(self, mode: bool = True) -> "ShuffleNetV2":
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        return self


class _Unit(nn.Module):
    """One unit of the paper's figure 3: (c) for stride 1, (d) for stride 2, with the shuffle at its end."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: Norm, activation: Activation) -> None:
        super().__init__()
        half = out_channels // 2
        self.branch1 = nn.Sequential()
        if stride == 2:
            self.branch1 = nn.Sequential(
                *_depthwise(in_channels, stride, norm), *_pointwise(in_channels, half, norm, activation)
            )
        self.branch2 = nn.Sequential(
            *_pointwise(in_channels if stride == 2 else half, half, norm, activation),
            *_depthwise(half, stride, norm),
            *_pointwise(half, half, norm, activation),
        )
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            kept, x = x.chunk(2, dim=1)
        else:
            kept = self.branch1(x)
        return interleave(kept, self.branch2(x))


def interleave(first: Tensor, second: Tensor) -> Tensor:
    """Channels of two maps `[B, half, H, W]` by turns, `[B, 2 half, H, W]`: concatenation, then shuffle in 2 groups."""
    return torch.stack((first, second), dim=2).flatten(1, 2)  # [B, half, 2, H, W] -> [B, C, H, W]


def _pointwise(in_channels: int, out_channels: int, norm: Norm, activation: Activation) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return [convolution, make_norm(norm, out_channels), _activation(activation)]


def _depthwise(channels: int, stride: int, norm: Norm) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)
    return [convolution, make_norm(norm, channels)]


def _activation(name: Activation) -> nn.Module:
    return nn.ReLU(inplace=True) if name == "relu" else nn.LeakyReLU(0.1, inplace=True)
