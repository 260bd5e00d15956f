"""Data sets as they come: a folder is looked at, its layout recognised, a split of it read.

What is recognised:

- COCO: `annotations/instances_train2017.json` with `train2017/`; `annotations/instances_train.json` with `images/` or
  `images/train/`; `train/_annotations.coco.json` beside its pictures; any JSON and picture folder given by hand.
- VOC: `Annotations/*.xml` (or `annots/`, `xmls/`, `labels/`) with `JPEGImages/` or `images/`, and
  `ImageSets/Main/train.txt`; `train/*.xml` beside its pictures.
- YOLO: `data.yaml` or another YAML naming train and val; `images/train` with `labels/train`; `train/images` with
  `train/labels`.
- KITTI: `training/label_2/*.txt` with `training/image_2`, `training/calib` and, for splits, `ImageSets/train.txt`.
- What labelling tools write: `darknet.py` (CVAT's YOLO 1.1), `dota.py`, `labelme.py`, `via.py`, `createml.py`.

Where several match, the first of COCO and `FINDERS` is taken: it holds more. Where none does, but one folder inside
holds a data set, that is taken. Conversions are our own, because
a converter stops at the first bad record, where this reader names it and goes on; tests compare them with hotcoco's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.annotations import problems as check
from aweigh.annotations.flat import PathList
from aweigh.annotations.problems import Problem
from aweigh.annotations.records import EmptySplit, some_of
from aweigh.annotations.split import Split, split_off
from aweigh.errors import DataError, UsageError, counted, did_you_mean
from aweigh.files import lies_within
from aweigh.layouts.coco import read_coco
from aweigh.layouts.createml import createml_by_hand, find_createml
from aweigh.layouts.darknet import darknet_by_hand, find_darknet
from aweigh.layouts.description import class_names, read_description
from aweigh.layouts.dota import dota_by_hand, find_dota
from aweigh.layouts.drawn import head_of
from aweigh.layouts.folders import read_voc, read_yolo
from aweigh.layouts.kitti import read_kitti
from aweigh.layouts.labelme import find_labelme, labelme_by_hand
from aweigh.layouts.split_files import (
    ALIASES,
    PICTURES,
    SPLIT_IN_NAME,
    SplitFiles,
    annotation_folders,
    in_order,
    listed_names,
    picture_folders,
    split_name,
)
from aweigh.layouts.via import find_via, via_by_hand

__all__ = [
    "ALIASES", "EmptySplit", "PathList", "Problem", "Split", "SplitFiles", "find_splits", "load_split", "load_splits",
    "split_name", "split_off",
]  # fmt: skip

_COCO_KEYS = re.compile(rb'"(images|annotations|categories|info|licenses)"\s*:')
_XML_FOLDERS = ("Annotations", "annotations", "annots", "xmls", "xml", "labels", "annotations/xmls", "Annotations/xmls")
_NOT_BOXES = ("captions_", "panoptic_", "stuff_", "image_info_")


def find_splits(
    source: str | Path,
    *,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    keypoints: bool = False,
) -> dict[str, SplitFiles]:
    """The splits of a data set by name ("train", "val", "test", ...), found by looking at the folder.

    annotations and images name a JSON (or a folder of XML or label files) and a picture folder by hand. keypoints: of
    COCO's own files take `person_keypoints_...`, not `instances_...`, where both are there. `DataError` says what was
    looked for when no known layout is found.
    """
    source = Path(source)
    if annotations is None and source.is_file():
        if source.suffix.lower() in (".yaml", ".yml"):
            return _find_yolo(source)
        annotations, source = source, source.parent
    if annotations is not None:
        return _by_hand(source, Path(annotations), None if images is None else Path(images))
    if not source.exists():
        raise DataError(f"{source}: there is no such folder. Check the path of the data set.")
    if not source.is_dir():
        raise DataError(f"{source}: a data set is a folder, a COCO JSON or a YOLO data.yaml.")
    if found := _find(source, keypoints=keypoints):
        if images is not None:
            given = (Path(images),)
            found = {name: replace(files, images=given) for name, files in found.items()}
        return found
    held = sorted(entry.name + "/" * entry.is_dir() for entry in source.iterdir())
    shown = ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "") if held else "nothing"
    raise DataError(
        f"{source}: no known layout. Looked for COCO (annotations/*.json, */_annotations.coco.json, *.json), VOC "
        f"(Annotations/*.xml, train/*.xml), YOLO (data.yaml, obj.data, images/ with labels/, train/images with "
        f"train/labels), KITTI (training/label_2/*.txt), DOTA (labelTxt/*.txt), and the JSON of labelme, VIA and "
        f"Create ML; "
        f"found {shown}{_no_coco(source)}. Give the JSON and the picture folder by hand (--annotations, --images)."
    )


def load_splits(
    source: str | Path,
    *,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
) -> tuple[dict[str, Split], list[Problem]]:
    """All splits of a data set by name, and a problem for each that is named and empty.

    One without a box is read too. A data set in which every split is empty is a `DataError`.
    """
    splits: dict[str, Split] = {}
    empty: list[tuple[EmptySplit, Problem]] = []
    for name in find_splits(source, annotations=annotations, images=images):
        try:
            splits[name] = load_split(source, name, annotations=annotations, images=images, without_boxes=True)
        except EmptySplit as error:
            empty.append((error, Problem("split without images", name, None, str(error), check.SKIPPED)))
    if not splits:
        raise empty[0][0]
    return splits, [problem for _, problem in empty]


@np.errstate(over="ignore", invalid="ignore")  # numbers of any size come in, and are judged
def load_split(
    source: str | Path,
    split: str = "train",
    *,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    classes: Sequence[str] | None = None,
    strict: bool = False,
    drop_empty: bool = False,
    keypoints: bool = False,
    without_boxes: bool = False,
) -> Split:
    """Read one split. Bad records are dropped or mended and listed in `Split.problems`; nothing stops at them.

    classes: keep these classes only, in this order (as a model has them); `UsageError` names the nearest when the
    data have no such class. strict: a bad record is a `DataError`. drop_empty: leave out images without objects.
    keypoints: as for `find_splits`. without_boxes: a split without a box is read as well.
    A split without images is an `EmptySplit`; one without boxes a `DataError`, for any name but "val" and "test".
    """
    if isinstance(classes, str):
        raise UsageError(f"classes must be a list of names, got the text {classes!r}; write [{classes!r}].")
    found = find_splits(source, annotations=annotations, images=images, keypoints=keypoints)
    wanted = ALIASES.get(split, split)
    if annotations is not None or Path(source).suffix.lower() == ".json":  # one file, taken as the split asked for
        found = {wanted: next(iter(found.values()))}
    if wanted not in found:
        described = [files.listing for files in found.values() if files.layout == "yolo" and files.listing]
        where, near = described[0] if described else source, did_you_mean(wanted, found)
        raise DataError(
            f"{where}: there is no split {split!r}, only {', '.join(found)}.{near} "
            "Name one of these, or set a part of one aside."
        )
    files = found[wanted]
    if files.reader is not None:
        read = files.reader(files, found, wanted, classes)
    elif files.layout == "coco":
        read = read_coco(files.annotations, files.images, name=wanted, wanted=classes)
    elif files.layout == "voc":
        read = read_voc(files.annotations, files.images, files.listing, name=wanted, wanted=classes, names=files.names)
    elif files.layout == "kitti":
        read = read_kitti(files.annotations, files.images[0], files.listing, name=wanted, wanted=classes)
    else:
        others = [other.annotations for other in found.values()]
        read = read_yolo(
            files.annotations,
            files.images,
            name=wanted,
            wanted=classes,
            names=files.names,
            others=others,
            keypoint_shape=files.keypoint_shape,
            keypoint_names=files.keypoint_names,
            skeleton=files.skeleton,
            within=files.within,
        )
    read.problems[:0] = files.problems
    skipped = {problem.where for problem in read.problems if problem.action == check.SKIPPED and not problem.annotation}
    read = replace(read, left_out=len(skipped))
    if drop_empty:
        whole: dict[str, Any] = {"problems": read.problems, "left_out": read.left_out}
        read = replace(read.take(np.flatnonzero(np.diff(read.first))), **whole)
    _refuse(read, files, classes, strict=strict, without_boxes=without_boxes)
    return read


def _find(source: Path, *, keypoints: bool = False) -> dict[str, SplitFiles]:
    """The splits of the first layout that fits the folder, or the one data set that lies in a folder of it."""
    finders: dict[str, Finder] = {"coco": partial(_find_coco, keypoints=keypoints)} | FINDERS
    deeper = sorted(entry for entry in source.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__")))
    held: dict[Path, dict[str, SplitFiles]] = {}
    for place in (source, *deeper):
        for find in finders.values():
            if found := find(place):
                if place == source:
                    return found
                held[place] = found
                break
    if len(held) > 1:
        raise DataError(f"{source}: holds several data sets, {some_of([place.name for place in held], 6)}; name one.")
    return next(iter(held.values()), {})


def _no_coco(root: Path) -> str:
    names = [file.relative_to(root).as_posix() for file in _coco_candidates(root)]
    return f"; {some_of(names, 3)} {'is' if len(names) == 1 else 'are'} no COCO data set" if names else ""


def _refuse(
    split: Split, files: SplitFiles, classes: Sequence[str] | None, *, strict: bool, without_boxes: bool
) -> None:
    """Stop where going on could only waste the user's time."""
    where = files.listing or files.annotations
    bad = [problem for problem in split.problems if problem.action != check.KEPT]
    why = f" Of what was read: {_in_one_line(split.problems)}." if split.problems else ""
    if len(split) == 0:
        raise EmptySplit(f"{where}: split {split.name!r} has no images that can be used.{why}")
    if len(split.boxes) == 0 and not without_boxes and split.name not in ("val", "test", "minival"):
        asked = f" Classes asked for: {', '.join(classes)}." if classes else ""
        raise DataError(
            f"{where}: split {split.name!r} has {counted(len(split), 'image')} but no box that can be used. Classes "
            f"in the data: {some_of(list(split.classes.names))}.{asked} Annotations were looked for in "
            f"{files.annotations}.{why}"
        )
    if strict and bad:
        raise DataError(f"{where}: strict reading stops at problems. {_in_one_line(bad)}.")


