"""What a COCO file says beside its images and boxes: classes, keypoints, label sets, and what nobody reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.annotations.problems import CHANGED, DROPPED, Problem
from aweigh.annotations.records import as_number, choose_classes, distinct_names
from aweigh.annotations.split import LabelSets
from aweigh.classes import Classes
from aweigh.errors import DataError

_HEADER_KEYS = {"images", "annotations", "categories", "label_sets"}


def classes_of(
    data: dict[str, Any], annotations: list[dict[str, Any]], file: Path, wanted: Sequence[str] | None
) -> tuple[Classes, dict[Any, int]]:
    """The classes, and the label of each category id. Categories without annotations stay classes."""
    categories = data.get("categories") or []
    if not categories:  # a file of boxes alone: its ids are all the names there are
        used = {as_key(entry.get("category_id")) for entry in annotations}
        numbers = sorted(number for number in used if isinstance(number, int))
        categories = [{"id": number, "name": str(number)} for number in numbers]
    names: dict[int, str] = {}
    if not isinstance(categories, list):
        raise DataError(f"{file}: categories must be a list, got {type(categories).__name__}.")
    for category in categories:
        number = as_key(category.get("id")) if isinstance(category, dict) else None
        text = category.get("name") if isinstance(category, dict) else None
        if not isinstance(number, int) or abs(number) >= 2**62 or not isinstance(text, str | int | float | None):
            raise DataError(f"{file}: a category needs a whole number as id and a name, got {str(category)[:80]}.")
        text = str(number if text is None else text)
        if names.get(number, text) != text:
            raise DataError(
                f"{file}: category id {number} stands for {names[number]!r} and {text!r}; make ids distinct."
            )
        names[number] = text
    classes, by_name = choose_classes(list(distinct_names(list(names.values()), file)), list(names), wanted, file)
    return classes, {number: by_name[text] for number, text in names.items()}


def keypoints_of(
    data: dict[str, Any], annotations: list[dict[str, Any]], classes: Classes, file: Path, problems: list[Problem]
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """The names of the first class that has keypoints, numbers where no category names them; and its skeleton."""
    categories = [entry for entry in data.get("categories") or [] if as_key(entry.get("id")) in classes.ids]
    named = [(entry, names) for entry in categories if isinstance(names := entry.get("keypoints"), list) and names]
    if not named:
        lengths = [len(found) for entry in annotations if isinstance(found := entry.get("keypoints"), list) and found]
        usual = max(set(lengths), key=lengths.count, default=0)
        return tuple(str(number) for number in range(usual // 3)), ()
    first, names = named[0]
    for entry, other in named[1:]:
        if other != names:
            detail = f"those of {entry.get('name')!r} are not those of {first.get('name')!r}, after which all are named"
            problems.append(Problem("keypoints named in two ways", file.name, None, detail, CHANGED))
    pairs = first.get("skeleton")
    skeleton = []
    for pair in pairs if isinstance(pairs, list) else []:
        ends = [as_number(end, 0.0) for end in pair] if isinstance(pair, list | tuple) and len(pair) == 2 else []
        if len(ends) == 2 and all(end.is_integer() and 1 <= end <= len(names) for end in ends):
            skeleton.append((int(ends[0]) - 1, int(ends[1]) - 1))
        else:
            detail = f"{str(pair)[:40]}; pairs of 1 to {len(names)} are expected"
            problems.append(Problem("unreadable skeleton", file.name, None, detail, DROPPED))
    return tuple(str(name) for name in names), tuple(skeleton)


def label_sets_of(
    data: dict[str, Any], images: list[dict[str, Any]], classes: Classes, file: Path, problems: list[Problem]
) -> LabelSets | None:
    """Which classes each image was labelled for; an image that names no set was labelled for all."""
    given = data.get("label_sets")
    if not given:
        return None
    known, names = [], []
    for number, entry in enumerate(given if isinstance(given, list) else [given]):
        ids = entry.get("category_ids") if isinstance(entry, dict) else None
        if not isinstance(ids, list):
            detail = f"a name and a list of category_ids are expected, got {str(entry)[:60]}"
            problems.append(Problem("unreadable label set", file.name, f"label_sets[{number}]", detail, CHANGED))
            ids = list(classes.ids)
        wanted = {as_key(value) for value in ids}
        known.append([number in wanted for number in classes.ids])
        names.append(str(entry.get("name", number)) if isinstance(entry, dict) else str(number))
    numbers = [as_key(image.get("label_set")) for image in images]
    of_image = [number if isinstance(number, int) and 0 <= number < len(known) else len(known) for number in numbers]
    if len(known) in of_image:
        known.append([True] * len(classes))
        names.append("all classes")
    return LabelSets(np.array(known, dtype=bool), np.array(of_image, dtype=np.int32), tuple(names))


def extras_of(entries: list[dict[str, Any]], known: set[str]) -> list[str] | None:
    """What entries say beyond the keys that are read, as JSON; None when that is nothing."""
    if all(entry.keys() <= known for entry in entries):
        return None
    rest = ({key: value for key, value in entry.items() if key not in known} for entry in entries)
    return [json.dumps(entry) if entry else "" for entry in rest]


def header_of(data: dict[str, Any]) -> dict[str, Any]:
    """What the file says as a whole: info, licences and, under "categories", what else is said of each class."""
    header = {key: value for key, value in data.items() if key not in _HEADER_KEYS and value}
    said = {}
    for entry in data.get("categories") or []:
        rest = {key: value for key, value in entry.items() if key not in ("id", "name", "keypoints", "skeleton")}
        if rest:
            said[str(entry.get("name", entry["id"]))] = rest
    return header | ({"categories": said} if said else {})


def as_key(value: Any) -> Any:
    """An id that can be looked up, a whole number however it is written (7, 7.0, "7"); None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) < 20 and value.isdecimal() and value == str(int(value)):
        return int(value)
    return value if isinstance(value, int | str) else None
