"""What is written down of a run: functions as well as layers, against arithmetic by hand and torch's own counter."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from aweigh.models import create
from aweigh.profiling.networks import run_network
from aweigh.profiling.operators import WITH_ARITHMETIC, Operator, record


def recorded(module: nn.Module, *inputs: torch.Tensor, **keywords) -> list[Operator]:
    return record(module.eval(), lambda: module(*inputs), **keywords)


@settings(max_examples=40, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 3, 6]),
    width=st.integers(1, 3),
    out=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    sides=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    batch=st.integers(1, 3),
    transposed=st.booleans(),
)
def test_a_convolution_by_counting_its_products(groups, width, out, kernel, stride, sides, batch, transposed):
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(6 * width, 6 * out, kernel, stride=stride, groups=groups)
    (found,) = recorded(layer, torch.zeros(batch, 6 * width, *sides))
    # With weights and inputs of ones, every value of the output is the number of its products.
    for each in layer.parameters():
        nn.init.ones_(each)
    products = kind(6 * width, 6 * out, kernel, stride=stride, groups=groups, bias=False)
    nn.init.ones_(products.weight)
    assert found.multiply_adds == round(products(torch.ones(batch, 6 * width, *sides)).sum().item())
    assert found.weights == layer.weight.numel()
    assert (found.read, found.written) == (
        batch * 6 * width * sides[0] * sides[1],
        layer(torch.zeros(batch, 6 * width, *sides)).numel(),
    )
    assert (found.kernel, found.stride, found.groups) == ((kernel, kernel), (stride, stride), groups)


def test_memory_access_of_a_pointwise_convolution_is_the_papers():
    (found,) = recorded(nn.Conv2d(8, 12, 1), torch.zeros(1, 8, 5, 7))
    assert found.memory_access == 5 * 7 * (8 + 12) + 8 * 12  # section 2, G1


@pytest.mark.parametrize(
    ("groups", "kind"), [(1, "convolution"), (2, "grouped convolution"), (6, "depthwise convolution")]
)
def test_kinds_of_convolutions(groups, kind):
    assert recorded(nn.Conv2d(6, 12, 3, groups=groups), torch.zeros(1, 6, 4, 4))[0].kind == kind
    assert recorded(nn.ConvTranspose2d(6, 12, 3, groups=groups), torch.zeros(1, 6, 4, 4))[0].kind == (
        "transposed convolution"
    )


class EachKind(nn.Module):
    """One operator of each kind, as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3, 3, 3))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> object:
        x = self.norm(F.conv2d(x, self.weight, padding=1))
        x = F.relu(
            torchvision.ops.deform_conv2d(x, x.new_zeros(1, 18, 8, 8), self.weight[:, :1].expand(4, 4, 3, 3), padding=1)
        )
        x = F.interpolate(F.max_pool2d(x, 2), scale_factor=2.0)
        x = torch.cat([x, x], dim=1)
        rows = torchvision.ops.roi_align(x, x.new_tensor([[0, 0, 0, 4, 4]]), 2)
        product = rows.flatten(1) @ rows.flatten(1).T
        boxes = x.new_tensor([[0, 0, 1, 1], [0, 0, 1, 1]])
        return product.sum(), torchvision.ops.nms(boxes, boxes[:, 0], 0.5)


def test_functions_are_seen_as_layers_are():
    found = recorded(EachKind(), torch.zeros(1, 3, 8, 8))
    kinds = [each.kind for each in found]
    for kind in (
        "convolution", "normalisation", "deformable convolution", "element-wise", "pooling", "resize",
        "data movement", "regions", "matrix product", "reduction", "selection",
    ):  # fmt: skip
        assert kind in kinds, kind
    assert "unknown" not in kinds
    assert [each.module for each in found if each.kind == "normalisation"] == ["norm"]
    arithmetic = {each.kind: each.multiply_adds for each in found if each.multiply_adds}
    assert arithmetic == {
        "convolution": 64 * 4 * 27, "deformable convolution": 64 * 4 * 36, "matrix product": 32,
    }  # fmt: skip


def test_an_operator_that_nobody_listed_is_named():
    class Strange(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.rfft(x)

    found = recorded(Strange(), torch.eye(3)[None])
    assert [each.name for each in found if each.kind == "unknown"] == ["aten::_fft_r2c"]


def test_views_and_memory_without_values_are_left_out():
    class Views(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = x.view(2, 8).split(4, dim=1)[0]
            torch.empty(5)
            return a.expand(2, 4)[:, :2].T

    assert recorded(Views(), torch.zeros(1, 16)) == []


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "vit_b_16", "swin_v2_t", "convnext_tiny"])
def test_torchs_own_counter_counts_the_same(name):
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None).eval()
        image = torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        model(image)
    assert 2 * sum(each.multiply_adds for each in recorded(model, image)) == counter.get_total_flops()


def test_a_detector_has_no_unknown_operators_and_each_has_its_module():
    with torch.device("meta"):
        detector = create("fcos_shufflenet_v2_x0_5_fpn", num_classes=3)
        found = record(detector, lambda: run_network(detector, torch.empty(1, 3, 64, 64)))
    names = dict(detector.named_modules())
    assert all(each.kind != "unknown" and each.module in names for each in found)
    assert {each.module.split(".")[0] for each in found if each.kind in WITH_ARITHMETIC} == {"backbone", "neck", "head"}


def test_a_clock_tells_how_long_each_takes_and_the_module_is_left_as_it_was():
    ticks = iter(range(100))
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    found = recorded(layers, torch.zeros(1, 3, 4, 4), clock=lambda: float(next(ticks)))
    assert [(each.module, each.seconds) for each in found] == [("0", 1.0), ("1", 1.0)]
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in layers.modules())


def test_hooks_go_where_a_module_fails():
    layers = nn.Sequential(nn.Conv2d(3, 4, 1))
    with pytest.raises(RuntimeError):
        recorded(layers, torch.zeros(1, 5, 4, 4))
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in layers.modules())
