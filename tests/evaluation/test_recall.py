"""The recall of proposals: equal to pycocotools with `useCats = 0`."""

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tests.evaluation.test_coco import random_case

from aweigh.errors import DataError, UsageError
from aweigh.evaluation.recall import average_recall


def array(results: list[dict]) -> np.ndarray:
    return np.array([[r["image_id"], *r["bbox"], r["score"]] for r in results], dtype=np.float64).reshape(-1, 6)


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools_without_categories(seed: int) -> None:
    truth, results = random_case(seed, images=8, objects=30, detections=200)
    for number, result in enumerate(results):
        result["score"] += number * 1e-6  # of equal scores pycocotools goes by the category
    limits = [5, 20, 100]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        reference = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
        reference.params.useCats, reference.params.maxDets = 0, limits
        reference.evaluate()
        reference.accumulate()
    found = average_recall(truth, array(results), limits=limits)
    for size, name in enumerate(("", "s", "m", "l")):
        for k, limit in enumerate(limits):
            expected = reference.eval["recall"][:, 0, size, k].mean()
            assert found.numbers[f"AR{limit}{name}"] == pytest.approx(expected, abs=1e-12, rel=0)
    assert len(set(found.numbers.values())) > 8  # no number stands for all


def test_any_class_is_found_and_only_the_best_count() -> None:
    truth, _ = random_case(0, images=3, objects=6, detections=1)
    objects = [a for a in truth["annotations"] if not a["iscrowd"]]
    exact = np.array([[a["image_id"], *a["bbox"], 0.5] for a in objects])
    assert average_recall(truth, exact).numbers["AR100"] == 1
    better = np.array([[a["image_id"], 300, 200, 5, 5, 0.9] for a in objects for _ in range(20)])
    found = average_recall(truth, np.concatenate([exact, better]), limits=(1, 1000))
    assert found.numbers["AR1"] == 0 and found.numbers["AR1000"] == 1
    assert (found.objects, found.crowds, found.proposals) == (len(objects), len(truth["annotations"]) - len(objects),
                                                              21 * len(objects))  # fmt: skip


def test_nothing_proposed_and_nothing_to_find() -> None:
    truth, _ = random_case(1, images=3, objects=6, detections=1)
    none = np.zeros((0, 6))
    assert average_recall(truth, none).numbers["AR1000"] == 0
    empty = average_recall({**truth, "annotations": []}, none)
    assert set(empty.numbers.values()) == {-1.0}
    lines = empty.table().splitlines()
    assert lines[-1].split() == ["1,000", "-", "-", "-", "-"]
    assert empty.to_dict()["protocol"]["limits"] == [100, 1000]


def test_wrong_input_is_named() -> None:
    truth, results = random_case(2, images=3)
    with pytest.raises(DataError, match="image 7, which the ground truth does not have"):
        average_recall(truth, np.array([[7, 0, 0, 5, 5, 0.5]]))
    with pytest.raises(DataError, match=r"finite numbers \[P, 6\], got \[1, 5\]"):
        average_recall(truth, np.zeros((1, 5)))
    with pytest.raises(UsageError, match="numbers above 0 that rise, got \\[100, 10\\]"):
        average_recall(truth, array(results), limits=(100, 10))
