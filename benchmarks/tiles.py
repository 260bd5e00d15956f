"""Tiles on drawn mosaics: training in them beside training on the shrunken image, and prediction beside SAHI's.

    python benchmarks/tiles.py train OUT [--epochs 5]    # draws OUT/mosaics, trains OUT/tiled and OUT/shrunken, exports
    python benchmarks/tiles.py draw OUT --side 12000 --objects 3000  # OUT/mosaic.png, OUT/mosaic.json
    python benchmarks/tiles.py find OUT                   # what the detector finds in it: OUT/found-aweigh.json
    python benchmarks/tiles.py sahi OUT                   # the same with SAHI: OUT/found-sahi.json
    python benchmarks/tiles.py table OUT                  # both beside the truth

`sahi` runs in an environment of its own, which has sahi, pycocotools and what aweigh needs without extras; `find` runs
in the same one, so that both have one version of everything. Both look with the graph that was exported from the
detector trained in tiles, at the same tiles, on one core, in a process of their own; SAHI is given the detector as a
model of its kind, and does the cutting and the joining. AP is COCO's without its limit of 100 detections (pycocotools);
recall and precision are of detections of score 0.5 and more, at IoU 0.5, class by class.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import aweigh
from aweigh.geometry.boxes import pairwise_iou
from aweigh.geometry.tiles import Tiles

TILES = Tiles(256, 0.25)
SURE = 0.5  # of what recall and precision are measured on
Found = Mapping[str, Any]  # boxes [N, 4], scores [N], labels [N], seconds, processor seconds, peak memory in MiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "draw", "find", "sahi", "table"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--side", type=int, default=12_000)
    parser.add_argument("--objects", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--score", type=float, default=0.05, help="the lowest of what is looked for and measured")
    options = parser.parse_args()
    if options.what == "train":
        train(options.out, options.epochs)
    elif options.what == "draw":
        draw(options.out, options.side, options.objects)
    elif options.what == "table":
        table(options.out)
    else:
        look = find if options.what == "find" else find_with_sahi
        name = "aweigh" if options.what == "find" else "sahi"
        (options.out / f"found-{name}.json").write_text(
            json.dumps(measured(look, options.out, options.batch, options.score))
        )


# --- training -------------------------------------------------------------------------------------------------------


def train(out: Path, epochs: int) -> None:
    """Two trainings of as many steps on inputs of 256 pixels: tiles of the mosaics, and whole mosaics made small."""
    from aweigh.feeding.tiles import TileRows
    from aweigh.layouts.load import load_split
    from aweigh.scenes.mosaic import write_mosaics

    data = out / "mosaics"
    if not data.exists():
        write_mosaics(data)
    rows = TileRows.of(load_split(data, "train"), TILES)
    steps = epochs * -(-len(rows) // 8)
    common = {"short": 0, "long": TILES.side, "batch": 8, "workers": 0, "device": "cpu", "eval_every": 1000}
    tiled = {"tile": TILES.side, "overlap": TILES.overlap, "epochs": epochs}
    for name, settings in (("tiled", tiled), ("shrunken", {"iterations": steps})):
        if not (out / name / "best.safetensors").exists():
            aweigh.train(data, output=str(out / name), **common, **settings)
        ap = aweigh.evaluate(str(out / name), data, split="val").to_dict()["AP"]
        print(f"{name}: {steps} steps, AP {100 * ap:.1f}")
    aweigh.export(out / "tiled", out / "tiled.onnx")


# --- the mosaic -----------------------------------------------------------------------------------------------------


def draw(out: Path, side: int, objects: int) -> None:
    from aweigh.scenes.mosaic import render_mosaic

    mosaic = render_mosaic(1_000_003, side=side, objects=objects)
    Image.fromarray(mosaic.image).save(out / "mosaic.png", compress_level=1)
    truth = {"size_hw": [side, side], "boxes": mosaic.boxes.tolist(), "labels": mosaic.labels.tolist()}
    (out / "mosaic.json").write_text(json.dumps(truth))


def measured(
    look: Callable[[Path, int, float], tuple[np.ndarray, ...]], out: Path, batch: int, score: float
) -> dict[str, Any]:
    """What is found, and what it took, on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    began, processor = time.perf_counter(), time.process_time()
    boxes, scores, labels = look(out, batch, score)
    return {
        "boxes": boxes.tolist(),
        "scores": scores.tolist(),
        "labels": labels.tolist(),
        "seconds": time.perf_counter() - began,
        "processor_seconds": time.process_time() - processor,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def find(out: Path, batch: int, score: float) -> tuple[np.ndarray, ...]:
    detector = aweigh.load(out / "tiled.onnx", threads=1)
    assert detector.tiles == TILES  # the graph keeps them
    (found,) = detector.stream([out / "mosaic.png"], batch=batch, score=score)
    assert found.error is None, found.error
    return found.boxes, found.scores, found.labels


def find_with_sahi(out: Path, batch: int, score: float) -> tuple[np.ndarray, ...]:
    from sahi.models.base import DetectionModel
    from sahi.predict import get_sliced_prediction
    from sahi.prediction import ObjectPrediction

    detector = aweigh.load(out / "tiled.onnx", threads=1, tiles=None)

    class Ours(DetectionModel):
        """The detector as SAHI takes one."""

        def load_model(self) -> None:
            self.model = detector
            self.category_mapping = {str(label): name for label, name in enumerate(detector.classes.names)}

        def perform_inference(self, image: np.ndarray) -> None:
            self._original_predictions = [detector(image, score=score)]

        def perform_batch_inference(self, images: list[np.ndarray]) -> None:
            self._original_predictions = detector(images, score=score)

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list: Any = None, full_shape_list: Any = None
        ) -> None:
            shifts = shift_amount_list or [[0, 0]]
            shifts = [shifts] if isinstance(shifts[0], int) else shifts
            shapes = full_shape_list or [None]
            shapes = [shapes] if isinstance(shapes[0], int) else shapes
            self._object_prediction_list_per_image = [
                [
                    ObjectPrediction(
                        bbox=box,
                        category_id=label,
                        category_name=detector.classes.names[label],
                        score=score,
                        shift_amount=shift,
                        full_shape=shape,
                    )
                    for box, label, score in zip(
                        found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
                    )
                ]
                for found, shift, shape in zip(self._original_predictions, shifts, shapes, strict=True)
            ]

    Image.MAX_IMAGE_PIXELS = None
    result = get_sliced_prediction(
        str(out / "mosaic.png"),
        Ours(model_path="tiled.onnx", confidence_threshold=score, device="cpu"),
        slice_height=TILES.side,
        slice_width=TILES.side,
        overlap_height_ratio=TILES.overlap,
        overlap_width_ratio=TILES.overlap,
        perform_standard_pred=False,
        verbose=0,
        batch_size=batch,
    )
    found = result.object_prediction_list
    return (
        np.array([each.bbox.to_xyxy() for each in found], dtype=np.float64).reshape(-1, 4),
        np.array([each.score.value for each in found]),
        np.array([each.category.id for each in found], dtype=np.int64),
    )


