"""Backbones: image to feature maps, fine to coarse."""

from typing import Any

from aweigh.backbones.dla import DLA34
from aweigh.backbones.hourglass import Hourglass
from aweigh.backbones.shufflenet_v2 import ShuffleNetV2
from aweigh.backbones.timm import TimmBackbone

Backbone = TimmBackbone | ShuffleNetV2


def take_timm(
    name: str, options: dict[str, Any], *, kind: type[TimmBackbone] = TimmBackbone, **fixed: Any
) -> TimmBackbone:
    """A timm body, with what `options` of a detector's builder say of it, which are taken out of them: `backbone_norm`,
    `backbone_norm_eps`, `frozen_stages`."""
    names = {"backbone_norm": "norm", "backbone_norm_eps": "norm_eps", "frozen_stages": "frozen_stages"}
    given = {ours: options.pop(name) for name, ours in names.items() if name in options}
    return kind(name, **given, **fixed)


def take_shufflenet_v2(width: float, options: dict[str, Any]) -> ShuffleNetV2:
    """A ShuffleNet V2 in the same way: `backbone_norm`, `frozen_stages`, `activation`."""
    return ShuffleNetV2(
        width,
        norm=options.pop("backbone_norm", None) or "bn",
        frozen_stages=options.pop("frozen_stages", 0),
        activation=options.pop("activation", "relu"),
    )


__all__ = ["DLA34", "Backbone", "Hourglass", "ShuffleNetV2", "TimmBackbone", "take_shufflenet_v2", "take_timm"]
