"""What a detector finds beside boxes, masks, keypoints or cuboids: what it has to be taught, how it is measured.

A detector names it in `extras` (see `aweigh.models.Detector`); of one that does not, nothing here applies.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from aweigh.annotations.masks import NONE
from aweigh.annotations.pairs import flip_pairs
from aweigh.annotations.split import Split
from aweigh.checkpoints.checkpoint import Model
from aweigh.classes import UNIFORM_SIGMA, KeypointSet
from aweigh.errors import DataError, UsageError, counted, did_you_mean, some_of
from aweigh.evaluation.coco import CocoMetrics, evaluate_coco
from aweigh.evaluation.kitti import KittiMetrics
from aweigh.evaluation.names import PREFIXES
from aweigh.evaluation.records import IouType
from aweigh.models import DETECTORS
from aweigh.prediction.space import kitti_metrics

Kind = IouType | Literal["cuboids"]


def extras(model: Model) -> tuple[str, ...]:
    """What the model finds beside boxes: of "masks", "keypoints" and "cuboids"."""
    return tuple(getattr(model, "extras", ()))


# --- what it is taught ----------------------------------------------------------------------------------------------


def takes_keypoints(name: str) -> bool:
    """Whether the builder of that name is told which keypoints there are."""
    return name in DETECTORS and "keypoints" in inspect.signature(DETECTORS[name]).parameters


def keypoint_set(
    model: str, train: Split, given: Any = None, *, flipped: Sequence[str] = (), sigmas: tuple[float, ...] = ()
) -> KeypointSet:
    """What is known of the keypoints of the data: names and skeleton as they say, the pairs of a flip by the names.

    model: the detector's name, for messages. given: what the user says of them in its place, among the builder's
    arguments. flipped, sigmas: `flip_pairs` and `keypoint_sigmas` of a run's configuration.
    """
    names = train.keypoint_names
    if not _has_keypoints(train):
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


def check_taught(model: Model, train: Split, val: Split | None) -> None:
    """`DataError` where the detector learns masks, keypoints or cuboids and the data have none, or not the same."""
    if "masks" in extras(model) and not _has_masks(train):
        raise DataError(
            f"{train.root}: the data have no masks, which {model.builder} learns; annotate outlines, or train a "
            "detector of boxes."
        )
    if "cuboids" in extras(model) and train.cuboids is None:
        raise DataError(
            f"{train.root}: the data say of no object where it is in space, which {model.builder} learns; give "
            "labels in KITTI's layout with calibrations, or train a detector of boxes."
        )
    other = None if val is None or val.keypoints is None else val.keypoint_names
    if "keypoints" in extras(model) and other is not None and other != train.keypoint_names:
        raise DataError(
            f"{train.root}: the keypoints of the validation split are {some_of(other)}, those of the training split "
            f"{some_of(train.keypoint_names)}; name the same ones in the same order."
        )


def taught(model: Model) -> dict[str, Any]:
    """What a data set has to hand out so that the model can compute its losses, as arguments of `DetectionDataset`."""
    found = extras(model)
    keypoints = len(model.keypoint_set) if "keypoints" in found else 0
    return {"masks": "masks" in found, "keypoints": keypoints, "cuboids": "cuboids" in found}


def keypoint_lines(model: Model) -> list[str]:
    """Which keypoints the detector learns and how they are measured; nothing of one that finds none."""
    if "keypoints" not in extras(model):
        return []
    known: KeypointSet = model.keypoint_set
    lines = [f"keypoints: {len(known)} ({some_of(known.names, 20)})"]
    if set(known.sigmas) == {UNIFORM_SIGMA}:
        lines.append(
            f"warning: every keypoint is measured with the sigma {UNIFORM_SIGMA:g}, as nothing is known of how loosely "
            "each is placed; keypoint_sigmas sets them"
        )
    return lines


# --- how it is measured ---------------------------------------------------------------------------------------------


def further_metrics(
    model: Model, split: Split, results: Sequence[Mapping[str, Any]], *, max_detections: int = 100
) -> tuple[dict[Kind, CocoMetrics | KittiMetrics], list[str]]:
    """COCO's numbers of the masks (`segm`), keypoints and cuboids that the model finds, as far as the split has them
    annotated.

    results: as `evaluate` returns them. Keypoints count up to 20 objects an image and class, with the sigmas of the
    model's keypoint set. Cuboids are measured by KITTI's rules. Returns beside the numbers a line for each kind that
    cannot be measured, and why.
    """
    metrics: dict[Kind, CocoMetrics | KittiMetrics] = {}
    measured = measurable(model, split)
    if "segm" in measured:
        metrics["segm"] = evaluate_coco(split.to_coco(), results, iou_type="segm", max_detections=max_detections)
    if "keypoints" in measured:
        sigmas = model.keypoint_set.sigmas
        truth = split.to_coco(masks=False)
        metrics["keypoints"] = evaluate_coco(truth, results, iou_type="keypoints", keypoint_sigmas=sigmas)
    if "cuboids" in measured:
        metrics["cuboids"] = kitti_metrics(split, results)
    notes = []
    if "cuboids" in extras(model) and "cuboids" not in measured:
        notes.append(f"places in space are not measured: {split.name} has none")
    if "masks" in extras(model) and "segm" not in measured:
        notes.append(f"masks are not measured: {split.name} has none")
    if "keypoints" in extras(model) and "keypoints" not in measured:
        there = f"those of {split.name} are {some_of(split.keypoint_names)}"
        there = there if _has_keypoints(split) else f"{split.name} has none"
        notes.append(f"keypoints are not measured: the model finds {some_of(model.keypoint_set.names)}, {there}")
    return metrics, notes


def measurable(model: Model, split: Split) -> list[Kind]:
    """What of a model can be measured on a split: boxes always, what else it finds where both have the same."""
    found: list[Kind] = ["bbox"]
    if "masks" in extras(model) and _has_masks(split):
        found.append("segm")
    if "keypoints" in extras(model) and _has_keypoints(split):
        found += ["keypoints"] * same_keypoints(model.keypoint_set.names, split.keypoint_names)
    if "cuboids" in extras(model) and split.cuboids is not None:
        found.append("cuboids")
    return found


def same_keypoints(names: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two lists stand for the same keypoints; where one is numbered for want of names, their number says it."""
    numbered = [str(number) for number in range(len(names))]
    return len(names) == len(other) and (list(names) == list(other) or numbered in (list(names), list(other)))


def choose_select(select: str, model: Model, val: Split | None) -> str:
    """The number that makes a checkpoint the best: as given, else the AP of the most that is measured.

    `UsageError` where it would be of a class that there is not, or of masks or keypoints that are not measured.
    """
    measured: list[Kind] = ["bbox"] if val is None else measurable(model, val)
    if not select:
        return PREFIXES[measured[-1]] + "AP"
    metric, _, name = select.partition(":")
    if val is not None and name and name not in val.classes.names:
        names = val.classes.names
        raise UsageError(f"select = {select!r}: there is no class {name!r} in the data.{did_you_mean(name, names)}")
    kind = next((kind for kind, prefix in PREFIXES.items() if prefix and metric.startswith(prefix)), "bbox")
    if val is not None and kind not in measured:
        finds = " and ".join(("boxes", *extras(model)))
        raise UsageError(
            f"select = {select!r} is not measured: {model.builder} finds {finds}, and {val.name} must have the same."
        )
    return select


def _has_masks(split: Split) -> bool:
    return split.masks is not None and bool((split.masks.kinds != NONE).any())


def _has_keypoints(split: Split) -> bool:
    return split.keypoints is not None and bool((split.keypoints[:, :, 2] > 0).any())
