"""KITTI's measure: cases worked out by hand from its rules, and a slow form of them, detection by detection."""

import math
from typing import Any

import numpy as np
import pytest

from aweigh.evaluation.kitti import Found, KittiMetrics, Objects, evaluate_kitti

CAR = (1.5, 1.6, 4.0)  # height, width, length


def objects(*rows: dict[str, Any]) -> Objects:
    """Cars in easy sight, side by side, unless a row says otherwise."""
    rows = tuple(
        {"kind": "Car", "truncated": 0, "occluded": 0, "alpha": 0.0, **_place(at), **row} for at, row in enumerate(rows)
    )
    return Objects(
        [row["kind"] for row in rows],
        np.array([row["box"] for row in rows], dtype=float).reshape(-1, 4),
        np.array([row["truncated"] for row in rows], dtype=float),
        np.array([row["occluded"] for row in rows], dtype=float),
        np.array([row["solid"] for row in rows], dtype=float).reshape(-1, 7),
        np.array([row["alpha"] for row in rows], dtype=float),
    )


def found(*rows: dict[str, Any]) -> Found:
    rows = tuple(
        {"kind": "Car", "score": 0.9, "alpha": 0.0, **_place(row.get("at", at)), **row} for at, row in enumerate(rows)
    )
    return Found(
        [row["kind"] for row in rows],
        np.array([row["box"] for row in rows], dtype=float).reshape(-1, 4),
        np.array([row["solid"] for row in rows], dtype=float).reshape(-1, 7),
        np.array([row["alpha"] for row in rows], dtype=float),
        np.array([row["score"] for row in rows], dtype=float),
    )


def _place(at: int) -> dict[str, Any]:
    return {"box": (100 * at, 50, 100 * at + 80, 110), "solid": (10.0 * at, 1.6, 20, *CAR, 0)}


def measured(truth: list[Objects], said: list[Found]) -> KittiMetrics:
    return evaluate_kitti(truth, said, ["Car"])


def ap(metrics: KittiMetrics, measure: Any = "box", difficulty: str = "easy", points: int = 40) -> float:
    return metrics.value("Car", measure, difficulty, points)


def test_forty_one_perfect_detections_are_1() -> None:
    metrics = measured([objects({})] * 41, [found({"score": 0.5 + 0.01 * n}) for n in range(41)])
    for measure in ("box", "birds_eye", "space", "orientation"):
        for difficulty in ("easy", "moderate", "hard"):
            assert ap(metrics, measure, difficulty) == ap(metrics, measure, difficulty, 11) == 1.0
    assert metrics.mean == 1.0 and "cannot give 1" not in metrics.table()


def test_few_objects_cannot_reach_1() -> None:
    """Two objects give two scores to read precision at: the first two of 41 recalls, of which 40 points see one."""
    metrics = measured([objects({}, {})], [found({}, {"score": 0.8})])
    assert ap(metrics) == 1 / 40 and ap(metrics, points=11) == 1 / 11
    assert "cannot give 1, whatever is found, of fewer than 41 moderate objects: Car (2)" in metrics.table()


def test_half_of_them_missed() -> None:
    """82 objects, 41 found: recall ends at one half. Read at 0, 1/40, ..., 20/40: 21 scores."""
    metrics = measured([objects({}, {})] * 41, [found({"score": 0.5 + 0.01 * n}) for n in range(41)])
    assert ap(metrics) == 20 / 40
    assert ap(metrics, points=11) == 6 / 11  # recalls 0, 0.1, ..., 0.5


def test_one_false_positive_for_each_that_is_right() -> None:
    """All of the same score: one reading, 41 right and 41 wrong, wherever it is read."""
    metrics = measured([objects({})] * 41, [found({}, {"at": 5})] * 41)
    assert ap(metrics) == 0.5 and ap(metrics, "space") == 0.5
    # A false positive of a lower score than all that is right does no harm.
    assert ap(measured([objects({})] * 41, [found({}, {"at": 5, "score": 0.1})] * 41)) == 1.0


def test_a_second_detection_of_one_object_is_a_mistake() -> None:
    assert ap(measured([objects({})] * 41, [found({}, {"at": 0, "score": 0.9})] * 41)) == 0.5


def test_orientation_is_one_and_a_half_turn_zero() -> None:
    truth = [objects({"alpha": 0.3})] * 41
    for turn, expected in ((0, 1.0), (math.pi, 0.0), (math.pi / 2, 0.5), (2 * math.pi, 1.0)):
        metrics = measured(truth, [found({"alpha": 0.3 + turn})] * 41)
        assert ap(metrics, "orientation") == pytest.approx(expected, abs=1e-12) and ap(metrics) == 1.0


