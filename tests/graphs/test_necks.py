"""Every neck as a part of a graph: one program whatever the maps hold; a detector on it that onnxruntime runs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.graphs.test_each_detector import assert_finds, exported, in_onnxruntime, inputs, of_kind

from aweigh.arguments import parameters
from aweigh.necks import NECKS, make_neck

WIDTHS, STRIDES = (8, 12, 16), (8, 16, 32)


def once(neck: str) -> dict[str, Any]:
    """One cell is enough."""
    return {"repeats": 1} if "repeats" in parameters(NECKS[neck]) else {}


@torch.no_grad()
@pytest.mark.parametrize("name", ["nas_fpn", "fully_connected"])  # of each kind of node; all of them below
def test_a_neck_is_one_program_without_a_branch_on_the_data(name: str) -> None:
    torch.manual_seed(0)
    backbone = SimpleNamespace(channels=WIDTHS, strides=STRIDES)
    neck = make_neck(name, backbone, 6, 5, top="c5", norm=None, **once(name)).eval()
    maps = [torch.randn(2, width, 64 // stride, 96 // stride) for width, stride in zip(WIDTHS, STRIDES, strict=True)]
    program = torch.export.export(neck, ([torch.zeros_like(x) for x in maps],), strict=False).module()
    for got, expected in zip(program(maps), neck(maps), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.thorough
@pytest.mark.parametrize("name", NECKS)
def test_a_graph_of_any_size_on_it(name: str, tmp_path: Path) -> None:
    cells = {f"neck_{key}": value for key, value in once(name).items()}
    model = of_kind("fcos_shufflenet_v2_x0_5_fpn", neck=name, channels=16, **cells)
    run = in_onnxruntime(exported(model, tmp_path))
    for batch, *sides in ((1, 1, 1), (2, 1, 2), (3, 3, 2)):
        assert_finds(run, model, inputs(model, batch, *sides))
