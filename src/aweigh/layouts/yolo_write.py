"""Writing YOLO: `images/SPLIT/`, `labels/SPLIT/`, `data.yaml`.

All lines of a data set are of one kind (see `kind_of_lines`): boxes with keypoints, polygons, or boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aweigh.annotations.exif_frames import rotated
from aweigh.annotations.flat import Packed
from aweigh.annotations.flip_pairs import find_pairs
from aweigh.annotations.outlines import clip_polygon, twice_area
from aweigh.annotations.split import Split
from aweigh.images.decode import orientation
from aweigh.images.opening import opened
from aweigh.layouts.layout import MaskChoice
from aweigh.layouts.writing import (
    AREAS,
    IGNORED,
    MOVED,
    decimal,
    fills_box,
    has_file,
    is_object,
    lost_beside_boxes,
    united_names,
    write_text,
)

# What EXIF orientations 5 to 8 do to a point (x, y): change the two first, then count x, y from the other side.
_TURNS = {5: (False, False), 6: (True, False), 7: (True, True), 8: (False, True)}


def write(splits: Mapping[str, Split], names: Mapping[str, Packed[str]], out: Path, masks: MaskChoice) -> list[str]:
    import yaml  # type: ignore[import-untyped]

    classes, kind = united_names(splits), kind_of_lines(splits, masks)
    turned = 0
    for key, split in splits.items():
        (out / "labels" / key).mkdir(parents=True)
        number_of, annotated = [classes.index(name) for name in split.classes.names], has_file(split)
        filled = fills_box(split)
        for row, name in enumerate(names[key]):
            if not annotated[row]:
                continue
            turn = _turn(split, row)
            turned += turn is not None
            file = (out / "labels" / key / name).with_suffix(".txt")
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, _text(split, row, kind, number_of, turn, filled))
    write_text(
        out / "data.yaml", yaml.safe_dump(_description(splits, classes, kind), sort_keys=False, allow_unicode=True)
    )
    detail = "images annotated before it was applied; their annotations are turned with them"
    return [f"EXIF rotation: {turned} {detail}"] * bool(turned)


def _description(splits: Mapping[str, Split], classes: Sequence[str], kind: str) -> dict[str, Any]:
    """What `data.yaml` says."""
    description: dict[str, Any] = {key: f"images/{key}" for key in splits}
    description["names"] = dict(enumerate(classes))
    pointed = next((split for split in splits.values() if split.keypoints is not None), None)
    if kind == "keypoints" and pointed is not None:
        count = len(pointed.keypoint_names)
        order = list(range(count))
        for first, second in find_pairs(pointed.keypoint_names, keypoints=True):
            order[first], order[second] = second, first
        description |= {"kpt_shape": [count, 3], "flip_idx": order}
        description["kpt_names"] = {number: list(pointed.keypoint_names) for number in range(len(classes))}
        if pointed.skeleton:
            description["skeleton"] = [list(edge) for edge in pointed.skeleton]
    return description


def cannot_hold(splits: Mapping[str, Split], masks: MaskChoice) -> list[str]:
    kind = kind_of_lines(splits, masks)
    texts = IGNORED | _mask_texts(kind, masks) | ({} if kind == "polygons" else AREAS)
    return lost_beside_boxes(splits, texts, in_order_of_paths=True)


def kind_of_lines(splits: Mapping[str, Split], masks: MaskChoice) -> Literal["keypoints", "polygons", "boxes"]:
    """How the objects of a data set are written to YOLO: all in one way, as its readers want it.

    Keypoints where there are any. Polygons where an object has one that fills its box; objects without are then written
    as the rectangle of theirs, among polygons a box. Else, and with `"drop"`, boxes. Crowd regions and what is
    uncertain are not written.
    """
    if any(split.keypoints is not None for split in splits.values()):
        return "keypoints"
    kept = masks == "keep" and any((is_object(split) & fills_box(split)).any() for split in splits.values())
    return "polygons" if kept else "boxes"


def _text(
    split: Split, row: int, kind: str, number_of: list[int], turn: tuple[bool, bool] | None, filled: np.ndarray
) -> str:
    size_wh = split.sizes_hw[row, ::-1].astype(np.float64)
    lines = []
    for number in range(int(split.first[row]), int(split.first[row + 1])):
        if split.crowd[number] or split.uncertain[number]:
            continue
        corners = _upright(split.boxes[number].astype(np.float64).reshape(2, 2) / size_wh, turn)
        low, high = corners.min(axis=0), corners.max(axis=0)
        values = np.concatenate([(low + high) / 2, high - low])
        if kind == "polygons":
            values = _upright(_outline(split, number, size_wh, filled[number]) / size_wh, turn).reshape(-1)
        words = [decimal(value, 7 if kind == "polygons" else 10) for value in values]
        if kind == "keypoints":
            points = np.zeros((len(split.keypoint_names), 3)) if split.keypoints is None else split.keypoints[number]
            places = _upright(points[:, :2] / size_wh, turn)
            for (x, y), seen in zip(places.tolist(), points[:, 2].tolist(), strict=True):
                words += [decimal(x, 7), decimal(y, 7), f"{seen:.0f}"] if seen else ["0", "0", "0"]
        lines.append(" ".join([str(number_of[int(split.labels[number])]), *words]) + "\n")
    return "".join(lines)


def _outline(split: Split, number: int, size_wh: np.ndarray, filled: bool) -> np.ndarray:
    """What an object shows inside its image, in one polygon `[K, 2]`; without an outline of its own, its box."""
    if filled and split.masks is not None:
        parts = [clip_polygon(polygon, size_wh) for polygon in split.masks.polygons(number)]
        return join_polygons([part for part in parts if len(part)])
    x0, y0, x1, y1 = split.boxes[number].astype(np.float64).tolist()
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def join_polygons(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Several polygons `[K, 2]` as one, joined by lines there and back between their nearest corners.

    All go round the same way, so that their areas add up.
    """
    whole = parts[0]
    for part in parts[1:]:
        part = part if (twice_area(part) < 0) == (twice_area(parts[0]) < 0) else part[::-1]
        apart = ((whole[:, None] - part[None]) ** 2).sum(axis=2)  # [K, L]
        here, there = divmod(int(apart.argmin()), len(part))
        whole = np.concatenate([whole[: here + 1], part[there:], part[: there + 1], whole[here:]])
    return whole


def _turn(split: Split, row: int) -> tuple[bool, bool] | None:
    """How the image is turned by its EXIF orientation, where the annotations were made on the unturned one."""
    path = split.paths[row]
    if rotated(path, split.sizes_hw[row]) != "stored":
        return None  # nor where it cannot be read: it is copied as it is
    with opened(path) as image:
        return _TURNS.get(orientation(image))


def _upright(points: np.ndarray, turn: tuple[bool, bool] | None) -> np.ndarray:
    """`[K, 2]` fractions of the unturned image as fractions of the turned one."""
    if turn is None:
        return points
    swapped = points[:, ::-1]
    return np.where(turn, 1 - swapped, swapped)


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