def test_neighbours_regions_and_what_is_too_hard_need_not_be_found_and_may_be() -> None:
    """Each of them, found or not, changes nothing; the same detections without them would be mistakes."""
    plain, right = {}, {}
    tall, low = (100, 50, 180, 110), (100, 50, 180, 89)  # of 60 and 39 pixels
    for other in (
        {"kind": "Van"},
        {"kind": "van"},
        {"occluded": 1},
        {"truncated": 0.2},
        {"box": low},
        {"kind": "DontCare", "solid": (math.nan,) * 7},
    ):
        box = other.get("box", tall)
        truth = [objects(plain, other)] * 41
        assert ap(measured(truth, [found(right)] * 41)) == 1.0, other
        assert ap(measured(truth, [found(right, {"box": box})] * 41)) == 1.0, other
    assert ap(measured([objects(plain, {"kind": "Truck"})] * 41, [found(right, {})] * 41)) == 0.5
    assert ap(measured([objects(plain, {"kind": "Pedestrian"})] * 41, [found(right, {})] * 41)) == 0.5


def test_heights_occlusion_and_truncation_by_difficulty() -> None:
    def counted(**row: Any) -> list[bool]:
        metrics = measured([objects(row)], [found()])
        return [metrics.curves["Car", "box", level].objects == 1 for level in ("easy", "moderate", "hard")]

    assert counted() == [True, True, True]
    assert counted(box=(0, 0, 80, 40)) == [False, True, True]  # to be exceeded
    assert counted(box=(0, 0, 80, 40.5)) == [True, True, True]
    assert counted(box=(0, 0, 80, 25)) == [False, False, False]
    assert counted(occluded=1) == [False, True, True] and counted(occluded=2) == [False, False, True]
    assert counted(occluded=3) == [False, False, False]
    assert counted(truncated=0.15) == [True, True, True] and counted(truncated=0.16) == [False, True, True]
    assert counted(truncated=0.3) == [False, True, True] and counted(truncated=0.31) == [False, False, True]
    assert counted(truncated=0.5) == [False, False, True] and counted(truncated=0.51) == [False, False, False]
    assert counted(truncated=0.4) == [False, False, True]


def test_small_detections_are_no_mistakes() -> None:
    """Of 24.9 pixels, below every least height: neither right nor wrong; one of 30 is wrong, but not when easy."""
    truth = [objects({})] * 41
    small, middle = (500, 0, 580, 24.9), (500, 0, 580, 30)
    assert ap(measured(truth, [found({}, {"box": small})] * 41), difficulty="hard") == 1.0
    metrics = measured(truth, [found({}, {"box": middle})] * 41)
    assert ap(metrics, difficulty="moderate") == 0.5 and ap(metrics, difficulty="easy") == 1.0


def test_the_overlap_has_to_be_exceeded() -> None:
    """A box of 70 of 100 pixels of the object's height overlaps it by exactly 0.7."""
    truth = [objects({"box": (0, 0, 80, 100)})] * 41
    assert ap(measured(truth, [found({"box": (0, 0, 80, 70)})] * 41)) == 0
    assert ap(measured(truth, [found({"box": (0, 0, 80, 71)})] * 41)) == 1
    loose = evaluate_kitti(truth, [found({"box": (0, 0, 80, 51)})] * 41, ["Car"], overlaps={"Car": 0.5})
    assert loose.value("Car", "box") == 1


def test_a_wrong_depth_is_wrong_in_space_and_from_above_alone() -> None:
    said = [found({"solid": (0, 1.6, 24, *CAR, 0)})] * 41
    metrics = measured([objects({})] * 41, said)
    assert (ap(metrics), ap(metrics, "birds_eye"), ap(metrics, "space")) == (1.0, 0.0, 0.0)
    raised = [found({"solid": (0, 0.6, 20, *CAR, 0)})] * 41  # a metre up: from above it is right
    metrics = measured([objects({})] * 41, raised)
    assert (ap(metrics), ap(metrics, "birds_eye"), ap(metrics, "space")) == (1.0, 1.0, 0.0)


def test_nothing_is_a_normal_case() -> None:
    metrics = measured([objects()], [found()])
    assert ap(metrics) == -1 and metrics.mean == -1 and "-" in metrics.table()
    metrics = measured([objects(), objects({})], [found({}), found()])
    assert ap(metrics) == 0 and metrics.to_dict()["AP"] == 0


# --- the rules once more, one detection and one threshold at a time ------------------------------------------------


