"""Outlines cut at the edges of their image, so that the box round one is the box round what can be seen of it.

The upright box round an oriented box, cut at the edge, may reach much farther than the object does inside the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def clip_polygon(points: np.ndarray, size_wh: np.ndarray) -> np.ndarray:
    """What lies inside the image of a polygon `[K, 2]` (x, y) in pixels: `[L, 2]`, without a row where nothing does.

    Sutherland and Hodgman, "Reentrant polygon clipping", CACM 1974: cut at one side of the image after the other.
    """
    for axis in (0, 1):
        for limit, sign in ((0.0, 1.0), (float(size_wh[axis]), -1.0)):
            points = _cut(points, axis, limit, sign)
    return points


def twice_area(points: np.ndarray) -> float:
    """Of a polygon `[K, 2]`, by its corners; below 0 where it goes round the other way."""
    x, y = points.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def visible_box(parts: Sequence[np.ndarray], size_wh: np.ndarray) -> np.ndarray:
    """The box `[4]` xyxy round what lies inside the image of polygons `[K, 2]`; without a size where nothing does."""
    inside = [cut for part in parts if len(cut := clip_polygon(part, size_wh))]
    if not inside:
        return np.zeros(4)
    points = np.concatenate(inside)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def _cut(points: np.ndarray, axis: int, limit: float, sign: float) -> np.ndarray:
    """The part where `sign * (coordinate - limit)` is not negative."""
    depth = sign * (points[:, axis] - limit)
    if len(points) == 0 or (depth >= 0).all():
        return points
    kept: list[np.ndarray] = []
    for here, there, now, then in zip(points, np.roll(points, -1, axis=0), depth, np.roll(depth, -1), strict=True):
        if now >= 0:
            kept.append(here)
        if (now >= 0) != (then >= 0):
            crossing = here + (there - here) * (now / (now - then))
            crossing[axis] = limit  # without the rounding of the line above
            kept.append(crossing)
    return np.array(kept).reshape(-1, 2)
