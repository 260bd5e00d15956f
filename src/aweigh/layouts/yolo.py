"""YOLO: a text file of labels for each image, a line for each object; beside them `data.yaml` or `obj.data`.

Centre and size, polygons and keypoints, fractions of the image, become pixels. An empty label file says that somebody
looked and found nothing; where there is no such file, nobody labelled the image.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from aweigh.annotations.problems import DROPPED, KEPT, SKIPPED, Problem
from aweigh.annotations.records import MAX_CLASSES, UNKNOWN, as_number, build_split, choose_classes, known_sizes
from aweigh.annotations.split import LABELS_LOST, NEVER_LABELLED, REVIEWED, Split
from aweigh.errors import DataError, counted
from aweigh.files import below, lies_within, read_text
from aweigh.images.reader import SUFFIXES
from aweigh.layouts.darknet import described_by_darknet, find_darknet
from aweigh.layouts.finding import in_order, listed_names, split_name
from aweigh.layouts.layout import Layout, SplitFiles, Writing
from aweigh.layouts.rows import Row, label_lines, records_of, written
from aweigh.layouts.yolo_description import class_names, descriptions, labels_folder, read_description, splits_described
from aweigh.layouts.yolo_write import cannot_hold, write


def find(source: Path) -> dict[str, SplitFiles]:
    """`data.yaml` or another YAML that names train and val, which may itself be the source; `images/train` with
    `labels/train`; `train/images` with `train/labels`; what Darknet's files describe."""
    root = source.parent if source.is_file() else source
    names = None
    for file in [source] if source.is_file() else descriptions(root):
        try:
            description = read_description(file)
            if found := splits_described(file, description, anywhere=file == source):
                return in_order(found)
            names = names or class_names(file, description)
        except DataError:
            if file == source or file.stem in ("data", "dataset"):
                raise  # else it is some other program's
    if source.is_file():
        raise DataError(f"{source}: names no train, val or test folder that exists; a YOLO description has them.")
    names = names or listed_names(root / "classes.txt", root / "labels" / "classes.txt", root / "obj.names")
    return _in_folders(root, names) or find_darknet(root)


def by_hand(annotations: Path, name: str) -> SplitFiles | None:
    """A `.data` file of Darknet or a folder of label files; None where it is neither."""
    if annotations.is_dir() and any(annotations.glob("*.txt")):
        return label_files(name, annotations)
    return described_by_darknet(annotations, name)


def label_files(name: str, folder: Path) -> SplitFiles:
    """A folder of label files, whose images lie in `images` beside it or in it."""
    return SplitFiles(name, "yolo", folder, (folder.parent / "images", folder))


def _in_folders(root: Path, names: tuple[str, ...] | None) -> dict[str, SplitFiles]:
    """Folders of images and of labels that are named after the splits, or one of each."""
    found = {}
    for images in sorted(entry for entry in (root / "images").glob("*") if entry.is_dir()):
        split = split_name(images.name)
        if split and _may_hold_labels(root / "labels" / images.name):
            found[split] = SplitFiles(split, "yolo", root / "labels" / images.name, (images,), names=names)
    for folder in sorted(entry for entry in root.glob("*") if entry.is_dir()):
        split = split_name(folder.name)
        if split and split not in found and (folder / "images").is_dir() and _may_hold_labels(folder / "labels"):
            found[split] = SplitFiles(split, "yolo", folder / "labels", (folder / "images",), names=names)
    if not found and (root / "images").is_dir() and (root / "labels").is_dir() and any((root / "labels").glob("*.txt")):
        found["train"] = SplitFiles("train", "yolo", root / "labels", (root / "images",), names=names)
    return in_order(found)


def _may_hold_labels(folder: Path) -> bool:
    """Whether label files are there or might have been, and not those of another layout."""
    return folder.is_dir() and (any(folder.glob("*.txt")) or not any(map(any, map(folder.glob, ("*.json", "*.xml")))))