def _in_one_line(problems: Sequence[Problem]) -> str:
    lines = check.report_lines(problems, examples=3).splitlines()[1:]
    return "; ".join(line.strip() for line in lines)


# --- recognising a layout -----------------------------------------------------------------------------------------


def _find_coco(root: Path, *, keypoints: bool = False) -> dict[str, SplitFiles]:
    found: dict[str, tuple[int, SplitFiles]] = {}
    loose = []
    for file in _coco_candidates(root):
        if file.name.startswith(_NOT_BOXES) or not _is_coco(file):
            continue
        own_folder = file.parent != root and file.parent.name.lower() != "annotations"
        name = split_name(file.parent.name if own_folder else file.stem)
        if name is None:
            loose.append(file)
            continue
        best, last = ("instances", "person_keypoints")[:: -1 if keypoints else 1]
        rank = 0 if file.name.startswith(best) else 2 if file.name.startswith(last) else 1
        if name not in found or rank < found[name][0]:
            found[name] = rank, _coco_files(name, file, root)
    if not found and len(loose) == 1:
        found["train"] = 0, _coco_files("train", loose[0], root)
    return in_order({name: files for name, (_, files) in found.items()})


def _coco_candidates(root: Path) -> list[Path]:
    places = ("*.json", "annotations/*.json", "Annotations/*.json", "*/_annotations.coco.json", "*/annotations.json")
    return list(dict.fromkeys(file for place in places for file in sorted(root.glob(place))))


