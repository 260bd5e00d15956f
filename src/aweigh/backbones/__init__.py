"""Backbones: image to feature maps, fine to coarse; and those that detectors are built on, with what each may be told.

A backbone reads RGB in `[0, 1]`, normalises it by `pixel_mean` and `pixel_std`, and has `channels` and `strides`, one
entry for each map. What detectors call its arguments is the same whatever the backbone: `backbone_norm`,
`frozen_stages` ...; what stands before the `*` is no argument, a table of builders gives it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from aweigh.arguments import Colour, Deviation, Few, Frozen, NotNegative, Width, passes_on, same_names
from aweigh.backbones.dla import DLA34
from aweigh.backbones.hourglass import Block, Hourglass
from aweigh.backbones.shufflenet_v2 import ShuffleNetV2
from aweigh.backbones.stages import Stages
from aweigh.backbones.timm import MobileNetV3Ends, TimmBackbone, take_last_stage
from aweigh.layers import Activation, Norm
from aweigh.structures import IMAGENET_MEAN, IMAGENET_STD
from aweigh.weights.coco import COCO_MEAN, COCO_STD

Backbone = TimmBackbone | ShuffleNetV2 | Stages | Hourglass


def timm_backbone(
    name: str,
    levels: Sequence[int] = (3, 4, 5),
    kind: type[TimmBackbone] = TimmBackbone,
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
    *,
    frozen_stages: Frozen = 0,
    activation: Activation = "relu",
    backbone_norm: Norm = "bn",
    pixel_mean: Colour = IMAGENET_MEAN,
    pixel_std: Deviation = IMAGENET_STD,
) -> ShuffleNetV2:
    return ShuffleNetV2(
        width,
        norm=backbone_norm,
        frozen_stages=frozen_stages,
        activation=activation,
        extra_depthwise=extra_depthwise,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
    )


NORMALISED = {"pixel_mean": IMAGENET_MEAN, "pixel_std": IMAGENET_STD}

# What a detector's builder may be told of its body.
TIMM_OPTIONS = same_names(
    TimmBackbone,
    *("frozen_stages", "stride_in_1x1", "pixel_mean", "pixel_std"),
    backbone_norm="norm",
    backbone_norm_eps="norm_eps",
)
SHUFFLENET_OPTIONS = same_names(
    ShuffleNetV2, "frozen_stages", "activation", "pixel_mean", "pixel_std", backbone_norm="norm"
)
STAGES_OPTIONS = same_names(Stages, "frozen_stages", "pixel_mean", "pixel_std", backbone_norm="norm")


def take_timm(
    name: str, options: dict[str, Any], *, kind: type[TimmBackbone] = TimmBackbone, **fixed: Any
) -> TimmBackbone:
    """A timm body, with what `options` of a detector's builder say of it (`TIMM_OPTIONS`), which are taken out."""
    return kind(name, **{**NORMALISED, **TIMM_OPTIONS.take(options)}, **fixed)


def take_mobilenet_v3_ends(options: dict[str, Any]) -> TimmBackbone:
    """MobileNet V3 large in the same way, with the two maps that torchvision's detectors read, both at stride 32."""
    backbone = take_timm("mobilenetv3_large_100", options, levels=(5,))
    backbone.body = MobileNetV3Ends(backbone.body)
    backbone.channels, backbone.strides = (160, 960), (32, 32)
    return backbone


def take_shufflenet_v2(width: float, options: dict[str, Any], **fixed: Any) -> ShuffleNetV2:
    """A ShuffleNet V2 in the same way (`SHUFFLENET_OPTIONS`)."""
    return ShuffleNetV2(width, **{**NORMALISED, **SHUFFLENET_OPTIONS.take(options)}, **fixed)


def take_stages(build: Callable[..., Stages], width: float, options: dict[str, Any], **fixed: Any) -> Stages:
    """`shufflenet_v1` or `xception` in the same way (`STAGES_OPTIONS`)."""
    return build(width, **{**NORMALISED, **STAGES_OPTIONS.take(options)}, **fixed)


__all__ = [
    *("SHUFFLENET_OPTIONS", "STAGES_OPTIONS", "TIMM_OPTIONS"),
    *("take_mobilenet_v3_ends", "take_shufflenet_v2", "take_stages", "take_timm"),
    "DLA34",
    "Backbone",
    "Hourglass",
    "ShuffleNetV2",
    "Stages",
    "TimmBackbone",
    "any_timm_backbone",
    "hourglass_backbone",
    "mobilenet_v3_ends",
    "shufflenet_v2_backbone",
    "take_last_stage",
    "timm_backbone",
]
