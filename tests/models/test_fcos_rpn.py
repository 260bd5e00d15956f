"""FCOS in the place of the region proposal network: its samples, what it learns, what it proposes."""

import math

import pytest
import torch
import torchvision
from torch import nn

from aweigh.errors import UsageError
from aweigh.models import create
from aweigh.models.fcos import level_ranges_of
from aweigh.models.fcos_rpn import FCOSProposer
from aweigh.structures import Images, Targets

SMALL = {"num_classes": 3, "channels": 16, "box_size": 3, "backbone_norm": "frozen_bn", "rpn_convs": 1}
BOXES = torch.tensor([[10.0, 12, 60, 70], [70, 20, 150, 110]])
LABELS = torch.tensor([0, 2])


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    model = create("faster_rcnn_resnet18_fcos_rpn", **SMALL).eval()
    head = model.proposer.fcos.head
    nn.init.constant_(head.distances.bias, 3.0)  # distances of about 20 pixels
    for prediction in (head.logits, head.centerness, head.distances):
        nn.init.normal_(prediction.weight, std=0.2)
    nn.init.zeros_(head.logits.bias)
    return model


@pytest.fixture(scope="module")
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    return Images.stack([torch.rand(3, *size, generator=generator) for size in ((128, 160), (100, 90))])


def test_it_has_the_samples_of_table_6() -> None:
    """About 66,000 points in the place of about 200,000 anchors: P2 to P6, one point a cell."""
    sides = [(math.ceil(800 / stride), math.ceil(1024 / stride)) for stride in (4, 8, 16, 32, 64)]
    with torch.device("meta"):
        anchors = create("faster_rcnn_resnet18_fpn", **SMALL)
        points = create("faster_rcnn_resnet18_fcos_rpn", **SMALL)
        features = [torch.empty(1, 16, *side) for side in sides]
        pixels = torch.empty(1, 3, 800, 1024)
        number_of_anchors = sum(level.shape[1] for level in anchors.proposer(features, pixels).objectness)
        number_of_points = sum(level[0, 0].numel() for level in points.proposer(features, pixels).logits)
    assert number_of_anchors == 3 * number_of_points == 204_624
    assert points.proposer.fcos.strides == (4, 8, 16, 32, 64)


def test_levels_learn_sizes_in_proportion_to_their_stride() -> None:
    assert level_ranges_of((4, 8, 16, 32, 64)) == [(0, 32), (32, 64), (64, 128), (128, 256), (256, math.inf)]


def test_the_losses_are_those_of_fcos_of_one_class(model, images) -> None:
    """Point by point: focal loss, -log IoU weighted by centre-ness, cross-entropy of the centre-ness."""
    targets = [Targets(BOXES, LABELS), Targets(BOXES[:1], LABELS[:1])]
    raw = model.network(images.pixels)
    found = model.loss(raw, targets)
    sums = {"objectness": 0.0, "proposals": 0.0, "centerness": 0.0}
    positives, weights = 0, 0.0
    for image, target in enumerate(targets):
        for level, (low, high) in enumerate(level_ranges_of((4, 8, 16, 32, 64))):
            part = raw.proposed
            logits, distances, quality = (values[level][image].flatten(1).T.double().tolist() for values in part[:3])
            for (x, y), (logit,), (left, top, right, bottom), (central,) in zip(
                part.points[level].tolist(), logits, distances, quality, strict=True
            ):
                best = None
                for x0, y0, x1, y1 in target.boxes.tolist():
                    sides = (x - x0, y - y0, x1 - x, y1 - y)
                    if min(sides) > 0 and low <= max(sides) <= high:
                        area = (x1 - x0) * (y1 - y0)
                        best = min(best or (math.inf,), (area, sides))
                p = 1 / (1 + math.exp(-logit))
                if best is None:
                    sums["objectness"] -= 0.75 * p**2 * math.log(1 - p)
                    continue
                positives += 1
                sums["objectness"] -= 0.25 * (1 - p) ** 2 * math.log(p)
                l, t, r, b = best[1]  # noqa: E741 (the paper's names)
                goal = math.sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))
                weights += goal
                both = (min(l, left) + min(r, right)) * (min(t, top) + min(b, bottom))
                union = (l + r) * (t + b) + (left + right) * (top + bottom) - both
                sums["proposals"] -= goal * math.log((both + 1) / (union + 1))
                c = 1 / (1 + math.exp(-central))
                sums["centerness"] -= goal * math.log(c) + (1 - goal) * math.log(1 - c)
    assert positives > 20 and set(found) == {*sums, "classification", "box"}
    for name, total in sums.items():
        assert float(found[name]) == pytest.approx(total / (weights if name == "proposals" else positives), rel=1e-4)


