"""Fast R-CNN: regions that come with the data; the network says what each holds and where its box lies.

Paper: Girshick, "Fast R-CNN", ICCV 2015. In the paper selective search proposes the regions; here it is whatever wrote
the proposals file (docs/proposals.md). The rest is Faster R-CNN's second stage (`faster_rcnn.py`), on the same maps, so
that the two differ by the proposer alone.

==================  ==========================  ==========================  ====================
value               on a pyramid                VGG-16 (the paper's)        detectron2
==================  ==========================  ==========================  ====================
maps                P2 to P5                    the last one                P2 to P5
features            RoIAlign                    RoIPool                     RoIAlign
regions that learn  512 of each image           64 of each (of 2 a step)    512 of each image
without an object   IoU below 0.5               IoU from 0.1, below 0.5     IoU below 0.5
box loss            smooth L1, from 1/9         smooth L1, from 1           L1
suppression         IoU above 0.5               IoU above 0.3               IoU above 0.5
==================  ==========================  ==========================  ====================

The first is that of Lin et al., "Feature Pyramid Networks", CVPR 2017, section 5.2; `PAPER` gives its sampling and loss
to the second as arguments, which any other takes as well.

How ours differs:
- As Faster R-CNN: the regions that learn are evenly spread instead of drawn, the objects themselves are among them,
  "nothing" is the last class, nothing is dropped out behind VGG-16's fully connected layers.

Legend: B images, P proposals of an image, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from aweigh.heads.rpn import SMALLEST_SIDE
from aweigh.models.builders import Builder
from aweigh.models.faster_rcnn_forms import (
    C2_TO_C5,
    C4_AND_C5,
    C5,
    DETECTRON2,
    VGG16,
    on_c4,
    on_c5,
    on_pyramid,
    on_vgg16,
)
from aweigh.ops import boxes as box_ops
from aweigh.structures import Targets
from aweigh.weights.convert.detectron2 import detectron2_record, faster_rcnn_from_detectron2
from aweigh.weights.record import by_builder


class GivenProposals(nn.Module):
    """The proposals of `Images`, in the place of a network that proposes."""

    needs_proposals = True

    def forward(self, features: Sequence[Tensor], pixels: Tensor, proposals: Tensor) -> Tensor:
        """proposals `[B, P, 4]`, as they are."""
        return proposals

    @torch.no_grad()
    def propose(self, raw: Tensor, sizes_hw: Tensor, *, learning: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The proposals `[B, P, 4]` inside images of `sizes_hw` `[B, 2]`, those with an area first and in their order;
        scores `[B, P]`, 1 for each, since the order is all that is known; how many count `[B]`."""
        boxes = box_ops.clip(raw, sizes_hw)
        there = (boxes[..., 2:] - boxes[..., :2] >= SMALLEST_SIDE).all(dim=-1)  # [B, P]
        count = there.sum(dim=1, keepdim=True)  # [B, 1]
        place = torch.where(there, there.cumsum(dim=1), count + (~there).cumsum(dim=1)) - 1  # [B, P], where each goes
        boxes = torch.zeros_like(boxes).scatter(1, place[..., None].expand_as(boxes), boxes)
        scores = torch.arange(there.shape[1], device=there.device) < count  # [B, P]
        return boxes, scores.float(), count.squeeze(1)

    def answers(self, raw: Tensor, sizes_hw: Tensor) -> None:
        """None: they are given, and nothing is said of them."""

    def loss(self, raw: Tensor, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """None: nothing of them is learned."""
        return {}


def given_proposals(channels: int, strides: Sequence[int]) -> GivenProposals:
    """The proposer of a form, whatever the maps; there is nothing to choose."""
    return GivenProposals()


# Builders, and the weights others have published for them

# Section 2.3: two images a step, 64 regions of each, a quarter of them objects (the default), the others "hard" ones.
# Equation 3: quadratic below 1. A list, since a checkpoint keeps arguments as JSON, which has no tuples.
PAPER = {"sampled": 64, "negative_iou": [0.1, 0.5], "beta": 1.0}

_GIVEN = {"proposer": given_proposals}
_on_pyramid = partial(on_pyramid, coarser=0)  # nothing is proposed
BUILDERS = {
    "fast_rcnn_resnet18_fpn": Builder(_on_pyramid, C2_TO_C5["resnet18"], parts=_GIVEN),
    "fast_rcnn_resnet50_fpn": Builder(_on_pyramid, C2_TO_C5["resnet50"], parts=_GIVEN),
    "fast_rcnn_resnet101_fpn": Builder(_on_pyramid, C2_TO_C5["resnet101"], parts=_GIVEN),
    "fast_rcnn_resnet50_c4": Builder(on_c4, C4_AND_C5["resnet50"], parts=_GIVEN),
    "fast_rcnn_resnet50_c5": Builder(on_c5, C5, parts=_GIVEN),
    "fast_rcnn_vgg16": Builder(on_vgg16, VGG16, PAPER, _GIVEN),
    # `fast_rcnn_R_50_FPN_1x` on MSRA's ResNet-50; its AP is that with the proposals of its proposal network.
    "fast_rcnn_resnet50_fpn_detectron2": Builder(_on_pyramid, C2_TO_C5["resnet50"], DETECTRON2, _GIVEN),
}
PUBLISHED = by_builder(
    detectron2_record(
        "1x",
        "COCO-Detection/fast_rcnn_R_50_FPN_1x/137635226/model_final_e5f7ce.pkl",
        "fast_rcnn_resnet50_fpn_detectron2",
        {"AP": 37.8},
        faster_rcnn_from_detectron2,
    )
)
