"""Ground truth and results in COCO's form, read and checked, so that a metric never sees what it cannot measure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import hotcoco.mask

from aweigh.errors import DataError, counted, escaped, some_of
from aweigh.results.coco import Named, ResultsFile, read_results_file

IouType = Literal["bbox", "segm", "keypoints"]
GroundTruth = Mapping[str, Any] | str | Path
Results = Sequence[Mapping[str, Any]] | str | Path


def read_both(
    ground_truth: GroundTruth, results: Results, iou_type: IouType = "bbox", *, own_ids: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and results that fit each other, see `read_ground_truth` and `read_results`."""
    truth = read_ground_truth(ground_truth, iou_type)
    return truth, read_results(results, truth, iou_type, own_ids=own_ids)


def read_ground_truth(source: GroundTruth, iou_type: IouType = "bbox") -> dict[str, Any]:
    """`images`, `categories` and `annotations`, each annotation with id, bbox, area and iscrowd (0 or 1), and
    `left_out`: how many images belong to the data besides, and could not be read.

    What is missing is filled in on copies: the area is that of the segmentation where there is one, else of the box.
    For masks, an object without one, among others that have one, becomes a crowd region of its box, marked `no_mask`.
    """
    truth = _read(source, "ground truth")
    if not isinstance(truth, Mapping) or not {"images", "annotations", "categories"} <= set(truth):
        got = f"the keys {', '.join(map(str, truth))}" if isinstance(truth, Mapping) else type(truth).__name__
        raise DataError(f"The ground truth must be a COCO dictionary: images, annotations, categories; got {got}.")
    images = _by_id(truth["images"], "images")
    categories = _by_id(truth["categories"], "categories")
    if iou_type == "segm" and truth["annotations"] and not any(map(_segmented, truth["annotations"])):
        raise DataError("No object of the ground truth has a segmentation, which measuring masks needs; measure boxes.")
    annotations = []
    for index, given in enumerate(truth["annotations"]):
        annotation = dict(given)
        where = f"annotation {annotation.get('id', f'number {index}')} of the ground truth"
        if annotation.get("image_id") not in images:
            raise DataError(f"The {where} is for image {annotation.get('image_id')!r}, which is not in `images`.")
        if annotation.get("category_id") not in categories:
            raise DataError(f"The {where} is of category {annotation.get('category_id')!r}, not in `categories`.")
        _complete(annotation, images[annotation["image_id"]], iou_type, where)
        annotations.append(annotation)
    ids = [annotation.get("id") for annotation in annotations]
    if not all(isinstance(number, Integral) and int(number) >= 1 for number in ids) or len(set(ids)) < len(ids):
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
    return {
        "images": list(truth["images"]),
        "categories": list(truth["categories"]),
        "annotations": annotations,
        "left_out": int(truth.get("left_out", 0)),
    }


def read_results(
    source: Results, truth: dict[str, Any], iou_type: IouType = "bbox", *, own_ids: bool = False
) -> list[dict[str, Any]]:
    """Results that fit the ground truth, each with image_id, category_id, score and the field that is measured.

    source: results whose ids are those of the ground truth, or a file, whose images and categories are then joined by
    their names. own_ids: the ids in the file are those of the ground truth, though nothing in it says so. Images that
    could not be read, as the file says, are taken out of the ground truth `read_ground_truth` gave, and counted there.
    """
    results = joined(read_results_file(source), truth, own_ids=own_ids) if isinstance(source, str | Path) else source
    if isinstance(results, Mapping) or not isinstance(results, Sequence):
        raise DataError(f"COCO results are a list with one dictionary per detection, got {type(results).__name__}.")
    key = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[iou_type]
    images = {image["id"]: image for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    points = next((len(known) for entry in truth["annotations"] if (known := entry.get("keypoints"))), 0)
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
                f"{some_of(sorted(categories), 8)}; results carry the data set's own category ids."
            )
        if not math.isfinite(result["score"]):
            raise DataError(f"Result {index} has the score {result['score']}; a score must be finite.")
        if key == "bbox":
            _check_box(result["bbox"], f"result {index}")
        elif key == "segmentation":
            _check_size(result["segmentation"], images[result["image_id"]], index)
        elif points and (len(result["keypoints"]) != points or not all(map(math.isfinite, result["keypoints"]))):
            raise DataError(
                f"Result {index} has {counted(len(result['keypoints']), 'number')} as keypoints; expected {points} "
                f"finite ones, (x, y, score) of the {counted(points // 3, 'keypoint')} of the ground truth."
            )
        found.append({name: result[name] for name in ("image_id", "category_id", "score", key)})
    return found


