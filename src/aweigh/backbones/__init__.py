"""Backbones: image to feature maps, fine to coarse; and those that detectors are built on, with what each may be told.

What detectors call the arguments of a backbone is the same whatever the backbone: `backbone_norm`, `frozen_stages` ...;
what stands before the `*` is no argument, a table of builders gives it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from aweigh.arguments import Colour, Deviation, Few, Frozen, NotNegative, Positive, Width, passes_on
from aweigh.backbones.dla import DLA34
from aweigh.backbones.hourglass import Block, Hourglass
from aweigh.backbones.shufflenet_v1 import shufflenet_v1
from aweigh.backbones.shufflenet_v2 import ShuffleNetV2
from aweigh.backbones.stages import Stages
from aweigh.backbones.timm import MobileNetV3Ends, TimmBackbone, WithLayers, take_last_stage
from aweigh.errors import UsageError
from aweigh.layers import Activation, Norm
from aweigh.structures import IMAGENET_MEAN, IMAGENET_STD
from aweigh.weights.coco import COCO_MEAN, COCO_STD
from aweigh.weights.load import Body


@runtime_checkable
class Backbone(Body, Protocol):
    """An `nn.Module`: images `[B, 3, H, W]` in, RGB in `[0, 1]`, feature maps `[B, channels[i], H_i, W_i]` out, fine to
    coarse, where H_i is H / strides[i], rounded up.

    normalise: what the pixels go through first, by `pixel_mean` and `pixel_std`. stride_divisor: of what the sides of a
    batch are to be multiples. `frozen_stages`, where it has them, stay as they are in training too: no gradient, and
    the statistics of their normalisations are those they have.
    """

    normalise: nn.Module

    @property
    def channels(self) -> tuple[int, ...]: ...
    @property
    def strides(self) -> tuple[int, ...]: ...
    @property
    def stride_divisor(self) -> int: ...
    def __call__(self, x: Tensor) -> list[Tensor]: ...


MOBILENET_V2 = {0.35: "035", 0.5: "050", 0.75: "075", 1.0: "100", 1.4: "140"}  # width -> timm's spelling


def timm_backbone(
    name: str,
    levels: Sequence[int] = (3, 4, 5),
    kind: type[TimmBackbone] = TimmBackbone,
    output_stride: int = 32,
    *,
    frozen_stages: Frozen = 0,
    stride_in_1x1: bool = False,
    backbone_norm: Norm | None = None,
    backbone_norm_eps: NotNegative | None = None,
    pixel_mean: Colour = IMAGENET_MEAN,
    pixel_std: Deviation = IMAGENET_STD,
) -> TimmBackbone:
    return kind(
        name,
        levels=levels,
        output_stride=output_stride,
        norm=backbone_norm,
        norm_eps=backbone_norm_eps,
        stride_in_1x1=stride_in_1x1,
        frozen_stages=frozen_stages,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
    )


@passes_on(timm_backbone)
def any_timm_backbone(*, backbone: str = "efficientnet_b0", **settings: Any) -> TimmBackbone:
    """Any model of timm with feature maps at strides 8, 16 and 32, by its name there."""
    return timm_backbone(backbone, **settings)


@passes_on(timm_backbone)
def any_mobilenet_v2(levels: Sequence[int] = (3, 4, 5), *, width: Positive = 1.0, **settings: Any) -> TimmBackbone:
    """MobileNet V2 of one of the widths that timm has."""
    if width not in MOBILENET_V2:
        raise UsageError(f"timm's MobileNet V2 has the widths {', '.join(map(str, MOBILENET_V2))}, got {width}.")
    return timm_backbone(f"mobilenetv2_{MOBILENET_V2[width]}", levels, **settings)


@passes_on(timm_backbone)
def mobilenet_v3_ends(**settings: Any) -> TimmBackbone:
    """MobileNet V3 large with the two maps that torchvision's detectors read, both at stride 32."""
    backbone = timm_backbone("mobilenetv3_large_100", (5,), **settings)
    backbone.body = MobileNetV3Ends(backbone.body)
    backbone.channels, backbone.strides = (160, 960), (32, 32)
    return backbone


def hourglass_backbone(
    stem_halvings: int = 2,
    block: Block = "residual",
    *,
    stacks: Few = 2,
    channels: Sequence[Width] = (256, 256, 384, 384, 384, 512),
    blocks: Sequence[Few] = (2, 2, 2, 2, 2, 4),
    stem_channels: Width = 128,
    backbone_norm: Norm = "bn",
    pixel_mean: Colour = COCO_MEAN,
    pixel_std: Deviation = COCO_STD,
) -> Hourglass:
    """Hourglass-104, unless told otherwise; nobody has trained it on ImageNet."""
    return Hourglass(
        stacks=stacks,
        channels=channels,
        blocks=blocks,
        stem_channels=stem_channels,
        stem_halvings=stem_halvings,
        block=block,
        norm=backbone_norm,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
    )


def shufflenet_v2_backbone(
    width: float,
    extra_depthwise: bool = False,
    levels: Sequence[int] = (3, 4, 5),
    *,
    frozen_stages: Frozen = 0,
    activation: Activation = "relu",
    backbone_norm: Norm = "bn",
    pixel_mean: Colour = IMAGENET_MEAN,
    pixel_std: Deviation = IMAGENET_STD,
) -> ShuffleNetV2:
    return ShuffleNetV2(
        width,
        levels=levels,
        norm=backbone_norm,
        frozen_stages=frozen_stages,
        activation=activation,
        extra_depthwise=extra_depthwise,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
    )


@passes_on(shufflenet_v2_backbone)
def any_shufflenet_v2(
    levels: Sequence[int] = (3, 4, 5), *, width: Positive = 1.0, extra_depthwise: bool = False, **settings: Any
) -> ShuffleNetV2:
    """ShuffleNet V2 of width 0.5, 1.0, 1.5 or 2.0, or V2* (`extra_depthwise`)."""
    return shufflenet_v2_backbone(width, extra_depthwise, levels, **settings)


def any_stages(
    build: Callable[..., Stages],
    levels: Sequence[int] = (3, 4, 5),
    *,
    width: Positive = 1.0,
    frozen_stages: Frozen = 0,
    backbone_norm: Norm = "bn",
    pixel_mean: Colour = IMAGENET_MEAN,
    pixel_std: Deviation = IMAGENET_STD,
) -> Stages:
    """`build` is `shufflenet_v1` or `xception`; of width 0.5, 1.0, 1.5 or 2.0."""
    return build(
        width,
        levels=levels,
        norm=backbone_norm,
        frozen_stages=frozen_stages,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
    )


@passes_on(any_stages)
def any_shufflenet_v1(levels: Sequence[int] = (3, 4, 5), *, groups: Few = 3, **settings: Any) -> Stages:
    """ShuffleNet V1, its 1x1 convolutions in 1, 2, 3, 4 or 8 groups."""
    return any_stages(partial(shufflenet_v1, groups=groups), levels, **settings)


__all__ = [
    "DLA34",
    "Backbone",
    "Hourglass",
    "ShuffleNetV2",
    "Stages",
    "TimmBackbone",
    "WithLayers",
    "any_mobilenet_v2",
    "any_shufflenet_v1",
    "any_shufflenet_v2",
    "any_stages",
    "any_timm_backbone",
    "hourglass_backbone",
    "mobilenet_v3_ends",
    "shufflenet_v2_backbone",
    "take_last_stage",
    "timm_backbone",
]
