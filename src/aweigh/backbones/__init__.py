"""Backbones: image to feature maps, fine to coarse."""

from collections.abc import Callable
from typing import Any

from aweigh.backbones.dla import DLA34
from aweigh.backbones.hourglass import Hourglass
from aweigh.backbones.shufflenet_v2 import ShuffleNetV2
from aweigh.backbones.stages import Stages
from aweigh.backbones.timm import MobileNetV3Ends, TimmBackbone, take_last_stage

Backbone = TimmBackbone | ShuffleNetV2 | Stages


def take_timm(
    name: str, options: dict[str, Any], *, kind: type[TimmBackbone] = TimmBackbone, **fixed: Any
) -> TimmBackbone:
    """A timm body, with what `options` of a detector's builder say of it, which are taken out of them: `backbone_norm`,
    `backbone_norm_eps`, `frozen_stages`, `stride_in_1x1`."""
    names = {"backbone_norm": "norm", "backbone_norm_eps": "norm_eps"}
    names |= {name: name for name in ("frozen_stages", "stride_in_1x1")}
    given = {ours: options.pop(name) for name, ours in names.items() if name in options}
    return kind(name, **given, **fixed)


def take_mobilenet_v3_ends(options: dict[str, Any]) -> TimmBackbone:
    """MobileNet V3 large in the same way, with the two maps that torchvision's detectors read, both at stride 32."""
    backbone = take_timm("mobilenetv3_large_100", options, levels=(5,))
    backbone.body = MobileNetV3Ends(backbone.body)
    backbone.channels, backbone.strides = (160, 960), (32, 32)
    return backbone


def take_shufflenet_v2(width: float, options: dict[str, Any], **fixed: Any) -> ShuffleNetV2:
    """A ShuffleNet V2 in the same way: `backbone_norm`, `frozen_stages`, `activation`."""
    return ShuffleNetV2(
        width,
        norm=options.pop("backbone_norm", None) or "bn",
        frozen_stages=options.pop("frozen_stages", 0),
        activation=options.pop("activation", "relu"),
        **fixed,
    )


def take_stages(build: Callable[..., Stages], width: float, options: dict[str, Any], **fixed: Any) -> Stages:
    """`shufflenet_v1` or `xception` in the same way: `backbone_norm`, `frozen_stages`."""
    return build(
        width,
        norm=options.pop("backbone_norm", None) or "bn",
        frozen_stages=options.pop("frozen_stages", 0),
        **fixed,
    )


__all__ = [
    "DLA34",
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
