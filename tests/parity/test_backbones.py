"""Backbones against torchvision's, with the same weights and the same image."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from aweigh.backbones import mobilenet_v3_ends
from aweigh.backbones.shufflenet_v2 import ShuffleNetV2
from aweigh.backbones.timm import TimmBackbone
from aweigh.weights.convert.torchvision import mobilenet_v2_from_torchvision, mobilenet_v3_from_torchvision
from aweigh.weights.load import load_strict

IMAGE = torch.randn(2, 3, 97, 130, generator=torch.Generator().manual_seed(3))


def with_statistics(model: nn.Module) -> nn.Module:
    """The model with batch statistics and affine values that are neither 0 nor 1, in evaluation."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.6), (module.bias, -0.1), (module.running_mean, -0.1)):
                tensor.data.uniform_(low, low + 0.2, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
    return model.eval()


def assert_same_maps(backbone, reference, nodes):
    extractor = create_feature_extractor(reference, nodes)
    backbone.normalise = nn.Identity()  # the reference reads images as they are
    with torch.no_grad():
        expected = list(extractor(IMAGE).values())
        actual = backbone.eval()(IMAGE)
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        scale = max(1.0, theirs.abs().max().item())
        assert theirs.std() > 1e-3, "a reference of zeros proves nothing"
        assert (ours - theirs).abs().max().item() <= 1e-5 * scale


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("norm", [None, "frozen_bn"])
def test_resnet(name, norm):
    reference = with_statistics(torchvision.models.get_model(name, weights=None))
    backbone = TimmBackbone(name, norm=norm)
    state = {f"body.{key}": value for key, value in reference.state_dict().items() if not key.startswith("fc.")}
    load_strict(backbone, state, what=name)
    assert_same_maps(backbone, reference, ["layer2", "layer3", "layer4"])


@pytest.mark.parametrize("name", ["resnet34", "resnet101", "resnext101_32x8d", "resnext101_64x4d"])
def test_other_resnets_have_the_same_tensors(name):
    with torch.device("meta"):
        reference = torchvision.models.get_model(name, weights=None)
        backbone = TimmBackbone(name)
    theirs = {f"body.{key}": value.shape for key, value in reference.state_dict().items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in backbone.state_dict().items()} == theirs


@pytest.mark.parametrize(("width", "name"), [(0.5, "x0_5"), (1.0, "x1_0"), (1.5, "x1_5"), (2.0, "x2_0")])
def test_shufflenet_v2(width, name):
    reference = with_statistics(torchvision.models.get_model(f"shufflenet_v2_{name}", weights=None))
    backbone = ShuffleNetV2(width)
    state = {key: value for key, value in reference.state_dict().items() if not key.startswith(("conv5.", "fc."))}
    load_strict(backbone, state, what=name)
    assert_same_maps(backbone, reference, ["stage2", "stage3", "stage4"])


def test_mobilenet_v2():
    reference = with_statistics(torchvision.models.mobilenet_v2(weights=None))
    backbone = TimmBackbone("mobilenetv2_100")
    load_strict(backbone, mobilenet_v2_from_torchvision(reference.state_dict()), what="mobilenet_v2")
    assert_same_maps(backbone, reference, ["features.6", "features.13", "features.17"])


@pytest.mark.parametrize("norm", ["bn", "frozen_bn"])
def test_the_two_maps_of_mobilenet_v3_that_detectors_read(norm):
    reference = with_statistics(torchvision.models.mobilenet_v3_large(weights=None))
    backbone = mobilenet_v3_ends(backbone_norm=norm, backbone_norm_eps=1e-3, frozen_stages=2)
    load_strict(backbone, mobilenet_v3_from_torchvision(reference.state_dict()), what="mobilenet_v3_large")
    assert_same_maps(backbone, reference, ["features.13", "features.16"])
    assert backbone.channels == (160, 960) and backbone.strides == (32, 32)
    fixed = [name for name, value in backbone.named_parameters() if not value.requires_grad and "bn" not in name]
    assert fixed and all(name.startswith(("body.conv_stem", "body.blocks.0.", "body.blocks.1.")) for name in fixed)


def test_the_whole_mobilenet_v3_too():
    reference = with_statistics(torchvision.models.mobilenet_v3_large(weights=None))
    backbone = TimmBackbone("mobilenetv3_large_100", norm_eps=1e-3)
    load_strict(backbone, mobilenet_v3_from_torchvision(reference.state_dict()), what="mobilenet_v3_large")
    assert_same_maps(backbone, reference, ["features.6", "features.12", "features.16"])
