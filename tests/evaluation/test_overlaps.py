"""Boxes as arrays, pairs of the same image and class, their overlap, and the table of classes."""

import numpy as np

from aweigh.evaluation.overlaps import corners, paired_iou, pairs_of_same
from aweigh.evaluation.records import class_table


def test_pairs_are_all_of_one_group_in_order() -> None:
    groups, others = np.array([3, 1, 3, 7, 1]), np.array([1, 9, 3, 1, 3, 3])
    rows, matching = pairs_of_same(groups, others)
    expected = [(row, other) for row in range(5) for other in range(6) if groups[row] == others[other]]
    assert list(zip(rows.tolist(), matching.tolist(), strict=True)) == expected
    for empty in (pairs_of_same(groups[:0], others), pairs_of_same(groups, others[:0])):
        assert [part.shape for part in empty] == [(0,), (0,)]


def test_corners_and_their_overlap() -> None:
    boxes = corners([{"bbox": [1, 2, 4, 4]}, {"bbox": [0, 0, 0, 0]}])
    assert boxes.tolist() == [[1, 2, 5, 6], [0, 0, 0, 0]] and corners([]).shape == (0, 4)
    assert corners([{"bbox": [3, 3, 2, 2]}], 1.0).tolist() == [[3, 3, 6, 6]]  # from pixel 3 to pixel 5
    assert paired_iou(boxes, np.array([[3.0, 2, 7, 6], [0, 0, 0, 0]])).tolist() == [8 / 24, 0]


def test_a_class_without_objects_is_explained() -> None:
    assert class_table(("AP", "AP50"), {"cat": (2, 0.5, 1.0), "a\nb": (0, -1.0, -1.0)}, "means") == [
        "class  objects     AP   AP50",
        "cat          2  0.500  1.000",
        "a\\nb         0      -      -",
        "(- no such object in the ground truth; left out of the means)",
    ]
    assert len(class_table(("AP",), {"cat": (2, 0.5)}, "mean")) == 2
