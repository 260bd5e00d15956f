"""COCO's average precision and recall, for boxes, masks and keypoints.

The protocol is COCO's own; the matching and the curves are hotcoco's, whose numbers are pycocotools' to the last bit.
What is ours: the checks before, the names and the table after, and these choices, each of which pycocotools leaves
to the caller or to chance:

- No detections at all is an ordinary result, AP 0.0.
- `-1` stands for "not defined" (no object of that class, or of that size, in the ground truth), never NaN. Such
  classes are left out of every mean, as in pycocotools.
- A missing `area` is the area of the segmentation where there is one, else of the box. A missing `iscrowd` is 0.
  `info` and `licenses` may be missing.
- Annotation ids that are missing, doubled or below 1 are numbered anew (pycocotools takes the id 0 for "no match").
- For masks, an object that has none, among others that do, is a region to ignore: its box, inside which nothing is a
  mistake. Such objects are counted and named.
- For masks, a `bbox` beside a `segmentation` in the results is not looked at, so a detection's area is its mask's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np

from aweigh.annotations.split import Split
from aweigh.classes import UNIFORM_SIGMA, KeypointSet
from aweigh.errors import DataError, UsageError, counted
from aweigh.evaluation.records import (
    GroundTruth,
    IouType,
    Results,
    class_names,
    class_table,
    images_measured,
    read_both,
    three_decimals,
)

# cocoeval.py, Params.setDetParams and setKpParams: object areas in pixels, both limits inclusive.
AREAS = {"all": (0.0, 1e5**2), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e5**2)}
UNDEFINED = -1.0
PERSON_KEYPOINTS = 17  # COCO's own; for any other number of keypoints there are no published sigmas


def evaluate_coco(
    ground_truth: GroundTruth,
    results: Results,
    *,
    iou_type: IouType = "bbox",
    max_detections: int | None = None,
    keypoint_sigmas: Sequence[float] | None = None,
    own_ids: bool = False,
) -> CocoMetrics:
    """COCO's numbers for a list of results, over all images of the ground truth.

    ground_truth: a COCO dictionary (`images`, `annotations`, `categories`) or the JSON file that holds one.
    results: COCO results, one dictionary per detection (`image_id`, `category_id`, `score`, and `bbox` as xywh in
    pixels, `segmentation` or `keypoints`), whose ids are those of the ground truth; or the JSON file that holds them,
    whose images and classes are then joined by name, with the list that `aweigh predict` writes beside it. Of a file
    without names the ids are taken where they cannot be a running number, or with own_ids.
    max_detections: how many detections, best first, count in each image for each class; 100, or 20 for keypoints,
    when not given. The name of the last recall follows it: `AR100` becomes `AR300`.
    keypoint_sigmas: how loosely each keypoint is placed; COCO's for 17 keypoints, else 0.05 for each.
    """
    if iou_type not in ("bbox", "segm", "keypoints"):
        raise UsageError(f"iou_type must be bbox, segm or keypoints, got {iou_type!r}.")
    if max_detections is None:
        max_detections = 20 if iou_type == "keypoints" else 100
    if max_detections < 1:
        raise UsageError(f"max_detections must be at least 1, got {max_detections}.")
    truth, found = read_both(ground_truth, results, iou_type, own_ids=own_ids)
    limits = [max_detections] if iou_type == "keypoints" else sorted({1, min(10, max_detections), max_detections})
    sigmas = _sigmas(truth, keypoint_sigmas) if iou_type == "keypoints" else None
    precision, recall = curves(truth, found, iou_type, limits, sigmas)
    names = class_names(truth["categories"])  # in order of the ids, as the classes of the two arrays are
    objects = Counter(
        annotation["category_id"]
        for annotation in truth["annotations"]
        if not annotation["iscrowd"] and (iou_type != "keypoints" or annotation["num_keypoints"])
    )
    return CocoMetrics(
        numbers=_numbers(precision, recall, limits, iou_type),
        per_class={
            name: {"AP": mean_of_defined(precision[:, :, k, 0, -1]), "AP50": mean_of_defined(precision[0, :, k, 0, -1])}
            for k, name in enumerate(names.values())
        },
        objects={name: objects[category] for category, name in names.items()},
        iou_type=iou_type,
        max_detections=max_detections,
        images=len(truth["images"]),
        left_out=truth["left_out"],
        crowds=sum(annotation["iscrowd"] and "no_mask" not in annotation for annotation in truth["annotations"]),
        detections=len(found),
        keypoint_sigmas=tuple(sigmas) if sigmas is not None else None,
        without_mask=tuple(annotation["id"] for annotation in truth["annotations"] if "no_mask" in annotation),
    )


def boxes(split: Split, results: Results, keypoints: KeypointSet | None = None) -> CocoMetrics:
    return evaluate_coco(split.to_coco(), results)


def masks(split: Split, results: Results, keypoints: KeypointSet | None = None) -> CocoMetrics:
    return evaluate_coco(split.to_coco(), results, iou_type="segm")


def keypoints(split: Split, results: Results, keypoints: KeypointSet | None = None) -> CocoMetrics:
    """With the sigmas of the keypoints that the detector finds."""
    sigmas = None if keypoints is None else keypoints.sigmas
    return evaluate_coco(split.to_coco(masks=False), results, iou_type="keypoints", keypoint_sigmas=sigmas)


@dataclass(frozen=True)
class CocoMetrics:
    """COCO's numbers, each in `[0, 1]`, or -1 where the ground truth has nothing to measure it on.

    numbers: in COCO's order. Boxes and masks: `AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl`; keypoints:
    `AP AP50 AP75 APm APl AR AR50 AR75 ARm ARl`. Each is also an attribute: `metrics.AP50`.
    per_class: class name -> `{"AP": ..., "AP50": ...}`. objects: class name -> its objects, without crowd
    regions (and, for keypoints, without those that have none marked). without_mask: for masks, the ids of the objects
    that have none. left_out: images of the data that could not be read, and are not among `images`.
    """

    numbers: dict[str, float]
    per_class: dict[str, dict[str, float]]
    objects: dict[str, int]
    iou_type: IouType
    max_detections: int
    images: int
    left_out: int
    crowds: int
    detections: int
    keypoint_sigmas: tuple[float, ...] | None = None
    without_mask: tuple[int, ...] = ()

    def __getattr__(self, name: str) -> float:
        numbers = self.__dict__.get("numbers", {})
        if name not in numbers:
            raise AttributeError(f"There is no number {name!r} here; there are {', '.join(numbers)}.")
        return float(numbers[name])

    def to_dict(self) -> dict[str, Any]:
        """The numbers by name, then `per_class`, `objects` and `protocol`: ready for JSON, never NaN."""
        return {
            **self.numbers,
            "per_class": {name: dict(values) for name, values in self.per_class.items()},
            "objects": dict(self.objects),
            "protocol": {
                "name": "COCO",
                "iou_type": self.iou_type,
                "max_detections": self.max_detections,
                "areas": {name: list(limits) for name, limits in _areas(self.iou_type).items()},
                "keypoint_sigmas": list(self.keypoint_sigmas) if self.keypoint_sigmas else None,
                "images": self.images,
                "left_out": self.left_out,
                "detections": self.detections,
                "without_mask": len(self.without_mask),
            },
        }

    def table(self) -> str:
        """The numbers, the protocol they were measured by, and AP per class, as lines for a terminal."""
        measures = {"bbox": ("boxes", "IoU"), "segm": ("masks", "mask IoU"), "keypoints": ("keypoints", "OKS")}
        what, overlap = measures[self.iou_type]
        objects = counted(sum(self.objects.values()), "object")
        crowds = f" and {counted(self.crowds, 'crowd region')}" if self.crowds else ""
        sizes = "medium (m) 32² to 96², large (l) above"
        sizes = sizes if self.iou_type == "keypoints" else f"small (s) up to 32², {sizes}"
        lines = [
            f"COCO protocol, {what}: {images_measured(self.images, self.left_out)}, {objects}{crowds}, "
            f"{counted(self.detections, 'detection')}",
            f"{overlap} 0.50:0.95, at most {counted(self.max_detections, 'detection')} per image and class",
            f"object area in pixels: {sizes}",
        ]
        if self.keypoint_sigmas and len(self.keypoint_sigmas) != PERSON_KEYPOINTS:
            sigmas = " ".join(f"{sigma:g}" for sigma in dict.fromkeys(self.keypoint_sigmas))
            lines.append(f"keypoint sigmas: {sigmas} (these keypoints are not COCO's 17, so compare with care)")
        if self.without_mask:
            shown = ", ".join(map(str, self.without_mask[:8])) + ", ..." * (len(self.without_mask) > 8)
            number = counted(len(self.without_mask), "object")
            lines.append(f"{number} without a mask, neither found nor missed: annotation {shown}")
        lines += ["", "  ".join(f"{name:>5}" for name in self.numbers)]
        lines += ["  ".join(f"{three_decimals(value):>5}" for value in self.numbers.values()), ""]
        rows = {name: (self.objects[name], each["AP"], each["AP50"]) for name, each in self.per_class.items()}
        return "\n".join([*lines, *class_table(("AP", "AP50"), rows, "means")])


def curves(
    truth: dict[str, Any],
    found: list[dict[str, Any]] | np.ndarray,
    iou_type: IouType,
    limits: Sequence[int],
    sigmas: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall as hotcoco has them, see `_numbers`. found: results, or `[P, 6]` float64 of proposals."""
    coco = hotcoco.COCO(truth)
    evaluation = hotcoco.COCOeval(coco, coco.load_res(found), iou_type)
    evaluation.params.max_dets = list(limits)
    if sigmas is not None:
        evaluation.params.kpt_oks_sigmas = list(sigmas)
    evaluation.evaluate()
    evaluation.accumulate()
    accumulated = evaluation.eval or {}
    return accumulated["precision"], accumulated["recall"]


