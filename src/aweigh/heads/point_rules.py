"""Which point learns which box by other rules than FCOS's own: adaptive samples (ATSS) and task alignment (TOOD).

Legend: A points of all levels, N boxes of one image, C classes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from aweigh.ops import boxes as box_ops
from aweigh.ops.matching import among_all, by_adaptive_samples, task_aligned
from aweigh.structures import Targets


@torch.no_grad()
def assign_adaptively(
    points: Sequence[Tensor], targets: Targets, *, strides: Sequence[int], byte_budget: int = 64 * 2**20
) -> Tensor:
    """As `aweigh.models.fcos.assign`, by ATSS (Zhang et al. 2020): a square of 8 strides round each point stands for an
    anchor."""
    squares = [torch.cat([p - 4 * stride, p + 4 * stride], dim=1) for p, stride in zip(points, strides, strict=True)]
    index = by_adaptive_samples(squares, targets.boxes[targets.learned], byte_budget=byte_budget)
    return among_all(index, torch.cat(list(points)), targets.boxes, targets.learned, targets.ignore)


@torch.no_grad()
def assign_aligned(points: Sequence[Tensor], targets: Targets, logits: Tensor, distances: Tensor) -> Tensor:
    """As `aweigh.models.fcos.assign`, by task alignment (Feng et al., TOOD, 2021), from logits `[A, C]` and distances
    `[A, 4]` in pixels."""
    together, learned = torch.cat(list(points)), targets.learned
    any_distance = together.new_full((1, 1), math.inf)
    predicted = box_ops.decode_distances(together, distances)
    boxes, labels = targets.boxes[learned], targets.labels[learned]
    index, _ = task_aligned(together, any_distance, boxes, labels, logits.sigmoid(), predicted)
    return among_all(index, together, targets.boxes, learned, targets.ignore)
