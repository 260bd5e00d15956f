"""Faster R-CNN's own rules: what nobody labelled, what is ignored, which region learns which object, 16 bits, its forms
on one map."""

import copy
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from aweigh.backbones import timm_backbone
from aweigh.classes import Classes
from aweigh.errors import UsageError
from aweigh.heads.rpn import RPN
from aweigh.models import create
from aweigh.models.builders import Builder
from aweigh.models.faster_rcnn_forms import C4, on_c4
from aweigh.ops.boxes import areas, pairwise_iou
from aweigh.structures import Images, Targets

BOXES = torch.tensor([[10.0, 12, 60, 70], [70, 20, 150, 110]])
LABELS = torch.tensor([0, 2])


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return create("faster_rcnn_resnet18_fpn", num_classes=3, channels=16, box_size=3, backbone_norm="frozen_bn")


@pytest.fixture(scope="module")
def images() -> Images:
    return Images.stack([torch.rand(3, 128, 160, generator=torch.Generator().manual_seed(0))])


def test_regions_learn_the_objects_they_overlap_and_objects_are_among_them(model, images) -> None:
    targets = Targets(
        torch.cat([BOXES[:1] + 40, BOXES]), torch.tensor([1, 0, 2]), uncertain=torch.tensor([1, 0, 0]) > 0
    )
    (regions,), (index,) = model.sample_regions(model.network(images.pixels), [targets])
    overlap = pairwise_iou(regions, targets.boxes)
    assert (index != 0).all()  # the uncertain one is nobody's
    for number in (1, 2):
        assert (overlap[index == number, number] >= 0.5).all() and overlap[index == number, number].max() == 1
    assert (overlap[index == -1][:, 1:] < 0.5).all() and 0 < int((index >= 0).sum()) <= 128 and len(index) <= 512


@pytest.mark.parametrize("kind", ["ignore", "uncertain"])
def test_nothing_inside_such_a_region_is_background(model, images, kind: str) -> None:
    region = torch.tensor([[-8.0, -8, 80, 200]])
    targets = Targets(region, torch.tensor([0]), **{kind: torch.tensor([True])})
    raw = model.network(images.pixels)
    (regions,), (index,) = model.sample_regions(raw, [targets])
    centers = (regions[:, 0] + regions[:, 2]) / 2
    assert (index == -1).all() and len(index) > 0 and (centers >= 80).all()
    gradient = torch.autograd.grad(model.loss(raw, [targets])["objectness"], raw.proposed.objectness)
    anchors, touched = torch.cat(raw.proposed.anchors), torch.cat(gradient, dim=1)[0] != 0
    assert touched.any() and ((anchors[touched, 0] + anchors[touched, 2]) / 2 >= 80).all()


def test_a_class_the_image_was_not_labelled_for_gets_no_negative_loss(model, images) -> None:
    known = torch.tensor([True, False, True])
    raw = model.network(images.pixels)
    for given in (known, None):
        losses = model.loss(raw, [Targets(BOXES, LABELS, known=given)])
        bias = model.box_predictor.logits.bias
        weight = torch.autograd.grad(losses["classification"], bias, retain_graph=True)[0]
        objectness = torch.cat(
            torch.autograd.grad(losses["objectness"], raw.proposed.objectness, retain_graph=True), dim=1
        )
        assert weight[[0, 2, 3]].ne(0).all()
        # Objects push the class down, since they are another; background must not.
        _, index = model.sample_regions(raw, [Targets(BOXES, LABELS, known=given)])
        share = float((index[0] >= 0).sum()) / len(index[0])
        assert float(weight[1]) == pytest.approx((share if given is not None else 1) / 4, rel=0.2)
        assert bool((objectness > 0).any()) == (given is None)  # background anchors


@pytest.mark.parametrize("targets", [Targets(BOXES, LABELS), Targets.empty()])
def test_features_in_16_bits_are_read_in_32(model, images, targets: Targets) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        raw = model.network(images.pixels)
    assert raw.features[0].dtype == torch.bfloat16
    losses = model.loss(raw, [targets])
    sum(losses.values()).backward()
    assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())
    (found,) = model.decode(raw, images.sizes_hw)
    assert len(found) > 0 and found.boxes.dtype == found.scores.dtype == np.float32


def test_normalisation_of_the_proposal_network_is_chosen(images) -> None:
    """The first row of FCOS's table 6 has group normalisation behind the convolution of the RPN."""
    model = create("faster_rcnn_resnet18_fpn", num_classes=3, channels=16, box_size=3, rpn_norm="gn", rpn_convs=2)
    kinds = [type(layer).__name__ for layer in model.proposer.tower]
    assert len(kinds) == 6 and all("Norm" in kind for kind in kinds[1::3])
    losses = model(images, [Targets(BOXES, LABELS)])
    assert all(value.isfinite() for value in losses.values())


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UsageError, match="unknown box_head '3fc'; known: 2fc, 4conv1fc"):
        create("faster_rcnn_resnet18_fpn", box_head="3fc")
    with pytest.raises(UsageError, match="there is no option 'chanels'"):
        create("faster_rcnn_resnet18_fpn", chanels=3)


