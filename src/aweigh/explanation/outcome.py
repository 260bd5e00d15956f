"""What becomes of the answers that passed all gates: suppressed by which better one, cut by the limit, or kept.

Legend: A places, C classes, N answers that passed all gates, K of them that are detections.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aweigh.heads.answers import Answers
from aweigh.ops import boxes as box_ops

MIN_SCORE = 1e-3  # of soft suppression, as `non_maximum_suppression` has it


@dataclass(frozen=True, eq=False)
class Outcome:
    """Of the answers to one image, those that passed, best first, and which suppression leaves."""

    answers: Answers
    places: Tensor  # [N] int64, of each answer that passed
    columns: Tensor  # [N] int64
    boxes: Tensor  # [N, 4]
    scores: Tensor  # [N] before suppression
    labels: Tensor  # [N]
    left: Tensor  # [M] rows of the above that suppression leaves, best first
    left_scores: Tensor  # [M] which soft suppression has lowered

    @property
    def kept(self) -> Tensor:
        """`[K]`, the rows that are detections, in their order."""
        return self.left[: self.answers.suppression.max_detections]

    @property
    def kept_scores(self) -> Tensor:
        """`[K]`, of the detections."""
        return self.left_scores[: self.answers.suppression.max_detections]

    def row_of(self, place: int, column: int) -> int:
        """Which row a place and a class is; it must have passed."""
        return int(((self.places == place) & (self.columns == column)).nonzero()[0])

    def overlaps(self, row: int, others: Tensor) -> Tensor:
        """The IoU of a row with rows `[n]`, 0 where the two do not compete: `[n]`."""
        iou = box_ops.pairwise_iou(self.boxes[row][None].double(), self.boxes[others].double())[0]
        method = self.answers.suppression.nms
        if method in ("class", "soft"):
            iou = torch.where(self.labels[others] == self.labels[row], iou, 0)
        return torch.zeros_like(iou) if method == "none" else iou

    def suppressor(self, row: int) -> tuple[int, float] | None:
        """The row that suppressed this one, and their IoU; None of one that is left."""
        if bool((self.left == row).any()):
            return None
        better = self.left[self.scores[self.left] >= self.scores[row]]
        iou = self.overlaps(row, better)
        least = 0.0 if self.answers.suppression.nms == "soft" else self.answers.suppression.nms_threshold
        covers = (iou > least).nonzero().squeeze(1)
        if not len(covers):
            return None
        chosen = covers[iou[covers].argmax()] if self.answers.suppression.nms == "soft" else covers[0]
        return int(better[chosen]), float(iou[chosen])

    def suppressed_by(self, row: int) -> list[tuple[int, float]]:
        """The rows that one which is left suppressed, each with its IoU, those of the highest score first."""
        chosen = self.answers.suppression
        lost = torch.ones_like(self.scores, dtype=torch.bool).index_fill(0, self.left, False).nonzero().squeeze(1)
        lost = lost[self.overlaps(row, lost) > (0 if chosen.nms == "soft" else chosen.nms_threshold)]
        found = [(other, self.suppressor(other)) for other in lost.tolist()]
        return [(other, by[1]) for other, by in found if by is not None and by[0] == row]


@torch.no_grad()
def outcome_of(answers: Answers) -> Outcome:
    """Which answers pass, and which of these suppression leaves."""
    scores = answers.scores
    passed = torch.ones_like(scores, dtype=torch.bool)
    for gate in answers.gates:
        passed = passed & gate.passed
    places, columns = passed.nonzero().unbind(1)
    values = scores[places, columns].float()
    order = values.argsort(descending=True, stable=True)
    places, columns, values = places[order], columns[order], values[order]
    boxes = answers.boxes.expand(*scores.shape, 4)[places, columns]
    labels = answers.labels.expand(scores.shape)[places, columns]
    left, left_scores = remaining(boxes, values, labels, answers)
    return Outcome(answers, places, columns, boxes, values, labels, left, left_scores)


def remaining(
    boxes: Tensor, scores: Tensor, labels: Tensor, answers: Answers, *, nms_threshold: float | None = None
) -> tuple[Tensor, Tensor]:
    """The rows that the suppression of `answers` leaves of boxes `[N, 4]`, best first, however many, and their scores.

    nms_threshold: another one than theirs.
    """
    chosen = answers.suppression
    if not len(scores):
        return labels, scores
    index, kept, count = box_ops.non_maximum_suppression(
        boxes[None],
        scores[None],
        labels[None],
        iou_threshold=chosen.nms_threshold if nms_threshold is None else nms_threshold,
        max_detections=len(scores),
        method=chosen.nms,
        sigma=answers.sigma,
        min_score=MIN_SCORE,
    )
    return index[0, : int(count)], kept[0, : int(count)]
