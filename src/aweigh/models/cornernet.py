"""CornerNet: a box is two corners that find each other by a number, its embedding.

Papers: Law and Deng, "CornerNet: Detecting Objects as Paired Keypoints", ECCV 2018 (arXiv 1808.01244), and Law et al.,
"CornerNet-Lite: Efficient Keypoint Based Object Detection", 2019 (arXiv 1904.08900), for CornerNet-Squeeze. One heat
map of each class says where top left corners are, one where bottom right ones (section 3.2). A corner lies where
nothing of the object is; so what a corner's cell reads is the largest value below and right of it, or above and left
(section 3.4). At each corner the network also says where in its cell it lies, and an embedding; two corners of a class
whose embeddings differ by 0.5 or less are a box (sections 3.3 and 4.2).

A network may have a third kind of point, the centre, which `centernet_triplets` reads.

How ours differs:
- The radius of a Gaussian is the one at which an IoU of 0.3 is kept, by the corrected formula: the second edition of
  the paper and the authors' code since March 2019. The first had 0.7 and the formula that `radius="official"` computes.
- The embeddings' losses are the mean over images, as equations 4 and 5 have one image; the authors' code adds up those
  of the 4 or 5 images on a GPU. One object alone pushes nobody; their code counts a constant there.
- A right or lower edge lies where the box ends, which may be the end of the last cell; the authors cut boxes off at
  W - 1, one pixel earlier.
- Corners are found among logits, as CenterNet's centres are; a pair needs two of them, where the authors let cells that
  are none, at a score of 0, take part. A box has an area, and lies in its image.
- What lies in a region to ignore, is uncertain, or of a class an image was not labelled for, gives no loss in the heat
  maps, to one cell beyond its edge.
- Prediction is of one image; the authors' tests add its mirror image, as test-time augmentation can.

Legend: B images, C classes, H x W cells of the map, N objects of all images that are learned, S stacks, k points of a
kind, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import NMS, Count, Divisor, Few, NotNegative, Share, Width, checked_class
from aweigh.backbones import Backbone, hourglass_backbone, shufflenet_v2_backbone
from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.heads.heatmap import make_heads, objects_on_map, unknown_cells
from aweigh.layers import Norm, SeparableConv2d, make_activation, make_norm
from aweigh.models.builders import Builder, with_neck_and_heads
from aweigh.models.detector import Selection, check_classes, detector
from aweigh.necks import Neck
from aweigh.necks.upsample import LiteUpsample, NoUpsample
from aweigh.ops import boxes as box_ops
from aweigh.ops.heatmaps import (
    UNKNOWN,
    Radius,
    at_cells,
    at_peaks,
    cells_inside,
    columns_rows,
    draw_heatmaps,
    gaussian_radius,
    peaks,
)
from aweigh.ops.losses import check_labels, penalty_reduced_focal_loss_sum, pull_and_push, world_mean
from aweigh.ops.pooling import largest_above, largest_below, largest_left, largest_right
from aweigh.structures import Images, Targets
from aweigh.weights.convert.cornernet import cornernet_record
from aweigh.weights.record import by_builder

CORNERS = ("top_left", "bottom_right")

CornerNetOutput = list[dict[str, Tensor]]
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


@dataclass(frozen=True)
class CornerNetSelection(Selection):
    """Which of the network's answers become detections (section 4.2)."""

    points_per_kind: Count = 100
    max_pairs: Count = 1000
    embedding_distance: NotNegative = 0.5
    score_threshold: Share = 0.0
    nms: NMS = "soft"


