"""FoveaBox: every cell in the middle of an object, its fovea, says which class it is and how far away the sides are.

Paper: Kong et al., "FoveaBox: Beyond Anchor-Based Object Detection", TIP 2020 (arXiv 1904.03797). Five feature levels
share one head. An object belongs to all levels whose range holds the square root of its area; each reaches from half to
twice the level's own scale, so that most objects are learned by two levels. There the cells in a shrunk box learn it,
by logarithms of the distances to its sides. There is no anchor box and no centre-ness.

How ours differs:
- Where the text and the released code differ, it is the code: the fovea is 0.4 of the box (0.3 in the first text), what
  distances are divided by is 16 pixels on P3 and doubles (half of the level's scale), a distance is learned between a
  sixteenth and 16 times that, the first range begins at 1 pixel and the last ends at 2048.
- P7 is computed behind a ReLU, as in RetinaNet; the authors have none there (`top="c5_linear"`, which weights of theirs
  bring).
- Of equal areas the first box wins; the authors' sort leaves it open.
- The best 1000 pairs of a cell and a class of each level are looked into; the authors take the best 1000 cells.
- Regions marked `ignore` (crowd, difficult) give no classification loss inside; the authors drop such annotations.
  What is uncertain, and classes an image was not labelled for, give no negative loss.

Legend: B images, A points over all levels, C classes, H x W cells of a level, N boxes of one image, P positive points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Layers, NotNegative, Share, Width, Within, passes_on
from aweigh.backbones import Backbone, timm_backbone
from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.heads.answers import Answers, dense_answers
from aweigh.layers import Norm, conv_tower, make_norm, start_at_prior, start_near_zero
from aweigh.models.builders import Builder
from aweigh.models.detector import Assign, Candidates, LevelSelection, check_classes, detector
from aweigh.necks import Neck, NeckFusion, NeckName, make_neck
from aweigh.ops import boxes as box_ops
from aweigh.ops.losses import check_labels, sigmoid_focal_loss_sum, unknown_in_batch, world_mean
from aweigh.ops.matching import BACKGROUND, among_all
from aweigh.structures import Images, Targets
from aweigh.weights.convert.mmdetection import foveabox_record
from aweigh.weights.record import by_builder

SCALE = 4.0  # a level's own scale in its strides: 32 pixels on P3, 512 on P7
UNIT = 2.0  # what distances are divided by, in strides: 16 pixels on P3 (the authors' code)
REACH = 16.0  # a distance that is learned is at most so many units, and at least 1 / 16 (the authors' code)
SMALLEST, LARGEST = 1.0, 2048.0  # where the first range begins and the last one ends, pixels (the authors' code)


class FoveaBoxOutput(NamedTuple):
    """What the network says, level by level, before any decision; cells row by row."""

    logits: list[Tensor]  # [B, H*W, C]
    distances: list[Tensor]  # [B, H*W, 4] left, top, right, bottom: logarithms, of units of the level
    points: list[Tensor]  # [H*W, 2] x, y of each cell in the padded image, pixels


@detector(LevelSelection)
class FoveaBox(nn.Module):
    """The detector.

    Args:
        backbone, neck, head, classes: as of every detector on a pyramid (see `aweigh.models.detector.Detector`).
        sigma: how much of a box's sides is its fovea.
        eta: a level's range is from its scale / eta to its scale * eta.
        alpha, gamma: of the focal loss. beta: where the smooth L1 loss has its knee.
    """

    stride_divisor = 32

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck,
        head: FoveaHead,
        *,
        classes: Classes,
        sigma: Annotated[float, Within(0, 1, above=True)] = 0.4,
        eta: Annotated[float, Within(1)] = 2.0,
        alpha: Share = 0.4,
        gamma: NotNegative = 1.5,
        beta: NotNegative = 0.11,
    ) -> None:
        super().__init__()
        check_classes("FoveaBox", head.logits.out_channels, classes)
        self.backbone, self.neck, self.head = backbone, neck, head
        self.classes = classes
        self.strides: tuple[int, ...] = tuple(neck.strides)
        ranges = level_ranges(self.strides, eta)
        self.candidates: Candidates = partial(candidates, level_ranges=ranges, sigma=sigma)
        self.assign: Assign = partial(assign, candidates=self.candidates)
        self.alpha, self.gamma, self.beta = alpha, gamma, beta

        self.selection = LevelSelection(nms_threshold=0.5, candidates_per_level=1000)  # the authors' code

    def forward(self, images: Images, targets: Sequence[Targets] | None = None) -> dict[str, Tensor] | list[Detections]:
        """The losses if `targets` are given, else the detections of each image."""
        raw = self.network(images.pixels)
        return self.decode(raw, images.sizes_hw) if targets is None else self.loss(raw, targets)

    def network(self, pixels: Tensor) -> FoveaBoxOutput:
        """Images `[B, 3, H, W]`, RGB in `[0, 1]`, to raw outputs: the part that is compiled and exported."""
        features = self.neck(self.backbone(pixels))
        logits, distances = self.head(features)
        points = [
            box_ops.grid_points(x.shape[-2], x.shape[-1], (stride, stride), (stride / 2, stride / 2), like=x)
            for x, stride in zip(features, self.strides, strict=True)
        ]
        return FoveaBoxOutput(logits, distances, points)

    # Training

    def loss(self, raw: FoveaBoxOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Two losses, each a scalar, float32.

        `classification`: focal loss over all points, divided by the number of positive points and images together.
        `box`: smooth L1 of the four logarithms over positive points, divided by their number. Both numbers are averaged
        over all processes; the latter is never less than one.
        """
        classes = len(self.classes)
        check_labels(targets, images=len(raw.logits[0]), classes=classes, what="FoveaBox.loss")
        logits, distances = (torch.cat(part, dim=1).float() for part in (raw.logits, raw.distances))  # [B, A, C | 4]
        points, units = torch.cat(raw.points), self._units(raw.points)  # [A, 2], [A, 1]
        with torch.no_grad():
            matched = torch.stack([self.assign(raw.points, target) for target in targets])  # [B, A]
            labels, goals = matched.clone(), torch.zeros_like(distances)
            for image, (index, target) in enumerate(zip(matched, targets, strict=True)):
                positive = index >= 0
                own = index[positive]
                labels[image, positive] = target.labels[own]
                goals[image, positive] = encode(points[positive], target.boxes[own], units[positive])
        positive = matched >= 0
        unknown = unknown_in_batch(points, targets, classes)  # [B * A, C] bool, or None
        positives = world_mean(positive.sum().float())
        classification = sigmoid_focal_loss_sum(
            logits.flatten(0, 1), labels.flatten(), alpha=self.alpha, gamma=self.gamma, no_loss=unknown
        )
        box = F.smooth_l1_loss(distances[positive], goals[positive], reduction="sum", beta=self.beta)
        return {
            "classification": classification / (positives + len(targets)),
            "box": box / positives.clamp(min=1),
        }

    def _units(self, points: Sequence[Tensor]) -> Tensor:
        """Pixels of a unit of distance at each point, `[A, 1]`."""
        levels = zip(points, self.strides, strict=True)
        return torch.cat([level.new_full((len(level), 1), UNIT * stride) for level, stride in levels])

    # Prediction

    @torch.no_grad()
    def decode(self, raw: FoveaBoxOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """`select`, cut to the number found: one `Detections` per image, best first."""
        found = self.select(raw, torch.tensor(sizes_hw, device=raw.logits[0].device))
        return Detections.unpadded(found, classes=self.classes, sizes_hw=sizes_hw)

    def select(self, raw: FoveaBoxOutput, sizes_hw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Raw outputs to detections, padded to a fixed number."""
        levels = [self._best(*level) for level in zip(*raw, self.strides, strict=True)]
        return box_ops.select_levels(levels, sizes_hw, self.selection)

    def _best(self, logits: Tensor, distances: Tensor, points: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of a cell and a class of one level: boxes `[B, k, 4]`, scores, labels `[B, k]`."""
        scores, rows, labels = box_ops.best_pairs(
            logits, count=self.selection.candidates_per_level, threshold=self.selection.score_threshold
        )
        chosen = distances.float().gather(1, rows[..., None].expand(-1, -1, 4))  # [B, k, 4]
        return decode(points[rows], chosen, UNIT * stride), scores, labels

    def answers(self, raw: FoveaBoxOutput, sizes_hw: Tensor, wanted: Targets | None = None) -> Answers:
        """All that is said of one image, see `Detector`."""
        logits, distances = (torch.cat(part, dim=1)[0].float() for part in (raw.logits, raw.distances))
        boxes = decode(torch.cat(raw.points), distances, self._units(raw.points))  # [A, 4]
        chosen = self.selection
        return dense_answers(
            "point", raw.points, self.strides, box_ops.clip(boxes, sizes_hw[0]), {"class": logits.sigmoid()}, "product",
            chosen, threshold=chosen.score_threshold, most=chosen.candidates_per_level, setting="candidates_per_level",
        )  # fmt: skip


def encode(points: Tensor, boxes: Tensor, units: Tensor | float) -> Tensor:
    """Logarithms `[..., 4]` of the distances of points `[..., 2]` from the sides of boxes `[..., 4]` (equation 3), of
    units `[..., 1]` pixels, between 1 / `REACH` and `REACH`."""
    return (box_ops.encode_distances(points, boxes) / units).clamp(1 / REACH, REACH).log()


def decode(points: Tensor, distances: Tensor, units: Tensor | float) -> Tensor:
    """The boxes `[..., 4]` that logarithms of distances `[..., 4]` mean; a distance ends at 1000 / 16 units."""
    return box_ops.decode_distances(points, _exp(distances) * units)


def _exp(distances: Tensor) -> Tensor:
    return distances.clamp(max=box_ops.MAX_LOG_SCALE).exp()


class FoveaHead(nn.Module):
    """Two towers of convolutions, shared by all levels, and a prediction of each (figure 3).

    Args:
        channels: of every level; num_classes: C. convs: 3x3 convolutions per tower.
        norm: after each of them, which then have no bias.
        align: the classification reads where the predicted box is: its tower is a deformable convolution whose offsets
            are a linear function of the four distances, one 3x3 convolution to four times the channels and one of 1x1
            ("feature alignment").
    """

    def __init__(
        self, channels: int, num_classes: int, *, convs: int = 4, norm: Norm | None = None, align: bool = False
    ) -> None:
        super().__init__()
        width = 4 * channels if align else channels
        self.align = AlignedConv2d(channels) if align else None
        if align:
            self.classification_tower = nn.Sequential(
                *_convolution(channels, width, 3, norm), *_convolution(width, width, 1, norm)
            )
        else:
            self.classification_tower = conv_tower(channels, convs, norm, bias=norm is None)
        self.box_tower = conv_tower(channels, convs, norm, bias=norm is None)
        self.logits = nn.Conv2d(width, num_classes, 3, padding=1)
        self.distances = nn.Conv2d(channels, 4, 3, padding=1)
        start_near_zero(self.logits, self.distances)
        start_at_prior(self.logits)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level `[B, channels, H, W]` to logits `[B, H*W, C]` and distances `[B, H*W, 4]`."""
        logits, distances = [], []
        for x in features:
            distance = self.distances(self.box_tower(x))
            aligned = x if self.align is None else self.align(x, distance)
            logits.append(self.logits(self.classification_tower(aligned)).flatten(2).transpose(1, 2))
            distances.append(distance.flatten(2).transpose(1, 2))
        return logits, distances


class AlignedConv2d(nn.Module):
    """A deformable 3x3 convolution whose offsets a 1x1 convolution makes of the distances at each cell, and ReLU; in
    four groups of channels with offsets of their own (the authors' code)."""

    def __init__(self, channels: int, *, groups: int = 4) -> None:
        super().__init__()
        if channels % groups:
            raise UsageError(f"FoveaBox: align needs channels that {groups} divides, got {channels}.")
        self.offsets = nn.Conv2d(4, groups * 2 * 9, 1, bias=False)
        self.conv = torchvision.ops.DeformConv2d(channels, channels, 3, padding=1, bias=False)
        nn.init.normal_(self.offsets.weight, std=0.1)
        nn.init.normal_(self.conv.weight, std=0.01)

    def forward(self, x: Tensor, distances: Tensor) -> Tensor:
        """x: `[B, channels, H, W]`, distances: `[B, 4, H, W]`, logarithms of units of the level."""
        kind = self.conv.weight.dtype  # torchvision's operator wants one; autocast leaves it alone, or is for float32
        offsets = self.offsets(_exp(distances))
        return F.relu(self.conv(x.to(kind), offsets.to(kind)))


def _convolution(in_channels: int, channels: int, kernel: int, norm: Norm | None) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=norm is None)
    start_near_zero(convolution)
    return [convolution, make_norm(norm, channels) if norm else nn.Identity(), nn.ReLU(inplace=True)]


# Assignment: which point learns which box


def level_ranges(strides: Sequence[int], eta: float) -> list[tuple[float, float]]:
    """Which square roots of areas, in pixels, belong to each level: its scale over and times `eta` (equation 1)."""
    ranges = [(SCALE * stride / eta, SCALE * stride * eta) for stride in strides]
    return [
        (SMALLEST if level == 0 else low, LARGEST if level == len(ranges) - 1 else high)
        for level, (low, high) in enumerate(ranges)
    ]


@torch.no_grad()
def assign(points: Sequence[Tensor], targets: Targets, *, candidates: Candidates) -> Tensor:
    """The box each point learns: index into `targets`, -1 for background, -2 inside an ignored region: `[A]` int64.

    points: per level `[H*W, 2]`. Among several boxes that it could learn the smallest wins. Memory is bounded by the
    portions of `candidates`.
    """
    boxes, together = targets.boxes[targets.learned], torch.cat(list(points))
    index = together.new_full((len(together),), BACKGROUND, dtype=torch.int64)
    if len(boxes):
        areas = box_ops.areas(boxes)
        smallest = [torch.where(could, areas, math.inf).min(dim=1) for _, could in candidates(points, boxes)]
        index = torch.cat([torch.where(area.isfinite(), nearest, BACKGROUND) for area, nearest in smallest])
    return among_all(index, together, targets.boxes, targets.learned, targets.ignore)


def candidates(
    points: Sequence[Tensor],
    boxes: Tensor,
    *,
    level_ranges: Sequence[tuple[float, float]],
    sigma: float,
    byte_budget: int = 64 * 2**20,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Portions of the points `[p, 2]`, in order, and which boxes `[N, 4]` each could learn: `[p, N]` bool.

    Those in whose fovea it lies, and that lie in the range of its level. Portions are of about `byte_budget` bytes.
    """
    middle, fovea = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * (sigma / 2)  # [N, 2] half of it
    side = box_ops.areas(boxes).sqrt()
    size = max(1, byte_budget // (24 * max(1, len(boxes))))  # bytes of a point and a box at the peak
    for level, (low, high) in zip(points, level_ranges, strict=True):
        fits = (side >= low) & (side <= high)
        for portion in torch.split(level, size):
            yield portion, ((portion[:, None] - middle).abs() <= fovea).all(dim=-1) & fits


# Builders: each architecture with its numbers


@passes_on(FoveaBox)
def foveabox(
    backbone: Backbone,
    classes: Classes,
    *,
    channels: Width = 256,
    convs: Layers = 4,
    neck: NeckName = "fpn",
    neck_norm: Norm | None = None,
    neck_repeats: Layers | None = None,
    neck_fusion: NeckFusion | None = None,
    head_norm: Norm | None = None,
    align: bool = False,
    top: Literal["c5", "c5_linear"] = "c5",
    **settings: Any,
) -> FoveaBox:
    """On any backbone with three levels at strides 8, 16, 32. Settings: those of `FoveaBox`."""
    pyramid = make_neck(neck, backbone, channels, 5, top=top, norm=neck_norm, repeats=neck_repeats, fusion=neck_fusion)
    head = FoveaHead(channels, len(classes), convs=convs, norm=head_norm, align=align)
    return FoveaBox(backbone, pyramid, head, classes=classes, **settings)


BUILDERS = {
    "foveabox_resnet18_fpn": Builder(foveabox, partial(timm_backbone, "resnet18")),
    # AP 36.5 after 12 epochs; 37.9 after 24 with `align=True, head_norm="gn"`.
    "foveabox_resnet50_fpn": Builder(foveabox, partial(timm_backbone, "resnet50")),
    # AP 38.6 after 12 epochs; 40.0 after 24, as with `align=True, head_norm="gn"`.
    "foveabox_resnet101_fpn": Builder(foveabox, partial(timm_backbone, "resnet101")),
}

_R50, _R101, _SCALES = "foveabox_resnet50_fpn", "foveabox_resnet101_fpn", "fpn_gn-head_mstrain_640-800_4x4_2x_coco"
PUBLISHED = by_builder(
    foveabox_record("1x", _R50, "fovea_r50_fpn_4x4_1x_coco", "20200219-ee4d5303", 36.5),
    foveabox_record("2x", _R50, "fovea_r50_fpn_4x4_2x_coco", "20200203-2df792b1", 37.2),
    foveabox_record("align_2x", _R50, "fovea_align_r50_fpn_gn-head_4x4_2x_coco", "20200203-8987880d", 37.9),
    foveabox_record("align_2x_multiscale", _R50, f"fovea_align_r50_{_SCALES}", "20200205-85ce26cb", 40.4),
    foveabox_record("1x", _R101, "fovea_r101_fpn_4x4_1x_coco", "20200219-05e38f1c", 38.6),
    foveabox_record("2x", _R101, "fovea_r101_fpn_4x4_2x_coco", "20200208-02320ea4", 40.0),
    foveabox_record("align_2x", _R101, "fovea_align_r101_fpn_gn-head_4x4_2x_coco", "20200208-c39a027a", 40.0),
    foveabox_record("align_2x_multiscale", _R101, f"fovea_align_r101_{_SCALES}", "20200208-649c5eb6", 42.0),
)
