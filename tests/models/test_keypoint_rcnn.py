"""Keypoint R-CNN's own rules: which keypoints teach what, any number of them, objects without any."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aweigh.classes import KeypointSet
from aweigh.errors import UsageError
from aweigh.models import create
from aweigh.models.keypoint_rcnn import PERSON, KeypointBranch
from aweigh.structures import Images, Targets

CHEAP = {"channels": 16, "box_size": 3, "keypoint_convs": 1, "keypoint_width": 8, "max_detections": 10}
SIZE = 56


def keypoint_set(count: int) -> KeypointSet:
    return KeypointSet(tuple(f"point {number}" for number in range(count)))


def built(count: int, **options: object) -> nn.Module:
    torch.manual_seed(0)
    keypoints = keypoint_set(count).to_dict()
    return create("keypoint_rcnn_resnet18_fpn", keypoints=keypoints, backbone_norm="frozen_bn", **CHEAP, **options)


@torch.no_grad()
def test_masks_and_keypoints_in_one_are_those_of_the_two_detectors_with_its_weights() -> None:
    """Each branch as it is alone, in what is found and in every loss."""
    torch.manual_seed(0)
    few = {"sampled": 16, "train_proposals": [50, 50], "test_proposals": [50, 50], "backbone_norm": "frozen_bn"}
    keypoints = {"keypoints": keypoint_set(3).to_dict(), "num_classes": 2, **few, **CHEAP}
    both = create("mask_keypoint_rcnn_resnet18_fpn", masks="agnostic", **keypoints).eval()
    without = {name: value for name, value in keypoints.items() if not name.startswith("keypoint")}
    of_masks = create("mask_rcnn_resnet18_fpn", masks="agnostic", **without).eval()
    of_keypoints = create("keypoint_rcnn_resnet18_fpn", **keypoints).eval()
    for alone, left_out in ((of_masks, "branches.keypoints."), (of_keypoints, "branches.masks.")):
        alone.load_state_dict({key: x for key, x in both.state_dict().items() if not key.startswith(left_out)})
    assert both.extras == ("masks", "keypoints") and both.keypoint_set == of_keypoints.keypoint_set
    generator = torch.Generator().manual_seed(1)
    images = Images.stack([torch.rand(3, 64, 96, generator=generator) for _ in range(2)])
    boxes = torch.tensor([[4.0, 6, 40, 50], [30, 10, 90, 60]])
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    masks[0, 10:40, 8:30], masks[1, 12:50, 40:80] = True, True
    places = boxes[:, None, :2] + torch.rand(2, 3, 2, generator=generator) * (boxes[:, None, 2:] - boxes[:, None, :2])
    points = torch.cat([places, torch.full((2, 3, 1), 2.0)], dim=2)
    target = Targets(boxes, torch.tensor([0, 1]), masks=masks, keypoints=points)
    losses = both(images, [target, Targets.empty()])
    assert losses["masks"] > 0 and losses["keypoints"] > 0
    expected = of_masks(images, [target, Targets.empty()]) | of_keypoints(images, [target, Targets.empty()])
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    for found, with_masks, with_keypoints in zip(
        *(model(images) for model in (both, of_masks, of_keypoints)), strict=True
    ):
        assert len(found) > 0
        np.testing.assert_array_equal(found.boxes, with_masks.boxes)
        np.testing.assert_allclose(found.masks, with_masks.masks, atol=1e-6)
        np.testing.assert_allclose(found.keypoints, with_keypoints.keypoints, atol=1e-4)


def slow_loss(said: Tensor, regions: list[Tensor], index: list[Tensor], targets: list[Targets]) -> float:
    """Point by point, in double precision: minus the logarithm of the share of the cell it lies in."""
    number, terms = 0, []
    for boxes, rows, target in zip(regions, index, targets, strict=True):
        for (x0, y0, x1, y1), row in zip(boxes.double().tolist(), rows.tolist(), strict=True):
            for k, (x, y, visible) in enumerate(target.keypoints[row].double().tolist()):
                if visible > 0 and x0 <= x <= x1 and y0 <= y <= y1:
                    right = min(int((x - x0) / (x1 - x0) * SIZE), SIZE - 1)
                    down = min(int((y - y0) / (y1 - y0) * SIZE), SIZE - 1)
                    heights = said[number, k].double()
                    terms.append(float(heights.exp().sum().log() - heights[down, right]))
            number += 1
    return sum(terms) / max(1, len(terms))


# Of one object with its box at (8, 16) to (64, 128), whose cells are 1 by 2 pixels.
INSIDE, HIDDEN, UNLABELLED = (20.3, 50.7, 2.0), (41.5, 100.1, 1.0), (30.0, 40.0, 0.0)
CORNER, END, RIGHT, ABOVE = (8.0, 16.0, 2.0), (64.0, 128.0, 2.0), (64.0, 71.0, 1.0), (30.0, 15.9, 2.0)
CASES = {
    "in sight and hidden": [INSIDE, HIDDEN, UNLABELLED],
    "on the border": [CORNER, END, RIGHT],
    "outside": [ABOVE, (64.01, 71.0, 2.0), INSIDE],
    "none that teaches": [ABOVE, UNLABELLED, (0.0, 0.0, 0.0)],
}


@pytest.mark.parametrize("case", list(CASES))
def test_the_loss_is_that_of_a_slow_computation(case: str) -> None:
    torch.manual_seed(0)
    branch = KeypointBranch(4, keypoint_set(3), convs=1, width=4)
    boxes = torch.tensor([[8.0, 16, 64, 128], [70, 20, 90, 44]])
    others = [(75.0, 30.0, 2.0), (89.9, 43.9, 1.0), (0.0, 0.0, 0.0)]
    targets = [
        Targets(boxes, torch.tensor([0, 0]), keypoints=torch.tensor([CASES[case], others])),
        Targets.empty(),
        Targets(boxes[:1], torch.tensor([0]), keypoints=torch.tensor([CASES[case]])),
    ]
    rows = [torch.tensor([0, 0, 1]), torch.zeros(0, dtype=torch.int64), torch.tensor([0])]
    regions = [torch.tensor([[8.0, 16, 64, 128], [10, 20, 60, 140], [69, 21, 91, 44]]), torch.zeros(0, 4), boxes[:1]]
    said = torch.randn(4, 3, SIZE, SIZE, requires_grad=True)
    loss = branch.loss(said, list(zip(regions, rows, targets, strict=True)))
    assert loss.item() == pytest.approx(slow_loss(said.detach(), regions, rows, targets), abs=1e-5)
    loss.backward()
    taught = said.grad.abs().sum(dim=(2, 3)) > 0  # [R, K]
    expected = {"in sight and hidden": [1, 1, 0], "on the border": [1, 1, 1], "outside": [0, 0, 1]}.get(case, [0, 0, 0])
    assert taught[0].int().tolist() == taught[3].int().tolist() == expected
    assert taught[2].int().tolist() == [1, 1, 0]


def test_a_map_that_is_sure_of_the_right_cells_has_no_loss() -> None:
    branch = KeypointBranch(4, keypoint_set(3), convs=1, width=4)
    target = Targets(
        torch.tensor([[8.0, 16, 64, 128]]), torch.tensor([0]), keypoints=torch.tensor([CASES["on the border"]])
    )
    said = torch.zeros(1, 3, SIZE, SIZE)
    learned = [(target.boxes, torch.tensor([0]), target)]
    assert float(branch.loss(said, learned)) == pytest.approx(math.log(SIZE**2), rel=1e-5)
    for keypoint, (row, column) in enumerate([(0, 0), (55, 55), (27, 55)]):
        said[0, keypoint, row, column] = 50
    assert float(branch.loss(said, learned)) < 1e-6
    found = branch.decode(said, target.boxes, target.labels)[0]
    assert ((found[:, :2] - target.keypoints[0, :, :2]).abs() <= torch.tensor([1.0, 2.0])).all()  # a cell


@pytest.mark.parametrize("count", [1, 5, 21])
def test_any_number_of_keypoints(count: int) -> None:
    model = built(count)
    images = Images.stack([torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0))])
    places = torch.rand(2, count, 2, generator=torch.Generator().manual_seed(1)) * 40 + 20
    boxes = torch.tensor([[10.0, 10, 70, 70], [20, 20, 60, 60]])
    targets = Targets(boxes, torch.tensor([0, 0]), keypoints=torch.cat([places, torch.ones(2, count, 1)], dim=2))
    losses = model(images, [targets])
    sum(losses.values()).backward()
    assert float(losses["keypoints"].detach()) == pytest.approx(math.log(SIZE**2), rel=0.2)  # knows nothing yet
    assert model.branches["keypoints"].head.deconvolution.weight.grad.abs().sum(dim=(0, 2, 3)).gt(0).all()
    model.score_threshold = 0.0
    (found,) = model.eval()(images)
    assert found.keypoints.shape == (10, count, 3) and found.keypoint_set == keypoint_set(count)
    assert model.extras == ("keypoints",) and model.classes == PERSON
    low, high = found.boxes[:, None, :2], found.boxes[:, None, 2:]
    assert ((found.keypoints[..., :2] >= low) & (found.keypoints[..., :2] <= np.maximum(high, low + 1))).all()


@pytest.mark.parametrize("kind", ["no object", "nothing labelled", "an ignored object"])
def test_without_labelled_keypoints_the_loss_is_zero_and_connected(kind: str) -> None:
    model = built(5)
    target = Targets.empty()
    if kind != "no object":
        target = Targets(
            torch.tensor([[10.0, 10, 70, 70]]),
            torch.tensor([0]),
            ignore=torch.tensor([kind == "an ignored object"]),
            keypoints=torch.zeros(1, 5, 3),
        )
    losses = model(Images.stack([torch.rand(3, 96, 128)] * 2), [target, Targets.empty()])
    assert losses["keypoints"] == 0
    losses["keypoints"].backward()
    gradients = [value.grad for value in model.branches["keypoints"].parameters()]
    assert all(gradient is not None and gradient.abs().max() == 0 for gradient in gradients)


@pytest.mark.parametrize("threshold", [0.0, 0.9999])
def test_detections_with_and_without_objects(threshold: float) -> None:
    model = built(5).eval()
    model.score_threshold = threshold
    found = model(Images.stack([torch.rand(3, 96, 128)] * 2))
    assert [each.keypoints.shape[0] for each in found] == [10 if threshold == 0 else 0] * 2


def test_objects_whose_keypoints_do_not_fit_are_named() -> None:
    model, images = built(5), Images.stack([torch.rand(3, 96, 128)] * 2)
    target = Targets(torch.tensor([[10.0, 10, 70, 70]]), torch.tensor([0]))
    with pytest.raises(UsageError, match=r"image 1 need keypoints \[N, 5, 3\], got none"):
        model(images, [Targets.empty(), target])
    target = Targets(target.boxes, target.labels, keypoints=torch.zeros(1, 17, 3))
    with pytest.raises(UsageError, match=r"image 0 need keypoints \[N, 5, 3\], got \[N, 17, 3\]"):
        model(images, [target, Targets.empty()])


def test_detectron2s_values_are_arguments() -> None:
    with torch.device("meta"):
        model = built(17, beta=0.5, rpn_beta=0.0, train_proposals=(2000, 1500))
        assert (model.beta, model.proposer.beta, model.proposer.train_proposals) == (0.5, 0.0, (2000, 1500))
        assert built(17, beta=0.5).proposer.beta == 0.5