# --- the table ------------------------------------------------------------------------------------------------------


def table(out: Path) -> None:
    truth = json.loads((out / "mosaic.json").read_text())
    boxes, labels = np.array(truth["boxes"]), np.array(truth["labels"])
    across = crossing(boxes, Tiles.cut(TILES, *truth["size_hw"]))
    print(f"{len(boxes):,} objects, {int(across.sum()):,} of them cut by the edge of a tile\n")
    print("| | AP | AP50 | recall | of those cut | precision | found twice | s | processor s | peak MiB |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name in ("aweigh", "sahi"):
        path = out / f"found-{name}.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text())
        ap, ap50 = average_precision(found, boxes, labels)
        hits, twice, precision = matched(found, boxes, labels)
        print(
            f"| {name} | {100 * ap:.1f} | {100 * ap50:.1f} | {hits.mean():.4f} | {hits[across].mean():.4f} | "
            f"{precision:.4f} | {twice} | {found['seconds']:.0f} | {found['processor_seconds']:.0f} | "
            f"{found['peak_mib']:.0f} |"
        )


def crossing(boxes: np.ndarray, windows: list[tuple[int, int, int, int]]) -> np.ndarray:
    """`[N]` bool: whether a tile cuts the object in two."""
    edges = np.array(windows)
    cut = np.zeros(len(boxes), dtype=bool)
    for low, high, axis in ((0, 2, 0), (1, 3, 1)):
        for place in np.unique(np.concatenate([edges[:, low], edges[:, high]])):
            cut |= (boxes[:, axis] < place) & (boxes[:, axis + 2] > place)
    return cut


def matched(found: Found, boxes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, int, float]:
    """Of what is sure: which objects are found `[N]`, how many detections are of one that was found already, and the
    share of detections that are of an object."""
    sure = np.array(found["scores"]) >= SURE
    own, classes, scores = (np.array(found[name])[sure] for name in ("boxes", "labels", "scores"))
    hits, twice, right = np.zeros(len(boxes), dtype=bool), 0, 0
    for label in np.unique(labels):
        there, mine = np.flatnonzero(labels == label), np.flatnonzero(classes == label)
        mine = mine[np.argsort(-scores[mine], kind="stable")]
        alike = pairwise_iou(own[mine], boxes[there])
        for row in range(len(mine)):
            near = np.flatnonzero(alike[row] >= 0.5)
            free = near[~hits[there[near]]]
            if len(free):
                hits[there[free[alike[row, free].argmax()]]] = True
                right += 1
            twice += bool(len(near)) and not len(free)
    return hits, twice, right / max(1, int(sure.sum()))


def average_precision(found: Found, boxes: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """COCO's AP and AP50 without a limit of detections."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations = [
        {"id": n, "image_id": 1, "category_id": label, "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0}
        for n, (bbox, label) in enumerate(zip(as_xywh(boxes), labels.tolist(), strict=True), start=1)
    ]
    results = [
        {"image_id": 1, "category_id": label, "bbox": bbox, "score": score}
        for bbox, label, score in zip(as_xywh(np.array(found["boxes"])), found["labels"], found["scores"], strict=True)
    ]
    with redirect_stdout(io.StringIO()):
        truth = COCO()
        categories = [{"id": label} for label in np.unique(labels).tolist()]
        truth.dataset = {"images": [{"id": 1}], "categories": categories, "annotations": annotations}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.maxDets = [1, 10, 1_000_000]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # [IoU, recall, class]
    return float(precision[precision > -1].mean()), float(precision[0][precision[0] > -1].mean())


def as_xywh(boxes: np.ndarray) -> list[list[float]]:
    xywh: list[list[float]] = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    return xywh


if __name__ == "__main__":
    main()
