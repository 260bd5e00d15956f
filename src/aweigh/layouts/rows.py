"""What the readers of boxes share: the objects of images, put together as records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aweigh.annotations.exif_frames import settle_frames
from aweigh.annotations.outlines import twice_area
from aweigh.annotations.problems import DROPPED, Problem
from aweigh.annotations.records import Records, file_names, known_sizes, place_keypoints
from aweigh.errors import DataError
from aweigh.files import read_text
from aweigh.images.reader import SUFFIXES


@dataclass(frozen=True)
class Row:
    """One object as a file has it. image: its row. box: as written. mark: "object 3", "line 3". polygons: its outlines
    `[K, 2]`. corners: `[4, 2]` of an oriented box, which is no mask. extras: JSON."""

    image: int
    label: int
    box: Sequence[float]
    mark: str
    difficult: bool = False
    polygons: Sequence[np.ndarray] = ()
    keypoints: Sequence[float] | None = None
    extras: str = ""
    corners: np.ndarray | None = None


def records_of(
    paths: Sequence[Path],
    declared: Sequence[Sequence[int]] | np.ndarray,
    said: Sequence[int],
    rows: Sequence[Row],
    problems: list[Problem],
    *,
    boxes: np.ndarray | None = None,
    keypoint_names: tuple[str, ...] = (),
    skeleton: tuple[tuple[int, int], ...] = (),
) -> Records:
    """Records with images and annotations numbered from 1, images without a size left out.

    declared: height and width of each image, 0 where not known. said: whether it was looked at. boxes: `[M, 4]` xyxy in
    pixels, where they are not as they are written.
    """
    shown = written(rows)
    boxes = shown if boxes is None else boxes
    sizes_hw = known_sizes(paths, np.array(declared, dtype=np.int64).reshape(-1, 2), problems)
    usable = np.flatnonzero((sizes_hw > 0).all(axis=1))
    new_row = np.full(len(paths), -1, dtype=np.int64)
    new_row[usable] = np.arange(len(usable))
    image_of = new_row[np.array([row.image for row in rows], dtype=np.int64)]
    kept = np.flatnonzero(image_of >= 0)
    used = [rows[row] for row in kept.tolist()]
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
        paths=[paths[row] for row in usable.tolist()],
        image_ids=np.arange(1, len(usable) + 1),
        sizes_hw=sizes_hw[usable],
        image_of=image_of[kept],
        boxes=boxes[kept],
        boxes_xywh=np.column_stack([boxes[kept, :2], boxes[kept, 2:] - boxes[kept, :2]]),
        labels=np.array([row.label for row in used], dtype=np.int64),
        crowd=np.zeros(len(used), dtype=bool),
        difficult=np.array([row.difficult for row in used], dtype=bool),
        uncertain=np.zeros(len(used), dtype=bool),
        area=np.array([_area(row.polygons) for row in used], dtype=np.float64),
        annotation_ids=np.arange(1, len(used) + 1),
        marks=marks,
        shown=shown[kept],
        said=np.array(said, dtype=np.int8)[usable],
        segmentations=[[part.reshape(-1).tolist() for part in row.polygons] for row in used],
        outlines=[row.polygons if row.corners is None else (row.corners,) for row in used],
        keypoints=keypoints,
        num_keypoints=num_keypoints,
        keypoint_names=keypoint_names,
        skeleton=skeleton,
        extras=[row.extras for row in used],
    )


def written(rows: Sequence[Row]) -> np.ndarray:
    """`[M, 4]` float64: the boxes as the files have them."""
    return np.array([row.box for row in rows], dtype=np.float64).reshape(-1, 4)


def settled(records: Records, problems: list[Problem]) -> Records:
    """The records with the sizes of the images as they were drawn on, see `settle_frames`."""
    sizes_hw = settle_frames(records.paths, records.sizes_hw, records.image_of, records.boxes, problems)
    return replace(records, sizes_hw=sizes_hw)


def _area(polygons: Sequence[np.ndarray]) -> float:
    """What polygons enclose, by their corners; NaN for none."""
    return sum(abs(twice_area(part)) / 2 for part in polygons) if polygons else math.nan


def label_lines(file: Path, problems: list[Problem]) -> list[tuple[str, str]]:
    """The lines of a label file that say something, each behind its name ("line 3"); none where it cannot be read."""
    try:
        lines = read_text(file).splitlines()
    except DataError as error:
        problems.append(Problem("label file unreadable", file.name, None, str(error), DROPPED))
        return []
    return [(f"line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]


def pictures_by_stem(folder: Path) -> dict[str, Path]:
    """The images of a folder by their names without an ending, the last of each."""
    names = sorted(name for name in file_names(folder) if name.lower().endswith(SUFFIXES))
    return {Path(name).stem: folder / name for name in names}
