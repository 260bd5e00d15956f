"""What a detector has to be taught beside boxes: those of masks, keypoints and cuboids that its `extras` name."""

from collections.abc import Sequence
from typing import Any

from aweigh.annotations.extras import annotated, same_keypoints
from aweigh.annotations.flip_pairs import flip_pairs
from aweigh.annotations.split import Split
from aweigh.arguments import parameters
from aweigh.classes import UNIFORM_SIGMA, KeypointSet
from aweigh.errors import DataError, UsageError, counted, some_of
from aweigh.models import DETECTORS
from aweigh.models.detector import Detector


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


def supervision(model: Detector) -> dict[str, Any]:
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
