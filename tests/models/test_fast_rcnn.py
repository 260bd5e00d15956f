"""Fast R-CNN: where it is told to look, what it learns from that, and the same second stage as Faster R-CNN."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from aweigh.errors import UsageError
from aweigh.models import create
from aweigh.models.detector import network_inputs
from aweigh.models.fast_rcnn import PAPER, GivenProposals
from aweigh.structures import Images, Targets, padded_proposals

SMALL = {"num_classes": 3, "channels": 16, "box_size": 3, "backbone_norm": "frozen_bn"}
BOXES = torch.tensor([[10.0, 12, 60, 70], [70, 20, 150, 110]])
LABELS = torch.tensor([0, 2])


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return create("fast_rcnn_resnet18_fpn", **SMALL, **PAPER).eval()


def around(boxes: torch.Tensor, number: int, *, seed: int = 0) -> torch.Tensor:
    """`number` boxes at all distances from those, inside 160 x 128 pixels, each side of 4 pixels or more."""
    generator = torch.Generator().manual_seed(seed)
    base = boxes[torch.randint(len(boxes), (number,), generator=generator)]
    spread = torch.rand(number, 1, generator=generator) * 60
    moved = base + torch.randn(number, 4, generator=generator) * spread
    x0, y0 = moved[:, 0].clamp(0, 150), moved[:, 1].clamp(0, 120)
    x1, y1 = torch.maximum(moved[:, 2], x0 + 4).clamp(max=160), torch.maximum(moved[:, 3], y0 + 4).clamp(max=128)
    return torch.stack([x0, y0, x1, y1], dim=1)


def given(*proposals: torch.Tensor) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(len(proposals), 3, 128, 160, generator=generator)
    return Images(pixels, [(128, 160)] * len(proposals), padded_proposals(proposals))


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = float(max(width, 0) * max(height, 0))
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (one, other)]
    return both / (sum(areas) - both)


def test_the_regions_that_learn_are_those_of_the_paper(model) -> None:
    """Section 2.3: 64 of an image, a quarter of IoU 0.5 and more, the others of the highest IoU in [0.1, 0.5)."""
    proposals = around(BOXES, 400)
    (regions,), (index,) = model.sample_regions(
        model.network(*network_inputs(model, given(proposals))), [Targets(BOXES, LABELS)]
    )
    candidates = {tuple(box.tolist()) for box in torch.cat([proposals, BOXES])}
    kinds = {"object": 0, "hard": 0}
    for region, row in zip(regions, index.tolist(), strict=True):
        assert tuple(region.tolist()) in candidates
        best = [overlap(region, box) for box in BOXES]
        assert row == (best.index(max(best)) if max(best) >= 0.5 else -1)
        assert max(best) >= 0.1
        kinds["object" if row >= 0 else "hard"] += 1
    assert kinds == {"object": 16, "hard": 48}
    everywhere = [max(overlap(box, each) for each in BOXES) for box in proposals]
    assert sum(value < 0.1 for value in everywhere) > 20  # there were easy ones to leave out


def test_the_loss_is_that_of_the_paper_region_by_region(model) -> None:
    """Equations 1 to 3, with the targets of R-CNN's appendix C times 10 and 5, over the number of regions."""
    images, targets = given(around(BOXES, 60), around(BOXES, 60, seed=1)), [Targets(BOXES, LABELS), Targets.empty()]
    raw = model.network(*network_inputs(model, images))
    losses = model.loss(raw, targets)
    assert set(losses) == {"classification", "box"}
    regions, index = model.sample_regions(raw, targets)
    rows = [(image, box) for image, boxes in enumerate(regions) for box in boxes]
    with torch.no_grad():
        numbered = torch.stack([torch.tensor([image, *box.tolist()]) for image, box in rows])
        logits, deltas = model.second_stage(raw.features, numbered)
    classification = box_loss = 0.0
    for (image, box), learned, said, moved in zip(rows, torch.cat(index).tolist(), logits, deltas, strict=True):
        label = 3 if learned < 0 else int(targets[image].labels[learned])
        classification -= float(said.double().log_softmax(0)[label])
        if learned < 0:
            continue
        x0, y0, x1, y1 = targets[image].boxes[learned].double()
        width, height = box[2] - box[0], box[3] - box[1]
        goal = torch.stack(
            [
                10 * ((x0 + x1) / 2 - (box[0] + box[2]) / 2) / width,
                10 * ((y0 + y1) / 2 - (box[1] + box[3]) / 2) / height,
                5 * ((x1 - x0) / width).log(),
                5 * ((y1 - y0) / height).log(),
            ]
        )
        for difference in (moved[label] - goal).abs().tolist():
            box_loss += 0.5 * difference**2 if difference < 1 else difference - 0.5
    assert box_loss > 1
    assert float(losses["classification"]) == pytest.approx(classification / len(rows), rel=1e-5)
    assert float(losses["box"]) == pytest.approx(box_loss / len(rows), rel=1e-5)


