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

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Layers, Width, checked_class, parameters, passes_on
from aweigh.classes import Classes, GivenKeypoints, KeypointSet
from aweigh.heads.keypoint import KeypointHead
from aweigh.heads.regions import Learned
from aweigh.heads.rpn import RPN
from aweigh.models.builders import Builder
from aweigh.models.faster_rcnn_forms import (
    C2_TO_C5,
    DETECTRON2_FPN,
    DETECTRON2_RESNEXT,
    FROZEN_AT_0,
    TORCHVISION,
    on_pyramid,
)
from aweigh.models.mask_rcnn import masks_of_pyramid
from aweigh.ops.keypoints import NOWHERE, cells_of_points, checked_keypoints, highest_pixels
from aweigh.ops.losses import world_mean
from aweigh.weights.coco import PERSON
from aweigh.weights.convert.detectron2 import detectron2_record, faster_rcnn_from_detectron2
from aweigh.weights.convert.torchvision import faster_rcnn_from_torchvision, torchvision_record
from aweigh.weights.record import PublishedWeights, by_builder


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

    def loss(self, said: Tensor, learned: Learned) -> Tensor:
        """Cross-entropy over the cells of each map, the mean over all labelled keypoints in their region.

        said: `[R, K, S, S]`. Returns a scalar, 0 without any such keypoint; `UsageError` for objects without keypoints.
        """
        number, size = said.shape[1], said.shape[-1]
        cells = [said.new_zeros(0, number, dtype=torch.int64)]
        for image, (boxes, rows, target) in enumerate(learned):
            if len(rows):
                keypoints = checked_keypoints(target.keypoints, number, image=image, what="KeypointBranch.loss")
                cells.append(cells_of_points(keypoints[rows], boxes, size))
        goal = torch.cat(cells).flatten()  # [R * K]
        logits = said.float().flatten(2).flatten(0, 1)  # [R * K, S * S]
        total = F.cross_entropy(logits, goal, ignore_index=NOWHERE, reduction="sum")
        return total / world_mean((goal != NOWHERE).sum().float()).clamp(min=1)

    def decode(self, said: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """`[R, K, 3]`, x and y in pixels and the logit there, of maps `[R, K, S, S]` in boxes `[R, 4]`."""
        return highest_pixels(said.float(), boxes)


# Builders, and the weights others have published for them


def keypoints_of_pyramid(
    channels: int,
    classes: Classes,
    *,
    keypoints: GivenKeypoints = None,
    keypoint_convs: Layers = 8,
    keypoint_width: Width = 512,
) -> dict[str, nn.Module]:
    """The branch of a form on a pyramid. keypoints: what they are. keypoint_convs, keypoint_width: of the head."""
    keypoint_set = KeypointSet.of(keypoints)
    return {"keypoints": KeypointBranch(channels, keypoint_set, convs=keypoint_convs, width=keypoint_width)}


@passes_on(masks_of_pyramid, keypoints_of_pyramid)
def masks_and_keypoints_of_pyramid(channels: int, classes: Classes, **settings: Any) -> dict[str, nn.Module]:
    """Both branches, side by side on the same regions (section 5, table 4). Settings: those of either."""
    said: dict[str, nn.Module] = {}
    for make in (masks_of_pyramid, keypoints_of_pyramid):
        said |= make(channels, classes, **{name: settings[name] for name in settings.keys() & parameters(make).keys()})
    return said


# Detectron2's learns from 1,500 proposals, and deltas of regions by smooth L1, for the sake of keypoints.
_SMOOTH = {"train_proposals": (2000, 1500), "beta": 0.5, "rpn_beta": 0.0}

_on_pyramid = partial(Builder, on_pyramid, parts={"proposer": RPN, "branches": keypoints_of_pyramid}, classes=PERSON)

_BOTH: dict[str, Callable[..., Any]] = {"proposer": RPN, "branches": masks_and_keypoints_of_pyramid}

BUILDERS = {
    "keypoint_rcnn_resnet18_fpn": _on_pyramid(C2_TO_C5["resnet18"]),
    "keypoint_rcnn_resnet50_fpn": _on_pyramid(C2_TO_C5["resnet50"]),
    "keypoint_rcnn_resnet101_fpn": _on_pyramid(C2_TO_C5["resnet101"]),
    "keypoint_rcnn_resnet50_fpn_torchvision": _on_pyramid(C2_TO_C5["resnet50"], TORCHVISION),
    "keypoint_rcnn_resnet50_fpn_detectron2": _on_pyramid(C2_TO_C5["resnet50"], DETECTRON2_FPN | _SMOOTH),
    "keypoint_rcnn_resnet101_fpn_detectron2": _on_pyramid(C2_TO_C5["resnet101"], DETECTRON2_FPN | _SMOOTH),
    "keypoint_rcnn_resnext101_32x8d_fpn_detectron2": _on_pyramid(
        C2_TO_C5["resnext101_32x8d"], DETECTRON2_RESNEXT | _SMOOTH
    ),
    "mask_keypoint_rcnn_resnet18_fpn": Builder(on_pyramid, C2_TO_C5["resnet18"], parts=_BOTH, classes=PERSON),
    "mask_keypoint_rcnn_resnet50_fpn": Builder(on_pyramid, C2_TO_C5["resnet50"], parts=_BOTH, classes=PERSON),
}


def _torchvision(
    name: str, digest: str, boxes: float, keypoints: float, source: str, **arguments: Any
) -> PublishedWeights:
    file = f"keypointrcnn_resnet50_fpn_coco-{digest}.pth"
    convert = partial(faster_rcnn_from_torchvision, keep_rows=None)  # it has no rows of no class
    builder, metrics = "keypoint_rcnn_resnet50_fpn_torchvision", {"AP": boxes, "keypoint AP": keypoints}
    record = torchvision_record(name, builder, file, metrics, convert, **arguments)
    return replace(record, classes=PERSON, source=f"torchvision, keypointrcnn_resnet50_fpn, {source}")


def _detectron2(name: str, form: str, run: str, boxes: float, keypoints: float) -> PublishedWeights:
    run, builder = f"COCO-Keypoints/keypoint_rcnn_{run}", f"keypoint_rcnn_{form}_detectron2"
    metrics = {"AP": boxes, "keypoint AP": keypoints}
    return replace(detectron2_record(name, run, builder, metrics, faster_rcnn_from_detectron2), classes=PERSON)


_FIRST = _torchvision("torchvision", "fc266e95", 54.6, 65.0, "COCO_V1, trained on COCO train2017", **FROZEN_AT_0)
_LEGACY = _torchvision(
    "torchvision_legacy",
    "9f466800",
    50.6,
    61.1,
    "COCO_LEGACY, trained on COCO train2017, from an early epoch",
    backbone_norm="frozen_bn",
)
PUBLISHED = {
    **by_builder(
        _FIRST,
        _LEGACY,
        _detectron2("3x", "resnet50_fpn", "R_50_FPN_3x/137849621/model_final_a6e10b.pkl", 55.4, 65.5),
        _detectron2("1x", "resnet50_fpn", "R_50_FPN_1x/137261548/model_final_04e291.pkl", 53.6, 64.0),
        _detectron2("3x", "resnet101_fpn", "R_101_FPN_3x/138363331/model_final_997cc7.pkl", 56.4, 66.1),
        _detectron2("3x", "resnext101_32x8d_fpn", "X_101_32x8d_FPN_3x/139686956/model_final_5ad38f.pkl", 57.3, 66.0),
    ),
    "keypoint_rcnn_resnet50_fpn": {"torchvision": _FIRST, "torchvision_legacy": _LEGACY},
}
