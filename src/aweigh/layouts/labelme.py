"""labelme's files: one JSON for each image, of polygons, rectangles, circles and more, in pixels of the image.

`{"shapes": [{"label", "points", "shape_type", "group_id"}], "imagePath", "imageHeight", "imageWidth", "imageData"}`;
X-AnyLabeling and others write the same. Polygons of one label and group are one object. The image is looked for by
`imagePath` and by the name of the JSON, inside the folder. Points and lines hold no object: left out and named. The
files lie in `train/`, `train/labels/`, `labels/train/`, or in one folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.annotations.problems import CHANGED, DROPPED, Problem
from aweigh.annotations.records import as_side
from aweigh.errors import printable
from aweigh.files import read_json
from aweigh.layouts.drawn import (
    Drawn,
    Places,
    Shape,
    drawn_layout,
    each_file,
    ellipse,
    outlined,
    points_of,
    unreadable,
)
from aweigh.layouts.finding import annotation_folders, head_of
from aweigh.layouts.layout import SplitFiles

_IS_ONE = re.compile(rb'^\{(?=.*"shapes"\s*:)(?=.*"(version|flags|imagePath|imageHeight|label)"\s*:)', re.S)
_PLACES = ("", "annotations", "Annotations", "labels", "label", "json", "jsons", "ann", "anns", "labelme")


def _folder(annotations: Path) -> Path | None:
    """The folder of labelme's files that a folder, or one of its files, stands for; None where it is none."""
    if not _is_one(annotations) and not _holds(annotations):
        return None
    return annotations if annotations.is_dir() else annotations.parent


def _holds(folder: Path) -> bool:
    return folder.is_dir() and any(map(_is_one, sorted(folder.glob("*.json"))[:20]))


def _is_one(file: Path) -> bool:
    return _IS_ONE.match(head_of(file)) is not None


def _parse(files: SplitFiles, problems: list[Problem]) -> list[Drawn]:
    contents = each_file(files.annotations, "*.json", read_json, problems)
    return [
        _picture(file, content, problems)
        for file, content in contents
        if isinstance(content, dict) and isinstance(content.get("shapes"), list)
    ]


def _picture(file: Path, content: dict[str, Any], problems: list[Problem]) -> Drawn:
    said = content.get("imagePath")
    names = ([said] if isinstance(said, str) and said.strip() else []) + [f"{file.stem}.jpg"]
    size_hw = as_side(content.get("imageHeight")), as_side(content.get("imageWidth"))
    held = "; the file holds the image itself (imageData): save it beside it" if content.get("imageData") else ""
    picture = Drawn(tuple(names), file.name, size_hw, looked_at=True, hint=held)
    groups: dict[tuple[str, str], list[Shape]] = {}
    for number, entry in enumerate(content["shapes"], start=1):
        shape = _shape(entry, f"shape {number}", file.name, problems)
        if shape and shape.polygons and entry.get("group_id") is not None:
            groups.setdefault((shape.label, str(entry["group_id"])), []).append(shape)
        else:
            picture.add(shape)
    for (label, _), parts in groups.items():
        polygons = [polygon for part in parts for polygon in part.polygons]
        picture.shapes.append(outlined(label, parts[0].mark, *polygons) if len(parts) > 1 else parts[0])
    return picture


def _shape(entry: Any, mark: str, where: str, problems: list[Problem]) -> Shape | None:
    """One shape; None, with a problem, for what holds no object."""
    label = entry.get("label") if isinstance(entry, dict) else None
    points = points_of(entry.get("points")) if isinstance(entry, dict) else None
    if not isinstance(label, str | int) or points is None:
        problems.append(unreadable("a label and points are expected", entry, where, mark))
        return None
    label, count = printable(str(label)).strip(), len(points)
    kind = entry.get("shape_type") or ("polygon" if count > 2 else "rectangle")
    low, high = points.min(axis=0), points.max(axis=0)
    if kind == "polygon" and count > 2:
        shape = outlined(label, mark, points)
    elif kind == "circle" and count == 2:
        radius = float(np.hypot(*(points[1] - points[0])))
        shape = outlined(label, mark, ellipse(float(points[0, 0]), float(points[0, 1]), radius, radius))
    elif kind == "mask" and count == 2:
        problems.append(Problem("mask as an image", where, mark, "its box is used without it", CHANGED))
        shape = Shape(label, mark, (*low.tolist(), *(high + 1).tolist()))
    elif kind == "rectangle" and count >= 2:
        shape = Shape(label, mark, (*low.tolist(), *high.tolist()))
    elif kind in ("rotation", "oriented_rectangle") and count == 4:
        problems.append(Problem("rotated box", where, mark, "the upright box around it is used", CHANGED))
        shape = Shape(label, mark, (*low.tolist(), *high.tolist()), corners=points)
    else:
        detail = f"a {printable(str(kind))[:40]} of {count} points encloses nothing"
        problems.append(Problem("shape without an area", where, mark, detail, DROPPED))
        return None
    return shape


LAYOUT = drawn_layout(
    "labelme",
    "labelme (*.json of single images)",
    _parse,
    Places(lambda root: annotation_folders(root, _PLACES, _holds), _folder),
)
