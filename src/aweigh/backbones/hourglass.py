"""Hourglass-104: a stack of hourglasses, each of which goes down to a sixty-fourth of its input and up again.

Papers: Newell et al., "Stacked Hourglass Networks for Human Pose Estimation", ECCV 2016; Law and Deng, "CornerNet",
ECCV 2018, section 3.5, whose form this is: strides instead of pooling, two stacks, supervision of each; Law et al.,
"CornerNet-Lite", 2019: CornerNet-Squeeze (section 4) has fire modules instead of residual blocks, one halving more
before the hourglasses and one less in them, and transposed convolutions on the way up; CornerNet-Saccade (section 3)
has three shallow hourglasses, and looks at the maps on the way up too.

How ours differs: a map that comes up is brought to the size of the map it is added to, so that sides need not be
multiples of 128; where they are it is the same.

Legend: B images, H x W pixels.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Colour, Deviation, Few, Layers, Width, checked_class
from aweigh.backbones.timm import Normalise
from aweigh.errors import UsageError, counted
from aweigh.layers import Norm, make_norm
from aweigh.weights.coco import COCO_MEAN, COCO_STD

Block = Literal["residual", "fire"]

LARGEST = 8  # stacks, halvings, blocks of each: twice what the papers have


@checked_class()
class Hourglass(nn.Module):
    """Image in, one map for each stack out, of stride 4 or more, first to last; each is there to learn from.

    With `step_maps` follow, of the first stack, then of the next, the maps on the way up of its last so many steps,
    coarse to fine, before the convolution behind the hourglass.

    stacks: hourglasses one after the other. channels: of the full map and of each halving, `blocks`: blocks there.
    stem_channels: of the first convolution. stem_halvings: before the hourglasses, 2 or more: the maps' stride is 2 to
    the power of it. block: what the hourglasses are made of; with `"fire"` transposed convolutions enlarge the maps.
    pixel_mean, pixel_std: of RGB in `[0, 1]`, by which images are normalised.
    """

    name = "hourglass"
    activation = None

    def __init__(
        self,
        *,
        stacks: Few = 2,
        channels: Sequence[Width] = (256, 256, 384, 384, 384, 512),
        blocks: Sequence[Few] = (2, 2, 2, 2, 2, 4),
        stem_channels: Width = 128,
        stem_halvings: Few = 2,
        block: Block = "residual",
        step_maps: Layers = 0,
        norm: Norm = "bn",
        pixel_mean: Colour = COCO_MEAN,
        pixel_std: Deviation = COCO_STD,
    ) -> None:
        if stem_halvings < 2:
            raise UsageError(f"Hourglass: the stem halves twice or more, got stem_halvings = {stem_halvings}.")
        if stacks < 1 or len(channels) < 2 or len(channels) != len(blocks) or min(*channels, *blocks) < 1:
            raise UsageError(
                "Hourglass needs one stack or more, and as many numbers of blocks as of channels, two or more of each: "
                f"got stacks = {stacks}, channels = {list(channels)}, blocks = {list(blocks)}."
            )
        if max(stacks, max(blocks), len(channels)) > LARGEST:
            raise UsageError(
                f"Hourglass: {LARGEST} stacks, halvings and blocks of each are the most, got stacks = {stacks}, "
                f"blocks = {list(blocks)}."
            )
        if block == "fire" and any(width % 2 for width in channels):
            raise UsageError(f"Hourglass: fire modules need even numbers of channels, got {list(channels)}.")
        if step_maps >= len(channels):
            raise UsageError(
                f"Hourglass: {counted(len(channels), 'number')} of channels make {counted(len(channels) - 1, 'step')}, "
                f"of which step_maps = {step_maps} asks for more."
            )
        super().__init__()
        self.normalise = Normalise(pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.stacks, self.step_maps, stride = stacks, step_maps, 2**stem_halvings
        self.stride_divisor = stride * 2 ** (len(channels) - 1)  # below which every halving is one
        width = channels[0]
        self.stem = nn.Sequential(
            _convolution(3, stem_channels, 7, norm, stride=2),
            Residual(stem_channels, width, norm, stride=2),
            *(Residual(width, width, norm, stride=2) for _ in range(stem_halvings - 2)),
        )
        self.hourglasses = nn.ModuleList(Step(channels, blocks, norm, block) for _ in range(stacks))
        self.outputs = nn.ModuleList(_convolution(width, width, 3, norm) for _ in range(stacks))
        # Between two stacks: what the first read and what it gave, each through a 1x1 convolution, added.
        between = range(stacks - 1)
        self.from_input = nn.ModuleList(_convolution(width, width, 1, norm, activation=False) for _ in between)
        self.from_output = nn.ModuleList(_convolution(width, width, 1, norm, activation=False) for _ in between)
        self.joined = nn.ModuleList(Residual(width, width, norm) for _ in between)
        steps = range(step_maps)[::-1]  # coarse to fine
        self.channels = (width,) * stacks + tuple(channels[step] for step in steps) * stacks
        self.strides = (stride,) * stacks + tuple(stride * 2**step for step in steps) * stacks

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: `[B, 3, H, W]` RGB. Returns `[B, channels[i], ceil(H / strides[i]), ceil(W / strides[i])]` of each."""
        x = self.stem(self.normalise(x))
        maps: list[Tensor] = []
        steps: list[Tensor] = []
        for stack, (hourglass, output) in enumerate(zip(self.hourglasses, self.outputs, strict=True)):
            if stack:
                mixed = self.from_input[stack - 1](x) + self.from_output[stack - 1](maps[-1])
                x = self.joined[stack - 1](F.relu(mixed))
            ways_up = hourglass(x)
            maps.append(output(ways_up[-1]))
            steps += ways_up[len(ways_up) - self.step_maps :]
        return maps + steps


