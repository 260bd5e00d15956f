"""Boxes: areas, overlaps, coding by distances and by deltas, the points of a feature map, non-maximum suppression.

Legend: boxes are `[..., 4]` float `(x0, y0, x1, y1)` in pixels, right and bottom exclusive. Distances are
`[..., 4]` `(left, top, right, bottom)` from a point to the sides of a box, positive inside. Points are `[..., 2]`
`(x, y)`. Deltas are `[..., 4]` `(x, y, log width, log height)`, a box as seen from an anchor. Pairwise functions take
`[N, 4]` and `[M, 4]` and give `[N, M]`; aligned ones take equal shapes.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from aweigh.arguments import NMS
from aweigh.geometry.boxes import Suppression

MAX_LOG_SCALE = math.log(1000 / 16)  # the largest enlargement of an anchor (torchvision and detectron2)


def areas(boxes: Tensor) -> Tensor:
    """Width times height, `[...]`; inverted boxes have area zero."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def longer_sides(boxes: Tensor) -> Tensor:
    """The longer of width and height of boxes `[..., 4]`: `[...]`."""
    return (boxes[..., 2:] - boxes[..., :2]).amax(dim=-1)


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of each of `[N, 4]` with each of `[M, 4]` -> `[N, M]`; 0 where both are empty."""
    intersection, union = _intersection_and_union(boxes[:, None], others[None])
    return intersection / union.clamp(min=torch.finfo(boxes.dtype).tiny)


def pairwise_share(boxes: Tensor, others: Tensor) -> Tensor:
    """How much of each of `[N, 4]` lies in each of `[M, 4]`, as a share of its own area -> `[N, M]`; 0 without area."""
    intersection, _ = _intersection_and_union(boxes[:, None], others[None])
    return intersection / areas(boxes)[:, None].clamp(min=torch.finfo(boxes.dtype).tiny)


def aligned_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union, element by element: `[..., 4]`, `[..., 4]` -> `[...]` in `[0, 1]`."""
    intersection, union = _intersection_and_union(boxes, others)
    return intersection / union.clamp(min=torch.finfo(boxes.dtype).tiny)


def aligned_giou(boxes: Tensor, others: Tensor, *, eps: float = 1e-7) -> Tensor:
    """Generalised IoU (Rezatofighi et al. 2019, algorithm 1), element by element -> `[...]` in `[-1, 1]`.

    eps: added to both denominators, so that two empty boxes give a finite value and gradient.
    """
    intersection, union = _intersection_and_union(boxes, others)
    enclosing = _enclosing(boxes, others).prod(dim=-1)
    return intersection / (union + eps) - (enclosing - union) / (enclosing + eps)


def aligned_diou(boxes: Tensor, others: Tensor, *, eps: float = 1e-7) -> Tensor:
    """Distance IoU (Zheng et al. 2020, equation 7), element by element -> `[...]` in `[-1, 1]`."""
    intersection, union = _intersection_and_union(boxes, others)
    return intersection / (union + eps) - _center_distance(boxes, others, eps)


def aligned_ciou(boxes: Tensor, others: Tensor, *, eps: float = 1e-7) -> Tensor:
    """Complete IoU (Zheng et al. 2020, equations 8 to 11), element by element -> `[...]`.

    The trade-off weight alpha carries no gradient, as the paper says.
    """
    intersection, union = _intersection_and_union(boxes, others)
    iou = intersection / (union + eps)
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    other_width, other_height = (others[..., 2:] - others[..., :2]).unbind(-1)
    difference = torch.atan(other_width / other_height) - torch.atan(width / height)
    aspect = 4 / torch.pi**2 * difference.square()
    with torch.no_grad():
        alpha = aspect / (1 - iou + aspect + eps)
    return iou - _center_distance(boxes, others, eps) - alpha * aspect


