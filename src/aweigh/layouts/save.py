"""Writing a data set as COCO, VOC or YOLO, so that reading it gives back what the layout can hold.

- COCO: `annotations/instances_SPLIT.json`, `images/SPLIT/`. Category, image and annotation ids, boxes, masks and
  keypoints as the source has them, and every field that was not understood.
- VOC: `Annotations/`, `JPEGImages/`, `ImageSets/Main/SPLIT.txt`, `labels.txt` with the classes in order. Continuous
  `(x0, y0, x1, y1)` become 1-based inclusive `(x0 + 1, y0 + 1, x1, y1)`, with decimals where there are any.
- YOLO: `images/SPLIT/`, `labels/SPLIT/`, `data.yaml`. All lines of a data set are of one kind (see
  `aweigh.layouts.losses.yolo_kind`): boxes with keypoints, polygons, or boxes.

An image somebody looked at without finding anything has `"reviewed": true`, an XML file without objects, an empty label
file; one that nobody labelled, or whose labels are all lost, has `"reviewed": false`, or no such file. That an image
lost a part of its labels COCO alone can say (`"labels_lost": true`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np

from aweigh.annotations.flat import TextList
from aweigh.annotations.outlines import clip_polygon
from aweigh.annotations.pairs import find_pairs
from aweigh.annotations.split import LABELS_LOST, NOT_SAID, REVIEWED, Split
from aweigh.errors import AweighError, DataError, UsageError, counted
from aweigh.files import atomic_folder, fitting_name
from aweigh.images.decode import orientation
from aweigh.images.reader import opened, read_size
from aweigh.layouts.formats import split_name
from aweigh.layouts.losses import (
    Layout,
    MaskChoice,
    check_layout,
    fills_box,
    not_held,
    united_names,
    voc_can_hold,
    yolo_kind,
)

# What EXIF orientations 5 to 8 do to a point (x, y): change the two first, then count x, y from the other side.
_TURNS = {5: (False, False), 6: (True, False), 7: (True, True), 8: (False, True)}


def save_dataset(
    splits: Mapping[str, Split],
    out: str | Path,
    layout: Layout,
    *,
    pictures: Literal["copy", "link"] = "copy",
    masks: MaskChoice = "keep",
) -> list[str]:
    """Write the splits, by name, into a new folder; returns a line for each kind of thing the layout cannot hold.

    masks: whether YOLO is written with outlines where objects have some, see `aweigh.layouts.losses.yolo_kind`.
    pictures: copied byte for byte, or links to where they are. The folder appears when it is complete; one that holds
    something already is a `UsageError`.
    """
    check_layout(layout)
    if pictures not in ("copy", "link"):
        raise UsageError(f"pictures must be 'copy' or 'link', got {pictures!r}.")
    for name in splits:
        if split_name(name) != name:
            raise UsageError(f"A split cannot be called {name!r}; use train, val, test, trainval or minival.")
    if masks not in ("keep", "drop"):
        raise UsageError(f"masks must be 'keep' or 'drop', got {masks!r}.")
    out = Path(os.path.abspath(out))
    lines = not_held(splits, layout, masks)
    try:
        with atomic_folder(out) as unfinished:
            names = picture_names(splits, layout)
            writers: dict[str, Callable[..., list[str]]] = {"coco": _write_coco, "voc": _write_voc}
            write = writers.get(layout, partial(_write_yolo, masks=masks))
            lines += write(splits, names, unfinished)
            renamed = _write_pictures(splits, names, unfinished, layout, link=pictures == "link")
            if renamed:
                lines.append(f"file names: {counted(renamed, 'picture', 'has')} a new one, since another has theirs")
    except OSError as error:
        raise AweighError(f"{out}: the data set could not be written ({error}); nothing was left behind.") from error
    return lines


def picture_names(splits: Mapping[str, Split], layout: Layout) -> dict[str, TextList]:
    """The name of each picture of each split: its path below the source's folder, or its last part alone.

    VOC knows no folders, and all its splits share one. Where two pictures would have the same name, or in VOC and YOLO
    the same annotation file, the later one is numbered.
    """
    named = {}
    used: set[str] = set()
    for split_key, split in splits.items():
        used = used if layout == "voc" else set()
        names = []
        for path in split.paths:
            below = path.relative_to(split.root) if path.is_relative_to(split.root) else Path(path.name)
            flat = layout == "voc" or {"images", "labels", ".."} & set(below.parts[:-1])
            wanted = Path(_printable(path.name if flat else below.as_posix()))
            name, further = wanted, 1
            while _key(name, layout) in used:
                further += 1
                name = wanted.with_name(fitting_name(wanted.stem, f"-{further}{wanted.suffix}"))
            used.add(_key(name, layout))
            names.append(name.as_posix())
        named[split_key] = TextList.of(names)
    return named


def _key(name: Path, layout: Layout) -> str:
    """Two names of the same key cannot stand beside each other; upper and lower case are one on some systems."""
    return str(name if layout == "coco" else name.with_suffix("")).casefold()


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() or "\udc80" <= letter <= "\udcff" else "_" for letter in name)


def _write_pictures(
    splits: Mapping[str, Split], names: Mapping[str, TextList], out: Path, layout: Layout, *, link: bool
) -> int:
    """Copies or links; returns how many have another name than before."""
    renamed = 0
    for key, split in splits.items():
        folder = out / "JPEGImages" if layout == "voc" else out / "images" / key
        folder.mkdir(parents=True, exist_ok=True)
        for path, name in zip(split.paths, names[key], strict=True):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if link:
                target.symlink_to(os.path.realpath(path))
            else:
                shutil.copyfile(path, target)
            renamed += target.name != path.name
    return renamed


# --- COCO ---------------------------------------------------------------------------------------------------------


def _write_coco(splits: Mapping[str, Split], names: Mapping[str, TextList], out: Path) -> list[str]:
    (out / "annotations").mkdir()
    for key, split in splits.items():
        text = json.dumps(coco_document(split, names[key]))
        _write(out / "annotations" / f"instances_{key}.json", text)
    return []


def coco_document(split: Split, file_names: Sequence[str]) -> dict[str, Any]:
    """The split as a COCO file: as the source has it, with `reviewed`, `uncertain` and `label_sets`, see `coco.py`."""
    annotations = split.coco_annotations()
    for row, entry in enumerate(annotations):
        crowd, ignored = entry["iscrowd"] and not entry["difficult"], entry.pop("ignore")
        difficult = entry.pop("difficult")
        entry |= {"iscrowd": int(crowd), "segmentation": entry.get("segmentation", [])}
        entry |= {"ignore": ignored, "difficult": difficult} if difficult else {}
        entry |= _extras(split.extras, row)
    empty = np.diff(split.first) == 0
    images = []
    for row, (number, name, (height, width)) in enumerate(
        zip(split.image_ids.tolist(), file_names, split.sizes_hw.tolist(), strict=True)
    ):
        image = {"id": number, "file_name": name, "width": width, "height": height}
        if empty[row] and split.reviewed[row] != NOT_SAID:
            image["reviewed"] = bool(split.reviewed[row] == REVIEWED)
        if split.reviewed[row] == LABELS_LOST:
            image["labels_lost"] = True
        if split.label_sets is not None:
            image["label_set"] = int(split.label_sets.of_image[row])
        images.append(image | _extras(split.image_extras, row))
    header = {key: value for key, value in split.header.items() if key != "categories"}
    said = split.header.get("categories", {})
    categories = [entry | said.get(entry["name"], {}) for entry in split.coco_categories()]
    document = header | {"images": images, "annotations": annotations, "categories": categories}
    if split.label_sets is not None:
        ids = np.array(split.classes.ids)
        document["label_sets"] = [
            {"name": name, "category_ids": ids[known].tolist()}
            for name, known in zip(split.label_sets.names, split.label_sets.known, strict=True)
        ]
    return document


def _annotated(split: Split) -> np.ndarray:
    """`[I]` bool: which images have an annotation file where an empty one says that there is nothing in the image."""
    return split.complete | (np.diff(split.first) > 0)


def _extras(texts: TextList | None, row: int) -> dict[str, Any]:
    text = texts[row] if texts is not None and row < len(texts) else ""
    return json.loads(text) if text else {}


# --- VOC ----------------------------------------------------------------------------------------------------------


def _write_voc(splits: Mapping[str, Split], names: Mapping[str, TextList], out: Path) -> list[str]:
    classes = united_names(splits)
    for name in classes:
        if not name or name != name.strip() or not name.isprintable():
            raise DataError(f"The class name {name!r} cannot be written to VOC's XML; rename the class.")
    (out / "Annotations").mkdir()
    (out / "ImageSets" / "Main").mkdir(parents=True)
    _write(out / "labels.txt", "".join(f"{name}\n" for name in classes))
    for key, split in splits.items():
        stems, annotated = [], _annotated(split)
        for row, name in enumerate(names[key]):
            stems.append(Path(name).stem)
            if annotated[row]:
                _write(out / "Annotations" / f"{stems[-1]}.xml", _voc_text(split, row, name))
        _write(out / "ImageSets" / "Main" / f"{key}.txt", "".join(f"{stem}\n" for stem in stems))
    return []


def _voc_text(split: Split, row: int, name: str) -> str:
    height, width = split.sizes_hw[row].tolist()
    root = ElementTree.Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", name)
    size = ElementTree.SubElement(root, "size")
    for side, value in (("width", width), ("height", height), ("depth", 3)):
        _add(size, side, value)
    _add(root, "segmented", 0)
    for number in range(int(split.first[row]), int(split.first[row + 1])):
        if split.uncertain[number]:
            continue
        item = ElementTree.SubElement(root, "object")
        _add(item, "name", split.classes.names[int(split.labels[number])])
        extras = {key: value for key, value in _extras(split.extras, number).items() if voc_can_hold(key, value)}
        for key, value in ({"pose": "Unspecified", "truncated": 0} | extras).items():
            _add_extra(item, key, value)
        _add(item, "difficult", int(split.ignore[number]))
        corners = ElementTree.SubElement(item, "bndbox")
        for key, corner, shift in zip(("xmin", "ymin", "xmax", "ymax"), split.boxes[number].tolist(), (1, 1, 0, 0)):
            _add(corners, key, _decimal(corner + shift, 7))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add_extra(parent: ElementTree.Element, name: str, value: Any) -> None:
    if isinstance(value, dict):
        below = ElementTree.SubElement(parent, name)
        for key, leaf in value.items():
            _add(below, key, leaf)
    else:
        _add(parent, name, int(value) if isinstance(value, bool) else value)


def _add(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = str(value)


# --- YOLO ---------------------------------------------------------------------------------------------------------


def _write_yolo(
    splits: Mapping[str, Split], names: Mapping[str, TextList], out: Path, *, masks: MaskChoice
) -> list[str]:
    import yaml  # type: ignore[import-untyped]

    classes, kind = united_names(splits), yolo_kind(splits, masks)
    description: dict[str, Any] = {key: f"images/{key}" for key in splits}
    description["names"] = dict(enumerate(classes))
    pointed = next((split for split in splits.values() if split.keypoints is not None), None)
    if kind == "keypoints" and pointed is not None:
        count = len(pointed.keypoint_names)
        order = list(range(count))
        for first, second in find_pairs(pointed.keypoint_names, keypoints=True):
            order[first], order[second] = second, first
        description |= {"kpt_shape": [count, 3], "flip_idx": order}
        description["kpt_names"] = {number: list(pointed.keypoint_names) for number in range(len(classes))}
        if pointed.skeleton:
            description["skeleton"] = [list(edge) for edge in pointed.skeleton]
    turned = 0
    for key, split in splits.items():
        (out / "labels" / key).mkdir(parents=True)
        number_of, annotated = [classes.index(name) for name in split.classes.names], _annotated(split)
        filled = fills_box(split)
        for row, name in enumerate(names[key]):
            if not annotated[row]:
                continue
            turn = _turn(split, row)
            turned += turn is not None
            file = (out / "labels" / key / name).with_suffix(".txt")
            file.parent.mkdir(parents=True, exist_ok=True)
            _write(file, _yolo_text(split, row, kind, number_of, turn, filled))
    _write(out / "data.yaml", yaml.safe_dump(description, sort_keys=False, allow_unicode=True))
    detail = "pictures annotated before it was applied; their annotations are turned with them"
    return [f"EXIF rotation: {turned} {detail}"] * bool(turned)


def _yolo_text(
    split: Split, row: int, kind: str, number_of: list[int], turn: tuple[bool, bool] | None, filled: np.ndarray
) -> str:
    size_wh = split.sizes_hw[row, ::-1].astype(np.float64)
    lines = []
    for number in range(int(split.first[row]), int(split.first[row + 1])):
        if split.crowd[number] or split.uncertain[number]:
            continue
        corners = _upright(split.boxes[number].astype(np.float64).reshape(2, 2) / size_wh, turn)
        low, high = corners.min(axis=0), corners.max(axis=0)
        values = np.concatenate([(low + high) / 2, high - low])
        if kind == "polygons":
            values = _upright(_outline(split, number, size_wh, filled[number]) / size_wh, turn).reshape(-1)
        words = [_decimal(value, 7 if kind == "polygons" else 10) for value in values]
        if kind == "keypoints":
            points = np.zeros((len(split.keypoint_names), 3)) if split.keypoints is None else split.keypoints[number]
            places = _upright(points[:, :2] / size_wh, turn)
            for (x, y), seen in zip(places.tolist(), points[:, 2].tolist(), strict=True):
                words += [_decimal(x, 7), _decimal(y, 7), f"{seen:.0f}"] if seen else ["0", "0", "0"]
        lines.append(" ".join([str(number_of[int(split.labels[number])]), *words]) + "\n")
    return "".join(lines)


def _outline(split: Split, number: int, size_wh: np.ndarray, filled: bool) -> np.ndarray:
    """What an object shows inside its image, in one polygon `[K, 2]`; without an outline of its own, its box."""
    if filled and split.masks is not None:
        parts = [clip_polygon(polygon, size_wh) for polygon in split.masks.polygons(number)]
        return join_polygons([part for part in parts if len(part)])
    x0, y0, x1, y1 = split.boxes[number].astype(np.float64).tolist()
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def join_polygons(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Several polygons `[K, 2]` as one, joined by lines there and back between their nearest corners.

    All go round the same way, so that their areas add up.
    """
    whole = parts[0]
    for part in parts[1:]:
        part = part if (_turning(part) < 0) == (_turning(parts[0]) < 0) else part[::-1]
        apart = ((whole[:, None] - part[None]) ** 2).sum(axis=2)  # [K, L]
        here, there = divmod(int(apart.argmin()), len(part))
        whole = np.concatenate([whole[: here + 1], part[there:], part[: there + 1], whole[here:]])
    return whole


def _turning(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def _turn(split: Split, row: int) -> tuple[bool, bool] | None:
    """How the picture is turned by its EXIF orientation, where the annotations were made on the unturned one."""
    path, declared = split.paths[row], tuple(split.sizes_hw[row].tolist())
    try:
        upright, stored = read_size(path), read_size(path, exif="ignore")
        if upright == declared or stored != declared:
            return None
        with opened(path) as image:
            return _TURNS.get(orientation(image))
    except (DataError, OSError):
        return None  # a picture that cannot be read is copied as it is


def _upright(points: np.ndarray, turn: tuple[bool, bool] | None) -> np.ndarray:
    """`[K, 2]` fractions of the unturned picture as fractions of the turned one."""
    if turn is None:
        return points
    swapped = points[:, ::-1]
    return np.where(turn, 1 - swapped, swapped)


def _decimal(value: float, digits: int) -> str:
    """As many digits as keep a box of one pixel from being read as a smaller one, and no zeros at the end."""
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
