"""CornerNet and CenterNet of triplets: what they learn and how they decode, against slow forms; their builders."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aweigh.classes import Classes
from aweigh.errors import AweighError, UsageError
from aweigh.heads.corners import CornerPool
from aweigh.models import DETECTORS, PUBLISHED, create
from aweigh.models.centernet_triplets import CascadeCornerPool, CenterPool, central_regions, score_triplets
from aweigh.models.cornernet import CornerNet
from aweigh.ops.heatmaps import UNKNOWN, gaussian_radius
from aweigh.structures import Images, Targets
from aweigh.weights.load import locate

LITE, TRIPLETS = "cornernet_shufflenet_v2_x0_5_lite", "centernet_triplets_shufflenet_v2_x0_5_lite"
KINDS = {LITE: ("top_left", "bottom_right"), TRIPLETS: ("top_left", "bottom_right", "center")}
BOTH = pytest.mark.parametrize("name", KINDS)


@pytest.fixture(scope="module")
def models() -> dict[str, CornerNet]:
    """Not to be changed."""
    torch.manual_seed(0)
    return {name: create(name, num_classes=3, channels=16) for name in KINDS}


def outputs(name: str, images: int, height: int, width: int, *, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    said: dict[str, Tensor] = {}
    for kind in KINDS[name]:
        said[f"{kind}_heatmap"] = torch.randn(images, 3, height, width, generator=generator) * 2 - 2
        said[f"{kind}_offset"] = torch.rand(images, 2, height, width, generator=generator)
        if kind != "center":
            said[f"{kind}_embedding"] = torch.randn(images, 1, height, width, generator=generator)
    return said


# What there is to learn


def test_goals_of_one_box_by_hand(models: dict[str, CornerNet]) -> None:
    # 30 x 18 px from (10, 21): corners (2.5, 5.25) and (10, 9.75), centre (6.25, 7.5) cells; radius of 5 x 8 cells:
    # 2.34 at an IoU of 0.3, 1.74 by the first code at 0.7.
    box = Targets(torch.tensor([[10.0, 21, 40, 39]]), torch.tensor([2]))
    goals = models[LITE].goals([Targets.empty(), box], (16, 24))
    assert goals.image.tolist() == [1]
    assert {kind: cell.tolist() for kind, cell in goals.cells.items()} == {
        "top_left": [5 * 24 + 2],
        "bottom_right": [9 * 24 + 10],
    }
    assert goals.offsets["top_left"].tolist() == [[0.5, 0.25]]
    assert goals.offsets["bottom_right"].tolist() == [[0.0, 0.75]]
    radius, shape = int(gaussian_radius(torch.tensor([5, 8]), kind="corrected", min_iou=0.3)), (2, 3, 16, 24)
    torch.testing.assert_close(goals.heatmaps["top_left"], drawn(shape, 1, 2, (2, 5), radius))
    torch.testing.assert_close(goals.heatmaps["bottom_right"], drawn(shape, 1, 2, (10, 9), radius))

    goals = models[TRIPLETS].goals([Targets.empty(), box], (16, 24))
    assert goals.cells["center"].tolist() == [7 * 24 + 6] and goals.offsets["center"].tolist() == [[0.25, 0.5]]
    torch.testing.assert_close(goals.heatmaps["center"], drawn(shape, 1, 2, (6, 7), 1, divisor=5))
    torch.testing.assert_close(goals.heatmaps["top_left"], drawn(shape, 1, 2, (2, 5), 1))


def drawn(shape: tuple[int, ...], image: int, label: int, at: tuple[int, int], radius: int, divisor: int = 6) -> Tensor:
    x, y = at
    heatmap = torch.zeros(shape)
    for row in range(max(0, y - radius), min(shape[2], y + radius + 1)):
        for column in range(max(0, x - radius), min(shape[3], x + radius + 1)):
            deviation = (2 * radius + 1) / divisor
            squared = (row - y) ** 2 + (column - x) ** 2
            heatmap[image, label, row, column] = math.exp(-squared / (2 * deviation**2))
    return heatmap


@pytest.mark.parametrize(
    ("box", "cells", "offsets"),
    [
        ([0.0, 0, 1, 1], (0, 0), ([0, 0], [0.25, 0.25])),  # one pixel, first and last of the map
        ([63.0, 31, 64, 32], (7 * 16 + 15, 7 * 16 + 15), ([0.75, 0.75], [1, 1])),
        ([-40.0, -8, 8, 8], (0, 2 * 16 + 2), ([0, 0], [0, 0])),  # what lies beyond the map does not count
        ([60.0, 20, 100, 28], (5 * 16 + 15, 7 * 16 + 15), ([0, 0], [1, 0])),
    ],
)
def test_boxes_at_the_border(
    models: dict[str, CornerNet], box: list[float], cells: tuple[int, int], offsets: tuple[list[float], list[float]]
) -> None:
    goals = models[LITE].goals([Targets(torch.tensor([box]), torch.tensor([0]))], (8, 16))
    for kind, cell, offset in zip(KINDS[LITE], cells, offsets, strict=True):
        assert goals.cells[kind].tolist() == [cell] and goals.offsets[kind].tolist() == [offset]
        assert goals.heatmaps[kind].flatten()[cell] == 1


def test_what_nobody_knows_is_marked_to_one_cell_beyond_its_edge(models: dict[str, CornerNet]) -> None:
    boxes = torch.tensor([[0.0, 0, 12, 12], [4, 4, 8, 8], [20, 20, 28, 28]])
    target = Targets(
        boxes,
        torch.tensor([0, 1, 2]),
        ignore=torch.tensor([True, False, False]),
        uncertain=torch.tensor([False, False, True]),
    )
    (heatmap,) = models[LITE].goals([target], (8, 8)).heatmaps["bottom_right"]
    marked = heatmap == UNKNOWN
    ignored, guessed = torch.zeros(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)
    ignored[:4, :4] = guessed[4:8, 4:8] = True
    assert torch.equal(marked[0], ignored) and torch.equal(marked[2], ignored | guessed)
    assert heatmap[1, 2, 2] == 1 and marked[1].sum() == 15 and (heatmap == 1).sum() == 1


# Losses


def slow_loss(name: str, stack: dict[str, Tensor], targets: list[Targets]) -> dict[str, float]:
    """Sections 3.2 and 3.3 and the authors' normalisers, object by object, in float64."""
    iou, formula = (0.3, "corrected") if name == LITE else (0.7, "official")
    images, classes, height, width = stack["top_left_heatmap"].shape
    said = {key: value.double() for key, value in stack.items()}
    found = dict.fromkeys(("heatmap", "pull", "push", "offset"), 0.0)
    tags: list[list[list[float]]] = [[] for _ in targets]
    count = sum(map(len, targets))
    for kind in KINDS[name]:
        goal = torch.zeros(images, classes, height, width, dtype=torch.float64)
        for image, target in enumerate(targets):
            for index, ((x0, y0, x1, y1), label) in enumerate(
                zip((target.boxes / 4).tolist(), target.labels.tolist(), strict=True)
            ):
                x, y = {"top_left": (x0, y0), "bottom_right": (x1, y1)}.get(kind, ((x0 + x1) / 2, (y0 + y1) / 2))
                column, row = min(int(x), width - 1), min(int(y), height - 1)
                size = torch.tensor([math.ceil(y1 - y0), math.ceil(x1 - x0)])
                radius = int(gaussian_radius(size, kind=formula, min_iou=iou))
                one = drawn(tuple(goal.shape), image, label, (column, row), radius, 5 if kind == "center" else 6)
                goal = torch.maximum(goal, one.double())
                for value, wanted in zip(
                    said[f"{kind}_offset"][image, :, row, column].tolist(), (x - column, y - row), strict=True
                ):
                    distance = abs(value - wanted)
                    found["offset"] += (0.5 * distance**2 if distance < 1 else distance - 0.5) / (count + 1e-4)
                if kind != "center":
                    if kind == "top_left":
                        tags[image].append([])
                    tags[image][index].append(float(said[f"{kind}_embedding"][image, 0, row, column]))
        p, positive = said[f"{kind}_heatmap"].sigmoid(), goal == 1
        loss = -((1 - p) ** 2 * p.log())[positive].sum() - ((1 - goal) ** 4 * p**2 * (1 - p).log())[~positive].sum()
        found["heatmap"] += float(loss) / max(1, int(positive.sum()))
    for of_image in tags:
        means = [sum(pair) / 2 for pair in of_image]
        n = len(means)
        for pair, mean in zip(of_image, means, strict=True):
            found["pull"] += 0.1 * sum((value - mean) ** 2 for value in pair) / n / images
        for j in range(n):
            for k in range(n):
                if j != k:
                    found["push"] += 0.1 * max(0.0, 1 - abs(means[j] - means[k])) / (n * (n - 1)) / images
    return found