def _intersection_and_union(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    top_left = torch.maximum(boxes[..., :2], others[..., :2])
    bottom_right = torch.minimum(boxes[..., 2:], others[..., 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=-1)
    return intersection, areas(boxes) + areas(others) - intersection


def _enclosing(boxes: Tensor, others: Tensor) -> Tensor:
    """Width and height `[..., 2]` of the smallest box around both."""
    top_left = torch.minimum(boxes[..., :2], others[..., :2])
    return (torch.maximum(boxes[..., 2:], others[..., 2:]) - top_left).clamp(min=0)


def _center_distance(boxes: Tensor, others: Tensor, eps: float) -> Tensor:
    """Squared distance of the centres over the squared diagonal of the enclosing box."""
    diagonal = _enclosing(boxes, others).square().sum(dim=-1) + eps
    offset = (boxes[..., :2] + boxes[..., 2:] - others[..., :2] - others[..., 2:]) / 2
    return offset.square().sum(dim=-1) / diagonal


def clip(boxes: Tensor, sizes_hw: Tensor) -> Tensor:
    """Boxes `[..., N, 4]` moved inside images of `sizes_hw` `[..., 2]` (height, width; the same leading shape)."""
    limits = sizes_hw.to(boxes.dtype)[..., [1, 0, 1, 0]].unsqueeze(-2)  # [..., 1, 4] width, height, width, height
    return torch.minimum(boxes.clamp(min=0), limits)


def encode_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances from points `[..., 2]` to the sides of boxes `[..., 4]` (FCOS equation 1); negative outside."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def decode_distances(points: Tensor, distances: Tensor) -> Tensor:
    """The boxes `[..., 4]` whose sides lie at `distances` from `points`: the inverse of `encode_distances`."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def encode_deltas(anchors: Tensor, boxes: Tensor, *, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Boxes `[..., 4]` as seen from anchors `[..., 4]` (Girshick et al. 2014, R-CNN, appendix C): deltas `[..., 4]`.

    Offsets of the centre in widths and heights of the anchor, and logarithms of the ratios of the sides; each times
    its weight. Both need positive sides.
    """
    sides, centers = anchors[..., 2:] - anchors[..., :2], (anchors[..., :2] + anchors[..., 2:]) / 2
    box_sides, box_centers = boxes[..., 2:] - boxes[..., :2], (boxes[..., :2] + boxes[..., 2:]) / 2
    deltas = torch.cat([(box_centers - centers) / sides, (box_sides / sides).log()], dim=-1)
    return deltas * deltas.new_tensor(weights)


def decode_deltas(anchors: Tensor, deltas: Tensor, *, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """The boxes `[..., 4]` that `deltas` describe: the inverse of `encode_deltas`; an enlargement ends at 1000 / 16."""
    deltas = deltas / deltas.new_tensor(weights)
    sides, centers = anchors[..., 2:] - anchors[..., :2], (anchors[..., :2] + anchors[..., 2:]) / 2
    half = deltas[..., 2:].clamp(max=MAX_LOG_SCALE).exp() * sides / 2
    middle = deltas[..., :2] * sides + centers
    return torch.cat([middle - half, middle + half], dim=-1)


def covered(points: Tensor, boxes: Tensor, *, byte_budget: int = 16 * 2**20) -> Tensor:
    """Which of the points `[A, 2]` lie inside one of the boxes `[N, 4]`: `[A]` bool, in portions of bounded memory."""
    portions = torch.split(points, max(1, byte_budget // (32 * max(1, len(boxes)))))
    inside = [encode_distances(portion[:, None], boxes).amin(dim=-1) > 0 for portion in portions]  # [p, N] each
    return torch.cat([portion.any(dim=1) for portion in inside])


def grid_points(
    height: int, width: int, stride: tuple[float, float], offset: tuple[float, float], *, like: Tensor
) -> Tensor:
    """The image point of each cell of a feature map, row by row: `[height * width, 2]` float32 `(x, y)` in pixels.

    stride, offset: `(y, x)` in pixels; cell (row, column) stands for `(column * stride_x + offset_x, ...)`.
    like: a tensor on the wanted device.
    """
    rows = torch.arange(height, device=like.device, dtype=torch.float32) * stride[0] + offset[0]
    columns = torch.arange(width, device=like.device, dtype=torch.float32) * stride[1] + offset[1]
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)  # [H*W, 2]


def candidates(
    points: Sequence[Tensor],
    boxes: Tensor,
    *,
    strides: Sequence[int],
    level_ranges: Sequence[tuple[float, float]],
    inclusive_ranges: bool = True,
    center_radius: float | None = 1.5,
    byte_budget: int = 64 * 2**20,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Portions of the points `[p, 2]`, in order, and which boxes `[N, 4]` each could learn: `[p, N]` bool.

    FCOS's rule: a point lies inside the box, within `center_radius` strides of its centre, and the largest of its four
    distances is in the range of its level. Portions are of about `byte_budget` bytes.
    """

    def per_point(values: Sequence[float]) -> Tensor:
        return torch.cat([p.new_full((len(p), 1), value) for p, value in zip(points, values, strict=True)])

    all_points = torch.cat(list(points))
    lower, upper = (per_point(ends) for ends in zip(*level_ranges, strict=True))
    radius = per_point([math.inf if center_radius is None else center_radius * stride for stride in strides])
    x0, y0, x1, y1 = boxes.unbind(1)
    bytes_per_pair = 40  # ten float32 values at the peak
    size = max(1, byte_budget // (bytes_per_pair * max(1, len(boxes))))
    for start in range(0, len(all_points), size):
        portion = all_points[start : start + size]
        low, high, near = lower[start : start + size], upper[start : start + size], radius[start : start + size]
        x, y = portion[:, :1], portion[:, 1:]  # [p, 1]
        left, top, right, bottom = x - x0, y - y0, x1 - x, y1 - y  # [p, N]
        inside = torch.minimum(torch.minimum(left, right), torch.minimum(top, bottom)) > 0
        reach = torch.maximum(torch.maximum(left, right), torch.maximum(top, bottom))
        if inclusive_ranges:
            inside &= (reach >= low) & (reach <= high)
        else:
            inside &= (reach > low) & (reach < high)
        if center_radius is not None:
            # The sub-box of half-side `near` around the centre; outside the box it is cut off by `inside`.
            inside &= ((left - right).abs() < 2 * near) & ((top - bottom).abs() < 2 * near)
        yield portion, inside


def best_pairs(logits: Tensor, *, count: int, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs of a row and a class: probabilities `[B, k]` (0: none), rows `[B, k]` and classes `[B, k]`.

    logits: `[B, A, C]`; k is `count`, or `A * C` where there are fewer. Only probabilities above `threshold` count. The
    best k pairs lie at the k rows whose best class scores highest, so only those rows are looked into.
    """
    num_rows, num_classes = logits.shape[1:]
    top = logits.amax(dim=-1).topk(min(count, num_rows), dim=1).indices  # [B, k']
    probability = logits.gather(1, top[..., None].expand(-1, -1, num_classes)).float().sigmoid()  # [B, k', C]
    probability = torch.where(probability > threshold, probability, 0).flatten(1)  # [B, k' * C]
    probability, pairs = probability.topk(min(count, probability.shape[1]), dim=1)  # [B, k]
    return probability, top.gather(1, pairs // num_classes), pairs % num_classes


# Non-maximum suppression of a batch. Nothing here branches on the data where it is traced, so that a detector with it
# is one graph. B images, N boxes of each, K = max_detections; a row of score 0 is empty and never kept.


def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    iou_threshold: float,
    max_detections: int,
    method: NMS = "class",
    sigma: float = 0.5,
    min_score: float = 1e-3,
) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the best of each group of overlapping boxes: index `[B, K]`, scores `[B, K]`, count `[B]`, best first.

    boxes `[B, N, 4]`, scores `[B, N]`, labels `[B, N]`.
    The first `count` entries of an image are kept, the rest is padding (index 0, score 0). method: `"class"` compares
    boxes of one class only, `"agnostic"` all with all, `"none"` takes the best scores, `"soft"` lowers the score of a
    same-class neighbour by `exp(-iou^2 / sigma)` (Bodla et al. 2017, equation 3) and drops it below `min_score`.
    """
    if boxes.shape[1] == 0:
        zeros = scores.new_zeros(scores.shape[0], max_detections)
        return zeros.long(), zeros, zeros.long().sum(dim=1)
    if method == "soft":
        index, kept = _soft_nms(boxes, scores, labels, max_detections, sigma, min_score)
    elif method == "none":
        kept, index = F.pad(scores, (0, max_detections)).topk(max_detections)
    else:
        groups = labels if method == "class" else torch.zeros_like(labels)
        index = hard_nms(boxes, scores, groups, iou_threshold, max_detections)
        kept = torch.where(index >= 0, scores.gather(1, index.clamp(min=0)), 0)
    kept = kept.clamp(min=0)
    return torch.where(kept > 0, index, 0), kept, (kept > 0).sum(dim=1)


def select_levels(
    levels: Sequence[tuple[Tensor, Tensor, Tensor]], sizes_hw: Tensor, selection: Suppression
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`select_detections` of all levels together, inside images of `sizes_hw` `[B, 2]`.

    levels: boxes `[B, k, 4]`, scores and labels `[B, k]` of each.
    """
    boxes, scores, labels = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
    return select_detections(
        clip(boxes, sizes_hw),
        scores,
        labels,
        iou_threshold=selection.nms_threshold,
        max_detections=selection.max_detections,
        method=selection.nms,
    )


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    iou_threshold: float,
    max_detections: int,
    method: NMS,
    sigma: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rows that `non_maximum_suppression` keeps: boxes `[B, K, 4]`, scores `[B, K]`, labels `[B, K]`, count `[B]`.

    Rows from `count` on are padding with score 0.
    """
    index, kept, count = non_maximum_suppression(
        boxes,
        scores,
        labels,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        method=method,
        sigma=sigma,
    )
    return boxes.gather(1, index[..., None].expand(-1, -1, 4)), kept, labels.gather(1, index), count


@torch.library.custom_op("aweigh::hard_nms", mutates_args=())
def hard_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, most: int) -> Tensor:
    """The rows that no better one of their group covers by more than `iou_threshold`, best first: `[B, most]` int64.

    -1 stands where there are fewer. An operator of its own, so that a graph holds it as one step, and an exported one
    has the runtime's in its place.
    """
    kept = [_best_of_image(*image, iou_threshold, most)[:most] for image in zip(boxes, scores, groups, strict=True)]
    return torch.stack([F.pad(index, (0, most - len(index)), value=-1) for index in kept])


@hard_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, most: int) -> Tensor:
    return groups.new_empty(boxes.shape[0], most)  # `len` would fix the number of images


def _best_of_image(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, most: int) -> Tensor:
    """The first `most` or more of `_every_kept`.

    What is kept depends on better boxes only, so when the best tenfold yields enough, the rest (and the square of its
    number) need not be looked at.
    """
    portion = 10 * most
    if len(boxes) > portion:
        best = scores.argsort(descending=True, stable=True)[:portion]  # of equal scores the first, as nms takes them
        index = best[_every_kept(boxes[best], scores[best], groups[best], iou_threshold)]
        if len(index) >= most or not bool(scores[best[-1]] > 0):
            return index
    return _every_kept(boxes, scores, groups, iou_threshold)


def _every_kept(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Of one image, the rows kept within each group, best first.

    Every group gets its own region of the plane, so one call compares within groups only; in float64 the shift
    costs no precision (in float32 it moves boxes by 0.01 px at 80 classes).
    """
    there = (scores > 0).nonzero().squeeze(1)
    if len(there) == 0:
        return there
    wide = torch.float32 if boxes.device.type == "mps" else torch.float64
    boxes, scores, groups = boxes[there].to(wide), scores[there].to(wide), groups[there].to(wide)
    extent = boxes.max() - boxes.min() + 1
    shifted = boxes + (groups * extent)[:, None]
    kept: Tensor = torchvision.ops.nms(shifted, scores, iou_threshold)
    return there[kept]


def _soft_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, max_detections: int, sigma: float, min_score: float
) -> tuple[Tensor, Tensor]:
    """Take the best, lower its neighbours, `max_detections` times: `(index [B, K], scores [B, K])`."""
    remaining = torch.where(scores >= min_score, scores, 0)
    chosen: list[Tensor] = []
    kept: list[Tensor] = []
    for _ in range(max_detections):
        score, best = remaining.max(dim=1, keepdim=True)  # [B, 1]
        chosen.append(best)
        kept.append(score)
        box = boxes.gather(1, best[..., None].expand(-1, -1, 4))  # [B, 1, 4]
        overlap = aligned_iou(box.expand_as(boxes), boxes) * (labels == labels.gather(1, best))
        remaining = remaining * torch.exp(-overlap.square() / sigma)
        remaining = torch.where(remaining >= min_score, remaining, 0).scatter(1, best, 0)
    return torch.cat(chosen, dim=1), torch.cat(kept, dim=1)
