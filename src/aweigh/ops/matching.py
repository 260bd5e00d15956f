"""Which point learns which box.

Legend: A points over all levels, C classes, N boxes of one image, n of a portion, M pairs of a point and a box.
"""

import torch
from torch import Tensor

from aweigh.ops import boxes as box_ops

BYTES_PER_PAIR = 80  # of a point and a box at the peak: some twenty values of float32


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