def _coco_files(name: str, file: Path, root: Path) -> SplitFiles:
    stem = file.stem.rsplit("_", 1)[-1]  # "train2017"
    folders = [stem, f"images/{stem}", name, f"images/{name}"]
    folders += [alias for alias, plain in ALIASES.items() if plain == name]
    folders += ["images", "data", "JPEGImages", "."]
    images = [root / folder for folder in folders]
    if file.parent not in (root, root / "annotations", root / "Annotations"):
        images.insert(0, file.parent)
    return SplitFiles(name, "coco", file, tuple(dict.fromkeys(images)))


def _is_coco(file: Path) -> bool:
    """Whether its name or its beginning is that of a COCO data set; the reader then says what is wrong with it."""
    if file.name.startswith("instances") or file.name == "_annotations.coco.json":
        return True
    head = head_of(file)  # UTF-16 is known by its letters too
    return head.startswith(b"{") and _COCO_KEYS.search(head) is not None and b'"shapes"' not in head


def _find_voc(root: Path) -> dict[str, SplitFiles]:
    years = [child for child in sorted(root.glob("VOC*")) if (child / "Annotations").is_dir()]
    if len(years) > 1 and not (root / "Annotations").is_dir():
        raise DataError(f"{root}: holds {', '.join(year.name for year in years)}; name one of these folders.")
    root = years[0] if years and not (root / "Annotations").is_dir() else root
    for name in _XML_FOLDERS:
        folder = root / name
        if _has_xml(folder):
            places = [root / picture for picture in dict.fromkeys(("JPEGImages", *PICTURES, ".", name))]
            pictures = tuple(place for place in places if place.name == "JPEGImages" or place.is_dir())
            names = listed_names(root / "labels.txt", root / "classes.txt")
            listings = {
                listing.stem.lower(): listing
                for listing in sorted((root / "ImageSets" / "Main").glob("*.txt"))
                if SPLIT_IN_NAME.fullmatch(listing.stem)
            }
            if not listings:
                return {"train": SplitFiles("train", "voc", folder, pictures, names=names)}
            found = {
                ALIASES.get(split, split): SplitFiles(
                    ALIASES.get(split, split), "voc", folder, pictures, listing, names
                )
                for split, listing in listings.items()
            }
            return in_order(found)
    folders = annotation_folders(root, ("", *_XML_FOLDERS), _has_xml)
    return in_order({name: SplitFiles(name, "voc", at, picture_folders(at, root)) for name, at in folders.items()})


