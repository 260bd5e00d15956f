"""COCO's average recall of proposals: how many objects, of any class, the best boxes of each image reach.

The protocol is COCO's with `useCats = 0`, as if all were of one class: the mean over IoU 0.50:0.95 of the share of
objects that are matched by one of the best 100 or 1,000 boxes of their image. The matching is hotcoco's, whose numbers
are pycocotools' to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aweigh.annotations.proposals import Proposals
from aweigh.annotations.split import Split
from aweigh.classes import KeypointSet
from aweigh.errors import DataError, UsageError, counted
from aweigh.evaluation.coco import AREAS, curves, mean_of_defined
from aweigh.evaluation.records import GroundTruth, images_measured, read_ground_truth, three_decimals

LIMITS = (100, 1000)
OBJECT = {"id": 1, "name": "object"}  # of an array without a column for it hotcoco makes category 1


@dataclass(frozen=True)
class ProposalRecall:
    """numbers: `AR100`, `AR1000`, then `AR100s`, `AR1000s`, `AR100m` and so on (objects up to 32² pixels, up to 96²,
    above), each in `[0, 1]`, or -1 where there is no such object. proposals: boxes in all images together."""

    numbers: dict[str, float]
    images: int
    left_out: int
    objects: int
    crowds: int
    proposals: int
    limits: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """The numbers by name, then `protocol`: ready for JSON, never NaN."""
        return {
            **self.numbers,
            "protocol": {
                "name": "COCO average recall of proposals, classes left aside",
                "iou": [0.5, 0.95],
                "limits": list(self.limits),
                "areas": {name: list(ends) for name, ends in AREAS.items()},
                "images": self.images,
                "left_out": self.left_out,
                "objects": self.objects,
                "proposals": self.proposals,
            },
        }

    def table(self) -> str:
        """The numbers and the protocol they were measured by, as lines for a terminal."""
        crowds = f" and {counted(self.crowds, 'crowd region')}" if self.crowds else ""
        of_each = f"{self.proposals / max(1, self.images):.0f} of each on average"
        lines = [
            f"COCO recall of proposals: {images_measured(self.images, self.left_out)}, "
            f"{counted(self.objects, 'object')}{crowds}, "
            f"{counted(self.proposals, 'proposal')}, {of_each}",
            "mean recall over IoU 0.50:0.95, classes left aside; object area in pixels: small up to 32², medium to 96²",
            "",
            f"{'proposals':<9}  {'all':>6}" + "".join(f"  {name:>6}" for name in ("small", "medium", "large")),
        ]
        for limit in self.limits:
            values = [self.numbers[f"AR{limit}{size}"] for size in ("", "s", "m", "l")]
            lines.append("  ".join([f"{limit:<9,}", *(f"{three_decimals(value):>6}" for value in values)]))
        return "\n".join(lines)


def recall(split: Split, results: Sequence[Mapping[str, Any]], keypoints: KeypointSet | None = None) -> ProposalRecall:
    """That of detections, classes left aside."""
    rows = [(result["image_id"], *result["bbox"], result["score"]) for result in results]
    return average_recall(split.to_coco(masks=False), np.array(rows, dtype=np.float64).reshape(-1, 6))


def recall_of(proposals: Proposals, split: Split, unread: Sequence[int] = ()) -> ProposalRecall:
    """How many objects the proposals of a split reach. unread: rows of images that could not be read, left out."""
    rows = np.setdiff1d(np.arange(len(split)), np.array(unread, dtype=np.int64))
    split = split.without(unread)
    return average_recall(split.to_coco(masks=False), proposals.take(rows).results(split.image_ids))


def average_recall(
    ground_truth: GroundTruth, proposals: np.ndarray, *, limits: Sequence[int] = LIMITS
) -> ProposalRecall:
    """The recall of the best `limits[k]` proposals of each image.

    ground_truth: a COCO dictionary or the JSON file that holds one; crowd regions are no objects, and what is matched
    with one is no mistake. proposals: `[P, 6]` float64: image id, x, y, width, height, score; in any order.
    """
    if not limits or min(limits) < 1 or list(limits) != sorted(set(limits)):
        raise UsageError(f"limits must be numbers above 0 that rise, got {list(limits)}.")
    truth = read_ground_truth(ground_truth)
    ids = np.array([image["id"] for image in truth["images"]], dtype=np.float64)
    if proposals.ndim != 2 or proposals.shape[1] != 6 or not np.isfinite(proposals).all():
        raise DataError(f"Proposals must be finite numbers [P, 6], got {list(proposals.shape)}.")
    if unknown := set(np.unique(proposals[:, 0]).tolist()) - set(ids.tolist()):
        raise DataError(f"There are proposals for image {min(unknown):g}, which the ground truth does not have.")
    objects = [annotation for annotation in truth["annotations"] if not annotation["iscrowd"]]

    annotations = [{**annotation, "category_id": OBJECT["id"]} for annotation in truth["annotations"]]
    of_one_class = {**truth, "annotations": annotations, "categories": [OBJECT]}
    given = np.ascontiguousarray(proposals, dtype=np.float64)
    _, recall = curves(of_one_class, given, "bbox", limits)  # [IoU thresholds, 1, areas, limits]
    return ProposalRecall(
        numbers={
            f"AR{limit}{'' if name == 'all' else name[0]}": mean_of_defined(recall[:, :, area, k])
            for area, name in enumerate(AREAS)
            for k, limit in enumerate(limits)
        },
        images=len(ids),
        left_out=truth["left_out"],
        objects=len(objects),
        crowds=len(truth["annotations"]) - len(objects),
        proposals=len(proposals),
        limits=tuple(limits),
    )
