"""Adding what a detector proposes for the classes that people did not label, to train on.

People come first: of a class that an image was labelled for, nothing is taken from the detector. Of any other class a
sure proposal becomes an object and a less sure one is `uncertain` (see `aweigh.structures.Targets`); then the image
counts as labelled for the detector's classes too. Every added annotation keeps its `score`. Proposals are guesses, and
what is measured on them tells nothing: complete what is trained on alone.
Legend: I images, P proposals, C classes of people and detector together.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.annotations.flat import Packed, offsets
from aweigh.annotations.masks import Masks
from aweigh.annotations.proposals import length_of
from aweigh.annotations.records import as_number
from aweigh.annotations.split import REVIEWED, LabelSets, Split
from aweigh.classes import Classes
from aweigh.edit.merge import recast
from aweigh.errors import DataError, UsageError, counted, printable, some_of
from aweigh.geometry.boxes import pairwise_iou
from aweigh.results.coco import ResultsFile, known_images, read_results_file

SCORE, UNCERTAIN = 0.4, 0.15  # ours: from where on a proposal is an object, and from where on it is taken at all
SAME_PLACE = 0.7  # IoU, ours: above it a proposal and a box of people's are about one thing
LEAST_SIDE = 1.0  # pixels, as the readers want it


@dataclass(frozen=True, eq=False)
class Proposals:
    """What a detector found.

    image_ids: `[P]` int64. labels: `[P]` int64, of `classes`. boxes: `[P, 4]` float64 xyxy, as the file has them.
    scores: `[P]` float64. remarks: what could not be used, one line each. file: where they are from, which knows whose
    images the ids mean; None where they are those of the data.
    """

    classes: Classes
    image_ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    remarks: list[str] = field(default_factory=list)
    file: ResultsFile | None = None


@dataclass(frozen=True, eq=False)
class Completed:
    """splits: the new ones. objects, uncertain: how many were added, by class name. remarks: one line each."""

    splits: dict[str, Split]
    objects: Counter[str]
    uncertain: Counter[str]
    remarks: list[str]


def read_proposals(file: Path, classes: Classes | None = None, *, otherwise: Classes | None = None) -> Proposals:
    """A file in COCO's results format: a list of `image_id`, `category_id`, `bbox` (xywh in pixels) and `score`.

    classes: the detector's, by whose ids the categories are named; when not given, those of the list beside the file,
    and `otherwise` where there is no list.
    """
    results = read_results_file(file)
    classes = _detector_classes(results, classes, otherwise)
    label_of = {number: label for label, number in enumerate(classes.ids)}
    rows: list[tuple[int, int]] = []
    numbers: list[list[float]] = []
    unknown: Counter[Any] = Counter()
    broken: list[int] = []
    for index, entry in enumerate(results.entries):
        values = _numbers(entry)
        if values is None:
            broken.append(index)
        elif entry["category_id"] not in label_of:
            unknown[entry["category_id"]] += 1
        else:
            rows.append((int(entry["image_id"]), label_of[entry["category_id"]]))
            numbers.append(values)
    remarks = []
    if broken:
        what = "without image_id, category_id, four numbers as bbox and a score from 0 to 1"
        remarks.append(f"{file.name}: {counted(len(broken), 'entry')} {what}: left out ({some_of(broken, 4)} from 0)")
    if unknown:
        ids = some_of(sorted(unknown, key=str), 6)
        remarks.append(f"{file.name}: {counted(unknown.total(), 'box')} of unknown category ids: left out ({ids})")
    ids_and_labels = np.array(rows, dtype=np.int64).reshape(-1, 2)
    x, y, width, height, scores = np.array(numbers, dtype=np.float64).reshape(-1, 5).T
    boxes = np.column_stack([x, y, x + width, y + height])
    return Proposals(classes, ids_and_labels[:, 0], ids_and_labels[:, 1], boxes, scores, remarks, results)


def _detector_classes(results: ResultsFile, given: Classes | None, otherwise: Classes | None) -> Classes:
    listed = results.categories
    if given is None and listed is not None:
        return Classes(tuple(listed.values()), tuple(listed))
    given = given or otherwise
    if given is None:
        raise UsageError(f"{results.path} does not say what its categories are; give the detector's classes.")
    names = dict(zip(given.ids, given.names, strict=True))
    for number, name in (listed or {}).items():
        if names.get(number, name) != name:
            raise DataError(
                f"{results.path}: category {number} is {printable(name)} by the list beside it and "
                f"{printable(names[number])} by --categories; leave the latter out."
            )
    return given


def complete(
    splits: Mapping[str, Split],
    proposals: Proposals,
    *,
    score: float = SCORE,
    uncertain: float = UNCERTAIN,
    own_ids: bool = False,
) -> Completed:
    """The splits with the proposals for what was not labelled. Classes: the detector's, then what people have besides.

    score: from this on a proposal becomes an object, and from `uncertain` on an uncertain one. One that lies where
    people have a box (IoU above 0.7) is at most uncertain, since a wrong name is likelier there than two things of one
    outline, and nothing at all where the class is the same. An image that no entry names stays as it is: nobody
    knows whether the detector saw it. own_ids: the image ids of the proposals are those of the splits, though nothing
    in their file says so.
    """
    if not 0 <= uncertain <= score <= 1:
        raise UsageError(f"The scores must be 0 <= uncertain <= score <= 1, got uncertain {uncertain}, score {score}.")
    places, strangers = _places(splits, proposals, own_ids=own_ids)
    own = [split.classes for split in splits.values()]
    classes = _united(proposals.classes, own)
    objects: Counter[str] = Counter()
    guesses: Counter[str] = Counter()
    remarks = list(proposals.remarks)
    if strange := int((places < 0).sum()):
        remarks.append(
            f"{counted(strange, 'box')} of images that are not in {', '.join(splits)}: left out ({strangers})"
        )
    if only := [name for name in classes.names if name not in proposals.classes.names]:
        remarks.append(f"the detector does not know {some_of(only, 8)}; nothing was added of these")
    completed, first = {}, 0
    for name, split in splits.items():
        here = np.where((places >= first) & (places < first + len(split)), places - first, -1)
        completed[name], added = _complete(split, proposals, here, classes, score, uncertain, remarks)
        first += len(split)
        for counter, rows in ((objects, ~added.uncertain), (guesses, added.uncertain)):
            counter.update(classes.names[label] for label in added.labels[rows].tolist())
    return Completed(completed, objects, guesses, remarks)


def _numbers(entry: Any) -> list[float] | None:
    """x, y, width, height and score of an entry; None where it cannot be used."""
    if not isinstance(entry, dict) or not all(
        isinstance(entry.get(key), int) and abs(entry[key]) < 2**62 for key in ("image_id", "category_id")
    ):
        return None
    box = entry.get("bbox")
    values = [as_number(value) for value in (*box, entry.get("score"))] if isinstance(box, list) else []
    usable = len(values) == 5 and np.isfinite(values).all() and min(values[2:4]) > 0 and 0 <= values[4] <= 1
    return values if usable else None


def _places(splits: Mapping[str, Split], proposals: Proposals, *, own_ids: bool) -> tuple[np.ndarray, str]:
    """The image of each proposal `[P]`, counted over all splits, -1 for none of them; some of the latter in words."""
    file, what = proposals.file, ", ".join(splits)
    known = known_images(splits.values())
    ids: dict[int, int] = {}
    by_number = own_ids or file is None or file.images is None
    rows = [(name, number) for name, split in splits.items() for number in split.image_ids.tolist()]
    for key, (name, number) in enumerate(rows):
        if number in ids and by_number:
            raise DataError(
                f"The image id {number} is in {rows[ids[number]][0]} and in {name}, so a box cannot be placed; "
                "complete one split at a time."
            )
        ids[number] = key
    found, strangers = ids, ""
    if file is not None:
        lengths = [path for split in splits.values() for path in split.paths]
        found, strangers = file.joined(
            known, ids, what=what, own_ids=own_ids, bytes_of=lambda key: length_of(lengths[key])
        )
    places = np.array([found.get(number, -1) for number in proposals.image_ids.tolist()], dtype=np.int64)
    if not (places >= 0).any():
        raise DataError(
            f"No box is of an image of {what}: the image ids there are {some_of(list(ids), 4)}, those of the results "
            f"{some_of(np.unique(proposals.image_ids).tolist(), 4)}. Predict on these images: aweigh predict --data "
            "DATA --format coco."
        )
    return places, strangers


def _united(detector: Classes, others: list[Classes]) -> Classes:
    """The detector's classes, then the others' by name, with their ids where these are free."""
    id_of = dict(zip(detector.names, detector.ids, strict=True))
    for classes in others:
        for name, number in zip(classes.names, classes.ids, strict=True):
            if name not in id_of:
                id_of[name] = number if number not in id_of.values() else max([*id_of.values(), *classes.ids]) + 1
    return Classes(tuple(id_of), tuple(id_of.values()))


@dataclass(frozen=True, eq=False)
class _Added:
    """Annotations to add, `[K]` each: image_of (rows), labels, boxes `[K, 4]`, scores, uncertain."""

    image_of: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    uncertain: np.ndarray

    def take(self, rows: np.ndarray) -> _Added:
        return _Added(*(value[rows] for value in vars(self).values()))


def _complete(
    split: Split,
    proposals: Proposals,
    rows: np.ndarray,
    classes: Classes,
    score: float,
    uncertain: float,
    remarks: list[str],
) -> tuple[Split, _Added]:
    """rows: the image of each proposal `[P]`, -1 for none of this split."""
    split, own = recast(split, classes, {}, list(split.keypoint_names)), split
    known = np.zeros((len(split), len(classes)), dtype=bool)  # [I, C]
    columns = [classes.names.index(name) for name in own.classes.names]
    for image in range(len(split)):
        known[image, columns] = own.labelled_for(image)
    here = rows >= 0
    seen = np.zeros(len(split), dtype=bool)
    seen[rows[here]] = True
    if unseen := int((~seen).sum()):
        remarks.append(f"{split.name}: {counted(unseen, 'image', 'has')} no proposal at all: left as before")

    wanted = here & (proposals.scores >= uncertain)
    added = _Added(rows, proposals.labels, proposals.boxes, proposals.scores, proposals.scores < score).take(wanted)
    added = added.take(~known[added.image_of, added.labels])
    limits = np.tile(split.sizes_hw[added.image_of][:, ::-1], (1, 2))  # [K, 4]
    clipped = np.clip(added.boxes, 0, limits)
    added, inside = replace(added, boxes=clipped), (clipped[:, 2:] - clipped[:, :2] >= LEAST_SIDE).all(axis=1)
    if outside := int((~inside).sum()):
        remarks.append(
            f"{split.name}: {counted(outside, 'box')} outside their image, or under one pixel of it: left out"
        )
    added = _beside_people(split, added.take(inside), remarks)
    detector = np.isin(classes.names, proposals.classes.names)
    return _with(split, added, _label_sets(own, known, seen, detector), seen), added


def _beside_people(split: Split, added: _Added, remarks: list[str]) -> _Added:
    """Where people have a box, a proposal of its class is left out and one of another class is at most uncertain."""
    keep, doubted = np.ones(len(added.labels), dtype=bool), np.zeros(len(added.labels), dtype=bool)
    of_image = np.argsort(added.image_of, kind="stable")
    groups = np.split(of_image, np.flatnonzero(np.diff(added.image_of[of_image])) + 1) if len(of_image) else []
    for group in groups:
        image = int(added.image_of[group[0]])
        own = np.arange(split.first[image], split.first[image + 1])
        own = own[~split.ignore[own]]
        if not len(own):
            continue
        ious = pairwise_iou(added.boxes[group], split.boxes[own])
        alike = added.labels[group][:, None] == split.labels[own][None]
        keep[group] = ~((ious > SAME_PLACE) & alike).any(axis=1)
        doubted[group] = (ious > SAME_PLACE).any(axis=1)
    demoted = keep & doubted & ~added.uncertain
    if demoted.any():
        remarks.append(
            f"{split.name}: {counted(int(demoted.sum()), 'sure box', 'lies')} where people have one: uncertain"
        )
    return replace(added, uncertain=added.uncertain | doubted).take(keep)


def _label_sets(own: Split, known: np.ndarray, seen: np.ndarray, detector: np.ndarray) -> LabelSets | None:
    """What each image is labelled for now; None when that is every class everywhere.

    known: `[I, C]`, by people. seen: `[I]`, by the detector, whose classes are `detector` `[C]`.
    """
    completed = known | (seen[:, None] & detector[None])
    if completed.all():
        return None
    sets = np.zeros(len(own), dtype=np.int64) if own.label_sets is None else own.label_sets.of_image.astype(np.int64)
    names = ("people",) if own.label_sets is None else own.label_sets.names
    sets = np.where(own.complete, sets, len(names))
    keys, first, of_image = np.unique(2 * sets + seen, return_index=True, return_inverse=True)
    called = [(*names, "nobody")[key // 2] + " and a detector" * int(key % 2) for key in keys.tolist()]
    return LabelSets(completed[first], of_image.reshape(-1).astype(np.int32), tuple(called))


def _with(split: Split, added: _Added, label_sets: LabelSets | None, seen: np.ndarray) -> Split:
    """The split with more annotations, behind those that each image has."""
    count, before = len(added.labels), len(split.boxes)
    image_of = np.concatenate([split.image_of, added.image_of])
    order = np.argsort(image_of, kind="stable")
    boxes_xywh = np.column_stack([added.boxes[:, :2], added.boxes[:, 2:] - added.boxes[:, :2]])
    used = [*split.annotation_ids.tolist(), *(entry["id"] for entry in split.evaluation_only)]
    more: dict[str, np.ndarray] = {
        "boxes": added.boxes.astype(np.float32),
        "labels": added.labels,
        "ignore": added.uncertain,
        "crowd": np.zeros(count, dtype=bool),
        "area": boxes_xywh[:, 2:].prod(axis=1),
        "annotation_ids": max(used, default=0) + 1 + np.arange(count),
        "source_boxes_xywh": boxes_xywh,
        "uncertain": added.uncertain,
    }
    if split.keypoints is not None and split.num_keypoints is not None:
        more |= {"keypoints": np.zeros((count, *split.keypoints.shape[1:]), dtype=np.float32)}
        more |= {"num_keypoints": np.zeros(count, dtype=np.int64)}
    if split.cuboids is not None:
        more |= {"cuboids": np.full((count, 7), np.nan, dtype=np.float32)}
    arrays = {key: np.concatenate([getattr(split, key), value])[order] for key, value in more.items()}
    texts = list(split.extras) if split.extras is not None else [""] * before
    texts += [json.dumps({"score": value}) for value in added.scores.tolist()]
    reviewed = np.where(seen, REVIEWED, split.reviewed).astype(np.int8)
    return replace(
        split,
        first=offsets(np.bincount(image_of, minlength=len(split))),
        masks=None if split.masks is None else Masks.join([split.masks, Masks.none(count)]).take(order),
        extras=Packed.of(texts, str).take(order),
        label_sets=label_sets,
        reviewed=reviewed,
        **arrays,  # type: ignore[arg-type]
    )
