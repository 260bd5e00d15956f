"""Where detections come from: `aweigh.explain`, and what explains many images by one detector, `Explainer`.

    for found in aweigh.explain("photo.jpg"): print(found.name, found.score, found.answer.level, found.answer.parts)
    print(aweigh.explain("photo.jpg", box=3).text())

It needs torch and a checkpoint: a graph keeps no answers but its detections.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import nn

from aweigh.arguments import Share, change_settings, check_value
from aweigh.checkpoints.checkpoint import load_model
from aweigh.errors import UsageError, counted
from aweigh.explanation.answer import Explanation, answer_at, overlaps_of, plain, tests_of
from aweigh.explanation.drawing import draw_explanations, draw_fates
from aweigh.explanation.evidence import evidence_for
from aweigh.explanation.look import Look
from aweigh.explanation.outcome import Outcome, outcome_of
from aweigh.explanation.why_not import Fate, Object, fates_of
from aweigh.explanation.words import lines_of_explanations, lines_of_fates
from aweigh.images.reader import ImageSource
from aweigh.images.resize import Resize
from aweigh.inference.device import choose_device
from aweigh.models.detector import Detector

SCORE = 0.5  # the lowest of a detection that is shown, as in `aweigh predict`


def explain(
    image: ImageSource,
    model: str | Path = "box",
    *,
    weights: str = "",
    box: int | None = None,
    score: float = SCORE,
    resize: str | None = None,
    settings: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
    proposals: np.ndarray | None = None,
    evidence: bool = True,
) -> Explanations:
    """Where the detections of an image come from; see `Explainer.explain`.

    model, weights, device: as `aweigh.load` takes them; a checkpoint. resize: another size than in training, as
    `Resize.with_size` takes it. settings: thresholds and counts by name, changed.
    """
    explainer = Explainer.load(model, weights, resize=resize, settings=settings, device=device)
    return explainer.explain(image, box=box, score=score, proposals=proposals, evidence=evidence)


def why_not(
    image: ImageSource,
    objects: Sequence[Object | tuple[str, Sequence[float]]],
    model: str | Path = "box",
    *,
    weights: str = "",
    score: float = SCORE,
    iou: float = 0.5,
    resize: str | None = None,
    settings: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
    proposals: np.ndarray | None = None,
) -> Fates:
    """What became of objects that are in an image, and in which test those were lost that were not found; see
    `Explainer.why_not`. objects: the name of the class and the box, xyxy in pixels of the image. The rest as `explain`.
    """
    explainer = Explainer.load(model, weights, resize=resize, settings=settings, device=device)
    return explainer.why_not(image, objects, score=score, iou=iou, proposals=proposals)


@dataclass(frozen=True)
class Explanations:
    """Those of an image. detections: how many there are of at least the score that was asked for."""

    look: Look
    score: float
    detections: int
    found: tuple[Explanation, ...]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Explanation]:
        return iter(self.found)

    def __getitem__(self, index: int) -> Explanation:
        return self.found[index]

    def text(self) -> str:
        return "\n".join(lines_of_explanations(self.look, self.found, self.detections, self.score))

    def to_dict(self) -> dict[str, Any]:
        """As plain values; boxes and places in pixels of the image. Evidence is drawn alone."""
        return {**_about(self.look), "min_score": self.score, "detections": plain(self.found)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    def draw(self) -> Image.Image:
        """A panel for each: its box, the place it comes from, what it suppressed, and under them the evidence."""
        return draw_explanations(self.look, self.found)


@dataclass(frozen=True)
class Fates:
    """What became of each object that was asked about."""

    look: Look
    score: float
    each: tuple[Fate, ...]

    def __len__(self) -> int:
        return len(self.each)

    def __iter__(self) -> Iterator[Fate]:
        return iter(self.each)

    def __getitem__(self, index: int) -> Fate:
        return self.each[index]

    def text(self) -> str:
        return "\n".join(lines_of_fates(self.look, self.each, self.score))

    def to_dict(self) -> dict[str, Any]:
        """As plain values; boxes and places in pixels of the image."""
        return {**_about(self.look), "min_score": self.score, "objects": plain(self.each)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    def draw(self) -> Image.Image:
        """A panel for each object that was not found: its box, the answer that came nearest, and what stood before."""
        return draw_fates(self.look, self.each)


def _about(look: Look) -> dict[str, Any]:
    height, width = look.pixels.shape[:2]
    return {"image": look.path, "width": width, "height": height, "model": look.model.builder}


class Explainer:
    """A detector that says why. It is put into evaluation mode; `resize` is the step it was trained with."""

    def __init__(self, model: Detector, resize: Resize) -> None:
        if not isinstance(model, nn.Module):
            raise UsageError(
                f"An explainer needs a detector of torch, got {type(model).__name__}; Explainer.load(file)."
            )
        self.model, self.resize = model, resize
        model.eval()
        model.requires_grad_(False)

    @classmethod
    def load(
        cls,
        model: str | Path = "box",
        weights: str = "",
        *,
        resize: str | None = None,
        settings: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
    ) -> Explainer:
        """Of a file or a name, as `explain` takes them."""
        if Path(model).suffix in (".onnx", ".xml"):
            raise UsageError(f"{model} is a graph, which keeps no answers but its detections; name its checkpoint.")
        detector, header = load_model(model, weights, device=choose_device(device))
        change_settings(detector, settings or {})
        own = Resize.from_dict(header["resize"])
        return cls(detector, own if resize is None else own.with_size(resize))

    def explain(
        self,
        image: ImageSource,
        *,
        box: int | None = None,
        score: float = SCORE,
        proposals: np.ndarray | None = None,
        evidence: bool = True,
    ) -> Explanations:
        """Where the detections of at least `score` come from, best first.

        box: one alone, by its number, from 1. proposals: `[P, 4]` xyxy in pixels of the image, for a detector that
        needs them. evidence: with what each score rests on, which takes as long as a step of training for each.
        """
        check_value("score", score, Share)
        look = Look.at(image, self.model, self.resize, proposals=proposals, gradients=evidence)
        outcome = outcome_of(look.answers())
        count = int((outcome.kept_scores >= score).sum())
        if box is not None and not 1 <= box <= count:
            raise UsageError(
                f"There is no box {box}: {look.title} has {counted(count, 'detection')} of score {score:g} or more."
            )
        numbers = range(1, count + 1) if box is None else [box]
        before = outcome.answers.before
        regions = None if before is None else outcome_of(before)
        found = tuple(self._explained(look, outcome, number, regions, evidence=evidence) for number in numbers)
        return Explanations(look, score, count, found)

    def _explained(
        self, look: Look, outcome: Outcome, number: int, regions: Outcome | None = None, *, evidence: bool
    ) -> Explanation:
        """The detection of a number, and of `regions`, where there are any, the one that it was seen in."""
        answers, classes, frame = outcome.answers, self.model.classes, look.frame
        row = int(outcome.kept[number - 1])
        place, column = int(outcome.places[row]), int(outcome.columns[row])
        region = None if regions is None else self._explained(look, regions, place + 1, evidence=False)
        return Explanation(
            number,
            float(outcome.kept_scores[number - 1]),
            answer_at(answers, place, column, classes, frame),
            tests_of(answers, place, column),
            tuple(overlaps_of(outcome, outcome.suppressed_by(row), classes, frame)),
            region,
            evidence_for(look, answers.scores[place, column]) if evidence else None,
        )

    def why_not(
        self,
        image: ImageSource,
        objects: Sequence[Object | tuple[str, Sequence[float]]],
        *,
        score: float = SCORE,
        iou: float = 0.5,
        proposals: np.ndarray | None = None,
        exif: Literal["apply", "ignore"] = "apply",
    ) -> Fates:
        """What became of objects that are in an image.

        objects: the name of the class and the box of each, xyxy in pixels of the image. score: the lowest of a
        detection that counts as found. iou: how much of it the box of the object has to overlap. exif: of a photograph,
        whether its rotation is applied, as the boxes have it.
        """
        check_value("score", score, Share)
        check_value("iou", iou, Share)
        given = [each if isinstance(each, Object) else Object(each[0], tuple(map(float, each[1]))) for each in objects]
        look = Look.at(image, self.model, self.resize, proposals=proposals, exif=exif, gradients=False)
        return Fates(look, score, tuple(fates_of(look, given, score=score, min_iou=iou)))
