"""Faster R-CNN: a network proposes regions, a second stage says what each holds and where its box lies.

Papers: Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS 2015;
Girshick, "Fast R-CNN", ICCV 2015 (the second stage); Lin et al., "Feature Pyramid Networks", CVPR 2017 (both on a
pyramid); He et al., "Mask R-CNN", ICCV 2017 (RoIAlign).

The detector is made of parts: what proposes regions, how their features are read, what is said of them. Fast, Mask,
Keypoint and Light-Head R-CNN are other parts in the same place. Forms on a pyramid, each a set of plain values:

==================  ===================  ======================  ====================  ======================
value               default              torchvision v1          torchvision v2        detectron2
==================  ===================  ======================  ====================  ======================
pyramid             no normalisation     no normalisation        batch norm.           no normalisation
proposal network    one 3x3 convolution  one 3x3 convolution     two                   one 3x3 convolution
its loss, over      anchors sampled      the same                the same              256 an image
box loss            smooth L1            the same                the same              L1
box head            two fully connected  two fully connected     4 conv, 1 fully con.  two fully connected
anchors             exact                whole pixels            whole pixels          exact
step of a cell      its stride           padded // grid          padded // grid        its stride
RoIAlign            by half a pixel,     not shifted,            not shifted,          by half a pixel,
                    2 x 2 points         2 x 2 points            2 x 2 points          one for each pixel
proposals learned   2,000                2,000                   2,000                 1,000
body                ImageNet             ImageNet                ImageNet              stride in the 1x1, BGR
==================  ===================  ======================  ====================  ======================

Torchvision's form on MobileNet V3 reads two maps of one stride, and regions from the first of them alone. Forms on one
map, at stride 16:

==================  ==========================================  =====================================================
value               C4 (ResNet)                                 VGG-16 (the first papers)
==================  ==========================================  =====================================================
anchors             32, 64, 128, 256, 512 px in three ratios    128, 256, 512 px in three ratios
regions             RoIAlign, 14 x 14                           RoIPool, 7 x 7
suppression         IoU above 0.5                               IoU above 0.3
second stage        the last stage of the body, then the mean   the body's two fully connected layers
proposals           12,000 and 2,000; tested: 6,000 and 1,000   12,000 and 2,000; tested: 6,000 and 300
==================  ==========================================  =====================================================

How ours differs:
- Losses are a function of outputs and targets: the anchors and regions that learn are drawn evenly spread instead of at
  random, beginning elsewhere at every step, and their number does not depend on the mode.
- In training proposals end at the edge of the batch, not of each image.
- "Nothing" is the last class, not the first.
- Nothing inside a region marked `ignore` or `uncertain` is background. Where an image was not labelled for all classes,
  no anchor in it is background, and a region without an object says only that it is none of the known classes.
- A box that no anchor touches teaches none; torchvision then takes every anchor that overlaps nothing for an object.
- Torchvision's published heads have rows for ids of COCO that are no class: they take part in the softmax
  (`unused_rows`), and are no answers.
- On VGG-16 nothing is dropped out behind the fully connected layers, since that would be drawn at random, and anchors
  across the edge of the picture learn, as in all later forms.

Legend: B images, C classes, R regions, K detections of an image, N boxes of one image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import (
    Count,
    Few,
    Layers,
    NotNegative,
    Number,
    Positive,
    Share,
    Width,
    check_fields,
    checked,
)
from aweigh.backbones import TIMM_OPTIONS, Backbone, take_last_stage, take_mobilenet_v3_ends, take_timm
from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.errors import UsageError, counted
from aweigh.heads.box import AverageHead, BoxPredictor, ConvFCHead, TwoFCHead
from aweigh.heads.rpn import RPN, RPN_OPTIONS, Proposer
from aweigh.layers import Norm
from aweigh.models.detector import Detector, detector, network_inputs
from aweigh.necks.fpn import FPN
from aweigh.ops import boxes as box_ops
from aweigh.ops.anchors import anchor_shapes
from aweigh.ops.losses import check_labels, world_mean
from aweigh.ops.matching import BACKGROUND, IGNORED, balanced_sample, by_overlap, hardest
from aweigh.ops.roi import max_pool_regions, numbered, pool_regions
from aweigh.structures import IMAGENET_STD, Images, Targets
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.convert.detectron2 import (
    DETECTRON2_MEAN,
    DETECTRON2_STD,
    detectron2_record,
    faster_rcnn_from_detectron2,
)
from aweigh.weights.convert.torchvision import faster_rcnn_from_torchvision
from aweigh.weights.record import PublishedWeights

RATIOS = (0.5, 1.0, 2.0)  # height over width (Ren et al., section 3.1.1)
POSITIVE_IOU = 0.5  # of a region with an object (Girshick 2015, section 2.3)
DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # deltas of regions are learned so many times as large
SMALLEST_SIDE = 1e-2  # of a detection, pixels


class FasterRCNNOutput(NamedTuple):
    """What the network says before any decision."""

    features: list[Tensor]  # [B, channels, H, W] each, fine to coarse
    proposed: Any  # what the proposer says of them


class Neck(Protocol):
    """What makes of the backbone's maps those that regions are proposed on and read from; an `nn.Module`."""

    @property
    def strides(self) -> Sequence[int]: ...

    def __call__(self, maps: list[Tensor]) -> list[Tensor]: ...


