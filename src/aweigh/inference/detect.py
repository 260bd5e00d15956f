"""Run a detector over a split in several processes, with its losses, and the time that each part takes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

import torch

from aweigh import distributed
from aweigh.annotations.split import Split
from aweigh.errors import UsageError
from aweigh.feeding.dataset import DetectionDataset
from aweigh.feeding.loader import MAX_BAD, Loader, make_loader
from aweigh.feeding.transforms import Transform
from aweigh.images.resize import Resize
from aweigh.inference.device import ON_CPU, How, synchronise
from aweigh.inference.engine import TorchEngine
from aweigh.inference.meters import Means, Stopwatch
from aweigh.inference.supervision import supervision
from aweigh.models.detector import Detector
from aweigh.prediction.of_split import SplitDetections, entries, matching_category_ids
from aweigh.runtime.tta import PLAIN, TTA, in_whole, merge, views


@torch.no_grad()
def detect(
    model: Detector,
    resize: Resize,
    split: Split,
    *,
    batch: int = 8,
    how: How = ON_CPU,
    workers: int = 0,
    tta: TTA = PLAIN,
    losses: bool = False,
    max_bad: float = MAX_BAD,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> SplitDetections:
    """Detections of every image of the split, with the validation losses from the same pass if `losses`.

    Several processes share out the batches, and every one of them gets the detections of all. The model is put into
    evaluation mode and left as it was found. Each mean loss is over batches, weighted by images. With test-time
    augmentation an image is read once for each size, by `workers` processes for each.
    """
    if losses and not tta.plain:
        raise UsageError("detect: losses are those of the plain images; leave out test-time augmentation.")
    category_ids = matching_category_ids(model.classes, split.classes)
    rank, world = distributed.rank(), distributed.world_size()
    engine = TorchEngine(model, how)
    pairs, order = tta.class_pairs(model.classes), tta.class_order(model.classes)
    loaders = [
        in_order(model, size, split, batch=batch, device=how.device, workers=workers, max_bad=max_bad, taught=losses)
        for size in tta.resizes(resize)
    ]
    parts: list[Part] = []
    watch, done = Stopwatch(), 0
    with evaluating(model), how.with_threads():
        for number, sizes in enumerate(zip(*loaders, strict=True)):
            part = sizes[0]
            watch.lap("read")
            if part.blank:  # none of its images could be read: they have no detections
                continue
            seen = []
            for view in views(engine, tta):
                images = sizes[view.size].images
                raw = engine.outputs(images.mirrored() if view.mirrored else images, order if view.averaged else None)
                synchronise(how.device)
                watch.lap("network")
                seen.append(in_whole(model.decode(raw, images.sizes_hw), part.original_sizes_hw, view, pairs))
                watch.lap("decode")
            merged = zip(merge(engine, seen, tta), part.image_ids, strict=True)
            results = [entry for found, image_id in merged for entry in entries(found, image_id, category_ids)]
            watch.lap("decode")
            values = model.loss(raw, [targets.to(how.device) for targets in part.targets]) if losses else {}
            parts.append((number * world + rank, len(part), results, {name: float(v) for name, v in values.items()}))
            watch.lap("loss")
            done += len(part)
            progress(min(done * world, len(split)), len(split))
    speed = {name: 1000 * watch.seconds.get(name, 0.0) / max(1, done) for name in ("read", "network", "decode")}
    return together(parts, {**speed, "total": sum(speed.values())}, loaders[0])


def in_order(
    model: Detector,
    resize: Resize,
    split: Split,
    *,
    batch: int,
    device: torch.device,
    workers: int,
    max_bad: float,
    taught: bool = False,
) -> Loader:
    """This process's batches of a split as the model takes them. taught: whether targets have what its losses need."""
    return make_loader(
        DetectionDataset(split, Transform(resize), **(supervision(model) if taught else {})),
        batch=min(batch, len(split)),
        workers=workers,
        stride_divisor=model.stride_divisor,
        fill=mean_colour(model),
        rank=distributed.rank(),
        world=distributed.world_size(),
        device=device,
        max_bad=max_bad,
    )


@contextmanager
def evaluating(model: Detector) -> Iterator[None]:
    """The model in evaluation mode, afterwards as it was; one that was made for prediction has no other mode."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


Part = tuple[int, int, list[dict[str, Any]], dict[str, float]]  # number of the batch, images, results, losses


def together(parts: list[Part], speed: dict[str, float], loader: Loader) -> SplitDetections:
    """The parts of all processes in the order of their batches: the same for any number of processes."""
    means = Means()
    results: list[dict[str, Any]] = []
    every = [part for own in distributed.gather(parts) for part in own]
    for _, images, found, values in sorted(every, key=itemgetter(0)):
        results += found
        for _ in range(images):
            means.add(values)
    problems = [problem for own in distributed.gather(loader.problems) for problem in own]
    unread = sorted(row for own in distributed.gather(loader.unread) for row in own)
    return SplitDetections(results, means.result(), speed, problems, unread)


def mean_colour(model: Detector) -> tuple[float, ...]:
    """The colour that padding has: the model's own mean, which is zero after its normalisation."""
    return tuple(model.pixel_mean.tolist())