def crowded(count: int, height: int, width: int) -> Targets:
    """Boxes of one pixel and of half the image."""
    generator = torch.Generator().manual_seed(count)
    corner = (torch.rand(count, 2, generator=generator) * torch.tensor([width - 2, height - 2])).round()
    sides = 1 + (torch.rand(count, 2, generator=generator) ** 4 * torch.tensor([width / 2, height / 2])).round()
    boxes = torch.cat([corner, torch.minimum(corner + sides, torch.tensor([float(width), height]))], dim=1)
    return Targets(boxes, torch.randint(0, 3, (count,), generator=generator))


@BOTH
@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (7, 30)])
def test_losses_are_those_of_a_slow_form(models: dict[str, CornerNet], name: str, counts: tuple[int, int]) -> None:
    stack, targets = outputs(name, 2, 20, 28), [crowded(count, 80, 112) for count in counts]
    got = {key: float(value) for key, value in models[name].loss([stack], targets).items()}
    assert got == pytest.approx(slow_loss(name, stack, targets), rel=1e-5, abs=1e-7)
    second = outputs(name, 2, 20, 28, seed=1)
    alone = models[name].loss([second], targets)
    for key, value in models[name].loss([stack, second], targets).items():  # stacks count alike
        assert float(value) == pytest.approx((got[key] + float(alone[key])) / 2, rel=1e-5, abs=1e-7)


