"""The part of the training images that is held out to validate on, where the data have no split for it.

Images that are the same as, or look like, one that is trained on are not held out: on them a detector is measured by
heart. What was held out is kept as a list of files, so that it can be measured on again, and a run that goes on when
images were added to the data does not train on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.annotations.proposals import length_of
from aweigh.annotations.records import EmptySplit
from aweigh.annotations.split import Split
from aweigh.errors import DataError, counted, some_of
from aweigh.inspect.image_files import look_at_pictures
from aweigh.inspect.same_images import groups_of, look_alikes, same_bytes
from aweigh.layouts.load import find_splits, load_split

FRACTION = 0.1
LOOKED_AT = 20_000  # ours: images that are decoded to find look-alikes, some 100 a second; of more, equal files alone
FILE = "held_out.json"


def choose(split: Split, *, fraction: float = FRACTION, seed: int = 0) -> tuple[np.ndarray, str]:
    """Rows of the images to hold out `[K]`, at least one and not all; the same for the same images and seed. And a
    remark, where their number or choice is owed to duplicates.

    Images that have duplicates all stay with what is trained on. Where there are no others, groups of duplicates are
    held out whole; where all images are of one group, any are, and the remark says so.
    """
    order = np.random.default_rng(seed).permutation(len(split))
    count = min(len(split) - 1, max(1, round(fraction * len(split))))
    groups = duplicates(split)
    group_of = np.full(len(split), -1, dtype=np.int64)
    for number, group in enumerate(groups):
        group_of[group] = number
    alone = order[group_of[order] < 0]
    if len(alone):
        chosen = alone[: min(count, len(split) - 1)]
        passed = len(split) - len(alone)
        return np.sort(chosen), f"; {counted(passed, 'duplicate', 'stays')} in training" if passed else ""
    if len(groups) == 1:
        return np.sort(order[:count]), "; all images look alike, so that they measure what was learned by heart"
    held: list[int] = []
    for row in order.tolist():
        group = groups[group_of[row]].tolist()
        if row not in held and (not held or len(held) + len(group) <= count):
            held += group
        if len(held) >= count:
            break
    return np.sort(np.array(held)), "; every image has duplicates, so that they are held out in whole groups"


def duplicates(split: Split) -> list[np.ndarray]:
    """Groups of two or more images of a split that are the same file or look alike, as rows."""
    found = look_at_pictures(split, decode=True) if len(split) <= LOOKED_AT else None
    if found is None:
        lengths = split.file_bytes()
        keys = [length.to_bytes(8, "big", signed=True) if length >= 0 else None for length in lengths.tolist()]
        suspects = np.array([row for group in same_bytes(keys) for row in group], dtype=np.int64)
        hashes: list[bytes | None] = [None] * len(split)
        for row, digest in zip(suspects.tolist(), look_at_pictures(split.take(suspects)).hashes, strict=True):
            hashes[row] = digest
        pairs = np.empty((0, 2), dtype=np.int64)
    else:
        hashes, rows = found.hashes, np.flatnonzero(found.decoded)
        pairs = rows[look_alikes(found.look[rows], found.thumbs[rows])]
    equal = [[group[0], other] for group in same_bytes(hashes) for other in group[1:]]
    return groups_of(np.concatenate([pairs, np.array(equal, dtype=np.int64).reshape(-1, 2)]), len(split))


@dataclass(frozen=True)
class HeldOut:
    """files: the length of each image's file in bytes, by its name below the folder of the images, with "/"."""

    files: Mapping[str, int]

    @staticmethod
    def of(split: Split) -> HeldOut:
        """The list of the images of a split."""
        return HeldOut(dict(zip(split.file_names(), split.file_bytes().tolist(), strict=True)))

    @staticmethod
    def read(path: str | Path) -> HeldOut:
        """The list that a run keeps; `DataError` where it cannot be read."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            return HeldOut({str(entry["file_name"]): int(entry["bytes"]) for entry in content["images"]})
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            why = " ".join(str(error).split())
            raise DataError(f"{path}: the list of what the run held out cannot be read ({why}).") from error

    def text(self) -> str:
        """What the file of the list holds."""
        images = [{"file_name": name, "bytes": length} for name, length in self.files.items()]
        return json.dumps({"images": images}, indent=1) + "\n"

    def rows_in(self, split: Split) -> np.ndarray:
        """Rows of the images of a split that are in the list `[K]`.

        `DataError` where none is, or one is another file now.
        """
        rows, changed = [], []
        for row, name in enumerate(split.file_names()):
            if name in self.files:
                rows.append(row)
                if self.files[name] != length_of(split.paths[row]):
                    changed.append(name)
        if not rows:
            raise DataError(
                f"{split.root}: none of the {counted(len(self.files), 'image')} that the run held out is there "
                f"({some_of(list(self.files), 4)}). Name a split to measure on with --split."
            )
        if changed:
            raise DataError(
                f"{split.root}: {some_of(changed, 4)} {'is' if len(changed) == 1 else 'are'} not the file that the run "
                "held out. Name a split to measure on with --split."
            )
        return np.array(rows, dtype=np.int64)

    def of_split(self, split: Split) -> Split:
        """The images of the list as a split `held-out`; those that are no more are counted as left out."""
        rows = self.rows_in(split)
        left_out = len(self.files) - len(rows)
        return replace(split.take(rows, name="held-out"), left_out=left_out, problems=split.problems)


def split_to_measure(detector: str, data: str | Path, split: str = "", **how: Any) -> Split:
    """The split that is asked for, else val; where the data have none, what the run of the checkpoint held out.

    detector: a checkpoint or the folder of a run, whose list of what it held out lies beside it; or any other name.
    how: as `load_split` takes it.
    """
    listed = (Path(detector) if Path(detector).is_dir() else Path(detector).parent) / FILE
    if split or how.get("annotations") is not None or not listed.is_file():
        return load_split(data, split or "val", **how)
    if "val" in find_splits(data):
        with suppress(EmptySplit):  # named, and empty or without any label: the run set a part aside then too
            val = load_split(data, "val", **how)
            if val.complete.any():
                return val
    return HeldOut.read(listed).of_split(load_split(data, "train", **how))
