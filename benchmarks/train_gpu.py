"""Training FCOS on ResNet-50 beside torchvision's, in the same loop, on a GPU (or, to see it run, on the CPU).

    python benchmarks/train_gpu.py --size 800 --batch 8 [--data COCO_FOLDER] [--compile] [--markdown FILE]
    python benchmarks/train_gpu.py --device cpu --size 256 --batch 2 --steps 6

Both get the same batches from our loader, the same weights, the same optimiser (SGD with momentum) and the same number
format (bf16 on a GPU, float32 on the CPU). They run in turn, block by block, after a warm-up; images per second are
those of the median block, with waiting for images left out and given on its own. The parts of a step are measured in
another pass, step by step in turn, with the device waited for between them. Without --data images are drawn, with a
few objects in each.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision
from measure import peak_memory, processor
from torch import Tensor, nn

import aweigh
from aweigh.classes import Classes
from aweigh.feeding.batches import Batch
from aweigh.feeding.dataset import DetectionDataset
from aweigh.feeding.loader import make_loader
from aweigh.feeding.transforms import Augmentation, Transform
from aweigh.images.resize import Resize
from aweigh.inference.device import choose_device, choose_precision, synchronise
from aweigh.layouts.load import load_split
from aweigh.models import create
from aweigh.scenes.shapes import write_synthetic
from aweigh.training.optim import make_optimizer, parameter_groups
from aweigh.weights.convert.torchvision import fcos_from_torchvision

PARTS = ("feed", "forward", "assignment", "losses", "backward", "optimiser")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=800, help="short side of the images; the long one is at most 5/3")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="steps in each block")
    parser.add_argument("--blocks", type=int, default=5, help="blocks of each model, taken in turn")
    parser.add_argument("--data", type=Path, help="a data set to train on, as `aweigh train` takes it")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bf16"))
    parser.add_argument("--compile", action="store_true", help="also measure ours under torch.compile")
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = options.data
        if data is None:
            data = Path(folder)
            pictures = max(32, 2 * options.batch)
            write_synthetic(data, train=pictures, val=1, test=1, size=round(options.size * 4 / 3), seed=0)
        text = report(options, data)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n", encoding="utf-8")


def report(options: argparse.Namespace, data: Path) -> str:
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    feed = Feed(data, options)
    classes = feed.split.classes
    contestants = {"torchvision": Torchvision(classes, options.size), "aweigh": Aweigh(classes)}
    contestants["aweigh"].load(contestants["torchvision"].model)
    if options.compile:
        contestants["aweigh, compiled"] = Aweigh(classes, compiled=True)
        contestants["aweigh, compiled"].load(contestants["torchvision"].model)
    for contestant in contestants.values():
        contestant.to(device, precision)

    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for block in range(options.blocks + 1):  # the first warms up
        for name, contestant in contestants.items():
            batches = [feed.next().to(device) for _ in range(options.steps)]
            synchronise(device)
            begin = time.perf_counter()
            for batch in batches:
                contestant.step(batch)
            synchronise(device)
            if block:
                speeds[name].append(sum(map(len, batches)) / (time.perf_counter() - begin))
    parts = parts_of_steps(contestants, feed, options.steps * options.blocks, device)
    largest = max((feed.next() for _ in range(options.steps)), key=lambda batch: batch.images.pixels.numel()).to(device)
    memory = {name: step_memory(contestant, largest, device) for name, contestant in contestants.items()}

    speed = {name: statistics.median(values) for name, values in speeds.items()}
    theirs = "torchvision"
    lines = [
        f"aweigh {aweigh.__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"{device_name(device)}, {str(precision).removeprefix('torch.')}, short side {options.size}, batch "
        f"{options.batch}, {'drawn images' if options.data is None else data.name}; {time.strftime('%Y-%m-%d')}; "
        f"median of {options.blocks} blocks of {options.steps} steps in turn",
        "",
        "| | images per second | against torchvision | peak memory | against torchvision |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in contestants:
        lines.append(
            f"| {name} | {speed[name]:.2f} | {speed[name] / speed[theirs]:.2f} | {memory[name] / 2**20:.0f} MiB | "
            f"{memory[name] / memory[theirs]:.2f} |"
        )
    lines += ["", "| milliseconds of a step | " + " | ".join(PARTS) + " | sum |", "|---|" + "---:|" * (len(PARTS) + 1)]
    for name, found in parts.items():
        values = [1000 * found[part] for part in PARTS]
        lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for value in [*values, sum(values)]) + " |")
    return "\n".join(lines)


class Feed:
    """Batches of our loader without end, all of the training split, resized and flipped."""

    def __init__(self, data: Path, options: argparse.Namespace) -> None:
        self.split = load_split(data, "train")
        resize = Resize(short=options.size, long=round(options.size * 5 / 3))
        self.loader = make_loader(
            DetectionDataset(self.split, Transform(resize, Augmentation())),
            batch=options.batch,
            shuffle=True,
            workers=options.workers,
            drop_last=True,
        )
        self.epoch, self.batches = 0, iter(())  # type: tuple[int, Iterator[Batch]]

    def next(self) -> Batch:
        for batch in self.batches:
            return batch
        self.loader.set_epoch(self.epoch)
        self.epoch, self.batches = self.epoch + 1, iter(self.loader)
        return next(self.batches)


class Contestant:
    """A model, its optimiser, and a step whose parts can be timed through `span`."""

    model: nn.Module
    span: Callable[[str], Any]
    losses: Callable[[Batch], dict[str, Tensor]]  # of each contestant

    def to(self, device: torch.device, precision: torch.dtype) -> None:
        self.model.to(device).train()
        self.optimizer = self.make_optimizer()
        self.autocast = lambda: torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32)
        self.span = no_span

    def make_optimizer(self) -> torch.optim.Optimizer:
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def step(self, batch: Batch) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = sum(self.losses(batch).values())
        with self.span("backward"):
            loss.backward()
        with self.span("optimiser"):
            self.optimizer.step()


class Torchvision(Contestant):
    """torchvision's model as its reference loop calls it: a list of images, a list of dictionaries."""

    def __init__(self, classes: Classes, size: int) -> None:
        torch.manual_seed(0)
        self.model = torchvision.models.detection.fcos_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=len(classes), min_size=size, max_size=round(size * 5 / 3)
        )
        compute, rest = self.model.compute_loss, self.model.head.compute_loss

        def head_loss(*arguments: Any, **named: Any) -> dict[str, Tensor]:
            with self.span("losses"):
                return rest(*arguments, **named)

        def all_losses(*arguments: Any, **named: Any) -> dict[str, Tensor]:
            with self.span("assignment"):
                return compute(*arguments, **named)

        self.model.head.compute_loss, self.model.compute_loss = head_loss, all_losses

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        images = [
            pixels[:, :height, :width]
            for pixels, (height, width) in zip(batch.images.pixels, batch.images.sizes_hw, strict=True)
        ]
        targets = [{"boxes": target.boxes, "labels": target.labels} for target in batch.targets]
        with self.span("forward"), self.autocast():
            return self.model(images, targets)