# Decoding


def slow_points(stack: dict[str, Tensor], kind: str, size_hw: tuple[int, int], count: int) -> list[dict[str, Any]]:
    """The best cells that no neighbour exceeds; cells that begin beyond the image are no part of the map."""
    last = [side / 4 if kind == "bottom_right" and side % 4 == 0 else math.ceil(side / 4) - 1 for side in size_hw]
    heatmap = stack[f"{kind}_heatmap"][0, :, : int(last[0]) + 1, : int(last[1]) + 1]
    found = []
    for label, row, column in (heatmap > -math.inf).nonzero().tolist():
        value = heatmap[label, row, column]
        if (heatmap[label, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] <= value).all():
            dx, dy = stack[f"{kind}_offset"][0, :, row, column].tolist()
            point = {"score": float(value.double().sigmoid()), "label": label, "x": column + dx, "y": row + dy}
            if kind != "center":
                point["tag"] = float(stack[f"{kind}_embedding"][0, 0, row, column])
            found.append(point)
    return sorted(found, key=lambda point: -point["score"])[:count]


def overlap(one: list[float], other: list[float]) -> float:
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    both = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def slow_decoding(
    name: str, stack: dict[str, Tensor], size_hw: tuple[int, int], model: CornerNet
) -> list[tuple[float, int, list[float]]]:
    """Section 4.2, and section 3.2 of the triplets' paper, pair by pair, with soft suppression, of one image."""
    points = {kind: slow_points(stack, kind, size_hw, model.points_per_kind) for kind in KINDS[name]}
    limits = [size_hw[1], size_hw[0]] * 2
    pairs = []
    for start in points["top_left"]:
        for end in points["bottom_right"]:
            alike = start["label"] == end["label"] and abs(start["tag"] - end["tag"]) <= 0.5
            if alike and start["x"] < end["x"] and start["y"] < end["y"]:
                ends = [4 * value for value in (start["x"], start["y"], end["x"], end["y"])]
                box = [min(max(0.0, value), limit) for value, limit in zip(ends, limits, strict=True)]
                pairs.append([(start["score"] + end["score"]) / 2, start["label"], box])
    pairs = sorted(pairs, key=lambda pair: -pair[0])[: model.max_pairs]
    pairs = [pair for pair in pairs if pair[2][0] < pair[2][2] and pair[2][1] < pair[2][3]]
    if name == TRIPLETS:
        pairs = [pair for pair in pairs if with_center(pair, points["center"], size_hw)]
    found = []
    while pairs and len(found) < 100:
        best = max(pairs, key=lambda pair: pair[0])
        pairs.remove(best)
        found.append(tuple(best))
        for pair in pairs:
            if pair[1] == best[1]:
                pair[0] *= math.exp(-(overlap(best[2], pair[2]) ** 2) / 0.5)
        pairs = [pair for pair in pairs if pair[0] >= 1e-3]
    return found


