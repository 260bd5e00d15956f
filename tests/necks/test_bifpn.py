"""The bi-directional pyramid: fusion against a slow version, TensorFlow's pooling, sizes, what reaches what, other
detectors on it."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from aweigh.errors import UsageError
from aweigh.models import create
from aweigh.necks.bifpn import BiFPN, Node, halve
from aweigh.structures import Images, Targets

WIDTHS, STRIDES = (8, 12, 16), (8, 16, 32)


def features(height: int, width: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return [
        torch.randn(2, channels, -(-height // stride), -(-width // stride), generator=generator)
        for channels, stride in zip(WIDTHS, STRIDES, strict=True)
    ]


def node(fusion: str, inputs: int) -> Node:
    """A node that does nothing but fuse."""
    bare = Node(4, 4, inputs=inputs, fusion=fusion, norm="bn", activation="silu", redundant_bias=False)
    bare.activation, bare.convolution, bare.norm = nn.Identity(), nn.Identity(), nn.Identity()
    return bare


@pytest.mark.parametrize("inputs", [2, 3])
@pytest.mark.parametrize("fusion", ["fast", "softmax", "sum"])
def test_fusion_equals_a_slow_version(fusion: str, inputs: int) -> None:
    fuse = node(fusion, inputs)
    maps = [torch.randn(1, 4, 2, 3) for _ in range(inputs)]
    weights = [1.5, -0.3, 0.7][:inputs]  # a negative one counts nothing in the fast form
    if fuse.weights is not None:
        fuse.weights.data = torch.tensor(weights)
    positive = [max(weight, 0.0) for weight in weights]
    shares = {
        "fast": [weight / (sum(positive) + 1e-4) for weight in positive],
        "softmax": [math.exp(weight) / sum(map(math.exp, weights)) for weight in weights],
        "sum": [1.0] * inputs,
    }[fusion]
    expected = torch.zeros(1, 4, 2, 3)
    for place in torch.cartesian_prod(torch.arange(4), torch.arange(2), torch.arange(3)):
        channel, row, column = place.tolist()
        for share, each in zip(shares, maps, strict=True):
            expected[0, channel, row, column] += share * each[0, channel, row, column]
    torch.testing.assert_close(fuse(*maps), expected)
    assert (fuse.weights is None) == (fusion == "sum")


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 2), (2, 3), (5, 4), (8, 7)])
def test_pooling_pads_as_tensorflow_does(size_hw: tuple[int, int]) -> None:
    x = torch.randn(1, 2, *size_hw)
    out = [-(-side // 2) for side in size_hw]
    lacking = [max((cells - 1) * 2 + 3 - side, 0) for cells, side in zip(out, size_hw, strict=True)]
    (above, below), (left, right) = ((count // 2, count - count // 2) for count in lacking)
    expected = F.max_pool2d(F.pad(x, (left, right, above, below), value=-math.inf), 3, stride=2)
    assert torch.equal(halve(x, same_padding=True), expected)
    assert list(halve(x, same_padding=False).shape[-2:]) == out


@pytest.mark.parametrize("same_padding", [True, False])
@pytest.mark.parametrize("size_hw", [(64, 96), (250, 333), (33, 97), (1, 1)])
def test_one_map_for_each_stride_at_any_size(size_hw: tuple[int, int], same_padding: bool) -> None:
    neck = BiFPN(WIDTHS, STRIDES, channels=10, repeats=2, levels=6, same_padding=same_padding).eval()
    assert neck.strides == (8, 16, 32, 64, 128, 256) and neck.channels == (10,) * 6
    given = features(*size_hw)
    before = [each.clone() for each in given]
    with torch.no_grad():
        pyramid = neck(given)
    sizes = [[-(-side // stride) for side in size_hw] for stride in neck.strides]
    assert [list(level.shape) for level in pyramid] == [[2, 10, *size] for size in sizes]
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True)), "forward changed its input"


@pytest.mark.parametrize("source", [0, 1, 2])
def test_every_map_reads_every_input(source: int) -> None:
    torch.manual_seed(0)
    neck = BiFPN(WIDTHS, STRIDES, channels=8, repeats=1).eval()
    given = [each.requires_grad_() for each in features(128, 128)]
    for level in neck(given):
        (gradient,) = torch.autograd.grad(level.sum(), given[source], retain_graph=True)
        assert gradient.abs().sum() > 0


def test_only_the_first_cell_changes_widths_and_a_map_of_the_right_width_passes() -> None:
    neck = BiFPN((8, 10, 16), STRIDES, channels=10, repeats=2, redundant_bias=True)
    laterals = [name for name, module in neck.named_modules() if name.endswith("lateral.0")]
    assert laterals == ["cells.0.down.0.lateral.0", "cells.0.down.2.lateral.0", "cells.0.up.1.lateral.0"]
    biased = [
        name for name, module in neck.named_modules() if isinstance(module, nn.Conv2d) and module.bias is not None
    ]
    assert len(biased) == 1 + 3 + 2 * 8  # the top, the laterals, a 1x1 convolution in each node
    assert all(
        module.eps == 1e-3 and module.momentum == 0.01 for module in neck.modules() if hasattr(module, "momentum")
    )


def test_a_single_cell_can_be_trained_on() -> None:
    neck = BiFPN(WIDTHS, STRIDES, channels=8, repeats=1).train()
    pyramid = neck([torch.rand(1, width, size, size) for width, size in zip(WIDTHS, (8, 4, 2), strict=True)])
    assert pyramid[-1].shape[-2:] == (1, 1)
    sum(level.sum() for level in pyramid).backward()
    assert all(value.grad is not None for value in neck.parameters())


@pytest.mark.parametrize("name", ["fcos_shufflenet_v2_x0_5_fpn", "retinanet_shufflenet_v2_x1_0_fpn"])
def test_other_detectors_stand_on_it(name: str) -> None:
    torch.manual_seed(0)
    model = create(name, num_classes=3, neck="bifpn", channels=16)
    assert isinstance(model.neck, BiFPN) and model.strides == (8, 16, 32, 64, 128)
    images = Images.stack([torch.rand(3, 64, 96), torch.rand(3, 90, 40)])
    target = Targets(torch.tensor([[4.0, 4, 36, 60]]), torch.tensor([1]))
    sum(model(images, [target, target]).values()).backward()
    assert all(value.grad is not None for value in model.neck.parameters())
    model.score_threshold = 0.0
    assert sum(map(len, model.eval()(images))) > 0


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="one stride per input map"):
        BiFPN((8, 16), (8,))
    with pytest.raises(UsageError, match="double from map to map"):
        BiFPN((8, 16), (8, 32))
    with pytest.raises(UsageError, match="each map, here 3 or more; got 2"):
        BiFPN(WIDTHS, STRIDES, levels=2)
    with pytest.raises(UsageError, match="unknown fusion 'mean'"):
        BiFPN(WIDTHS, STRIDES, fusion="mean")
