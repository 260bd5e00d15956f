"""FCOS lite: what its assignment, losses and decoding say on cases that can be worked out by hand; its size."""

import math

import numpy as np
import pytest
import torch

from aweigh.classes import Classes
from aweigh.errors import UsageError
from aweigh.models import create
from aweigh.models.fcos_lite import FCOSLite, FCOSLiteOutput, expectation
from aweigh.profiling.cost import count
from aweigh.structures import Images, Targets

CLASSES = Classes.from_names(["ship", "anchor", "buoy"])


@pytest.fixture(scope="module")
def model() -> FCOSLite:
    torch.manual_seed(0)
    detector: FCOSLite = create("fcos_shufflenet_v2_x0_5_lite", classes=CLASSES)
    return detector.eval()


def spread(distances: torch.Tensor, bins: int) -> torch.Tensor:
    """Logits `[..., K]` whose distribution lies on the two bins next to each distance."""
    lower = distances.floor().clamp(max=bins - 2).long()
    share = distances - lower
    logits = torch.full((*distances.shape, bins), -40.0)
    logits.scatter_(-1, lower[..., None], (1 - share).clamp(min=1e-12).log()[..., None])
    return logits.scatter_(-1, lower[..., None] + 1, share.clamp(min=1e-12).log()[..., None])


def said(model: FCOSLite, size: int, boxes: list[list[float]], labels: list[int]) -> FCOSLiteOutput:
    """The raw output of a network that knows the answer: the points that learn a box say it."""
    raw = model.network(torch.zeros(1, 3, size, size))
    logits, distances = torch.full_like(raw.logits, -9.0), torch.ones(*raw.logits.shape[:2], 4)
    levels = [raw.points[raw.strides[:, 0] == stride] for stride in model.strides]
    objects = Targets(torch.tensor(boxes), torch.tensor(labels))
    index = model.assign(levels, objects)  # [A]
    for n, label in enumerate(labels):
        learns = (index == n).nonzero().squeeze(1)
        assert len(learns)
        target = objects.boxes[n]
        sides = torch.cat([raw.points - target[:2], target[2:] - raw.points], dim=1) / raw.strides
        distances[0, learns] = sides[learns]
        logits[0, learns, label] = 4.0
    return FCOSLiteOutput(logits, spread(distances, model.head.bins), raw.points, raw.strides)


def test_expectation_undoes_spread() -> None:
    distances = torch.tensor([[0.0, 0.4, 3.5, 8.0]])
    torch.testing.assert_close(expectation(spread(distances, 9)), distances, atol=1e-5, rtol=1e-5)


def test_a_network_that_knows_the_answer_finds_it_and_has_hardly_a_loss(model: FCOSLite) -> None:
    boxes, labels = [[10.0, 12.0, 60.0, 50.0], [70.0, 40.0, 126.0, 120.0]], [2, 0]
    raw = said(model, 128, boxes, labels)
    (found,) = model.decode(raw, [(128, 128)])
    assert found.labels.tolist() == labels or found.labels.tolist() == labels[::-1]
    order = (-found.labels).argsort()
    np.testing.assert_allclose(found.boxes[order], boxes, atol=0.01, rtol=0)
    assert found.scores.tolist() == pytest.approx([math.sqrt(1 / (1 + math.exp(-4)))] * 2, abs=1e-4)

    right = model.loss(raw, [Targets(torch.tensor(boxes), torch.tensor(labels))])
    wrong = model.loss(raw, [Targets(torch.tensor(boxes), torch.tensor(labels[::-1]))])
    assert float(right["box"]) < 1e-3
    assert float(wrong["classification"]) > 20 * float(right["classification"])


