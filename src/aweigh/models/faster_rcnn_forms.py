"""Forms of Faster R-CNN: on a pyramid, on one map of a ResNet, on VGG-16; and the weights others have published.

Forms on a pyramid, each a set of plain values:

==================  ===================  ======================  ====================  ======================
value               default              torchvision v1          torchvision v2        detectron2
==================  ===================  ======================  ====================  ======================
pyramid             no normalisation     no normalisation        batch norm.           no normalisation
proposal network    one 3x3 convolution  one 3x3 convolution     two                   one 3x3 convolution
its loss, over      anchors sampled      the same                the same              256 an image
box loss            smooth L1            the same                the same              L1
box head            two fully connected  two fully connected     4 conv, 1 fully con.  two fully connected
anchors             exact                whole pixels            whole pixels          exact
step of a cell      its stride           padded // grid          padded // grid        its stride
RoIAlign            by half a pixel,     not shifted,            not shifted,          by half a pixel,
                    2 x 2 points         2 x 2 points            2 x 2 points          one for each pixel
proposals learned   2,000                2,000                   2,000                 1,000
backbone            ImageNet             ImageNet                ImageNet              stride in the 1x1, BGR
==================  ===================  ======================  ====================  ======================

Forms on one map:

=============  ==========================  =======================  =================================
value          C4 (ResNet)                 C5 (ResNet)              VGG-16 (the first papers)
=============  ==========================  =======================  =================================
stride         16                          32; dilated (DC5): 16    16
anchors        32, 64 ... 512 px, 3 ratios  as C4                    128, 256, 512 px, 3 ratios
regions        RoIAlign, 14 x 14           RoIAlign, 7 x 7          RoIPool, 7 x 7
suppression    IoU above 0.5               as C4                    IoU above 0.3
second stage   the last stage, its mean    two fully connected      the backbone's two fully connected
proposals      12,000 and 2,000            as C4                    12,000 and 2,000
when tested    6,000 and 1,000             as C4                    6,000 and 300
=============  ==========================  =======================  =================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from torch import nn

from aweigh.arguments import Few, Layers, Number, Share, Width, passes_on
from aweigh.backbones import DEEP_SHUFFLENETS, Backbone, dilated_c5, mobilenet_v3_ends, timm_backbone
from aweigh.backbones.timm import TimmBackbone, take_last_stage
from aweigh.classes import Classes
from aweigh.heads.box import AverageHead, BoxPredictor, ConvFCHead, TwoFCHead
from aweigh.heads.rpn import RPN, MakeProposer
from aweigh.layers import Norm
from aweigh.models.builders import Builder, on_each
from aweigh.models.faster_rcnn import FasterRCNN
from aweigh.necks import NeckFusion, NeckName, make_neck
from aweigh.ops.roi import Pool, region_pooling
from aweigh.structures import IMAGENET_STD
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.convert.detectron2 import (
    DETECTRON2_MEAN,
    DETECTRON2_STD,
    detectron2_record,
    faster_rcnn_from_detectron2,
)
from aweigh.weights.convert.torchvision import faster_rcnn_from_torchvision, torchvision_record
from aweigh.weights.record import PublishedWeights, by_builder

MakeBranches = Callable[[int, Classes], Mapping[str, nn.Module]]  # of the channels of regions and the classes


@passes_on(FasterRCNN)
def on_pyramid(
    backbone: Backbone,
    classes: Classes,
    coarser: int = 1,
    *,
    proposer: MakeProposer,
    branches: MakeBranches | None = None,
    channels: Width = 256,
    neck: NeckName = "fpn",
    neck_norm: Norm | None = None,
    neck_repeats: Layers | None = None,
    neck_fusion: NeckFusion | None = None,
    levels_read: Few | None = None,
    pool: Pool = "align",
    box_head: Literal["2fc", "4conv1fc"] = "2fc",
    head_norm: Norm | None = "gn",
    box_size: Few = 7,
    samples: Layers = 2,
    aligned: bool = True,
    unused_rows: Number = 0,
    **settings: Any,
) -> FasterRCNN:
    """On any backbone with several levels, such as four at strides 4 to 32. Settings: those of `FasterRCNN`.

    coarser: levels above the backbone's maps, which are proposed on alone. channels: of every level. levels_read: from
    how many of the others regions are read; None: from all. pool: how, see `region_pooling`; samples, aligned: of
    RoIAlign. box_head: two fully connected layers, or four convolutions with `head_norm` and one. unused_rows: of the
    `BoxPredictor`.
    """
    said = branches(channels, classes) if branches else None
    levels = len(backbone.strides) + coarser
    pyramid = make_neck(
        neck, backbone, channels, levels, top="pool", norm=neck_norm, repeats=neck_repeats, fusion=neck_fusion
    )
    proposes = proposer(channels, pyramid.strides)
    read = region_pooling(
        pool, pyramid.strides[: len(backbone.strides)][:levels_read], samples=samples, aligned=aligned
    )
    head = TwoFCHead(channels, box_size) if box_head == "2fc" else ConvFCHead(channels, box_size, norm=head_norm)
    predictor = BoxPredictor(head.width, len(classes), unused_rows=unused_rows)
    parts = (backbone, pyramid, proposes, read, head, predictor)
    return FasterRCNN(*parts, classes=classes, box_size=box_size, branches=said, **settings)


@passes_on(FasterRCNN, without=("region_body", "classification_layers"))
def on_c4(
    backbone: TimmBackbone,
    classes: Classes,
    *,
    proposer: MakeProposer,
    branches: MakeBranches | None = None,
    box_size: Few = 14,
    pool: Pool = "align",
    samples: Layers = 2,
    aligned: bool = True,
    **settings: Any,
) -> FasterRCNN:
    """On the map at stride 16 of a ResNet with levels 4 and 5, whose last stage reads the regions (He et al. 2016,
    appendix A). Settings: those of `FasterRCNN`; the others as in `on_pyramid`."""
    channels, width = backbone.channels
    stage = take_last_stage(backbone)
    proposes = proposer(channels, backbone.strides)
    read = region_pooling(pool, backbone.strides, samples=samples, aligned=aligned)
    parts = (backbone, None, proposes, read, AverageHead(width), BoxPredictor(width, len(classes)))
    return FasterRCNN(
        *parts,
        classes=classes,
        box_size=box_size,
        region_body=stage,
        classification_layers={"layer4": "region_body"},
        branches=branches(width, classes) if branches else None,
        **settings,
    )


@passes_on(FasterRCNN, without=("region_body", "classification_layers"))
def on_c5(
    backbone: TimmBackbone,
    classes: Classes,
    *,
    proposer: MakeProposer,
    branches: MakeBranches | None = None,
    pool: Pool = "align",
    box_size: Few = 7,
    samples: Layers = 2,
    aligned: bool = True,
    **settings: Any,
) -> FasterRCNN:
    """On the last map of a ResNet, at stride 32 or, dilated, at 16. Its last stage is no head then: the heads are those
    of `on_pyramid` (He et al. 2017, Mask R-CNN, table 2d). Settings: those of `FasterRCNN`; the others as there."""
    (channels,) = backbone.channels
    head = TwoFCHead(channels, box_size)
    return FasterRCNN(
        *(backbone, None, proposer(channels, backbone.strides)),
        *(region_pooling(pool, backbone.strides, samples=samples, aligned=aligned), head),
        BoxPredictor(head.width, len(classes)),
        classes=classes,
        box_size=box_size,
        branches=branches(channels, classes) if branches else None,
        **settings,
    )


@passes_on(FasterRCNN, without=("box_size", "region_body", "classification_layers", "branches"))
def on_vgg16(
    backbone: TimmBackbone,
    classes: Classes,
    *,
    proposer: MakeProposer,
    pool: Pool = "pool",
    head_width: Width = 4096,
    nms_threshold: Share = 0.3,  # R-CNN's, as Girshick 2015 has it (section 3); TEST.NMS in both papers' code
    **settings: Any,
) -> FasterRCNN:
    """On the last map of VGG-16 before its last pooling, with its two fully connected layers, which ImageNet's weights
    fill where `head_width` is theirs.

    pool: RoIPool (Girshick 2015, section 2.1), or another, see `region_pooling`. Settings: those of `FasterRCNN`.
    """
    (channels,) = backbone.channels
    proposes = proposer(channels, backbone.strides)
    read = region_pooling(pool, backbone.strides)
    head, predictor = TwoFCHead(channels, 7, width=head_width), BoxPredictor(head_width, len(classes))
    return FasterRCNN(
        *(backbone, None, proposes, read, head, predictor),
        classes=classes,
        classification_layers=VGG16_LAYERS if head_width == 4096 else {},
        nms_threshold=nms_threshold,
        **settings,
    )


_BODIES = ("resnet18", "resnet50", "resnet101", "resnext101_32x8d")
C2_TO_C5: dict[str, Callable[..., Backbone]] = {
    **{name: partial(timm_backbone, name, (2, 3, 4, 5)) for name in _BODIES},
    **{name: partial(build, levels=(2, 3, 4, 5)) for name, build in DEEP_SHUFFLENETS.items()},
}
C4_AND_C5 = {name: partial(timm_backbone, name, (4, 5)) for name in ("resnet50", "resnet101")}
C5 = partial(timm_backbone, "resnet50", (5,))
DILATED_C5 = {name: partial(dilated_c5, name) for name in ("resnet50", "resnet101")}
VGG16 = partial(timm_backbone, "vgg16", (4,))  # behind the ReLU of conv5_3
VGG16_LAYERS = {"classifier_0": "box_head.fc6", "classifier_3": "box_head.fc7"}

_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)  # of anchors, pixels
C4 = {"anchor_sizes": _SIZES, "train_proposals": (12000, 2000), "test_proposals": (6000, 1000)}
_VGG16 = {
    "anchor_sizes": (128.0, 256.0, 512.0),  # Ren et al. 2015, section 3.1.1
    "train_proposals": (12000, 2000),
    "test_proposals": (6000, 300),  # section 3.3
    "sampled": 128,
    "beta": 1.0,
    "rpn_beta": 1 / 9,  # sigma 3 in the authors' code
}
TORCHVISION = {"rounded_anchors": True, "fitted_steps": True, "aligned": False}
TORCHVISION_V2 = TORCHVISION | {"neck_norm": "bn", "rpn_convs": 2, "box_head": "4conv1fc", "head_norm": "bn"}
# Both maps of the backbone lie at stride 32, and each cell of every level has 15 anchors. Torchvision chooses the level
# of a region between the strides of the maps, which are equal: all regions are read from the first map.
_MOBILENET = TORCHVISION | {"anchor_sizes": _SIZES, "levels_read": 1, "proposal_threshold": 0.05}
_MOBILENET_320 = _MOBILENET | {"test_proposals": (150, 150)}  # for images of 320 px
# On MSRA's backbone, whose batch normalisation and first two stages stay as they are.
DETECTRON2 = {
    "stride_in_1x1": True,
    "backbone_norm": "frozen_bn",
    "frozen_stages": 2,
    "pixel_mean": DETECTRON2_MEAN,
    "pixel_std": DETECTRON2_STD,
    "samples": 0,
    "beta": 0.0,
}
DETECTRON2_C4 = {**C4, **DETECTRON2, "rpn_normaliser": "allowed"}
# Detectron2 learns from, and tests, 1,000 proposals on a pyramid.
DETECTRON2_FPN = {**DETECTRON2, "rpn_normaliser": "allowed", "train_proposals": (2000, 1000)}
# The strides of ResNeXt lie in the 3x3 convolutions.
DETECTRON2_RESNEXT = {**DETECTRON2_FPN, "stride_in_1x1": False, "pixel_std": IMAGENET_STD}
# Group normalisation of 32 groups in every part, on the authors' R-50-GN or from nothing.
DETECTRON2_GN = {
    **DETECTRON2_FPN,
    "stride_in_1x1": False,
    "backbone_norm": "gn_32",
    "neck_norm": "gn_32",
    "box_head": "4conv1fc",
    "head_norm": "gn_32",
}

_PARTS = {"proposer": RPN}
_on_pyramid, _on_c4, _on_c5 = (partial(Builder, form, parts=_PARTS) for form in (on_pyramid, on_c4, on_c5))
BUILDERS = {
    **on_each("faster_rcnn_{}_fpn", on_pyramid, C2_TO_C5, parts=_PARTS),
    **on_each("faster_rcnn_{}_c4", on_c4, C4_AND_C5, C4, parts=_PARTS),
    "faster_rcnn_resnet50_c5": _on_c5(C5, C4),
    "faster_rcnn_vgg16": Builder(on_vgg16, VGG16, _VGG16, _PARTS),
    "faster_rcnn_resnet50_fpn_torchvision": _on_pyramid(C2_TO_C5["resnet50"], TORCHVISION),
    "faster_rcnn_resnet50_fpn_v2_torchvision": _on_pyramid(C2_TO_C5["resnet50"], TORCHVISION_V2),
    "faster_rcnn_mobilenet_v3_large_fpn": _on_pyramid(mobilenet_v3_ends, _MOBILENET),
    "faster_rcnn_mobilenet_v3_large_320_fpn": _on_pyramid(mobilenet_v3_ends, _MOBILENET_320),
    "faster_rcnn_resnet50_fpn_detectron2": _on_pyramid(C2_TO_C5["resnet50"], DETECTRON2_FPN),
    "faster_rcnn_resnet101_fpn_detectron2": _on_pyramid(C2_TO_C5["resnet101"], DETECTRON2_FPN),
    "faster_rcnn_resnext101_32x8d_fpn_detectron2": _on_pyramid(C2_TO_C5["resnext101_32x8d"], DETECTRON2_RESNEXT),
    "faster_rcnn_resnet50_c4_detectron2": _on_c4(C4_AND_C5["resnet50"], DETECTRON2_C4),
    "faster_rcnn_resnet101_c4_detectron2": _on_c4(C4_AND_C5["resnet101"], DETECTRON2_C4),
    **on_each("faster_rcnn_{}_dc5_detectron2", on_c5, DILATED_C5, DETECTRON2_C4, parts=_PARTS),
}

# The softmax of torchvision's heads has a row for each id of COCO up to 90, ten of which are no class.
UNUSED_ROWS = max(COCO_CLASSES.ids) - len(COCO_CLASSES)
# Torchvision reads its first COCO weights with an epsilon of 0, as they were trained.
FROZEN_AT_0 = {"backbone_norm": "frozen_bn", "backbone_norm_eps": 0.0}


def _torchvision(name: str, form: str, digest: str, average_precision: float, **rest: Any) -> PublishedWeights:
    """digest: the end of the file's name. rest: the size of images, and arguments of the builder."""
    file, builder = f"fasterrcnn_{form.removesuffix('_torchvision')}{digest}.pth", f"faster_rcnn_{form}"
    metrics, convert = {"AP": average_precision}, faster_rcnn_from_torchvision
    return torchvision_record(name, builder, file, metrics, convert, unused_rows=UNUSED_ROWS, **rest)


