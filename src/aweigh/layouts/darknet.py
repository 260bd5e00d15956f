"""Darknet's description of a YOLO data set, as CVAT writes it ("YOLO 1.1"): `obj.data`, `obj.names`, lists of images.

    classes = 2
    train = data/train.txt
    valid = data/valid.txt
    names = data/obj.names

Paths begin with a folder that is the user's own: they are found without their leading parts, inside the folder alone.
Each image has its labels beside it, in `obj_train_data/`. Where a list is not there, such a folder is taken itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from aweigh.errors import DataError, printable
from aweigh.files import below, read_text
from aweigh.layouts.finding import ALIASES, in_order, listed_names, split_name
from aweigh.layouts.layout import SplitFiles

_FOLDER = re.compile(r"obj_(.+)_data", re.IGNORECASE)
_NO_SPLITS = {"classes", "names", "backup", "eval", "results", "top"}


def find_darknet(root: Path) -> dict[str, SplitFiles]:
    """The splits that `obj.data`, or another `.data` of a folder, names; else its folders `obj_train_data`."""
    described = [root / "obj.data", *sorted(file for file in root.glob("*.data") if file.name != "obj.data")]
    for file in described:
        if file.is_file() and (found := _described(file)):
            return found
    names = listed_names(root / "obj.names", *sorted(root.glob("*.names")))
    return _folders(root, names)


def described_by_darknet(annotations: Path, name: str) -> SplitFiles | None:
    """A `.data` file, of which the split `name` is taken, else its first; None where it is none."""
    if annotations.suffix != ".data" or not annotations.is_file():
        return None
    found = _described(annotations)
    return found.get(name) or next(iter(found.values()), None)


def _described(file: Path) -> dict[str, SplitFiles]:
    said = _keys(file)
    root = file.parent
    if not {"names", "classes"} & set(said):
        return {}
    named = islice(below(said.get("names", ""), root), 1)
    names = listed_names(*named, root / "obj.names", *sorted(root.glob("*.names")))
    lists = {}
    for key, text in said.items():
        if key.casefold() not in _NO_SPLITS:
            for place in islice(below(text, root), 1):
                lists[ALIASES.get(key.casefold(), printable(key.casefold()))] = place
    for place in sorted(root.glob("*.txt")):  # lists that the description leaves out: CVAT names train and valid alone
        if name := split_name(place.stem):
            lists.setdefault(name, place)
    found = {
        name: SplitFiles(name, "yolo", root, (place,), names=names, description=file, within=root)
        for name, place in lists.items()
    }
    return in_order(found) or _folders(root, names)


def _folders(root: Path, names: tuple[str, ...] | None) -> dict[str, SplitFiles]:
    found = {}
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir()):
        if matched := _FOLDER.fullmatch(folder.name):
            split = ALIASES.get(matched.group(1).casefold(), printable(matched.group(1).casefold()))
            found[split] = SplitFiles(split, "yolo", folder, (folder,), names=names)
    return in_order(found)


def _keys(file: Path) -> Mapping[str, str]:
    """`key = value` of each line."""
    try:
        lines = read_text(file).splitlines()
    except DataError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line and not line.lstrip().startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}
