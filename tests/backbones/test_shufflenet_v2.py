"""ShuffleNet V2: the paper's widths, memory layout, frozen stages, export."""

import pytest
import torch
from torch import nn

from aweigh.backbones.shufflenet_v2 import ShuffleNetV2, interleave
from aweigh.errors import UsageError


@pytest.mark.parametrize(
    ("width", "channels", "last", "parameters"),
    [
        (0.5, (48, 96, 192), 1024, 1_366_792),
        (1.0, (116, 232, 464), 1024, 2_278_604),
        (1.5, (176, 352, 704), 1024, 3_503_624),
        (2.0, (244, 488, 976), 2048, 7_393_996),
    ],
)
def test_widths_of_the_paper(width, channels, last, parameters):
    backbone = ShuffleNetV2(width)
    assert backbone.channels == channels
    assert backbone.strides == (8, 16, 32)
    classifier = channels[-1] * last + 2 * last + 1000 * last + 1000  # conv5, its normalisation, fc
    assert sum(each.numel() for each in backbone.parameters()) + classifier == parameters


def test_interleave_is_concatenation_and_shuffle():
    first, second = torch.randn(2, 2, 5, 3, 4)
    expected = nn.functional.channel_shuffle(torch.cat((first, second), dim=1), 2)
    assert torch.equal(interleave(first, second), expected)


def test_channels_last_goes_through_and_changes_nothing():
    backbone = ShuffleNetV2(0.5).eval()
    x = torch.randn(2, 3, 70, 45)
    with torch.no_grad():
        expected = backbone(x)
        backbone.to(memory_format=torch.channels_last)
        actual = backbone(x.to(memory_format=torch.channels_last))
    assert [tuple(each.shape) for each in actual] == [(2, 48, 9, 6), (2, 96, 5, 3), (2, 192, 3, 2)]
    for ours, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-5)


def test_levels_leave_out_later_stages():
    backbone = ShuffleNetV2(0.5, levels=(3, 4))
    assert backbone.channels == (48, 96)
    assert backbone.strides == (8, 16)
    assert not hasattr(backbone, "stage4")
    assert len(backbone(torch.randn(1, 3, 32, 32))) == 2


def test_frozen_stages_get_no_gradient_and_keep_their_statistics():
    backbone = ShuffleNetV2(0.5, frozen_stages=2).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    sum(each.sum() for each in backbone(torch.randn(2, 3, 64, 64))).backward()
    for key, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == key.startswith(("conv1.", "stage2.")), key
    for key, value in backbone.state_dict().items():
        if "running" in key:
            assert torch.equal(value, before[key]) == key.startswith(("conv1.", "stage2.")), key


def test_frozen_norm_and_leaky_activation():
    backbone = ShuffleNetV2(0.5, norm="frozen_bn", activation="leaky_relu")
    assert not any(isinstance(module, nn.ReLU) for module in backbone.modules())
    assert {module.negative_slope for module in backbone.modules() if isinstance(module, nn.LeakyReLU)} == {0.1}
    norms = [module for module in backbone.train().modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(norm.training or norm.weight.requires_grad for norm in norms)


def test_exports_without_a_branch_on_data():
    backbone = ShuffleNetV2(0.5).eval()
    x = torch.randn(1, 3, 64, 64)
    exported = torch.export.export(backbone, (x,)).module()
    with torch.no_grad():
        for expected, actual in zip(backbone(x), exported(x), strict=True):
            torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"width": 0.75}, "0.5, 1.0, 1.5, 2.0"),
        ({"levels": (2, 3)}, "fine to coarse"),
        ({"levels": (4, 3)}, "fine to coarse"),
        ({"levels": ()}, "fine to coarse"),
        ({"frozen_stages": 5}, r"0\.\.4"),
        ({"activation": "gelu"}, "relu, leaky_relu"),
        ({"norm": "layer"}, "known: bn, sync_bn, frozen_bn, gn"),
    ],
)
def test_a_wrong_argument_is_named(arguments, said):
    with pytest.raises(UsageError, match=said):
        ShuffleNetV2(**arguments)
