"""What the readers of all layouts share: records as found, the judgement of their boxes, sizes, classes.

Legend: I images, M annotations as read (before bad ones are dropped), N annotations that are used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.annotations.coco_entries import coco_entry, decimals
from aweigh.annotations.flat import Packed, offsets
from aweigh.annotations.masks import FARTHEST, NONE, Masks
from aweigh.annotations.outlines import visible_box
from aweigh.annotations.problems import (
    CHANGED,
    DROPPED,
    NO_PLACE,
    SKIPPED,
    UNLEARNED,
    Problem,
    clean_boxes,
    in_order,
)
from aweigh.annotations.split import LABELS_LOST, REVIEWED, LabelSets, Split
from aweigh.classes import Classes
from aweigh.errors import UNPRINTABLE, DataError, UsageError, counted, did_you_mean, some_of
from aweigh.images.reader import read_size

NOT_WANTED, UNKNOWN = -2, -1  # labels of annotations that are left out: by the user's choice, or because unknown
NEAR_EDGE = 1.0  # pixels: a keypoint so little beyond the edge is the rounding of some tool
SAME_SHAPE = 0.01  # relative: an image stored at another size than declared is of the same shape within this
MAX_CLASSES = 10_000  # ours: eight times as many as LVIS has; a higher number in a label file is no class


class EmptySplit(DataError):
    """A split that the data name, in which there is no image that can be used."""


@dataclass(frozen=True, eq=False)
class Records:
    """What a reader found, before any box is judged.

    paths, image_ids `[I]`, sizes_hw `[I, 2]`: the images that exist. image_of: `[M]`, rows of the images. boxes: `[M,
    4]` float64 xyxy. boxes_xywh: the same as the source has them. labels: `[M]`, already valid. crowd, difficult,
    uncertain: `[M]` bool. area: `[M]`, NaN where not given. annotation_ids: `[M]`. marks: how each is called in a
    problem (id or "line 3"). shown: its box as the source writes it; fractions: in those of the image, not in pixels.

    said: `[I]` int8, whether an image was looked at, where the source says so (`NOT_SAID` otherwise), `LABELS_LOST`
    where the reader had to leave out an annotation of it. segmentations: masks as COCO writes them. keypoints: `[M, K,
    3]` float32; num_keypoints: `[M]`. image_extras, extras: what else the source says, as JSON. cuboids: `[M, 7]`
    float32, see `Split`; cameras: `[I, 3, 4]` float64. outlines: of each box the polygons `[K, 2]` in pixels that it
    was drawn round, if any.
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
    uncertain: np.ndarray
    area: np.ndarray
    annotation_ids: np.ndarray
    marks: Sequence[int | str]
    shown: Sequence[str] | np.ndarray
    said: np.ndarray
    fractions: bool = False
    segmentations: Sequence[Any] | None = None
    outlines: Sequence[Sequence[np.ndarray]] | None = None
    keypoints: np.ndarray | None = None
    num_keypoints: np.ndarray | None = None
    cuboids: np.ndarray | None = None
    cameras: np.ndarray | None = None
    image_extras: Sequence[str] | None = None
    extras: Sequence[str] | None = None
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    header: dict[str, Any] = field(default_factory=dict)
    label_sets: LabelSets | None = None

    @property
    def ignore(self) -> np.ndarray:
        """`[M]` bool: what is no object to find."""
        return self.crowd | self.difficult | self.uncertain


