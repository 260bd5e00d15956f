"""Light-Head R-CNN: Faster R-CNN whose second stage is as cheap as its proposals (Li et al., arXiv 1711.07264, 2017).

What is read for a region are ten thin channels, each with a map of its own for each of 7 x 7 cells (position-sensitive
RoIAlign), and one fully connected layer follows. A convolution of 15 x 15 in two separable halves makes these maps.
`models/faster_rcnn.py` is all the rest. The large form stands on ResNet-101 whose last stage is dilated; the small
form, in which ShuffleNet V2 (Ma et al., ECCV 2018, section 4) is compared with its peers, on backbones as they are.

====================================  ================  ================
value                                 large             small
====================================  ================  ================
strides of the last two stages        16, 16            16, 32
channels of the proposal network      512               256
channels inside the large conv.       256               64
====================================  ================  ================

How ours differs from the authors' program:
- Deltas belong to a class, as there; the paper shares them between classes (`class_agnostic=True`).
- RoIAlign takes the largest of 2 x 2 samples, as there, but shifted by half a cell as torchvision's, and what lies
  beyond the edge continues it; there it is 0, and a sample exactly on a cell counts twice or four times.
- The hardest 256 regions of each image learn; there it is the hardest 512 of two images together.
- Anchors lie round the upper left corner of a cell, as in all our detectors; there round its middle. The proposal
  network has one logit for each anchor; there two, of which the softmax says the same.
- In ResNet-101 the first unit of the dilated stage reads neighbours, only the others every second place (timm).

Losses and what else differs are those of `models/faster_rcnn.py`.

Legend: B images, C channels, R regions, k the kernel of the large convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Count, Few, Width, passes_on
from aweigh.backbones import Backbone, any_mobilenet_v2, any_shufflenet_v1, any_shufflenet_v2, any_stages, timm_backbone
from aweigh.backbones.xception import xception
from aweigh.classes import Classes
from aweigh.heads.box import BoxPredictor
from aweigh.heads.rpn import RPN
from aweigh.layers import start_near_zero
from aweigh.models.builders import Builder
from aweigh.models.faster_rcnn import FasterRCNN
from aweigh.ops.roi import pool_position_sensitive

SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)  # of anchors, pixels (section 3.2)


@passes_on(FasterRCNN)
def light_head(
    backbone: Backbone,
    classes: Classes,
    *,
    rpn_width: Width = 512,
    middle: Width = 256,
    channels: Width = 10,
    box_size: Few = 7,
    pooling: Literal["max", "mean"] = "max",
    samples: Few = 2,
    class_agnostic: bool = False,
    train_proposals: tuple[Count, Count] = (12000, 2000),
    test_proposals: tuple[Count, Count] = (6000, 1000),
    **settings: Any,
) -> FasterRCNN:
    """On a backbone with two maps: regions are proposed on the finer and read from the coarser.

    rpn_width, middle: channels of the proposal network and inside the large convolution. channels: of a cell.
    pooling, samples: of `pool_position_sensitive`. class_agnostic: all classes have the same deltas. Proposals: how
    many before and after suppression. Settings: those of `FasterRCNN`.
    """
    neck = ThinFeatures(backbone.channels, backbone.strides, middle=middle, channels=channels * box_size**2)
    proposer = RPN(
        backbone.channels[0],
        neck.strides[:1],
        rpn_width,
        anchor_sizes=SIZES,
        train_proposals=train_proposals,
        test_proposals=test_proposals,
    )
    pool = partial(pool_position_sensitive, stride=neck.strides[1], samples=samples, pooling=pooling)
    head = LightHead(channels, box_size)
    predictor = BoxPredictor(head.width, len(classes), class_agnostic=class_agnostic)
    parts = (backbone, neck, proposer, pool, head, predictor)
    return FasterRCNN(*parts, classes=classes, box_size=box_size, **settings)


class ThinFeatures(nn.Module):
    """The finer of two maps as it is, and the coarser through the large convolution: `[B, channels, H, W]`.

    in_channels, strides: of the two maps. middle: see `LargeSeparableConv`.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], *, middle: int, channels: int, kernel: int = 15
    ) -> None:
        super().__init__()
        self.large = LargeSeparableConv(in_channels[1], middle, channels, kernel=kernel)
        self.channels: tuple[int, ...] = (in_channels[0], channels)
        self.strides = tuple(strides)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fine, coarse = maps
        return [fine, self.large(coarse)]


class LargeSeparableConv(nn.Module):
    """k x 1 then 1 x k, and 1 x k then k x 1, added, then ReLU: `[B, in_channels, H, W]` to `[B, out_channels, H, W]`.

    Figure 3 of the paper. middle: channels between the two convolutions of each path.
    """

    def __init__(self, in_channels: int, middle: int, out_channels: int, *, kernel: int = 15) -> None:
        super().__init__()
        self.column, self.row = (
            nn.Sequential(
                nn.Conv2d(in_channels, middle, first, padding=(first[0] // 2, first[1] // 2)),
                nn.Conv2d(middle, out_channels, first[::-1], padding=(first[1] // 2, first[0] // 2)),
            )
            for first in ((kernel, 1), (1, kernel))
        )
        start_near_zero(*self.modules())

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.column(x) + self.row(x))


class LightHead(nn.Module):
    """One fully connected layer: `[R, channels, size, size]` to `[R, width]` (section 3.2)."""

    def __init__(self, channels: int, size: int, *, width: int = 2048) -> None:
        super().__init__()
        self.fc = nn.Linear(channels * size**2, width)
        self.width = width
        start_near_zero(self.fc)

    def forward(self, regions: Tensor) -> Tensor:
        return F.relu(self.fc(regions.flatten(1)))


# Builders

LARGE = {
    "sampled": None,  # all regions are candidates for those that learn
    "hard_regions": 256,
    "beta": 1.0,
    "box_weight": 2.0,
    "score_threshold": 0.0,  # the authors keep the 100 best, whatever their scores
}
SMALL = {**LARGE, "rpn_width": 256, "middle": 64}  # setting S (sections 3.2 and 4)

BUILDERS = {
    "light_head_rcnn_resnet101": Builder(
        light_head, partial(timm_backbone, "resnet101", (4, 5), output_stride=16), LARGE
    ),
    "light_head_rcnn_shufflenet_v2": Builder(light_head, partial(any_shufflenet_v2, (4, 5)), SMALL),
    "light_head_rcnn_shufflenet_v1": Builder(light_head, partial(any_shufflenet_v1, (4, 5)), SMALL),
    "light_head_rcnn_xception": Builder(light_head, partial(any_stages, xception, (4, 5)), SMALL),
    "light_head_rcnn_mobilenet_v2": Builder(light_head, partial(any_mobilenet_v2, (4, 5)), SMALL),
}
