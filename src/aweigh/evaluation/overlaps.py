"""Boxes of COCO's records as arrays, and which of two lists belong to the same image and class, and overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aweigh.annotations.flat import ranges


def corners(records: Sequence[Mapping[str, Any]], extra: float = 0.0) -> np.ndarray:
    """`[N, 4]` float64 xyxy of each `bbox` (xywh). extra: is added to its sides."""
    boxes = np.array([record["bbox"] for record in records], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2] + extra
    return boxes


def pairs_of_same(groups: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of rows with the same number in `groups` `[D]` and `others` `[N]`: rows of both `[P]`, in order."""
    by_group = np.argsort(others, kind="stable")
    first = np.searchsorted(others[by_group], groups, side="left")
    number = np.searchsorted(others[by_group], groups, side="right") - first
    return np.repeat(np.arange(len(groups)), number), by_group[ranges(first, number)]


def paired_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Row by row, `[P, 4]`, `[P, 4]` -> `[P]`; 0 where both are empty."""
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    shared = sides.clip(0).prod(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return shared / np.where(union > 0, union, 1)
