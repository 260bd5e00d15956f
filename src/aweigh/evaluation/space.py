"""From a split and what was found in it to KITTI's measure: objects and detections where their cameras place them."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aweigh.annotations.split import Split
from aweigh.classes import KeypointSet
from aweigh.evaluation.kitti import Found, KittiMetrics, Objects, evaluate_kitti
from aweigh.geometry.cuboids import solids_from_cuboids
from aweigh.layouts.kitti import REGION

# Of the second table that papers give, where KITTI's own overlaps leave next to nothing for one camera.
LOOSE = {"Car": 0.5, "Pedestrian": 0.25, "Cyclist": 0.25}


def kitti(split: Split, results: Sequence[Mapping[str, Any]], keypoints: KeypointSet | None = None) -> KittiMetrics:
    return kitti_metrics(split, results)


def kitti_loose(
    split: Split, results: Sequence[Mapping[str, Any]], keypoints: KeypointSet | None = None
) -> KittiMetrics:
    """By the overlaps of the second table that papers give."""
    return kitti_metrics(split, results, overlaps=LOOSE)


def kitti_metrics(
    split: Split, results: Sequence[Mapping[str, Any]], *, overlaps: Mapping[str, float] | None = None
) -> KittiMetrics:
    """KITTI's numbers of COCO results entries with a `cuboid`. overlaps: as `evaluate_kitti` has them."""
    of_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        of_image[result["image_id"]].append(result)
    names = dict(zip(split.classes.ids, split.classes.names, strict=True))
    truth, found = [], []
    for row, image_id in enumerate(split.image_ids.tolist()):
        camera = np.full((3, 4), np.nan) if split.cameras is None else split.cameras[row]
        truth.append(_objects(split, row, camera))
        found.append(_found(of_image[image_id], names, camera))
    return evaluate_kitti(truth, found, split.classes.names, overlaps=overlaps)


def _objects(split: Split, image: int, camera: np.ndarray) -> Objects:
    """The objects of one image; a region, which is there once for every class, once."""
    rows = range(int(split.first[image]), int(split.first[image + 1]))
    said = [json.loads(split.extras[row] or "{}") if split.extras is not None else {} for row in rows]
    kinds = [one.get("type", split.classes.names[split.labels[row]]) for row, one in zip(rows, said, strict=True)]
    kept = [at for at, row in enumerate(rows) if kinds[at] != REGION or split.labels[row] == 0]
    chosen = [rows[at] for at in kept]
    cuboids = np.full((len(chosen), 7), np.nan) if split.cuboids is None else split.cuboids[chosen]
    return Objects(
        [kinds[at] for at in kept],
        split.source_boxes_xywh[chosen] @ _CORNERS,
        np.array([said[at].get("truncated", 0.0) for at in kept], dtype=np.float64),
        np.array([said[at].get("occluded", 0) for at in kept], dtype=np.float64),
        _solids(cuboids, camera),
        cuboids[:, 6].astype(np.float64),
    )


def _found(results: Sequence[Mapping[str, Any]], names: Mapping[int, str], camera: np.ndarray) -> Found:
    cuboids = np.array([result["cuboid"] for result in results], dtype=np.float64).reshape(-1, 7)
    return Found(
        [names[result["category_id"]] for result in results],
        np.array([result["bbox"] for result in results], dtype=np.float64).reshape(-1, 4) @ _CORNERS,
        _solids(cuboids, camera),
        cuboids[:, 6],
        np.array([result["score"] for result in results], dtype=np.float64),
    )


def _solids(cuboids: np.ndarray, camera: np.ndarray) -> np.ndarray:
    if not np.isfinite(camera).all():
        return np.full((len(cuboids), 7), np.nan)
    return solids_from_cuboids(cuboids, camera)


_CORNERS = np.array([[1.0, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]])  # xywh @ this: xyxy
