"""What the readers of VOC and YOLO share: the objects of one small file per picture, put together as records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aweigh.annotations.problems import Problem
from aweigh.annotations.records import Records, file_names, known_sizes, place_keypoints
from aweigh.images.reader import SUFFIXES


@dataclass(frozen=True)
class Row:
    """One object as a file has it. image: its row. box: as written. mark: "object 3", "line 3". extras: JSON.
    outline: the corners `[4, 2]` of an oriented box, in pixels."""

    image: int
    label: int
    box: Sequence[float]
    mark: str
    difficult: bool = False
    polygon: Sequence[float] | None = None
    keypoints: Sequence[float] | None = None
    extras: str = ""
    outline: np.ndarray | None = None


def records_of(
    paths: list[Path],
    declared: Sequence[Sequence[int]] | np.ndarray,
    problems: list[Problem],
    rows: list[Row],
    boxes: np.ndarray,
    shown: np.ndarray,
    said: Sequence[int],
    keypoint_names: tuple[str, ...] = (),
    skeleton: tuple[tuple[int, int], ...] = (),
) -> Records:
    """Records with images and annotations numbered from 1, images without a size left out."""
    sizes_hw = known_sizes(paths, np.array(declared, dtype=np.int64).reshape(-1, 2), problems)
    usable = np.flatnonzero((sizes_hw > 0).all(axis=1))
    new_row = np.full(len(paths), -1, dtype=np.int64)
    new_row[usable] = np.arange(len(usable))
    image_of = new_row[np.array([row.image for row in rows], dtype=np.int64)]
    kept = np.flatnonzero(image_of >= 0)
    used = [rows[row] for row in kept]
    marks = [row.mark for row in used]
    names = [paths[row.image].name for row in used]
    keypoints, num_keypoints = place_keypoints(
        [row.keypoints for row in used],
        len(keypoint_names),
        sizes_hw[usable][image_of[kept]].reshape(-1, 2),
        names,
        marks,
        problems,
    )
    return Records(
        paths=[paths[row] for row in usable],
        image_ids=np.arange(1, len(usable) + 1),
        sizes_hw=sizes_hw[usable],
        image_of=image_of[kept],
        boxes=boxes[kept],
        boxes_xywh=np.column_stack([boxes[kept, :2], boxes[kept, 2:] - boxes[kept, :2]]),
        labels=np.array([row.label for row in used], dtype=np.int64),
        crowd=np.zeros(len(used), dtype=bool),
        difficult=np.array([row.difficult for row in used], dtype=bool),
        area=np.array([_area(row.polygon) for row in used], dtype=np.float64),
        annotation_ids=np.arange(1, len(used) + 1),
        marks=marks,
        shown=shown[kept],
        said=np.array(said, dtype=np.int8)[usable],
        segmentations=[row.polygon and [row.polygon] for row in used],
        outlines=[_outlines(row) for row in used],
        keypoints=keypoints,
        num_keypoints=num_keypoints,
        keypoint_names=keypoint_names,
        skeleton=skeleton,
        extras=[row.extras for row in used],
    )


def _area(polygon: Sequence[float] | None) -> float:
    """What a polygon encloses, by its corners; NaN for none."""
    if polygon is None:
        return math.nan
    x, y = np.array(polygon).reshape(-1, 2).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _outlines(row: Row) -> list[np.ndarray]:
    """The polygons that the box of an object was drawn round."""
    if row.outline is not None:
        return [row.outline]
    return [] if row.polygon is None else [np.array(row.polygon).reshape(-1, 2)]


def pictures_by_stem(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their names without an ending, the last of each."""
    names = sorted(name for name in file_names(folder) if name.lower().endswith(SUFFIXES))
    return {Path(name).stem: folder / name for name in names}
