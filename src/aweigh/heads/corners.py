"""Corners as points of heat maps: the modules that see them, what they learn, and the pairs of them that are boxes.

Papers: Law and Deng, "CornerNet", ECCV 2018, sections 3.2 to 3.4 and 4.2; Duan et al., "CenterNet: Keypoint Triplets",
ICCV 2019, whose third kind of point is the centre; Law et al., "CornerNet-Lite", 2019, which looks for corners twice.
`models/cornernet.py` says how ours differs.

Legend: B images, C classes, H x W cells of the map, N objects of all images that are learned, S stacks, k points of a
kind, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Few, Width, checked_class
from aweigh.heads.answers import Gates
from aweigh.heads.heatmap import MapObjects, make_heads
from aweigh.layers import Norm, SeparableConv2d, make_activation, make_norm
from aweigh.ops.heatmaps import (
    UNKNOWN,
    Radius,
    at_cells,
    at_peaks,
    columns_rows,
    draw_heatmaps,
    gaussian_radius,
    peaks,
)
from aweigh.ops.losses import penalty_reduced_focal_loss_sum, pull_and_push, world_mean
from aweigh.ops.pooling import largest_above, largest_below, largest_left, largest_right

CORNERS = ("top_left", "bottom_right")

CornerMaps = list[dict[str, Tensor]]
"""What each stack says, by kind of point and head, as `top_left_heatmap`: `heatmap` `[B, C, H, W]` logits; `offset`
`[B, 2, H, W]` (x, y) of the point in its cell, in cells; of corners `embedding` `[B, 1, H, W]`."""

Gather = Callable[..., nn.Module]
"""From channels, and by name `hidden`, `norm` and `separable`, to a module: `[B, channels, H, W]` ->
`[B, hidden, H, W]`, what a point reads of its row and column."""


class CornerGoals(NamedTuple):
    """What there is to learn in a batch; the dictionaries by kind of point."""

    heatmaps: dict[str, Tensor]  # [B, C, H, W] 1 at points, less round them, UNKNOWN where no background is known
    image: Tensor  # [N] which image an object is of
    cells: dict[str, Tensor]  # [N] row * W + column of its point
    offsets: dict[str, Tensor]  # [N, 2] x, y of its point in that cell, cells


class Points(NamedTuple):
    """The best points of a kind in each image, best first."""

    scores: Tensor  # [B, k] 0 for none
    labels: Tensor  # [B, k]
    places: Tensor  # [B, k, 2] x, y in cells
    cells: Tensor  # [B, k]


# What there is to learn


@torch.no_grad()
def corner_goals(
    objects: MapObjects,
    kinds: Sequence[str],
    size: tuple[int, int, int, int],
    *,
    radius: Radius,
    radius_iou: float,
    unknown: Tensor | None = None,
) -> CornerGoals:
    """What maps of `size` (B, C, H, W) have to learn of the objects that lie on them.

    radius, radius_iou: of the Gaussians, see `gaussian_radius`. unknown: see `draw_heatmaps`.
    """
    height, width = size[2:]
    boxes = objects.boxes
    sizes_hw = (boxes[:, 2:] - boxes[:, :2]).flip(1).ceil()
    radii = gaussian_radius(sizes_hw, kind=radius, min_iou=radius_iou).long()
    places = {"top_left": boxes[:, :2], "bottom_right": boxes[:, 2:], "center": (boxes[:, :2] + boxes[:, 2:]) / 2}
    last = torch.tensor([width - 1, height - 1], device=boxes.device)
    goals = CornerGoals({}, objects.image, {}, {})
    for kind in kinds:
        cell = torch.minimum(places[kind].floor().long(), last)
        divisor = 5.0 if kind == "center" else 6.0  # the centres of the triplets' authors are wider, in their code
        goals.heatmaps[kind] = draw_heatmaps(size, objects.image, objects.labels, cell, radii, unknown, divisor=divisor)
        goals.cells[kind] = cell[:, 1] * width + cell[:, 0]
        goals.offsets[kind] = places[kind] - cell
    return goals


def corner_losses(
    maps: CornerMaps, goals: CornerGoals, kinds: Sequence[str], *, pull_weight: float, push_weight: float
) -> dict[str, Tensor]:
    """The losses of CornerNet's equation 8, each a scalar, float32, and the mean over the stacks.

    `heatmap`: focal loss (equation 1) divided by the number of cells that are a point of the kind, or by one where
    there is none; of all kinds. `pull` and `push`: of the embeddings (equations 4 and 5), the mean over images,
    with their weights. `offset`: smooth L1 (equation 3) divided by the number of objects; of all kinds. The numbers
    of points and of objects are averaged over all processes.
    """
    first = maps[0][f"{kinds[0]}_heatmap"]
    objects = world_mean(first.new_tensor(float(len(goals.image)), dtype=torch.float32))
    ones = {kind: (goals.heatmaps[kind] == 1).sum().float() for kind in kinds}
    numbers = {kind: world_mean(count).clamp(min=1) for kind, count in ones.items()}
    losses: dict[str, list[Tensor]] = {"heatmap": [], "pull": [], "push": [], "offset": []}
    for stack in maps:
        heatmap = offset = first.new_zeros((), dtype=torch.float32)
        for kind in kinds:
            logits, goal = stack[f"{kind}_heatmap"].float(), goals.heatmaps[kind]
            focal = penalty_reduced_focal_loss_sum(logits, goal, unknown=UNKNOWN)
            heatmap = heatmap + focal / numbers[kind]
            said = at_cells(stack[f"{kind}_offset"], goals.image, goals.cells[kind])  # [N, 2]
            distance = F.smooth_l1_loss(said, goals.offsets[kind], reduction="sum")
            offset = offset + distance / (objects + 1e-4)
        embeddings = torch.cat(
            [at_cells(stack[f"{kind}_embedding"], goals.image, goals.cells[kind]) for kind in CORNERS], dim=1
        )  # [N, 2]
        pull, push = pull_and_push(embeddings, goals.image, len(first))
        losses["heatmap"].append(heatmap)
        losses["pull"].append(pull_weight * pull)
        losses["push"].append(push_weight * push)
        losses["offset"].append(offset)
    return {name: torch.stack(values).mean() for name, values in losses.items()}


# Decoding


def best_points(stack: dict[str, Tensor], kind: str, count: int, *, inside: Tensor | None = None) -> Points:
    """The best points of a kind that a stack says; inside: `[B, H, W]` bool, the cells that may be one."""
    heatmap = stack[f"{kind}_heatmap"].float()
    if inside is not None:
        heatmap = torch.where(inside[:, None], heatmap, -torch.inf)
    values, labels, cells = peaks(heatmap, count)  # [B, k]
    offset = at_peaks(stack[f"{kind}_offset"], cells)  # [B, k, 2]
    return Points(values.sigmoid(), labels, columns_rows(cells, heatmap.shape[-1]) + offset, cells)


def best_pairs_of_corners(
    stack: dict[str, Tensor], starts: Points, ends: Points, *, embedding_distance: float, max_pairs: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs of a top left and a bottom right corner: boxes `[B, P, 4]` in cells, scores, labels `[B, P]`.

    A score of 0 is no pair. P is `max_pairs`, or the number of all pairs where that is less.
    """
    first, second = (
        at_peaks(stack[f"{kind}_embedding"], points.cells).squeeze(-1)
        for kind, points in zip(CORNERS, (starts, ends), strict=True)
    )  # [B, k]
    near = (first[:, :, None] - second[:, None]).abs() <= embedding_distance  # [B, k, k]
    alike = starts.labels[:, :, None] == ends.labels[:, None]
    ordered = (ends.places[:, None] > starts.places[:, :, None]).all(dim=-1)
    both = torch.minimum(starts.scores[:, :, None], ends.scores[:, None]) > 0
    scores = (starts.scores[:, :, None] + ends.scores[:, None]) / 2
    scores = torch.where(near & alike & ordered & both, scores, 0).flatten(1)  # [B, k * k]
    count = ends.scores.shape[1]
    scores, pairs = scores.topk(min(max_pairs, scores.shape[1]), dim=1)  # [B, P]
    start, end = pairs // count, pairs % count
    corners = [
        points.places.gather(1, index[..., None].expand(-1, -1, 2)) for points, index in ((starts, start), (ends, end))
    ]
    return torch.cat(corners, dim=-1), scores, starts.labels.gather(1, start)


