"""What is wrong with detections on a split: curves, confused classes, the worst images, and the same in numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from aweigh.annotations.images import read_as_annotated
from aweigh.annotations.split import Split
from aweigh.errors import DataError
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
from aweigh.files import atomic_file, write_text
from aweigh.visualise import charts
from aweigh.visualise.colours import IGNORED, PALETTE
from aweigh.visualise.pictures import draw_boxes
from aweigh.visualise.sheet import enlarged, grid

CELL = 600  # long side of an image in the sheet of the worst
USUAL_SCORE = 0.5  # the threshold where no detection is right, so that no F1 can decide
RIGHT, WRONG = PALETTE[1], PALETTE[8]  # blue and orange, which people who confuse red and green tell apart


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
    row_of = {image_id: row for row, image_id in enumerate(split.image_ids.tolist())}
    pairs, captions = [], []
    for entry in worst:
        row = row_of[entry.image_id]
        height, width = split.sizes_hw[row].tolist()
        try:
            pixels, _, _ = read_as_annotated(split.paths[row], (height, width))
        except DataError:
            continue
        picture = enlarged(PIL.Image.fromarray(pixels), CELL)
        scale = np.array([picture.width / width, picture.height / height] * 2)
        pair = [_truth(picture, matches, entry, scale), _found(picture, matches, entry, scale)]
        pairs.append(grid(pair, columns=2))
        captions.append(f"{Path(split.paths[row]).name}, {entry.reason}")
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
