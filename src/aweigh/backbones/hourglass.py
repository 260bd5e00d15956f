"""Hourglass-104: a stack of hourglasses, each of which goes down to a sixty-fourth of its input and up again.

Papers: Newell et al., "Stacked Hourglass Networks for Human Pose Estimation", ECCV 2016; Law and Deng, "CornerNet",
ECCV 2018, section 3.4, whose form this is: strides instead of pooling, two stacks, supervision of each.

How ours differs: a map that comes up is brought to the size of the map it is added to, so that sides need not be
multiples of 128; where they are it is the same.

Legend: B images, H x W pixels.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.errors import UsageError
from aweigh.layers import Norm, make_norm


class Hourglass(nn.Module):
    """Image in, one map of stride 4 for each stack out, first to last; each is there to learn from.

    stacks: hourglasses one after the other. channels: of the full map and of each halving, `blocks`: residual blocks
    there. stem_channels: of the first convolution.
    """

    def __init__(
        self,
        *,
        stacks: int = 2,
        channels: Sequence[int] = (256, 256, 384, 384, 384, 512),
        blocks: Sequence[int] = (2, 2, 2, 2, 2, 4),
        stem_channels: int = 128,
        norm: Norm = "bn",
    ) -> None:
        super().__init__()
        if stacks < 1 or len(channels) < 2 or len(channels) != len(blocks) or min(*channels, *blocks) < 1:
            raise UsageError(
                "Hourglass needs one stack or more, and as many numbers of blocks as of channels, two or more of each: "
                f"got stacks = {stacks}, channels = {list(channels)}, blocks = {list(blocks)}."
            )
        self.name = "hourglass"
        self.stride_divisor = 4 * 2 ** (len(channels) - 1)  # below which every halving is one
        width = channels[0]
        self.stem = nn.Sequential(
            _convolution(3, stem_channels, 7, norm, stride=2), Residual(stem_channels, width, norm, stride=2)
        )
        self.hourglasses = nn.ModuleList(Step(channels, blocks, norm) for _ in range(stacks))
        self.outputs = nn.ModuleList(_convolution(width, width, 3, norm) for _ in range(stacks))
        # Between two stacks: what the first read and what it gave, each through a 1x1 convolution, added.
        between = range(stacks - 1)
        self.from_input = nn.ModuleList(_convolution(width, width, 1, norm, activation=False) for _ in between)
        self.from_output = nn.ModuleList(_convolution(width, width, 1, norm, activation=False) for _ in between)
        self.joined = nn.ModuleList(Residual(width, width, norm) for _ in between)
        self.channels, self.strides = (width,) * stacks, (4,) * stacks

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: `[B, 3, H, W]` normalised RGB. Returns `[B, channels[0], ceil(H / 4), ceil(W / 4)]` of each stack."""
        x = self.stem(x)
        maps: list[Tensor] = []
        for stack, (hourglass, output) in enumerate(zip(self.hourglasses, self.outputs, strict=True)):
            if stack:
                mixed = self.from_input[stack - 1](x) + self.from_output[stack - 1](maps[-1])
                x = self.joined[stack - 1](F.relu(mixed))
            maps.append(output(hourglass(x)))
        return maps


class Step(nn.Module):
    """One halving of an hourglass: beside it at full size, or down, through the next one, and up again; added."""

    def __init__(self, channels: Sequence[int], blocks: Sequence[int], norm: Norm) -> None:
        super().__init__()
        (width, inner_width), (depth, inner_depth) = channels[:2], blocks[:2]
        self.beside = _residuals([width] * (depth + 1), norm)
        self.down = _residuals([width] + [inner_width] * depth, norm, stride=2)
        if len(channels) > 2:
            self.inner: nn.Module = Step(channels[1:], blocks[1:], norm)
        else:
            self.inner = _residuals([inner_width] * (inner_depth + 1), norm)
        self.up = _residuals([inner_width] * depth + [width], norm)

    def forward(self, x: Tensor) -> Tensor:
        beside: Tensor = self.beside(x)
        low = self.up(self.inner(self.down(x)))
        return beside + F.interpolate(low, size=beside.shape[-2:], mode="nearest")


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


def _residuals(channels: Sequence[int], norm: Norm, *, stride: int = 1) -> nn.Sequential:
    """Residual blocks from one number of channels to the next; the first has the stride."""
    pairs = enumerate(pairwise(channels))
    return nn.Sequential(
        *(Residual(before, after, norm, stride=1 if index else stride) for index, (before, after) in pairs)
    )


def _convolution(
    in_channels: int, channels: int, kernel: int, norm: Norm, *, stride: int = 1, activation: bool = True
) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, make_norm(norm, channels), *([nn.ReLU(inplace=True)] if activation else []))
