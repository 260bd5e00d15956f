"""RetinaNet's own rules: its assignments, what a network that knows the answer loses, hard examples, arguments."""

import math

import pytest
import torch
import torchvision
from torch import nn

from aweigh.errors import UsageError
from aweigh.models import create
from aweigh.models.retinanet import RetinaNetOutput, candidates
from aweigh.ops import boxes as box_ops
from aweigh.structures import Images, Targets

SMALL = {"num_classes": 4, "channels": 16, "convs": 1}
TARGETS = Targets(
    torch.tensor([[10.0, 12, 60, 70], [70, 20, 180, 120], [100, 90, 130, 118], [20, 30, 50, 60]]),
    torch.tensor([0, 2, 3, 1]),
    ignore=torch.tensor([False, False, False, True]),
)


@pytest.fixture(scope="module", params=["overlap", "adaptive"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return create("retinanet_shufflenet_v2_x1_0_fpn", assignment=request.param, **SMALL).eval()


def perfect(model: nn.Module, targets: Targets) -> tuple[RetinaNetOutput, torch.Tensor]:
    """Outputs made from the targets themselves, and which box each anchor learns."""
    with torch.no_grad():
        raw = model.network(torch.zeros(1, 3, 128, 192))
        matched = model._assign(raw, targets, torch.cat(raw.logits, 1)[0], torch.cat(raw.deltas, 1)[0])
    learns = matched >= 0
    logits = torch.full((len(matched), 4), -20.0)
    logits[learns, targets.labels[matched[learns]]] = 20.0
    deltas = box_ops.encode_deltas(torch.cat(raw.anchors), targets.boxes[matched.clamp(min=0)])
    sizes = [len(level) for level in raw.anchors]
    return RetinaNetOutput(list(logits[None].split(sizes, 1)), list(deltas[None].split(sizes, 1)), raw.anchors), matched


def test_a_network_that_knows_the_answer_finds_it_and_has_hardly_a_loss(model: nn.Module) -> None:
    raw, matched = perfect(model, TARGETS)
    losses = model.loss(raw, [TARGETS])
    assert losses["classification"] < 1e-6 and losses["box"] < 1e-5
    assert set(matched[matched >= 0].tolist()) == {0, 1, 2}  # the ignored one is nobody's
    (found,) = model.decode(raw, [(128, 192)])
    assert len(found) == 3
    overlap = box_ops.pairwise_iou(TARGETS.boxes[:3], torch.from_numpy(found.boxes))
    assert (overlap * (TARGETS.labels[:3, None] == torch.from_numpy(found.labels))).amax(dim=1).min() > 0.999


@pytest.mark.parametrize("kind", ["ignore", "uncertain"])
@pytest.mark.parametrize("assignment", ["overlap", "adaptive", "aligned"])
def test_the_index_is_that_among_all_boxes(assignment: str, kind: str) -> None:
    """One that is nobody's target stands first: the second box is still number one."""
    torch.manual_seed(0)
    model = create("retinanet_shufflenet_v2_x1_0_fpn", assignment=assignment, **SMALL)
    boxes = torch.tensor([[120.0, 8, 180, 60], [10, 12, 70, 70]])
    targets = Targets(boxes, torch.tensor([1, 2]), **{kind: torch.tensor([True, False])})
    with torch.no_grad():
        raw = model.network(torch.rand(1, 3, 128, 192))
        matched = model._assign(raw, targets, torch.cat(raw.logits, 1)[0], torch.cat(raw.deltas, 1)[0])
    anchors = torch.cat(raw.anchors)
    assert (matched == 1).any() and not (matched == 0).any()
    assert (box_ops.pairwise_iou(anchors[matched == 1], boxes[1:]) > 0).all()
    assert (matched == -2).any() == (kind == "ignore" or assignment == "overlap")


def test_hard_examples_take_the_place_of_the_focal_loss() -> None:
    torch.manual_seed(0)
    images = Images.stack([torch.rand(3, 128, 128)] * 2)
    targets = [Targets(torch.tensor([[10.0, 10, 80, 80]]), torch.tensor([1])), Targets.empty()]
    found = {}
    for count in (0, 8, 64):
        torch.manual_seed(0)
        model = create("retinanet_shufflenet_v2_x1_0_fpn", hard_examples=count, hard_ratio=3, **SMALL).eval()
        losses = model(images, targets)
        sum(losses.values()).backward()
        found[count] = float(losses["classification"].detach())
        with_gradient = sum(bool(value.grad.abs().max() > 0) for value in model.parameters() if value.grad is not None)
        assert with_gradient > 50
    # A mean over the hardest: near the cross-entropy of an object at the prior of 0.01, and easier with more of them.
    assert found[8] > found[64] > 0.01 and found[8] < math.log(100) + 1
    assert found[0] != found[8]


def test_alpha_and_gamma_are_those_of_the_focal_loss() -> None:
    images = Images.stack([torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))])
    target = Targets(torch.tensor([[10.0, 10, 80, 80]]), torch.tensor([1]))
    found = {}
    for alpha, gamma in ((0.25, 2.0), (0.5, 2.0), (0.25, 0.0)):
        torch.manual_seed(0)
        model = create("retinanet_shufflenet_v2_x1_0_fpn", alpha=alpha, gamma=gamma, **SMALL).eval()
        raw = model.network(images.pixels)
        found[alpha, gamma] = float(model.loss(raw, [target])["classification"].detach())
        logits = torch.cat(raw.logits, dim=1)[0]
        matched = model._assign(raw, target, logits, torch.cat(raw.deltas, dim=1)[0])
        goal = torch.zeros_like(logits)
        goal[matched == 0, 1] = 1
        agreement = torch.where(goal == 1, logits.sigmoid(), 1 - logits.sigmoid())
        weight = torch.where(goal == 1, alpha, 1 - alpha) * (1 - agreement) ** gamma
        expected = (-weight * agreement.log())[matched != -2].sum() / (matched == 0).sum()
        assert found[alpha, gamma] == pytest.approx(float(expected.detach()), rel=1e-4)
    assert len(set(found.values())) == 3


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UsageError, match="there is no option 'chanels'"):
        create("retinanet_resnet18_fpn", chanels=3)
    with pytest.raises(UsageError, match="unknown assignment 'ranges'; known: overlap, adaptive, aligned"):
        create("retinanet_shufflenet_v2_x1_0_fpn", assignment="ranges")


