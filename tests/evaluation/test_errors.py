"""Precision and recall, confusion and worst images: against cases done by hand and a slow reference."""

import json

import numpy as np
import pytest

from aweigh.errors import DataError, UsageError
from aweigh.evaluation.coco import evaluate_coco
from aweigh.evaluation.errors import (
    confusion_matrix,
    match_results,
    precision_recall,
    precision_recall_of_all,
    worst_images,
)

CAT, DOG = 3, 7
NAMES = {CAT: "cat", DOG: "dog"}


def truth_of(*objects, images=(1, 2)):
    """objects: (image, category, box xywh) or with a fourth entry, crowd."""
    entries = [
        {
            "id": number, "image_id": image, "category_id": category, "bbox": list(box),
            "area": box[2] * box[3], "iscrowd": int(bool(crowd)),
        }
        for number, (image, category, box, *crowd) in enumerate(objects, start=1)
    ]  # fmt: skip
    return {
        "images": [{"id": image, "file_name": f"{image}.jpg", "width": 200, "height": 200} for image in images],
        "annotations": entries,
        "categories": [{"id": number, "name": name} for number, name in NAMES.items()],
    }


def found_of(*detections):
    return [
        {"image_id": image, "category_id": category, "bbox": list(box), "score": score}
        for image, category, box, score in detections
    ]


def case_by_hand():
    """Image 1: two cats and a dog; image 2: a cat and a crowd of cats.

    Found: cat 1 well (0.9) and once more (0.8); the dog as a cat (0.7); cat 2 at IoU 1/3 (0.6); in image 2 a dog where
    nothing is (0.55), a cat inside the crowd (0.5), and the cat, but with 0.2.
    """
    truth = truth_of(
        (1, CAT, (0, 0, 20, 20)), (1, CAT, (50, 0, 20, 20)), (1, DOG, (100, 0, 20, 20)),
        (2, CAT, (0, 0, 20, 20)), (2, CAT, (100, 100, 80, 80), True),
    )  # fmt: skip
    found = found_of(
        (1, CAT, (0, 0, 20, 20), 0.9), (1, CAT, (0, 0, 20, 19), 0.8), (1, CAT, (100, 0, 20, 20), 0.7),
        (1, CAT, (60, 0, 20, 20), 0.6), (2, DOG, (50, 50, 20, 20), 0.55), (2, CAT, (110, 110, 30, 30), 0.5),
        (2, CAT, (0, 0, 20, 20), 0.2),
    )  # fmt: skip
    return truth, found


def test_precision_and_recall_by_hand():
    cat, dog = precision_recall(match_results(*case_by_hand()))
    assert (cat.name, cat.objects, dog.name, dog.objects) == ("cat", 3, "dog", 1)
    assert cat.scores.tolist() == [0.9, 0.8, 0.7, 0.6, 0.2]  # the one inside the crowd is left out
    assert cat.precision.tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 2 / 5])
    assert cat.recall.tolist() == pytest.approx([1 / 3] * 4 + [2 / 3])
    assert cat.f1.tolist() == pytest.approx([1 / 2, 2 / 5, 1 / 3, 2 / 7, 1 / 2])
    assert cat.best_score == 0.9  # as good as 0.2: the higher one
    assert pytest.approx((34 * 1 + 33 * 0.4) / 101) == cat.AP  # recalls 0 to 0.33, then to 0.66
    assert dog.best_score is None and dog.AP == 0 and dog.to_dict()["f1"] is None
    everything = precision_recall_of_all(match_results(*case_by_hand()))
    assert everything.objects == 4 and pytest.approx(cat.AP / 2) == everything.AP
    assert everything.recall.tolist() == pytest.approx([1 / 4] * 5 + [2 / 4])


def test_equal_scores_are_taken_together():
    """A threshold cannot tell them apart, so neither may the point of best F1."""
    box = (0, 0, 20, 20)
    truth = truth_of((1, CAT, box), (2, CAT, box))
    cat = precision_recall(
        match_results(
            truth, found_of((1, CAT, box, 0.5), (1, CAT, (100, 100, 20, 20), 0.5), (2, CAT, (90, 90, 9, 9), 0.5))
        )
    )[0]
    assert cat.scores.tolist() == [0.5] and cat.precision.tolist() == pytest.approx([1 / 3])
    assert cat.to_dict() == pytest.approx(
        {"score": 0.5, "precision": 1 / 3, "recall": 0.5, "f1": 0.4, "objects": 2, "AP": cat.AP}
    )