@detector(CornerNetSelection)
class CornerNet(nn.Module):
    """The detector.

    Args:
        backbone, neck: image `[B, 3, H, W]` -> feature maps -> one map for each stack, all of one stride.
        points: of each stack, by kind, a `Point`: `top_left` and `bottom_right`, and `center` with `rescore`.
        classes: names and original ids; their number must be the heat maps'.
        rescore: from pairs and centres to new scores of the pairs; None: a pair scores the mean of its corners.
        radius, radius_iou: of the Gaussians, see `ops.heatmaps.gaussian_radius`.
        pull_weight, push_weight: alpha and beta of equation 8, whose gamma is 1.
        points_per_kind: corners of a kind that are looked into. max_pairs: best pairs that are suppressed among.
        stride_divisor: sides of a batch are multiples of it; None: the backbone's.
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck,
        points: Sequence[nn.ModuleDict],
        *,
        classes: Classes,
        rescore: Callable[..., Tensor] | None = None,
        radius: Radius = "corrected",
        radius_iou: Share = 0.3,
        pull_weight: NotNegative = 0.1,
        push_weight: NotNegative = 0.1,
        points_per_kind: Count = 100,
        max_pairs: Count = 1000,
        stride_divisor: Divisor | None = None,
    ) -> None:
        super().__init__()
        self.kinds = (*CORNERS, *(["center"] if rescore else []))
        if any(set(of_stack) != set(self.kinds) for of_stack in points):
            raise UsageError(f"CornerNet: each stack needs the points {', '.join(self.kinds)}, got {list(points[0])}.")
        for point in (point for of_stack in points for point in of_stack.values()):
            check_classes("CornerNet", cast(Point, point).classes, classes)
        if not 0 < radius_iou < 1:
            raise UsageError(f"CornerNet: radius_iou must lie between 0 and 1, got {radius_iou}.")
        self.backbone, self.neck, self.points = backbone, neck, nn.ModuleList(points)
        self.classes, self.rescore = classes, rescore
        self.stride = neck.strides[0]
        self.stride_divisor: int = stride_divisor or backbone.stride_divisor
        self.radius: Radius = radius
        self.radius_iou = radius_iou
        self.pull_weight, self.push_weight = pull_weight, push_weight

        self.selection = CornerNetSelection(points_per_kind=points_per_kind, max_pairs=max_pairs)

    def forward(self, images: Images, targets: Sequence[Targets] | None = None) -> dict[str, Tensor] | list[Detections]:
        """The losses if `targets` are given, else the detections of each image."""
        raw = self.network(images.pixels)
        return self.decode(raw, images.sizes_hw) if targets is None else self.loss(raw, targets)

    def network(self, pixels: Tensor) -> CornerNetOutput:
        """Images `[B, 3, H, W]`, RGB in `[0, 1]`, to raw outputs: the part that is compiled and exported."""
        maps = self.neck(self.backbone(pixels))
        return [
            {f"{kind}_{head}": value for kind in self.kinds for head, value in cast(Any, of_stack)[kind](x).items()}
            for of_stack, x in zip(self.points, maps, strict=True)
        ]

    # Training

    def loss(self, raw: CornerNetOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The losses of equation 8, each a scalar, float32, and the mean over the stacks.

        `heatmap`: focal loss (equation 1) divided by the number of cells that are a point of the kind, or by one where
        there is none; of all kinds. `pull` and `push`: of the embeddings (equations 4 and 5), the mean over images,
        with their weights. `offset`: smooth L1 (equation 3) divided by the number of objects; of all kinds. The numbers
        of points and of objects are averaged over all processes.
        """
        first = raw[0]["top_left_heatmap"]
        check_labels(targets, images=len(first), classes=len(self.classes), what="CornerNet.loss")
        goals = self.goals(targets, (first.shape[-2], first.shape[-1]))
        objects = world_mean(first.new_tensor(float(len(goals.image)), dtype=torch.float32))
        ones = {kind: (goals.heatmaps[kind] == 1).sum().float() for kind in self.kinds}
        numbers = {kind: world_mean(count).clamp(min=1) for kind, count in ones.items()}
        losses: dict[str, list[Tensor]] = {"heatmap": [], "pull": [], "push": [], "offset": []}
        for stack in raw:
            heatmap = offset = first.new_zeros((), dtype=torch.float32)
            for kind in self.kinds:
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
            losses["pull"].append(self.pull_weight * pull)
            losses["push"].append(self.push_weight * push)
            losses["offset"].append(offset)
        return {name: torch.stack(values).mean() for name, values in losses.items()}

    @torch.no_grad()
    def goals(self, targets: Sequence[Targets], size_hw: tuple[int, int]) -> CornerGoals:
        """What maps of `size_hw` cells have to learn of the targets of each image; see `objects_on_map`."""
        height, width = size_hw
        _, image, labels, boxes = objects_on_map(targets, size_hw, self.stride)
        sizes_hw = (boxes[:, 2:] - boxes[:, :2]).flip(1).ceil()
        radii = gaussian_radius(sizes_hw, kind=self.radius, min_iou=self.radius_iou).long()
        unknown = unknown_cells(targets, size_hw, self.stride, len(self.classes), margin=self.stride)
        places = {"top_left": boxes[:, :2], "bottom_right": boxes[:, 2:], "center": (boxes[:, :2] + boxes[:, 2:]) / 2}
        last = torch.tensor([width - 1, height - 1], device=boxes.device)
        size = (len(targets), len(self.classes), height, width)
        goals = CornerGoals({}, image, {}, {})
        for kind in self.kinds:
            cell = torch.minimum(places[kind].floor().long(), last)
            divisor = 5.0 if kind == "center" else 6.0  # the centres of the triplets' authors are wider, in their code
            goals.heatmaps[kind] = draw_heatmaps(size, image, labels, cell, radii, unknown, divisor=divisor)
            goals.cells[kind] = cell[:, 1] * width + cell[:, 0]
            goals.offsets[kind] = places[kind] - cell
        return goals

    # Prediction

    @torch.no_grad()
    def decode(self, raw: CornerNetOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """`select`, cut to the number found: one `Detections` per image, best first."""
        found = self.select(raw, torch.tensor(sizes_hw, device=raw[-1]["top_left_heatmap"].device))
        return Detections.unpadded(found, classes=self.classes, sizes_hw=sizes_hw)

    def select(self, raw: CornerNetOutput, sizes_hw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Raw outputs to detections (section 4.2), padded to a fixed number."""
        points = {kind: self._best(raw[-1], kind, sizes_hw) for kind in self.kinds}
        boxes, scores, labels = self._pairs(raw[-1], *(points[kind] for kind in CORNERS))
        boxes = box_ops.clip(boxes * self.stride, sizes_hw)  # [B, P, 4]
        scores = torch.where(box_ops.areas(boxes) > 0, scores, 0)
        if self.rescore is not None:
            centers = points["center"]
            places = torch.minimum(centers.places.clamp(min=0) * self.stride, sizes_hw.flip(1)[:, None])
            scores = self.rescore(boxes, scores, labels, places, centers.scores, centers.labels)
        scores = torch.where(scores > self.selection.score_threshold, scores, 0)
        return box_ops.select_levels([(boxes, scores, labels)], sizes_hw, self.selection)

    def _best(self, stack: dict[str, Tensor], kind: str, sizes_hw: Tensor) -> Points:
        """The best points of a kind; a lower right corner may lie in the cell that begins where its image ends."""
        heatmap = stack[f"{kind}_heatmap"].float()
        height, width = heatmap.shape[-2:]
        inside = cells_inside((height, width), self.stride, sizes_hw + (kind == "bottom_right"))  # [B, H, W]
        there = torch.where(inside[:, None], heatmap, -torch.inf)
        values, labels, cells = peaks(there, self.selection.points_per_kind)  # [B, k]
        offset = at_peaks(stack[f"{kind}_offset"], cells)  # [B, k, 2]
        return Points(values.sigmoid(), labels, columns_rows(cells, width) + offset, cells)

    def _pairs(self, stack: dict[str, Tensor], starts: Points, ends: Points) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of a top left and a bottom right corner: boxes `[B, P, 4]` in cells, scores, labels `[B, P]`.

        A score of 0 is no pair. P is `max_pairs`, or the number of all pairs where that is less.
        """
        first, second = (
            at_peaks(stack[f"{kind}_embedding"], points.cells).squeeze(-1)
            for kind, points in zip(CORNERS, (starts, ends), strict=True)
        )  # [B, k]
        near = (first[:, :, None] - second[:, None]).abs() <= self.selection.embedding_distance  # [B, k, k]
        alike = starts.labels[:, :, None] == ends.labels[:, None]
        ordered = (ends.places[:, None] > starts.places[:, :, None]).all(dim=-1)
        both = torch.minimum(starts.scores[:, :, None], ends.scores[:, None]) > 0
        scores = (starts.scores[:, :, None] + ends.scores[:, None]) / 2
        scores = torch.where(near & alike & ordered & both, scores, 0).flatten(1)  # [B, k * k]
        count = ends.scores.shape[1]
        scores, pairs = scores.topk(min(self.selection.max_pairs, scores.shape[1]), dim=1)  # [B, P]
        start, end = pairs // count, pairs % count
        corners = [
            points.places.gather(1, index[..., None].expand(-1, -1, 2))
            for points, index in ((starts, start), (ends, end))
        ]
        return torch.cat(corners, dim=-1), scores, starts.labels.gather(1, start)


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


# Builders: each architecture with its numbers, and the weights its authors have published


cornernet = with_neck_and_heads(CornerNet, without=["rescore"])


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


# Fire modules, maps of stride 8, heads of 1x1 convolutions; its authors look into 20 corners of a kind and 100 pairs.
_SQUEEZE_VALUES: dict[str, Any] = {
    "channels": (256, 256, 384, 384, 512),
    "blocks": (2, 2, 2, 2, 4),
    "points_per_kind": 20,
    "max_pairs": 100,
}

BUILDERS = {
    # AP on test-dev: 40.6 on Hourglass-104, 34.4 of CornerNet-Squeeze.
    "cornernet_hourglass104": Builder(
        cornernet, hourglass_backbone, parts={"neck": NoUpsample, "heads": corner_points}
    ),
    "cornernet_squeeze": Builder(
        cornernet,
        partial(hourglass_backbone, 3, "fire"),
        _SQUEEZE_VALUES,
        {"neck": NoUpsample, "heads": partial(corner_points, head_kernel=1)},
    ),
    # Light enough to be trained on a CPU: neck, pooling and heads of separable convolutions with 64 channels (ours).
    "cornernet_shufflenet_v2_x0_5_lite": Builder(
        cornernet,
        partial(shufflenet_v2_backbone, 0.5),
        {"point_channels": None},
        {"neck": LiteUpsample, "heads": partial(corner_points, separable=True)},
    ),
}

PUBLISHED = by_builder(
    cornernet_record(
        "cornernet_hourglass104",
        "CornerNet_500000",
        "open?id=16bbMAyykdZr2_7afiMZrvvn4xkYa-LYk",
        "BSD-3-Clause (princeton-vl/CornerNet)",
        40.6,
    ),
    cornernet_record(
        "cornernet_squeeze",
        "CornerNet_Squeeze_500000",
        "file/d/1qM8BBYCLUBcZx_UmLT0qMXNTh-Yshp4X/view",
        "BSD-3-Clause (princeton-vl/CornerNet-Lite)",
        34.4,
    ),
)