def with_center(pair: list[Any], centers: list[dict[str, Any]], size_hw: tuple[int, int]) -> bool:
    score, label, (x0, y0, x1, y1) = pair
    n = 5 if (x1 - x0) * (y1 - y0) > 150**2 else 3
    margin_x, margin_y = ((n - 1) / 2 / n * side for side in (x1 - x0, y1 - y0))
    for center in centers:  # best first
        x, y = (min(max(0.0, 4 * center[axis]), limit) for axis, limit in (("x", size_hw[1]), ("y", size_hw[0])))
        if center["label"] == label and x0 + margin_x < x < x1 - margin_x and y0 + margin_y < y < y1 - margin_y:
            pair[0] = (2 * score + center["score"]) / 3
            return True
    return False


@BOTH
@pytest.mark.parametrize(("map_hw", "size_hw"), [((16, 24), (44, 90)), ((40, 48), (160, 187))])
def test_decoding_is_that_of_a_slow_form(
    models: dict[str, CornerNet], name: str, map_hw: tuple[int, int], size_hw: tuple[int, int]
) -> None:
    stack, nonsense = outputs(name, 1, *map_hw), outputs(name, 1, *map_hw, seed=1)  # the last stack alone predicts
    (found,) = models[name].decode([nonsense, stack], [size_hw])
    expected = slow_decoding(name, stack, size_hw, models[name])
    assert len(found) == len(expected) > 15
    for score, label, box, (s, c, b) in zip(found.scores, found.labels, found.boxes, expected, strict=True):
        assert float(score) == pytest.approx(s, rel=1e-4)
        assert int(label) == c and box.tolist() == pytest.approx(b, abs=1e-3)


@BOTH
def test_what_is_learned_perfectly_is_found_exactly(models: dict[str, CornerNet], name: str) -> None:
    boxes = torch.tensor([[0.0, 0, 3, 3], [10, 21, 40, 39], [40, 0, 88, 60], [5, 9, 83, 61], [92, 60, 96, 64]])
    target = Targets(boxes, torch.tensor([0, 1, 2, 0, 1]))
    goals = models[name].goals([target], (16, 24))
    raw = {key: torch.zeros_like(value) for key, value in outputs(name, 1, 16, 24).items()}
    for kind in KINDS[name]:
        raw[f"{kind}_heatmap"] = torch.logit(goals.heatmaps[kind] * 0.9 + 0.05)
        raw[f"{kind}_offset"].flatten(2)[0, :, goals.cells[kind]] = goals.offsets[kind].T
        if kind != "center":
            raw[f"{kind}_embedding"].flatten(2)[0, 0, goals.cells[kind]] = torch.arange(5.0) * 2
    (found,) = models[name].decode([raw], [(64, 96)])
    found = found[found.scores > 0.9]
    assert len(found) == 5
    order = [
        int((np.abs(found.boxes - box).max(axis=1) + (found.labels != label)).argmin())
        for box, label in zip(boxes.tolist(), target.labels.tolist(), strict=True)
    ]
    np.testing.assert_allclose(found.boxes[order], boxes, atol=1e-4, rtol=0)
    np.testing.assert_array_equal(found.labels[order], target.labels)


