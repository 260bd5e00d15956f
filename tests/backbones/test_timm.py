"""The timm adapter: levels, channels, normalisation and frozen stages."""

import pytest
import torch
from torch import nn

from aweigh.backbones.timm import TimmBackbone, take_last_stage
from aweigh.errors import UsageError
from aweigh.layers import FrozenBatchNorm2d


def test_levels_are_strides_and_the_layers_behind_the_coarsest_are_left_out():
    backbone = TimmBackbone("resnet18", levels=(2, 4))
    assert backbone.channels == (64, 256)
    assert backbone.strides == (4, 16)
    assert not [key for key in backbone.state_dict() if key.startswith("body.layer4")]
    maps = backbone(torch.randn(1, 3, 70, 45))
    assert [tuple(each.shape) for each in maps] == [(1, 64, 18, 12), (1, 256, 5, 3)]


def test_every_second_place_of_a_dilated_map_is_the_strided_one():
    backbone = TimmBackbone("resnet50", levels=(4, 5), output_stride=16).eval()
    assert backbone.channels == (1024, 2048) and backbone.strides == (16, 16)
    assert [block.conv2.dilation for block in backbone.body.layer4] == [(1, 1), (2, 2), (2, 2)]
    strided = TimmBackbone("resnet50", levels=(4, 5)).eval()
    strided.load_state_dict(backbone.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        (fine, dense), (same, coarse) = backbone(x), strided(x)
    assert torch.equal(fine, same) and dense.shape == (1, 2048, 4, 6)
    torch.testing.assert_close(dense[..., ::2, ::2], coarse, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("mobilenetv2_100", (32, 96, 320)),
        ("efficientnet_b0", (40, 112, 320)),
        ("dla34", (128, 256, 512)),
        ("convnext_atto", (80, 160, 320)),
    ],
)
def test_any_convolutional_model_of_timm(name, channels):
    backbone = TimmBackbone(name).eval()
    assert backbone.channels == channels
    assert backbone.strides == (8, 16, 32)
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(each.shape[1:]) for each in maps] == [
        (width, 64 // stride, 96 // stride) for width, stride in zip(channels, (8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "resnet_18"}, "Did you mean 'resnet18'?"),
        ({"name": "convnext_atto", "levels": (1, 3)}, r"no map at level 1 \(stride 2\)"),
        ({"name": "resnet18", "levels": (4, 3)}, "fine to coarse"),
        ({"name": "resnet18", "levels": ()}, r"levels = \(\): expected a list"),
        ({"name": "vit_tiny_patch16_224"}, "fixed image size"),
        ({"name": "resnet18", "frozen_stages": 6}, r"0\.\.5"),
        ({"name": "resnet18", "levels": (3,), "frozen_stages": 4}, "freeze fewer"),
        ({"name": "convnext_atto", "norm": "gn"}, "no batch normalisation"),
        ({"name": "resnet18", "norm": "lrn"}, "unknown norm 'lrn'; known: bn, sync_bn, frozen_bn, gn"),
        ({"name": "resnet18", "output_stride": 12}, "no form of output_stride 12"),
        ({"name": "dla34", "output_stride": 16}, "no form of output_stride 16"),
    ],
)
def test_a_wrong_argument_is_named(arguments, said):
    with pytest.raises(UsageError, match=said):
        TimmBackbone(**arguments)


