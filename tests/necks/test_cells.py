"""Pyramids of repeated cells: their nodes, each against a slow form, sizes, fusion, and table 5 of EfficientDet."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from aweigh.errors import UsageError
from aweigh.models import create
from aweigh.necks import make_neck
from aweigh.necks.cells import CellPyramid, fully_connected, path_aggregation, qufpn, top_down

WIDTHS, STRIDES = (8, 12, 16), (8, 16, 32)
CELLS = {"top_down": top_down, "path_aggregation": path_aggregation, "fully_connected": fully_connected, "qufpn": qufpn}


def features(height: int, width: int, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return [
        torch.randn(batch, channels, -(-height // stride), -(-width // stride), generator=generator)
        for channels, stride in zip(WIDTHS, STRIDES, strict=True)
    ]


def test_the_nodes_of_five_levels() -> None:
    """P3 to P7 come in as 0 to 4: effdet's lists, and for FPN the first half of that of PANet."""
    down = [(4, (4,)), (3, (3, 5)), (2, (2, 6)), (1, (1, 7)), (0, (0, 8))]
    up = [(0, (9,)), (1, (8, 10)), (2, (7, 11)), (3, (6, 12)), (4, (5, 13))]
    assert [(node.level, node.reads) for node in top_down(5)] == down
    assert [(node.level, node.reads) for node in path_aggregation(5)] == down + up
    assert [(node.level, node.reads) for node in fully_connected(5)] == [(i, (0, 1, 2, 3, 4)) for i in range(5)]
    bifpn = [(3, (3, 4)), (2, (2, 5)), (1, (1, 6)), (0, (0, 7))]
    bifpn += [(1, (1, 7, 8)), (2, (2, 6, 9)), (3, (3, 5, 10)), (4, (4, 11))]
    other = [(1, (1, 0)), (2, (2, 13)), (3, (3, 14)), (4, (4, 15))]
    other += [(3, (3, 15, 16)), (2, (2, 14, 17)), (1, (1, 13, 18)), (0, (0, 19))]
    both = [(0, (8, 20)), (1, (9, 19)), (2, (10, 18)), (3, (11, 17)), (4, (12, 16))]
    assert [(node.level, node.reads) for node in qufpn(5)] == bifpn + other + both


@pytest.mark.parametrize("levels", [1, 2, 3, 8])
@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_of_any_number_of_levels_ends_with_a_node_on_each(cell: str, levels: int) -> None:
    nodes = CELLS[cell](levels)
    assert {node.level for node in nodes} == set(range(levels))
    assert all(0 <= read < levels + number for number, node in enumerate(nodes) for read in node.reads)


