"""VOC: one XML for each image, and text files in `ImageSets/Main` that name the images of a split.

VOC's 1-based inclusive corners become continuous `(xmin - 1, ymin - 1, xmax, ymax)`. An XML file without objects says
that somebody looked and found nothing; where there is no such file, nobody labelled the image.

Written are `Annotations/`, `JPEGImages/`, `ImageSets/Main/SPLIT.txt` and `labels.txt` with the classes in order;
corners have decimals where there are any.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from aweigh.annotations.flat import Packed
from aweigh.annotations.problems import CHANGED, DROPPED, KEPT, SKIPPED, Problem
from aweigh.annotations.records import UNKNOWN, as_number, as_side, build_split, choose_classes
from aweigh.annotations.split import LABELS_LOST, NEVER_LABELLED, REVIEWED, Split
from aweigh.errors import DataError, printable, some_of
from aweigh.files import read_text, read_xml
from aweigh.layouts.finding import (
    PICTURES,
    annotation_folders,
    in_order,
    listed_names,
    listed_splits,
    picture_folders,
    root_of,
)
from aweigh.layouts.layout import Layout, MaskChoice, SplitFiles, Writing
from aweigh.layouts.rows import Row, pictures_by_stem, records_of, settled, written
from aweigh.layouts.writing import (
    AREAS,
    SHAPES,
    decimal,
    extra_fields,
    has_file,
    lost_beside_boxes,
    united_names,
    write_text,
)

_FOLDERS = ("Annotations", "annotations", "annots", "xmls", "xml", "labels", "annotations/xmls", "Annotations/xmls")
_SIDES = ("height", "width")
_KEYS = {"name", "difficult", "bndbox"}
_DEFAULTS = {("pose", "Unspecified"), ("truncated", "0"), ("occluded", "0")}
_TAKEN = ("name", "difficult", "bndbox", "robndbox")  # elements of VOC with a meaning of their own


def find(root: Path) -> dict[str, SplitFiles]:
    """`Annotations/` and its like with `JPEGImages/`, or XML files beside the images of each split."""
    years = [child for child in sorted(root.glob("VOC*")) if (child / "Annotations").is_dir()]
    if len(years) > 1 and not (root / "Annotations").is_dir():
        raise DataError(f"{root}: holds {', '.join(year.name for year in years)}; name one of these folders.")
    root = years[0] if years and not (root / "Annotations").is_dir() else root
    folder = next((root / name for name in _FOLDERS if _has_xml(root / name)), None)
    if folder is None:
        folders = annotation_folders(root, ("", *_FOLDERS), _has_xml)
        return in_order({name: SplitFiles(name, "voc", at, picture_folders(at, root)) for name, at in folders.items()})
    own_name = folder.relative_to(root).as_posix()
    places = [root / picture for picture in dict.fromkeys(("JPEGImages", *PICTURES, ".", own_name))]
    pictures = tuple(place for place in places if place.name == "JPEGImages" or place.is_dir())
    names = listed_names(root / "labels.txt", root / "classes.txt")
    found = {"train": SplitFiles("train", "voc", folder, pictures, names=names)}
    if listings := listed_splits(root / "ImageSets" / "Main"):
        found = {name: SplitFiles(name, "voc", folder, pictures, file, names) for name, file in listings.items()}
    return in_order(found)


def by_hand(annotations: Path, name: str) -> SplitFiles | None:
    """A folder of XML files; None where there are none."""
    return (
        SplitFiles(name, "voc", annotations, (annotations.parent / "JPEGImages", annotations))
        if _has_xml(annotations)
        else None
    )


def read(files: SplitFiles, _: Mapping[str, SplitFiles], name: str, wanted: Sequence[str] | None) -> Split:
    """The images that the ImageSets file names; those of all XML files without one.

    Class names come from a file beside the annotations, else from all XML files of the folder in alphabetical order, so
    that every split of a data set has the same.
    """
    problems: list[Problem] = []
    folder = files.annotations
    by_stem = {stem: path for place in reversed(files.images) for stem, path in pictures_by_stem(place).items()}
    every = sorted(file.stem for file in folder.glob("*.xml"))
    stems = every
    if files.listing is not None:
        lines, known = read_text(files.listing).splitlines(), {*every, *by_stem}
        stems = list(dict.fromkeys(_listed_stem(line, known) for line in lines if line.strip()))
    needed = every if files.names is None else [stem for stem in stems if stem in set(every)]
    own = set(stems)
    trees = {stem: _parsed(folder / f"{stem}.xml", problems if stem in own else []) for stem in needed}
    names = files.names or _names_in(tree for tree in trees.values() if tree is not None)
    classes, label_of = choose_classes(list(names), list(range(len(names))), wanted, folder)

    paths: list[Path] = []
    declared: list[list[int]] = []
    said: list[int] = []
    rows: list[Row] = []
    for stem in stems:
        tree = trees.get(stem)
        if not _usable(stem, tree, by_stem, files, problems):
            continue
        objects, whole = _objects(tree, len(paths), f"{stem}.xml", label_of, problems)
        rows += objects
        paths.append(by_stem[stem])
        declared.append([0, 0] if tree is None else [as_side(_text(tree, f"size/{side}")) for side in _SIDES])
        said.append(NEVER_LABELLED if tree is None else REVIEWED if whole else LABELS_LOST)

    shown = written(rows)
    first_low = shown[:, :2] <= shown[:, 2:] + 1  # one pixel less, as a side of none is written, is not exchanged
    boxes = shown - np.hstack([first_low, ~first_low])  # the lower of the two counts from 1
    records = settled(records_of(paths, declared, said, rows, problems, boxes=boxes), problems)
    root = paths[0].parent if paths else files.images[0]
    return build_split(records, name=name, layout="voc", root=root, classes=classes, problems=problems)


def _names_in(trees: Iterable[ElementTree.Element]) -> list[str]:
    return sorted({_class_name(item) for tree in trees for item in tree.iter("object")} - {""})


def _usable(
    stem: str,
    tree: ElementTree.Element | None,
    by_stem: Mapping[str, Path],
    files: SplitFiles,
    problems: list[Problem],
) -> bool:
    """Whether an image is there to be read, with its annotations or, where nobody wrote any, without."""
    if tree is None and os.path.lexists(files.annotations / f"{stem}.xml"):
        return False  # it was named when it could not be parsed
    if tree is None:
        action = KEPT if stem in by_stem else SKIPPED
        detail = f"not in {files.annotations}"
        problems.append(Problem("annotation file missing", f"{stem}.xml", None, detail, action))
    elif stem not in by_stem:
        detail = f"no image {stem}.* in {', '.join(str(place) for place in files.images)}"
        problems.append(Problem("image file missing", f"{stem}.xml", None, detail, SKIPPED))
    return stem in by_stem


def _objects(
    tree: ElementTree.Element | None, image: int, where: str, label_of: Mapping[str, int], problems: list[Problem]
) -> tuple[list[Row], bool]:
    """The objects of one image that are wanted, and whether all of its classes are known."""
    rows, whole = [], True
    for number, item in enumerate(() if tree is None else tree.iter("object"), start=1):
        mark = f"object {number}"
        label = label_of.get(_class_name(item), UNKNOWN)
        if label == UNKNOWN:
            detail = f"class {_text(item, 'name')!r}, known are {some_of(list(label_of), 12)}"
            problems.append(Problem("label out of range", where, mark, detail, DROPPED))
            whole = False
        if label >= 0:
            corners, outline = _corners(item, where, mark, problems)
            difficult = _text(item, "difficult") == "1"
            rows.append(Row(image, label, corners, mark, difficult, extras=_extras(item), corners=outline))
    return rows, whole


def _has_xml(folder: Path) -> bool:
    """Whether a folder has XML files, but for those of other programs."""
    return folder.is_dir() and any(root_of(file) in ("annotation", "") for file in folder.glob("*.xml"))


def _parsed(file: Path, problems: list[Problem]) -> ElementTree.Element | None:
    """The root of an XML file; None, with a problem, when it cannot be read or declares entities."""
    try:
        return read_xml(file, "annotation")
    except DataError as error:
        problems.append(Problem("annotation file unreadable", file.name, None, str(error), SKIPPED))
        return None


def _listed_stem(line: str, known: set[str]) -> str:
    """The image a line of ImageSets names: the whole line, as names may hold spaces and dots, else its first word."""
    words = (line.strip(), line.split()[0])
    options = [name for word in words for name in (Path(word).name, Path(word).stem)]
    return next((name for name in options if name in known), options[-1])


def _corners(
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
    problems.append(Problem("rotated box", where, mark, detail, CHANGED))
    return [*(corners.min(axis=0) + 1).tolist(), *corners.max(axis=0).tolist()], corners


def _extras(item: ElementTree.Element) -> str:
    """What else an object says (pose, truncated, ...) as JSON; two levels deep, the usual defaults left out."""
    said: dict[str, Any] = {}
    for child in item:
        text = (child.text or "").strip()
        if child.tag in _KEYS or (not len(child) and (not text or (child.tag, text) in _DEFAULTS)):
            continue
        said[child.tag] = {leaf.tag: (leaf.text or "").strip() for leaf in child} if len(child) else _plain(text)
    return json.dumps(said) if said else ""


def _plain(text: str) -> int | str:
    return int(text) if text.isdecimal() and len(text) < 10 else text


def _class_name(item: ElementTree.Element) -> str:
    return printable(_text(item, "name"))


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def write(splits: Mapping[str, Split], names: Mapping[str, Packed[str]], out: Path, _: MaskChoice) -> list[str]:
    classes = united_names(splits)
    for name in classes:
        if not name or name != name.strip() or not name.isprintable():
            raise DataError(f"The class name {name!r} cannot be written to VOC's XML; rename the class.")
    (out / "Annotations").mkdir()
    (out / "ImageSets" / "Main").mkdir(parents=True)
    write_text(out / "labels.txt", "".join(f"{name}\n" for name in classes))
    for key, split in splits.items():
        stems, annotated = [], has_file(split)
        for row, name in enumerate(names[key]):
            stems.append(Path(name).stem)
            if annotated[row]:
                write_text(out / "Annotations" / f"{stems[-1]}.xml", _xml(split, row, name))
        write_text(out / "ImageSets" / "Main" / f"{key}.txt", "".join(f"{stem}\n" for stem in stems))
    return []


def cannot_hold(splits: Mapping[str, Split], _: MaskChoice) -> list[str]:
    crowd = {"crowd": ("region", "written as difficult")}
    return lost_beside_boxes(splits, crowd | SHAPES | AREAS, holds=_holds)


def _xml(split: Split, row: int, name: str) -> str:
    height, width = split.sizes_hw[row].tolist()
    root = ElementTree.Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", name)
    _add(root, "size", {"width": width, "height": height, "depth": 3})
    _add(root, "segmented", 0)
    for number in range(int(split.first[row]), int(split.first[row + 1])):
        if split.uncertain[number]:
            continue
        item = ElementTree.SubElement(root, "object")
        _add(item, "name", split.classes.names[int(split.labels[number])])
        extras = {key: value for key, value in extra_fields(split.extras, number).items() if _holds(key, value)}
        for key, value in ({"pose": "Unspecified", "truncated": 0} | extras).items():
            _add(item, key, int(value) if isinstance(value, bool) else value)
        _add(item, "difficult", int(split.ignore[number]))
        x0, y0, x1, y1 = split.boxes[number].tolist()
        corners = {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1}
        _add(item, "bndbox", {key: decimal(value, 7) for key, value in corners.items()})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, name: str, value: object) -> None:
    """An element that says a value, or one level of them by name."""
    element = ElementTree.SubElement(parent, name)
    if isinstance(value, dict):
        for key, leaf in value.items():
            _add(element, key, leaf)
    else:
        element.text = str(value)


def _holds(key: str, value: Any) -> bool:
    """Whether an XML element can say this: a plain name, with a text, a number or one level of these."""
    leaves = value if isinstance(value, dict) else {key: value}
    plain = all(isinstance(leaf, str | int | float) and str(leaf).isprintable() for leaf in leaves.values())
    return plain and all(name.isidentifier() and name not in _TAKEN for name in (key, *leaves))


LAYOUT = Layout(
    looks_for="VOC (Annotations/*.xml, train/*.xml)",
    find=find,
    by_hand=by_hand,
    read=read,
    writing=Writing(write, cannot_hold, pictures="JPEGImages"),
)
