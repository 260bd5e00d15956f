"""How a detector and a data set go together: object sizes at the input size against the levels of the detector.

A detector that assigns points of its levels to boxes has a `Rule` (`aweigh.inspect.coverage`). Of one that does not,
only the sizes at the input are told. Nothing is trained and no image opened: the assignment is that of training, on the
annotations.

Legend: N boxes to be found, L levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from aweigh.annotations.split import Split
from aweigh.catalogue import detector_named
from aweigh.errors import UsageError, counted
from aweigh.geometry.frames import Frame
from aweigh.geometry.tiles import OVERLAPS, SIDES
from aweigh.images.resize import Resize
from aweigh.inspect.coverage import Coverage, LevelRanges, Rule, first_points, measure_coverage
from aweigh.inspect.doctor import SIZE_EDGES

SMALL = 8.0  # pixels at the input, square root of the area: one cell of the finest level of most detectors
ENOUGH = 0.95  # the share of objects that should be larger than that
NOTED = 0.005  # the share of boxes without a point from which it is worth a sentence
MOST_IMAGES, MOST_TRIALS = 1000, 100  # images assigned; and those on which several input sizes are compared
# Of these images together (a fifth where several sizes are compared), since the pairs of boxes and points are some
# 3,600 times as many; and of one image, of whose boxes others are left out.
MOST_BOXES, MOST_IN_ONE = 100_000, 3000
CROWDED, BETWEEN = "smaller boxes took all its points", "no point of its level lies in it"
LONGEST_SHORT = 1600  # pixels: beyond it cutting images into tiles is cheaper than a larger input
STEP = 32  # short sides proposed are multiples


@dataclass(frozen=True)
class Level:
    """One level of the detector: its stride, and the share of the boxes that most of their points put there."""

    stride: int
    share: float


@dataclass(frozen=True)
class Unowned:
    """A box that no point learns. size_wh: at the input. reason: `CROWDED` or `BETWEEN`."""

    split: str
    image: int
    annotation: int
    file: str
    box: tuple[float, float, float, float]
    size_wh: tuple[float, float]
    reason: str


@dataclass(frozen=True)
class Trial:
    """One input size. The last three are None where the detector assigns no points to boxes."""

    short: int
    long: int
    small: float  # share of the boxes under `SMALL` pixels
    best_possible_recall: float | None = None
    ambiguous: float | None = None
    ambiguous_classes: float | None = None

    def covered(self, coverage: Coverage) -> Trial:
        return replace(
            self,
            best_possible_recall=coverage.best_possible_recall,
            ambiguous=coverage.ambiguous_share,
            ambiguous_classes=coverage.ambiguous_classes_share,
        )

    @property
    def flags(self) -> str:
        """How this size is asked for: "--long 416" fixes the long side alone, "--short 800 --long 0" the short side."""
        return input_flags(self.short, self.long)

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "flags": self.flags}


@dataclass(frozen=True)
class Fit:
    """What a detector would make of the data. levels and unowned are empty where it assigns no points to boxes."""

    model: str
    here: Trial
    images: int
    boxes: int
    images_measured: int  # images whose boxes were assigned
    size_percentiles: dict[int, float]  # of the square root of the area at the input: 5, 25, 50, 75, 95
    sizes: tuple[int, ...]  # boxes between two of `SIZE_EDGES`, in pixels at the input
    owners: tuple[tuple[int, ...], ...]  # of the measured boxes, per size: how many each level owns, and no level
    levels: tuple[Level, ...]
    unowned_count: int
    unowned: tuple[Unowned, ...]  # at most 100, the largest first
    trials: tuple[Trial, ...]
    advice: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        trials = [trial.to_dict() for trial in self.trials]
        return {**asdict(self), "here": self.here.to_dict(), "size_edges": SIZE_EDGES, "trials": trials}


def measure_fit(
    splits: Mapping[str, Split],
    model: str,
    *,
    short: int = 0,
    long: int = 416,
    own_rule: Rule | None = None,
    seed: int = 0,
) -> Fit:
    """Look at the training and validation boxes as the detector `model` of `DETECTORS` would at this input size.

    short, long: as in training; 0 for none. own_rule: of a detector that `has_own_rule`. Of large data sets 1,000
    images are assigned, drawn with `seed`; sizes are those of all boxes.
    """
    rule = own_rule or _rule_of(model)
    used = {name: split for name, split in splits.items() if name != "test"} or dict(splits)
    resize = Resize(short=short or None, long=long or None)
    sizes, scales = _sizes(list(used.values()), resize)
    thinned, crowded = _thinned(used)
    chosen = _draw(thinned, MOST_IMAGES, MOST_BOXES, seed)
    small = float((sizes < SMALL).mean()) if len(sizes) else 0.0
    here = Trial(short, long, small)
    levels: tuple[Level, ...] = ()
    owners = np.zeros((0, 0), dtype=np.int64)
    unowned: list[Unowned] = []
    if rule is not None and len(sizes):
        coverage, owners, unowned = _assigned(rule, thinned, chosen, resize)
        of_level = owners[:, :-1].sum(axis=0) / max(1, owners[:, :-1].sum())
        levels = tuple(Level(int(stride), float(share)) for stride, share in zip(rule.strides, of_level, strict=True))
        here = here.covered(coverage)
    trial_images = _draw(thinned, MOST_TRIALS, MOST_BOXES // 5, seed)
    trials = _trials(rule, thinned, trial_images, here) if len(sizes) else ()
    percentiles = {part: float(np.percentile(sizes, part)) for part in (5, 25, 50, 75, 95)} if len(sizes) else {}
    fit = Fit(
        model=model,
        here=here,
        images=sum(map(len, used.values())),
        boxes=len(sizes),
        images_measured=len(chosen) if rule is not None else 0,
        size_percentiles=percentiles,
        sizes=tuple(np.histogram(sizes, bins=[*SIZE_EDGES, np.inf])[0].tolist()),
        owners=tuple(tuple(row) for row in owners.tolist()),
        levels=levels,
        unowned_count=len(unowned),
        unowned=tuple(sorted(unowned, key=lambda box: -box.size_wh[0] * box.size_wh[1])[:100]),
        trials=trials,
        advice=(),
    )
    advice = _advice(fit, used, sizes, scales, assigns=rule is not None)
    if crowded and rule is not None:
        held = counted(crowded, "image", "holds")
        advice.append(f"{held} more than {MOST_IN_ONE:,} boxes, of which {MOST_IN_ONE:,} were assigned.")
    return replace(fit, advice=tuple(advice))


# --- what is measured ---------------------------------------------------------------------------------------------


def has_own_rule(model: str) -> bool:
    """Whether a detector assigns points to boxes by another rule than `LevelRanges`, which only itself knows."""
    return detector_named(model).get("assignment") == "own"


def _rule_of(model: str) -> LevelRanges | None:
    """From the table of all detectors; None where it does not assign points to boxes."""
    if has_own_rule(model):
        given = f"own_rule=aweigh.inference.assignment.rule_of({model!r})"
        raise UsageError(f"{model} assigns points to boxes by a rule of its own; give it: {given}.")
    numbers = detector_named(model).get("assignment")
    return None if numbers is None else LevelRanges.from_json(numbers)


def _sizes(splits: Sequence[Split], resize: Resize) -> tuple[np.ndarray, np.ndarray]:
    """Square root of the area of each box at the input `[N]`, and the scale of its image `[N]`."""
    sizes, scales = [np.empty(0)], [np.empty(0)]
    for split in splits:
        shapes, which = np.unique(split.sizes_hw, axis=0, return_inverse=True)
        scale_of = np.array([resize.size_for(*shape)[0] / shape[0] for shape in shapes.tolist()])
        scale = np.repeat(scale_of[which.reshape(-1)], np.diff(split.first))[~split.ignore]
        sides = (split.boxes[:, 2:] - split.boxes[:, :2])[~split.ignore].astype(np.float64)
        sizes.append(np.sqrt(sides.prod(axis=1)) * scale)
        scales.append(scale)
    return np.concatenate(sizes), np.concatenate(scales)


def _thinned(splits: Mapping[str, Split]) -> tuple[dict[str, Split], int]:
    """The splits with `MOST_IN_ONE` boxes of an image at most, evenly taken; and how many images had more."""
    thinned, crowded = {}, 0
    for name, split in splits.items():
        counts = np.diff(split.first)
        place = np.arange(len(split.boxes)) - np.repeat(split.first[:-1], counts)  # in its image
        share = np.repeat(MOST_IN_ONE / np.maximum(counts, MOST_IN_ONE), counts)
        kept = np.floor((place + 1) * share) > np.floor(place * share)
        thinned[name] = split.take_annotations(np.flatnonzero(kept)) if not kept.all() else split
        crowded += int((counts > MOST_IN_ONE).sum())
    return thinned, crowded


def _draw(splits: Mapping[str, Split], most: int, most_boxes: int, seed: int) -> list[tuple[str, int]]:
    """At most so many images with so many boxes, one at least, `(split, row)`, the same for the same seed."""
    every = [(name, row) for name, split in splits.items() for row in range(len(split))]
    boxes = np.concatenate([np.diff(split.first) for split in splits.values()])
    if len(every) <= most and boxes.sum() <= most_boxes:
        return every
    order = np.random.default_rng(seed).permutation(len(every))[:most]
    held = max(1, int(np.searchsorted(np.cumsum(boxes[order]), most_boxes, side="right")))
    return [every[index] for index in np.sort(order[:held])]


class Resized(NamedTuple):
    """The boxes to be found in one image `[n, 4]`, in pixels of the input, and which of the image's they are `[n]`."""

    split: Split
    row: int
    size_hw: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    which: np.ndarray


