"""CVAT's own XML, "CVAT for images 1.1": all images of a task in one file, in pixels.

    <annotations><image name="a.jpg" width="640" height="480">
      <box label="cat" occluded="0" xtl="10" ytl="20" xbr="110" ybr="220" rotation="0"/>
    </image></annotations>

Read are boxes, turned ones by the upright box around them, polygons, ellipses, and masks by their boxes. Polylines and
points enclose nothing; cuboids and skeletons are not read. An image without shapes is not known to have been looked at.
The file is `annotations.xml` or another beside the images or above them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from aweigh.annotations.problems import CHANGED, DROPPED, KEPT, SKIPPED, Problem
from aweigh.annotations.records import as_number, as_side
from aweigh.errors import DataError, printable, some_of
from aweigh.files import read_xml
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
from aweigh.layouts.finding import root_of
from aweigh.layouts.layout import SplitFiles

_NOT_READ = {
    "polyline": "a polyline encloses nothing",
    "points": "points enclose nothing",
    "cuboid": "cuboids are not read",
    "skeleton": "skeletons are not read; export them as COCO Keypoints 1.0",
}


def _is_one(file: Path) -> bool:
    return file.suffix.lower() == ".xml" and root_of(file) == "annotations"


def _parse(files: SplitFiles, problems: list[Problem]) -> list[Drawn]:
    file, where = files.annotations, files.annotations.name
    try:
        root = read_xml(file, "annotations")
    except DataError as error:
        raise DataError(f"{file}: cannot be read as CVAT's XML ({error}). Export it again.") from error
    if root.find("image") is None and root.find("track") is not None:
        raise DataError(f"{file}: this is 'CVAT for video'. Export the task as 'CVAT for images 1.1' or as COCO.")
    drawn = []
    for number, entry in enumerate(root.iterfind("image"), start=1):
        name, subset = entry.get("name", "").strip(), entry.get("subset", "").strip()
        if not name:
            problems.append(unreadable("an image needs a name", entry.attrib, where, f"image {number}", SKIPPED))
            continue
        names = (f"{subset}/{name}", name) if subset else (name,)
        size_hw = as_side(entry.get("height")), as_side(entry.get("width"))
        drawn.append(_image(Drawn(names, where, size_hw), entry, printable(name), problems))
    subsets = sorted({entry.get("subset", "") for entry in root.iterfind("image")} - {""})
    if len(subsets) > 1:
        detail = f"{some_of(subsets)} are one split here; export them one by one to keep them apart"
        problems.append(Problem("several subsets in one file", where, None, detail, KEPT))
    return drawn


def _image(image: Drawn, entry: ElementTree.Element, name: str, problems: list[Problem]) -> Drawn:
    """The image with its shapes; a tag is of the whole image, and no object."""
    for number, shape in enumerate((shape for shape in entry if shape.tag != "tag"), start=1):
        image.add(_shape(shape, f"shape {number} of {name}", image.where, problems))
    return image


def _shape(entry: ElementTree.Element, mark: str, where: str, problems: list[Problem]) -> Shape | None:
    """One shape; None, with a problem, for what holds no object."""
    label, kind = printable(entry.get("label", "")).strip(), entry.tag
    turn = math.radians(as_number(entry.get("rotation", 0), 0.0))
    shape = None
    if kind in _NOT_READ:
        problems.append(Problem("shape that is no box", where, mark, _NOT_READ[kind], DROPPED))
        return None
    if label and math.isfinite(turn) and kind in _SHAPES:
        shape = _SHAPES[kind](entry, label, mark, turn)
    if shape is None:
        problems.append(unreadable("a labelled box, polygon, ellipse or mask is expected", entry.attrib, where, mark))
    elif kind == "mask":
        problems.append(Problem("mask as an image", where, mark, "its box is used without it", CHANGED))
    elif shape.corners is not None:
        problems.append(Problem("rotated box", where, mark, "the upright box around it is used", CHANGED))
    return shape


def _numbers(entry: ElementTree.Element, *keys: str) -> list[float] | None:
    values = [as_number(entry.get(key)) for key in keys]
    return values if np.isfinite(values).all() else None


def _box(entry: ElementTree.Element, label: str, mark: str, turn: float) -> Shape | None:
    if not (corners := _numbers(entry, "xtl", "ytl", "xbr", "ybr")):
        return None
    x0, y0, x1, y1 = corners
    if turn % (2 * math.pi) == 0:
        return Shape(label, mark, (x0, y0, x1, y1))
    return turned(label, mark, (x0, y0, x1, y1), ((x0 + x1) / 2, (y0 + y1) / 2), turn)


def _polygon(entry: ElementTree.Element, label: str, mark: str, _: float) -> Shape | None:
    points = points_of([pair.split(",") for pair in entry.get("points", "").split(";")])
    return outlined(label, mark, points) if points is not None and len(points) > 2 else None


def _ellipse(entry: ElementTree.Element, label: str, mark: str, turn: float) -> Shape | None:
    if not (place := _numbers(entry, "cx", "cy", "rx", "ry")):
        return None
    x, y, wide, high = place
    return outlined(label, mark, ellipse(x, y, wide, high, turn))


def _mask(entry: ElementTree.Element, label: str, mark: str, _: float) -> Shape | None:
    if not (place := _numbers(entry, "left", "top", "width", "height")):
        return None
    left, top, width, height = place
    return Shape(label, mark, (left, top, left + width, top + height))


_SHAPES: dict[str, Callable[[ElementTree.Element, str, str, float], Shape | None]] = {
    "box": _box,
    "polygon": _polygon,
    "ellipse": _ellipse,
    "mask": _mask,
}

LAYOUT = drawn_layout("cvat", "CVAT (annotations.xml)", _parse, single_files(_is_one, "*.xml"))
