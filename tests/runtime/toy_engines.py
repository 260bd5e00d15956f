"""Two engines in NumPy alone: one sees the bright part of each colour channel, the other says what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from aweigh.arguments import NMS
from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.runtime.engine import Batch

HANDS = Classes.from_names(["left hand", "right hand", "ball"])


@dataclass(frozen=True)
class Merging:
    score_threshold: float = 0.5
    nms: NMS = "class"
    nms_threshold: float = 0.5
    max_detections: int = 3


@dataclass
class Spots:
    """Of each colour channel of an image, a class each, the box of what is brighter than one half.

    most: so many images at a time it has memory for. batches: those it was run on.
    """

    name: str = "spots"
    classes: Classes = HANDS
    extras: tuple[str, ...] = ()
    keypoint_set: KeypointSet | None = None
    needs_proposals: bool = False
    averages_flips: bool = False
    stride_divisor: int = 32
    pixel_mean: tuple[float, ...] = (0.25, 0.25, 0.25)
    usual_batch: int = 1
    computed_by: str = "NumPy"
    selection: Merging = Merging()
    most: int = 1000
    batches: list[Batch] = field(default_factory=list)

    def run(self, batch: Batch, *, flipped_classes: np.ndarray | None = None) -> list[Detections]:
        self.batches.append(batch)
        if len(batch.sizes_hw) > self.most:
            raise MemoryError
        maps = batch.pixels
        if flipped_classes is not None:  # the maps of the mirror image, mirrored back: those of the other hand
            maps = (maps + maps[:, flipped_classes]) / 2
        return [self._found(own, size_hw) for own, size_hw in zip(maps, batch.sizes_hw, strict=True)]

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self.selection)

    def with_nms(self, nms: NMS) -> Spots:
        return replace(self, selection=replace(self.selection, nms=nms))

    def side_by_side(self) -> tuple[Spots, int]:
        return self, 1

    def _found(self, maps: np.ndarray, size_hw: tuple[int, int]) -> Detections:
        rows = []
        for label, bright in enumerate(maps > 0.5):
            ys, xs = np.nonzero(bright)
            if len(ys):
                rows.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1, maps[label].max(), label])
        return detections(sorted(rows, key=lambda row: -row[4]), size_hw)


class Told(Spots):
    """Finds what it is told for each batch in turn: rows of x0, y0, x1, y1, score, label, in its pixels."""

    def __init__(self, *told: Sequence[Sequence[float]], **changes: bool) -> None:
        super().__init__(**changes)  # type: ignore[arg-type]
        self.told = told

    def run(self, batch: Batch, *, flipped_classes: np.ndarray | None = None) -> list[Detections]:
        self.batches.append(batch)
        return [detections(self.told[len(self.batches) - 1], size_hw) for size_hw in batch.sizes_hw]


def detections(rows: Sequence[Sequence[float]], size_hw: tuple[int, int]) -> Detections:
    """Of rows x0, y0, x1, y1, score, label."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), classes=HANDS, size_hw=size_hw)
