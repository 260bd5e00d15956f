"""RetinaNet: anchor boxes on a feature pyramid, and the focal loss that lets all of them learn.

Paper: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017. In each cell of five levels lie nine anchors,
three sizes an octave apart by thirds and three ratios. An anchor that overlaps an object by 0.5 or more says which
class it is and how the box differs from it; below 0.4 it is background. The focal loss (equation 5) turns down what is
easy, so that the hundred thousand background anchors need no sampling.

Five forms, each a set of plain values (docs/papers/retinanet.md has those of the paper's ablations):

==============  ================  =================  ================  ================  ====================
value           default           base (the paper)   torchvision v1    torchvision v2    detectron2
==============  ================  =================  ================  ================  ====================
P6 from         C5                C5                 P5                C5                C5
towers          group norm.       no normalisation   no normalisation  group norm.       no normalisation
box loss        GIoU              smooth L1 of       L1 of deltas      GIoU              L1 of deltas
                                  deltas
divided by      objects' anchors  the same           the same          the same          a moving mean over
                of each image                                                            batches
anchors         exact             exact              whole pixels      whole pixels      exact
step of a cell  its stride        its stride         padded // grid    padded // grid    its stride
backbone        ImageNet          stride in the      ImageNet          ImageNet          stride in the 1x1,
                                  1x1, frozen norm.                                      BGR 0-255
detections      100               100                300               300               100
==============  ================  =================  ================  ================  ====================

How ours differs:
- A box that no anchor touches (outside the image) teaches none; torchvision then takes every anchor that overlaps
  nothing for an object.
- Regions marked `ignore` (crowd, difficult) give no classification loss at anchors whose centre lies inside. What is
  uncertain, and classes an image was not labelled for, give no negative loss.
- The moving mean of detectron2's form counts the anchors of all processes, is kept in the checkpoint, and is that of
  the batches before, so that a loss does not depend on the mode (detectron2 counts the batch itself, for a tenth).
- OHEM compares, by NMS, eight times as many of the hardest anchors as it keeps; the paper does not say how many.

Legend: B images, L levels, K anchors of a cell, A anchors over all levels, C classes, H x W cells of a level, N boxes
of one image, P positive anchors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Count, Few, Layers, NotNegative, Number, Positive, Share, Width, checked_class, passes_on
from aweigh.backbones import Backbone, any_timm_backbone, shufflenet_v2_backbone, timm_backbone
from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.errors import UsageError, counted
from aweigh.heads.answers import Answers, dense_answers
from aweigh.layers import Norm, conv_tower, start_at_prior, start_near_zero
from aweigh.models.builders import Builder
from aweigh.models.detector import Assign, Candidates, LevelSelection, check_classes, detector
from aweigh.necks import Neck, NeckFusion, NeckName, make_neck
from aweigh.necks.fpn import FPN
from aweigh.ops import boxes as box_ops
from aweigh.ops.anchors import anchor_rows, anchor_shapes, level_anchors, place_anchors
from aweigh.ops.losses import box_loss, check_labels, sigmoid_focal_loss_sum, unknown_entries, world_mean
from aweigh.ops.matching import IGNORED, among_all, by_adaptive_samples, by_overlap, hard_examples, task_aligned
from aweigh.structures import Images, Targets
from aweigh.weights.convert.detectron2 import (
    DETECTRON2_MEAN,
    DETECTRON2_STD,
    detectron2_record,
    retinanet_from_detectron2,
)
from aweigh.weights.convert.torchvision import retinanet_from_torchvision, torchvision_record
from aweigh.weights.record import PublishedWeights, by_builder

Assignment = Literal["overlap", "adaptive", "aligned"]

POSITIVE_IOU, NEGATIVE_IOU = 0.5, 0.4  # section 4
RATIOS = (0.5, 1.0, 2.0)  # height over width, section 4


class RetinaNetOutput(NamedTuple):
    """What the network says, level by level, before any decision; anchors cell by cell, row by row."""

    logits: list[Tensor]  # [B, H*W*K, C]
    deltas: list[Tensor]  # [B, H*W*K, 4], a box as seen from its anchor
    anchors: list[Tensor]  # [H*W*K, 4] xyxy in the padded image, pixels


@detector(LevelSelection)
class RetinaNet(nn.Module):
    """The detector.

    Args:
        backbone, neck, head, classes: as of every detector on a pyramid (see `aweigh.models.detector.Detector`).
        shapes: per level, the anchors of a cell round its point, `[K, 4]` xyxy in pixels.
        fitted_steps: torchvision's cells: as far apart as the padded size // grid, not as the stride.
        assignment: which anchor learns which box: `"overlap"` (the paper), `"adaptive"` (ATSS) or `"aligned"` (the
            points of TOOD, by what the network says now).
        low_quality: a box that no anchor overlaps by half is learned by those that overlap it most, where that is this
            IoU or more; None: by none. The paper's is 0.
        box_loss: L1 of the deltas, smooth L1 of them (the paper), quadratic below `beta`, or 1 - GIoU of the boxes.
        normaliser: what losses are divided by: the positive anchors of each image, or detectron2's moving mean.
        alpha, gamma: of the focal loss; gamma 0 is the balanced cross-entropy.
        hard_examples: above 0, OHEM instead of the focal loss: so many anchors of each image, those of the highest
            loss after NMS at `hard_nms`; `hard_ratio`: so many background anchors for each object's (None: any).
    """

    stride_divisor = 32

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck,
        head: RetinaNetHead,
        *,
        classes: Classes,
        shapes: Sequence[Tensor],
        fitted_steps: bool = False,
        assignment: Assignment = "overlap",
        low_quality: Share | None = 0.0,
        box_loss: Literal["l1", "smooth_l1", "giou"] = "giou",
        beta: NotNegative = 0.11,  # as in the authors' program, Detectron; the paper gives none
        normaliser: Literal["image", "moving"] = "image",
        alpha: Share = 0.25,
        gamma: NotNegative = 2.0,
        hard_examples: Number = 0,
        hard_nms: Share = 0.5,
        hard_ratio: Count | None = None,
        max_detections: Count = 100,
    ) -> None:
        super().__init__()
        if len(shapes) != len(neck.strides):
            raise UsageError(f"RetinaNet: {counted(len(neck.strides), 'feature level')}, but anchors of {len(shapes)}.")
        check_classes("RetinaNet", head.num_classes, classes)
        if any(len(shape) != head.num_anchors for shape in shapes):
            raise UsageError(
                f"RetinaNet: the head predicts {counted(head.num_anchors, 'anchor')} of a cell, but the levels have "
                f"{[len(shape) for shape in shapes]}."
            )
        self.backbone, self.neck, self.head = backbone, neck, head
        self.classes = classes
        self.strides: tuple[int, ...] = tuple(neck.strides)
        self.shapes, self.fitted_steps = [shape.clone() for shape in shapes], fitted_steps
        self.assignment, self.low_quality, self.box_loss, self.beta = assignment, low_quality, box_loss, beta
        if assignment == "overlap" and not fitted_steps:
            self.assign: Assign | None = partial(
                assign, shapes=self.shapes, strides=self.strides, low_quality=low_quality
            )
            self.candidates: Candidates | None = partial(candidates, shapes=self.shapes, strides=self.strides)
        self.alpha, self.gamma = alpha, gamma
        self.hard_examples, self.hard_nms, self.hard_ratio = hard_examples, hard_nms, hard_ratio
        self.moving_positives: Tensor | None
        # detectron2: begins at 100, and each batch counts a tenth.
        self.register_buffer("moving_positives", torch.tensor(100.0) if normaliser == "moving" else None)

        self.selection = LevelSelection(nms_threshold=0.5, candidates_per_level=1000, max_detections=max_detections)

    def forward(self, images: Images, targets: Sequence[Targets] | None = None) -> dict[str, Tensor] | list[Detections]:
        """The losses if `targets` are given, else the detections of each image."""
        raw = self.network(images.pixels)
        return self.decode(raw, images.sizes_hw) if targets is None else self.loss(raw, targets)

    def network(self, pixels: Tensor) -> RetinaNetOutput:
        """Images `[B, 3, H, W]`, RGB in `[0, 1]`, to raw outputs: the part that is compiled and exported."""
        features = self.neck(self.backbone(pixels))
        logits, deltas = self.head(features)
        anchors = [
            level_anchors(shapes, feature, pixels, stride, fitted=self.fitted_steps)
            for shapes, feature, stride in zip(self.shapes, features, self.strides, strict=True)
        ]
        return RetinaNetOutput(logits, deltas, anchors)

    # Training

    def loss(self, raw: RetinaNetOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Two losses, each a scalar, float32.

        `classification`: focal loss over all anchors but those between the thresholds (equation 5), or the binary
        cross-entropy of the hardest. `box`: over positive anchors. Both are divided by the number of positive anchors,
        which is never less than one, so a batch without objects is finite.
        """
        classes = len(self.classes)
        check_labels(targets, images=len(raw.logits[0]), classes=classes, what="RetinaNet.loss")
        logits, deltas = (torch.cat(part, dim=1).float() for part in (raw.logits, raw.deltas))  # [B, A, C], [B, A, 4]
        anchors = torch.cat(raw.anchors)  # [A, 4]
        centers = (anchors[:, :2] + anchors[:, 2:]) / 2
        matched = [self._assign(raw, t, logits[i], deltas[i]) for i, t in enumerate(targets)]  # [A] each
        divisors = self._divisors(torch.stack([(index >= 0).sum() for index in matched]))  # [B]
        classification, box = [], []
        for image, (index, target) in enumerate(zip(matched, targets, strict=True)):
            positive = index >= 0
            labels = index.clone()
            labels[positive] = target.labels[index[positive]]
            unknown = unknown_entries(centers, target.boxes, target.labels, target.uncertain, target.known, classes)
            classification.append(self._classification(logits[image], labels, anchors, unknown, divisors[image]))
            per_box = self._box_loss(anchors[positive], deltas[image][positive], target.boxes[index[positive]])
            box.append(per_box.sum() / divisors[image])
        return {"classification": torch.stack(classification).mean(), "box": torch.stack(box).mean()}

    def _divisors(self, positives: Tensor) -> Tensor:
        """What the losses of each image are divided by, before their mean over images: `[B]` from counts `[B]`."""
        if self.moving_positives is None:
            return positives.clamp(min=1).float()
        divisor = self.moving_positives / len(positives)
        if self.training:
            self.moving_positives.lerp_(world_mean(positives.sum().float()).clamp(min=1), 0.1)
        return divisor.expand(len(positives))

    @torch.no_grad()
    def _assign(self, raw: RetinaNetOutput, target: Targets, logits: Tensor, deltas: Tensor) -> Tensor:
        """The box each anchor of one image learns: index into `target`, -1 background, -2 no loss: `[A]` int64.

        logits: `[A, C]` and deltas: `[A, 4]`, what the network says of it.
        """
        boxes, labels = target.boxes[target.learned], target.labels[target.learned]
        anchors = torch.cat(raw.anchors)
        centers = (anchors[:, :2] + anchors[:, 2:]) / 2
        if self.assignment == "overlap":
            index = match(anchors, boxes, self.low_quality)
        elif self.assignment == "adaptive":
            index = by_adaptive_samples(raw.anchors, boxes, per_level=9 * self.head.num_anchors)
        else:
            far = centers.new_full((1, 1), math.inf)
            index, _ = task_aligned(
                centers, far, boxes, labels, logits.sigmoid(), box_ops.decode_deltas(anchors, deltas)
            )
        return among_all(index, centers, target.boxes, target.learned, target.ignore)

    def _classification(
        self, logits: Tensor, labels: Tensor, anchors: Tensor, unknown: Tensor | None, positives: Tensor
    ) -> Tensor:
        """Of one image: logits `[A, C]`, labels `[A]` (-1 background, -2 no loss) -> a scalar, divided already."""
        if not self.hard_examples:
            total = sigmoid_focal_loss_sum(logits, labels, alpha=self.alpha, gamma=self.gamma, no_loss=unknown)
            return total / positives
        goals = torch.zeros_like(logits)
        rows = (labels >= 0).nonzero().squeeze(1)
        goals[rows, labels[rows]] = 1
        losses = F.binary_cross_entropy_with_logits(logits, goals, reduction="none")  # [A, C]
        if unknown is not None:
            losses = torch.where(unknown & (goals == 0), 0, losses)
        per_anchor = torch.where(labels == IGNORED, 0, losses.sum(dim=1))  # [A]
        chosen = hard_examples(
            per_anchor.detach(),
            anchors,
            labels >= 0,
            count=self.hard_examples,
            nms_threshold=self.hard_nms,
            negatives_per_positive=self.hard_ratio,
        )
        return per_anchor[chosen].sum() / max(1, len(chosen))

    def _box_loss(self, anchors: Tensor, deltas: Tensor, boxes: Tensor) -> Tensor:
        """`[P, 4]` each -> `[P]`."""
        if self.box_loss != "giou":
            beta = self.beta if self.box_loss == "smooth_l1" else 0.0
            goal = box_ops.encode_deltas(anchors, boxes)
            return F.smooth_l1_loss(deltas, goal, reduction="none", beta=beta).sum(dim=1)
        return box_loss(box_ops.decode_deltas(anchors, deltas), boxes, "giou")

    # Prediction

    @torch.no_grad()
    def decode(self, raw: RetinaNetOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """`select`, cut to the number found: one `Detections` per image, best first."""
        found = self.select(raw, torch.tensor(sizes_hw, device=raw.logits[0].device))
        return Detections.unpadded(found, classes=self.classes, sizes_hw=sizes_hw)

    def select(self, raw: RetinaNetOutput, sizes_hw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Raw outputs to detections, padded to a fixed number."""
        levels = [self._candidates(*level) for level in zip(*raw, strict=True)]
        return box_ops.select_levels(levels, sizes_hw, self.selection)

    def _candidates(self, logits: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of an anchor and a class of one level: boxes `[B, k, 4]`, scores, labels `[B, k]`."""
        scores, rows, labels = box_ops.best_pairs(
            logits, count=self.selection.candidates_per_level, threshold=self.selection.score_threshold
        )
        chosen = deltas.float().gather(1, rows[..., None].expand(-1, -1, 4))  # [B, k, 4]
        return box_ops.decode_deltas(anchors[rows], chosen), scores, labels

    def answers(self, raw: RetinaNetOutput, sizes_hw: Tensor, wanted: Targets | None = None) -> Answers:
        """All that is said of one image, see `Detector`."""
        logits, deltas = (torch.cat(part, dim=1)[0].float() for part in (raw.logits, raw.deltas))  # [A, C], [A, 4]
        boxes = box_ops.clip(box_ops.decode_deltas(torch.cat(raw.anchors), deltas), sizes_hw[0])
        chosen = self.selection
        return dense_answers(
            "anchor", raw.anchors, self.strides, boxes, {"class": logits.sigmoid()}, "product", chosen,
            threshold=chosen.score_threshold, most=chosen.candidates_per_level, setting="candidates_per_level",
        )  # fmt: skip


@checked_class()
class RetinaNetHead(nn.Module):
    """Two towers of convolutions, shared by all levels, and a prediction of each (figure 3).

    Args:
        channels: of every level; num_classes, num_anchors: C and K.
        convs: 3x3 convolutions per tower. norm: after each of them, which then have no bias.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_anchors: int,
        *,
        convs: Layers = 4,
        norm: Norm | None = "gn",
    ) -> None:
        super().__init__()
        self.classification_tower = conv_tower(channels, convs, norm, bias=norm is None)
        self.box_tower = conv_tower(channels, convs, norm, bias=norm is None)
        self.logits = nn.Conv2d(channels, num_anchors * num_classes, 3, padding=1)
        self.deltas = nn.Conv2d(channels, num_anchors * 4, 3, padding=1)
        self.num_classes, self.num_anchors = num_classes, num_anchors
        start_near_zero(self.logits, self.deltas)
        start_at_prior(self.logits)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level `[B, channels, H, W]` to logits `[B, H*W*K, C]` and deltas `[B, H*W*K, 4]`."""
        logits = [anchor_rows(self.logits(self.classification_tower(level)), self.num_classes) for level in features]
        deltas = [anchor_rows(self.deltas(self.box_tower(level)), 4) for level in features]
        return logits, deltas


# Assignment by overlap (section 4). Points are the middles of cells; anchors are round the corners


def match(anchors: Tensor, boxes: Tensor, low_quality: float | None) -> Tensor:
    """`by_overlap` with the paper's thresholds."""
    rescue: Literal["ties", "none"] = "none" if low_quality is None else "ties"
    return by_overlap(
        anchors, boxes, positive=POSITIVE_IOU, negative=NEGATIVE_IOU, rescue=rescue, least=low_quality or 0.0
    )


def anchors_at(points: Sequence[Tensor], shapes: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Per level points `[H*W, 2]` and shapes `[K, 4]` to the anchors of all levels `[A, 4]`."""
    levels = zip(points, shapes, strides, strict=True)
    return torch.cat([place_anchors(shape, level - stride / 2) for level, shape, stride in levels])


@torch.no_grad()
def assign(
    points: Sequence[Tensor],
    targets: Targets,
    *,
    shapes: Sequence[Tensor],
    strides: Sequence[int],
    low_quality: float | None,
) -> Tensor:
    """The box each anchor learns: index into `targets`, -1 for background, -2 for no loss: `[A]` int64."""
    anchors = anchors_at(points, shapes, strides)
    index = match(anchors, targets.boxes[targets.learned], low_quality)
    return among_all(index, (anchors[:, :2] + anchors[:, 2:]) / 2, targets.boxes, targets.learned, targets.ignore)


def candidates(
    points: Sequence[Tensor],
    boxes: Tensor,
    *,
    shapes: Sequence[Tensor],
    strides: Sequence[int],
    byte_budget: int = 64 * 2**20,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Portions of the anchors' middles `[p, 2]`, in order, and which boxes each overlaps by half: `[p, N]` bool."""
    size = max(1, byte_budget // (40 * max(1, len(boxes))))
    for portion in torch.split(anchors_at(points, shapes, strides), size):
        yield (portion[:, :2] + portion[:, 2:]) / 2, box_ops.pairwise_iou(portion, boxes) >= POSITIVE_IOU


# Builders: each architecture with its numbers, and the weights others have published for it


def octave_anchors(
    strides: Sequence[int], *, scale: float = 4.0, per_octave: int = 3, ratios: Sequence[float] = RATIOS
) -> list[Tensor]:
    """Per level, sizes of `scale` strides times 2^(i / per_octave), in every ratio (section 4): `[K, 4]` each."""
    sizes = [[scale * stride * 2 ** (i / per_octave) for i in range(per_octave)] for stride in strides]
    return [anchor_shapes(level, ratios) for level in sizes]


def whole_pixel_anchors(strides: Sequence[int]) -> list[Tensor]:
    """Torchvision's: the same nine, their sizes cut to whole pixels and their corners rounded."""
    sizes = [[4 * stride, int(4 * stride * 2 ** (1 / 3)), int(4 * stride * 2 ** (2 / 3))] for stride in strides]
    return [anchor_shapes(level, RATIOS, rounded=True) for level in sizes]


@passes_on(RetinaNet, without=("shapes",))
def retinanet(
    backbone: Backbone,
    classes: Classes,
    *,
    channels: Width = 256,
    convs: Layers = 4,
    neck: NeckName = "fpn",
    neck_norm: Norm | None = None,
    neck_repeats: Layers | None = None,
    neck_fusion: NeckFusion | None = None,
    head_norm: Norm | None = "gn",
    top: Literal["p5", "c5"] = "c5",
    scale: Positive = 4.0,
    per_octave: Few = 3,
    ratios: Sequence[Positive] = RATIOS,
    **settings: Any,
) -> RetinaNet:
    """On any backbone with three levels at strides 8, 16, 32. Settings: those of `RetinaNet`."""
    pyramid = make_neck(neck, backbone, channels, 5, top=top, norm=neck_norm, repeats=neck_repeats, fusion=neck_fusion)
    shapes = octave_anchors(pyramid.strides, scale=scale, per_octave=per_octave, ratios=ratios)
    head = RetinaNetHead(channels, len(classes), len(shapes[0]), convs=convs, norm=head_norm)
    return RetinaNet(backbone, pyramid, head, classes=classes, shapes=shapes, **settings)


@passes_on(RetinaNet, without=("shapes",))
def retinanet_torchvision(
    backbone: Backbone,
    classes: Classes,
    *,
    top: Literal["p5", "c5"] = "c5",
    neck_norm: Norm | None = None,
    head_norm: Norm | None = "gn",
    fitted_steps: bool = True,
    **settings: Any,
) -> RetinaNet:
    """Torchvision's form, with its anchors. Settings: those of `RetinaNet`."""
    neck = FPN(backbone.channels, backbone.strides, top=top, norm=neck_norm)
    shapes = whole_pixel_anchors(neck.strides)
    head = RetinaNetHead(256, len(classes), len(shapes[0]), norm=head_norm)
    return RetinaNet(backbone, neck, head, classes=classes, shapes=shapes, fitted_steps=fitted_steps, **settings)


_BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext101_32x8d")
_RESNET50, _RESNET101 = partial(timm_backbone, "resnet50"), partial(timm_backbone, "resnet101")
# With the same assignment as `fcos_resnet50_fpn_atss` the two come out alike (Zhang et al. 2020, sections 3.2 and 4).
_ATSS = {"scale": 8.0, "per_octave": 1, "ratios": (1.0,), "assignment": "adaptive"}
# The paper's own form, on MSRA's ResNets, whose batch normalisation stays as it is.
_BASE = {"head_norm": None, "box_loss": "smooth_l1", "backbone_norm": "frozen_bn", "stride_in_1x1": True}
_DETECTRON2 = {
    **{"stride_in_1x1": True, "pixel_mean": DETECTRON2_MEAN, "pixel_std": DETECTRON2_STD},
    **{"head_norm": None, "box_loss": "l1", "normaliser": "moving"},
}
_V1 = {"top": "p5", "head_norm": None, "box_loss": "l1", "max_detections": 300}

BUILDERS = {
    **{f"retinanet_{name}_fpn": Builder(retinanet, partial(timm_backbone, name)) for name in _BACKBONES},
    # Neck and head with 128 channels are ours: with 256 they would cost ten times the backbone.
    "retinanet_shufflenet_v2_x1_0_fpn": Builder(retinanet, partial(shufflenet_v2_backbone, 1.0), {"channels": 128}),
    "retinanet_timm_fpn": Builder(retinanet, any_timm_backbone),
    "retinanet_resnet50_fpn_atss": Builder(retinanet, _RESNET50, _ATSS),
    "retinanet_resnet50_fpn_base": Builder(retinanet, _RESNET50, _BASE),
    "retinanet_resnet101_fpn_base": Builder(retinanet, _RESNET101, _BASE),
    "retinanet_resnet50_fpn_torchvision": Builder(retinanet_torchvision, _RESNET50, _V1),
    "retinanet_resnet50_fpn_v2_torchvision": Builder(retinanet_torchvision, _RESNET50, {"max_detections": 300}),
    # On MSRA's ResNets.
    "retinanet_resnet50_fpn_detectron2": Builder(retinanet, _RESNET50, _DETECTRON2),
    "retinanet_resnet101_fpn_detectron2": Builder(retinanet, _RESNET101, _DETECTRON2),
}


def _torchvision(name: str, file: str, average_precision: float, **arguments: Any) -> PublishedWeights:
    builder = f"retinanet_resnet50_fpn{name.removeprefix('torchvision')}_torchvision"
    metrics = {"AP": average_precision}
    return torchvision_record(name, builder, file, metrics, retinanet_from_torchvision, **arguments)


# Torchvision reads its first COCO weights with an epsilon of 0, as they were trained.
_FIRST = _torchvision(
    "torchvision",
    "retinanet_resnet50_fpn_coco-eeacb38b.pth",
    36.4,
    backbone_norm="frozen_bn",
    backbone_norm_eps=0.0,
)
_SECOND = _torchvision("torchvision_v2", "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth", 41.5)


def _detectron2(name: str, body: str, run: str, average_precision: float) -> PublishedWeights:
    run, builder = f"COCO-Detection/retinanet_{run}", f"retinanet_{body}_fpn_detectron2"
    return detectron2_record(name, run, builder, {"AP": average_precision}, retinanet_from_detectron2)


PUBLISHED = {
    "retinanet_resnet50_fpn": {"torchvision_v2": _SECOND, "torchvision": _FIRST},
    **by_builder(
        _FIRST,
        _SECOND,
        _detectron2("3x", "resnet50", "R_50_FPN_3x/190397829/model_final_5bd44e.pkl", 38.7),
        _detectron2("1x", "resnet50", "R_50_FPN_1x/190397773/model_final_bfca0b.pkl", 37.4),
        _detectron2("3x", "resnet101", "R_101_FPN_3x/190397697/model_final_971ab9.pkl", 40.4),
    ),
}
