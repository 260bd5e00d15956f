"""What a detector finds beside boxes, masks, keypoints or cuboids: what it has to be taught, how it is measured.

A detector names it in `extras` (see `aweigh.models.Detector`); of one that does not, nothing here applies.
"""

from collections.abc import Sequence
from typing import Any

from aweigh.annotations.extras import annotated, same_keypoints
from aweigh.annotations.flip_pairs import flip_pairs
from aweigh.annotations.split import Split
from aweigh.arguments import parameters
from aweigh.classes import UNIFORM_SIGMA, KeypointSet
from aweigh.errors import DataError, UsageError, counted, did_you_mean, some_of
from aweigh.evaluation.metrics import METRICS, Measured, Results, When, measurable, metric_of
from aweigh.models import DETECTORS
from aweigh.models.detector import Detector

# --- what it is taught ----------------------------------------------------------------------------------------------


def takes_keypoints(name: str) -> bool:
    """Whether the builder of that name is told which keypoints there are."""
    return name in DETECTORS and "keypoints" in parameters(DETECTORS[name])


def keypoint_set(
    model: str, train: Split, given: Any = None, *, flipped: Sequence[str] = (), sigmas: tuple[float, ...] = ()
) -> KeypointSet:
    """What is known of the keypoints of the data: names and skeleton as they say, the pairs of a flip by the names.

    model: the detector's name, for messages. given: what the user says of them in its place, among the builder's
    arguments. flipped, sigmas: `flip_pairs` and `keypoint_sigmas` of a run's configuration.
    """
    names = train.keypoint_names
    if not annotated(train, "keypoints"):
        raise DataError(
            f"{train.root}: the data have no keypoints, which {model} learns; annotate them, or train a "
            "detector of boxes."
        )
    if sigmas and len(sigmas) != len(names):
        raise UsageError(
            f"keypoint_sigmas has {counted(len(sigmas), 'number')}, but the data have "
            f"{counted(len(names), 'keypoint')}: {some_of(names)}."
        )
    if given is not None:
        known = KeypointSet.of(given)
        if not same_keypoints(known.names, names):
            raise UsageError(f"arguments: keypoints names {some_of(known.names)}, but the data have {some_of(names)}.")
        return known
    pairs = flip_pairs(flipped, train.classes.names, names)
    return KeypointSet(names, train.skeleton, pairs.keypoints, sigmas)


def check_taught(model: Detector, train: Split, val: Split | None) -> None:
    """`DataError` where the detector learns masks, keypoints or cuboids and the data have none, or not the same."""
    if "masks" in model.extras and not annotated(train, "masks"):
        raise DataError(
            f"{train.root}: the data have no masks, which {model.builder} learns; annotate outlines, or train a "
            "detector of boxes."
        )
    if "cuboids" in model.extras and not annotated(train, "cuboids"):
        raise DataError(
            f"{train.root}: the data say of no object where it is in space, which {model.builder} learns; give "
            "labels in KITTI's layout with calibrations, or train a detector of boxes."
        )
    other = None if val is None or val.keypoints is None else val.keypoint_names
    if "keypoints" in model.extras and other is not None and other != train.keypoint_names:
        raise DataError(
            f"{train.root}: the keypoints of the validation split are {some_of(other)}, those of the training split "
            f"{some_of(train.keypoint_names)}; name the same ones in the same order."
        )


def taught(model: Detector) -> dict[str, Any]:
    """What a data set has to hand out so that the model can compute its losses, as arguments of `DetectionDataset`."""
    keypoints = 0 if model.keypoint_set is None else len(model.keypoint_set)
    return {"masks": "masks" in model.extras, "keypoints": keypoints, "cuboids": "cuboids" in model.extras}


def keypoint_lines(model: Detector) -> list[str]:
    """Which keypoints the detector learns and how they are measured; nothing of one that finds none."""
    known = model.keypoint_set
    if known is None:
        return []
    lines = [f"keypoints: {len(known)} ({some_of(known.names, 20)})"]
    if set(known.sigmas) == {UNIFORM_SIGMA}:
        lines.append(
            f"warning: every keypoint is measured with the sigma {UNIFORM_SIGMA:g}, as nothing is known of how loosely "
            "each is placed; keypoint_sigmas sets them"
        )
    return lines


# --- how it is measured ---------------------------------------------------------------------------------------------


def measurable_of(model: Detector, split: Split, *, when: When = "validation") -> tuple[list[str], list[str]]:
    """What of a model is measured on a split, see `aweigh.evaluation.metrics.measurable`."""
    return measurable(split, model.extras, model.keypoint_set, when=when)


def measure_all(model: Detector, split: Split, results: Results) -> tuple[dict[str, Measured], list[str]]:
    """The metrics of a validation, by their names in `METRICS`, as far as the split has annotated what the model finds.

    results: as `evaluate` returns them. Returns beside them a line for each thing that cannot be measured, and why.
    """
    names, notes = measurable_of(model, split)
    return {name: METRICS[name].measure(split, results, model.keypoint_set) for name in names}, notes


def choose_select(select: str, model: Detector, val: Split | None) -> str:
    """The number that makes a checkpoint the best: as given, else the AP of the most that is measured.

    `UsageError` where it would be of a class that there is not, or of masks or keypoints that are not measured.
    """
    measured = ["boxes"] if val is None else measurable_of(model, val)[0]
    if not select:
        best = METRICS[measured[-1]]
        return best.prefix + best.numbers[0]
    metric, _, name = select.partition(":")
    if val is not None and name and name not in val.classes.names:
        names = val.classes.names
        raise UsageError(f"select = {select!r}: there is no class {name!r} in the data.{did_you_mean(name, names)}")
    if val is not None and metric_of(metric)[0] not in measured:
        finds = " and ".join(("boxes", *model.extras))
        raise UsageError(
            f"select = {select!r} is not measured: {model.builder} finds {finds}, and {val.name} must have the same."
        )
    return select
