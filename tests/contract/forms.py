"""Which builders make the same detector on another body or in another width, and what makes two detectors the same."""

import re
from dataclasses import is_dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from aweigh.models import DETECTORS, create


def form_of(name: str) -> str:
    """The builder that the contract tests run in full for `name`: the smallest of its form."""
    return next((first for first, sisters in SISTERS.items() if name in sisters), name)


# Builders that differ from the first in their body and their widths alone; `test_forms.py` compares them, on the meta
# device. A builder that stands nowhere here is a form, and is run in full.
_ROWS: dict[str, list[str]] = {
    **{
        f"fcos_shufflenet_v2_x0_5_fpn{form}": [
            f"fcos_shufflenet_v2_x1_0_fpn{form}",
            f"fcos_resnet18_fpn{form}",
            f"fcos_resnet50_fpn{form}",
            f"fcos_resnet101_fpn{form}",
            f"fcos_resnext101_32x8d_fpn{form}",
            f"fcos_resnext101_64x4d_fpn{form}",
            f"fcos_shufflenet_v2_50_fpn{form}",
            f"fcos_shufflenet_v2_164_se_fpn{form}",
            f"fcos_timm_fpn{form}",
        ]
        for form in ("", "_base")
    },
    "fcos_shufflenet_v2_x0_5_lite": ["fcos_shufflenet_v2_x1_0_lite", "fcos_shufflenet_v2_x1_5_lite"],
    "retinanet_shufflenet_v2_x1_0_fpn": [
        "retinanet_resnet18_fpn",
        "retinanet_resnet34_fpn",
        "retinanet_resnet50_fpn",
        "retinanet_resnet101_fpn",
        "retinanet_resnext101_32x8d_fpn",
        "retinanet_timm_fpn",
    ],
    "retinanet_resnet50_fpn_base": ["retinanet_resnet101_fpn_base"],
    "retinanet_resnet50_fpn_detectron2": ["retinanet_resnet101_fpn_detectron2"],
    "efficientdet_d0": [f"efficientdet_d{size}" for size in (*range(1, 8), "7x")],
    "efficientdet_lite0": [f"efficientdet_lite{size}" for size in ("1", "2", "3", "3x", "4")],
    **{
        f"{kind}_rcnn_resnet18_fpn": [
            f"{kind}_rcnn_{body}_fpn"
            for body in ("resnet50", "resnet101", "resnext101_32x8d", "shufflenet_v2_50", "shufflenet_v2_164_se")
            if f"{kind}_rcnn_{body}_fpn" in DETECTORS
        ]
        for kind in ("fast", "faster", "mask", "keypoint")
    },
    **{
        f"{kind}_rcnn_resnet50_{neck}_detectron2": [
            f"{kind}_rcnn_{body}_{neck}_detectron2"
            for body in ("resnet101", "resnext101_32x8d")
            if f"{kind}_rcnn_{body}_{neck}_detectron2" in DETECTORS
        ]
        for kind in ("faster", "mask", "keypoint")
        for neck in ("fpn", "c4", "dc5")
    },
    "faster_rcnn_resnet50_c4": ["faster_rcnn_resnet101_c4"],
    "mask_rcnn_resnet50_c4": ["mask_rcnn_resnet101_c4"],
    "mask_keypoint_rcnn_resnet18_fpn": ["mask_keypoint_rcnn_resnet50_fpn"],
    "faster_rcnn_resnet18_fcos_rpn": ["faster_rcnn_resnet50_fcos_rpn"],
    "faster_rcnn_mobilenet_v3_large_320_fpn": ["faster_rcnn_mobilenet_v3_large_fpn"],
    "light_head_rcnn_shufflenet_v2": [
        "light_head_rcnn_shufflenet_v1",
        "light_head_rcnn_mobilenet_v2",
        "light_head_rcnn_xception",
    ],
    "centernet_resnet18_dcn": ["centernet_resnet101_dcn"],
    "foveabox_resnet18_fpn": ["foveabox_resnet50_fpn", "foveabox_resnet101_fpn"],
}
SISTERS = {form: sisters for form, sisters in _ROWS.items() if sisters}
FORMS = [name for name in DETECTORS if form_of(name) == name]

# Forms of parts that others have too, as `test_forms.py` makes sure: they run the lines of these with other numbers.
# All that is asked of a detector is asked of them by `pytest -m thorough`.
REPEATS = [
    "retinanet_resnet50_fpn_v2_torchvision",
    "retinanet_resnet50_fpn_detectron2",
    "faster_rcnn_vgg16",
    "faster_rcnn_resnet50_fpn_torchvision",
    "faster_rcnn_resnet50_c4_detectron2",
    "mask_rcnn_resnet50_c4",
    "mask_rcnn_resnet50_fpn_torchvision",
    "mask_rcnn_resnet50_fpn_v2_torchvision",
    "mask_rcnn_resnet50_fpn_detectron2",
    "mask_rcnn_resnet50_c4_detectron2",
    "keypoint_rcnn_resnet50_fpn_torchvision",
    "keypoint_rcnn_resnet50_fpn_detectron2",
    "light_head_rcnn_resnet101",
    "centernet_dla34_3d",
    "centernet_dla34_pose",
    "centernet_hourglass104_pose",
    "cornernet_hourglass104",
    "centernet_triplets_hourglass104",
    "fast_rcnn_resnet50_fpn_detectron2",
    "fast_rcnn_resnet50_c4",
    "fast_rcnn_resnet50_c5",
    "faster_rcnn_resnet50_c5",
    "faster_rcnn_resnet50_dc5_detectron2",
    "mask_rcnn_resnet50_c5",
    "mask_rcnn_resnet50_dc5_detectron2",
    "mask_rcnn_resnet50_fpn_gn_detectron2",
]


@cache
def without_weights(name: str) -> nn.Module:
    """Shared by all who look at it."""
    with torch.device("meta"):
        return create(name)


def settings(model: nn.Module) -> dict[str, Any]:
    """All that a detector is but its body and its widths: classes of modules, and what they and it are told.

    Left out are numbers of channels, strides (maps are measured), numbers in a `selection` (a test of their own has
    them) and how many equal layers follow one another.
    """
    told: dict[str, Any] = {"detector": type(model).__name__}
    told["modules"] = sorted({type(module).__name__ for name, module in model.named_modules() if not _of_body(name)})
    for name, module in model.named_modules():
        if _of_body(name) or name.count(".") or not type(module).__module__.startswith("aweigh"):
            continue
        for key, value in vars(module).items():
            if not key.startswith("_") and key not in LEFT_OUT and _is_plain(value):
                told[f"{name}.{key}"] = repr(value)
            if isinstance(value, partial):
                words = {word: said for word, said in value.keywords.items() if word not in LEFT_OUT}
                told[f"{name}.{key}"] = f"{value.func.__name__} {words}"
    return told


@cache
def parts(name: str) -> set[object]:
    """The classes of a form's modules and the words among its settings: what decides which lines it runs."""
    model = without_weights(name)
    words = {(key, value) for key, value in settings(model).items() if not re.match(r"[\d(\[-]", str(value))}
    return {*words, *map(type, model.modules())}


LEFT_OUT = (
    *("builder", "arguments", "record", "training", "selection", "adds"),
    *("channels", "in_channels", "stride", "strides", "stride_divisor"),
)


def _of_body(name: str) -> bool:
    return name.split(".")[0] == "backbone"


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str | tuple | type(None)) or is_dataclass(value)