@pytest.mark.parametrize("learning", [False, True])
@torch.no_grad()
def test_proposals_are_the_best_points_of_each_level_suppressed_by_themselves(model, images, learning: bool) -> None:
    raw = model.network(images.pixels).proposed
    sizes = torch.tensor(images.sizes_hw)
    model.proposer.train_proposals, model.proposer.test_proposals = (120, 60), (80, 40)
    before, after = (120, 60) if learning else (80, 40)
    boxes, scores, count = model.proposer.propose(raw, sizes, learning=learning)
    assert boxes.shape == (2, after, 4) and scores.shape == (2, after)
    for image, (height, width) in enumerate(images.sizes_hw):
        kept = []
        for level, points in enumerate(raw.points):
            logit, distance, central = (values[level][image].flatten(1).T for values in raw[:3])
            score = (logit.sigmoid() * central.sigmoid()).sqrt().squeeze(1)
            corners = torch.cat([points - distance[:, :2], points + distance[:, 2:]], dim=1)
            corners = corners.clamp(min=0).minimum(torch.tensor([width, height] * 2))
            best = score.argsort(descending=True)[:before]
            best = best[((corners[best, 2:] - corners[best, :2]) >= 1e-3).all(dim=1)]
            best = best[torchvision.ops.nms(corners[best], score[best], 0.7)]
            kept += [(float(score[row]), corners[row].tolist()) for row in best]
        kept = sorted(kept, reverse=True)[:after]
        number = int(count[image])
        assert number == len(kept) > 20
        torch.testing.assert_close(scores[image, :number], torch.tensor([s for s, _ in kept]), atol=1e-5, rtol=0)
        expected = torch.tensor([box for _, box in kept])
        apart = (expected[:, None] - boxes[image, None, :number]).abs().amax(dim=-1)  # of equal scores any order
        assert (apart.amin(dim=1) < 1e-2).all()
        assert scores[image, number:].eq(0).all()


def test_without_centerness_there_is_no_such_branch_and_boxes_are_not_weighted(images) -> None:
    torch.manual_seed(0)
    model = create("faster_rcnn_resnet18_fcos_rpn", **SMALL, centerness=False)
    assert not any("centerness" in name for name, _ in model.named_parameters())
    raw = model.network(images.pixels)
    assert raw.proposed.quality == []
    losses = model.loss(raw, [Targets(BOXES, LABELS), Targets.empty()])
    assert set(losses) == {"objectness", "proposals", "classification", "box"}
    fcos, target = model.proposer.fcos, Targets(BOXES, torch.zeros(2, dtype=torch.int64))
    learned = fcos.assign(raw.proposed.points, target)
    points = torch.cat(raw.proposed.points)[learned >= 0]
    distances = torch.cat([level[0].flatten(1).T for level in raw.proposed.distances])[learned >= 0]
    boxes = torch.cat([points - distances[:, :2], points + distances[:, 2:]], dim=1)
    overlap = torchvision.ops.box_iou(boxes, BOXES)[torch.arange(len(boxes)), learned[learned >= 0]]
    # One pixel of area is added to both, which is little here.
    assert float(losses["proposals"]) == pytest.approx(float(-overlap.log().mean()), rel=0.2)
    boxes, scores, _ = model.proposer.propose(raw.proposed, torch.tensor(images.sizes_hw))
    probability = torch.cat([level[0].flatten() for level in raw.proposed.logits]).sigmoid().max()
    assert float(scores[0, 0]) == pytest.approx(float(probability.sqrt()), rel=1e-5)


def test_what_nobody_labelled_is_no_background(model, images) -> None:
    """An image labelled for some classes may show others anywhere: no point in it is told that there is nothing."""
    known = torch.tensor([True, False, True])
    raw = model.network(images.pixels)
    for given in (known, None):
        loss = model.loss(raw, [Targets(BOXES, LABELS, known=given), Targets.empty()])["objectness"]
        gradient = torch.autograd.grad(loss, raw.proposed.logits, retain_graph=True)
        first, second = (torch.cat([level[image].flatten() for level in gradient]) for image in (0, 1))
        assert bool((first > 0).any()) == (given is None) and (first < 0).any()
        assert (second > 0).all()


def test_forms_and_wrong_names() -> None:
    torch.manual_seed(0)
    features = [torch.rand(1, 8, 32 // stride, 32 // stride) for stride in (1, 2, 4)]
    for form, largest in (("base", math.inf), ("improved", 1e3)):
        proposer = FCOSProposer(8, (4, 8, 16), rpn_convs=1, rpn_form=form)
        distances = proposer(features, torch.rand(1, 3, 128, 128)).distances
        assert all((level >= 0).all() and (level < largest).all() for level in distances)
        assert proposer.fcos.normalise_distances is (form == "improved")
    with pytest.raises(UsageError, match="unknown rpn_form 'new'; known: base, improved"):
        FCOSProposer(8, (4, 8, 16), rpn_form="new")
