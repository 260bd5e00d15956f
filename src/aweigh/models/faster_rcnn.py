"""Faster R-CNN: a network proposes regions, a second stage says what each holds and where its box lies.

Papers: Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS 2015;
Girshick, "Fast R-CNN", ICCV 2015 (the second stage); Lin et al., "Feature Pyramid Networks", CVPR 2017 (both on a
pyramid); He et al., "Mask R-CNN", ICCV 2017 (RoIAlign).

The detector is made of parts: what proposes regions, how their features are read, what is said of them. Fast, Mask,
Keypoint and Light-Head R-CNN are other parts in the same place; `faster_rcnn_forms.py` puts these parts together.

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
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Count, Few, NotNegative, Share
from aweigh.backbones import Backbone
from aweigh.backbones.timm import TimmBackbone, WithLayers
from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.heads.answers import Answers, Gates, every_class, shorter_sides
from aweigh.heads.box import BoxPredictor
from aweigh.heads.regions import (
    SMALLEST_SIDE,
    Branch,
    region_candidates,
    region_losses,
    said_of_detections,
    sample_regions,
    without_padding,
)
from aweigh.heads.rpn import Proposer
from aweigh.models.detector import Detector, Selection, check_classes, detector, network_inputs
from aweigh.necks import Neck
from aweigh.ops import boxes as box_ops
from aweigh.ops.losses import check_labels, world_mean
from aweigh.ops.matching import hardest
from aweigh.ops.roi import numbered, numbered_batch
from aweigh.structures import Images, Targets
from aweigh.weights.load import Body


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

    def answers(self, raw: FasterRCNNOutput, sizes_hw: Tensor, wanted: Targets | None = None) -> Answers:
        """All that is said of one image, see `Detector`; before it what the proposer says."""
        proposals, _, count = self.propose(raw, sizes_hw)
        there = without_padding(proposals, count)  # [1, P, 4]
        logits, deltas = self.second_stage(raw.features, numbered_batch(there))
        boxes, _, _ = region_candidates(logits, deltas, there, count, sizes_hw, score_threshold=0.0)
        of_regions = boxes.view(-1, len(self.classes), 4)  # [P, C, 4]
        scores = logits.softmax(dim=1)[:, : len(self.classes)]
        gates = Gates(scores.shape, scores.device)
        gates.add("proposed", torch.arange(1, len(scores) + 1, device=scores.device)[:, None], "<=", int(count))
        gates.add("class score", scores, ">", self.selection.score_threshold, "score_threshold")
        gates.add("size", shorter_sides(of_regions), ">=", SMALLEST_SIDE)
        before = self.proposer.answers(raw.proposed, sizes_hw)
        levels = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
        return Answers(
            "region", there[0], of_regions, every_class(scores), {"class": scores}, "product", levels, ["regions"],
            gates.all, self.selection, before=before,
        )  # fmt: skip