def _slow(truth: list[Objects], said: list[Found], level: int) -> tuple[float, float]:
    """AP at 40 points and AOS of cars' boxes."""
    height, occlusion, truncation = ((40, 0, 0.15), (25, 1, 0.3), (25, 2, 0.5))[level]

    def iou(a: Any, b: Any, *, of_first: bool = False) -> float:
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        if w <= 0 or h <= 0:
            return 0.0
        area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
        return w * h / (area[0] if of_first else sum(area) - w * h)

    def one(image: int, threshold: float | None) -> tuple[list[float], int, int, float, int]:
        gt, dt = truth[image], said[image]
        rows = [k for k in range(len(gt.kinds)) if gt.kinds[k] in ("Car", "Van")]
        skip = {
            k: gt.kinds[k] == "Van"
            or gt.occluded[k] > occlusion
            or gt.truncated[k] > truncation
            or gt.boxes[k][3] - gt.boxes[k][1] <= height
            for k in rows
        }
        small = [int(b[3] - b[1]) < height for b in dt.boxes]
        usable = [
            d for d in range(len(dt.kinds)) if dt.kinds[d] == "Car" and (threshold is None or dt.scores[d] >= threshold)
        ]
        taken: set[int] = set()
        scores, right, similar = [], 0, 0.0
        for k in rows:
            best, best_overlap, best_score = None, 0.0, -1.0
            for d in usable:
                overlap = iou(gt.boxes[k], dt.boxes[d])
                if d in taken or overlap <= 0.7:
                    continue
                if threshold is None:
                    if dt.scores[d] > best_score:
                        best, best_score = d, dt.scores[d]
                elif not small[d] and (best is None or small[best] or overlap > best_overlap):
                    best, best_overlap = d, overlap
                elif small[d] and best is None:
                    best = d
            if best is None:
                continue
            taken.add(best)
            if not skip[k] and not small[best]:
                scores.append(dt.scores[best])
                right += 1
                similar += (1 + math.cos(gt.alphas[k] - dt.alphas[best])) / 2
        regions = [gt.boxes[k] for k in range(len(gt.kinds)) if gt.kinds[k] == "DontCare"]
        wrong = sum(
            d not in taken and not small[d] and not any(iou(dt.boxes[d], r, of_first=True) > 0.7 for r in regions)
            for d in usable
        )
        return scores, right, wrong, similar, sum(not skip[k] for k in rows)

    everything = [one(image, None) for image in range(len(truth))]
    total = sum(part[4] for part in everything)
    scores = sorted((score for part in everything for score in part[0]), reverse=True)
    thresholds, recall = [], 0.0
    for k, score in enumerate(scores):
        left, right = (k + 1) / total, (k + 2) / total if k < len(scores) - 1 else (k + 1) / total
        if right - recall < recall - left and k < len(scores) - 1:
            continue
        thresholds.append(score)
        recall += 1 / 40
    precision, orientation = [0.0] * 41, [0.0] * 41
    for k, threshold in enumerate(thresholds):
        parts = [one(image, threshold) for image in range(len(truth))]
        right, wrong, similar = (sum(part[n] for part in parts) for n in (1, 2, 3))
        precision[k], orientation[k] = right / (right + wrong), similar / (right + wrong)
    for values in (precision, orientation):
        for k in range(41):
            values[k] = max(values[k:])
    return sum(precision[1:]) / 40, sum(orientation[1:]) / 40


def test_it_agrees_with_the_rules_one_by_one() -> None:
    random = np.random.default_rng(3)
    truth, said = [], []
    for _ in range(60):
        rows, others = [], []
        for at in range(int(random.integers(1, 7))):
            x, high = 100 * at, random.uniform(20, 110)
            box = np.array([x, 50, x + 60, 50 + high])
            kind = str(random.choice(["Car", "Car", "Car", "Van", "DontCare", "Pedestrian"]))
            alpha = random.uniform(-3, 3)
            occluded, truncated = int(random.choice([0, 0, 0, 0, 1, 2, 3])), random.choice([0, 0, 0, 0.2, 0.4, 0.6])
            rows.append({"kind": kind, "box": box, "alpha": alpha, "occluded": occluded, "truncated": truncated})
            for _ in range(int(random.integers(0, 4))):
                moved = box + random.normal(0, 1.5, 4)
                others.append({"box": moved, "score": random.random(), "alpha": alpha + random.normal(0, 1)})
        others.append({"box": (random.uniform(0, 500), 200, 600, 260), "score": random.random()})
        truth.append(objects(*rows))
        said.append(found(*others))
    metrics = measured(truth, said)
    for level, difficulty in enumerate(("easy", "moderate", "hard")):
        expected = _slow(truth, said, level)
        assert 0.02 < expected[0] < 0.9
        assert (ap(metrics, "box", difficulty), ap(metrics, "orientation", difficulty)) == pytest.approx(expected)
