"""`METRICS`: how the detections of a split are measured, by name.

A new metric is a file of its own and a line of the table: `aweigh eval --metric` knows it then, and so do validation,
the log of a run and `select` where it is one of every validation. Nothing is imported before something is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol

from aweigh.errors import UsageError, did_you_mean, some_of

if TYPE_CHECKING:
    from aweigh.annotations.split import Split
    from aweigh.classes import KeypointSet

When = Literal["validation", "eval", "named"]
Results = Sequence[Mapping[str, Any]]  # entries of COCO's results, with the image and category ids of the split


class Measured(Protocol):
    """The numbers of one metric."""

    def to_dict(self) -> dict[str, Any]:
        """The numbers by name, and those of each class as `per_class`: ready for JSON, never NaN."""
        ...

    def table(self) -> str:
        """The numbers and the protocol they were measured by, as lines for a terminal."""
        ...


@dataclass(frozen=True)
class Metric:
    """How one thing is measured.

    place: the module of this package and the function in it, `(split, results, keypoints) -> Measured`. what: that
    which is measured, in words. numbers: their names, the one that says most first. of_class: which of them there are
    of each class. prefix: stands before the names among the numbers of several metrics. extra: what a detector has to
    find beside boxes, and a split to have annotated (see `Detector.extras`). when: in every validation and `aweigh
    eval`, in the latter alone, or only where it is named.
    """

    place: str
    what: str
    numbers: tuple[str, ...]
    of_class: tuple[str, ...] = ()
    prefix: str = ""
    extra: str = ""
    when: When = "named"

    def measure(self, split: Split, results: Results, keypoints: KeypointSet | None = None) -> Measured:
        """keypoints: those that the detector finds, where it finds any."""
        module, _, function = self.place.partition(":")
        measured: Measured = getattr(import_module(f"aweigh.evaluation.{module}"), function)(split, results, keypoints)
        return measured


BOXES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")  # masks as well
POSES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
SPACE = ("AP",)
RECALL = ("AR100", "AR1000", "AR100s", "AR1000s", "AR100m", "AR1000m", "AR100l", "AR1000l")
EACH = ("AP", "AP50")  # of a class

METRICS: dict[str, Metric] = {
    "boxes": Metric("coco:boxes", "boxes", BOXES, EACH, when="validation"),
    "masks": Metric("coco:masks", "masks", BOXES, EACH, "mask_", "masks", "validation"),
    "keypoints": Metric("coco:keypoints", "keypoints", POSES, EACH, "keypoint_", "keypoints", "validation"),
    "space": Metric("space:kitti", "3D boxes", SPACE, SPACE, "space_", "cuboids", "validation"),
    "space_loose": Metric("space:kitti_loose", "3D boxes", SPACE, SPACE, "space_loose_", "cuboids", "eval"),
    "voc07": Metric("voc:voc07", "boxes", ("mAP",), prefix="voc07_"),
    "voc12": Metric("voc:voc12", "boxes", ("mAP",), prefix="voc12_"),
    "recall": Metric("recall:recall", "boxes", RECALL, prefix="recall_"),
}

VALIDATED = {name: metric for name, metric in METRICS.items() if metric.when == "validation"}
NUMBERS = tuple(metric.prefix + number for metric in VALIDATED.values() for number in metric.numbers)
NUMBERS_OF_CLASS = tuple(metric.prefix + number for metric in VALIDATED.values() for number in metric.of_class)


def metric_of(number: str) -> tuple[str, str]:
    """Of a number of a validation its metric in `METRICS`, and its name there: `"mask_AP"` -> `("masks", "AP")`."""
    prefixed = (name for name, metric in VALIDATED.items() if metric.prefix and number.startswith(metric.prefix))
    name = next(prefixed, "boxes")
    return name, number.removeprefix(METRICS[name].prefix)


def measurable(
    split: Split, extras: Sequence[str], keypoints: KeypointSet | None = None, *, when: When = "validation"
) -> tuple[list[str], list[str]]:
    """The names of the metrics that a validation, or `aweigh eval`, has of a detector on a split.

    extras, keypoints: what the detector finds beside boxes. Returns beside them a line for each thing it finds that
    cannot be measured on this split, and why.
    """
    wanted = {name: metric for name, metric in METRICS.items() if metric.when in ("validation", when)}
    reasons = {name: lacking(split, metric, extras, keypoints) for name, metric in wanted.items()}
    notes = [reason for name, reason in reasons.items() if reason and wanted[name].extra in extras]
    return [name for name, reason in reasons.items() if not reason], list(dict.fromkeys(notes))


def check_measurable(
    names: Sequence[str], split: Split, extras: Sequence[str], keypoints: KeypointSet | None = None
) -> None:
    """`UsageError` for a name that `METRICS` has not, and for what cannot be measured."""
    for name in names:
        if name not in METRICS:
            raise UsageError(f"There is no metric {name!r}.{did_you_mean(name, METRICS)} Known: {', '.join(METRICS)}.")
        if reason := lacking(split, METRICS[name], extras, keypoints):
            raise UsageError(f"Metric {name}: {reason}.")


def lacking(split: Split, metric: Metric, extras: Sequence[str], keypoints: KeypointSet | None = None) -> str:
    """Why a metric cannot be measured, nothing where it can."""
    from aweigh.annotations.extras import annotated, same_keypoints

    if not metric.extra:
        return ""
    if metric.extra not in extras:
        return f"{metric.what} are not measured: the detector finds none"
    reason = "" if annotated(split, metric.extra) else f"{split.name} has none"
    if metric.extra == "keypoints" and keypoints is not None:
        if not reason and not same_keypoints(keypoints.names, split.keypoint_names):
            reason = f"those of {split.name} are {some_of(split.keypoint_names)}"
        reason = reason and f"the model finds {some_of(keypoints.names)}, {reason}"
    return reason and f"{metric.what} are not measured: {reason}"


def numbers_of(measured: Mapping[str, Measured]) -> dict[str, Any]:
    """The numbers of several metrics side by side, each with the prefix of its metric."""
    return {
        METRICS[name].prefix + number: value
        for name, metrics in measured.items()
        for number, value in metrics.to_dict().items()
    }
