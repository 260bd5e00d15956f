"""The necks that bring maps back up to stride 4: sizes, what reaches what, starts, errors."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from aweigh.errors import UsageError
from aweigh.layers import DeformableConv2d
from aweigh.necks.upsample import AggregationUpsample, LiteUpsample, TransposedUpsample

CHANNELS, STRIDES = (4, 6, 8, 10), (4, 8, 16, 32)
NECKS: dict[str, Callable[[], nn.Module]] = {
    "deformable": lambda: TransposedUpsample(CHANNELS, STRIDES, channels=(8, 6, 4)),
    "transposed": lambda: TransposedUpsample(CHANNELS, STRIDES, channels=(8, 6, 4), deformable=False),
    "aggregation": lambda: AggregationUpsample(CHANNELS, STRIDES),
    "lite": lambda: LiteUpsample(CHANNELS[1:], STRIDES[1:], channels=4),
    "lite from stride 4": lambda: LiteUpsample(CHANNELS, STRIDES, channels=4),
}


@pytest.mark.parametrize("name", NECKS)
def test_one_map_of_stride_four_reads_every_map_it_is_given(name: str) -> None:
    torch.manual_seed(0)
    neck = NECKS[name]().eval()
    maps = [torch.rand(2, width, 64 // stride, 96 // stride) for width, stride in zip(CHANNELS, STRIDES, strict=True)]
    maps = [each.requires_grad_() for each in (maps[1:] if name == "lite" else maps)]
    (result,) = neck(maps)
    assert neck.strides == (4,) and neck.channels == (4,) and result.shape == (2, 4, 16, 24)
    gradients = torch.autograd.grad(result.square().sum(), maps, allow_unused=True)
    read = [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients]
    assert read == ([False] * 3 + [True] if name in ("deformable", "transposed") else [True] * len(maps))


@pytest.mark.parametrize("factor", [2, 4])
def test_enlargement_of_an_aggregation_starts_as_bilinear_interpolation(factor: int) -> None:
    up = AggregationUpsample(CHANNELS, STRIDES).last.up[factor // 2 - 1]
    compare(up, factor)


def test_so_does_that_behind_a_deformable_convolution() -> None:
    compare(TransposedUpsample(CHANNELS, STRIDES, channels=(8, 6, 4)).layers[15], 2)


def compare(up: nn.Module, factor: int) -> None:
    x = torch.rand(1, 4, 6, 5)
    enlarged = F.interpolate(x, scale_factor=factor, mode="bilinear")
    inner = slice(factor, -factor)  # the border of a transposed convolution is blended with 0
    torch.testing.assert_close(up(x)[..., inner, inner], enlarged[..., inner, inner])


def test_a_deformable_convolution_starts_without_offsets_and_as_wide_as_its_input_asks() -> None:
    torch.manual_seed(0)
    layers = [
        module
        for module in TransposedUpsample((64,), (32,), channels=(32, 16, 8)).modules()
        if isinstance(module, DeformableConv2d)
    ]
    assert len(layers) == 3
    for layer, width in zip(layers, (64, 32, 16), strict=True):
        assert layer.offsets.weight.eq(0).all() and layer.conv.bias.eq(0).all()
        largest = (9 * width) ** -0.5
        assert 0.95 * largest < layer.conv.weight.abs().max() <= largest


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="2 doublings bring stride 16 to 4"):
        TransposedUpsample((8,), (32,), channels=(4, 4))
    with pytest.raises(UsageError, match="four maps or more"):
        AggregationUpsample((4, 6, 8), (4, 8, 16))
    with pytest.raises(UsageError, match="four maps or more"):
        AggregationUpsample((4, 6, 8, 10), (8, 16, 32, 64))
    with pytest.raises(UsageError, match="double from 4 or 8"):
        LiteUpsample((8, 16), (16, 32))
