"""What a run shows: the report before the first step, the pictures of what goes in and what comes out."""

from pathlib import Path

import torch
from torch import Generator, Tensor

from aweigh.data.check import problem_report
from aweigh.data.dataset import DetectionDataset, Sample
from aweigh.data.split import Split
from aweigh.data.transforms import Resize
from aweigh.engine.checkpoint import Model, write_atomically
from aweigh.engine.evaluate import mean_colour, to_original
from aweigh.engine.prepare import Run
from aweigh.structures import Images, Targets
from aweigh.visualise import draw_detections, draw_targets, grid


def start_report(run: Run) -> list[str]:
    """Data, augmentation, model: what the user should see before the first step."""
    lines, val = [], run.data.val
    for split in (run.data.train, val):
        if split is not None:
            lines += split.summary().splitlines() + problem_report(split).splitlines()
    model = run.model
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    augmentations = run.transform.augmentation.describe(model.classes)
    precision = str(run.precision).removeprefix("torch.")
    return [
        *lines,
        run.data.note
        + ("" if val is None or not val.ignore.all() else "; it has no objects, so its AP is not defined"),
        f"model: {run.config.model}, {len(model.classes)} classes, {total:,} parameters, {trained:,} trained",
        run.start_note,
        f"every image: {run.resize}",
        "while training: " + "; ".join(augmentations),
        f"device: {run.device}, {precision}, {run.workers} processes read images; run folder: {run.folder}",
    ]


def save_inputs(run: Run, path: Path, *, count: int = 16) -> None:
    """A grid of what the network sees in the first epoch: augmented, resized, with the boxes it is taught."""
    pictures = []
    for index in range(min(count, len(run.train_set))):
        sample = run.train_set[0, index]
        if isinstance(sample, Sample):
            pictures.append(draw_targets(sample.image, sample.targets, run.data.train.classes))
    if pictures:
        write_atomically(path, lambda beside: grid(pictures).save(beside))


@torch.no_grad()
def save_predictions(
    model: Model,
    resize: Resize,
    split: Split,
    path: Path,
    *,
    device: torch.device,
    count: int = 6,
    min_score: float = 0.5,
) -> None:
    """Images of the split, evenly chosen, with the detections of the model."""
    samples = DetectionDataset(split, as_it_is)
    pictures = []
    for index in torch.linspace(0, len(split) - 1, min(count, len(split))).long().tolist():
        sample = samples[index]
        if not isinstance(sample, Sample):
            continue
        images = Images.stack([resize(sample.image)], divisor=model.stride_divisor, fill=mean_colour(model))
        detections = model(images.to(device))[0].to("cpu")
        height, width = sample.image.shape[1:]
        pictures.append(draw_detections(sample.image, to_original(detections, (height, width)), min_score=min_score))
    if pictures:
        write_atomically(path, lambda beside: grid(pictures, columns=3).save(beside))


def as_it_is(image: Tensor, targets: Targets, generator: Generator) -> tuple[Tensor, Targets]:
    """The transform that changes nothing."""
    return image, targets
