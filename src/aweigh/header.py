"""What a model file says about itself: a JSON header, read and checked before a detector is built from it.

The file may come from anywhere. Reading its header opens no other file, runs no code and needs no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aweigh.classes import Classes, KeypointSet
from aweigh.errors import AweighError, DataError, UsageError
from aweigh.files import safetensors_metadata
from aweigh.geometry.tiles import Tiles
from aweigh.images.resize import Resize

FORMAT = 2  # raised when a reader of the version before could not understand the header
METADATA_KEY = "aweigh"
GRAPHS = (".onnx", ".xml")  # suffixes of what `aweigh export` writes; a checkpoint has another
LARGEST = 10_000  # classes, keypoints, pixels of a side: more nobody has
LARGEST_ID = 2**63 - 1  # of a category
DEEPEST = 16  # lists and objects inside each other; ours are four
MOST_LOST_AP = 0.002  # ours: less AP than this is no reason to compute in float32
TEXTS = ("licence", "data_hash", "aweigh", "torch")
# What format 1 had beside each other at the top, where `selection` is now.
FORMAT_1_SETTINGS = (
    *("score_threshold", "threshold_product", "nms", "nms_threshold"),
    *("candidates_per_level", "candidates_per_image", "max_detections"),
)


def read_header(path: str | Path) -> dict[str, Any]:
    """The JSON header of a checkpoint. `UsageError` for a missing file, a newer format and a graph, `DataError` for
    another file."""
    if Path(path).suffix in GRAPHS:
        raise UsageError(
            f"{path} is a graph, whose weights are fixed; this needs the checkpoint that it was made from."
        )
    text = safetensors_metadata(path).get(METADATA_KEY)
    if text is None:
        raise DataError(f"{path} has no Aweigh header; expected a checkpoint that `aweigh train` wrote.")
    return checked_header(text, path)


def checked_header(text: str, path: str | Path) -> dict[str, Any]:
    """The header of a detector that a text holds, see `read_header`. path: of the file, for messages."""
    header = parse_header(text, path)
    if "kind" in header:
        kind = str(header["kind"])[:60]
        raise DataError(f"{path} is a file of {kind}, expected a checkpoint that `aweigh train` wrote.")
    missing = {"format", "builder", "arguments", "classes", "resize"} - header.keys()
    if missing:
        raise DataError(f"{path}: its Aweigh header lacks {', '.join(sorted(missing))}.")
    version = header["format"]
    if type(version) is not int or version < 1:
        raise DataError(f"{path}: its Aweigh header has no number as format, but {str(version)[:60]!r}.")
    if version > FORMAT:
        raise UsageError(f"{path} has format {version}, this version reads up to {FORMAT}; update aweigh.")
    check_header(header, path)
    return header


def parse_header(text: str, path: str | Path) -> dict[str, Any]:
    """The JSON object of a header; `DataError` for another text, and one that says something twice or too deeply."""
    try:
        header = json.loads(text, object_pairs_hook=_distinct, parse_constant=_refused)
        if not isinstance(header, dict):
            raise ValueError(f"it is {type(header).__name__}, no object")
        _check_depth(header)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: its Aweigh header cannot be read ({error or 'too deep'}).") from error
    return header


def check_header(header: Mapping[str, Any], path: str | Path) -> None:
    """`DataError` with the name of the file, unless builder, arguments, classes, resize and settings can be used.

    What the builder and its detector make of arguments and settings is checked when they are given to them.
    """

    def refuse(what: str, value: Any) -> None:
        raise DataError(f"{path}: its Aweigh header has no {what}, but {str(value)[:60]!r}.")

    if not isinstance(header["builder"], str):
        refuse("builder's name", header["builder"])
    arguments = header["arguments"]
    if not isinstance(arguments, dict):
        refuse("usable arguments", arguments)
    classes = header["classes"]
    names, ids = (classes.get(key) if isinstance(classes, dict) else None for key in ("names", "ids"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not 0 < len(names) <= LARGEST:
        refuse("list of class names", names)
    if not isinstance(ids, list) or not all(type(number) is int and abs(number) <= LARGEST_ID for number in ids):
        refuse("list of class ids", ids)
    try:
        Classes(tuple(names or ()), tuple(ids or ()))
        resize = Resize.from_dict(header["resize"])
        if arguments.get("keypoints") is not None:
            known = KeypointSet.of(arguments["keypoints"])
            if len(known) > LARGEST:
                refuse("usable number of keypoints", len(known))
    except (AweighError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: its Aweigh header cannot be used ({error}).") from error
    if max(resize.short or 0, resize.long or 0) > LARGEST or type(resize.antialias) is not bool:
        refuse("usable resize", header["resize"])
    if "tiles" in header:
        try:
            tiles_of(header)
        except (AweighError, TypeError) as error:
            raise DataError(f"{path}: its Aweigh header has no usable tiles ({error}).") from error
    for name in ("selection", "metrics", "training", "precisions"):
        if not isinstance(header.get(name, {}), dict):
            refuse(f"{name} by name", header[name])
    for name, compared in header.get("precisions", {}).items():
        number = compared.get("lost_AP") if isinstance(compared, dict) else None
        if type(number) not in (int, float):
            refuse(f"comparison of {name} with its lost_AP", compared)
    if not isinstance(header.get("training", {}).get("config", {}), dict):
        refuse("configuration of the training by name", header["training"]["config"])
    for name in ("epoch", "step"):
        value = header.get("training", {}).get(name, 0)
        if type(value) is not int or not 0 <= value <= LARGEST_ID:
            refuse(f"number as {name}", value)
    for name in TEXTS:
        if not isinstance(header.get(name, ""), str):
            refuse(f"text as {name}", header[name])
    twice = [name for name in FORMAT_1_SETTINGS if name in header and name in header.get("selection", {})]
    if twice:
        raise DataError(f"{path}: its Aweigh header says {twice[0]} twice.")


def selection_of(header: Mapping[str, Any]) -> dict[str, Any]:
    """The thresholds and counts that a header of any format holds, by the names of `aweigh.arguments.settings_of`."""
    return {**{name: header[name] for name in FORMAT_1_SETTINGS if name in header}, **header.get("selection", {})}


def tiles_of(header: Mapping[str, Any]) -> Tiles | None:
    """The tiles that a detector was trained in; None for whole images."""
    return Tiles(**header["tiles"]) if "tiles" in header else None


def costs_little(header: Mapping[str, Any], precision: str) -> bool:
    """Whether a comparison on real images stands in the header by which this number format costs little AP."""
    lost = header.get("precisions", {}).get(precision, {}).get("lost_AP")
    return lost is not None and bool(lost < MOST_LOST_AP)


def portable(value: Any) -> Any:
    """An argument as JSON has it; infinity, which it has not, as a text that `check_value` reads."""
    if isinstance(value, KeypointSet):
        return value.to_dict()
    if isinstance(value, list | tuple):
        return [portable(entry) for entry in value]
    return "inf" if isinstance(value, float) and value == math.inf else value


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is said twice")
    return found


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _check_depth(header: Any) -> None:
    level = [header]
    for _ in range(DEEPEST):
        inside = [list(each.values()) if isinstance(each, dict) else each for each in level]
        level = [entry for each in inside for entry in each if isinstance(entry, dict | list)]
    if level:
        raise ValueError(f"it is more than {DEEPEST} lists and objects deep")
