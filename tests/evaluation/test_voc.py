"""VOC's average precision: by hand, and against a slow implementation that shares no line with ours."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aweigh.errors import UsageError
from aweigh.evaluation.coco import evaluate_coco
from aweigh.evaluation.voc import evaluate_voc

SIDE = 10.0  # of every box of the cases worked out by hand


def by_hand(objects: list[dict[str, Any]], detections: list[tuple[float, float]]) -> tuple[dict, list]:
    """Objects of one class in one image, 100 pixels apart; detections as (score, which object, -1 for none)."""
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [100.0 * k, 0, SIDE, SIDE], **flags}
            for k, flags in enumerate(objects)
        ],
    }
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [100.0 * k, 0, SIDE, SIDE], "score": score} for score, k in detections
    ]
    return truth, results


def test_half_of_the_objects_found_and_one_mistake() -> None:
    # Right, wrong, right of 4 objects: precision 1, 1/2, 2/3 at recall 1/4, 1/4, 1/2.
    truth, results = by_hand([{}] * 4, [(0.9, 0), (0.8, -1), (0.7, 1)])
    # Under the curve: a quarter at 1 and a quarter at 2/3.
    assert evaluate_voc(truth, results).mAP == pytest.approx(0.25 * 1 + 0.25 * 2 / 3)
    # Eleven points: 0, 0.1, 0.2 at 1; 0.3, 0.4, 0.5 at 2/3; the rest 0.
    assert evaluate_voc(truth, results, points="11").mAP == pytest.approx((3 * 1 + 3 * 2 / 3) / 11)


def test_a_second_detection_of_an_object_is_wrong() -> None:
    truth, results = by_hand([{}] * 2, [(0.9, 0), (0.8, 0), (0.7, 1)])
    assert evaluate_voc(truth, results).mAP == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


@pytest.mark.parametrize("flag", ["iscrowd", "ignore", "difficult"])
def test_difficult_objects_are_neither_right_nor_wrong(flag: str) -> None:
    truth, results = by_hand([{}, {flag: 1}], [(0.95, 1), (0.9, 1), (0.8, 0)])
    metrics = evaluate_voc(truth, results)
    assert metrics.mAP == pytest.approx(1.0)
    assert metrics.objects == {"cat": 1} and metrics.difficult == 1


def test_the_overlap_must_exceed_the_threshold() -> None:
    truth, results = by_hand([{}], [(0.9, 0)])
    results[0]["bbox"] = [0, 0, SIDE / 2, SIDE]  # exactly half
    assert evaluate_voc(truth, results, iou=0.5).mAP == 0.0
    assert evaluate_voc(truth, results, iou=0.49).mAP == pytest.approx(1.0)


def test_legacy_counts_the_last_pixel() -> None:
    truth, results = by_hand([{}], [(0.9, 0)])
    truth["annotations"][0]["bbox"] = [0, 0, 1, 1]  # pixels 0 and 1: 2 x 2 = 4 pixels
    results[0]["bbox"] = [0, 0, 0, 1]  # pixel 0 of the same rows: 2 pixels, a share of exactly 1/2
    assert evaluate_voc(truth, results, iou=0.4).mAP == 0.0
    assert evaluate_voc(truth, results, iou=0.4, legacy=True).mAP == pytest.approx(1.0)
    assert evaluate_voc(truth, results, iou=0.5, legacy=True).mAP == 0.0
    assert "legacy" in evaluate_voc(truth, results, legacy=True).table()


def test_recalls_are_compared_without_rounding() -> None:
    # 3 of 10 objects found: recall 0.3, which is smaller than the float 3 * 0.1. Four of eleven points are reached.
    truth, results = by_hand([{}] * 10, [(0.9, 0), (0.8, 1), (0.7, 2)])
    assert evaluate_voc(truth, results, points="11").mAP == pytest.approx(4 / 11)


def test_only_the_best_overlapped_object_is_looked_at() -> None:
    # Both detections overlap the left object most, so the second is wrong although it overlaps the right one too.
    truth, results = by_hand([{}, {}], [(0.9, 0), (0.8, 0)])
    truth["annotations"][1]["bbox"] = [2, 0, SIDE, SIDE]
    results[1]["bbox"] = [0.5, 0, SIDE, SIDE]
    assert evaluate_voc(truth, results).mAP == pytest.approx(0.5)


def test_empty_is_ordinary() -> None:
    truth, results = by_hand([{}], [(0.9, 0)])
    truth["categories"].append({"id": 2, "name": "dog"})
    assert evaluate_voc(truth, []).mAP == 0.0
    metrics = evaluate_voc(truth, [*results, {**results[0], "category_id": 2}])
    assert metrics.mAP == pytest.approx(1.0) and metrics.per_class["dog"] == -1.0
    json.dumps(metrics.to_dict(), allow_nan=False)
    assert "dog" in metrics.table()
    nothing = {**truth, "annotations": []}
    assert evaluate_voc(nothing, results).mAP == -1.0
    assert evaluate_voc(nothing, []).mAP == -1.0
    with pytest.raises(UsageError, match="points"):
        evaluate_voc(truth, [], points="12")  # type: ignore[arg-type]


@pytest.mark.parametrize("points", ["11", "all"])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_equals_a_slow_implementation(seed: int, points: str, legacy: bool) -> None:
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [{"id": i} for i in range(8)],
        "categories": [{"id": 5, "name": "a"}, {"id": 2, "name": "b"}, {"id": 9, "name": "c"}],
    }
    truth["annotations"] = [
        {
            "image_id": int(rng.integers(8)),
            "category_id": int(rng.choice([2, 5])),
            "bbox": rng.integers([0, 0, 5, 5], [40, 40, 30, 30]).tolist(),
            "ignore": int(rng.random() < 0.2),
        }
        for _ in range(60)
    ]
    results = []
    for score in rng.permutation(200):
        near = truth["annotations"][rng.integers(60)]
        box = np.maximum(np.array(near["bbox"]) + rng.integers(-4, 5, 4), [0, 0, 1, 1])
        results.append({**near, "bbox": box.tolist(), "score": float(score) / 200})
    metrics = evaluate_voc(truth, results, points=points, legacy=legacy)  # type: ignore[arg-type]
    for name, category in (("a", 5), ("b", 2)):
        assert metrics.per_class[name] == pytest.approx(slow_ap(truth, results, category, points, legacy), abs=1e-12)
    assert metrics.per_class["c"] == -1.0


def test_is_near_cocos_ap50_on_real_data(shared: Path) -> None:
    """Another protocol, so not equal: but a wrong class, image or box order would be far off."""
    folder = shared / "data" / "cocoapi_eval"
    truth = folder / "instances_val2014_100.json"
    results = folder / "instances_val2014_fakebbox100_results.json"
    voc, coco = evaluate_voc(truth, results), evaluate_coco(truth, results)
    assert voc.objects == coco.objects and voc.difficult == 9
    assert abs(voc.mAP - coco.AP50) < 0.02


def slow_ap(truth: dict, results: list, category: int, points: str, legacy: bool) -> float:
    """One detection at a time, as the development kit does it."""
    extra = 1 if legacy else 0
    objects = [
        {"image": a["image_id"], "box": a["bbox"], "difficult": a["ignore"], "taken": False}
        for a in truth["annotations"]
        if a["category_id"] == category
    ]
    total = sum(not o["difficult"] for o in objects)
    right, wrong, precision, recall = 0, 0, [], []
    for result in sorted((r for r in results if r["category_id"] == category), key=lambda r: -r["score"]):
        best, best_iou = None, -math.inf
        for candidate in objects:
            if candidate["image"] == result["image_id"]:
                overlap = slow_iou(result["bbox"], candidate["box"], extra)
                if overlap > best_iou:
                    best, best_iou = candidate, overlap
        if best is not None and best_iou > 0.5:
            if best["difficult"]:
                pass
            elif best["taken"]:
                wrong += 1
            else:
                best["taken"] = True
                right += 1
        else:
            wrong += 1
        precision.append(right / max(right + wrong, 1))
        recall.append(right / total)
    if points == "11":
        return sum(max([p for p, r in zip(precision, recall) if r >= k / 10], default=0.0) for k in range(11)) / 11
    area, previous = 0.0, 0.0
    for k, r in enumerate(recall):
        area += (r - previous) * max(precision[k:])
        previous = r
    return area


def slow_iou(a: list[float], b: list[float], extra: int) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]) + extra
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]) + extra
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] + extra) * (a[3] + extra) + (b[2] + extra) * (b[3] + extra) - both)
