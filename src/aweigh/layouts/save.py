"""Writing a data set in a layout, so that reading it gives back what the layout can hold.

An image somebody looked at without finding anything has an XML file without objects, an empty label file or, in COCO,
`"reviewed": true`; one that nobody labelled, or whose labels are all lost, has no such file, or `"reviewed": false`.
That an image lost a part of its labels COCO alone can say (`"labels_lost": true`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from aweigh.annotations.flat import Packed
from aweigh.annotations.split import Split
from aweigh.errors import AweighError, UsageError, counted, did_you_mean
from aweigh.files import atomic_folder, fitting_name
from aweigh.layouts import LAYOUTS
from aweigh.layouts.finding import split_name
from aweigh.layouts.layout import MaskChoice, Writing


def save_dataset(
    splits: Mapping[str, Split],
    out: str | Path,
    layout: str,
    *,
    pictures: Literal["copy", "link"] = "copy",
    masks: MaskChoice = "keep",
) -> list[str]:
    """Write the splits, by name, into a new folder; returns a line for each kind of thing the layout cannot hold.

    masks: whether YOLO is written with outlines where objects have some, see `aweigh.layouts.yolo_write`. images:
    copied byte for byte, or links to where they are. The folder appears when it is complete; one that holds something
    already is a `UsageError`.
    """
    writing = writing_of(layout)
    if pictures not in ("copy", "link"):
        raise UsageError(f"images must be 'copy' or 'link', got {pictures!r}.")
    for name in splits:
        if split_name(name) != name:
            raise UsageError(f"A split cannot be called {name!r}; use train, val, test, trainval or minival.")
    out = Path(os.path.abspath(out))
    lines = not_held(splits, layout, masks)
    try:
        with atomic_folder(out) as unfinished:
            names = _picture_names(splits, writing)
            lines += writing.write(splits, names, unfinished, masks)
            renamed = _write_pictures(splits, names, unfinished, writing, link=pictures == "link")
            if renamed:
                lines.append(f"file names: {counted(renamed, 'image', 'has')} a new one, since another has theirs")
    except OSError as error:
        raise AweighError(f"{out}: the data set could not be written ({error}); nothing was left behind.") from error
    return lines


def not_held(splits: Mapping[str, Split], layout: str, masks: MaskChoice = "keep") -> list[str]:
    """A line for each kind of thing in these splits that the layout cannot hold; COCO holds all but 3D boxes."""
    writing = writing_of(layout)
    if masks not in get_args(MaskChoice):
        raise UsageError(f"masks must be 'keep' or 'drop', got {masks!r}.")
    return writing.cannot_hold(splits, masks)


def writing_of(layout: str) -> Writing:
    """How a layout is written; `UsageError` lists those that are."""
    writable = {name: one.writing for name, one in LAYOUTS.items() if one.writing is not None}
    if layout not in writable:
        raise UsageError(f"Unknown layout {layout!r}; known: {', '.join(writable)}.{did_you_mean(layout, writable)}")
    return writable[layout]


def _picture_names(splits: Mapping[str, Split], writing: Writing) -> dict[str, Packed[str]]:
    """The name of each image of each split: its path below the source's folder, or its last part alone.

    Where all splits share one folder, names have none. Where two images would have the same name, or the same
    annotation file, the later one is numbered.
    """
    named = {}
    shared = "{split}" not in writing.pictures
    used: set[str] = set()
    for split_key, split in splits.items():
        used = used if shared else set()
        names = []
        for path in split.paths:
            below = path.relative_to(split.root) if path.is_relative_to(split.root) else Path(path.name)
            flat = shared or {"images", "labels", ".."} & set(below.parts[:-1])
            wanted = Path(_printable(path.name if flat else below.as_posix()))
            name, further = wanted, 1
            while _key(name, writing) in used:
                further += 1
                name = wanted.with_name(fitting_name(wanted.stem, f"-{further}{wanted.suffix}"))
            used.add(_key(name, writing))
            names.append(name.as_posix())
        named[split_key] = Packed.of(names, str)
    return named


def _key(name: Path, writing: Writing) -> str:
    """Two names of the same key cannot stand beside each other; upper and lower case are one on some systems."""
    return str(name.with_suffix("") if writing.file_each else name).casefold()


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() or "\udc80" <= letter <= "\udcff" else "_" for letter in name)


def _write_pictures(
    splits: Mapping[str, Split], names: Mapping[str, Packed[str]], out: Path, writing: Writing, *, link: bool
) -> int:
    """Copies or links; returns how many have another name than before."""
    renamed = 0
    for key, split in splits.items():
        folder = out / writing.pictures.format(split=key)
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
