"""Detectron2's parameter names and ours, for the detectors of its model zoo.

What differs besides the names: its images are BGR, so that the first convolution's input channels are turned round; in
a cell its anchors lie size by size, ours ratio by ratio; it keeps pixel means and anchors in old files, which we leave
out. Its zoo holds pickles, which can run code when they are read: `locate` says how to get tensors out of them.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aweigh.errors import UsageError
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.record import PublishedWeights, State

# Its input: BGR, 0 to 255, means of its MSRA backbone, no deviation; here as RGB in [0, 1].
DETECTRON2_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
DETECTRON2_STD = (1 / 255, 1 / 255, 1 / 255)

_BODY = {"conv1": "conv1", "conv2": "conv2", "conv3": "conv3", "shortcut": "downsample.0"}
_NORMS = {"conv1": "bn1", "conv2": "bn2", "conv3": "bn3", "shortcut": "downsample.1"}
_RETINANET_HEAD = {"cls_score": "logits", "bbox_pred": "deltas"}
_LEFT_OUT = ("pixel_mean", "pixel_std", "anchor_generator.", "proposal_generator.anchor_generator.")

FASTER_RCNN_NAMES = {
    "proposal_generator.rpn_head.conv.": "proposer.tower.0.",
    "proposal_generator.rpn_head.objectness_logits.": "proposer.objectness.",
    "proposal_generator.rpn_head.anchor_deltas.": "proposer.deltas.",
    "roi_heads.box_head.fc2.": "box_head.fc7.",
    "roi_heads.box_predictor.cls_score.": "box_predictor.logits.",
    "roi_heads.box_predictor.bbox_pred.": "box_predictor.deltas.",
    "roi_heads.mask_head.deconv.": "branches.masks.head.deconvolution.",
    "roi_heads.mask_head.predictor.": "branches.masks.head.predictor.",
    "roi_heads.keypoint_head.score_lowres.": "branches.keypoints.head.deconvolution.",
}
# Convolutions of regions: their names without a number -> ours, and how many modules each is there.
REGION_TOWERS = {
    "box_head.conv": ("box_head", 3),
    "mask_head.mask_fcn": ("branches.masks.head", 3),
    "keypoint_head.conv_fcn": ("branches.keypoints.head", 2),
}


def retinanet_from_detectron2(state: State, *, sizes: int = 3, ratios: int = 3) -> State:
    """The weights of detectron2's RetinaNet on ResNet + FPN under our names.

    sizes, ratios: of the anchors of a cell. Raises `UsageError` for a tensor of another model.
    """
    converted: State = {"moving_positives": torch.tensor(100.0)}  # which detectron2 does not keep in its files
    for key, value in _kept(state).items():
        ours = of_body_and_pyramid(key) or _of_retinanet(key)
        if ours is None:
            raise _stranger(key, "RetinaNet")
        if ours in ("head.logits.weight", "head.logits.bias", "head.deltas.weight", "head.deltas.bias"):
            value = _ratio_by_ratio(value, sizes, ratios)
        converted[ours] = value.flip(1) if ours == "backbone.body.conv1.weight" else value
    return converted


def faster_rcnn_from_detectron2(state: State, *, ratios: int = 3) -> State:
    """The weights of detectron2's Faster, Mask and Keypoint R-CNN, on ResNet + FPN or on C4, under our names.

    ratios: of the anchors of a cell. Raises `UsageError` for a tensor of another model.
    """
    normalised = "backbone.fpn_lateral2.norm.weight" in state
    fully = "box_head.fc." if "roi_heads.box_head.conv1.weight" in state else "box_head.fc6."
    names = {**FASTER_RCNN_NAMES, "roi_heads.box_head.fc1.": fully}
    converted: State = {}
    for key, value in _kept(state).items():
        ours = _of_body(key) or _of_pyramid(key, 2, normalised=normalised) or _of_region_tower(key)
        ours = ours or next((new + key[len(old) :] for old, new in names.items() if key.startswith(old)), None)
        if ours is None:
            raise _stranger(key, "Faster R-CNN")
        if ours.startswith(("proposer.objectness.", "proposer.deltas.")):
            anchors = len(value) // (4 if ours.startswith("proposer.deltas.") else 1)
            value = _ratio_by_ratio(value, anchors // ratios, ratios)
        converted[ours] = value.flip(1) if ours == "backbone.body.conv1.weight" else value
    return converted


def detectron2_record(
    name: str, run: str, builder: str, metrics: dict[str, float], convert: Callable[[State], State], **arguments: Any
) -> PublishedWeights:
    """What is known of a file of detectron2's model zoo, whose digests nobody published.

    run: where the file lies, such as `"COCO-Detection/retinanet_R_50_FPN_3x/190397829/model_final_5bd44e.pkl"`.
    """
    return PublishedWeights(
        name=name,
        url=f"https://dl.fbaipublicfiles.com/detectron2/{run}",
        file="_".join(run.split("/")[1:]),
        sha256="",
        licence="CC BY-SA 3.0 (detectron2's model zoo); trained on COCO, whose annotations are CC BY 4.0",
        source=f"detectron2, {run.split('/')[1]}, trained on COCO train2017",
        metrics=metrics,
        builder=builder,
        arguments={"backbone_norm": "frozen_bn", **arguments},
        classes=COCO_CLASSES,
        resize={"short": 800, "long": 1333},
        convert=convert,
    )


def of_body_and_pyramid(key: str) -> str | None:
    """Our name of a tensor of ResNet, or of the pyramid P3 to P7; None for another."""
    return _of_body(key) or _of_pyramid(key, 3, normalised=False)


def _kept(state: State) -> State:
    return {key: value for key, value in state.items() if not key.startswith(_LEFT_OUT)}


def _stranger(key: str, model: str) -> UsageError:
    return UsageError(f"The tensor {key!r} is not one of detectron2's {model}; these weights belong to another model.")


def _ratio_by_ratio(rows: Tensor, sizes: int, ratios: int) -> Tensor:
    """`[S * R * X, ...]` -> `[R * S * X, ...]`."""
    return rows.unflatten(0, (sizes, ratios, -1)).transpose(0, 1).flatten(0, 2)


def _of_body(key: str) -> str | None:
    """A ResNet below a pyramid, or cut in two before its last stage, `res5`, which then reads regions."""
    block = r"(?:backbone\.bottom_up|backbone|roi_heads)\.(?:stem|res(\d)\.(\d+))\.(conv\d|shortcut)\.(norm\.)?(\w+)"
    if not (match := re.fullmatch(block, key)):
        return None
    stage, number, layer, norm, what = match.groups()
    place = f"backbone.body.layer{int(stage) - 1}.{number}." if stage else "backbone.body."
    if key.startswith("roi_heads."):
        place = f"region_body.{number}."
    return f"{place}{(_NORMS if norm else _BODY)[layer]}.{what}"


def _of_pyramid(key: str, finest: int, *, normalised: bool) -> str | None:
    if match := re.fullmatch(r"backbone\.fpn_(lateral|output)(\d)\.(norm\.)?(\w+)", key):
        part = (".1" if match[3] else ".0") if normalised else ""
        return f"neck.{match[1]}.{int(match[2]) - finest}{part}.{match[4]}"
    if match := re.fullmatch(r"backbone\.top_block\.(p[67]\.(?:weight|bias))", key):
        return f"neck.{match[1]}"
    return None


def _of_retinanet(key: str) -> str | None:
    if match := re.fullmatch(r"head\.(cls|bbox)_subnet\.(\d+)\.(weight|bias)", key):
        tower = {"cls": "classification_tower", "bbox": "box_tower"}[match[1]]
        return f"head.{tower}.{3 * int(match[2]) // 2}.{match[3]}"  # convolution, ReLU -> convolution, nothing, ReLU
    if match := re.fullmatch(r"head\.(cls_score|bbox_pred)\.(weight|bias)", key):
        return f"head.{_RETINANET_HEAD[match[1]]}.{match[2]}"
    return None


def _of_region_tower(key: str) -> str | None:
    match = re.fullmatch(r"roi_heads\.(\w+\.[a-z_]+)(\d)\.(norm\.)?(weight|bias)", key)
    if match is None or match[1] not in REGION_TOWERS:
        return None
    head, modules = REGION_TOWERS[match[1]]
    return f"{head}.tower.{modules * (int(match[2]) - 1) + bool(match[3])}.{match[4]}"