def build_split(
    records: Records, *, name: str, layout: str, root: Path, classes: Classes, problems: list[Problem]
) -> Split:
    """Judge the boxes, sort them by image and put everything into flat arrays."""
    sizes = records.sizes_hw[records.image_of].reshape(-1, 2)
    seen = _seen(records, sizes)
    clipped, good, found = clean_boxes(records.boxes, sizes, seen)
    as_read, records = records.boxes, _with_corners_in_order(records)
    if seen is not None:  # such a box was not written by anybody, but drawn round what is: it is the one that is seen
        outlined = np.isfinite(seen).all(axis=1)
        found = [(row, kind, DROPPED if outlined[row] and not good[row] else action) for row, kind, action in found]
        visible = (outlined & good)[:, None]
        of_seen = np.column_stack([seen[:, :2], seen[:, 2:] - seen[:, :2]])
        records = replace(records, boxes_xywh=np.where(visible, of_seen, records.boxes_xywh))
    problems = [*problems, *_box_problems(records, as_read, sizes, found)]
    kept = np.flatnonzero(good)
    kept = kept[np.argsort(records.image_of[kept], kind="stable")]
    counts = np.bincount(records.image_of[kept], minlength=len(records.image_ids))
    records = replace(records, area=_areas(records))
    masks = _masks(records, sizes, problems)
    return Split(
        name=name,
        layout=layout,
        root=root,
        classes=classes,
        paths=Packed.of(records.paths, Path),
        image_ids=records.image_ids,
        sizes_hw=records.sizes_hw,
        first=offsets(counts),
        boxes=clipped[kept].astype(np.float32),
        labels=records.labels[kept],
        ignore=records.ignore[kept],
        crowd=records.crowd[kept],
        area=records.area[kept],
        annotation_ids=records.annotation_ids[kept],
        source_boxes_xywh=records.boxes_xywh[kept],
        problems=problems,
        evaluation_only=[_unlearned(records, row, classes, masks) for row, _, act in found if act == UNLEARNED],
        reviewed=_reviewed(records, found, counts),
        masks=None if masks is None else masks.take(kept),
        keypoints=None if records.keypoints is None else records.keypoints[kept],
        num_keypoints=None if records.num_keypoints is None else records.num_keypoints[kept],
        keypoint_names=records.keypoint_names,
        skeleton=records.skeleton,
        label_sets=records.label_sets,
        image_extras=_packed(records.image_extras),
        extras=_packed(records.extras and [records.extras[row] for row in kept.tolist()]),
        header=records.header,
        uncertain=records.uncertain[kept],
        cuboids=None if records.cuboids is None else records.cuboids[kept],
        cameras=records.cameras,
    )


def _box_problems(
    records: Records, as_read: np.ndarray, sizes_hw: np.ndarray, found: Sequence[tuple[int, str, str]]
) -> list[Problem]:
    """What was found wrong with boxes, each box as its source has it. as_read: `[M, 4]` xyxy."""
    problems = []
    for row, kind, action in found:
        height, width = sizes_hw[row].tolist()
        shown = records.shown[row]
        box = shown if isinstance(shown, str) else str([round(value, 4) for value in shown.tolist()])
        left, top, right, bottom = as_read[row].tolist()
        if records.fractions:
            box += f" as fractions, {[round(value, 1) for value in (left, top, right, bottom)]} in pixels,"
        where, detail = records.paths[int(records.image_of[row])].name, f"{box} in an image of {width} x {height}"
        problems.append(Problem(kind, where, records.marks[row], detail, action, (left, top, right, bottom)))
    return problems


def _packed(texts: Sequence[str] | None) -> Packed[str] | None:
    """None where no text says anything."""
    return Packed.of(texts, str) if texts and any(texts) else None


def _areas(records: Records) -> np.ndarray:
    """`[M]`: as the source has them, else those of the boxes."""
    with np.errstate(invalid="ignore", over="ignore"):  # of boxes that are no numbers, and not used
        sides = np.clip(records.boxes_xywh[:, 2:], -FARTHEST, FARTHEST)  # so that their product stays a number
        given = (records.area > 0) & np.isfinite(records.area)
        return np.where(given, records.area, sides.prod(axis=1))


def _with_corners_in_order(records: Records) -> Records:
    """The records with the left top corner of each box first, whichever the source has first."""
    ordered, exchanged = in_order(records.boxes)
    xywh = np.column_stack([ordered[:, :2], ordered[:, 2:] - ordered[:, :2]])
    mended = np.where(exchanged[:, None], xywh, records.boxes_xywh)
    return replace(records, boxes=np.where(exchanged[:, None], ordered, records.boxes), boxes_xywh=mended)


