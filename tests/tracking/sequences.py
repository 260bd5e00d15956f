"""Drawn sequences: objects that move by a known path, and what a detector would say of each frame.

Boxes are seen with noise; an object that another covers has a low score, one that is covered whole is not found; now
and then something is found where nothing is. The same for the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.geometry.boxes import pairwise_share

CLASSES = Classes(("car", "person"), (1, 2))
SIZE_HW = (480, 640)


@dataclass(frozen=True)
class Mover:
    """An object on a straight line, or on a circle where it turns. first, last: frames in which it is there, from 0.
    x, y: its middle in the frame `first`; dx, dy: pixels in a frame. turn: radians in a frame, by which (dx, dy) turns.
    """

    x: float
    y: float
    dx: float
    dy: float
    width: float = 40
    height: float = 80
    first: int = 0
    last: int = 10_000
    label: int = 1
    turn: float = 0.0

    def box(self, frame: int) -> list[float] | None:
        """xyxy in this frame; None where it is not there, or out of the image by more than a half."""
        if not self.first <= frame <= self.last:
            return None
        angles = self.turn * np.arange(frame - self.first)
        x = self.x + float(np.sum(self.dx * np.cos(angles) - self.dy * np.sin(angles)))
        y = self.y + float(np.sum(self.dx * np.sin(angles) + self.dy * np.cos(angles)))
        if not (0 <= x < SIZE_HW[1] and 0 <= y < SIZE_HW[0]):
            return None
        return [x - self.width / 2, y - self.height / 2, x + self.width / 2, y + self.height / 2]


@dataclass(frozen=True)
class Truth:
    """What is there in a frame. ids: `[N]`, the number of each mover; boxes: `[N, 4]` xyxy."""

    ids: np.ndarray
    boxes: np.ndarray


def seen(
    movers: Sequence[Mover], frames: int, *, seed: int = 0, noise: float = 1.0, wrong: float = 0.0
) -> list[tuple[Truth, Detections]]:
    """Each frame as it is, and as a detector sees it. Of two objects that overlap, the later of `movers` is in front.

    noise: pixels, of each side. wrong: how many detections of nothing there are in a frame, on average.
    """
    random = np.random.default_rng(seed)
    sequence = []
    for frame in range(frames):
        there = [(number, box) for number, mover in enumerate(movers) if (box := mover.box(frame)) is not None]
        ids = np.array([number for number, _ in there], np.int64)
        boxes = np.array([box for _, box in there], np.float64).reshape(-1, 4)
        covered = np.triu(pairwise_share(boxes, boxes), 1).max(axis=1, initial=0)  # by one that is in front
        scores = 0.9 - 0.7 * covered + random.normal(0, 0.02, len(ids))
        found = boxes + random.normal(0, noise, boxes.shape)
        labels = np.array([movers[number].label for number in ids], np.int64)
        shown = covered < 0.9
        strays = random.poisson(wrong)
        corners = random.uniform(0, 400, (strays, 2))
        found = np.concatenate(
            [found[shown], np.concatenate([corners, corners + random.uniform(20, 90, (strays, 2))], 1)]
        )
        scores = np.concatenate([scores[shown], random.uniform(0.1, 0.65, strays)]).clip(0, 1)
        labels = np.concatenate([labels[shown], random.integers(0, 2, strays)])
        best_first = np.argsort(-scores, kind="stable")
        detections = Detections.of(
            found[best_first], scores[best_first], labels[best_first], classes=CLASSES, size_hw=SIZE_HW
        )
        sequence.append((Truth(ids, boxes), detections))
    return sequence