# All answers, of one image


class SeenPoints(NamedTuple):
    """Points of a kind in one image: the best, and those that an object to be found would have."""

    points: Points
    above: Tensor  # [k] how far the logit lies above the highest of its neighbours: 0 or more at a peak
    ranks: Tensor  # [k] from 1, among the peaks


def seen_points(
    stack: dict[str, Tensor], kind: str, count: int, places: Tensor, labels: Tensor, *, inside: Tensor | None = None
) -> SeenPoints:
    """The best `count` of a kind, as `best_points`, and every cell up to `NEAR` cells away from places `[N, 2]`, in
    cells, of the class `[N]` there."""
    heatmap = stack[f"{kind}_heatmap"].float()
    heatmap = heatmap if inside is None else torch.where(inside[:, None], heatmap, -torch.inf)
    height, width = heatmap.shape[-2:]
    best = best_points(stack, kind, count, inside=inside)
    near = torch.cartesian_prod(*[torch.arange(-NEAR, NEAR + 1, device=places.device)] * 2)  # [M, 2]
    at = (places.floor().long()[:, None] + near).flatten(0, 1)  # [N * M, 2] column, row
    on_map = ((at >= 0) & (at < torch.tensor([width, height], device=at.device))).all(dim=1)
    area = height * width
    known = best.labels[0] * area + best.cells[0]
    wanted = (labels.repeat_interleave(len(near)) * area + at[:, 1] * width + at[:, 0])[on_map]
    fresh = torch.tensor(sorted({*wanted.tolist()} - {*known.tolist()}), dtype=torch.int64, device=at.device)
    of_class, cells = fresh // area, fresh % area
    logits = heatmap[0].flatten(1)[of_class, cells]
    offset = at_peaks(stack[f"{kind}_offset"], cells[None])
    beside = Points(logits.sigmoid()[None], of_class[None], columns_rows(cells, width) + offset, cells[None])
    points = Points(*(torch.cat(parts, dim=1) for parts in zip(best, beside, strict=True)))

    margins = (heatmap - F.max_pool2d(heatmap, 3, stride=1, padding=1))[0].flatten(1)  # [C, H * W]
    every = heatmap[0].flatten(1)[margins >= 0].sort().values
    ranks = len(every) - torch.searchsorted(every, logits.detach(), right=True) + 1
    own = torch.arange(1, best.scores.shape[1] + 1, device=ranks.device)
    return SeenPoints(points, margins[points.labels[0], points.cells[0]], torch.cat([own, ranks]))


