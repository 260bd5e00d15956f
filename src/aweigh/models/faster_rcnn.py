"""Faster R-CNN: a network proposes regions, a second stage says what each holds and where its box lies.

Papers: Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS 2015;
Girshick, "Fast R-CNN", ICCV 2015 (the second stage); Lin et al., "Feature Pyramid Networks", CVPR 2017 (both on a
pyramid); He et al., "Mask R-CNN", ICCV 2017 (RoIAlign).

The detector is made of parts: what proposes regions, how their features are read, what is said of them. Fast, Mask,
Keypoint and Light-Head R-CNN are other parts in the same place. Forms, each a set of plain values:

==================  ===================  ======================  ====================
value               default              torchvision v1          torchvision v2
==================  ===================  ======================  ====================
pyramid             no normalisation     no normalisation        batch norm.
proposal network    one 3x3 convolution  one 3x3 convolution     two
box head            two fully connected  two fully connected     4 conv, 1 fully conn.
anchors             exact                whole pixels            whole pixels
step of a cell      its stride           padded // grid          padded // grid
RoIAlign            by half a pixel      not shifted             not shifted
==================  ===================  ======================  ====================

How ours differs:
- Losses are a function of outputs and targets: the anchors and regions that learn are drawn evenly spread instead of at
  random, beginning elsewhere at every step, and their number does not depend on the mode.
- In training proposals end at the edge of the batch, not of each image.
- "Nothing" is the last class, not the first.
- Nothing inside a region marked `ignore` or `uncertain` is background. Where an image was not labelled for all classes,
  no anchor in it is background, and a region without an object says only that it is none of the known classes.
- A box that no anchor touches teaches none; torchvision then takes every anchor that overlaps nothing for an object.

Legend: B images, C classes, R regions, K detections of an image, N boxes of one image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.backbones import Backbone, take_timm
from aweigh.errors import UsageError
from aweigh.heads.box import BoxPredictor, ConvFCHead, TwoFCHead
from aweigh.heads.rpn import RPN, RPNOutput
from aweigh.layers import Norm
from aweigh.necks.fpn import FPN
from aweigh.ops import boxes as box_ops
from aweigh.ops.anchors import anchor_shapes
from aweigh.ops.losses import check_labels, world_mean
from aweigh.ops.matching import BACKGROUND, IGNORED, balanced_sample, by_overlap, hardest
from aweigh.ops.roi import numbered, pool_regions
from aweigh.structures import IMAGENET_MEAN, IMAGENET_STD, Classes, Detections, Images, Targets
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.convert.torchvision import faster_rcnn_from_torchvision
from aweigh.weights.record import PublishedWeights

RATIOS = (0.5, 1.0, 2.0)  # height over width (Ren et al., section 3.1.1)
POSITIVE_IOU = 0.5  # of a region with an object (Girshick 2015, section 2.3)
DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # deltas of regions are learned so many times as large
SMALLEST_SIDE = 1e-2  # of a detection, pixels


class FasterRCNNOutput(NamedTuple):
    """What the network says before any decision."""

    features: list[Tensor]  # [B, channels, H, W] each, fine to coarse
    proposed: RPNOutput  # what the proposer says of them


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


class FasterRCNN(nn.Module):
    """The detector.

    Args:
        backbone, neck: image `[B, 3, H, W]` -> feature maps -> pyramid; both have `channels` and `strides`.
        proposer: says where there may be an object; see `heads/rpn.py`.
        pool: (features, regions `[R, 5]`, size=S) -> `[R, channels, S, S]`; see `ops/roi.py`.
        box_head, box_predictor: the second stage, on `box_size` cells of a region's side.
        classes: names and original ids; their number must be the predictor's.
        region_body: layers between `pool` and the heads of all branches; None for none.
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
        neck: Neck,
        proposer: RPN,
        pool: Callable[..., Tensor],
        box_head: nn.Module,
        box_predictor: BoxPredictor,
        *,
        classes: Classes,
        box_size: int = 7,
        region_body: nn.Module | None = None,
        branches: Mapping[str, Any] | None = None,
        sampled: int | None = 512,  # Lin et al. 2017, FPN, section 5.2.1
        positive_fraction: float = 0.25,  # Girshick 2015, section 2.3
        negative_iou: tuple[float, float] = (0.0, 0.5),
        hard_regions: int | None = None,
        beta: float = 1 / 9,
        box_weight: float = 1.0,
        max_detections: int = 100,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if box_predictor.num_classes != len(classes):
            raise UsageError(
                f"FasterRCNN: the head predicts {box_predictor.num_classes} classes, but {len(classes)} are named."
            )
        self.backbone, self.neck, self.proposer, self.pool = backbone, neck, proposer, pool
        self.region_body = nn.Identity() if region_body is None else region_body
        self.box_head, self.box_predictor = box_head, box_predictor
        self.branches = nn.ModuleDict(branches)
        self.extras = tuple(self.branches)
        self.classes, self.box_size, self.beta = classes, box_size, beta
        self.sampled, self.positive_fraction = sampled, positive_fraction
        self.negative_iou, self.hard_regions, self.box_weight = tuple(negative_iou), hard_regions, box_weight
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(tuple(pixel_mean)), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(tuple(pixel_std)), persistent=False)

        # Inference settings; plain values that may be set at any time.
        self.score_threshold = 0.05
        self.nms: box_ops.NMS = "class"
        self.nms_threshold = 0.5
        self.max_detections = max_detections

    def forward(self, images: Images, targets: Sequence[Targets] | None = None) -> dict[str, Tensor] | list[Detections]:
        """Losses if `targets` are given (whether training or not), else the detections of each image.

        Boxes are in the pixels of `images`, and inside each image.
        """
        raw = self.network(images.pixels)
        if targets is not None:
            return self.loss(raw, targets)
        return self.decode(raw, images.sizes_hw)

    def network(self, pixels: Tensor) -> FasterRCNNOutput:
        """Images `[B, 3, H, W]`, RGB in `[0, 1]`, to features and what the proposer says of them."""
        pixels = (pixels - self.pixel_mean[:, None, None]) / self.pixel_std[:, None, None]
        features = self.neck(self.backbone(pixels))
        return FasterRCNNOutput(features, self.proposer(features, pixels))

    def regions_of(self, features: Sequence[Tensor], regions: Tensor, size: int) -> Tensor:
        """The features of regions `[R, 5]` (image, box): `[R, channels, size, size]`."""
        maps: Tensor = self.region_body(self.pool([feature.float() for feature in features], regions, size=size))
        return maps  # in 32 bits, though the network may have computed in 16

    def second_stage(self, features: Sequence[Tensor], regions: Tensor) -> tuple[Tensor, Tensor]:
        """Of regions `[R, 5]` (image, box): logits `[R, C + 1]`, the last of nothing, and deltas `[R, C, 4]`."""
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
        labels_and_known = ([t.labels for t in targets], [t.known for t in targets])
        check_labels(*labels_and_known, images=len(raw.features[0]), classes=classes, what="FasterRCNN.loss")
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
        height, width = (side * self.neck.strides[0] for side in raw.features[0].shape[-2:])
        sizes = torch.tensor([[height, width]] * len(targets), device=raw.features[0].device)
        boxes, count = self.proposer.propose(raw.proposed, sizes, learning=True)
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
        nothing = len(self.classes)
        labels = torch.cat(
            [
                torch.where(rows >= 0, target.labels[rows.clamp(min=0)] if len(target) else nothing, nothing)
                for rows, target in zip(index, targets, strict=True)
            ]
        )
        unknown = [
            torch.zeros(len(rows), nothing, dtype=torch.bool, device=rows.device)
            if target.known is None
            else (~target.known & (rows < 0)[:, None])
            for rows, target in zip(index, targets, strict=True)
        ]
        masked = logits[:, :-1].masked_fill(torch.cat(unknown), -torch.inf)
        classification = F.cross_entropy(torch.cat([masked, logits[:, -1:]], dim=1), labels, reduction="none")
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
            **{key: note for _, branch in self._branches() for key, note in branch.notes.items()},
        )

    def select(self, raw: FasterRCNNOutput, sizes_hw: Tensor) -> tuple[Tensor, ...]:
        """Raw outputs to a fixed number of detections: proposals, their second stage, suppression, then the branches.

        sizes_hw: `[B, 2]` height and width of each image in the batch. Returns boxes `[B, K, 4]` float32 (inside the
        image), scores `[B, K]`, labels `[B, K]`, count `[B]` and `[B, K, ...]` of each branch; rows from `count` on are
        padding with score 0.
        """
        proposals, count = self.proposer.propose(raw.proposed, sizes_hw)
        if not torch.compiler.is_compiling():
            proposals = proposals[:, : max(1, int(count.max()))]
        batch, number = proposals.shape[:2]
        logits, deltas = self.second_stage(raw.features, numbered(list(proposals)))
        there = torch.arange(number, device=count.device) < count[:, None]  # [B, R]
        scores = logits.softmax(dim=1)[:, :-1].reshape(batch, number, -1)  # [B, R, C]
        boxes = box_ops.decode_deltas(
            proposals.unsqueeze(2), deltas.reshape(batch, number, -1, 4), weights=DELTA_WEIGHTS
        )  # [B, R, C, 4]
        boxes = box_ops.clip(boxes.flatten(1, 2), sizes_hw)  # [B, R * C, 4]
        large = (boxes[..., 2:] - boxes[..., :2] >= SMALLEST_SIDE).all(dim=-1)
        tested = torch.where(there[..., None] & (scores > self.score_threshold), scores, 0).flatten(1)
        labels = torch.arange(len(self.classes), device=count.device).expand(batch, number, -1).flatten(1)
        found = box_ops.select_detections(
            boxes,
            torch.where(large, tested, 0),
            labels,
            iou_threshold=self.nms_threshold,
            max_detections=self.max_detections,
            method=self.nms,
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


def pyramid_anchors(strides: Sequence[int], *, rounded: bool = False) -> list[Tensor]:
    """One size of eight strides on each level, in three ratios (Lin et al. 2017, FPN, section 4.1)."""
    return [anchor_shapes([8.0 * stride], RATIOS, rounded=rounded) for stride in strides]


def on_pyramid(
    backbone: Backbone,
    classes: Classes,
    *,
    channels: int = 256,
    neck_norm: Norm | None = None,
    box_head: Literal["2fc", "4conv1fc"] = "2fc",
    head_norm: Norm | None = "gn",
    box_size: int = 7,
    samples: int = 2,
    aligned: bool = True,
    rounded_anchors: bool = False,
    rpn_convs: int = 1,
    fitted_steps: bool = False,
    beta: float = 1 / 9,
    train_proposals: tuple[int, int] = (2000, 2000),
    test_proposals: tuple[int, int] = (1000, 1000),
    **options: Any,
) -> FasterRCNN:
    """On any backbone with four levels at strides 4 to 32; regions are read from all but the pooled level.

    box_head: two fully connected layers, or four convolutions with `head_norm` and one. samples, aligned: of RoIAlign.
    fitted_steps, train_proposals, test_proposals: of the `RPN`. beta: of it and of the second stage. Options: those of
    `FasterRCNN`.
    """
    neck = FPN(backbone.channels, backbone.strides, channels=channels, top="pool", norm=neck_norm)
    proposer = RPN(
        channels,
        neck.strides,
        pyramid_anchors(neck.strides, rounded=rounded_anchors),
        convs=rpn_convs,
        fitted_steps=fitted_steps,
        beta=beta,
        train_proposals=train_proposals,
        test_proposals=test_proposals,
    )
    pool = partial(pool_regions, strides=neck.strides[:-1], samples=samples, aligned=aligned)
    if box_head not in ("2fc", "4conv1fc"):
        raise UsageError(f"FasterRCNN: unknown box_head {box_head!r}; known: 2fc, 4conv1fc.")
    head = TwoFCHead(channels, box_size) if box_head == "2fc" else ConvFCHead(channels, box_size, norm=head_norm)
    predictor = BoxPredictor(head.width, len(classes))
    return FasterRCNN(
        *(backbone, neck, proposer, pool, head, predictor), classes=classes, box_size=box_size, beta=beta, **options
    )


def _timm(name: str, classes: Classes, options: dict[str, Any]) -> FasterRCNN:
    return on_pyramid(take_timm(name, options, levels=(2, 3, 4, 5)), classes, **options)


def faster_rcnn_resnet18_fpn(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Faster R-CNN on ResNet-18. Options: those of `on_pyramid`, `backbone_norm`, `frozen_stages`."""
    return _timm("resnet18", classes, options)


def faster_rcnn_resnet50_fpn(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Faster R-CNN on ResNet-50. Options as `faster_rcnn_resnet18_fpn`."""
    return _timm("resnet50", classes, options)


def faster_rcnn_resnet101_fpn(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Faster R-CNN on ResNet-101. Options as `faster_rcnn_resnet18_fpn`."""
    return _timm("resnet101", classes, options)


def faster_rcnn_resnext101_32x8d_fpn(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Faster R-CNN on ResNeXt-101 32x8d. Options as `faster_rcnn_resnet18_fpn`."""
    return _timm("resnext101_32x8d", classes, options)


TORCHVISION: dict[str, Any] = {"rounded_anchors": True, "fitted_steps": True, "aligned": False}


def faster_rcnn_resnet50_fpn_torchvision(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Torchvision's `fasterrcnn_resnet50_fpn`: AP 37.0 with its weights. Options as `faster_rcnn_resnet18_fpn`."""
    return _timm("resnet50", classes, {**TORCHVISION, **options})


def faster_rcnn_resnet50_fpn_v2_torchvision(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """Torchvision's `fasterrcnn_resnet50_fpn_v2`: AP 46.7 with its weights. Options as `faster_rcnn_resnet18_fpn`."""
    second = {"neck_norm": "bn", "rpn_convs": 2, "box_head": "4conv1fc", "head_norm": "bn"}
    return _timm("resnet50", classes, {**TORCHVISION, **second, **options})


BUILDERS = {
    build.__name__: build
    for build in (
        faster_rcnn_resnet18_fpn,
        faster_rcnn_resnet50_fpn,
        faster_rcnn_resnet101_fpn,
        faster_rcnn_resnext101_32x8d_fpn,
        faster_rcnn_resnet50_fpn_torchvision,
        faster_rcnn_resnet50_fpn_v2_torchvision,
    )
}


def _published(name: str, builder: str, file: str, average_precision: float, **arguments: Any) -> PublishedWeights:
    return PublishedWeights(
        name=name,
        url=f"https://download.pytorch.org/models/{file}",
        file=file,
        sha256=file.removesuffix(".pth").rsplit("-", 1)[1],
        licence="BSD-3-Clause (torchvision); trained on COCO, whose annotations are CC BY 4.0",
        source=f"torchvision, {file.rsplit('_coco', 1)[0]}, COCO_V1, trained on COCO train2017",
        metrics={"AP": average_precision},
        builder=builder,
        arguments=arguments,
        classes=COCO_CLASSES,
        resize={"short": 800, "long": 1333, "antialias": False},
        convert=faster_rcnn_from_torchvision,
    )


_V1, _V2 = "faster_rcnn_resnet50_fpn_torchvision", "faster_rcnn_resnet50_fpn_v2_torchvision"
# Torchvision reads its first COCO weights with an epsilon of 0, as they were trained.
_FROZEN = {"backbone_norm": "frozen_bn", "backbone_norm_eps": 0.0}
PUBLISHED = {
    _V1: {"torchvision": _published("torchvision", _V1, "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", 37.0, **_FROZEN)},
    _V2: {"torchvision_v2": _published("torchvision_v2", _V2, "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth", 46.7)},
}
PUBLISHED["faster_rcnn_resnet50_fpn"] = {**PUBLISHED[_V2], **PUBLISHED[_V1]}
