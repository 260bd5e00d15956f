"""FoveaBox: which cell learns which box, losses and decoding, against slow forms; its aligned head; parameters."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms

from aweigh.errors import UsageError
from aweigh.inference.assignment import DetectorRule
from aweigh.inspect.coverage import Coverage
from aweigh.models import create
from aweigh.models.foveabox import (
    AlignedConv2d,
    FoveaBox,
    FoveaBoxOutput,
    assign,
    candidates,
    decode,
    encode,
    level_ranges,
)
from aweigh.structures import Targets

STRIDES = (8, 16, 32, 64, 128)
# The authors' configuration: what distances are divided by, and which square roots of areas belong to each level.
UNITS = (16, 32, 64, 128, 256)
RANGES = [(1, 64), (32, 128), (64, 256), (128, 512), (256, 2048)]


@pytest.fixture(scope="module")
def model() -> FoveaBox:
    """Not to be changed."""
    torch.manual_seed(0)
    return create("foveabox_resnet18_fpn", num_classes=3, channels=8, convs=1)


def crowded(count: int, size: int = 256) -> Targets:
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * (size - 2)
    sides = 1 + torch.rand(count, 2, generator=generator) ** 3 * size
    boxes = torch.cat([corner, (corner + sides).clamp(max=size)], dim=1)
    ignore = torch.arange(count) % 9 == 4
    return Targets(boxes, torch.randint(0, 3, (count,), generator=generator), ignore=ignore)


def outputs(images: int, size: int = 256, *, seed: int = 0) -> FoveaBoxOutput:
    generator = torch.Generator().manual_seed(seed)
    logits, distances, points = [], [], []
    for stride in STRIDES:
        side = size // stride
        logits.append(torch.randn(images, side * side, 3, generator=generator) - 2)
        distances.append(torch.randn(images, side * side, 4, generator=generator))
        y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
        points.append(torch.stack([x, y], dim=-1).reshape(-1, 2) * stride)
    return FoveaBoxOutput(logits, distances, points)


def slow_assignment(targets: Targets, size: int = 256) -> list[int]:
    """Box by box from the largest to the smallest, each over the cells of its fovea, as whole rows and columns."""
    found = []
    for stride, (low, high) in zip(STRIDES, RANGES, strict=True):
        cells = [[-1] * (size // stride) for _ in range(size // stride)]
        for index, (x0, y0, x1, y1) in enumerate(targets.boxes.tolist()):
            if targets.ignore[index]:
                for row in range(size // stride):
                    for column in range(size // stride):
                        x, y = (column + 0.5) * stride, (row + 0.5) * stride
                        if x0 < x < x1 and y0 < y < y1:
                            cells[row][column] = -2
        areas = {i: (b[2] - b[0]) * (b[3] - b[1]) for i, b in enumerate(targets.boxes.tolist())}
        for index in sorted(areas, key=lambda i: -areas[i]):
            if targets.ignore[index] or not low <= math.sqrt(areas[index]) <= high:
                continue
            x0, y0, x1, y1 = (value / stride for value in targets.boxes[index].tolist())
            half_width, half_height = (x1 - x0) / 2, (y1 - y0) / 2
            left, right = math.ceil(x0 + 0.6 * half_width - 0.5), math.floor(x0 + 1.4 * half_width - 0.5)
            top, bottom = math.ceil(y0 + 0.6 * half_height - 0.5), math.floor(y0 + 1.4 * half_height - 0.5)
            for row in range(max(0, top), min(bottom, size // stride - 1) + 1):
                for column in range(max(0, left), min(right, size // stride - 1) + 1):
                    cells[row][column] = index
        found += [index for row in cells for index in row]
    return found


def test_the_ranges_are_the_authors() -> None:
    assert level_ranges(STRIDES, 2.0) == RANGES
    assert level_ranges(STRIDES, 1.0)[1] == (64, 64)


@pytest.mark.parametrize("count", [0, 1, 40])
@pytest.mark.parametrize("byte_budget", [1, 10_000, 2**26])
def test_assignment_is_that_of_a_slow_form(model: FoveaBox, count: int, byte_budget: int) -> None:
    points, targets = outputs(1).points, crowded(count)
    portions = partial(candidates, level_ranges=RANGES, sigma=0.4, byte_budget=byte_budget)
    matched = assign(points, targets, candidates=portions)
    assert matched.tolist() == slow_assignment(targets)
    assert torch.equal(matched, model.assign(points, targets))
    assert count < 40 or len(matched.unique()) > 15


def test_its_reach_can_be_measured(model: FoveaBox) -> None:
    boxes = np.array([[8, 8, 104, 104], [200, 200, 202, 202]], np.float32)  # the second lies between all points
    rule = DetectorRule(model.strides, model.assign, model.candidates)
    found = Coverage.of(rule.assign((256, 256), boxes), np.array([0, 1]))
    assert (found.boxes, found.found, found.ambiguous) == (2, 1, 0)
    assert found.positives == 3 * 3 + 1  # 96 px belong to P4 and P5, whose middles within 19.2 of 56 are 40, 56, 72; 48


def slow_loss(raw: FoveaBoxOutput, targets: list[Targets]) -> dict[str, float]:
    """Point by point, in float64."""
    classification = box = 0.0
    positives = 0
    for image, target in enumerate(targets):
        matched = iter(slow_assignment(target))
        for level, unit in enumerate(UNITS):
            for at, (x, y) in enumerate(raw.points[level].tolist()):
                index = next(matched)
                label = int(target.labels[index]) if index >= 0 else -1
                for c in range(3):
                    p = float(raw.logits[level][image, at, c].double().sigmoid())
                    if c == label:
                        classification -= 0.4 * (1 - p) ** 1.5 * math.log(p)
                    elif index != -2:
                        classification -= 0.6 * p**1.5 * math.log(1 - p)
                if index >= 0:
                    positives += 1
                    x0, y0, x1, y1 = target.boxes[index].tolist()
                    for value, said in zip((x - x0, y - y0, x1 - x, y1 - y), raw.distances[level][image, at].tolist()):
                        difference = abs(math.log(min(max(value / unit, 1 / 16), 16)) - said)
                        box += 0.5 * difference**2 / 0.11 if difference < 0.11 else difference - 0.055
    return {"classification": classification / (positives + len(targets)), "box": box / max(1, positives)}


@pytest.mark.parametrize("counts", [(0, 0), (1, 30)])
def test_losses_are_those_of_a_slow_form(model: FoveaBox, counts: tuple[int, int]) -> None:
    raw, targets = outputs(2), [crowded(count) for count in counts]
    losses = {name: float(value) for name, value in model.loss(raw, targets).items()}
    assert losses == pytest.approx(slow_loss(raw, targets), rel=1e-5)


def slow_decoding(raw: FoveaBoxOutput, size_hw: tuple[int, int]) -> list[tuple[float, int, list[float]]]:
    """Every pair of a cell and a class above the threshold, and suppression within each class."""
    found = []
    for level, unit in enumerate(UNITS):
        for at, (x, y) in enumerate(raw.points[level].tolist()):
            left, top, right, bottom = (unit * math.exp(value) for value in raw.distances[level][0, at].tolist())
            ends = [x - left, y - top, x + right, y + bottom]
            box = [min(max(0.0, end), limit) for end, limit in zip(ends, [size_hw[1], size_hw[0]] * 2, strict=True)]
            for c in range(3):
                score = float(raw.logits[level][0, at, c].sigmoid())
                if score > 0.05:
                    found.append((score, c, box))
    kept = []
    for c in range(3):
        own = [entry for entry in found if entry[1] == c]
        index = nms(torch.tensor([entry[2] for entry in own]), torch.tensor([entry[0] for entry in own]), 0.5)
        kept += [own[i] for i in index.tolist()]
    return sorted(kept, key=lambda entry: -entry[0])[:100]


def test_decoding_is_that_of_a_slow_form(model: FoveaBox) -> None:
    raw = outputs(1, 128, seed=2)
    (found,) = model.decode(raw, [(128, 120)])
    expected = slow_decoding(raw, (128, 120))
    assert len(found) == len(expected) == 100
    for score, label, box, (s, c, b) in zip(found.scores, found.labels, found.boxes, expected, strict=True):
        assert float(score) == pytest.approx(s) and int(label) == c and box.tolist() == pytest.approx(b, abs=1e-3)


def test_what_is_learned_perfectly_is_found_exactly(model: FoveaBox) -> None:
    boxes = torch.tensor([[2.0, 3, 30, 20], [40, 30, 120, 126], [0, 0, 250, 256]])
    targets = Targets(boxes, torch.tensor([0, 1, 2]))
    raw = outputs(1)
    matched = model.assign(raw.points, targets)
    units = torch.cat([torch.full((len(level), 1), unit) for level, unit in zip(raw.points, UNITS, strict=True)])
    own, points = targets.boxes[matched.clamp(min=0)], torch.cat(raw.points)
    distances = torch.cat([points - own[:, :2], own[:, 2:] - points], dim=1) / units
    logits = torch.full((len(points), 3), -9.0)
    logits[matched >= 0, targets.labels[matched[matched >= 0]]] = 9.0
    sizes = [len(level) for level in raw.points]
    logits, distances = (list(part[None].split(sizes, dim=1)) for part in (logits, distances.clamp(min=1e-3).log()))
    (found,) = model.decode(FoveaBoxOutput(logits, distances, raw.points), [(256, 256)])
    found = found[found.labels.argsort()]
    assert found.labels.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-3, rtol=0)


# Networks


def test_an_aligned_convolution_reads_where_the_distances_say() -> None:
    """With distances of one unit an offset is the sum of its four weights: each group of channels moves by its own."""
    layer = AlignedConv2d(8)
    moves = [(0, 0), (1, 0), (0, -1), (-2, 1)]  # rows, columns
    with torch.no_grad():
        layer.offsets.weight.copy_(torch.tensor(moves).float().repeat_interleave(9, 0).reshape(72, 1, 1, 1) / 4)
        layer.conv.weight.normal_()
        x = torch.randn(1, 8, 9, 9, generator=torch.Generator().manual_seed(0))
        got = layer(x, torch.zeros(1, 4, 9, 9))
        moved = [x[:, 2 * g : 2 * g + 2].roll((-row, -column), (2, 3)) for g, (row, column) in enumerate(moves)]
        expected = F.conv2d(torch.cat(moved, dim=1), layer.conv.weight, padding=1).relu()
    torch.testing.assert_close(got[..., 3:6, 3:6], expected[..., 3:6, 3:6], atol=1e-5, rtol=1e-4)


def convolution(kernel: int, inputs: int, outputs: int, *, bias: bool = True) -> int:
    return kernel**2 * inputs * outputs + (outputs if bias else 0)


# By the paper's figures: ResNet-50 without its last layer, five levels of 256 channels, and the two towers.
BODY_AND_NECK = (
    25_557_032
    - (2048 * 1000 + 1000)
    + sum(convolution(1, width, 256) + convolution(3, 256, 256) for width in (512, 1024, 2048))
    + convolution(3, 2048, 256)
    + convolution(3, 256, 256)
)
PLAIN = 8 * convolution(3, 256, 256) + convolution(3, 256, 80) + convolution(3, 256, 4)
ALIGNED = (
    4 * (convolution(3, 256, 256, bias=False) + 2 * 256)
    + convolution(3, 256, 4)
    + convolution(1, 4, 72, bias=False)
    + convolution(3, 256, 256, bias=False)
    + convolution(3, 256, 1024, bias=False)
    + convolution(1, 1024, 1024, bias=False)
    + 4 * 1024
    + convolution(3, 1024, 80)
)


@pytest.mark.parametrize(("form", "head"), [({}, PLAIN), ({"align": True, "head_norm": "gn"}, ALIGNED)])
def test_parameters_are_as_many_as_the_paper_says(form: dict[str, Any], head: int) -> None:
    deeper = 44_549_160 - 25_557_032  # ResNet-101 over ResNet-50
    for name, more in (("foveabox_resnet50_fpn", 0), ("foveabox_resnet101_fpn", deeper)):
        with torch.device("meta"):
            model = create(name, **form)
        assert sum(value.numel() for value in model.parameters()) == BODY_AND_NECK + more + head


@pytest.mark.parametrize("align", [False, True])
def test_neck_and_head_learn_a_picture_by_heart(align: bool) -> None:
    torch.manual_seed(0)
    model = create("foveabox_resnet18_fpn", num_classes=3, channels=32, convs=1, head_norm="gn", align=align).train()
    image = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0)) * 0.2
    image[0, 8:56, 16:80], image[2, 72:120, 80:112] = 1.0, 1.0
    target = Targets(torch.tensor([[16.0, 8, 80, 56], [80, 72, 112, 120]]), torch.tensor([1, 2]))
    with torch.no_grad():
        features, points = model.backbone(image[None]), model.network(image[None]).points
    learned = [*model.neck.parameters(), *model.head.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=4e-3, weight_decay=0)
    for step in range(80):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / 80)
        optimizer.zero_grad()
        raw = FoveaBoxOutput(*model.head(model.neck(features)), points)
        sum(model.loss(raw, [target]).values()).backward()
        optimizer.step()
    (found,) = model.decode(FoveaBoxOutput(*model.head(model.neck(features)), points), [(128, 128)])
    best = found[:2][found.labels[:2].argsort()]
    assert best.labels.tolist() == [1, 2] and np.abs(best.boxes - target.boxes.numpy()).max() < 4
    assert best.scores.min() > 0.5 and found.scores[2:3].sum() < 0.4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sigma": 0.0}, "sigma = 0.0: expected a number above 0 up to 1"),
        ({"eta": 0.5}, "eta = 0.5: expected a number 1 or more"),
        ({"align": True, "channels": 6}, "align needs channels that 4 divides, got 6"),
        ({"sigam": 1}, "there is no option 'sigam'|unexpected"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        create("foveabox_resnet18_fpn", num_classes=3, convs=1, **{"channels": 8, **arguments})


def test_distances_are_learned_in_units_and_between_their_bounds() -> None:
    values = torch.tensor([[8.0, 8.0]]), torch.tensor([[0.0, 4.0, 1000.0, 8.5]])
    goals: Tensor = encode(*values, 16.0)
    torch.testing.assert_close(goals.exp() * 16, torch.tensor([[8.0, 4.0, 256.0, 1.0]]))
    torch.testing.assert_close(decode(values[0], goals, 16.0), torch.tensor([[0.0, 4.0, 264.0, 9.0]]))
