"""Best possible recall and ambiguous points: by hand, against counting box by box, and against what trains."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from aweigh.catalogue import detectors
from aweigh.inference.assignment import rule_of
from aweigh.inspect.coverage import Coverage, LevelRanges, first_points, grid_sizes, measure_coverage
from aweigh.models import create
from aweigh.ops.boxes import grid_points
from aweigh.structures import Targets

ANYWHERE = LevelRanges((8,), ((0.0, math.inf),), center_radius=None)  # a point could learn every box it lies in
PYRAMID = LevelRanges(
    (8, 16, 32, 64, 128), ((0.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, math.inf))
)
KNOWN = {row["name"]: row["assignment"] for row in detectors() if row.get("assignment", "own") != "own"}


def measured(size_hw: tuple[int, int], boxes: list[list[float]], labels: list[int]) -> Coverage:
    return measure_coverage([(size_hw, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels))], ANYWHERE)


def test_by_hand() -> None:
    # Points at 4, 12, 20, 28 in both directions.
    boxes: list[list[float]] = [
        [0, 0, 16, 16],  # points 4 and 12 in both directions: 4 of them
        [8, 8, 32, 32],  # 12, 20, 28: 9 points, one of them also in the first box
        [5, 5, 10, 10],  # between the points: no one learns it
    ]
    coverage = measured((32, 32), boxes, [0, 1, 0])
    assert coverage == Coverage(boxes=3, found=2, positives=12, ambiguous=1, ambiguous_classes=1)
    assert coverage.best_possible_recall == pytest.approx(2 / 3)
    assert coverage.ambiguous_share == coverage.ambiguous_classes_share == pytest.approx(1 / 12)


def test_two_boxes_of_one_class_are_ambiguous_but_not_in_class() -> None:
    coverage = measured((32, 32), [[0, 0, 16, 16], [8, 8, 32, 32]], [4, 4])
    assert (coverage.ambiguous, coverage.ambiguous_classes) == (1, 0)


def test_a_box_wholly_under_a_smaller_one_is_not_found() -> None:
    coverage = measured((16, 16), [[0, 0, 8, 8], [1, 1, 7, 7]], [0, 1])
    assert (coverage.boxes, coverage.found) == (2, 1)


def test_nothing_to_measure() -> None:
    assert measure_coverage([], ANYWHERE) == measured((32, 32), [], []) == Coverage(0, 0, 0, 0, 0)
    assert Coverage().best_possible_recall == Coverage().ambiguous_share == -1.0
    assert PYRAMID.assign((32, 32), np.zeros((0, 4), np.float32)).learned.tolist() == [-1] * (16 + 4 + 1 + 1 + 1)


def test_points_are_those_of_the_cells_that_the_image_touches() -> None:
    assert grid_sizes((9, 17), [8, 16]) == [(2, 3), (1, 2)]
    assert first_points((9, 17), [8, 16]).tolist() == [0, 6, 8]
    point = replace(ANYWHERE, strides=(8, 16), level_ranges=((0, 12), (12, 99))).assign(
        (9, 17), np.array([[0, 0, 24, 6]], np.float32)
    )[1]
    assert point.tolist() == [1]  # (12, 4); those at (4, 4) and (20, 4) reach 20 px far, and (8, 8) is not inside


@pytest.mark.parametrize("radius", [None, 1.5])
@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("pairs_at_once", [1, 2**26])
def test_box_by_box(radius: float | None, inclusive: bool, pairs_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aweigh.inspect.coverage.PAIRS_AT_ONCE", pairs_at_once)
    rule = replace(PYRAMID, inclusive_ranges=inclusive, center_radius=radius)
    random = np.random.default_rng(3)
    corners = random.integers(0, 150, (40, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + 4 + (150 * random.random((40, 2)) ** 2).round()], 1, dtype=np.float32)
    got = measure_coverage([((300, 320), boxes, np.arange(40) % 3)], rule)

    learned, positives, ambiguous, classes = set(), 0, 0, 0
    for stride, (low, high) in zip(rule.strides, rule.level_ranges):
        for y in range(stride // 2, -(-300 // stride) * stride, stride):
            for x in range(stride // 2, -(-320 // stride) * stride, stride):
                could = []
                for index, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
                    sides = (x - x0, y - y0, x1 - x, y1 - y)
                    near = radius is None or (
                        abs(x - (x0 + x1) / 2) < radius * stride and abs(y - (y0 + y1) / 2) < radius * stride
                    )
                    fits = low <= max(sides) <= high if inclusive else low < max(sides) < high
                    if min(sides) > 0 and fits and near:
                        could.append(((x1 - x0) * (y1 - y0), index))
                positives += bool(could)
                ambiguous += len(could) > 1
                classes += len({index % 3 for _, index in could}) > 1
                learned |= {min(could)[1]} if could else set()
    assert got == Coverage(40, len(learned), positives, ambiguous, classes)
    assert 0 < got.ambiguous < got.positives


@pytest.mark.parametrize("name", sorted(name for name in KNOWN if "resne" not in name or "resnet18" in name))
@pytest.mark.parametrize("whole", [True, False])  # whole numbers meet the ends of ranges, and equal areas
def test_it_assigns_what_the_detector_trains(name: str, whole: bool) -> None:
    """Pixel by pixel of random boxes, and which boxes each point could learn; regions to ignore change nothing."""
    rule = LevelRanges.from_json(KNOWN[name])
    with torch.device("meta"):
        model = create(name, num_classes=3)
    size_hw = (351, 416)
    points = [
        grid_points(*size, (stride, stride), (stride / 2, stride / 2), like=torch.empty(0))
        for size, stride in zip(grid_sizes(size_hw, rule.strides), rule.strides)
    ]
    random = np.random.default_rng(len(name) + whole)
    for count in (1, 5, 60):
        corners, sides = random.uniform(-5, 300, (count, 2)), 1 + 400 * random.random((count, 2)) ** 3
        boxes = np.concatenate([corners, corners + sides], axis=1)
        boxes = (boxes.round() if whole else boxes).astype(np.float32)
        boxes[-1] = boxes[0]
        ignore = random.random(count) < 0.2
        targets = Targets.of(boxes, random.integers(0, 3, count), ignore=ignore)
        expected = model.assign(points, targets).numpy()
        which = np.flatnonzero(~ignore)
        learned, point, box = rule.assign(size_hw, boxes[which])
        np.testing.assert_array_equal(np.where(learned >= 0, np.append(which, -1)[learned], -1), expected.clip(-1))
        could = torch.cat([part for _, part in model.candidates(points, targets.boxes[which])]).numpy()
        assert set(zip(*could.nonzero())) == set(zip(point, box)) and len(point) == could.sum()


def test_the_rule_of_each_detector_is_read_as_it_was_written() -> None:
    assert len(KNOWN) > 10 and LevelRanges.from_json(json.loads(json.dumps(PYRAMID.to_json()))) == PYRAMID
    for numbers in KNOWN.values():
        assert LevelRanges.from_json(numbers).to_json() == numbers


def test_a_detector_with_another_rule_is_asked_itself() -> None:
    """Of FCOS this gives what its rule in NumPy does, so the way is right; ATSS and FoveaBox have no other."""
    random = np.random.default_rng(0)
    corners = random.uniform(0, 250, (30, 2))
    boxes = np.concatenate([corners, corners + random.uniform(4, 150, (30, 2))], axis=1).astype(np.float32)
    asked, computed = rule_of("fcos_resnet18_fpn"), LevelRanges.from_json(KNOWN["fcos_resnet18_fpn"])
    assert asked is not None
    (learned, *pairs), (expected, *others) = (rule.assign((256, 320), boxes) for rule in (asked, computed))
    np.testing.assert_array_equal(learned, expected)
    assert set(zip(*pairs)) == set(zip(*others))
    adaptive = rule_of("fcos_resnet50_fpn_atss")
    assert adaptive is not None and (adaptive.assign((256, 320), boxes).learned >= 0).any()
    assert rule_of("faster_rcnn_resnet18_fpn") is None
