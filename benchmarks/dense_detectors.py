"""FCOS, RetinaNet and EfficientDet trained from the same start with the same budget, and what they cost.

    python benchmarks/dense_detectors.py DATA OUT [--steps 500] [--size 256] [--only NAME ...] [--markdown FILE]

All stand on EfficientNet-B0 with the same random weights, with neck and head as wide and as deep as EfficientDet-D0's
(64 channels, three convolutions), and see the same images in the same order. The optimiser is AdamW, whose steps do
not depend on how a loss is scaled. Measured on the test split, which is used for nothing else; the time of a step is
the median of its run, reading included.

Memory is what torch's CPU allocator holds at the peak, above what it held before: of one training step of 8 images;
and of the assignment alone for one image of 800 x 1344 with 20 objects, as it runs (in portions of a bounded size)
and all at once.

A run that is there already is not run again: the whole can be stopped and gone on with, or shared out: `--only` some
detectors, each in a process of its own, and then once more for the table of all.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import peak_memory, processor, step_seconds
from torch import Tensor

import aweigh
from aweigh.inference.measure import measure
from aweigh.layouts.load import load_split
from aweigh.models import create
from aweigh.models.fcos import FCOSOutput
from aweigh.models.retinanet import RetinaNetOutput
from aweigh.ops.matching import by_adaptive_samples, by_overlap
from aweigh.structures import Images, Targets
from aweigh.training.config import TrainConfig
from aweigh.training.prepare import builder_arguments

BODY = "tf_efficientnet_b0"
ONE_ANCHOR = ("scale=8", "per_octave=1", "ratios=[1.0]")
DETECTORS: dict[str, tuple[str, tuple[str, ...]]] = {
    "FCOS": ("fcos_timm_fpn", (f"backbone={BODY}", "channels=64", "head_convs=3")),
    "RetinaNet": ("retinanet_timm_fpn", (f"backbone={BODY}", "channels=64", "convs=3")),
    "EfficientDet-D0": ("efficientdet_d0", ("stride_divisor=32",)),
    "FCOS, ATSS": ("fcos_timm_fpn", (f"backbone={BODY}", "channels=64", "head_convs=3", "assignment=adaptive")),
    "RetinaNet, one anchor, ATSS": (
        "retinanet_timm_fpn",
        (f"backbone={BODY}", "channels=64", "convs=3", *ONE_ANCHOR, "assignment=adaptive"),
    ),
}
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--size", type=int, default=256, help="long side of the images")
    parser.add_argument("--only", nargs="+", choices=DETECTORS, default=list(DETECTORS), metavar="NAME")
    parser.add_argument("--recipe", default="bccd")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    lines = [
        f"aweigh {aweigh.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads, {processor()}; "
        f"{time.strftime('%Y-%m-%d')}; {options.data.name}, test split, {options.size} px, {options.steps} steps of "
        f"{BATCH}, recipe {options.recipe}",
        "",
        "| | parameters | AP | AP50 | a step | its memory | assignment, as it runs | at once |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in options.only:
        row = result(options, name) | memory(name, options.size)
        lines.append(
            f"| {name} | {row['parameters'] / 1e6:.2f} M | {row['AP']:.3f} | {row['AP50']:.3f} "
            f"| {row['step']:.2f} s | {row['of step']:.0f} MiB | {row['assignment']:.1f} MiB "
            f"| {row['at once']:.1f} MiB |"
        )
    print("\n".join(lines))
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


def result(options: argparse.Namespace, name: str) -> dict[str, float]:
    """AP and AP50 on the test split, and the median seconds of a step."""
    folder = options.out / name.lower().replace(", ", "_").replace(" ", "_")
    kept = folder / "test.json"
    if not kept.exists():
        builder, arguments = DETECTORS[name]
        command = [sys.executable, "-m", "aweigh", "train", str(options.data), "--recipe", options.recipe]
        command += ["--model", builder, "--init", "none", "--backbone-norm", "bn"]
        command += ["--short", "0", "--long", str(options.size), "--batch", str(BATCH), "--val-split", "none"]
        command += ["--optimizer", "adamw", "--lr", "0.001", "--lr-batch", str(BATCH), "--weight-decay", "0.05"]
        command += ["--iterations", str(options.steps), "--workers", "0", "--output", str(folder)]
        command += ["--arguments", *arguments]
        subprocess.run(command, check=True)
        predictor = aweigh.load(folder / "last.safetensors", device="cpu")
        measured = measure(predictor.engine.model, predictor.resize, load_split(options.data, "test"), ["boxes"])
        metrics = measured.metrics["boxes"].to_dict()
        seconds = statistics.median(step_seconds(folder))
        kept.write_text(json.dumps({"AP": metrics["AP"], "AP50": metrics["AP50"], "step": seconds}))
    read: dict[str, float] = json.loads(kept.read_text())
    return read


def memory(name: str, size: int) -> dict[str, float]:
    """Parameters, and MiB at the peak of a step and of the assignment."""
    builder, arguments = DETECTORS[name]
    torch.manual_seed(0)
    model = create(builder, num_classes=3, **builder_arguments(TrainConfig(arguments=arguments)))
    model.train().to(memory_format=torch.channels_last)
    height = size * 3 // 4
    images = Images.stack([torch.rand(3, height, size)] * BATCH, divisor=model.stride_divisor)
    images = images.to("cpu", memory_format=torch.channels_last)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        torch.stack(list(model(images, [objects(height, size)] * BATCH).values())).sum().backward()

    step()
    of_step = peak_memory(step)
    with torch.no_grad():
        raw = model.eval().network(torch.rand(1, 3, 800, 1344))
    target = objects(800, 1344)
    return {
        "parameters": sum(value.numel() for value in model.parameters()),
        "of step": of_step / 2**20,
        "assignment": peak_memory(lambda: assign(model, raw, target, 64 * 2**20)) / 2**20,
        "at once": peak_memory(lambda: assign(model, raw, target, 2**60)) / 2**20,
    }


def assign(model: Any, raw: Any, target: Targets, byte_budget: int) -> Tensor:
    """Which point or anchor of one image learns which object, as the detector has it."""
    if isinstance(raw, FCOSOutput):
        portions = partial(model.candidates, byte_budget=byte_budget)
        matched: Tensor = model.assign(raw.points, target, candidates=portions)
        return matched
    if isinstance(raw, RetinaNetOutput) and model.assignment == "adaptive":
        return by_adaptive_samples(
            raw.anchors, target.boxes, per_level=9 * model.head.num_anchors, byte_budget=byte_budget
        )
    if isinstance(raw, RetinaNetOutput):
        anchors = torch.cat(raw.anchors)
        return by_overlap(anchors, target.boxes, positive=0.5, negative=0.4, byte_budget=byte_budget)
    return by_overlap(raw.anchors, target.boxes, positive=0.5, negative=0.5, rescue="one", byte_budget=byte_budget)


def objects(height: int, width: int, count: int = 20) -> Targets:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([width, height])
    corner = torch.rand(count, 2, generator=generator) * scale * 0.7
    sides = 16 + torch.rand(count, 2, generator=generator) * scale * 0.25
    return Targets(torch.cat([corner, corner + sides], dim=1), torch.randint(0, 3, (count,), generator=generator))


if __name__ == "__main__":
    main()
