"""What an assignment of points to boxes can reach: best possible recall, and how many points are ambiguous.

Paper: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, section 4.1, tables 1 and 2.

- Best possible recall: the share of ground-truth boxes that at least one point learns. No detector trained on this
  assignment can find the others.
- Ambiguous: the share of positive points that are candidates of more than one box, so that one box had to be chosen;
  and the share whose candidates are of more than one class, where the choice changes the class.

The assignment is the detector's own, given as two functions, so what is measured is what is trained:

    assign(points, targets) -> [A] int64, the box each point learns, negative for none
    candidates(points, boxes) -> portions of the points [p, 2], in order, each with which boxes [N, 4] it could learn
                                 [p, N] bool (portions bound the memory; one portion of everything is fine)

where points is a list with one `[P, 2]` tensor `(x, y)` per level and A counts the points of all levels. Regions to
ignore are no ground-truth boxes here: they count neither as found nor as candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aweigh.ops.boxes import grid_points
from aweigh.structures import Targets

Assign = Callable[[Sequence[Tensor], Targets], Tensor]
Candidates = Callable[[Sequence[Tensor], Tensor], Iterable[tuple[Tensor, Tensor]]]


def measure_coverage(
    images: Iterable[tuple[tuple[int, int], Targets]],
    *,
    strides: Sequence[int],
    assign: Assign,
    candidates: Candidates,
) -> Coverage:
    """Assign the boxes of every image, as training would, and count.

    images: the size (height, width) of each image as the network sees it, and its targets in those pixels.
    strides: of the feature levels; each level has one point in the middle of every `stride` x `stride` cell.
    """
    boxes = found = positives = ambiguous = ambiguous_classes = 0
    for size_hw, targets in images:
        kept = torch.nonzero(targets.learned)[:, 0]
        boxes += len(kept)
        if not len(kept):
            continue
        points = pyramid_points(size_hw, strides)
        matched = assign(points, targets)
        positive = matched >= 0
        found += len(matched[positive].unique())
        positives += int(positive.sum())
        several, classes = _several(points, targets[kept], candidates)
        ambiguous += int((positive & several).sum())
        ambiguous_classes += int((positive & classes).sum())
    return Coverage(boxes, found, positives, ambiguous, ambiguous_classes)


@dataclass(frozen=True)
class Coverage:
    """Counts over a data set, and the shares that the paper's tables give; a share of nothing is -1."""

    boxes: int  # ground-truth boxes
    found: int  # of these, learned by at least one point
    positives: int  # points that learn a box
    ambiguous: int  # of these, candidates of more than one box
    ambiguous_classes: int  # of these, with candidates of more than one class

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


def pyramid_points(size_hw: tuple[int, int], strides: Sequence[int]) -> list[Tensor]:
    """Per level the middle of each cell that the image touches: `[ceil(H / s) * ceil(W / s), 2]` float32 `(x, y)`.

    Cells that lie wholly in the padding of a batch are left out: no box reaches there.
    """
    levels = []
    for stride in strides:
        height, width = (math.ceil(side / stride) for side in size_hw)
        levels.append(grid_points(height, width, (stride, stride), (stride / 2, stride / 2), like=torch.empty(0)))
    return levels


def _several(points: Sequence[Tensor], targets: Targets, candidates: Candidates) -> tuple[Tensor, Tensor]:
    """Which points `[A]` bool are candidates of more than one box, and which of boxes of more than one class."""
    classes, label = targets.labels.unique(return_inverse=True)
    of_class = torch.nn.functional.one_hot(label, len(classes)).float()  # [N, C]
    several, several_classes = [], []
    for _, could in candidates(points, targets.boxes):
        several.append(could.sum(dim=1) > 1)
        several_classes.append(((could.float() @ of_class) > 0).sum(dim=1) > 1)
    return torch.cat(several), torch.cat(several_classes)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else -1.0
