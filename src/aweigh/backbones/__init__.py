"""Backbones: image to feature maps, fine to coarse."""

from collections.abc import Callable
from typing import Any

from aweigh.arguments import same_names
from aweigh.backbones.dla import DLA34
from aweigh.backbones.hourglass import Hourglass
from aweigh.backbones.shufflenet_v2 import ShuffleNetV2
from aweigh.backbones.stages import Stages
from aweigh.backbones.timm import MobileNetV3Ends, TimmBackbone, take_last_stage

Backbone = TimmBackbone | ShuffleNetV2 | Stages

# What a detector's builder may be told of its body.
TIMM_OPTIONS = same_names(
    TimmBackbone, "frozen_stages", "stride_in_1x1", backbone_norm="norm", backbone_norm_eps="norm_eps"
)
SHUFFLENET_OPTIONS = same_names(ShuffleNetV2, "frozen_stages", "activation", backbone_norm="norm")
STAGES_OPTIONS = same_names(Stages, "frozen_stages", backbone_norm="norm")


def take_timm(
    name: str, options: dict[str, Any], *, kind: type[TimmBackbone] = TimmBackbone, **fixed: Any
) -> TimmBackbone:
    """A timm body, with what `options` of a detector's builder say of it (`TIMM_OPTIONS`), which are taken out."""
    return kind(name, **TIMM_OPTIONS.take(options), **fixed)


def take_mobilenet_v3_ends(options: dict[str, Any]) -> TimmBackbone:
    """MobileNet V3 large in the same way, with the two maps that torchvision's detectors read, both at stride 32."""
    backbone = take_timm("mobilenetv3_large_100", options, levels=(5,))
    backbone.body = MobileNetV3Ends(backbone.body)
    backbone.channels, backbone.strides = (160, 960), (32, 32)
    return backbone


def take_shufflenet_v2(width: float, options: dict[str, Any], **fixed: Any) -> ShuffleNetV2:
    """A ShuffleNet V2 in the same way (`SHUFFLENET_OPTIONS`)."""
    return ShuffleNetV2(width, **SHUFFLENET_OPTIONS.take(options), **fixed)


def take_stages(build: Callable[..., Stages], width: float, options: dict[str, Any], **fixed: Any) -> Stages:
    """`shufflenet_v1` or `xception` in the same way (`STAGES_OPTIONS`)."""
    return build(width, **STAGES_OPTIONS.take(options), **fixed)


__all__ = [
    "DLA34",
    "SHUFFLENET_OPTIONS",
    "STAGES_OPTIONS",
    "TIMM_OPTIONS",
    "Backbone",
    "Hourglass",
    "ShuffleNetV2",
    "Stages",
    "TimmBackbone",
    "take_last_stage",
    "take_mobilenet_v3_ends",
    "take_shufflenet_v2",
    "take_stages",
    "take_timm",
]