class Aweigh(Contestant):
    """Ours as `aweigh train` runs it: channels last, a fused optimiser, losses in float32."""

    def __init__(self, classes: Classes, *, compiled: bool = False) -> None:
        self.model = create("fcos_resnet50_fpn_torchvision", classes=classes)
        self.network = torch.compile(self.model.network, dynamic=True) if compiled else self.model.network
        assign = self.model._targets

        def assigned(*arguments: Any) -> Any:
            with self.span("assignment"):
                return assign(*arguments)

        self.model._targets = assigned

    def load(self, reference: nn.Module) -> None:
        self.model.load_state_dict(fcos_from_torchvision(reference.state_dict(), keep_rows=None))

    def make_optimizer(self) -> torch.optim.Optimizer:
        self.model.to(memory_format=torch.channels_last)
        return make_optimizer(parameter_groups(self.model), kind="sgd", lr=1e-4)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        pixels = batch.images.pixels.contiguous(memory_format=torch.channels_last)
        with self.span("forward"), self.autocast():
            raw = self.network(pixels)
        with self.span("losses"):
            return self.model.loss(raw, batch.targets)


@contextmanager
def no_span(name: str) -> Iterator[None]:
    yield


def parts_of_steps(
    contestants: dict[str, Contestant], feed: Feed, steps: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Median seconds of each part of a step; the inner one of two nested parts is taken out of the outer.

    All contestants take a step with one batch before the next batch comes.
    """
    seconds: dict[str, dict[str, list[float]]] = {name: {part: [] for part in PARTS} for name in contestants}

    def spans(own: dict[str, list[float]]) -> Callable[[str], Any]:
        inner: list[float] = []

        @contextmanager
        def span(part: str) -> Iterator[None]:
            synchronise(device)
            begin = time.perf_counter()
            inner.append(0.0)
            yield
            synchronise(device)
            elapsed = time.perf_counter() - begin
            own[part].append(elapsed - inner.pop())
            if inner:
                inner[-1] += elapsed

        return span

    for name, contestant in contestants.items():
        contestant.span = spans(seconds[name])
    for _ in range(steps):
        begin = time.perf_counter()
        batch = feed.next().to(device)
        synchronise(device)
        waited = time.perf_counter() - begin
        for name, contestant in contestants.items():
            seconds[name]["feed"].append(waited)
            contestant.step(batch)
    for contestant in contestants.values():
        contestant.span = no_span
    return {name: {part: statistics.median(values) for part, values in own.items()} for name, own in seconds.items()}


def step_memory(contestant: Contestant, batch: Batch, device: torch.device) -> float:
    """Bytes held at the peak of a step, above what is held between steps."""
    if device.type != "cuda":
        return peak_memory(lambda: contestant.step(batch))
    contestant.optimizer.zero_grad(set_to_none=True)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    contestant.step(batch)
    synchronise(device)
    return torch.cuda.max_memory_allocated(device) - before


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


if __name__ == "__main__":
    main()