def test_pairs_need_like_embeddings_and_a_class(models: dict[str, CornerNet]) -> None:
    raw = {key: torch.full_like(value, -9.0) for key, value in outputs(LITE, 1, 16, 24).items()}
    for kind, cell in (("top_left", (3, 4)), ("bottom_right", (9, 12))):
        raw[f"{kind}_offset"].zero_()
        raw[f"{kind}_embedding"].zero_()
        raw[f"{kind}_heatmap"][0, 1][cell] = 3.0

    def sure() -> list[list[float]]:
        (found,) = models[LITE].decode([raw], [(64, 96)])
        return found.boxes[found.scores > 0.9].tolist()

    assert sure() == [[16.0, 12, 48, 36]]
    raw["top_left_embedding"].fill_(0.5)
    assert len(sure()) == 1
    raw["top_left_embedding"].fill_(-0.51)
    assert sure() == []
    raw["top_left_embedding"].zero_()
    raw["bottom_right_heatmap"] = raw["bottom_right_heatmap"].roll(1, dims=1)
    assert sure() == []


# Triplets


def test_central_regions_are_a_third_and_of_large_boxes_a_fifth() -> None:
    boxes = torch.tensor([[0.0, 30, 150, 180], [0, 30, 151, 180], [3, 6, 9, 12]])
    expected = torch.tensor([[50.0, 80, 100, 130], [60.4, 90, 90.6, 120], [5, 8, 7, 10]])
    torch.testing.assert_close(central_regions(boxes), expected)


def test_a_triplet_scores_the_mean_with_its_best_centre() -> None:
    boxes, labels = torch.tensor([[[0.0, 0, 30, 30]] * 4]), torch.tensor([[0, 1, 2, 0]])
    centers = torch.tensor([[[15.0, 15], [10, 15], [14, 16], [15, 15]]])  # the second lies on the region's edge
    center_scores, center_labels = torch.tensor([[0.4, 0.9, 0.7, 0.6]]), torch.tensor([[0, 0, 0, 1]])
    scores = score_triplets(boxes, torch.tensor([[0.5, 0.3, 0.8, 0.0]]), labels, centers, center_scores, center_labels)
    torch.testing.assert_close(scores, torch.tensor([[(1.0 + 0.7) / 3, (0.6 + 0.6) / 3, 0, 0]]))
    nobody = score_triplets(boxes, torch.ones(1, 4), labels, centers, torch.zeros(1, 4), center_labels)
    assert nobody.eq(0).all()


@pytest.mark.parametrize("bottom_right", [False, True])
def test_poolings_are_those_of_slow_forms(bottom_right: bool) -> None:
    torch.manual_seed(0)
    form: dict[str, Any] = {"hidden": 4, "norm": "bn", "separable": False}
    x = torch.randn(1, 3, 5, 6)
    step = -1 if bottom_right else 1

    def along(x: Tensor, dim: int) -> Tensor:
        best = x.clone()
        for index in list(range(x.shape[dim]))[::-step]:
            if 0 <= index + step < x.shape[dim]:
                later, here = best.select(dim, index + step), best.select(dim, index)
                here.copy_(torch.maximum(here.clone(), later))
        return best

    with torch.no_grad():
        plain = CornerPool(3, bottom_right=bottom_right, **form).eval()
        torch.testing.assert_close(plain(x), along(plain.vertical(x), 2) + along(plain.horizontal(x), 3))
        cascade = CascadeCornerPool(3, bottom_right=bottom_right, **form).eval()
        down = along(cascade.mix_vertical(cascade.vertical(x) + along(cascade.inside_vertical(x), 3)), 2)
        across = along(cascade.mix_horizontal(cascade.horizontal(x) + along(cascade.inside_horizontal(x), 2)), 3)
        torch.testing.assert_close(cascade(x), down + across)
        center = CenterPool(3, **form).eval()
        vertical, horizontal = center.vertical(x), center.horizontal(x)
        got = center(x)
        for row in range(5):
            for column in range(6):
                expected = vertical[:, :, :, column].amax(-1) + horizontal[:, :, row].amax(-1)
                torch.testing.assert_close(got[:, :, row, column], expected)


