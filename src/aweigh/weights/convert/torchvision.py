"""Torchvision's parameter names and ours.

Tables hold FCOS, in both directions, and RetinaNet; MobileNet V2 and V3, whose backbones timm names in another way,
have functions of their own. ResNet, ResNeXt and ShuffleNet V2 have torchvision's names already.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from aweigh.errors import UsageError, counted
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.record import PublishedWeights, State

# Beginnings of names, torchvision's -> ours.
PYRAMID_NAMES = {
    "backbone.body.": "backbone.body.",
    **{f"backbone.fpn.inner_blocks.{level}.0.": f"neck.lateral.{level}." for level in range(3)},
    **{f"backbone.fpn.layer_blocks.{level}.0.": f"neck.output.{level}." for level in range(3)},
    "backbone.fpn.extra_blocks.p6.": "neck.p6.",
    "backbone.fpn.extra_blocks.p7.": "neck.p7.",
}
FCOS_NAMES = {
    **PYRAMID_NAMES,
    "head.classification_head.conv.": "head.classification_tower.",
    "head.classification_head.cls_logits.": "head.logits.",
    "head.regression_head.conv.": "head.box_tower.",
    "head.regression_head.bbox_reg.": "head.distances.",
    "head.regression_head.bbox_ctrness.": "head.centerness.",
}
RETINANET_NAMES = {
    **PYRAMID_NAMES,
    "head.classification_head.cls_logits.": "head.logits.",
    "head.regression_head.bbox_reg.": "head.deltas.",
}

FASTER_RCNN_NAMES = {
    "backbone.body.": "backbone.body.",
    "rpn.head.cls_logits.": "proposer.objectness.",
    "rpn.head.bbox_pred.": "proposer.deltas.",
    "roi_heads.box_head.fc": "box_head.fc",
    "roi_heads.box_head.5.": "box_head.fc.",
    "roi_heads.box_predictor.cls_score.": "box_predictor.logits.",
    "roi_heads.box_predictor.bbox_pred.": "box_predictor.deltas.",
    "roi_heads.mask_predictor.conv5_mask.": "branches.masks.head.deconvolution.",
    "roi_heads.mask_predictor.mask_fcn_logits.": "branches.masks.head.predictor.",
    "roi_heads.keypoint_head.": "branches.keypoints.head.tower.",
    "roi_heads.keypoint_predictor.kps_score_lowres.": "branches.keypoints.head.deconvolution.",
}
# Convolutions of regions, torchvision's -> ours.
REGION_TOWERS = {"box_head": "box_head", "mask_head": "branches.masks.head"}


def torchvision_record(
    name: str,
    builder: str,
    file: str,
    metrics: dict[str, float],
    convert: Callable[[State], State],
    *,
    short: int = 800,
    long: int = 1333,
    **arguments: Any,
) -> PublishedWeights:
    """What is known of one of torchvision's detectors. builder, arguments: ours that loads it. short, long: of images.

    file: its name, which ends in the beginning of its digest.
    """
    form, digest = file.removesuffix(".pth").rsplit("-", 1)
    return PublishedWeights(
        name=name,
        url=f"https://download.pytorch.org/models/{file}",
        file=file,
        sha256=digest,
        licence="BSD-3-Clause (torchvision); trained on COCO, whose annotations are CC BY 4.0",
        source=f"torchvision, {form.removesuffix('_coco')}, COCO_V1, trained on COCO train2017",
        metrics=metrics,
        builder=builder,
        arguments=arguments,
        classes=COCO_CLASSES,
        resize={"short": short, "long": long, "antialias": False},
        convert=convert,
    )


def fcos_from_torchvision(state: State, *, keep_rows: Sequence[int] | None = COCO_CLASSES.ids) -> State:
    """The weights of torchvision's `fcos_resnet50_fpn` under our names.

    keep_rows: the rows of the classifier that become our labels 0, 1, ...; by default the 80 named classes of the 91
    that its COCO weights have (row 0 is never a class). None keeps every row.
    """
    expected = "torchvision's fcos_resnet50_fpn"
    converted = {_renamed(_spelled_out(key), FCOS_NAMES, expected): value for key, value in state.items()}
    if keep_rows is not None:
        for key in ("head.logits.weight", "head.logits.bias"):
            if key in converted:
                converted[key] = _rows(converted[key], keep_rows)
    return converted


def fcos_to_torchvision(state: State) -> State:
    """Our weights under torchvision's names, with as many classifier rows as ours have."""
    names = {ours: theirs for theirs, ours in FCOS_NAMES.items()}
    return {_renamed(key, names, "a model that torchvision has"): value for key, value in state.items()}


