"""Bad masks and keypoints: each is cleaned, counted and named, and nothing that reaches a model is NaN."""

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from tests.annotated import Make, coco_dict
from torch import Tensor

from aweigh.annotations.masks import NONE
from aweigh.errors import DataError
from aweigh.evaluation.coco import evaluate_coco
from aweigh.feeding.dataset import DetectionDataset, Sample
from aweigh.feeding.transforms import Augmentation, Transform
from aweigh.geometry.masks import encode_counts
from aweigh.images.resize import Resize
from aweigh.inspect.doctor import examine
from aweigh.layouts.load import load_split

BOX = [5, 5, 12, 14]  # x, y, width, height, in an image of 40 x 30
OUTLINE = [[5, 5, 17, 5, 17, 19, 5, 19]]
POINTS = [6, 7, 2, 10, 12, 1, 0, 0, 0]
MASK, KEYPOINTS = "mask cannot be used", "keypoints cannot be used"
CHANGED, DROPPED = "changed", "dropped"


def runs(*lengths: int, size: tuple[int, int] = (30, 40), text: bool = True) -> dict[str, Any]:
    counts: Any = encode_counts(np.array(lengths)).decode() if text else list(lengths)
    return {"size": list(size), "counts": counts}


# what the annotation says; the problem that is named, what its detail says, what is done; pixels and keypoints left
CASES: dict[str, tuple[dict[str, Any], tuple[str, str, str] | None, bool, int]] = {
    "nothing is wrong": ({}, None, True, 2),
    "no mask": ({"segmentation": []}, None, False, 2),
    "polygon of two points": ({"segmentation": [[5, 5, 9, 9]]}, (MASK, "three points", DROPPED), False, 2),
    "polygon without an area": ({"segmentation": [[5, 5, 9, 9, 13, 13]]}, (MASK, "no area", DROPPED), False, 2),
    "polygon outside": ({"segmentation": [[50, 5, 60, 5, 60, 9]]}, (MASK, "outside the image", DROPPED), False, 2),
    "polygon partly outside": ({"segmentation": [[-9, 5, 9, 5, 9, 90]]}, None, True, 2),
    "polygon of NaN": ({"segmentation": [[5, 5, math.nan, 5, 9, 9]]}, (MASK, "nan", DROPPED), False, 2),
    "run lengths of another size": (
        {"segmentation": runs(0, 1200, size=(40, 30))}, (MASK, r"size \[40, 30\]", DROPPED), False, 2,
    ),
    "run lengths that are too few": ({"segmentation": runs(5, 9)}, (MASK, "add up", DROPPED), False, 2),
    "run lengths without a pixel": ({"segmentation": runs(1200)}, (MASK, "no pixel", DROPPED), False, 2),
    "a list without a pixel": ({"segmentation": runs(700, 0, 500, text=False)}, (MASK, "no pixel", DROPPED), False, 2),
    "mask of a single pixel": ({"segmentation": runs(7 * 30 + 9, 1, 980)}, None, True, 2),
    "all invisible": ({"keypoints": [6, 7, 0, 10, 12, 0, 0, 0, 0], "num_keypoints": 0}, None, True, 0),
    "invisible, but counted": (
        {"keypoints": [0] * 9}, ("number of keypoints is wrong", "says 2, but 0 are given", CHANGED), True, 0,
    ),
    "visible, but count 0": (
        {"num_keypoints": 0}, ("number of keypoints is wrong", "says 0, but 2 are given", CHANGED), True, 2,
    ),
    "keypoint outside the image": (
        {"keypoints": [6, 7, 2, 99, 12, 2, 0, 0, 0]},
        ("keypoint outside the image", r"1 of 3, the first at \(99, 12\) in an image of 40 x 30", CHANGED), True, 1,
    ),
    "all keypoints outside": (
        {"keypoints": [-6, 7, 2, 99, 12, 2, 0, 0, 0]}, ("keypoint outside the image", "2 of 3", CHANGED), True, 0,
    ),
    "keypoint on the edge": ({"keypoints": [40, 30, 2, -0.5, 12, 2, 0, 0, 0]}, None, True, 2),
    "keypoint outside its box": ({"keypoints": [6, 7, 2, 39, 2, 2, 0, 0, 0]}, None, True, 2),
    "keypoints of NaN": (
        {"keypoints": [6, 7, 2, math.nan, 12, 2, 0, 0, 0]}, (KEYPOINTS, "no number", DROPPED), True, 0,
    ),
    "too few keypoints": ({"keypoints": [6, 7, 2]}, (KEYPOINTS, "expected 9 numbers", DROPPED), True, 0),
    "visibility of 3": ({"keypoints": [6, 7, 3, 8, 8, 2, 0, 0, 0]}, (KEYPOINTS, "visibility is 3", DROPPED), True, 0),
}  # fmt: skip


