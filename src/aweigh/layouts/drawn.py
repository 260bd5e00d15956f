"""What labelling tools say of images, whatever their files look like: outlines with a class, made into a split.

A layout of this kind (`drawn_layout`) is a module that knows its files in a folder and reads them into `Drawn`
images. What they share is here: finding the images inside the folder, one list of classes for all splits, boxes
round outlines, masks from polygons.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from aweigh.annotations.problems import DROPPED, SKIPPED, Problem, suspicions
from aweigh.annotations.records import (
    UNKNOWN,
    as_number,
    build_split,
    choose_classes,
    distinct_names,
    file_names,
    known_sizes,
)
from aweigh.annotations.split import LABELS_LOST, NOT_SAID, REVIEWED, Split
from aweigh.errors import DataError, printable, some_of
from aweigh.files import below
from aweigh.images.reader import SUFFIXES
from aweigh.layouts.finding import annotation_files, in_order, picture_folders
from aweigh.layouts.layout import Layout, SplitFiles, Writing
from aweigh.layouts.rows import Row, records_of, settled

CORNERS_OF_A_CIRCLE = 48  # of the polygon that stands for it: 0.3 % of its area are lost


@dataclass(frozen=True)
class Shape:
    """One object. label: its class. mark: how it is called ("shape 3"). box: xyxy in pixels. polygons: its outlines
    `[K, 2]`, where it has some. difficult: neither found nor missed. corners: `[4, 2]` of an oriented box, which is no
    mask, and whose upright box `box` is. keypoints: x and y in pixels of those that are marked, by their names."""

    label: str
    mark: str
    box: tuple[float, float, float, float]
    polygons: tuple[np.ndarray, ...] = ()
    difficult: bool = False
    corners: np.ndarray | None = None
    keypoints: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass
class Drawn:
    """One image. names: what its file may be called, the likeliest first, with folders where they are said. where:
    the file that says so. size_hw: as it says, 0 where it does not. looked_at: whether it is known that somebody
    looked, if it has no shapes."""

    names: tuple[str, ...]
    where: str
    size_hw: tuple[int, int] = (0, 0)
    shapes: list[Shape] = field(default_factory=list)
    looked_at: bool = False
    lost: bool = False  # it has an annotation that could not be read
    hint: str = ""  # said where its image is not found

    def add(self, shape: Shape | None) -> None:
        """One more object; None for an annotation that could not be read."""
        if shape is None:
            self.lost = True
        else:
            self.shapes.append(shape)


Parse = Callable[[SplitFiles, list[Problem]], list[Drawn]]
Read = TypeVar("Read")


class Places(NamedTuple):
    """Where annotations lie. find: the file or folder of each split, in a folder. by_hand: the same of what the user
    names; None where that is of another layout."""

    find: Callable[[Path], dict[str, Path]]
    by_hand: Callable[[Path], Path | None]


def single_files(is_one: Callable[[Path], bool], *patterns: str) -> Places:
    """A file for each split, called as one of the patterns, of which `is_one` says whether it is of the layout."""
    return Places(lambda root: annotation_files(root, patterns, is_one), lambda file: file if is_one(file) else None)


def drawn_layout(
    name: str,
    looks_for: str,
    parse: Parse,
    places: Places,
    *,
    completed: Callable[[SplitFiles], SplitFiles] = lambda files: files,
    writing: Writing | None = None,
) -> Layout:
    """A layout that `parse` reads, whose images lie near its annotations.

    completed: with what else is known of the files of a split.
    """

    def files(split: str, place: Path, root: Path) -> SplitFiles:
        return completed(SplitFiles(split, name, place, picture_folders(place, root)))

    def find_files(root: Path) -> dict[str, SplitFiles]:
        return in_order({split: files(split, place, root) for split, place in places.find(root).items()})

    def files_by_hand(annotations: Path, split: str) -> SplitFiles | None:
        place = places.by_hand(annotations)
        if place is None:
            return None
        return files(split, place, (place if place.is_dir() else place.parent).parent)

    return Layout(looks_for, find_files, files_by_hand, partial(read_drawn, parse), writing)


def each_file(
    folder: Path, pattern: str, read: Callable[[Path], Read], problems: list[Problem]
) -> Iterator[tuple[Path, Read]]:
    """The files of a folder and what `read` makes of each; those that it cannot read are named."""
    for file in sorted(folder.glob(pattern)):
        try:
            content = read(file)
        except DataError as error:
            problems.append(Problem("annotation file unreadable", file.name, None, str(error), SKIPPED))
        else:
            yield file, content


def unreadable(wanted: str, got: object, where: str, mark: str, action: str = DROPPED) -> Problem:
    """That a record of a file is something else than is wanted."""
    return Problem("unreadable record", where, mark, f"{wanted}, got {printable(str(got))[:60]}", action)


def outlined(label: str, mark: str, points: np.ndarray, *more: np.ndarray) -> Shape:
    """An object with outlines `[K, 2]`; its box is their extent."""
    every = np.concatenate([points, *more])
    low, high = every.min(axis=0), every.max(axis=0)
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    return Shape(label, mark, box, (points, *more))


def turned(
    label: str, mark: str, box: tuple[float, float, float, float], about: tuple[float, float], turn: float
) -> Shape:
    """A rectangle (xyxy) that is turned clockwise about a point by `turn` in radians; its box is the upright one around
    it."""
    x0, y0, x1, y1 = box
    cosine, sine = math.cos(turn), math.sin(turn)
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) - about
    corners = corners @ np.array([[cosine, sine], [-sine, cosine]]) + about
    return replace(outlined(label, mark, corners), polygons=(), corners=corners)


def ellipse(x: float, y: float, wide: float, high: float, turn: float = 0.0) -> np.ndarray:
    """The outline `[48, 2]` of an ellipse with these half axes, turned clockwise by `turn` in radians."""
    angles = np.linspace(0, 2 * math.pi, CORNERS_OF_A_CIRCLE, endpoint=False)
    along, across = wide * np.cos(angles), high * np.sin(angles)
    cosine, sine = math.cos(turn), math.sin(turn)
    return np.column_stack([x + along * cosine - across * sine, y + along * sine + across * cosine])


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
    """A split of what `parse` reads. The names of classes and of keypoints are those of the shapes of all splits, in
    alphabetical order."""
    problems: list[Problem] = []
    drawn = parse(files, problems)
    names, keypoint_names = files.names, files.keypoint_names
    if names is None:
        others = [picture for other in every.values() if other != files for picture in _parsed(parse, other)]
        shapes = [shape for picture in (*drawn, *others) for shape in picture.shapes]
        names = distinct_names(sorted({shape.label for shape in shapes} - {""}), files.annotations)
        keypoint_names = tuple(sorted({key for shape in shapes for key in shape.keypoints}))
    classes, label_of = choose_classes(list(names), list(range(len(names))), wanted, files.annotations)

    pictures, paths = _with_files(drawn, files, problems)
    declared = np.array([picture.size_hw for picture in pictures], dtype=np.int64).reshape(-1, 2)
    sizes_hw = known_sizes(paths, declared, problems)
    usable = np.flatnonzero((sizes_hw > 0).all(axis=1))
    rows: list[Row] = []
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
                rows.append(_row(image, label, shape, keypoint_names))
        looked_at = REVIEWED if picture.looked_at or picture.shapes else NOT_SAID
        said.append(LABELS_LOST if picture.lost else looked_at)
    used = [paths[row] for row in usable]
    root = Path(os.path.commonpath([path.parent for path in used])) if used else files.images[0]
    records = records_of(used, sizes_hw[usable], said, rows, problems, keypoint_names=keypoint_names)
    records = settled(records, problems)
    problems.extend(suspicions(records.boxes_xywh, records.sizes_hw[records.image_of], files.annotations.name))
    return build_split(records, name=name, layout=files.layout, root=root, classes=classes, problems=problems)


def _row(image: int, label: int, shape: Shape, keypoint_names: Sequence[str]) -> Row:
    marked = [(*shape.keypoints[name], 2.0) if name in shape.keypoints else (0.0, 0.0, 0.0) for name in keypoint_names]
    keypoints = [value for point in marked for value in point] if shape.keypoints else None
    box, polygons = shape.box, shape.polygons
    return Row(image, label, box, shape.mark, shape.difficult, polygons, keypoints, corners=shape.corners)


def _parsed(parse: Parse, files: SplitFiles) -> list[Drawn]:
    """What another split says, nothing where it cannot be read: that is told when it is read itself."""
    try:
        return parse(files, [])
    except DataError:
        return []


# --- finding the images -----------------------------------------------------------------------------------------


def _with_files(drawn: Sequence[Drawn], files: SplitFiles, problems: list[Problem]) -> tuple[list[Drawn], list[Path]]:
    """Those images whose file is there, each file once, and the files."""
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
            problems.append(Problem("image described twice", picture.where, path.name, detail, SKIPPED))
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