def test_confusion_by_hand():
    matches = match_results(*case_by_hand())
    matrix = confusion_matrix(matches, min_score=0.5)
    assert matrix.names == ("cat", "dog") and (matrix.min_score, matrix.iou) == (0.5, 0.5)
    # truth cat: one found, two not. truth dog: taken for a cat. nothing: the double and the far one; a dog.
    assert matrix.counts.tolist() == [[1, 0, 2], [1, 0, 0], [2, 1, 0]]
    assert confusion_matrix(matches, min_score=0.1).counts.tolist() == [[2, 0, 1], [1, 0, 0], [2, 1, 0]]
    assert confusion_matrix(matches, min_score=0.95).counts.tolist() == [[0, 0, 3], [0, 0, 1], [0, 0, 0]]
    assert confusion_matrix(match_results(*case_by_hand(), iou=0.3), min_score=0.5).counts[0].tolist() == [2, 0, 1]
    json.dumps(matrix.to_dict())


def test_an_object_found_by_its_own_class_is_not_taken_by_another():
    """The dog's box fits the cat a little better, but the cat has been found as a cat."""
    truth = truth_of((1, CAT, (0, 0, 20, 20)))
    found = found_of((1, DOG, (0, 0, 20, 20), 0.9), (1, CAT, (0, 0, 20, 18), 0.6))
    assert confusion_matrix(match_results(truth, found), min_score=0.5).counts.tolist() == [
        [1, 0, 0],
        [0, 0, 0],
        [0, 1, 0],
    ]
    assert confusion_matrix(match_results(truth, found), min_score=0.7).counts[0].tolist() == [0, 1, 0]


def test_a_detection_that_is_right_is_not_taken_for_another_class_too():
    """A cat on a dog: the cat is found, the dog is missed and not confused with the cat."""
    truth = truth_of((1, CAT, (0, 0, 20, 20)), (1, DOG, (0, 0, 20, 19)))
    matches = match_results(truth, found_of((1, CAT, (0, 0, 20, 20), 0.9)))
    assert confusion_matrix(matches, min_score=0.5).counts.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_worst_images_by_hand():
    matches = match_results(*case_by_hand())
    first, second = worst_images(matches, min_score=0.5)
    assert (first.image_id, second.image_id) == (1, 2)
    assert first.cost == pytest.approx(2 + 0.8 + 0.7 + 0.6)  # a cat poorly placed, the dog, and three wrong boxes
    assert (first.missed, first.confused, first.poor) == ((), (2,), (1,))
    assert first.right == (0,) and first.wrong == (1, 2, 3)
    assert first.notes == ("double", "is dog", "IoU 0.33")
    assert first.reason == (
        "of 3 objects: 1 taken for another class (1 dog); 1 poorly placed (IoU 0.33); 1 found twice (cat 0.80)"
    )
    assert second.missed == (3,) and second.notes == ("nothing there",)
    assert second.reason == "of 1 object: 1 missed (1 cat); 1 false (dog 0.55)"
    assert [entry.image_id for entry in worst_images(matches, min_score=0.5, number=1)] == [1]


def test_images_without_mistakes_are_not_listed():
    truth = truth_of((1, CAT, (0, 0, 20, 20)))
    assert worst_images(match_results(truth, found_of((1, CAT, (0, 0, 20, 20), 0.9))), min_score=0.5) == []


def test_nothing_found_and_nothing_to_find():
    truth = truth_of((1, CAT, (0, 0, 20, 20)))
    matches = match_results(truth, [])
    assert confusion_matrix(matches, min_score=0.5).counts.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert [entry.reason for entry in worst_images(matches, min_score=0.5)] == ["of 1 object: 1 missed (1 cat)"]
    assert precision_recall_of_all(matches).best_score is None and precision_recall_of_all(matches).AP == 0
    matches = match_results(truth_of(), found_of((1, DOG, (0, 0, 20, 20), 0.9)))
    assert confusion_matrix(matches, min_score=0.5).counts.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert [entry.reason for entry in worst_images(matches, min_score=0.5)] == ["1 false (dog 0.90)"]
    assert [entry.AP for entry in precision_recall(matches)] == [-1, -1]
    matches = match_results(truth_of(), [])
    assert worst_images(matches, min_score=0.5) == [] and precision_recall_of_all(matches).AP == -1


def test_wrong_use_is_refused():
    with pytest.raises(UsageError, match="iou must be in"):
        match_results(truth_of(), [], iou=1.0)
    with pytest.raises(DataError, match="which the ground truth does not have"):
        match_results(truth_of(), found_of((99, CAT, (0, 0, 5, 5), 0.5)))


# --- against a slow reference -----------------------------------------------------------------------------------------


