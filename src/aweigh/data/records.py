"""What the readers of all layouts share: records as found, the judgement of their boxes, sizes, classes.

Legend: I images, M annotations as read (before bad ones are dropped), N annotations that are used.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.data import check
from aweigh.data.check import SKIPPED, Problem
from aweigh.data.images import read_size
from aweigh.data.split import PathList, Split, coco_entry
from aweigh.errors import DataError, UsageError, did_you_mean
from aweigh.structures import Classes

NOT_WANTED, UNKNOWN = -2, -1  # labels of annotations that are left out: by the user's choice, or because unknown


@dataclass(frozen=True, eq=False)
class Records:
    """What a reader found, before any box is judged.

    paths, image_ids `[I]`, sizes_hw `[I, 2]`: the images that exist. image_of: `[M]`, rows of the images. boxes: `[M,
    4]` float64 xyxy. boxes_xywh: the same as the source has them. labels: `[M]`, already valid. crowd, difficult:
    `[M]` bool. area: `[M]`, NaN where not given. annotation_ids: `[M]`. marks: how each is called in a problem (id
    or "line 3"). shown: its box as the source writes it.
    """

    paths: Sequence[Path]
    image_ids: np.ndarray
    sizes_hw: np.ndarray
    image_of: np.ndarray
    boxes: np.ndarray
    boxes_xywh: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    area: np.ndarray
    annotation_ids: np.ndarray
    marks: Sequence[int | str]
    shown: Sequence[str] | np.ndarray


def build_split(
    records: Records, *, name: str, layout: str, root: Path, classes: Classes, problems: list[Problem]
) -> Split:
    """Judge the boxes, sort them by image and put everything into flat arrays."""
    sizes = records.sizes_hw[records.image_of].reshape(-1, 2)
    clipped, good, found = check.clean_boxes(records.boxes, sizes)
    problems = list(problems)
    for row, kind, action in found:
        height, width = sizes[row].tolist()
        shown = records.shown[row]
        box = shown if isinstance(shown, str) else str([round(value, 4) for value in shown.tolist()])
        left, top, right, bottom = records.boxes[row].tolist()
        problems.append(
            Problem(
                kind,
                records.paths[int(records.image_of[row])].name,
                records.marks[row],
                f"{box} in an image of {width} x {height}",
                action,
                (left, top, right, bottom),
            )
        )
    kept = np.flatnonzero(good)
    kept = kept[np.argsort(records.image_of[kept], kind="stable")]
    counts = np.bincount(records.image_of[kept], minlength=len(records.image_ids))
    with np.errstate(invalid="ignore", over="ignore"):  # of boxes that are no numbers, and not used
        area = np.where(records.area > 0, records.area, records.boxes_xywh[:, 2:].prod(axis=1))  # [M]
    ignore = records.crowd | records.difficult
    evaluation_only = [
        coco_entry(
            int(records.annotation_ids[row]),
            int(records.image_ids[records.image_of[row]]),
            classes.ids[int(records.labels[row])],
            records.boxes_xywh[row].tolist(),
            float(area[row]),
            bool(ignore[row]),
            bool(records.crowd[row]),
        )
        for row, _, action in found
        if action == check.UNLEARNED
    ]
    return Split(
        name=name,
        layout=layout,
        root=root,
        classes=classes,
        paths=PathList.of(records.paths),
        image_ids=records.image_ids,
        sizes_hw=records.sizes_hw,
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=clipped[kept].astype(np.float32),
        labels=records.labels[kept],
        ignore=ignore[kept],
        crowd=records.crowd[kept],
        area=area[kept],
        annotation_ids=records.annotation_ids[kept],
        source_boxes_xywh=records.boxes_xywh[kept],
        problems=problems,
        evaluation_only=evaluation_only,
    )


def choose_classes(
    names: list[str], ids: list[int], wanted: Sequence[str] | None, where: Path
) -> tuple[Classes, dict[str, int]]:
    """The classes to use, and the label of each name in the data (`NOT_WANTED` for those left out)."""
    if wanted is None:
        return Classes(tuple(names), tuple(ids)), {name: label for label, name in enumerate(names)}
    for name in wanted:
        if name not in names:
            raise UsageError(
                f"{where}: the data have no class {name!r}, only {some_of(names)}.{did_you_mean(name, names)}"
            )
    label_of = {name: NOT_WANTED for name in names} | {name: label for label, name in enumerate(wanted)}
    return Classes(tuple(wanted), tuple(ids[names.index(name)] for name in wanted)), label_of


def known_sizes(paths: Sequence[Path | None], declared: np.ndarray, problems: list[Problem]) -> np.ndarray:
    """Height and width `[I, 2]`: as declared, else from the file's header; 0 for pictures that cannot be used."""
    sizes = declared.astype(np.int64)
    sizes[[path is None for path in paths]] = 0
    unknown = [int(row) for row in np.flatnonzero((sizes <= 0).any(axis=1)) if paths[int(row)] is not None]

    def look(row: int) -> tuple[int, int] | DataError:
        try:
            return read_size(paths[row])  # type: ignore[arg-type]
        except DataError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        for row, size in zip(unknown, pool.map(look, unknown), strict=True):
            if isinstance(size, DataError):
                path = paths[row]
                problems.append(Problem("image unreadable", path.name if path else "", None, str(size), SKIPPED))
                sizes[row] = 0
            else:
                sizes[row] = size
    return sizes


def file_names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()


def as_number(value: Any, default: float = float("nan")) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return default


def some_of(values: list[Any], count: int = 12) -> str:
    shown = ", ".join(str(value) for value in values[:count])
    return f"{shown} and {len(values) - count} more" if len(values) > count else shown or "none"