def joined(file: ResultsFile, truth: dict[str, Any], *, own_ids: bool) -> list[Any]:
    """The results of a file with the ids of the ground truth, as `read_results` takes them; those of its classes alone.

    Images that could not be read, as the file says, are taken out of the ground truth, and counted there.
    """
    known = {
        image["id"]: Named(
            str(image.get("file_name") or image["id"]),
            (image["width"], image["height"]) if image.get("width") and image.get("height") else None,
        )
        for image in truth["images"]
    }
    ids = {number: number for number in known}
    image_of, strangers = file.joined(known, ids, what="the ground truth", own_ids=own_ids)
    if file.images is None or own_ids:
        return file.entries
    if strangers:
        raise DataError(
            f"{file.path}: the ground truth does not have {strangers}; are these the results of another split?"
        )
    unread = {image_of[number] for number, image in file.images.items() if image.unread}
    if unread:
        truth["images"] = [image for image in truth["images"] if image["id"] not in unread]
        truth["annotations"] = [entry for entry in truth["annotations"] if entry["image_id"] not in unread]
        truth["left_out"] += len(unread)
    category_of: dict[int, int] = {}
    if file.categories is not None:
        of_name = {str(entry.get("name", entry["id"])): entry["id"] for entry in truth["categories"]}
        category_of = {number: of_name[name] for number, name in file.categories.items() if name in of_name}
        if file.categories and not category_of:
            theirs = some_of(list(file.categories.values()), 8)
            raise DataError(
                f"{file.path}: none of its classes is one of the ground truth's: {theirs} there, "
                f"{some_of(list(of_name), 8)} here."
            )
    kept = []
    for entry in file.entries:
        known_class = file.categories is None or entry.get("category_id") in category_of
        if isinstance(entry, dict) and entry.get("image_id") in image_of and known_class:
            category = category_of.get(entry["category_id"], entry["category_id"])
            kept.append({**entry, "image_id": image_of[entry["image_id"]], "category_id": category})
    return kept


def class_names(categories: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Category id -> name, in order of the ids; a name that stands for several gets its id added."""
    names = [str(category.get("name", category["id"])) for category in categories]
    return {
        category["id"]: f"{name} (id {category['id']})" if names.count(name) > 1 else name
        for category, name in sorted(zip(categories, names), key=lambda pair: pair[0]["id"])
    }


def images_measured(images: int, left_out: int) -> str:
    """`"4 images"`, or `"3 of 4 images"` where one could not be read."""
    return f"{images:,} of {counted(images + left_out, 'image')}" if left_out else counted(images, "image")


def three_decimals(value: float) -> str:
    """A share as `"0.505"`; -1, which stands for "not defined", as `"-"`."""
    return "-" if value < 0 else f"{value:.3f}"


def class_table(titles: Sequence[str], rows: Mapping[str, tuple[float, ...]], means: str) -> list[str]:
    """The lines of a table with a row for each class: how many objects it has, then its shares under the titles.

    means: what a class without objects is left out of, for the note below.
    """
    width = max(len(escaped(name)) for name in ("class", *rows))
    lines = [f"{'class':<{width}}  objects" + "".join(f"  {title:>5}" for title in titles)]
    for name, (objects, *shares) in rows.items():
        cells = "".join(f"  {three_decimals(share):>5}" for share in shares)
        lines.append(f"{escaped(name):<{width}}  {objects:>7}{cells}")
    if any(min(shares) < 0 for _, *shares in rows.values()):
        lines.append(f"(- no such object in the ground truth; left out of the {means})")
    return lines


def _read(source: Any, what: str) -> Any:
    if not isinstance(source, str | Path):
        return source
    try:
        return json.loads(Path(source).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"The {what} {source} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise DataError(f"The {what} {source} is not valid JSON: {error}.") from error


def _by_id(entries: Sequence[Mapping[str, Any]], what: str) -> dict[int, Mapping[str, Any]]:
    found: dict[int, Mapping[str, Any]] = {}
    for index, entry in enumerate(entries):
        if not isinstance(entry.get("id"), Integral):
            raise DataError(f"Entry {index} of `{what}` has the id {entry.get('id')!r}; it must be a whole number.")
        if entry["id"] in found:
            raise DataError(f"The id {entry['id']} occurs twice in `{what}` of the ground truth; ids must be distinct.")
        found[entry["id"]] = entry
    return found


def _complete(annotation: dict[str, Any], image: Mapping[str, Any], iou_type: IouType, where: str) -> None:
    segmented = _segmented(annotation)
    if iou_type == "keypoints" and "num_keypoints" not in annotation:
        annotation["num_keypoints"] = sum(visible > 0 for visible in annotation.get("keypoints", ())[2::3])
    if annotation.get("bbox") is None and segmented:
        annotation["bbox"] = hotcoco.mask.to_bbox(_rle(annotation, image)).tolist()
    _check_box(annotation.get("bbox"), where)
    if annotation.get("area") is None:
        width, height = annotation["bbox"][2:]
        annotation["area"] = float(hotcoco.mask.area(_rle(annotation, image)) if segmented else width * height)
    annotation["iscrowd"] = int(bool(annotation.get("iscrowd")))
    if iou_type == "segm" and not segmented:
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        annotation |= {"iscrowd": 1, "no_mask": True}


def _segmented(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation.get("segmentation"))


def _rle(annotation: Mapping[str, Any], image: Mapping[str, Any]) -> Any:
    """The run-length form of a segmentation, which is polygons or run lengths already."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, Mapping):
        return dict(segmentation)
    if "height" not in image or "width" not in image:
        raise DataError(f"Image {image['id']} of the ground truth has no height and width, which its polygons need.")
    return hotcoco.mask.merge(hotcoco.mask.fr_py_objects(segmentation, image["height"], image["width"]))


def _check_box(box: Any, where: str) -> None:
    if box is None or len(box) != 4 or not all(map(math.isfinite, box)):
        raise DataError(f"The {where} has the bbox {box}; it must be four finite numbers x, y, width, height.")


def _check_size(segmentation: Any, image: Mapping[str, Any], index: int) -> None:
    """Run lengths are those of a mask as large as the image, where its size is known."""
    size = [image.get("height"), image.get("width")]
    if isinstance(segmentation, Mapping) and None not in size and list(segmentation.get("size", ())) != size:
        raise DataError(
            f"Result {index} has run lengths for the size {segmentation.get('size')}, but image {image['id']} is "
            f"{size} (height, width)."
        )
