"""A cleaned data set out of a checked one: only what is certain is changed, and every change is told.

Left out: what the readers could not use, images that cannot be read or do not belong to their annotations, boxes
drawn twice, images stored twice, and training images that are also in another split. Clipped: boxes that reach over
the edge. Everything that needs a decision (two classes for one object, images that merely look alike, class names) is
left as it is. The splits given are not changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aweigh.annotations.problems import CHANGED, CLIPPED, KEPT, OVERHANG_NOTED, SKIPPED
from aweigh.annotations.split import LABELS_LOST, NEVER_LABELLED, Split
from aweigh.errors import counted, some_of
from aweigh.inspect.doctor import Examination
from aweigh.inspect.image_files import Pictures, look_at_pictures
from aweigh.inspect.same_images import groups_of, look_alikes, same_bytes
from aweigh.layouts import LAYOUTS
from aweigh.layouts.save import save_dataset

# One image saved twice: ours; 797 of 800 photographs, scaled to 70 % and compressed anew, are this close.
SURE_BITS, SURE_DIFFERENCE = 5, 1.5
# Of what training keeps or changes, the kinds that are mended here.
MENDED = {"same box twice", "same image in two splits", "same file in two splits", "same image twice"} | {
    "duplicate annotation id",
    "size before EXIF rotation, boxes after it",
    "annotation id is not a whole number",
    "image ids are not whole numbers",
}


@dataclass(frozen=True)
class Cleaned:
    """The new splits, a line for each kind of change, and the kinds of errors and warnings that are left."""

    splits: dict[str, Split]
    changes: list[str]
    left: list[str]


def clean(splits: Mapping[str, Split], examination: Examination) -> Cleaned:
    """What to write in place of these splits. examination: that of the same splits."""
    leave_out = {name: np.zeros(len(split), dtype=bool) for name, split in splits.items()}
    changes = _bad_pictures(splits, examination.pictures, leave_out)
    if examination.decoded:
        changes += _leaks(splits, examination.pictures, leave_out)
        changes += _copies(splits, examination.pictures, leave_out)
    cleaned = {}
    for name, split in splits.items():
        kept = split.take(np.flatnonzero(~leave_out[name]))
        kept = replace(kept, evaluation_only=(), problems=[], header=split.header)
        cleaned[name] = _clean_boxes(kept, changes)
    grave = (found for found in examination.findings if found.severity != "note" and found.action in (KEPT, CHANGED))
    left = list(dict.fromkeys(found.kind for found in grave if found.kind not in MENDED))
    return Cleaned(cleaned, changes, left)


def write_clean(splits: Mapping[str, Split], examination: Examination, out: Path) -> Cleaned:
    """Write the cleaned data set into a new folder, in its layout, or as COCO where files of that are only read.

    What the layout cannot hold is among the changes.
    """
    cleaned = clean(splits, examination)
    layout = next(iter(splits.values())).layout
    written = layout if LAYOUTS[layout].writing else "coco"
    lost = save_dataset(cleaned.splits, out, written)
    if written != layout:
        lost.append(f"the layout: files of {layout} are read only, so this is COCO")
    return replace(cleaned, changes=[*cleaned.changes, *lost])


def _bad_pictures(
    splits: Mapping[str, Split], looked: Mapping[str, Pictures], leave_out: dict[str, np.ndarray]
) -> list[str]:
    """Leaves out images that cannot be read, and tells what the readers of the annotations have done."""
    changes = []
    for name, split in splits.items():
        leave_out[name] |= ~looked[name].readable
        kinds = Counter(problem.kind for problem in looked[name].problems.values() if problem.action == SKIPPED)
        changes += [f"{name}: {counted(count, 'image')} left out: {kind}" for kind, count in kinds.items()]
        for (kind, action), count in Counter((one.kind, one.action) for one in split.problems).items():
            if action == CLIPPED:
                changes.append(f"{name}: {count} of '{kind}': clipped")
            elif action == CHANGED:
                changes.append(f"{name}: {count} of '{kind}': written as they are read")
            elif action != KEPT:
                changes.append(f"{name}: {count} of '{kind}': left out")
    return changes


def _leaks(splits: Mapping[str, Split], looked: Mapping[str, Pictures], leave_out: dict[str, np.ndarray]) -> list[str]:
    """Training images that another split has too, by their bytes or, past doubt, by their look."""
    if "train" not in splits or len(splits) < 2:
        return []
    changes = []
    names = np.repeat(list(splits), [len(split) for split in splits.values()])
    rows = np.concatenate([np.arange(len(split)) for split in splits.values()])
    for what, groups in _same_pictures([looked[name] for name in splits]).items():
        count = 0
        for group in groups:
            group = group[[not leave_out[names[index]][rows[index]] for index in group]]
            trained = group[names[group] == "train"]
            if 0 < len(trained) < len(group):
                leave_out["train"][rows[trained]] = True
                count += len(trained)
        if count:
            changes.append(f"train: {counted(count, 'image')} left out: in another split too ({what})")
    return changes


def hold_out(train: Split, others: Mapping[str, Split]) -> tuple[Split, list[str]]:
    """The training split without images that one of the others shows too, and a line for each of these others.

    An image is the same by its bytes or, past doubt, by its look, whatever its file or its image is called.
    """
    looked = [look_at_pictures(split) for split in (train, *others.values())]
    owner = np.repeat(np.arange(len(looked)), [len(found.readable) for found in looked])
    out = np.zeros(len(train), dtype=bool)
    lines = []
    groups = [group for found in _same_pictures(looked).values() for group in found]
    for number, name in enumerate(others, start=1):
        shared = [group[owner[group] == 0] for group in groups if (owner[group] == number).any()]
        rows = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *shared]))
        if len(rows):
            names = ", ".join(train.paths[int(row)].name for row in rows[:4]) + (", ..." if len(rows) > 4 else "")
            lines.append(f"{train.name}: {counted(len(rows), 'image')} left out: in {name} too ({names})")
        out[rows] = True
    return replace(train.take(np.flatnonzero(~out)), problems=train.problems), lines


def _same_pictures(looked: Sequence[Pictures]) -> dict[str, list[np.ndarray]]:
    """Groups of images that are the same, by what makes them so; numbered through all splits."""
    equal = [np.array(group) for group in same_bytes([digest for found in looked for digest in found.hashes])]
    usable = np.flatnonzero(np.concatenate([found.decoded for found in looked]))
    look = np.concatenate([found.look for found in looked])[usable]
    thumbs = np.concatenate([found.thumbs for found in looked])[usable]
    sure = look_alikes(look, thumbs, max_bits=SURE_BITS, max_difference=SURE_DIFFERENCE)
    near = [usable[group] for group in groups_of(sure, len(usable))]
    return {"the same bytes": equal, "the same image, saved anew": near}


def _copies(splits: Mapping[str, Split], looked: Mapping[str, Pictures], leave_out: dict[str, np.ndarray]) -> list[str]:
    """Images with the same bytes in one split: of those with the same annotations, or none, the first stays."""
    changes = []
    for name, split in splits.items():
        hashes = [None if out else digest for digest, out in zip(looked[name].hashes, leave_out[name], strict=True)]
        count = differing = 0
        for first, *others in same_bytes(hashes):
            for other in others:
                if split.first[other] == split.first[other + 1] or _contents(split, first) == _contents(split, other):
                    leave_out[name][other] = True
                    count += 1
                else:
                    differing += 1
        if count:
            changes.append(f"{name}: {counted(count, 'image')} left out: the same image is there already")
        if differing:
            changes.append(f"{name}: {counted(differing, 'image')} kept though stored twice: their annotations differ")
    return changes


def _contents(split: Split, image: int) -> list[tuple[float, ...]]:
    rows = slice(int(split.first[image]), int(split.first[image + 1]))
    return sorted(map(tuple, np.column_stack([split.labels[rows], split.boxes[rows]]).tolist()))


def _clean_boxes(kept: Split, changes: list[str]) -> Split:
    """Without second copies of a box; with the boxes as they were clipped; images that lost all of them marked."""
    image_of = kept.image_of
    keys = np.column_stack([kept.boxes.astype(np.float64), kept.labels, image_of, kept.ignore])  # [N, 7]
    first = np.unique(keys, axis=0, return_index=True)[1] if len(keys) else np.empty(0, dtype=np.int64)
    if len(first) < len(keys):
        changes.append(f"{kept.name}: {len(keys) - len(first)} of 'same box twice': left out")
        kept = kept.take_annotations(np.sort(first))
    boxes = kept.boxes.astype(np.float64)
    source_xywh = kept.source_boxes_xywh
    as_read = np.column_stack([source_xywh[:, :2], source_xywh[:, :2] + source_xywh[:, 2:]])
    moved = np.abs(as_read - boxes).max(axis=1, initial=0.0) > OVERHANG_NOTED
    clipped_xywh = np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    of_box = np.isclose(kept.area, source_xywh[:, 2:].prod(axis=1))
    lost, empty = kept.reviewed == LABELS_LOST, np.diff(kept.first) == 0
    bare = lost & empty
    if bare.any():
        changes.append(
            f"{kept.name}: {counted(int(bare.sum()), 'image')} marked as never labelled: all their boxes were bad"
        )
    if (partly := lost & ~empty).any():
        names = some_of([kept.paths[int(row)].name for row in np.flatnonzero(partly)], 4)
        count = counted(int(partly.sum()), "image")
        changes.append(f"{kept.name}: {count} kept with a part of the labels, the others are lost: {names}")
    return replace(
        kept,
        source_boxes_xywh=np.where(moved[:, None], clipped_xywh, source_xywh),
        area=np.where(moved & of_box, clipped_xywh[:, 2:].prod(axis=1), kept.area),
        reviewed=np.where(bare, NEVER_LABELLED, kept.reviewed).astype(np.int8),
    )
