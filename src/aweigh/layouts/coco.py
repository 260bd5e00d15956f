"""COCO: a JSON for each split. Boxes `(x, y, w, h)` become `(x, y, x + w, y + h)`; bad records are named and left out.

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

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.annotations.exif_frames import settle_frames
from aweigh.annotations.problems import CHANGED, DROPPED, Problem, suspicions
from aweigh.annotations.records import (
    UNKNOWN,
    Records,
    as_number,
    as_side,
    build_split,
    known_sizes,
    place_keypoints,
)
from aweigh.annotations.split import LABELS_LOST, NEVER_LABELLED, NOT_SAID, REVIEWED, Split
from aweigh.classes import Classes
from aweigh.errors import DataError, some_of
from aweigh.files import read_json
from aweigh.layouts.coco_fields import as_key, classes_of, extras_of, header_of, keypoints_of, label_sets_of
from aweigh.layouts.coco_images import distinct_images, resolve_images
from aweigh.layouts.coco_write import cannot_hold, write
from aweigh.layouts.finding import ALIASES, head_of, in_order, split_name
from aweigh.layouts.layout import Layout, SplitFiles, Writing
from aweigh.layouts.unread import export_of

_KEYS = re.compile(rb'"(images|annotations|categories|info|licenses)"\s*:')
_NOT_BOXES = ("captions_", "panoptic_", "stuff_", "image_info_")
_LOOKED_AT = ("reviewed", "labeled", "labelled")
_LOST = "labels_lost"
_IMAGE_KEYS = {"id", "file_name", "width", "height", "label_set", _LOST, *_LOOKED_AT}
_ANNOTATION_KEYS = {
    "id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "difficult", "segmentation", "keypoints",
    "num_keypoints", "uncertain",
}  # fmt: skip  # fmt: skip


def find(root: Path) -> dict[str, SplitFiles]:
    """`annotations/instances_train2017.json` with `train2017/`; `annotations/instances_train.json` with `images/` or
    `images/train/`; `train/_annotations.coco.json` beside its images; a single JSON of any name."""
    by_split: dict[str, list[Path]] = {}
    loose = []
    for file in candidates(root):
        if file.name.startswith(_NOT_BOXES) or not _is_one(file):
            continue
        own_folder = file.parent != root and file.parent.name.lower() != "annotations"
        name = split_name(file.parent.name if own_folder else file.stem)
        if name is None:
            loose.append(file)
        else:
            by_split.setdefault(name, []).append(file)
    if not by_split and len(loose) == 1:
        by_split["train"] = loose
    return in_order({name: _best(name, files, root) for name, files in by_split.items()})


def candidates(root: Path) -> list[Path]:
    """The files of a folder that may be of COCO."""
    places = ("*.json", "annotations/*.json", "Annotations/*.json", "*/_annotations.coco.json", "*/annotations.json")
    return list(dict.fromkeys(file for place in places for file in sorted(root.glob(place))))


def by_hand(annotations: Path, name: str) -> SplitFiles | None:
    """A COCO JSON; None where it is none."""
    return one_file(name, annotations) if annotations.is_file() and _is_one(annotations) else None


def one_file(name: str, file: Path) -> SplitFiles:
    """A JSON whose images lie in the folder of the data set, which is its own or the one above."""
    return _files(name, file, file.parent.parent if file.parent.name.lower() == "annotations" else file.parent)


def _best(name: str, files: Sequence[Path], root: Path) -> SplitFiles:
    """Of the files of one split `instances_...` where there is one; for keypoints, `person_keypoints_...`."""

    def rank(file: Path) -> int:
        return 0 if file.name.startswith("instances") else 2 if file.name.startswith("person_keypoints") else 1

    for_keypoints = _files(name, max(files, key=rank), root)
    return replace(_files(name, min(files, key=rank), root), for_keypoints=for_keypoints)


def _files(name: str, file: Path, root: Path) -> SplitFiles:
    stem = file.stem.rsplit("_", 1)[-1]  # "train2017"
    whole = re.sub(r"^test-(dev|challenge)", "test", stem)  # of which COCO's test-dev2017 is a part
    folders = [stem, f"images/{stem}", whole, f"images/{whole}", name, f"images/{name}"]
    folders += [alias for alias, plain in ALIASES.items() if plain == name]
    folders += ["images", "data", "JPEGImages", "."]
    images = [root / folder for folder in folders]
    if file.parent not in (root, root / "annotations", root / "Annotations"):
        images.insert(0, file.parent)
    return SplitFiles(name, "coco", file, tuple(dict.fromkeys(images)))


def _is_one(file: Path) -> bool:
    """Whether its name or its beginning is that of a COCO data set; the reader then says what is wrong with it."""
    if file.name.startswith("instances") or file.name == "_annotations.coco.json":
        return True
    head = head_of(file)  # UTF-16 is known by its letters too
    other = b'"shapes"' in head or b'"_via' in head or export_of(file) is not None
    return head.startswith(b"{") and _KEYS.search(head) is not None and not other


@dataclass(frozen=True)
class _Annotations:
    """Annotations as the file has them, with the row of the image of each (-1 for none), its label and its id."""

    entries: list[dict[str, Any]]
    image_of: np.ndarray
    labels: np.ndarray
    ids: np.ndarray

    def take(self, rows: np.ndarray) -> _Annotations:
        entries = [self.entries[row] for row in rows]
        return _Annotations(entries, self.image_of[rows], self.labels[rows], self.ids[rows])

    def flags(self, key: str) -> np.ndarray:
        """`[M]` bool: which annotations say so."""
        return np.array([key in entry and as_number(entry[key], 0.0) != 0.0 for entry in self.entries], dtype=bool)

    @property
    def marks(self) -> list[int | str]:
        return [_mark(entry, number) for entry, number in zip(self.entries, self.ids, strict=True)]


def read(files: SplitFiles, _: Mapping[str, SplitFiles], name: str, wanted: Sequence[str] | None) -> Split:
    file = files.annotations
    data = _json(file)
    problems: list[Problem] = []
    images = _entries(data, "images", file, problems)
    annotations = _entries(data, "annotations", file, problems)
    lost_some = len(annotations) < len(data.get("annotations") or [])
    lost_some |= any(as_key(entry.get("image_id")) is None for entry in annotations)
    classes, label_of = classes_of(data, annotations, file, wanted)

    images, numbers, row_of = distinct_images(images, file, problems)
    folder, paths = resolve_images(images, files.images, file, problems)
    declared = np.array([[as_side(image.get(side)) for side in ("height", "width")] for image in images]).reshape(-1, 2)
    sizes_hw = known_sizes(paths, declared, problems)
    usable = np.flatnonzero((sizes_hw > 0).all(axis=1))
    placed = _placed(annotations, images, row_of, label_of, file, problems)
    said = _reviewed(images, placed, lost_some)

    new_row = np.full(len(images) + 1, -1, dtype=np.int64)  # the last stands for images that are not in the file
    new_row[usable] = np.arange(len(usable))
    kept = placed.take(np.flatnonzero((placed.image_of >= 0) & (new_row[placed.image_of] >= 0) & (placed.labels >= 0)))
    images, sizes_hw = [images[row] for row in usable], sizes_hw[usable]
    image_of = new_row[kept.image_of]
    boxes_xywh = _boxes(kept.entries)
    boxes = np.column_stack([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]])
    used_paths = [path for row in usable if (path := paths[row]) is not None]
    sizes_hw = settle_frames(used_paths, sizes_hw, image_of, boxes, problems)
    problems.extend(suspicions(boxes_xywh, sizes_hw[image_of].reshape(-1, 2), file.name))
    uncertain = kept.flags("uncertain")
    records = Records(
        paths=used_paths,
        image_ids=numbers[usable],
        sizes_hw=sizes_hw,
        image_of=image_of,
        boxes=boxes,
        boxes_xywh=boxes_xywh,
        labels=kept.labels,
        crowd=kept.flags("iscrowd") & ~uncertain,
        difficult=kept.flags("ignore") | kept.flags("difficult"),
        area=np.array([as_number(entry.get("area")) for entry in kept.entries], dtype=np.float64),
        annotation_ids=kept.ids,
        marks=kept.marks,
        shown=boxes_xywh,
        said=said[usable],
        segmentations=[entry.get("segmentation") for entry in kept.entries],
        image_extras=extras_of(images, _IMAGE_KEYS),
        extras=extras_of(kept.entries, _ANNOTATION_KEYS),
        header=header_of(data),
        uncertain=uncertain,
    )
    names, skeleton = keypoints_of(data, kept.entries, classes, file, problems)
    where = [str(images[row].get("file_name")) for row in image_of]
    records = _with_keypoints(replace(records, keypoint_names=names, skeleton=skeleton), kept, where, problems)
    records = replace(records, label_sets=label_sets_of(data, images, classes, file, problems))
    return build_split(records, name=name, layout="coco", root=folder, classes=classes, problems=problems)


def read_categories(file: Path) -> Classes:
    """The classes that a COCO file lists, with their ids; its images need not be there."""
    return classes_of(_json(file, "categories"), [], file, None)[0]


def _placed(
    annotations: list[dict[str, Any]],
    images: Sequence[dict[str, Any]],
    row_of: Mapping[Any, int],
    label_of: Mapping[Any, int],
    file: Path,
    problems: list[Problem],
) -> _Annotations:
    """The annotations with image and label; those of images or classes that the file does not have are named."""
    listed = np.array([row_of.get(as_key(entry.get("image_id")), -1) for entry in annotations], dtype=np.int64)
    labels = [label_of.get(as_key(entry.get("category_id")), UNKNOWN) for entry in annotations]
    ids = _annotation_ids(annotations, file, problems)
    placed = _Annotations(annotations, listed, np.array(labels, dtype=np.int64), ids)
    for row in np.flatnonzero(listed < 0):
        detail = f"image_id {annotations[row].get('image_id')!r} is not among the images"
        mark = _mark(annotations[row], ids[row])
        problems.append(Problem("annotation for a missing image", file.name, mark, detail, DROPPED))
    known = some_of(list(label_of), 12)
    for row in np.flatnonzero((placed.labels == UNKNOWN) & (listed >= 0)):
        where = str(images[listed[row]].get("file_name"))
        detail = f"category_id {annotations[row].get('category_id')!r}, the file has {known}"
        problems.append(Problem("label out of range", where, _mark(annotations[row], ids[row]), detail, DROPPED))
    return placed


def _reviewed(images: Sequence[dict[str, Any]], placed: _Annotations, lost_some: bool) -> np.ndarray:
    """`[I]` int8: whether each image was looked at. lost_some: whether there are annotations of no known image."""
    said = np.array([_said(image) for image in images], dtype=np.int8)
    listed = placed.image_of
    lost = np.union1d(np.flatnonzero(said == LABELS_LOST), listed[(listed >= 0) & (placed.labels == UNKNOWN)])
    said[listed[listed >= 0]] = REVIEWED
    said[lost] = LABELS_LOST
    if lost_some:
        said[said == NOT_SAID] = LABELS_LOST  # nobody can say of which image these were
    return said


def _with_keypoints(records: Records, kept: _Annotations, where: Sequence[str], problems: list[Problem]) -> Records:
    """Records with the keypoints of their annotations. where: the file name of the image of each."""
    given = [entry.get("keypoints") for entry in kept.entries]
    sizes_hw = records.sizes_hw[records.image_of].reshape(-1, 2)
    keypoints, labelled = place_keypoints(given, len(records.keypoint_names), sizes_hw, where, records.marks, problems)
    labelled = _counted_by_source(kept.entries, labelled, where, records.marks, problems)
    return replace(records, keypoints=keypoints, num_keypoints=labelled)


def _json(file: Path, needed: str = "images") -> dict[str, Any]:
    data = read_json(file)
    if not isinstance(data, dict) or needed not in data:
        got = f"the keys {some_of(list(data), 12)}" if isinstance(data, dict) else f"a {type(data).__name__}"
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


def _said(image: dict[str, Any]) -> int:
    if image.get(_LOST) is True:
        return LABELS_LOST
    for key in _LOOKED_AT:
        if isinstance(image.get(key), bool | int):
            return REVIEWED if image[key] else NEVER_LABELLED
    return NOT_SAID


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
        problems.append(Problem("number of keypoints is wrong", where[row], marks[row], detail, CHANGED))
    return np.where(wrong, counted, numbers)


def _boxes(annotations: list[dict[str, Any]]) -> np.ndarray:
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
        number = as_key(entry.get("id"))
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
                if as_key(annotations[row]["id"]) in used
                else "annotation id is not a whole number"
            )
            mark = _mark(annotations[row], ids[row])
            problems.append(Problem(kind, file.name, mark, f"it is {following} now", CHANGED))
        following += 1
    return ids


def _mark(annotation: dict[str, Any], number: int) -> int | str:
    own = annotation.get("id")
    return own if isinstance(own, int | str) else int(number)


LAYOUT = Layout(
    looks_for="COCO (annotations/*.json, */_annotations.coco.json, *.json)",
    find=find,
    by_hand=by_hand,
    read=read,
    writing=Writing(write, cannot_hold, file_each=False),
)
