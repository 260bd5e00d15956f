"""Which box each point learns, asked of a detector itself: for rules that `aweigh.inspect.coverage` does not have."""

from __future__ import annotations

import numpy as np
import torch

from aweigh.classes import Classes
from aweigh.inspect.coverage import Assignment, grid_sizes
from aweigh.models import create
from aweigh.models.detector import Assign, Candidates, Detector
from aweigh.ops.boxes import grid_points
from aweigh.structures import Targets


class DetectorRule:
    """A `Rule` of `aweigh.inspect.coverage`: the functions of a detector, on arrays."""

    def __init__(self, strides: tuple[int, ...], assign: Assign, candidates: Candidates) -> None:
        self.strides = strides
        self._assign, self._candidates = assign, candidates

    def assign(self, size_hw: tuple[int, int], boxes: np.ndarray) -> Assignment:
        points = [
            grid_points(*size, (stride, stride), (stride / 2, stride / 2), like=torch.empty(0))
            for size, stride in zip(grid_sizes(size_hw, self.strides), self.strides, strict=True)
        ]
        targets = Targets.of(boxes, np.zeros(len(boxes)))
        pairs, before = [torch.empty(0, 2, dtype=torch.int64)], 0
        for portion, could in self._candidates(points, targets.boxes):
            pairs.append(could.nonzero() + torch.tensor([before, 0]))  # [q, 2]
            before += len(portion)
        return Assignment(self._assign(points, targets).numpy(), *torch.cat(pairs).numpy().T)


def rule_of(name: str) -> DetectorRule | None:
    """Of the detector of this name, built without memory for weights; None where it does not assign points to boxes."""
    with torch.device("meta"):
        return rule_of_detector(create(name, classes=Classes.numbered(1)))


def rule_of_detector(detector: Detector) -> DetectorRule | None:
    """The rule of a detector; None where it does not assign points to boxes."""
    if detector.strides is None or detector.assign is None or detector.candidates is None:
        return None
    return DetectorRule(detector.strides, detector.assign, detector.candidates)