def _numbers(precision: np.ndarray, recall: np.ndarray, limits: list[int], iou_type: IouType) -> dict[str, float]:
    """precision: `[10 IoU thresholds, 101 recalls, classes, areas, limits]`; recall: the same without the second."""
    thresholds = {"": slice(None), "50": slice(0, 1), "75": slice(5, 6)}  # of 0.50, 0.55, ... 0.95
    sizes = {area[0]: k for k, area in enumerate(_areas(iou_type)) if area != "all"}  # s, m, l

    numbers = {f"AP{name}": mean_of_defined(precision[t, :, :, 0, -1]) for name, t in thresholds.items()}
    numbers |= {f"AP{size}": mean_of_defined(precision[:, :, :, k, -1]) for size, k in sizes.items()}
    if iou_type == "keypoints":
        numbers |= {f"AR{name}": mean_of_defined(recall[t, :, 0, -1]) for name, t in thresholds.items()}
    else:
        numbers |= {f"AR{limit}": mean_of_defined(recall[:, :, 0, k]) for k, limit in enumerate(limits)}
    return numbers | {f"AR{size}": mean_of_defined(recall[:, :, k, -1]) for size, k in sizes.items()}


def _areas(iou_type: IouType) -> dict[str, tuple[float, float]]:
    return {name: limits for name, limits in AREAS.items() if not (iou_type == "keypoints" and name == "small")}


def mean_of_defined(values: np.ndarray) -> float:
    """The mean of what is not `UNDEFINED`, and that where nothing is."""
    defined = values[values > UNDEFINED]
    return float(defined.mean()) if defined.size else UNDEFINED


def _sigmas(truth: Mapping[str, Any], given: Sequence[float] | None) -> list[float] | None:
    """The sigmas to set, or None for COCO's own 17."""
    counts = {len(annotation["keypoints"]) // 3 for annotation in truth["annotations"] if annotation.get("keypoints")}
    if len(counts) > 1:
        raise DataError(f"The ground truth has objects with {sorted(counts)} keypoints; all must have the same number.")
    number = counts.pop() if counts else PERSON_KEYPOINTS
    if given is not None and len(given) != number:
        raise UsageError(
            f"keypoint_sigmas has {counted(len(given), 'number')}, but the objects have {counted(number, 'keypoint')}."
        )
    if given is None and number != PERSON_KEYPOINTS:
        return [UNIFORM_SIGMA] * number
    return list(given) if given is not None else None