def _seen(records: Records, sizes_hw: np.ndarray) -> np.ndarray | None:
    """`[M, 4]`: of outlines over the edge the box round what the image shows of them, NaN for all others."""
    if records.outlines is None:
        return None
    seen = np.full((len(records.boxes), 4), np.nan)
    limits = sizes_hw[:, ::-1].astype(np.float64)
    over = (records.boxes[:, :2] < 0).any(axis=1) | (records.boxes[:, 2:] > limits).any(axis=1)
    for row in np.flatnonzero(over & (np.abs(records.boxes) <= FARTHEST).all(axis=1)).tolist():
        if records.outlines[row]:
            seen[row] = visible_box(records.outlines[row], limits[row])
    return seen


def _reviewed(records: Records, found: Sequence[tuple[int, str, str]], counts: np.ndarray) -> np.ndarray:
    """`[I]` int8: whether each image was looked at, and whether what was seen there is still known.

    Labels are lost where the reader left out an annotation, where a box has no place in any image, and where no
    annotation of the image can be used. Beside usable ones a box that lies outside the image, or covers next to nothing
    of it, takes no more than itself away. counts: `[I]`, the annotations of each image that are used.
    """
    rows = [row for row, kind, _ in found if kind == NO_PLACE]
    unplaced = np.bincount(records.image_of[rows], minlength=len(counts)) > 0
    annotated = np.bincount(records.image_of, minlength=len(counts)) > 0
    lost = (records.said == LABELS_LOST) | unplaced | (annotated & (counts == 0))
    return np.where(lost, LABELS_LOST, np.where(annotated, REVIEWED, records.said)).astype(np.int8)


def _unlearned(records: Records, row: int, classes: Classes, masks: Masks | None) -> dict[str, Any]:
    """A record that counts in evaluation alone, as a COCO entry with all that is known of it."""
    entry = coco_entry(
        int(records.annotation_ids[row]),
        int(records.image_ids[records.image_of[row]]),
        classes.ids[int(records.labels[row])],
        records.boxes_xywh[row].tolist(),
        float(records.area[row]),
        bool(records.ignore[row]),
        bool(records.crowd[row]),
        bool(records.uncertain[row]),
    )
    said = json.loads(records.extras[row] or "{}") if records.extras is not None else {}
    return said | entry | _shapes(records, masks, row)


def _masks(records: Records, sizes_hw: np.ndarray, problems: list[Problem]) -> Masks | None:
    """The masks of all records; one that cannot be used is named, and its box is kept."""
    if records.segmentations is None:
        return None
    masks, bad = Masks.read(records.segmentations, sizes_hw)
    masks, empty = masks.with_pixels(sizes_hw)
    for row, why in sorted([*bad, *empty]):
        where = records.paths[int(records.image_of[row])].name
        problems.append(Problem("mask cannot be used", where, records.marks[row], f"{why}; its box is kept", DROPPED))
    return masks if (masks.kinds != NONE).any() else None


def _shapes(records: Records, masks: Masks | None, row: int) -> dict[str, Any]:
    """The mask and the keypoints of one record, as COCO writes them."""
    shapes: dict[str, Any] = {}
    if masks is not None and masks.kinds[row] != NONE:
        height, width = records.sizes_hw[records.image_of[row]].tolist()
        shapes["segmentation"] = masks.segmentation(row, (height, width))
    if records.keypoints is not None and records.num_keypoints is not None:
        shapes["keypoints"] = decimals(records.keypoints[row].reshape(1, -1))[0]
        shapes["num_keypoints"] = int(records.num_keypoints[row])
    return shapes


def choose_classes(
    names: list[str], ids: list[int], wanted: Sequence[str] | None, where: Path
) -> tuple[Classes, dict[str, int]]:
    """The classes to use, and the label of each name in the data (`NOT_WANTED` for those left out)."""
    if wanted is None:
        return Classes(tuple(names), tuple(ids)), {name: label for label, name in enumerate(names)}
    for name in wanted:
        if name not in names:
            raise UsageError(
                f"{where}: the data have no class {name!r}, only {some_of(names, 12)}.{did_you_mean(name, names)}"
            )
    label_of = {name: NOT_WANTED for name in names} | {name: label for label, name in enumerate(wanted)}
    return Classes(tuple(wanted), tuple(ids[names.index(name)] for name in wanted)), label_of


