"""`CocoEvaluator` has the numbers of `aweigh eval`, of our detectors and of anybody's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import aweigh
from aweigh import CocoEvaluator, Detections
from aweigh.annotations.split import Split
from aweigh.errors import DataError, UsageError
from aweigh.evaluation.coco import evaluate_coco
from aweigh.feeding.dataset import targets_of
from aweigh.inference.measure import measure
from aweigh.layouts.load import load_split

BOXES, LABELS = [[10, 10, 50, 40], [20, 30, 90, 95.5]], [1, 2]


def test_the_numbers_of_aweigh_eval(shared: Path) -> None:
    split = load_split(shared / "data" / "coco_tiny", "val")
    split = split.take(range(10))
    detector = aweigh.load(runtime="torch", device="cpu")
    assert split.classes.names == detector.classes.names
    evaluator = CocoEvaluator()
    for index, found in enumerate(detector.stream(list(split.paths), batch=1, score=0)):
        evaluator.update(found, targets_of(split, index))
    measured = measure(detector.engine.model, detector.resize, split, ["boxes"], batch=1)  # type: ignore[attr-defined]
    ours, theirs = evaluator.compute(), measured.metrics["boxes"]
    assert ours.AP > 0.1 and ours.numbers == theirs.numbers and ours.per_class == theirs.per_class


def moved_detections(split: Split, index: int) -> Detections:
    """What is annotated, a little beside its place, and a box where nothing is."""
    rng = np.random.default_rng(index)
    objects = split.objects(index)
    boxes = np.concatenate([objects["boxes"] * rng.uniform(0.97, 1.03, objects["boxes"].shape), [[0, 0, 30, 30]]])
    labels = np.append(objects["labels"], 0)
    more: dict[str, Any] = {"masks": np.ones((len(boxes), 2, 2), np.float32)}
    if objects["keypoints"] is not None:
        more["keypoints"] = np.concatenate([objects["keypoints"] + 2, np.ones((1, 17, 3), np.float32)])
    sides = (int(split.sizes_hw[index][0]), int(split.sizes_hw[index][1]))
    boxes = boxes.clip(0, [sides[1], sides[0]] * 2)
    return Detections.of(boxes, rng.uniform(0.1, 1, len(boxes)), labels, classes=split.classes, size_hw=sides, **more)


@pytest.mark.parametrize("iou_type", ["bbox", "segm", "keypoints"])
def test_the_same_of_crowds_masks_and_keypoints(shared: Path, iou_type: Any) -> None:
    split = load_split(shared / "data" / "coco_tiny", "val", keypoints=iou_type == "keypoints").take(range(40))
    found = [moved_detections(split, index) for index in range(len(split))]
    objects = [split.objects(index, masks=iou_type == "segm") for index in range(len(split))]
    results = [entry for one, number in zip(found, split.image_ids.tolist()) for entry in one.to_coco(number)]
    expected = evaluate_coco(split.to_coco(), results, iou_type=iou_type)
    measured = CocoEvaluator(iou_type).update(found, objects).compute()
    assert 0 < expected.AP < 1 and measured.crowds == expected.crowds
    assert measured.numbers == pytest.approx(expected.numbers, abs=1e-9)


def test_a_detector_of_torchvision() -> None:
    """Its detections and its targets: labels from 1, masks `[N, 1, H, W]`, nothing known of the classes."""
    masks = torch.zeros(2, 100, 100)
    masks[0, 10:40, 10:50] = masks[1, 30:96, 20:90] = 1
    targets = {"boxes": torch.tensor(BOXES), "labels": torch.tensor(LABELS), "masks": masks.bool(), "image_id": 7}
    output = {**targets, "scores": torch.tensor([0.9, 0.8]), "masks": masks[:, None] * 0.7}
    for iou_type in ("bbox", "segm"):
        metrics = CocoEvaluator(iou_type).update([output, output], [targets, targets]).compute()  # type: ignore[arg-type]
        assert pytest.approx(1) == metrics.AP and metrics.images == 2
        assert metrics.objects == {"1": 2, "2": 2}


def test_lists_and_our_own_targets_are_the_same() -> None:
    found = Detections.of(BOXES, [0.9, 0.8], LABELS)
    of_lists = {"boxes": BOXES, "labels": LABELS}
    numbers = [
        CocoEvaluator().update(one, truth).compute().numbers
        for one in (found, {**of_lists, "scores": [0.9, 0.8]})
        for truth in (of_lists, aweigh.Targets.of(BOXES, LABELS))
    ]
    assert all(each == numbers[0] for each in numbers) and numbers[0]["AP"] == pytest.approx(1)


def test_what_is_ignored_is_neither_found_nor_missed() -> None:
    found = Detections.of(BOXES, [0.9, 0.8], LABELS)
    for name in ("iscrowd", "ignore", "uncertain"):
        truth = {"boxes": BOXES, "labels": LABELS, name: [0, 1]}
        metrics = CocoEvaluator().update(found, truth).compute()
        assert pytest.approx(1) == metrics.AP and metrics.crowds == 1 and metrics.per_class["2"]["AP"] == -1
    area = {"boxes": BOXES, "labels": LABELS, "area": [10.0, 10.0]}
    assert CocoEvaluator().update(found, area).compute().APs == pytest.approx(1)


def test_images_without_anything_and_images_that_could_not_be_read() -> None:
    nothing = {"boxes": [], "labels": []}
    found = Detections.of(BOXES, [0.9, 0.8], LABELS)
    evaluator = CocoEvaluator(classes=["a", "b", "c"])
    evaluator.update(Detections.of([], [], []), nothing).update({**nothing, "scores": []}, nothing)
    assert evaluator.compute().AP == -1
    metrics = evaluator.update(found, {"boxes": BOXES, "labels": LABELS}).compute()
    assert pytest.approx(1) == metrics.AP and metrics.objects == {"a": 0, "b": 1, "c": 1}
    unread = replace(found[:0], error="the file is empty")
    metrics = evaluator.update(unread, {"boxes": BOXES, "labels": LABELS}).compute()
    assert pytest.approx(1) == metrics.AP and (metrics.images, metrics.left_out) == (3, 1)


def test_what_does_not_fit_is_said() -> None:
    truth = {"boxes": BOXES, "labels": LABELS}
    found = Detections.of(BOXES, [0.9, 0.8], LABELS)
    with pytest.raises(UsageError, match="nothing to measure yet"):
        CocoEvaluator().compute()
    with pytest.raises(UsageError, match="detections of 2 images, targets of 1"):
        CocoEvaluator().update([found, found], truth)
    with pytest.raises(DataError, match="detections have no labels"):
        CocoEvaluator().update({"boxes": BOXES, "scores": [1, 1]}, truth)
    with pytest.raises(DataError, match="detections have 2 boxes, but 0 entries in scores"):
        CocoEvaluator().update(truth, truth)
    with pytest.raises(DataError, match="targets have 2 boxes, but 1 entry in labels"):
        CocoEvaluator().update(found, {"boxes": BOXES, "labels": [1]})
    with pytest.raises(DataError, match=r"boxes of the targets must be \[N, 4\]"):
        CocoEvaluator().update(found, {"boxes": [1, 2, 3, 4], "labels": [1]})
    with pytest.raises(DataError, match="label 2 is none of 2 classes, counted from 0"):
        CocoEvaluator(classes=["a", "b"]).update(found, truth).compute()
