"""The feature pyramid: sizes, top levels, equality with torchvision's."""

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from aweigh.errors import UsageError
from aweigh.necks import NECKS, make_neck
from aweigh.necks.fpn import FPN

WIDTHS, STRIDES = (24, 40, 72), (8, 16, 32)


def features(height, width):
    """Maps as a backbone gives them for an image of this size: each side is divided by the stride, rounded up."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return [
        torch.randn(2, channels, -(-height // stride), -(-width // stride), generator=generator)
        for channels, stride in zip(WIDTHS, STRIDES, strict=True)
    ]


def torchvision_state(fpn):
    """Our state under torchvision's names."""
    renamed = {}
    for key, value in fpn.state_dict().items():
        part, *rest = key.split(".")
        if part in ("lateral", "output"):
            block = "inner_blocks" if part == "lateral" else "layer_blocks"
            renamed[f"{block}.{rest[0]}.0.{rest[1]}"] = value
        else:
            renamed[f"extra_blocks.{key}"] = value
    return renamed


@pytest.mark.parametrize(("top", "levels"), [("p5", 5), ("c5", 5), ("pool", 4), ("p5", 3)])
@pytest.mark.parametrize("size_hw", [(256, 320), (250, 333), (33, 97), (1, 1)])
def test_equals_torchvision(top, levels, size_hw):
    fpn = FPN(WIDTHS, STRIDES, channels=32, levels=levels, top=top)
    extra = {
        3: lambda: None,
        4: LastLevelMaxPool,
        5: lambda: LastLevelP6P7(32 if top == "p5" else WIDTHS[-1], 32),
    }[levels]()
    theirs = FeaturePyramidNetwork(WIDTHS, 32, extra)
    theirs.load_state_dict(torchvision_state(fpn))
    maps = features(*size_hw)
    given = [each.clone() for each in maps]
    with torch.no_grad():
        ours = fpn(maps)
        expected = list(theirs(OrderedDict(enumerate(given))).values())
    assert len(ours) == levels == len(fpn.strides)
    for actual, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(maps, given, strict=True)), "forward changed its input"


def test_maps_of_one_stride_are_merged_as_they_are():
    """As torchvision has it on MobileNet V3."""
    fpn = FPN(WIDTHS[:2], (32, 32), channels=16, levels=3, top="pool")
    assert fpn.strides == (32, 32, 64)
    theirs = FeaturePyramidNetwork(WIDTHS[:2], 16, LastLevelMaxPool())
    theirs.load_state_dict(torchvision_state(fpn))
    maps = [torch.randn(1, width, 5, 7, generator=torch.Generator().manual_seed(width)) for width in WIDTHS[:2]]
    with torch.no_grad():
        for actual, wanted in zip(fpn(maps), theirs(OrderedDict(enumerate(maps))).values(), strict=True):
            torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-6)


def test_channels_strides_and_start_values():
    fpn = FPN(WIDTHS, STRIDES)
    assert fpn.channels == (256,) * 5
    assert fpn.strides == (8, 16, 32, 64, 128)
    assert FPN(WIDTHS, STRIDES, levels=3).strides == STRIDES
    for name, module in fpn.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            assert module.bias.abs().max() == 0, name
            # Kaiming uniform with a = 1: bound sqrt(3 / fan_in).
            assert 0.95 < module.weight.abs().max() / (3 / fan_in) ** 0.5 <= 1, name


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_norm_follows_each_lateral_and_output_convolution(norm):
    fpn = FPN(WIDTHS, STRIDES, channels=64, norm=norm)
    kind = {"bn": nn.BatchNorm2d, "gn": nn.GroupNorm}[norm]
    assert sum(isinstance(module, kind) for module in fpn.modules()) == 6
    assert fpn.lateral[0][0].bias is None
    assert [tuple(each.shape[-2:]) for each in fpn(features(64, 96))] == [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (((), ()), "one stride per input map"),
        (((8, 16), (8,)), "one stride per input map"),
        (((8, 16), (8, 32)), "double"),
        (((8, 16), (16, 8)), "double"),
    ],
)
def test_wrong_inputs_are_named(arguments, said):
    with pytest.raises(UsageError, match=said):
        FPN(*arguments)
    with pytest.raises(UsageError, match="unknown top"):
        FPN((8,), (8,), top="p6")
    with pytest.raises(UsageError, match="a level for each of 3 maps or more, not 2"):
        FPN(WIDTHS, STRIDES, levels=2)


def test_p7_is_behind_a_relu_or_not():
    """By hand: of weights of one, P6 is the sum of C5's cells, and P7 of P6's or of what of it is above 0."""
    found = {}
    for top in ("c5", "c5_linear"):
        fpn = FPN((1,), (32,), channels=2, top=top).eval()
        for extra in (fpn.p6, fpn.p7):
            nn.init.ones_(extra.weight)
            nn.init.zeros_(extra.bias)
        fpn.p6.weight.data[1] = -1
        _, p6, p7 = fpn([torch.full((1, 1, 2, 2), 3.0)])
        assert p6.flatten().tolist() == [12, -12]
        found[top] = p7.flatten().tolist()
    assert found == {"c5": [12, 12], "c5_linear": [0, 0]}


@pytest.mark.parametrize("top", ["p5", "c5", "pool"])
@pytest.mark.parametrize("name", NECKS)
def test_every_neck_of_the_table_gives_as_many_levels_as_it_is_told(name, top):
    maps = features(250, 333)
    for levels in (4, 6):
        backbone = SimpleNamespace(channels=WIDTHS, strides=STRIDES)
        neck = make_neck(name, backbone, channels=16, levels=levels, top=top, norm=None).eval()
        assert neck.strides == (8, 16, 32, 64, 128, 256)[:levels] and neck.channels == (16,) * levels
        sizes = [(-(-250 // stride), -(-333 // stride)) for stride in neck.strides]
        assert [tuple(level.shape) for level in neck(maps)] == [(2, 16, *size) for size in sizes]


@pytest.mark.parametrize("norm", [None, "gn"])
@pytest.mark.parametrize("size_hw", [(64, 96), (33, 97), (1, 1)])
@torch.no_grad()
def test_each_half_alone(norm, size_hw):
    """Bottom up, a level is its own map through two convolutions; top down, the coarsest map made larger."""
    maps = features(*size_hw)
    for half, laterals in (("bottom_up", 3), ("top_down", 1)):
        fpn = FPN(WIDTHS, STRIDES, channels=16, levels=4, top="pool", norm=norm, only=half)
        assert len(fpn.lateral) == laterals
        levels = fpn(maps)
        assert len(levels) == 4 and torch.equal(levels[3], levels[2][:, :, ::2, ::2])
        coarsest = fpn.lateral[-1](maps[-1])
        for level, feature in enumerate(maps):
            joined = fpn.lateral[level](feature) if half == "bottom_up" else grown(coarsest, maps, level)
            torch.testing.assert_close(levels[level], fpn.output[level](joined))


def grown(coarsest, maps, level):
    """Pixel by pixel, a level after the other."""
    for finer in range(len(maps) - 2, level - 1, -1):
        height, width = maps[finer].shape[-2:]
        rows = [y * coarsest.shape[2] // height for y in range(height)]
        columns = [x * coarsest.shape[3] // width for x in range(width)]
        coarsest = coarsest[:, :, rows][:, :, :, columns]
    return coarsest
