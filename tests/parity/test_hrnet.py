"""HRNet-W32 against a plain one written from the paper, on a state dict with its authors' names; and their files."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from aweigh.backbones.hrnet import HRNet
from aweigh.models import create
from aweigh.weights.load import load_backbone

MODULES = {2: 1, 3: 4, 4: 3}  # of a stage; stage s has s branches, each of four blocks in each module
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def classifier() -> torch.nn.Module:
    """timm's, with statistics of normalisation by chance."""
    torch.manual_seed(0)
    model = timm.create_model("hrnet_w32", pretrained=False).eval()
    for name, value in model.named_buffers():
        if name.endswith("running_mean"):
            value.normal_(std=0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.8, 1.5)
    return model


def convolved(state: State, x: Tensor, convolution: str, norm: str, stride: int = 1) -> Tensor:
    weight = state[f"{convolution}.weight"]
    x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)
    mean, variance, gain, shift = (
        state[f"{norm}.{what}"] for what in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(x, mean, variance, gain, shift)


def block(state: State, x: Tensor, name: str, convolutions: int) -> Tensor:
    """Residual: of two convolutions in a branch, of three (a bottleneck) in the first stage."""
    kept = x
    if f"{name}.downsample.0.weight" in state:
        kept = convolved(state, x, f"{name}.downsample.0", f"{name}.downsample.1")
    for number in range(1, convolutions + 1):
        x = convolved(state, x, f"{name}.conv{number}", f"{name}.bn{number}")
        x = x.relu() if number < convolutions else (x + kept).relu()
    return x


def fused(state: State, maps: list[Tensor], module: str) -> list[Tensor]:
    """Every branch gets all of them: finer ones by strided 3x3 convolutions, coarser ones by 1x1 and enlarging."""
    results = []
    for to, target in enumerate(maps):
        total = torch.zeros_like(target)
        for source, x in enumerate(maps):
            name = f"{module}.fuse_layers.{to}.{source}"
            if source > to:
                x = convolved(state, x, f"{name}.0", f"{name}.1")
                x = x.repeat_interleave(2 ** (source - to), dim=2).repeat_interleave(2 ** (source - to), dim=3)
            for step in range(to - source):
                x = convolved(state, x, f"{name}.{step}.0", f"{name}.{step}.1", stride=2)
                x = x if step == to - source - 1 else x.relu()
            total = total + x
        results.append(total.relu())
    return results


def plain(state: State, x: Tensor) -> list[Tensor]:
    """Images `[B, 3, H, W]`, normalised, to the branches of the last stage, at strides 4, 8, 16 and 32."""
    for number in (1, 2):
        x = convolved(state, x, f"conv{number}", f"bn{number}", stride=2).relu()
    for number in range(4):
        x = block(state, x, f"layer1.{number}", 3)
    first = convolved(state, x, "transition1.0.0", "transition1.0.1").relu()
    maps = [first, convolved(state, x, "transition1.1.0.0", "transition1.1.0.1", stride=2).relu()]
    for stage, modules in MODULES.items():
        for module in range(modules):
            name = f"stage{stage}.{module}"
            for branch in range(stage):
                for number in range(4):
                    maps[branch] = block(state, maps[branch], f"{name}.branches.{branch}.{number}", 2)
            maps = fused(state, maps, name)
        if stage < 4:  # one branch more, from the coarsest
            new = f"transition{stage}.{stage}.0"
            maps.append(convolved(state, maps[-1], f"{new}.0", f"{new}.1", stride=2).relu())
    return maps


def test_the_network_is_the_plain_one_and_the_authors_file_fills_it(
    classifier: torch.nn.Module, tmp_path: Path
) -> None:
    file = tmp_path / "hrnetv2_w32_imagenet_pretrained.pth"
    torch.save(classifier.state_dict(), file)
    ours = HRNet("hrnet_w32", levels=(2, 3, 4, 5)).eval()
    report = load_backbone(ours, file)
    assert report.missing == () and report.mismatched == {}
    assert {key.split(".")[0] for key in report.unexpected} == {
        *("incre_modules", "downsamp_modules", "final_layer", "classifier")
    }
    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = ours(pixels)
        expected = plain(classifier.state_dict(), ours.normalise(pixels))
    assert [each.shape[1] for each in found] == [32, 64, 128, 256] == list(ours.channels)
    for each, wanted in zip(found, expected, strict=True):
        assert wanted.std() > 0.1
        torch.testing.assert_close(each, wanted, rtol=1e-4, atol=1e-4 * float(wanted.std()))


def test_the_detector_has_the_parameters_that_its_authors_count() -> None:
    """37.3 million, by the readme of HRNet-FCOS."""
    with torch.device("meta"):
        model = create("fcos_hrnet_w32_hrfpn_base")
    assert round(sum(value.numel() for value in model.parameters()) / 1e6, 1) == 37.3
    assert tuple(model.strides) == (8, 16, 32, 64, 128)
