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
- For masks, a `bbox` beside a `segmentation` in the results is not looked at, so a detection's area is its mask's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import hotcoco
import hotcoco.mask
import numpy as np

from aweigh.errors import DataError, UsageError

IouType = Literal["bbox", "segm", "keypoints"]

# cocoeval.py, Params.setDetParams and setKpParams: object areas in pixels, both limits inclusive.
AREAS = {"all": (0.0, 1e5**2), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e5**2)}
PERSON_KEYPOINTS = 17  # COCO's own; for any other number of keypoints there are no published sigmas
UNIFORM_SIGMA = 0.05  # ours, because it is near the middle of COCO's 0.025 (nose) to 0.107 (hip)


def evaluate_coco(
    ground_truth: Mapping[str, Any] | str | Path,
    results: Sequence[Mapping[str, Any]] | str | Path,
    *,
    iou_type: IouType = "bbox",
    max_detections: int | None = None,
    keypoint_sigmas: Sequence[float] | None = None,
) -> CocoMetrics:
    """COCO's numbers for a list of results over all images of the ground truth.

    ground_truth: a COCO dictionary (`images`, `annotations`, `categories`) or the JSON file that holds one.
    results: COCO results, one dictionary per detection (`image_id`, `category_id`, `score`, and `bbox` as xywh in
    pixels, `segmentation` or `keypoints`), or the JSON file that holds them.
    max_detections: how many detections, best first, count in each image for each class; 100, or 20 for keypoints,
    when not given. The name of the last recall row follows it: `AR100` becomes `AR300`.
    keypoint_sigmas: how loosely each keypoint is placed; COCO's for 17 keypoints, else 0.05 for each.
    """
    if iou_type not in ("bbox", "segm", "keypoints"):
        raise UsageError(f"iou_type must be bbox, segm or keypoints, got {iou_type!r}.")
    max_detections = max_detections if max_detections is not None else (20 if iou_type == "keypoints" else 100)
    if max_detections < 1:
        raise UsageError(f"max_detections must be at least 1, got {max_detections}.")
    truth = _checked_truth(_read(ground_truth, "ground truth"), iou_type)
    found = _checked_results(_read(results, "results"), truth, iou_type)

    coco = hotcoco.COCO(truth)
    evaluation = hotcoco.COCOeval(coco, coco.load_res(found), iou_type)
    limits = (
        [max_detections]
        if iou_type == "keypoints"
        else sorted({min(k, max_detections) for k in (1, 10)} | {max_detections})
    )
    evaluation.params.max_dets = limits
    sigmas = _sigmas(truth, keypoint_sigmas) if iou_type == "keypoints" else None
    if sigmas is not None:
        evaluation.params.kpt_oks_sigmas = list(sigmas)
    evaluation.evaluate()
    evaluation.accumulate()
    curves = evaluation.eval
    assert curves is not None
    areas = list(evaluation.params.area_rng_lbl)
    numbers = _numbers(curves["precision"], curves["recall"], areas, limits, iou_type)
    per_class = _per_class(curves["precision"], truth["categories"], list(evaluation.params.cat_ids))
    objects = {category["id"]: 0 for category in truth["categories"]}
    for annotation in truth["annotations"]:
        if not annotation["iscrowd"] and annotation["category_id"] in objects:
            objects[annotation["category_id"]] += 1
    return CocoMetrics(
        numbers=numbers,
        per_class=per_class,
        objects=dict(zip(per_class, (objects[category] for category in evaluation.params.cat_ids))),
        iou_type=iou_type,
        max_detections=max_detections,
        images=len(truth["images"]),
        crowds=sum(bool(annotation["iscrowd"]) for annotation in truth["annotations"]),
        detections=len(found),
        keypoint_sigmas=tuple(sigmas) if sigmas is not None else None,
    )