def test_it_is_faster_rcnn_told_where_to_look(model) -> None:
    """The proposals of a Faster R-CNN, given to a Fast R-CNN with its weights, give its detections."""
    torch.manual_seed(0)
    faster = create("faster_rcnn_resnet18_fpn", **SMALL).eval()
    nn.init.normal_(faster.box_predictor.logits.weight, std=0.1)
    fast = create("fast_rcnn_resnet18_fpn", **SMALL).eval()
    own = {name: value for name, value in faster.state_dict().items() if not name.startswith("proposer.")}
    assert len(own) < len(faster.state_dict())
    fast.load_state_dict(own)
    images = given(torch.zeros(0, 4), torch.zeros(0, 4))
    images.sizes_hw[1] = (100, 90)
    with torch.no_grad():
        boxes, scores, count = faster.proposer.propose(
            faster.network(images.pixels).proposed, torch.tensor(images.sizes_hw)
        )
        told = Images(images.pixels, images.sizes_hw, padded_proposals([b[:n] for b, n in zip(boxes, count)]))
        for expected, found in zip(faster(images), fast(told), strict=True):
            assert len(found) == len(expected) > 20
            np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3, rtol=0)
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5, rtol=0)
    assert (scores.diff() <= 0).all() and (scores[0, : int(count[0])] > 0).all()


def test_proposals_are_cut_off_at_the_picture_and_padding_is_none() -> None:
    proposals = torch.tensor([[[0.0, 0, 0, 0], [10, 10, 300, 40], [120, 5, 150, 20], [2, 3, 9, 8]]])
    boxes, scores, count = GivenProposals().propose(proposals, torch.tensor([[30, 100]]))
    assert count.tolist() == [2] and scores.tolist() == [[1, 1, 0, 0]]
    assert boxes[0, :2].tolist() == [[10, 10, 100, 30], [2, 3, 9, 8]]  # the third is outside, the first has no area


def test_a_picture_without_proposals_has_no_detections_and_learns_from_its_objects(model) -> None:
    images = given(torch.zeros(0, 4), around(BOXES, 30))
    assert images.proposals.shape == (2, 30, 4)
    nothing, something = model(images)
    assert len(nothing) == 0 and len(something) > 0
    alone = Images(images.pixels[:1], images.sizes_hw[:1], padded_proposals([torch.zeros(0, 4)]))
    assert alone.proposals.shape == (1, 1, 4) and len(model(alone)[0]) == 0
    for targets in (Targets(BOXES, LABELS), Targets.empty()):
        losses = model(alone, [targets])
        assert all(value.isfinite() for value in losses.values())
        assert bool(losses["box"] > 0) == (len(targets) > 0)  # the objects themselves are among the regions


@pytest.mark.parametrize("pool", ["pool", "align"])
def test_on_vgg16_it_is_the_form_of_the_paper(pool: str) -> None:
    """Section 2.1 and 2.2: one map at stride 16, of whose cells the largest counts; or RoIAlign."""
    torch.manual_seed(0)
    model = create("fast_rcnn_vgg16", num_classes=3, head_width=8, pool=pool).eval()
    assert (model.sampled, model.positive_fraction, model.negative_iou, model.beta) == (64, 0.25, (0.1, 0.5), 1.0)
    raw = model.network(*network_inputs(model, given(BOXES)))
    (features,) = raw.features
    assert features.shape == (1, 512, 8, 10) and raw.proposed.tolist() == [BOXES.tolist()]
    regions = torch.cat([torch.zeros(2, 1), BOXES], dim=1)
    if pool == "pool":
        expected = torchvision.ops.roi_pool(features, regions, 7, 1 / 16)
    else:
        expected = torchvision.ops.roi_align(features, regions, 7, 1 / 16, 2, True)
    torch.testing.assert_close(model.regions_of(raw.features, regions, 7), expected, atol=1e-5, rtol=1e-5)
    losses = model.loss(raw, [Targets(BOXES, LABELS)])
    assert set(losses) == {"classification", "box"} and all(value > 0 for value in losses.values())
    with pytest.raises(UsageError, match="unknown pool 'mean'; known: align, align_max, warp, warp_max, pool"):
        create("fast_rcnn_vgg16", pool="mean")


def test_without_proposals_it_says_what_it_needs(model) -> None:
    with pytest.raises(UsageError, match=r"fast_rcnn_resnet18_fpn proposes no regions itself.*--proposals-file"):
        model(Images(torch.rand(1, 3, 64, 64), [(64, 64)]))
    with pytest.raises(
        UsageError, match=r"Images.proposals must be a float32 tensor \[1, P, 4\].*got.*\[0, 4\]|P above"
    ):
        Images(torch.rand(1, 3, 64, 64), [(64, 64)], torch.zeros(0, 4))
    faster = create("faster_rcnn_resnet18_fpn", **SMALL)
    assert faster.needs_proposals is False and model.needs_proposals is True
    assert len(network_inputs(faster, given(BOXES))) == 1  # one that proposes itself leaves them alone
