"""FCOS lite: FCOS made for direct speed on a CPU, on ShuffleNet V2.

Every pixel is still a training sample and no anchor boxes are laid out (Tian et al., FCOS, ICCV 2019). Backbone, neck
and head obey the guidelines of ShuffleNet V2 (Ma et al. 2018, section 2): one width everywhere, depthwise-separable
convolutions, one tower and one prediction layer for all tasks and levels, one normalisation and activation for each
separable convolution. Four levels of strides 8 to 64, for inputs of 416 px.

How it differs from FCOS (`models/fcos.py`); docs/papers/lite.md says which of it was measured, and with what gain:

===================  ============================================  ==================================================
                     FCOS, improved form                           lite
===================  ============================================  ==================================================
quality of a box     centre-ness, a branch of its own              in the class score: it learns the IoU (quality focal
                                                                   loss, Li et al. 2020, equation 2)
distances            one number each                               the mean of a distribution over bins (Li et al. 2020,
                                                                   equations 4 to 6)
normalisation        groups                                        batch: at prediction it is part of the convolution
neck                 feature pyramid, 3x3 convolutions             down and up the pyramid, separable 5x5 (LitePAN)
===================  ============================================  ==================================================

Which point learns which box is FCOS's rule: by size ranges of levels, near the centre of the box. The coarsest of the
four levels takes all that is larger.

How ours differs from those papers: the cells of all levels go through the 1x1 convolutions of the head as one row, so
that their normalisation has one set of statistics over all levels (and there are fewer, larger operations).

Legend: B images, A points over all levels, C classes, H x W cells of a level, N boxes of one image, P positive points,
K bins of a distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aweigh.arguments import Count, Few, Layers, Share, Width, checked_class
from aweigh.backbones import shufflenet_v2_backbone
from aweigh.backbones.shufflenet_v2 import ShuffleNetV2
from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.heads.answers import Answers, dense_answers
from aweigh.layers import Activation, Norm, pointwise_conv, start_at_prior, start_near_zero
from aweigh.models.builders import Builder
from aweigh.models.detector import Assign, Candidates, Selection, check_classes, detector
from aweigh.models.fcos import assign
from aweigh.necks.pan import LitePAN
from aweigh.ops import boxes as box_ops
from aweigh.ops.losses import (
    box_loss,
    check_labels,
    distribution_focal_loss,
    quality_focal_loss_sum,
    unknown_in_batch,
    world_mean,
)
from aweigh.structures import Images, Targets
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.record import PublishedWeights

# Half the weights of Li et al. 2020, section 4 (the distribution's counts each of the four sides): ours, because from a
# few thousand images the classes are learned last, and box losses at full weight hold them back.
BOX_WEIGHT, DISTRIBUTION_WEIGHT = 1.0, 0.125

# Pixels of max(l, t, r, b) that each level is responsible for: FCOS's for strides 8 to 32, and all above (FCOS 3.2).
LEVEL_RANGES = ((0.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, math.inf))


class FCOSLiteOutput(NamedTuple):
    """What the network says, before any decision; levels one after the other, cells row by row."""

    logits: Tensor  # [B, A, C]
    bins: Tensor  # [B, A, 4, K] logits of the distributions of left, top, right, bottom, in strides of the level
    points: Tensor  # [A, 2] x, y of each cell in the padded image, pixels
    strides: Tensor  # [A, 1] of its level, pixels


@dataclass(frozen=True)
class FCOSLiteSelection(Selection):
    """Which of the network's answers become detections."""

    score_threshold: Share = 0.02  # of the class probability, whose root is the score
    nms_threshold: Share = 0.6
    candidates_per_image: Count = 1000


