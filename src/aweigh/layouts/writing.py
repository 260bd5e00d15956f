"""What the writers of all layouts share: which things a layout has no place for, by kind with the count; texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.annotations.flat import Packed
from aweigh.annotations.masks import NONE, POLYGONS
from aweigh.annotations.outlines import visible_box
from aweigh.annotations.split import LABELS_LOST, NOT_SAID, Split
from aweigh.errors import DataError, counted

# Pixels: a box that would move further is not written as a polygon. Ours: boxes in whole pixels that count the last one
# too, as many tools round them, lie up to this far from the outline they were made of.
MOVED = 2.0
# What every layout of small files of boxes loses: what is counted, the noun, what becomes of it.
_OF_BOXES = {
    "boxes over the edge": ("box", "clipped to its image"),
    "boxes too small or outside the image": ("box", "left out"),
    "unlabelled or empty": ("image", "without objects, of which nobody says whether somebody looked: now reviewed"),
    "labels lost": ("image", "without a part of the labels it had: now as if it had shown nothing else"),
    "uncertain": ("annotation", "that may be no object: left out"),
    "label sets": ("image", "labelled for a part of the classes; which ones is lost"),
}
AREAS = {"areas": ("object", "of another area than its box; it is lost")}
IGNORED = {"crowd": ("region", "left out"), "difficult": ("object", "to be ignored, written as an ordinary one")}
SHAPES = {
    "masks": ("mask", "left out"),
    "keypoints": ("object", "written without"),
    "skeleton": ("line", "between keypoints left out"),
}


def lost_places(splits: Mapping[str, Split]) -> list[str]:
    """The line for objects in space, which none of the layouts that are written can hold."""
    placed = (np.isfinite(split.cuboids).all(axis=1).sum() for split in splits.values() if split.cuboids is not None)
    count = int(sum(placed))
    return [f"3D boxes: {count:,} left out, with their cameras"] if count else []


def lost_beside_boxes(
    splits: Mapping[str, Split],
    texts: Mapping[str, tuple[str, str]],
    *,
    in_order_of_paths: bool = False,
    holds: Callable[[str, Any], bool] = lambda key, value: False,
) -> list[str]:
    """The lines of a layout that holds boxes and the names of classes.

    texts: what is lost or changed beside what all of these lose, see `_counts`. in_order_of_paths: reading numbers the
    images in the order of their paths. holds: whether an object can keep a field that no reader understood.
    """
    counts = _counts(splits)
    lost = {key: text for key, text in (_OF_BOXES | dict(texts)).items() if counts[key]}
    lines = [f"{key}: {counted(counts[key], noun)} {text}" for key, (noun, text) in lost.items()]
    return [*_ids(splits, in_order_of_paths), *lost_places(splits), *lines, *_lost_fields(splits, holds)]


def _counts(splits: Mapping[str, Split]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for split in splits.values():
        wh = split.boxes[:, 2:].astype(np.float64) - split.boxes[:, :2]
        box_area = wh.prod(axis=1)
        counts["crowd"] += int(split.crowd.sum())
        counts["difficult"] += int((split.ignore & ~split.crowd & ~split.uncertain).sum())
        counts["uncertain"] += int(split.uncertain.sum())
        counts["boxes over the edge"] += int((np.abs(wh - split.source_boxes_xywh[:, 2:]).max(axis=1) > 0.01).sum())
        counts["boxes too small or outside the image"] += len(split.evaluation_only)
        counts["unlabelled or empty"] += int((split.reviewed == NOT_SAID).sum())
        counts["labels lost"] += int(((split.reviewed == LABELS_LOST) & (np.diff(split.first) > 0)).sum())
        counts["areas"] += int((np.abs(split.area - box_area) > 0.001 * box_area + 1).sum())
        if split.masks is not None:
            counts["masks"] += int((split.masks.kinds != NONE).sum())
            filled, kinds = fills_box(split), split.masks.kinds
            counts["masks of several parts"] += int((filled & (np.diff(split.masks.first_polygon) > 1)).sum())
            counts["masks beside their box"] += int((is_object(split) & ~filled & (kinds == POLYGONS)).sum())
            counts["masks as run lengths"] += int((is_object(split) & (kinds != POLYGONS) & (kinds != NONE)).sum())
            counts["objects without a mask"] += int((is_object(split) & (kinds == NONE)).sum())
        else:
            counts["objects without a mask"] += int(is_object(split).sum())
        if split.keypoints is not None:
            counts["keypoints"] += int((split.keypoints[:, :, 2] > 0).any(axis=1).sum())
            counts["skeleton"] += len(split.skeleton)
        if split.label_sets is not None:
            known = split.label_sets.known[split.label_sets.of_image]
            counts["label sets"] += int((~known.all(axis=1)).sum())
    return counts


def fills_box(split: Split) -> np.ndarray:
    """`[N]` bool: objects with polygons whose extent inside the image is the box, to `MOVED` pixels."""
    filled = np.zeros(len(split.boxes), dtype=bool)
    if split.masks is None:
        return filled
    rows, _, corners = split.masks.extents()
    sizes_wh = split.sizes_hw[split.image_of][rows][:, ::-1]
    over = (corners[:, :2] < 0).any(axis=1) | (corners[:, 2:] > sizes_wh).any(axis=1)
    for number in np.flatnonzero(over):
        corners[number] = visible_box(split.masks.polygons(int(rows[number])), sizes_wh[number])
    filled[rows] = (np.abs(corners - split.boxes[rows]) <= MOVED).all(axis=1)
    return filled


def is_object(split: Split) -> np.ndarray:
    """`[N]` bool: neither a region of many objects nor a guess."""
    return ~(split.crowd | split.uncertain)


def united_names(splits: Mapping[str, Split]) -> list[str]:
    """The class names of all splits, those of the first one first; one pose is all that a layout can describe."""
    poses = {split.keypoint_names for split in splits.values() if split.keypoints is not None}
    if len(poses) > 1:
        raise DataError(f"The splits {', '.join(splits)} have different keypoints; write them one by one.")
    return list(dict.fromkeys(name for split in splits.values() for name in split.classes.names))


def _ids(splits: Mapping[str, Split], in_order_of_paths: bool) -> list[str]:
    """Ids that are not the ones which reading the new files would give."""
    category = image = annotation = 0
    for split in splits.values():
        category = max(category, sum(number != label for label, number in enumerate(split.classes.ids)))
        order = np.arange(len(split))
        if in_order_of_paths:
            paths = list(split.paths)
            order = np.array(sorted(range(len(paths)), key=paths.__getitem__), dtype=np.int64)
        image += int((split.image_ids[order] != np.arange(1, len(split) + 1)).sum())
        annotation += int((split.annotation_ids != np.arange(1, len(split.annotation_ids) + 1)).sum())
    named = (("category ids", category), ("image ids", image), ("annotation ids", annotation))
    return [f"{kind}: {count:,} numbered anew" for kind, count in named if count]


def _lost_fields(splits: Mapping[str, Split], holds: Callable[[str, Any], bool]) -> list[str]:
    """Fields that the reader did not understand and carries along."""
    of_images: Counter[str] = Counter()
    of_objects: Counter[str] = Counter()
    header: Counter[str] = Counter()
    for split in splits.values():
        of_images.update(key for entry in _entries(split.image_extras) for key in entry)
        for entry in _entries(split.extras):
            of_objects.update(key for key, value in entry.items() if not holds(key, value))
        header.update(key for key in split.header if key != "categories")
        header.update(key for entry in split.header.get("categories", {}).values() for key in entry if entry[key])
    lines = [f"field {key!r} of the data set: left out" for key in header]
    lines += [f"field {key!r} of {counted(count, 'image')}: left out" for key, count in of_images.items()]
    return lines + [f"field {key!r} of {counted(count, 'object')}: left out" for key, count in of_objects.items()]


def _entries(texts: Packed[str] | None) -> list[dict[str, Any]]:
    return [] if texts is None else [json.loads(text) for text in texts if text]


def has_file(split: Split) -> np.ndarray:
    """`[I]` bool: which images have an annotation file where an empty one says that there is nothing in the image."""
    return split.complete | (np.diff(split.first) > 0)


def extra_fields(texts: Packed[str] | None, row: int) -> dict[str, Any]:
    text = texts[row] if texts is not None and row < len(texts) else ""
    return json.loads(text) if text else {}


def decimal(value: float, digits: int) -> str:
    """As many digits as keep a box of one pixel from being read as a smaller one, and no zeros at the end."""
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
