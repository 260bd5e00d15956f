"""labelme's files: one JSON for each picture, of polygons, rectangles, circles and more, in pixels of the picture.

`{"shapes": [{"label", "points", "shape_type", "group_id"}], "imagePath", "imageHeight", "imageWidth", "imageData"}`;
X-AnyLabeling and others write the same. Polygons of one label and group are one object. The picture is looked for by
`imagePath` and by the name of the JSON, inside the folder. Points and lines hold no object: left out and named.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.annotations.problems import CHANGED, DROPPED, SKIPPED, Problem
from aweigh.annotations.records import as_side
from aweigh.errors import DataError, printable
from aweigh.layouts.drawn import Drawn, Shape, ellipse, outlined, points_of, read_drawn, read_json
from aweigh.layouts.finding import annotation_folders, head_of, in_order, picture_folders
from aweigh.layouts.layout import Layout, SplitFiles

_PLACES = ("", "annotations", "Annotations", "labels", "label", "json", "jsons", "ann", "anns", "labelme")


def find(root: Path) -> dict[str, SplitFiles]:
    """Folders of labelme's files: `train/`, `train/labels/`, `labels/train/`, or one folder of them."""
    found = annotation_folders(root, _PLACES, _holds)
    return in_order({name: _files(name, folder, root) for name, folder in found.items()})


def by_hand(annotations: Path, name: str) -> SplitFiles | None:
    """A folder of labelme's files, or one of them; None where it is none."""
    folder = annotations if annotations.is_dir() else annotations.parent
    return _files(name, folder, folder.parent) if (_is_one(annotations) or _holds(annotations)) else None


def _files(name: str, folder: Path, root: Path) -> SplitFiles:
    return SplitFiles(name, "labelme", folder, picture_folders(folder, root))


def _holds(folder: Path) -> bool:
    return folder.is_dir() and any(map(_is_one, sorted(folder.glob("*.json"))[:20]))


def _is_one(file: Path) -> bool:
    return (
        re.search(rb'^\{(?=.*"shapes"\s*:)(?=.*"(version|flags|imagePath|imageHeight|label)"\s*:)', head_of(file), re.S)
        is not None
    )


def _parse(files: SplitFiles, problems: list[Problem]) -> list[Drawn]:
    drawn = []
    for file in sorted(files.annotations.glob("*.json")):
        try:
            content = read_json(file)
        except DataError as error:
            problems.append(Problem("annotation file unreadable", file.name, None, str(error), SKIPPED))
            continue
        if isinstance(content, dict) and isinstance(content.get("shapes"), list):
            drawn.append(_picture(file, content, problems))
    return drawn


def _picture(file: Path, content: dict[str, Any], problems: list[Problem]) -> Drawn:
    said = content.get("imagePath")
    names = ([said] if isinstance(said, str) and said.strip() else []) + [f"{file.stem}.jpg"]
    size_hw = as_side(content.get("imageHeight")), as_side(content.get("imageWidth"))
    held = "; the file holds the picture itself (imageData): save it beside it" if content.get("imageData") else ""
    picture = Drawn(tuple(names), file.name, size_hw, looked_at=True, hint=held)
    groups: dict[tuple[str, str], list[Shape]] = {}
    for number, entry in enumerate(content["shapes"], start=1):
        shape = _shape(entry, f"shape {number}", file.name, problems)
        if shape is None:
            picture.lost = True
        elif shape.polygons and entry.get("group_id") is not None:
            groups.setdefault((shape.label, str(entry["group_id"])), []).append(shape)
        else:
            picture.shapes.append(shape)
    for (label, _), parts in groups.items():
        polygons = [polygon for part in parts for polygon in part.polygons]
        picture.shapes.append(outlined(label, parts[0].mark, *polygons) if len(parts) > 1 else parts[0])
    return picture


def _shape(entry: Any, mark: str, where: str, problems: list[Problem]) -> Shape | None:
    """One shape; None, with a problem, for what holds no object."""
    label = entry.get("label") if isinstance(entry, dict) else None
    points = points_of(entry.get("points")) if isinstance(entry, dict) else None
    if not isinstance(label, str | int) or points is None:
        detail = f"a label and points are expected, got {printable(str(entry))[:60]}"
        problems.append(Problem("unreadable record", where, mark, detail, DROPPED))
        return None
    label, count = printable(str(label)).strip(), len(points)
    kind = entry.get("shape_type") or ("polygon" if count > 2 else "rectangle")
    low, high = points.min(axis=0), points.max(axis=0)
    if kind == "polygon" and count > 2:
        shape = outlined(label, mark, points)
    elif kind == "circle" and count == 2:
        radius = float(np.hypot(*(points[1] - points[0])))
        shape = around(label, mark, points[0], (radius, radius))
    elif kind == "mask" and count == 2:
        problems.append(Problem("mask as a picture", where, mark, "its box is used without it", CHANGED))
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


def around(label: str, mark: str, middle: np.ndarray, half: tuple[float, float], turn: float = 0.0) -> Shape:
    """A circle or an ellipse with these half axes."""
    return outlined(label, mark, ellipse(float(middle[0]), float(middle[1]), *half, turn))


LAYOUT = Layout(
    looks_for="labelme (*.json of single pictures)", find=find, by_hand=by_hand, read=partial(read_drawn, _parse)
)
