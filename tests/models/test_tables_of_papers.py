"""The rows of the papers' tables, as our pages show them: each call builds the network that its row names."""

import re
from typing import Any

import pytest
import torch
from tests.architecture.shown import CALLS, Shown, built, lines_of
from torch import nn

import aweigh
from aweigh.layers import FrozenBatchNorm2d

NORMS = (nn.GroupNorm, nn.BatchNorm2d, FrozenBatchNorm2d, nn.LayerNorm, nn.InstanceNorm2d)
MEAN_SIDES = {stride: 4.0 * stride for stride in (8, 16, 32, 64, 128)}  # 32 to 512 px (section 4)


def rows(page: str, first: str) -> list[Any]:
    """The calls of a page whose row of a table begins with `first`, with what the row says."""
    found = []
    for shown in CALLS:
        line = lines_of(shown.file)[shown.line - 1]
        if shown.file.name == page and line.startswith(first):
            found.append(pytest.param(shown, [cell.strip() for cell in line.split("|")[1:-1]], id=str(shown)))
    return found


def norms(module: nn.Module) -> set[type]:
    kinds = {type(part) for part in module.modules() if isinstance(part, NORMS)}
    return {next(kind for kind in NORMS[::-1] if issubclass(each, kind)) for each in kinds}


TABLE_1 = rows("retinanet.md", "| 1")


def test_all_rows_of_table_1_are_there() -> None:
    assert len(TABLE_1) == 7 + 6 + 7 + 10 + 10


@pytest.mark.parametrize(("shown", "cells"), TABLE_1)
def test_the_network_of_retinanet(shown: Shown, cells: list[str]) -> None:
    """Subnets of four plain convolutions, P6 from C5, smooth L1, MSRA's body with what its row changes."""
    model, (table, row, *_) = built(shown), cells
    assert norms(model.head) == norms(model.neck) == set() and norms(model.backbone) == {FrozenBatchNorm2d}
    towers = (model.head.classification_tower, model.head.box_tower)
    assert [sum(isinstance(part, nn.Conv2d) for part in tower.modules()) for tower in towers] == [4, 4]
    assert (model.box_loss, model.beta, model.assignment, model.moving_positives) == (
        "smooth_l1",
        0.11,
        "overlap",
        None,
    )
    assert model.neck.top == "c5" and tuple(model.strides) == (8, 16, 32, 64, 128)
    deep = table == "1d" or row.startswith("ResNet-101")
    assert len(model.backbone.body.layer3) == (23 if deep else 6)  # ResNet-101, ResNet-50
    assert model.backbone.body.layer2[0].conv1.stride == (2, 2)

    words = [float(word) for word in re.findall(r"(?<![\w:])\d+(?:\.\d+)?", row)]
    alpha, gamma, hard, sizes, ratios = 0.25, 2.0, (0, 0.5, None), 3, 3
    if table == "1a":
        (alpha,), gamma = words, 0.0
    elif table == "1b":
        gamma, alpha = words
    elif table == "1c":
        sizes, ratios = map(int, words)
    elif table == "1d" and row != "focal loss":
        *_, anchors, overlap = words
        hard = (int(anchors), overlap, 3 if "1:3" in row else None)
    assert (model.alpha, model.gamma) == (alpha, gamma)
    assert (model.hard_examples, model.hard_nms, model.hard_ratio) == hard
    for stride, shapes in zip(model.strides, octaves(model), strict=True):
        sides = shapes[:, 2:] - shapes[:, :2]
        expected = sorted(MEAN_SIDES[stride] * 2 ** (i / sizes) for i in range(sizes) for _ in range(ratios))
        torch.testing.assert_close(sides.prod(dim=1).sqrt().sort().values, torch.tensor(expected), rtol=1e-5, atol=0)
        assert set((sides[:, 1] / sides[:, 0]).mul(100).round().tolist()) == (
            {100.0} if ratios == 1 else {50.0, 100.0, 200.0}
        )


def octaves(model: Any) -> list[torch.Tensor]:
    """The anchors of a cell of each level, which a detector without memory has no values of: those of its arguments."""
    from aweigh.models.retinanet import RATIOS, octave_anchors

    given = {name: value for name, value in model.arguments.items() if name in ("per_octave", "ratios", "scale")}
    found = octave_anchors(model.strides, **{"ratios": RATIOS, **given})
    assert [shapes.shape for shapes in found] == [shapes.shape for shapes in model.shapes]
    return found


def test_smooth_l1_of_the_deltas() -> None:
    """Quadratic below 0.11, as the authors' program has it: x^2 / (2 * 0.11), else |x| - 0.055."""
    options = {"num_classes": 2, "box_loss": "smooth_l1", "channels": 16, "convs": 1}
    model = aweigh.create("retinanet_shufflenet_v2_x1_0_fpn", **options)
    anchors = torch.tensor([[0.0, 0, 10, 20]])
    deltas = torch.tensor([[0.05, -0.11, 0.5, -2.0]])
    expected = 0.05**2 / 0.22 + 0.055 + (0.5 - 0.055) + (2 - 0.055)
    assert float(model._box_loss(anchors, deltas, anchors)) == pytest.approx(expected)
    plain = aweigh.create("retinanet_shufflenet_v2_x1_0_fpn", **{**options, "box_loss": "l1"})
    assert float(plain._box_loss(anchors, deltas, anchors)) == pytest.approx(2.66)


GROUP_NORM = rows("group_normalization.md", "| BN") + rows("group_normalization.md", "| GN")


def test_all_rows_of_tables_4_and_5_are_there() -> None:
    boxes = [cells[-3].split()[0] for _, cells in (row.values for row in GROUP_NORM)]
    assert boxes == ["37.7", "38.6", "39.5", "38.8", "40.0"]


@pytest.mark.parametrize(("shown", "cells"), GROUP_NORM)
def test_where_group_normalisation_stands(shown: Shown, cells: list[str]) -> None:
    model, kinds = built(shown), {r"BN\*": {FrozenBatchNorm2d}, "GN": {nn.GroupNorm}, "-": set()}
    body = kinds[cells[0]]
    assert norms(model.backbone) == body
    if model.builder == "mask_rcnn_resnet50_c4":  # table 4: the last stage is the head
        assert norms(model.region_body) == body and not isinstance(model.region_body, nn.Identity)
        assert norms(model.branches) == norms(model.proposer) == set()
        return
    assert norms(model.neck) == (body if cells[0] == "GN" else set())
    assert norms(model.box_head) == kinds[cells[1]] and norms(model.branches) == set()
    assert sum(isinstance(part, nn.Conv2d) for part in model.box_head.modules()) == 4


def test_the_first_papers_suppress_above_an_overlap_of_0_3() -> None:
    """Boxes that overlap by 0.4: one is left of two where VGG-16 reads the regions, both elsewhere."""
    for name, threshold in (
        *(("fast_rcnn_vgg16", 0.3), ("faster_rcnn_vgg16", 0.3)),
        *(("fast_rcnn_resnet50_fpn", 0.5), ("faster_rcnn_resnet50_fpn", 0.5), ("faster_rcnn_resnet50_c4", 0.5)),
    ):
        with torch.device("meta"):
            model = aweigh.create(name)
            chosen = aweigh.create(name, nms_threshold=0.45)
        assert model.nms_threshold == model.selection.nms_threshold == threshold
        assert chosen.nms_threshold == 0.45