@dataclass(frozen=True)
class CocoMetrics:
    """COCO's numbers, each in `[0, 1]`, or -1 where the ground truth has nothing to measure it on.

    numbers: in COCO's order. Boxes and masks: `AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl`; keypoints:
    `AP AP50 AP75 APm APl AR AR50 AR75 ARm ARl`. Each is also an attribute: `metrics.AP50`.
    per_class: class name -> `{"AP": ..., "AP50": ...}`. objects: class name -> its objects, crowd regions apart.
    """

    numbers: dict[str, float]
    per_class: dict[str, dict[str, float]]
    objects: dict[str, int]
    iou_type: IouType
    max_detections: int
    images: int
    crowds: int
    detections: int
    keypoint_sigmas: tuple[float, ...] | None = None

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
                "areas": {name: list(limits) for name, limits in self._areas().items()},
                "keypoint_sigmas": list(self.keypoint_sigmas) if self.keypoint_sigmas else None,
                "images": self.images,
                "detections": self.detections,
            },
        }

    def table(self) -> str:
        """The numbers, the protocol they were measured by, and AP per class, as lines for a terminal."""
        what, overlap = {
            "bbox": ("boxes", "IoU"), "segm": ("masks", "mask IoU"), "keypoints": ("keypoints", "OKS"),
        }[self.iou_type]  # fmt: skip
        crowds = f" and {_count(self.crowds, 'crowd region')}" if self.crowds else ""
        sizes = (
            "small below 32², medium, large above 96²" if self.iou_type != "keypoints" else "medium, large above 96²"
        )
        lines = [
            f"COCO {what}: {_count(self.images, 'image')}, {_count(sum(self.objects.values()), 'object')}{crowds}, "
            f"{_count(self.detections, 'detection')}",
            f"{overlap} 0.50:0.95, at most {_count(self.max_detections, 'detection')} per image and class; "
            f"object area in pixels: {sizes}",
        ]
        if self.keypoint_sigmas and len(self.keypoint_sigmas) != PERSON_KEYPOINTS:
            sigmas = " ".join(f"{sigma:g}" for sigma in dict.fromkeys(self.keypoint_sigmas))
            lines.append(f"keypoint sigmas: {sigmas} (these keypoints are not COCO's 17, so compare with care)")
        lines += ["", "  ".join(f"{name:>5}" for name in self.numbers)]
        lines += ["  ".join(f"{_number(value):>5}" for value in self.numbers.values()), ""]
        width = max([len("class"), *map(len, self.per_class)])
        lines.append(f"{'class':<{width}}  objects     AP   AP50")
        for name, values in self.per_class.items():
            lines.append(
                f"{name:<{width}}  {self.objects[name]:>7}  {_number(values['AP']):>5}  {_number(values['AP50']):>5}"
            )
        if any(values["AP"] < 0 for values in self.per_class.values()):
            lines.append("(- no such object in the ground truth; left out of the means)")
        return "\n".join(lines)

    def _areas(self) -> dict[str, tuple[float, float]]:
        return {name: limits for name, limits in AREAS.items() if self.iou_type != "keypoints" or name != "small"}


def _numbers(
    precision: np.ndarray, recall: np.ndarray, areas: list[str], limits: list[int], iou_type: IouType
) -> dict[str, float]:
    """precision: [IoU thresholds, recall thresholds, classes, areas, limits]; recall: the same without the second."""
    short = {"all": "", "small": "s", "medium": "m", "large": "l"}
    thresholds = {"": slice(None), "50": slice(0, 1), "75": slice(5, 6)}  # of 0.50, 0.55, ... 0.95
    sizes = [area for area in areas if area != "all"]
    everything = areas.index("all")

    numbers = {f"AP{name}": _mean(precision[t, :, :, everything, -1]) for name, t in thresholds.items()}
    numbers |= {f"AP{short[area]}": _mean(precision[:, :, :, areas.index(area), -1]) for area in sizes}
    if iou_type == "keypoints":
        numbers |= {f"AR{name}": _mean(recall[t, :, everything, -1]) for name, t in thresholds.items()}
    else:
        numbers |= {f"AR{limit}": _mean(recall[:, :, everything, k]) for k, limit in enumerate(limits)}
    numbers |= {f"AR{short[area]}": _mean(recall[:, :, areas.index(area), -1]) for area in sizes}
    return numbers