def _resized(splits: Mapping[str, Split], chosen: Sequence[tuple[str, int]], resize: Resize) -> Iterator[Resized]:
    """Of the images that show any."""
    for name, row in chosen:
        split = splits[name]
        before_hw = split.sizes_hw[row].tolist()
        size_hw = resize.size_for(*before_hw)
        objects = split.objects(row)
        which = np.flatnonzero(~(objects["ignore"] | objects["uncertain"]))
        if len(which):
            boxes = Frame.resize(before_hw, size_hw).boxes(objects["boxes"][which])
            yield Resized(split, row, size_hw, boxes, objects["labels"][which], which)


def _assigned(
    rule: Rule, splits: Mapping[str, Split], chosen: Sequence[tuple[str, int]], resize: Resize
) -> tuple[Coverage, np.ndarray, list[Unowned]]:
    """Assign the boxes of these images, and look which level each belongs to and which belong to none.

    Returns, beside the coverage, how many boxes of each size each level owns, the last column none: `[sizes, L + 1]`.
    """
    levels = len(rule.strides)
    owners = np.zeros((len(SIZE_EDGES), levels + 1), dtype=np.int64)
    unowned: list[Unowned] = []
    coverage = Coverage()
    for image in _resized(splits, chosen, resize):
        assignment = rule.assign(image.size_hw, image.boxes)
        coverage += Coverage.of(assignment, image.labels)
        first = first_points(image.size_hw, rule.strides)
        anchors = len(assignment.learned) // first[-1]  # of a point
        level = np.repeat(np.arange(levels), anchors * np.diff(first))  # [A]
        learns = assignment.learned >= 0
        points = np.zeros((len(image.boxes), levels), dtype=np.int64)
        np.add.at(points, (assignment.learned[learns], level[learns]), 1)
        owned = points.any(axis=1)
        owner = np.where(owned, points.argmax(axis=1), levels)
        size = np.sqrt((image.boxes[:, 2:] - image.boxes[:, :2]).prod(axis=1))
        np.add.at(owners, (np.searchsorted(SIZE_EDGES, size, side="right") - 1, owner), 1)
        crowded = np.bincount(assignment.box, minlength=len(image.boxes)) > 0
        unowned += [_unowned(image, int(index), bool(crowded[index])) for index in np.flatnonzero(~owned)]
    return coverage, owners, unowned


