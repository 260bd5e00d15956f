"""Reading VOC and YOLO: one small annotation file per picture, each bad record named and left out.

VOC's 1-based inclusive corners become continuous `(xmin - 1, ymin - 1, xmax, ymax)`; YOLO's centre and size, polygons
and keypoints, fractions of the image, become pixels. An XML file without objects and an empty label file say that
somebody looked and found nothing; where there is no such file, nobody labelled the picture.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from aweigh.annotations import problems as check
from aweigh.annotations.frames import settle_frames
from aweigh.annotations.problems import DROPPED, SKIPPED, Problem
from aweigh.annotations.records import (
    MAX_CLASSES,
    UNKNOWN,
    Records,
    as_number,
    as_side,
    build_split,
    choose_classes,
    file_names,
    known_sizes,
    place_keypoints,
    some_of,
)
from aweigh.annotations.split import LABELS_LOST, NEVER_LABELLED, REVIEWED, Split
from aweigh.errors import DataError, counted, printable
from aweigh.files import below, lies_within, read_bytes, read_text
from aweigh.images.reader import SUFFIXES

_VOC_KEYS = {"name", "difficult", "bndbox"}
_VOC_DEFAULTS = {("pose", "Unspecified"), ("truncated", "0"), ("occluded", "0")}


@dataclass(frozen=True)
class _Row:
    """One object as a file has it. image: its row. box: as written. mark: "object 3", "line 3". extras: JSON.
    outline: the corners `[4, 2]` of an oriented box, in pixels."""

    image: int
    label: int
    box: Sequence[float]
    mark: str
    difficult: bool = False
    polygon: Sequence[float] | None = None
    keypoints: Sequence[float] | None = None
    extras: str = ""
    outline: np.ndarray | None = None


def read_voc(
    folder: Path,
    picture_folders: Sequence[Path],
    listing: Path | None,
    *,
    name: str,
    wanted: Sequence[str] | None,
    names: Sequence[str] | None,
) -> Split:
    """VOC XML files. listing: the ImageSets file that names the images; all XML files without it.

    Class names come from `names`, else from all XML files of the folder in alphabetical order, so that every split
    of a data set has the same.
    """
    problems: list[Problem] = []
    every = sorted(file.stem for file in folder.glob("*.xml"))
    by_stem = {path.stem: path for place in reversed(picture_folders) for path in _pictures(place)}
    stems = every
    if listing is not None:
        lines, known = read_text(listing).splitlines(), {*every, *by_stem}
        stems = list(dict.fromkeys(_listed_stem(line, known) for line in lines if line.strip()))
    needed = every if names is None else [stem for stem in stems if stem in set(every)]
    own = set(stems)
    trees = {stem: _voc_xml(folder / f"{stem}.xml", problems if stem in own else []) for stem in needed}
    if names is None:
        objects = (item for tree in trees.values() if tree is not None for item in tree.iter("object"))
        names = sorted({_class_name(item) for item in objects} - {""})
    classes, label_of = choose_classes(list(names), list(range(len(names))), wanted, folder)

    paths: list[Path] = []
    declared: list[list[int]] = []
    said: list[int] = []
    rows: list[_Row] = []
    for stem in stems:
        tree = trees.get(stem)
        if tree is None:
            if os.path.lexists(folder / f"{stem}.xml"):
                continue
            action = check.KEPT if stem in by_stem else SKIPPED
            problems.append(Problem("annotation file missing", f"{stem}.xml", None, f"not in {folder}", action))
            if stem in by_stem:
                paths.append(by_stem[stem])
                declared.append([0, 0])
                said.append(NEVER_LABELLED)
            continue
        if stem not in by_stem:
            looked = ", ".join(str(place) for place in picture_folders)
            detail = f"no picture {stem}.* in {looked}"
            problems.append(Problem("image file missing", f"{stem}.xml", None, detail, SKIPPED))
            continue
        image = len(paths)
        paths.append(by_stem[stem])
        declared.append([as_side(_text(tree, f"size/{side}")) for side in ("height", "width")])
        said.append(REVIEWED)
        for number, item in enumerate(tree.iter("object"), start=1):
            mark = f"object {number}"
            label = label_of.get(_class_name(item), UNKNOWN)
            if label == UNKNOWN:
                detail = f"class {_text(item, 'name')!r}, known are {some_of(list(label_of))}"
                problems.append(Problem("label out of range", f"{stem}.xml", mark, detail, DROPPED))
                said[image] = LABELS_LOST
            if label >= 0:
                corners, outline = _voc_corners(item, f"{stem}.xml", mark, problems)
                difficult = _text(item, "difficult") == "1"
                rows.append(_Row(image, label, corners, mark, difficult, extras=_voc_extras(item), outline=outline))

    shown = np.array([row.box for row in rows], dtype=np.float64).reshape(-1, 4)
    first_low = shown[:, :2] <= shown[:, 2:] + 1  # one pixel less, as a side of none is written, is not exchanged
    boxes = shown - np.hstack([first_low, ~first_low])  # the lower of the two counts from 1
    records = _records(paths, declared, problems, rows, boxes, shown, said)
    settled = settle_frames(records.paths, records.sizes_hw, records.image_of, records.boxes, problems)
    records = replace(records, sizes_hw=settled)
    root = paths[0].parent if paths else picture_folders[0]
    return build_split(records, name=name, layout="voc", root=root, classes=classes, problems=problems)


def read_yolo(
    labels_folder: Path,
    places: Sequence[Path],
    *,
    name: str,
    wanted: Sequence[str] | None,
    names: Sequence[str] | None,
    others: Sequence[Path] = (),
    keypoint_shape: tuple[int, int] | None = None,
    keypoint_names: Sequence[str] = (),
    skeleton: Sequence[tuple[int, int]] = (),
    within: Path | None = None,
) -> Split:
    """YOLO label files. places: picture folders, or text files of picture paths; a picture named twice is read once.

    A picture without a label file has no objects, and is kept. Lines of five numbers are boxes, longer ones polygons,
    whose extent is taken, or, with `keypoint_shape` (how many, and numbers of each, 2 or 3), boxes with keypoints.
    others: label folders of the other splits; where no file names the classes, they are numbered up to the highest
    number in any split. within: the folder that paths in text files may not lead out of, if any.
    """
    problems: list[Problem] = []
    pairs = _yolo_pairs(labels_folder, places, within, problems)
    sizes_hw = known_sizes([path for path, _ in pairs], np.zeros((len(pairs), 2), dtype=np.int64), problems)
    good = np.flatnonzero((sizes_hw > 0).all(axis=1))
    lines, said = [], []
    for index in good:
        before = len(problems)
        lines.append(_yolo_lines(pairs[index][1], problems, keypoint_shape))
        left_out = any(problem.action == DROPPED for problem in problems[before:])
        there = os.path.lexists(pairs[index][1])
        said.append(LABELS_LOST if left_out else REVIEWED if there else NEVER_LABELLED)
    if names is None:
        elsewhere = [file for folder in {*others} - {labels_folder} for file in sorted(folder.glob("*.txt"))]
        found = [line for file in lines for line in file]
        found += [line for file in elsewhere for line in _yolo_lines(file, [], keypoint_shape)]
        labels = [line.label for line in found if line.label < MAX_CLASSES]
        names = [str(label) for label in range(1 + max(labels, default=-1))]
    classes, label_of = choose_classes(list(names), list(range(len(names))), wanted, labels_folder)

    rows: list[_Row] = []
    for image, (index, entries) in enumerate(zip(good, lines, strict=True)):
        height, width = sizes_hw[index].tolist()
        for entry in entries:
            label = label_of[names[entry.label]] if 0 <= entry.label < len(names) else UNKNOWN
            if label == UNKNOWN:
                detail = f"class {entry.label}, valid are 0 to {len(names) - 1}"
                problems.append(Problem("label out of range", pairs[index][1].name, entry.mark, detail, DROPPED))
                said[image] = LABELS_LOST
            if label >= 0:
                polygon = None if entry.polygon is None else _scaled(entry.polygon, (width, height))
                points = None if entry.keypoints is None else _scaled(entry.keypoints, (width, height, 1))
                shapes: dict[str, Any] = {"polygon": polygon, "keypoints": points}
                rows.append(_Row(image, label, entry.box, entry.mark, extras=entry.extras, **shapes))
    shown = np.array([row.box for row in rows], dtype=np.float64).reshape(-1, 4)
    sizes_wh = sizes_hw[good][:, ::-1][[row.image for row in rows]].reshape(-1, 2).astype(np.float64)
    half = shown[:, 2:] / 2
    boxes = np.hstack([(shown[:, :2] - half) * sizes_wh, (shown[:, :2] + half) * sizes_wh])
    pixels = [row for row in range(len(rows)) if (np.abs(shown[row]) > 2).any()]
    if pixels:
        detail = f"values such as {shown[pixels[0]].tolist()}; the format wants fractions of the image"
        where, mark = pairs[good[rows[pixels[0]].image]][1].name, rows[pixels[0]].mark
        problems.append(Problem("looks like pixels instead of fractions", where, mark, detail, check.KEPT))
    count = 0 if keypoint_shape is None else keypoint_shape[0]
    named = tuple(keypoint_names) if len(keypoint_names) == count else tuple(str(number) for number in range(count))
    inside = tuple((first, second) for first, second in skeleton if 0 <= first < count and 0 <= second < count)
    paths = [pairs[index][0] for index in good]
    records = _records(paths, sizes_hw[good], problems, rows, boxes, shown, said, named, inside)
    place = places[0] if places else labels_folder
    root = place if place.is_dir() else place.parent
    return build_split(
        replace(records, fractions=True), name=name, layout="yolo", root=root, classes=classes, problems=problems
    )


class _ForbiddenXML(Exception):
    pass


def _voc_xml(file: Path, problems: list[Problem]) -> ElementTree.Element | None:
    """The root of an XML file; None, with a problem, when it cannot be read or declares entities."""
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()

    def forbid(*_: object) -> NoReturn:
        raise _ForbiddenXML("it declares a document type, by which a small file can expand without end")

    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = forbid
    try:
        parser.Parse(read_bytes(file), True)
        root = builder.close()
        if root.tag.lower() != "annotation":
            raise ValueError(f"it begins with <{root.tag[:40]}>, expected <annotation>")
        return root
    except (expat.ExpatError, _ForbiddenXML, DataError, AssertionError, ValueError, LookupError) as error:
        problems.append(Problem("annotation file unreadable", file.name, None, str(error), SKIPPED))
        return None


def _yolo_pairs(
    labels_folder: Path, places: Sequence[Path], within: Path | None, problems: list[Problem]
) -> list[tuple[Path, Path]]:
    """Each picture with the path of its label file, which need not exist."""
    found: dict[Path, Path] = {}
    for place in places:
        if place.is_file():
            pictures = _listed_pictures(place, within, problems)
        else:
            pictures = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
        for path in pictures:
            beside = place == places[0] and not place.is_file()
            label = labels_folder / path.relative_to(place).with_suffix(".txt") if beside else _label_file(path, within)
            found.setdefault(path, label)
    pairs = list(found.items())
    known = set(found.values())
    if not labels_folder.is_dir() or (places and places[0].is_file()):
        return pairs
    for label in sorted(labels_folder.rglob("*.txt")):
        if label not in known and label.name not in ("classes.txt", "labels.txt"):
            detail = f"no picture {label.stem}.*"
            problems.append(Problem("labels for a missing image", label.name, None, detail, DROPPED))
    return pairs


def _listed_pictures(listing: Path, within: Path | None, problems: list[Problem]) -> list[Path]:
    """The pictures that the lines of a text file name, from its own folder or from where the user is; else those inside
    the folder that they name without their leading parts, as lists are written where the data were made."""
    pictures = []
    outside = Counter[str]()
    bases = dict.fromkeys([listing.parent, within or listing.parent])
    for line in filter(None, (line.strip().replace("\\", "/") for line in read_text(listing).splitlines())):
        options = [Path(os.path.normpath(place)) for place in (listing.parent / line, Path(line))]
        there = [path for path in options if os.path.isfile(path)]
        if not there or (within is not None and not any(lies_within(path, within) for path in there)):
            there[:0] = [found for base in bases for found in islice(below(line, base), 1)]
        inside = [path for path in there if lies_within(path, within or listing.parent)]
        if not there:
            detail = f"listed in {listing.name}, looked for {options[0]}"
            problems.append(Problem("image file missing", line, None, detail, SKIPPED))
        elif within is not None and not inside:
            detail = f"{listing.name} leads outside the folder {within}"
            problems.append(Problem("path outside the folder", line, None, detail, SKIPPED))
        else:
            pictures.append(there[0] if within is None else inside[0])
            outside[str(there[0].parent)] += not inside
    if not pictures:
        problems.append(
            Problem("list without pictures", listing.name, None, "none of its lines can be used", check.KEPT)
        )
    for folder, count in outside.items():
        if count:
            detail = f"{count} of its pictures lie in {folder}"
            problems.append(Problem("pictures outside the data folder", listing.name, None, detail, check.KEPT))
    return pictures


def _label_file(picture: Path, within: Path | None) -> Path:
    """`.../images/x.jpg` to `.../labels/x.txt` by the last `images` in the path; beside the picture without one.

    Also beside it where that leads out of the folder the data are in, or where there is such a file alone.
    """
    beside = picture.with_suffix(".txt")
    parts = list(picture.parts)
    for position in reversed(range(len(parts) - 1)):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    label = Path(*parts).with_suffix(".txt")
    leads_out = within is not None and not lies_within(label, within)
    return beside if leads_out or (os.path.lexists(beside) and not os.path.lexists(label)) else label


def _yolo_lines(file: Path, problems: list[Problem], keypoint_shape: tuple[int, int] | None) -> list[_Row]:
    """The lines with class number, (cx, cy, w, h), polygon and keypoints as fractions; bad lines become problems."""
    if not os.path.lexists(file):
        return []
    try:
        text = read_text(file)
    except DataError as error:
        problems.append(Problem("label file unreadable", file.name, None, str(error), DROPPED))
        return []
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        mark = f"line {number}"
        values = [as_number(word) for word in words]
        whole = np.isfinite(values[0]) and values[0] == int(values[0])
        if whole and len(values) == 5:
            entries.append(_Row(0, int(values[0]), values[1:], mark))
        elif whole and len(values) == 6 and 0 <= values[5] <= 1:
            detail = f"taken as a score, {values[5]:g}; the box before it is used"
            problems.append(Problem("sixth column", file.name, mark, detail, check.KEPT))
            entries.append(_Row(0, int(values[0]), values[1:5], mark, extras=json.dumps({"score": values[5]})))
        elif whole and keypoint_shape is not None and len(values) == 5 + keypoint_shape[0] * keypoint_shape[1]:
            points = _with_visibility(values[5:], keypoint_shape[1])
            entries.append(_Row(0, int(values[0]), values[1:5], mark, keypoints=points))
        elif whole and keypoint_shape is None and len(values) >= 7 and len(values) % 2 == 1:
            xs, ys = values[1::2], values[2::2]
            box = [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]
            entries.append(_Row(0, int(values[0]), box, mark, polygon=values[1:]))
        else:
            wanted = (
                "a polygon" if keypoint_shape is None else f"{counted(keypoint_shape[0], 'keypoint')} after the box"
            )
            detail = f"expected 'class cx cy w h', a score from 0 to 1 behind it, or {wanted}, got {line[:60]!r}"
            problems.append(Problem("unreadable line", file.name, mark, detail, DROPPED))
    return entries


def _with_visibility(values: list[float], numbers: int) -> list[float]:
    """x, y, visibility; where the file gives x and y alone, a point is seen unless it lies at (0, 0)."""
    if numbers == 3:
        return values
    pairs = zip(values[::2], values[1::2], strict=True)
    return [value for x, y in pairs for value in (x, y, 2.0 if x or y else 0.0)]


def _scaled(values: Sequence[float], factors: Sequence[float]) -> list[float]:
    return (np.array(values).reshape(-1, len(factors)) * np.array(factors)).reshape(-1).tolist()


def _records(
    paths: list[Path],
    declared: Sequence[Sequence[int]] | np.ndarray,
    problems: list[Problem],
    rows: list[_Row],
    boxes: np.ndarray,
    shown: np.ndarray,
    said: Sequence[int],
    keypoint_names: tuple[str, ...] = (),
    skeleton: tuple[tuple[int, int], ...] = (),
) -> Records:
    """Records with images and annotations numbered from 1, images without a size left out."""
    sizes_hw = known_sizes(paths, np.array(declared, dtype=np.int64).reshape(-1, 2), problems)
    usable = np.flatnonzero((sizes_hw > 0).all(axis=1))
    new_row = np.full(len(paths), -1, dtype=np.int64)
    new_row[usable] = np.arange(len(usable))
    image_of = new_row[np.array([row.image for row in rows], dtype=np.int64)]
    kept = np.flatnonzero(image_of >= 0)
    used = [rows[row] for row in kept]
    marks = [row.mark for row in used]
    names = [paths[row.image].name for row in used]
    keypoints, num_keypoints = place_keypoints(
        [row.keypoints for row in used],
        len(keypoint_names),
        sizes_hw[usable][image_of[kept]].reshape(-1, 2),
        names,
        marks,
        problems,
    )
    return Records(
        paths=[paths[row] for row in usable],
        image_ids=np.arange(1, len(usable) + 1),
        sizes_hw=sizes_hw[usable],
        image_of=image_of[kept],
        boxes=boxes[kept],
        boxes_xywh=np.column_stack([boxes[kept, :2], boxes[kept, 2:] - boxes[kept, :2]]),
        labels=np.array([row.label for row in used], dtype=np.int64),
        crowd=np.zeros(len(used), dtype=bool),
        difficult=np.array([row.difficult for row in used], dtype=bool),
        area=np.array([_area(row.polygon) for row in used], dtype=np.float64),
        annotation_ids=np.arange(1, len(used) + 1),
        marks=marks,
        shown=shown[kept],
        said=np.array(said, dtype=np.int8)[usable],
        segmentations=[row.polygon and [row.polygon] for row in used],
        outlines=[_outlines(row) for row in used],
        keypoints=keypoints,
        num_keypoints=num_keypoints,
        keypoint_names=keypoint_names,
        skeleton=skeleton,
        extras=[row.extras for row in used],
    )


def _area(polygon: Sequence[float] | None) -> float:
    """What a polygon encloses, by its corners; NaN for none."""
    if polygon is None:
        return math.nan
    x, y = np.array(polygon).reshape(-1, 2).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _listed_stem(line: str, known: set[str]) -> str:
    """The picture a line of ImageSets names: the whole line, as names may hold spaces and dots, else its first word."""
    words = (line.strip(), line.split()[0])
    options = [name for word in words for name in (Path(word).name, Path(word).stem)]
    return next((name for name in options if name in known), options[-1])


def _voc_corners(
    item: ElementTree.Element, where: str, mark: str, problems: list[Problem]
) -> tuple[list[float], np.ndarray | None]:
    """Corners as VOC writes them; of a rotated box (centre, size, angle), those of the upright box around it, and its
    own `[4, 2]` in pixels."""
    if item.find("bndbox") is not None or item.find("robndbox") is None:
        return [as_number(_text(item, f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")], None
    x, y, width, height, angle = (as_number(_text(item, f"robndbox/{key}")) for key in ("cx", "cy", "w", "h", "angle"))
    if not np.isfinite([x, y, width, height, angle]).all():
        return [math.nan] * 4, None
    along, across = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
    sides = [(right * width, down * height) for right, down in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))]
    corners = np.array([[x, y] + right * along + down * across for right, down in sides])
    detail = f"turned by {angle:g}; the upright box around it is used"
    problems.append(Problem("rotated box", where, mark, detail, check.CHANGED))
    return [*(corners.min(axis=0) + 1).tolist(), *corners.max(axis=0).tolist()], corners


def _outlines(row: _Row) -> list[np.ndarray]:
    """The polygons that the box of an object was drawn round."""
    if row.outline is not None:
        return [row.outline]
    return [] if row.polygon is None else [np.array(row.polygon).reshape(-1, 2)]


def _voc_extras(item: ElementTree.Element) -> str:
    """What else an object says (pose, truncated, ...) as JSON; two levels deep, the usual defaults left out."""
    said: dict[str, Any] = {}
    for child in item:
        text = (child.text or "").strip()
        if child.tag in _VOC_KEYS or (not len(child) and (not text or (child.tag, text) in _VOC_DEFAULTS)):
            continue
        said[child.tag] = {leaf.tag: (leaf.text or "").strip() for leaf in child} if len(child) else _plain(text)
    return json.dumps(said) if said else ""


def _plain(text: str) -> int | str:
    return int(text) if text.isdecimal() and len(text) < 10 else text


def _pictures(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(file_names(folder)) if name.lower().endswith(SUFFIXES)]


def _class_name(item: ElementTree.Element) -> str:
    return printable(_text(item, "name"))


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
