"""Reading VOC and YOLO: one small annotation file per picture, each bad record named and left out.

VOC's 1-based inclusive corners become continuous `(xmin - 1, ymin - 1, xmax, ymax)`; YOLO's centre and size, fractions
of the image, become pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from aweigh.data import check
from aweigh.data.check import DROPPED, SKIPPED, Problem
from aweigh.data.images import SUFFIXES
from aweigh.data.records import (
    UNKNOWN,
    Records,
    as_number,
    build_split,
    choose_classes,
    file_names,
    known_sizes,
    some_of,
)
from aweigh.data.split import Split


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
    stems = every
    if listing is not None:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
        stems = list(dict.fromkeys(Path(line.split()[0]).stem for line in lines if line.strip()))
    needed = every if names is None else [stem for stem in stems if stem in set(every)]
    own = set(stems)
    trees = {stem: _voc_xml(folder / f"{stem}.xml", problems if stem in own else []) for stem in needed}
    if names is None:
        objects = (item for tree in trees.values() if tree is not None for item in tree.iter("object"))
        names = sorted({_text(item, "name") for item in objects} - {""})
    classes, label_of = choose_classes(list(names), list(range(len(names))), wanted, folder)
    by_stem = {path.stem: path for place in reversed(picture_folders) for path in _pictures(place)}

    paths: list[Path] = []
    declared: list[list[int]] = []
    rows: list[tuple[int, int, bool, list[float], str]] = []  # image, label, difficult, corners, mark
    for stem in stems:
        tree = trees.get(stem)
        if tree is None:
            if not (folder / f"{stem}.xml").is_file():
                problems.append(Problem("annotation file missing", f"{stem}.xml", None, f"not in {folder}", SKIPPED))
            continue
        if stem not in by_stem:
            looked = ", ".join(str(place) for place in picture_folders)
            detail = f"no picture {stem}.* in {looked}"
            problems.append(Problem("image file missing", f"{stem}.xml", None, detail, SKIPPED))
            continue
        image = len(paths)
        paths.append(by_stem[stem])
        declared.append([int(as_number(_text(tree, f"size/{side}"), 0)) for side in ("height", "width")])
        for number, item in enumerate(tree.iter("object"), start=1):
            mark = f"object {number}"
            label = label_of.get(_text(item, "name"), UNKNOWN)
            if label == UNKNOWN:
                detail = f"class {_text(item, 'name')!r}, known are {some_of(list(label_of))}"
                problems.append(Problem("label out of range", f"{stem}.xml", mark, detail, DROPPED))
            if label >= 0:
                corners = [as_number(_text(item, f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
                rows.append((image, label, _text(item, "difficult") == "1", corners, mark))

    shown = np.array([row[3] for row in rows], dtype=np.float64).reshape(-1, 4)
    boxes = shown - np.array([1.0, 1.0, 0.0, 0.0])
    records = _records(paths, declared, problems, rows, boxes, shown)
    root = paths[0].parent if paths else picture_folders[0]
    return build_split(records, name=name, layout="voc", root=root, classes=classes, problems=problems)


def read_yolo(
    labels_folder: Path,
    places: Sequence[Path],
    listing: Path | None,
    *,
    name: str,
    wanted: Sequence[str] | None,
    names: Sequence[str] | None,
    others: Sequence[Path] = (),
) -> Split:
    """YOLO label files. places: picture folders; listing: a text file of picture paths instead.

    A picture without a label file has no objects, and is kept. Lines of five numbers are boxes, longer ones
    polygons, whose extent is taken. others: label folders of the other splits; where no file names the classes, they
    are numbered up to the highest number in any split.
    """
    problems: list[Problem] = []
    pairs = _yolo_pairs(labels_folder, places, listing, problems)
    sizes_hw = known_sizes([path for path, _ in pairs], np.zeros((len(pairs), 2), dtype=np.int64), problems)
    good = np.flatnonzero((sizes_hw > 0).all(axis=1))
    lines = [_yolo_lines(pairs[index][1], problems) for index in good]
    if names is None:
        elsewhere = [file for folder in {*others} - {labels_folder} for file in sorted(folder.glob("*.txt"))]
        found = [entry for file in lines for entry in file]
        found += [entry for file in elsewhere for entry in _yolo_lines(file, [])]
        names = [str(label) for label in range(1 + max((label for label, _, _ in found), default=-1))]
    classes, label_of = choose_classes(list(names), list(range(len(names))), wanted, labels_folder)

    rows: list[tuple[int, int, bool, list[float], str]] = []
    for image, (index, entries) in enumerate(zip(good, lines, strict=True)):
        for number, fractions, mark in entries:
            label = label_of[names[number]] if 0 <= number < len(names) else UNKNOWN
            if label == UNKNOWN:
                detail = f"class {number}, valid are 0 to {len(names) - 1}"
                problems.append(Problem("label out of range", pairs[index][1].name, mark, detail, DROPPED))
            if label >= 0:
                rows.append((image, label, False, fractions, mark))
    shown = np.array([row[3] for row in rows], dtype=np.float64).reshape(-1, 4)
    sizes_wh = sizes_hw[good][:, ::-1][[row[0] for row in rows]].reshape(-1, 2).astype(np.float64)
    half = shown[:, 2:] / 2
    boxes = np.hstack([(shown[:, :2] - half) * sizes_wh, (shown[:, :2] + half) * sizes_wh])
    pixels = [row for row in range(len(rows)) if (np.abs(shown[row]) > 2).any()]
    if pixels:
        detail = f"values such as {shown[pixels[0]].tolist()}; the format wants fractions of the image"
        where, mark = pairs[good[rows[pixels[0]][0]]][1].name, rows[pixels[0]][4]
        problems.append(Problem("looks like pixels instead of fractions", where, mark, detail, check.KEPT))
    records = _records([pairs[index][0] for index in good], sizes_hw[good], problems, rows, boxes, shown)
    root = places[0] if places[0].is_dir() else places[0].parent
    return build_split(records, name=name, layout="yolo", root=root, classes=classes, problems=problems)


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
        parser.Parse(file.read_bytes(), True)
        return builder.close()
    except (expat.ExpatError, _ForbiddenXML, OSError, AssertionError, ValueError, LookupError) as error:
        problems.append(Problem("annotation file unreadable", file.name, None, str(error), SKIPPED))
        return None


def _yolo_pairs(
    labels_folder: Path, places: Sequence[Path], listing: Path | None, problems: list[Problem]
) -> list[tuple[Path, Path]]:
    """Each picture with the path of its label file, which need not exist."""
    if listing is not None:
        base = listing.parent
        lines = [line.strip().replace("\\", "/") for line in listing.read_text(encoding="utf-8-sig").splitlines()]
        pairs = []
        for line in filter(None, lines):
            path = next((place for place in (base / line, Path(line)) if place.is_file()), None)
            if path is None:
                problems.append(Problem("image file missing", line, None, f"looked for {base / line}", SKIPPED))
            else:
                pairs.append((path, _label_file(path)))
        return pairs
    pairs = []
    for place in places:
        labels = labels_folder if place == places[0] else None
        pictures = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
        for path in pictures:
            inside = path.relative_to(place).with_suffix(".txt")
            pairs.append((path, labels / inside if labels else _label_file(path)))
    known = {label for _, label in pairs}
    if not labels_folder.is_dir():
        return pairs
    for label in sorted(labels_folder.rglob("*.txt")):
        if label not in known and label.name not in ("classes.txt", "labels.txt"):
            detail = f"no picture {label.stem}.*"
            problems.append(Problem("labels for a missing image", label.name, None, detail, DROPPED))
    return pairs


def _label_file(picture: Path) -> Path:
    """`.../images/x.jpg` to `.../labels/x.txt` by the last `images` in the path; beside the picture without one."""
    parts = list(picture.parts)
    for position in reversed(range(len(parts) - 1)):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _yolo_lines(file: Path, problems: list[Problem]) -> list[tuple[int, list[float], str]]:
    """Class number, (cx, cy, w, h) as fractions, and the mark of each line; bad lines become problems."""
    if not file.is_file():
        return []
    entries = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        values = [as_number(word) for word in words]
        whole = np.isfinite(values[0]) and values[0] == int(values[0])
        if not whole or not (len(values) == 5 or (len(values) >= 7 and len(values) % 2 == 1)):
            detail = f"expected 'class cx cy w h' or a polygon, got {line[:60]!r}"
            problems.append(Problem("unreadable line", file.name, f"line {number}", detail, DROPPED))
            continue
        box = values[1:]
        if len(values) > 5:
            xs, ys = values[1::2], values[2::2]
            box = [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]
        entries.append((int(values[0]), box, f"line {number}"))
    return entries


def _records(
    paths: list[Path],
    declared: Sequence[Sequence[int]] | np.ndarray,
    problems: list[Problem],
    rows: list[tuple[int, int, bool, list[float], str]],
    boxes: np.ndarray,
    shown: np.ndarray,
) -> Records:
    """Records with images and annotations numbered from 1, images without a size left out."""
    sizes_hw = known_sizes(paths, np.array(declared, dtype=np.int64).reshape(-1, 2), problems)
    usable = np.flatnonzero((sizes_hw > 0).all(axis=1))
    new_row = np.full(len(paths), -1, dtype=np.int64)
    new_row[usable] = np.arange(len(usable))
    image_of = new_row[np.array([row[0] for row in rows], dtype=np.int64)]
    kept = np.flatnonzero(image_of >= 0)
    used = [rows[row] for row in kept]
    difficult = np.array([row[2] for row in used], dtype=bool)
    return Records(
        paths=[paths[row] for row in usable],
        image_ids=np.arange(1, len(usable) + 1),
        sizes_hw=sizes_hw[usable],
        image_of=image_of[kept],
        boxes=boxes[kept],
        boxes_xywh=np.column_stack([boxes[kept, :2], boxes[kept, 2:] - boxes[kept, :2]]),
        labels=np.array([row[1] for row in used], dtype=np.int64),
        crowd=np.zeros(len(used), dtype=bool),
        difficult=difficult,
        area=np.full(len(used), np.nan),
        annotation_ids=np.arange(1, len(used) + 1),
        marks=[row[4] for row in used],
        shown=shown[kept],
    )


def _pictures(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(file_names(folder)) if name.lower().endswith(SUFFIXES)]


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
