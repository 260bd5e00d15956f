"""ShuffleNet V2: the paper's widths, memory layout, export; its variants, deep forms and classifier."""

import pytest
import torch
import torchvision
from torch import nn

from aweigh.backbones.classifier import classifier
from aweigh.backbones.shufflenet_v2 import BUILDERS, ShuffleNetV2, Unit, interleave
from aweigh.backbones.stages import BlackBorder
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
        ({"levels": ()}, r"levels = \(\): expected a list"),
        ({"frozen_stages": 5}, r"0\.\.4"),
        ({"activation": "gelu"}, "relu, leaky_relu"),
        ({"norm": "layer"}, "known: bn, sync_bn, frozen_bn, gn"),
    ],
)
def test_a_wrong_argument_is_named(arguments, said):
    with pytest.raises(UsageError, match=said):
        ShuffleNetV2(**arguments)


@pytest.mark.parametrize("name", [name for name in BUILDERS if "x1_5" not in name and "164" not in name])
def test_every_network_has_a_gradient_on_every_parameter(name):
    body = BUILDERS[name]()
    assert body.name == name
    maps = body(torch.randn(2, 3, 64, 64))
    assert [tuple(each.shape) for each in maps] == [
        (2, channels, 64 // stride, 64 // stride) for channels, stride in zip(body.channels, body.strides, strict=True)
    ]
    sum(each.square().sum() for each in maps).backward()
    assert not [key for key, value in body.named_parameters() if value.grad is None or not value.grad.any()]


@pytest.mark.parametrize(
    ("depth", "channels", "before"), [(50, (244, 488, 976, 1952), 1), (164, (340, 680, 1360, 2720), 3)]
)
def test_deep_networks_have_the_layers_of_their_name(depth, channels, before):
    with torch.device("meta"):
        body = ShuffleNetV2(depth=depth, levels=(2, 3, 4, 5))
        assert body.channels == channels and body.strides == (4, 8, 16, 32)
        maps = body(torch.empty(1, 3, 64, 64))
    assert [each.shape[-1] for each in maps] == [16, 8, 4, 2]
    stem = [each for each in body.conv1 if isinstance(each, nn.Conv2d)]
    assert len(stem) == before and sum(each.stride == (2, 2) for each in stem) == 1
    units = [each for each in body.modules() if isinstance(each, Unit)]
    conv6 = depth == 164  # counted among the 164, not among the 50
    assert sum(len(_convolutions(unit.branch2)) for unit in units) + before + conv6 + 1 == depth


def _convolutions(module):
    return [each for each in module.modules() if isinstance(each, nn.Conv2d)]


@pytest.mark.parametrize(("extra", "width"), [(False, 3), (True, 5)])
def test_an_extra_depthwise_convolution_lets_a_unit_see_five_pixels(extra, width):
    torch.manual_seed(0)  # with others, all four channels may be 0 there
    unit = Unit(8, 8, extra_depthwise=extra).eval()
    x = torch.randn(1, 8, 9, 9, requires_grad=True)
    main = unit(x)[0, 1::2, 4, 4]
    main.square().sum().backward()
    seen = x.grad[0, 4:].abs().sum(dim=0) > 0  # of the half that the main branch reads
    assert seen.any(dim=0).sum() == width and seen.any(dim=1).sum() == width


def test_published_weights_fill_all_of_v2_star_but_the_extra_convolutions():
    plain, star = ShuffleNetV2(0.5).state_dict(), ShuffleNetV2(0.5, extra_depthwise=True).state_dict()
    assert {key: value.shape for key, value in star.items() if ".before." not in key} == {
        key: value.shape for key, value in plain.items()
    }


def test_residual_adds_what_the_main_branch_read():
    plain, residual = Unit(12, 12).eval(), Unit(12, 12, residual=True).eval()
    residual.load_state_dict(plain.state_dict())
    x = torch.randn(2, 12, 5, 5)
    expected = plain(x)
    expected[:, 1::2] += x[:, 6:]
    torch.testing.assert_close(residual(x), expected)
    assert not Unit(12, 24, stride=2, residual=True).residual


def test_squeeze_weighs_the_channels_of_the_main_branch():
    plain, squeezed = Unit(12, 12).eval(), Unit(12, 12, squeeze=True).eval()
    squeezed.load_state_dict(plain.state_dict(), strict=False)
    scales = torch.linspace(0.1, 0.9, 6)
    nn.init.zeros_(squeezed.squeeze.fc2.weight)
    squeezed.squeeze.fc2.bias.data = scales.logit()
    x = torch.randn(2, 12, 5, 5)
    expected = plain(x)
    expected[:, 1::2] *= scales[:, None, None]
    torch.testing.assert_close(squeezed(x), expected)


def test_form_of_the_authors():
    first, second = Unit(24, 116, stride=2, form="authors").eval(), Unit(116, 116, form="authors").eval()
    x = torch.randn(1, 24, 8, 8)
    given = first(x)
    assert torch.equal(given[:, :24], first.branch1(x))
    assert torch.equal(given[:, 24:], first.branch2(x))
    assert torch.equal(second(given)[:, :58], given[:, 0::2])
    assert torch.equal(second(given)[:, 58:], second.branch2(given[:, 1::2]))


def test_black_border():
    mean, std = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    image = torch.rand(2, 3, 4, 5)
    given = BlackBorder()((image - mean) / std) * std + mean
    torch.testing.assert_close(given, nn.functional.pad(image, (1, 1, 1, 1)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("width", "name"), [(0.5, "x0_5"), (2.0, "x2_0")])
def test_classifier_is_torchvisions(width, name):
    reference = torchvision.models.get_model(f"shufflenet_v2_{name}", weights=None, num_classes=7).eval()
    body = ShuffleNetV2(width)
    ours = classifier(body, 7).eval()
    ours.load_state_dict(reference.state_dict())  # strict: the same keys
    x = torch.randn(2, 3, 75, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), reference(x), rtol=0, atol=1e-6)
    assert body.conv1[0].weight is ours.conv1[0].weight
    assert ours.dropout.p == (0.2 if width == 2.0 else 0.0)
    assert torch.equal(ours.conv5[0].weight, reference.conv5[0].weight)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"depth": 101}, "depth = 101: expected one of 50, 164 or none"),
        ({"form": "caffe"}, "torchvision, authors"),
        ({"depth": 50, "levels": (1, 2)}, "of 2, 3, 4, 5"),
        ({"depth": 50, "frozen_stages": 6}, r"0\.\.5"),
    ],
)
def test_a_wrong_argument_of_the_variants_is_named(arguments, said):
    with pytest.raises(UsageError, match=said):
        ShuffleNetV2(**arguments)
