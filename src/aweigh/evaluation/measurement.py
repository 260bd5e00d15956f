"""The numbers of detections on a split: of a results file of any program, or of a detector that ran over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from aweigh.annotations.problems import Problem
from aweigh.annotations.split import Split
from aweigh.classes import KeypointSet
from aweigh.evaluation.metrics import METRICS, Measured, Results, When, check_measurable, measurable
from aweigh.evaluation.records import joined, read_ground_truth
from aweigh.results.coco import ResultsFile


@dataclass(frozen=True)
class Measurement:
    """The numbers of a detector on a split.

    metrics: by their names in `METRICS`. notes: what was detected and the split has not annotated. split: the images
    that could be read. results: COCO's, with the ids of the split. Of a detector that ran, speed: ms per image of each
    part; problems: images that were skipped or mended.
    """

    metrics: dict[str, Measured]
    notes: list[str]
    split: Split
    results: Results
    speed: dict[str, float] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The numbers of the first metric, those of each other under its name, and the time: ready for JSON."""
        (_, first), *others = self.metrics.items()
        more = {name: measured.to_dict() for name, measured in others}
        return {**first.to_dict(), **more, **({"ms_per_image": self.speed} if self.speed else {})}


class Finder(Protocol):
    """What finds objects, a detector or an engine. extras: what it says beside boxes. keypoint_set: its keypoints."""

    @property
    def extras(self) -> tuple[str, ...]: ...
    @property
    def keypoint_set(self) -> KeypointSet | None: ...


def measure_results(
    finder: Finder, split: Split, results: Results, names: Sequence[str] = (), *, when: When = "validation"
) -> tuple[dict[str, Measured], list[str]]:
    """The metrics of these names of COCO results; when none is given, of all that is found and that the split has.

    Returns beside them a line for each thing that cannot be measured, and why.
    """
    notes: list[str] = []
    if not names:
        names, notes = measurable(split, finder.extras, finder.keypoint_set, when=when)
    return {name: METRICS[name].measure(split, results, finder.keypoint_set) for name in names}, notes


def measure_file(file: ResultsFile, split: Split, names: Sequence[str] = (), *, own_ids: bool = False) -> Measurement:
    """The numbers of a results file in COCO's format, by the metrics of these names; when none is given, by COCO's of
    what results and split both have.

    Images and classes are joined by their names, see `aweigh.results.coco`; own_ids: the ids are those of the split.
    Images that the file says nobody could read are left out and counted. `DataError` where the two do not fit.
    """
    truth = read_ground_truth(split.to_coco(masks=False))
    results = joined(file, truth, own_ids=own_ids)
    measured = np.isin(split.image_ids, [image["id"] for image in truth["images"]])
    part = split.without(np.flatnonzero(~measured))
    extras = [extra for extra, key in KEYS.items() if extra and has(file, key)]
    check_measurable(names, part, extras)
    notes: list[str] = []
    if not names:
        names, notes = measurable(part, extras, when="eval")
        names = [name for name in names if not file.entries or has(file, KEYS[METRICS[name].extra])]
    return Measurement({name: METRICS[name].measure(part, results) for name in names}, notes, part, results)


KEYS = {"": "bbox", "masks": "segmentation", "keypoints": "keypoints"}  # of a result, by what a metric needs


def has(file: ResultsFile, key: str) -> bool:
    """Whether any of its results says this."""
    return any(isinstance(entry, Mapping) and entry.get(key) is not None for entry in file.entries)
