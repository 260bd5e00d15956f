"""The light path aggregation neck: sizes, what reaches what, errors."""

import pytest
import torch

from aweigh.errors import UsageError
from aweigh.necks.pan import LitePAN


@pytest.mark.parametrize("size_hw", [(64, 96), (90, 75)])
def test_one_map_for_each_stride_and_one_more(size_hw: tuple[int, int]) -> None:
    neck = LitePAN((8, 12, 16), (8, 16, 32), channels=10).eval()
    sizes = [[-(-side // stride) for side in size_hw] for stride in (8, 16, 32, 64)]
    features = [torch.rand(2, width, *size) for width, size in zip((8, 12, 16), sizes, strict=False)]
    pyramid = neck(features)
    assert neck.strides == (8, 16, 32, 64) and neck.channels == (10, 10, 10, 10)
    assert [list(level.shape) for level in pyramid] == [[2, 10, *size] for size in sizes]


@pytest.mark.parametrize("source", [0, 1, 2])
def test_every_map_reads_every_input(source: int) -> None:
    torch.manual_seed(0)
    neck = LitePAN((4, 4, 4), (8, 16, 32), channels=8).eval()
    features = [torch.rand(1, 4, size, size, requires_grad=True) for size in (16, 8, 4)]
    for level in neck(features):
        (gradient,) = torch.autograd.grad(level.sum(), features[source], retain_graph=True)
        assert gradient.abs().sum() > 0


def test_a_single_cell_can_be_trained_on() -> None:
    neck = LitePAN((4, 4, 4), (8, 16, 32), channels=8).train()
    pyramid = neck([torch.rand(1, 4, size, size) for size in (8, 4, 2)])
    assert pyramid[-1].shape[-2:] == (1, 1)
    sum(level.sum() for level in pyramid).backward()


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="one stride per map"):
        LitePAN((8, 16), (8,))
    with pytest.raises(UsageError, match="double from map to map"):
        LitePAN((8, 16), (8, 32))
