"""Backbones: image to feature maps, fine to coarse; and those that detectors are built on, with what each may be told.

What detectors call the arguments of a backbone is the same whatever the backbone: `backbone_norm`, `frozen_stages` ...;
what may be given by place is no argument of theirs, a table of builders gives it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from aweigh.arguments import Few, NotNegative, Positive, passes_on
from aweigh.backbones.hourglass import Block, Hourglass
from aweigh.backbones.mobilenet_v2 import MobileNetV2, name_of
from aweigh.backbones.shufflenet_v1 import shufflenet_v1
from aweigh.backbones.shufflenet_v2 import ShuffleNetV2
from aweigh.backbones.stages import LEVELS, Stages
from aweigh.backbones.timm import MobileNetV3Ends, Normalise, TimmBackbone
from aweigh.layers import Norm
from aweigh.weights.load import Body


@runtime_checkable
class Backbone(Body, Protocol):
    """An `nn.Module`: images `[B, 3, H, W]` in, RGB in `[0, 1]`, feature maps `[B, channels[i], H_i, W_i]` out, fine to
    coarse, where H_i is H / strides[i], rounded up.

    normalise: what the pixels go through first, by `pixel_mean` and `pixel_std`. stride_divisor: of what the sides of a
    batch are to be multiples. `frozen_stages`, where it has them, stay as they are in training too: no gradient, and
    the statistics of their normalisations are those they have.
    """

    normalise: Normalise

    @property
    def channels(self) -> tuple[int, ...]: ...
    @property
    def strides(self) -> tuple[int, ...]: ...
    @property
    def stride_divisor(self) -> int: ...
    def __call__(self, x: Tensor) -> list[Tensor]: ...


@passes_on(TimmBackbone, without=("levels", "norm", "norm_eps", "output_stride", "pretrained"))
def timm_backbone(
    name: str,
    levels: Sequence[int] = LEVELS,
    kind: type[TimmBackbone] = TimmBackbone,
    output_stride: int = 32,
    *,
    backbone_norm: Norm | None = None,
    backbone_norm_eps: NotNegative | None = None,
    **settings: Any,
) -> TimmBackbone:
    return kind(
        name, levels=levels, output_stride=output_stride, norm=backbone_norm, norm_eps=backbone_norm_eps, **settings
    )


@passes_on(timm_backbone)
def any_timm_backbone(*, backbone: str = "efficientnet_b0", **settings: Any) -> TimmBackbone:
    """Any model of timm with feature maps at strides 8, 16 and 32, by its name there."""
    return timm_backbone(backbone, **settings)


@passes_on(timm_backbone)
def any_mobilenet_v2(levels: Sequence[int] = LEVELS, *, width: Positive = 1.0, **settings: Any) -> TimmBackbone:
    """MobileNet V2 of width 0.15, 0.35, 0.4, 0.5, 0.6, 0.75, 1.0 or 1.4."""
    return timm_backbone(name_of(width), levels, MobileNetV2, **settings)


@passes_on(timm_backbone)
def dilated_c5(name: str, **settings: Any) -> TimmBackbone:
    """The last map of a ResNet at stride 16: all 3x3 convolutions of its last stage read every second place, the first
    of them too, as in detectron2 (timm's own reads neighbours)."""
    backbone = timm_backbone(name, (5,), output_stride=16, **settings)
    first, second = (backbone.body.get_submodule(f"layer4.{block}.conv2") for block in (0, 1))
    first.dilation, first.padding = second.dilation, second.padding
    return backbone


@passes_on(timm_backbone)
def mobilenet_v3_ends(**settings: Any) -> TimmBackbone:
    """MobileNet V3 large with the two maps that torchvision's detectors read, both at stride 32."""
    backbone = timm_backbone("mobilenetv3_large_100", (5,), **settings)
    backbone.body = MobileNetV3Ends(backbone.body)
    backbone.channels, backbone.strides = (160, 960), (32, 32)
    return backbone


@passes_on(Hourglass, without=("stem_halvings", "block", "step_maps", "norm"))
def hourglass_backbone(
    stem_halvings: int = 2,
    block: Block = "residual",
    step_maps: int = 0,
    *,
    backbone_norm: Norm = "bn",
    **settings: Any,
) -> Hourglass:
    """Hourglass-104, unless told otherwise; nobody has trained it on ImageNet."""
    return Hourglass(stem_halvings=stem_halvings, block=block, step_maps=step_maps, norm=backbone_norm, **settings)


@passes_on(
    ShuffleNetV2,
    without=("depth", "levels", "norm", "extra_depthwise", "squeeze", "residual", "form", "black_border"),
)
def shufflenet_v2_backbone(
    width: float,
    extra_depthwise: bool = False,
    levels: Sequence[int] = LEVELS,
    *,
    backbone_norm: Norm = "bn",
    **settings: Any,
) -> ShuffleNetV2:
    return ShuffleNetV2(width, levels=levels, norm=backbone_norm, extra_depthwise=extra_depthwise, **settings)


@passes_on(shufflenet_v2_backbone)
def any_shufflenet_v2(
    levels: Sequence[int] = LEVELS,
    *,
    width: Positive = 1.0,
    depth: Literal[50, 164] | None = None,
    extra_depthwise: bool = False,
    squeeze: bool = False,
    residual: bool = False,
    **settings: Any,
) -> ShuffleNetV2:
    """ShuffleNet V2 of width 0.5, 1.0, 1.5 or 2.0, or of 50 or 164 layers (`depth`); V2* (`extra_depthwise`); with
    squeeze and excitation, or the residual."""
    return shufflenet_v2_backbone(
        width, extra_depthwise, levels, depth=depth, squeeze=squeeze, residual=residual, **settings
    )


# The deep networks of the appendix, which have a map at level 2 too: from the levels to the backbone.
DEEP_SHUFFLENETS = {
    "shufflenet_v2_50": partial(shufflenet_v2_backbone, 1.0, depth=50),
    "shufflenet_v2_164_se": partial(shufflenet_v2_backbone, 1.0, depth=164, squeeze=True, residual=True),
}


@passes_on(Stages, without=("levels", "norm", "activation", "black_border"))
def any_stages(
    build: Callable[..., Stages],
    levels: Sequence[int] = LEVELS,
    *,
    width: Positive = 1.0,
    backbone_norm: Norm = "bn",
    **settings: Any,
) -> Stages:
    """`build` is `shufflenet_v1` or `xception`; of width 0.5, 1.0, 1.5 or 2.0."""
    return build(width, levels=levels, norm=backbone_norm, **settings)


@passes_on(any_stages)
def any_shufflenet_v1(levels: Sequence[int] = LEVELS, *, groups: Few = 3, **settings: Any) -> Stages:
    """ShuffleNet V1, its 1x1 convolutions in 1, 2, 3, 4 or 8 groups."""
    return any_stages(partial(shufflenet_v1, groups=groups), levels, **settings)
