"""Detectron2's ResNet-50 written plainly from its documents, on a state dict with its names and random weights.

Detectron2 cannot be installed from a registry. What is different in it: BGR images of 0 to 255, a body whose stride
lies in the 1x1 convolutions, and anchors that lie size by size in a cell.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCKS = (3, 4, 6, 3)
BGR_MEAN = (103.53, 116.28, 123.675)
State = dict[str, Tensor]


class RandomState:
    """Weights by name, drawn in the order in which they are asked for."""

    def __init__(self, seed: int = 0) -> None:
        self.made: State = {"pixel_mean": torch.tensor(BGR_MEAN)}
        self.generator = torch.Generator().manual_seed(seed)

    def convolution(self, name: str, out: int, into: int, kernel: int, *, bias: bool = True, gain: float = 1.0) -> None:
        deviation = gain * (2 / (into * kernel**2)) ** 0.5
        self.made[f"{name}.weight"] = torch.randn(out, into, kernel, kernel, generator=self.generator) * deviation
        if bias:
            self.made[f"{name}.bias"] = torch.randn(out, generator=self.generator) * 0.1

    def linear(self, name: str, out: int, into: int, *, gain: float = 1.0) -> None:
        self.convolution(name, out, into, 1, gain=gain)
        self.made[f"{name}.weight"] = self.made[f"{name}.weight"][:, :, 0, 0]

    def normalised(self, name: str, out: int, into: int, kernel: int) -> None:
        self.convolution(name, out, into, kernel, bias=False, gain=0.7)
        self.made[f"{name}.norm.weight"] = 1 + torch.randn(out, generator=self.generator) * 0.1
        self.made[f"{name}.norm.bias"] = torch.randn(out, generator=self.generator) * 0.1
        self.made[f"{name}.norm.running_mean"] = torch.randn(out, generator=self.generator) * 0.1
        self.made[f"{name}.norm.running_var"] = 1 + torch.rand(out, generator=self.generator)

    def resnet50(self, body: str, stages: Iterable[int] = (2, 3, 4, 5)) -> None:
        """`body` is what stands before the names of the stem and the stages."""
        if 2 in stages:
            self.normalised(f"{body}.stem.conv1", 64, 3, 7)
            self.made[f"{body}.stem.conv1.weight"] /= 50  # of pixels up to 255
        for stage in stages:
            width, out = 64 * 2 ** (stage - 2), 256 * 2 ** (stage - 2)
            into = 64 if stage == 2 else out // 2
            for block in range(BLOCKS[stage - 2]):
                name = f"{body}.res{stage}.{block}"
                if block == 0:
                    self.normalised(f"{name}.shortcut", out, into, 1)
                self.normalised(f"{name}.conv1", width, into, 1)
                self.normalised(f"{name}.conv2", width, width, 3)
                self.normalised(f"{name}.conv3", out, width, 1)
                into = out


def convolved(state: State, x: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    x = F.conv2d(x, weight, state.get(f"{name}.bias"), stride, dilation * (weight.shape[-1] // 2), dilation)
    if f"{name}.norm.weight" not in state:
        return x
    gain, shift = (state[f"{name}.norm.{what}"] for what in ("weight", "bias"))
    if f"{name}.norm.running_mean" not in state:
        return F.group_norm(x, 32, gain, shift)
    mean, variance = (state[f"{name}.norm.{what}"] for what in ("running_mean", "running_var"))
    return F.batch_norm(x, mean, variance, gain, shift)


def stem(state: State, rgb: Tensor, body: str) -> Tensor:
    x = rgb[:, [2, 1, 0]] * 255 - torch.tensor(BGR_MEAN)[:, None, None]
    return F.max_pool2d(convolved(state, x, f"{body}.stem.conv1", 2).relu(), 3, 2, 1)


def stage(state: State, x: Tensor, body: str, number: int, dilation: int = 1) -> Tensor:
    """One that is dilated has no stride."""
    for block in range(BLOCKS[number - 2]):
        name, stride = f"{body}.res{number}.{block}", 2 if block == 0 and number > 2 and dilation == 1 else 1
        kept = convolved(state, x, f"{name}.shortcut", stride) if block == 0 else x
        x = convolved(state, x, f"{name}.conv1", stride).relu()
        x = convolved(state, x, f"{name}.conv2", dilation=dilation).relu()
        x = (convolved(state, x, f"{name}.conv3") + kept).relu()
    return x


def pyramid(state: State, maps: dict[int, Tensor]) -> dict[int, Tensor]:
    merged, levels = None, {}
    for level in sorted(maps, reverse=True):
        lateral = convolved(state, maps[level], f"backbone.fpn_lateral{level}")
        merged = lateral if merged is None else lateral + F.interpolate(merged, scale_factor=2, mode="nearest")
        levels[level] = convolved(state, merged, f"backbone.fpn_output{level}")
    return levels


def anchors(height: int, width: int, stride: int, sizes: Iterable[float]) -> Tensor:
    """Of each cell, row by row, size by size, ratio by ratio: `[A, 4]`."""
    boxes = []
    for row in range(height):
        for column in range(width):
            for size in sizes:
                for ratio in (0.5, 1.0, 2.0):
                    half_width, half_height = size / ratio**0.5 / 2, size * ratio**0.5 / 2
                    x, y = column * stride, row * stride
                    boxes.append([x - half_width, y - half_height, x + half_width, y + half_height])
    return torch.tensor(boxes)


def rows(cells: Tensor, width: int) -> Tensor:
    """`[B, K * width, H, W]` to `[B, H * W * K, width]`."""
    split = cells.reshape(len(cells), -1, width, *cells.shape[-2:])
    return split.permute(0, 3, 4, 1, 2).reshape(len(cells), -1, width)
