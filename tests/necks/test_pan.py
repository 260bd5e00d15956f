"""The path aggregation necks, the paper's and the light one: sizes, what reaches what, errors."""

import pytest
import torch
from torch.nn import functional as F

from aweigh.errors import UsageError
from aweigh.necks.fpn import FPN
from aweigh.necks.pan import PAN, LitePAN


@pytest.mark.parametrize("top", ["p5", "c5", "pool"])
@pytest.mark.parametrize("norm", [None, "gn"])
@pytest.mark.parametrize("size_hw", [(64, 96), (90, 75), (1, 1)])
def test_the_path_is_that_of_section_3_1(size_hw: tuple[int, int], norm: str | None, top: str) -> None:
    """N3 is P3; every further map is a convolution of P plus a strided convolution of the map before."""
    torch.manual_seed(0)
    neck = PAN((8, 12, 16), (8, 16, 32), channels=32, levels=5, top=top, norm=norm).eval()
    assert neck.strides == (8, 16, 32, 64, 128) and neck.channels == (32,) * 5
    sizes = [tuple(-(-side // stride) for side in size_hw) for stride in neck.strides]
    features = [torch.rand(2, width, *size) for width, size in zip((8, 12, 16), sizes, strict=False)]
    pyramid, path = neck.fpn(features), neck(features)
    assert [tuple(level.shape) for level in path] == [(2, 32, *size) for size in sizes]
    assert torch.equal(path[0], pyramid[0])
    for level in range(1, 5):
        (up, up_norm, _), (output, output_norm, _) = neck.up[level - 1], neck.output[level - 1]
        assert up.stride == (2, 2) and output.stride == (1, 1) and (up.bias is None) == (norm is not None)
        step = up_norm(F.conv2d(path[level - 1], up.weight, up.bias, stride=2, padding=1)).relu()
        expected = output_norm(F.conv2d(pyramid[level] + step, output.weight, output.bias, padding=1)).relu()
        torch.testing.assert_close(path[level], expected)


@pytest.mark.parametrize("source", [0, 1, 2])
def test_the_coarsest_map_of_the_path_reads_the_finest(source: int) -> None:
    torch.manual_seed(0)
    for kind, reached in ((PAN, True), (FPN, source == 2)):
        neck = kind((4, 4, 4), (8, 16, 32), channels=8, levels=4)
        features = [torch.rand(1, 4, size, size, requires_grad=True) for size in (16, 8, 4)]
        neck(features)[-1].sum().backward()
        assert (features[source].grad is not None) == reached


def test_maps_of_one_stride_keep_their_size_on_the_path() -> None:
    neck = PAN((4, 6), (32, 32), channels=8, levels=3, top="pool")
    assert neck.strides == (32, 32, 64)
    assert [tuple(level.shape[-2:]) for level in neck([torch.rand(1, 4, 5, 7), torch.rand(1, 6, 5, 7)])] == [
        (5, 7),
        (5, 7),
        (3, 4),
    ]


@pytest.mark.parametrize("size_hw", [(64, 96), (90, 75)])
def test_one_map_for_each_stride_and_one_more(size_hw: tuple[int, int]) -> None:
    neck = LitePAN((8, 12, 16), (8, 16, 32), channels=10, activation="leaky_relu").eval()
    sizes = [[-(-side // stride) for side in size_hw] for stride in (8, 16, 32, 64)]
    features = [torch.rand(2, width, *size) for width, size in zip((8, 12, 16), sizes, strict=False)]
    pyramid = neck(features)
    assert neck.strides == (8, 16, 32, 64) and neck.channels == (10, 10, 10, 10)
    assert [list(level.shape) for level in pyramid] == [[2, 10, *size] for size in sizes]


@pytest.mark.parametrize("source", [0, 1, 2])
def test_every_map_reads_every_input(source: int) -> None:
    torch.manual_seed(0)
    neck = LitePAN((4, 4, 4), (8, 16, 32), channels=8, activation="leaky_relu").eval()
    features = [torch.rand(1, 4, size, size, requires_grad=True) for size in (16, 8, 4)]
    for level in neck(features):
        (gradient,) = torch.autograd.grad(level.sum(), features[source], retain_graph=True)
        assert gradient.abs().sum() > 0


def test_a_single_cell_can_be_trained_on() -> None:
    neck = LitePAN((4, 4, 4), (8, 16, 32), channels=8, activation="leaky_relu").train()
    pyramid = neck([torch.rand(1, 4, size, size) for size in (8, 4, 2)])
    assert pyramid[-1].shape[-2:] == (1, 1)
    sum(level.sum() for level in pyramid).backward()


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="one stride per input map"):
        LitePAN((8, 16), (8,), channels=8, activation="leaky_relu")
    with pytest.raises(UsageError, match="double from map to map"):
        LitePAN((8, 16), (8, 32), channels=8, activation="leaky_relu")
