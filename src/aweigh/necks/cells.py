"""Pyramids of repeated cells, beside which EfficientDet compares its own: a cell is a list of nodes, and a row here.

Paper: Tan, Pang and Le, "EfficientDet", CVPR 2020, section 3.2 and table 5. Each node brings the maps that it reads to
its level, fuses them, and has a separable convolution, as those of the BiFPN (`Node`). The authors released no code for
the rows of that table. What is known, and what is our reading:

- `path_aggregation` (PANet) and `qufpn` are effdet's cells of these names, node by node, and equal to them for the same
  weights.
- `top_down` (FPN) is our reading: the first half of the cell of PANet, without the second.
- `fully_connected` is our reading: a node on each level, which reads every map of the cell's input. The paper has a
  drawing of it and no equation. A map is pooled or enlarged one level after the other.
- How often a cell is repeated is our reading too: 5 times PANet and 10 times the two whose cells have one node on each
  level give table 5's ratios of parameters and multiply-adds (`docs/papers/efficientdet.md`).

Maps of the backbone are brought to the width of the pyramid by a convolution of each node that reads them.

Legend: C3..C5 are the backbone's maps at strides 8..32, P3..P7 the pyramid's at strides 8..128; H x W cells of a map.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Few, Width, checked_class
from aweigh.errors import UsageError, counted
from aweigh.layers import Activation, Norm
from aweigh.necks.bifpn import Fusion, Node, glorot_uniform, halve, to_width, with_coarser
from aweigh.necks.fpn import check_maps


class Merge(NamedTuple):
    """One node of a cell.

    level: where it stands, 0 is the finest. reads: the ids of what it reads: 0, 1 ... are the maps that come in, fine
    to coarse, and behind them the nodes in order. attends: whether the first two are fused by global attention, as in
    NAS-FPN alone.
    """

    level: int
    reads: tuple[int, ...]
    attends: bool = False


def top_down(levels: int) -> list[Merge]:
    """FPN: from the coarsest level to the finest, each node reads the map of its level and the node above."""
    nodes = [Merge(levels - 1, (levels - 1,))]
    for level in reversed(range(levels - 1)):
        nodes.append(Merge(level, (level, levels + len(nodes) - 1)))
    return nodes


def path_aggregation(levels: int) -> list[Merge]:
    """PANet: `top_down`, and from its finest node up again, each reads the node of its level and the one below."""
    nodes = top_down(levels)
    finest = 2 * levels - 1  # the id of the last node of the way down
    nodes.append(Merge(0, (finest,)))
    for level in range(1, levels):
        nodes.append(Merge(level, (finest - level, levels + len(nodes) - 1)))
    return nodes


def fully_connected(levels: int) -> list[Merge]:
    """A node on each level, which reads every map that comes in."""
    return [Merge(level, tuple(range(levels))) for level in range(levels)]


def qufpn(levels: int) -> list[Merge]:
    """The cell of the BiFPN, and beside it the same upside down; the ends of the two are fused on each level."""
    coarse_to_fine = [*reversed(range(levels))]
    down_and_up, ends = _there_and_back(coarse_to_fine, levels)
    up_and_down, other_ends = _there_and_back(coarse_to_fine[::-1], levels + len(down_and_up))
    both = [Merge(level, (ends[level], other_ends[level])) for level in range(levels)]
    return [*down_and_up, *up_and_down, *both]


def _there_and_back(order: Sequence[int], first_id: int) -> tuple[list[Merge], dict[int, int]]:
    """Nodes from the first level of `order` to its last and back, and the id of the last map of each level.

    A node on the way back reads the map that came in, that of the way there, and the node before; at the first level
    there is none of the way there.
    """
    nodes: list[Merge] = []
    last = {level: level for level in order}
    for before, level in pairwise(order):
        nodes.append(Merge(level, (level, last[before])))
        last[level] = first_id + len(nodes) - 1
    for before, level in pairwise(order[::-1]):
        between = (last[level],) if level != order[0] else ()
        nodes.append(Merge(level, (level, *between, last[before])))
        last[level] = first_id + len(nodes) - 1
    return nodes, last


@checked_class()
class CellPyramid(nn.Module):
    """Maps of a backbone, fine to coarse, in; `levels` maps of `channels` channels each, fine to coarse, out.

    cell: one of the functions above; the last node of each level gives a map of the next cell, or of the pyramid.
    in_channels, in_strides: the backbone's `.channels` and `.strides`; each stride doubles the one before.
    Other arguments as in `BiFPN`.
    """

    def __init__(
        self,
        cell: Callable[[int], list[Merge]],
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        *,
        channels: Width = 64,
        repeats: Few = 5,
        levels: Few = 5,
        fusion: Fusion = "sum",
        norm: Norm = "bn",
        activation: Activation = "silu",
        same_padding: bool = False,
        redundant_bias: bool = False,
    ) -> None:
        super().__init__()
        check_maps("CellPyramid", in_channels, in_strides)
        self.adds = levels - len(in_channels)
        if self.adds < 0:
            raise UsageError(
                f"CellPyramid gives a level for each of {counted(len(in_channels), 'map')} or more, not {levels}."
            )
        self.same_padding = same_padding
        self.top = to_width(in_channels[-1], channels, norm, redundant_bias)
        widths = [*in_channels, *(channels for _ in range(self.adds))]
        widths[-1] = channels
        node = partial(
            CellNode,
            channels=channels,
            fusion=fusion,
            norm=norm,
            activation=activation,
            same_padding=same_padding,
            redundant_bias=redundant_bias,
        )
        self.cells = nn.ModuleList(
            Cell(cell(levels), node, [channels] * levels if repeat else widths, channels) for repeat in range(repeats)
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


class Cell(nn.Module):
    """The nodes of a cell, one after the other.

    merges: the nodes. node: makes the module of one, of its `Merge`, and by place of each map it reads how many
    channels that has, and how many levels finer than the node it stands (less than 0: coarser); it is called with these
    maps and the size of its own. in_channels: of the maps that come in, one for each level. channels: of every node.
    """

    def __init__(
        self, merges: Sequence[Merge], node: Callable[..., nn.Module], in_channels: Sequence[int], channels: int
    ) -> None:
        super().__init__()
        self.merges = tuple(merges)
        widths = [*in_channels, *(channels for _ in merges)]  # by id, as `levels`
        levels = [*range(len(in_channels)), *(merge.level for merge in merges)]
        self.nodes = nn.ModuleList(
            node(merge, [widths[read] for read in merge.reads], [merge.level - levels[read] for read in merge.reads])
            for merge in merges
        )
        last = {level: number for number, level in enumerate(levels)}
        self.ends = [last[level] for level in range(len(in_channels))]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps `[B, in_channels[i], H_i, W_i]` to `[B, channels, H_i, W_i]`, fine to coarse."""
        found = [*maps]
        for merge, node in zip(self.merges, self.nodes, strict=True):
            found.append(node([found[read] for read in merge.reads], maps[merge.level].shape[-2:]))
        return [found[end] for end in self.ends]


