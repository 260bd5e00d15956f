"""What a run shows: the report before the first step, the images of what goes in and what comes out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from aweigh.errors import counted
from aweigh.feeding.dataset import DetectionDataset, Sample
from aweigh.feeding.transforms import Transform
from aweigh.files import atomic_file
from aweigh.inference.supervision import keypoint_lines, supervision
from aweigh.inspect.doctor import quick
from aweigh.prediction.sheet import evenly
from aweigh.training.prepare import Run
from aweigh.visualise.pictures import draw_objects
from aweigh.visualise.sheet import grid

LEGIBLE = 450  # pixels of the long side from which labels leave room for the image


def start_report(run: Run) -> list[str]:
    """Data, augmentation, model: what the user should see before the first step."""
    lines, val = [], run.data.val
    for split in (run.data.train, val):
        if split is not None:
            lines += split.summary().splitlines() + split.problem_report().splitlines()
    lines += quick(run.data.train, val)
    model = run.model
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    train = run.data.train
    augmentations = run.transform.augmentation.describe(
        train.classes, train.keypoint_names, mixing_until_epoch=run.train_set.mixing_until_epoch
    )
    return [
        *lines,
        run.data.note
        + ("" if val is None or not val.ignore.all() else "; it has no objects, so its AP is not defined"),
        f"model: {run.config.model}, {counted(len(model.classes), 'class')}, {counted(total, 'parameter')}, "
        f"{trained:,} trained",
        *keypoint_lines(model),
        run.start_note,
        f"every {'image' if run.config.tiles is None else 'whole tile'}: {run.resize}",
        "while training: " + "; ".join([*augmentations, *run.sampling.describe(train, run.train_set.tiles)]),
        f"device: {run.how}, {counted(run.workers, 'process', 'reads')} images; run folder: {run.folder}",
    ]


def save_inputs(run: Run, path: Path, *, split: Literal["train", "val"] = "train", count: int = 16) -> None:
    """A grid of what the network sees, with the boxes it is taught: the first images of the first epoch, as they come
    out of every augmentation, or images of the validation split, evenly chosen, which are only resized.

    Small images are magnified by a whole factor, so that their pixels and labels can be told apart.
    """
    if split == "train":
        samples = run.train_set
        drawn: Iterable[Any] = islice(chain.from_iterable(run.loader.batch_sampler), count)
    else:
        assert run.data.val is not None
        resizing = Transform(run.resize, tile=run.config.tile)
        samples = DetectionDataset(run.data.val, resizing, tiles=run.val_tiles, **supervision(run.model))
        drawn = evenly(len(samples), count)
    pictures, captions = [], []
    for sample in _readable(samples, drawn):
        height, width = sample.image.shape[1:]
        factor = max(1, math.ceil(LEGIBLE / max(height, width)))
        image = sample.image.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
        targets = sample.targets.resized((height, width), (factor * height, factor * width))
        joints = {"skeleton": samples.split.skeleton} if samples.split.skeleton else {}
        pictures.append(draw_objects(image, targets.arrays(), samples.split.classes, **joints))
        name = Path(samples.split.paths[samples.image_of(sample.index)]).name
        captions.append(f"{name}, {width} x {height}")
    if pictures:
        when = " in the first epoch" if split == "train" else ", only resized"
        title = f"{samples.split.title}: what the network sees{when}"
        with atomic_file(path) as aside:
            grid(pictures, captions=captions, title=title).save(aside)


def _readable(samples: DetectionDataset, rows: Iterable[Any]) -> Iterator[Sample]:
    """The samples of these rows, without those that cannot be read."""
    return (sample for sample in map(samples.__getitem__, rows) if isinstance(sample, Sample))