def retinanet_from_torchvision(state: State, *, keep_rows: Sequence[int] | None = COCO_CLASSES.ids) -> State:
    """The weights of torchvision's `retinanet_resnet50_fpn` and `_v2` under our names.

    keep_rows: of each anchor, the rows of the classifier that become our labels 0, 1, ..., as for FCOS. None keeps all.
    """
    converted = {}
    for key, value in state.items():
        spelled = _spelled_out(key)
        tower = re.fullmatch(r"head\.(classification|regression)_head\.conv\.(\d+)\.(?:(\d)\.)?(weight|bias)", spelled)
        if tower:
            kind, number, part, what = tower.groups()
            # Files from before torchvision 0.13 number convolutions and activations in one row.
            place = 3 * int(number) + int(part) if part else 3 * int(number) // 2
            side = "classification" if kind == "classification" else "box"
            converted[f"head.{side}_tower.{place}.{what}"] = value
        else:
            converted[_renamed(spelled, RETINANET_NAMES, "torchvision's retinanet_resnet50_fpn")] = value
    if keep_rows is not None:
        anchors = len(converted["head.deltas.bias"]) // 4 if "head.deltas.bias" in converted else 1
        for key in ("head.logits.weight", "head.logits.bias"):
            if key in converted:
                each = converted[key].unflatten(0, (anchors, -1))  # [K, classes, ...]
                converted[key] = _rows(each.transpose(0, 1), keep_rows).transpose(0, 1).flatten(0, 1)
    return converted


