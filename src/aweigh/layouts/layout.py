"""What a layout is: how it is found in a folder, read into a `Split`, written where it can be, and what it loses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aweigh.annotations.flat import Packed
from aweigh.annotations.problems import Problem
from aweigh.annotations.split import Split

MaskChoice = Literal["keep", "drop"]


@dataclass(frozen=True)
class Layout:
    """What the table of layouts holds of each; every function is one of its own file.

    looks_for: what the folder of such a data set holds, in a few words. find: the splits of this layout in a folder by
    name; none where it is another. by_hand: the split that an annotation file or a folder of them, named by the user,
    is, given its name; None where it is of another layout. read: a split, from its files, those of all splits by name
    (for one list of classes), its name and the classes wanted. writing: how it is written; None where it is read only.
    """

    looks_for: str
    find: Callable[[Path], dict[str, SplitFiles]]
    by_hand: Callable[[Path, str], SplitFiles | None]
    read: Callable[[SplitFiles, Mapping[str, SplitFiles], str, Sequence[str] | None], Split]
    writing: Writing | None = None


@dataclass(frozen=True)
class Writing:
    """How a layout is written.

    write: writes the annotations of all splits, whose images have these names, into a folder; returns remarks.
    cannot_hold: a line for each kind of thing in the splits that the layout has no place for. Both are told whether
    outlines are wanted. images: the folder of the images of a split; without `{split}` all splits share it and its
    names have no folders. file_each: whether every image has an annotation file, named after it.
    """

    write: Callable[[Mapping[str, Split], Mapping[str, Packed[str]], Path, MaskChoice], list[str]]
    cannot_hold: Callable[[Mapping[str, Split], MaskChoice], list[str]]
    pictures: str = "images/{split}"
    file_each: bool = True


@dataclass(frozen=True)
class SplitFiles:
    """Where one split lies. layout: a name in the table of layouts. annotations: the file of a split, or the folder of
    its annotation files.

    images: folders to look for its images in, the likeliest first; YOLO's may be text files that list images.
    listing: the file that names the images (ImageSets of VOC and KITTI), if any. names: class names, where something
    beside the annotations gives them. description: the file that describes all splits (of YOLO). keypoint_shape: how
    many keypoints YOLO lines have, and the numbers of each. within: the folder that YOLO's lists may not lead out of,
    if any. for_keypoints: the files to take in the place of these where keypoints are wanted.
    """

    name: str
    layout: str
    annotations: Path
    images: tuple[Path, ...]
    listing: Path | None = None
    names: tuple[str, ...] | None = None
    problems: tuple[Problem, ...] = ()
    description: Path | None = None
    keypoint_shape: tuple[int, int] | None = None
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    within: Path | None = None
    for_keypoints: SplitFiles | None = None
