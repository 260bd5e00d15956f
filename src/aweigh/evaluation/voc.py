"""PASCAL VOC's average precision at one overlap, by 11 points (to 2009) or under the whole curve (from 2010).

Paper: Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective", IJCV 2015, and the
development kit's VOCevaldet.m. Detections of a class are taken best first over all images. Each looks at the object
of its class and image that it overlaps most, and at no other: it is right if the overlap is greater than the threshold
and nobody took that object before, neither right nor wrong if the object is difficult, and wrong otherwise.

How ours differs:
- Boxes are continuous here, so widths have no "+1". `legacy=True` adds it, for boxes whose right and bottom are the
  last pixel inside, as they stand in VOC's files.
- The eleven recalls 0, 0.1, ... 1 are compared without rounding: 3 of 10 objects found reaches the recall 0.3.
- `-1` stands for the AP of a class without objects, never NaN; it is left out of the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from aweigh.annotations.split import Split
from aweigh.classes import KeypointSet
from aweigh.errors import UsageError, counted
from aweigh.evaluation.overlaps import corners, paired_iou, pairs_of_same
from aweigh.evaluation.records import GroundTruth, Results, class_names, class_table, images_measured, read_both


def evaluate_voc(
    ground_truth: GroundTruth,
    results: Results,
    *,
    iou: float = 0.5,
    points: Literal["11", "all"] = "all",
    legacy: bool = False,
    own_ids: bool = False,
) -> VocMetrics:
    """VOC's AP of each class and their mean, over all images of the ground truth.

    ground_truth: a COCO dictionary or its JSON file; annotations with `iscrowd`, `ignore` or `difficult` set are
    difficult objects. results: COCO box results, or the JSON file that holds them; own_ids: as for `evaluate_coco`.
    points: `"11"` for the mean of the best precision at eleven recalls, `"all"` for the area under the curve.
    legacy: count the last pixel, as VOC's own code does: a box from pixel 3 to pixel 5 is 3 wide.
    """
    if points not in ("11", "all"):
        raise UsageError(f"points must be '11' or 'all', got {points!r}.")
    if not 0 <= iou < 1:
        raise UsageError(f"iou must be at least 0 and below 1, got {iou}.")
    truth, detections = read_both(ground_truth, results, own_ids=own_ids)
    objects = truth["annotations"]
    difficult = np.array([any(map(a.get, ("iscrowd", "ignore", "difficult"))) for a in objects], dtype=bool)
    right, wrong, order = _judge(objects, difficult, detections, iou, 1.0 if legacy else 0.0)

    names = class_names(truth["categories"])
    object_class = np.array([a["category_id"] for a in objects], dtype=np.int64)
    detection_class = np.array([d["category_id"] for d in detections], dtype=np.int64)[order]
    measure = _eleven_points if points == "11" else _area_under_curve
    per_class, counts = {}, {}
    for category, name in names.items():
        counts[name] = int(np.sum((object_class == category) & ~difficult))
        mine = detection_class == category
        per_class[name] = (
            measure(np.cumsum(right[mine]), np.cumsum(wrong[mine]), counts[name]) if counts[name] else -1.0
        )
    defined = [value for value in per_class.values() if value >= 0]
    return VocMetrics(
        mAP=sum(defined) / len(defined) if defined else -1.0,
        per_class=per_class,
        objects=counts,
        iou=iou,
        points=points,
        legacy=legacy,
        images=len(truth["images"]),
        left_out=truth["left_out"],
        difficult=int(difficult.sum()),
        detections=len(detections),
    )


def voc07(split: Split, results: Results, keypoints: KeypointSet | None = None) -> VocMetrics:
    return evaluate_voc(split.to_coco(), results, points="11")


def voc12(split: Split, results: Results, keypoints: KeypointSet | None = None) -> VocMetrics:
    return evaluate_voc(split.to_coco(), results, points="all")


@dataclass(frozen=True)
class VocMetrics:
    """mAP: the mean over the classes that have objects. per_class: class name -> AP in `[0, 1]`, -1 if it has none.

    objects: class name -> how many objects, difficult ones apart.
    """

    mAP: float
    per_class: dict[str, float]
    objects: dict[str, int]
    iou: float
    points: str
    legacy: bool
    images: int
    left_out: int
    difficult: int
    detections: int

    def to_dict(self) -> dict[str, Any]:
        """`mAP`, `per_class`, `objects` and `protocol`: ready for JSON, never NaN."""
        return {
            "mAP": self.mAP,
            "per_class": dict(self.per_class),
            "objects": dict(self.objects),
            "protocol": {
                "name": "VOC",
                "iou": self.iou,
                "points": self.points,
                "legacy": self.legacy,
                "images": self.images,
                "left_out": self.left_out,
                "detections": self.detections,
            },
        }

    def table(self) -> str:
        """The mean, the protocol it was measured by, and AP per class, as lines for a terminal."""
        how = "11 recall points" if self.points == "11" else "area under the curve"
        difficult = f" and {self.difficult:,} difficult" if self.difficult else ""
        lines = [
            f"VOC protocol: {images_measured(self.images, self.left_out)}, "
            f"{counted(sum(self.objects.values()), 'object')}{difficult}, {counted(self.detections, 'detection')}",
            f"IoU above {self.iou:g}, {how}, {'last pixel counted (legacy)' if self.legacy else 'continuous boxes'}",
            "",
        ]
        rows = {"all classes": (sum(self.objects.values()), self.mAP)}
        rows |= {name: (self.objects[name], value) for name, value in self.per_class.items()}
        return "\n".join([*lines, *class_table((f"AP{round(100 * self.iou)}",), rows, "mean")])


def _judge(
    objects: Sequence[Mapping[str, Any]],
    difficult: np.ndarray,
    detections: Sequence[Mapping[str, Any]],
    iou: float,
    extra: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which detections are right and which are wrong `[D]` bool, best first, and that order as indices `[D]`."""
    order = np.argsort(-np.array([d["score"] for d in detections], dtype=np.float64), kind="stable")
    taken = [detections[index] for index in order]
    cells: dict[tuple[int, int], int] = {}
    object_cells = _cells(objects, cells)
    best, overlap = _best_object(corners(objects, extra), object_cells, corners(taken, extra), _cells(taken, cells))
    reaches = overlap > iou
    hits_difficult = reaches & np.append(difficult, False)[best]
    claims = np.flatnonzero(reaches & ~hits_difficult)
    right = np.zeros(len(taken), dtype=bool)
    right[claims[np.unique(best[claims], return_index=True)[1]]] = True  # the first to claim each object
    return right, ~right & ~hits_difficult, order


