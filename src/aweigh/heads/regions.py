"""Which regions learn which object, what is lost by them, and what they detect (Girshick, "Fast R-CNN", 2015).

Legend: B images, C classes, R regions, P proposals of an image, N boxes of one image.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from aweigh.ops import boxes as box_ops
from aweigh.ops.matching import BACKGROUND, IGNORED, among_all, balanced_sample, by_overlap
from aweigh.ops.roi import numbered_batch
from aweigh.structures import Targets

POSITIVE_IOU = 0.5  # of a region with an object (Girshick 2015, section 2.3)
DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # deltas of regions are learned so many times as large
SMALLEST_SIDE = 1e-2  # of a detection, pixels


Learned = Sequence[tuple[Tensor, Tensor, Targets]]
"""Of each image the regions that hold an object `[R_i, 4]`, the row of that object `[R_i]` and the targets."""


class Branch(Protocol):
    """What says one thing more of a region than its class and box, such as its mask; an `nn.Module`."""

    size: int  # cells of a side of the regions it reads
    notes: Mapping[str, Any]  # what `Detections` is told of it, such as `keypoint_set`

    def __call__(self, maps: Tensor) -> Tensor:
        """Features of regions `[R, channels, size, size]` to what it says of each `[R, ...]`."""

    def loss(self, said: Tensor, learned: Learned) -> Tensor:
        """A scalar, 0 without any region."""

    def decode(self, said: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """`[R, ...]` as `Detections` holds it, of detections with boxes `[R, 4]` and labels `[R]`."""


@torch.no_grad()
def sample_regions(
    proposals: Sequence[Tensor],
    targets: Sequence[Targets],
    seeds: Tensor,
    *,
    number: int | None,
    positive_fraction: float,
    negative_iou: tuple[float, float],
) -> tuple[list[Tensor], list[Tensor]]:
    """The regions of each image that learn `[R_i, 4]`, and the box of its targets each learns `[R_i]`, -1 none.

    Regions are the proposals of each image, `[P_i, 4]`, and the objects themselves. seeds: `[B]`, where the even spread
    of what is chosen begins. number: how many learn at most (None: all), of which `positive_fraction` may hold an
    object. negative_iou: between which overlaps with an object, the first included, a region holds nothing.
    """
    lowest, highest = negative_iou
    regions, indices = [], []
    for image, target in enumerate(targets):
        objects = target.boxes[target.learned]
        candidates = torch.cat([proposals[image], objects])
        match = partial(by_overlap, candidates, objects, rescue="none")
        index = match(positive=POSITIVE_IOU, negative=highest)
        if lowest > 0:
            index[match(positive=lowest, negative=lowest) == BACKGROUND] = IGNORED
        centers = (candidates[:, :2] + candidates[:, 2:]) / 2
        index = among_all(index, centers, target.boxes, target.learned, ~target.learned)
        if number is None:
            rows = (index != IGNORED).nonzero().squeeze(1)
        else:
            rows = balanced_sample(index, count=number, positive_fraction=positive_fraction, seed=seeds[image])
        regions.append(candidates[rows])
        indices.append(index[rows])
    return regions, indices


def region_losses(
    logits: Tensor,
    deltas: Tensor,
    regions: Sequence[Tensor],
    index: Sequence[Tensor],
    targets: Sequence[Targets],
    *,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """The losses of class and box of each region, `[R]` each (section 2.3, equations 1 to 3).

    logits: `[R, C + 1]`, the last of nothing. deltas: `[R, C, 4]`. regions, index: as `sample_regions` returns them.
    beta: below which the loss of a delta is quadratic.
    """
    classes, nothing = deltas.shape[1], logits.shape[1] - 1
    labels = torch.cat(
        [
            torch.where(rows >= 0, target.labels[rows.clamp(min=0)] if len(target) else nothing, nothing)
            for rows, target in zip(index, targets, strict=True)
        ]
    )
    unknown = [
        torch.zeros(len(rows), classes, dtype=torch.bool, device=rows.device)
        if target.known is None
        else (~target.known & (rows < 0)[:, None])
        for rows, target in zip(index, targets, strict=True)
    ]
    masked = logits[:, :classes].masked_fill(torch.cat(unknown), -torch.inf)
    classification = F.cross_entropy(torch.cat([masked, logits[:, classes:]], dim=1), labels, reduction="none")
    boxes = torch.cat([target.boxes[rows[rows >= 0]] for rows, target in zip(index, targets, strict=True)])
    positive = (labels != nothing).nonzero().squeeze(1)
    goal = box_ops.encode_deltas(torch.cat(list(regions))[positive], boxes, weights=DELTA_WEIGHTS)
    of_objects = F.smooth_l1_loss(deltas[positive, labels[positive]], goal, beta=beta, reduction="none")
    return classification, torch.zeros_like(classification).index_copy(0, positive, of_objects.sum(dim=1))


def without_padding(boxes: Tensor, count: Tensor) -> Tensor:
    """Of boxes `[B, N, 4]` as many as the image with the most has, at least one; count `[B]`: how many each has.

    A graph finds out how many that is whenever it runs.
    """
    most = cast(int, count.max().clamp(min=1).item())
    torch._check(most >= 1)
    torch._check(most <= boxes.shape[1])
    return boxes[:, :most]


def region_candidates(
    logits: Tensor, deltas: Tensor, proposals: Tensor, count: Tensor, sizes_hw: Tensor, *, score_threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Each proposal as each class: boxes `[B, P * C, 4]` inside the images, scores and labels `[B, P * C]`.

    logits: `[B * P, C + 1]`, deltas: `[B * P, C, 4]` of the proposals `[B, P, 4]`, of which `count` `[B]` are there.
    The score is 0 where it is not above the threshold or the box has no area.
    """
    batch, number, classes = *proposals.shape[:2], deltas.shape[1]
    there = torch.arange(number, device=count.device) < count[:, None]  # [B, P]
    scores = logits.softmax(dim=1)[:, :classes].reshape(batch, number, -1)  # [B, P, C]
    deltas = deltas.reshape(batch, number, -1, 4)  # [B, P, C, 4]
    boxes = box_ops.decode_deltas(proposals.unsqueeze(2), deltas, weights=DELTA_WEIGHTS)
    boxes = box_ops.clip(boxes.flatten(1, 2), sizes_hw)  # [B, P * C, 4]
    large = (boxes[..., 2:] - boxes[..., :2] >= SMALLEST_SIDE).all(dim=-1)
    tested = torch.where(there[..., None] & (scores > score_threshold), scores, 0).flatten(1)
    labels = torch.arange(classes, device=count.device).expand(batch, number, -1).flatten(1)
    return boxes, torch.where(large, tested, 0), labels


def said_of_detections(
    branch: Branch, read: Callable[[Tensor, int], Tensor], boxes: Tensor, scores: Tensor, labels: Tensor
) -> Tensor:
    """What a branch says of detections: `[B, K, ...]` of boxes `[B, K, 4]`, scores and labels; 0 in the padding.

    read: regions `[R, 5]` and their size to their features `[R, channels, size, size]`.
    """
    regions, there = numbered_batch(boxes), (scores > 0).flatten()  # [B * K, 5], [B * K]
    rows = there.nonzero().squeeze(1)
    said = branch(read(regions[rows], branch.size))
    decoded = branch.decode(said, regions[rows, 1:], labels.flatten()[rows])  # [R, ...]
    every = decoded.new_zeros(regions.shape[0], *decoded.shape[1:]).index_copy(0, rows, decoded)
    every = torch.where(there.view(-1, *[1] * (every.ndim - 1)), every, 0)
    return every.view(*labels.shape, *decoded.shape[1:])