def _unowned(image: Resized, index: int, crowded: bool) -> Unowned:
    split, annotation = image.split, int(image.split.first[image.row] + image.which[index])
    width, height = (image.boxes[index, 2:] - image.boxes[index, :2]).tolist()
    left, top, right, bottom = split.boxes[annotation].tolist()
    return Unowned(
        split=split.name,
        image=image.row,
        annotation=int(split.annotation_ids[annotation]),
        file=split.paths[image.row].name,
        box=(left, top, right, bottom),
        size_wh=(width, height),
        reason=CROWDED if crowded else BETWEEN,
    )


def _trials(
    rule: Rule | None, splits: Mapping[str, Split], chosen: Sequence[tuple[str, int]], here: Trial
) -> tuple[Trial, ...]:
    """The same at several input sizes of the same proportions, on fewer images; one where images keep their size."""
    sides = [
        (here.short, here.long)
        if factor == 1.0
        else tuple(max(STEP, round(side * factor / STEP) * STEP) if side else 0 for side in (here.short, here.long))
        for factor in (0.5, 0.75, 1.0, 1.5, 2.0)
    ]
    found = []
    for short, long in dict.fromkeys(sides):
        resize = Resize(short=short or None, long=long or None)
        small = float((_sizes(list(splits.values()), resize)[0] < SMALL).mean())
        trial = Trial(short, long, small)
        if rule is not None:
            images = ((image.size_hw, image.boxes, image.labels) for image in _resized(splits, chosen, resize))
            trial = trial.covered(measure_coverage(images, rule))
        found.append(trial)
    return tuple(found)


# --- what to change -----------------------------------------------------------------------------------------------


