"""Where the splits of a data set lie: what finding a layout gives, and by what names splits go."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aweigh.data.check import Problem
from aweigh.data.files import read_text
from aweigh.data.records import distinct_names
from aweigh.data.split import Split

ALIASES = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
SPLIT_IN_NAME = re.compile(
    r"(?:^|[_\-. ])(trainval|training|train|minival|validation|valid|val|dev|testing|test)"
    r"(?:[_\-]?\d{4})?(?=$|[_\-. ])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class SplitFiles:
    """Where one split lies. layout: "coco", "voc", "yolo", "kitti" or that of a labelling tool. annotations: the file
    of a split, or the folder of its annotation files.

    images: folders to look for its pictures in, the likeliest first; YOLO's may be text files that list pictures.
    listing: the file that names the images (ImageSets of VOC and KITTI) or their places (YOLO's description), if any.
    names: class names, where something beside the annotations gives them. keypoint_shape: how many keypoints YOLO lines
    have, and the numbers of each. within: the folder that YOLO's lists may not lead out of, if any. reader: reads the
    split, in a layout that brings its own.
    """

    name: str
    layout: str
    annotations: Path
    images: tuple[Path, ...]
    listing: Path | None = None
    names: tuple[str, ...] | None = None
    problems: tuple[Problem, ...] = ()
    keypoint_shape: tuple[int, int] | None = None
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    within: Path | None = None
    reader: Reader | None = None


# What reads a split: its files, those of all splits by name (for one list of classes), its name, the classes wanted.
Reader = Callable[[SplitFiles, Mapping[str, SplitFiles], str, Sequence[str] | None], Split]


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


def listed_names(*files: Path) -> tuple[str, ...] | None:
    """Class names, one a line, of the first of these files that is there."""
    for file in files:
        if file.is_file():
            lines = [line.strip() for line in read_text(file).splitlines()]
            return distinct_names(list(filter(None, lines)), file) or None
    return None


def in_order(found: Mapping[str, SplitFiles]) -> dict[str, SplitFiles]:
    """train, val and test first."""
    usual = ["train", "val", "test"]
    return dict(sorted(found.items(), key=lambda item: (usual.index(item[0]) if item[0] in usual else 3, item[0])))
