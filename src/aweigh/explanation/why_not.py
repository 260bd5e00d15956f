"""What became of an object that is in an image: found, or lost in which test, and what would bring it back.

An answer can find the object if its class is the object's and its box overlaps the object's by enough. The tests are
gone through in the order in which the detector makes them; the object is lost in the one that leaves none of these
answers. What is told of is the one that came nearest to passing it. What would bring the object back is no guess:
settings are changed one after the other, and the detector is asked again, until it finds the object.

Legend: A places, C classes, N objects, K detections.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aweigh.arguments import change_settings, settings_of
from aweigh.errors import DataError
from aweigh.explanation.answer import Answer, Box, Overlap, Test, answer_at, overlaps_of, test_of
from aweigh.explanation.look import Look
from aweigh.explanation.outcome import Outcome, outcome_of, remaining
from aweigh.heads.answers import Answers, combined
from aweigh.inference.assignment import rule_of_detector
from aweigh.ops import boxes as box_ops
from aweigh.structures import Targets

FOUND, ASSIGNMENT, BOX, SUPPRESSION, LIMIT, SCORE = "found", "assignment", "box", "suppression", "limit", "score"
CLASS_SCORE = "class score"
MOST_CHANGES = 8  # settings that are changed one after the other before an object is given up; ours


@dataclass(frozen=True)
class Object:
    """name: of its class. box: xyxy in pixels of the image; `DataError` for one without an area."""

    name: str
    box: Box

    def __post_init__(self) -> None:
        box = self.box
        if len(box) != 4 or not all(map(math.isfinite, box)) or box[0] >= box[2] or box[1] >= box[3]:
            raise DataError(f"{self.name}: the box of an object is x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {box}.")


@dataclass(frozen=True)
class Fate:
    """What became of an object.

    stage: "found", or the test in which it was lost; with "proposals: " before it where that was one of the first of
    two stages. detection: the number of the one that found it, from 1. test: the numbers of that test, of the `nearest`
    answer. iou: of that one's box, or the detection's, with the object. by: what suppressed it. instead: the best
    detection of another class that lies there. learns: how many points (or anchors) would learn the object in training;
    None where the detector does not say. change: the settings with which it is found, "score" being the lowest of a
    detection that is shown; None where there are none. Nothing is changed for an object that is found.
    """

    object: Object
    stage: str
    detection: int | None = None
    test: Test | None = None
    nearest: Answer | None = None
    iou: float | None = None
    by: Overlap | None = None
    instead: Overlap | None = None
    learns: int | None = None
    change: dict[str, Any] | None = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Loss:
    """Where an object was lost. place, column: of the answer that came nearest, of `answers`."""

    answers: Answers
    stage: str
    test: Test
    place: int
    column: int
    by: tuple[Outcome, int, float] | None = None
    change: Mapping[str, Any] = field(default_factory=dict)


def fates_of(look: Look, objects: Sequence[Object], *, score: float, min_iou: float) -> list[Fate]:
    """Of each object. score: the lowest of a detection that counts. min_iou: its overlap with the object."""
    classes = look.model.classes
    labels = torch.tensor([classes.label(each.name) for each in objects], dtype=torch.int64)
    boxes = look.frame.inverse.boxes(np.array([each.box for each in objects], np.float32).reshape(-1, 4))
    wanted = Targets(torch.from_numpy(boxes.astype(np.float32)).to(look.seen.device), labels.to(look.seen.device))
    learns = _learns(look, wanted)
    search = _Search(look, wanted, score, min_iou)
    matches = search.matches()
    fates = []
    for row, each in enumerate(objects):
        count = None if learns is None else learns[row]
        if matches[row] is not None:
            fates.append(search.found(each, matches[row], row, count))
        else:
            fates.append(search.lost(each, row, count))
    return fates


def _learns(look: Look, wanted: Targets) -> list[int] | None:
    """How many points, or anchors, would learn each object, were it trained on."""
    rule = rule_of_detector(look.model)
    if rule is None:
        return None
    learned = rule.assign(look.size_hw, wanted.boxes.numpy(force=True)).learned
    return np.bincount(learned[learned >= 0], minlength=len(wanted)).tolist()  # type: ignore[no-any-return]


class _Search:
    """The answers to one image, and which of them can find each of the objects that are wanted."""

    def __init__(self, look: Look, wanted: Targets, score: float, min_iou: float) -> None:
        self.look, self.wanted, self.score, self.min_iou = look, wanted, score, min_iou
        self.answers = look.answers(wanted)
        self.outcome = outcome_of(self.answers)

    def matches(self) -> list[int | None]:
        """The number of the detection that finds each object, from 0; each detection finds one object at most, the best
        first, and of several that one that it overlaps most."""
        outcome, wanted = self.outcome, self.wanted
        overlaps = box_ops.pairwise_iou(outcome.boxes[outcome.kept], wanted.boxes)  # [K, N]
        alike = outcome.labels[outcome.kept][:, None] == wanted.labels
        shown = (outcome.kept_scores >= self.score)[:, None]
        overlaps = torch.where(alike & shown & (overlaps >= self.min_iou), overlaps, 0)
        found: list[int | None] = [None] * len(wanted)
        for number in overlaps.any(dim=1).nonzero().flatten().tolist():
            best = int(overlaps[number].argmax())
            if overlaps[number, best] > 0:
                found[best] = number
                overlaps[:, best] = 0
        return found

    def found(self, each: Object, number: int | None, row: int, learns: int | None) -> Fate:
        assert number is not None
        at = int(self.outcome.kept[number])
        answer = self._answer(self.answers, int(self.outcome.places[at]), int(self.outcome.columns[at]))
        iou = float(box_ops.pairwise_iou(self.outcome.boxes[at][None], self.wanted.boxes[row][None]))
        return Fate(each, FOUND, number + 1, nearest=answer, iou=iou, learns=learns)

    def lost(self, each: Object, row: int, learns: int | None) -> Fate:
        loss = self.loss(row)
        stage = ASSIGNMENT if loss.stage == BOX and learns == 0 else loss.stage
        by = None
        if loss.by is not None:
            outcome, other, iou = loss.by
            (by,) = overlaps_of(outcome, [(other, iou)], self.look.model.classes, self.look.frame)
        return Fate(
            each,
            stage,
            test=loss.test,
            nearest=self._answer(loss.answers, loss.place, loss.column),
            iou=float(_overlap(loss.answers, self.wanted.boxes[row])[loss.place].flatten()[_column(loss)]),
            by=by,
            instead=self._instead(row),
            learns=learns,
            change=self._brought_back(row, loss),
        )

    def loss(self, row: int) -> Loss:
        """In which test an object was lost that no detection finds."""
        answers, outcome, box = self.answers, self.outcome, self.wanted.boxes[row]
        of_class = answers.labels.expand(answers.scores.shape) == self.wanted.labels[row]
        fits = of_class & (_overlap(answers, box) >= self.min_iou)
        for number, other in enumerate(self.matches()):  # what has found another object cannot find this one
            if other is not None and number != row:
                at = int(outcome.kept[other])
                fits[outcome.places[at], outcome.columns[at]] = False
        if bool(fits.any()):
            return self._loss_of(answers, outcome, fits)
        before = answers.before
        if before is not None:
            regions, reach = outcome_of(before), _overlap(before, box) >= self.min_iou
            kept = regions.kept
            if not bool(reach[regions.places[kept], 0].any()):
                if bool(reach.any()):
                    return self._loss_of(before, regions, reach)
                return self._no_box(before, torch.ones_like(reach), box)
        return self._no_box(answers, of_class, box)

    def _no_box(self, answers: Answers, asked: Tensor, box: Tensor) -> Loss:
        overlaps = torch.where(asked, _overlap(answers, box).expand(asked.shape), -1)
        place, column = divmod(int(overlaps.argmax()), asked.shape[1])
        test = Test("overlap with the object", float(overlaps[place, column]), ">=", self.min_iou)
        return Loss(answers, _staged(answers, BOX), test, place, column)

    def _loss_of(self, answers: Answers, outcome: Outcome, fits: Tensor) -> Loss:
        for gate in answers.gates:
            through = fits & gate.passed
            if not bool(through.any()):
                values = gate.values.expand(fits.shape)
                nearest = values if gate.test != "<=" else -values
                best = torch.where(fits, nearest.nan_to_num(neginf=-1e30), -torch.inf)
                tied = fits & (best == best.max())
                place, column = divmod(int(torch.where(tied, answers.scores, -1).argmax()), fits.shape[1])
                test = test_of(answers, gate, place, column)
                return Loss(answers, _staged(answers, gate.name), test, place, column, change=_change(answers, test))
            fits = through
        rows = fits[outcome.places, outcome.columns].nonzero().squeeze(1)  # best first
        left = torch.isin(outcome.left, rows).nonzero().squeeze(1)
        if not len(left):
            return self._suppressed(outcome, int(rows[0]))
        row, rank, most = int(outcome.left[left[0]]), int(left[0]) + 1, answers.suppression.max_detections
        place, column = int(outcome.places[row]), int(outcome.columns[row])
        if rank > most:
            test = Test("rank", rank, "<=", most, answers.setting(answers.limit_setting))
            return Loss(answers, _staged(answers, LIMIT), test, place, column, change=_change(answers, test, last=True))
        return self._too_low(outcome, row, float(outcome.left_scores[rank - 1]))

    def _suppressed(self, outcome: Outcome, row: int) -> Loss:
        answers, chosen = outcome.answers, outcome.answers.suppression
        by = outcome.suppressor(row)
        iou = 0.0 if by is None else by[1]
        setting = answers.setting("nms_threshold")
        test = Test("overlap with a better one", iou, "<=", chosen.nms_threshold, setting)
        change: dict[str, Any] = {setting: _threshold_that_leaves(outcome, row)}
        if chosen.nms == "soft":
            test, change = Test("overlap with a better one", iou, "<=", 0.0, answers.setting("nms")), {"nms": "none"}
        told = None if by is None else (outcome, *by)
        place, column = int(outcome.places[row]), int(outcome.columns[row])
        return Loss(answers, _staged(answers, SUPPRESSION), test, place, column, told, change)

    def _too_low(self, outcome: Outcome, row: int, score: float) -> Loss:
        """Of one that is a detection, but of a lower score than is shown: which part of the score is to blame."""
        answers, place, column = outcome.answers, int(outcome.places[row]), int(outcome.columns[row])
        test = Test(SCORE, score, ">=", self.score, SCORE)
        lowered = None
        if float(outcome.scores[row]) >= self.score:  # soft suppression has lowered it
            stage, better = SUPPRESSION, outcome.left[outcome.left_scores > score]
            overlaps = outcome.overlaps(row, better)
            if len(better) and overlaps.max() > 0:
                lowered = (outcome, int(better[overlaps.argmax()]), float(overlaps.max()))
        else:
            stage = self._weakest(answers, place, column)
        return Loss(answers, stage, test, place, column, lowered, {SCORE: _down(score)})

    def _weakest(self, answers: Answers, place: int, column: int) -> str:
        """The part of a score that is too low: the one that would bring it back were it 1, else the class score; of
        corners the lowest."""
        parts = {name: values.expand(answers.scores.shape)[place, column] for name, values in answers.parts.items()}
        if answers.rule == "mean":
            return min(parts, key=lambda name: float(parts[name]))
        for name in parts.keys() - {"class"}:
            if float(combined({**parts, name: torch.ones_like(parts[name])}, answers.rule)) >= self.score:
                return name
        return CLASS_SCORE

    def _instead(self, row: int) -> Overlap | None:
        outcome = self.outcome
        overlaps = box_ops.pairwise_iou(outcome.boxes[outcome.kept], self.wanted.boxes[row][None])[:, 0]
        other = outcome.labels[outcome.kept] != self.wanted.labels[row]
        there = (other & (overlaps >= self.min_iou) & (outcome.kept_scores >= self.score)).nonzero().squeeze(1)
        if not len(there):
            return None
        pair = (int(outcome.kept[there[0]]), float(overlaps[there[0]]))
        return overlaps_of(outcome, [pair], self.look.model.classes, self.look.frame)[0]

    def _brought_back(self, row: int, loss: Loss) -> dict[str, Any] | None:
        """The settings with which the object is found; the detector's own stand again afterwards."""
        before, score = settings_of(self.look.model), self.score
        changes: dict[str, Any] = {}
        try:
            for _ in range(MOST_CHANGES):
                if not loss.change:
                    return None
                changes.update(loss.change)
                score = min(score, changes.get(SCORE, score))
                change_settings(self.look.model, {name: value for name, value in changes.items() if name != SCORE})
                again = _Search(self.look, self.wanted, score, self.min_iou)
                if again.matches()[row] is not None:
                    return changes
                loss = again.loss(row)
        finally:
            change_settings(self.look.model, before)
        return None

    def _answer(self, answers: Answers, place: int, column: int) -> Answer:
        return answer_at(answers, place, column, self.look.model.classes, self.look.frame)


