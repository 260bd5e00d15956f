"""Mask R-CNN: Faster R-CNN that also says which cells of a detection's box are the object's.

Paper: He et al., "Mask R-CNN", ICCV 2017. `faster_rcnn.py` is the detector; here is the branch that masks are.

Forms of a mask (table 2b and section 4.2), by name:

==============  ===========  =====================================  ============================
name            maps         probability of a cell                  loss of a cell
==============  ===========  =====================================  ============================
``"sigmoid"``   one a class  sigmoid of the object's class's map    binary cross-entropy of it
``"agnostic"``  one          sigmoid of the only map                binary cross-entropy of it
``"softmax"``   C + 1        softmax over the classes and nothing   cross-entropy over all maps
==============  ===========  =====================================  ============================

How ours differs:
- What a region learns is RoIAlign of the object's bitmap, the cells of one half and more being the object's: the
  rule detectron2 has for bitmaps. Its polygons, and the authors', are drawn in the region's own grid. Torchvision's
  form learns the shares themselves.
- An object without a mask teaches none. Torchvision would teach that nothing of its box is the object.

Legend: R regions, C classes, S cells of a side, N boxes of one image.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Few, Layers, Width, checked_class
from aweigh.classes import Classes
from aweigh.errors import UsageError
from aweigh.heads.mask import FullyConnectedMaskHead, MaskHead
from aweigh.heads.regions import Learned
from aweigh.heads.rpn import RPN
from aweigh.layers import Norm
from aweigh.models.builders import Builder
from aweigh.models.faster_rcnn_forms import (
    C2_TO_C5,
    C4,
    C4_AND_C5,
    C5,
    DETECTRON2_C4,
    DETECTRON2_FPN,
    DETECTRON2_GN,
    DETECTRON2_RESNEXT,
    DILATED_C5,
    FROZEN_AT_0,
    TORCHVISION,
    TORCHVISION_V2,
    UNUSED_ROWS,
    on_c4,
    on_c5,
    on_pyramid,
)
from aweigh.ops.losses import world_mean
from aweigh.ops.masks import crop
from aweigh.structures import IMAGENET_STD
from aweigh.weights.convert.detectron2 import detectron2_record, faster_rcnn_from_detectron2
from aweigh.weights.convert.torchvision import faster_rcnn_from_torchvision, torchvision_record
from aweigh.weights.record import PublishedWeights, by_builder

Form = Literal["sigmoid", "softmax", "agnostic"]
Head = Literal["fcn", "2fc", "3fc"]


@checked_class()
class MaskBranch(nn.Module):
    """What `FasterRCNN` needs to find masks, `branches={"masks": MaskBranch(...)}`.

    Args:
        channels: of the features of regions.
        masks: the form, see above.
        head: `"fcn"`, the convolutions of `MaskHead`, or two or three fully connected layers before the last one
            (table 2e).
        convs, conv_width, width, norm: of the `MaskHead`; 0 convolutions behind the last stage of a ResNet (figure 4,
            left).
        size: cells of a side of the regions it reads; masks have twice as many as the features it is given.
        soft_targets: cells learn which share of them is the object's, not whether at least half is.
        aligned: RoIAlign of masks is shifted by half a pixel, as that of features should be.
        rounded: masks are pasted as torchvision does; see `aweigh.ops.masks`.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        masks: Form = "sigmoid",
        head: Head = "fcn",
        convs: Layers = 4,
        conv_width: Width | None = None,
        width: Width = 256,
        norm: Norm | None = None,
        size: Few = 14,
        soft_targets: bool = False,
        aligned: bool = True,
        rounded: bool = False,
    ) -> None:
        super().__init__()
        maps = {"sigmoid": num_classes, "softmax": num_classes + 1, "agnostic": 1}[masks]
        self.head = (
            MaskHead(channels, maps, convs=convs, conv_width=conv_width, width=width, norm=norm)
            if head == "fcn"
            else FullyConnectedMaskHead(channels, maps, size, layers=int(head[0]))
        )
        self.masks, self.size = masks, size
        self.soft_targets, self.aligned = soft_targets, aligned
        self.notes = {"masks_rounded": rounded}

    def forward(self, maps: Tensor) -> Tensor:
        """Features of regions `[R, channels, size, size]` to logits `[R, maps, S, S]`."""
        logits: Tensor = self.head(maps)
        return logits

    def loss(self, said: Tensor, learned: Learned) -> Tensor:
        """The mean over the cells of all regions whose object has a mask; a scalar, 0 without any.

        said: `[R, maps, S, S]`. `UsageError` for an image with objects, but no masks.
        """
        cells = said.shape[-1]
        goals, labels = [said.new_zeros(0, cells, cells)], [said.new_zeros(0, dtype=torch.int64)]
        counted = [said.new_zeros(0, dtype=torch.bool)]
        for image, (boxes, rows, target) in enumerate(learned):
            if not len(rows):
                continue
            if target.masks is None:
                raise UsageError(f"MaskBranch.loss: image {image} has objects, but no masks; give it data with masks.")
            goals.append(crop(target.masks, rows, boxes, cells, aligned=self.aligned))
            labels.append(target.labels[rows])
            counted.append(target.masks.flatten(1).any(dim=1)[rows])
        goal, there = torch.cat(goals), torch.cat(counted)
        goal = goal if self.soft_targets else (goal >= 0.5).to(goal.dtype)
        each = self.cell_losses(said.float(), torch.cat(labels), goal).mean(dim=(1, 2))  # [R]
        return torch.where(there, each, 0).sum() / world_mean(there.sum().float()).clamp(min=1)

    def cell_losses(self, said: Tensor, labels: Tensor, goal: Tensor) -> Tensor:
        """`[R, S, S]`, of logits `[R, maps, S, S]`, labels `[R]` and goals `[R, S, S]` in `[0, 1]`."""
        if self.masks == "softmax":
            logs = said.log_softmax(dim=1)
            return -goal * _of_class(logs, labels) - (1 - goal) * logs[:, -1]
        logits = said[:, 0] if self.masks == "agnostic" else _of_class(said, labels)
        return F.binary_cross_entropy_with_logits(logits, goal, reduction="none")

    def decode(self, said: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Probabilities `[R, S, S]` in the frame of each box, of logits `[R, maps, S, S]` and labels `[R]`."""
        if self.masks == "softmax":
            return _of_class(said.float().softmax(dim=1), labels)
        return (said[:, 0] if self.masks == "agnostic" else _of_class(said, labels)).float().sigmoid()


def _of_class(maps: Tensor, labels: Tensor) -> Tensor:
    """Of each region's maps `[R, maps, S, S]` that of its label: `[R, S, S]`."""
    return maps[torch.arange(maps.shape[0], device=maps.device), labels]


# Builders, and the weights others have published for them


def masks_of_pyramid(
    channels: int,
    classes: Classes,
    *,
    masks: Form = "sigmoid",
    mask_head: Head = "fcn",
    mask_width: Width | None = None,
    soft_targets: bool = False,
    rounded_masks: bool = False,
    aligned: bool = True,
    mask_norm: Norm | Literal["head"] | None = "head",
    head_norm: Norm | None = None,
) -> dict[str, nn.Module]:
    """The branch of a form on a pyramid or on C5; `aligned` is that of its features too.

    mask_head: see `MaskBranch`. mask_width: channels of its 3x3 convolutions, None for as many as come in. mask_norm:
    what normalises these; `"head"`: the `head_norm` that is given, none where none is.
    """
    branch = MaskBranch(
        channels,
        len(classes),
        masks=masks,
        head=mask_head,
        conv_width=mask_width,
        norm=head_norm if mask_norm == "head" else mask_norm,
        soft_targets=soft_targets,
        aligned=aligned,
        rounded=rounded_masks,
    )
    return {"masks": branch}


def masks_of_c4(channels: int, classes: Classes, *, masks: Form = "sigmoid") -> dict[str, nn.Module]:
    """The branch of a form on C4, 14 x 14 cells, which has only the deconvolution (figure 4, left)."""
    return {"masks": MaskBranch(channels, len(classes), masks=masks, convs=0)}


_on_pyramid = partial(Builder, on_pyramid, parts={"proposer": RPN, "branches": masks_of_pyramid})
_on_c4 = partial(Builder, on_c4, parts={"proposer": RPN, "branches": masks_of_c4})
_on_c5 = partial(Builder, on_c5, parts={"proposer": RPN, "branches": masks_of_pyramid})
_OF_C5 = {"mask_width": 256}  # C5 has 2,048
_OF_TORCHVISION = {"soft_targets": True, "rounded_masks": True}

BUILDERS = {
    **{f"mask_rcnn_{name}_fpn": _on_pyramid(backbone) for name, backbone in C2_TO_C5.items()},
    **{f"mask_rcnn_{name}_c4": _on_c4(backbone, C4) for name, backbone in C4_AND_C5.items()},
    "mask_rcnn_resnet50_c5": _on_c5(C5, C4 | _OF_C5),
    "mask_rcnn_resnet50_fpn_torchvision": _on_pyramid(C2_TO_C5["resnet50"], TORCHVISION | _OF_TORCHVISION),
    "mask_rcnn_resnet50_fpn_v2_torchvision": _on_pyramid(C2_TO_C5["resnet50"], TORCHVISION_V2 | _OF_TORCHVISION),
    "mask_rcnn_resnet50_fpn_detectron2": _on_pyramid(C2_TO_C5["resnet50"], DETECTRON2_FPN),
    "mask_rcnn_resnet101_fpn_detectron2": _on_pyramid(C2_TO_C5["resnet101"], DETECTRON2_FPN),
    "mask_rcnn_resnext101_32x8d_fpn_detectron2": _on_pyramid(C2_TO_C5["resnext101_32x8d"], DETECTRON2_RESNEXT),
    "mask_rcnn_resnet50_c4_detectron2": _on_c4(C4_AND_C5["resnet50"], DETECTRON2_C4),
    "mask_rcnn_resnet101_c4_detectron2": _on_c4(C4_AND_C5["resnet101"], DETECTRON2_C4),
    "mask_rcnn_resnet50_fpn_gn_detectron2": _on_pyramid(C2_TO_C5["resnet50"], DETECTRON2_GN),
    **{f"mask_rcnn_{name}_dc5_detectron2": _on_c5(body, DETECTRON2_C4 | _OF_C5) for name, body in DILATED_C5.items()},
}


def _torchvision(name: str, form: str, file: str, boxes: float, masks: float, **arguments: Any) -> PublishedWeights:
    builder, metrics = f"mask_rcnn_{form}_torchvision", {"AP": boxes, "mask AP": masks}
    convert = faster_rcnn_from_torchvision
    return torchvision_record(name, builder, file, metrics, convert, unused_rows=UNUSED_ROWS, **arguments)


def _detectron2(name: str, form: str, run: str, boxes: float, masks: float, **arguments: Any) -> PublishedWeights:
    run = run if run.startswith("Misc/") else f"COCO-InstanceSegmentation/mask_rcnn_{run}"
    builder, metrics = f"mask_rcnn_{form}_detectron2", {"AP": boxes, "mask AP": masks}
    return detectron2_record(name, run, builder, metrics, faster_rcnn_from_detectron2, **arguments)


def _group_normalised(
    name: str, run: str, boxes: float, masks: float, *, frozen_stages: int, **arguments: Any
) -> PublishedWeights:
    arguments |= {"backbone_norm": "gn_32", "frozen_stages": frozen_stages}
    return _detectron2(name, "resnet50_fpn_gn", f"Misc/{run}", boxes, masks, **arguments)


_FIRST = _torchvision(
    "torchvision", "resnet50_fpn", "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", 37.9, 34.6, **FROZEN_AT_0
)
_SECOND = _torchvision("torchvision_v2", "resnet50_fpn_v2", "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth", 47.4, 41.8)
PUBLISHED = {
    **by_builder(
        _FIRST,
        _SECOND,
        _detectron2("3x", "resnet50_fpn", "R_50_FPN_3x/137849600/model_final_f10217.pkl", 41.0, 37.2),
        _detectron2("1x", "resnet50_fpn", "R_50_FPN_1x/137260431/model_final_a54504.pkl", 38.6, 35.2),
        _detectron2("3x", "resnet101_fpn", "R_101_FPN_3x/138205316/model_final_a3ec72.pkl", 42.9, 38.6),
        _detectron2("3x", "resnext101_32x8d_fpn", "X_101_32x8d_FPN_3x/139653917/model_final_2d9806.pkl", 44.3, 39.5),
        _detectron2("3x", "resnet50_c4", "R_50_C4_3x/137849525/model_final_4ce675.pkl", 39.8, 34.4),
        _detectron2("1x", "resnet50_c4", "R_50_C4_1x/137259246/model_final_9243eb.pkl", 36.8, 32.2),
        _detectron2("3x", "resnet101_c4", "R_101_C4_3x/138363239/model_final_a2914c.pkl", 42.6, 36.7),
        _group_normalised(
            "3x", "mask_rcnn_R_50_FPN_3x_gn/138602888/model_final_dc5d9e.pkl", 42.6, 38.6, frozen_stages=2
        ),
        _group_normalised(
            "scratch_3x",
            "scratch_mask_rcnn_R_50_FPN_3x_gn/138602908/model_final_01ca85.pkl",
            39.9,
            36.6,
            frozen_stages=0,
        ),
        _group_normalised(
            "scratch_9x",
            "scratch_mask_rcnn_R_50_FPN_9x_gn/183808979/model_final_da7b4c.pkl",
            43.7,
            39.6,
            frozen_stages=0,
            pixel_std=IMAGENET_STD,
        ),
        _detectron2("3x", "resnet50_dc5", "R_50_DC5_3x/137849551/model_final_84107b.pkl", 40.0, 35.9),
        _detectron2("1x", "resnet50_dc5", "R_50_DC5_1x/137260150/model_final_4f86c3.pkl", 38.3, 34.2),
        _detectron2("3x", "resnet101_dc5", "R_101_DC5_3x/138363294/model_final_0464b7.pkl", 41.9, 37.3),
    ),
    "mask_rcnn_resnet50_fpn": {"torchvision_v2": _SECOND, "torchvision": _FIRST},
}
