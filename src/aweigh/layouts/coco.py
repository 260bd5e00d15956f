"""Reading a COCO JSON: boxes `(x, y, w, h)` become `(x, y, x + w, y + h)`, each bad record is named and left out.

`area`, `iscrowd`, `info`, ids of annotations, sizes of images and even the categories may be missing. What is marked
`ignore` or `difficult` is treated as VOC treats it: neither found nor missed.

Four fields are ours. An image may say `"reviewed": true` or `false` (also `labeled`, `labelled`): whether somebody
looked at it, which tells an image without objects from one nobody labelled; and `"labels_lost": true` where it may show
objects whose annotations could not be used. `"label_sets": [{"name": ...,
"category_ids": [...]}]` beside the categories, with `"label_set": 0` in an image, says which classes the image was
labelled for. An annotation with `"uncertain": true` may or may not be an object, such as the guess of another detector
(see `Targets`); it has `"iscrowd": 1` beside it, by which other readers count it neither as found nor as missed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from aweigh.annotations import problems as check
from aweigh.annotations.frames import settle_frames
from aweigh.annotations.problems import DROPPED, SKIPPED, Problem
from aweigh.annotations.records import (
    UNKNOWN,
    EmptySplit,
    Records,
    as_number,
    as_side,
    build_split,
    choose_classes,
    distinct_names,
    file_names,
    known_sizes,
    place_keypoints,
    some_of,
)
from aweigh.annotations.split import LABELS_LOST, NEVER_LABELLED, NOT_SAID, REVIEWED, LabelSets, Split
from aweigh.classes import Classes
from aweigh.errors import DataError, counted
from aweigh.files import lies_within, read_bytes

_LOOKED_AT = ("reviewed", "labeled", "labelled")
_LOST = "labels_lost"
_IMAGE_KEYS = {"id", "file_name", "width", "height", "label_set", _LOST, *_LOOKED_AT}
_ANNOTATION_KEYS = {
    "id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "difficult", "segmentation", "keypoints",
    "num_keypoints", "uncertain",
}  # fmt: skip
_HEADER_KEYS = {"images", "annotations", "categories", "label_sets"}


def read_coco(file: Path, folders: Sequence[Path], *, name: str, wanted: Sequence[str] | None) -> Split:
    """A COCO JSON. folders: where its pictures may lie, the likeliest first. wanted: class names to keep."""
    data = _json(file)
    problems: list[Problem] = []
    images = _entries(data, "images", file, problems)
    annotations = _entries(data, "annotations", file, problems)
    without_image = len(annotations) < len(data.get("annotations") or [])
    without_image |= any(_key(entry.get("image_id")) is None for entry in annotations)
    classes, label_of = _coco_classes(data, annotations, file, wanted)

    images, numbers, row_of = _distinct_images(images, file, problems)
    folder, paths = _resolve_images(images, folders, file, problems)
    declared = np.array([[as_side(image.get(side)) for side in ("height", "width")] for image in images]).reshape(-1, 2)
    sizes_hw = known_sizes(paths, declared, problems)
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
        detail = f"category_id {annotations[row].get('category_id')!r}, the file has {some_of(list(label_of))}"
        problems.append(Problem("label out of range", where, _mark(annotations[row], ids[row]), detail, DROPPED))

    kept = np.flatnonzero((listed >= 0) & (new_row[listed] >= 0) & (labels >= 0))
    used = [annotations[row] for row in kept]
    boxes_xywh = _coco_boxes(used)
    boxes = np.column_stack([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]])
    image_of = new_row[listed[kept]]
    used_paths = [path for row in usable if (path := paths[int(row)]) is not None]
    sizes_hw[usable] = settle_frames(used_paths, sizes_hw[usable], image_of, boxes, problems)
    problems.extend(check.suspicions(boxes_xywh, sizes_hw[usable][image_of].reshape(-1, 2), file.name))
    said = np.array([_said(image) for image in images], dtype=np.int8)
    lost = np.union1d(np.flatnonzero(said == LABELS_LOST), listed[(listed >= 0) & (labels == UNKNOWN)])
    said[listed[listed >= 0]] = REVIEWED
    said[lost] = LABELS_LOST
    if without_image:
        said[said == NOT_SAID] = LABELS_LOST  # nobody can say of which image these were
    marks = [_mark(annotations[row], ids[row]) for row in kept]
    names = [str(images[row].get("file_name")) for row in listed[kept]]
    uncertain = np.array([_flag(entry, "uncertain") for entry in used], dtype=bool)
    keypoint_names, skeleton = _keypoint_names(data, used, classes, file, problems)
    keypoints, num_keypoints = place_keypoints(
        [entry.get("keypoints") for entry in used],
        len(keypoint_names),
        sizes_hw[usable][image_of].reshape(-1, 2),
        names,
        marks,
        problems,
    )
    records = Records(
        paths=used_paths,
        image_ids=numbers[usable],
        sizes_hw=sizes_hw[usable],
        image_of=image_of,
        boxes=boxes,
        boxes_xywh=boxes_xywh,
        labels=labels[kept],
        crowd=np.array([_flag(entry, "iscrowd") for entry in used], dtype=bool) & ~uncertain,
        difficult=np.array([_flag(entry, "ignore") or _flag(entry, "difficult") for entry in used], dtype=bool),
        area=np.array([as_number(entry.get("area")) for entry in used], dtype=np.float64),
        annotation_ids=ids[kept],
        marks=marks,
        shown=boxes_xywh,
        said=said[usable],
        segmentations=[entry.get("segmentation") for entry in used],
        keypoints=keypoints,
        num_keypoints=_counted_by_source(used, num_keypoints, names, marks, problems),
        keypoint_names=keypoint_names,
        skeleton=skeleton,
        label_sets=_label_sets(data, [images[int(row)] for row in usable], classes, file, problems),
        image_extras=_extras([images[int(row)] for row in usable], _IMAGE_KEYS),
        extras=_extras(used, _ANNOTATION_KEYS),
        header=_header(data),
        uncertain=uncertain,
    )
    return build_split(records, name=name, layout="coco", root=folder, classes=classes, problems=problems)


def read_categories(file: Path) -> Classes:
    """The classes that a COCO file lists, with their ids; its images need not be there."""
    data = _json(file, "categories")
    return _coco_classes(data, [], file, None)[0]


def _json(file: Path, needed: str = "images") -> dict[str, Any]:
    try:
        data = json.loads(read_bytes(file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({' '.join(str(error).split())}). Export it again.") from error
    if not isinstance(data, dict) or needed not in data:
        got = f"the keys {some_of(list(data))}" if isinstance(data, dict) else f"a {type(data).__name__}"
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
        used = {_key(entry.get("category_id")) for entry in annotations}
        numbers = sorted(number for number in used if isinstance(number, int))
        categories = [{"id": number, "name": str(number)} for number in numbers]
    names: dict[int, str] = {}
    if not isinstance(categories, list):
        raise DataError(f"{file}: categories must be a list, got {type(categories).__name__}.")
    for category in categories:
        number = _key(category.get("id")) if isinstance(category, dict) else None
        text = category.get("name") if isinstance(category, dict) else None
        if not isinstance(number, int) or abs(number) >= 2**62 or not isinstance(text, str | int | float | None):
            raise DataError(f"{file}: a category needs a whole number as id and a name, got {str(category)[:80]}.")
        text = str(number if text is None else text)
        if names.get(number, text) != text:
            raise DataError(
                f"{file}: category id {number} stands for {names[number]!r} and {text!r}; make ids distinct."
            )
        names[number] = text
    classes, by_name = choose_classes(list(distinct_names(list(names.values()), file)), list(names), wanted, file)
    return classes, {number: by_name[text] for number, text in names.items()}


def _said(image: dict[str, Any]) -> int:
    if image.get(_LOST) is True:
        return LABELS_LOST
    for key in _LOOKED_AT:
        if isinstance(image.get(key), bool | int):
            return REVIEWED if image[key] else NEVER_LABELLED
    return NOT_SAID


def _keypoint_names(
    data: dict[str, Any], annotations: list[dict[str, Any]], classes: Classes, file: Path, problems: list[Problem]
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """The names of the first class that has keypoints, numbers where no category names them; and its skeleton."""
    categories = [entry for entry in data.get("categories") or [] if _key(entry.get("id")) in classes.ids]
    named = [(entry, names) for entry in categories if isinstance(names := entry.get("keypoints"), list) and names]
    if not named:
        lengths = [len(found) for entry in annotations if isinstance(found := entry.get("keypoints"), list) and found]
        usual = max(set(lengths), key=lengths.count, default=0)
        return tuple(str(number) for number in range(usual // 3)), ()
    first, names = named[0]
    for entry, other in named[1:]:
        if other != names:
            detail = f"those of {entry.get('name')!r} are not those of {first.get('name')!r}, after which all are named"
            problems.append(Problem("keypoints named in two ways", file.name, None, detail, check.CHANGED))
    pairs = first.get("skeleton")
    skeleton = []
    for pair in pairs if isinstance(pairs, list) else []:
        ends = [as_number(end, 0.0) for end in pair] if isinstance(pair, list | tuple) and len(pair) == 2 else []
        if len(ends) == 2 and all(end.is_integer() and 1 <= end <= len(names) for end in ends):
            skeleton.append((int(ends[0]) - 1, int(ends[1]) - 1))
        else:
            detail = f"{str(pair)[:40]}; pairs of 1 to {len(names)} are expected"
            problems.append(Problem("unreadable skeleton", file.name, None, detail, DROPPED))
    return tuple(str(name) for name in names), tuple(skeleton)


def _counted_by_source(
    annotations: list[dict[str, Any]],
    counted: np.ndarray | None,
    where: Sequence[str],
    marks: Sequence[int | str],
    problems: list[Problem],
) -> np.ndarray | None:
    """How many keypoints are labelled: as the file says, else as many as have a visibility above 0.

    More than are given, or 0 where some are, is counted anew and named: by 0 evaluation decides what counts.
    """
    if counted is None:
        return None
    said = [as_number(entry.get("num_keypoints")) for entry in annotations]
    sane = [value if value >= 0 and value.is_integer() and value < 2**31 else float("nan") for value in said]
    numbers = np.where(np.isnan(sane), counted, np.nan_to_num(sane)).astype(np.int64)
    wrong = (numbers > counted) | ((numbers == 0) & (counted > 0))
    named = {(problem.where, problem.annotation) for problem in problems}
    for row in np.flatnonzero(wrong).tolist():
        if (where[row], marks[row]) in named:  # its keypoints are taken out already
            continue
        detail = f"num_keypoints says {numbers[row]}, but {counted[row]} are given; counted anew"
        problems.append(Problem("number of keypoints is wrong", where[row], marks[row], detail, check.CHANGED))
    return np.where(wrong, counted, numbers)


def _label_sets(
    data: dict[str, Any], images: list[dict[str, Any]], classes: Classes, file: Path, problems: list[Problem]
) -> LabelSets | None:
    """Which classes each image was labelled for; an image that names no set was labelled for all."""
    given = data.get("label_sets")
    if not given:
        return None
    known, names = [], []
    for number, entry in enumerate(given if isinstance(given, list) else [given]):
        ids = entry.get("category_ids") if isinstance(entry, dict) else None
        if not isinstance(ids, list):
            detail = f"a name and a list of category_ids are expected, got {str(entry)[:60]}"
            problems.append(Problem("unreadable label set", file.name, f"label_sets[{number}]", detail, check.CHANGED))
            ids = list(classes.ids)
        wanted = {_key(value) for value in ids}
        known.append([number in wanted for number in classes.ids])
        names.append(str(entry.get("name", number)) if isinstance(entry, dict) else str(number))
    numbers = [_key(image.get("label_set")) for image in images]
    of_image = [number if isinstance(number, int) and 0 <= number < len(known) else len(known) for number in numbers]
    if len(known) in of_image:
        known.append([True] * len(classes))
        names.append("all classes")
    return LabelSets(np.array(known, dtype=bool), np.array(of_image, dtype=np.int32), tuple(names))


def _extras(entries: list[dict[str, Any]], known: set[str]) -> list[str] | None:
    """What entries say beyond the keys that are read, as JSON; None when that is nothing."""
    if all(entry.keys() <= known for entry in entries):
        return None
    rest = ({key: value for key, value in entry.items() if key not in known} for entry in entries)
    return [json.dumps(entry) if entry else "" for entry in rest]


def _header(data: dict[str, Any]) -> dict[str, Any]:
    """What the file says as a whole: info, licences and, under "categories", what else is said of each class."""
    header = {key: value for key, value in data.items() if key not in _HEADER_KEYS and value}
    said = {}
    for entry in data.get("categories") or []:
        rest = {key: value for key, value in entry.items() if key not in ("id", "name", "keypoints", "skeleton")}
        if rest:
            said[str(entry.get("name", entry["id"]))] = rest
    return header | ({"categories": said} if said else {})


def _distinct_images(
    images: list[dict[str, Any]], file: Path, problems: list[Problem]
) -> tuple[list[dict[str, Any]], np.ndarray, dict[Any, int]]:
    """Images with distinct ids, the first of each; their ids as whole numbers; the row of each id."""
    kept: list[dict[str, Any]] = []
    row_of: dict[Any, int] = {}
    for index, image in enumerate(images):
        key = _key(image.get("id"))
        if key is None or not isinstance(image.get("file_name"), str) or not image["file_name"]:
            detail = f"an image needs an id and a file_name, got {str(image)[:60]}"
            problems.append(Problem("unreadable record", file.name, f"images[{index}]", detail, SKIPPED))
        elif key in row_of:
            detail = f"id {key} is already {kept[row_of[key]]['file_name']}"
            problems.append(Problem("duplicate image id", str(image["file_name"]), None, detail, SKIPPED))
        else:
            row_of[key] = len(kept)
            kept.append(image)
    first = next((key for key in row_of if not isinstance(key, int) or abs(key) >= 2**63), None)
    if first is None:
        return kept, np.fromiter(row_of, dtype=np.int64, count=len(row_of)), row_of
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
            named = [folder / (PurePosixPath(name).name if only_name else name) for name in sample]
            hits = sum(os.path.isfile(path) and lies_within(Path(os.path.normpath(path)), folder) for path in named)
            if hits > best_hits:
                best, best_hits, flat = folder, hits, only_name
    held: dict[Path, set[str]] = {}
    paths: list[Path | None] = []
    missing = 0
    for name in names:
        path = Path(os.path.normpath(best / (PurePosixPath(name).name if flat else name)))
        if not lies_within(path, best) or path == Path(os.path.normpath(best)):
            detail = f"file_name leads outside the picture folder {best}"
            problems.append(Problem("path outside the folder", name, None, detail, SKIPPED))
            paths.append(None)
            continue
        if path.parent not in held:
            held[path.parent] = file_names(path.parent)
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
        raise EmptySplit(
            f"{file}: none of its {counted(len(names), 'picture')} was found ({shown}, ...), looked for in {looked}. "
            "Name the picture folder by hand (images)."
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
            boxes[row] = [as_number(value) for value in box]
    return boxes


def _annotation_ids(annotations: list[dict[str, Any]], file: Path, problems: list[Problem]) -> np.ndarray:
    """Distinct whole numbers; an id that is missing, no number or used before is replaced by a free one."""
    ids = np.zeros(len(annotations), dtype=np.int64)
    used: set[int] = set()
    renew: list[int] = []
    for row, entry in enumerate(annotations):
        number = _key(entry.get("id"))
        if isinstance(number, int) and number not in used and abs(number) < 2**62:
            ids[row] = number
            used.add(number)
        else:
            renew.append(row)
    following = max(used, default=0) + 1
    for row in renew:
        ids[row] = following
        if annotations[row].get("id") is not None:
            kind = (
                "duplicate annotation id"
                if _key(annotations[row]["id"]) in used
                else "annotation id is not a whole number"
            )
            mark = _mark(annotations[row], ids[row])
            problems.append(Problem(kind, file.name, mark, f"it is {following} now", check.CHANGED))
        following += 1
    return ids


def _flag(entry: dict[str, Any], key: str) -> bool:
    return key in entry and as_number(entry[key], 0.0) != 0.0


def _key(value: Any) -> Any:
    """An id that can be looked up, a whole number however it is written (7, 7.0, "7"); None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) < 20 and value.isdecimal() and value == str(int(value)):
        return int(value)
    return value if isinstance(value, int | str) else None


def _mark(annotation: dict[str, Any], number: int) -> int | str:
    own = annotation.get("id")
    return own if isinstance(own, int | str) else int(number)
