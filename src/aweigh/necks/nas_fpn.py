"""NAS-FPN: a pyramid whose cell was found by search, repeated.

Paper: Ghiasi et al., "NAS-FPN: Learning Scalable Feature Pyramid Architecture for Object Detection", CVPR 2019. A cell
has seven nodes, each of which merges two maps, brought to its level, by their sum or by global attention: the coarser
one says channel by channel how much of the finer one is added to it. Then come ReLU, a convolution and the
normalisation. An output also takes in the map of its level that nothing else reads.

The graph, the attention (by the largest value of a channel) and the pooling are those of the authors' released code.
OpenMMLab's form differs in two: the attention is by the mean, and the finer map weighs the coarser
(`fusion="average"`); `"sum"` is the authors' switch for no attention at all.

How ours differs from the authors' code:
- A pyramid of four levels is the finer four of the five; a sixth level is pooled from the fifth, and so on.
- A window of pooling over several levels begins at the first cell, also where the side is no multiple of it.
- No convolution has a bias in front of a normalisation, which takes it out again; the running statistics move by 0.1
  (theirs: 0.003), as everywhere in Aweigh. No DropBlock.

Legend: C3..C5 are the backbone's maps at strides 8..32, P3..P7 the pyramid's at strides 8..128; H x W cells of a map.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Few, Layers, Width, checked_class
from aweigh.errors import UsageError
from aweigh.layers import Activation, Norm, SeparableConv2d, make_activation, make_norm
from aweigh.necks.cells import Cell, Merge
from aweigh.necks.fpn import check_maps

NASFusion = Literal["max", "average", "sum"]

LEVELS = 5  # the search was for P3 to P7
# Figure 6 of the paper, as in the released code. Ids 0 to 4 are P3 to P7 as they come in; the third map of a node is
# the one of its level that nothing else reads.
NODES = (
    Merge(1, (1, 3), attends=True),  # 5: P4
    Merge(1, (1, 5)),  # 6: P4
    Merge(0, (0, 6)),  # 7: P3, an output, as those that follow
    Merge(1, (6, 7)),  # 8: P4
    Merge(2, (7, 8, 2), attends=True),  # 9: P5
    Merge(4, (6, 9, 4), attends=True),  # 10: P7
    Merge(3, (9, 10), attends=True),  # 11: P6
)


@checked_class()
class NASFPN(nn.Module):
    """Maps of a backbone, fine to coarse, in; `levels` maps of `channels` channels each, fine to coarse, out.

    in_channels, in_strides: the backbone's `.channels` and `.strides`, five maps at most; each stride doubles the one
    before. channels, repeats: width and number of cells; 7 of 256 in the paper, "7 @ 256". With no cell the maps are
    those that would go into the first. levels: four or more.
    fusion: global attention by the largest value of each channel (`"max"`), or in OpenMMLab's form by its mean
    (`"average"`), or none (`"sum"`). separable: of the nodes' convolutions.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        *,
        channels: Width = 256,
        repeats: Layers = 7,
        levels: Few = LEVELS,
        fusion: NASFusion = "max",
        norm: Norm = "bn",
        activation: Activation = "relu",
        separable: bool = False,
    ) -> None:
        super().__init__()
        check_maps("NASFPN", in_channels, in_strides)
        if levels < LEVELS - 1 or len(in_channels) > min(levels, LEVELS):
            raise UsageError(
                f"NAS-FPN was found for {LEVELS} levels: it takes up to {LEVELS} maps, here {len(in_channels)}, and "
                f"gives {LEVELS - 1} or more, a level for each; got {levels}. Take another neck, such as bifpn."
            )
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 1, bias=False), make_norm(norm, channels)) for width in in_channels
        )
        node = partial(NASNode, channels=channels, fusion=fusion, norm=norm, activation=activation, separable=separable)
        self.cells = nn.ModuleList(Cell(NODES, node, [channels] * LEVELS, channels) for _ in range(repeats))
        self.channels = (channels,) * levels
        self.strides = tuple(in_strides[0] * 2**level for level in range(levels))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """features: `[B, in_channels[i], H_i, W_i]`, fine to coarse. Returns `[B, channels, H_i, W_i]`, fine to coarse.

        Each additional map has ceil(H / 2) rows of the one before; columns likewise.
        """
        maps = [lateral(x) for lateral, x in zip(self.lateral, features, strict=True)]
        maps = _with_pooled(maps, LEVELS)
        for cell in self.cells:
            maps = cell(maps)
        return _with_pooled(maps, len(self.strides))[: len(self.strides)]


def _with_pooled(maps: list[Tensor], levels: int) -> list[Tensor]:
    """As many maps at least, of which those that are lacking are pooled, each from the one before."""
    maps = [*maps]
    while len(maps) < levels:
        maps.append(bring(maps[-1], 1))
    return maps


class NASNode(nn.Module):
    """Two maps, or three, of which the last is added; then activation, a 3x3 convolution and the normalisation.

    steps: how many levels finer than the node each map stands. Other arguments as in `NASFPN`.
    """

    def __init__(
        self,
        merge: Merge,
        in_channels: Sequence[int],
        steps: Sequence[int],
        *,
        channels: int,
        fusion: NASFusion,
        norm: Norm,
        activation: Activation,
        separable: bool,
    ) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.fusion: NASFusion = fusion if merge.attends else "sum"
        self.activation = make_activation(activation)
        self.convolution = (
            SeparableConv2d(channels, channels, 3, norm=None, activation=None, bias=False)
            if separable
            else nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        )
        self.norm = make_norm(norm, channels)

    def forward(self, maps: list[Tensor], size_hw: Sequence[int]) -> Tensor:
        """Maps `[B, channels, H_i, W_i]` to one `[B, channels, *size_hw]`."""
        first, second, *rest = (bring(x, step, size_hw) for x, step in zip(maps, self.steps, strict=True))
        if self.fusion == "sum":
            merged = first + second
        else:
            coarse, fine = (first, second) if self.steps[0] < self.steps[1] else (second, first)
            merged = attend(coarse, fine, self.fusion)
        for unread in rest:
            merged = merged + unread
        out: Tensor = self.norm(self.convolution(self.activation(merged)))
        return out


def attend(coarse: Tensor, fine: Tensor, by: Literal["max", "average"]) -> Tensor:
    """Global attention between maps `[B, C, H, W]` of one size, which came from a coarser and from a finer level."""
    if by == "max":
        return coarse + fine * coarse.amax(dim=(2, 3), keepdim=True).sigmoid()
    return fine + coarse * fine.mean(dim=(2, 3), keepdim=True).sigmoid()


def bring(x: Tensor, steps: int, size_hw: Sequence[int] = ()) -> Tensor:
    """A map `[B, C, H, W]` that many levels coarser, by the largest of each window; or finer, to `size_hw`, where
    `steps` is less than 0."""
    if steps < 0:
        return F.interpolate(x, size=size_hw, mode="nearest")
    return F.max_pool2d(x, 2**steps, ceil_mode=True) if steps else x
