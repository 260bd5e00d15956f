"""How long COCO's 12 numbers take, beside pycocotools on the same data in the same process.

    python benchmarks/coco_evaluation.py [--images 5000] [--detections 100] [--out benchmarks/results/FILE.md]

The data are drawn at random with a fixed seed: 80 classes, about 7 objects in an image (COCO's val2017 has 7.3), and
`--detections` detections, a third of them near an object. Both get the same dictionaries; reading JSON is not counted.
"""

import argparse
import contextlib
import copy
import datetime
import io
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

import aweigh
from aweigh.evaluation.coco import evaluate_coco
from aweigh.evaluation.voc import evaluate_voc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="in each image")
    parser.add_argument("--out", type=Path, help="write the table there as well")
    arguments = parser.parse_args()

    truth, results = random_data(arguments.images, arguments.detections)
    ours_s, ours = seconds(lambda: list(evaluate_coco(truth, results).numbers.values()))
    voc_s, _ = seconds(lambda: evaluate_voc(truth, results))
    theirs_s, theirs = seconds(lambda: pycocotools_numbers(truth, results))
    text = "\n".join(
        [
            "| what | seconds | ratio |",
            "|---|---|---|",
            f"| pycocotools, COCO's 12 box numbers | {theirs_s:.1f} | 1 |",
            f"| aweigh, the same and AP per class | {ours_s:.1f} | {theirs_s / ours_s:.0f}x as fast |",
            f"| aweigh, VOC AP50 (all points) | {voc_s:.1f} | |",
        ]
    )
    text += (
        f"\n\n{arguments.images:,} images, {len(truth['annotations']):,} objects, {len(results):,} detections, "
        f"80 classes. Largest difference between the two: {max(abs(a - b) for a, b in zip(ours, theirs)):.1e}.\n"
    )
    print(text)
    if arguments.out is not None:
        footer = (
            f"{datetime.date.today().isoformat()}; {os.cpu_count()} CPU cores ({platform.machine()}); Python "
            f"{platform.python_version()}, numpy {np.__version__}, aweigh {aweigh.__version__}. "
            "Made by `benchmarks/coco_evaluation.py`.\n"
        )
        arguments.out.write_text(f"# The time evaluation takes\n\n{text}\n{footer}", encoding="utf-8")


def seconds(work: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def pycocotools_numbers(truth: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.copy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def random_data(images: int, detections: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rng = np.random.default_rng(0)
    truth: dict[str, Any] = {
        "images": [{"id": number, "width": 640, "height": 480} for number in range(1, images + 1)],
        "categories": [{"id": number, "name": f"class {number}"} for number in range(1, 81)],
        "annotations": [],
    }
    results = []
    for number in range(1, images + 1):
        count = int(rng.poisson(7.3))
        boxes = np.concatenate([rng.uniform(0, 350, (count, 2)), 8 + 200 * rng.random((count, 2)) ** 2], 1)
        classes = rng.integers(1, 81, count)
        for box, label in zip(boxes.tolist(), classes.tolist()):
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": number,
                    "category_id": label,
                    "bbox": box,
                    "area": 0.7 * box[2] * box[3],
                    "iscrowd": int(rng.random() < 0.01),
                }
            )
        found = np.concatenate([rng.uniform(0, 350, (detections, 2)), 8 + 200 * rng.random((detections, 2)) ** 2], 1)
        labels = rng.integers(1, 81, detections)
        if count:
            near = rng.integers(count, size=detections // 3)
            found[: len(near)] = boxes[near] * rng.normal(1, 0.05, (len(near), 4))
            labels[: len(near)] = classes[near]
        for box, label, score in zip(found.tolist(), labels.tolist(), rng.random(detections).tolist()):
            results.append({"image_id": number, "category_id": label, "bbox": box, "score": score})
    return truth, results


if __name__ == "__main__":
    main()
