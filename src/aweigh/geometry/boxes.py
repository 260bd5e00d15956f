"""Boxes as arrays: how much they overlap, and which of several that overlap are kept.

Boxes are `[N, 4]` `(x0, y0, x1, y1)` in pixels, right and bottom exclusive. Overlaps are computed in float64. Pairwise
functions take `[N, 4]` and `[M, 4]` and give `[N, M]`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

NMS = Literal["class", "agnostic", "soft", "none"]


def areas(boxes: np.ndarray) -> np.ndarray:
    """Width times height, `[N]` float64; inverted boxes have area zero."""
    sides: np.ndarray = (boxes[..., 2:] - boxes[..., :2].astype(np.float64)).clip(min=0)
    return sides[..., 0] * sides[..., 1]


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union, 0 where both are empty."""
    shared = intersections(boxes, others)
    union = areas(boxes)[:, None] + areas(others)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def pairwise_share(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The share of the area of each of `[N, 4]` that lies in each of `[M, 4]`; 0 for an empty box."""
    shared, whole = intersections(boxes, others), areas(boxes)[:, None]
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def intersections(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The areas that boxes share."""
    first, second = boxes[:, None].astype(np.float64), others[None].astype(np.float64)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    sides = sides.clip(min=0)
    product: np.ndarray = sides[..., 0] * sides[..., 1]
    return product


def suppress(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    iou_threshold: float,
    method: NMS = "class",
    most: int | None = None,
    sigma: float = 0.5,
    min_score: float = 1e-3,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are kept of boxes that overlap, best first `[K]`, and their scores `[K]`.

    boxes `[N, 4]`, scores `[N]`, labels `[N]`; a row of score 0 is never kept. method: `"class"` keeps the best of the
    boxes of one class whose IoU is above `iou_threshold`, `"agnostic"` of all, `"none"` keeps every box. `"soft"`
    lowers the score of a same-class neighbour by `exp(-iou^2 / sigma)` (Bodla et al. 2017, equation 3) and drops it
    below `min_score`. most: how many are kept.
    """
    groups = np.zeros_like(labels) if method == "agnostic" else labels
    remaining = scores.copy()
    lowest = min_score if method == "soft" else 0.0
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    found: list[float] = []
    while len(kept) < (len(scores) if most is None else most):
        best = int(order[remaining[order].argmax()]) if len(order) else 0
        if not len(order) or remaining[best] <= 0 or remaining[best] < lowest:
            break
        kept.append(best)
        found.append(float(remaining[best]))
        order = order[order != best]
        rivals = order[groups[order] == groups[best]] if method != "none" else order[:0]
        overlaps = pairwise_iou(boxes[best][None], boxes[rivals])[0]
        if method == "soft":
            remaining[rivals] *= np.exp(-np.square(overlaps) / sigma).astype(scores.dtype)
        else:
            order = order[~np.isin(order, rivals[overlaps > iou_threshold])]
    return np.array(kept, dtype=np.int64), np.array(found, dtype=scores.dtype)
