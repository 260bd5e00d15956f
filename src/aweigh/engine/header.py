"""What the header of a model file must be before a detector is built from it: the file may come from anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aweigh.data.transforms import Resize
from aweigh.errors import AweighError, DataError
from aweigh.structures import Classes, KeypointSet

LARGEST = 10_000  # of a whole number among a builder's arguments: more channels, layers or classes nobody has

_SETTINGS: dict[str, tuple[type, ...]] = {
    "score_threshold": (int, float),
    "threshold_product": (bool,),
    "nms": (str,),
    "nms_threshold": (int, float),
    "candidates_per_level": (int,),
    "candidates_per_image": (int,),
    "max_detections": (int,),
}


def check_header(header: Mapping[str, Any], path: str | Path) -> None:
    """`DataError` with the name of the file, unless builder, arguments, classes, resize and settings can be used."""

    def refuse(what: str, value: Any) -> None:
        raise DataError(f"{path}: its Aweigh header has no {what}, but {str(value)[:60]!r}.")

    if not isinstance(header["builder"], str):
        refuse("builder's name", header["builder"])
    arguments = header["arguments"]
    if not isinstance(arguments, dict) or not all(
        _plain(value) for name, value in arguments.items() if name != "keypoints"
    ):
        refuse("usable arguments", arguments)
    classes = header["classes"]
    names, ids = (classes.get(key) if isinstance(classes, dict) else None for key in ("names", "ids"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not 0 < len(names) <= LARGEST:
        refuse("list of class names", names)
    if not isinstance(ids, list) or not all(type(number) is int for number in ids):
        refuse("list of class ids", ids)
    try:
        Classes(tuple(names or ()), tuple(ids or ()))
        Resize.from_dict(header["resize"])
        if arguments.get("keypoints") is not None:
            known = KeypointSet.of(arguments["keypoints"])
            if len(known) > LARGEST:
                refuse("usable number of keypoints", len(known))
    except (AweighError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: its Aweigh header cannot be used ({error}).") from error
    for name, kinds in _SETTINGS.items():
        value = header.get(name, False)
        if name in header and (type(value) not in kinds or (not isinstance(value, str) and not 0 <= value <= LARGEST)):
            refuse(name, value)


def _plain(value: Any) -> bool:
    """A value that a builder may be given: a text, a truth value, none, a number of ordinary size, a list of these."""
    if isinstance(value, list):
        return all(_plain(entry) for entry in value)
    if isinstance(value, bool | str | None):
        return True
    return isinstance(value, int | float) and math.isfinite(value) and -1 <= value <= LARGEST