@pytest.mark.parametrize("low_quality", [None, 0.4, 0.0])
def test_the_assignment_of_anchors_is_that_of_training(low_quality: float | None) -> None:
    """From the middles of cells, as `aweigh data check` has them; of a detector without memory too."""
    options = {"num_classes": 3, "channels": 16, "convs": 1, "low_quality": low_quality}
    model = create("retinanet_shufflenet_v2_x1_0_fpn", **options)
    with torch.device("meta"):
        described = create("retinanet_shufflenet_v2_x1_0_fpn", **options)
    raw = model.network(torch.rand(1, 3, 128, 192))
    boxes = torch.tensor([[10.0, 12, 60, 70], [64, 8, 96, 40], [3, 100, 15, 104], [0, 0, 192, 128]])
    targets = Targets(boxes, torch.tensor([0, 1, 2, 0]), ignore=torch.tensor([False, False, False, True]))
    sizes = [(-(-128 // stride), -(-192 // stride)) for stride in model.strides]
    points = [
        torch.tensor([[(x + 0.5) * stride, (y + 0.5) * stride] for y in range(rows) for x in range(columns)])
        for stride, (rows, columns) in zip(model.strides, sizes, strict=True)
    ]
    trained = model._assign(raw, targets, raw.logits[0], raw.deltas[0])
    assert torch.equal(described.assign(points, targets), trained)
    assert (trained == 2).any() == (low_quality == 0.0)  # no anchor overlaps the flat one by much
    anchors = torch.cat(raw.anchors)
    could = torch.cat([mask for _, mask in described.candidates(points, boxes)])
    assert torch.equal(could, torchvision.ops.box_iou(anchors, boxes) >= 0.5) and could.any(dim=0)[0]
    portions = [mask for _, mask in candidates(points, boxes, byte_budget=9000, **described.candidates.keywords)]
    assert len(portions) > 3 and torch.equal(torch.cat(portions), could)


def test_what_is_not_assigned_by_overlap_of_the_strides_is_not_offered() -> None:
    for name in ("retinanet_resnet50_fpn_atss", "retinanet_resnet50_fpn_torchvision"):
        with torch.device("meta"):
            model = create(name)
        assert model.assign is None and model.candidates is None
