"""CenterNet: an object is the point in its middle; a heat map says where such points are, regressions how large.

Paper: Zhou et al., "Objects as Points", 2019 (arXiv 1904.07850). The network gives one map of stride 4. In the heat map
of its class, an object is a peak (section 3); at that cell the network also says where in the cell the centre lies, and
width and height (section 4). Reading the peaks off is all there is to prediction: no anchor boxes, no levels, no
suppression.

Some backbones predict more than once: an hourglass network has several stacks, which all learn; the last one predicts.

How ours differs:
- The radius of a Gaussian is the one the authors' code computes, which is about 3.3 times what its formula is meant to
  give; the published results rest on it. `radius="corrected"` gives the other one.
- A box may reach to the edge of the last cell; the authors cut boxes off at its beginning, W - 1.
- A smooth L1 loss is for the sizes, as section 6.1.1 says; the authors' option `sl1` means the offsets too.
- What lies in a region to ignore, is uncertain, or of a class an image was not labelled for, gives no loss in the heat
  map. The authors leave such annotations out, or paint 0.9999 for them where they have a use for that.
- Peaks are found among logits: scores near 1 are equal in float32 where their logits are not, and would be found twice.
- Cells beyond an image's edge hold no peak, and a predicted size is never less than zero.
- An image lies in the corner of its padding, which has the mean colour; the authors centre it in black.

Legend: B images, C classes, H x W cells of the map, N objects of all images that are learned, S stacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import NMS, Divisor, NotNegative, Share, Width
from aweigh.backbones import Backbone, hourglass_backbone, shufflenet_v2_backbone, timm_backbone
from aweigh.backbones.dla import DLA34
from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.heads.answers import Answers, Gates, every_class, stride_names
from aweigh.heads.heatmap import make_heads, objects_on_map, unknown_cells
from aweigh.layers import Norm
from aweigh.models.builders import Builder, with_neck_and_heads
from aweigh.models.detector import Selection, check_classes, detector
from aweigh.necks import Neck
from aweigh.necks.upsample import AggregationUpsample, LiteUpsample, NoUpsample, TransposedUpsample
from aweigh.ops import boxes as box_ops
from aweigh.ops.heatmaps import (
    UNKNOWN,
    Radius,
    at_cells,
    at_peaks,
    cells_inside,
    columns_rows,
    draw_heatmaps,
    gaussian_radius,
    mean_logits,
    peaks,
)
from aweigh.ops.losses import check_labels, penalty_reduced_focal_loss_sum, world_mean
from aweigh.structures import Images, Targets
from aweigh.weights.coco import COCO_MEAN, COCO_STD
from aweigh.weights.convert.centernet import centernet_record
from aweigh.weights.record import by_builder

OFFSET_WEIGHT = 1.0  # equation 4

CenterNetOutput = list[dict[str, Tensor]]
"""What each stack says, by head: `heatmap` `[B, C, H, W]` logits; `offset` `[B, 2, H, W]` (x, y) of the centre in its
cell and `size` `[B, 2, H, W]` (width, height), both in cells."""


Mirroring = Callable[[Tensor], Tensor] | None
"""What a head says of a mirrored image, its columns turned back, as it would say it of the image; None: it is not
averaged, the plain image's counts."""


@dataclass(frozen=True, eq=False)
class CenterGoals:
    """What there is to learn in a batch."""

    heatmap: Tensor  # [B, C, H, W] 1 at centres, less round them, UNKNOWN where no background is known
    unknown: Tensor | None  # [B, C, H, W] bool, where that is; None where it is nowhere
    row: Tensor  # [N] of an object among all objects of all images
    image: Tensor  # [N] which image an object is of
    radius: Tensor  # [N] of its Gaussian, whole cells
    cell: Tensor  # [N] row * W + column of its centre
    offset: Tensor  # [N, 2] x, y of its centre in that cell, cells
    size: Tensor  # [N, 2] width, height, cells


@dataclass(frozen=True)
class CenterNetSelection(Selection):
    """Which of the network's answers become detections. The paper keeps the best 100 whatever they score and suppresses
    none (section 4); the authors' option is "soft"."""

    score_threshold: Share = 0.0
    nms: NMS = "none"