def read(files: SplitFiles, every: Mapping[str, SplitFiles], name: str, wanted: Sequence[str] | None) -> Split:
    """Lines of five numbers are boxes, longer ones polygons, whose extent is taken, or, where the description says how
    many keypoints there are, boxes with keypoints. An image without a label file has no objects, and is kept.

    Where no file names the classes, they are numbered up to the highest number in any split.
    """
    problems: list[Problem] = []
    pairs = _pairs(files.annotations, files.images, files.within, problems)
    sizes_hw = known_sizes([path for path, _ in pairs], np.zeros((len(pairs), 2), dtype=np.int64), problems)
    good = np.flatnonzero((sizes_hw > 0).all(axis=1))
    pairs, sizes_hw = [pairs[index] for index in good], sizes_hw[good]
    lines, said = [], []
    for _, label_file in pairs:
        before = len(problems)
        lines.append(_lines(label_file, problems, files.keypoint_shape))
        left_out = any(problem.action == DROPPED for problem in problems[before:])
        there = os.path.lexists(label_file)
        said.append(LABELS_LOST if left_out else REVIEWED if there else NEVER_LABELLED)
    names = files.names or _numbers(lines, files, every)
    classes, label_of = choose_classes(list(names), list(range(len(names))), wanted, files.annotations)

    rows: list[Row] = []
    for image, ((_, label_file), entries) in enumerate(zip(pairs, lines, strict=True)):
        for entry in entries:
            label = label_of[names[entry.label]] if 0 <= entry.label < len(names) else UNKNOWN
            if label == UNKNOWN:
                detail = f"class {entry.label}, valid are 0 to {len(names) - 1}"
                problems.append(Problem("label out of range", label_file.name, entry.mark, detail, DROPPED))
                said[image] = LABELS_LOST
            if label >= 0:
                rows.append(_in_pixels(entry, image, label, sizes_hw[image]))
    shown = written(rows)
    sizes_wh = sizes_hw[:, ::-1][[row.image for row in rows]].reshape(-1, 2).astype(np.float64)
    half = shown[:, 2:] / 2
    boxes = np.hstack([(shown[:, :2] - half) * sizes_wh, (shown[:, :2] + half) * sizes_wh])
    pixels = [row for row in range(len(rows)) if (np.abs(shown[row]) > 2).any()]
    if pixels:
        detail = f"values such as {shown[pixels[0]].tolist()}; the format wants fractions of the image"
        where, mark = pairs[rows[pixels[0]].image][1].name, rows[pixels[0]].mark
        problems.append(Problem("looks like pixels instead of fractions", where, mark, detail, KEPT))
    paths = [path for path, _ in pairs]
    points, skeleton = _pose(files)
    records = records_of(paths, sizes_hw, said, rows, problems, boxes=boxes, keypoint_names=points, skeleton=skeleton)
    place = files.images[0] if files.images else files.annotations
    root = place if place.is_dir() else place.parent
    return build_split(
        replace(records, fractions=True), name=name, layout="yolo", root=root, classes=classes, problems=problems
    )


def _numbers(lines: Sequence[Sequence[Row]], files: SplitFiles, every: Mapping[str, SplitFiles]) -> list[str]:
    """Names of classes that no file names: their numbers, up to the highest in any split."""
    folders = {other.annotations for other in every.values()} - {files.annotations}
    elsewhere = [file for folder in folders for file in sorted(folder.glob("*.txt"))]
    found = [line for file in lines for line in file]
    found += [line for file in elsewhere for line in _lines(file, [], files.keypoint_shape)]
    labels = [line.label for line in found if line.label < MAX_CLASSES]
    return [str(label) for label in range(1 + max(labels, default=-1))]


def _in_pixels(entry: Row, image: int, label: int, size_hw: np.ndarray) -> Row:
    """An object with its place among images and classes, polygon and keypoints in pixels, the box as it is written."""
    height, width = size_hw.tolist()
    polygons = [part * (width, height) for part in entry.polygons]
    points = None
    if entry.keypoints is not None:
        points = (np.array(entry.keypoints).reshape(-1, 3) * (width, height, 1)).reshape(-1).tolist()
    return replace(entry, image=image, label=label, polygons=polygons, keypoints=points)


def _pose(files: SplitFiles) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """The names of the keypoints, numbers where they have none, and the lines between them."""
    count = 0 if files.keypoint_shape is None else files.keypoint_shape[0]
    named = len(files.keypoint_names) == count
    names = files.keypoint_names if named else tuple(str(number) for number in range(count))
    return names, tuple(edge for edge in files.skeleton if all(0 <= end < count for end in edge))


def _pairs(
    labels_folder: Path, places: Sequence[Path], within: Path | None, problems: list[Problem]
) -> list[tuple[Path, Path]]:
    """Each image with the path of its label file, which need not exist."""
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
            detail = f"no image {label.stem}.*"
            problems.append(Problem("labels for a missing image", label.name, None, detail, DROPPED))
    return pairs


