"""Where the pixels of an image lie on the earth, as a GeoTIFF says it (OGC 19-008r4, GeoTIFF 1.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

from aweigh.images.decode import orientation
from aweigh.images.opening import MOST_PIXELS, opened

SCALE, TIE_POINTS, MATRIX, KEYS = 33550, 33922, 34264, 34735  # tags
RASTER_TYPE, GEOGRAPHIC, PROJECTED = 1025, 2048, 3072  # keys
POINT = 2  # the raster type in which whole numbers are the middles of pixels
USER_DEFINED = 32767  # a reference system that has no number


@dataclass(frozen=True, eq=False)
class Georeference:
    """matrix: `[2, 3]` float64, from `(x, y, 1)` in the pixels of the image to the reference system. epsg: the number
    of that in the registry of EPSG, None where it has none. size_hw: of the image."""

    matrix: np.ndarray
    epsg: int | None
    size_hw: tuple[int, int]

    def points(self, points: np.ndarray) -> np.ndarray:
        """`[..., 2]` (x, y) in pixels, the upper left corner of the image at (0, 0), to the reference system: east and
        north, or longitude and latitude."""
        moved: np.ndarray = points.astype(np.float64) @ self.matrix[:, :2].T + self.matrix[:, 2]
        return moved


def read_georeference(path: str | Path) -> Georeference | None:
    """That of an image file; None where it says nothing of the kind, or is to be turned by its orientation.

    `DataError` where it is no image.
    """
    with opened(Path(path), MOST_PIXELS) as image:
        if not isinstance(image, TiffImageFile) or orientation(image) != 1:
            return None
        size_hw = image.height, image.width
        tags = {tag: image.tag_v2[tag] for tag in (SCALE, TIE_POINTS, MATRIX, KEYS) if tag in image.tag_v2}
    keys = _keys(_numbers(tags, KEYS))
    matrix = _matrix(tags)
    if matrix is None:
        return None
    if keys.get(RASTER_TYPE) == POINT:
        matrix[:, 2] -= matrix[:, :2] @ (0.5, 0.5)
    epsg = keys.get(PROJECTED, keys.get(GEOGRAPHIC, USER_DEFINED))
    return Georeference(matrix, epsg if epsg != USER_DEFINED else None, size_hw)


def _matrix(tags: Mapping[int, Any]) -> np.ndarray | None:
    """From pixels, as the raster type counts them; None where the tags say none."""
    matrix, scale, tie = (_numbers(tags, tag) for tag in (MATRIX, SCALE, TIE_POINTS))
    if len(matrix) == 16:
        found = np.array([[matrix[0], matrix[1], matrix[3]], [matrix[4], matrix[5], matrix[7]]])
    elif len(scale) >= 2 and len(tie) == 6:  # several tie points have no matrix
        (across, down), (column, row, _, x, y, _) = scale[:2], tie
        found = np.array([[across, 0, x - across * column], [0, -down, y + down * row]])
    else:
        return None
    return found if np.isfinite(found).all() and np.linalg.det(found[:, :2]) else None


def _keys(directory: tuple[float, ...]) -> dict[int, int]:
    """The keys that hold a number: four numbers each, behind a head of four."""
    entries = zip(*(map(int, directory[first::4]) for first in range(4, 8)))
    return {key: value for key, place, _, value in entries if place == 0}


def _numbers(tags: Mapping[int, Any], tag: int) -> tuple[float, ...]:
    values = tags.get(tag, ())
    values = values if isinstance(values, tuple) else (values,)
    return values if all(isinstance(value, int | float) and math.isfinite(value) for value in values) else ()