def _cells(records: Sequence[Mapping[str, Any]], cells: dict[tuple[int, int], int]) -> np.ndarray:
    """`[N]` int64, one number for each pair of image and class; `cells` learns the pairs it has not met."""
    pairs = ((record["image_id"], record["category_id"]) for record in records)
    return np.array([cells.setdefault(pair, len(cells)) for pair in pairs], dtype=np.int64)


def _best_object(
    boxes: np.ndarray, cells: np.ndarray, taken: np.ndarray, taken_cells: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each detection the object of its image and class that it overlaps most, -1 for none, and the overlap."""
    detection, candidate = pairs_of_same(taken_cells, cells)
    pair_iou = paired_iou(taken[detection], boxes[candidate])
    best, overlap = np.full(len(taken), -1), np.zeros(len(taken))
    np.maximum.at(overlap, detection, pair_iou)
    winners = np.flatnonzero(pair_iou == overlap[detection])
    compared, of_each = np.unique(detection[winners], return_index=True)  # the first where two overlap equally
    best[compared] = candidate[winners[of_each]]
    return best, overlap


def _eleven_points(right: np.ndarray, wrong: np.ndarray, objects: int) -> float:
    """right, wrong: running counts, best detection first. The best precision at each recall or beyond, averaged."""
    precision = right / np.maximum(right + wrong, 1)
    reached = [precision[10 * right >= tenths * objects] for tenths in range(11)]
    return sum(float(values.max()) if values.size else 0.0 for values in reached) / 11


def _area_under_curve(right: np.ndarray, wrong: np.ndarray, objects: int) -> float:
    """The area under precision over recall, after precision is made to fall only (as from VOC 2010 on)."""
    precision = right / np.maximum(right + wrong, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    gained = np.diff(right, prepend=0)
    return float((gained * envelope).sum() / objects)
