"""What a YOLO `data.yaml` says, taken as text that anybody may have written: splits, classes, keypoints."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aweigh.annotations.problems import KEPT, SKIPPED, Problem
from aweigh.annotations.records import MAX_CLASSES, distinct_names
from aweigh.errors import DataError, counted
from aweigh.files import lies_within, read_text
from aweigh.layouts.finding import ALIASES
from aweigh.layouts.layout import SplitFiles

MOST_BRACKETS = 5000  # ours: so many within each other take PyYAML a second, and four times as many sixteen


def descriptions(root: Path) -> list[Path]:
    named = [root / name for name in ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")]
    others = sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    return [file for file in dict.fromkeys([*named, *others]) if file.is_file()]


def splits_described(file: Path, description: dict[str, Any], *, anywhere: bool) -> dict[str, SplitFiles]:
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
        places, remarks = _places(file, key, entries, bases, anywhere=anywhere)
        labels = file  # where there is no place to look in, there are no labels either
        if places:
            labels = file.parent if places[0].is_file() else labels_folder(places[0])
            if not anywhere and not lies_within(labels, file.parent):
                labels = places[0]
        found[split] = SplitFiles(
            split,
            "yolo",
            labels,
            tuple(places),
            problems=tuple(remarks),
            description=file,
            within=None if anywhere else file.parent,
        )
    if not any(files.images for files in found.values()):
        return {}
    names, (shape, points, edges) = class_names(file, description), _keypoints(file, description)
    return {
        split: replace(files, names=names, keypoint_shape=shape, keypoint_names=points, skeleton=edges)
        for split, files in found.items()
    }


def _places(
    file: Path, key: str, entries: Sequence[str], bases: Sequence[Path], *, anywhere: bool
) -> tuple[list[Path], list[Problem]]:
    """The folders and lists that a split's entries mean; what is not there, or lies outside, is named."""
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
            remarks.append(Problem("folder or list missing", file.name, key, f"there is no {entry}", SKIPPED))
            continue
        places.append(options[0] if anywhere else inside[0])
        if not inside:
            remarks.append(Problem("images outside the data folder", file.name, key, str(options[0]), KEPT))
    return places, remarks


def _options(entry: str, bases: Sequence[Path]) -> list[Path]:
    """The places a description can mean, the likeliest first; `../train/images` is first tried inside the folder."""
    inside = re.sub(r"^(\.\./)+", "", entry.replace("\\", "/"))
    named = [os.path.normpath(base / text) for text in dict.fromkeys([inside, entry]) for base in bases]
    return [Path(name) for name in dict.fromkeys(named) if os.path.exists(name)]


def labels_folder(images: Path) -> Path:
    """`.../images/train` to `.../labels/train`, by the last `images` in the path; else the folder itself."""
    parts = list(images.parts)
    for position in reversed(range(len(parts))):
        if parts[position] == "images":
            return Path(*parts[:position], "labels", *parts[position + 1 :])
    return images


def read_description(file: Path) -> dict[str, Any]:
    """The keys of a YAML file; none when it holds something else than keys."""
    import yaml  # type: ignore[import-untyped]

    text = read_text(file)
    if text.count("[") + text.count("{") > MOST_BRACKETS:
        raise DataError(f"{file}: has more than {counted(MOST_BRACKETS, 'bracket')}, which takes too long to read.")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise DataError(
                f"{file}: refers back to parts of itself (*name), by which a small file can grow without end."
            )
        keys = [key.value for key, _ in getattr(yaml.compose(text, Loader=yaml.SafeLoader), "value", []) if key.value]
        if twice := {str(key) for key in keys if keys.count(key) > 1}:
            raise DataError(f"{file}: says {', '.join(sorted(twice))} twice; keep one of them.")
        content = yaml.safe_load(text)
    except DataError:
        raise
    except Exception as error:  # its constructors raise whatever Python's own types raise for a false number or date
        raise DataError(f"{file}: cannot be read as YAML ({' '.join(str(error).split())}).") from error
    return content if isinstance(content, dict) else {}


def class_names(file: Path, description: dict[str, Any]) -> tuple[str, ...] | None:
    """`names`, a list or an object by number (numbers left out stand for themselves); else as many as `nc` says."""
    names, count = description.get("names"), description.get("nc")
    if names is None and count is None:
        return None
    if isinstance(names, dict):
        wrong = [key for key in names if type(key) is not int or not 0 <= key < MAX_CLASSES]
        if wrong:
            raise DataError(
                f"{file}: names are numbered from 0 to {MAX_CLASSES - 1} at most, got {str(wrong[0])[:40]!r}."
            )
        names = [names.get(label, label) for label in range(max(names, default=-1) + 1)]
    elif names is None:
        if type(count) is not int or not 0 < count <= MAX_CLASSES:
            raise DataError(f"{file}: nc must be a number of classes from 1 to {MAX_CLASSES}, got {str(count)[:40]!r}.")
        names = list(range(count))
    if not isinstance(names, list) or not names:
        raise DataError(f"{file}: names must be a list of class names, got {str(names)[:40]!r}.")
    for name in names:
        if name is None or isinstance(name, list | dict | set | bytes):
            raise DataError(f"{file}: a class name must be a text, got {str(name)[:40]!r}.")
    return distinct_names([str(name) for name in names], file)


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