def enlarged(x: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Nearest neighbours, by indices."""
    rows, columns = (torch.arange(new) * old // new for new, old in zip(size_hw, x.shape[-2:], strict=True))
    return x[:, :, rows][:, :, :, columns]


def halved(x: torch.Tensor) -> torch.Tensor:
    """The largest of three cells either way around every second one, with loops."""
    height, width = x.shape[-2:]
    rows = [
        [
            x[:, :, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].amax(dim=(2, 3))
            for column in range(0, width, 2)
        ]
        for row in range(0, height, 2)
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


class SlowNodes:
    """The nodes of a cell with the weights of a neck, one after the other, as a reader of the paper writes them."""

    def __init__(self, neck: nn.Module, cell: int) -> None:
        self.state, self.cell, self.number = neck.state_dict(), cell, 0

    def __call__(self, *maps: torch.Tensor) -> torch.Tensor:
        """The next node, of maps that have its size already, of which each may still have a backbone's width."""
        at = f"cells.{self.cell}.nodes.{self.number}"
        self.number += 1
        total = torch.zeros(())
        for number, x in enumerate(maps):
            if (weight := self.state.get(f"{at}.lateral.{number}.0.weight")) is not None:
                x = self.norm(F.conv2d(x, weight), f"{at}.lateral.{number}.1")
            total = total + x
        x = total * torch.sigmoid(total)
        depthwise = self.state[f"{at}.fuse.convolution.0.weight"]
        x = F.conv2d(x, depthwise, padding=1, groups=len(depthwise))
        return self.norm(F.conv2d(x, self.state[f"{at}.fuse.convolution.1.weight"]), f"{at}.fuse.norm")

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance, weight, bias = (
            self.state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-3).sqrt() * weight + bias


def lively(neck: nn.Module) -> nn.Module:
    """In evaluation mode, with statistics and weights of the normalisations that are not 0 and 1."""
    for module in neck.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return neck.eval()


def slow_input(neck: nn.Module, maps: list[torch.Tensor]) -> list[torch.Tensor]:
    top = neck.top(maps[-1])
    return [*maps, halved(top), halved(halved(top))]


@torch.no_grad()
@pytest.mark.parametrize("size_hw", [(64, 96), (90, 75), (1, 1)])
def test_fpn_repeated_equals_a_slow_form(size_hw: tuple[int, int]) -> None:
    torch.manual_seed(0)
    neck = lively(CellPyramid(top_down, WIDTHS, STRIDES, channels=6, repeats=2))
    p3, p4, p5, p6, p7 = slow_input(neck, features(*size_hw))
    for cell in range(2):
        node = SlowNodes(neck, cell)
        p7 = node(p7)
        p6 = node(p6, enlarged(p7, p6.shape[-2:]))
        p5 = node(p5, enlarged(p6, p5.shape[-2:])) if cell else slow_wide(node, p5, p6)
        p4 = node(p4, enlarged(p5, p4.shape[-2:])) if cell else slow_wide(node, p4, p5)
        p3 = node(p3, enlarged(p4, p3.shape[-2:])) if cell else slow_wide(node, p3, p4)
    for got, expected in zip(neck(features(*size_hw)), (p3, p4, p5, p6, p7), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def slow_wide(node: SlowNodes, own: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    return node(own, enlarged(coarse, own.shape[-2:]))


@torch.no_grad()
@pytest.mark.parametrize("size_hw", [(64, 96), (90, 75), (1, 1)])
def test_fully_connected_equals_a_slow_form(size_hw: tuple[int, int]) -> None:
    """The convolution to the pyramid's width comes before a map changes its size; a pooled one is halved repeatedly."""
    torch.manual_seed(0)
    neck = lively(CellPyramid(fully_connected, WIDTHS, STRIDES, channels=6, repeats=2))
    maps = slow_input(neck, features(*size_hw))
    for cell in range(2):
        node, before = SlowNodes(neck, cell), maps
        maps = []
        for level in range(5):
            read = []
            for number, x in enumerate(before):
                if x.shape[1] != 6:
                    at = f"cells.0.nodes.{level}.lateral.{number}"
                    x = node.norm(F.conv2d(x, node.state[f"{at}.0.weight"]), f"{at}.1")
                    node.state.pop(f"{at}.0.weight")  # done
                for _ in range(number, level):
                    x = halved(x)
                read.append(enlarged(x, before[level].shape[-2:]) if number > level else x)
            maps.append(node(*read))
    for got, expected in zip(neck(features(*size_hw)), maps, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", ["fast", "softmax", "sum"])
def test_a_node_has_a_weight_for_each_map_unless_maps_are_summed(fusion: str) -> None:
    neck = CellPyramid(path_aggregation, WIDTHS, STRIDES, channels=6, repeats=1, fusion=fusion)
    weights = [tuple(node.fuse.weights.shape) for node in neck.cells[0].nodes if node.fuse.weights is not None]
    assert weights == ([] if fusion == "sum" else [(len(node.reads),) for node in path_aggregation(5)])


@torch.no_grad()
@pytest.mark.parametrize("cell", CELLS)
def test_one_map_for_each_stride_at_any_size_and_of_no_image(cell: str) -> None:
    for size_hw, batch in (((64, 96), 1), ((250, 333), 1), ((1, 1), 1), ((40, 40), 0)):
        for levels in (3, 6):
            neck = CellPyramid(CELLS[cell], WIDTHS, STRIDES, channels=6, repeats=2, levels=levels).eval()
            sizes = [[-(-side // stride) for side in size_hw] for stride in neck.strides]
            assert [list(x.shape) for x in neck(features(*size_hw, batch))] == [[batch, 6, *size] for size in sizes]


@pytest.mark.parametrize("cell", CELLS)
def test_which_map_reads_which(cell: str) -> None:
    """All of all after one cell, but that FPN goes down only: the coarsest map knows nothing of the finer ones."""
    torch.manual_seed(0)
    neck = CellPyramid(CELLS[cell], WIDTHS, STRIDES, channels=8, repeats=1).eval()
    given = [each.requires_grad_() for each in features(128, 128, batch=1)]
    for level, out in enumerate(neck(given)):
        gradients = torch.autograd.grad(out.sum(), given, retain_graph=True, allow_unused=True)
        read = [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients]
        assert read == ([source >= min(level, 2) for source in range(3)] if cell == "top_down" else [True] * 3)


# Table 5 of the paper: the neck, how often its cell is repeated, how maps are fused, and the ratios of parameters and
# multiply-adds to those of the repeated PANet. Ours are of the feature network alone at the size and the width of D3,
# which the table's fit; the paper does not say.
TABLE_5 = [
    ("repeated_fpn", 10, None, 1.0, 1.0),
    ("repeated_pan", 5, None, 1.0, 1.0),
    ("nas_fpn", 5, None, 0.71, 0.72),
    ("fully_connected", 10, None, 1.24, 1.21),
    ("bifpn", 5, "sum", 0.88, 0.67),
    ("bifpn", 5, "fast", 0.88, 0.68),
]


@cache
def cost_at_d3(neck: str, repeats: int, fusion: str | None) -> tuple[int, int]:
    backbone = SimpleNamespace(channels=(48, 136, 384), strides=STRIDES)
    given = {"channels": 160, "levels": 5, "repeats": repeats, "fusion": fusion, "separable": True}
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = make_neck(neck, backbone, **given).eval()
        network(
            [
                torch.empty(1, width, 896 // stride, 896 // stride)
                for width, stride in zip(backbone.channels, STRIDES, strict=True)
            ]
        )
    return sum(value.numel() for value in network.parameters()), counter.get_total_flops()


@pytest.mark.parametrize(("neck", "repeats", "fusion", "parameters", "flops"), TABLE_5)
def test_the_ratios_of_table_5(neck: str, repeats: int, fusion: str | None, parameters: float, flops: float) -> None:
    ours, panet = cost_at_d3(neck, repeats, fusion), cost_at_d3("repeated_pan", 5, None)
    assert ours[0] / panet[0] == pytest.approx(parameters, rel=0.05)
    assert ours[1] / panet[1] == pytest.approx(flops, rel=0.05)


def test_a_neck_by_name_is_as_in_its_paper_unless_told_otherwise() -> None:
    backbone = SimpleNamespace(channels=WIDTHS, strides=STRIDES)
    told = {"channels": 8, "levels": 5, "top": "p5", "norm": None}
    cells = {"repeated_fpn": 10, "repeated_pan": 5, "fully_connected": 10, "nas_fpn": 7, "bifpn": 3, "qufpn": 3}
    for name, count in cells.items():
        assert len(make_neck(name, backbone, **told).cells) == count
        assert len(make_neck(name, backbone, **told, repeats=2).cells) == 2
    weighted = {name: make_neck(name, backbone, **told, repeats=1).state_dict() for name in cells}
    has = [name for name, state in weighted.items() if any(key.endswith(".weights") for key in state)]
    assert has == ["bifpn", "qufpn"]
    with pytest.raises(UsageError, match=r"neck fpn has no repeats, got 2; those that have: bifpn, repeated_fpn"):
        make_neck("fpn", backbone, **told, repeats=2)
    with pytest.raises(UsageError, match="neck pan has no fusion, got fast"):
        make_neck("pan", backbone, **told, fusion="fast")
    with pytest.raises(UsageError, match="unknown fusion 'max'; known: fast, softmax, sum"):
        make_neck("repeated_pan", backbone, **told, fusion="max")
    with pytest.raises(UsageError, match="repeats = 0: expected a whole number from 1 to 64"):
        make_neck("bifpn", backbone, **told, repeats=0)


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="double from map to map"):
        CellPyramid(top_down, (8, 16), (8, 32))
    with pytest.raises(UsageError, match="each of 3 maps or more, not 2"):
        CellPyramid(top_down, WIDTHS, STRIDES, levels=2)


def test_efficientdet_gives_its_own_depth_and_fusion_to_the_bifpn_alone() -> None:
    with torch.device("meta"):
        for row, repeats, weighted in (("d0", 3, True), ("lite0", 3, False)):
            neck = create(f"efficientdet_{row}").neck
            assert len(neck.cells) == repeats and (neck.cells[0].down[0].weights is not None) == weighted
        told = create("efficientdet_d0", neck_repeats=1, neck_fusion="sum").neck
        assert len(told.cells) == 1 and told.cells[0].down[0].weights is None
        other = create("efficientdet_d0", neck="nas_fpn", neck_repeats=2, neck_fusion="average").neck
    (first, *_), (_, second) = other.cells[0].nodes, other.cells
    assert first.fusion == "average" and len(second.nodes) == 7
    assert isinstance(first.activation, nn.SiLU) and first.convolution[0].groups == 64, "as the rest of the network"