def _detectron2(name: str, form: str, run: str, average_precision: float) -> PublishedWeights:
    run, builder = f"COCO-Detection/faster_rcnn_{run}", f"faster_rcnn_{form}_detectron2"
    return detectron2_record(name, run, builder, {"AP": average_precision}, faster_rcnn_from_detectron2)


_FROZEN = {"backbone_norm": "frozen_bn"}
_FIRST = _torchvision("torchvision", "resnet50_fpn_torchvision", "_coco-258fb6c6", 37.0, **FROZEN_AT_0)
_SECOND = _torchvision("torchvision_v2", "resnet50_fpn_v2_torchvision", "_coco-dd69338a", 46.7)
PUBLISHED = {
    **by_builder(
        _FIRST,
        _SECOND,
        _torchvision("torchvision", "mobilenet_v3_large_fpn", "-fb6a3cc7", 32.8, **_FROZEN),
        _torchvision("torchvision", "mobilenet_v3_large_320_fpn", "-907ea3f9", 22.8, short=320, long=640, **_FROZEN),
        _detectron2("3x", "resnet50_fpn", "R_50_FPN_3x/137849458/model_final_280758.pkl", 40.2),
        _detectron2("1x", "resnet50_fpn", "R_50_FPN_1x/137257794/model_final_b275ba.pkl", 37.9),
        _detectron2("3x", "resnet101_fpn", "R_101_FPN_3x/137851257/model_final_f6e8b1.pkl", 42.0),
        _detectron2("3x", "resnext101_32x8d_fpn", "X_101_32x8d_FPN_3x/139173657/model_final_68b088.pkl", 43.0),
        _detectron2("3x", "resnet50_c4", "R_50_C4_3x/137849393/model_final_f97cb7.pkl", 38.4),
        _detectron2("1x", "resnet50_c4", "R_50_C4_1x/137257644/model_final_721ade.pkl", 35.7),
        _detectron2("3x", "resnet101_c4", "R_101_C4_3x/138204752/model_final_298dad.pkl", 41.1),
        _detectron2("3x", "resnet50_dc5", "R_50_DC5_3x/137849425/model_final_68d202.pkl", 39.0),
        _detectron2("1x", "resnet50_dc5", "R_50_DC5_1x/137847829/model_final_51d356.pkl", 37.3),
        _detectron2("3x", "resnet101_dc5", "R_101_DC5_3x/138204841/model_final_3e0943.pkl", 40.6),
    ),
    "faster_rcnn_resnet50_fpn": {"torchvision_v2": _SECOND, "torchvision": _FIRST},
}
