"""COCO's numbers of any model, image after image, as a training loop or somebody else's detector has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from aweigh.detections import Detections, as_array
from aweigh.errors import DataError, UsageError, counted
from aweigh.evaluation.coco import CocoMetrics, evaluate_coco
from aweigh.evaluation.records import IouType
from aweigh.geometry.masks import count_runs, encode_counts


class Annotated(Protocol):
    """`aweigh.Targets`."""

    def arrays(self) -> dict[str, np.ndarray | None]: ...


Found = Detections | Mapping[str, Any]
Truth = Annotated | Mapping[str, Any]


class CocoEvaluator:
    """`CocoEvaluator().update(detections, targets).compute()` has COCO's numbers, those of `aweigh eval`.

    classes: their names in the order of labels; when not given, those of the detections, else numbers stand for them.
    The rest is that of `evaluate_coco`.
    """

    def __init__(
        self,
        iou_type: IouType = "bbox",
        *,
        classes: Sequence[str] = (),
        max_detections: int | None = None,
        keypoint_sigmas: Sequence[float] | None = None,
    ) -> None:
        self.iou_type, self.max_detections, self.keypoint_sigmas = iou_type, max_detections, keypoint_sigmas
        self.names = tuple(classes)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []
        self._left_out = 0

    def update(self, detections: Found | Sequence[Found], targets: Truth | Sequence[Truth]) -> CocoEvaluator:
        """Count an image, or a list of them, in the same pixels and with the same labels; returns the evaluator.

        detections: `Detections`, or `boxes` `[N, 4]` xyxy, `scores`, `labels` by name, as torchvision's models have
        them, and of what is measured `masks` `[N, H, W]` (above 0.5) or `keypoints` `[N, K, 3]`. targets: `Targets`,
        what `Split.objects` gives, or `boxes`, `labels` and where there are any `area`, `iscrowd` (or `ignore`),
        `masks`, `keypoints` by name. Arrays, tensors and lists. An image that could not be read counts as left out.
        Detections of low scores count as well: a `Predictor` has them all with `score=0`.
        """
        found, truths = _several(detections), _several(targets)
        if len(found) != len(truths):
            raise UsageError(f"update: detections of {counted(len(found), 'image')}, targets of {len(truths)}.")
        for one, truth in zip(found, truths, strict=True):
            self._add(one, truth)
        return self

    def compute(self) -> CocoMetrics:
        """The numbers of all images since it was made; more may follow."""
        if not self._images:
            raise UsageError("There is nothing to measure yet: call update(detections, targets) for each image first.")
        labels = {entry["category_id"] for entry in (*self._annotations, *self._results)}
        if self.names and not labels <= set(range(len(self.names))):
            strange = sorted(labels - set(range(len(self.names))))[0]
            raise DataError(f"The label {strange} is none of {counted(len(self.names), 'class')}, counted from 0.")
        names = dict(enumerate(self.names)) or {label: str(label) for label in sorted(labels)}
        truth = {
            "images": self._images,
            "annotations": self._annotations,
            "categories": [{"id": label, "name": name} for label, name in names.items()],
            "left_out": self._left_out,
        }
        return evaluate_coco(
            truth,
            self._results,
            iou_type=self.iou_type,
            max_detections=self.max_detections,
            keypoint_sigmas=self.keypoint_sigmas,
        )

    def _add(self, found: Found, truth: Truth) -> None:
        if isinstance(found, Detections) and found.error is not None:
            self._left_out += 1
            return
        number = len(self._images) + 1
        results = (
            self._of_detections(found, number) if isinstance(found, Detections) else self._of_arrays(found, number)
        )
        annotations = self._annotated(truth, number)
        self._images.append({"id": number})
        self._results += results
        self._annotations += annotations

    def _of_detections(self, found: Detections, number: int) -> list[dict[str, Any]]:
        self.names = self.names or found.classes.names
        entries = (found if self.iou_type == "segm" else replace(found, masks=None)).to_coco(number)
        for entry, label in zip(entries, found.labels.tolist(), strict=True):
            entry["category_id"] = label
        return entries

    def _of_arrays(self, found: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
        entries = self._entries(found, number, "detections")
        for entry, score in zip(entries, _column(found, "scores", len(entries), "detections").tolist(), strict=True):
            entry["score"] = score
        return entries

    def _annotated(self, truth: Truth, number: int) -> list[dict[str, Any]]:
        given = truth if isinstance(truth, Mapping) else truth.arrays()
        entries = self._entries(given, number, "targets")
        crowd = np.zeros(len(entries), dtype=bool)
        for name in ("iscrowd", "ignore", "uncertain"):
            if given.get(name) is not None:
                crowd |= _column(given, name, len(entries), "targets").astype(bool)
        for row, (entry, ignored) in enumerate(zip(entries, crowd.tolist(), strict=True)):
            entry |= {"id": len(self._annotations) + row + 1, "iscrowd": int(ignored)}
        if given.get("area") is not None:
            for entry, area in zip(entries, _column(given, "area", len(entries), "targets").tolist(), strict=True):
                entry["area"] = area
        return entries

    def _entries(self, given: Mapping[str, Any], number: int, what: str) -> list[dict[str, Any]]:
        """What COCO's annotations and results have in common."""
        missing = [name for name in ("boxes", "labels") if given.get(name) is None]
        if missing:
            raise DataError(
                f"The {what} have no {missing[0]}; they are a mapping with boxes and labels, or `aweigh`'s."
            )
        boxes = as_array(given["boxes"]).astype(np.float64)
        boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise DataError(f"The boxes of the {what} must be [N, 4] of (x0, y0, x1, y1), got {boxes.shape}.")
        labels = _column(given, "labels", len(boxes), what).astype(np.int64)
        entries: list[dict[str, Any]] = [
            {"image_id": number, "category_id": label, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            for (x0, y0, x1, y1), label in zip(boxes.tolist(), labels.tolist(), strict=True)
        ]
        if self.iou_type == "segm" and given.get("masks") is not None:
            masks = _column(given, "masks", len(boxes), what)
            masks = (masks[:, 0] if masks.ndim == 4 else masks) > 0.5  # [N, H, W]
            for entry, mask in zip(entries, masks, strict=True):
                counts = encode_counts(count_runs(mask, (0, 0), mask.shape)).decode("ascii")
                entry["segmentation"] = {"size": list(mask.shape), "counts": counts}
        if self.iou_type == "keypoints" and given.get("keypoints") is not None:
            for entry, points in zip(entries, _column(given, "keypoints", len(boxes), what).tolist(), strict=True):
                entry["keypoints"] = [value for point in points for value in point]
        return entries


def _several(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]


def _column(given: Mapping[str, Any], name: str, number: int, what: str) -> np.ndarray:
    values = as_array(given.get(name, ()))
    if len(values) != number:
        raise DataError(f"The {what} have {counted(number, 'box')}, but {counted(len(values), 'entry')} in {name}.")
    return values
