"""Light-Head R-CNN's own parts: the large convolution, what is read of a region, which regions learn; done slowly."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import ps_roi_align

from aweigh.backbones.classifier import classifier
from aweigh.backbones.shufflenet_v2 import ShuffleNetV2
from aweigh.errors import UsageError
from aweigh.models import create
from aweigh.models.faster_rcnn import FasterRCNNOutput
from aweigh.models.light_head_rcnn import LargeSeparableConv
from aweigh.ops.roi import numbered
from aweigh.profiling.cost import count
from aweigh.structures import Images, Targets

BOXES = torch.tensor([[10.0, 12, 60, 70], [70, 20, 150, 110]])
SMALLEST = {"width": 0.5, "num_classes": 3, "backbone_norm": "frozen_bn"}


@pytest.fixture(scope="module")
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    return Images.stack([torch.rand(3, *size, generator=generator) for size in ((128, 160), (96, 128))])


def build(**options) -> nn.Module:
    torch.manual_seed(0)
    model = create("light_head_rcnn_shufflenet_v2", **{**SMALLEST, **options})
    for module in [*model.box_head.modules(), *model.box_predictor.modules()]:
        if isinstance(module, nn.Linear):  # wide enough that what is said differs between regions
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    return model.eval()


def network(model: nn.Module, images: Images) -> FasterRCNNOutput:
    """What the network says, with a map for the regions that is not as flat as that of an untrained body."""
    raw = model.network(images.pixels)
    thin = torch.randn(raw.features[1].shape, generator=torch.Generator().manual_seed(1)).relu()
    return raw._replace(features=[raw.features[0], thin])


def test_the_large_convolution_is_two_separated_ones() -> None:
    torch.manual_seed(0)
    large = LargeSeparableConv(6, 4, 5, kernel=7).double()
    assert {tuple(each.weight.shape[2:]) for each in large.column} == {(7, 1), (1, 7)}
    assert large.column[0].weight.shape[2:] == large.row[1].weight.shape[2:] == (7, 1)
    # Each path is a full 7 x 7 convolution, whose kernel is a product.
    column = torch.einsum("mik,omj->oikj", large.column[0].weight[..., 0], large.column[1].weight[:, :, 0])
    row = torch.einsum("mij,omk->oikj", large.row[0].weight[:, :, 0], large.row[1].weight[..., 0])
    x = torch.randn(2, 6, 9, 12, dtype=torch.float64)
    expected = F.conv2d(x, column + row, padding=3).relu()
    torch.testing.assert_close(large(x), expected)
    assert 0.2 < float((expected > 0).double().mean()) < 0.8


@pytest.mark.parametrize(
    ("name", "strides", "middle", "width"),
    [("light_head_rcnn_resnet101", (16, 16), 256, 512), ("light_head_rcnn_shufflenet_v2", (16, 32), 64, 256)],
)
def test_the_numbers_of_the_paper(name, strides, middle, width) -> None:
    with torch.device("meta"):
        model = create(name)
    assert model.neck.strides == strides and model.proposer.strides == strides[:1]
    (wide, thin) = model.neck.large.column
    assert wide.weight.shape == (middle, wide.in_channels, 15, 1) and thin.weight.shape == (490, middle, 1, 15)
    assert model.proposer.tower[0].out_channels == width
    assert model.proposer.objectness.out_channels == 15
    assert (model.proposer.train_proposals, model.proposer.test_proposals) == ((12000, 2000), (6000, 1000))
    assert model.box_head.fc.weight.shape == (2048, 490) and model.box_predictor.deltas.out_features == 320


def test_fifteen_anchors_of_a_cell(images) -> None:
    model = build()
    anchors = model.network(images.pixels).proposed.anchors
    assert [tuple(each.shape) for each in anchors] == [(8 * 10 * 15, 4)]
    sides = anchors[0][:15, 2:] - anchors[0][:15, :2]
    assert sorted(sides.prod(dim=1).sqrt().round().tolist()) == sorted([32.0, 64, 128, 256, 512] * 3)
    assert sorted((sides[:, 1] / sides[:, 0]).mul(10).round().tolist()) == sorted([5.0, 10, 20] * 5)


def test_a_region_is_read_as_torchvision_does(images) -> None:
    model = build(pooling="mean")
    raw = network(model, images)
    regions = numbered([BOXES, BOXES[:1] / 2])
    logits, deltas = model.second_stage(raw.features, regions)
    read = ps_roi_align(raw.features[1], regions, 7, 1 / 32, 2).flatten(1)  # [3, 490]
    hidden = (read @ model.box_head.fc.weight.T + model.box_head.fc.bias).relu()
    torch.testing.assert_close(logits, F.linear(hidden, *model.box_predictor.logits.parameters()))
    torch.testing.assert_close(deltas.flatten(1), F.linear(hidden, *model.box_predictor.deltas.parameters()))
    largest, _ = build().second_stage(raw.features, regions)
    assert (largest - logits).abs().max() > 1e-3


def overlap(first: list[float], second: list[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return shared / (area - shared)


def loss_of_region(region: list[float], logits: list[float], deltas: list[list[float]], boxes, labels, beta: float):
    """Of one region: cross-entropy, and smooth L1 of its deltas where it holds an object."""
    overlaps = [overlap(region, box) for box in boxes]
    best = max(range(len(boxes)), key=overlaps.__getitem__) if boxes else None
    holds = best is not None and overlaps[best] >= 0.5
    label = labels[best] if holds else len(logits) - 1
    classification = math.log(sum(math.exp(each) for each in logits)) - logits[label]
    if not holds:
        return classification, 0.0
    (x0, y0, x1, y1), (u0, v0, u1, v1) = region, boxes[best]
    width, height = x1 - x0, y1 - y0
    goal = [
        ((u0 + u1) / 2 - (x0 + x1) / 2) / width * 10,
        ((v0 + v1) / 2 - (y0 + y1) / 2) / height * 10,
        math.log((u1 - u0) / width) * 5,
        math.log((v1 - v0) / height) * 5,
    ]
    apart = [abs(mine - wanted) for mine, wanted in zip(deltas[label], goal, strict=True)]
    return classification, sum(0.5 * each**2 / beta if each < beta else each - 0.5 * beta for each in apart)


@pytest.mark.parametrize("hard_regions", [None, 20, 256])
def test_the_loss_is_that_of_the_hardest_regions_of_each_image(images, hard_regions) -> None:
    model = build(hard_regions=hard_regions, test_proposals=(200, 50), train_proposals=(200, 60))
    targets = [Targets(BOXES, torch.tensor([0, 2])), Targets.empty()]
    raw = network(model, images)
    losses = model.loss(raw, targets)
    regions, _ = model.sample_regions(raw, targets)
    assert [len(each) for each in regions] == [62, 60]  # all proposals, and the objects
    logits, deltas = model.second_stage(raw.features, numbered(regions))
    classification, box, number = 0.0, 0.0, 0
    for image, target in enumerate(targets):
        rows = range(62) if image == 0 else range(62, 122)
        each = [
            loss_of_region(
                regions[image][row - rows.start].tolist(), logits[row].tolist(), deltas[row].tolist(),
                target.boxes.tolist(), target.labels.tolist(), beta=1.0,
            )
            for row in rows
        ]  # fmt: skip
        hardest = sorted(each, key=sum, reverse=True)[:hard_regions]
        classification += sum(pair[0] for pair in hardest)
        box += sum(pair[1] for pair in hardest)
        number += len(hardest)
    assert box > 0 and number == (122 if hard_regions in (None, 256) else 40)
    assert float(losses["classification"].detach()) == pytest.approx(classification / number, rel=1e-4)
    assert float(losses["box"].detach()) == pytest.approx(2 * box / number, rel=1e-4)
    assert set(losses) == {"objectness", "proposals", "classification", "box"}


def test_a_region_that_is_ignored_is_no_candidate(images) -> None:
    model = build()
    everywhere = Targets(torch.tensor([[-10.0, -10, 300, 300]]), torch.tensor([0]), ignore=torch.tensor([True]))
    regions, index = model.sample_regions(model.network(images.pixels), [everywhere, Targets.empty()])
    assert len(regions[0]) == 0 and len(regions[1]) > 0 and (index[1] == -1).all()


def test_deltas_may_be_shared_between_classes(images) -> None:
    model = build(class_agnostic=True)
    assert model.box_predictor.deltas.out_features == 4
    raw = network(model, images)
    _, deltas = model.second_stage(raw.features, numbered([BOXES, BOXES]))
    assert deltas.shape == (4, 3, 4) and torch.equal(deltas[:, 0], deltas[:, 2]) and deltas.std() > 0
    assert len(model.decode(raw, images.sizes_hw)[0]) == 100
    losses = model.loss(raw, [Targets(BOXES, torch.tensor([0, 2])), Targets.empty()])
    losses["box"].backward()
    assert model.box_predictor.deltas.weight.grad.abs().sum() > 0


def test_the_extra_convolutions_of_v2_star_cost_little() -> None:
    for width in (0.5, 1.0, 1.5, 2.0):
        with torch.device("meta"):
            plain, star = (classifier(ShuffleNetV2(width, extra_depthwise=extra)) for extra in (False, True))
        found, more = (count(each, (224, 224)).total.multiply_adds for each in (plain, star))
        print(f"v2* {width}: {more / 1e6:.1f}M, {more / found - 1:+.1%}")
        assert 0 < more / found - 1 < 0.06


def test_v2_star_is_an_argument() -> None:
    star, plain = (build(extra_depthwise=extra).backbone.name for extra in (True, False))
    assert (star, plain) == ("shufflenet_v2_x0_5_dw", "shufflenet_v2_x0_5")


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("shufflenet_v2", {"width": 0.7}, "0.5, 1.0, 1.5, 2.0, got 0.7"),
        ("shufflenet_v1", {"groups": 6}, "groups are one of 1, 2, 3, 4, 8; got 6"),
        ("xception", {"width": 3}, "0.5, 1.0, 1.5, 2.0, got 3"),
        ("mobilenet_v2", {"width": 0.7}, "0.15, 0.35, 0.4, 0.5, 0.6, 0.75, 1.0, 1.4, got 0.7"),
        ("xception", {"poling": "max"}, "there is no option 'poling'"),
        ("xception", {"pooling": "median"}, "unknown pooling 'median'; known: max, mean"),
    ],
)
def test_wrong_arguments_are_named(name, arguments, said) -> None:
    with pytest.raises(UsageError, match=said):
        create(f"light_head_rcnn_{name}", **arguments)
