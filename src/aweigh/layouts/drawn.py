"""What labelling tools say of pictures, whatever their files look like: outlines with a class, made into a split.

A layout of this kind is a module with a finder, which recognises the files of a folder, and a function that reads these
files into `Drawn` pictures. What they share is here: finding the pictures inside the folder, one list of classes for
all splits, boxes round outlines, masks from polygons.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.annotations.exif_frames import settle_frames
from aweigh.annotations.problems import DROPPED, SKIPPED, Problem, suspicions
from aweigh.annotations.records import (
    UNKNOWN,
    Records,
    as_number,
    build_split,
    choose_classes,
    distinct_names,
    file_names,
    known_sizes,
)
from aweigh.annotations.split import LABELS_LOST, NOT_SAID, REVIEWED, Split
from aweigh.errors import DataError, printable, some_of
from aweigh.files import below, read_bytes
from aweigh.images.reader import SUFFIXES
from aweigh.layouts.layout import SplitFiles

CORNERS_OF_A_CIRCLE = 48  # of the polygon that stands for it: 0.3 % of its area are lost


@dataclass(frozen=True)
class Shape:
    """One object. label: its class. mark: how it is called ("shape 3"). box: xyxy in pixels. polygons: its outlines
    `[K, 2]`, where it has some. difficult: neither found nor missed. corners: `[4, 2]` of an oriented box, which is no
    mask, and whose upright box `box` is."""

    label: str
    mark: str
    box: tuple[float, float, float, float]
    polygons: tuple[np.ndarray, ...] = ()
    difficult: bool = False
    corners: np.ndarray | None = None


@dataclass
class Drawn:
    """One picture. names: what its file may be called, the likeliest first, with folders where they are said. where:
    the file that says so. size_hw: as it says, 0 where it does not. looked_at: whether it is known that somebody
    looked, if it has no shapes."""

    names: tuple[str, ...]
    where: str
    size_hw: tuple[int, int] = (0, 0)
    shapes: list[Shape] = field(default_factory=list)
    looked_at: bool = False
    lost: bool = False  # it has an annotation that could not be read
    hint: str = ""  # said where its picture is not found


Parse = Callable[[SplitFiles, list[Problem]], list[Drawn]]


def outlined(label: str, mark: str, points: np.ndarray, *more: np.ndarray) -> Shape:
    """An object with outlines `[K, 2]`; its box is their extent."""
    every = np.concatenate([points, *more])
    low, high = every.min(axis=0), every.max(axis=0)
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    return Shape(label, mark, box, (points, *more))


def ellipse(x: float, y: float, wide: float, high: float, turn: float = 0.0) -> np.ndarray:
    """The outline `[48, 2]` of an ellipse with these half axes, turned clockwise by `turn` in radians."""
    angles = np.linspace(0, 2 * math.pi, CORNERS_OF_A_CIRCLE, endpoint=False)
    along, across = wide * np.cos(angles), high * np.sin(angles)
    cosine, sine = math.cos(turn), math.sin(turn)
    return np.column_stack([x + along * cosine - across * sine, y + along * sine + across * cosine])


def read_json(file: Path) -> Any:
    """What a JSON file holds; `DataError` where it is none."""
    try:
        return json.loads(read_bytes(file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({' '.join(str(error).split())}). Export it again.") from error


def points_of(values: Any) -> np.ndarray | None:
    """Points `[K, 2]` float64 of lists of two numbers; None where they are none."""
    if not isinstance(values, list) or not values:
        return None
    if not all(isinstance(value, list | tuple) and len(value) == 2 for value in values):
        return None
    points = np.array([[as_number(x), as_number(y)] for x, y in values])
    return points if np.isfinite(points).all() else None


def read_drawn(
    parse: Parse, files: SplitFiles, every: Mapping[str, SplitFiles], name: str, wanted: Sequence[str] | None
) -> Split:
    """A split of what `parse` reads. Class names are those of the shapes of all splits, in alphabetical order."""
    problems: list[Problem] = []
    drawn = parse(files, problems)
    names = files.names
    if names is None:
        others = [picture for other in every.values() if other != files for picture in _parsed(parse, other)]
        labels = {shape.label for picture in (*drawn, *others) for shape in picture.shapes}
        names = distinct_names(sorted(labels - {""}), files.annotations)
    classes, label_of = choose_classes(list(names), list(range(len(names))), wanted, files.annotations)

    pictures, paths = _with_files(drawn, files, problems)
    declared = np.array([picture.size_hw for picture in pictures], dtype=np.int64).reshape(-1, 2)
    sizes_hw = known_sizes(paths, declared, problems)
    usable = np.flatnonzero((sizes_hw > 0).all(axis=1))
    rows: list[tuple[int, int, Shape]] = []
    said = []
    for image, number in enumerate(usable.tolist()):
        picture = pictures[number]
        for shape in picture.shapes:
            label = label_of.get(shape.label, UNKNOWN)
            if label == UNKNOWN:
                detail = f"class {printable(shape.label)!r}, known are {some_of(list(label_of), 12)}"
                problems.append(Problem("label out of range", picture.where, shape.mark, detail, DROPPED))
                picture.lost = True
            if label >= 0:
                rows.append((image, label, shape))
        looked_at = REVIEWED if picture.looked_at or picture.shapes else NOT_SAID
        said.append(LABELS_LOST if picture.lost else looked_at)
    used = [paths[row] for row in usable]
    root = Path(os.path.commonpath([path.parent for path in used])) if used else files.images[0]
    records = _records(used, sizes_hw[usable], said, rows)
    settled = settle_frames(used, records.sizes_hw, records.image_of, records.boxes, problems)
    records = replace(records, sizes_hw=settled)
    problems.extend(suspicions(records.boxes_xywh, settled[records.image_of], files.annotations.name))
    return build_split(records, name=name, layout=files.layout, root=root, classes=classes, problems=problems)


def _parsed(parse: Parse, files: SplitFiles) -> list[Drawn]:
    """What another split says, nothing where it cannot be read: that is told when it is read itself."""
    try:
        return parse(files, [])
    except DataError:
        return []


def _records(
    paths: Sequence[Path], sizes_hw: np.ndarray, said: Sequence[int], rows: Sequence[tuple[int, int, Shape]]
) -> Records:
    boxes = np.array([shape.box for _, _, shape in rows], dtype=np.float64).reshape(-1, 4)
    polygons = [[part.reshape(-1).tolist() for part in shape.polygons] for _, _, shape in rows]
    boxes_xywh = np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    return Records(
        paths=paths,
        image_ids=np.arange(1, len(paths) + 1),
        sizes_hw=sizes_hw,
        image_of=np.array([image for image, _, _ in rows], dtype=np.int64),
        boxes=boxes,
        boxes_xywh=boxes_xywh,
        labels=np.array([label for _, label, _ in rows], dtype=np.int64),
        crowd=np.zeros(len(rows), dtype=bool),
        difficult=np.array([shape.difficult for _, _, shape in rows], dtype=bool),
        area=np.array([_area(shape.polygons) for _, _, shape in rows], dtype=np.float64),
        annotation_ids=np.arange(1, len(rows) + 1),
        marks=[shape.mark for _, _, shape in rows],
        shown=boxes,
        said=np.array(said, dtype=np.int8),
        segmentations=polygons,
        outlines=[shape.polygons if shape.corners is None else (shape.corners,) for _, _, shape in rows],
    )


def _area(polygons: Sequence[np.ndarray]) -> float:
    """What polygons enclose, by their corners; NaN for none."""
    areas = [abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2 for x, y in (part.T for part in polygons)]
    return sum(areas) if areas else math.nan


# --- finding the pictures -----------------------------------------------------------------------------------------


def _with_files(drawn: Sequence[Drawn], files: SplitFiles, problems: list[Problem]) -> tuple[list[Drawn], list[Path]]:
    """Those pictures whose file is there, each file once, and the files."""
    kept: dict[Path, Drawn] = {}
    by_stem = cache(_by_stem)
    for picture in drawn:
        path = next(_places(picture.names, files.images, by_stem), None)
        if path is None:
            looked = ", ".join(str(place) for place in files.images[:4])
            detail = f"no {printable(picture.names[0])} in {looked}{picture.hint}"
            problems.append(Problem("image file missing", picture.where, None, detail, SKIPPED))
        elif path in kept:
            detail = f"{path.name} is described by {kept[path].where} already"
            problems.append(Problem("picture described twice", picture.where, path.name, detail, SKIPPED))
        else:
            kept[path] = picture
    return list(kept.values()), list(kept)


def _places(
    names: Sequence[str], folders: Sequence[Path], by_stem: Callable[[Path], dict[str, Path]]
) -> Iterator[Path]:
    """Files of these names in these folders: with the folders they are said in, then without, then with another ending.

    Nothing outside the folders is looked at, whatever a name says.
    """
    for name in names:
        for folder in folders:
            yield from below(name, folder)
    for name in names:
        for folder in folders:
            if (path := by_stem(folder).get(Path(name.replace("\\", "/")).stem)) is not None:
                yield path


def _by_stem(folder: Path) -> dict[str, Path]:
    found = sorted((name for name in file_names(folder) if name.lower().endswith(SUFFIXES)), reverse=True)
    return {Path(name).stem: folder / name for name in found}