# Networks


def convolution(kernel: int, inputs: int, outputs: int) -> int:
    return kernel**2 * inputs * outputs + 2 * outputs  # with its batch normalisation


def residual(inputs: int, outputs: int, stride: int = 1) -> int:
    skip = convolution(1, inputs, outputs) if stride > 1 or inputs != outputs else 0
    return convolution(3, inputs, outputs) + convolution(3, outputs, outputs) + skip


def fire(inputs: int, outputs: int, stride: int = 1) -> int:
    half = outputs // 2
    return convolution(1, inputs, half) + half * half + 9 * half + 2 * outputs


def hourglass(unit: Any, channels: list[int], blocks: list[int], enlarge: bool) -> int:
    width, inner, depth = channels[0], channels[1], blocks[0]
    total = depth * unit(width, width) + unit(width, inner, 2) + (depth - 1) * unit(inner, inner)
    total += (depth - 1) * unit(inner, inner) + unit(inner, width)
    total += 16 * width**2 + width if enlarge else 0
    if len(channels) == 2:
        return total + blocks[1] * unit(inner, inner)
    return total + hourglass(unit, channels[1:], blocks[1:], enlarge)


def body(unit: Any, channels: list[int], blocks: list[int], *, stacks: int = 2, halvings: int = 2) -> int:
    """Section 3.5: stem, hourglasses, a 3x3 convolution behind each, and what is between them."""
    stem = convolution(7, 3, 128) + residual(128, 256, 2) + (halvings - 2) * residual(256, 256, 2)
    stack = hourglass(unit, channels, blocks, unit is fire) + convolution(3, 256, 256)
    return stem + stacks * stack + (stacks - 1) * (2 * convolution(1, 256, 256) + residual(256, 256))


def attention(*channels: int) -> int:
    """CornerNet-Lite's section 3.1: of each step a 3x3 convolution to 256 and one to a map."""
    return sum(9 * width * 256 + 256 + 256 + 1 for width in channels)


def point(outputs: list[int], kernel: int = 3, *, cascade: bool = False) -> int:
    """Figure 7: two convolutions to 128, back to 256, round them, behind them, and the heads."""
    gather = (4 if cascade else 2) * convolution(3, 256, 128) + (2 * 9 * 128**2 if cascade else 0)
    heads = sum(kernel**2 * 256**2 + 256 + 256 * count + count for count in outputs)
    return gather + convolution(3, 128, 256) + convolution(1, 256, 256) + convolution(3, 256, 256) + heads


