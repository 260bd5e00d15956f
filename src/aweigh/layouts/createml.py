"""Create ML's JSON: a list of images, each with boxes as centre, width and height in pixels.

`[{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x", "y", "width", "height"}}]}]`, as Roboflow and
labelImg write it; Apple's own page calls the two keys `imagefilename` and `annotation`. The file is
`train/_annotations.createml.json`, or another JSON of that kind beside the images.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from aweigh.annotations.problems import SKIPPED, Problem
from aweigh.annotations.records import as_number
from aweigh.errors import DataError, printable
from aweigh.files import read_json
from aweigh.layouts.drawn import Drawn, Shape, drawn_layout, single_files, unreadable
from aweigh.layouts.finding import head_of
from aweigh.layouts.layout import SplitFiles

_IS_ONE = re.compile(rb'^\[\s*\{(?=.*"(image|imagefilename)"\s*:)(?=.*"annotations?"\s*:)', re.S)
_WANTED = "a label and coordinates x, y, width, height are expected"


def _is_one(file: Path) -> bool:
    return _IS_ONE.match(head_of(file)) is not None


def _parse(files: SplitFiles, problems: list[Problem]) -> list[Drawn]:
    content, where = read_json(files.annotations), files.annotations.name
    if not isinstance(content, list):
        raise DataError(f"{files.annotations}: a list of images is expected, got a {type(content).__name__}.")
    drawn = []
    for number, entry in enumerate(content, start=1):
        name = _first(entry, "image", "imagefilename")
        if not isinstance(name, str) or not name.strip():
            problems.append(unreadable("an entry needs the name of an image", entry, where, f"image {number}", SKIPPED))
            continue
        picture = Drawn((name,), where)
        objects = _first(entry, "annotations", "annotation")
        for index, one in enumerate(objects if isinstance(objects, list) else [], start=1):
            mark = f"object {index} of {printable(name)}"
            shape = _shape(one, mark)
            if shape is None:
                problems.append(unreadable(_WANTED, one, where, mark))
            picture.add(shape)
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
    return Shape(printable(str(label)).strip(), mark, box)


LAYOUT = drawn_layout("createml", "Create ML (_annotations.createml.json)", _parse, single_files(_is_one, "*.json"))
