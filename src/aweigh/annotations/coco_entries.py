"""Annotations as COCO writes them: the entry of one object, and numbers with as many digits as they need."""

from __future__ import annotations

from typing import Any

import numpy as np


def coco_entry(
    number: int,
    image_id: int,
    category_id: int,
    box_xywh: list[float],
    area: float,
    ignore: bool,
    crowd: bool,
    uncertain: bool = False,
) -> dict[str, Any]:
    """One annotation of ground truth."""
    entry = {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box_xywh,
        "area": area,
        "iscrowd": int(ignore),
        "ignore": int(ignore),
        "difficult": int(ignore and not crowd and not uncertain),
    }
    return entry | ({"uncertain": True} if uncertain else {})


def decimals(values: np.ndarray) -> list[list[Any]]:
    """Rows of float32 pixels as numbers to write: whole ones without a point, others to the fourth decimal."""
    whole = (values == np.rint(values)).all(axis=1)
    rounded = values.astype(np.float64).round(4)
    return [(row.astype(np.int64) if exact else row).tolist() for row, exact in zip(rounded, whole, strict=True)]
