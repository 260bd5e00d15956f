"""Normalisation by name, its folding into convolutions, their packing, and the deformable convolution."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from aweigh.backbones.shufflenet_v2 import ShuffleNetV2
from aweigh.backbones.timm import PackedResidual, TimmBackbone, pack_residual_blocks
from aweigh.errors import UsageError
from aweigh.layers import (
    DeformableConv2d,
    FrozenBatchNorm2d,
    PackedConv2d,
    conv_tower,
    fold_batch_norm,
    make_norm,
    pack_convolutions,
)


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()


def assert_same(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    for expected, got in zip(first, second, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


# EfficientNet's batch normalisations carry their activation (timm's BatchNormAct2d).
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "shufflenet"])
def test_folding_keeps_the_function_and_leaves_no_batch_norm(name: str) -> None:
    model = randomised(ShuffleNetV2(0.5) if name == "shufflenet" else TimmBackbone(name))
    image = torch.rand(1, 3, 64, 64)
    folded = fold_batch_norm(model, lambda copied: copied(image))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    with torch.no_grad():
        assert_same(model(image), folded(image))


def test_a_convolution_with_two_readers_is_not_folded() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.first, self.second = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.first(self.conv(x)) + self.second(self.conv(x * 2))

    model = randomised(Shared())
    image = torch.rand(1, 3, 8, 8)
    folded = fold_batch_norm(model, lambda copied: copied(image))
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == 2
    with torch.no_grad():
        assert_same([model(image)], [folded(image)])


BODIES: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: TimmBackbone("resnet18"),
    "resnet50": lambda: TimmBackbone("resnet50"),
    "seresnet50": lambda: TimmBackbone("seresnet50"),  # with more in its blocks than is packed
    "shufflenet": lambda: ShuffleNetV2(0.5, activation="leaky_relu"),
    "tower": lambda: conv_tower(3, 2, "bn"),
}


@pytest.mark.parametrize(
    ("name", "packed_blocks"), [(name, {"resnet18": 8, "resnet50": 16}.get(name, 0)) for name in BODIES]
)
def test_packing_keeps_the_function_at_any_size(name: str, packed_blocks: int) -> None:
    model = randomised(BODIES[name]())
    packed = fold_batch_norm(model, lambda copied: copied(torch.rand(1, 3, 64, 64))).to(
        memory_format=torch.channels_last
    )
    pack_convolutions(pack_residual_blocks(packed))
    if PackedConv2d.applies(nn.Conv2d(1, 1, 1)):  # on these processors alone
        assert sum(isinstance(module, PackedResidual) for module in packed.modules()) == packed_blocks
        assert any(isinstance(module, PackedConv2d) for module in packed.modules())
    for size in ((1, 3, 64, 64), (2, 3, 96, 33), (1, 3, 32, 32)):
        image = torch.rand(size)
        with torch.inference_mode():
            expected, got = model(image), packed(image.contiguous(memory_format=torch.channels_last))
        assert_same([expected] if name == "tower" else expected, [got] if name == "tower" else got)


def test_a_frozen_batch_norm_never_changes() -> None:
    norm = FrozenBatchNorm2d(4).train()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    norm(torch.randn(2, 4, 3, 3) * 5)
    assert not norm.training and not any(value.requires_grad for value in norm.parameters())
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (128, 32), (96, 24), (58, 2), (2, 1)])
def test_groups_divide_the_channels_and_hold_at_least_four(channels: int, groups: int) -> None:
    norm = make_norm("gn", channels)
    assert norm.num_groups == groups
    norm(torch.rand(1, channels, 1, 1))


def slow_group_norm(x: torch.Tensor, channels_of_each: list[list[int]], norm: nn.Module) -> torch.Tensor:
    """Equations 1 to 7 of Wu and He (2018), image by image and group by group, in float64."""
    result = torch.empty_like(x, dtype=torch.float64)
    for image, pixels in enumerate(x.double()):
        for channels in channels_of_each:
            values = [float(value) for channel in channels for value in pixels[channel].flatten()]
            mean = sum(values) / len(values)
            deviation = (sum((value - mean) ** 2 for value in values) / len(values) + 1e-5) ** 0.5
            for channel in channels:
                scale, shift = norm.weight[channel].item(), norm.bias[channel].item()
                result[image, channel] = (pixels[channel] - mean) / deviation * scale + shift
    return result


GROUPS = {
    "ln": [[0, 1, 2, 3, 4, 5]],
    "in": [[0], [1], [2], [3], [4], [5]],
    "gn_1": [[0, 1, 2, 3, 4, 5]],
    "gn_3": [[0, 1], [2, 3], [4, 5]],
    "gn_of_3": [[0, 1, 2], [3, 4, 5]],
    "gn_of_1": [[0], [1], [2], [3], [4], [5]],
    "gn": [[0, 1, 2, 3, 4, 5]],  # four channels a group at least
}


@pytest.mark.parametrize("size", [(2, 6, 3, 2), (1, 6, 1, 1), (0, 6, 2, 2)])
@pytest.mark.parametrize("name", GROUPS)
def test_layer_instance_and_group_normalisation_are_those_of_the_paper(name: str, size: tuple[int, ...]) -> None:
    norm = make_norm(name, 6).train()
    torch.manual_seed(0)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 3 * torch.randn(size) + 1
    expected = slow_group_norm(x, GROUPS[name], norm)
    torch.testing.assert_close(norm(x).double(), expected, atol=2e-4, rtol=0)  # a value alone is multiplied by 316


def test_layer_and_instance_normalisation_are_torchs() -> None:
    x = torch.randn(2, 6, 4, 5)
    torch.testing.assert_close(make_norm("ln", 6)(x), nn.functional.layer_norm(x, (6, 4, 5)))
    torch.testing.assert_close(make_norm("in", 6)(x), nn.functional.instance_norm(x))


@pytest.mark.parametrize(("name", "groups"), [("gn_32", "32 groups"), ("gn_of_16", "groups of 16 channels")])
def test_groups_that_the_channels_cannot_form_are_refused_with_those_they_can(name: str, groups: str) -> None:
    with pytest.raises(UsageError, match=rf"{name}.*116 channels.*{groups}; possible here: 1, 2, 4, 29, 58, 116\."):
        make_norm(name, 116)
    with pytest.raises(UsageError, match=name):
        TimmBackbone("efficientnet_b0", norm=name)


@pytest.mark.parametrize("name", ["layer", "gn_0", "gn_-1", "gn_of_", "gn_4.0", "gn_٤", "GN", ""])
def test_an_unknown_normalisation_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=rf"'{name}'.*known: bn.*ln, in, gn_16 \(16 groups\)"):
        make_norm(name, 4)


def test_a_deformable_convolution_starts_as_half_a_plain_one() -> None:
    torch.manual_seed(0)
    layer, image = DeformableConv2d(4, 6, 3, padding=1), torch.rand(1, 4, 9, 7)
    plain = nn.functional.conv2d(image, layer.conv.weight, layer.conv.bias, padding=1)
    torch.testing.assert_close(layer(image), plain * 0.5, atol=1e-6, rtol=1e-5)


def test_a_deformable_convolution_learns_where_the_rest_computes_in_16_bits() -> None:
    torch.manual_seed(0)
    layer, image = DeformableConv2d(4, 6, 3, padding=1), torch.rand(1, 4, 9, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = layer(image.bfloat16())
    torch.testing.assert_close(result.float(), layer(image), atol=1e-3, rtol=0.01)
    result.float().square().sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in layer.parameters())


@pytest.mark.parametrize("name", ["bn", "sync_bn"])
def test_batch_normalisation_of_a_single_value_uses_the_running_statistics(name: str) -> None:
    norm = make_norm(name, 3, eps=1e-3, momentum=0.01).train()
    norm.running_mean.fill_(2.0)
    norm.running_var.fill_(4.0)
    value = torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(norm(value), (value - 2) / (4 + 1e-3) ** 0.5)
    assert norm.running_mean.tolist() == [2.0] * 3
    norm(torch.zeros(2, 3, 1, 1))
    torch.testing.assert_close(norm.running_mean, torch.full((3,), 2 * 0.99))