class Branch(Protocol):
    """What says one thing more of a region than its class and box, such as its mask; an `nn.Module`."""

    size: int  # cells of a side of the regions it reads
    notes: Mapping[str, Any]  # what `Detections` is told of it, such as `keypoint_set`

    def __call__(self, maps: Tensor) -> Tensor:
        """Features of regions `[R, channels, size, size]` to what it says of each `[R, ...]`."""

    def loss(
        self, said: Tensor, regions: Sequence[Tensor], index: Sequence[Tensor], targets: Sequence[Targets]
    ) -> Tensor:
        """A scalar. regions, index: of each image the regions that hold an object `[R_i, 4]`, and its row `[R_i]`."""

    def decode(self, said: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """`[R, ...]` as `Detections` holds it, of detections with boxes `[R, 4]` and labels `[R]`."""


@dataclass(frozen=True)
class FasterRCNNSelection:
    """Which of the regions become detections; the proposer has thresholds and counts of its own."""

    score_threshold: Share = 0.05
    nms: box_ops.NMS = "class"
    nms_threshold: Share = 0.5
    max_detections: Count = 100

    def __post_init__(self) -> None:
        check_fields(self)


@detector(FasterRCNNSelection)
class FasterRCNN(nn.Module):
    """The detector.

    Args:
        backbone, neck: image `[B, 3, H, W]` -> feature maps -> pyramid; both have `channels` and `strides`. None for
            the maps as they are.
        proposer: a `Proposer`, which says where there may be an object; see `heads/rpn.py`.
        pool: (features, regions `[R, 5]`, size=S) -> `[R, channels, S, S]`; see `ops/roi.py`.
        box_head, box_predictor: the second stage, on `box_size` cells of a region's side.
        classes: names and original ids; their number must be the predictor's.
        region_body: layers between `pool` and the heads of all branches; None for none.
        classification_layers: layers behind the regions that are of the backbone's classification network, whose
            published weights fill them too: name there -> name here.
        branches: what more is said of each region: name in `Detections` -> `Branch`.
        sampled, positive_fraction: regions of an image that learn, and how many of them may hold an object; None for
            `sampled`: all.
        negative_iou: between which overlaps with an object, the first included, a region holds nothing.
        hard_regions: how many of them learn after all, those of the highest loss in each image (online hard example
            mining, Shrivastava et al. 2016); None for all.
        beta: below which the loss of a region's delta is quadratic. box_weight: of the loss of boxes.
    """

    stride_divisor = 32

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck | None,
        proposer: Proposer,
        pool: Callable[..., Tensor],
        box_head: nn.Module,
        box_predictor: BoxPredictor,
        *,
        classes: Classes,
        box_size: Few = 7,
        region_body: nn.Module | None = None,
        classification_layers: Mapping[str, str] | None = None,
        branches: Mapping[str, Any] | None = None,
        sampled: Count | None = 512,  # Lin et al. 2017, FPN, section 5.2.1
        positive_fraction: Share = 0.25,  # Girshick 2015, section 2.3
        negative_iou: tuple[Share, Share] = (0.0, 0.5),
        hard_regions: Count | None = None,
        beta: NotNegative = 1 / 9,
        box_weight: NotNegative = 1.0,
        score_threshold: Share = 0.05,
        nms_threshold: Share = 0.5,
        max_detections: Count = 100,
    ) -> None:
        super().__init__()
        if box_predictor.num_classes != len(classes):
            raise UsageError(
                f"FasterRCNN: the head predicts {counted(box_predictor.num_classes, 'class')}, but "
                f"{counted(len(classes), 'class', 'is')} named."
            )
        self.backbone, self.proposer, self.pool = backbone, proposer, pool
        self.needs_proposals: bool = getattr(proposer, "needs_proposals", False)
        self.neck = nn.Identity() if neck is None else neck
        self.finest_stride = (backbone if neck is None else neck).strides[0]
        self.region_body = nn.Identity() if region_body is None else region_body
        self.box_head, self.box_predictor = box_head, box_predictor
        self.classification_layers = dict(classification_layers or {})
        self.branches = nn.ModuleDict(branches)
        self.extras = tuple(self.branches)
        self.classes, self.box_size, self.beta = classes, box_size, beta
        self.sampled, self.positive_fraction = sampled, positive_fraction
        self.negative_iou, self.hard_regions, self.box_weight = tuple(negative_iou), hard_regions, box_weight

        self.selection = FasterRCNNSelection(
            score_threshold, nms_threshold=nms_threshold, max_detections=max_detections
        )

    def forward(self, images: Images, targets: Sequence[Targets] | None = None) -> dict[str, Tensor] | list[Detections]:
        """Losses if `targets` are given (whether training or not), else the detections of each image.

        Boxes are in the pixels of `images`, and inside each image.
        """
        raw = self.network(*network_inputs(cast(Detector, self), images))
        if targets is not None:
            return self.loss(raw, targets)
        return self.decode(raw, images.sizes_hw)

    def network(self, pixels: Tensor, *proposals: Tensor) -> FasterRCNNOutput:
        """Images `[B, 3, H, W]`, RGB in `[0, 1]`, to features and what the proposer says of them.

        proposals: as `Images` has them, for a proposer that needs them.
        """
        features = self.neck(self.backbone(pixels))
        return FasterRCNNOutput(features, self.proposer(features, pixels, *proposals))

    def classification_body(self) -> nn.Module:
        """What published weights of the classification network fill: the backbone and `classification_layers`."""
        if not self.classification_layers:
            return self.backbone
        layers = {name: self.get_submodule(ours) for name, ours in self.classification_layers.items()}
        whole: Any = nn.Module()
        whole.name = self.backbone.name
        whole.body = nn.ModuleDict({**dict(cast(nn.Module, self.backbone.body).named_children()), **layers})
        return cast(nn.Module, whole)

    def regions_of(self, features: Sequence[Tensor], regions: Tensor, size: int) -> Tensor:
        """The features of regions `[R, 5]` (image, box): `[R, channels, size, size]`."""
        maps: Tensor = self.region_body(self.pool([feature.float() for feature in features], regions, size=size))
        return maps  # in 32 bits, though the network may have computed in 16

    def second_stage(self, features: Sequence[Tensor], regions: Tensor) -> tuple[Tensor, Tensor]:
        """Of regions `[R, 5]` (image, box): logits `[R, C + 1]`, the last of nothing (before it any that stand for no
        class), and deltas `[R, C, 4]`."""
        logits, deltas = self.box_predictor(self.box_head(self.regions_of(features, regions, self.box_size)))
        return logits, deltas

    # Training

    def loss(self, raw: FasterRCNNOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The proposer's losses, those of regions, and one of each branch; scalars, float32.

        `classification` and `box`: of sampled regions, cross-entropy over the classes and nothing, and smooth L1 of the
        deltas of the object's class (Girshick 2015, equations 1 to 3), each divided by the number of regions; of the
        hardest of them where `hard_regions` says so.
        """
        classes = len(self.classes)
        check_labels(targets, images=len(raw.features[0]), classes=classes, what="FasterRCNN.loss")
        losses = self.proposer.loss(raw.proposed, targets)

        regions, index = self.sample_regions(raw, targets)
        logits, region_deltas = self.second_stage(raw.features, numbered(regions))
        classification, box = self.region_losses(logits, region_deltas, regions, index, targets)
        if self.hard_regions is not None:
            rows = hardest(classification + box, [len(each) for each in regions], self.hard_regions)
            classification, box = classification[rows], box[rows]
        count = world_mean(logits.new_tensor(float(len(box)))).clamp(min=1)
        losses |= {"classification": classification.sum() / count, "box": self.box_weight * box.sum() / count}

        positive = [rows >= 0 for rows in index]
        regions = [each[rows] for each, rows in zip(regions, positive)]
        index = [each[rows] for each, rows in zip(index, positive)]
        for name, branch in self._branches():
            said = branch(self.regions_of(raw.features, numbered(regions), branch.size))
            losses[name] = branch.loss(said, regions, index, targets)
        return losses

    def _branches(self) -> list[tuple[str, Branch]]:
        return [(name, cast(Branch, module)) for name, module in self.branches.items()]

    @torch.no_grad()
    def sample_regions(self, raw: FasterRCNNOutput, targets: Sequence[Targets]) -> tuple[list[Tensor], list[Tensor]]:
        """The regions of each image that learn `[R_i, 4]`, and the box of its targets each learns `[R_i]`, -1 none.

        Regions are proposals and the objects themselves.
        """
        height, width = (side * self.finest_stride for side in raw.features[0].shape[-2:])
        sizes = torch.tensor([[height, width]] * len(targets), device=raw.features[0].device)
        boxes, _, count = self.proposer.propose(raw.proposed, sizes, learning=True)
        seeds = raw.features[-1].float().sum(dim=(1, 2, 3))  # [B]
        lowest, highest = self.negative_iou
        regions, indices = [], []
        for image, target in enumerate(targets):
            objects = target.learned.nonzero().squeeze(1)
            candidates = torch.cat([boxes[image, : int(count[image])], target.boxes[objects]])
            match = partial(by_overlap, candidates, target.boxes[objects], rescue="none")
            index = match(positive=POSITIVE_IOU, negative=highest)
            if lowest > 0:
                index[match(positive=lowest, negative=lowest) == BACKGROUND] = IGNORED
            nobodys = target.boxes[~target.learned]
            if len(nobodys):
                centers = (candidates[:, :2] + candidates[:, 2:]) / 2
                index[box_ops.covered(centers, nobodys) & (index == BACKGROUND)] = IGNORED
            if self.sampled is None:
                rows = (index != IGNORED).nonzero().squeeze(1)
            else:
                rows = balanced_sample(
                    index, count=self.sampled, positive_fraction=self.positive_fraction, seed=seeds[image]
                )
            learned = index[rows]
            learned[learned >= 0] = objects[learned[learned >= 0]]
            regions.append(candidates[rows])
            indices.append(learned)
        return regions, indices

    def region_losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        regions: Sequence[Tensor],
        index: Sequence[Tensor],
        targets: Sequence[Targets],
    ) -> tuple[Tensor, Tensor]:
        """Of each region `[R]`: logits `[R, C + 1]`, deltas `[R, C, 4]`; regions and index are `sample_regions`'s."""
        classes, nothing = len(self.classes), logits.shape[1] - 1
        labels = torch.cat(
            [
                torch.where(rows >= 0, target.labels[rows.clamp(min=0)] if len(target) else nothing, nothing)
                for rows, target in zip(index, targets, strict=True)
            ]
        )
        unknown = [
            torch.zeros(len(rows), classes, dtype=torch.bool, device=rows.device)
            if target.known is None
            else (~target.known & (rows < 0)[:, None])
            for rows, target in zip(index, targets, strict=True)
        ]
        masked = logits[:, :classes].masked_fill(torch.cat(unknown), -torch.inf)
        classification = F.cross_entropy(torch.cat([masked, logits[:, classes:]], dim=1), labels, reduction="none")
        boxes = torch.cat([target.boxes[rows[rows >= 0]] for rows, target in zip(index, targets, strict=True)])
        positive = (labels != nothing).nonzero().squeeze(1)
        goal = box_ops.encode_deltas(torch.cat(list(regions))[positive], boxes, weights=DELTA_WEIGHTS)
        of_objects = F.smooth_l1_loss(deltas[positive, labels[positive]], goal, beta=self.beta, reduction="none")
        return classification, torch.zeros_like(classification).index_copy(0, positive, of_objects.sum(dim=1))

    # Prediction

    @torch.no_grad()
    def decode(self, raw: FasterRCNNOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """`select`, cut to the number found: one `Detections` per image, best first."""
        boxes, scores, labels, count, *extras = self.select(raw, torch.tensor(sizes_hw, device=raw.features[0].device))
        return Detections.unpadded(
            (boxes, scores, labels, count),
            classes=self.classes,
            sizes_hw=sizes_hw,
            extras=dict(zip(self.extras, extras, strict=True)),
            **self._notes,
        )

    @property
    def keypoint_set(self) -> KeypointSet | None:
        """What the keypoints of its detections are; None where it finds none."""
        return self._notes.get("keypoint_set")

    @property
    def _notes(self) -> dict[str, Any]:
        return {key: note for _, branch in self._branches() for key, note in branch.notes.items()}

    def select(self, raw: FasterRCNNOutput, sizes_hw: Tensor) -> tuple[Tensor, ...]:
        """Raw outputs to a fixed number of detections: proposals, their second stage, suppression, then the branches.

        sizes_hw: `[B, 2]` height and width of each image in the batch. Returns boxes `[B, K, 4]` float32 (inside the
        image), scores `[B, K]`, labels `[B, K]`, count `[B]` and `[B, K, ...]` of each branch; rows from `count` on are
        padding with score 0.
        """
        proposals, _, count = self.proposer.propose(raw.proposed, sizes_hw)
        if not torch.compiler.is_compiling():
            proposals = proposals[:, : max(1, int(count.max()))]
        batch, number = proposals.shape[:2]
        logits, deltas = self.second_stage(raw.features, numbered(list(proposals)))
        there = torch.arange(number, device=count.device) < count[:, None]  # [B, R]
        scores = logits.softmax(dim=1)[:, : len(self.classes)].reshape(batch, number, -1)  # [B, R, C]
        boxes = box_ops.decode_deltas(
            proposals.unsqueeze(2), deltas.reshape(batch, number, -1, 4), weights=DELTA_WEIGHTS
        )  # [B, R, C, 4]
        boxes = box_ops.clip(boxes.flatten(1, 2), sizes_hw)  # [B, R * C, 4]
        large = (boxes[..., 2:] - boxes[..., :2] >= SMALLEST_SIDE).all(dim=-1)
        tested = torch.where(there[..., None] & (scores > self.selection.score_threshold), scores, 0).flatten(1)
        labels = torch.arange(len(self.classes), device=count.device).expand(batch, number, -1).flatten(1)
        found = box_ops.select_detections(
            boxes,
            torch.where(large, tested, 0),
            labels,
            iou_threshold=self.selection.nms_threshold,
            max_detections=self.selection.max_detections,
            method=self.selection.nms,
        )
        return *found, *(self._said_of(branch, raw.features, *found) for _, branch in self._branches())

    def _said_of(
        self, branch: Branch, features: Sequence[Tensor], boxes: Tensor, scores: Tensor, labels: Tensor, count: Tensor
    ) -> Tensor:
        """What a branch says of the detections, `[B, K, ...]`, 0 in the padding."""
        regions, there = numbered(list(boxes)), (scores > 0).flatten()  # [B * K, 5], [B * K]
        if torch.compiler.is_compiling():  # a graph has one shape for all data
            rows = torch.arange(len(regions), device=regions.device)
        else:
            rows = there.nonzero().squeeze(1)
        said = branch(self.regions_of(features, regions[rows], branch.size))
        decoded = branch.decode(said, regions[rows, 1:], labels.flatten()[rows])  # [R, ...]
        every = decoded.new_zeros(len(regions), *decoded.shape[1:]).index_copy(0, rows, decoded)
        every = torch.where(there.view(-1, *[1] * (every.ndim - 1)), every, 0)
        return every.view(*labels.shape, *decoded.shape[1:])


# Builders


def pyramid_anchors(
    strides: Sequence[int], *, sizes: Sequence[float] | None = None, rounded: bool = False
) -> list[Tensor]:
    """In three ratios, one size of eight strides on each level (Lin et al. 2017, FPN, section 4.1), or all `sizes`."""
    return [anchor_shapes(sizes or [8.0 * stride], RATIOS, rounded=rounded) for stride in strides]


@checked(FasterRCNN)
def with_proposer(
    proposer: Callable[[Sequence[int]], Proposer],
    backbone: Backbone,
    classes: Classes,
    *,
    channels: Width = 256,
    neck_norm: Norm | None = None,
    levels_read: Few | None = None,
    box_head: Literal["2fc", "4conv1fc"] = "2fc",
    head_norm: Norm | None = "gn",
    box_size: Few = 7,
    samples: Layers = 2,
    aligned: bool = True,
    unused_rows: Number = 0,
    **options: Any,
) -> FasterRCNN:
    """The same with any proposer, which is made of the strides of the pyramid.

    channels: of every level. levels_read: from how many of them regions are read; None: from all but the pooled one on
    top. box_head: two fully connected layers, or four convolutions with `head_norm` and one. samples, aligned: of
    RoIAlign. unused_rows: of the `BoxPredictor`. The other options: those of `FasterRCNN`.
    """
    levels = len(backbone.channels) + 1
    neck = FPN(backbone.channels, backbone.strides, channels=channels, levels=levels, top="pool", norm=neck_norm)
    made = proposer(neck.strides)
    pool = partial(pool_regions, strides=neck.strides[:-1][:levels_read], samples=samples, aligned=aligned)
    head = TwoFCHead(channels, box_size) if box_head == "2fc" else ConvFCHead(channels, box_size, norm=head_norm)
    predictor = BoxPredictor(head.width, len(classes), unused_rows=unused_rows)
    return FasterRCNN(backbone, neck, made, pool, head, predictor, classes=classes, box_size=box_size, **options)


@checked(with_proposer, RPN_OPTIONS)
def on_pyramid(
    backbone: Backbone,
    classes: Classes,
    *,
    channels: Width = 256,
    anchor_sizes: Sequence[Positive] | None = None,
    rounded_anchors: bool = False,
    beta: NotNegative = 1 / 9,
    **options: Any,
) -> FasterRCNN:
    """With the region proposal network, on any backbone with several levels, such as four at strides 4 to 32.

    anchor_sizes: on every level, pixels; None: one of eight strides. beta: of the second stage, and of the `RPN` unless
    `rpn_beta` is given. Options: those of `RPN_OPTIONS` and `with_proposer`.
    """

    own = {"beta": beta, **RPN_OPTIONS.take(options)}

    def proposer(strides: Sequence[int]) -> RPN:
        return RPN(channels, strides, pyramid_anchors(strides, sizes=anchor_sizes, rounded=rounded_anchors), **own)

    return with_proposer(proposer, backbone, classes, channels=channels, beta=beta, **options)


@checked(FasterRCNN, RPN_OPTIONS, TIMM_OPTIONS, without=("region_body", "classification_layers"))
def on_c4(
    name: str,
    classes: Classes,
    *,
    box_size: Few = 14,
    samples: Layers = 2,
    aligned: bool = True,
    anchor_sizes: Sequence[Positive] = (32.0, 64.0, 128.0, 256.0, 512.0),
    beta: NotNegative = 1 / 9,
    **options: Any,
) -> FasterRCNN:
    """On the map at stride 16 of a ResNet of timm, whose last stage reads the regions (He et al. 2016, appendix A).

    Options: those of `TIMM_OPTIONS`, `RPN_OPTIONS` and `FasterRCNN`; the others as in `on_pyramid`.
    """
    backbone = take_timm(name, options, levels=(4, 5))
    width = backbone.channels[-1]
    stage = take_last_stage(backbone)
    options = {"train_proposals": (12000, 2000), "test_proposals": (6000, 1000), **options}
    (channels,) = backbone.channels
    shapes = pyramid_anchors(backbone.strides, sizes=anchor_sizes)
    proposer = RPN(channels, backbone.strides, shapes, **{"beta": beta, **RPN_OPTIONS.take(options)})
    pool = partial(pool_regions, strides=backbone.strides, samples=samples, aligned=aligned)
    return FasterRCNN(
        *(backbone, None, proposer, pool, AverageHead(width), BoxPredictor(width, len(classes))),
        classes=classes,
        box_size=box_size,
        region_body=stage,
        classification_layers={"layer4": "region_body"},
        beta=beta,
        **options,
    )


def _timm(name: str, classes: Classes, options: dict[str, Any]) -> FasterRCNN:
    return on_pyramid(take_timm(name, options, levels=(2, 3, 4, 5)), classes, **options)


@checked(on_pyramid, TIMM_OPTIONS)
def faster_rcnn_resnet18_fpn(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Faster R-CNN on ResNet-18. Options: those of `on_pyramid` and `TIMM_OPTIONS`."""
    return _timm("resnet18", classes, options)


@checked(on_pyramid, TIMM_OPTIONS)
def faster_rcnn_resnet50_fpn(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Faster R-CNN on ResNet-50. Options as `faster_rcnn_resnet18_fpn`."""
    return _timm("resnet50", classes, options)


@checked(on_pyramid, TIMM_OPTIONS)
def faster_rcnn_resnet101_fpn(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Faster R-CNN on ResNet-101. Options as `faster_rcnn_resnet18_fpn`."""
    return _timm("resnet101", classes, options)


@checked(on_pyramid, TIMM_OPTIONS)
def faster_rcnn_resnext101_32x8d_fpn(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Faster R-CNN on ResNeXt-101 32x8d. Options as `faster_rcnn_resnet18_fpn`."""
    return _timm("resnext101_32x8d", classes, options)


@checked(on_c4)
def faster_rcnn_resnet50_c4(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Faster R-CNN on one map of ResNet-50, C4. Options: those of `on_c4`."""
    return on_c4("resnet50", classes, **options)


@checked(FasterRCNN, TIMM_OPTIONS, without=("box_size", "classification_layers"))
def on_vgg16(
    proposer: Callable[[Sequence[int]], Proposer],
    classes: Classes,
    *,
    pool: Literal["pool", "align"] = "pool",
    head_width: Width = 4096,
    nms_threshold: Share = 0.3,  # R-CNN's, as Girshick 2015 has it (section 3); TEST.NMS in both papers' code
    **options: Any,
) -> FasterRCNN:
    """On the last map of VGG-16 before its last pooling, with its two fully connected layers, which ImageNet's weights
    fill where `head_width` is theirs.

    proposer: as in `with_proposer`. pool: RoIPool (Girshick 2015, section 2.1), or RoIAlign with 2 x 2 points. Options:
    those of `TIMM_OPTIONS` and `FasterRCNN`.
    """
    backbone = take_timm("vgg16", options, levels=(4,))  # behind the ReLU of conv5_3
    made = proposer(backbone.strides)
    by_maximum = partial(max_pool_regions, stride=16)
    read = by_maximum if pool == "pool" else partial(pool_regions, strides=backbone.strides, aligned=True)
    parts = (backbone, None, made, read, TwoFCHead(512, 7, width=head_width), BoxPredictor(head_width, len(classes)))
    layers = {"classifier_0": "box_head.fc6", "classifier_3": "box_head.fc7"} if head_width == 4096 else {}
    options |= {"classification_layers": layers, "nms_threshold": nms_threshold}
    return FasterRCNN(*parts, classes=classes, **options)


@checked(on_vgg16, RPN_OPTIONS)
def faster_rcnn_vgg16(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Faster R-CNN on VGG-16 with RoIPool, as in the first papers (Ren et al. 2015, section 3; Girshick 2015). Options:
    those of `on_vgg16` and `RPN_OPTIONS`."""

    own: dict[str, Any] = {"train_proposals": (12000, 2000), "test_proposals": (6000, 300)}
    own |= {"beta": 1 / 9, **RPN_OPTIONS.take(options)}  # sigma 3 in the authors' code

    def proposer(strides: Sequence[int]) -> RPN:
        shapes = pyramid_anchors(strides, sizes=(128.0, 256.0, 512.0))
        return RPN(512, strides, shapes, **own)

    return on_vgg16(proposer, classes, **{"sampled": 128, "beta": 1.0, **options})


TORCHVISION: dict[str, Any] = {"rounded_anchors": True, "fitted_steps": True, "aligned": False}
TORCHVISION_V2: dict[str, Any] = {
    **TORCHVISION,
    **{"neck_norm": "bn", "rpn_convs": 2, "box_head": "4conv1fc", "head_norm": "bn"},
}


@checked(on_pyramid, TIMM_OPTIONS)
def faster_rcnn_resnet50_fpn_torchvision(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Torchvision's `fasterrcnn_resnet50_fpn`: AP 37.0 with its weights. Options as `faster_rcnn_resnet18_fpn`."""
    return _timm("resnet50", classes, {**TORCHVISION, **options})


@checked(on_pyramid, TIMM_OPTIONS)
def faster_rcnn_resnet50_fpn_v2_torchvision(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Torchvision's `fasterrcnn_resnet50_fpn_v2`: AP 46.7 with its weights. Options as `faster_rcnn_resnet18_fpn`."""
    return _timm("resnet50", classes, {**TORCHVISION_V2, **options})


@checked(on_pyramid, TIMM_OPTIONS)
def faster_rcnn_mobilenet_v3_large_fpn(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Torchvision's `fasterrcnn_mobilenet_v3_large_fpn`: AP 32.8 with its weights.

    Both maps of the body lie at stride 32, and each cell of every level has 15 anchors. Torchvision chooses the level
    of a region between the strides of the maps, which are equal: all regions are read from the first map. Options as
    `faster_rcnn_resnet18_fpn`.
    """
    every = {"anchor_sizes": (32.0, 64.0, 128.0, 256.0, 512.0), "levels_read": 1, "proposal_threshold": 0.05}
    return on_pyramid(take_mobilenet_v3_ends(options), classes, **{**TORCHVISION, **every, **options})


@checked(faster_rcnn_mobilenet_v3_large_fpn)
def faster_rcnn_mobilenet_v3_large_320_fpn(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Torchvision's `fasterrcnn_mobilenet_v3_large_320_fpn`, the same for pictures of 320 px, with 150 proposals: AP
    22.8 with its weights. Options as `faster_rcnn_resnet18_fpn`."""
    return faster_rcnn_mobilenet_v3_large_fpn(classes=classes, **{"test_proposals": (150, 150), **options})


# On MSRA's body, whose batch normalisation and first two stages stay as they are.
DETECTRON2: dict[str, Any] = {
    **{"stride_in_1x1": True, "backbone_norm": "frozen_bn", "frozen_stages": 2},
    **{"pixel_mean": DETECTRON2_MEAN, "pixel_std": DETECTRON2_STD},
    **{"samples": 0, "beta": 0.0, "rpn_normaliser": "allowed"},
}
# Detectron2 learns from, and tests, 1,000 proposals on a pyramid.
DETECTRON2_FPN: dict[str, Any] = {**DETECTRON2, "train_proposals": (2000, 1000)}


@checked(on_pyramid, TIMM_OPTIONS)
def faster_rcnn_resnet50_fpn_detectron2(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Detectron2's Faster R-CNN on MSRA's ResNet-50: AP 37.9 after its 1x schedule, 40.2 after 3x. Options as
    `faster_rcnn_resnet18_fpn`."""
    return _timm("resnet50", classes, {**DETECTRON2_FPN, **options})


@checked(on_pyramid, TIMM_OPTIONS)
def faster_rcnn_resnet101_fpn_detectron2(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Detectron2's Faster R-CNN on MSRA's ResNet-101: AP 42.0 after its 3x schedule. Options as
    `faster_rcnn_resnet18_fpn`."""
    return _timm("resnet101", classes, {**DETECTRON2_FPN, **options})


@checked(on_pyramid, TIMM_OPTIONS)
def faster_rcnn_resnext101_32x8d_fpn_detectron2(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Detectron2's Faster R-CNN on ResNeXt-101 32x8d, whose strides lie in the 3x3 convolutions: AP 43.0 after its 3x
    schedule. Options as `faster_rcnn_resnet18_fpn`."""
    own = {"stride_in_1x1": False, "pixel_std": IMAGENET_STD}
    return _timm("resnext101_32x8d", classes, {**DETECTRON2_FPN, **own, **options})


@checked(on_c4)
def faster_rcnn_resnet50_c4_detectron2(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Detectron2's Faster R-CNN on C4 of MSRA's ResNet-50: AP 35.7 after its 1x schedule, 38.4 after 3x. Options as
    `faster_rcnn_resnet50_c4`."""
    return on_c4("resnet50", classes, **{**DETECTRON2, **options})


@checked(on_c4)
def faster_rcnn_resnet101_c4_detectron2(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Detectron2's Faster R-CNN on C4 of MSRA's ResNet-101: AP 41.1 after its 3x schedule. Options as
    `faster_rcnn_resnet50_c4`."""
    return on_c4("resnet101", classes, **{**DETECTRON2, **options})


BUILDERS = {
    build.__name__: build
    for build in (
        faster_rcnn_resnet18_fpn,
        faster_rcnn_resnet50_fpn,
        faster_rcnn_resnet101_fpn,
        faster_rcnn_resnext101_32x8d_fpn,
        faster_rcnn_resnet50_c4,
        faster_rcnn_vgg16,
        faster_rcnn_resnet50_fpn_torchvision,
        faster_rcnn_resnet50_fpn_v2_torchvision,
        faster_rcnn_mobilenet_v3_large_fpn,
        faster_rcnn_mobilenet_v3_large_320_fpn,
        faster_rcnn_resnet50_fpn_detectron2,
        faster_rcnn_resnet101_fpn_detectron2,
        faster_rcnn_resnext101_32x8d_fpn_detectron2,
        faster_rcnn_resnet50_c4_detectron2,
        faster_rcnn_resnet101_c4_detectron2,
    )
}


def published_by_torchvision(
    name: str,
    builder: str,
    file: str,
    metrics: dict[str, float],
    *,
    short: int = 800,
    long: int = 1333,
    **arguments: Any,
) -> PublishedWeights:
    """The record of one of torchvision's R-CNN; builder, arguments: ours that loads it. short, long: of pictures.

    Its softmax has a row for each id of COCO up to 90, ten of which are no class.
    """
    unused = max(COCO_CLASSES.ids) - len(COCO_CLASSES)
    form, digest = file.removesuffix(".pth").rsplit("-", 1)
    return PublishedWeights(
        name=name,
        url=f"https://download.pytorch.org/models/{file}",
        file=file,
        sha256=digest,
        licence="BSD-3-Clause (torchvision); trained on COCO, whose annotations are CC BY 4.0",
        source=f"torchvision, {form.removesuffix('_coco')}, COCO_V1, trained on COCO train2017",
        metrics=metrics,
        builder=builder,
        arguments={"unused_rows": unused, **arguments},
        classes=COCO_CLASSES,
        resize={"short": short, "long": long, "antialias": False},
        convert=faster_rcnn_from_torchvision,
    )


def _of_zoo(name: str, form: str, run: str, average_precision: float) -> PublishedWeights:
    metrics, convert = {"AP": average_precision}, faster_rcnn_from_detectron2
    return detectron2_record(name, f"COCO-Detection/{run}", f"faster_rcnn_{form}_detectron2", metrics, convert)


# Torchvision reads its first COCO weights with an epsilon of 0, as they were trained.
FROZEN_AT_0: dict[str, Any] = {"backbone_norm": "frozen_bn", "backbone_norm_eps": 0.0}
_FIRST = published_by_torchvision(
    *("torchvision", "faster_rcnn_resnet50_fpn_torchvision", "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"),
    metrics={"AP": 37.0},
    **FROZEN_AT_0,
)
_SECOND = published_by_torchvision(
    *("torchvision_v2", "faster_rcnn_resnet50_fpn_v2_torchvision", "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth"),
    metrics={"AP": 46.7},
)
_RECORDS = (
    *(_FIRST, _SECOND),
    published_by_torchvision(
        *("torchvision", "faster_rcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth"),
        metrics={"AP": 32.8},
        backbone_norm="frozen_bn",
    ),
    published_by_torchvision(
        *("torchvision", "faster_rcnn_mobilenet_v3_large_320_fpn"),
        "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth",
        metrics={"AP": 22.8},
        short=320,
        long=640,
        backbone_norm="frozen_bn",
    ),
    _of_zoo("3x", "resnet50_fpn", "faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl", 40.2),
    _of_zoo("1x", "resnet50_fpn", "faster_rcnn_R_50_FPN_1x/137257794/model_final_b275ba.pkl", 37.9),
    _of_zoo("3x", "resnet101_fpn", "faster_rcnn_R_101_FPN_3x/137851257/model_final_f6e8b1.pkl", 42.0),
    _of_zoo("3x", "resnext101_32x8d_fpn", "faster_rcnn_X_101_32x8d_FPN_3x/139173657/model_final_68b088.pkl", 43.0),
    _of_zoo("3x", "resnet50_c4", "faster_rcnn_R_50_C4_3x/137849393/model_final_f97cb7.pkl", 38.4),
    _of_zoo("1x", "resnet50_c4", "faster_rcnn_R_50_C4_1x/137257644/model_final_721ade.pkl", 35.7),
    _of_zoo("3x", "resnet101_c4", "faster_rcnn_R_101_C4_3x/138204752/model_final_298dad.pkl", 41.1),
)
PUBLISHED: dict[str, dict[str, PublishedWeights]] = {}
for _record in _RECORDS:
    PUBLISHED.setdefault(_record.builder, {})[_record.name] = _record
PUBLISHED["faster_rcnn_resnet50_fpn"] = {record.name: record for record in (_SECOND, _FIRST)}