def test_a_box_is_learned_on_the_level_of_its_size_and_the_goal_is_the_overlap(model: FCOSLite) -> None:
    raw = model.network(torch.zeros(1, 3, 256, 256))
    levels = [raw.points[raw.strides[:, 0] == stride] for stride in model.strides]
    box = torch.tensor([[40.0, 40.0, 200.0, 200.0]])  # largest distance 80 at its centre: stride 16, 64 to 128 px
    said = box.expand(len(raw.points), -1) + torch.tensor([0.0, 0.0, 160.0, 0.0])  # twice as wide: an IoU of one half
    labels, goals, matched = model._targets(levels, Targets(box, torch.tensor([2])), said)
    learns = labels >= 0
    assert raw.strides[learns].unique().tolist() == [16] and (labels[learns] == 2).all()
    assert (raw.points[learns] - 120).abs().max() < 1.5 * 16 and learns.sum() == 9
    torch.testing.assert_close(goals, learns * 0.5)
    assert torch.equal(matched, box.expand(9, -1))


@pytest.mark.parametrize(
    ("half", "stride"), [(63.0, 8), (65.0, 16), (127.0, 16), (129.0, 32), (255.0, 32), (257.0, 64), (600.0, 64)]
)
def test_the_levels_share_out_all_sizes(model: FCOSLite, half: float, stride: int) -> None:
    """Half a side is the distance at the centre; levels end at 64, 128 and 256 px (FCOS, section 3.2)."""
    levels = [torch.tensor([[640.0, 640.0]])] * 4
    box = torch.tensor([[640 - half, 640 - half, 640 + half, 640 + half]])
    index = model.assign(levels, Targets(box, torch.tensor([0])))
    assert [s for s, n in zip(model.strides, index.tolist(), strict=True) if n == 0] == [stride]


def test_what_is_ignored_or_uncertain_is_nobodys_and_no_mistake(model: FCOSLite) -> None:
    raw = said(model, 128, [[16.0, 16.0, 112.0, 112.0]], [1])
    nothing = model.loss(raw, [Targets.empty()])["classification"]
    box, label = torch.tensor([[16.0, 16.0, 112.0, 112.0]]), torch.tensor([1])
    for mark in ("ignore", "uncertain"):
        losses = model.loss(raw, [Targets(box, label, **{mark: torch.tensor([True])})])
        assert float(losses["classification"]) < 0.02 * float(nothing)
        assert float(losses["box"]) == 0 and float(losses["distribution"]) == 0
    known = torch.tensor([True, False, True])
    unlabelled = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), known=known)
    assert float(model.loss(raw, [unlabelled])["classification"]) < 0.02 * float(nothing)
    other = Targets(box, torch.tensor([0]), uncertain=torch.tensor([True]))  # a guess of another class excuses nothing
    torch.testing.assert_close(model.loss(raw, [other])["classification"], nothing, rtol=1e-3, atol=0)


def test_the_largest_distance_covers_an_input_of_416(model: FCOSLite) -> None:
    raw = model.network(torch.zeros(1, 3, 416, 416))
    whole = Targets(torch.tensor([[0.0, 0.0, 416.0, 416.0]]), torch.tensor([1]))
    losses = model.loss(raw, [whole])
    assert losses["box"].item() > 0  # somebody learns it


def test_labels_and_known_classes_of_other_data_are_refused(model: FCOSLite) -> None:
    images = Images.stack([torch.zeros(3, 64, 64)])
    box = torch.tensor([[4.0, 4.0, 40.0, 40.0]])
    with pytest.raises(UsageError, match="image 0 has label 3"):
        model(images, [Targets(box, torch.tensor([3]))])
    with pytest.raises(UsageError, match="image 0 says of 5 classes"):
        model(images, [Targets(box, torch.tensor([1]), known=torch.ones(5, dtype=torch.bool))])


def test_the_size_that_was_asked_for() -> None:
    """At most 1.4 million parameters and 1.6 GFLOPs at 416 px, with 80 classes."""
    with torch.device("meta"):
        detector = create("fcos_shufflenet_v2_x1_0_lite")
    cost = count(detector, (416, 416), run=lambda module, pixels: module.network(pixels)).total
    assert cost.parameters < 1.4e6 and cost.multiply_adds < 1.6e9
