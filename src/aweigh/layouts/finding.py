"""What the layouts share in looking at a folder: names of splits, folders of annotations and of images."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from aweigh.annotations.records import distinct_names
from aweigh.errors import DataError
from aweigh.files import lies_within, read_text
from aweigh.layouts.layout import SplitFiles

ALIASES = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
PICTURES = ("images", "JPEGImages", "Images", "img", "imgs", "pictures", "images/images")  # folders of images
SPLIT_IN_NAME = re.compile(
    r"(?:^|[_\-. ])(trainval|training|train|minival|validation|valid|val|dev|testing|test)"
    r"(?:[_\-]?\d{4})?(?=$|[_\-. ])",
    re.IGNORECASE,
)
_ELEMENT = re.compile(rb"<([A-Za-z_][\w.-]*)")


def split_name(text: str) -> str | None:
    """The split a file or folder is named after: "instances_val2017" is "val"; None when it names none."""
    found = SPLIT_IN_NAME.search(text)
    if found is None:
        return None
    name = found.group(1).lower()
    return ALIASES.get(name, name)


def split_folders(root: Path) -> dict[str, Path]:
    """The folders directly below that are named after a split: `train`, `valid`, `test2017`."""
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
    return {name: folder for folder in folders if (name := split_name(folder.name)) is not None}


def annotation_folders(root: Path, places: Sequence[str], holds: Callable[[Path], bool]) -> dict[str, Path]:
    """The folder of annotation files of each split: `train/place` or `place/train`, else `place` alone as train.

    places: names of such folders, "" for that of the split, or the data set, itself. holds: whether a folder has files
    of the layout.
    """
    found: dict[str, Path] = {}
    for name, folder in split_folders(root).items():
        inside = next((folder / place for place in places if holds(folder / place)), None)
        if inside is not None:
            found[name] = inside
    for place in (root / place for place in places if place):
        if place.is_dir():
            found = {name: folder for name, folder in split_folders(place).items() if holds(folder)} | found
    if not found:
        alone = next((root / place for place in places if holds(root / place)), None)
        return {} if alone is None else {"train": alone}
    return found


def annotation_files(root: Path, patterns: Sequence[str], is_one: Callable[[Path], bool]) -> dict[str, Path]:
    """The one file that describes each split, by the name of its folder or its own; a single one that names none is
    train."""
    found: dict[str, Path] = {}
    loose = []
    for folder in (root, *sorted(entry for entry in root.iterdir() if entry.is_dir())):
        for file in dict.fromkeys(file for pattern in patterns for file in sorted(folder.glob(pattern))):
            if is_one(file):
                name = (split_name(folder.name) if folder != root else None) or split_name(file.stem)
                if name is None:
                    loose.append(file)
                else:
                    found.setdefault(name, file)
    if not found and len(loose) > 1:
        names = ", ".join(file.relative_to(root).as_posix() for file in loose[:4])
        raise DataError(f"{root}: {names} could each be the annotations; name one with --annotations.")
    return found or ({"train": loose[0]} if loose else {})


def picture_folders(annotations: Path, root: Path) -> tuple[Path, ...]:
    """Where the images of annotations may lie, a folder or a file, the likeliest first; all inside `root`."""
    own = annotations.parent if annotations.is_file() else annotations
    above = own.parent
    places = [own, *(own / name for name in PICTURES), *(above / name for name in PICTURES)]
    places += [above / name / own.name for name in PICTURES]
    places += [above.parent / name / own.name for name in PICTURES] + [above.parent / own.name, above]
    inside = [place for place in places if place.is_dir() and lies_within(place, root)]
    return tuple(dict.fromkeys(inside)) or (own,)


def listed_names(*files: Path) -> tuple[str, ...] | None:
    """Class names, one a line, of the first of these files that is there."""
    for file in files:
        if file.is_file():
            lines = [line.strip() for line in read_text(file).splitlines()]
            return distinct_names(list(filter(None, lines)), file) or None
    return None


def listed_splits(folder: Path) -> dict[str, Path]:
    """The text files of a folder, as VOC's `ImageSets/Main`, that are named after a split."""
    named = (file for file in sorted(folder.glob("*.txt")) if SPLIT_IN_NAME.fullmatch(file.stem))
    return {ALIASES.get(file.stem.lower(), file.stem.lower()): file for file in named}


def in_order(found: Mapping[str, SplitFiles]) -> dict[str, SplitFiles]:
    """train, val and test first."""
    usual = ["train", "val", "test"]
    return dict(sorted(found.items(), key=lambda item: (usual.index(item[0]) if item[0] in usual else 3, item[0])))


def head_of(file: Path) -> bytes:
    """The first letters of a file, without marks of its encoding; empty where it cannot be read."""
    try:
        if not file.is_file():
            return b""
        with file.open("rb") as stream:
            return stream.read(4096).replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    except OSError:
        return b""


def root_of(file: Path) -> str:
    """The name of the first element of an XML file, in small letters; empty where there is none."""
    found = _ELEMENT.search(head_of(file))
    return found[1].decode("ascii", "replace").lower() if found else ""
