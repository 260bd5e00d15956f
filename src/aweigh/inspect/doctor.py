"""The data doctor: what is in a data set, what is wrong with it, and what to do about it, in one object.

`examine` looks at everything: annotations, classes, image files, images that are alike within and across splits.
`quick` is the part of it that costs less than a second for 100,000 boxes and opens no file; training begins with it.
Neither changes anything: `aweigh.edit.clean` writes a cleaned copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from aweigh.annotations.problems import KEPT, Problem, tally
from aweigh.annotations.split import LABELS_LOST, NEVER_LABELLED, REVIEWED, Split
from aweigh.errors import counted
from aweigh.inspect.findings import EXAMPLES_KEPT, SEVERITIES, Example, Finding, Severity, by_kind, finding, in_order
from aweigh.inspect.image_files import Pictures, look_at_pictures
from aweigh.inspect.rules import box_rules, class_counts, class_rules, image_rules, reported
from aweigh.inspect.same_images import groups_of, look_alikes, same_bytes

SCHEMA = "aweigh.data_check/1"
SIZE_EDGES = (0, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # pixels, of the square root of a box's area; the last is open


@dataclass(frozen=True)
class SplitCounts:
    """What one split holds. empty: images without objects; of them looked_at and never_labelled, where the format
    says so, and labels_lost, where no annotation can be used. partly_lost: images with objects that lost others.
    sizes: boxes between two of `SIZE_EDGES`, in the pixels of the original images."""

    name: str
    layout: str
    root: str
    pictures: int
    boxes: int
    ignored: int
    uncertain: int
    empty: int
    looked_at: int
    never_labelled: int
    labels_lost: int
    partly_lost: int
    picture_sizes: tuple[tuple[int, int, int], ...]  # width, height, how many; the commonest
    sizes: tuple[int, ...]

    @property
    def background(self) -> int:
        """Images without objects that count as such."""
        return self.empty - self.never_labelled - self.labels_lost

    @property
    def unknown(self) -> int:
        """Images that may show objects without a box: they teach no background and are not evaluated."""
        return self.never_labelled + self.labels_lost + self.partly_lost


@dataclass(frozen=True)
class ClassCounts:
    """One class: how many boxes (to be found) and how many images show it, per split."""

    name: str
    boxes: dict[str, int]
    pictures: dict[str, int]


@dataclass(frozen=True)
class Examination:
    """What the doctor found; `findings` are errors first. decoded: the pixels of the images were read too."""

    findings: tuple[Finding, ...]
    decoded: bool
    splits: tuple[SplitCounts, ...]
    classes: tuple[ClassCounts, ...]
    pictures: Mapping[str, Pictures] = field(default_factory=dict, repr=False)  # what was found of each, for `clean`

    def count(self, severity: Severity) -> int:
        """Kinds of findings of this severity, in however many splits."""
        return len({found.kind for found in self.findings if found.severity == severity})

    @property
    def sound(self) -> bool:
        """Neither an error nor a warning."""
        return not self.count("error") and not self.count("warning")

    def verdict(self) -> str:
        """One line: "2 errors, 1 warning, 3 notes"."""
        counts = [(self.count(severity), severity) for severity in SEVERITIES]
        said = [counted(count, severity) for count, severity in counts if count]
        unread = "" if self.decoded else " (the pixels of the images were not read)"
        return (", ".join(said) or "nothing to complain of") + unread

    def text(self, *, examples: int = 3) -> str:
        """Plain lines: the totals, each finding with examples by file and annotation, the verdict."""
        lines = [
            f"{split.name} ({split.layout}, {split.root}): {counted(split.pictures, 'image')}, "
            f"{counted(split.boxes, 'box')}"
            for split in self.splits
        ]
        for group in by_kind(self.findings):
            where = "; ".join(found.line() for found in group)
            lines.append(f"{group[0].severity}: {group[0].kind}: {where}. {group[0].advice}")
            lines += [f"  {text}" for found in group for text in example_lines(found, examples)]
        return "\n".join([*lines, self.verdict()])

    def to_dict(self) -> dict[str, Any]:
        """For JSON; of each finding at most 1000 examples, its count is of all."""
        return {
            "schema": SCHEMA,
            "verdict": {severity: self.count(severity) for severity in SEVERITIES},
            "pictures_decoded": self.decoded,
            "size_edges": list(SIZE_EDGES),
            "splits": [vars(split) | {"picture_sizes": list(split.picture_sizes)} for split in self.splits],
            "classes": [vars(row) for row in self.classes],
            "findings": [found.to_dict() for found in self.findings],
        }


def examine(
    splits: Mapping[str, Split],
    *,
    empty: Sequence[Problem] = (),
    pictures: bool = True,
    workers: int = 0,
    progress: Callable[[str, int], object] = lambda split, count: None,
) -> Examination:
    """Look at everything. Keys of `splits` are their names.

    empty: splits that are named and hold nothing, as `aweigh.layouts.load.load_splits` tells them.
    pictures: decode every image, to find damaged and duplicate ones; else only the header of each is read.
    workers: threads that do so, 0 for one per core. progress: called with the name of a split and how many of its
    images have been looked at.
    """
    found = [one for split in splits.values() for one in (*reported(split), *box_rules(split))]
    found += [*class_rules(splits), *image_rules(splits)]
    for problem in empty:
        example = Example(problem, problem.where)
        found.append(finding(problem.kind, problem.where, 1, 1, [example], action=problem.action))
    looked: dict[str, Pictures] = {}
    for name, split in splits.items():
        looked[name] = look_at_pictures(split, decode=pictures, workers=workers, progress=partial(progress, name))
        found += _picture_problems(split, looked[name])
    if pictures:
        found += alike(splits, looked)
    return Examination(
        splits=tuple(count_split(split) for split in splits.values()),
        classes=class_table(splits),
        findings=tuple(in_order(found)),
        decoded=pictures,
        pictures=looked,
    )


def quick(train: Split, val: Split | None) -> list[str]:
    """Lines for the start of a training run: warnings about the annotations and the classes, a count of the notes.

    What the readers dropped or mended is counted here and listed by `problem_report`; the totals of each split are
    told by `Split.summary`.
    """
    splits = {"train": train} | ({"val": val} if val is not None else {})
    rules = [
        *(one for split in splits.values() for one in box_rules(split)),
        *class_rules(splits),
        *image_rules(splits, listing=False),
    ]
    findings = in_order(rules)
    grave = [one for one in findings if one.severity != "note"]
    lines = []
    for one in grave:
        shown = "; ".join(example_lines(one, 2))
        lines.append(f"{one.severity}: {one.kind}: {one.line()}" + (f" ({shown})" if shown else "") + f". {one.advice}")
    boxes, images = sum(len(split.boxes) for split in splits.values()), sum(map(len, splits.values()))
    notes = len(findings) - len(grave)
    counts = tally([problem for split in splits.values() for problem in split.problems])
    counts += [counted(len(grave), "warning")] * bool(grave)
    counts += [counted(notes, "note")] * bool(notes)
    total = (
        f"data check: {counted(boxes, 'box')} in {counted(images, 'image')}, "
        f"{', '.join(counts) or 'nothing to complain of'}"
    )
    return [total + ("; `aweigh data check` shows them and looks at the images too" if counts else ""), *lines]


def example_lines(found: Finding, count: int) -> list[str]:
    """The first examples, one line each, the name first."""
    lines = [case.line() for case in found.examples[:count]]
    if found.count > count and lines:
        lines.append(f"and {found.count - len(lines):,} more")
    return lines


def count_split(split: Split) -> SplitCounts:
    empty = np.diff(split.first) == 0
    sides = split.boxes[~split.ignore, 2:] - split.boxes[~split.ignore, :2]
    sizes = np.sqrt(sides.astype(np.float64).prod(axis=1))
    histogram = np.histogram(sizes, bins=[*SIZE_EDGES, np.inf])[0]
    shapes, times = np.unique(split.sizes_hw, axis=0, return_counts=True)
    common = np.argsort(-times, kind="stable")[:5]
    return SplitCounts(
        name=split.name,
        layout=split.layout,
        root=str(split.root),
        pictures=len(split),
        boxes=len(split.boxes),
        ignored=int((split.ignore & ~split.uncertain).sum()),
        uncertain=int(split.uncertain.sum()),
        empty=int(empty.sum()),
        looked_at=int((split.reviewed[empty] == REVIEWED).sum()),
        never_labelled=int((split.reviewed[empty] == NEVER_LABELLED).sum()),
        labels_lost=int((split.reviewed[empty] == LABELS_LOST).sum()),
        partly_lost=int((split.reviewed[~empty] == LABELS_LOST).sum()),
        picture_sizes=tuple((int(shapes[row, 1]), int(shapes[row, 0]), int(times[row])) for row in common),
        sizes=tuple(histogram.tolist()),
    )


def class_table(splits: Mapping[str, Split]) -> tuple[ClassCounts, ...]:
    """Classes by name, in the order of the first split that has them."""
    boxes = {name: class_counts(split) for name, split in splits.items()}
    pictures: dict[str, dict[str, int]] = {}
    for name, split in splits.items():
        image_of = split.image_of
        seen = np.unique(np.column_stack([image_of, split.labels])[~split.ignore], axis=0)
        counts = np.bincount(seen[:, 1], minlength=len(split.classes))
        pictures[name] = dict(zip(split.classes.names, counts.tolist(), strict=True))
    every = dict.fromkeys(name for counts in boxes.values() for name in counts)
    return tuple(
        ClassCounts(
            one,
            {name: counts.get(one, 0) for name, counts in boxes.items()},
            {name: counts.get(one, 0) for name, counts in pictures.items()},
        )
        for one in every
    )


def alike(splits: Mapping[str, Split], looked: Mapping[str, Pictures]) -> list[Finding]:
    """Images with the same bytes, and images that look alike, within one split and across several (a leak)."""
    places = [(name, row) for name, split in splits.items() for row in range(len(split))]
    equal = same_bytes([digest for name in splits for digest in looked[name].hashes])
    found = _groups(
        "same image twice", "same image in two splits", [np.array(group) for group in equal], splits, places
    )
    first = np.arange(len(places))
    for group in equal:
        first[group] = group[0]
    usable = np.concatenate([looked[name].decoded for name in splits]) & (first == np.arange(len(places)))
    rows = np.flatnonzero(usable)  # of files with the same bytes, the first alone
    look = np.concatenate([looked[name].look for name in splits])[rows]
    thumbs = np.concatenate([looked[name].thumbs for name in splits])[rows]
    near = [rows[group] for group in groups_of(look_alikes(look, thumbs), len(rows))]
    return found + _groups("look-alike images", "look-alike images in two splits", near, splits, places)


def _picture_problems(split: Split, looked: Pictures) -> list[Finding]:
    groups: dict[tuple[str, str], list[Example]] = {}
    for row, problem in looked.problems.items():
        groups.setdefault((problem.kind, problem.action), []).append(Example(problem, split.name, row))
    return [
        finding(kind, split.name, len(cases), len(split), cases[:EXAMPLES_KEPT], action=action)
        for (kind, action), cases in groups.items()
    ]


def _groups(
    within: str,
    across: str,
    groups: Sequence[np.ndarray],
    splits: Mapping[str, Split],
    places: Sequence[tuple[str, int]],
) -> list[Finding]:
    """Findings from groups of images: one for those inside a split, one for those that reach over several.

    Counted are the images beyond the first of each group in its split; across splits, those outside the first.
    """
    cases: dict[tuple[str, str], list[Example]] = {}
    counts: dict[tuple[str, str], int] = {}
    for group in groups:
        members = [places[int(index)] for index in group]
        names = list(dict.fromkeys(name for name, _ in members))
        key = (within, names[0]) if len(names) == 1 else (across, ", ".join(names))
        others = members[1:] if len(names) == 1 else [member for member in members if member[0] != names[0]]
        counts[key] = counts.get(key, 0) + len(others)
        for name, row in others:
            if len(cases.setdefault(key, [])) >= EXAMPLES_KEPT:
                break
            split, first = splits[name], members[0]
            twin = splits[first[0]].paths[first[1]]
            more = f", one of {len(members)}" if len(members) > 2 else ""
            detail = f"in {name}; {twin.name} in {first[0]}{more}"
            cases[key].append(
                Example(Problem(key[0], split.paths[row].name, None, detail, KEPT), name, row, beside=first)
            )
    return [
        finding(kind, where, counts[kind, where], sum(len(splits[name]) for name in where.split(", ")), examples)
        for (kind, where), examples in cases.items()
    ]
