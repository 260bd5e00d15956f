"""Proposals that other programs wrote: boxes in COCO's results format, and selective search's MATLAB files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from aweigh.annotations.proposals import Proposals, length_of
from aweigh.annotations.split import Split
from aweigh.errors import DataError, UsageError, counted, printable
from aweigh.proposals.matlab import read_mat
from aweigh.results.coco import known_images, read_results_file

CONVERTED = (".json", ".mat", ".pkl", ".pickle")


def read_converted(
    path: Path, split: Split, *, number: int, made: Mapping[str, Any], own_ids: bool = False
) -> tuple[Proposals, list[str]]:
    """Proposals of a file of another program, by its suffix, and remarks. own_ids: as for `from_coco_results`."""
    if path.suffix in (".pkl", ".pickle"):
        raise UsageError(
            f"{path} is a pickle, which can run code when it is read, so aweigh does not; docs/proposals.md says how "
            "to convert detectron's where you trust them."
        )
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    if path.suffix == ".json":
        return from_coco_results(path, split, number=number, made=made, own_ids=own_ids)
    return from_selective_search(path, split, number=number, made=made)


def from_coco_results(
    path: Path, split: Split, *, number: int, made: Mapping[str, Any], own_ids: bool = False
) -> tuple[Proposals, list[str]]:
    """A list of `image_id`, `bbox` (xywh in pixels) and `score`; what class a box is of is not looked at.

    own_ids: the image ids are those of the split, though nothing in the file says so. Returns the proposals of the
    split's images, and remarks on what could not be used.
    """
    results = read_results_file(path)
    row_of, _ = results.joined(
        known_images([split]),
        {image_id: row for row, image_id in enumerate(split.image_ids.tolist())},
        what=split.name,
        own_ids=own_ids,
        bytes_of=lambda row: length_of(split.paths[row]),
    )
    of_row: list[list[list[float]]] = [[] for _ in range(len(split))]
    unknown: Counter[str] = Counter()
    for index, entry in enumerate(results.entries):
        values = _values(entry)
        if values is None:
            raise DataError(
                f"{path}: entry {index} is {printable(json.dumps(entry))[:120]}; each needs a whole number image_id, a "
                "bbox of four finite numbers with sides of 0 or more, and a finite score."
            )
        row = row_of.get(entry["image_id"], -1)
        if row < 0:
            unknown[str(entry["image_id"])] += 1
        else:
            of_row[row].append(values)
    if unknown and not any(of_row):
        raise DataError(
            f"{path}: no box is for an image of {split.name} ({split.root}); its image ids are "
            f"{', '.join(list(unknown)[:4])}, those here {', '.join(map(str, split.image_ids[:4].tolist()))}."
        )
    others = f"{counted(unknown.total(), 'box')} of {counted(len(unknown), 'other image')} left out"
    remarks = [others] * bool(unknown)
    remarks += _without(sum(not boxes for boxes in of_row), len(split))
    found = [([box[:4] for box in boxes], [box[4] for box in boxes]) for boxes in of_row]
    return split.proposed(found, number=number, made=made), remarks


def _values(entry: Any) -> list[float] | None:
    """x0, y0, x1, y1, score; None where the entry is no box."""
    if not isinstance(entry, dict) or type(entry.get("image_id")) is not int:
        return None
    box, score = entry.get("bbox"), entry.get("score")
    numbers = [*box, score] if isinstance(box, list) and len(box) == 4 else []
    if not numbers or any(type(value) not in (int, float) or not abs(value) < 1e9 for value in numbers):
        return None
    x, y, width, height, score = map(float, numbers)
    return [x, y, x + width, y + height, score] if width >= 0 and height >= 0 else None


def from_selective_search(
    path: Path, split: Split, *, number: int, made: Mapping[str, Any]
) -> tuple[Proposals, list[str]]:
    """The MATLAB files that came with R-CNN and Fast R-CNN: `images`, a cell array of names without suffix, and
    `boxes`, one of `[n, 4]` (y0, x0, y1, x1), counted from 1, the last pixel included, best first.

    Images are found by their names without folder and suffix; the scores are made up, falling from 1.
    """
    content = read_mat(path)
    names, boxes = content.get("images"), content.get("boxes")
    if not isinstance(names, list) or not isinstance(boxes, list) or len(names) != len(boxes):
        raise DataError(
            f"{path}: expected the cell arrays `images` and `boxes` of one length, as selective search's files have; "
            f"it holds {', '.join(sorted(content)) or 'nothing'}."
        )
    of_name: dict[str, np.ndarray] = {}
    for name, given in zip(names, boxes, strict=True):
        given = np.zeros((0, 4)) if isinstance(given, np.ndarray) and given.size == 0 else given
        if not isinstance(name, str) or not isinstance(given, np.ndarray) or given.ndim != 2 or given.shape[1] != 4:
            raise DataError(f"{path}: {printable(str(name))[:80]} has no boxes [n, 4] of y0, x0, y1, x1.")
        of_name[PurePosixPath(name).stem if "." in name else name] = given.astype(np.float64)
    stems = [PurePosixPath(name).stem for name in split.file_names()]
    found = sum(stem in of_name for stem in stems)
    if not found:
        raise DataError(
            f"{path}: none of the {counted(len(split), 'image')} of {split.name} ({split.root}) is in it; it names "
            f"{', '.join(printable(name) for name in list(of_name)[:3])}, here are {', '.join(stems[:3])}."
        )

    corners = [of_name.get(stem, np.zeros((0, 4)))[:, [1, 0, 3, 2]] for stem in stems]
    # The first pixel is 0, and a box ends behind its last one.
    ordered = [(own - [1, 1, 0, 0], 1 - np.arange(len(own)) / max(1, len(own))) for own in corners]
    return split.proposed(ordered, number=number, made=made), _without(len(split) - found, len(split))


def _without(missing: int, pictures: int) -> list[str]:
    return [f"{missing} of {counted(pictures, 'image')} without a box in it"] if missing else []
