"""Uniting data sets by class name, with what each was labelled for.

A class of one name is one class. Each image keeps the classes its set was labelled for (`Split.label_sets`): in a set
that never labelled bicycles, a bicycle is an unlabelled object and not background. Image, annotation and category ids
stay where they are free; the later set's are moved where they are not.
Legend: C classes of a split, U united classes, G label sets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.annotations.flat import Packed, offsets
from aweigh.annotations.masks import Masks
from aweigh.annotations.split import LabelSets, Split
from aweigh.classes import Classes
from aweigh.errors import UsageError, counted, did_you_mean, some_of


@dataclass(frozen=True, eq=False)
class Merged:
    """splits: the united ones by name. remarks: what a user should know, one line each."""

    splits: dict[str, Split]
    remarks: list[str] = field(default_factory=list)


def merge(sources: Mapping[str, Mapping[str, Split]], rename: Mapping[str, str] | None = None) -> Merged:
    """Unite data sets: the splits of one name become one split.

    sources: the splits of each set, by what the set is called. rename: class names to be called otherwise, as
    `{"truck": "car"}`; a name that no set has is a `UsageError`.
    """
    rename = dict(rename or {})
    every = [split for splits in sources.values() for split in splits.values()]
    known = list(dict.fromkeys(name for split in every for name in split.classes.names))
    for old in rename:
        if old not in known:
            raise UsageError(
                f"No set has a class {old!r} to rename, only {', '.join(known)}.{did_you_mean(old, known)}"
            )
    classes = _united_classes(every, rename)
    merged = {}
    for name in dict.fromkeys(name for splits in sources.values() for name in splits):
        parts = {source: splits[name] for source, splits in sources.items() if name in splits}
        merged[name] = _merge_splits(name, parts, classes, rename)
    return Merged(merged, _remarks(sources, merged, classes, rename))


def _united_classes(splits: Sequence[Split], rename: Mapping[str, str]) -> Classes:
    """Each name once, in the order in which it comes up; a category id is kept where no other class has it."""
    id_of: dict[str, int] = {}
    wanted = [
        (rename.get(name, name), number, name in rename)
        for split in splits
        for name, number in zip(split.classes.names, split.classes.ids, strict=True)
    ]
    used: set[int] = set()
    for name, number, renamed in wanted:
        own = any(name == other and not was for other, _, was in wanted)
        if name in id_of or (renamed and own):  # the class that has the name already gives the id
            continue
        free = number if number not in used else max(used | {number for _, number, _ in wanted}) + 1
        id_of[name] = free
        used.add(free)
    return Classes(tuple(id_of), tuple(id_of.values()))


def _merge_splits(name: str, parts: Mapping[str, Split], classes: Classes, rename: Mapping[str, str]) -> Split:
    points = list(dict.fromkeys(point for split in parts.values() for point in split.keypoint_names))
    moved = [recast(part, classes, rename, points) for part in parts.values()]
    moved = _distinct_ids(moved)
    masked = any(split.masks is not None for split in moved)
    pointed = any(split.keypoints is not None for split in moved)
    arrays: dict[str, Any] = {
        key: np.concatenate([getattr(split, key) for split in moved])
        for key in (
            "image_ids", "sizes_hw", "reviewed", "boxes", "labels", "ignore", "crowd", "area", "annotation_ids",
            "source_boxes_xywh", "uncertain",
        )
    }  # fmt: skip
    return Split(
        name=name,
        layout=moved[0].layout,
        root=_common_folder([split.root for split in moved]),
        classes=classes,
        paths=Packed.of([path for split in moved for path in split.paths], Path),
        first=offsets(np.concatenate([np.diff(split.first) for split in moved])),
        problems=[problem for split in moved for problem in split.problems],
        evaluation_only=[entry for split in moved for entry in split.evaluation_only],
        masks=Masks.join([split.masks or Masks.none(len(split.boxes)) for split in moved]) if masked else None,
        keypoints=_known(
            [split.keypoints for split in moved], [(len(split.boxes), len(points), 3) for split in moved], 0
        ),
        num_keypoints=np.concatenate([_num_keypoints(split) for split in moved]) if pointed else None,
        cuboids=_known([split.cuboids for split in moved], [(len(split.boxes), 7) for split in moved]),
        cameras=_known([split.cameras for split in moved], [(len(split), 3, 4) for split in moved]),
        keypoint_names=tuple(points),
        skeleton=tuple(dict.fromkeys(edge for split in moved for edge in split.skeleton)),
        label_sets=_label_sets(parts, classes, rename),
        image_extras=_texts([split.image_extras for split in moved], [len(split) for split in moved]),
        extras=_texts([split.extras for split in moved], [len(split.boxes) for split in moved]),
        header=_header(parts, rename),
        **arrays,
    )


def recast(split: Split, classes: Classes, rename: Mapping[str, str], points: list[str]) -> Split:
    """The split with the labels, category ids and keypoints of `classes` and `points`; label sets are left to do."""
    united = [classes.names.index(rename.get(name, name)) for name in split.classes.names]
    id_of = {number: classes.ids[label] for number, label in zip(split.classes.ids, united, strict=True)}
    place = [points.index(name) for name in split.keypoint_names]
    keypoints = None
    if split.keypoints is not None:
        keypoints = np.zeros((len(split.boxes), len(points), 3), dtype=np.float32)
        keypoints[:, place] = split.keypoints
    entries = []
    for entry in split.evaluation_only:
        moved = {**entry, "category_id": id_of[entry["category_id"]]}
        if "keypoints" in entry:
            placed = np.zeros((len(points), 3))
            placed[place] = np.array(entry["keypoints"]).reshape(-1, 3)
            moved["keypoints"] = placed.reshape(-1).tolist()
        entries.append(moved)
    return replace(
        split,
        classes=classes,
        labels=np.array(united, dtype=np.int64)[split.labels],
        keypoints=keypoints,
        skeleton=tuple((place[first], place[second]) for first, second in split.skeleton),
        evaluation_only=entries,
        label_sets=None,
    )


def _distinct_ids(splits: Sequence[Split]) -> list[Split]:
    """Image and annotation ids of a later split are moved as a whole where an earlier one has some of them."""
    images: set[int] = set()
    annotations: set[int] = set()
    moved = []
    for split in splits:
        entries = list(split.evaluation_only)
        own = {*split.annotation_ids.tolist(), *(entry["id"] for entry in entries)}
        image_shift, shift = _shift(images, set(split.image_ids.tolist())), _shift(annotations, own)
        images |= {number + image_shift for number in split.image_ids.tolist()}
        annotations |= {number + shift for number in own}
        moved.append(
            replace(
                split,
                image_ids=split.image_ids + image_shift,
                annotation_ids=split.annotation_ids + shift,
                evaluation_only=[
                    {**entry, "id": entry["id"] + shift, "image_id": entry["image_id"] + image_shift}
                    for entry in entries
                ],
            )
        )
    return moved


def _shift(used: set[int], own: set[int]) -> int:
    return 0 if used.isdisjoint(own) else max(used) + 1 - min(own)


def _label_sets(parts: Mapping[str, Split], classes: Classes, rename: Mapping[str, str]) -> LabelSets | None:
    """What each set was labelled for; None when that is every class everywhere.

    Where two classes of a set become one, the set was labelled for it when it was for both.
    """
    known: list[np.ndarray] = []
    names: list[str] = []
    of_image: list[np.ndarray] = []
    for source, split in parts.items():
        united = [classes.names.index(rename.get(name, name)) for name in split.classes.names]
        own = split.label_sets
        rows = np.ones((1, len(united)), dtype=bool) if own is None else own.known
        of_image.append(len(known) + (np.zeros(len(split), dtype=np.int32) if own is None else own.of_image))
        for number, row in enumerate(rows):
            out = np.zeros(len(classes), dtype=bool)
            out[united] = True
            out[[label for label, looked in zip(united, row, strict=True) if not looked]] = False
            known.append(out)
            names.append(source if own is None else own.names[number])
    if all(row.all() for row in known):
        return None
    return LabelSets(np.array(known), np.concatenate(of_image).astype(np.int32), tuple(names))


def _num_keypoints(split: Split) -> np.ndarray:
    return np.zeros(len(split.boxes), dtype=np.int64) if split.num_keypoints is None else split.num_keypoints


def _known(
    arrays: Sequence[np.ndarray | None], shapes: Sequence[tuple[int, ...]], otherwise: float = np.nan
) -> np.ndarray | None:
    """All in one, in the place of those that are not there NaN, or `otherwise`; None where none is."""
    there = next((array for array in arrays if array is not None), None)
    if there is None:
        return None
    filled = [np.full(shape, otherwise, there.dtype) if own is None else own for own, shape in zip(arrays, shapes)]
    return np.concatenate(filled)


def _texts(lists: Sequence[Packed[str] | None], counts: Sequence[int]) -> Packed[str] | None:
    if all(texts is None for texts in lists):
        return None
    pairs = zip(lists, counts, strict=True)
    return Packed.of([text for texts, count in pairs for text in (texts if texts is not None else [""] * count)], str)


def _header(parts: Mapping[str, Split], rename: Mapping[str, str]) -> dict[str, Any]:
    """What each file says as a whole, such as its licences, under "sources"; what is said of classes, the first."""
    categories: dict[str, Any] = {}
    sources = []
    for source, split in parts.items():
        for name, said in split.header.get("categories", {}).items():
            categories.setdefault(rename.get(name, name), said)
        sources.append({"name": source} | {key: value for key, value in split.header.items() if key != "categories"})
    header: dict[str, Any] = {"sources": sources} if any(len(entry) > 1 for entry in sources) else {}
    return header | ({"categories": categories} if categories else {})


def _common_folder(folders: Sequence[Path]) -> Path:
    try:
        return Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))
    except ValueError:  # on different drives
        return folders[0]


# --- what a user should know --------------------------------------------------------------------------------------


def _remarks(
    sources: Mapping[str, Mapping[str, Split]], merged: Mapping[str, Split], classes: Classes, rename: Mapping[str, str]
) -> list[str]:
    lines = []
    for source, splits in sources.items():
        has = {rename.get(name, name) for split in splits.values() for name in split.classes.names}
        if missing := [name for name in classes.names if name not in has]:
            meaning = "what it shows of these is neither object nor background"
            lines.append(f"{source} was not labelled for {some_of(missing, 8)}; {meaning}")
        found = {
            rename.get(split.classes.names[label], split.classes.names[label])
            for split in splits.values()
            for label in np.unique(split.labels).tolist()
        }
        unused = [name for name in classes.names if name in has - found]
        if unused:
            lines.append(
                f"{source} lists {some_of(unused, 8)} without a box; it counts as labelled for these, as it says. Take "
                "them off its list if they were never looked for"
            )
    by_folded: dict[str, list[str]] = {}
    for name in classes.names:
        by_folded.setdefault("".join(filter(str.isalnum, name.casefold())) or name, []).append(name)
    for alike in by_folded.values():
        if len(alike) > 1:
            lines.append(f"{some_of(alike, 8)} stay different classes; unite them with --map {alike[1]}={alike[0]}")
    for name, split in merged.items():
        real = [os.path.realpath(path) for path in split.paths]
        if twice := len(real) - len(set(real)):
            lines.append(
                f"{name}: {counted(twice, 'image', 'comes')} twice, from one file; each keeps the annotations of "
                "its set"
            )
    return lines
