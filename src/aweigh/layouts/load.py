"""Data sets as they come: a folder is looked at, its layout recognised, a split of it read.

Which layouts there are, and what each looks for, is said in their own files; `LAYOUTS` lists them. Where several match,
the first is taken. Where none does, but one folder inside holds a data set, that is taken. Conversions are our own,
because a converter stops at the first bad record, where these readers name it and go on; tests compare them with
hotcoco's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.annotations.problems import KEPT, SKIPPED, Problem, report_lines
from aweigh.annotations.records import EmptySplit
from aweigh.annotations.split import Split
from aweigh.errors import DataError, UsageError, counted, did_you_mean, some_of
from aweigh.layouts import LAYOUTS, coco, unread, yolo
from aweigh.layouts.finding import ALIASES, split_name
from aweigh.layouts.layout import SplitFiles


def find_splits(
    source: str | Path,
    *,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    keypoints: bool = False,
) -> dict[str, SplitFiles]:
    """The splits of a data set by name ("train", "val", "test", ...), found by looking at the folder.

    annotations and images name a JSON (or a folder of XML or label files) and an image folder by hand. keypoints: of
    COCO's own files take `person_keypoints_...`, not `instances_...`, where both are there. `DataError` says what was
    looked for when no known layout is found.
    """
    source = Path(source)
    if annotations is None and source.is_file():
        if source.suffix.lower() in (".yaml", ".yml"):
            return yolo.find(source)
        annotations, source = source, source.parent
    if annotations is not None:
        return _by_hand(source, Path(annotations), None if images is None else Path(images))
    if not source.exists():
        raise DataError(f"{source}: there is no such folder. Check the path of the data set.")
    if not source.is_dir():
        raise DataError(f"{source}: a data set is a folder, a COCO JSON or a YOLO data.yaml.")
    found = _find(source)
    if not found:
        raise DataError(_no_layout(source))
    if keypoints:
        found = {name: files.for_keypoints or files for name, files in found.items()}
    if images is not None:
        found = {name: replace(files, images=(Path(images),)) for name, files in found.items()}
    return found


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
            empty.append((error, Problem("split without images", name, None, str(error), SKIPPED)))
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
        described = [files.description for files in found.values() if files.description]
        where, near = described[0] if described else source, did_you_mean(wanted, found)
        raise DataError(
            f"{where}: there is no split {split!r}, only {', '.join(found)}.{near} "
            "Name one of these, or set a part of one aside."
        )
    files = found[wanted]
    read = LAYOUTS[files.layout].read(files, found, wanted, classes)
    read.problems[:0] = files.problems
    skipped = {problem.where for problem in read.problems if problem.action == SKIPPED and not problem.annotation}
    read = replace(read, left_out=len(skipped), data_set=_name(annotations or source))
    if drop_empty:
        whole: dict[str, Any] = {"problems": read.problems, "left_out": read.left_out}
        read = replace(read.take(np.flatnonzero(np.diff(read.first))), **whole)
    _refuse(read, files, classes, strict=strict, without_boxes=without_boxes)
    return read


def _name(source: str | Path) -> str:
    """What a data set is called: as its folder, of a file the folder it lies in."""
    place = Path(source).absolute()
    folder = Path(os.path.normpath(place.parent if place.is_file() else place))
    return (folder.parent if folder.name == "annotations" else folder).name


def _find(source: Path) -> dict[str, SplitFiles]:
    """The splits of the first layout that fits the folder, or the one data set that lies in a folder of it."""
    deeper = sorted(entry for entry in source.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__")))
    held: dict[Path, dict[str, SplitFiles]] = {}
    for place in (source, *deeper):
        found = next(filter(None, (layout.find(place) for layout in LAYOUTS.values())), None)
        if found and place == source:
            return found
        if found:
            held[place] = found
    if len(held) > 1:
        raise DataError(f"{source}: holds several data sets, {some_of([place.name for place in held], 6)}; name one.")
    return next(iter(held.values()), {})


def _no_layout(source: Path) -> str:
    """That nothing was recognised: which export it is, or what was looked for and what is there."""
    if export := unread.told(source):
        return f"{source}: no known layout. {export}"
    held = sorted(entry.name + "/" * entry.is_dir() for entry in source.iterdir())
    shown = some_of(held, 8) if held else "nothing"
    names = [file.relative_to(source).as_posix() for file in coco.candidates(source)]
    no_coco = f"; {some_of(names, 3)} {'is' if len(names) == 1 else 'are'} no COCO data set" if names else ""
    return (
        f"{source}: no known layout. Looked for {', '.join(layout.looks_for for layout in LAYOUTS.values())}; "
        f"found {shown}{no_coco}. Give the JSON and the image folder by hand (--annotations, --images)."
    )


def _refuse(
    split: Split, files: SplitFiles, classes: Sequence[str] | None, *, strict: bool, without_boxes: bool
) -> None:
    """Stop where going on could only waste the user's time."""
    where = files.listing or files.description or files.annotations
    bad = [problem for problem in split.problems if problem.action != KEPT]
    why = f" Of what was read: {_in_one_line(split.problems)}." if split.problems else ""
    if len(split) == 0:
        raise EmptySplit(f"{where}: split {split.name!r} has no images that can be used.{why}")
    if len(split.boxes) == 0 and not without_boxes and split.name not in ("val", "test", "minival"):
        asked = f" Classes asked for: {', '.join(classes)}." if classes else ""
        raise DataError(
            f"{where}: split {split.name!r} has {counted(len(split), 'image')} but no box that can be used. Classes "
            f"in the data: {some_of(list(split.classes.names), 12)}.{asked} Annotations were looked for in "
            f"{files.annotations}.{why}"
        )
    if strict and bad:
        raise DataError(f"{where}: strict reading stops at problems. {_in_one_line(bad)}.")


def _in_one_line(problems: Sequence[Problem]) -> str:
    lines = report_lines(problems, examples=3).splitlines()[1:]
    return "; ".join(line.strip() for line in lines)


def _by_hand(source: Path, named: Path, given: Path | None) -> dict[str, SplitFiles]:
    annotations = named if named.exists() else source / named
    if not annotations.exists():
        raise DataError(f"{named}: there is no such annotation file or folder.")
    images = given if given is None or given.is_dir() else source / given
    if images is not None and not images.is_dir():
        raise DataError(f"{given}: there is no such folder of images.")
    name = split_name(annotations.stem if annotations.is_file() else annotations.name) or "train"
    files = next(filter(None, (layout.by_hand(annotations, name) for layout in LAYOUTS.values())), None)
    if files is None and (export := unread.told(annotations)):
        raise DataError(f"{annotations.parent}: {export}")
    if files is None:  # the reader then says what is wrong with it
        files = coco.one_file(name, annotations) if annotations.is_file() else yolo.label_files(name, annotations)
    return {name: files if images is None else replace(files, images=(images,))}
