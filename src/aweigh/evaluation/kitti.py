"""KITTI's average precision: of boxes, from above, in space, and of orientation.

Geiger et al., "Are we ready for autonomous driving?", CVPR 2012, and the rules of KITTI's development kit, written from
them. An object counts by its difficulty, the height of its box, how far it is occluded and truncated. What is harder,
and what is of a neighbouring class (a Van for Car, a sitting person for Pedestrian), may be found and need not be; a
detection in a DontCare region or of too small a box is no mistake.

Precision is read at 41 scores at most, by which recall rises by 1/40 from one to the next: the 11-point number takes
every fourth (the benchmark's until 2019, and the one of papers of that time), the 40-point number all but the first. So
a class with fewer than 41 objects cannot reach 1, whatever is found: that is in the rules, and `table` says it.

AOS, average orientation similarity, has (1 + cos of the error of alpha) / 2 of each detection that is right in place of
1; it is one for boxes in the image.

Legend: G objects of one image, D detections of it, T score thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import compress
from typing import Any, Literal

import numpy as np

from aweigh.errors import DataError, counted, escaped
from aweigh.geometry.boxes import pairwise_iou, pairwise_share
from aweigh.geometry.cuboids import birds_eye_iou, solid_iou

Measure = Literal["box", "birds_eye", "space"]
MEASURES: tuple[Measure, ...] = ("box", "birds_eye", "space")
Number = Measure | Literal["orientation"]
NUMBERS: dict[Number, str] = {"box": "box", "orientation": "AOS", "birds_eye": "bird's eye", "space": "3D"}
DIFFICULTIES = ("easy", "moderate", "hard")
LEAST_HEIGHT = (40.0, 25.0, 25.0)  # pixels
MOST_OCCLUDED = (0, 1, 2)
MOST_TRUNCATED = (0.15, 0.3, 0.5)
NEIGHBOURS = {"car": "van", "pedestrian": "person_sitting"}
OVERLAPS = {"car": 0.7}  # to be exceeded; any other class
OVERLAP = 0.5
REGION = "dontcare"
SAMPLES = 41  # recalls


@dataclass(frozen=True, eq=False)
class Objects:
    """The annotated objects of one image, regions among them.

    kinds: their types. boxes: `[G, 4]` xyxy, pixels. truncated `[G]`, occluded `[G]`, as KITTI has them. solids: `[G,
    7]`, see `aweigh.geometry.cuboids`, NaN for what has no 3D box. alphas: `[G]`, radians.
    """

    kinds: Sequence[str]
    boxes: np.ndarray
    truncated: np.ndarray
    occluded: np.ndarray
    solids: np.ndarray
    alphas: np.ndarray


@dataclass(frozen=True, eq=False)
class Found:
    """The detections of one image: names, boxes `[D, 4]`, solids `[D, 7]`, alphas and scores `[D]`."""

    kinds: Sequence[str]
    boxes: np.ndarray
    solids: np.ndarray
    alphas: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Curve:
    """Of one class, difficulty and measure: `[41]` precision and orientation similarity, each the largest from there
    on.

    objects: how many have to be found. similarity: zeros where the measure is none of boxes.
    """

    precision: np.ndarray
    similarity: np.ndarray
    objects: int

    def average(self, points: int = 40, *, orientation: bool = False) -> float:
        """Over 11 or 40 recalls; -1 where there is no object."""
        values = self.similarity if orientation else self.precision
        return -1.0 if self.objects == 0 else float((values[::4] if points == 11 else values[1:]).mean())


@dataclass(frozen=True)
class KittiMetrics:
    """Curves by class, measure, difficulty. overlaps: what each class has to exceed."""

    curves: Mapping[tuple[str, Measure, str], Curve]
    classes: tuple[str, ...]
    overlaps: Mapping[str, float]

    def value(self, name: str, measure: Number, difficulty: str = "moderate", points: int = 40) -> float:
        """An AP, or AOS (`"orientation"`), in `[0, 1]`; -1 where there is no object."""
        kept: Measure = "box" if measure == "orientation" else measure
        return self.curves[name, kept, difficulty].average(points, orientation=measure == "orientation")

    @cached_property
    def mean(self) -> float:
        """The mean over the classes with objects of the moderate AP in space at 40 recalls, -1 without any."""
        values = [value for name in self.classes if (value := self.value(name, "space")) >= 0]
        return float(np.mean(values)) if values else -1.0

    def to_dict(self) -> dict[str, Any]:
        """`AP`, the `mean`, and `per_class` all numbers by class, as `space_moderate_40`; `AP` is the one of `mean`."""
        per_class = {
            name: {"AP": self.value(name, "space"), "overlap": self.overlaps[name]}
            | {
                f"{measure}_{difficulty}_{points}": self.value(name, measure, difficulty, points)
                for measure in NUMBERS
                for difficulty in DIFFICULTIES
                for points in (11, 40)
            }
            for name in self.classes
        }
        return {"AP": self.mean, "per_class": per_class}

    def table(self) -> str:
        """A table for the screen: a row for each class and measure, easy, moderate and hard at 40 and at 11 recalls."""
        head = f"{'':<16}{'':<12}{'easy':>8}{'moderate':>10}{'hard':>8}{'easy':>10}{'moderate':>10}{'hard':>8}"
        lines = [f"KITTI{'':<27}{'at 40 recalls':>18}{'at 11 recalls':>28}", head]
        for name in self.classes:
            for number, (measure, text) in enumerate(NUMBERS.items()):
                values = [
                    self.value(name, measure, difficulty, points) for points in (40, 11) for difficulty in DIFFICULTIES
                ]
                shown = ["-" if value < 0 else f"{value:.3f}" for value in values]
                title = f"{escaped(name)} > {self.overlaps[name]:g}" if number == 0 else ""
                cells = "".join(f"{text:>{width}}" for text, width in zip(shown, (8, 10, 8, 10, 10, 8), strict=True))
                lines.append(f"{title:<16}{text:<12}{cells}")
        few = [
            f"{escaped(name)} ({self.curves[name, 'box', 'moderate'].objects})"
            for name in self.classes
            if 0 < self.curves[name, "box", "moderate"].objects < SAMPLES
        ]
        if few:
            lines.append(
                f"The rules cannot give 1, whatever is found, of fewer than {counted(SAMPLES, 'moderate object')}: "
                f"{', '.join(few)}"
            )
        return "\n".join(lines)


def evaluate_kitti(
    truth: Sequence[Objects],
    found: Sequence[Found],
    classes: Sequence[str],
    *,
    overlaps: Mapping[str, float] | None = None,
) -> KittiMetrics:
    """KITTI's numbers of the detections of each image. Types and names are compared in lower case.

    overlaps: what each class has to exceed, by name; KITTI's, 0.7 for cars and 0.5 for others, when not given.
    """
    if len(truth) != len(found):
        raise DataError(
            f"KITTI's measure: {counted(len(truth), 'image')} with objects, but {len(found)} with detections."
        )
    wanted = {name: (overlaps or {}).get(name, OVERLAPS.get(name.lower(), OVERLAP)) for name in classes}
    pairs = [(_lower(objects), _lower(own)) for objects, own in zip(truth, found, strict=True)]
    curves: dict[tuple[str, Measure, str], Curve] = {}
    for name in classes:
        of_class = [_of_class(objects, own, name.lower()) for objects, own in pairs]
        for measure in MEASURES:
            images = [_Image.of(objects, own, name.lower(), measure, wanted[name]) for objects, own in of_class]
            for level, difficulty in enumerate(DIFFICULTIES):
                curves[name, measure, difficulty] = _curve([image.at(level) for image in images])
    return KittiMetrics(curves, tuple(classes), wanted)


def _lower(entry: Any) -> Any:
    return replace(entry, kinds=[kind.lower() for kind in entry.kinds])


def _of_class(objects: Objects, found: Found, name: str) -> tuple[Objects, Found]:
    """What matters for one class: its objects, those of the neighbouring class, regions, and its detections."""
    mine = np.array([kind in (name, NEIGHBOURS.get(name), REGION) for kind in objects.kinds], dtype=bool)
    own = np.array([kind == name for kind in found.kinds], dtype=bool)
    return _take(objects, mine), _take(found, own)


def _take(entry: Any, mask: np.ndarray) -> Any:
    """`Objects` or `Found` where the mask `[N]` is set."""
    arrays = {one.name: getattr(entry, one.name)[mask] for one in fields(entry) if one.name != "kinds"}
    return replace(entry, kinds=list(compress(entry.kinds, mask)), **arrays)


@dataclass(frozen=True, eq=False)
class _Image:
    """One image for one class and measure.

    close: `[G, D]` the overlaps, 0 where they are too small. in_region: `[D]` bool. own: `[G]` bool, of the class
    itself. small, optional: what need not be found, `[D]` and `[G]` bool, of one difficulty. similar: `[G, D]`.
    """

    objects: Objects
    found: Found
    close: np.ndarray
    in_region: np.ndarray
    own: np.ndarray
    similar: np.ndarray
    small: np.ndarray
    optional: np.ndarray

    @classmethod
    def of(cls, objects: Objects, found: Found, name: str, measure: Measure, overlap: float) -> _Image:
        region = np.array([kind == REGION for kind in objects.kinds], dtype=bool)
        kept = _take(objects, ~region)
        in_region = np.zeros(len(found.boxes), dtype=bool)
        if measure == "box":
            in_region |= (pairwise_share(found.boxes, objects.boxes[region]) > overlap).any(axis=1)
            shared = pairwise_iou(kept.boxes, found.boxes)
        else:
            iou = birds_eye_iou if measure == "birds_eye" else solid_iou
            shared = np.nan_to_num(iou(kept.solids, found.solids))
        error = kept.alphas[:, None] - found.alphas[None]
        own = np.array([kind == name for kind in kept.kinds], dtype=bool)
        if measure != "box":  # an object without a 3D box need not be found
            own &= np.isfinite(kept.solids).all(axis=1)
        nothing = np.zeros(0, dtype=bool)
        similar = np.nan_to_num((1 + np.cos(error)) / 2) if measure == "box" else np.zeros_like(error)
        return cls(kept, found, np.where(shared > overlap, shared, 0), in_region, own, similar, nothing, nothing)

    def at(self, level: int) -> _Image:
        """The image as one difficulty has it."""
        height = self.objects.boxes[:, 3] - self.objects.boxes[:, 1]
        hard = (
            (self.objects.occluded > MOST_OCCLUDED[level])
            | (self.objects.truncated > MOST_TRUNCATED[level])
            | (height <= LEAST_HEIGHT[level])
        )
        # The kit holds this height as a whole number, rounded down.
        small = np.floor(np.abs(self.found.boxes[:, 3] - self.found.boxes[:, 1])) < LEAST_HEIGHT[level]
        return replace(self, small=small, optional=hard | ~self.own)

    def scores_of_found(self) -> list[float]:
        """The scores of detections that are right, each object taking the highest score that reaches it."""
        free = np.ones(len(self.found.scores), dtype=bool)
        right = []
        for row in range(len(self.optional)):
            candidates = free & (self.close[row] > 0)
            if candidates.any():
                best = int(np.argmax(np.where(candidates, self.found.scores, -np.inf)))
                free[best] = False
                if not self.optional[row] and not self.small[best]:
                    right.append(float(self.found.scores[best]))
        return right

    def counts(self, thresholds: np.ndarray) -> np.ndarray:
        """`[T, 3]`: what is right, what is a mistake, and the orientation similarity, of detections from each score on.

        Each object takes the detection it overlaps most among those that are not too small, else the first that is.
        """
        count = len(thresholds)
        lines = np.arange(count)
        free = self.found.scores[None] >= thresholds[:, None]  # [T, D], and not yet taken
        result = np.zeros((count, 3))
        if not free.any():
            return result
        for row in range(len(self.optional)):
            near = self.close[row] > 0
            if not near.any():
                continue
            plain, tiny = free & (near & ~self.small), free & (near & self.small)
            best = np.where(plain, self.close[row], -1).argmax(axis=1)  # [T]
            best = np.where(plain.any(axis=1), best, tiny.argmax(axis=1))
            taken = plain.any(axis=1) | tiny.any(axis=1)
            free[lines[taken], best[taken]] = False
            if not self.optional[row]:
                right = taken & ~self.small[best]
                result[right, 0] += 1
                result[right, 2] += self.similar[row, best[right]]
        result[:, 1] = (free & ~self.small & ~self.in_region).sum(axis=1)
        return result


def _curve(images: Sequence[_Image]) -> Curve:
    objects = sum(int((~image.optional).sum()) for image in images)
    precision, similarity = np.zeros(SAMPLES), np.zeros(SAMPLES)
    scores = [score for image in images for score in image.scores_of_found()]
    thresholds = _thresholds(np.array(sorted(scores, reverse=True)), objects)
    if len(thresholds):
        right, wrong, alike = np.sum([image.counts(thresholds) for image in images], axis=0).T
        all_of_them = np.maximum(right + wrong, 1e-12)
        for values, filled in ((right / all_of_them, precision), (alike / all_of_them, similarity)):
            filled[: len(values)] = np.maximum.accumulate(values[::-1])[::-1]
    return Curve(precision, similarity, objects)


def _thresholds(scores: np.ndarray, objects: int) -> np.ndarray:
    """The scores, of those of all that is right from the highest on, at which recall is nearest to 0, 1/40, ..."""
    chosen = []
    wanted = 0.0
    for number, score in enumerate(scores):
        here = (number + 1) / objects
        after = (number + 2) / objects if number + 1 < len(scores) else here
        if after - wanted < wanted - here and number + 1 < len(scores):
            continue
        chosen.append(score)
        wanted += 1 / (SAMPLES - 1)
    return np.array(chosen)