def data_of(change: dict[str, Any]) -> dict[str, Any]:
    """Two objects: 10 as the case has it, and 11, which is sound."""
    data = coco_dict([BOX, BOX])
    data["categories"][0] |= {"keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2], [1, 3]]}
    for entry in data["annotations"]:
        entry |= {"segmentation": OUTLINE, "keypoints": POINTS, "num_keypoints": 2}
    data["annotations"][0] |= change
    return data


@pytest.mark.parametrize("name", CASES)
def test_bad_masks_and_keypoints_are_cleaned_and_named(coco: Make, name: str) -> None:
    change, expected, has_mask, points = CASES[name]
    split = load_split(coco(data_of(change)))
    assert len(split.boxes) == 2 and split.masks is not None and split.keypoints is not None
    assert [(problem.kind, problem.where, problem.annotation) for problem in split.problems] == (
        [] if expected is None else [(expected[0], "1.png", 10)]
    )
    if expected is not None:
        problem = split.problems[0]
        assert problem.action == expected[2]
        with pytest.raises(DataError, match=expected[1]):
            load_split(coco(data_of(change)), strict=True)
    assert (split.masks.kinds != NONE).tolist() == [has_mask, True]
    assert (split.keypoints[:, :, 2] > 0).sum(axis=1).tolist() == [points, 2]
    assert split.num_keypoints is not None and split.num_keypoints.tolist() == [points, 2]

    change = Augmentation(flip=0.5, crop=0.7, mosaic=0.3, copy_paste=0.5, keypoint_pairs=((1, 2),))
    samples = DetectionDataset(split, Transform(Resize(24, None), change), masks=True, keypoints=3)
    for epoch in range(12):
        sample = samples[epoch, 0]
        assert isinstance(sample, Sample)
        for entry in fields(sample.targets):
            value = getattr(sample.targets, entry.name)
            assert not isinstance(value, Tensor) or torch.isfinite(value).all(), entry.name
        assert sample.targets.masks is not None and sample.targets.keypoints is not None

    truth = split.to_coco()
    found = {"image_id": 1, "category_id": 3, "score": 0.9, "segmentation": OUTLINE, "keypoints": POINTS}
    for iou_type in ("segm", "keypoints"):
        numbers = evaluate_coco(truth, [found], iou_type=iou_type).numbers  # type: ignore[arg-type]
        assert all(math.isfinite(value) for value in numbers.values())


def test_shapes_far_from_their_box_are_a_finding(coco: Make) -> None:
    far = {"keypoints": [6, 7, 2, 39, 12, 2, 0, 0, 0], "segmentation": [[25, 5, 30, 5, 30, 9]]}
    assert {one.kind for one in examine({"train": load_split(coco(data_of({})))}, pictures=False).findings} <= {
        "same box twice", "class without a box", "without objects", "class with few boxes",
    }  # fmt: skip
    findings = {one.kind: one for one in examine({"train": load_split(coco(data_of(far)))}, pictures=False).findings}
    for kind in ("mask beside its box", "keypoint far from its box"):
        assert findings[kind].count == 1 and findings[kind].severity == "warning"
        assert findings[kind].examples[0].problem.annotation == 10
