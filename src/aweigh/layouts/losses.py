"""What a layout cannot hold of a data set, in one line per kind with the count."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from aweigh.annotations.flat import TextList
from aweigh.annotations.masks import NONE, POLYGONS
from aweigh.annotations.outlines import visible_box
from aweigh.annotations.split import LABELS_LOST, NOT_SAID, Split
from aweigh.errors import DataError, UsageError, counted, did_you_mean

Layout = Literal["coco", "voc", "yolo"]
LAYOUTS = ("coco", "voc", "yolo")
MaskChoice = Literal["keep", "drop"]
# Pixels: a box that would move further is not written as a polygon. Ours: boxes in whole pixels that count the last one
# too, as many tools round them, lie up to this far from the outline they were made of.
MOVED = 2.0


def check_layout(layout: str) -> None:
    if layout not in LAYOUTS:
        raise UsageError(f"Unknown layout {layout!r}; known: {', '.join(LAYOUTS)}.{did_you_mean(layout, LAYOUTS)}")


def not_held(splits: Mapping[str, Split], layout: Layout, masks: MaskChoice = "keep") -> list[str]:
    """A line for each kind of thing in these splits that the layout cannot hold; COCO holds all but places in
    space. masks: see `yolo_kind`."""
    check_layout(layout)
    counts = _counts(splits)
    space = [f"places in space: {counts['places in space']:,} left out, with their cameras"]
    if layout == "coco":
        return space if counts["places in space"] else []
    lines = _ids(splits, layout) + (space if counts["places in space"] else [])
    kind = yolo_kind(splits, masks) if layout == "yolo" else "boxes"
    texts = {
        "boxes over the edge": ("box", "clipped to its image"),
        "boxes too small or outside the image": ("box", "left out"),
        "unlabelled or empty": ("image", "without objects, of which nobody says whether somebody looked: now reviewed"),
        "labels lost": ("image", "without a part of the labels it had: now as if it had shown nothing else"),
        "uncertain": ("annotation", "that may be no object: left out"),
        "label sets": ("image", "labelled for a part of the classes; which ones is lost"),
    }
    if layout == "voc":
        texts |= {"crowd": ("region", "written as difficult"), "masks": ("mask", "left out")}
        texts |= {"keypoints": ("object", "written without"), "skeleton": ("line", "between keypoints left out")}
    else:
        texts |= {"crowd": ("region", "left out"), "difficult": ("object", "to be ignored, written as an ordinary one")}
        texts |= _mask_texts(kind, masks)
    if kind != "polygons":
        texts |= {"areas": ("object", "of another area than its box; it is lost")}
    lines += [f"{key}: {counted(counts[key], noun)} {text}" for key, (noun, text) in texts.items() if counts[key]]
    return lines + _extra_lines(splits, layout)


def yolo_kind(splits: Mapping[str, Split], masks: MaskChoice = "keep") -> Literal["keypoints", "polygons", "boxes"]:
    """How the objects of a data set are written to YOLO: all in one way, as its readers want it.

    Keypoints where there are any. Polygons where an object has one that fills its box; objects without are then written
    as the rectangle of theirs, among polygons a box. Else, and with `"drop"`, boxes. Crowd regions and what is
    uncertain are not written.
    """
    if any(split.keypoints is not None for split in splits.values()):
        return "keypoints"
    kept = masks == "keep" and any((_written(split) & fills_box(split)).any() for split in splits.values())
    return "polygons" if kept else "boxes"


def fills_box(split: Split) -> np.ndarray:
    """`[N]` bool: objects with polygons whose extent inside the image is the box, to `MOVED` pixels."""
    filled = np.zeros(len(split.boxes), dtype=bool)
    if split.masks is None:
        return filled
    rows, _, corners = split.masks.extents()
    sizes_wh = split.sizes_hw[np.repeat(np.arange(len(split)), np.diff(split.first))][rows][:, ::-1]
    over = (corners[:, :2] < 0).any(axis=1) | (corners[:, 2:] > sizes_wh).any(axis=1)
    for number in np.flatnonzero(over):
        corners[number] = visible_box(split.masks.polygons(int(rows[number])), sizes_wh[number])
    filled[rows] = (np.abs(corners - split.boxes[rows]) <= MOVED).all(axis=1)
    return filled


def _written(split: Split) -> np.ndarray:
    return ~(split.crowd | split.uncertain)


def united_names(splits: Mapping[str, Split]) -> list[str]:
    """The class names of all splits, those of the first one first; one pose is all that a layout can describe."""
    poses = {split.keypoint_names for split in splits.values() if split.keypoints is not None}
    if len(poses) > 1:
        raise DataError(f"The splits {', '.join(splits)} have different keypoints; write them one by one.")
    return list(dict.fromkeys(name for split in splits.values() for name in split.classes.names))


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
            counts["masks beside their box"] += int((_written(split) & ~filled & (kinds == POLYGONS)).sum())
            counts["masks as run lengths"] += int((_written(split) & (kinds != POLYGONS) & (kinds != NONE)).sum())
            counts["objects without a mask"] += int((_written(split) & (kinds == NONE)).sum())
        else:
            counts["objects without a mask"] += int(_written(split).sum())
        if split.keypoints is not None:
            counts["keypoints"] += int((split.keypoints[:, :, 2] > 0).any(axis=1).sum())
            counts["skeleton"] += len(split.skeleton)
        if split.cuboids is not None:
            counts["places in space"] += int(np.isfinite(split.cuboids).all(axis=1).sum())
        if split.label_sets is not None:
            known = split.label_sets.known[split.label_sets.of_image]
            counts["label sets"] += int((~known.all(axis=1)).sum())
    return counts


def _mask_texts(kind: str, masks: MaskChoice) -> dict[str, tuple[str, str]]:
    if kind == "polygons":
        return {
            "masks of several parts": ("mask", "written as one line around all parts"),
            "masks beside their box": ("object", f"written as the rectangle of its box, {MOVED:g} px or more off"),
            "masks as run lengths": ("object", "written as the rectangle of its box"),
            "objects without a mask": (
                "object",
                "written as the rectangle of its box, since all lines are of one kind; --masks drop writes boxes alone",
            ),
        }
    why = "none has an outline that fills its box"
    if kind == "keypoints":
        why = "a line holds keypoints or a polygon"
    elif masks == "drop":
        why = "boxes alone are asked for"
    return {"masks": ("mask", f"left out; {why}")}


def _ids(splits: Mapping[str, Split], layout: Layout) -> list[str]:
    """Ids that are not the ones which reading the new files would give."""
    category = image = annotation = 0
    for split in splits.values():
        category = max(category, sum(number != label for label, number in enumerate(split.classes.ids)))
        order = np.arange(len(split))
        if layout == "yolo":
            paths = list(split.paths)
            order = np.array(sorted(range(len(paths)), key=paths.__getitem__), dtype=np.int64)
        image += int((split.image_ids[order] != np.arange(1, len(split) + 1)).sum())
        annotation += int((split.annotation_ids != np.arange(1, len(split.annotation_ids) + 1)).sum())
    named = (("category ids", category), ("image ids", image), ("annotation ids", annotation))
    return [f"{kind}: {count:,} numbered anew" for kind, count in named if count]


def _extra_lines(splits: Mapping[str, Split], layout: Layout) -> list[str]:
    """Fields that the reader did not understand and carries along: VOC holds plain ones of objects."""
    of_images: Counter[str] = Counter()
    of_objects: Counter[str] = Counter()
    header: Counter[str] = Counter()
    for split in splits.values():
        of_images.update(key for entry in _entries(split.image_extras) for key in entry)
        for entry in _entries(split.extras):
            of_objects.update(key for key, value in entry.items() if not (layout == "voc" and voc_can_hold(key, value)))
        header.update(key for key in split.header if key != "categories")
        header.update(key for entry in split.header.get("categories", {}).values() for key in entry if entry[key])
    lines = [f"field {key!r} of the data set: left out" for key in header]
    lines += [f"field {key!r} of {counted(count, 'image')}: left out" for key, count in of_images.items()]
    return lines + [f"field {key!r} of {counted(count, 'object')}: left out" for key, count in of_objects.items()]


def voc_can_hold(key: str, value: Any) -> bool:
    """Whether an XML element can say this: a plain name, with a text, a number or one level of these."""
    leaves = value if isinstance(value, dict) else {key: value}
    plain = all(isinstance(leaf, str | int | float) and str(leaf).isprintable() for leaf in leaves.values())
    return plain and all(name.isidentifier() and name not in _TAKEN for name in (key, *leaves))


_TAKEN = ("name", "difficult", "bndbox", "robndbox")  # elements of VOC with a meaning of their own


def _entries(texts: TextList | None) -> list[dict[str, Any]]:
    return [] if texts is None else [json.loads(text) for text in texts if text]
