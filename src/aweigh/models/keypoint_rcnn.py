"""Keypoint R-CNN: Faster R-CNN that also says where the keypoints of each detection are, such as a person's joints.

Paper: He et al., "Mask R-CNN", ICCV 2017, section 5. `faster_rcnn.py` is the detector; here is the branch that finds
them: of each keypoint a map over the region, one cell of which is the right class among all.

How ours differs:
- A keypoint is where torchvision has it, at the highest pixel of the map resized to the box, but no map is resized (see
  `ops/keypoints.py`): shapes and memory do not depend on the size of a box. Up to 224 pixels a side all are looked at;
  in a larger box all near the best of 224 x 224.
- The score of a keypoint is torchvision's, the logit of that pixel: any number. The paper names none; detectron2 gives
  its probability among all cells. COCO's measure asks for neither.
- The loss is divided by the keypoints that learn, those of all training processes together.

Legend: R regions, K keypoints, S cells of a map's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Layers, Width, checked, checked_class
from aweigh.backbones import TIMM_OPTIONS, Backbone, take_timm
from aweigh.classes import Classes, GivenKeypoints, KeypointSet
from aweigh.errors import UsageError
from aweigh.heads.keypoint import KeypointHead
from aweigh.models.faster_rcnn import (
    DETECTRON2,
    FROZEN_AT_0,
    TORCHVISION,
    FasterRCNN,
    on_pyramid,
    published_by_torchvision,
)
from aweigh.ops.keypoints import NOWHERE, cells_of_points, highest_pixels
from aweigh.ops.losses import world_mean
from aweigh.structures import IMAGENET_STD, Targets
from aweigh.weights.coco import PERSON
from aweigh.weights.convert.detectron2 import detectron2_record, faster_rcnn_from_detectron2
from aweigh.weights.convert.torchvision import faster_rcnn_from_torchvision
from aweigh.weights.record import PublishedWeights


@checked_class()
class KeypointBranch(nn.Module):
    """What `FasterRCNN` needs to find keypoints, `branches={"keypoints": KeypointBranch(...)}`.

    channels: of the features of regions. keypoint_set: what the K keypoints are. convs, width: of the `KeypointHead`.
    """

    size = 14

    def __init__(self, channels: int, keypoint_set: KeypointSet, *, convs: Layers = 8, width: Width = 512) -> None:
        super().__init__()
        self.head = KeypointHead(channels, len(keypoint_set), convs=convs, width=width)
        self.notes = {"keypoint_set": keypoint_set}

    def forward(self, maps: Tensor) -> Tensor:
        """Features of regions `[R, channels, 14, 14]` to logits `[R, K, 56, 56]`."""
        logits: Tensor = self.head(maps)
        return logits

    def loss(
        self, said: Tensor, regions: Sequence[Tensor], index: Sequence[Tensor], targets: Sequence[Targets]
    ) -> Tensor:
        """Cross-entropy over the cells of each map, the mean over all labelled keypoints in their region.

        said: `[R, K, S, S]`. regions, index: of each image the regions that hold an object `[R_i, 4]`, and its row
        `[R_i]`. Returns a scalar, 0 without any such keypoint; `UsageError` for objects without keypoints.
        """
        number, size = said.shape[1], said.shape[-1]
        cells = [index[0].new_zeros(0, number)]
        for image, (boxes, rows, target) in enumerate(zip(regions, index, targets, strict=True)):
            if not len(rows):
                continue
            given = None if target.keypoints is None else tuple(target.keypoints.shape[1:])
            if target.keypoints is None or given != (number, 3):
                got = "none" if given is None else f"[N, {given[0]}, {given[1]}]"
                raise UsageError(
                    f"KeypointBranch.loss: the objects of image {image} need keypoints [N, {number}, 3], got {got}; "
                    "give data with keypoints, and build the model with the `keypoints` they have."
                )
            cells.append(cells_of_points(target.keypoints[rows], boxes, size))
        goal = torch.cat(cells).flatten()  # [R * K]
        logits = said.float().flatten(2).flatten(0, 1)  # [R * K, S * S]
        total = F.cross_entropy(logits, goal, ignore_index=NOWHERE, reduction="sum")
        return total / world_mean((goal != NOWHERE).sum().float()).clamp(min=1)

    def decode(self, said: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """`[R, K, 3]`, x and y in pixels and the logit there, of maps `[R, K, S, S]` in boxes `[R, 4]`."""
        return highest_pixels(said.float(), boxes)


# Builders


@checked(on_pyramid, without=("branches",))
def on_pyramid_with_keypoints(
    backbone: Backbone,
    classes: Classes,
    *,
    keypoints: GivenKeypoints = None,
    keypoint_convs: Layers = 8,
    keypoint_width: Width = 512,
    channels: Width = 256,
    **options: Any,
) -> FasterRCNN:
    """Faster R-CNN's `on_pyramid`, with its options and a `KeypointBranch`.

    keypoints: what they are. keypoint_convs, keypoint_width: of the `KeypointHead`.
    """
    keypoint_set = KeypointSet.of(keypoints)
    branch = KeypointBranch(channels, keypoint_set, convs=keypoint_convs, width=keypoint_width)
    return on_pyramid(backbone, classes, channels=channels, branches={"keypoints": branch}, **options)


def _timm(name: str, classes: Classes, options: dict[str, Any]) -> FasterRCNN:
    return on_pyramid_with_keypoints(take_timm(name, options, levels=(2, 3, 4, 5)), classes, **options)


@checked(on_pyramid_with_keypoints, TIMM_OPTIONS)
def keypoint_rcnn_resnet18_fpn(
    *, classes: Classes = PERSON, keypoints: GivenKeypoints = None, **options: Any
) -> FasterRCNN:
    """Keypoint R-CNN on ResNet-18. Options: those of `on_pyramid_with_keypoints` and `TIMM_OPTIONS`."""
    return _timm("resnet18", classes, {"keypoints": keypoints, **options})


@checked(on_pyramid_with_keypoints, TIMM_OPTIONS)
def keypoint_rcnn_resnet50_fpn(
    *, classes: Classes = PERSON, keypoints: GivenKeypoints = None, **options: Any
) -> FasterRCNN:
    """Keypoint R-CNN on ResNet-50. Options as `keypoint_rcnn_resnet18_fpn`."""
    return _timm("resnet50", classes, {"keypoints": keypoints, **options})


@checked(on_pyramid_with_keypoints, TIMM_OPTIONS)
def keypoint_rcnn_resnet101_fpn(
    *, classes: Classes = PERSON, keypoints: GivenKeypoints = None, **options: Any
) -> FasterRCNN:
    """Keypoint R-CNN on ResNet-101. Options as `keypoint_rcnn_resnet18_fpn`."""
    return _timm("resnet101", classes, {"keypoints": keypoints, **options})


@checked(on_pyramid_with_keypoints, TIMM_OPTIONS)
def keypoint_rcnn_resnet50_fpn_torchvision(
    *, classes: Classes = PERSON, keypoints: GivenKeypoints = None, **options: Any
) -> FasterRCNN:
    """Torchvision's `keypointrcnn_resnet50_fpn`: AP 54.6 of boxes and 65.0 of keypoints with its weights.

    Options as `keypoint_rcnn_resnet18_fpn`.
    """
    return _timm("resnet50", classes, {**TORCHVISION, "keypoints": keypoints, **options})


# Detectron2's learns from 1,500 proposals, and deltas of regions by smooth L1, for the sake of keypoints.
DETECTRON2_KEYPOINTS: dict[str, Any] = {**DETECTRON2, "train_proposals": (2000, 1500), "beta": 0.5, "rpn_beta": 0.0}


@checked(on_pyramid_with_keypoints, TIMM_OPTIONS)
def keypoint_rcnn_resnet50_fpn_detectron2(
    *, classes: Classes = PERSON, keypoints: GivenKeypoints = None, **options: Any
) -> FasterRCNN:
    """Detectron2's Keypoint R-CNN on MSRA's ResNet-50: AP 53.6 of boxes and 64.0 of keypoints after its 1x schedule,
    55.4 and 65.5 after 3x. Options as `keypoint_rcnn_resnet18_fpn`."""
    return _timm("resnet50", classes, {**DETECTRON2_KEYPOINTS, "keypoints": keypoints, **options})


@checked(on_pyramid_with_keypoints, TIMM_OPTIONS)
def keypoint_rcnn_resnet101_fpn_detectron2(
    *, classes: Classes = PERSON, keypoints: GivenKeypoints = None, **options: Any
) -> FasterRCNN:
    """Detectron2's Keypoint R-CNN on MSRA's ResNet-101: AP 56.4 of boxes and 66.1 of keypoints after its 3x schedule.
    Options as `keypoint_rcnn_resnet18_fpn`."""
    return _timm("resnet101", classes, {**DETECTRON2_KEYPOINTS, "keypoints": keypoints, **options})


@checked(on_pyramid_with_keypoints, TIMM_OPTIONS)
def keypoint_rcnn_resnext101_32x8d_fpn_detectron2(
    *, classes: Classes = PERSON, keypoints: GivenKeypoints = None, **options: Any
) -> FasterRCNN:
    """Detectron2's Keypoint R-CNN on ResNeXt-101 32x8d: AP 57.3 of boxes and 66.0 of keypoints after its 3x schedule.
    Options as `keypoint_rcnn_resnet18_fpn`."""
    own = {"stride_in_1x1": False, "pixel_std": IMAGENET_STD}
    return _timm("resnext101_32x8d", classes, {**DETECTRON2_KEYPOINTS, **own, "keypoints": keypoints, **options})


BUILDERS = {
    build.__name__: build
    for build in (
        keypoint_rcnn_resnet18_fpn,
        keypoint_rcnn_resnet50_fpn,
        keypoint_rcnn_resnet101_fpn,
        keypoint_rcnn_resnet50_fpn_torchvision,
        keypoint_rcnn_resnet50_fpn_detectron2,
        keypoint_rcnn_resnet101_fpn_detectron2,
        keypoint_rcnn_resnext101_32x8d_fpn_detectron2,
    )
}


def _published(name: str, file: str, metrics: dict[str, float], source: str, **arguments: Any) -> PublishedWeights:
    builder = "keypoint_rcnn_resnet50_fpn_torchvision"
    record = published_by_torchvision(name, builder, file, metrics, unused_rows=0, **arguments)
    convert = partial(faster_rcnn_from_torchvision, keep_rows=None)
    return replace(record, classes=PERSON, convert=convert, source=f"torchvision, keypointrcnn_resnet50_fpn, {source}")


def _of_zoo(name: str, form: str, run: str, boxes: float, keypoints: float) -> PublishedWeights:
    run, builder = f"COCO-Keypoints/keypoint_rcnn_{run}", f"keypoint_rcnn_{form}_detectron2"
    metrics = {"AP": boxes, "keypoint AP": keypoints}
    return replace(detectron2_record(name, run, builder, metrics, faster_rcnn_from_detectron2), classes=PERSON)


_OF_TORCHVISION = (
    _published(
        *("torchvision", "keypointrcnn_resnet50_fpn_coco-fc266e95.pth", {"AP": 54.6, "keypoint AP": 65.0}),
        "COCO_V1, trained on COCO train2017",
        **FROZEN_AT_0,
    ),
    _published(
        *("torchvision_legacy", "keypointrcnn_resnet50_fpn_coco-9f466800.pth", {"AP": 50.6, "keypoint AP": 61.1}),
        "COCO_LEGACY, trained on COCO train2017, from an early epoch",
        backbone_norm="frozen_bn",
    ),
)
_OF_ZOO = (
    _of_zoo("3x", "resnet50_fpn", "R_50_FPN_3x/137849621/model_final_a6e10b.pkl", 55.4, 65.5),
    _of_zoo("1x", "resnet50_fpn", "R_50_FPN_1x/137261548/model_final_04e291.pkl", 53.6, 64.0),
    _of_zoo("3x", "resnet101_fpn", "R_101_FPN_3x/138363331/model_final_997cc7.pkl", 56.4, 66.1),
    _of_zoo("3x", "resnext101_32x8d_fpn", "X_101_32x8d_FPN_3x/139686956/model_final_5ad38f.pkl", 57.3, 66.0),
)
PUBLISHED: dict[str, dict[str, PublishedWeights]] = {}
for _record in (*_OF_TORCHVISION, *_OF_ZOO):
    PUBLISHED.setdefault(_record.builder, {})[_record.name] = _record
PUBLISHED["keypoint_rcnn_resnet50_fpn"] = {record.name: record for record in _OF_TORCHVISION}
