"""EfficientDet: anchors on a weighted bi-directional feature pyramid, scaled as a whole from D0 to D7x.

Paper: Tan, Pang and Le, "EfficientDet: Scalable and Efficient Object Detection", CVPR 2020 (arXiv 1911.09070). Nine
anchors stand in every cell of five levels; one network of separable convolutions says which class each is, a second
one where the box lies as seen from it. Both are shared by all levels but for their normalisation.

Compound scaling (section 4, equations 1 to 3), for phi = 0 to 6: width W = 64 * 1.35^phi, depth D = 3 + phi, head
3 + floor(phi / 3), size R = 512 + 128 phi. The released networks, in the table `SCALING` below, round W in steps of
their own and end D, the head and R where training no longer held. Size is no part of the network: it is the `long` of
the resize step. D2 to D6 were released for 640 px as well (AP 41.7, 44.0, 45.7, 46.6, 47.9): the same builders.

How ours differs from the authors' code and from effdet, to which it is equal for the same weights:
- Boxes are xyxy everywhere; conversion of weights exchanges the rows of y and x.
- Any size that the backbone takes will do. Batches are padded to multiples of the coarsest stride, not to a square;
  published weights are built with their own square (`stride_divisor`), as the backbone's squeeze and excitation sees
  it.
- Regions marked `ignore` (crowd, difficult) give no classification loss at anchors centred inside; the authors drop
  such annotations. What is uncertain, and classes an image was not labelled for, give no negative loss.
- A box that overlaps no anchor is learned by none (theirs: by the very first). The number of positives is the mean over
  all processes. An enlargement ends at 1000 / 16, as in torchvision, so that it cannot overflow.
- No stochastic depth in the backbone, so that a loss does not depend on the mode.

Legend: B images, A anchors over all levels, K anchors in each cell, C classes, H x W cells of a level, N boxes of one
image, P positive anchors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import NMS, Count, Divisor, Layers, Positive, Share, passes_on
from aweigh.backbones import Backbone, timm_backbone
from aweigh.backbones.timm import TimmBackbone
from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.errors import UsageError, counted
from aweigh.heads.answers import Answers, dense_answers
from aweigh.layers import Activation, Norm, SeparableConv2d, make_activation, make_norm, start_at_prior
from aweigh.models.builders import Builder
from aweigh.models.detector import Selection, detector
from aweigh.necks import Neck, NeckFusion, NeckName, make_neck
from aweigh.necks.bifpn import NORM_EPS, NORM_MOMENTUM, Fusion
from aweigh.ops import boxes as box_ops
from aweigh.ops.anchors import anchor_rows, place_anchors
from aweigh.ops.losses import check_labels, sigmoid_focal_loss_sum, unknown_in_batch, world_mean
from aweigh.ops.matching import among_all, by_overlap
from aweigh.structures import Images, Targets
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.convert.effdet import efficientdet_from_effdet
from aweigh.weights.record import PublishedWeights, by_builder

OCTAVES = 3  # sizes of anchors on each level: 2^0, 2^(1/3), 2^(2/3) (hparams_config.py, num_scales)
# Width and height of anchors in sizes: rounded roots of two, as the published weights were trained with.
ASPECTS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
# What the authors' code turned to later (tf2/anchors.py): all anchors of one size have one area.
EQUAL_AREA_ASPECTS = ((1.0, 1.0), (math.sqrt(2), math.sqrt(0.5)), (math.sqrt(0.5), math.sqrt(2)))
POSITIVE_IOU = 0.5  # an anchor learns a box from here on, and is background below
ALPHA, GAMMA = 0.25, 1.5  # of the focal loss (section 5.1)
DELTA, BOX_WEIGHT = 0.1, 50.0  # of the Huber loss (hparams_config.py, delta and box_loss_weight)
HALF = (0.5, 0.5, 0.5)  # mean and deviation of pixels for the lite networks, and for those trained with AdvProp


class EfficientDetOutput(NamedTuple):
    """What the network says, before any decision; levels one after the other, cells row by row, then the K anchors."""

    logits: Tensor  # [B, A, C]
    deltas: Tensor  # [B, A, 4] the boxes as seen from the anchors: x, y, log width, log height
    anchors: Tensor  # [A, 4] xyxy in the padded image, pixels


@dataclass(frozen=True)
class EfficientDetSelection(Selection):
    """Which of the network's answers become detections (effdet's, which has no threshold)."""

    score_threshold: Share = 0.0
    nms: NMS = "class"  # the authors' own numbers are with "soft"
    candidates_per_image: Count = 5000


@detector(EfficientDetSelection)
class EfficientDet(nn.Module):
    """The detector.

    Args:
        backbone, neck: image `[B, 3, H, W]` -> feature maps -> pyramid; both have `channels` and `strides`.
        class_net, box_net: predict K * C logits and K * 4 deltas in each cell.
        classes: names and original ids; their number must be that of `class_net`.
        anchor_scale: the smallest anchor of a level in strides. aspects: width and height of each kind, in sizes.
        stride_divisor: what the sides of a batch are multiples of; None: the
            coarsest stride.
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck,
        class_net: PredictionNet,
        box_net: PredictionNet,
        *,
        classes: Classes,
        anchor_scale: Positive = 4.0,
        aspects: Sequence[tuple[Positive, Positive]] = ASPECTS,
        stride_divisor: Divisor | None = None,
    ) -> None:
        super().__init__()
        per_cell = OCTAVES * len(aspects)
        for what, net, each in (("class_net", class_net, len(classes)), ("box_net", box_net, 4)):
            if net.outputs != per_cell * each:
                raise UsageError(
                    f"EfficientDet: {what} has {counted(net.outputs, 'output')} a cell; "
                    f"{counted(per_cell, 'anchor', 'needs')} {per_cell * each}."
                )
        self.backbone, self.neck, self.class_net, self.box_net = backbone, neck, class_net, box_net
        self.classes = classes
        self.stride_divisor = stride_divisor or neck.strides[-1]
        self.anchor_sides: Tensor
        self.register_buffer("anchor_sides", anchor_sides(anchor_scale, aspects), persistent=False)

        self.selection = EfficientDetSelection()

    def forward(self, images: Images, targets: Sequence[Targets] | None = None) -> dict[str, Tensor] | list[Detections]:
        """The losses if `targets` are given, else the detections of each image."""
        raw = self.network(images.pixels)
        return self.decode(raw, images.sizes_hw) if targets is None else self.loss(raw, targets)

    def network(self, pixels: Tensor) -> EfficientDetOutput:
        """Images `[B, 3, H, W]`, RGB in `[0, 1]`, to raw outputs: the part that is compiled and exported."""
        size_hw = pixels.shape[-2:]
        features = self.neck(self.backbone(pixels))
        logits = torch.cat([anchor_rows(level, len(self.classes)) for level in self.class_net(features)], dim=1)
        deltas = torch.cat([anchor_rows(level, 4) for level in self.box_net(features)], dim=1)
        anchors = torch.cat([self._anchors(feature, size_hw[0], size_hw[1]) for feature in features])
        return EfficientDetOutput(logits, deltas, anchors)

    def _anchors(self, feature: Tensor, image_height: int, image_width: int) -> Tensor:
        """The anchors `[H * W * K, 4]` of a level: centred in its cells, as large as these are in the image."""
        height, width = feature.shape[-2:]
        step_y, step_x = image_height / height, image_width / width
        points = box_ops.grid_points(height, width, (step_y, step_x), (step_y / 2, step_x / 2), like=feature)
        half = torch.stack([self.anchor_sides[:, 0] * step_x, self.anchor_sides[:, 1] * step_y], dim=1) / 2  # [K, 2]
        return place_anchors(torch.cat([-half, half], dim=1), points)

    # Training

    def loss(self, raw: EfficientDetOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Two losses, each a scalar, float32, divided by the positive anchors of the whole batch and one more.

        `classification`: focal loss over all anchors and classes. `box`: Huber loss over the deltas of positive
        anchors, but for those whose target is exactly zero, as in the authors' code. The number of positives is
        averaged over all processes; the one more keeps a batch without objects finite.
        """
        classes = len(self.classes)
        check_labels(targets, images=len(raw.logits), classes=classes, what="EfficientDet.loss")
        found = [self._assign(raw.anchors, target) for target in targets]
        labels = torch.stack([part for part, _ in found])  # [B, A]
        target_boxes = torch.cat([part for _, part in found])  # [P, 4]
        positive = labels >= 0
        total = world_mean(positive.sum().float()) + 1

        unknown = unknown_in_batch(_centers(raw.anchors), targets, classes)  # [B * A, C] bool, or None
        classification = sigmoid_focal_loss_sum(
            raw.logits.float().flatten(0, 1), labels.flatten(), alpha=ALPHA, gamma=GAMMA, no_loss=unknown
        )
        goal = box_ops.encode_deltas(raw.anchors[positive.nonzero()[:, 1]], target_boxes)  # [P, 4]
        box = F.huber_loss(raw.deltas[positive].float(), goal, delta=DELTA, reduction="none") * (goal != 0)
        return {"classification": classification / total, "box": BOX_WEIGHT * box.sum() / (4 * total)}

    @torch.no_grad()
    def _assign(self, anchors: Tensor, target: Targets) -> tuple[Tensor, Tensor]:
        """Labels `[A]` (-1 background, -2 ignored) of one image, and the boxes `[P, 4]` of its positive anchors."""
        boxes = target.boxes[target.learned]
        index = by_overlap(anchors, boxes, positive=POSITIVE_IOU, negative=POSITIVE_IOU, rescue="one")
        index = among_all(index, _centers(anchors), target.boxes, target.learned, target.ignore)
        learns = index >= 0
        labels = index.clone()
        labels[learns] = target.labels[index[learns]]
        return labels, target.boxes[index[learns]]

    # Prediction

    @torch.no_grad()
    def decode(self, raw: EfficientDetOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """`select`, cut to the number found: one `Detections` per image, best first."""
        found = self.select(raw, torch.tensor(sizes_hw, device=raw.logits.device))
        return Detections.unpadded(found, classes=self.classes, sizes_hw=sizes_hw)

    def select(self, raw: EfficientDetOutput, sizes_hw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Raw outputs to detections, padded to a fixed number."""
        scores, rows, labels = box_ops.best_pairs(
            raw.logits, count=self.selection.candidates_per_image, threshold=self.selection.score_threshold
        )
        deltas = raw.deltas.float().gather(1, rows[..., None].expand(-1, -1, 4))  # [B, k, 4]
        boxes = box_ops.decode_deltas(raw.anchors[rows], deltas)
        return box_ops.select_levels([(boxes, scores, labels)], sizes_hw, self.selection)

    def answers(self, raw: EfficientDetOutput, sizes_hw: Tensor, wanted: Targets | None = None) -> Answers:
        """All that is said of one image, see `Detector`."""
        boxes = box_ops.clip(box_ops.decode_deltas(raw.anchors, raw.deltas[0].float()), sizes_hw[0])
        chosen, of_cell = self.selection, len(self.anchor_sides)
        widths = (raw.anchors[::of_cell, 2] - raw.anchors[::of_cell, 0]).round()  # of the first in each cell
        cells = torch.unique_consecutive(widths, return_counts=True)[1]  # in each level
        levels = torch.split(raw.anchors, (cells * of_cell).tolist())
        return dense_answers(
            "anchor", levels, self.neck.strides, boxes, {"class": raw.logits[0].float().sigmoid()}, "product", chosen,
            threshold=chosen.score_threshold, most=chosen.candidates_per_image, setting="candidates_per_image",
        )  # fmt: skip


class PredictionNet(nn.Module):
    """Separable convolutions shared by all levels, each with a normalisation of its own for each level (figure 3).

    Args:
        channels, levels: of the pyramid. outputs: channels predicted in each cell.
        convs: convolutions before the prediction. prior: probability that every output starts at; None: biases of 0.
        redundant_bias: convolutions in front of a normalisation have a bias too.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        levels: int = 5,
        convs: int = 3,
        norm: Norm = "bn",
        activation: Activation = "silu",
        redundant_bias: bool = False,
        prior: float | None = None,
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.convolutions = nn.ModuleList(
            SeparableConv2d(channels, channels, 3, norm=None, activation=None, bias=redundant_bias)
            for _ in range(convs)
        )
        self.norms = nn.ModuleList(
            nn.ModuleList(make_norm(norm, channels, eps=NORM_EPS, momentum=NORM_MOMENTUM) for _ in range(levels))
            for _ in range(convs)
        )
        self.activation = make_activation(activation)
        self.prediction = SeparableConv2d(channels, outputs, 3, norm=None, activation=None)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Keras' variance scaling by the inputs, the authors' start of the head.
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if prior is not None:
            start_at_prior(cast(nn.Conv2d, self.prediction[1]), prior)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Per level `[B, channels, H, W]` to `[B, outputs, H, W]`."""
        predictions = []
        for level, feature in enumerate(features):
            for convolution, norms in zip(self.convolutions, self.norms, strict=True):
                assert isinstance(norms, nn.ModuleList)
                feature = self.activation(norms[level](convolution(feature)))
            predictions.append(self.prediction(feature))
        return predictions


def anchor_sides(scale: float, aspects: Sequence[Sequence[float]]) -> Tensor:
    """Width and height of the anchors of a cell, in strides: `[K, 2]`, all aspects of the smallest size first."""
    sizes = [scale * 2 ** (octave / OCTAVES) for octave in range(OCTAVES)]
    return torch.tensor([(size * width, size * height) for size in sizes for width, height in aspects])


def _centers(boxes: Tensor) -> Tensor:
    """The middle points `[..., 2]` of boxes `[..., 4]`."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


# Builders: compound scaling as it was released


class Scaling(NamedTuple):
    """One row of table 1 of the paper, as released in hparams_config.py."""

    backbone: str
    size: int  # R, pixels of a side
    channels: int  # W
    repeats: int  # D, of the BiFPN's cell
    convs: int  # of each head
    anchor_scale: float = 4.0
    levels: int = 5
    fusion: Fusion = "fast"
    lite: bool = False  # ReLU6 for swish, pixels from -1 to 1


# "sum" from D6 on, since training with weights was not stable (hparams_config.py). AP: README of google/automl, on
# test-dev, of the lite networks on val2017.
# Behind each row, what equations 1 to 3 give: W = 64 * 1.35^phi, D = 3 + phi, head = 3 + phi // 3, R = 512 + 128 phi.
SCALING = {
    "d0": Scaling("tf_efficientnet_b0", 512, 64, 3, 3),  # phi 0: 64.0, 3, 3, 512; AP 34.6
    "d1": Scaling("tf_efficientnet_b1", 640, 88, 4, 3),  # phi 1: 86.4, 4, 3, 640; AP 40.5
    "d2": Scaling("tf_efficientnet_b2", 768, 112, 5, 3),  # phi 2: 116.6, 5, 3, 768; AP 43.9
    "d3": Scaling("tf_efficientnet_b3", 896, 160, 6, 4),  # phi 3: 157.5, 6, 4, 896; AP 47.2
    "d4": Scaling("tf_efficientnet_b4", 1024, 224, 7, 4),  # phi 4: 212.6, 7, 4, 1024; AP 49.7
    "d5": Scaling("tf_efficientnet_b5", 1280, 288, 7, 4),  # phi 5: 287.0, 8, 4, 1152; AP 51.5
    "d6": Scaling("tf_efficientnet_b6", 1280, 384, 8, 5, fusion="sum"),  # phi 6: 387.4, 9, 5, 1280; AP 52.6
    "d7": Scaling("tf_efficientnet_b6", 1536, 384, 8, 5, anchor_scale=5.0, fusion="sum"),  # AP 53.7
    "d7x": Scaling("tf_efficientnet_b7", 1536, 384, 8, 5, levels=6, fusion="sum"),  # AP 55.1
    # For phones: no squeeze and excitation, W and D of D0 to D4 but for lite3x.
    "lite0": Scaling("tf_efficientnet_lite0", 320, 64, 3, 3, anchor_scale=3.0, fusion="sum", lite=True),  # AP 26.4
    "lite1": Scaling("tf_efficientnet_lite1", 384, 88, 4, 3, anchor_scale=3.0, fusion="sum", lite=True),  # AP 31.5
    "lite2": Scaling("tf_efficientnet_lite2", 448, 112, 5, 3, anchor_scale=3.0, fusion="sum", lite=True),  # AP 35.1
    "lite3": Scaling("tf_efficientnet_lite3", 512, 160, 6, 4, fusion="sum", lite=True),  # AP 38.8
    "lite3x": Scaling("tf_efficientnet_lite3", 640, 200, 6, 4, anchor_scale=3.0, fusion="sum", lite=True),  # AP 42.6
    "lite4": Scaling("tf_efficientnet_lite4", 640, 224, 7, 4, fusion="sum", lite=True),  # AP 43.2
}


@passes_on(timm_backbone)
def efficientnet(name: str, *, form: Literal["tensorflow", "torch"] = "tensorflow", **settings: Any) -> TimmBackbone:
    """Of timm, by its name there in TensorFlow's form."""
    return timm_backbone(name if form == "tensorflow" else name.removeprefix("tf_"), **settings)


@passes_on(EfficientDet)
def efficientdet(
    scaling: Scaling,
    backbone: Backbone,
    classes: Classes,
    *,
    form: Literal["tensorflow", "torch"] = "tensorflow",
    neck: NeckName = "bifpn",
    neck_norm: Norm = "bn",
    neck_repeats: Layers | None = None,
    neck_fusion: NeckFusion | None = None,
    head_norm: Norm = "bn",
    aspects: Sequence[tuple[Positive, Positive]] = ASPECTS,
    **settings: Any,
) -> EfficientDet:
    """One row of the table.

    form: the authors' (padding as TensorFlow's "SAME", biases in front of normalisations), or effdet's own, without
    either. neck: another one than the paper's BiFPN has as many channels and levels, and, where it has cells, separable
    convolutions. neck_repeats, neck_fusion: None: those of the row, or of another neck those of its paper.
    Settings: those of `EfficientDet`.
    """
    activation: Activation = "relu6" if scaling.lite else "silu"
    as_tensorflow = form == "tensorflow"
    if neck == "bifpn":
        neck_repeats = scaling.repeats if neck_repeats is None else neck_repeats
        neck_fusion = neck_fusion or scaling.fusion
    channels, levels = scaling.channels, scaling.levels
    pyramid = make_neck(
        neck,
        backbone,
        channels,
        levels,
        top="c5",
        norm=neck_norm,
        repeats=neck_repeats,
        fusion=neck_fusion,
        activation=activation,
        separable=True,
        same_padding=as_tensorflow,
        redundant_bias=as_tensorflow,
    )
    net = partial(
        PredictionNet,
        channels,
        levels=levels,
        convs=scaling.convs,
        norm=head_norm,
        activation=activation,
        redundant_bias=as_tensorflow,
    )
    per_cell = OCTAVES * len(aspects)
    # RetinaNet's prior: every class starts at a probability of 0.01 (Lin et al. 2017, section 4.1).
    class_net, box_net = net(per_cell * len(classes), prior=0.01), net(per_cell * 4)
    return EfficientDet(backbone, pyramid, class_net, box_net, classes=classes, aspects=aspects, **settings)


def _builder(scaling: Scaling) -> Builder:
    lite = {"pixel_mean": HALF, "pixel_std": HALF} if scaling.lite else {}
    backbone = partial(efficientnet, scaling.backbone)
    return Builder(partial(efficientdet, scaling), backbone, {"anchor_scale": scaling.anchor_scale, **lite})


BUILDERS = {f"efficientdet_{row}": _builder(scaling) for row, scaling in SCALING.items()}

# What differs from the builder's defaults in each kind of weights. The images of AdvProp and AutoAugment
# (Det-AdvProp.md) were padded with black, ours are with grey.
_KINDS: dict[str, dict[str, Any]] = {
    "tensorflow": {},
    "advprop": {"pixel_mean": HALF, "pixel_std": HALF},
    "torch": {"form": "torch"},
}


def _published(kind: str, row: str, file: str, average_precision: float) -> PublishedWeights:
    """A file of effdet's release; its boxes are those of the square that the network was trained on."""
    size = SCALING[row].size
    return PublishedWeights(
        name=kind,
        url=f"https://github.com/rwightman/efficientdet-pytorch/releases/download/v0.1/{file}",
        file=file,
        sha256=file.removesuffix(".pth").rsplit("-", 1)[1],
        licence="Apache-2.0 (effdet, google/automl); trained on COCO, whose annotations are CC BY 4.0",
        source=f"effdet, {file.rsplit('-', 1)[0]}, trained on COCO train2017",
        metrics={"AP": average_precision},
        builder=f"efficientdet_{row}",
        arguments={"stride_divisor": size, **_KINDS[kind]},
        classes=COCO_CLASSES,
        resize={"short": None, "long": size},
        convert=efficientdet_from_effdet,
    )


# Files and AP on val2017 with hard suppression as effdet states them (README of version 0.4.1).
PUBLISHED = by_builder(
    _published("tensorflow", "d0", "tf_efficientdet_d0_34-f153e0cf.pth", 34.2),
    _published("advprop", "d0", "tf_efficientdet_d0_ap-d0cdbd0a.pth", 34.8),
    _published("torch", "d0", "efficientdet_d0-f3276ba8.pth", 33.6),
    _published("tensorflow", "d1", "tf_efficientdet_d1_40-a30f94af.pth", 40.1),
    _published("advprop", "d1", "tf_efficientdet_d1_ap-7721d075.pth", 40.8),
    _published("torch", "d1", "efficientdet_d1-bb7e98fe.pth", 39.4),
    _published("tensorflow", "d2", "tf_efficientdet_d2_43-8107aa99.pth", 43.4),
    _published("advprop", "d2", "tf_efficientdet_d2_ap-a2995c19.pth", 44.2),
    _published("tensorflow", "d3", "tf_efficientdet_d3_47-0b525f35.pth", 47.1),
    _published("advprop", "d3", "tf_efficientdet_d3_ap-e4a2feab.pth", 47.7),
    _published("tensorflow", "d4", "tf_efficientdet_d4_49-f56376d9.pth", 49.2),
    _published("advprop", "d4", "tf_efficientdet_d4_ap-f601a5fc.pth", 50.2),
    _published("tensorflow", "d5", "tf_efficientdet_d5_51-c79f9be6.pth", 51.2),
    _published("advprop", "d5", "tf_efficientdet_d5_ap-3673ae5d.pth", 52.1),
    _published("tensorflow", "d6", "tf_efficientdet_d6_52-4eda3773.pth", 52.0),
    _published("tensorflow", "d7", "tf_efficientdet_d7_53-6d1d7a95.pth", 53.1),
    _published("tensorflow", "d7x", "tf_efficientdet_d7x-f390b87c.pth", 54.3),
    _published("tensorflow", "lite0", "tf_efficientdet_lite0-dfacfc78.pth", 27.1),
    _published("tensorflow", "lite1", "tf_efficientdet_lite1-6dc7ab30.pth", 32.2),
    _published("tensorflow", "lite2", "tf_efficientdet_lite2-86c5d55b.pth", 35.9),
    _published("tensorflow", "lite3", "tf_efficientdet_lite3-506852cb.pth", 39.6),
    _published("tensorflow", "lite3x", "tf_efficientdet_lite3x-8404c57b.pth", 43.6),
    _published("tensorflow", "lite4", "tf_efficientdet_lite4-391ddabc.pth", 44.2),
)