def with_statistics(backbone):
    """The backbone with batch statistics and affine values far from 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.bias, -0.1), (module.running_mean, -0.1)):
                tensor.data.uniform_(low, low + 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return backbone


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100"])
@pytest.mark.parametrize("norm", ["bn", "frozen_bn", "sync_bn"])
def test_batch_norms_of_another_kind_compute_the_same_in_evaluation(name, norm):
    own = with_statistics(TimmBackbone(name)).eval()
    other = TimmBackbone(name, norm=norm).eval()
    assert other.load_state_dict(own.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for expected, actual in zip(own(x), other(x), strict=True):
            torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100"])
def test_frozen_batch_norms_never_change_and_keep_the_activation(name):
    own = with_statistics(TimmBackbone(name))
    frozen = TimmBackbone(name, norm="frozen_bn")
    frozen.load_state_dict(own.state_dict())
    x = torch.randn(2, 3, 64, 64)
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    training = [each.detach() for each in frozen.train()(x)]
    frozen.eval()
    for expected, actual in zip(frozen(x), training, strict=True):
        torch.testing.assert_close(actual, expected)
    for key, value in frozen.state_dict().items():
        assert torch.equal(value, before[key]), key
    norms = [module for module in frozen.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(parameter.requires_grad for norm in norms for parameter in norm.parameters())


def test_group_norm_replaces_every_batch_norm():
    own = TimmBackbone("resnet18")
    grouped = TimmBackbone("resnet18", norm="gn")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in grouped.modules())
    assert sum(isinstance(module, nn.GroupNorm) for module in grouped.modules()) == sum(
        isinstance(module, nn.BatchNorm2d) for module in own.modules()
    )
    assert torch.equal(grouped.body.bn1.weight, torch.ones(64)) and grouped.body.bn1.num_groups == 16
    widths = {m.num_channels: m.num_groups for m in TimmBackbone("mobilenetv2_100", norm="gn").modules()
              if isinstance(m, nn.GroupNorm)}  # fmt: skip
    assert widths[144] == 24 and all(width % groups == 0 for width, groups in widths.items())


def test_group_norm_keeps_a_fused_activation():
    backbone = TimmBackbone("darknet53", levels=(2,), norm="gn")
    norm = backbone.body.get_submodule("stem_conv1.bn")
    assert isinstance(norm, nn.GroupNorm) and isinstance(norm.act, nn.LeakyReLU)
    x = torch.randn(2, 32, 8, 8)
    expected = nn.functional.leaky_relu(nn.functional.group_norm(x, 8), norm.act.negative_slope)
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize(
    ("name", "frozen_prefixes"),
    [
        ("resnet18", ("body.conv1", "body.bn1", "body.layer1")),
        ("mobilenetv2_100", ("body.conv_stem", "body.bn1", "body.blocks.0.", "body.blocks.1.")),
        ("vgg11_bn", tuple(f"body.features_{index}." for index in range(7))),
    ],
)
def test_frozen_stages_get_no_gradient_and_keep_their_statistics(name, frozen_prefixes):
    backbone = TimmBackbone(name, levels=(3, 4), frozen_stages=2).train()
    fixed = {key for key, parameter in backbone.named_parameters() if not parameter.requires_grad}
    expected = {key for key, _ in backbone.named_parameters() if key.startswith(frozen_prefixes)}
    assert fixed == expected and expected
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    sum(each.sum() for each in backbone(torch.randn(2, 3, 64, 64))).backward()
    for key, value in backbone.state_dict().items():
        if "running_mean" in key:
            assert torch.equal(value, before[key]) == key.startswith(frozen_prefixes), key
    for key, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == (key in fixed), key


def test_frozen_norm_is_that_of_the_library():
    backbone = TimmBackbone("resnet18", norm="frozen_bn")
    assert isinstance(backbone.body.bn1, FrozenBatchNorm2d)


def test_a_backbone_without_its_last_stage_and_that_stage_are_the_whole():
    torch.manual_seed(0)
    whole = TimmBackbone("resnet18", levels=(4, 5), frozen_stages=2).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = whole(x)
        stage = take_last_stage(whole)
        (finer,) = whole(x)
        torch.testing.assert_close([finer, stage(finer)], expected)
    assert whole.channels == (256,) and whole.strides == (16,)
    assert not [key for key in whole.state_dict() if "layer4" in key] and not whole.train().body.bn1.training


def test_a_last_stage_that_is_taken_out_cannot_be_frozen():
    with pytest.raises(UsageError, match="layer4 stands behind the regions and cannot be frozen; freeze fewer stages"):
        take_last_stage(TimmBackbone("resnet18", levels=(4, 5), frozen_stages=5))
