"""Comparing detections of two implementations, or of two ways to the same answer."""

import numpy as np
from numpy.typing import ArrayLike


def assert_same_detections(
    found: tuple[ArrayLike, ArrayLike, ArrayLike],
    expected: tuple[ArrayLike, ArrayLike, ArrayLike],
    *,
    box_tolerance: float = 0.01,
    score_tolerance: float = 1e-5,
) -> np.ndarray:
    """Assert that both hold the same rows, where rounding may decide which of two equal scores comes first.

    found, expected: boxes `[N, 4]` in pixels, scores `[N]`, best first, labels `[N]`, arrays or tensors. Every expected
    row needs a row of its own among those found, of its label, its score and its box. Processors add in different
    orders, so that of scores that differ in their last bits now one and now the other is the larger. Returns these rows
    `[N]`.
    """
    boxes, scores, labels = map(np.asarray, found)
    expected_boxes, expected_scores, expected_labels = map(np.asarray, expected)
    assert len(boxes) == len(expected_boxes)
    np.testing.assert_allclose(scores, expected_scores, atol=score_tolerance, rtol=0)
    assert (np.diff(scores) <= 0).all()
    left, rows = np.ones(len(boxes), bool), list[int]()
    for row, (box, score, label) in enumerate(zip(expected_boxes, expected_scores, expected_labels, strict=True)):
        alike = left & (labels == label) & (np.abs(scores - score) <= score_tolerance)
        distance = np.where(alike, np.abs(boxes - box).max(axis=1), np.inf)  # [N] pixels
        nearest = int(distance.argmin())
        assert distance[nearest] <= box_tolerance, (
            f"row {row} (score {score}, label {label}, box {box.tolist()}) is not among the rows found; "
            f"the nearest is {distance[nearest]} px away"
        )
        left[nearest] = False
        rows.append(nearest)
    return np.array(rows, np.int64)
