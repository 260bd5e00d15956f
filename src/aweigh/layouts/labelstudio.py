"""Label Studio's JSON export: a list of tasks, each an image with annotations, in percent of the image's sides.

    [{"data": {"image": "/data/upload/1/0a1b2c3d-a.jpg"}, "annotations": [{"was_cancelled": false, "result": [
      {"id": "x", "type": "rectanglelabels", "original_width": 640, "original_height": 480,
       "value": {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["cat"]}}]}]}]

Of several annotations of a task the last one that somebody completed is used; predictions are nobody's annotation. Read
are rectangles, turned ones by the upright box around them, polygons, ellipses, and keypoints that name a region
(`parentID`). A region's class is its label, or the choice made for it. Painted masks are not read. Images are looked
for by the name that they were uploaded under, with and without the eight digits that Label Studio puts before it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from aweigh.annotations.problems import CHANGED, DROPPED, KEPT, SKIPPED, Problem
from aweigh.annotations.records import as_number, as_side
from aweigh.errors import DataError, counted, printable, some_of
from aweigh.files import read_json
from aweigh.images.reader import SUFFIXES
from aweigh.layouts.drawn import (
    Drawn,
    Shape,
    drawn_layout,
    ellipse,
    outlined,
    points_of,
    single_files,
    turned,
    unreadable,
)
from aweigh.layouts.finding import head_of
from aweigh.layouts.layout import SplitFiles

_IS_ONE = re.compile(
    rb'^\[\s*\{(?=.*"(annotations|completions|predictions)"\s*:\s*\[)'
    rb'(?=.*"(data"\s*:\s*\{|file_upload"|result"|was_cancelled"|completed_by"|inner_id"))',
    re.S,
)
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of a file that is uploaded
_OBJECTS = ("rectangle", "polygon", "ellipse", "brush", "bitmask", "keypoint", "vector", "video")


def _is_one(file: Path) -> bool:
    return _IS_ONE.match(head_of(file)) is not None


def _parse(files: SplitFiles, problems: list[Problem]) -> list[Drawn]:
    tasks, where = read_json(files.annotations), files.annotations.name
    if not isinstance(tasks, list):
        raise DataError(f"{files.annotations}: a list of tasks is expected, got a {type(tasks).__name__}.")
    drawn = []
    for number, task in enumerate(tasks, start=1):
        names = _names(task) if isinstance(task, dict) else []
        if not names:
            problems.append(unreadable("a task needs an image among its data", task, where, f"task {number}", SKIPPED))
            continue
        image = Drawn(tuple(names), where, hint="; put the images beside the JSON")
        _add_annotation(image, task, f"task {_said(task, 'id') or number}", problems)
        drawn.append(image)
    return drawn


# --- the image of a task ------------------------------------------------------------------------------------------


def _names(task: dict[str, Any]) -> list[str]:
    """What the file of its image may be called, the likeliest first; none where it is no image."""
    data = task.get("data")
    texts = [value for value in data.values() if isinstance(value, str)] if isinstance(data, dict) else []
    upload = task.get("file_upload")
    paths = [_path(text) for text in (*texts, *([upload] if isinstance(upload, str) else []))]
    images = [path for path in paths if path.lower().endswith(SUFFIXES)]
    plain = [_without_prefix(path) for path in images]
    return list(dict.fromkeys([*images, *plain]))


def _path(text: str) -> str:
    """The path that an address ends in: `/data/local-files/?d=a/b.jpg` is `a/b.jpg`."""
    try:
        address = urlsplit(text)
        local = parse_qs(address.query).get("d", [])
    except ValueError:
        return ""
    if address.scheme == "data":
        return ""
    return local[0] if local else unquote(address.path)


def _without_prefix(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + _UPLOADED.sub("", name)


# --- what somebody drew -------------------------------------------------------------------------------------------


def _add_annotation(image: Drawn, task: dict[str, Any], mark: str, problems: list[Problem]) -> None:
    """The regions of the annotation that counts, to the image."""
    entries = task.get("annotations") or task.get("completions") or []
    every = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    done = [entry for entry in every if not entry.get("was_cancelled") and not entry.get("skipped")]
    if not done:
        if task.get("predictions"):
            detail = "nobody completed the task; what a model predicted is no annotation"
            problems.append(Problem("predictions alone", image.where, mark, detail, KEPT))
        return
    if len(done) > 1:
        detail = f"of {counted(len(done), 'annotation')} the last one is used"
        problems.append(Problem("task annotated several times", image.where, mark, detail, KEPT))
    last = max(done, key=lambda entry: _said(entry, "updated_at") or _said(entry, "created_at"))
    result = last.get("result")
    image.looked_at = True
    regions = list(_regions(result if isinstance(result, list) else [], image, mark, problems))
    image.size_hw = next((size for region in regions if all(size := _size(region))), (0, 0))
    shapes: dict[str, Shape] = {}
    for number, region in enumerate(regions, start=1):
        if not region["type"].startswith("keypoint"):
            name = _said(region, "id") or str(number)
            shape = _shape(region, f"region {name} of {mark}", image.where, problems)
            shapes |= {} if shape is None else {name: shape}
            image.lost |= shape is None
    for region in regions:
        if region["type"].startswith("keypoint"):
            _add_keypoint(region, shapes, image, mark, problems)
    image.shapes += shapes.values()


def _said(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    return printable(str(value)) if isinstance(value, str | int) else ""


def _regions(result: list[Any], image: Drawn, mark: str, problems: list[Problem]) -> Iterator[dict[str, Any]]:
    """The regions of an annotation; results of one id, such as a rectangle and its label, are one."""
    merged: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(result, start=1):
        value = entry.get("value") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(value, dict):
            if not isinstance(entry, dict) or entry.get("type") != "relation":
                problems.append(unreadable("a result with a type and a value is expected", entry, image.where, mark))
                image.lost = True
            continue
        known = merged.setdefault(_said(entry, "id") or f"result {number}", {"value": {}})
        kind = _said(entry, "type").casefold()
        drawn = kind.startswith(_OBJECTS)
        known["value"] |= {key: one for key, one in value.items() if drawn or key not in known["value"]}
        known |= {key: one for key, one in entry.items() if key != "value" and (drawn or key not in known)}
    for region in merged.values():
        kind = _said(region, "type").casefold()
        if kind.startswith(_OBJECTS):
            yield region | {"type": kind}
        else:
            detail = f"its {kind or 'result'} belongs to no region"
            problems.append(Problem("said of the whole image", image.where, mark, detail, KEPT))


def _size(region: dict[str, Any]) -> tuple[int, int]:
    return as_side(region.get("original_height")), as_side(region.get("original_width"))


def _labels(region: dict[str, Any]) -> list[str]:
    """What a region is said to be: its labels, or else the choices made for it."""
    value = region["value"]
    named = [value[key] for key in sorted(value, key=lambda key: key == "labels") if key.endswith("labels")]
    lists = [names for names in (*named, value.get("choices")) if isinstance(names, list) and names]
    said = [printable(str(name)).strip() for name in lists[0] if isinstance(name, str | int)] if lists else []
    return [name for name in said if name]


def _shape(region: dict[str, Any], mark: str, where: str, problems: list[Problem]) -> Shape | None:
    """One region; None, with a problem, for what holds no object or has no class."""
    kind, value, labels = region["type"], region["value"], _labels(region)
    label = labels[0] if labels else ""
    if len(labels) > 1:
        detail = f"{some_of(labels)}; the first is used"
        problems.append(Problem("region of several classes", where, mark, detail, CHANGED))
    height, width = _size(region)
    scale = np.array([width, height]) / 100
    numbers = {key: as_number(value.get(key)) for key in ("x", "y", "width", "height", "radiusX", "radiusY")}
    turn = math.radians(as_number(value.get("rotation", 0), 0.0))
    if kind.startswith(("brush", "bitmask")):
        detail = "masks painted with the brush are not read; export them as 'Brush labels to COCO'"
        problems.append(Problem("painted mask", where, mark, detail, DROPPED))
    elif not label:
        problems.append(Problem("region without a class", where, mark, "no label and no choice is set", DROPPED))
    elif not height or not width:
        problems.append(unreadable("original_width and original_height are expected", value, where, mark))
    elif kind.startswith("rectangle") and math.isfinite(sum(list(numbers.values())[:4]) + turn):
        x, y, wide, high = (numbers[key] * side for key, side in zip(("x", "y", "width", "height"), (*scale, *scale)))
        box = (x, y, x + wide, y + high)
        if turn % (2 * math.pi) == 0:
            return Shape(label, mark, box)
        problems.append(Problem("rotated box", where, mark, "the upright box around it is used", CHANGED))
        return turned(label, mark, box, (x, y), turn)  # about its first corner
    elif kind.startswith("ellipse") and math.isfinite(sum(numbers[key] for key in ("x", "y", "radiusX", "radiusY"))):
        x, y, wide, high = (numbers[key] for key in ("x", "y", "radiusX", "radiusY"))  # x and y are its middle
        return outlined(label, mark, ellipse(x * scale[0], y * scale[1], wide * scale[0], high * scale[1], turn))
    elif kind.startswith("polygon") and (points := points_of(value.get("points"))) is not None and len(points) > 2:
        return outlined(label, mark, points * scale)
    else:
        problems.append(unreadable("a rectangle, an ellipse or a polygon is expected", value, where, mark))
    return None


def _add_keypoint(
    region: dict[str, Any], shapes: dict[str, Shape], image: Drawn, mark: str, problems: list[Problem]
) -> None:
    """A point to the region that it is said to belong to."""
    value, labels, (height, width) = region["value"], _labels(region), _size(region)
    x, y = as_number(value.get("x")) * width / 100, as_number(value.get("y")) * height / 100
    owner = _said(region, "parentID")
    if owner in shapes and labels and math.isfinite(x + y):
        shapes[owner] = replace(shapes[owner], keypoints={**shapes[owner].keypoints, labels[0]: (x, y)})
    else:
        detail = "a keypoint needs a label and the rectangle it belongs to (parentID)"
        problems.append(Problem("keypoint without an object", image.where, mark, detail, DROPPED))
        image.lost = True


LAYOUT = drawn_layout("labelstudio", "Label Studio (its JSON export)", _parse, single_files(_is_one, "*.json"))
