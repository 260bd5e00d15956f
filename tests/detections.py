"""Comparing detections of two implementations, or of two ways to the same answer."""

import torch
from torch import Tensor


def assert_same_detections(
    found: tuple[Tensor, Tensor, Tensor],
    expected: tuple[Tensor, Tensor, Tensor],
    *,
    box_tolerance: float = 0.01,
    score_tolerance: float = 1e-5,
) -> torch.Tensor:
    """Assert that both hold the same rows, where rounding may decide which of two equal scores comes first.

    found, expected: boxes `[N, 4]` in pixels, scores `[N]`, best first, labels `[N]`. Every expected row needs a row of
    its own among those found, of its label, its score and its box. Processors add in different orders, so that of
    scores that differ in their last bits now one and now the other is the larger. Returns these rows `[N]`.
    """
    boxes, scores, labels = found
    expected_boxes, expected_scores, expected_labels = expected
    assert len(boxes) == len(expected_boxes)
    torch.testing.assert_close(scores, expected_scores, atol=score_tolerance, rtol=0)
    assert (scores.diff() <= 0).all()
    left, rows = torch.ones(len(boxes), dtype=torch.bool), list[int]()
    for row, (box, score, label) in enumerate(zip(expected_boxes, expected_scores, expected_labels, strict=True)):
        alike = left & (labels == label) & ((scores - score).abs() <= score_tolerance)
        distance = torch.where(alike, (boxes - box).abs().amax(dim=1), torch.inf)  # [N] pixels
        nearest = int(distance.argmin())
        assert distance[nearest] <= box_tolerance, (
            f"row {row} (score {float(score)}, label {int(label)}, box {box.tolist()}) is not among the rows found; "
            f"the nearest is {float(distance[nearest])} px away"
        )
        left[nearest] = False
        rows.append(nearest)
    return torch.tensor(rows, dtype=torch.int64)