def _per_class(
    precision: np.ndarray, categories: Sequence[Mapping[str, Any]], order: Sequence[int]
) -> dict[str, dict[str, float]]:
    names = {category["id"]: str(category["name"]) for category in categories}
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {
        (f"{names[category]} (id {category})" if names[category] in twice else names[category]): {
            "AP": _mean(precision[:, :, k, 0, -1]),
            "AP50": _mean(precision[:1, :, k, 0, -1]),
        }
        for k, category in enumerate(order)
    }


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def _number(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _read(source: Any, what: str) -> Any:
    if not isinstance(source, str | Path):
        return source
    try:
        return json.loads(Path(source).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"The {what} {source} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise DataError(f"The {what} {source} is not valid JSON: {error}.") from error


def _checked_truth(truth: Any, iou_type: IouType) -> dict[str, Any]:
    """The ground truth with every field the evaluation needs; the dictionary given is left as it is."""
    if not isinstance(truth, Mapping) or not {"images", "annotations", "categories"} <= set(truth):
        got = f"the keys {', '.join(map(str, truth))}" if isinstance(truth, Mapping) else type(truth).__name__
        raise DataError(
            f"The ground truth must be a COCO dictionary with images, annotations and categories; got {got}."
        )
    images = {image["id"]: image for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    annotations = [dict(annotation) for annotation in truth["annotations"]]
    for index, annotation in enumerate(annotations):
        where = f"annotation {annotation.get('id', f'number {index}')} of the ground truth"
        if annotation.get("image_id") not in images:
            raise DataError(f"The {where} is for image {annotation.get('image_id')!r}, which is not in `images`.")
        if annotation.get("category_id") not in categories:
            raise DataError(f"The {where} is of category {annotation.get('category_id')!r}, not in `categories`.")
        if annotation.get("bbox") is None and annotation.get("segmentation"):
            annotation["bbox"] = hotcoco.mask.to_bbox(_rle(annotation, images)).tolist()
        _check_box(annotation.get("bbox"), where)
        if iou_type == "segm" and not annotation.get("segmentation"):
            raise DataError(f"The {where} has no segmentation, which measuring masks needs; measure boxes instead.")
        if iou_type == "keypoints" and "num_keypoints" not in annotation:
            annotation["num_keypoints"] = sum(1 for visible in annotation.get("keypoints", ())[2::3] if visible > 0)
        annotation["iscrowd"] = int(annotation.get("iscrowd") or 0)
        if annotation.get("area") is None:
            width, height = annotation["bbox"][2:]
            segmented = annotation.get("segmentation")
            annotation["area"] = float(hotcoco.mask.area(_rle(annotation, images))) if segmented else width * height
    ids = [annotation.get("id") for annotation in annotations]
    if not all(isinstance(number, int) and number >= 1 for number in ids) or len(set(ids)) < len(ids):
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
    return {"images": list(truth["images"]), "categories": list(truth["categories"]), "annotations": annotations}


def _rle(annotation: Mapping[str, Any], images: Mapping[Any, Mapping[str, Any]]) -> Any:
    """The run-length form of one segmentation: polygons, or run lengths as they are."""
    image, segmentation = images[annotation["image_id"]], annotation["segmentation"]
    if isinstance(segmentation, Mapping):
        return dict(segmentation)
    if "height" not in image or "width" not in image:
        raise DataError(f"Image {image['id']} of the ground truth has no height and width, which its polygons need.")
    return hotcoco.mask.merge(hotcoco.mask.fr_py_objects(segmentation, image["height"], image["width"]))


def _check_box(box: Any, where: str) -> None:
    if box is None or len(box) != 4 or not all(math.isfinite(number) for number in box):
        raise DataError(f"The {where} has the bbox {box}; it must be four finite numbers x, y, width, height.")


def _checked_results(results: Any, truth: Mapping[str, Any], iou_type: IouType) -> list[dict[str, Any]]:
    if isinstance(results, Mapping) or not isinstance(results, Sequence):
        raise DataError(f"COCO results are a list with one dictionary per detection, got {type(results).__name__}.")
    key = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[iou_type]
    images = {image["id"] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    found = []
    for index, result in enumerate(results):
        missing = [name for name in ("image_id", "category_id", "score", key) if result.get(name) is None]
        if missing:
            raise DataError(f"Result {index} has no {missing[0]}; each needs image_id, category_id, score and {key}.")
        if result["image_id"] not in images:
            raise DataError(
                f"Result {index} is for image {result['image_id']!r}, which the ground truth does not have; "
                "are these the results of another split?"
            )
        if result["category_id"] not in categories:
            raise DataError(
                f"Result {index} is of category {result['category_id']!r}, but the ground truth has "
                f"{_some(sorted(categories))}; results carry the data set's own category ids."
            )
        if not math.isfinite(result["score"]):
            raise DataError(f"Result {index} has the score {result['score']}; a score must be finite.")
        if key == "bbox":
            _check_box(result["bbox"], f"result {index}")
        found.append({name: result[name] for name in ("image_id", "category_id", "score", key)})
    return found


def _some(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:8])) + (f" and {len(values) - 8} more" if len(values) > 8 else "")


def _sigmas(truth: Mapping[str, Any], given: Sequence[float] | None) -> list[float] | None:
    """The sigmas to set, or None for COCO's own 17."""
    counts = {len(annotation["keypoints"]) // 3 for annotation in truth["annotations"] if annotation.get("keypoints")}
    if len(counts) > 1:
        raise DataError(f"The ground truth has objects with {sorted(counts)} keypoints; all must have the same number.")
    count = counts.pop() if counts else PERSON_KEYPOINTS
    if given is not None and len(given) != count:
        raise UsageError(f"keypoint_sigmas has {len(given)} numbers, but the objects have {count} keypoints.")
    if given is None and count != PERSON_KEYPOINTS:
        return [UNIFORM_SIGMA] * count
    return list(given) if given is not None else None
