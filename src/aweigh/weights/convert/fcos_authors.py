"""The parameter names of FCOS's authors and ours: those of their first program, FCOS, and of their second, AdelaiDet.

What differs besides the names: their images are BGR of 0 to 255, so that the first convolution's input channels are
turned round; a ResNet has its stride in the 1x1 convolutions; each learned factor s_i is a tensor of its own. The first
program's frozen batch normalisation adds nothing to the variance. AdelaiDet's backbone and pyramid are detectron2's.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aweigh.errors import UsageError
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.convert.detectron2 import DETECTRON2_MEAN, DETECTRON2_STD, of_body_and_pyramid
from aweigh.weights.record import PublishedWeights, State

# Of the first program, as RGB in [0, 1], without a deviation; those of AdelaiDet are detectron2's.
FCOS_MEAN = (122.7717 / 255, 115.9465 / 255, 102.9801 / 255)
# What their ResNets and ResNeXts were trained to read.
_AUTHORS = {"pixel_mean": FCOS_MEAN, "pixel_std": DETECTRON2_STD, "backbone_norm_eps": 0.0}
_RESNET = {"pixel_mean": DETECTRON2_MEAN, "pixel_std": DETECTRON2_STD}
_RESNEXT = {"pixel_mean": DETECTRON2_MEAN, "pixel_std": (57.375 / 255, 57.12 / 255, 58.395 / 255)}

_LAYERS = {
    "cls_tower": "classification_tower",
    "bbox_tower": "box_tower",
    "cls_logits": "logits",
    "bbox_pred": "distances",
    "centerness": "centerness",
    "ctrness": "centerness",
}
_FIRST = "backbone.body.conv1.weight"


def fcos_from_authors(state: State) -> State:
    """The weights of the program FCOS under our names; `UsageError` for a tensor of another model."""
    return _converted(state, "rpn.head.", _of_body_and_pyramid, "the FCOS of its authors")


def fcos_from_adelaidet(state: State) -> State:
    """The weights of AdelaiDet's FCOS under our names; `UsageError` for a tensor of another model."""
    state = {key: value for key, value in state.items() if key not in ("pixel_mean", "pixel_std")}
    return _converted(state, "proposal_generator.fcos_head.", of_body_and_pyramid, "AdelaiDet's FCOS")


def stacked_scales(converted: State, scales: dict[int, Tensor]) -> State:
    """With the factors s_i of all levels as the one tensor that they are here."""
    if not scales:
        return converted
    return {**converted, "head.scales": torch.cat([scales[level].reshape(1) for level in sorted(scales)])}


def _converted(state: State, head: str, of_others: Callable[[str], str | None], model: str) -> State:
    converted: State = {}
    scales: dict[int, Tensor] = {}
    for key, value in state.items():
        key = key.removeprefix("module.")
        if match := re.fullmatch(rf"{re.escape(head)}scales\.(\d)\.scale", key):
            scales[int(match[1])] = value
            continue
        ours = _of_head(key, head) or of_others(key)
        if ours is None:
            raise UsageError(f"The tensor {key!r} is not one of {model}; these weights belong to another model.")
        converted[ours] = value.flip(1) if ours == _FIRST else value
    return stacked_scales(converted, scales)


def _of_head(key: str, head: str) -> str | None:
    """Towers are convolution, normalisation, ReLU and so on, as ours; a deformable convolution has two parts."""
    match = re.fullmatch(rf"{re.escape(head)}([a-z_]+)\.(?:(\d+)\.)?(?:(offset|conv)\.)?(weight|bias)", key)
    if match is None or match[1] not in _LAYERS:
        return None
    layer, place, part, kind = match.groups()
    inner = {None: "", "offset": "offsets.", "conv": "conv."}[part]
    return f"head.{_LAYERS[layer]}.{place + '.' if place else ''}{inner}{kind}"


def _of_body_and_pyramid(key: str) -> str | None:
    if match := re.fullmatch(r"backbone\.body\.(?:stem\.)?((?:conv1|bn1|layer[1-4])\..+)", key):
        return f"backbone.body.{match[1]}"
    if match := re.fullmatch(r"backbone\.fpn\.fpn_(inner|layer)([234])\.(weight|bias)", key):
        part = {"inner": "lateral", "layer": "output"}[match[1]]
        return f"neck.{part}.{int(match[2]) - 2}.{match[3]}"
    if match := re.fullmatch(r"backbone\.fpn\.top_blocks\.(p[67]\.(?:weight|bias))", key):
        return f"neck.{match[1]}"
    return None


def authors_record(name: str, builder: str, file: str, average_precision: float) -> PublishedWeights:
    """A file of their first program."""
    return _record(name, builder, file, average_precision, "tianzhi0549/FCOS", fcos_from_authors, _AUTHORS)


def adelaidet_record(name: str, builder: str, file: str, average_precision: float) -> PublishedWeights:
    """A file of AdelaiDet."""
    pixels = _RESNEXT if "resnext" in builder else _RESNET
    return _record(name, builder, file, average_precision, "aim-uofa/AdelaiDet", fcos_from_adelaidet, pixels)


def _record(
    name: str,
    builder: str,
    file: str,
    average_precision: float,
    program: str,
    convert: Callable[[State], State],
    arguments: dict[str, Any],
) -> PublishedWeights:
    return PublishedWeights(
        name=name,
        url=f"https://github.com/{program}",
        file=f"{file}.pth",
        sha256="",  # not published
        licence=f"for academic use ({program}); trained on COCO, whose annotations are CC BY 4.0",
        source=f"the authors of FCOS, {program}, {file}, trained on COCO train2017",
        metrics={"AP": average_precision},
        builder=builder,
        arguments={"backbone_norm": "frozen_bn", "stride_in_1x1": "resnext" not in builder, **arguments},
        classes=COCO_CLASSES,
        resize={"short": 800, "long": 1333},
        convert=convert,
    )
