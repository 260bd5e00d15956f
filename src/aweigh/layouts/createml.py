"""Create ML's JSON: a list of pictures, each with boxes as centre, width and height in pixels.

`[{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x", "y", "width", "height"}}]}]`, as Roboflow and
labelImg write it; Apple's own page calls the two keys `imagefilename` and `annotation`.
"""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import Any

from aweigh.annotations.problems import DROPPED, SKIPPED, Problem
from aweigh.annotations.records import as_number
from aweigh.errors import DataError, printable
from aweigh.layouts.drawn import Drawn, Shape, read_drawn, read_json
from aweigh.layouts.finding import annotation_files, head_of, in_order, picture_folders
from aweigh.layouts.layout import Layout, SplitFiles

_IS_ONE = re.compile(rb'^\[\s*\{(?=.*"(image|imagefilename)"\s*:)(?=.*"annotations?"\s*:)', re.S)


def find(root: Path) -> dict[str, SplitFiles]:
    """`train/_annotations.createml.json`, or another JSON of that kind beside the pictures."""
    found = annotation_files(root, ("*.json",), _is_one)
    return in_order({name: _files(name, file, root) for name, file in found.items()})


def by_hand(annotations: Path, name: str) -> SplitFiles | None:
    """A JSON of Create ML; None where it is none."""
    return _files(name, annotations, annotations.parent.parent) if _is_one(annotations) else None


def _files(name: str, file: Path, root: Path) -> SplitFiles:
    return SplitFiles(name, "createml", file, picture_folders(file, root))


def _is_one(file: Path) -> bool:
    return _IS_ONE.match(head_of(file)) is not None


def _parse(files: SplitFiles, problems: list[Problem]) -> list[Drawn]:
    content, where = read_json(files.annotations), files.annotations.name
    if not isinstance(content, list):
        raise DataError(f"{files.annotations}: a list of pictures is expected, got a {type(content).__name__}.")
    drawn = []
    for number, entry in enumerate(content, start=1):
        name = _first(entry, "image", "imagefilename")
        if not isinstance(name, str) or not name.strip():
            detail = f"a picture needs an image, got {printable(str(entry))[:60]}"
            problems.append(Problem("unreadable record", where, f"picture {number}", detail, SKIPPED))
            continue
        picture = Drawn((name,), where)
        objects = _first(entry, "annotations", "annotation")
        for index, one in enumerate(objects if isinstance(objects, list) else [], start=1):
            shape = _shape(one, f"object {index} of {name}")
            if shape is None:
                detail = f"a label and coordinates x, y, width, height are expected, got {printable(str(one))[:60]}"
                problems.append(
                    Problem("unreadable record", where, f"object {index} of {printable(name)}", detail, DROPPED)
                )
                picture.lost = True
            else:
                picture.shapes.append(shape)
        drawn.append(picture)
    return drawn


def _first(entry: Any, *keys: str) -> Any:
    return next((entry[key] for key in keys if key in entry), None) if isinstance(entry, dict) else None


def _shape(entry: Any, mark: str) -> Shape | None:
    label, place = _first(entry, "label"), _first(entry, "coordinates")
    if not isinstance(label, str | int) or not isinstance(place, dict):
        return None
    x, y, width, height = (as_number(place.get(key)) for key in ("x", "y", "width", "height"))
    if not all(map(math.isfinite, (x, y, width, height))):
        return None
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return Shape(printable(str(label)).strip(), printable(mark), box)


LAYOUT = Layout(
    looks_for="Create ML (_annotations.createml.json)", find=find, by_hand=by_hand, read=partial(read_drawn, _parse)
)