def faster_rcnn_from_torchvision(state: State, *, keep_rows: Sequence[int] | None = COCO_CLASSES.ids) -> State:
    """The weights of torchvision's `fasterrcnn_resnet50_fpn`, `maskrcnn_resnet50_fpn`, their `_v2`, and the two
    `fasterrcnn_mobilenet_v3_large_..._fpn` under our names.

    keep_rows: the rows of the classifier that become our labels 0, 1, ...; None keeps all. Row 0, "nothing", becomes
    the last one. It and the rows of no class, which stand before it and take part in the softmax, have no box and no
    mask.
    """
    normalised = any(re.fullmatch(r"backbone\.fpn\.inner_blocks\.0\.1\.weight", key) for key in state)
    converted = {}
    if "backbone.body.0.0.weight" in state:
        body = {key: value for key, value in state.items() if key.startswith("backbone.body.")}
        state = {key: value for key, value in state.items() if key not in body}
        features = {f"features.{key.removeprefix('backbone.body.')}": value for key, value in body.items()}
        converted = {f"backbone.{key}": value for key, value in mobilenet_v3_from_torchvision(features).items()}
    for key, value in state.items():
        spelled = _spelled_out(key)
        pyramid = re.fullmatch(r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(\d)\.(.+)", spelled)
        tower = re.fullmatch(r"rpn\.head\.conv\.(?:(\d)\.0\.)?(weight|bias)", spelled)
        region_tower = re.fullmatch(r"roi_heads\.(box_head|mask_head)\.([0-3])\.([01])\.(.+)", spelled)
        if pyramid:
            kind, level, part, what = pyramid.groups()
            place = f"{level}.{part}" if normalised else level
            converted[f"neck.{'lateral' if kind == 'inner' else 'output'}.{place}.{what}"] = value
        elif tower:
            number, what = tower.groups()
            converted[f"proposer.tower.{2 * int(number or 0)}.{what}"] = value
        elif region_tower:
            kind, number, part, what = region_tower.groups()
            converted[f"{REGION_TOWERS[kind]}.tower.{3 * int(number) + int(part)}.{what}"] = value
        else:
            expected = "torchvision's fasterrcnn_resnet50_fpn and maskrcnn_resnet50_fpn"
            converted[_renamed(spelled, FASTER_RCNN_NAMES, expected)] = value
    for what in ("weight", "bias"):
        logits, deltas = (f"box_predictor.{name}.{what}" for name in ("logits", "deltas"))
        if logits in converted and deltas in converted:
            rows = list(range(1, len(converted[logits]))) if keep_rows is None else list(keep_rows)
            unused = sorted({*range(1, len(converted[logits]))} - {*rows})
            converted[logits] = _rows(converted[logits], [*rows, *unused, 0])
            each = converted[deltas].unflatten(0, (-1, 4))  # [rows, 4, ...]
            converted[deltas] = _rows(each, rows).flatten(0, 1)
            masks = f"branches.masks.head.predictor.{what}"
            if masks in converted:
                converted[masks] = _rows(converted[masks], rows)
    return converted


def _spelled_out(key: str) -> str:
    """Files from before torchvision 0.13 write the pyramid's blocks without the `.0`, and masks' layers from 1."""
    if key.count(".") == 4 and key.startswith(("backbone.fpn.inner_blocks.", "backbone.fpn.layer_blocks.")):
        return ".0.".join(key.rsplit(".", 1))
    of_masks = re.fullmatch(r"roi_heads\.mask_head\.mask_fcn([1-4])\.(weight|bias)", key)
    if of_masks:
        return f"roi_heads.mask_head.{int(of_masks[1]) - 1}.0.{of_masks[2]}"
    return key


def _renamed(key: str, names: dict[str, str], expected: str) -> str:
    for beginning, replacement in names.items():
        if key.startswith(beginning):
            return replacement + key[len(beginning) :]
    raise UsageError(f"The tensor {key!r} is not one of {expected}; these weights belong to another model.")


def _rows(classifier: Tensor, rows: Sequence[int]) -> Tensor:
    if len(classifier) <= max(rows):
        raise UsageError(
            f"The classifier has {counted(len(classifier), 'row')}, expected at least {max(rows) + 1} (COCO's ids up "
            f"to {max(rows)}); these weights were trained on other classes."
        )
    return classifier[list(rows)]


# Inverted residuals per stage of timm's mobilenetv2_100, in the order of torchvision's `features.1` to `features.17`.
MOBILENET_V2_STAGES = (1, 2, 3, 4, 3, 3, 1)
# Names inside an inverted residual, torchvision's -> timm's; the first one has no expansion.
_FIRST_RESIDUAL = {"conv.0.0.": "conv_dw.", "conv.0.1.": "bn1.", "conv.1.": "conv_pw.", "conv.2.": "bn2."}
_RESIDUAL = {
    **{"conv.0.0.": "conv_pw.", "conv.0.1.": "bn1.", "conv.1.0.": "conv_dw.", "conv.1.1.": "bn2."},
    **{"conv.2.": "conv_pwl.", "conv.3.": "bn3."},
}


def mobilenet_v2_from_torchvision(state: State) -> State:
    """The backbone of torchvision's `mobilenet_v2` under the names of `TimmBackbone("mobilenetv2_100")`.

    The last convolution (`features.18`) and the classifier are left out.
    """
    names = {"features.0.0.": "body.conv_stem.", "features.0.1.": "body.bn1."}
    blocks = [(stage, block) for stage, count in enumerate(MOBILENET_V2_STAGES) for block in range(count)]
    for index, (stage, block) in enumerate(blocks, start=1):
        for theirs, ours in (_FIRST_RESIDUAL if index == 1 else _RESIDUAL).items():
            names[f"features.{index}.{theirs}"] = f"body.blocks.{stage}.{block}.{ours}"
    kept = {key: value for key, value in state.items() if not key.startswith(("features.18.", "classifier."))}
    return {_renamed(key, names, "torchvision's mobilenet_v2"): value for key, value in kept.items()}


# The same of timm's mobilenetv3_large_100, in the order of torchvision's `features.1` to `features.15`.
MOBILENET_V3_STAGES = (1, 2, 3, 4, 2, 3)


def mobilenet_v3_from_torchvision(state: State) -> State:
    """The backbone of torchvision's `mobilenet_v3_large` under the names of `TimmBackbone("mobilenetv3_large_100")`.

    The classifier is left out. Its batch normalisation has an epsilon of 1e-3 (`norm_eps`), timm's of 1e-5, and so has
    that of torchvision's detectors on it.
    """
    names = {"features.0.0.": "body.conv_stem.", "features.0.1.": "body.bn1."}
    blocks = [(stage, block) for stage, count in enumerate(MOBILENET_V3_STAGES) for block in range(count)]
    for index, (stage, block) in enumerate(blocks, start=1):
        theirs, ours = f"features.{index}.block.", f"body.blocks.{stage}.{block}."
        squeezed = f"{theirs}2.fc1.weight" in state
        layers = ["conv_dw", "conv_pw"] if index == 1 else ["conv_pw", "conv_dw", "conv_pwl"]
        for number, layer in enumerate(layers):
            place = number + (squeezed and layer == "conv_pwl")  # squeeze-and-excitation stands before the projection
            names |= {f"{theirs}{place}.0.": f"{ours}{layer}.", f"{theirs}{place}.1.": f"{ours}bn{number + 1}."}
        names |= {f"{theirs}2.fc1.": f"{ours}se.conv_reduce.", f"{theirs}2.fc2.": f"{ours}se.conv_expand."}
    names |= {"features.16.0.": "body.blocks.6.0.conv.", "features.16.1.": "body.blocks.6.0.bn1."}
    kept = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    return {_renamed(key, names, "torchvision's mobilenet_v3_large"): value for key, value in kept.items()}