def distinct_names(names: Sequence[str], where: Path) -> tuple[str, ...]:
    """Class names as they are, if each stands for one class and can be printed and written."""
    for name in names:
        if UNPRINTABLE.search(name):
            raise DataError(f"{where}: the class name {name[:80]!a} holds characters that cannot be shown; rename it.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{where}: two classes are named {twice!r}; make the names distinct.")
    return tuple(names)


def place_keypoints(
    given: Sequence[Any],
    count: int,
    sizes_hw: np.ndarray,
    where: Sequence[str],
    marks: Sequence[int | str],
    problems: list[Problem],
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Keypoints `[M, K, 3]` float32 and how many of each are labelled `[M]`; None when the data have none.

    given: lists of x, y, visibility. sizes_hw: `[M, 2]`, of the image of each. What cannot be used becomes keypoints
    that are not labelled, and is named.
    """
    if count == 0:
        return None, None
    placed = np.zeros((len(given), count, 3), dtype=np.float32)
    for row, values in enumerate(given):
        if not values:
            continue
        why = ""
        if not isinstance(values, list | tuple) or len(values) != 3 * count:
            got = counted(len(values), "number") if isinstance(values, list | tuple) else str(values)[:40]
            why = (
                f"expected {counted(3 * count, 'number')} (x, y, visibility of {counted(count, 'keypoint')}), got {got}"
            )
        else:
            points = np.array([as_number(value) for value in values]).reshape(-1, 3)
            if not np.isfinite(points).all() or (np.abs(points) > FARTHEST).any():
                why = "a coordinate is no number or too large"
            elif not np.isin(points[:, 2], (0, 1, 2)).all():
                why = f"a visibility is {points[~np.isin(points[:, 2], (0, 1, 2)), 2][0]:g}; it must be 0, 1 or 2"
            else:
                placed[row] = points
        if why:
            detail = f"{why}; its box is kept"
            problems.append(Problem("keypoints cannot be used", where[row], marks[row], detail, DROPPED))
    outside = ((placed[:, :, :2] < -NEAR_EDGE) | (placed[:, :, :2] > sizes_hw[:, None, ::-1] + NEAR_EDGE)).any(axis=2)
    outside &= placed[:, :, 2] > 0
    for row in np.flatnonzero(outside.any(axis=1)).tolist():
        height, width = sizes_hw[row].tolist()
        x, y, _ = placed[row, outside[row]][0].tolist()
        detail = f"{outside[row].sum()} of {count}, the first at ({x:g}, {y:g}) in an image of {width} x {height}"
        problems.append(Problem("keypoint outside the image", where[row], marks[row], f"{detail}; not used", CHANGED))
    placed[outside] = 0
    return placed, (placed[:, :, 2] > 0).sum(axis=1)


def known_sizes(paths: Sequence[Path | None], declared: np.ndarray, problems: list[Problem]) -> np.ndarray:
    """Height and width `[I, 2]`: as declared, else from the file's header; 0 for images that cannot be used."""
    sizes = declared.astype(np.int64)
    sizes[[path is None for path in paths]] = 0
    rows = np.flatnonzero((sizes <= 0).any(axis=1)).tolist()
    unknown = {row: path for row in rows if (path := paths[row]) is not None}

    def look(path: Path) -> tuple[int, int] | Problem:
        try:
            return read_size(path)
        except DataError as error:
            return Problem("image unreadable", path.name, None, str(error), SKIPPED)

    with ThreadPoolExecutor(8) as pool:
        for row, found in zip(unknown, pool.map(look, unknown.values()), strict=True):
            if isinstance(found, Problem):
                problems.append(found)
            sizes[row] = 0 if isinstance(found, Problem) else found
    return sizes


def file_names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (OSError, ValueError):  # also a name that no folder can have
        return set()


def as_number(value: Any, default: float = float("nan")) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return default


def as_side(value: Any) -> int:
    """The side of an image in pixels; 0 for anything that is none."""
    number = as_number(value, 0.0)
    return int(number) if 0 < number < 2**31 else 0
