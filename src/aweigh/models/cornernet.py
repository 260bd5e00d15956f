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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from aweigh.arguments import NMS, Count, Divisor, NotNegative, Share
from aweigh.backbones import Backbone, hourglass_backbone, shufflenet_v2_backbone
from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.heads.answers import Answers, combined, stride_names
from aweigh.heads.corners import (
    CORNERS,
    CornerGoals,
    CornerMaps,
    Point,
    best_pairs_of_corners,
    best_points,
    corner_goals,
    corner_losses,
    corner_points,
    pair_answers,
    seen_points,
)
from aweigh.heads.heatmap import objects_on_map, unknown_cells
from aweigh.models.builders import Builder, with_neck_and_heads
from aweigh.models.detector import Selection, check_classes, detector
from aweigh.necks import Neck
from aweigh.necks.upsample import LiteUpsample, NoUpsample
from aweigh.ops import boxes as box_ops
from aweigh.ops.heatmaps import Radius, cells_inside
from aweigh.ops.losses import check_labels
from aweigh.structures import Images, Targets
from aweigh.weights.convert.cornernet import cornernet_record
from aweigh.weights.record import by_builder


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

    def network(self, pixels: Tensor) -> CornerMaps:
        """Images `[B, 3, H, W]`, RGB in `[0, 1]`, to raw outputs: the part that is compiled and exported."""
        maps = self.neck(self.backbone(pixels))
        return [
            {f"{kind}_{head}": value for kind in self.kinds for head, value in cast(Any, of_stack)[kind](x).items()}
            for of_stack, x in zip(self.points, maps, strict=True)
        ]

    # Training

    def loss(self, raw: CornerMaps, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The losses of equation 8, see `corner_losses`."""
        first = raw[0]["top_left_heatmap"]
        check_labels(targets, images=len(first), classes=len(self.classes), what="CornerNet.loss")
        goals = self.goals(targets, (first.shape[-2], first.shape[-1]))
        return corner_losses(raw, goals, self.kinds, pull_weight=self.pull_weight, push_weight=self.push_weight)

    def goals(self, targets: Sequence[Targets], size_hw: tuple[int, int]) -> CornerGoals:
        """What maps of `size_hw` cells have to learn of the targets of each image; see `objects_on_map`."""
        number = len(self.classes)
        return corner_goals(
            objects_on_map(targets, size_hw, self.stride),
            self.kinds,
            (len(targets), number, *size_hw),
            radius=self.radius,
            radius_iou=self.radius_iou,
            unknown=unknown_cells(targets, size_hw, self.stride, number, margin=self.stride),
        )

    # Prediction

    @torch.no_grad()
    def decode(self, raw: CornerMaps, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """`select`, cut to the number found: one `Detections` per image, best first."""
        found = self.select(raw, torch.tensor(sizes_hw, device=raw[-1]["top_left_heatmap"].device))
        return Detections.unpadded(found, classes=self.classes, sizes_hw=sizes_hw)

    def select(self, raw: CornerMaps, sizes_hw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Raw outputs to detections (section 4.2), padded to a fixed number."""
        chosen, stack = self.selection, raw[-1]
        size_hw = (stack["top_left_heatmap"].shape[-2], stack["top_left_heatmap"].shape[-1])
        points = {}
        for kind in self.kinds:  # a lower right corner may lie in the cell that begins where its image ends
            inside = cells_inside(size_hw, self.stride, sizes_hw + (kind == "bottom_right"))  # [B, H, W]
            points[kind] = best_points(stack, kind, chosen.points_per_kind, inside=inside)
        corners = [points[kind] for kind in CORNERS]
        distance, most = chosen.embedding_distance, chosen.max_pairs
        boxes, scores, labels = best_pairs_of_corners(stack, *corners, embedding_distance=distance, max_pairs=most)
        boxes = box_ops.clip(boxes * self.stride, sizes_hw)  # [B, P, 4]
        scores = torch.where(box_ops.areas(boxes) > 0, scores, 0)
        if self.rescore is not None:
            centers = points["center"]
            places = torch.minimum(centers.places.clamp(min=0) * self.stride, sizes_hw.flip(1)[:, None])
            scores = self.rescore(boxes, scores, labels, places, centers.scores, centers.labels)
        scores = torch.where(scores > chosen.score_threshold, scores, 0)
        return box_ops.select_levels([(boxes, scores, labels)], sizes_hw, chosen)

    def answers(self, raw: CornerMaps, sizes_hw: Tensor, wanted: Targets | None = None) -> Answers:
        """All that is said of one image, see `Detector`; of corners the best, and those near the objects wanted."""
        chosen, stack = self.selection, raw[-1]
        size_hw = (stack["top_left_heatmap"].shape[-2], stack["top_left_heatmap"].shape[-1])
        objects, most = wanted or Targets.empty(raw[-1]["top_left_heatmap"].device), chosen.points_per_kind
        seen = []
        for kind, place in zip(CORNERS, objects.boxes.chunk(2, dim=1), strict=True):
            inside = cells_inside(size_hw, self.stride, sizes_hw + (kind == "bottom_right"))  # [B, H, W]
            seen.append(seen_points(stack, kind, most, place / self.stride, objects.labels, inside=inside))
        boxes, labels, parts, gates = pair_answers(
            stack, seen, lambda cells: box_ops.clip(cells * self.stride, sizes_hw), points_per_kind=most,
            embedding_distance=chosen.embedding_distance, max_pairs=chosen.max_pairs,
        )  # fmt: skip
        gates.add("size", box_ops.areas(boxes)[:, None], ">", 0)
        if self.rescore is not None:
            centers = best_points(stack, "center", most, inside=cells_inside(size_hw, self.stride, sizes_hw))
            places = torch.minimum(centers.places.clamp(min=0) * self.stride, sizes_hw.flip(1)[:, None])
            ones = torch.ones_like(boxes[None, :, 0])
            mean = self.rescore(boxes[None], ones, labels.T, places, centers.scores, centers.labels)  # of 1, 1 and it
            parts["center"] = (3 * mean[0, :, None] - 2).clamp(min=0)
            gates.add("center", parts["center"], ">", 0)
        gates.add("score", combined(parts, "mean"), ">", chosen.score_threshold, "score_threshold")
        levels = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        return Answers(
            "pair of corners", boxes, boxes[:, None], labels, parts, "mean", levels, stride_names([self.stride]),
            gates.all, chosen,
        )  # fmt: skip


# Builders: each architecture with its numbers, and the weights its authors have published


cornernet = with_neck_and_heads(CornerNet, without=["rescore"])


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
