"""Can a detector of masks or keypoints learn a few photographs by heart? It trains on them and is measured on them.

    python benchmarks/overfit.py COCO_FOLDER OUT [--model mask_rcnn_resnet18_fpn] [--body FILE] [--size 256]
    python benchmarks/overfit.py COCO_FOLDER OUT --model keypoint_rcnn_resnet18_fpn --annotations person_keypoints_train

A proof that targets, loss and decoding fit together, on a CPU: a mistake in any of them bounds what can be reached. It
says nothing about photographs that were not seen. The photographs are the first in the order of the file that show an
object, one with keypoints where the file has them, and none, crowds aside, below `--smallest` pixels at the input (the
square root of the area of its box): cells of the finest level are 4 pixels wide. A run that was stopped goes on where
it was; `--epochs 0` trains no further.

--picture draws what is found in those of them that may be changed and shown to anyone, and prints where they are from.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from PIL import Image

import aweigh
from aweigh.evaluation.metrics import VALIDATED
from aweigh.training.logs.json_lines import read_log
from aweigh.visualise.pictures import draw_detections
from aweigh.visualise.sheet import grid

FREE = (4, 7, 8)  # COCO's numbers for CC BY, no known restrictions, works of the US government


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with images/ and annotations/")
    parser.add_argument("out", type=Path)
    parser.add_argument("--annotations", default="instances_train", help="which file of annotations/")
    parser.add_argument("--model", default="mask_rcnn_resnet18_fpn")
    parser.add_argument("--arguments", nargs="*", default=["channels=64", "sampled=64"], help="of its builder")
    parser.add_argument("--body", default="none", help="weights of the backbone to start from, as `aweigh train` takes")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--smallest", type=float, default=16.0, help="pixels at the input")
    parser.add_argument("--size", type=int, default=256, help="long side of the input")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    run = options.out / "run"
    command: list[str] = []
    if not (run / "last").exists():
        write_chosen(options)
        command = ["train", str(options.out / "data"), "--val-split", "train", "--output", str(run)]
        command += ["--model", options.model, "--arguments", *options.arguments, "--backbone-weights", options.body]
        command += ["--backbone-norm", "frozen_bn"]
        command += ["--short", "0", "--long", str(options.size), "--aug", "none", "--batch", str(options.batch)]
        command += ["--epochs", str(options.epochs), "--eval-every", str(max(1, options.epochs // 5))]
        command += ["--optimizer", "adamw", "--lr", str(options.lr), "--lr-batch", "0", "--bias-lr", "1"]
        command += ["--workers", "0", "--warmup", "100"]
    elif options.epochs:
        command = ["resume", str(run)]
    if command:
        subprocess.run([sys.executable, "-m", "aweigh", *command], check=True)
    print(report(run))
    if options.picture:
        draw(options, run)


def write_chosen(options: argparse.Namespace) -> None:
    """The chosen photographs as a data set of the classes they show."""
    given = json.loads((options.data / "annotations" / f"{options.annotations}.json").read_text(encoding="utf-8"))
    images = chosen(given, options)
    ids = {image["id"] for image in images}
    annotations = [annotation for annotation in given["annotations"] if annotation["image_id"] in ids]
    shown = {annotation["category_id"] for annotation in annotations}
    categories = [category for category in given["categories"] if category["id"] in shown]
    kept = {**given, "images": images, "annotations": annotations, "categories": categories}
    folder = options.out / "data" / "annotations"
    folder.mkdir(parents=True)
    (folder / "instances_train.json").write_text(json.dumps(kept), encoding="utf-8")
    (options.out / "data" / "images").symlink_to((options.data / "images").resolve())


def chosen(given: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    sides, marked = defaultdict(list), set()
    for annotation in given["annotations"]:
        if annotation.get("num_keypoints", 1):
            marked.add(annotation["image_id"])
        if not annotation["iscrowd"]:
            sides[annotation["image_id"]].append((annotation["bbox"][2] * annotation["bbox"][3]) ** 0.5)
    images = []
    for image in given["images"]:
        scale = options.size / max(image["height"], image["width"])
        if image["id"] in marked and min(sides[image["id"]], default=0) * scale >= options.smallest:
            images.append(image)
    if len(images) < options.images:
        raise SystemExit(f"Only {len(images)} photographs have objects, and none below {options.smallest} pixels.")
    return images[: options.images]


def report(run: Path) -> str:
    """AP and AP50 of all that was measured, in the last epoch in which it was."""
    row = [row for row in read_log(run / "log.jsonl") if row["kind"] == "epoch" and "AP" in row][-1]
    lines = [f"epoch {row['epoch']}", "", "| | AP | AP50 |", "|---|---:|---:|"]
    for name, metric in VALIDATED.items():
        if metric.prefix + "AP" in row:
            values = (row.get(metric.prefix + number) for number in ("AP", "AP50"))
            shown = ["-" if value is None else f"{value:.3f}" for value in values]
            lines.append(f"| {name} | {shown[0]} | {shown[1]} |")
    return "\n".join(lines)


def draw(options: argparse.Namespace, run: Path) -> None:
    known = json.loads((options.out / "data" / "annotations" / "instances_train.json").read_text(encoding="utf-8"))
    licences = {licence["id"]: f"{licence['name']} ({licence['url']})" for licence in known["licenses"]}
    predictor = aweigh.load(run / "best.safetensors")
    pictures = []
    for image in known["images"]:
        if image["license"] in FREE:
            path = options.out / "data" / "images" / image["file_name"]
            pictures.append(draw_detections(Image.open(path).convert("RGB"), predictor(path), min_score=0.5))
            print(f"{image['flickr_url']}: {licences[image['license']]}")
    grid(pictures, columns=len(pictures), cell_wh=(400, 400)).save(options.picture, quality=85)


if __name__ == "__main__":
    main()
