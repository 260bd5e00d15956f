"""The images of a COCO file: each id once, and the files that their names mean."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from aweigh.annotations.problems import CHANGED, SKIPPED, Problem
from aweigh.annotations.records import EmptySplit, file_names
from aweigh.errors import counted
from aweigh.files import lies_within
from aweigh.layouts.coco_fields import as_key


def distinct_images(
    images: list[dict[str, Any]], file: Path, problems: list[Problem]
) -> tuple[list[dict[str, Any]], np.ndarray, dict[Any, int]]:
    """Images with distinct ids, the first of each; their ids as whole numbers; the row of each id."""
    kept: list[dict[str, Any]] = []
    row_of: dict[Any, int] = {}
    for index, image in enumerate(images):
        key = as_key(image.get("id"))
        if key is None or not isinstance(image.get("file_name"), str) or not image["file_name"]:
            detail = f"an image needs an id and a file_name, got {str(image)[:60]}"
            problems.append(Problem("unreadable record", file.name, f"images[{index}]", detail, SKIPPED))
        elif key in row_of:
            detail = f"id {key} is already {kept[row_of[key]]['file_name']}"
            problems.append(Problem("duplicate image id", str(image["file_name"]), None, detail, SKIPPED))
        else:
            row_of[key] = len(kept)
            kept.append(image)
    first = next((key for key in row_of if not isinstance(key, int) or abs(key) >= 2**63), None)
    if first is None:
        return kept, np.fromiter(row_of, dtype=np.int64, count=len(row_of)), row_of
    detail = f"ids such as {first!r}; whole numbers are used in their place, in file order from 1"
    problems.append(Problem("image ids are not whole numbers", file.name, None, detail, CHANGED))
    return kept, np.arange(1, len(kept) + 1), row_of


def resolve_images(
    images: list[dict[str, Any]], folders: Sequence[Path], file: Path, problems: list[Problem]
) -> tuple[Path, list[Path | None]]:
    """The folder the images lie in, and the path of each (None where there is none).

    The folder is the one that holds most of a sample of the names, as they are or by their last part.
    """
    names = [str(image["file_name"]).replace("\\", "/") for image in images]
    sample = names[:: max(1, len(names) // 64)]
    best, best_hits, flat = folders[0], 0, False
    for only_name in (False, True):
        for folder in folders:
            named = [folder / (PurePosixPath(name).name if only_name else name) for name in sample]
            hits = sum(os.path.isfile(path) and lies_within(Path(os.path.normpath(path)), folder) for path in named)
            if hits > best_hits:
                best, best_hits, flat = folder, hits, only_name
    held: dict[Path, set[str]] = {}
    paths: list[Path | None] = []
    missing = 0
    for name in names:
        path = Path(os.path.normpath(best / (PurePosixPath(name).name if flat else name)))
        if not lies_within(path, best) or path == Path(os.path.normpath(best)):
            detail = f"file_name leads outside the image folder {best}"
            problems.append(Problem("path outside the folder", name, None, detail, SKIPPED))
            paths.append(None)
            continue
        if path.parent not in held:
            held[path.parent] = file_names(path.parent)
        if path.name in held[path.parent]:
            paths.append(path)
            continue
        missing += 1
        detail = f"looked for {path}" if missing <= 3 else f"not in {path.parent}"
        problems.append(Problem("image file missing", name, None, detail, SKIPPED))
        paths.append(None)
    if names and missing == len(names):
        looked = ", ".join(str(folder) for folder in folders[:6])
        shown = ", ".join(names[:3])
        raise EmptySplit(
            f"{file}: none of its {counted(len(names), 'image')} was found ({shown}, ...), looked for in {looked}. "
            "Name the image folder by hand (images)."
        )
    return best, paths
