"""NAS-FPN: its cell against a slow form, attention both ways, maps that change level, counts of the paper."""

import pytest
import torch
from tests.necks.test_cells import STRIDES, WIDTHS, enlarged, features, lively
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from aweigh.errors import UsageError
from aweigh.models import create
from aweigh.necks.nas_fpn import NASFPN, attend, bring


def pooled(x: torch.Tensor, steps: int) -> torch.Tensor:
    """The largest of each square of 2^steps cells, with loops; at the far sides there may be less of it."""
    side = 2**steps
    rows = [
        [x[:, :, row : row + side, column : column + side].amax(dim=(2, 3)) for column in range(0, x.shape[3], side)]
        for row in range(0, x.shape[2], side)
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


@pytest.mark.parametrize("size_hw", [(16, 32), (13, 7), (1, 1)])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4])
def test_a_map_is_brought_no_one_and_many_levels(steps: int, size_hw: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size_hw)
    assert torch.equal(bring(x, steps), pooled(x, steps))
    finer = tuple(side * 2**steps for side in size_hw)
    assert torch.equal(bring(x, -steps, finer), enlarged(x, finer))
    cut = tuple(max(side - steps, 1) for side in finer)  # of an image whose sides are no multiples
    assert bring(x, -steps, cut).shape[-2:] == (cut if steps else size_hw)


@pytest.mark.parametrize("by", ["max", "average"])
def test_attention_equals_a_slow_form(by: str) -> None:
    """The authors': the finer map, as much of it as the largest value of the coarser says. OpenMMLab's: the coarser, as
    much as the mean of the finer says."""
    coarse, fine = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    expected = torch.empty_like(fine)
    for image in range(2):
        for channel in range(3):
            c, f = coarse[image, channel], fine[image, channel]
            if by == "max":
                share = 1 / (1 + torch.exp(-max(c.flatten().tolist()) * torch.ones(())))
                expected[image, channel] = c + share * f
            else:
                share = 1 / (1 + torch.exp(-sum(f.flatten().tolist()) / 20 * torch.ones(())))
                expected[image, channel] = f + share * c
    torch.testing.assert_close(attend(coarse, fine, by), expected)