def _listed_pictures(listing: Path, within: Path | None, problems: list[Problem]) -> list[Path]:
    """The images that the lines of a text file name, from its own folder or from where the user is; else those inside
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
        problems.append(Problem("list without images", listing.name, None, "none of its lines can be used", KEPT))
    for folder, count in outside.items():
        if count:
            detail = f"{count} of its images lie in {folder}"
            problems.append(Problem("images outside the data folder", listing.name, None, detail, KEPT))
    return pictures


def _label_file(picture: Path, within: Path | None) -> Path:
    """`.../images/x.jpg` to `.../labels/x.txt` by the last `images` in the path; beside the image without one.

    Also beside it where that leads out of the folder the data are in, or where there is such a file alone.
    """
    beside = picture.with_suffix(".txt")
    label = labels_folder(picture.parent) / beside.name
    leads_out = within is not None and not lies_within(label, within)
    return beside if leads_out or (os.path.lexists(beside) and not os.path.lexists(label)) else label


def _lines(file: Path, problems: list[Problem], keypoint_shape: tuple[int, int] | None) -> list[Row]:
    """The lines with class number, (cx, cy, w, h), polygon and keypoints as fractions; bad lines become problems."""
    if not os.path.lexists(file):
        return []
    entries = []
    for mark, line in label_lines(file, problems):
        values = [as_number(word) for word in line.split()]
        whole = np.isfinite(values[0]) and values[0] == int(values[0])
        if whole and len(values) == 5:
            entries.append(Row(0, int(values[0]), values[1:], mark))
        elif whole and len(values) == 6 and 0 <= values[5] <= 1:
            detail = f"taken as a score, {values[5]:g}; the box before it is used"
            problems.append(Problem("sixth column", file.name, mark, detail, KEPT))
            entries.append(Row(0, int(values[0]), values[1:5], mark, extras=json.dumps({"score": values[5]})))
        elif whole and keypoint_shape is not None and len(values) == 5 + keypoint_shape[0] * keypoint_shape[1]:
            points = _with_visibility(values[5:], keypoint_shape[1])
            entries.append(Row(0, int(values[0]), values[1:5], mark, keypoints=points))
        elif whole and keypoint_shape is None and (count := _keypoints_in(values)):
            detail = f"a box and {counted(count, 'keypoint')}, which data.yaml does not say: kpt_shape: [{count}, 3]"
            problems.append(Problem("keypoints that nothing describes", file.name, mark, detail, DROPPED))
        elif whole and keypoint_shape is None and len(values) >= 7 and len(values) % 2 == 1:
            xs, ys = values[1::2], values[2::2]
            box = [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]
            entries.append(Row(0, int(values[0]), box, mark, polygons=[np.array(values[1:]).reshape(-1, 2)]))
        else:
            wanted = (
                "a polygon" if keypoint_shape is None else f"{counted(keypoint_shape[0], 'keypoint')} after the box"
            )
            detail = f"expected 'class cx cy w h', a score from 0 to 1 behind it, or {wanted}, got {line[:60]!r}"
            problems.append(Problem("unreadable line", file.name, mark, detail, DROPPED))
    return entries


def _keypoints_in(values: Sequence[float]) -> int:
    """How many keypoints (x, y, visibility) stand behind the box of a line; 0 where it is a polygon, or something else.

    A visibility is 0, 1 or 2, the last of which is no coordinate of a polygon; what is visible lies in the box.
    """
    points = np.array(values[5:]).reshape(-1, 3) if len(values) >= 8 and len(values) % 3 == 2 else np.zeros((0, 3))
    marked = points[points[:, 2] > 0]
    if not np.isin(points[:, 2], (0, 1, 2)).all() or not (marked[:, 2] == 2).any():
        return 0
    centre, half = np.array(values[1:3]), np.array(values[3:5]) / 2
    return len(points) if (np.abs(marked[:, :2] - centre) <= half + 0.05).all() else 0


def _with_visibility(values: list[float], numbers: int) -> list[float]:
    """x, y, visibility; where the file gives x and y alone, a point is seen unless it lies at (0, 0)."""
    if numbers == 3:
        return values
    pairs = zip(values[::2], values[1::2], strict=True)
    return [value for x, y in pairs for value in (x, y, 2.0 if x or y else 0.0)]


LAYOUT = Layout(
    looks_for="YOLO (data.yaml, obj.data, images/ with labels/, train/images with train/labels)",
    find=find,
    by_hand=by_hand,
    read=read,
    writing=Writing(write, cannot_hold),
)
