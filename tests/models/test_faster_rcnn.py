"""Faster R-CNN's own rules: what nobody labelled, what is ignored, which region learns which object, 16 bits."""

import pytest
import torch
from torch import nn

from aweigh.errors import UsageError
from aweigh.models import create
from aweigh.ops.boxes import pairwise_iou
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
    assert len(found) > 0 and found.boxes.dtype == found.scores.dtype == torch.float32


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UsageError, match="unknown box_head '3fc'; known: 2fc, 4conv1fc"):
        create("faster_rcnn_resnet18_fpn", box_head="3fc")
    with pytest.raises(UsageError, match="there is no option 'chanels'"):
        create("faster_rcnn_resnet18_fpn", chanels=3)