def slow_cell(neck: NASFPN, cell: int, maps: list[torch.Tensor], fusion: str) -> list[torch.Tensor]:
    """Figure 6, drawn out."""
    p3, p4, p5, p6, p7 = maps
    state = neck.state_dict()

    def out(number: int, merged: torch.Tensor) -> torch.Tensor:
        at = f"cells.{cell}.nodes.{number}"
        x = F.conv2d(merged.clamp(min=0), state[f"{at}.convolution.weight"], padding=1)
        mean, variance, weight, bias = (
            state[f"{at}.norm.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def gate(coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        return coarse + fine if fusion == "sum" else attend(coarse, fine, fusion)

    def up(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return enlarged(x, like.shape[-2:])

    a4 = out(0, gate(up(p6, p4), p4))
    b4 = out(1, p4 + a4)
    o3 = out(2, p3 + up(b4, p3))
    o4 = out(3, b4 + pooled(o3, 1))
    o5 = out(4, gate(pooled(o4, 1), pooled(o3, 2)) + p5)
    o7 = out(5, gate(pooled(o5, 2), pooled(b4, 3)) + p7)
    o6 = out(6, gate(up(o7, p6), pooled(o5, 1)))
    return [o3, o4, o5, o6, o7]


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["max", "average", "sum"])
@pytest.mark.parametrize(("size_hw", "repeats"), [((128, 256), 1), ((90, 75), 3), ((1, 1), 2), ((64, 96), 0)])
def test_equals_a_slow_form(size_hw: tuple[int, int], repeats: int, fusion: str) -> None:
    torch.manual_seed(0)
    neck = lively(NASFPN(WIDTHS, STRIDES, channels=6, repeats=repeats, fusion=fusion))
    given = features(*size_hw)
    maps = [lateral(x) for lateral, x in zip(neck.lateral, given, strict=True)]
    maps += [pooled(maps[-1], 1), pooled(maps[-1], 2)]
    for cell in range(repeats):
        maps = slow_cell(neck, cell, maps, fusion)
    assert neck.strides == (8, 16, 32, 64, 128) and len(maps) == 5
    for got, expected in zip(neck(given), maps, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_of_no_image_and_of_one_that_is_trained_on() -> None:
    neck = NASFPN(WIDTHS, STRIDES, channels=6, repeats=2)
    assert [tuple(x.shape) for x in neck.eval()(features(64, 64, batch=0))][-1] == (0, 6, 1, 1)
    pyramid = neck.train()(features(64, 64, batch=1))
    assert pyramid[-1].shape[-2:] == (1, 1)
    sum(level.square().sum() for level in pyramid).backward()
    assert all(value.grad is not None for value in neck.parameters())


@torch.no_grad()
@pytest.mark.parametrize("levels", [4, 7])
def test_other_levels_are_the_finer_four_or_pooled_from_the_fifth(levels: int) -> None:
    neck = lively(NASFPN(WIDTHS, STRIDES, channels=6, repeats=2, levels=levels))
    five = NASFPN(WIDTHS, STRIDES, channels=6, repeats=2).eval()
    five.load_state_dict(neck.state_dict())
    given = features(250, 333)
    expected = five(given)
    expected += [pooled(expected[-1], 1), pooled(expected[-1], 2)]
    assert len(neck(given)) == levels and neck.strides == tuple(8 * 2**i for i in range(levels))
    assert all(torch.equal(got, wanted) for got, wanted in zip(neck(given), expected, strict=False))


def test_five_levels_however_many_maps_come_in() -> None:
    for widths, strides in (((8,), (16,)), ((8, 8, 8, 8), (4, 8, 16, 32)), ((8,) * 5, (4, 8, 16, 32, 64))):
        neck = NASFPN(widths, strides, channels=6, repeats=1)
        assert len(neck.lateral) == len(widths) and neck.strides == tuple(strides[0] * 2**i for i in range(5))
    for levels, count in ((3, 3), (4, 5), (7, 6)):
        with pytest.raises(UsageError, match=f"up to 5 maps, here {count}, and gives 4 or more.*got {levels}"):
            NASFPN((8,) * count, [8 * 2**i for i in range(count)], levels=levels)
    with pytest.raises(UsageError, match="double from map to map"):
        NASFPN((8, 16), (32, 32))
    with pytest.raises(UsageError, match="unknown fusion 'fast'; known: max, average, sum"):
        NASFPN(WIDTHS, STRIDES, fusion="fast")


def test_only_global_attention_differs_and_separable_convolutions_are_few() -> None:
    attends = [node.fusion for node in NASFPN(WIDTHS, STRIDES, channels=6, repeats=1).cells[0].nodes]
    assert attends == ["max", "sum", "sum", "sum", "max", "max", "max"]
    light = NASFPN(WIDTHS, STRIDES, channels=8, repeats=1, separable=True)
    convolutions = [node.convolution for node in light.cells[0].nodes]
    assert all(sum(v.numel() for v in each.parameters()) == 8 * 9 + 8 * 8 for each in convolutions)
    assert not any(isinstance(m, nn.Conv2d) and m.bias is not None for m in light.modules())


# Table 2 of EfficientDet: RetinaNet on ResNet-50 with seven cells, width, pixels, millions of parameters, multiply-adds
# in thousand millions.
@pytest.mark.parametrize(
    ("channels", "size", "parameters", "flops"),
    [(256, 640, 60, 141), (384, 1280, 104, 1043)],
)
def test_the_counts_that_are_published(channels: int, size: int, parameters: int, flops: int) -> None:
    """60.04 and 103.5 M by our reference's arithmetic, which has a normalisation for each level in the head."""
    with torch.device("meta"):
        model = create(
            "retinanet_resnet50_fpn", num_classes=90, neck="nas_fpn", channels=channels, head_norm="bn"
        ).eval()
        with FlopCounterMode(display=False) as counter:
            model.network(torch.empty(1, 3, size, size))
    assert sum(value.numel() for value in model.parameters()) / 1e6 == pytest.approx(parameters, rel=0.005)
    assert counter.get_total_flops() / 2e9 == pytest.approx(flops, rel=0.01)
