"""What every backbone promises, see `Backbone`: its maps, what it does to pixels first, and what stays as it is."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from aweigh.backbones import Backbone, mobilenet_v3_ends
from aweigh.backbones.classifier import classifier
from aweigh.backbones.densenet import DenseNet
from aweigh.backbones.dla import DLA34, TWO_LEVELS
from aweigh.backbones.hourglass import Hourglass
from aweigh.backbones.hrnet import HRNet
from aweigh.backbones.mobilenet_v1 import mobilenet_v1
from aweigh.backbones.mobilenet_v2 import mobilenet_v2
from aweigh.backbones.shufflenet_v1 import shufflenet_v1
from aweigh.backbones.shufflenet_v2 import ShuffleNetV2
from aweigh.backbones.timm import TimmBackbone
from aweigh.backbones.xception import xception
from aweigh.errors import UsageError

BACKBONES: dict[str, Callable[..., Any]] = {
    "resnet18": partial(TimmBackbone, "resnet18"),
    "densenet": partial(DenseNet, 0.5),
    "dla34": DLA34,
    "hrnet": partial(HRNet, "hrnet_w18_small", levels=(2, 3, 4, 5)),
    "mobilenet_v1": partial(mobilenet_v1, 0.25),
    "mobilenet_v2": partial(mobilenet_v2, 0.15),
    "mobilenet_v3_ends": mobilenet_v3_ends,
    "shufflenet_v1": partial(shufflenet_v1, 0.5),
    "shufflenet_v2": partial(ShuffleNetV2, 0.5),
    "xception": partial(xception, 0.5),
    "hourglass": partial(Hourglass, channels=(6, 8, 8), blocks=(1, 1, 1), stem_channels=4),
}
# What two stages are, from the image on; an hourglass network has none.
TWO_STAGES = {
    "resnet18": ("body.conv1.", "body.bn1.", "body.layer1."),
    "dla34": ("body.base_layer.", "body.level0.", "body.level1."),
    "hrnet": ("body.conv1.", "body.bn1.", "body.conv2.", "body.bn2.", "body.layer1."),
    **dict.fromkeys(
        ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_ends"),
        ("body.conv_stem.", "body.bn1.", "body.blocks.0.", "body.blocks.1."),
    ),
    **dict.fromkeys(("densenet", "shufflenet_v1", "shufflenet_v2", "xception"), ("conv1.", "stage2.")),
}
UNREAD = tuple(f"{tree}.project." for tree in TWO_LEVELS)  # parts of DLA-34 that only hold weights
BODIES_OF_CLASSIFIERS = ("densenet", "mobilenet_v1", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2", "xception")


# These take sides that are multiples of their divisor alone, which a batch has.
@pytest.mark.parametrize(
    ("name", "size_hw"),
    [
        *((name, (64, 96)) for name in BACKBONES),
        *((name, (70, 45)) for name in BACKBONES if name not in ("dla34", "hrnet")),
    ],
)
def test_maps_are_as_wide_and_as_fine_as_it_says(name: str, size_hw: tuple[int, int]) -> None:
    body = BACKBONES[name]().eval()
    assert isinstance(body, nn.Module) and isinstance(body, Backbone)
    assert body.name and body.stride_divisor % max(body.strides) == 0 and sorted(body.strides) == list(body.strides)
    with torch.no_grad():
        maps = body(torch.rand(2, 3, *size_hw))
    sizes = [tuple(-(-side // stride) for side in size_hw) for stride in body.strides]
    assert [tuple(each.shape) for each in maps] == [(2, *size) for size in zip(body.channels, *zip(*sizes))]


@pytest.mark.parametrize("name", BACKBONES)
def test_pixels_are_normalised_by_what_is_no_weight(name: str) -> None:
    mean, std = (0.5, 0.25, 0.125), (0.25, 0.5, 2.0)
    own = BACKBONES[name](pixel_mean=mean, pixel_std=std).eval()
    plain = BACKBONES[name](pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1.0, 1.0, 1.0)).eval()
    plain.load_state_dict(own.state_dict())  # strict: neither of them stands in it
    pixels = torch.rand(1, 3, 64, 64)
    shape = (3, 1, 1)
    with torch.no_grad():
        expected = plain((pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape))
        torch.testing.assert_close(own(pixels), expected, rtol=0, atol=0)
    assert own.normalise.mean.tolist() == list(mean)


@pytest.mark.parametrize("name", TWO_STAGES)
def test_frozen_stages_get_no_gradient_and_keep_their_statistics(name: str) -> None:
    body = BACKBONES[name](frozen_stages=2).train()
    before = {key: value.clone() for key, value in body.state_dict().items()}
    sum(each.square().sum() for each in body(torch.randn(2, 3, 64, 64))).backward()
    frozen = (*TWO_STAGES[name], *UNREAD)
    for key, parameter in body.named_parameters():
        assert (parameter.grad is None) == key.startswith(frozen), key
    statistics = [key for key in before if key.endswith("running_mean")]
    assert {key.startswith(frozen) for key in statistics} == {True, False}
    for key in statistics:
        assert torch.equal(body.state_dict()[key], before[key]) == key.startswith(frozen), key


@pytest.mark.parametrize("name", BACKBONES)
def test_all_that_can_learn_does(name: str) -> None:
    torch.manual_seed(0)
    body = BACKBONES[name]().train()
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # which is 0 at the end of a residual block at first
    sum(each.square().sum() for each in body(torch.randn(2, 3, 64, 96))).backward()
    able = {key: value.grad for key, value in body.named_parameters() if value.requires_grad}
    assert not [key for key, gradient in able.items() if gradient is None or not gradient.any()]


@pytest.mark.parametrize("name", BODIES_OF_CLASSIFIERS)
def test_a_classifier_is_the_body_and_what_stands_on_it(name: str) -> None:
    body = BACKBONES[name]()
    network = classifier(body, 7)
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 7)
    assert {id(each) for each in body.parameters()} < {id(each) for each in network.parameters()}
    with pytest.raises(UsageError, match="needs all stages, this backbone ends at stride 16"):
        classifier(BACKBONES[name](levels=(3, 4)))