HOURGLASS = ([256, 256, 384, 384, 384, 512], [2, 2, 2, 2, 2, 4])
SQUEEZE = ([256, 256, 384, 384, 512], [2, 2, 2, 2, 4])
CORNER, CENTER = [80, 1, 2], [80, 2]
# Summed by the papers' definitions, and as the authors' own code counts them.
PARAMETERS = {
    "cornernet_hourglass104": (body(residual, *HOURGLASS) + 4 * point(CORNER), 201_035_212),
    "cornernet_squeeze": (body(fire, *SQUEEZE, halvings=3) + 4 * point(CORNER, 1), 31_771_852),
    "cornernet_saccade": (
        body(residual, [256, 384, 384, 512], [1, 1, 1, 1], stacks=3) + 6 * point(CORNER) + 3 * attention(384, 384, 256),
        116_969_339,
    ),
    "centernet_triplets_hourglass104": (
        body(residual, *HOURGLASS) + 4 * point(CORNER, cascade=True) + 2 * point(CENTER),
        210_062_960,
    ),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_the_papers_say(name: str) -> None:
    with torch.device("meta"):
        model = create(name)
    summed, counted = PARAMETERS[name]
    assert sum(value.numel() for value in model.parameters()) == summed == counted


SMALL = {"blocks": [1, 1, 2], "channels": [8, 8, 12], "stem_channels": 8, "point_channels": 8}


@pytest.mark.parametrize(
    ("name", "stride"),
    [("cornernet_hourglass104", 4), ("cornernet_squeeze", 8), ("centernet_triplets_hourglass104", 4)],
)
def test_small_hourglasses_learn_in_every_stack(name: str, stride: int) -> None:
    torch.manual_seed(0)
    model = create(name, num_classes=3, stacks=3, **SMALL).train()
    assert model.stride == stride and model.stride_divisor == 4 * stride
    images = Images.stack([torch.rand(3, 48, 80), torch.rand(3, 40, 40)], divisor=model.stride_divisor)
    raw = model.network(images.pixels)
    sides = tuple(side // stride for side in images.pixels.shape[2:])
    assert [tuple(stack["top_left_heatmap"].shape) for stack in raw] == [(2, 3, *sides)] * 3
    sum(model.loss(raw, [crowded(4, 40, 40)] * 2).values()).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())


@BOTH
def test_the_light_one_learns_a_picture_by_heart(name: str) -> None:
    torch.manual_seed(0)
    model = create(name, num_classes=3, pull_weight=1.0, push_weight=1.0).train()
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.2
    image[0, 4:28, 8:40], image[2, 36:60, 40:56] = 1.0, 1.0
    target = Targets(torch.tensor([[8.0, 4, 40, 28], [40, 36, 56, 60]]), torch.tensor([1, 2]))
    images = Images.stack([image])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0)
    for step in range(40):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 40)
        optimizer.zero_grad()
        sum(model(images, [target]).values()).backward()
        optimizer.step()
    (found,) = model(images)  # in training mode, by the image's own statistics
    best = found[:2][found.labels[:2].argsort()]
    assert best.labels.tolist() == [1, 2] and np.abs(best.boxes - target.boxes.numpy()).max() < 4
    # What is left over are sure corners with one that is none: near a half.
    assert best.scores.min() > 0.8 and found.scores[2:3].sum() < 0.6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"radius": "corected"}, "unknown radius 'corected'"),
        ({"radius_iou": 1.0}, "radius_iou must lie between 0 and 1, got 1.0"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        create(LITE, num_classes=3, channels=16, **arguments)


def test_points_of_a_kind_that_is_not_there_are_asked_for(models: dict[str, CornerNet]) -> None:
    model = models[LITE]
    with pytest.raises(UsageError, match="needs the points top_left, bottom_right, center, got"):
        CornerNet(model.backbone, model.neck, list(model.points), classes=model.classes, rescore=score_triplets)


def test_heads_for_other_classes_are_refused(models: dict[str, CornerNet]) -> None:
    model = models[LITE]
    with pytest.raises(UsageError, match="head predicts 3 classes, but 2 classes are named"):
        CornerNet(model.backbone, model.neck, list(model.points), classes=Classes.numbered(2))


def test_published_weights_have_to_be_given_as_a_file() -> None:
    names = ("cornernet_hourglass104", "cornernet_squeeze", "centernet_triplets_hourglass104")
    records = [record for name in names for record in PUBLISHED[name].values()]
    assert len(records) == 4 and all(record.builder in DETECTORS for record in records)
    for record in records:
        with pytest.raises(AweighError, match=rf"without a checksum.*--weights {record.file}"):
            locate(record)
