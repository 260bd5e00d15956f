"""Which point, or which anchor, learns which box: by overlap, by adaptive samples (ATSS), by task alignment.

Legend: A points or anchors over all levels, C classes, N boxes of one image, n of a portion, M pairs of a point and a
box, L levels.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torchvision
from torch import Tensor

from aweigh.ops import boxes as box_ops

BACKGROUND, IGNORED = -1, -2  # in assignments, where the index of a box is expected
GOLDEN_RATIO = 0.6180339887498949
BYTES_PER_PAIR = 80  # of a point and a box at the peak: some twenty values of float32


@torch.no_grad()
def by_overlap(
    anchors: Tensor,
    boxes: Tensor,
    *,
    positive: float,
    negative: float,
    rescue: Literal["ties", "one", "none"] = "ties",
    least: float = 0.0,
    byte_budget: int = 64 * 2**20,
) -> Tensor:
    """The box each anchor learns: index into `boxes`, -1 for background, -2 for neither: `[A]` int64.

    anchors: `[A, 4]` and boxes: `[N, 4]`, xyxy. An anchor learns the box it overlaps most where the IoU is `positive`
    or more (Lin et al. 2017, RetinaNet, section 4), is background where it is below `negative`, and neither between.
    rescue: what happens for a box that is no anchor's. `"ties"`: the anchors that overlap it most learn, each the box
    it overlaps most itself (torchvision and detectron2), where that is an IoU of `least` or more. `"one"`: the first
    anchor that overlaps it most learns it, and of several such boxes the first (TensorFlow, EfficientDet). A box that
    no anchor touches is rescued by none.
    Memory is bounded: anchors are taken in portions of about `byte_budget` bytes, with the same result.
    """
    if len(boxes) == 0 or len(anchors) == 0:
        return torch.full((len(anchors),), BACKGROUND, device=anchors.device)
    portions = torch.split(anchors, max(1, byte_budget // (BYTES_PER_PAIR * len(boxes))))
    own, most, best, best_anchor = [], [], boxes.new_zeros(len(boxes)), torch.zeros_like(boxes[:, 0], dtype=torch.int64)
    start = 0
    for portion in portions:
        overlap = box_ops.pairwise_iou(portion, boxes)  # [p, N]
        highest, index = overlap.max(dim=1)
        own.append(index)
        most.append(highest)
        column, row = overlap.max(dim=0)  # [N] each
        best_anchor = torch.where(column > best, row + start, best_anchor)
        best = torch.maximum(best, column)
        start += len(portion)
    nearest, overlaps = torch.cat(own), torch.cat(most)  # [A] each
    index = torch.where(overlaps >= positive, nearest, IGNORED).masked_fill(overlaps < negative, BACKGROUND)
    if rescue == "ties":
        touched = torch.where((best > 0) & (best >= least), best, torch.inf)  # no overlap equals infinity
        tied = [(box_ops.pairwise_iou(portion, boxes) == touched).any(dim=1) for portion in portions]
        index = torch.where(torch.cat(tied), nearest, index)
    elif rescue == "one":
        rows = (best > 0).nonzero().squeeze(1)
        first = index.new_full((len(anchors),), len(boxes)).scatter_reduce(0, best_anchor[rows], rows, "amin")
        index = torch.where(first < len(boxes), first, index)
    return index


@torch.no_grad()
def by_adaptive_samples(
    anchors: Sequence[Tensor],
    boxes: Tensor,
    *,
    per_level: int = 9,
    byte_budget: int = 64 * 2**20,
) -> Tensor:
    """The box each anchor learns, by adaptive training sample selection (Zhang et al., ATSS, CVPR 2020, algorithm 1).

    anchors: per level `[A_l, 4]`, boxes: `[N, 4]`, xyxy. On each level the `per_level` anchors whose centres lie
    nearest to that of a box are its candidates; those learn it whose centre lies in it and whose IoU reaches the mean
    plus the standard deviation of all its candidates' IoUs. Of several boxes an anchor learns the one it overlaps most.
    Returns the index into `boxes`, -1 for background: `[A]` int64. Memory is bounded: boxes are taken in portions of
    about `byte_budget` bytes, with the same result.
    """
    together = torch.cat(list(anchors))
    index = torch.full((len(together),), BACKGROUND, device=together.device)
    if len(boxes) == 0:
        return index
    highest = together.new_zeros(len(together))
    centers = [(level[:, :2] + level[:, 2:]) / 2 for level in anchors]
    all_centers = torch.cat(centers)
    portion = max(1, byte_budget // (BYTES_PER_PAIR * max(map(len, anchors))))
    for start in range(0, len(boxes), portion):
        some = boxes[start : start + portion]  # [n, 4]
        middle, first, chosen = (some[:, :2] + some[:, 2:]) / 2, 0, []
        for level in centers:
            distance = (level[:, None] - middle).square().sum(dim=-1)  # [A_l, n]
            chosen.append(distance.topk(min(per_level, len(level)), dim=0, largest=False).indices + first)
            first += len(level)
        candidates = torch.cat(chosen)  # [M / n, n]
        overlap = box_ops.aligned_iou(together[candidates], some.expand(len(candidates), -1, -1))
        # One candidate alone, in the smallest of images, has no deviation.
        enough = overlap.mean(dim=0) + (overlap.std(dim=0) if len(candidates) > 1 else 0)  # [n]
        inside = box_ops.encode_distances(all_centers[candidates], some.expand(len(candidates), -1, -1)).amin(-1) > 0.01
        row, column = ((overlap >= enough) & inside).nonzero(as_tuple=True)
        anchor, value = candidates[row, column], overlap[row, column]
        best = highest.scatter_reduce(0, anchor, value, "amax")
        wins = (value == best[anchor]) & (value > highest[anchor])
        index[anchor[wins]] = column[wins] + start
        highest = best
    return index


@torch.no_grad()
def task_aligned(
    points: Tensor,
    reach: Tensor,
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor,
    predicted: Tensor,
    *,
    topk: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
    byte_budget: int = 64 * 2**20,
) -> tuple[Tensor, Tensor]:
    """The box each point learns and how well it should score, by task alignment (Feng et al., TOOD, ICCV 2021).

    points: `[A, 2]` x, y in pixels. reach: `[A, 1]`, the largest distance in pixels that a point can regress. boxes:
    `[N, 4]` xyxy, labels: `[N]` int64. scores: `[A, C]` in `[0, 1]` and predicted: `[A, 4]` xyxy, what the network
    says now. Of the points inside a box that can reach its sides, the `topk` with the highest alignment
    t = score^alpha * IoU^beta (equation 1) learn it; of several boxes a point learns the one it overlaps most.

    Returns the index into `boxes` `[A]` int64, -1 for none, and the goal of its score `[A]` float32, 0 for none: t
    scaled so that the best point of each box is to score the highest IoU among its points (section 3.3.1 of the paper).
    Memory is bounded: boxes are taken in portions of about `byte_budget` bytes, with the same result.
    """
    index = points.new_full((len(points),), -1, dtype=torch.int64)
    goal = points.new_zeros(len(points))
    if len(boxes) == 0:
        return index, goal
    portion = max(1, byte_budget // (BYTES_PER_PAIR * len(points)))
    parts = []
    for start in range(0, len(boxes), portion):
        some = boxes[start : start + portion]  # [n, 4]
        distances = box_ops.encode_distances(points[:, None], some)  # [A, n, 4]
        possible = (distances.amin(dim=-1) > 0) & (distances.amax(dim=-1) <= reach)
        overlap = box_ops.pairwise_iou(predicted, some)  # [A, n]
        alignment = scores[:, labels[start : start + portion]] ** alpha * overlap**beta * possible
        best = alignment.topk(min(topk, len(points)), dim=0)  # [k, n]
        row, column = (best.values > 0).nonzero(as_tuple=True)
        point = best.indices[row, column]
        parts.append((point, column + start, overlap[point, column], best.values[row, column]))
    point, box, overlap, alignment = (torch.cat(part) for part in zip(*parts, strict=True))  # [M] each

    order = overlap.argsort(stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    best_rank = index.scatter_reduce(0, point, rank, "amax")  # [A], -1 where there is no pair
    taken = best_rank >= 0
    pair = order[best_rank[taken]]  # one for each point that learns
    index[taken] = box[pair]
    zero = overlap.new_zeros(len(boxes))
    top_alignment = zero.scatter_reduce(0, box[pair], alignment[pair], "amax")  # [N]
    top_overlap = zero.scatter_reduce(0, box[pair], overlap[pair], "amax")
    goal[taken] = alignment[pair] / top_alignment[box[pair]] * top_overlap[box[pair]]
    return index, goal


def among_all(index: Tensor, points: Tensor, boxes: Tensor, learned: Tensor, ignored: Tensor) -> Tensor:
    """The index into the boxes that are learned as one into all of them; background in an ignored one is `IGNORED`.

    index: `[A]`, of the points `[A, 2]`, as the other functions here return it. boxes: `[N, 4]`, all; learned, ignored:
    `[N]` bool, which of them are.
    """
    rows = learned.nonzero().squeeze(1)
    among = index.clone()
    among[index >= 0] = rows[index[index >= 0]]
    if ignored.any():
        among[box_ops.covered(points, boxes[ignored]) & (index == BACKGROUND)] = IGNORED
    return among


@torch.no_grad()
def hard_examples(
    losses: Tensor,
    boxes: Tensor,
    positive: Tensor,
    *,
    count: int,
    nms_threshold: float,
    negatives_per_positive: int | None = None,
) -> Tensor:
    """The rows that learn in online hard example mining: at most `count`, those of the highest loss: int64.

    losses: `[A]`, 0 where nothing is to be learned. boxes: `[A, 4]` xyxy. positive: `[A]` bool. Of overlapping boxes
    (IoU above `nms_threshold`) the one of the highest loss is kept (Shrivastava et al. 2016, section 4.2). Where
    `negatives_per_positive` is given, there are at most so many background rows for each positive one, and so many
    where there is no positive one (Lin et al. 2017, table 1d, "1:3"). Of the background 8 x `count` rows are compared
    (ours).
    """
    candidates = losses > 0
    hardest = torch.where(candidates & ~positive, losses, 0).topk(min(8 * count, len(losses)))
    rows = torch.cat([(candidates & positive).nonzero().squeeze(1), hardest.indices[hardest.values > 0]])
    kept = rows[torchvision.ops.nms(boxes[rows], losses[rows], nms_threshold)]  # the highest loss first
    if negatives_per_positive is not None:
        objects = kept[positive[kept]]
        objects = objects[: max(1, count // (1 + negatives_per_positive))]
        background = kept[~positive[kept]][: negatives_per_positive * max(1, len(objects))]
        kept = torch.cat([objects, background])
    return kept[:count]


@torch.no_grad()
def hardest(losses: Tensor, sizes: Sequence[int], count: int) -> Tensor:
    """Of each image the rows of the `count` highest losses, or all it has: int64; of equal losses the first.

    losses: `[R]`, the rows of the images one behind the other. sizes: how many each has, R in all.
    """
    rows, start = [], 0
    for part in torch.split(losses, list(sizes)):
        rows.append(part.argsort(descending=True, stable=True)[:count] + start)
        start += len(part)
    return torch.cat(rows)


@torch.no_grad()
def balanced_sample(index: Tensor, *, count: int, positive_fraction: float, seed: Tensor) -> Tensor:
    """Some of the rows that learn: at most `count`, of them at most the fraction positive: int64, positives first.

    index: `[A]`, the box of each row, -1 background, -2 no loss, as the other functions here return it. Rows are drawn
    evenly spread (multiples of the golden ratio), beginning at a place that `seed` (a scalar, such as a sum of outputs)
    sets: other ones at every step, and the same ones for the same outputs, so that a loss is a function of its inputs.
    The papers draw at random (Ren et al. 2015, Faster R-CNN, section 3.1.3).
    """
    place = torch.arange(len(index), dtype=torch.float64, device=index.device) * GOLDEN_RATIO
    place = (place + seed.double() * 1000) % 1

    def first(chosen: Tensor, most: int) -> Tensor:
        rows = chosen.nonzero().squeeze(1)
        return rows[place[rows].argsort()[:most]]

    positive = first(index >= 0, int(count * positive_fraction))
    return torch.cat([positive, first(index == BACKGROUND, count - len(positive))])
