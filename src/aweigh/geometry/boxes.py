"""Boxes as arrays: how much they overlap, and which of several that overlap are kept.

Boxes are `[N, 4]` `(x0, y0, x1, y1)` in pixels, right and bottom exclusive. Overlaps are computed in float64. Pairwise
functions take `[N, 4]` and `[M, 4]` and give `[N, M]`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from aweigh.arguments import NMS

PORTION = 64  # boxes that are compared with better ones at a time: the fastest of 32, 64, 100 and 128


class Suppression(Protocol):
    """The fields of a detector's `selection` that say what is kept of overlapping boxes, and how many at most."""

    @property
    def nms(self) -> NMS: ...
    @property
    def nms_threshold(self) -> float: ...
    @property
    def max_detections(self) -> int: ...


def areas(boxes: np.ndarray) -> np.ndarray:
    """Width times height, `[N]` float64; inverted boxes, and those with a NaN, have area zero."""
    sides = np.fmax(boxes[..., 2:] - boxes[..., :2].astype(np.float64), 0)
    product: np.ndarray = sides[..., 0] * sides[..., 1]
    return product


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union, 0 where both are empty."""
    return _iou(boxes[:, None], others[None])


def pairwise_share(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The share of the area of each of `[N, 4]` that lies in each of `[M, 4]`; 0 for an empty box."""
    shared, whole = intersections(boxes, others), areas(boxes)[:, None]
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def intersections(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The areas that boxes share."""
    return _shared(boxes[:, None], others[None])


def _iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """`pairwise_iou` of boxes `[..., 4]` that stand against each other."""
    shared = _shared(boxes, others)
    union = areas(boxes) + areas(others) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _shared(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    first, second = boxes.astype(np.float64), others.astype(np.float64)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    sides = np.fmax(sides, 0)  # of a NaN too
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
    most = len(scores) if most is None else most
    if method == "soft":
        return _soft(boxes, scores, labels, sigma, min_score, most)
    order = np.argsort(-scores, kind="stable")  # of equal scores the first
    order = order[scores[order] > 0]
    if method != "none":
        groups = labels if method == "class" else np.zeros_like(labels)
        order = _best_of_each_place(boxes, groups, order, iou_threshold, most)
    return order[:most], scores[order[:most]]


def _best_of_each_place(
    boxes: np.ndarray, groups: np.ndarray, order: np.ndarray, iou_threshold: float, most: int
) -> np.ndarray:
    """Of rows `[M]`, best first, those that no better one of their group covers: `[K]`, at most `most`.

    They are compared in portions: those of one group with each other, and with what is kept of the portions before.
    """
    kept = order[:0]
    for start in range(0, len(order), PORTION):
        rows = order[start : start + PORTION]
        better = np.concatenate([kept, rows])
        first, second = np.nonzero(np.triu(groups[better, None] == groups[rows], 1 - len(kept)))
        covers = np.zeros((len(better), len(rows)), dtype=bool)
        covers[first, second] = _iou(boxes[better[first]], boxes[rows[second]]) > iou_threshold
        free = ~np.logical_or.reduce(covers[: len(kept)], axis=0)
        for row in np.flatnonzero(covers[len(kept) :].any(axis=1)):
            if free[row]:
                free &= ~covers[len(kept) + row]
        kept = np.concatenate([kept, rows[free]])
        if len(kept) >= most:
            break
    return kept[:most]


def _soft(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, sigma: float, min_score: float, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Take the best and lower its neighbours, until none is left or there are `most`."""
    remaining = np.where(scores >= min_score, scores, 0)
    kept: list[int] = []
    lowered: list[float] = []
    while remaining.any() and len(kept) < most:
        best = int(remaining.argmax())
        kept.append(best)
        lowered.append(float(remaining[best]))
        overlaps = np.where(labels == labels[best], pairwise_iou(boxes[best][None], boxes)[0], 0)
        remaining = remaining * np.exp(-np.square(overlaps) / sigma).astype(scores.dtype)
        remaining[remaining < min_score] = 0
        remaining[best] = 0
    return np.array(kept, dtype=np.int64), np.array(lowered, dtype=scores.dtype)