def _advice(
    fit: Fit, splits: Mapping[str, Split], sizes: np.ndarray, scales: np.ndarray, *, assigns: bool
) -> list[str]:
    """Sentences, computed from the data: the input size, tiles, levels."""
    if not len(sizes):
        return ["There are no boxes to measure."]
    said = [] if assigns else [f"{fit.model} assigns no points to boxes, so only the sizes at the input are told."]
    said.append(_size_advice(fit, splits, sizes, scales))
    recall = fit.here.best_possible_recall
    if recall is not None and 1 - recall > NOTED:
        crowded = sum(box.reason == CROWDED for box in fit.unowned) > len(fit.unowned) / 2
        why = "smaller boxes take all their points" if crowded else "they are too small to hold a point of their level"
        same = next(trial for trial in fit.trials if trial.flags == fit.here.flags)  # on the images of the others
        better = [t for t in fit.trials if (t.best_possible_recall or 0) > (same.best_possible_recall or 0) + NOTED]
        won = 1 - (1 - (better[0].best_possible_recall or 0)) / (1 - (same.best_possible_recall or 0)) if better else 0
        remedy = f" {better[0].flags} would win back about {100 * won:.0f} % of them." if better else ""
        lost = f"{_share(1 - recall)} of the boxes belong to no point and cannot be learned"
        said.append(f"{lost}, mostly because {why}.{remedy}")
    unused = [str(level.stride) for level in fit.levels if level.share == 0]
    if unused:
        levels = (
            f"level of stride {unused[0]} owns" if len(unused) == 1 else f"levels of stride {', '.join(unused)} own"
        )
        said.append(f"The {levels} no box; a detector without would do the same.")
    if fit.here.ambiguous is not None and fit.here.ambiguous > 0.1:
        said.append(f"{_share(fit.here.ambiguous)} of the points could learn several boxes: objects overlap a lot.")
    return said


def _size_advice(fit: Fit, splits: Mapping[str, Split], sizes: np.ndarray, scales: np.ndarray) -> str:
    short, long = fit.here.short, fit.here.long
    if not short and not long:  # as they are: the input that makes the largest image as long as it is
        long = max(int(split.sizes_hw.max(initial=1)) for split in splits.values())
        sizes, scales = _sizes(list(splits.values()), Resize(short=None, long=long))
    current = short or long
    needed = smallest_input(sizes, current)
    flag = input_flags(needed if short else 0, math.ceil(long * needed / current / 2) * 2)
    if fit.here.small <= 1 - ENOUGH:
        part = f"{_share(1 - fit.here.small)} of the objects" if fit.here.small else "all objects"
        smaller = f" {100 * ENOUGH:.0f} % of them would be so from {flag} on." if needed < current else ""
        return f"The input is large enough: {part} are {SMALL:g} px or more there.{smaller}"
    too_small = f"{_share(fit.here.small)} of the objects are under {SMALL:g} px at the input"
    if needed <= max(LONGEST_SHORT, current):
        return f"{too_small}. {flag} makes {100 * ENOUGH:.0f} % of them larger."
    tiles = _tiles(splits, sizes, scales, current, input_flags(short, long))
    return f"{too_small}, and {flag} is what {100 * ENOUGH:.0f} % of them would need. {tiles}"


def input_flags(short: int, long: int) -> str:
    """What to type for an input of these sides, 0 for none; the defaults of both flags are such that this is enough."""
    return (f"--short {short} " if short else "") + f"--long {long}"


def smallest_input(sizes: np.ndarray, current: int, *, share: float = ENOUGH, least: float = SMALL) -> int:
    """The smallest input side (a multiple of 32) at which `share` of the boxes reach `least` pixels.

    sizes: `[N]`, at an input of side `current`; sizes grow in proportion to it, the limit of the other side with it.
    """
    smallest = float(np.sort(sizes)[math.floor((1 - share) * len(sizes))])  # the boxes before it may stay smaller
    return max(STEP, math.ceil(least / max(smallest, 1e-6) * current / STEP - 1e-9) * STEP)


def _tiles(splits: Mapping[str, Split], sizes: np.ndarray, scales: np.ndarray, current: int, flags: str) -> str:
    """A tile that, resized to the input, makes `ENOUGH` of the objects large enough and still holds the large ones, as
    flags of `aweigh train`."""
    original = sizes / scales
    small = float(np.sort(original)[math.floor((1 - ENOUGH) * len(original))])
    tile = min(max(STEP, math.floor(current * small / SMALL / STEP) * STEP), SIDES[1])
    sides = [
        (split.boxes[:, 2:] - split.boxes[:, :2])[~split.ignore].max(axis=1, initial=0) for split in splits.values()
    ]
    longest = float(np.percentile(np.concatenate(sides), 95))
    overlap = max(OVERLAPS[0], math.ceil(100 * longest / tile) / 100)
    if overlap > OVERLAPS[1]:
        return (
            f"Tiles of {tile} px would do, but objects reach {longest:.0f} px: no one scale fits both, so expect to "
            f"lose the smallest."
        )
    return (
        f"Better train in tiles, with --tile {tile} --overlap {overlap:g} {flags}: objects of up to {longest:.0f} px "
        "are whole in one of them."
    )


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
