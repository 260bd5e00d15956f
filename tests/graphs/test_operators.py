"""Each operator that is translated for ONNX gives in onnxruntime and OpenVINO what it gives in torch, at any size, in a
graph with as little in it as all of onnxscript's rules leave."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from onnxscript.optimizer import optimize_ir
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.functional import max_pool2d
from torchvision.ops import roi_pool

from aweigh.graphs.graph import OPSET
from aweigh.graphs.operators import TRANSLATIONS
from aweigh.graphs.simplified import simplify
from aweigh.graphs.winograd import convolutions, matrices
from aweigh.layers import DeformableConv2d
from aweigh.ops import pooling
from aweigh.ops.roi import region_pooling
from aweigh.runtime.openvino import the_core


class Pooled(nn.Module):
    """The four corner poolings."""

    def forward(self, x: Tensor, regions: Tensor) -> tuple[Tensor, ...]:
        every = (pooling.largest_below, pooling.largest_right, pooling.largest_above, pooling.largest_left)
        return tuple(pool(x) for pool in every)


class Regions(nn.Module):
    def forward(self, x: Tensor, regions: Tensor) -> tuple[Tensor, ...]:
        return (roi_pool(x, regions, (3, 3), spatial_scale=1 / 4),)


class Points(nn.Module):
    """Regions whose points are as many as their size asks for, the same number in each, and a mean of them."""

    def forward(self, x: Tensor, regions: Tensor) -> tuple[Tensor, ...]:
        return tuple(region_pooling(pool, [4])([x], regions, size=3) for pool in ("warp_max", "align_max", "warp"))


class Remainders(nn.Module):
    def forward(self, x: Tensor, regions: Tensor) -> tuple[Tensor, ...]:
        cells = (100 * x).long()
        return cells % x.shape[3], cells // x.shape[3], torch.remainder(x, 0.3)


class Deformed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = DeformableConv2d(4, 6, 3, padding=1)
        nn.init.normal_(self.convolution.offsets.weight)

    def forward(self, x: Tensor, regions: Tensor) -> tuple[Tensor, ...]:
        return (self.convolution(x),)


class Convolved(nn.Module):
    """Wide convolutions, one without a bias, and one that reads the map of the first; narrow and strided ones round
    them."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(4, 128, 3, padding=1)
        self.wide = nn.ModuleList(nn.Conv2d(128, 128 + 2 * n, 3, padding=1, bias=n != 1) for n in range(3))
        self.strided = nn.Conv2d(130, 4, 3, stride=2, padding=1)

    def forward(self, x: Tensor, regions: Tensor) -> tuple[Tensor, ...]:
        x = self.narrow(x)
        return (
            self.wide[0](x.relu()).relu(),
            self.strided(self.wide[1](x.relu())),
            self.wide[2](max_pool2d(x, 1, stride=2)),
        )


def inputs(batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """A map and 12 regions of it, of which some reach beyond its edge."""
    generator = torch.Generator().manual_seed(0)
    corners = 4 * torch.rand(12, 4, generator=generator) * torch.tensor([width, height] * 2)
    image = torch.randint(batch, (12, 1), generator=generator)
    return torch.randn(batch, 4, height, width, generator=generator), torch.cat([image, corners], dim=1)


def operators(model: onnx_ir.Model) -> list[str]:
    return [node.op_type for node in model.graph.all_nodes()]


@pytest.mark.parametrize("kind", [Pooled, Regions, Points, Remainders, Deformed, Convolved])
@torch.no_grad()
def test_a_graph_gives_what_torch_gives(kind: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, given = kind().eval(), inputs(2, 8, 9)
    size = {0: Dim("batch"), 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    table: Any = {**TRANSLATIONS, torch.ops.aten.conv2d.default: convolutions()}
    program = torch.onnx.export(
        module,
        given,
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=(size, {}),
        custom_translation_table=table,
        optimize=False,
        verbose=False,
    )
    assert program is not None
    by_all_rules = program.model.clone()
    optimize_ir(by_all_rules)
    simplify(program.model)
    assert operators(program.model) == operators(by_all_rules)
    file = tmp_path / "graph.onnx"
    program.save(str(file))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    compiled = the_core().compile_model(file, config={"INFERENCE_PRECISION_HINT": "f32"})
    for shape in ((1, 5, 7), (3, 16, 1), (2, 17, 40)):
        expected = module(*inputs(*shape))
        feed = {
            name: value.numpy() for name, value in zip(("x", "regions"), inputs(*shape), strict=True) if name in names
        }
        for got in (session.run(None, feed), list(compiled(feed).values())):
            for want, values in zip(expected, got, strict=True):
                np.testing.assert_allclose(values, want, atol=2e-5)


def test_the_matrices_of_a_fast_convolution_give_what_a_loop_gives() -> None:
    of_tile, of_kernel, of_products = matrices()
    dice = np.random.default_rng(0)
    tile, kernel = dice.standard_normal((6, 6)), dice.standard_normal((3, 3))
    slow = [[(tile[row : row + 3, column : column + 3] * kernel).sum() for column in range(4)] for row in range(4)]
    products = (of_kernel @ kernel @ of_kernel.T) * (of_tile @ tile @ of_tile.T)
    np.testing.assert_allclose(of_products @ products @ of_products.T, slow, atol=1e-12)
