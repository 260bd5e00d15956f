"""Light-Head R-CNN: Faster R-CNN whose second stage is as cheap as its proposals (Li et al., arXiv 1711.07264, 2017).

What is read for a region are ten thin channels, each with a map of its own for each of 7 x 7 cells (position-sensitive
RoIAlign), and one fully connected layer follows. A convolution of 15 x 15 in two separable halves makes these maps.
`models/faster_rcnn.py` is all the rest. The large form stands on ResNet-101 whose last stage is dilated; the small
form, in which ShuffleNet V2 (Ma et al., ECCV 2018, section 4) is compared with its peers, on bodies as they are.

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

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Count, Few, NotNegative, Positive, Width, checked
from aweigh.backbones import (
    SHUFFLENET_OPTIONS,
    STAGES_OPTIONS,
    TIMM_OPTIONS,
    Backbone,
    take_shufflenet_v2,
    take_stages,
    take_timm,
)
from aweigh.backbones.shufflenet_v1 import shufflenet_v1
from aweigh.backbones.xception import xception
from aweigh.classes import Classes
from aweigh.errors import UsageError
from aweigh.heads.box import BoxPredictor
from aweigh.heads.rpn import RPN
from aweigh.models.faster_rcnn import RATIOS, FasterRCNN
from aweigh.ops.anchors import anchor_shapes
from aweigh.ops.roi import pool_position_sensitive
from aweigh.weights.coco import COCO_CLASSES

SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)  # of anchors, pixels (section 3.2)
SMALL: dict[str, Any] = {"rpn_width": 256, "middle": 64}  # setting S (sections 3.2 and 4)
MOBILENET_V2 = {0.35: "035", 0.5: "050", 0.75: "075", 1.0: "100", 1.4: "140"}  # width -> timm's spelling


@checked(FasterRCNN)
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
    hard_regions: Count | None = 256,
    beta: NotNegative = 1.0,
    box_weight: NotNegative = 2.0,
    **options: Any,
) -> FasterRCNN:
    """On a backbone with two maps: regions are proposed on the finer and read from the coarser.

    rpn_width, middle: channels of the proposal network and inside the large convolution. channels: of a cell.
    pooling, samples: of `pool_position_sensitive`. class_agnostic: all classes have the same deltas. Proposals: how
    many before and after suppression. All regions are candidates for the `hard_regions` that learn. Options: those of
    `FasterRCNN`.
    """
    neck = ThinFeatures(backbone.channels, backbone.strides, middle=middle, channels=channels * box_size**2)
    proposer = RPN(
        backbone.channels[0],
        neck.strides[:1],
        [anchor_shapes(SIZES, RATIOS)],
        width=rpn_width,
        train_proposals=train_proposals,
        test_proposals=test_proposals,
    )
    pool = partial(pool_position_sensitive, stride=neck.strides[1], samples=samples, pooling=pooling)
    head = LightHead(channels, box_size)
    predictor = BoxPredictor(head.width, len(classes), class_agnostic=class_agnostic)
    settings: dict[str, Any] = {"sampled": None, "hard_regions": hard_regions, "beta": beta, "box_weight": box_weight}
    settings |= {"score_threshold": 0.0, **options}  # the authors keep the 100 best, whatever their scores
    return FasterRCNN(
        *(backbone, neck, proposer, pool, head, predictor), classes=classes, box_size=box_size, **settings
    )


class ThinFeatures(nn.Module):
    """The finer of two maps as it is, and the coarser through the large convolution: `[B, channels, H, W]`.

    in_channels, strides: of the two maps. middle: see `LargeSeparableConv`.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], *, middle: int, channels: int, kernel: int = 15
    ) -> None:
        super().__init__()
        self.large = LargeSeparableConv(in_channels[1], middle, channels, kernel=kernel)
        self.channels, self.strides = (in_channels[0], channels), tuple(strides)

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
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.column(x) + self.row(x))


class LightHead(nn.Module):
    """One fully connected layer: `[R, channels, size, size]` to `[R, width]` (section 3.2)."""

    def __init__(self, channels: int, size: int, *, width: int = 2048) -> None:
        super().__init__()
        self.fc = nn.Linear(channels * size**2, width)
        self.width = width
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, regions: Tensor) -> Tensor:
        return F.relu(self.fc(regions.flatten(1)))


# Builders


@checked(light_head, TIMM_OPTIONS)
def light_head_rcnn_resnet101(*, classes: Classes = COCO_CLASSES, **options: Any) -> FasterRCNN:
    """The large form. Options: those of `light_head`, `backbone_norm`, `frozen_stages`."""
    return light_head(take_timm("resnet101", options, levels=(4, 5), output_stride=16), classes, **options)


@checked(light_head, SHUFFLENET_OPTIONS)
def light_head_rcnn_shufflenet_v2(
    *, classes: Classes = COCO_CLASSES, width: Positive = 1.0, extra_depthwise: bool = False, **options: Any
) -> FasterRCNN:
    """The small form on ShuffleNet V2 of width 0.5, 1.0, 1.5 or 2.0, or V2* (`extra_depthwise`).

    Options: those of `light_head`, `backbone_norm`, `frozen_stages`.
    """
    backbone = take_shufflenet_v2(width, options, levels=(4, 5), extra_depthwise=extra_depthwise)
    return light_head(backbone, classes, **{**SMALL, **options})


@checked(light_head, STAGES_OPTIONS)
def light_head_rcnn_shufflenet_v1(
    *, classes: Classes = COCO_CLASSES, width: Positive = 1.0, groups: Few = 3, **options: Any
) -> FasterRCNN:
    """The small form on ShuffleNet V1 of width 0.5, 1.0, 1.5 or 2.0. Options as `light_head_rcnn_shufflenet_v2`."""
    backbone = take_stages(shufflenet_v1, width, options, levels=(4, 5), groups=groups)
    return light_head(backbone, classes, **{**SMALL, **options})


@checked(light_head, STAGES_OPTIONS)
def light_head_rcnn_xception(*, classes: Classes = COCO_CLASSES, width: Positive = 1.0, **options: Any) -> FasterRCNN:
    """The small form on the small Xception, widths and options as `light_head_rcnn_shufflenet_v2`."""
    return light_head(take_stages(xception, width, options, levels=(4, 5)), classes, **{**SMALL, **options})


@checked(light_head, TIMM_OPTIONS)
def light_head_rcnn_mobilenet_v2(
    *, classes: Classes = COCO_CLASSES, width: Positive = 1.0, **options: Any
) -> FasterRCNN:
    """The small form on MobileNet V2 of the widths timm has: 0.35, 0.5, 0.75, 1.0 or 1.4.

    Options as `light_head_rcnn_shufflenet_v2`.
    """
    if width not in MOBILENET_V2:
        raise UsageError(f"timm's MobileNet V2 has the widths {', '.join(map(str, MOBILENET_V2))}, got {width}.")
    backbone = take_timm(f"mobilenetv2_{MOBILENET_V2[width]}", options, levels=(4, 5))
    return light_head(backbone, classes, **{**SMALL, **options})


BUILDERS: dict[str, Callable[..., FasterRCNN]] = {
    build.__name__: build
    for build in (
        light_head_rcnn_resnet101,
        light_head_rcnn_shufflenet_v2,
        light_head_rcnn_shufflenet_v1,
        light_head_rcnn_xception,
        light_head_rcnn_mobilenet_v2,
    )
}
