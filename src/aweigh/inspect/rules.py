"""The doctor's rules on annotations: what deserves a look though every reader takes it. No image is opened.

What a reader could not use is in `Split.problems` already; `reported` turns that into findings. All rules work on the
flat arrays of a split, so that 100,000 boxes take less than a second.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from aweigh.annotations.problems import (
    CHANGED,
    CLIPPED,
    DROPPED,
    EXCHANGED,
    KEPT,
    MIXED_UP_FROM,
    SKIPPED,
    UNLEARNED,
    Problem,
    by_kind_and_action,
)
from aweigh.annotations.records import file_names
from aweigh.annotations.split import LABELS_LOST, NEVER_LABELLED, REVIEWED, Split
from aweigh.errors import counted, some_of
from aweigh.images.reader import SUFFIXES
from aweigh.inspect.findings import EXAMPLES_KEPT, KINDS, Box, Example, Finding, finding
from aweigh.inspect.near_boxes import near_pairs

SAME_IOU = 0.95  # as hotcoco's health check, which finds near-duplicates of one class
LONGEST_RATIO = 20.0  # likewise
TINY_SIDE = 4.0  # pixels of the original image; half a cell of the finest level of most detectors
FEW_BOXES = 10  # as hotcoco's health check
_NAMES_OF_BACKGROUND = {"background", "bg", "none", "nothing"}


def reported(split: Split) -> list[Finding]:
    """What the reader dropped, mended or remarked, one finding per kind and action."""
    groups = by_kind_and_action(split.problems)
    rows = _rows_by_name(split) if groups else {}
    lost = sum(problem.action in (DROPPED, UNLEARNED) and _unit(problem.kind) == "boxes" for problem in split.problems)
    found = []
    for (kind, action), group in groups.items():
        totals = {"boxes": len(split.boxes) + lost, "pictures": len(split) + len(group) * (action == SKIPPED)}
        examples = (
            Example(problem, split.name, rows.get(problem.where), () if problem.box is None else (problem.box,))
            for problem in group[:EXAMPLES_KEPT]
        )
        of = max(len(group), totals.get(_unit(kind), len(group)))
        one = finding(kind, split.name, len(group), of, examples, action=action)
        if kind.startswith("looks like"):  # a remark on the whole file
            one = replace(one, count=1, of=1, unit="files")
        found.append(one)
    return found


def box_rules(split: Split) -> list[Finding]:
    """Boxes drawn twice, of two classes, as large as the image, very long or tiny; formats mixed up."""
    found = [_boxes(kind, split, rows) for kind, rows in remarks(split).items()]
    same, other = near_boxes(split)
    found.append(_boxes("nearly the same box twice", split, same))
    found.append(_boxes("one object, two classes", split, other))

    sides = split.boxes[:, 2:] - split.boxes[:, :2]  # [N, 2]
    learned = ~split.ignore
    ratio = sides.max(axis=1, initial=0.0) / np.maximum(sides.min(axis=1, initial=np.inf), 1e-6)
    long = np.flatnonzero(learned & (ratio > LONGEST_RATIO))
    found.append(_boxes("very long box", split, long[np.argsort(-ratio[long], kind="stable")]))
    least = sides.min(axis=1, initial=np.inf)
    tiny = np.flatnonzero(learned & (least < TINY_SIDE))
    found.append(_boxes("tiny box", split, tiny[np.argsort(least[tiny], kind="stable")]))
    found.append(_boxes("mask beside its box", split, _masks_elsewhere(split)))
    found.append(_boxes("keypoint far from its box", split, _far_keypoints(split)))
    return [one for one in [*found, *mixed_up(split)] if one.count]


def remarks(split: Split) -> dict[str, np.ndarray]:
    """Rows of good boxes that deserve a look, by kind: equal to an earlier one of the same class, or as large as the
    whole image."""
    if len(split.boxes) == 0:
        return {}
    image_of = split.image_of
    sizes_wh = split.sizes_hw[image_of][:, ::-1]
    whole = (split.boxes[:, :2] <= 1).all(axis=1) & (split.boxes[:, 2:] >= sizes_wh - 1).all(axis=1)
    keys = np.column_stack([split.boxes.astype(np.float64), split.labels, image_of])  # [N, 6]
    order = np.lexsort(keys.T)
    twice = np.zeros(len(keys), dtype=bool)
    twice[order[1:]] = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    found = {
        "same box twice": np.flatnonzero(twice),
        "box as large as the image": np.flatnonzero(whole & ~split.ignore),
    }
    return {kind: rows for kind, rows in found.items() if len(rows)}


def _masks_elsewhere(split: Split) -> np.ndarray:
    """Rows of objects whose polygons do not touch the box."""
    if split.masks is None:
        return np.empty(0, dtype=np.int64)
    rows, _, corners = split.masks.extents()
    boxes = split.boxes[rows]
    beside: np.ndarray = rows[((corners[:, 2:] <= boxes[:, :2]) | (corners[:, :2] >= boxes[:, 2:])).any(axis=1)]
    return beside


def _far_keypoints(split: Split) -> np.ndarray:
    """Rows of objects with a keypoint farther outside the box than its longer side, the farthest first."""
    if split.keypoints is None:
        return np.empty(0, dtype=np.int64)
    places = split.keypoints[:, :, :2]
    outside = np.maximum(split.boxes[:, None, :2] - places, places - split.boxes[:, None, 2:]).max(axis=2)  # [N, K]
    outside = np.where(split.keypoints[:, :, 2] > 0, outside, 0).max(axis=1, initial=0)
    share = outside / np.maximum((split.boxes[:, 2:] - split.boxes[:, :2]).max(axis=1, initial=0), 1e-6)
    far = np.flatnonzero(share > 1)
    return far[np.argsort(-share[far], kind="stable")]


def near_boxes(split: Split, min_iou: float = SAME_IOU) -> tuple[np.ndarray, np.ndarray]:
    """Boxes that overlap an earlier one of their image by more than `min_iou`, of their class and of another: `[K, 2]`
    rows each, see `near_pairs`. Regions to ignore are left out."""
    rows = np.flatnonzero(~split.ignore)
    images = split.image_of
    same, other = near_pairs(split.boxes[rows], images[rows], split.labels[rows], min_iou)
    return rows[same], rows[other]


def mixed_up(split: Split) -> list[Finding]:
    """Coordinates that fit their images much better when they are read as something else."""
    boxes, sizes_wh = _as_read(split)
    if not len(boxes):
        return []
    found = []
    if split.layout == "voc":
        from_zero = np.flatnonzero((split.source_boxes_xywh[:, :2] == -1).any(axis=1))
        found.append(_boxes("corners that count from 0", split, from_zero))
    x, y, width, height = boxes[:, 0], boxes[:, 1], boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    if split.layout == "coco":
        readings = {
            "looks like centres stored as corners": (x - width / 2, y - height / 2, x + width / 2, y + height / 2),
            "looks like x and y exchanged": (y, x, y + height, x + width),
        }
    elif split.layout == "yolo":
        x, y = x + width / 2, y + height / 2  # as the file has them
        readings = {
            "looks like corners stored as centres": (x, y, x + width, y + height),
            "looks like corners (x0, y0, x1, y1) stored as centre and size": (x, y, width, height),
        }
    else:
        readings = {
            "looks like sizes stored as corners": (x, y, x + boxes[:, 2], y + boxes[:, 3]),
            "looks like x and y exchanged": (y, x, boxes[:, 3], boxes[:, 2]),
        }
    wrong = ~_fits(boxes, sizes_wh)
    known = any(problem.kind.startswith("looks like") for problem in split.problems)
    if wrong.mean() > MIXED_UP_FROM and not known:
        shares = {kind: float(_fits(np.column_stack(read), sizes_wh).mean()) for kind, read in readings.items()}
        kind = max(shares, key=lambda name: shares[name])
        if shares[kind] > 1 - MIXED_UP_FROM:
            detail = f"{wrong.mean():.0%} of the boxes do not fit their images as they are, {1 - shares[kind]:.0%} so"
            case = Example(Problem(kind, split.root.name, None, detail, KEPT), split.name)
            found.append(finding(kind, split.name, int(wrong.sum()), len(boxes), [case]))
    return found


def class_rules(splits: Mapping[str, Split]) -> list[Finding]:
    """Classes without boxes, with few, in one split alone, and names that are hardly told apart."""
    boxes = {name: class_counts(split) for name, split in splits.items()}
    total: Counter[str] = Counter()
    for counts in boxes.values():
        total.update(counts)  # classes without a box are in it too
    everywhere = ", ".join(splits)
    said = [("train", kind, details) for kind, details in _in_train(boxes)]
    if "train" in splits and "val" in splits and len(splits["val"].boxes):
        said.append(("val", "class not in val", _not_in_val(boxes["train"], boxes["val"])))
    said += [(everywhere, kind, details) for kind, details in _by_name(total)]
    said.append((everywhere, "splits with different classes", _other_lists(splits)))
    found = []
    for where, kind, details in said:
        cases = [Example(Problem(kind, name, None, text, KEPT), where) for name, text in details.items()]
        found.append(finding(kind, where, len(details), len(total), cases[:EXAMPLES_KEPT]))
    return [one for one in found if one.count]


Details = dict[str, str]  # of each class or split in question, by name, what there is to say


def _in_train(boxes: Mapping[str, Mapping[str, int]]) -> list[tuple[str, Details]]:
    """Classes that cannot be learned from the training split, or hardly. boxes: how many, by split and class."""
    if "train" not in boxes:
        return []
    train = boxes["train"]
    held: dict[str, list[str]] = {name: [] for counts in boxes.values() for name in counts}
    for split, counts in boxes.items():
        for name, count in counts.items():
            if split != "train" and count and not train.get(name):
                held[name].append(f"{count} in {split}")
    few = [name for name in sorted(train, key=lambda name: train[name]) if 0 < train[name] < FEW_BOXES]
    return [
        ("class in val or test, not in train", {name: ", ".join(places) for name, places in held.items() if places}),
        ("class with few boxes", {name: counted(train[name], "box") for name in few}),
    ]


def _not_in_val(train: Mapping[str, int], val: Mapping[str, int]) -> Details:
    return {name: f"{count} in train" for name, count in train.items() if count and not val.get(name)}


def _by_name(total: Mapping[str, int]) -> list[tuple[str, Details]]:
    """What names of classes tell, and those without a box. total: the boxes of each class in all splits."""
    background = [name for name in total if name.strip("_ ").casefold() in _NAMES_OF_BACKGROUND and total[name]]
    alike = defaultdict(list)
    for name in total:
        alike[_plain(name)].append(name)
    twins = [names for names in alike.values() if len(names) > 1]
    numbers = total if all(name.isdecimal() for name in total) else ()
    return [
        ("class without a box", {name: "in no split" for name in total if not total[name]}),
        ("class named background", {name: counted(total[name], "box") for name in background}),
        ("class names that differ little", {one[0]: ", ".join(f"{n!r} {total[n]}" for n in one) for one in twins}),
        ("classes without names", {name: counted(total[name], "box") for name in numbers}),
    ]


def _other_lists(splits: Mapping[str, Split]) -> Details:
    """Splits whose classes are not those of the first one."""
    lists = {name: split.classes.names for name, split in splits.items()}
    first, *rest = lists or [""]
    return {
        name: f"{some_of(lists[name])}; {first} has {some_of(lists[first])}"
        for name in rest
        if lists[name] != lists[first]
    }


def image_rules(splits: Mapping[str, Split], *, listing: bool = True) -> list[Finding]:
    """Images without objects, kept and counted; one file in two splits.

    listing: look into the folders too, for image files that nothing names; all splits have to be given for it.
    """
    found = []
    for split in splits.values():
        empty = np.diff(split.first) == 0
        for kind, rows in (
            ("labels lost", np.flatnonzero(split.reviewed == LABELS_LOST)),
            ("never labelled", np.flatnonzero(empty & (split.reviewed == NEVER_LABELLED))),
            ("without objects", np.flatnonzero(empty & split.complete)),
        ):
            cases = []
            for row in rows[:EXAMPLES_KEPT]:
                problem = Problem(kind, split.paths[int(row)].name, None, _state(split, int(row)), KEPT)
                cases.append(Example(problem, split.name, int(row)))
            if len(rows):
                found.append(finding(kind, split.name, len(rows), len(split), cases))
    return [*found, *_shared_files(splits), *(unlisted(splits) if listing else [])]


def _state(split: Split, row: int) -> str:
    """What is known of an image, in words."""
    if split.reviewed[row] == LABELS_LOST:
        boxes = int(np.diff(split.first)[row])
        return f"{counted(boxes, 'box')} can be used, others cannot" if boxes else "none of its labels can be used"
    if split.reviewed[row] == NEVER_LABELLED:
        return "no box"
    return "looked at" if split.reviewed[row] == REVIEWED else "no box; the format does not say if looked at"


def unlisted(splits: Mapping[str, Split]) -> list[Finding]:
    """Image files beside the listed ones that no split names, not even as a problem."""
    listed: dict[Path, set[str]] = defaultdict(set)
    for split in splits.values():
        for path in split.paths:
            listed[path.parent].add(path.name)
    known = {Path(problem.where).name for split in splits.values() for problem in split.problems}
    stems = {Path(name).stem for name in known}
    forgotten = []
    for folder, names in listed.items():
        names = names | known
        for name in sorted(name for name in file_names(folder) if os.path.isfile(folder / name)):
            if name.lower().endswith(SUFFIXES) and name not in names and Path(name).stem not in stems:
                forgotten.append(folder / name)
    kind, where = "not named by any annotation file", ", ".join(splits)
    cases = [Example(Problem(kind, path.name, None, f"in {path.parent}", KEPT), where) for path in forgotten]
    total = len(forgotten) + sum(map(len, listed.values()))
    return [finding(kind, where, len(forgotten), total, cases[:EXAMPLES_KEPT])] if forgotten else []


def class_counts(split: Split) -> dict[str, int]:
    """Boxes of each class, those to be ignored left out."""
    counts = np.bincount(split.labels[~split.ignore], minlength=len(split.classes))
    return dict(zip(split.classes.names, counts.tolist(), strict=True))


def _shared_files(splits: Mapping[str, Split]) -> list[Finding]:
    if len(splits) < 2:
        return []
    seen: dict[str, tuple[str, int]] = {}
    cases = []
    for split in splits.values():
        for row, path in enumerate(split.paths):
            before = seen.setdefault(str(path), (split.name, row))
            if before[0] != split.name:
                problem = Problem("same file in two splits", path.name, None, f"in {before[0]} and {split.name}", KEPT)
                cases.append(Example(problem, split.name, row, beside=before))
    if not cases:
        return []
    total = sum(map(len, splits.values()))
    return [finding("same file in two splits", ", ".join(splits), len(cases), total, cases[:EXAMPLES_KEPT])]


def _boxes(kind: str, split: Split, rows: np.ndarray) -> Finding:
    """A finding on annotations: `[K]` rows, or `[K, 2]` pairs of them, of which the second is named."""
    pairs = (rows if rows.ndim == 2 else rows[:, None]).astype(np.int64)
    cases = []
    for pair in pairs[:EXAMPLES_KEPT]:
        row = int(pair[-1])
        image = int(np.searchsorted(split.first, row, side="right")) - 1
        boxes: list[Box] = list(map(tuple, split.boxes[pair].tolist()))
        shown = [f"[{', '.join(f'{value:.4g}' for value in box)}]" for box in boxes]
        texts = [f"{split.classes.names[split.labels[one]]} {box}" for one, box in zip(pair, shown, strict=True)][::-1]
        detail = (
            texts[0] if len(pair) == 1 else f"{texts[0]} and {texts[1]} of annotation {split.annotation_ids[pair[0]]}"
        )
        problem = Problem(kind, split.paths[image].name, int(split.annotation_ids[row]), detail, KEPT)
        cases.append(Example(problem, split.name, image, tuple(boxes)))
    return finding(kind, split.name, len(rows), len(split.boxes), cases)


def _as_read(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Boxes as the source has them, xyxy `[M, 4]` float64, the dropped ones too; width and height of their images."""
    image_of = split.image_of
    xywh = split.source_boxes_xywh
    kept = np.column_stack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])
    rows = _rows_by_name(split) if split.problems else {}
    named = [problem for problem in split.problems if problem.box and problem.where in rows]
    mended = {_corner(rows[one.where], one.box): one.box for one in named if one.kind == EXCHANGED and one.box}
    if mended:
        entries = zip(image_of.tolist(), kept.tolist())
        kept = np.array([mended.get(_corner(image, box), box) for image, box in entries]).reshape(-1, 4)
    lost = [(one.box, rows[one.where]) for one in named if one.action not in (CLIPPED, CHANGED)]
    boxes = np.concatenate([kept, np.array([box for box, _ in lost], dtype=np.float64).reshape(-1, 4)])
    images = np.concatenate([image_of, np.array([row for _, row in lost], dtype=np.int64)])
    finite = np.isfinite(boxes).all(axis=1)
    return boxes[finite], split.sizes_hw[images[finite]][:, ::-1].astype(np.float64)


