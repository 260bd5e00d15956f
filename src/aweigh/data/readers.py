"""Reading COCO, VOC and YOLO annotations into flat arrays, each bad record named and left out.

Boxes leave here as continuous xyxy: COCO's `(x, y, w, h)` to `(x, y, x + w, y + h)`; VOC's 1-based inclusive corners
to `(xmin - 1, ymin - 1, xmax, ymax)`; YOLO's centre and size, fractions of the image, to pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from aweigh.data import check
from aweigh.data.check import DROPPED, SKIPPED, Problem
from aweigh.data.images import SUFFIXES, read_size
from aweigh.data.split import Records, Split, build_split
from aweigh.errors import DataError, UsageError, did_you_mean
from aweigh.structures import Classes

NOT_WANTED, UNKNOWN = -2, -1  # labels of annotations that are left out: by the user's choice, or because unknown


def read_coco(file: Path, folders: Sequence[Path], *, name: str, wanted: Sequence[str] | None) -> Split:
    """A COCO JSON. folders: where its pictures may lie, the likeliest first. wanted: class names to keep."""
    data = _json(file)
    problems: list[Problem] = []
    images = _entries(data, "images", file, problems)
    annotations = _entries(data, "annotations", file, problems)
    classes, label_of = _coco_classes(data, annotations, file, wanted)

    images, numbers, row_of = _distinct_images(images, file, problems)
    folder, paths = _resolve_images(images, folders, file, problems)
    declared = np.array([[_side(image, "height"), _side(image, "width")] for image in images]).reshape(-1, 2)
    sizes_hw = _known_sizes(paths, declared, problems)
    usable = np.flatnonzero((sizes_hw > 0).all(axis=1))

    new_row = np.full(len(images) + 1, -1, dtype=np.int64)  # the last stands for images that are not in the file
    new_row[usable] = np.arange(len(usable))
    listed = np.array([row_of.get(_key(entry.get("image_id")), -1) for entry in annotations], dtype=np.int64)
    labels = np.array([label_of.get(_key(entry.get("category_id")), UNKNOWN) for entry in annotations], dtype=np.int64)
    ids = _annotation_ids(annotations, file, problems)
    for row in np.flatnonzero(listed < 0):
        detail = f"image_id {annotations[row].get('image_id')!r} is not among the images"
        mark = _mark(annotations[row], ids[row])
        problems.append(Problem("annotation for a missing image", file.name, mark, detail, DROPPED))
    for row in np.flatnonzero((labels == UNKNOWN) & (listed >= 0)):
        where = str(images[listed[row]].get("file_name"))
        detail = f"category_id {annotations[row].get('category_id')!r}, the file has {_few(list(label_of))}"
        problems.append(Problem("label out of range", where, _mark(annotations[row], ids[row]), detail, DROPPED))

    kept = np.flatnonzero((listed >= 0) & (new_row[listed] >= 0) & (labels >= 0))
    used = [annotations[row] for row in kept]
    boxes_xywh = _coco_boxes(used)
    boxes = np.column_stack([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]])
    image_of = new_row[listed[kept]]
    problems.extend(check.suspicions(boxes_xywh, sizes_hw[usable][image_of].reshape(-1, 2), file.name))
    records = Records(
        paths=[path for row in usable if (path := paths[int(row)]) is not None],
        image_ids=numbers[usable],
        sizes_hw=sizes_hw[usable],
        image_of=image_of,
        boxes=boxes,
        boxes_xywh=boxes_xywh,
        labels=labels[kept],
        crowd=np.array([_flag(entry, "iscrowd") for entry in used], dtype=bool),
        difficult=np.array([_flag(entry, "ignore") or _flag(entry, "difficult") for entry in used], dtype=bool),
        area=np.array([_number(entry.get("area")) for entry in used], dtype=np.float64),
        annotation_ids=ids[kept],
        marks=[_mark(annotations[row], ids[row]) for row in kept],
        shown=boxes_xywh,
    )
    return build_split(records, name=name, layout="coco", root=folder, classes=classes, problems=problems)


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
        declared.append([int(_number(_text(tree, f"size/{side}"), 0)) for side in ("height", "width")])
        for number, item in enumerate(tree.iter("object"), start=1):
            mark = f"object {number}"
            label = label_of.get(_text(item, "name"), UNKNOWN)
            if label == UNKNOWN:
                detail = f"class {_text(item, 'name')!r}, known are {_few(list(label_of))}"
                problems.append(Problem("label out of range", f"{stem}.xml", mark, detail, DROPPED))
            if label >= 0:
                corners = [_number(_text(item, f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
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
    sizes_hw = _known_sizes([path for path, _ in pairs], np.zeros((len(pairs), 2), dtype=np.int64), problems)
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


def choose_classes(
    names: list[str], ids: list[int], wanted: Sequence[str] | None, where: Path
) -> tuple[Classes, dict[str, int]]:
    """The classes to use, and the label of each name in the data (`NOT_WANTED` for those left out)."""
    if wanted is None:
        return Classes(tuple(names), tuple(ids)), {name: label for label, name in enumerate(names)}
    for name in wanted:
        if name not in names:
            raise UsageError(
                f"{where}: the data have no class {name!r}, only {_few(names)}.{did_you_mean(name, names)}"
            )
    label_of = {name: NOT_WANTED for name in names} | {name: label for label, name in enumerate(wanted)}
    return Classes(tuple(wanted), tuple(ids[names.index(name)] for name in wanted)), label_of


# --- COCO ---------------------------------------------------------------------------------------------------------


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{file}: there is no such file.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({' '.join(str(error).split())}). Export it again.") from error
    if not isinstance(data, dict) or "images" not in data:
        got = f"the keys {_few(list(data))}" if isinstance(data, dict) else f"a {type(data).__name__}"
        raise DataError(f"{file}: a COCO file is an object with images, annotations and categories, this has {got}.")
    return data


def _entries(data: dict[str, Any], key: str, file: Path, problems: list[Problem]) -> list[dict[str, Any]]:
    entries = data.get(key) or []
    if not isinstance(entries, list):
        raise DataError(f"{file}: {key} must be a list, got {type(entries).__name__}.")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            detail = f"an object was expected, got {str(entry)[:40]!r}"
            problems.append(Problem("unreadable record", file.name, f"{key}[{index}]", detail, DROPPED))
    return [entry for entry in entries if isinstance(entry, dict)]


def _coco_classes(
    data: dict[str, Any], annotations: list[dict[str, Any]], file: Path, wanted: Sequence[str] | None
) -> tuple[Classes, dict[Any, int]]:
    """The classes, and the label of each category id. Categories without annotations stay classes."""
    categories = data.get("categories") or []
    if not categories:  # a file of boxes alone: its ids are all the names there are
        numbers = sorted({entry["category_id"] for entry in annotations if isinstance(entry.get("category_id"), int)})
        categories = [{"id": number, "name": str(number)} for number in numbers]
    names: dict[int, str] = {}
    for category in categories:
        number = category.get("id") if isinstance(category, dict) else None
        if not isinstance(number, int):
            raise DataError(f"{file}: a category needs a whole number as id and a name, got {str(category)[:80]}.")
        text = str(category.get("name", number))
        if names.get(number, text) != text:
            raise DataError(
                f"{file}: category id {number} stands for {names[number]!r} and {text!r}; make ids distinct."
            )
        if text in names.values() and number not in names:
            raise DataError(f"{file}: two categories are named {text!r}; make the names distinct.")
        names[number] = text
    classes, by_name = choose_classes(list(names.values()), list(names), wanted, file)
    return classes, {number: by_name[text] for number, text in names.items()}


def _distinct_images(
    images: list[dict[str, Any]], file: Path, problems: list[Problem]
) -> tuple[list[dict[str, Any]], np.ndarray, dict[Any, int]]:
    """Images with distinct ids, the first of each; their ids as whole numbers; the row of each id."""
    kept: list[dict[str, Any]] = []
    row_of: dict[Any, int] = {}
    for index, image in enumerate(images):
        key = _key(image.get("id"))
        if key is None or not isinstance(image.get("file_name"), str):
            detail = f"an image needs an id and a file_name, got {str(image)[:60]}"
            problems.append(Problem("unreadable record", file.name, f"images[{index}]", detail, SKIPPED))
        elif key in row_of:
            detail = f"id {key} is already {kept[row_of[key]]['file_name']}"
            problems.append(Problem("duplicate image id", str(image["file_name"]), None, detail, SKIPPED))
        else:
            row_of[key] = len(kept)
            kept.append(image)
    if all(isinstance(key, int) and abs(key) < 2**63 for key in row_of):
        return kept, np.fromiter(row_of, dtype=np.int64, count=len(row_of)), row_of
    first = next(key for key in row_of if not isinstance(key, int))
    detail = f"ids such as {first!r}; whole numbers are used in their place, in file order from 1"
    problems.append(Problem("image ids are not whole numbers", file.name, None, detail, check.CHANGED))
    return kept, np.arange(1, len(kept) + 1), row_of


def _resolve_images(
    images: list[dict[str, Any]], folders: Sequence[Path], file: Path, problems: list[Problem]
) -> tuple[Path, list[Path | None]]:
    """The folder the pictures lie in, and the path of each (None where there is none).

    The folder is the one that holds most of a sample of the names, as they are or by their last part.
    """
    names = [str(image["file_name"]).replace("\\", "/") for image in images]
    sample = names[:: max(1, len(names) // 64)]
    best, best_hits, flat = folders[0], 0, False
    for only_name in (False, True):
        for folder in folders:
            hits = sum((folder / (PurePosixPath(name).name if only_name else name)).is_file() for name in sample)
            if hits > best_hits:
                best, best_hits, flat = folder, hits, only_name
    held: dict[Path, set[str]] = {}
    paths: list[Path | None] = []
    missing = 0
    for name in names:
        path = Path(os.path.normpath(best / (PurePosixPath(name).name if flat else name)))
        if not path.is_relative_to(os.path.normpath(best)):
            detail = f"file_name leads outside the picture folder {best}"
            problems.append(Problem("path outside the folder", name, None, detail, SKIPPED))
            paths.append(None)
            continue
        if path.parent not in held:
            held[path.parent] = _file_names(path.parent)
        if path.name in held[path.parent]:
            paths.append(path)
            continue
        missing += 1
        detail = f"looked for {path}" if missing <= 3 else f"not in {path.parent}"
        problems.append(Problem("image file missing", name, None, detail, SKIPPED))
        paths.append(None)
    if names and missing == len(names):
        looked = ", ".join(str(folder) for folder in folders[:6])
        shown = ", ".join(names[:3])
        raise DataError(
            f"{file}: none of its {len(names)} pictures was found ({shown}, ...), looked for in {looked}. Name the "
            "picture folder by hand (images)."
        )
    return best, paths


def _coco_boxes(annotations: list[dict[str, Any]]) -> np.ndarray:
    """`[M, 4]` float64 as written; rows that are no four numbers become NaN."""
    try:
        boxes = np.array([entry["bbox"] for entry in annotations], dtype=np.float64)
        if boxes.shape == (len(annotations), 4):
            return boxes
    except (KeyError, TypeError, ValueError, OverflowError):
        pass  # at least one is no list of four numbers: look at each
    boxes = np.full((len(annotations), 4), np.nan)
    for row, entry in enumerate(annotations):
        box = entry.get("bbox")
        if isinstance(box, list | tuple) and len(box) == 4:
            boxes[row] = [_number(value) for value in box]
    return boxes


def _annotation_ids(annotations: list[dict[str, Any]], file: Path, problems: list[Problem]) -> np.ndarray:
    """Distinct whole numbers; an id that is missing, no number or used before is replaced by a free one."""
    ids = np.zeros(len(annotations), dtype=np.int64)
    used: set[int] = set()
    renew: list[int] = []
    for row, entry in enumerate(annotations):
        number = entry.get("id")
        if isinstance(number, int) and number not in used and abs(number) < 2**62:
            ids[row] = number
            used.add(number)
        else:
            renew.append(row)
    following = max(used, default=0) + 1
    for row in renew:
        ids[row] = following
        if (number := annotations[row].get("id")) is not None:
            kind = "duplicate annotation id" if number in used else "annotation id is not a whole number"
            mark = _mark(annotations[row], ids[row])
            problems.append(Problem(kind, file.name, mark, f"it is {following} now", check.CHANGED))
        following += 1
    return ids


# --- VOC and YOLO -------------------------------------------------------------------------------------------------


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
    except (expat.ExpatError, _ForbiddenXML, OSError, AssertionError) as error:
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
        values = [_number(word) for word in words]
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
    sizes_hw = _known_sizes(paths, np.array(declared, dtype=np.int64).reshape(-1, 2), problems)
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


# --- small things all three need ----------------------------------------------------------------------------------


def _known_sizes(paths: Sequence[Path | None], declared: np.ndarray, problems: list[Problem]) -> np.ndarray:
    """Height and width `[I, 2]`: as declared, else from the file's header; 0 for pictures that cannot be used."""
    sizes = declared.astype(np.int64)
    sizes[[path is None for path in paths]] = 0
    unknown = [int(row) for row in np.flatnonzero((sizes <= 0).any(axis=1)) if paths[int(row)] is not None]

    def look(row: int) -> tuple[int, int] | DataError:
        try:
            return read_size(paths[row])  # type: ignore[arg-type]
        except DataError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        for row, size in zip(unknown, pool.map(look, unknown), strict=True):
            if isinstance(size, DataError):
                path = paths[row]
                problems.append(Problem("image unreadable", path.name if path else "", None, str(size), SKIPPED))
                sizes[row] = 0
            else:
                sizes[row] = size
    return sizes


def _pictures(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(_file_names(folder)) if name.lower().endswith(SUFFIXES)]


def _file_names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()


def _number(value: Any, default: float = float("nan")) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return default


def _flag(entry: dict[str, Any], key: str) -> bool:
    return key in entry and _number(entry[key], 0.0) != 0.0


def _side(image: dict[str, Any], key: str) -> int:
    value = _number(image.get(key), 0.0)
    return int(value) if 0 < value < 2**31 else 0


def _key(value: Any) -> Any:
    """An id that can be looked up; None for anything else."""
    return value if isinstance(value, int | str) else None


def _mark(annotation: dict[str, Any], number: int) -> int | str:
    own = annotation.get("id")
    return own if isinstance(own, int | str) else int(number)


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _few(values: list[Any], count: int = 12) -> str:
    shown = ", ".join(str(value) for value in values[:count])
    return f"{shown} and {len(values) - count} more" if len(values) > count else shown or "none"
