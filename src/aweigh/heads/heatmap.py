"""Heads over one map, by name: heat maps and what belongs to their peaks.

Papers: Law and Deng, "CornerNet", ECCV 2018; Zhou et al., "Objects as Points", 2019, section 4.
"""

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from aweigh.layers import Norm, SeparableConv2d, make_norm

HEATMAP_BIAS = -2.19  # a score of 0.1 at the start, as in the authors' code


def make_heads(
    channels: int,
    outputs: Mapping[str, int],
    *,
    hidden: int,
    kernel: int = 3,
    norm: Norm | None = None,
    separable: bool = False,
) -> nn.ModuleDict:
    """Heads by name, each a 3x3 convolution, ReLU and a 1x1 convolution (section 4), over `channels` channels.

    outputs: name -> channels. A heat map, which has `heatmap` in its name, starts at a score of 0.1. hidden: channels
    between the two. kernel: of the first, which is 1 in CornerNet-Squeeze. norm: behind the first, which is none in the
    papers. separable: the first one is a 5x5 depthwise and a 1x1 convolution, for a CPU (ours).
    """
    heads = nn.ModuleDict()
    for name, count in outputs.items():
        first: nn.Module = nn.Conv2d(channels, hidden, kernel, padding=kernel // 2)
        if separable:
            first = SeparableConv2d(channels, hidden, 5, norm=None, activation=None)
        last = nn.Conv2d(hidden, count, 1)
        nn.init.constant_(cast(Tensor, last.bias), HEATMAP_BIAS if "heatmap" in name else 0.0)
        between = nn.Identity() if norm is None else make_norm(norm, hidden)
        heads[name] = nn.Sequential(first, between, nn.ReLU(inplace=True), last)
    return heads
