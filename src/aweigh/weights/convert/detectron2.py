"""Detectron2's parameter names and ours, for the detectors of its model zoo.

What differs besides the names: its images are BGR, so that the first convolution's input channels are turned round; in
a cell its anchors lie size by size, ours ratio by ratio; it keeps pixel means and anchors in old files, which we leave
out. Its zoo holds pickles, which can run code when they are read: `locate` says how to get tensors out of them.
"""

import re

import torch
from torch import Tensor

from aweigh.errors import UsageError
from aweigh.weights.record import State

_BODY = {"conv1": "conv1", "conv2": "conv2", "conv3": "conv3", "shortcut": "downsample.0"}
_NORMS = {"conv1": "bn1", "conv2": "bn2", "conv3": "bn3", "shortcut": "downsample.1"}
_HEAD = {"cls_score": "logits", "bbox_pred": "deltas"}
_LEFT_OUT = ("pixel_mean", "pixel_std", "anchor_generator.")


def retinanet_from_detectron2(state: State, *, sizes: int = 3, ratios: int = 3) -> State:
    """The weights of detectron2's RetinaNet on ResNet + FPN under our names.

    sizes, ratios: of the anchors of a cell. Raises `UsageError` for a tensor of another model.
    """
    converted: State = {"moving_positives": torch.tensor(100.0)}  # which detectron2 does not keep in its files
    for key, value in state.items():
        if not key.startswith(_LEFT_OUT):
            ours = _name(key)
            if ours in ("head.logits.weight", "head.logits.bias", "head.deltas.weight", "head.deltas.bias"):
                value = _ratio_by_ratio(value, sizes, ratios)
            converted[ours] = value.flip(1) if ours == "backbone.body.conv1.weight" else value
    return converted


def _ratio_by_ratio(rows: Tensor, sizes: int, ratios: int) -> Tensor:
    """`[S * R * X, ...]` -> `[R * S * X, ...]`."""
    return rows.unflatten(0, (sizes, ratios, -1)).transpose(0, 1).flatten(0, 2)


def _name(key: str) -> str:
    block = r"backbone\.bottom_up\.(?:stem|res(\d)\.(\d+))\.(conv\d|shortcut)\.(norm\.)?(\w+)"
    if match := re.fullmatch(block, key):
        stage, number, layer, norm, what = match.groups()
        place = f"layer{int(stage) - 1}.{number}." if stage else ""
        return f"backbone.body.{place}{(_NORMS if norm else _BODY)[layer]}.{what}"
    if match := re.fullmatch(r"backbone\.fpn_(lateral|output)(\d)\.(weight|bias)", key):
        return f"neck.{match[1]}.{int(match[2]) - 3}.{match[3]}"
    if match := re.fullmatch(r"backbone\.top_block\.(p[67]\.(?:weight|bias))", key):
        return f"neck.{match[1]}"
    if match := re.fullmatch(r"head\.(cls|bbox)_subnet\.(\d+)\.(weight|bias)", key):
        tower = {"cls": "classification_tower", "bbox": "box_tower"}[match[1]]
        return f"head.{tower}.{3 * int(match[2]) // 2}.{match[3]}"  # convolution, ReLU -> convolution, nothing, ReLU
    if match := re.fullmatch(r"head\.(cls_score|bbox_pred)\.(weight|bias)", key):
        return f"head.{_HEAD[match[1]]}.{match[2]}"
    raise UsageError(f"The tensor {key!r} is not one of detectron2's RetinaNet; these weights belong to another model.")
