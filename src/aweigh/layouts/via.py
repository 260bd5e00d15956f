"""The VGG Image Annotator's JSON and CSV: an image is a file name with regions, drawn in pixels of the image.

Versions 1 and 2 have a table of images by key, in version 2's project files under `_via_img_metadata`; regions as a
list or numbered; rectangles, circles, ellipses, polygons. Version 3's project has tables, whose rows have numbers:
`file`, `view` (of files), `metadata` (a shape in a view, with its attributes), `attribute` (their names and options).
Which attribute of a region is its class is not said anywhere: it is the one with the likeliest name (`class`, `label`,
`name`, ...), else the one most regions have. Regions without any attribute are of the class "object". An image without
regions is not known to have been looked at. The file
(`via_region_data.json`, `via_export_csv.csv`, a project file or another) lies in the folder or in those of the splits.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.annotations.problems import DROPPED, SKIPPED, Problem
from aweigh.annotations.records import as_number
from aweigh.errors import DataError, printable
from aweigh.files import read_json, read_text
from aweigh.layouts.drawn import (
    Drawn,
    Shape,
    drawn_layout,
    ellipse,
    outlined,
    points_of,
    single_files,
    unreadable,
)
from aweigh.layouts.finding import head_of
from aweigh.layouts.layout import SplitFiles

_IS_ONE = re.compile(rb'^\{(?=.*("_via_img_metadata"|"_via_settings"|"filename"|"vid_list")\s*:)', re.S)
_KINDS_OF_3 = {1: "point", 2: "rect", 3: "circle", 4: "ellipse", 5: "line", 6: "polyline", 7: "polygon", 8: "extremes"}
_PLACES_OF_3 = {"rect": ("x", "y", "width", "height"), "circle": ("cx", "cy", "r"), "ellipse": ("cx", "cy", "rx", "ry")}
_CLASS_ATTRIBUTES = ("class", "label", "name", "category", "class_name", "type", "object", "object_name")
_UNNAMED = "object"


def _is_one(file: Path) -> bool:
    head = head_of(file)
    if file.suffix.lower() == ".csv":
        return b"region_shape_attributes" in head.split(b"\n", 1)[0]
    named = _IS_ONE.match(head) is not None
    own = b'"_via' in head or b'"vid_list"' in head
    return named and (own or (b'"regions"' in head and b'"images"' not in head))


def _parse(files: SplitFiles, problems: list[Problem]) -> list[Drawn]:
    where = files.annotations.name
    pictures = list(_entries(files.annotations))
    attribute = _class_attribute(region for _, regions in pictures for region in regions)
    drawn: dict[str, Drawn] = {}
    for number, (name, regions) in enumerate(pictures, start=1):
        if not isinstance(name, str) or not name.strip():
            problems.append(unreadable("an image needs a filename", name, where, f"image {number}", SKIPPED))
            continue
        picture = drawn.setdefault(name, Drawn((name,), where))
        for region in regions:
            mark = f"region {len(picture.shapes) + 1} of {printable(name)}"
            picture.add(_shape(region, mark, attribute, where, problems))
    return list(drawn.values())


def _entries(file: Path) -> Iterator[tuple[Any, list[Any]]]:
    """The name of each image and its regions, as they are written."""
    if file.suffix.lower() == ".csv":
        yield from _rows(file)
        return
    content = read_json(file)
    if isinstance(content, dict) and isinstance(content.get("metadata"), dict) and "project" in content:
        yield from _of_version_3(content)
        return
    table = content.get("_via_img_metadata", content) if isinstance(content, dict) else content
    entries = table.values() if isinstance(table, dict) else table
    if not isinstance(table, dict | list):
        raise DataError(f"{file}: a table of images is expected, got a {type(table).__name__}.")
    for entry in entries:
        if isinstance(entry, dict) and "filename" in entry:
            regions = entry.get("regions") or []
            yield entry["filename"], list(regions.values()) if isinstance(regions, dict) else list(regions)


def _of_version_3(content: dict[str, Any]) -> Iterator[tuple[Any, list[Any]]]:
    """The same of a project of version 3, with its regions as version 2 has them."""

    def table(key: str) -> dict[str, dict[str, Any]]:
        held = content.get(key)
        entries = held.items() if isinstance(held, dict) else ()
        return {name: entry for name, entry in entries if isinstance(entry, dict)}

    attributes, files = table("attribute"), table("file")
    regions: dict[str, list[Any]] = {view: [] for view in table("view")}
    for entry in table("metadata").values():
        if (shape := entry.get("xy")) and isinstance(shape, list):  # else it is said of the whole file
            said = entry.get("av")
            chosen = said.items() if isinstance(said, dict) else ()
            named = {
                str(attributes.get(key, {}).get("aname")): _option(attributes.get(key), one) for key, one in chosen
            }
            place = {"shape_attributes": _shape_of_3(shape), "region_attributes": named}
            regions.setdefault(str(entry.get("vid")), []).append(place)
    for view, held in regions.items():
        numbers = table("view").get(view, {}).get("fid_list")
        file = files.get(str(numbers[0]), {}) if isinstance(numbers, list) and numbers else {}
        yield file.get("fname"), held


def _option(attribute: dict[str, Any] | None, value: Any) -> Any:
    """What an attribute says: its text, or of its options, by number, the first that is chosen."""
    options = attribute.get("options") if attribute else None
    chosen = str(value).split(",")[0]
    return options[chosen] if isinstance(options, dict) and chosen in options else value


def _shape_of_3(shape: list[Any]) -> dict[str, Any]:
    """`[2, x, y, width, height]` as version 2 has it."""
    kind, values = _KINDS_OF_3.get(shape[0] if isinstance(shape[0], int) else 0, str(shape[0])), shape[1:]
    if kind in _PLACES_OF_3:
        return {"name": kind, **dict(zip(_PLACES_OF_3[kind], values))}
    if (
        kind == "extremes"
        and (points := points_of([list(pair) for pair in zip(values[::2], values[1::2])])) is not None
    ):
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return {"name": "rect", "x": left, "y": top, "width": right - left, "height": bottom - top}
    return {"name": kind, "all_points_x": values[::2], "all_points_y": values[1::2]}


def _rows(file: Path) -> Iterator[tuple[Any, list[Any]]]:
    for row in csv.DictReader(io.StringIO(read_text(file))):
        name = row.get("filename") or row.get("#filename")
        try:
            shape = json.loads(row.get("region_shape_attributes") or "{}")
            said = json.loads(row.get("region_attributes") or "{}")
        except (ValueError, RecursionError):
            shape, said = row.get("region_shape_attributes"), {}
        yield name, [{"shape_attributes": shape, "region_attributes": said}] if shape else []


def _class_attribute(regions: Iterator[Any]) -> str | None:
    """The attribute that names the class of regions; None where they have none."""
    counts = Counter[str]()
    for region in regions:
        said = region.get("region_attributes") if isinstance(region, dict) else None
        counts.update(str(key) for key, value in (said.items() if isinstance(said, dict) else ()) if _text(value))
    usual = [key for name in _CLASS_ATTRIBUTES for key in counts if key.strip().casefold() == name]
    return usual[0] if usual else max(counts, key=lambda key: (counts[key], key), default=None)


def _text(value: Any) -> str:
    """What an attribute says: a text, or the first choice that is ticked."""
    if isinstance(value, dict):
        value = next((key for key, ticked in value.items() if ticked), "")
    return printable(str(value)).strip() if isinstance(value, str | int | float) else ""


def _shape(region: Any, mark: str, attribute: str | None, where: str, problems: list[Problem]) -> Shape | None:
    """One region; None, with a problem, for what holds no object or has no class."""
    drawn, said = (
        value if isinstance(value := region.get(key) if isinstance(region, dict) else None, dict) else {}
        for key in ("shape_attributes", "region_attributes")
    )
    label = _UNNAMED if attribute is None else _text(said.get(attribute))
    kind = str(drawn.get("name"))
    if kind in ("point", "polyline", "line"):
        problems.append(Problem("shape without an area", where, mark, f"a {kind} encloses nothing", DROPPED))
        return None
    if not label:
        detail = f"its {printable(str(attribute))} is empty, by which the classes are told"
        problems.append(Problem("region without a class", where, mark, detail, DROPPED))
        return None
    shape = _outline(kind, drawn, label, mark)
    if shape is None:
        problems.append(unreadable("a rect, circle, ellipse or polygon is expected", drawn, where, mark))
    return shape


def _outline(kind: str, drawn: dict[str, Any], label: str, mark: str) -> Shape | None:
    def values(*keys: str) -> list[float] | None:
        found = [as_number(drawn.get(key)) for key in keys]
        return found if np.isfinite(found).all() else None

    if kind == "rect" and (place := values("x", "y", "width", "height")):
        x, y, width, height = place
        return Shape(label, mark, (x, y, x + width, y + height))
    if kind == "circle" and (place := values("cx", "cy", "r")):
        x, y, radius = place
        return outlined(label, mark, ellipse(x, y, radius, radius))
    if kind == "ellipse" and (place := values("cx", "cy", "rx", "ry")):
        x, y, wide, high = place
        return outlined(label, mark, ellipse(x, y, wide, high, as_number(drawn.get("theta", 0), 0.0)))
    xs, ys = drawn.get("all_points_x"), drawn.get("all_points_y")
    if kind == "polygon" and isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys) > 2:
        points = points_of([list(pair) for pair in zip(xs, ys, strict=True)])
        return None if points is None else outlined(label, mark, points)
    return None


LAYOUT = drawn_layout("via", "VIA (via_region_data.json, *.csv)", _parse, single_files(_is_one, "*.json", "*.csv"))