@detector(FCOSLiteSelection)
class FCOSLite(nn.Module):
    """The detector.

    Args:
        backbone, neck, head, classes: as of every detector on a pyramid (see `aweigh.models.detector.Detector`).
    """

    stride_divisor = 32

    def __init__(self, backbone: ShuffleNetV2, neck: LitePAN, head: LiteHead, *, classes: Classes) -> None:
        super().__init__()
        check_classes("FCOSLite", head.num_classes, classes)
        self.backbone, self.neck, self.head = backbone, neck, head
        self.classes = classes
        self.strides: tuple[int, ...] = tuple(neck.strides)
        self.candidates: Candidates = partial(box_ops.candidates, strides=self.strides, level_ranges=LEVEL_RANGES)
        self.assign: Assign = partial(assign, candidates=self.candidates)

        self.selection = FCOSLiteSelection()

    def forward(self, images: Images, targets: Sequence[Targets] | None = None) -> dict[str, Tensor] | list[Detections]:
        """The losses if `targets` are given, else the detections of each image."""
        raw = self.network(images.pixels)
        return self.decode(raw, images.sizes_hw) if targets is None else self.loss(raw, targets)

    def network(self, pixels: Tensor) -> FCOSLiteOutput:
        """Images `[B, 3, H, W]`, RGB in `[0, 1]`, to raw outputs: the part that is compiled and exported."""
        features = self.neck(self.backbone(pixels))
        logits, bins = self.head(features)
        points, strides = [], []
        for feature, stride in zip(features, self.neck.strides, strict=True):
            height, width = feature.shape[-2:]
            half = stride // 2
            points.append(box_ops.grid_points(height, width, (stride, stride), (half, half), like=feature))
            strides.append(torch.full_like(points[-1][:, :1], stride))
        return FCOSLiteOutput(logits, bins, torch.cat(points), torch.cat(strides))

    # Training

    def loss(self, raw: FCOSLiteOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Three losses, each a scalar, float32, divided by the sum of the positive points' goals.

        `classification`: quality focal loss over all points and classes. `box`: 1 - GIoU, and `distribution`: the
        distribution focal loss, over positive points, each weighted by its goal. The sum of goals is averaged over all
        processes and never less than one, so a batch without objects is finite.
        """
        check_labels(targets, images=len(raw.logits), classes=len(self.classes), what="FCOSLite.loss")
        logits, bins = raw.logits.float(), raw.bins.float()
        boxes = box_ops.decode_distances(raw.points, expectation(bins) * raw.strides)  # [B, A, 4]
        levels = [raw.points[raw.strides[:, 0] == stride] for stride in self.strides]
        found = [self._targets(levels, target, boxes[index]) for index, target in enumerate(targets)]
        labels, goals = (torch.stack(parts) for parts in list(zip(*found, strict=True))[:2])  # [B, A] each
        target_boxes = torch.cat([part for _, _, part in found])  # [P, 4]

        positive = labels >= 0  # [B, A]
        at, weight = positive.nonzero()[:, 1], goals[positive]  # [P]
        total = world_mean(weight.sum()).clamp(min=1)
        sides = box_ops.encode_distances(raw.points[at], target_boxes) / raw.strides[at]  # [P, 4]
        distribution = distribution_focal_loss(bins[positive], sides).sum(dim=-1)  # [P]
        unknown = unknown_in_batch(raw.points, targets, len(self.classes))
        classification = quality_focal_loss_sum(
            logits.flatten(0, 1), labels.flatten(), goals.flatten(), no_loss=unknown
        )
        return {
            "classification": classification / total,
            "box": BOX_WEIGHT * (box_loss(boxes[positive], target_boxes, "giou") * weight).sum() / total,
            "distribution": DISTRIBUTION_WEIGHT * (distribution * weight).sum() / total,
        }

    @torch.no_grad()
    def _targets(self, points: list[Tensor], target: Targets, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Labels `[A]` (-1 background, -2 ignored) and goals `[A]` of one image, and the boxes `[P, 4]` of positives.

        points: per level. boxes: `[A, 4]`, where the network says they are; the goal is their IoU with the object.
        """
        labels = self.assign(points, target)
        learns = labels >= 0
        matched = target.boxes[labels[learns]]
        goals = boxes.new_zeros(len(boxes))
        goals[learns] = box_ops.aligned_iou(boxes[learns], matched)
        labels[learns] = target.labels[labels[learns]]
        return labels, goals, matched

    # Prediction

    @torch.no_grad()
    def decode(self, raw: FCOSLiteOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """`select`, cut to the number found: one `Detections` per image, best first."""
        found = self.select(raw, torch.tensor(sizes_hw, device=raw.logits.device))
        return Detections.unpadded(found, classes=self.classes, sizes_hw=sizes_hw)

    def select(self, raw: FCOSLiteOutput, sizes_hw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Raw outputs to detections, whose score is the root of the class probability; only the distances of the best
        pairs of a point and a class are decoded."""
        probability, rows, labels = box_ops.best_pairs(
            raw.logits, count=self.selection.candidates_per_image, threshold=self.selection.score_threshold
        )
        bins = raw.bins.float().gather(1, rows[..., None, None].expand(-1, -1, *raw.bins.shape[2:]))  # [B, k, 4, K]
        boxes = box_ops.decode_distances(raw.points[rows], expectation(bins) * raw.strides[rows])  # [B, k, 4]
        return box_ops.select_levels([(boxes, probability.sqrt(), labels)], sizes_hw, self.selection)

    def answers(self, raw: FCOSLiteOutput, sizes_hw: Tensor, wanted: Targets | None = None) -> Answers:
        """All that is said of one image, see `Detector`."""
        boxes = box_ops.decode_distances(raw.points, expectation(raw.bins[0].float()) * raw.strides)  # [A, 4]
        levels = [raw.points[raw.strides[:, 0] == stride] for stride in self.strides]
        parts, chosen = {"class": raw.logits[0].float().sigmoid()}, self.selection
        return dense_answers(
            "point", levels, self.strides, box_ops.clip(boxes, sizes_hw[0]), parts, "root", chosen,
            threshold=chosen.score_threshold, most=chosen.candidates_per_image, setting="candidates_per_image",
        )  # fmt: skip


def expectation(bins: Tensor) -> Tensor:
    """The mean of distributions given by logits `[..., K]` of bins at 0, 1, ..., K - 1: `[...]` (Li 2020, eq. 5)."""
    return bins.softmax(dim=-1) @ torch.arange(bins.shape[-1], dtype=bins.dtype, device=bins.device)


@checked_class()
class LiteHead(nn.Module):
    """One tower of separable convolutions and one 1x1 prediction, shared by all levels.

    Args:
        channels: of every level; num_classes: C.
        convs: separable convolutions of the tower. kernel: of their depthwise part.
        bins: K, for distances of up to K - 1 strides.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        convs: Layers = 2,
        kernel: Few = 5,
        bins: Few = 9,
        norm: Norm = "bn",
        activation: Activation = "leaky_relu",
    ) -> None:
        super().__init__()
        self.depthwise = nn.ModuleList(
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
            for _ in range(convs)
        )
        self.pointwise = nn.ModuleList(pointwise_conv(channels, channels, norm, activation) for _ in range(convs))
        self.logits = nn.Conv2d(channels, num_classes, 1)
        self.distances = nn.Conv2d(channels, 4 * bins, 1)
        self.num_classes, self.bins = num_classes, bins
        start_near_zero(self.logits, self.distances)
        start_at_prior(self.logits)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Per level `[B, channels, H, W]` to logits `[B, A, C]` and bins `[B, A, 4, K]`."""
        maps = list(features)
        shapes = [level.shape[-2:] for level in maps]
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            row = pointwise(_as_row([depthwise(level) for level in maps]))  # [B, channels, 1, A]
            cells = row.squeeze(2).split([height * width for height, width in shapes], dim=2)
            maps = [part.unflatten(2, shape) for part, shape in zip(cells, shapes, strict=True)]
        row = _as_row(maps)
        logits = self.logits(row).squeeze(2).transpose(1, 2)  # [B, A, C]
        bins = self.distances(row).squeeze(2).transpose(1, 2).unflatten(2, (4, -1))  # [B, A, 4, K]
        return logits, bins


def _as_row(maps: Sequence[Tensor]) -> Tensor:
    """Maps `[B, channels, H, W]` as one row of cells, `[B, channels, 1, A]`."""
    return torch.cat([level.flatten(2) for level in maps], dim=2).unsqueeze(2)


# Builders


def fcos_lite(
    backbone: ShuffleNetV2,
    classes: Classes,
    *,
    channels: Width = 128,
    activation: Activation = "leaky_relu",
    neck_norm: Norm = "bn",
    head_norm: Norm = "bn",
) -> FCOSLite:
    """activation: of neck, head and backbone (`"relu"` where the backbone's weights were trained with it)."""
    neck = LitePAN(backbone.channels, backbone.strides, channels=channels, norm=neck_norm, activation=activation)
    head = LiteHead(channels, len(classes), norm=head_norm, activation=activation)
    return FCOSLite(backbone, neck, head, classes=classes)


def _on_shufflenet(width: float, channels: int) -> Builder:
    backbone = partial(shufflenet_v2_backbone, width)
    return Builder(fcos_lite, backbone, {"channels": channels, "activation": "leaky_relu"})


BUILDERS = {
    "fcos_shufflenet_v2_x0_5_lite": _on_shufflenet(0.5, channels=96),
    "fcos_shufflenet_v2_x1_0_lite": _on_shufflenet(1.0, channels=128),  # its weights come with the package
    "fcos_shufflenet_v2_x1_5_lite": _on_shufflenet(1.5, channels=128),
}

PUBLISHED = {
    "fcos_shufflenet_v2_x1_0_lite": {
        "box": PublishedWeights(
            name="box",
            url="",
            file="fcos_shufflenet_v2_x1_0_lite.safetensors",
            sha256="3f525859f2c7450f16da02a3e52b073edd5b1e0c471ddea7749847b33fc1b06a",
            licence="Apache-2.0",
            source="comes with aweigh, trained on parts of COCO and VOC-like photographs; card: weights/box/README.md",
            metrics={"AP": 17.5, "AP50": 29.9},
            builder="fcos_shufflenet_v2_x1_0_lite",
            arguments={"backbone_norm": "frozen_bn"},
            classes=COCO_CLASSES,
            resize={"short": None, "long": 416},
        )
    },
}
