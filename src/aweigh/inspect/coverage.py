"""What an assignment of points to boxes can reach: best possible recall, and how many points are ambiguous.

Paper: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, sections 3.2 and 4.1, tables 1
and 2.

- Best possible recall: the share of ground-truth boxes that at least one point learns. No detector trained on this
  assignment can find the others.
- Ambiguous: the share of positive points that are candidates of more than one box, so that one box had to be chosen;
  and the share whose candidates are of more than one class, where the choice changes the class.

FCOS's rule stands here in NumPy, so that data are looked at without torch; the tests compare it with the one that
trains, `aweigh.models.fcos.assign`. A detector with another rule is asked itself (`aweigh.inference.assignment`).

Legend: N boxes of one image, A points of all levels, row by row, levels in order; Q pairs of a point and a box that it
could learn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from aweigh.annotations.split import Split
from aweigh.geometry.frames import Frame
from aweigh.images.resize import Resize

PAIRS_AT_ONCE = 2**26  # of a box and a point of one level that are compared together, one byte each


class Assignment(NamedTuple):
    """learned: `[A]` int64, the box each point learns, -1 for none. point, box: `[Q]` int64, what could learn what.
    Each anchor counts as a point."""

    learned: np.ndarray
    point: np.ndarray
    box: np.ndarray


class Rule(Protocol):
    """Which point learns which box. strides: of the levels, in pixels; each level has one point in the middle of every
    cell of `stride` x `stride` pixels that the image touches."""

    @property
    def strides(self) -> tuple[int, ...]: ...

    def assign(self, size_hw: tuple[int, int], boxes: np.ndarray) -> Assignment:
        """Of an image of this size (height, width) and its boxes `[N, 4]` float32 xyxy in its pixels."""


@dataclass(frozen=True)
class LevelRanges:
    """FCOS's rule: a point lies inside the box, within `center_radius` strides of its centre (None: anywhere), and the
    largest of its four distances to the sides is in the range of its level. Of several boxes the smallest wins.

    level_ranges: lower and upper end of each level, in pixels. inclusive_ranges: both ends count.
    """

    strides: tuple[int, ...]
    level_ranges: tuple[tuple[float, float], ...]
    inclusive_ranges: bool = True
    center_radius: float | None = 1.5

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LevelRanges:
        ranges = tuple((low, math.inf if high is None else high) for low, high in value["level_ranges"])
        return cls(**{**value, "strides": tuple(value["strides"]), "level_ranges": ranges})

    def to_json(self) -> dict[str, Any]:
        """JSON has no infinity: null is an upper end that is none."""
        ranges = [[low, None if math.isinf(high) else high] for low, high in self.level_ranges]
        return {**vars(self), "strides": list(self.strides), "level_ranges": ranges}

    def assign(self, size_hw: tuple[int, int], boxes: np.ndarray) -> Assignment:
        first = first_points(size_hw, self.strides)
        parts = [np.empty((2, 0), dtype=np.int64)]
        for level, (stride, size) in enumerate(zip(self.strides, grid_sizes(size_hw, self.strides), strict=True)):
            portion = max(1, PAIRS_AT_ONCE // math.prod(size))
            for start in range(0, len(boxes), portion):
                box, point = np.nonzero(self._could(level, stride, size, boxes[start : start + portion]))
                parts.append(np.stack([point + first[level], box + start]))
        point, box = np.concatenate(parts, axis=1)
        sides = boxes[:, 2:] - boxes[:, :2]
        order = np.lexsort((box, (sides[:, 0] * sides[:, 1])[box]))[::-1]  # the smallest, then the first box, last
        learned = np.full(first[-1], -1, dtype=np.int64)
        learned[point[order]] = box[order]
        return Assignment(learned, point, box)

    def _could(self, level: int, stride: int, size: tuple[int, int], boxes: np.ndarray) -> np.ndarray:
        """`[n, H * W]` bool. A point of a grid is as far from the sides of a box as its row and its column are."""
        low, high = self.level_ranges[level]
        fits, reaches = [], []
        for axis, count in enumerate(size[::-1]):  # x, y
            middle = (np.arange(count, dtype=np.float32) + np.float32(0.5)) * np.float32(stride)
            before, after = middle - boxes[:, axis, None], boxes[:, axis + 2, None] - middle  # [n, count]
            reach = np.maximum(before, after)
            inside = (np.minimum(before, after) > 0) & (reach <= high if self.inclusive_ranges else reach < high)
            if self.center_radius is not None:
                inside &= np.abs(before - after) < np.float32(2 * self.center_radius * stride)
            fits.append(inside)
            reaches.append(reach >= low if self.inclusive_ranges else reach > low)
        could = (reaches[1][:, :, None] | reaches[0][:, None, :]) & fits[1][:, :, None] & fits[0][:, None, :]
        return could.reshape(len(boxes), -1)


def grid_sizes(size_hw: tuple[int, int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Rows and columns of cells of each level that the image touches.

    Cells that lie wholly in the padding of a batch are left out: no box reaches there.
    """
    return [(math.ceil(size_hw[0] / stride), math.ceil(size_hw[1] / stride)) for stride in strides]


