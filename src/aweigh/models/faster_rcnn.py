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
backbone            ImageNet             ImageNet                ImageNet              stride in the 1x1, BGR
==================  ===================  ======================  ====================  ======================

Forms on one map, at stride 16:

==================  ==========================================  =====================================================
value               C4 (ResNet)                                 VGG-16 (the first papers)
==================  ==========================================  =====================================================
anchors             32, 64, 128, 256, 512 px in three ratios    128, 256, 512 px in three ratios
regions             RoIAlign, 14 x 14                           RoIPool, 7 x 7
suppression         IoU above 0.5                               IoU above 0.3
second stage        the backbone's last stage, then the mean    the backbone's two fully connected layers
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
  across the edge of the image learn, as in all later forms.

Legend: B images, C classes, R regions, K detections of an image, N boxes of one image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Count, Few, Layers, NotNegative, Number, Share, Width, passes_on
from aweigh.backbones import Backbone, mobilenet_v3_ends, timm_backbone
from aweigh.backbones.timm import TimmBackbone, WithLayers, take_last_stage
from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.heads.box import AverageHead, BoxPredictor, ConvFCHead, TwoFCHead
from aweigh.heads.regions import (
    Branch,
    region_candidates,
    region_losses,
    said_of_detections,
    sample_regions,
    without_padding,
)
from aweigh.heads.rpn import RPN, MakeProposer, Proposer
from aweigh.layers import Norm
from aweigh.models.builders import Builder, on_each
from aweigh.models.detector import Detector, Selection, check_classes, detector, network_inputs
from aweigh.necks import NECKS, Neck, NeckName
from aweigh.ops import boxes as box_ops
from aweigh.ops.losses import check_labels, world_mean
from aweigh.ops.matching import hardest
from aweigh.ops.roi import max_pool_regions, numbered, numbered_batch, pool_regions
from aweigh.structures import IMAGENET_STD, Images, Targets
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.convert.detectron2 import (
    DETECTRON2_MEAN,
    DETECTRON2_STD,
    detectron2_record,
    faster_rcnn_from_detectron2,
)
from aweigh.weights.convert.torchvision import faster_rcnn_from_torchvision, torchvision_record
from aweigh.weights.load import Body
from aweigh.weights.record import PublishedWeights, by_builder


class FasterRCNNOutput(NamedTuple):
    """What the network says before any decision."""

    features: list[Tensor]  # [B, channels, H, W] each, fine to coarse
    proposed: Any  # what the proposer says of them


