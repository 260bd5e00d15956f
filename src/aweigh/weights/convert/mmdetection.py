"""MMDetection's parameter names and ours, for its one-stage detectors on ResNet and the feature pyramid.

Its published files were renamed once: what is `fovea_cls` in the oldest is `conv_cls` in the others. Their names end in
the first eight digits of their SHA-256.
"""

import re
from functools import partial
from typing import Any

from torch import Tensor

from aweigh.errors import UsageError
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.convert.detectron2 import DETECTRON2_MEAN, DETECTRON2_STD
from aweigh.weights.convert.fcos_authors import FCOS_MEAN, stacked_scales
from aweigh.weights.record import PublishedWeights, State

# The layers of a head, theirs -> ours, but for the towers; see `tower`.
FOVEABOX = {
    "conv_cls": "logits",
    "fovea_cls": "logits",
    "conv_reg": "distances",
    "fovea_reg": "distances",
    "feature_adaption.conv_offset": "align.offsets",
    "feature_adaption.conv_adaption": "align.conv",
}


FCOS = {
    "conv_cls": "logits",
    "fcos_cls": "logits",
    "conv_reg": "distances",
    "fcos_reg": "distances",
    "conv_centerness": "centerness",
    "fcos_centerness": "centerness",
}


def foveabox_from_mmdetection(state: State) -> State:
    """The weights of MMDetection's FoveaBox under our names; `UsageError` for a tensor of another model."""
    converted: State = {}
    for key, value in state.items():
        key = key.removeprefix("module.")
        ours = body_and_neck(key) or tower(key) or layer(key, FOVEABOX)
        if ours is None:
            raise UsageError(
                f"The tensor {key!r} is not one of MMDetection's FoveaBox; these weights belong to another model."
            )
        converted[ours] = value
    return converted


def fcos_from_mmdetection(state: State, *, bgr: bool = True) -> State:
    """The weights of MMDetection's FCOS under our names; `UsageError` for a tensor of another model.

    bgr: its images are, as those of Caffe's backbones. Biases that it leaves out before a normalisation are 0.
    """
    converted: State = {}
    scales: dict[int, Tensor] = {}
    for key, value in state.items():
        key = key.removeprefix("module.")
        if match := re.fullmatch(r"bbox_head\.scales\.(\d)\.scale", key):
            scales[int(match[1])] = value
            continue
        ours = body_and_neck(key) or tower(key) or layer(key, FCOS)
        if ours is None:
            raise UsageError(
                f"The tensor {key!r} is not one of MMDetection's FCOS; these weights belong to another model."
            )
        converted[ours] = value.flip(1) if bgr and ours == "backbone.body.conv1.weight" else value
    for key, value in list(converted.items()):
        if re.fullmatch(r"head\.\w+_tower\.\d+\.weight", key) and value.ndim == 4:
            converted.setdefault(key.replace("weight", "bias"), value.new_zeros(len(value)))
    return stacked_scales(converted, scales)


def body_and_neck(key: str, *, maps: int = 3) -> str | None:
    """Our name of a tensor of ResNet, or of the pyramid over so many maps; None for another."""
    if match := re.fullmatch(r"backbone\.((?:conv1|bn1|layer[1-4])\..+)", key):
        return f"backbone.body.{match[1]}"
    if match := re.fullmatch(r"neck\.(lateral|fpn)_convs\.(\d)\.conv\.(weight|bias)", key):
        number = int(match[2])
        if match[1] == "lateral":
            return f"neck.lateral.{number}.{match[3]}"
        return f"neck.output.{number}.{match[3]}" if number < maps else f"neck.p{number + 6 - maps}.{match[3]}"
    return None


def tower(key: str) -> str | None:
    """Our name of a tensor of a head's towers, in which each convolution is three modules; None for another."""
    match = re.fullmatch(r"bbox_head\.(cls|reg)_convs\.(\d)\.(conv|gn)\.(weight|bias)", key)
    if match is None:
        return None
    place = 3 * int(match[2]) + (match[3] == "gn")
    return f"head.{'classification' if match[1] == 'cls' else 'box'}_tower.{place}.{match[4]}"


def layer(key: str, names: dict[str, str]) -> str | None:
    """Our name of a tensor of one of these layers of a head; None for another."""
    module, _, kind = key.removeprefix("bbox_head.").rpartition(".")
    return f"head.{names[module]}.{kind}" if key.startswith("bbox_head.") and module in names else None


def foveabox_record(name: str, builder: str, run: str, day: str, average_precision: float) -> PublishedWeights:
    """A file of MMDetection's model zoo. run: its configuration, as `"fovea_r50_fpn_4x4_1x_coco"`. day: of its
    training, and behind it the beginning of the file's SHA-256, as they stand in its name."""
    aligned: dict[str, Any] = {"align": True, "head_norm": "gn"} if "align" in run else {}
    return PublishedWeights(
        **_published("foveabox", run, f"{run}_{day}.pth"),
        name=name,
        metrics={"AP": average_precision},
        builder=builder,
        arguments={"backbone_norm": "frozen_bn", "top": "c5_linear", **aligned},
        convert=foveabox_from_mmdetection,
    )


def fcos_record(name: str, builder: str, run: str, digest: str, average_precision: float) -> PublishedWeights:
    """The same of FCOS. run: its configuration, as `"fcos_r50_caffe_fpn_gn-head_1x_coco"`. digest: the beginning of the
    file's SHA-256."""
    pixels: dict[str, Any] = {}
    if "caffe" in run:
        mean = DETECTRON2_MEAN if "giou" in run else FCOS_MEAN
        pixels = {"stride_in_1x1": True, "pixel_mean": mean, "pixel_std": DETECTRON2_STD}
    suppression = {} if "giou" in run else {"nms_threshold": 0.5}
    return PublishedWeights(
        **_published("fcos", run, f"{run}-{digest}.pth"),
        name=name,
        metrics={"AP": average_precision},
        builder=builder,
        arguments={"backbone_norm": "frozen_bn", **pixels, **suppression},
        convert=partial(fcos_from_mmdetection, bgr="caffe" in run),
    )


def _published(model: str, run: str, file: str) -> dict[str, Any]:
    """What is alike in all their files. file: its name, which ends in the beginning of its SHA-256."""
    return {
        "url": f"https://download.openmmlab.com/mmdetection/v2.0/{model}/{run}/{file}",
        "file": file,
        "sha256": file.removesuffix(".pth").rpartition("-")[2],
        "licence": "Apache-2.0 (MMDetection); trained on COCO, whose annotations are CC BY 4.0",
        "source": f"MMDetection, {run}, trained on COCO train2017",
        "classes": COCO_CLASSES,
        "resize": {"short": 800, "long": 1333},
    }
