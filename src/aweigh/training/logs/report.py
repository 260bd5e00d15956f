"""What a run shows: the report before the first step, the pictures of what goes in and what comes out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image

from aweigh.annotations.split import Split
from aweigh.errors import counted
from aweigh.evaluation.errors import (
    NOTHING_THERE,
    ImageErrors,
    Matches,
    PrecisionRecall,
    confusion_matrix,
    match_results,
    precision_recall,
    precision_recall_of_all,
    worst_images,
)
from aweigh.feeding.dataset import DetectionDataset, Sample
from aweigh.feeding.transforms import Transform
from aweigh.files import atomic_file, write_text
from aweigh.geometry.frames import Frame
from aweigh.images.resize import Resize
from aweigh.inference.supervision import keypoint_lines, supervision
from aweigh.inspect.doctor import quick
from aweigh.runtime.engine import Batch, Engine
from aweigh.runtime.tta import PLAIN, TTA, find
from aweigh.training.prepare import Run
from aweigh.visualise import charts
from aweigh.visualise.colours import IGNORED, PALETTE
from aweigh.visualise.pictures import as_picture, draw_boxes, draw_detections, draw_objects
from aweigh.visualise.sheet import grid

AS_IT_IS = Transform(Resize(short=None, long=None))
LEGIBLE = 450  # pixels of the long side from which labels leave room for the picture
CELL, LARGE_CELL = 600, 900  # pixels: the long side of an image in the sheet of the worst, and of predictions
USUAL_SCORE = 0.5  # the threshold where no detection is right, so that no F1 can decide
RIGHT, WRONG = PALETTE[1], PALETTE[8]  # blue and orange, which people who confuse red and green tell apart


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
    precision = str(run.how.precision).removeprefix("torch.")
    return [
        *lines,
        run.data.note
        + ("" if val is None or not val.ignore.all() else "; it has no objects, so its AP is not defined"),
        f"model: {run.config.model}, {counted(len(model.classes), 'class')}, {counted(total, 'parameter')}, "
        f"{trained:,} trained",
        *keypoint_lines(model),
        run.start_note,
        f"every image: {run.resize}",
        "while training: " + "; ".join([*augmentations, *run.sampling.describe(train)]),
        f"device: {run.device}, {precision}, {counted(run.workers, 'process', 'reads')} images; run folder: "
        f"{run.folder}",
    ]


def save_inputs(run: Run, path: Path, *, split: Literal["train", "val"] = "train", count: int = 16) -> None:
    """A grid of what the network sees, with the boxes it is taught: the first images of the first epoch, as they come
    out of every augmentation, or images of the validation split, evenly chosen, which are only resized.

    Small pictures are magnified by a whole factor, so that their pixels and labels can be told apart.
    """
    if split == "train":
        samples = run.train_set
        drawn: Iterable[Any] = islice(chain.from_iterable(run.loader.batch_sampler), count)
    else:
        assert run.data.val is not None
        samples = DetectionDataset(run.data.val, Transform(run.resize), **supervision(run.model))
        drawn = _evenly(len(samples), count)
    pictures, captions = [], []
    for sample in _readable(samples, drawn):
        height, width = sample.image.shape[1:]
        factor = max(1, math.ceil(LEGIBLE / max(height, width)))
        image = sample.image.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
        targets = sample.targets.resized((height, width), (factor * height, factor * width))
        joints = {"skeleton": samples.split.skeleton} if samples.split.skeleton else {}
        pictures.append(draw_objects(image, targets.arrays(), samples.split.classes, **joints))
        captions.append(f"{Path(samples.split.paths[sample.index]).name}, {width} x {height}")
    if pictures:
        when = " in the first epoch" if split == "train" else ", only resized"
        title = f"{samples.split.title}: what the network sees{when}"
        with atomic_file(path) as aside:
            grid(pictures, captions=captions, title=title).save(aside)


def save_evaluation(
    folder: Path, split: Split, results: Sequence[Mapping[str, Any]], *, iou: float = 0.5, number: int = 12
) -> list[str]:
    """What is wrong with `results` on `split`, written into `folder`; lines that sum it up.

    results: COCO entries, as `detect` and `evaluate` return them; nothing is run again. `pr_curves.png`,
    `confusion.png` (at the score where F1 over all classes is best), `worst.jpg`: the `number` images with the most
    mistakes, truth beside what was found. `errors.json`: the same in numbers, with the best threshold of each class.
    """
    matches = match_results(split.to_coco(), results, iou=iou)
    classes, together = precision_recall(matches), precision_recall_of_all(matches)
    if not together.objects:
        return [f"{split.name} has no objects: there are no curves to draw."]
    min_score = together.best_score if together.best_score is not None else USUAL_SCORE
    matrix = confusion_matrix(matches, min_score=min_score)
    worst = worst_images(matches, min_score=min_score, number=number)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / "pr_curves.png") as path:
        charts.precision_recall(classes, together, path, iou=iou, title=split.title)
    with atomic_file(folder / "confusion.png") as path:
        charts.confusion(matrix.counts, matrix.names, path, min_score=min_score, iou=iou, title=split.title)
    sheet = _worst_sheet(split, matches, worst, min_score)
    if sheet is not None:
        with atomic_file(folder / "worst.jpg") as path:
            sheet.save(path, quality=80)  # a tenth of the bytes of a PNG, to be sent
    else:
        (folder / "worst.jpg").unlink(missing_ok=True)
    content = {
        "split": split.name,
        "iou": iou,
        "best_f1": together.to_dict(),
        "best_f1_per_class": {entry.name: entry.to_dict() for entry in classes},
        "confusion": matrix.to_dict(),
        "worst": [{"image_id": e.image_id, "cost": e.cost, "reason": e.reason} for e in worst],
    }
    write_text(folder / "errors.json", json.dumps(content, indent=1) + "\n")
    return _operating_points(split, classes, together)


def _operating_points(split: Split, classes: Sequence[PrecisionRecall], together: PrecisionRecall) -> list[str]:
    if together.best < 0:
        return [f"{split.name}: not one object was found, so there is no score to recommend."]
    point = together.to_dict()
    each = [f"{entry.name} {entry.best_score:.2f}" for entry in classes if entry.best_score is not None]
    shown = ", ".join(each[:8]) + (f" and {len(each) - 8} more" if len(each) > 8 else "")
    return [
        f"best F1 on {split.name}: {point['f1']:.3f} for scores from {point['score']:.2f} (precision "
        f"{point['precision']:.3f}, recall {point['recall']:.3f}); by class: {shown}"
    ]


def _worst_sheet(
    split: Split, matches: Matches, worst: Sequence[ImageErrors], min_score: float
) -> PIL.Image.Image | None:
    """Truth on the left, what was found on the right; what is right in one colour, what is wrong in another."""
    samples = DetectionDataset(split, AS_IT_IS)
    row_of = {image_id: row for row, image_id in enumerate(split.image_ids.tolist())}
    pairs, captions = [], []
    for entry in worst:
        sample = samples[row_of[entry.image_id]]
        if not isinstance(sample, Sample):
            continue
        picture = _in_cell(as_picture(sample.image), CELL)
        height, width = sample.original_hw
        scale = np.array([picture.width / width, picture.height / height] * 2)
        pair = [_truth(picture, matches, entry, scale), _found(picture, matches, entry, scale)]
        pairs.append(grid(pair, columns=2))
        captions.append(f"{Path(split.paths[sample.index]).name}, {entry.reason}")
    if not pairs:
        return None
    title = (
        f"worst of {split.title}: left the truth, right what was found (score from {min_score:.2f}, IoU from "
        f"{matches.iou:g}); blue is right, orange is missed or wrong, hatched does not count"
    )
    return grid(pairs, columns=2, captions=captions, title=title)


def _truth(picture: PIL.Image.Image, matches: Matches, entry: ImageErrors, scale: np.ndarray) -> PIL.Image.Image:
    lost = {**dict.fromkeys(entry.missed, ""), **dict.fromkeys(entry.confused, ", confused")}
    lost |= dict.fromkeys(entry.poor, ", poorly placed")
    rows = np.flatnonzero(matches.object_image == np.searchsorted(matches.image_ids, entry.image_id)).tolist()
    rows = sorted(rows, key=lambda row: row not in lost)  # mistakes on top
    ignored = [bool(matches.ignored[row]) for row in rows]
    colours = [IGNORED if skip else WRONG if row in lost else RIGHT for row, skip in zip(rows, ignored)]
    captions = [matches.names[matches.object_label[row]] + lost[row] if row in lost else "" for row in rows]
    boxes = matches.object_box[rows].reshape(-1, 4) * scale
    return draw_boxes(picture, boxes, colours, captions, ignored=ignored)


def _found(picture: PIL.Image.Image, matches: Matches, entry: ImageErrors, scale: np.ndarray) -> PIL.Image.Image:
    rows = [*entry.wrong, *entry.right]
    colours = [WRONG] * len(entry.wrong) + [RIGHT] * len(entry.right)
    said = ["" if note == NOTHING_THERE else f", {note}" for note in entry.notes]
    captions = [
        f"{matches.names[matches.label[row]]} {matches.score[row]:.2f}{note}" for row, note in zip(entry.wrong, said)
    ]
    boxes = matches.box[rows].reshape(-1, 4) * scale
    return draw_boxes(picture, boxes, colours, captions + [""] * len(entry.right))


def _in_cell(picture: PIL.Image.Image, side: int) -> PIL.Image.Image:
    """The picture with a long side of so many pixels."""
    width, height = (max(1, round(length * side / max(picture.size))) for length in picture.size)
    return picture.resize((width, height), PIL.Image.Resampling.LANCZOS)


def _evenly(length: int, count: int) -> list[int]:
    """Up to `count` rows, spread evenly over all."""
    return np.linspace(0, length - 1, min(count, length)).astype(int).tolist() if length else []


def _readable(samples: DetectionDataset, rows: Iterable[Any]) -> Iterator[Sample]:
    """The samples of these rows, without those that cannot be read."""
    return (sample for sample in map(samples.__getitem__, rows) if isinstance(sample, Sample))


def save_predictions(
    engine: Engine,
    resize: Resize,
    split: Split,
    path: Path,
    *,
    tta: TTA = PLAIN,
    count: int = 6,
    min_score: float = 0.5,
) -> None:
    """Images of the split, evenly chosen, with the detections of an engine, large enough to see both."""
    pictures, captions = [], []
    for sample in _readable(DetectionDataset(split, AS_IT_IS), _evenly(len(split), count)):
        image, proposals = sample.image.permute(1, 2, 0).numpy(), sample.targets.proposals
        size_hw = (image.shape[0], image.shape[1])
        batches = []
        for size in tta.resizes(resize):
            batch = Batch.stack([size(image)], divisor=engine.stride_divisor, fill=engine.pixel_mean)
            if proposals is not None:
                batch = batch.with_proposals([Frame.resize(size_hw, batch.sizes_hw[0]).boxes(proposals.numpy())])
            batches.append(batch)
        (found,) = find(engine, batches, [size_hw], tta)
        picture = _in_cell(as_picture(image), LARGE_CELL)
        pictures.append(draw_detections(picture, found.resized((picture.height, picture.width)), min_score=min_score))
        captions.append(Path(split.paths[sample.index]).name)
    if pictures:
        title = f"{split.title}: detections with a score from {min_score:.2f}"
        with atomic_file(path) as aside:
            grid(pictures, columns=2, captions=captions, title=title).save(aside)