@dataclass(frozen=True)
class FasterRCNNSelection(Selection):
    """Which of the regions become detections; the proposer has thresholds and counts of its own."""


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
        check_classes("FasterRCNN", box_predictor.num_classes, classes)
        self.backbone, self.proposer, self.pool = backbone, proposer, pool
        self.needs_proposals = proposer.needs_proposals
        self.neck = nn.Identity() if neck is None else neck
        self.finest_stride = (backbone if neck is None else neck).strides[0]
        self.region_body = nn.Identity() if region_body is None else region_body
        self.box_head, self.box_predictor = box_head, box_predictor
        self.classification_layers = dict(classification_layers or {})
        self.branches = nn.ModuleDict(branches)
        self.extras = tuple(self.branches)
        self._notes = {key: note for branch in (branches or {}).values() for key, note in branch.notes.items()}
        self.keypoint_set: KeypointSet | None = self._notes.get("keypoint_set")
        self.classes, self.box_size, self.beta = classes, box_size, beta
        self.sampled, self.positive_fraction = sampled, positive_fraction
        self.negative_iou, self.hard_regions, self.box_weight = negative_iou, hard_regions, box_weight
        self.selection = FasterRCNNSelection(score_threshold, "class", nms_threshold, max_detections)

    def forward(self, images: Images, targets: Sequence[Targets] | None = None) -> dict[str, Tensor] | list[Detections]:
        """The losses if `targets` are given, else the detections of each image."""
        raw = self.network(*network_inputs(cast(Detector, self), images))
        return self.decode(raw, images.sizes_hw) if targets is None else self.loss(raw, targets)

    def network(self, pixels: Tensor, *proposals: Tensor) -> FasterRCNNOutput:
        """Images `[B, 3, H, W]`, RGB in `[0, 1]`, to features and what the proposer says of them.

        proposals: as `Images` has them, for a proposer that needs them.
        """
        features = self.neck(self.backbone(pixels))
        return FasterRCNNOutput(features, self.proposer(features, pixels, *proposals))

    def classification_body(self) -> Body:
        """What published weights of the classification network fill: the backbone and `classification_layers`."""
        if not self.classification_layers:
            return self.backbone
        assert isinstance(self.backbone, TimmBackbone)  # whose layers they are
        layers = {name: self.get_submodule(ours) for name, ours in self.classification_layers.items()}
        return WithLayers(self.backbone, layers)

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
        classification, box = region_losses(logits, region_deltas, regions, index, targets, beta=self.beta)
        if self.hard_regions is not None:
            rows = hardest(classification + box, [len(each) for each in regions], self.hard_regions)
            classification, box = classification[rows], box[rows]
        count = world_mean(logits.new_tensor(float(len(box)))).clamp(min=1)
        losses |= {"classification": classification.sum() / count, "box": self.box_weight * box.sum() / count}

        of_images = zip(regions, index, targets, strict=True)
        learned = [(boxes[rows >= 0], rows[rows >= 0], target) for boxes, rows, target in of_images]
        there = numbered([boxes for boxes, _, _ in learned])
        for name, branch in self._branches():
            losses[name] = branch.loss(branch(self.regions_of(raw.features, there, branch.size)), learned)
        return losses

    def _branches(self) -> list[tuple[str, Branch]]:
        return [(name, cast(Branch, module)) for name, module in self.branches.items()]

    def sample_regions(self, raw: FasterRCNNOutput, targets: Sequence[Targets]) -> tuple[list[Tensor], list[Tensor]]:
        """The regions of each image that learn, and what, as `aweigh.heads.regions.sample_regions` returns them."""
        height, width = (side * self.finest_stride for side in raw.features[0].shape[-2:])
        sizes = torch.tensor([[height, width]] * len(targets), device=raw.features[0].device)
        boxes, _, count = self.proposer.propose(raw.proposed, sizes, learning=True)
        return sample_regions(
            [each[:number] for each, number in zip(boxes, count.tolist(), strict=True)],
            targets,
            raw.features[-1].detach().float().sum(dim=(1, 2, 3)),
            number=self.sampled,
            positive_fraction=self.positive_fraction,
            negative_iou=self.negative_iou,
        )

    # Prediction

    def propose(self, raw: FasterRCNNOutput, sizes_hw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the second stage looks at, of raw outputs and sizes `[B, 2]`: boxes `[B, P, 4]`, best first, scores
        `[B, P]` and how many count `[B]`; the rest is padding."""
        return self.proposer.propose(raw.proposed, sizes_hw)

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

    def select(self, raw: FasterRCNNOutput, sizes_hw: Tensor) -> tuple[Tensor, ...]:
        """Raw outputs to detections: proposals, their second stage, suppression, then the branches."""
        proposals, _, count = self.propose(raw, sizes_hw)
        there = without_padding(proposals, count)
        logits, deltas = self.second_stage(raw.features, numbered_batch(there))
        threshold = self.selection.score_threshold
        every = region_candidates(logits, deltas, there, count, sizes_hw, score_threshold=threshold)
        if torch.compiler.is_compiling():  # a graph has one shape for all data from here on
            more = (proposals.shape[1] - there.shape[1]) * deltas.shape[1]
            boxes, scores, labels = every
            every = F.pad(boxes, (0, 0, 0, more)), F.pad(scores, (0, more)), F.pad(labels, (0, more))
        found = box_ops.select_levels([every], sizes_hw, self.selection)
        read = partial(self.regions_of, raw.features)
        return *found, *(said_of_detections(branch, read, *found[:3]) for _, branch in self._branches())


# Builders: each architecture with its numbers, and the weights others have published for it

MakeBranches = Callable[[int, Classes], Mapping[str, nn.Module]]  # of the channels of regions and the classes


@passes_on(FasterRCNN)
def on_pyramid(
    backbone: Backbone,
    classes: Classes,
    coarser: int = 1,
    *,
    proposer: MakeProposer,
    branches: MakeBranches | None = None,
    channels: Width = 256,
    neck: NeckName = "fpn",
    neck_norm: Norm | None = None,
    levels_read: Few | None = None,
    box_head: Literal["2fc", "4conv1fc"] = "2fc",
    head_norm: Norm | None = "gn",
    box_size: Few = 7,
    samples: Layers = 2,
    aligned: bool = True,
    unused_rows: Number = 0,
    **settings: Any,
) -> FasterRCNN:
    """On any backbone with several levels, such as four at strides 4 to 32. Settings: those of `FasterRCNN`.

    coarser: levels above the backbone's maps, which are proposed on alone. channels: of every level. levels_read: from
    how many of the others regions are read; None: from all. box_head: two fully connected layers, or four convolutions
    with `head_norm` and one. samples, aligned: of RoIAlign. unused_rows: of the `BoxPredictor`.
    """
    said = branches(channels, classes) if branches else None
    maps, levels = (backbone.channels, backbone.strides), len(backbone.strides) + coarser
    pyramid = NECKS[neck](*maps, channels=channels, levels=levels, top="pool", norm=neck_norm)
    proposes = proposer(channels, pyramid.strides)
    pool = partial(
        pool_regions, strides=pyramid.strides[: len(backbone.strides)][:levels_read], samples=samples, aligned=aligned
    )
    head = TwoFCHead(channels, box_size) if box_head == "2fc" else ConvFCHead(channels, box_size, norm=head_norm)
    predictor = BoxPredictor(head.width, len(classes), unused_rows=unused_rows)
    parts = (backbone, pyramid, proposes, pool, head, predictor)
    return FasterRCNN(*parts, classes=classes, box_size=box_size, branches=said, **settings)


@passes_on(FasterRCNN, without=("region_body", "classification_layers"))
def on_c4(
    backbone: TimmBackbone,
    classes: Classes,
    *,
    proposer: MakeProposer,
    branches: MakeBranches | None = None,
    box_size: Few = 14,
    samples: Layers = 2,
    aligned: bool = True,
    **settings: Any,
) -> FasterRCNN:
    """On the map at stride 16 of a ResNet with levels 4 and 5, whose last stage reads the regions (He et al. 2016,
    appendix A). Settings: those of `FasterRCNN`; the others as in `on_pyramid`."""
    channels, width = backbone.channels
    stage = take_last_stage(backbone)
    proposes = proposer(channels, backbone.strides)
    pool = partial(pool_regions, strides=backbone.strides, samples=samples, aligned=aligned)
    parts = (backbone, None, proposes, pool, AverageHead(width), BoxPredictor(width, len(classes)))
    return FasterRCNN(
        *parts,
        classes=classes,
        box_size=box_size,
        region_body=stage,
        classification_layers={"layer4": "region_body"},
        branches=branches(width, classes) if branches else None,
        **settings,
    )


@passes_on(FasterRCNN, without=("box_size", "region_body", "classification_layers", "branches"))
def on_vgg16(
    backbone: TimmBackbone,
    classes: Classes,
    *,
    proposer: MakeProposer,
    pool: Literal["pool", "align"] = "pool",
    head_width: Width = 4096,
    nms_threshold: Share = 0.3,  # R-CNN's, as Girshick 2015 has it (section 3); TEST.NMS in both papers' code
    **settings: Any,
) -> FasterRCNN:
    """On the last map of VGG-16 before its last pooling, with its two fully connected layers, which ImageNet's weights
    fill where `head_width` is theirs.

    pool: RoIPool (Girshick 2015, section 2.1), or RoIAlign with 2 x 2 points. Settings: those of `FasterRCNN`.
    """
    (channels,) = backbone.channels
    proposes = proposer(channels, backbone.strides)
    by_maximum = partial(max_pool_regions, stride=16)
    read = by_maximum if pool == "pool" else partial(pool_regions, strides=backbone.strides, aligned=True)
    head, predictor = TwoFCHead(channels, 7, width=head_width), BoxPredictor(head_width, len(classes))
    return FasterRCNN(
        *(backbone, None, proposes, read, head, predictor),
        classes=classes,
        classification_layers=VGG16_LAYERS if head_width == 4096 else {},
        nms_threshold=nms_threshold,
        **settings,
    )


_BODIES = ("resnet18", "resnet50", "resnet101", "resnext101_32x8d")
C2_TO_C5 = {name: partial(timm_backbone, name, (2, 3, 4, 5)) for name in _BODIES}
C4_AND_C5 = {name: partial(timm_backbone, name, (4, 5)) for name in ("resnet50", "resnet101")}
VGG16 = partial(timm_backbone, "vgg16", (4,))  # behind the ReLU of conv5_3
VGG16_LAYERS = {"classifier_0": "box_head.fc6", "classifier_3": "box_head.fc7"}

_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)  # of anchors, pixels
C4 = {"anchor_sizes": _SIZES, "train_proposals": (12000, 2000), "test_proposals": (6000, 1000)}
_VGG16 = {
    "anchor_sizes": (128.0, 256.0, 512.0),  # Ren et al. 2015, section 3.1.1
    "train_proposals": (12000, 2000),
    "test_proposals": (6000, 300),  # section 3.3
    "sampled": 128,
    "beta": 1.0,
    "rpn_beta": 1 / 9,  # sigma 3 in the authors' code
}
TORCHVISION = {"rounded_anchors": True, "fitted_steps": True, "aligned": False}
TORCHVISION_V2 = TORCHVISION | {"neck_norm": "bn", "rpn_convs": 2, "box_head": "4conv1fc", "head_norm": "bn"}
# Both maps of the backbone lie at stride 32, and each cell of every level has 15 anchors. Torchvision chooses the level
# of a region between the strides of the maps, which are equal: all regions are read from the first map.
_MOBILENET = TORCHVISION | {"anchor_sizes": _SIZES, "levels_read": 1, "proposal_threshold": 0.05}
_MOBILENET_320 = _MOBILENET | {"test_proposals": (150, 150)}  # for images of 320 px
# On MSRA's backbone, whose batch normalisation and first two stages stay as they are.
DETECTRON2 = {
    "stride_in_1x1": True,
    "backbone_norm": "frozen_bn",
    "frozen_stages": 2,
    "pixel_mean": DETECTRON2_MEAN,
    "pixel_std": DETECTRON2_STD,
    "samples": 0,
    "beta": 0.0,
}
DETECTRON2_C4 = {**C4, **DETECTRON2, "rpn_normaliser": "allowed"}
# Detectron2 learns from, and tests, 1,000 proposals on a pyramid.
DETECTRON2_FPN = {**DETECTRON2, "rpn_normaliser": "allowed", "train_proposals": (2000, 1000)}
# The strides of ResNeXt lie in the 3x3 convolutions.
DETECTRON2_RESNEXT = {**DETECTRON2_FPN, "stride_in_1x1": False, "pixel_std": IMAGENET_STD}

_PARTS = {"proposer": RPN}
_on_pyramid, _on_c4 = partial(Builder, on_pyramid, parts=_PARTS), partial(Builder, on_c4, parts=_PARTS)
BUILDERS = {
    **on_each("faster_rcnn_{}_fpn", on_pyramid, C2_TO_C5, parts=_PARTS),
    "faster_rcnn_resnet50_c4": _on_c4(C4_AND_C5["resnet50"], C4),
    "faster_rcnn_vgg16": Builder(on_vgg16, VGG16, _VGG16, _PARTS),
    "faster_rcnn_resnet50_fpn_torchvision": _on_pyramid(C2_TO_C5["resnet50"], TORCHVISION),
    "faster_rcnn_resnet50_fpn_v2_torchvision": _on_pyramid(C2_TO_C5["resnet50"], TORCHVISION_V2),
    "faster_rcnn_mobilenet_v3_large_fpn": _on_pyramid(mobilenet_v3_ends, _MOBILENET),
    "faster_rcnn_mobilenet_v3_large_320_fpn": _on_pyramid(mobilenet_v3_ends, _MOBILENET_320),
    "faster_rcnn_resnet50_fpn_detectron2": _on_pyramid(C2_TO_C5["resnet50"], DETECTRON2_FPN),
    "faster_rcnn_resnet101_fpn_detectron2": _on_pyramid(C2_TO_C5["resnet101"], DETECTRON2_FPN),
    "faster_rcnn_resnext101_32x8d_fpn_detectron2": _on_pyramid(C2_TO_C5["resnext101_32x8d"], DETECTRON2_RESNEXT),
    "faster_rcnn_resnet50_c4_detectron2": _on_c4(C4_AND_C5["resnet50"], DETECTRON2_C4),
    "faster_rcnn_resnet101_c4_detectron2": _on_c4(C4_AND_C5["resnet101"], DETECTRON2_C4),
}

# The softmax of torchvision's heads has a row for each id of COCO up to 90, ten of which are no class.
UNUSED_ROWS = max(COCO_CLASSES.ids) - len(COCO_CLASSES)
# Torchvision reads its first COCO weights with an epsilon of 0, as they were trained.
FROZEN_AT_0 = {"backbone_norm": "frozen_bn", "backbone_norm_eps": 0.0}


def _torchvision(name: str, form: str, digest: str, average_precision: float, **rest: Any) -> PublishedWeights:
    """digest: the end of the file's name. rest: the size of images, and arguments of the builder."""
    file, builder = f"fasterrcnn_{form.removesuffix('_torchvision')}{digest}.pth", f"faster_rcnn_{form}"
    metrics, convert = {"AP": average_precision}, faster_rcnn_from_torchvision
    return torchvision_record(name, builder, file, metrics, convert, unused_rows=UNUSED_ROWS, **rest)


def _detectron2(name: str, form: str, run: str, average_precision: float) -> PublishedWeights:
    run, builder = f"COCO-Detection/faster_rcnn_{run}", f"faster_rcnn_{form}_detectron2"
    return detectron2_record(name, run, builder, {"AP": average_precision}, faster_rcnn_from_detectron2)


_FROZEN = {"backbone_norm": "frozen_bn"}
_FIRST = _torchvision("torchvision", "resnet50_fpn_torchvision", "_coco-258fb6c6", 37.0, **FROZEN_AT_0)
_SECOND = _torchvision("torchvision_v2", "resnet50_fpn_v2_torchvision", "_coco-dd69338a", 46.7)
PUBLISHED = {
    **by_builder(
        _FIRST,
        _SECOND,
        _torchvision("torchvision", "mobilenet_v3_large_fpn", "-fb6a3cc7", 32.8, **_FROZEN),
        _torchvision("torchvision", "mobilenet_v3_large_320_fpn", "-907ea3f9", 22.8, short=320, long=640, **_FROZEN),
        _detectron2("3x", "resnet50_fpn", "R_50_FPN_3x/137849458/model_final_280758.pkl", 40.2),
        _detectron2("1x", "resnet50_fpn", "R_50_FPN_1x/137257794/model_final_b275ba.pkl", 37.9),
        _detectron2("3x", "resnet101_fpn", "R_101_FPN_3x/137851257/model_final_f6e8b1.pkl", 42.0),
        _detectron2("3x", "resnext101_32x8d_fpn", "X_101_32x8d_FPN_3x/139173657/model_final_68b088.pkl", 43.0),
        _detectron2("3x", "resnet50_c4", "R_50_C4_3x/137849393/model_final_f97cb7.pkl", 38.4),
        _detectron2("1x", "resnet50_c4", "R_50_C4_1x/137257644/model_final_721ade.pkl", 35.7),
        _detectron2("3x", "resnet101_c4", "R_101_C4_3x/138204752/model_final_298dad.pkl", 41.1),
    ),
    "faster_rcnn_resnet50_fpn": {"torchvision_v2": _SECOND, "torchvision": _FIRST},
}