def test_detectron2_divides_by_what_may_learn_not_by_what_does(model, images) -> None:
    """An image most of which nobody labelled has few anchors that learn."""
    targets = [Targets(torch.tensor([[-8.0, -8, 156, 200]]), torch.tensor([0]), ignore=torch.tensor([True]))]
    raw = model.network(images.pixels)
    gradient = torch.autograd.grad(model.proposer.loss(raw.proposed, targets)["objectness"], raw.proposed.objectness)
    learned = int((torch.cat(gradient, dim=1) != 0).sum())
    assert 0 < learned < 256
    own = model.proposer.loss(raw.proposed, targets)["objectness"]
    other = copy.deepcopy(model)
    other.proposer.normaliser = "allowed"
    allowed = other.proposer.loss(raw.proposed, targets)["objectness"]
    torch.testing.assert_close(allowed * 256, own * learned)


def test_nothing_that_is_improbable_is_proposed(model, images) -> None:
    """Torchvision's forms on MobileNet V3 ask for a probability of 0.05."""
    model = copy.deepcopy(model)
    raw = model.network(images.pixels)
    middle = float(torch.cat(raw.proposed.objectness, dim=1).detach().sigmoid().median())
    sizes = torch.tensor(images.sizes_hw)
    *_, all_of_them = model.proposer.propose(raw.proposed, sizes)
    model.proposer.score_threshold = middle
    *_, some = model.proposer.propose(raw.proposed, sizes)
    assert 0 < some < all_of_them
    model.proposer.score_threshold = 1.0
    *_, none = model.proposer.propose(raw.proposed, sizes)
    assert none == 0 and len(model.decode(raw, images.sizes_hw)[0]) == 0
    losses = model.loss(raw, [Targets.empty()])  # with neither proposals nor objects
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())


class Seen(nn.Module):
    """A branch that says the mean of what it reads, and remembers its shape."""

    size = 14
    notes: ClassVar = {}

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        self.shape = tuple(maps.shape[1:])
        return maps.mean(dim=(1, 2, 3))

    def loss(self, said, learned) -> torch.Tensor:
        return said.sum()

    def decode(self, said, boxes, labels) -> torch.Tensor:
        return said


@pytest.fixture(scope="module")
def c4() -> nn.Module:
    torch.manual_seed(0)
    few = {"train_proposals": (200, 20), "test_proposals": (200, 20), "sampled": 16}
    parts = {"proposer": RPN, "branches": lambda channels, classes: {"seen": Seen()}}
    build = Builder(on_c4, partial(timm_backbone, "resnet18", (4, 5)), C4, parts)
    return build(classes=Classes.numbered(3), backbone_norm="frozen_bn", **few)


def test_on_c4_the_last_stage_of_the_body_reads_regions_for_every_branch(c4, images) -> None:
    raw = c4.network(images.pixels)
    assert [tuple(each.shape) for each in raw.features] == [(1, 256, 8, 10)]
    assert len(torch.cat(raw.proposed.anchors)) == 8 * 10 * 15
    sides = areas(raw.proposed.anchors[0][:15]).sqrt().view(3, 5)  # ratio by ratio
    torch.testing.assert_close(sides, torch.tensor([32.0, 64, 128, 256, 512]).expand(3, 5))
    losses = c4.loss(raw, [Targets(BOXES, LABELS)])
    assert c4.branches["seen"].shape == (512, 7, 7)  # 14 cells of a side, halved
    sum(losses.values()).backward()
    learned = {name.partition(".")[0] for name, value in c4.named_parameters() if value.grad is not None}
    assert learned == {"backbone", "proposer", "region_body", "box_predictor"}
    regions = torch.tensor([[0.0, 8, 8, 100, 90]])
    maps = c4.regions_of(raw.features, regions, 14)
    logits, _ = c4.second_stage(raw.features, regions)
    torch.testing.assert_close(logits, c4.box_predictor(maps.mean(dim=(2, 3)))[0])


def test_on_c4_weights_of_a_body_fill_its_last_stage_too(tmp_path: Path) -> None:
    body = torchvision.models.resnet50()
    torch.save(body.state_dict(), tmp_path / "resnet50.pth")
    model = create("faster_rcnn_resnet50_c4", num_classes=2, backbone_weights=tmp_path / "resnet50.pth")
    assert model.backbone_report.loaded == model.backbone_report.total == 265 and not model.backbone_report.missing
    assert torch.equal(model.region_body[2].conv3.weight, body.layer4[2].conv3.weight)
    assert not [name for name, _ in model.named_parameters() if "layer4" in name]