def first_points(size_hw: tuple[int, int], strides: Sequence[int]) -> np.ndarray:
    """`[L + 1]` int64: the index of the first point of each level, and the number of all points."""
    return np.cumsum([0, *map(math.prod, grid_sizes(size_hw, strides))])


@dataclass(frozen=True)
class Coverage:
    """Counts over a data set, and the shares that the paper's tables give; a share of nothing is -1."""

    boxes: int = 0  # ground-truth boxes
    found: int = 0  # of these, learned by at least one point
    positives: int = 0  # points that learn a box
    ambiguous: int = 0  # of these, candidates of more than one box
    ambiguous_classes: int = 0  # of these, with candidates of more than one class

    @classmethod
    def of(cls, assignment: Assignment, labels: np.ndarray) -> Coverage:
        """Of one image. labels: `[N]` of its boxes."""
        learned, point, box = assignment
        positive = learned >= 0
        several = np.bincount(point, minlength=len(learned)) > 1
        label = np.unique(labels, return_inverse=True)[1]  # below N
        with_class = np.unique(point * len(labels) + label[box]) // len(labels)  # each point, once for each class
        classes = np.bincount(with_class, minlength=len(learned)) > 1
        counts = (positive, positive & several, positive & classes)
        return cls(len(labels), len(np.unique(learned[positive])), *(int(np.count_nonzero(part)) for part in counts))

    def __add__(self, other: Coverage) -> Coverage:
        return Coverage(*(mine + its for mine, its in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def best_possible_recall(self) -> float:
        """Table 1, in `[0, 1]`."""
        return _share(self.found, self.boxes)

    @property
    def ambiguous_share(self) -> float:
        """Table 2, "amb. samples", in `[0, 1]`."""
        return _share(self.ambiguous, self.positives)

    @property
    def ambiguous_classes_share(self) -> float:
        """Table 2, "amb. samples (diff.)", in `[0, 1]`."""
        return _share(self.ambiguous_classes, self.positives)


def measure_coverage(images: Iterable[tuple[tuple[int, int], np.ndarray, np.ndarray]], rule: Rule) -> Coverage:
    """Assign the boxes of every image, as training would, and count.

    images: the size (height, width) of each image as the network sees it, the boxes to be found `[N, 4]` float32 in
    those pixels, and their labels `[N]`. Regions to ignore are none of them.
    """
    coverage = Coverage()
    for size_hw, boxes, labels in images:
        if len(boxes):
            coverage += Coverage.of(rule.assign(size_hw, boxes), labels)
    return coverage


def boxes_at_input(split: Split, resize: Resize) -> Iterator[tuple[tuple[int, int], np.ndarray, np.ndarray]]:
    """The images of a split as `measure_coverage` takes them, as large as `resize` makes them."""
    for row, size_hw in enumerate(split.sizes_hw.tolist()):
        resized_hw = resize.size_for(*size_hw)
        objects = split.objects(row)
        learned = ~(objects["ignore"] | objects["uncertain"])
        frame = Frame.resize(size_hw, resized_hw)
        yield resized_hw, frame.boxes(objects["boxes"][learned]), objects["labels"][learned]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else -1.0