def _has_xml(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*.xml"))


def _find_kitti(root: Path) -> dict[str, SplitFiles]:
    """`label_2` and `image_2` in the folder or in its `training`; KITTI's `testing` has no labels and is no split."""
    for base in (root, root / "training"):
        labels, pictures = base / "label_2", base / "image_2"
        if labels.is_dir() and pictures.is_dir() and any(labels.glob("*.txt")):
            listed = {
                file.stem.lower(): file
                for place in (base.parent / "ImageSets", base / "ImageSets")
                for file in sorted(place.glob("*.txt"))
                if SPLIT_IN_NAME.fullmatch(file.stem)
            }
            if (base.parent / "testing").is_dir():  # whose pictures, which have no labels, are those of test.txt
                listed.pop("test", None)
            if not listed:
                return {"train": SplitFiles("train", "kitti", labels, (pictures,))}
            found = {ALIASES.get(name, name): file for name, file in listed.items()}
            return in_order(
                {name: SplitFiles(name, "kitti", labels, (pictures,), file) for name, file in found.items()}
            )
    return {}


def _find_yolo(source: Path) -> dict[str, SplitFiles]:
    root = source.parent if source.is_file() else source
    described = [source] if source.is_file() else _descriptions(root)
    names = None
    for file in described:
        try:
            description = read_description(file)
            if found := _from_description(file, description, anywhere=file == source):
                return in_order(found)
            names = names or class_names(file, description)
        except DataError:
            if file == source or file.stem in ("data", "dataset"):
                raise  # else it is some other program's
    if source.is_file():
        raise DataError(f"{source}: names no train, val or test folder that exists; a YOLO description has them.")
    names = names or listed_names(root / "classes.txt", root / "labels" / "classes.txt", root / "obj.names")
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


def _descriptions(root: Path) -> list[Path]:
    named = [root / name for name in ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")]
    others = sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    return [file for file in dict.fromkeys([*named, *others]) if file.is_file()]


def _from_description(file: Path, description: dict[str, Any], *, anywhere: bool) -> dict[str, SplitFiles]:
    """The splits of a YOLO data.yaml: folders, lists of folders or text files, relative to `path` or to the file.

    anywhere: they may lie outside the folder of the file, since the user named the file itself; a remark says so.
    """
    path = description.get("path")
    base = Path(path if isinstance(path, str) else ".")
    bases = list(dict.fromkeys([file.parent / base, file.parent, base]))
    found: dict[str, SplitFiles] = {}
    for key in ("train", "val", "valid", "validation", "test", "trainval", "minival"):
        split = ALIASES.get(key, key)
        entries = description.get(key)
        entries = [entries] if isinstance(entries, str) else entries
        if not entries:
            continue
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise DataError(
                f"{file}: {key} must be a folder, a text file or a list of these, got {str(entries)[:60]!r}."
            )
        places, remarks = [], []
        for entry in entries:
            options = _options(entry, bases)
            inside = [place for place in options if lies_within(place, file.parent)]
            if options and not inside and not anywhere:
                raise DataError(
                    f"{file}: {key} leads outside the folder, to {options[0]}. If that is meant, name the description "
                    f"itself as the data: {file}."
                )
            if not options:
                detail = f"there is no {entry}"
                remarks.append(Problem("folder or list missing", file.name, key, detail, check.SKIPPED))
                continue
            places.append(options[0] if anywhere else inside[0])
            if not inside:
                detail = str(options[0])
                remarks.append(Problem("pictures outside the data folder", file.name, key, detail, check.KEPT))
        labels = file  # where there is no place to look in, there are no labels either
        if places:
            labels = file.parent if places[0].is_file() else _labels_folder(places[0])
            if not anywhere and not lies_within(labels, file.parent):
                labels = places[0]
        found[split] = SplitFiles(
            split,
            "yolo",
            labels,
            tuple(places),
            file,
            problems=tuple(remarks),
            within=None if anywhere else file.parent,
        )
    if not any(files.images for files in found.values()):
        return {}
    names, (shape, points, edges) = class_names(file, description), _keypoints(file, description)
    return {
        split: replace(files, names=names, keypoint_shape=shape, keypoint_names=points, skeleton=edges)
        for split, files in found.items()
    }


def _keypoints(
    file: Path, description: dict[str, Any]
) -> tuple[tuple[int, int] | None, tuple[str, ...], tuple[tuple[int, int], ...]]:
    """What a description says of keypoints: `kpt_shape`, `kpt_names` (a list, or one per class), `skeleton`."""
    shape = description.get("kpt_shape")
    if shape is None:
        return None, (), ()
    pair = isinstance(shape, list) and len(shape) == 2 and all(type(value) is int for value in shape)
    if not pair or not 1 <= shape[0] <= 10_000 or shape[1] not in (2, 3):
        raise DataError(f"{file}: kpt_shape must be [number of keypoints, 2 or 3], got {str(shape)[:40]}.")
    names = description.get("kpt_names")
    names = next(iter(names.values()), None) if isinstance(names, dict) else names
    edges = description.get("skeleton")
    skeleton = [
        (edge[0], edge[1])
        for edge in (edges if isinstance(edges, list) else [])
        if isinstance(edge, list) and len(edge) == 2 and all(type(end) is int for end in edge)
    ]
    return (shape[0], shape[1]), tuple(str(name) for name in names) if isinstance(names, list) else (), tuple(skeleton)


def _options(entry: str, bases: Sequence[Path]) -> list[Path]:
    """The places a description can mean, the likeliest first; `../train/images` is first tried inside the folder."""
    inside = re.sub(r"^(\.\./)+", "", entry.replace("\\", "/"))
    named = [os.path.normpath(base / text) for text in dict.fromkeys([inside, entry]) for base in bases]
    return [Path(name) for name in dict.fromkeys(named) if os.path.exists(name)]


def _labels_folder(images: Path) -> Path:
    """`.../images/train` to `.../labels/train`, by the last `images` in the path; else the folder itself."""
    parts = list(images.parts)
    for position in reversed(range(len(parts))):
        if parts[position] == "images":
            return Path(*parts[:position], "labels", *parts[position + 1 :])
    return images


def _by_hand(source: Path, annotations: Path, images: Path | None) -> dict[str, SplitFiles]:
    if not annotations.exists():
        inside = source / annotations
        if not inside.exists():
            raise DataError(f"{annotations}: there is no such annotation file or folder.")
        annotations = inside
    if images is not None and not images.is_dir():
        inside = source / images
        if not inside.is_dir():
            raise DataError(f"{images}: there is no such folder of pictures.")
        images = inside
    name = split_name(annotations.stem if annotations.is_file() else annotations.name) or "train"
    for by_hand in BY_HAND.values():
        if own := by_hand(annotations, name):
            return {name: own if images is None else replace(own, images=(images,))}
    if annotations.is_file():
        root = annotations.parent.parent if annotations.parent.name.lower() == "annotations" else annotations.parent
        files = _coco_files(name, annotations, root)
    elif any(annotations.glob("*.xml")):
        files = SplitFiles(name, "voc", annotations, (annotations.parent / "JPEGImages", annotations))
    elif annotations.name == "label_2":
        files = SplitFiles(name, "kitti", annotations, (annotations.parent / "image_2",))
    else:
        files = SplitFiles(name, "yolo", annotations, (annotations.parent / "images", annotations))
    return {name: files if images is None else replace(files, images=(images,))}


# The layouts besides COCO in the order in which a folder is tried, and those that are told by hand from their files.
Finder = Callable[[Path], dict[str, SplitFiles]]
FINDERS: dict[str, Finder] = {
    "kitti": _find_kitti,
    "voc": _find_voc,
    "dota": find_dota,
    "yolo": _find_yolo,
    "darknet": find_darknet,
    "labelme": find_labelme,
    "via": find_via,
    "createml": find_createml,
}
BY_HAND: dict[str, Callable[[Path, str], SplitFiles | None]] = {
    "dota": dota_by_hand,
    "darknet": darknet_by_hand,
    "labelme": labelme_by_hand,
    "via": via_by_hand,
    "createml": createml_by_hand,
}