def test_on_vgg16_its_fully_connected_layers_are_those_of_the_published_body() -> None:
    with torch.device("meta"):
        model = create("faster_rcnn_vgg16", num_classes=20)
        published = torchvision.models.vgg16().state_dict()
    shapes = {key.replace(".", "_", 1): value.shape for key, value in published.items() if "classifier.6" not in key}
    ours = {key.removeprefix("body."): value.shape for key, value in model.classification_body().state_dict().items()}
    assert ours == shapes


def test_on_vgg16_as_the_first_papers_say() -> None:
    torch.manual_seed(0)
    model = create("faster_rcnn_vgg16", num_classes=20, head_width=8)
    assert model.proposer.test_proposals == (6000, 300) and model.proposer.train_proposals == (12000, 2000)
    assert model.sampled == 128 and model.beta == 1 and model.proposer.beta == pytest.approx(1 / 9)
    (shapes,) = model.proposer.shapes
    torch.testing.assert_close(areas(shapes).sqrt().view(3, 3), torch.tensor([128.0, 256, 512]).expand(3, 3))
    sides = shapes[:, 2:] - shapes[:, :2]
    torch.testing.assert_close((sides[:, 1] / sides[:, 0]).view(3, 3), torch.tensor([[0.5], [1], [2]]).expand(3, 3))
    pixels = torch.rand(1, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    (feature,) = model.network(pixels).features
    assert feature.shape == (1, 512, 6, 10)
    everywhere = model.regions_of([feature], torch.tensor([[0.0, 0, 0, 160, 96]]), 7)
    assert everywhere.shape == (1, 512, 7, 7)
    torch.testing.assert_close(everywhere.amax(dim=(2, 3)), feature.amax(dim=(2, 3)))  # the largest, not a mean


@pytest.mark.parametrize("neck", ["fpn", "pan", "nas_fpn"])
def test_it_stands_on_any_neck(images, neck: str) -> None:
    """Regions are proposed on five levels and read from the four that the body has."""
    few = {"channels": 16, "box_size": 3, "test_proposals": [20, 5], "train_proposals": [20, 5]}
    model = create("faster_rcnn_resnet18_fpn", num_classes=3, neck=neck, backbone_norm="frozen_bn", **few)
    raw = model.network(images.pixels)
    assert [tuple(each.shape) for each in raw.features] == [(1, 16, 128 // s, 160 // s) for s in (4, 8, 16, 32)] + [
        (1, 16, 2, 3)
    ]
    assert model.proposer.strides == (4, 8, 16, 32, 64) and model.pool.keywords["strides"] == (4, 8, 16, 32)
    assert all(value.isfinite() for value in model.loss(raw, [Targets(BOXES, LABELS)]).values())
    assert len(model.decode(raw, images.sizes_hw)[0]) > 0


def test_wrong_forms_are_named() -> None:
    with pytest.raises(UsageError, match="unknown rpn_normaliser 'images'; known: sampled, allowed"):
        create("faster_rcnn_resnet18_fpn", rpn_normaliser="images")
    with pytest.raises(UsageError, match="layer4 stands behind the regions"):
        create("faster_rcnn_resnet50_c4", frozen_stages=5)
    with pytest.raises(UsageError, match="there is no option 'neck_norm'"):
        create("faster_rcnn_resnet50_c4", neck_norm="gn")


def test_anchors_have_the_ratios_that_are_given_and_stand_on_the_levels_that_are_proposed_on() -> None:
    """Ren et al. 2015, table 8; Lin et al. 2017, FPN, table 1f."""
    given = {"anchor_sizes": [32, 64], "anchor_ratios": [0.25, 1], "levels_proposed": 1, "channels": 16}
    model = create("faster_rcnn_resnet18_fpn", num_classes=3, **given)
    (cell,) = model.proposer.shapes
    sides = cell[:, 2:] - cell[:, :2]
    expected = {(64, 16), (32, 32), (128, 32), (64, 64)}  # width, height
    assert {tuple(pair) for pair in sides.round().int().tolist()} == expected
    raw = model.network(torch.rand(1, 3, 64, 96)).proposed
    assert [len(anchors) for anchors in raw.anchors] == [16 * 24 * 4] and len(raw.objectness) == len(raw.deltas) == 1


@torch.no_grad()
def test_the_loss_of_boxes_of_proposals_has_its_weight(model, images) -> None:
    """Ren et al. 2015, equation 1 and table 9; the others stay as they are."""
    other = copy.deepcopy(model)
    other.proposer.box_weight = create("faster_rcnn_resnet18_fpn", channels=8, rpn_box_weight=2.5).proposer.box_weight
    raw, targets = model.network(images.pixels), [Targets(BOXES, LABELS)]
    plain, weighted = (each.loss(raw, targets) for each in (model, other))
    torch.testing.assert_close(weighted.pop("proposals"), 2.5 * plain.pop("proposals"))
    assert plain == weighted
