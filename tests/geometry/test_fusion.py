"""Weighted box fusion: by hand, against the paper's steps written out with lists, and what its authors' code gives."""

import numpy as np
import pytest

from aweigh.geometry.fusion import weighted_box_fusion


def test_two_boxes_by_hand() -> None:
    boxes = np.array([[10, 10, 20, 20], [12, 10, 22, 20], [50, 50, 60, 60]], np.float32)
    scores, labels = np.array([0.6, 0.2, 0.9], np.float32), np.array([1, 1, 1])
    fused, confidence, index = weighted_box_fusion(boxes, scores, labels, predictions=2)
    # The first two have an IoU of 80 / 120; their mean is a quarter of the way from the first to the second.
    np.testing.assert_allclose(fused, [[50.0, 50, 60, 60], [10.5, 10, 20.5, 20]], rtol=1e-6)
    np.testing.assert_allclose(confidence, [0.9 / 2, 0.4], rtol=1e-6)  # one of two predictions found the other one
    assert index.tolist() == [2, 0]


def test_more_boxes_than_predictions_do_not_raise_the_score() -> None:
    boxes = np.array([[0, 0, 10, 10]] * 3, np.float32)
    _, scores, _ = weighted_box_fusion(
        boxes, np.array([0.9, 0.6, 0.3], np.float32), np.zeros(3, np.int64), predictions=2
    )
    np.testing.assert_allclose(scores, [0.6], rtol=1e-6)


def test_classes_are_apart_and_empty_rows_nothing() -> None:
    boxes = np.array([[0, 0, 10, 10]] * 3, np.float32)
    fused, scores, index = weighted_box_fusion(
        boxes, np.array([0.4, 0.0, 0.8], np.float32), np.array([0, 0, 1]), predictions=1
    )
    assert fused.tolist() == boxes[:2].tolist() and index.tolist() == [2, 0]
    np.testing.assert_allclose(scores, [0.8, 0.4], rtol=1e-6)
    nothing = weighted_box_fusion(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), predictions=3
    )
    assert [part.shape for part in nothing] == [(0, 4), (0,), (0,)]
    assert [part.dtype for part in nothing] == [np.float32, np.float32, np.int64]


def test_equals_the_authors_code_on_the_example_of_their_readme() -> None:
    """Expected: what `weighted_boxes_fusion` of ensemble-boxes 1.0.9 gives, two models of equal weight, IoU 0.55."""
    boxes = np.array([
        [0.00, 0.51, 0.81, 0.91], [0.10, 0.31, 0.71, 0.61], [0.01, 0.32, 0.83, 0.93], [0.02, 0.53, 0.11, 0.94],
        [0.03, 0.24, 0.12, 0.35], [0.04, 0.56, 0.84, 0.92], [0.12, 0.33, 0.72, 0.64], [0.38, 0.66, 0.79, 0.95],
        [0.08, 0.49, 0.21, 0.89],
    ], np.float32)  # fmt: skip
    scores, labels = (
        np.array([0.9, 0.8, 0.2, 0.4, 0.7, 0.5, 0.8, 0.7, 0.3], np.float32),
        np.array([0, 1, 0, 1, 1, 1, 1, 1, 0]),
    )
    fused, confidence, index = weighted_box_fusion(boxes, scores, labels, predictions=2)
    expected = np.array([
        [0.11, 0.32, 0.715, 0.625], [0.001818, 0.475455, 0.813636, 0.913636], [0.03, 0.24, 0.12, 0.35],
        [0.38, 0.66, 0.79, 0.95], [0.04, 0.56, 0.84, 0.92], [0.02, 0.53, 0.11, 0.94], [0.08, 0.49, 0.21, 0.89],
    ])  # fmt: skip
    np.testing.assert_allclose(fused, expected, atol=1e-6, rtol=0)
    np.testing.assert_allclose(confidence, [0.8, 0.55, 0.35, 0.35, 0.25, 0.2, 0.15], rtol=1e-6)
    assert labels[index].tolist() == [1, 0, 1, 1, 1, 1, 0]


def slow_fusion(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, predictions: int, threshold: float
) -> list[tuple[float, int, list[float], int]]:
    """Section 3 of the paper step by step: score, class, corners and best row of each fused box, best first."""

    def fuse(rows: list[int]) -> list[float]:
        total = sum(float(scores[row]) for row in rows)
        return [sum(float(scores[row]) * float(boxes[row, side]) for row in rows) / total for side in range(4)]

    def overlap(one: list[float], other: list[float]) -> float:
        common = 1.0
        for low, high in ((0, 2), (1, 3)):
            common *= max(0.0, min(one[high], other[high]) - max(one[low], other[low]))
        area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
        return common / (area - common)

    clusters: list[list[int]] = []
    for row in sorted(range(len(scores)), key=lambda row: -float(scores[row])):
        best, place = threshold, None
        for number, cluster in enumerate(clusters):
            if labels[cluster[0]] == labels[row] and (iou := overlap(fuse(cluster), boxes[row].tolist())) > best:
                best, place = iou, number
        if place is None:
            clusters.append([row])
        else:
            clusters[place].append(row)
    made = []
    for rows in clusters:
        mean = sum(float(scores[row]) for row in rows) / len(rows)
        confidence = mean * min(len(rows), predictions) / predictions
        made.append((confidence, int(labels[rows[0]]), fuse(rows), rows[0]))
    return sorted(made, key=lambda entry: -entry[0])


@pytest.mark.parametrize(("count", "predictions", "threshold"), [(60, 1, 0.3), (90, 3, 0.55), (120, 5, 0.1)])
def test_equals_the_steps_of_the_paper(count: int, predictions: int, threshold: float) -> None:
    random = np.random.default_rng(count)
    corners = random.random((count, 2), np.float32) * 40
    boxes = np.concatenate([corners, corners + 30 + random.random((count, 2), np.float32) * 20], axis=1)
    scores = random.random(count, np.float32) * np.float32(0.99) + np.float32(0.005)
    labels = random.integers(0, 3, count)
    expected = slow_fusion(boxes, scores, labels, predictions, threshold)
    assert len(expected) < 0.8 * count  # there is something to fuse
    fused, confidence, index = weighted_box_fusion(
        boxes, scores, labels, predictions=predictions, iou_threshold=threshold
    )
    np.testing.assert_allclose(confidence, [entry[0] for entry in expected], rtol=1.3e-6, atol=1e-5)
    assert labels[index].tolist() == [entry[1] for entry in expected]
    np.testing.assert_allclose(fused, [entry[2] for entry in expected], rtol=1.3e-6, atol=1e-5)
    assert index.tolist() == [entry[3] for entry in expected]