@detector(CenterNetSelection)
class CenterNet(nn.Module):
    """The detector. One that says more of an object names it in `extras`, and extends `goals`, `stack_losses`, `more`.

    Args:
        backbone, neck: image `[B, 3, H, W]` -> feature maps -> one map of stride 4 for each stack; both have `channels`
            and `strides`.
        heads: of each stack, by name; `heatmap`, `offset` and `size` among them.
        classes: names and original ids; their number must be the heat map's.
        radius: of the Gaussians, see `ops.heatmaps.gaussian_radius`.
        size_weight: of the size loss (equation 4). size_loss: `"l1"`, or `"smooth_l1"` with its knee at one cell.
        stride_divisor: sides of a batch are multiples of it; None: the backbone's.
    """

    extras: tuple[str, ...] = ()

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck,
        heads: Sequence[nn.ModuleDict],
        *,
        classes: Classes,
        radius: Radius = "official",
        size_weight: NotNegative = 0.1,
        size_loss: Literal["l1", "smooth_l1"] = "l1",
        stride_divisor: Divisor | None = None,
    ) -> None:
        super().__init__()
        for head in heads:
            logits = cast(nn.Conv2d, cast(nn.Sequential, head["heatmap"])[-1])
            check_classes("CenterNet", logits.out_channels, classes)
        self.backbone, self.neck, self.heads = backbone, neck, nn.ModuleList(heads)
        self.classes = classes
        self.stride = 4
        self.stride_divisor: int = stride_divisor or backbone.stride_divisor
        self.radius: Radius = radius
        self.size_weight, self.size_loss = size_weight, size_loss

        self.selection: CenterNetSelection = CenterNetSelection()

    def forward(self, images: Images, targets: Sequence[Targets] | None = None) -> dict[str, Tensor] | list[Detections]:
        """The losses if `targets` are given, else the detections of each image."""
        raw = self.network(images.pixels)
        return self.decode(raw, images.sizes_hw) if targets is None else self.loss(raw, targets)

    def network(self, pixels: Tensor) -> CenterNetOutput:
        """Images `[B, 3, H, W]`, RGB in `[0, 1]`, to raw outputs: the part that is compiled and exported."""
        maps = self.neck(self.backbone(pixels))
        return [
            {name: head(x) for name, head in cast(nn.ModuleDict, heads).items()}
            for heads, x in zip(self.heads, maps, strict=True)
        ]

    # Training

    def loss(self, raw: CenterNetOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The losses by name, each a scalar, float32, and the mean over the stacks; see `stack_losses`."""
        images = len(raw[0]["heatmap"])
        check_labels(targets, images=images, classes=len(self.classes), what="CenterNet.loss")
        goals = self.goals(targets, (raw[0]["heatmap"].shape[-2], raw[0]["heatmap"].shape[-1]))
        return {name: torch.stack(values).mean() for name, values in self.stack_losses(raw, goals).items()}

    def stack_losses(self, raw: CenterNetOutput, goals: CenterGoals) -> dict[str, list[Tensor]]:
        """The three losses of equation 4, of each stack.

        `heatmap`: focal loss (equation 1) divided by the number of cells that are a centre, or by one where there is
        none. `offset` and `size`: the mean absolute difference at the centres (equations 2 and 3), of x and y as of
        width and height; the authors divide by all values, which are twice as many as objects. `size` has its weight. A
        smooth L1 loss they divide by the objects. Both numbers are averaged over all processes.
        """
        centers = world_mean((goals.heatmap == 1).sum().float()).clamp(min=1)
        objects = self.averaged_over(raw, goals)
        losses: dict[str, list[Tensor]] = {"heatmap": [], "offset": [], "size": []}
        for stack in raw:
            heatmap = penalty_reduced_focal_loss_sum(stack["heatmap"].float(), goals.heatmap, unknown=UNKNOWN)
            offset, size = (at_cells(stack[name], goals.image, goals.cell) for name in ("offset", "size"))  # [N, 2]
            losses["heatmap"].append(heatmap / centers)
            losses["offset"].append(OFFSET_WEIGHT * (offset - goals.offset).abs().sum() / (2 * objects + 1e-4))
            if self.size_loss == "l1":
                size_loss = (size - goals.size).abs().sum() / (2 * objects + 1e-4)
            else:
                size_loss = F.smooth_l1_loss(size, goals.size, reduction="sum") / (objects + 1e-4)
            losses["size"].append(self.size_weight * size_loss)
        return losses

    def averaged_over(self, raw: CenterNetOutput, goals: CenterGoals) -> Tensor:
        """The number of objects, a scalar, that losses at the centres are divided by."""
        return world_mean(goals.heatmap.new_tensor(float(len(goals.image))))

    def radii(self, size: Tensor) -> Tensor:
        """How far the Gaussians of boxes of these widths and heights `[N, 2]` reach, all in cells: `[N]` int64."""
        return gaussian_radius(size.flip(1).ceil(), kind=self.radius).long()

    @torch.no_grad()
    def goals(self, targets: Sequence[Targets], size_hw: tuple[int, int]) -> CenterGoals:
        """What a map of `size_hw` cells has to learn of the targets of each image; see `objects_on_map`."""
        height, width = size_hw
        row, image, labels, boxes = objects_on_map(targets, size_hw, self.stride)
        size, center = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
        cell = torch.minimum(center.floor().long(), torch.tensor([width - 1, height - 1], device=boxes.device))
        radii = self.radii(size)
        unknown = unknown_cells(targets, size_hw, self.stride, len(self.classes))
        heatmap = draw_heatmaps((len(targets), len(self.classes), *size_hw), image, labels, cell, radii, unknown)
        return CenterGoals(heatmap, unknown, row, image, radii, cell[:, 1] * width + cell[:, 0], center - cell, size)

    # Prediction

    def mirroring(self, class_order: Tensor) -> dict[str, Mirroring]:
        """Of each head by name. class_order: `[C]`, the class that each becomes in a mirror."""
        return {"heatmap": lambda logits: logits[:, class_order], "size": lambda size: size, "offset": None}

    def average_flipped(self, raw: CenterNetOutput, flipped: CenterNetOutput, class_order: Tensor) -> CenterNetOutput:
        """The maps of the last stack, averaged with those of the same batch mirrored left to right, its padding too.

        As the authors' `flip_test`: heat maps are averaged as probabilities, sizes as they are, offsets are those of
        the plain image. A head that does not say how it mirrors is a `UsageError`.
        """
        maps, others, mirroring = raw[-1], flipped[-1], self.mirroring(class_order)
        if unknown := sorted(maps.keys() - mirroring.keys()):
            raise UsageError(f"CenterNet: how the head {unknown[0]!r} mirrors is not known; predict without a flip.")
        averaged = {}
        for name, values in maps.items():
            mirror = mirroring[name]
            if mirror is None:
                averaged[name] = values
            else:
                other = mirror(others[name].flip(-1))
                averaged[name] = mean_logits(values, other) if "heatmap" in name else (values + other) / 2
        return [averaged]

    @torch.no_grad()
    def decode(self, raw: CenterNetOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """`select`, cut to the number found: one `Detections` per image, best first."""
        found = self.select(raw, torch.tensor(sizes_hw, device=raw[-1]["heatmap"].device))
        extras = dict(zip(self.extras, found[4:], strict=True))
        return Detections.unpadded(found[:4], classes=self.classes, sizes_hw=sizes_hw, extras=extras)

    def select(self, raw: CenterNetOutput, sizes_hw: Tensor) -> tuple[Tensor, ...]:
        """Raw outputs to detections (section 4, "From points to bounding boxes") and what `more` gives of each."""
        heatmap = raw[-1]["heatmap"].float()
        height, width = heatmap.shape[-2:]
        inside = cells_inside((height, width), self.stride, sizes_hw)  # [B, H, W]
        there = torch.where(inside[:, None], heatmap, -torch.inf)
        values, labels, cells = peaks(there, self.selection.max_detections)  # [B, k]
        scores = values.sigmoid()
        whole = self._boxes(raw[-1], cells)
        boxes = box_ops.clip(whole, sizes_hw)
        best, scores, count = box_ops.non_maximum_suppression(
            boxes,
            torch.where(scores > self.selection.score_threshold, scores, 0),
            labels,
            iou_threshold=self.selection.nms_threshold,
            max_detections=self.selection.max_detections,
            method=self.selection.nms,
        )
        of_each = best[..., None].expand(-1, -1, 4)
        more = self.more(raw[-1], inside, cells.gather(1, best), whole.gather(1, of_each))
        found = [(scores > 0).view(*scores.shape, *[1] * (values.ndim - 2)) for values in more]
        padded = [torch.where(there, values, 0) for there, values in zip(found, more, strict=True)]
        return boxes.gather(1, of_each), scores, labels.gather(1, best), count, *padded

    def _boxes(self, stack: dict[str, Tensor], cells: Tensor) -> Tensor:
        """Of centres in cells `[B, k]`: `[B, k, 4]`, pixels, of which parts may lie beyond the image."""
        offset, size = (at_peaks(stack[name], cells) for name in ("offset", "size"))  # [B, k, 2]
        width = stack["size"].shape[-1]
        center = columns_rows(cells, width) + offset
        half = size.clamp(min=0) / 2
        return torch.cat([center - half, center + half], dim=-1) * self.stride

    def answers(self, raw: CenterNetOutput, sizes_hw: Tensor, wanted: Targets | None = None) -> Answers:
        """All that is said of one image, see `Detector`."""
        heatmap, chosen = raw[-1]["heatmap"].float(), self.selection
        height, width = heatmap.shape[-2:]
        inside = cells_inside((height, width), self.stride, sizes_hw)[0].flatten()  # [A]
        there = torch.where(inside.view(height, width), heatmap, -torch.inf)
        above = (there - F.max_pool2d(there, 3, stride=1, padding=1))[0].flatten(1).T  # [A, C] the highest of nine
        logits, cells = heatmap[0].flatten(1).T, torch.arange(height * width, device=heatmap.device)
        gates = Gates(logits.shape, logits.device)
        gates.add("inside", inside[:, None], ">", 0)
        gates.add("peak", above, ">=", 0)
        gates.add_best("rank among candidates", logits, None, chosen.max_detections, "max_detections")
        gates.add("class score", logits.sigmoid(), ">", chosen.score_threshold, "score_threshold")
        boxes = box_ops.clip(self._boxes(raw[-1], cells[None]), sizes_hw)[0, :, None]
        places = (columns_rows(cells, width) + 0.5) * self.stride
        return Answers(
            "cell", places, boxes, every_class(logits), {"class": logits.sigmoid()}, "product",
            torch.zeros_like(cells), stride_names([self.stride]), gates.all, chosen,
        )  # fmt: skip

    def more(self, stack: dict[str, Tensor], inside: Tensor, cells: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        """What is said of detections beside their boxes: `[B, K, ...]` for each of `extras`, here nothing.

        inside: `[B, H, W]` bool, the cells that are the image's. cells: `[B, K]` of the centres. boxes: `[B, K, 4]`,
        pixels, of which parts may lie beyond the image.
        """
        return ()


# Builders: each architecture with its numbers, and the weights its authors have published


def center_heads(
    channels: Sequence[int],
    num_classes: int,
    further: Mapping[str, int] | None = None,
    *,
    head_channels: Width | None = None,
    head_norm: Norm | None = None,
    separable_heads: bool = False,
) -> list[nn.ModuleDict]:
    """Those of each stack, by name; see `make_heads`.

    channels: of the map of each stack. further: heads beside the three, and the channels of each. head_channels: of
    the convolution in each head; None: as many as the map has.
    """
    outputs = {"heatmap": num_classes, "size": 2, "offset": 2, **(further or {})}
    return [
        make_heads(width, outputs, hidden=head_channels or width, norm=head_norm, separable=separable_heads)
        for width in channels
    ]


_COCO = {"pixel_mean": COCO_MEAN, "pixel_std": COCO_STD}
_NARROW, _WIDE = {**_COCO, "head_channels": 64}, {**_COCO, "head_channels": 256}
_LITE = {"head_norm": "bn", "separable_heads": True}


_FORM = with_neck_and_heads(CenterNet)


def _builder(
    backbone: Callable[..., Backbone], neck: Callable[..., Neck], values: Mapping[str, Any] | None = None
) -> Builder:
    return Builder(_FORM, backbone, values or {}, {"neck": neck, "heads": center_heads})


BUILDERS = {
    # AP on val2017 by the authors' weights: 37.4 on DLA-34 after the longer schedule, 28.1 and 34.6 on the ResNets with
    # deformable convolutions, 40.3 on Hourglass-104.
    "centernet_dla34": _builder(partial(timm_backbone, "dla34", (2, 3, 4, 5), DLA34), AggregationUpsample, _WIDE),
    # The plain form of Xiao et al. 2018: three transposed convolutions of 256 channels.
    "centernet_resnet18": _builder(
        partial(timm_backbone, "resnet18", (5,)),
        partial(TransposedUpsample, channels=(256, 256, 256), deformable=False),
        _NARROW,
    ),
    "centernet_resnet18_dcn": _builder(partial(timm_backbone, "resnet18", (5,)), TransposedUpsample, _NARROW),
    "centernet_resnet101_dcn": _builder(partial(timm_backbone, "resnet101", (5,)), TransposedUpsample, _NARROW),
    "centernet_hourglass104": _builder(hourglass_backbone, NoUpsample),
    # Light enough to be trained on a CPU: neck and heads of separable convolutions with 64 channels (ours).
    "centernet_shufflenet_v2_x0_5_lite": _builder(partial(shufflenet_v2_backbone, 0.5), LiteUpsample, _LITE),
}


PUBLISHED = by_builder(
    centernet_record("2x", "centernet_dla34", "ctdet_coco_dla_2x", 37.4),
    centernet_record("1x", "centernet_dla34", "ctdet_coco_dla_1x", 36.3),
    centernet_record("authors", "centernet_resnet18_dcn", "ctdet_coco_resdcn18", 28.1),
    centernet_record("authors", "centernet_resnet101_dcn", "ctdet_coco_resdcn101", 34.6),
    centernet_record("authors", "centernet_hourglass104", "ctdet_coco_hg", 40.3),
)