def _overlap(answers: Answers, box: Tensor) -> Tensor:
    """The IoU of every answer's box with one: `[A, 1 | C]`."""
    return box_ops.pairwise_iou(answers.boxes.flatten(0, 1), box[None]).view(answers.boxes.shape[:2])


def _column(loss: Loss) -> int:
    return loss.column if loss.answers.boxes.shape[1] > 1 else 0


def _staged(answers: Answers, stage: str) -> str:
    return f"proposals: {stage}" if answers.part else stage


def _change(answers: Answers, test: Test, *, last: bool = False) -> dict[str, Any]:
    """The setting with which a value passes its test; nothing where no setting says what it has to be. last: of the
    counts before and after the suppression of proposals the second."""
    if not test.setting:
        return {}
    if test.setting.endswith("test_proposals"):
        count, after = math.ceil(test.value), answers.suppression.max_detections
        return {test.setting: [max(count, int(answers.gates[0].limit)), count] if last else [count, after]}
    if test.test == "<=":
        whole = float(test.limit).is_integer() and float(test.value).is_integer()
        return {test.setting: int(test.value) if whole else _up(test.value)}
    return {test.setting: _down(test.value)}


def _threshold_that_leaves(outcome: Outcome, row: int) -> float:
    """The lowest threshold of suppression, in hundredths, that leaves this row, of those that its overlaps suggest."""
    better = (outcome.scores > outcome.scores[row]).nonzero().squeeze(1)
    rows = torch.cat([better, torch.tensor([row], device=better.device)])
    competing = outcome.boxes[rows], outcome.scores[rows], outcome.labels[rows]
    for hundredth in sorted({math.floor(iou * 100) + 1 for iou in outcome.overlaps(row, better).tolist()}):
        threshold: float = hundredth / 100
        if outcome.answers.suppression.nms_threshold < threshold < 1:
            left, _ = remaining(*competing, outcome.answers, nms_threshold=threshold)
            if bool((left == len(rows) - 1).any()):
                return threshold
    return 1.0


def _down(value: float) -> float:
    """A little less, in four digits."""
    digits = 4 - math.floor(math.log10(value)) if value > 0 else 4
    return max(0.0, round(value - 10.0**-digits, digits))


def _up(value: float) -> float:
    """A little more, in four decimals."""
    return round(value + 1e-4, 4)
