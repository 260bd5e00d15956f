"""Pyramids of repeated cells against effdet's, with the same random weights; FPN's by a list of nodes given to it."""

from collections.abc import Callable

import pytest
import torch
from effdet import get_efficientdet_config
from effdet.config.fpn_config import get_fpn_config
from effdet.efficientdet import BiFpn
from omegaconf import OmegaConf
from torch import nn

from aweigh.necks.cells import CellPyramid, Merge, path_aggregation, qufpn, top_down

WIDTHS, STRIDES, SIZE = (8, 12, 16), (8, 16, 32), 256


def theirs(nodes: OmegaConf, name: str, repeats: int) -> nn.Module:
    config = get_efficientdet_config(name)
    config.image_size, config.fpn_channels, config.fpn_cell_repeats, config.fpn_config = (
        (SIZE, SIZE),
        10,
        repeats,
        nodes,
    )
    network = BiFpn(
        config, [{"num_chs": width, "reduction": stride} for width, stride in zip(WIDTHS, STRIDES, strict=True)]
    )
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            nn.init.uniform_(value, 0.3, 1.5) if "running_var" in key or "edge" in key else nn.init.normal_(
                value, std=0.4
            )
    return network.eval()


def ours_like(network: nn.Module, cell: list[Merge]) -> dict[str, torch.Tensor]:
    """effdet's state under our names."""
    renamed = {}
    for key, value in network.state_dict().items():
        part, *rest = key.split(".")
        rest = [{"conv": "0", "bn": "1"}.get(word, word) for word in rest]
        if part == "resample":
            renamed[".".join(["top", *rest[2:]])] = value
            continue
        number, _, node, kind, *inner = rest
        at = f"cells.{number}.nodes.{node}"
        if inner == ["edge_weights"]:
            renamed[f"{at}.fuse.weights"] = value
        elif kind == "combine":
            place = cell[int(node)].reads.index(int(inner[1]))
            renamed[".".join([at, "lateral", str(place), *inner[3:]])] = value
        else:
            layer = {"conv_dw": "convolution.0", "conv_pw": "convolution.1", "1": "norm"}[inner[1]]
            renamed[".".join([at, "fuse", layer, *inner[2:]])] = value
    return renamed


def assert_equal(
    nodes: OmegaConf, form: str, cell: Callable[[int], list[Merge]], fusion: str, repeats: int, order: int = 1
) -> None:
    torch.manual_seed(0)
    network, as_tensorflow = theirs(nodes, form, repeats), form.startswith("tf")
    neck = CellPyramid(
        cell,
        WIDTHS,
        STRIDES,
        channels=10,
        repeats=repeats,
        fusion=fusion,
        same_padding=as_tensorflow,
        redundant_bias=as_tensorflow,
    ).eval()
    neck.load_state_dict(ours_like(network, cell(5)))
    maps = [
        torch.randn(2, width, SIZE // stride, SIZE // stride) for width, stride in zip(WIDTHS, STRIDES, strict=True)
    ]
    for got, expected in zip(neck(maps), network([*maps])[::order], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        assert expected.std() > 0.05  # a comparison of constants would prove nothing


@pytest.mark.parametrize("form", ["tf_efficientdet_d0", "efficientdet_d0"])
@pytest.mark.parametrize(
    ("name", "cell", "fusion"),
    [("pan_sum", path_aggregation, "sum"), ("pan_fa", path_aggregation, "fast"), ("qufpn_fa", qufpn, "fast")],
)
@torch.no_grad()
def test_equals_effdets_of_its_name(name: str, cell: Callable[[int], list[Merge]], fusion: str, form: str) -> None:
    assert_equal(get_fpn_config(name, 3, 7), form, cell, fusion, repeats=2)


@pytest.mark.parametrize(("method", "fusion"), [("fastattn", "fast"), ("attn", "softmax"), ("sum", "sum")])
@torch.no_grad()
def test_fpn_equals_effdets_told_its_nodes(method: str, fusion: str) -> None:
    """effdet gives the last five nodes as they come, from coarse to fine: so one cell, and the maps turned around."""
    nodes = [
        {"feat_level": 7 - i, "inputs_offsets": [4 - i, 4 + i] if i else [4], "weight_method": method} for i in range(5)
    ]
    assert_equal(OmegaConf.create({"nodes": nodes}), "tf_efficientdet_d0", top_down, fusion, repeats=1, order=-1)
