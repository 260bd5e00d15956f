"""Further forms of FCOS: the base form of the ICCV paper, and torchvision's, with its published weights; and ATSS.

The table at the top of `fcos.py` says what the forms differ in.
"""

from functools import partial
from typing import Any, Literal

from aweigh.arguments import passes_on
from aweigh.backbones import Backbone, timm_backbone
from aweigh.classes import Classes
from aweigh.layers import Norm
from aweigh.models.builders import Builder
from aweigh.models.fcos import FCOS, FCOSHead, fcos
from aweigh.necks import NECKS, NeckName
from aweigh.necks.fpn import FPN
from aweigh.weights.convert.torchvision import fcos_from_torchvision, torchvision_record


@passes_on(FCOSHead, without=("exponential", "initial_distance", "centerness_on_boxes"))
def base_head(channels: int, num_classes: int, num_levels: int, **settings: Any) -> FCOSHead:
    """The head of the base form. Settings: those of `FCOSHead`."""
    return FCOSHead(
        channels,
        num_classes,
        num_levels,
        exponential=True,
        initial_distance=0.0,
        centerness_on_boxes=False,
        **settings,
    )


def base_form(centerness: bool = True) -> dict[str, Any]:
    """The base form as arguments of `FCOS`; without the centre-ness branch boxes are not weighted by it either."""
    return {
        "center_radius": None,
        "normalise_distances": False,
        "box_loss": "iou",
        "quality": "centerness" if centerness else None,
        "weigh_boxes": centerness,
    }


@passes_on(base_head, without=("norm",))
def fcos_base(
    backbone: Backbone,
    classes: Classes,
    *,
    neck: NeckName = "fpn",
    neck_norm: Norm | None = None,
    head_norm: Norm | None = "gn",
    top: Literal["p5", "c5"] = "p5",
    centerness: bool = True,
    **settings: Any,
) -> FCOS:
    """The base form of the ICCV paper. Settings: those of `base_head`."""
    build = NECKS[neck]
    pyramid = build(backbone.channels, backbone.strides, channels=256, levels=5, top=top, norm=neck_norm)
    head = base_head(256, len(classes), len(pyramid.strides), norm=head_norm, centerness=centerness, **settings)
    return FCOS(backbone, pyramid, head, classes=classes, **base_form(centerness))


@passes_on(FCOSHead, without=("norm", "scales", "initial_distance", "centerness"))
def fcos_torchvision(
    backbone: Backbone,
    classes: Classes,
    *,
    neck_norm: Norm | None = None,
    head_norm: Norm | None = "gn",
    **settings: Any,
) -> FCOS:
    """Torchvision's form, with its corner points, so that its weights give its boxes. Settings: those of `FCOSHead`."""
    neck = FPN(backbone.channels, backbone.strides, norm=neck_norm)
    head = FCOSHead(256, len(classes), 5, norm=head_norm, scales=False, initial_distance=0.0, **settings)
    return FCOS(
        backbone,
        neck,
        head,
        classes=classes,
        inclusive_ranges=False,
        corner_points=True,
        weigh_boxes=False,
        score_threshold=0.2,
        threshold_product=True,
    )


_RESNET50 = partial(timm_backbone, "resnet50")

BUILDERS = {
    # AP 37.1, 36.5 with `head_norm=None`, 33.5 with `centerness=False` as well (the ICCV paper).
    "fcos_resnet50_fpn_base": Builder(fcos_base, _RESNET50),
    # ATSS in the place of ranges and centre sampling: AP 39.2 in table 3 of its paper, where FCOS has 37.8.
    "fcos_resnet50_fpn_atss": Builder(fcos, _RESNET50, {"assignment": "adaptive"}),
    "fcos_resnet50_fpn_torchvision": Builder(fcos_torchvision, _RESNET50),
}

_TORCHVISION = torchvision_record(
    "torchvision",
    "fcos_resnet50_fpn_torchvision",
    "fcos_resnet50_fpn_coco-99b0c9b7.pth",
    {"AP": 39.2},
    fcos_from_torchvision,
    backbone_norm="frozen_bn",
)
PUBLISHED = {
    "fcos_resnet50_fpn": {"torchvision": _TORCHVISION},
    "fcos_resnet50_fpn_torchvision": {"torchvision": _TORCHVISION},
}
