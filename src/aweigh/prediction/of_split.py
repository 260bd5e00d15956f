"""Detections of a whole split: COCO results with its ids, and what was wrong with its images.

Masks are kept as run lengths, so that what a whole split holds in memory grows with its detections alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.annotations.problems import CHANGED, SKIPPED, Problem, refuse_too_many
from aweigh.annotations.proposals import Proposals
from aweigh.annotations.split import Split
from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.errors import UsageError, some_of
from aweigh.geometry.boxes import suppress
from aweigh.prediction.annotated_images import in_frame

PROPOSALS_NMS = 0.7  # of a detector without a proposal network: that of one (Ren et al. 2015, section 3.3)


@dataclass(frozen=True)
class SplitDetections:
    """COCO results entries, mean losses by name (where asked for), milliseconds per image.

    problems: images that were skipped or mended while reading. unread: rows of the skipped ones.
    """

    results: list[dict[str, Any]]
    losses: dict[str, float]
    speed: dict[str, float]
    problems: list[Problem] = field(default_factory=list)
    unread: list[int] = field(default_factory=list)

    def measured(self, split: Split) -> Split:
        """The images of the split that the detections can be measured on."""
        return split.without(self.unread)


def collect(
    found: Iterable[Detections],
    split: Split,
    classes: Classes,
    unrotated: Callable[[Path], Detections],
    *,
    max_bad: float = 1.0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> SplitDetections:
    """What a predictor finds in the images of a split, in the order of these, as results of the split.

    classes: the detector's. unrotated: detections of the image as it is stored, for one that was annotated before its
    EXIF rotation. max_bad: the share of images without detections above which there is a `DataError`.
    """
    category_ids = matching_category_ids(classes, split.classes)
    results: list[dict[str, Any]] = []
    problems: list[Problem] = []
    unread: list[int] = []
    started = time.perf_counter()
    for row, (one, problem) in enumerate(each_image(found, split, unrotated, max_bad=max_bad, progress=progress)):
        problems += [problem] if problem is not None else []
        if one.error is None:
            results += entries(one, split.image_ids[row], category_ids)
        else:
            unread.append(row)
    taken = 1000 * (time.perf_counter() - started) / max(1, len(split) - len(unread))
    return SplitDetections(results, {}, {"total": taken}, problems, unread)


def propose(
    found: Iterable[Detections],
    split: Split,
    unrotated: Callable[[Path], Detections],
    *,
    number: int,
    made: Mapping[str, Any],
    max_bad: float = 1.0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[Proposals, list[Problem], list[int]]:
    """The `number` best boxes that a predictor finds in each image of a split, classes left aside; what was wrong with
    images, and the rows of those that could not be read, which have none.

    made: what else their file says of where they are from. The rest as of `collect`.
    """
    ordered: list[tuple[np.ndarray, np.ndarray]] = []
    problems: list[Problem] = []
    unread: list[int] = []
    for row, (one, problem) in enumerate(each_image(found, split, unrotated, max_bad=max_bad, progress=progress)):
        problems += [problem] if problem is not None else []
        unread += [row] if one.error is not None else []
        kept, scores = suppress(
            one.boxes, one.scores, one.labels, iou_threshold=PROPOSALS_NMS, method="agnostic", most=number
        )
        ordered.append((one.boxes[kept], scores))
    said = {**made, "nms_threshold": PROPOSALS_NMS}
    return split.proposed(ordered, number=number, made=said), problems, unread


def each_image(
    found: Iterable[Detections],
    split: Split,
    unrotated: Callable[[Path], Detections],
    *,
    max_bad: float,
    progress: Callable[[int, int], object],
) -> Iterator[tuple[Detections, Problem | None]]:
    """Of each image its detections in the frame of its annotations, and what was wrong with it; see `collect`."""
    skipped: list[Problem] = []
    for row, (whole, (height, width)) in enumerate(zip(found, split.sizes_hw.tolist(), strict=True)):
        one = in_frame(whole, (height, width), unrotated)
        problem = _problem(whole, one, split.paths[row])
        if problem is not None and problem.action == SKIPPED:
            skipped.append(problem)
            refuse_too_many(skipped, len(split), max_bad)
        yield one, problem
        progress(row + 1, len(split))


def _problem(whole: Detections, framed: Detections, path: Path) -> Problem | None:
    """What was wrong with an image, by its detections as they came and in the frame of its annotations."""
    if framed.error is not None:
        return Problem("unreadable image", str(path), None, framed.error.removeprefix(f"{path}: "), SKIPPED)
    (height, width), (declared_height, declared_width) = whole.size_hw, framed.size_hw
    if whole.size_hw == framed.size_hw:
        return None
    said = f"annotations say {declared_width} x {declared_height}, the image is {width} x {height}"
    if whole.size_hw[::-1] == framed.size_hw:
        detail = f"{said} once its EXIF rotation is applied; used without rotation, as it was annotated"
        return Problem("annotated before EXIF rotation", str(path), None, detail, CHANGED)
    return Problem("another size than declared", str(path), None, f"{said}; boxes scaled", CHANGED)


def matching_category_ids(classes: Classes, data: Classes) -> dict[int, int]:
    """For each label of the model whose name the data has, the data's category id."""
    ids = {label: data.ids[data.label(name)] for label, name in enumerate(classes.names) if name in data.names}
    if not ids:
        raise UsageError(
            f"The model knows none of the data's classes. Model: {some_of(classes.names)}. Data: {some_of(data.names)}."
        )
    return ids


def entries(detections: Detections, image_id: Any, category_ids: dict[int, int]) -> list[dict[str, Any]]:
    """COCO results of an image of this id, of the labels that have one of these category ids."""
    detections = detections[np.isin(detections.labels, list(category_ids))]
    return [
        {**entry, "category_id": category_ids[label]}
        for entry, label in zip(detections.to_coco(int(image_id)), detections.labels.tolist(), strict=True)
    ]
