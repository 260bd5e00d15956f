"""FCOS: every pixel of a feature map is a training sample; no anchor boxes.

Papers: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019 (base form), and "FCOS: A
simple and strong anchor-free object detector", TPAMI 2020 (improved form, the default here).

A point that lies in the middle of an object regresses the distances to its four sides (equation 1), says which
class it is, and how central it is (equation 3). Five feature levels share one head; an object belongs to the level
whose range holds the largest distance, and a point in several objects takes the smallest.

Three forms, each a set of plain values that are given one by one (`fcos_forms.py` builds the base and torchvision's):

==================  =====================  ======================  =================================
value               base                   improved (default)      torchvision
==================  =====================  ======================  =================================
distances           exp(s_i x), pixels     relu(s_i x), strides    relu(x), strides
centre-ness from    classification tower   box tower               box tower
positive points     all inside the box     within 1.5 strides      within 1.5 strides of the centre
box loss            -log IoU               GIoU                    GIoU, not weighted
level ranges        inclusive              inclusive               exclusive
point of a cell     its middle             its middle              its corner, stride = padded // grid
score test          p > 0.05               p > 0.05                sqrt(p c) > 0.2
==================  =====================  ======================  =================================

How ours differs:
- Areas and overlaps have no "+1"; the authors' code computes widths as x1 - x0 + 1 when it compares areas.
- The sum of centre-ness targets that normalises the box loss is never less than one (the authors: any value, or 1e-6).
- Distances of the improved form start at 4 strides, in the middle of a level's range, not at 0: from boxes without
  area the GIoU has almost no gradient (blood cells, 26 steps: its loss stayed at 1.000 from 0).
- exp(s_i x) is cut off at 16,384 px so that it cannot overflow.
- Regions marked `ignore` (crowd, difficult) give no classification loss inside; the authors drop such annotations.
  What is uncertain, and classes an image was not labelled for, give no negative loss.
- FCOS_PLUS, whose several points of a cell are here, divides the classification loss by positive points + images.
- Equal areas go to the first box; torchvision compares 1e8 - area in float32, which cannot tell areas apart that
  differ by less than about 8 square pixels.

Legend: B images, A points over all levels, C classes, H x W cells of a level, N boxes of one image, P positive points,
K points of a cell (1, unless told otherwise).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import (
    NMS,
    Few,
    Layers,
    Limit,
    NotNegative,
    Positive,
    Share,
    Width,
    checked_class,
    parameters,
    passes_on,
)
from aweigh.backbones import DEEP_SHUFFLENETS, Backbone, any_timm_backbone, shufflenet_v2_backbone, timm_backbone
from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.errors import UsageError, counted
from aweigh.heads.answers import Answers, dense_answers
from aweigh.heads.point_rules import assign_adaptively, assign_aligned
from aweigh.layers import Norm, conv_tower, start_at_prior, start_near_zero
from aweigh.models.builders import Builder
from aweigh.models.detector import Assign, Candidates, LevelSelection, check_classes, detector
from aweigh.necks import Neck, NeckFusion, NeckName, make_neck
from aweigh.ops import boxes as box_ops
from aweigh.ops.losses import BoxLoss, box_loss, check_labels, sigmoid_focal_loss_sum, unknown_in_batch, world_mean
from aweigh.ops.matching import BACKGROUND, IGNORED
from aweigh.structures import Images, Targets

Assignment = Literal["ranges", "adaptive", "aligned"]
Quality = Literal["centerness", "iou", "computed"]
DensePoints = Literal[1, 4, 5]

# Where the points of a cell lie, (x, y) from its middle in quarters of the stride (FCOS_PLUS).
FIVE_POINTS = ((-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1))
DENSE_POINTS = {1: FIVE_POINTS[2:3], 4: FIVE_POINTS[:2] + FIVE_POINTS[3:], 5: FIVE_POINTS}


class FCOSOutput(NamedTuple):
    """What the network says, level by level, before any decision; the points of a cell stand side by side."""

    logits: list[Tensor]  # [B, C, H, W*K]
    distances: list[Tensor]  # [B, 4, H, W*K] left, top, right, bottom, >= 0, in pixels or strides of the level
    quality: list[Tensor]  # [B, 1, H, W*K] logit of the centre-ness (or of the IoU); no levels without that branch
    points: list[Tensor]  # [H*W*K, 2] x, y in the padded image, pixels


@dataclass(frozen=True)
class FCOSSelection(LevelSelection):
    """Which of the network's answers become detections (section 4 of the ICCV paper)."""

    threshold_product: bool = False
    nms_threshold: Share = 0.6