class CellNode(nn.Module):
    """Maps are brought to the width and to the level of the node, and fused by a `Node`.

    in_channels, steps: as `Cell` gives them. Other arguments as in `BiFPN`.
    """

    def __init__(
        self,
        merge: Merge,
        in_channels: Sequence[int],
        steps: Sequence[int],
        *,
        channels: int,
        norm: Norm,
        redundant_bias: bool,
        same_padding: bool,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.steps, self.same_padding = tuple(steps), same_padding
        self.lateral = nn.ModuleList(to_width(width, channels, norm, redundant_bias) for width in in_channels)
        self.fuse = Node(channels, channels, inputs=len(steps), norm=norm, redundant_bias=redundant_bias, **settings)

    def forward(self, maps: list[Tensor], size_hw: Sequence[int]) -> Tensor:
        """Maps `[B, in_channels[i], H_i, W_i]` to one `[B, channels, *size_hw]`."""
        ours = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        fused: Tensor = self.fuse(*(self._to_level(x, step, size_hw) for x, step in zip(ours, self.steps, strict=True)))
        return fused

    def _to_level(self, x: Tensor, step: int, size_hw: Sequence[int]) -> Tensor:
        if step < 0:
            return F.interpolate(x, size=size_hw, mode="nearest")
        for _ in range(step):
            x = halve(x, same_padding=self.same_padding)
        return x