def _corner(image: int, box: Sequence[float]) -> tuple[int, float, float]:
    """By what a mended box is known again: its image and left top corner."""
    return image, min(box[0], box[2]), min(box[1], box[3])


def _fits(boxes: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    """Which boxes `[M, 4]` xyxy have a size and lie in their images, give or take a pixel."""
    inside = (boxes[:, :2] >= -1).all(axis=1) & (boxes[:, 2:] <= sizes_wh + 1).all(axis=1)
    return np.asarray(inside & (boxes[:, 2:] > boxes[:, :2]).all(axis=1))


def _rows_by_name(split: Split) -> dict[str, int]:
    """The row of each image by its file's name, where that is unambiguous."""
    names = [path.name for path in split.paths]
    times = Counter(names)
    return {name: row for row, name in enumerate(names) if times[name] == 1}


def _plain(name: str) -> str:
    """The name without case, spaces and plural: "Traffic_Lights" and "traffic light" are one."""
    words = re.sub(r"[\W_]+", "", name.casefold()) or name
    if words.endswith("ies") and len(words) > 4:
        return words[:-3] + "y"
    if re.search(r"(s|x|z|ch|sh)es$", words):
        return words[:-2]
    return words[:-1] if words.endswith("s") and not words.endswith("ss") and len(words) > 3 else words


def _unit(kind: str) -> str:
    return KINDS[kind][1] if kind in KINDS else "records"
