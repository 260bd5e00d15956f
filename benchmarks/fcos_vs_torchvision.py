"""FCOS on ResNet-50 beside torchvision's, with the same weights, in one process on the CPU.

    python benchmarks/fcos_vs_torchvision.py [--size 512] [--repeats 20] [--threads 2] [--markdown FILE]

Prediction is the whole of it: a uint8 image in, boxes in its pixels out, resize and suppression included. A training
step is losses and gradients for one batch. Both models run in turn, after a warm-up; the table gives medians and
their ratio. Peak memory is what torch's CPU allocator holds during a step, above what it held before.
"""

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

import aweigh
from aweigh.data.transforms import Resize
from aweigh.models import create
from aweigh.predictor import Predictor
from aweigh.structures import Classes, Images, Targets
from aweigh.weights.convert.torchvision import fcos_from_torchvision

NUM_CLASSES = 91


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="height and width of the image")
    parser.add_argument("--batch", type=int, default=2, help="images in a training step")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = report(options.size, options.batch, options.repeats)
    print(table)
    if options.markdown:
        options.markdown.write_text(table + "\n", encoding="utf-8")


def report(size: int, batch: int, repeats: int) -> str:
    rows = []
    reference, ours = models(size)
    image = (torch.rand(3, size, size, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    predictor = Predictor(ours, Resize(short=size, long=size, antialias=False), device="cpu")
    with torch.inference_mode():
        published = with_frozen_norms(reference)
        runs = {
            "torchvision": lambda: reference([image.float() / 255])[0],
            "torchvision, frozen": lambda: published([image.float() / 255])[0],
            "aweigh": lambda: predictor(image),
        }
        theirs, mine = runs["torchvision"](), runs["aweigh"]()
        count = min(len(mine), len(theirs["boxes"]))
        apart = float((mine.boxes[:count] - theirs["boxes"][:count]).abs().max()) if count else 0.0
        plain, frozen, ours_time = in_turn(runs, repeats)
    what = f"prediction, {size} x {size}: {len(theirs['boxes'])} and {len(mine)} boxes, at most {apart:.4f} px apart"
    rows.append((what, plain, ours_time, "ms"))
    rows.append(
        ("the same, torchvision's with frozen norms, as it is built for published weights", frozen, ours_time, "ms")
    )

    images, targets = training_batch(size, batch)
    pixels = list(images.pixels)
    dictionaries = [{"boxes": target.boxes, "labels": target.labels} for target in targets]
    reference.train()
    ours.train().to(memory_format=torch.channels_last)
    batched = images.to("cpu", memory_format=torch.channels_last)
    runs = {
        "torchvision": lambda: step(reference, lambda: reference(pixels, dictionaries)),
        "aweigh": lambda: step(ours, lambda: ours(batched, targets)),
    }
    rows.append((f"training step, {batch} images of {size} x {size}", *in_turn(runs, max(3, repeats // 4)), "ms"))
    memory = [peak_memory(run) / 2**20 for run in runs.values()]
    rows.append(("peak memory of that step", *memory, "MiB"))

    lines = [
        f"aweigh {aweigh.__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"{torch.get_num_threads()} threads, {processor()}; {time.strftime('%Y-%m-%d')}; medians of runs in turn",
        "",
        "| | torchvision | aweigh | torchvision / aweigh |",
        "|---|---:|---:|---:|",
    ]
    lines += [f"| {what} | {a:.0f} {unit} | {b:.0f} {unit} | {a / b:.2f} |" for what, a, b, unit in rows]
    return "\n".join(lines)


def models(size: int) -> tuple[nn.Module, nn.Module]:
    """Both models with the same random weights, drawn so that there are boxes to suppress."""
    torch.manual_seed(0)
    reference = torchvision.models.detection.fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES, min_size=size, max_size=size
    )
    head = reference.head
    nn.init.normal_(head.classification_head.cls_logits.weight, std=0.03)
    nn.init.normal_(head.regression_head.bbox_reg.weight, std=0.03)
    nn.init.constant_(head.regression_head.bbox_reg.bias, 1.5)
    ours = create("fcos_resnet50_fpn_torchvision", classes=Classes.numbered(NUM_CLASSES))
    ours.load_state_dict(fcos_from_torchvision(reference.state_dict(), keep_rows=None))
    return reference.eval(), ours.eval()


def with_frozen_norms(model: nn.Module) -> nn.Module:
    """A copy with torchvision's `FrozenBatchNorm2d`, which it uses whenever it loads published weights."""
    model = copy.deepcopy(model)
    for name, norm in list(model.named_modules()):
        if isinstance(norm, nn.BatchNorm2d):
            frozen = torchvision.ops.FrozenBatchNorm2d(norm.num_features, eps=norm.eps)
            frozen.load_state_dict({key: value for key, value in norm.state_dict().items() if "num_batches" not in key})
            model.set_submodule(name, frozen)
    return model.eval()


def training_batch(size: int, batch: int) -> tuple[Images, list[Targets]]:
    generator = torch.Generator().manual_seed(0)
    images = Images.stack([torch.rand(3, size, size, generator=generator) for _ in range(batch)])
    targets = []
    for _ in range(batch):
        corner = torch.rand(10, 2, generator=generator) * size * 0.7
        boxes = torch.cat([corner, corner + 16 + torch.rand(10, 2, generator=generator) * size * 0.28], dim=1)
        targets.append(Targets(boxes, torch.randint(1, NUM_CLASSES, (10,), generator=generator)))
    return images, targets


def step(model: nn.Module, losses: Callable[[], dict[str, Tensor]]) -> None:
    model.zero_grad(set_to_none=True)
    sum(losses().values()).backward()


def in_turn(runs: dict[str, Callable[[], object]], repeats: int) -> list[float]:
    """Median milliseconds of each run, taken alternately so that a drift of the machine hits both."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return [statistics.median(values) * 1000 for values in seconds.values()]


def peak_memory(run: Callable[[], object]) -> float:
    """Bytes that torch's CPU allocator held at the peak of `run`, above what it held when it began."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def processor() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