class Step(nn.Module):
    """One halving of an hourglass: beside it at full size, or down, through the next one, and up again; added."""

    def __init__(self, channels: Sequence[int], blocks: Sequence[int], norm: Norm, block: Block) -> None:
        super().__init__()
        (width, inner_width), (depth, inner_depth) = channels[:2], blocks[:2]
        self.beside = _blocks(block, [width] * (depth + 1), norm)
        self.down = _blocks(block, [width] + [inner_width] * depth, norm, stride=2)
        if len(channels) > 2:
            self.inner: nn.Module = Step(channels[1:], blocks[1:], norm, block)
        else:
            self.inner = _blocks(block, [inner_width] * (inner_depth + 1), norm)
        self.up = _blocks(block, [inner_width] * depth + [width], norm)
        self.enlarge = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1) if block == "fire" else None

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps on the way up, coarse to fine; the last has the size and the channels of x."""
        beside: Tensor = self.beside(x)
        inner = self.inner(self.down(x))
        coarser = inner if isinstance(self.inner, Step) else []
        low = self.up(coarser[-1] if coarser else inner)
        height, width = beside.shape[-2:]
        if self.enlarge is not None:
            up: Tensor = self.enlarge(low)[..., :height, :width]
        else:
            up = F.interpolate(low, size=(height, width), mode="nearest")
        return [*coarser, beside + up]


class Residual(nn.Module):
    """Two 3x3 convolutions round which the input goes, through a 1x1 convolution where size or channels change."""

    def __init__(self, in_channels: int, channels: int, norm: Norm, *, stride: int = 1) -> None:
        super().__init__()
        self.main = nn.Sequential(
            _convolution(in_channels, channels, 3, norm, stride=stride),
            _convolution(channels, channels, 3, norm, activation=False),
        )
        self.skip = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.skip = _convolution(in_channels, channels, 1, norm, stride=stride, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.main(x) + self.skip(x))


class Fire(nn.Module):
    """A 1x1 convolution to half the channels, then 1x1 and depthwise 3x3 side by side, each to half of them
    (CornerNet-Lite, section 4; Iandola et al. 2016, SqueezeNet). The input goes round where its shape stays, and
    nothing is cut off between the two, as in the authors' code."""

    def __init__(self, in_channels: int, channels: int, norm: Norm, *, stride: int = 1) -> None:
        super().__init__()
        half = channels // 2
        self.squeeze = _convolution(in_channels, half, 1, norm, activation=False)
        self.plain = nn.Conv2d(half, half, 1, stride=stride, bias=False)
        self.depthwise = nn.Conv2d(half, half, 3, stride=stride, padding=1, groups=half, bias=False)
        self.norm = make_norm(norm, 2 * half)
        self.around = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.squeeze(x)
        expanded = self.norm(torch.cat([self.plain(squeezed), self.depthwise(squeezed)], dim=1))
        return F.relu(expanded + x if self.around else expanded)


def _blocks(block: Block, channels: Sequence[int], norm: Norm, *, stride: int = 1) -> nn.Sequential:
    """Blocks from one number of channels to the next; the first has the stride."""
    kind = Fire if block == "fire" else Residual
    pairs = enumerate(pairwise(channels))
    return nn.Sequential(
        *(kind(before, after, norm, stride=1 if index else stride) for index, (before, after) in pairs)
    )


def _convolution(
    in_channels: int, channels: int, kernel: int, norm: Norm, *, stride: int = 1, activation: bool = True
) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, make_norm(norm, channels), *([nn.ReLU(inplace=True)] if activation else []))