def scattered(seed: int, images: int = 12):
    """Objects close together, some in crowds, and detections near them with scores in steps (so that some are equal).

    Image ids come in no order, as in COCO."""
    dice = np.random.default_rng(seed)
    ids = dice.permutation(np.arange(1, images + 1) * 10).tolist()
    objects, detections = [], []
    for image in ids:
        for _ in range(dice.integers(0, 7)):
            box = (*dice.uniform(0, 60, 2), *dice.uniform(20, 60, 2))
            category = int(dice.choice([CAT, DOG]))
            objects.append((image, category, box, dice.random() < 0.2))
            for _ in range(dice.integers(0, 4)):
                kind = category if dice.random() < 0.75 else int(dice.choice([CAT, DOG]))
                near = (*(np.array(box[:2]) + dice.normal(0, 6, 2)), *(np.array(box[2:]) * dice.uniform(0.8, 1.2, 2)))
                detections.append((image, kind, near, round(float(dice.random()), 1)))
    return truth_of(*objects, images=ids), found_of(*detections)


def iou_of(detection, thing):
    (ax, ay, aw, ah), (bx, by, bw, bh) = detection["bbox"], thing["bbox"]
    shared = max(0, min(ax + aw, bx + bw) - max(ax, bx)) * max(0, min(ay + ah, by + bh) - max(ay, by))
    return shared / (aw * ah if thing["iscrowd"] else aw * ah + bw * bh - shared)


def reference_states(truth, found, iou=0.5):
    """For each detection the id of its object, 0 if wrong, None if in a crowd: COCO's matching, one by one."""
    states = {}
    for image in truth["images"]:
        for category in truth["categories"]:
            here = [
                thing
                for thing in truth["annotations"]
                if thing["image_id"] == image["id"] and thing["category_id"] == category["id"]
            ]
            rows = [
                row
                for row, entry in enumerate(found)
                if entry["image_id"] == image["id"] and entry["category_id"] == category["id"]
            ]
            taken = set()
            for row in sorted(rows, key=lambda row: -found[row]["score"]):
                free = [thing for thing in here if not thing["iscrowd"] and thing["id"] not in taken]
                best = max(free, key=lambda thing: iou_of(found[row], thing), default=None)
                if best is not None and iou_of(found[row], best) >= iou:
                    taken.add(best["id"])
                    states[row] = best["id"]
                else:
                    crowds = [thing for thing in here if thing["iscrowd"] and iou_of(found[row], thing) >= iou]
                    states[row] = None if crowds else 0
    return states


@pytest.mark.parametrize("seed", range(8))
def test_matching_is_that_of_the_reference(seed):
    truth, found = scattered(seed)
    matches, states = match_results(truth, found), reference_states(truth, found)
    assert len(found) > 20
    assert matches.counted.tolist() == [states[row] is not None for row in range(len(found))]
    ids = [truth["annotations"][row]["id"] if row >= 0 else 0 for row in matches.object.tolist()]
    assert ids == [states[row] or 0 for row in range(len(found))]


@pytest.mark.parametrize("seed", range(8))
def test_the_three_views_agree_with_each_other_and_with_coco(seed):
    """At any score: the diagonal over column and row is the precision and the recall of the curve."""
    truth, found = scattered(seed)
    matches = match_results(truth, found)
    metrics = evaluate_coco(truth, found)
    entries = precision_recall(matches)
    for label, entry in enumerate(entries):
        assert metrics.per_class[entry.name]["AP50"] == entry.AP and entry.objects == metrics.objects[entry.name]
        for score, precision, recall in zip(entry.scores, entry.precision, entry.recall):
            counts = confusion_matrix(matches, min_score=score).counts
            assert counts[label, label] / counts[:, label].sum() == precision
            assert counts[label, label] / max(counts[label].sum(), 1) == recall
    assert pytest.approx(metrics.AP50, abs=1e-12) == precision_recall_of_all(matches).AP

    counts = confusion_matrix(matches, min_score=0.3).counts
    errors = worst_images(matches, min_score=0.3, number=1000)
    off_diagonal = counts[:-1].sum() - np.trace(counts)
    assert sum(len(entry.missed) + len(entry.confused) + len(entry.poor) for entry in errors) == off_diagonal
    assert sum(len(entry.wrong) for entry in errors) == counts[-1].sum() + sum(len(e.confused) for e in errors)
    assert [entry.cost for entry in errors] == sorted((entry.cost for entry in errors), reverse=True)


def test_only_the_best_of_each_class_count():
    box = (0, 0, 20, 20)
    truth = truth_of((1, CAT, box), (1, CAT, (50, 50, 20, 20)))
    found = found_of((1, CAT, box, 0.9), (1, CAT, (50, 50, 20, 20), 0.4), (1, DOG, box, 0.3))
    assert match_results(truth, found, max_detections=1).counted.tolist() == [True, False, True]
