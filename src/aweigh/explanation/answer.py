"""One answer of a network as plain values, in pixels of the image: its place, the parts of its score, its tests.

A number that is shown is the detector's own; nothing here computes a score in another way than `heads/answers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from aweigh.classes import Classes
from aweigh.explanation.outcome import Outcome
from aweigh.geometry.frames import Frame
from aweigh.heads.answers import Answers, Gate, Rule

MOST_OTHERS = 3  # further classes that are named
Box = tuple[float, ...]


@dataclass(frozen=True)
class Test:
    """value: what was tested. test: how it has to stand to `limit`, which `setting` says, as `--set` names it."""

    name: str
    value: float
    test: str
    limit: float
    setting: str = ""


@dataclass(frozen=True)
class Answer:
    """What a network says of a place and a class.

    name: of the class. score: that the `parts` make by the `rule`. box: xyxy. kind: of the place, such as "point" or
    "anchor"; place: (x, y) or xyxy. level: of the place, such as "stride 16". others: further classes there, with their
    scores, best first.
    """

    name: str
    score: float
    box: Box
    kind: str
    place: Box
    level: str
    parts: dict[str, float]
    rule: Rule
    others: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Overlap:
    """An answer beside another one, and the IoU of the two."""

    name: str
    score: float
    box: Box
    iou: float


@dataclass(frozen=True)
class Explanation:
    """Where one detection comes from.

    number: its place among the detections, from 1. score: of the detection, which is that of its `answer` but where
    soft suppression has lowered it. tests: what it passed. suppressed: the answers that were left out for it, best
    first. region: of a detector with two stages, where the region comes from that it was seen in. evidence: see
    `aweigh.explanation.evidence`; None where it was not asked for.
    """

    number: int
    score: float
    answer: Answer
    tests: tuple[Test, ...]
    suppressed: tuple[Overlap, ...]
    region: Explanation | None = None
    evidence: np.ndarray | None = None

    @property
    def name(self) -> str:
        return self.answer.name


def answer_at(answers: Answers, place: int, column: int, classes: Classes, frame: Frame) -> Answer:
    """The answer of a place and a class. frame: from pixels of the network to those of the image."""
    scores = answers.scores[place].detach()
    label = _one(answers.labels, place, column)
    ranked = [int(other) for other in scores.argsort(descending=True).tolist() if other != column]
    several = answers.labels.shape[1] > 1
    return Answer(
        name="object" if answers.part else classes.names[int(label)],
        score=float(scores[column]),
        box=in_image(answers.boxes[place, column if answers.boxes.shape[1] > 1 else 0], frame),
        kind=answers.kind,
        place=in_image(answers.places[place], frame),
        level=answers.level_names[int(answers.levels[place])],
        parts={name: float(_one(values, place, column)) for name, values in answers.parts.items()},
        rule=answers.rule,
        others=tuple((classes.names[o], float(scores[o])) for o in ranked[:MOST_OTHERS]) if several else (),
    )


def tests_of(answers: Answers, place: int, column: int) -> tuple[Test, ...]:
    """What an answer was tested for; a test that does not concern it (as by a value that is not finite) is left out."""
    every = [test_of(answers, gate, place, column) for gate in answers.gates]
    return tuple(test for test in every if math.isfinite(test.value))


def test_of(answers: Answers, gate: Gate, place: int, column: int) -> Test:
    value = float(_one(gate.values, place, column))
    return Test(gate.name, value, gate.test, float(gate.limit), answers.setting(gate.setting))


def overlaps_of(outcome: Outcome, pairs: Sequence[tuple[int, float]], classes: Classes, frame: Frame) -> list[Overlap]:
    """Rows of an outcome, each with an IoU, as plain values."""
    names = ["object" if outcome.answers.part else classes.names[int(outcome.labels[row])] for row, _ in pairs]
    return [
        Overlap(name, float(outcome.scores[row]), in_image(outcome.boxes[row], frame), iou)
        for name, (row, iou) in zip(names, pairs, strict=True)
    ]


def in_image(place: Tensor, frame: Frame) -> Box:
    """A point `[2]` or a box `[4]` of the network's pixels in those of the image."""
    values: np.ndarray = place.numpy(force=True).astype(np.float64)
    moved = frame.points(values) if len(values) == 2 else frame.boxes(values)
    return tuple(round(value, 2) for value in moved.tolist())


def plain(value: Any) -> Any:
    """Records of this room as JSON can hold them."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__ if name not in UNTOLD}
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


UNTOLD = ("evidence",)  # which is drawn


def _one(values: Tensor, place: int, column: int) -> Tensor:
    """Of `[1 | A, 1 | C]`."""
    return values.detach()[min(place, values.shape[0] - 1), min(column, values.shape[1] - 1)]