NEAR = 2  # ours


def pair_answers(
    stack: dict[str, Tensor],
    seen: Sequence[SeenPoints],
    boxes_of: Callable[[Tensor], Tensor],
    *,
    points_per_kind: int,
    embedding_distance: float,
    max_pairs: int,
) -> tuple[Tensor, Tensor, dict[str, Tensor], Gates]:
    """Every pair of a top left and a bottom right corner, as `seen`, of one class: boxes `[A, 4]`, labels `[A, 1]`, the
    parts of the score `[A, 1]`, and the gates that `best_pairs_of_corners` has. boxes_of: from cells to pixels,
    `[1, A, 4]`."""
    alike = seen[0].points.labels[0][:, None] == seen[1].points.labels[0]
    kinds = zip(CORNERS, seen, alike.nonzero().unbind(1), strict=True)
    of_kinds = [(kind, each, Points(*(part[:, row] for part in each.points)), row) for kind, each, row in kinds]
    (_, _, first, _), (_, _, second, _) = of_kinds
    parts = {kind.replace("_", " "): points.scores[0, :, None] for kind, _, points, _ in of_kinds}
    embeddings = [at_peaks(stack[f"{kind}_embedding"], points.cells)[0] for kind, _, points, _ in of_kinds]  # [A, 1]
    score = torch.stack([*parts.values()]).mean(dim=0)
    gates = Gates(score.shape, score.device)
    for kind, each, _, row in of_kinds:
        name = kind.replace("_", " ")
        gates.add(f"peak of {name}", each.above[row][:, None], ">=", 0)
        gates.add(f"rank of {name}", each.ranks[row][:, None], "<=", points_per_kind, "points_per_kind")
    gates.add("order", (second.places - first.places)[0].amin(dim=1, keepdim=True), ">", 0)
    distance = (embeddings[0] - embeddings[1]).abs()
    gates.add("embedding distance", distance, "<=", embedding_distance, "embedding_distance")
    gates.add("edge", torch.minimum(*parts.values()), ">", 0)
    gates.add_best("rank among pairs", score, None, max_pairs, "max_pairs")
    boxes = boxes_of(torch.cat([first.places, second.places], dim=-1))[0]
    return boxes, first.labels[0, :, None], parts, gates