@detector(FCOSSelection)
class FCOS(nn.Module):
    """The detector.

    Args:
        backbone, neck, head, classes: as of every detector on a pyramid (see `aweigh.models.detector.Detector`).
        level_ranges: pixels of max(l, t, r, b) that belong to each level, or `level_ranges_of` its strides;
            `inclusive_ranges`: both ends count.
        center_radius: positive points lie within this many strides of the box centre; None: anywhere in the box.
        normalise_distances: the head's distances are in strides of their level, not in pixels.
        corner_points: torchvision's points: a cell's corner, at stride padded // grid.
        box_loss: kind of the box loss; `weigh_boxes`: each weighted by its centre-ness target.
        assignment: which point learns which box: `"ranges"` (the paper), `"adaptive"` (ATSS) or `"aligned"` (the points
            of TOOD, by what the network says now).
        quality: what the quality branch learns: the centre-ness, or the IoU of the predicted box (AdelaiDet's option);
            of a head without one the centre-ness "computed" of the predicted distances, or None (table 4).
        score_threshold: lowest class probability p or, when `threshold_product`, lowest score sqrt(p * quality).
        nms, nms_threshold: what suppresses what, and from which overlap on.
    """

    stride_divisor = 32

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck,
        head: FCOSHead,
        *,
        classes: Classes,
        level_ranges: Sequence[tuple[Limit, Limit]] | None = None,
        inclusive_ranges: bool = True,
        center_radius: Positive | None = 1.5,
        normalise_distances: bool = True,
        corner_points: bool = False,
        assignment: Assignment = "ranges",
        box_loss: BoxLoss = "giou",
        weigh_boxes: bool = True,
        quality: Quality | None = "centerness",
        score_threshold: Share = 0.05,
        threshold_product: bool = False,
        nms: NMS = "class",
        nms_threshold: Share = 0.6,
    ) -> None:
        super().__init__()
        level_ranges = level_ranges_of(neck.strides) if level_ranges is None else level_ranges
        if len(level_ranges) != len(neck.strides):
            raise UsageError(
                f"FCOS: {counted(len(neck.strides), 'feature level')}, but {counted(len(level_ranges), 'level range')}."
            )
        if (head.centerness is None) != (quality in (None, "computed")):
            raise UsageError(f"FCOS: quality is {quality!r}, which does not go with the head's quality branch.")
        check_classes("FCOS", head.num_classes, classes)
        self.backbone, self.neck, self.head = backbone, neck, head
        self.classes = classes
        self.strides: tuple[int, ...] = tuple(neck.strides)
        if assignment == "adaptive":
            level_ranges, center_radius = [(0.0, math.inf)] * len(self.strides), None
        self.candidates: Candidates = partial(
            box_ops.candidates,
            strides=self.strides,
            level_ranges=tuple(level_ranges),
            inclusive_ranges=inclusive_ranges,
            center_radius=center_radius,
        )
        self.assign: Assign | None = {
            "ranges": partial(assign, candidates=self.candidates),
            "adaptive": partial(assign_adaptively, strides=self.strides),
            "aligned": None,  # not from points and targets alone
        }[assignment]
        self.normalise_distances, self.corner_points = normalise_distances, corner_points
        self.box_loss, self.weigh_boxes, self.quality = box_loss, weigh_boxes, quality

        self.selection = FCOSSelection(score_threshold, nms, nms_threshold, threshold_product=threshold_product)

    def forward(self, images: Images, targets: Sequence[Targets] | None = None) -> dict[str, Tensor] | list[Detections]:
        """The losses if `targets` are given, else the detections of each image."""
        raw = self.network(images.pixels)
        return self.decode(raw, images.sizes_hw) if targets is None else self.loss(raw, targets)

    def network(self, pixels: Tensor) -> FCOSOutput:
        """Images `[B, 3, H, W]`, RGB in `[0, 1]`, to raw outputs: the part that is compiled and exported."""
        return self.outputs(self.neck(self.backbone(pixels)), pixels)

    def outputs(self, features: Sequence[Tensor], pixels: Tensor) -> FCOSOutput:
        """Maps of the pyramid, `[B, channels, H, W]` each, of images `[B, 3, H, W]` to raw outputs."""
        logits, distances, quality = self.head(features)
        points = [self._points(level, feature, pixels) for level, feature in enumerate(features)]
        return FCOSOutput(logits, distances, quality, points)

    def _points(self, level: int, feature: Tensor, pixels: Tensor) -> Tensor:
        (height, width), stride = feature.shape[-2:], self.strides[level]
        steps, middle, quarter = (stride, stride), stride // 2, stride // 4
        if self.corner_points:
            steps, middle = (pixels.shape[-2] // height, pixels.shape[-1] // width), 0
        offsets = [(middle + y * quarter, middle + x * quarter) for x, y in DENSE_POINTS[self.head.dense_points]]
        grids = [box_ops.grid_points(height, width, steps, offset, like=feature) for offset in offsets]  # [H*W, 2] each
        return torch.stack(grids, dim=1).flatten(0, 1)  # [H*W*K, 2]

    # Training

    def loss(self, raw: FCOSOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The losses of equation 2 and 3 (each a scalar, float32), each divided by its own normaliser.

        `classification`: focal loss over all points. `box`: over positive points, weighted by centre-ness.
        `centerness` (or `iou`), where the head has that branch: binary cross-entropy over positive points. The number
        of positives and the sum of centre-ness are averaged over all processes and never less than one, so a batch
        without objects is finite.
        """
        classes = self.head.num_classes
        check_labels(targets, images=len(raw.logits[0]), classes=classes, what="FCOS.loss")
        logits = _flatten(raw.logits)  # [B, A, C]
        distances = _flatten(raw.distances) * self._units(raw.points)  # [B, A, 4] pixels
        points = torch.cat(raw.points)  # [A, 2]

        found = self._targets(raw.points, targets, logits, distances)
        labels, positive, target_boxes = found  # [B, A], [B, A] bool, [P, 4]
        unknown = unknown_in_batch(points, targets, classes)  # [B * A, C] bool, or None
        points = points[positive.nonzero()[:, 1]]  # [P, 2]
        boxes = box_ops.decode_distances(points, distances[positive])  # [P, 4]
        centerness = centerness_of(box_ops.encode_distances(points, target_boxes))  # [P]
        positives = world_mean(positive.sum().float()).clamp(min=1)

        # +1 in intersection and union of the base form's -log IoU, as in the authors' code (distances in pixels).
        per_box = box_loss(boxes, target_boxes, self.box_loss, smoothing=1.0)  # [P]
        if self.weigh_boxes and self.quality == "centerness":
            box = (per_box * centerness).sum() / world_mean(centerness.sum()).clamp(min=1)
        else:
            box = per_box.sum() / positives
        classification = sigmoid_focal_loss_sum(logits.flatten(0, 1), labels.flatten(), no_loss=unknown)
        losses = {"classification": classification / positives, "box": box}
        if self.quality is not None and raw.quality:
            quality = _flatten(raw.quality).squeeze(-1)  # [B, A]
            goal = centerness if self.quality == "centerness" else box_ops.aligned_iou(boxes.detach(), target_boxes)
            quality_loss = F.binary_cross_entropy_with_logits(quality[positive], goal, reduction="sum")
            losses[self.quality] = quality_loss / positives
        return losses

    @torch.no_grad()
    def _targets(
        self, points: list[Tensor], targets: Sequence[Targets], logits: Tensor, distances: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Labels `[B, A]` (-1 background, -2 ignored), positive `[B, A]` bool, and the boxes `[P, 4]` of positives.

        logits: `[B, A, C]` and distances: `[B, A, 4]` in pixels, what the network says.
        """
        labels, boxes = [], []
        for image, target in enumerate(targets):
            if self.assign is None:
                matched = assign_aligned(points, target, logits[image], distances[image])  # [A]
            else:
                matched = self.assign(points, target)
            inside = matched >= 0
            labels.append(matched.clone())
            labels[-1][inside] = target.labels[matched[inside]]
            boxes.append(target.boxes[matched[inside]])
        all_labels = torch.stack(labels)
        return all_labels, all_labels >= 0, torch.cat(boxes)

    def _units(self, points: list[Tensor]) -> Tensor:
        """Pixels per unit of distance at each point, `[A, 1]`."""
        units = self.strides if self.normalise_distances else [1] * len(points)
        return torch.cat([level.new_full((len(level), 1), unit) for level, unit in zip(points, units, strict=True)])

    # Prediction

    @torch.no_grad()
    def decode(self, raw: FCOSOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """`select`, cut to the number found: one `Detections` per image, best first."""
        found = self.select(raw, torch.tensor(sizes_hw, device=raw.logits[0].device))
        return Detections.unpadded(found, classes=self.classes, sizes_hw=sizes_hw)

    def select(self, raw: FCOSOutput, sizes_hw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Raw outputs to detections, padded to a fixed number."""
        number = self.selection.candidates_per_level
        levels = [self.best_of_level(raw, level, number) for level in range(len(raw.points))]
        return box_ops.select_levels(levels, sizes_hw, self.selection)

    def best_of_level(self, raw: FCOSOutput, level: int, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """The best (point, class) pairs of one level: boxes `[B, k, 4]`, scores `[B, k]` (0: none), labels `[B, k]`.

        k is at most `number`. The best k pairs lie at the k points whose best class scores highest, so only those
        points are looked into.
        """
        logits, distances, quality = self._level(raw, level)
        num_points, num_classes = logits.shape[1:]
        best = logits.amax(dim=-1).sigmoid() * quality.squeeze(-1)  # [B, H*W*K]
        if not self.selection.threshold_product:
            best = torch.where(logits.amax(dim=-1).sigmoid() > self.selection.score_threshold, best, 0)
        top = best.topk(min(number, num_points), dim=1).indices.unsqueeze(-1)  # [B, k', 1]

        probability = logits.gather(1, top.expand(-1, -1, num_classes)).sigmoid()  # [B, k', C]
        scores = (probability * quality.gather(1, top)).sqrt()
        tested = scores if self.selection.threshold_product else probability
        scores = torch.where(tested > self.selection.score_threshold, scores, 0).flatten(1)  # [B, k' * C]
        scores, pairs = scores.topk(min(number, scores.shape[1]), dim=1)  # [B, k]

        rows = top.gather(1, (pairs // num_classes).unsqueeze(-1))  # [B, k, 1]
        unit = self.strides[level] if self.normalise_distances else 1
        chosen = distances.gather(1, rows.expand(-1, -1, 4)) * unit  # [B, k, 4]
        boxes = box_ops.decode_distances(raw.points[level][rows.squeeze(-1)], chosen)
        return boxes, scores, pairs % num_classes

    def _level(self, raw: FCOSOutput, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of the points of a level logits `[B, H*W*K, C]`, distances `[B, H*W*K, 4]` and quality `[B, H*W*K, 1]`."""
        logits, distances, *branch = (
            part[level].float().flatten(2).transpose(1, 2) for part in (raw.logits, raw.distances, raw.quality) if part
        )
        if self.quality == "computed":
            quality = centerness_of(distances).unsqueeze(-1)  # [B, H*W*K, 1]
        else:
            quality = branch[0].sigmoid() if branch else torch.ones_like(logits[..., :1])
        return logits, distances, quality

    def answers(self, raw: FCOSOutput, sizes_hw: Tensor, wanted: Targets | None = None) -> Answers:
        """All that is said of one image, see `Detector`."""
        levels = [self._level(raw, level) for level in range(len(raw.points))]
        logits, distances, quality = (torch.cat(part, dim=1)[0] for part in zip(*levels, strict=True))  # [A, C | 4 | 1]
        boxes = box_ops.decode_distances(torch.cat(raw.points), distances * self._units(raw.points))
        parts = {"class": logits.sigmoid(), "iou" if self.quality == "iou" else "centerness": quality}
        chosen = self.selection
        return dense_answers(
            "point", raw.points, self.strides, box_ops.clip(boxes, sizes_hw[0]), parts, "root", chosen,
            threshold=chosen.score_threshold, tested="score" if chosen.threshold_product else "class",
            most=chosen.candidates_per_level, setting="candidates_per_level",
        )  # fmt: skip


@checked_class()
class FCOSHead(nn.Module):
    """Two towers of convolutions, shared by all levels, and three predictions (figure 2).

    Args:
        channels: of every level; num_classes, num_levels: C, and the number of levels (one scale s_i each).
        convs: 3x3 convolutions per tower. norm: after each of them. deformable: the last one of each tower is a
            modulated deformable convolution.
        exponential: distances are exp(s_i x) (base form), else relu(s_i x). scales: learn s_i (torchvision does not).
        initial_distance: what every distance starts at, before exp or relu; None: 0 before exp, 4 before relu.
        centerness_on_boxes: the quality branch reads the box tower (improved form), else the classification tower.
        centerness: with the quality branch.
        dense_points: of a cell, each with predictions of its own: its middle; four round it; or all five (FCOS_PLUS).
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_levels: int,
        *,
        convs: Layers = 4,
        norm: Norm | None = "gn",
        deformable: bool = False,
        exponential: bool = False,
        scales: bool = True,
        initial_distance: NotNegative | None = None,
        centerness_on_boxes: bool = True,
        centerness: bool = True,
        dense_points: DensePoints = 1,
    ) -> None:
        super().__init__()
        self.classification_tower = conv_tower(channels, convs, norm, deformable=deformable)
        self.box_tower = conv_tower(channels, convs, norm, deformable=deformable)
        self.logits = nn.Conv2d(channels, dense_points * num_classes, 3, padding=1)
        self.distances = nn.Conv2d(channels, dense_points * 4, 3, padding=1)
        self.centerness = nn.Conv2d(channels, dense_points, 3, padding=1) if centerness else None
        self.scales = nn.Parameter(torch.ones(num_levels)) if scales else None
        self.exponential, self.centerness_on_boxes = exponential, centerness_on_boxes
        self.num_classes, self.dense_points = num_classes, dense_points
        start_near_zero(self.logits, self.distances, self.centerness)
        start_at_prior(self.logits)
        if initial_distance is None:
            initial_distance = 0.0 if exponential else 4.0
        nn.init.constant_(cast(Tensor, self.distances.bias), initial_distance)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Per level `[B, channels, H, W]` to logits, distances and quality, as in `FCOSOutput`."""
        logits, distances, quality = [], [], []
        for level, feature in enumerate(features):
            classification = self.classification_tower(feature)
            box = self.box_tower(feature)
            logits.append(self._side_by_side(self.logits(classification)))
            if self.centerness is not None:
                central = self.centerness(box if self.centerness_on_boxes else classification)
                quality.append(self._side_by_side(central))
            distance = self._side_by_side(self.distances(box)).float()
            if self.scales is not None:
                distance = distance * self.scales[level]
            distances.append(distance.clamp(max=math.log(16384)).exp() if self.exponential else distance.relu())
        return logits, distances, quality

    def _side_by_side(self, values: Tensor) -> Tensor:
        """`[B, K * X, H, W]`, X numbers of one point of each cell after the other, to `[B, X, H, W * K]`."""
        of_points = values.chunk(self.dense_points, dim=1)
        return values if len(of_points) == 1 else torch.stack(of_points, dim=-1).flatten(3)


def centerness_of(distances: Tensor) -> Tensor:
    """Centre-ness of points at `distances` `[..., 4]` from the sides of their boxes (equation 3): `[...]` in [0, 1]."""
    horizontal, vertical = distances[..., [0, 2]], distances[..., [1, 3]]
    longest = horizontal.amax(-1) * vertical.amax(-1)
    return (horizontal.amin(-1) * vertical.amin(-1) / longest.clamp(min=1e-9)).clamp(min=0).sqrt()


# Assignment: which point learns which box (section 3.1 and 3.2)


def level_ranges_of(strides: Sequence[int]) -> list[tuple[float, float]]:
    """The pixels of max(l, t, r, b) of each level: 0, 64, 128, 256, 512, infinity for P3 to P7 (section 3.2)."""
    ends = [8.0 * stride for stride in strides[:-1]]
    return list(zip([0.0, *ends], [*ends, math.inf], strict=True))


@torch.no_grad()
def assign(points: Sequence[Tensor], targets: Targets, *, candidates: Candidates) -> Tensor:
    """The box each point learns: index into `targets`, -1 for background, -2 inside an ignored region: `[A]` int64.

    points: per level `[H*W, 2]`. Among several boxes that it could learn the smallest wins. What is uncertain is
    nobody's target. Memory is bounded by the portions of `candidates`.
    """
    rows = (~targets.uncertain).nonzero().squeeze(1)
    if len(rows) == 0:
        return points[0].new_full((sum(map(len, points)),), BACKGROUND, dtype=torch.int64)
    boxes, ignore = targets.boxes[rows], targets.ignore[rows]
    # Ignored regions are nobody's target: infinitely large.
    areas = torch.where(ignore, math.inf, box_ops.areas(boxes))
    ignored = boxes[ignore]
    portions = []
    for portion, mask in candidates(points, boxes):
        smallest, index = torch.where(mask, areas, math.inf).min(dim=1)
        matched = torch.where(smallest.isfinite(), rows[index], BACKGROUND)
        if len(ignored):
            covered = (box_ops.encode_distances(portion[:, None], ignored[None]).amin(dim=-1) > 0).any(dim=1)
            matched = torch.where(covered & (matched == BACKGROUND), IGNORED, matched)
        portions.append(matched)
    return torch.cat(portions)


def _flatten(levels: Sequence[Tensor]) -> Tensor:
    """Per level `[B, X, H, W]` -> `[B, A, X]` float32, cells row by row, levels in order."""
    return torch.cat([level.float().flatten(2).transpose(1, 2) for level in levels], dim=1)


# Builders: each architecture with its numbers; `fcos_forms.py` has the other forms


@passes_on(FCOSHead, FCOS, without=("convs", "norm", "centerness", "initial_distance"))
def on_pyramid(
    backbone: Backbone,
    pyramid: Neck,
    classes: Classes,
    *,
    head_convs: Layers = 4,
    head_norm: Norm | None = "gn",
    quality: Quality | None = "centerness",
    **settings: Any,
) -> FCOS:
    """Settings: those of `FCOSHead` and of `FCOS`."""
    of_head = {name: settings.pop(name) for name in parameters(FCOSHead) if name in settings}
    of_head |= {"convs": head_convs, "norm": head_norm, "centerness": quality in ("centerness", "iou")}
    head = FCOSHead(pyramid.channels[0], len(classes), len(pyramid.strides), **of_head)
    return FCOS(backbone, pyramid, head, classes=classes, quality=quality, **settings)


@passes_on(on_pyramid)
def fcos(
    backbone: Backbone,
    classes: Classes,
    *,
    channels: Width = 256,
    levels: Few = 5,
    neck: NeckName = "fpn",
    neck_norm: Norm | None = None,
    neck_repeats: Layers | None = None,
    neck_fusion: NeckFusion | None = None,
    top: Literal["p5", "c5"] = "p5",
    **settings: Any,
) -> FCOS:
    """The improved form on any backbone, whose maps are the first of the `levels`. Settings: those of `on_pyramid`."""
    maps = make_neck(
        neck, backbone, channels, levels, top=top, norm=neck_norm, repeats=neck_repeats, fusion=neck_fusion
    )
    return on_pyramid(backbone, maps, classes, **settings)


_BACKBONES = ("resnet18", "resnet50", "resnet101", "resnext101_32x8d", "resnext101_64x4d")

BUILDERS = {
    # On ResNet-50 AP 38.6 in table 3 of the TPAMI paper.
    **{f"fcos_{name}_fpn": Builder(fcos, partial(timm_backbone, name)) for name in _BACKBONES},
    # Neck and head with 128 and 96 channels are ours: with 256 they would cost more than ten times the backbone.
    "fcos_shufflenet_v2_x1_0_fpn": Builder(fcos, partial(shufflenet_v2_backbone, 1.0), {"channels": 128}),
    "fcos_shufflenet_v2_x0_5_fpn": Builder(fcos, partial(shufflenet_v2_backbone, 0.5), {"channels": 96}),
    **{f"fcos_{name}_fpn": Builder(fcos, backbone) for name, backbone in DEEP_SHUFFLENETS.items()},
    "fcos_timm_fpn": Builder(fcos, any_timm_backbone),
}
