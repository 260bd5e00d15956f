"""Further forms of FCOS: the base form of the ICCV paper, with a pyramid and without; ATSS; and torchvision's, with its
published weights.

The table at the top of `fcos.py` says what the forms differ in.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from aweigh.arguments import Few, Layers, Width, passes_on
from aweigh.backbones import Backbone, timm_backbone
from aweigh.backbones.hrnet import HRNet
from aweigh.classes import Classes
from aweigh.layers import Norm
from aweigh.models.builders import Builder
from aweigh.models.fcos import BUILDERS as IMPROVED
from aweigh.models.fcos import FCOS, FCOSHead, fcos, on_pyramid
from aweigh.necks.fpn import FPN
from aweigh.necks.hrfpn import HRFPN
from aweigh.weights.convert.fcos_authors import adelaidet_record, authors_record
from aweigh.weights.convert.mmdetection import fcos_record
from aweigh.weights.convert.torchvision import fcos_from_torchvision, torchvision_record
from aweigh.weights.record import by_builder

# The base form as arguments of `FCOSHead` and of `FCOS`; the improvements of the TPAMI paper change them one by one.
BASE_HEAD: dict[str, Any] = {"exponential": True, "centerness_on_boxes": False}
BASE_RULES: dict[str, Any] = {"normalise_distances": False, "center_radius": None, "box_loss": "iou"}
_BASE = {**BASE_HEAD, **BASE_RULES}


@passes_on(fcos)
def fcos_base(
    backbone: Backbone, classes: Classes, *, convs: Layers | None = None, centerness: bool = True, **settings: Any
) -> FCOS:
    """`fcos`, whose values are those of the base form unless given.

    convs, centerness: `head_convs`, and whether there is a `quality`, by their first names.
    """
    if convs is not None:
        settings["head_convs"] = convs
    if not centerness:
        settings["quality"] = None
    return fcos(backbone, classes, **settings)


@passes_on(on_pyramid)
def fcos_hrnet(
    backbone: Backbone,
    classes: Classes,
    *,
    channels: Width = 256,
    levels: Few = 5,
    neck_norm: Norm | None = None,
    **settings: Any,
) -> FCOS:
    """On the branches of HRNet, whose pyramid begins at stride 8 here. Settings: those of `on_pyramid`."""
    neck = HRFPN(backbone.channels, backbone.strides, channels=channels, levels=levels, stride=2, norm=neck_norm)
    return on_pyramid(backbone, neck, classes, **settings)


@passes_on(FCOSHead, without=("norm", "scales", "initial_distance", "centerness", "dense_points"))
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
# Level P4 alone, which is C4 behind two convolutions (tables 1 and 2 of the ICCV paper).
_P4 = {**_BASE, "levels": 1}

BUILDERS = {
    # On ResNet-50 AP 37.1, 36.5 with `head_norm=None`, 33.5 with `quality=None` (the ICCV paper).
    **{
        f"{name}_base": replace(each, form=fcos_base, values={**_BASE, **each.values})
        for name, each in IMPROVED.items()
    },
    "fcos_resnet50_p4_base": Builder(fcos_base, partial(timm_backbone, "resnet50", (4,)), _P4),
    # AP 42.0 of COCO's test-dev in table 5 of the ICCV paper, 41.9 of val in that of HRNet's authors.
    "fcos_hrnet_w32_hrfpn_base": Builder(fcos_hrnet, partial(timm_backbone, "hrnet_w32", (2, 3, 4, 5), HRNet), _BASE),
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
_X32, _X64 = "fcos_resnext101_32x8d_fpn", "fcos_resnext101_64x4d_fpn"
_SCALES, _IMPROVED = "gn-head_mstrain_640-800_2x_coco", "fcos_center-normbbox-centeronreg-giou_r50"
_OTHERS = by_builder(
    fcos_record("1x", "fcos_resnet50_fpn_base", "fcos_r50_caffe_fpn_gn-head_1x_coco", "821213aa", 36.6),
    fcos_record("2x", "fcos_resnet50_fpn_base", f"fcos_r50_caffe_fpn_{_SCALES}", "d92ceeea", 38.5),
    fcos_record("2x", "fcos_resnet101_fpn_base", f"fcos_r101_caffe_fpn_{_SCALES}", "511424d6", 40.8),
    fcos_record("2x", f"{_X64}_base", f"fcos_x101_64x4d_fpn_{_SCALES}", "ede514a8", 42.6),
    fcos_record("1x", "fcos_resnet50_fpn", f"{_IMPROVED}_caffe_fpn_gn-head_1x_coco", "0a0d75a8", 38.7),
    authors_record("authors", "fcos_resnet50_fpn_base", "FCOS_R_50_FPN_1x", 37.1),
    authors_record("authors", "fcos_resnet101_fpn_base", "FCOS_R_101_FPN_2x", 41.4),
    authors_record("authors", f"{_X32}_base", "FCOS_X_101_32x8d_FPN_2x", 42.5),
    authors_record("authors", f"{_X64}_base", "FCOS_X_101_64x4d_FPN_2x", 43.0),
    authors_record("authors", "fcos_resnet50_fpn", "FCOS_imprv_R_50_FPN_1x", 38.7),
    authors_record("authors", "fcos_resnet101_fpn", "FCOS_imprv_R_101_FPN_2x", 43.0),
    authors_record("authors", _X32, "FCOS_imprv_X_101_32x8d_FPN_2x", 44.0),
    authors_record("authors", _X64, "FCOS_imprv_X_101_64x4d_FPN_2x", 44.7),
    adelaidet_record("adelaidet_1x", "fcos_resnet50_fpn", "FCOS_R_50_1x", 38.7),
    adelaidet_record("adelaidet", "fcos_resnet50_fpn", "FCOS_MS_R_50_2x", 41.0),
    adelaidet_record("adelaidet", "fcos_resnet101_fpn", "FCOS_MS_R_101_2x", 43.1),
    adelaidet_record("adelaidet", _X32, "FCOS_MS_X_101_32x8d_2x", 43.9),
    adelaidet_record("adelaidet", _X64, "FCOS_MS_X_101_64x4d_2x", 44.7),
)
PUBLISHED = {
    **_OTHERS,
    "fcos_resnet50_fpn": {"torchvision": _TORCHVISION, **_OTHERS["fcos_resnet50_fpn"]},
    "fcos_resnet50_fpn_torchvision": {"torchvision": _TORCHVISION},
}
