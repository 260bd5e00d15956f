"""The weighted bi-directional feature pyramid of EfficientDet (Tan, Pang and Le, CVPR 2020, section 3).

A cell goes down the pyramid and up again; every node fuses two or three maps with learned weights, and the cell is
repeated. Equal to effdet's `BiFpn` for the same weights. Ours differs in its parameter names, in that a map is brought
to the size of the map it meets (effdet fixes all sizes when the network is built), and in that it stands on any
backbone and has any normalisation.

Legend: C3..C5 are the backbone's maps at strides 8..32, P3..P7 (or P8) the pyramid's at strides 8..128 (or 256); H x W
cells of a map.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Few, Width, checked_class
from aweigh.errors import UsageError
from aweigh.layers import Activation, Norm, SeparableConv2d, make_activation, make_norm
from aweigh.necks.fpn import check_maps

Fusion = Literal["fast", "softmax", "sum"]

FUSION_EPS = 1e-4  # section 3.3
# Of the authors' code (hparams_config.py): epsilon 1e-3, and momentum 0.99, which torch counts from the other side.
NORM_EPS, NORM_MOMENTUM = 1e-3, 0.01


@checked_class()
class BiFPN(nn.Module):
    """Maps of a backbone, fine to coarse, in; `levels` maps of `channels` channels each, fine to coarse, out.

    in_channels, in_strides: the backbone's `.channels` and `.strides`; each stride doubles the one before.
    channels, repeats: width and depth (equation 1 of section 4). levels: of the pyramid, more than maps come in.
    fusion: `"fast"` (weights are rectified and divided by their sum), `"softmax"` of the weights, or `"sum"`, without.
    norm: normalisation after every convolution. same_padding: pool as TensorFlow does. redundant_bias: convolutions in
    front of a normalisation have a bias too, as in the weights the authors published.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        *,
        channels: Width = 64,
        repeats: Few = 3,
        levels: Few = 5,
        fusion: Fusion = "fast",
        norm: Norm = "bn",
        activation: Activation = "silu",
        same_padding: bool = False,
        redundant_bias: bool = False,
    ) -> None:
        super().__init__()
        check_maps("BiFPN", in_channels, in_strides)
        if levels < len(in_channels):
            raise UsageError(f"BiFPN has a level for each map, here {len(in_channels)} or more; got {levels}.")
        self.same_padding = same_padding
        self.top = to_width(in_channels[-1], channels, norm, redundant_bias)
        self.adds = levels - len(in_channels)
        widths = [*in_channels, *(channels for _ in range(self.adds))]
        widths[-1] = channels
        node = partial(
            Node, channels=channels, fusion=fusion, norm=norm, activation=activation, redundant_bias=redundant_bias
        )
        self.cells = nn.ModuleList(
            BiFPNCell([channels] * levels if repeat else widths, node, same_padding=same_padding)
            for repeat in range(repeats)
        )
        self.channels = (channels,) * levels
        self.strides = tuple(in_strides[0] * 2**level for level in range(levels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                glorot_uniform(module)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """features: `[B, in_channels[i], H_i, W_i]`, fine to coarse. Returns `[B, channels, H_i, W_i]`, fine to coarse.

        Each additional map has ceil(H / 2) rows of the one before; columns likewise.
        """
        maps = with_coarser(features, self.top(features[-1]), self.adds, same_padding=self.same_padding)
        for cell in self.cells:
            maps = cell(maps)
        return maps


class BiFPNCell(nn.Module):
    """Once down the pyramid and once up (figure 2d): levels between the ends have a node on either way.

    in_channels: of each level; those of another width than the pyramid's come from the backbone. node: makes a `Node`
    of the number of channels of its first map and how many `inputs` it has. same_padding: as in `BiFPN`.
    """

    def __init__(self, in_channels: Sequence[int], node: Callable[..., "Node"], *, same_padding: bool) -> None:
        super().__init__()
        self.down = nn.ModuleList(node(width, inputs=2) for width in in_channels[:-1])
        inner = (node(width, inputs=3) for width in in_channels[1:-1])
        self.up = nn.ModuleList([*inner, node(in_channels[-1], inputs=2)])
        self.same_padding = same_padding

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps `[B, in_channels[i], H_i, W_i]` to `[B, channels, H_i, W_i]`, fine to coarse."""
        top = len(maps) - 1
        on_the_way = [maps[top]]
        for level in range(top - 1, -1, -1):
            coarse = F.interpolate(on_the_way[0], size=maps[level].shape[-2:], mode="nearest")
            on_the_way.insert(0, self.down[level](maps[level], coarse))
        out = [on_the_way[0]]
        for level in range(1, len(maps)):
            fine = halve(out[-1], same_padding=self.same_padding)
            between = [on_the_way[level]] if level < top else []
            out.append(self.up[level - 1](maps[level], *between, fine))
        return out


class Node(nn.Module):
    """The weighted sum of maps of one size, then the activation, a separable convolution and the normalisation.

    in_channels: of the first map, which is brought to `channels` first where it has another width. inputs: how many
    maps. Other arguments as in `BiFPN`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        inputs: int,
        fusion: Fusion,
        norm: Norm,
        activation: Activation,
        redundant_bias: bool,
    ) -> None:
        super().__init__()
        self.fusion = fusion
        self.lateral = to_width(in_channels, channels, norm, redundant_bias)
        self.weights = None if fusion == "sum" else nn.Parameter(torch.ones(inputs))
        self.activation = make_activation(activation)
        self.convolution = SeparableConv2d(channels, channels, 3, norm=None, activation=None, bias=redundant_bias)
        self.norm = make_norm(norm, channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Maps `[B, in_channels | channels, H, W]` to one `[B, channels, H, W]`."""
        maps = [self.lateral(first), *others]
        if self.weights is not None:
            weights = self.weights.to(maps[0].dtype)
            if self.fusion == "fast":
                weights = weights.relu()
                weights = weights / (weights.sum() + FUSION_EPS)
            else:
                weights = weights.softmax(dim=0)
            maps = [each * weight for each, weight in zip(maps, weights, strict=True)]
        fused: Tensor = self.norm(self.convolution(self.activation(reduce(torch.add, maps))))
        return fused


def with_coarser(features: list[Tensor], top: Tensor, adds: int, *, same_padding: bool) -> list[Tensor]:
    """The maps of a first cell: those of the backbone, and `adds` coarser ones, each half of the one before.

    top: the coarsest of `features` at the width of the pyramid, of which the first is halved; with none to add, it
    stands in its place.
    """
    maps = [*features] if adds else [*features[:-1], top]
    for _ in range(adds):
        top = halve(top, same_padding=same_padding)
        maps.append(top)
    return maps


def halve(x: Tensor, *, same_padding: bool) -> Tensor:
    """The largest of each 3x3 window, two cells apart: `[B, C, H, W]` -> `[B, C, ceil(H / 2), ceil(W / 2)]`.

    same_padding: TensorFlow's "SAME", whose windows begin at the first cell of an even side; else one cell before it.
    """
    if same_padding:
        height, width = x.shape[-2:]
        return F.max_pool2d(x, 3, stride=2, padding=(height % 2, width % 2), ceil_mode=True)
    return F.max_pool2d(x, 3, stride=2, padding=1)


def to_width(in_channels: int, channels: int, norm: Norm, bias: bool) -> nn.Module:
    """A 1x1 convolution with normalisation, or nothing where the width is right already."""
    if in_channels == channels:
        return nn.Identity()
    convolution = nn.Conv2d(in_channels, channels, 1, bias=bias)
    return nn.Sequential(convolution, make_norm(norm, channels, eps=NORM_EPS, momentum=NORM_MOMENTUM))


def glorot_uniform(convolution: nn.Conv2d) -> None:
    """Keras' start, of which the authors change nothing here; a depthwise convolution has a fan of its kernel."""
    kernel = math.prod(convolution.kernel_size)
    fans = kernel * (convolution.in_channels + convolution.out_channels) / convolution.groups
    limit = math.sqrt(6 / fans)
    nn.init.uniform_(convolution.weight, -limit, limit)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