# Modules


@checked_class()
class Point(nn.Module):
    """Of a kind of point, all that a stack says: what is read of row and column, and the heads (figures 4 and 7).

    channels: of the map. outputs: heads by name, and their channels. gather: see `Gather`. hidden: channels while
    gathering. norm: behind each convolution before the heads. head_kernel: of each head's first convolution.
    separable: 3x3 convolutions are 5x5 depthwise and 1x1, and heads have a normalisation too, for a CPU (ours).
    """

    def __init__(
        self,
        channels: int,
        outputs: Mapping[str, int],
        gather: Gather,
        *,
        hidden: Width = 128,
        norm: Norm = "bn",
        head_kernel: Few = 3,
        separable: bool = False,
    ) -> None:
        super().__init__()
        self.classes = outputs["heatmap"]
        form: dict[str, Any] = {"norm": norm, "separable": separable}
        self.gather = gather(channels, hidden=hidden, **form)
        self.merge = convolution(hidden, channels, activation=False, **form)
        self.around = convolution(channels, channels, kernel=1, activation=False, norm=norm)
        self.out = convolution(channels, channels, **form)
        self.heads = make_heads(
            channels,
            outputs,
            hidden=channels,
            kernel=head_kernel,
            norm=norm if separable else None,
            separable=separable,
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: `[B, channels, H, W]`. Returns each head's output by name."""
        x = self.out(F.relu(self.merge(self.gather(x)) + self.around(x)))
        return {name: head(x) for name, head in self.heads.items()}


class CornerPool(nn.Module):
    """What is largest below each cell, and what is largest right of it, added (equations 6 and 7, figure 6); or above
    and left, where `bottom_right`."""

    def __init__(self, channels: int, *, bottom_right: bool, hidden: int, norm: Norm, separable: bool) -> None:
        super().__init__()
        self.vertical, self.horizontal = (
            convolution(channels, hidden, norm=norm, separable=separable) for _ in range(2)
        )
        self.bottom_right = bottom_right

    def forward(self, x: Tensor) -> Tensor:
        down, across = directions(self.bottom_right)
        return down(self.vertical(x)) + across(self.horizontal(x))


def directions(bottom_right: bool) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Into which an object lies as seen from its corner, along the column and along the row."""
    return (largest_above, largest_left) if bottom_right else (largest_below, largest_right)


def convolution(
    in_channels: int,
    channels: int,
    *,
    kernel: int = 3,
    norm: Norm,
    activation: bool = True,
    separable: bool = False,
) -> nn.Sequential:
    """With a normalisation and ReLU behind it; separable: a 5x5 depthwise and a 1x1 convolution in its place."""
    if separable:
        return SeparableConv2d(in_channels, channels, 5, norm=norm, activation="relu" if activation else None)
    plain = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(plain, make_norm(norm, channels), *([make_activation("relu")] if activation else []))


def corner_pools(kind: Callable[..., nn.Module]) -> dict[str, Gather]:
    """A pooling of each of the two corners."""
    return {name: partial(kind, bottom_right=last) for name, last in zip(CORNERS, (False, True), strict=True)}


CORNER_POOLS = corner_pools(CornerPool)


def corner_points(
    channels: Sequence[int],
    num_classes: int,
    gathers: Mapping[str, Gather] = CORNER_POOLS,
    head_kernel: int = 3,
    separable: bool = False,
    *,
    point_channels: Width | None = 128,
    head_norm: Norm = "bn",
) -> list[nn.ModuleDict]:
    """The points of each stack, by kind; see `Point`.

    channels: of the map of each stack. gathers: what each kind gathers.
    point_channels: while gathering; None: as many as the map has.
    """
    corner = {"heatmap": num_classes, "embedding": 1, "offset": 2}
    outputs = {kind: corner if kind in CORNERS else {"heatmap": num_classes, "offset": 2} for kind in gathers}

    def of_stack(width: int) -> nn.ModuleDict:
        point = partial(
            Point,
            width,
            hidden=point_channels or width,
            norm=head_norm,
            head_kernel=head_kernel,
            separable=separable,
        )
        return nn.ModuleDict({kind: point(outputs[kind], gather) for kind, gather in gathers.items()})

    return [of_stack(width) for width in channels]
