"""FCOS with weights under the names of its authors' two programs and of MMDetection, against a plain network with these
names: it is written from the paper, and the names stand here as those programs write them."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aweigh.errors import AweighError, UsageError
from aweigh.models import PUBLISHED, create
from aweigh.weights.convert.fcos_authors import fcos_from_adelaidet, fcos_from_authors
from aweigh.weights.convert.mmdetection import fcos_from_mmdetection

State = dict[str, Tensor]
BLOCKS = (3, 4, 6, 3)
CLASSES, CONVS = 80, 4


@dataclass(frozen=True)
class Source:
    """stem, block, ...: what stands for each layer. conv, norm: the k-th of a block. eps: of its batch normalisation.
    mean: of BGR pixels from 0 to 255. bias: of the convolutions of a tower. improved: the form."""

    builder: str
    record: str
    eps: float
    mean: tuple[float, float, float]
    improved: bool
    bias: bool
    stem: str
    stem_norm: str
    block: str
    norm: str
    shortcut: tuple[str, str]
    first_stage: int
    lateral: tuple[str, int]
    output: tuple[str, int]
    top: tuple[str, str]
    tower: tuple[str, str, str]  # of classes, of boxes; of their normalisation, in the place of the last part
    step: int  # from a convolution of a tower to the next
    heads: tuple[str, str, str]
    scales: str


AUTHORS = Source(
    "fcos_resnet50_fpn_base",
    "authors",
    0.0,
    (102.9801, 115.9465, 122.7717),
    improved=False,
    bias=True,
    stem="backbone.body.stem.conv1",
    stem_norm="backbone.body.stem.bn1",
    block="backbone.body.layer{stage}.{number}",
    norm="bn{k}",
    shortcut=("downsample.0", "downsample.1"),
    first_stage=1,
    lateral=("backbone.fpn.fpn_inner{}", 2),
    output=("backbone.fpn.fpn_layer{}", 2),
    top=("backbone.fpn.top_blocks.p6", "backbone.fpn.top_blocks.p7"),
    tower=("rpn.head.cls_tower.{}", "rpn.head.bbox_tower.{}", ""),
    step=3,
    heads=("rpn.head.cls_logits", "rpn.head.bbox_pred", "rpn.head.centerness"),
    scales="rpn.head.scales.{}.scale",
)
ADELAIDET = Source(
    "fcos_resnet50_fpn",
    "adelaidet",
    1e-5,
    (103.53, 116.28, 123.675),
    improved=True,
    bias=True,
    stem="backbone.bottom_up.stem.conv1",
    stem_norm="backbone.bottom_up.stem.conv1.norm",
    block="backbone.bottom_up.res{stage}.{number}",
    norm="conv{k}.norm",
    shortcut=("shortcut", "shortcut.norm"),
    first_stage=2,
    lateral=("backbone.fpn_lateral{}", 3),
    output=("backbone.fpn_output{}", 3),
    top=("backbone.top_block.p6", "backbone.top_block.p7"),
    tower=("proposal_generator.fcos_head.cls_tower.{}", "proposal_generator.fcos_head.bbox_tower.{}", ""),
    step=3,
    heads=(
        "proposal_generator.fcos_head.cls_logits",
        "proposal_generator.fcos_head.bbox_pred",
        "proposal_generator.fcos_head.ctrness",
    ),
    scales="proposal_generator.fcos_head.scales.{}.scale",
)
MMDETECTION = Source(
    "fcos_resnet50_fpn_base",
    "1x",
    1e-5,
    (102.9801, 115.9465, 122.7717),
    improved=False,
    bias=False,
    stem="backbone.conv1",
    stem_norm="backbone.bn1",
    block="backbone.layer{stage}.{number}",
    norm="bn{k}",
    shortcut=("downsample.0", "downsample.1"),
    first_stage=1,
    lateral=("neck.lateral_convs.{}.conv", 0),
    output=("neck.fpn_convs.{}.conv", 0),
    top=("neck.fpn_convs.3.conv", "neck.fpn_convs.4.conv"),
    tower=("bbox_head.cls_convs.{}.conv", "bbox_head.reg_convs.{}.conv", "gn"),
    step=1,
    heads=("bbox_head.conv_cls", "bbox_head.conv_reg", "bbox_head.conv_centerness"),
    scales="bbox_head.scales.{}.scale",
)
SOURCES = {"authors": AUTHORS, "adelaidet": ADELAIDET, "mmdetection": MMDETECTION}


def group_norm(source: Source, tower: str, number: int) -> str:
    """Of the convolution of that number in a tower."""
    if source.tower[2]:
        return tower.format(number).removesuffix("conv") + source.tower[2]
    return tower.format(source.step * number + 1)


def weights(source: Source) -> State:
    generator, state = torch.Generator().manual_seed(0), {}

    def convolution(name: str, out: int, into: int, kernel: int, *, bias: bool = True, gain: float = 1.0) -> None:
        deviation = gain * (2 / (into * kernel**2)) ** 0.5
        state[f"{name}.weight"] = torch.randn(out, into, kernel, kernel, generator=generator) * deviation
        if bias:
            state[f"{name}.bias"] = torch.randn(out, generator=generator) * 0.1

    def affine(name: str, width: int) -> None:
        state[f"{name}.weight"] = 1 + torch.randn(width, generator=generator) * 0.1
        state[f"{name}.bias"] = torch.randn(width, generator=generator) * 0.1

    def normalised(name: str, norm: str, out: int, into: int, kernel: int) -> None:
        convolution(name, out, into, kernel, bias=False, gain=0.7)
        affine(norm, out)
        state[f"{norm}.running_mean"] = torch.randn(out, generator=generator) * 0.1
        state[f"{norm}.running_var"] = 0.5 + torch.rand(out, generator=generator)

    normalised(source.stem, source.stem_norm, 64, 3, 7)
    state[f"{source.stem}.weight"] /= 50  # of pixels up to 255
    into = 64
    for stage, blocks in enumerate(BLOCKS):
        width = 64 * 2**stage
        for number in range(blocks):
            name = source.block.format(stage=stage + source.first_stage, number=number)
            if number == 0:
                normalised(f"{name}.{source.shortcut[0]}", f"{name}.{source.shortcut[1]}", 4 * width, into, 1)
            for k, (out, inner, kernel) in enumerate(((width, into, 1), (width, width, 3), (4 * width, width, 1)), 1):
                normalised(f"{name}.conv{k}", f"{name}.{source.norm.format(k=k)}", out, inner, kernel)
            into = 4 * width
    for level in range(3):
        convolution(source.lateral[0].format(level + source.lateral[1]), 256, 512 * 2**level, 1, gain=0.5)
        convolution(source.output[0].format(level + source.output[1]), 256, 256, 3)
    for name in source.top:
        convolution(name, 256, 256, 3)
    for tower in source.tower[:2]:
        for number in range(CONVS):
            convolution(tower.format(source.step * number), 256, 256, 3, bias=source.bias)
            affine(group_norm(source, tower, number), 256)
    for name, width in zip(source.heads, (CLASSES, 4, 1), strict=True):
        convolution(name, width, 256, 3, gain=1.0 if source.improved else 0.3)  # of relu much is 0
    for level in range(5):
        state[source.scales.format(level)] = torch.tensor([0.8 + 0.1 * level])
    return state


def plain(source: Source, state: State, rgb: Tensor) -> list[list[Tensor]]:
    """RGB in [0, 1] to logits, distances and centre-ness, level by level."""

    def convolved(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, weight.shape[-1] // 2)

    def normalised(x: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        mean, variance, gain, shift = (
            state[f"{norm}.{what}"][:, None, None] for what in ("running_mean", "running_var", "weight", "bias")
        )
        return (convolved(x, name, stride) - mean) / (variance + source.eps).sqrt() * gain + shift

    x = rgb[:, [2, 1, 0]] * 255 - torch.tensor(source.mean)[:, None, None]
    x, maps = F.max_pool2d(normalised(x, source.stem, source.stem_norm, 2).relu(), 3, 2, 1), []
    for stage, blocks in enumerate(BLOCKS):
        for number in range(blocks):
            name = source.block.format(stage=stage + source.first_stage, number=number)
            stride, kept = 2 if number == 0 and stage > 0 else 1, x
            if number == 0:
                kept = normalised(x, f"{name}.{source.shortcut[0]}", f"{name}.{source.shortcut[1]}", stride)
            for k in (1, 2, 3):  # the stride lies in the 1x1 convolution
                step = stride if k == 1 else 1
                x = normalised(x, f"{name}.conv{k}", f"{name}.{source.norm.format(k=k)}", step)
                x = x.relu() if k < 3 else (x + kept).relu()
        maps.append(x)
    merged, pyramid = None, []
    for level in (2, 1, 0):
        lateral = convolved(maps[level + 1], source.lateral[0].format(level + source.lateral[1]))
        merged = lateral if merged is None else lateral + F.interpolate(merged, scale_factor=2, mode="nearest")
        pyramid.insert(0, convolved(merged, source.output[0].format(level + source.output[1])))
    pyramid.append(convolved(pyramid[-1], source.top[0], 2))
    pyramid.append(convolved(pyramid[-1].relu(), source.top[1], 2))
    found: list[list[Tensor]] = [[], [], []]
    for level, feature in enumerate(pyramid):
        towers = []
        for tower in source.tower[:2]:
            x = feature
            for number in range(CONVS):
                norm = group_norm(source, tower, number)
                x = convolved(x, tower.format(source.step * number))
                x = F.group_norm(x, 32, state[f"{norm}.weight"], state[f"{norm}.bias"]).relu()
            towers.append(x)
        distance = state[source.scales.format(level)] * convolved(towers[1], source.heads[1])
        found[0].append(convolved(towers[0], source.heads[0]))
        found[1].append(distance.relu() if source.improved else distance.exp())
        found[2].append(convolved(towers[source.improved], source.heads[2]))
    return found


@pytest.mark.parametrize("name", SOURCES)
@torch.no_grad()
def test_a_file_under_their_names_gives_what_their_network_gives(name: str, tmp_path: Path) -> None:
    """Whose file it is, is seen by its names; it holds what their training leaves in it."""
    source = SOURCES[name]
    state, file = weights(source), tmp_path / ("FCOS_MS_R_50_2x.pth" if name == "adelaidet" else "theirs.pth")
    saved = {f"module.{key}": value for key, value in state.items()} if name == "authors" else dict(state)
    if name == "adelaidet":
        saved |= {"pixel_mean": torch.tensor(source.mean)[:, None, None], "pixel_std": torch.ones(3, 1, 1)}
    torch.save({"state_dict" if name == "mmdetection" else "model": saved, "iteration": 90_000}, file)
    ours = create(source.builder, weights=file).eval()
    assert ours.record == PUBLISHED[source.builder][source.record]
    pixels = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    raw, expected = ours.network(pixels), plain(source, state, pixels)
    for found, wanted in zip((raw.logits, raw.distances, raw.quality), expected, strict=True):
        for level, want in zip(found, wanted, strict=True):
            torch.testing.assert_close(level, want, rtol=1e-3, atol=1e-3)
        assert wanted[0].std() > 0.05
    assert ours.normalise_distances is source.improved and ours.head.exponential is not source.improved
    assert ours.nms_threshold == (0.5 if name == "mmdetection" else 0.6)


def test_every_name_becomes_one_of_ours() -> None:
    """Those of MMDetection's oldest files, the deformable layers of a tower, RGB; and each record's own form."""
    state = weights(MMDETECTION)
    old = {re.sub(r"conv_(cls|reg|centerness)\b", r"fcos_\1", key): value for key, value in state.items()}
    new, same = fcos_from_mmdetection(state), fcos_from_mmdetection(old)
    assert "bbox_head.fcos_cls.weight" in old and {*same} == {*new}
    assert torch.equal(same["head.logits.weight"], state["bbox_head.conv_cls.weight"])
    first = fcos_from_mmdetection(state, bgr=False)["backbone.body.conv1.weight"]
    assert torch.equal(first, state["backbone.conv1.weight"])
    assert torch.equal(first.flip(1), new["backbone.body.conv1.weight"])
    deformable = {f"rpn.head.bbox_tower.9.{part}.weight": torch.zeros(1) for part in ("offset", "conv")}
    assert {*fcos_from_authors(deformable)} == {f"head.box_tower.9.{part}.weight" for part in ("offsets", "conv")}
    for convert, model in ((fcos_from_authors, "FCOS of its authors"), (fcos_from_adelaidet, "AdelaiDet's FCOS")):
        with pytest.raises(UsageError, match=rf"'roi_heads\.fc\.weight' is not one of .*{model}"):
            convert({"roi_heads.fc.weight": torch.zeros(1)})
    with torch.device("meta"):
        deformed = create("fcos_resnet50_fpn", deformable=True)
    assert {"head.box_tower.9.conv.weight", "head.box_tower.9.offsets.weight"} <= {*deformed.state_dict()}


def test_files_without_a_checksum_are_not_downloaded() -> None:
    with pytest.raises(AweighError, match=r"published without a checksum, at https://github\.com/tianzhi0549/FCOS"):
        create("fcos_resnet50_fpn_base", weights="authors")
    licences = {record.licence.split(" (")[0] for record in PUBLISHED["fcos_resnet50_fpn"].values()}
    assert licences == {"BSD-3-Clause", "Apache-2.0", "for academic use"}
