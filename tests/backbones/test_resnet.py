"""ResNet as a classifier is torchvision's, and stands on each normalisation by name."""

import pytest
import torch
import torchvision
from torch import nn

from aweigh.backbones.classifier import classifier, network


def test_it_is_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    ours = classifier(network("resnet18")).eval()
    fc = {"fc.weight", "fc.bias"}
    ours.load_state_dict({key if key in fc else f"body.{key}": value for key, value in theirs.state_dict().items()})
    image = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "parameters"), [("resnet50", 25_557_032), ("resnet101", 44_549_160)])
def test_its_size_does_not_depend_on_the_normalisation(name: str, parameters: int) -> None:
    with torch.device("meta"):
        for norm in ("bn", "gn", "gn_64", "gn_of_2", "ln", "in"):
            model = classifier(network(name, norm=norm))
            assert sum(value.numel() for value in model.parameters()) == parameters
            assert any(isinstance(module, nn.GroupNorm) for module in model.modules()) == (norm != "bn")


def test_each_residual_branch_starts_at_zero() -> None:
    """Section 4.1: the last scale of a branch is 0, the others 1."""
    body = network("resnet50", norm="gn_32").body
    for name, module in body.named_modules():
        if isinstance(module, nn.GroupNorm):
            assert module.num_groups == 32 and bool((module.weight == (0 if name.endswith("bn3") else 1)).all())
