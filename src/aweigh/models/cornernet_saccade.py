"""CornerNet-Saccade: corners are looked for in a small view of the image, then closer, where something seems to be.

Paper: Law, Teng, Russakovsky and Deng, "CornerNet-Lite: Efficient Keypoint Based Object Detection", BMVC 2020 (arXiv
1904.08900), section 3. The network sees 255 x 255 pixels and no more. First these are the whole image, twice, 255 and
192 pixels long. The maps on the way up of each hourglass say where the middles of large, medium and small objects may
be (section 3.1); there, and round the boxes that were found already, it looks closer: at a crop of the image, in which
an object is as large as those that were learned, best places first, at most 30. What both looks find is merged by soft
suppression (section 3.2). In training an image is one crop, see `feeding.windows.object_crop`.

How ours differs, beside what `cornernet` says:
- Crops lie where they are to lie, to a fraction of a pixel; the authors' code rounds their corners to whole pixels.
- Beyond the image lies the mean colour, as in all of our detectors; black, as in the authors' code, with
  `beyond="black"`, which their weights have.
- What a crop shows less than half of is a region to ignore, all of it, in attention maps too, where the authors' code
  has it as something to look at. A corner is learned even where it lies next to one that is hidden.
- A number of corners, of boxes to look round and of crops is that of an image, not of the images of a batch; what is
  found ends at the edge of the image; suppression compares areas without the one pixel that the authors' code adds.

Legend: B images, C classes, H x W cells of a map, P patches, n boxes of a patch, k places of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from aweigh.arguments import NMS, Count, NotNegative, Share, Width, passes_on
from aweigh.backbones import hourglass_backbone
from aweigh.backbones.hourglass import Hourglass
from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.heads.answers import Answers, Gates, combined, joined_gates, level_numbers
from aweigh.heads.corners import (
    CORNERS,
    CornerGoals,
    CornerMaps,
    Point,
    Points,
    best_pairs_of_corners,
    best_points,
    corner_goals,
    corner_losses,
    corner_points,
    pair_answers,
    seen_points,
)
from aweigh.heads.heatmap import MapObjects, make_heads, objects_on_map, unknown_cells
from aweigh.models.builders import Builder
from aweigh.models.detector import Detector, Selection, check_classes, detector, network_inputs
from aweigh.ops import boxes as box_ops
from aweigh.ops.heatmaps import UNKNOWN, Radius, columns_rows
from aweigh.ops.losses import check_labels, penalty_reduced_focal_loss_sum, world_mean
from aweigh.ops.patches import Patches, cut_patches, into_patches, out_of_patches, whole_images
from aweigh.ops.places import Places, around_boxes, attended, best_places
from aweigh.structures import Images, Targets
from aweigh.weights.convert.cornernet import cornernet_record
from aweigh.weights.record import by_builder

# Of each attention map, coarse to fine: the longer sides of its objects in pixels of the patch, both ends included, and
# how much closer a look at them is (section 3.1; the authors' code).
ATTENTION = {"large": (96.0, torch.inf), "medium": (32.0, 96.0), "small": (0.0, 32.0)}
ZOOM = {"large": 1.0, "medium": 2.0, "small": 4.0}
SIGMA = 0.7  # of the soft suppression (their code)
AT_ONCE = 32  # crops that are computed together (their code)


class SaccadeOutput(NamedTuple):
    """What the network says of the whole images, and what closer looks are cut out of."""

    pixels: Tensor  # [B, 3, H, W] as given
    sizes_hw: Tensor  # [B, 2] of the images in them
    maps: CornerMaps  # with `large_attention`, `medium_attention` and `small_attention` [B, 1, h, w], logits


@dataclass(frozen=True)
class SaccadeSelection(Selection):
    """Which of the network's answers become detections, and where it looks closer (section 3; the authors' code).

    points_per_kind, max_pairs: corners of a kind, and pairs, of each patch. first_look_threshold: lowest score of a
    detection in the whole image. attention_threshold: of a place that is looked at. reference_threshold: of a detection
    that is looked round. max_crops: closer looks at an image. suppression_distance: in pixels of the crop; a place
    nearer to a better one, by its column or by its row, at about the same scale, is none.
    """

    points_per_kind: Count = 12
    max_pairs: Count = 12
    embedding_distance: NotNegative = 0.3
    first_look_threshold: Share = 0.3
    attention_threshold: Share = 0.3
    reference_threshold: Share = 0.5
    max_crops: Count = 30
    suppression_distance: NotNegative = 16.0
    score_threshold: Share = 0.0
    nms: NMS = "soft"


@detector(SaccadeSelection)
class CornerNetSaccade(nn.Module):
    """The detector.

    Args:
        backbone: patches `[P, 3, S, S]` -> one map for each stack, then three for each on the way up.
        points: of each stack, by kind, a `Point`: `top_left` and `bottom_right`.
        attention: of each stack, by size (`ATTENTION`), a head over one of the maps on the way up.
        classes: names and original ids; their number must be the heat maps'.
        input_size: side of a patch, S; small_size: longer side of the image in the second of the first looks; None for
            one look. min_size: below which longer side of an object, in pixels of the patch, its corners are hidden.
        radius, radius_iou: of the Gaussians, see `ops.heatmaps.gaussian_radius`.
        pull_weight, push_weight: of the embeddings' losses. attention_weight: the authors' code divides this loss by
            the number of stacks twice, which are three.
        beyond: the colour of what lies outside of the image in a patch.
        max_crops: closer looks at an image.
    """

    needs_sizes = True
    stride_divisor = 1

    def __init__(
        self,
        backbone: Hourglass,
        points: Sequence[nn.ModuleDict],
        attention: Sequence[nn.ModuleDict],
        *,
        classes: Classes,
        input_size: Width = 255,
        small_size: Width | None = 192,
        min_size: NotNegative = 16.0,
        radius: Radius = "corrected",
        radius_iou: Share = 0.5,
        pull_weight: NotNegative = 0.1,
        push_weight: NotNegative = 0.1,
        attention_weight: NotNegative = 1 / 3,
        beyond: Literal["mean", "black"] = "mean",
        max_crops: Count = 30,
    ) -> None:
        super().__init__()
        for point in (point for of_stack in points for point in of_stack.values()):
            check_classes("CornerNetSaccade", cast(Point, point).classes, classes)
        if not 0 < radius_iou < 1:
            raise UsageError(f"CornerNetSaccade: radius_iou must lie between 0 and 1, got {radius_iou}.")
        if small_size is not None and small_size > input_size:
            raise UsageError(f"CornerNetSaccade: small_size = {small_size} is more than input_size = {input_size}.")
        self.backbone, self.points, self.attention = backbone, nn.ModuleList(points), nn.ModuleList(attention)
        self.classes, self.input_size, self.small_size, self.min_size = classes, input_size, small_size, min_size
        self.radius: Radius = radius
        self.radius_iou = radius_iou
        self.pull_weight, self.push_weight, self.attention_weight = pull_weight, push_weight, attention_weight
        self.beyond = beyond
        self.selection = SaccadeSelection(max_crops=max_crops)

    def forward(self, images: Images, targets: Sequence[Targets] | None = None) -> dict[str, Tensor] | list[Detections]:
        """The losses if `targets` are given, else the detections of each image."""
        raw = self.network(*network_inputs(cast(Detector, self), images))
        return self.decode(raw, images.sizes_hw) if targets is None else self.loss(raw, targets)

    def network(self, pixels: Tensor, sizes_hw: Tensor) -> SaccadeOutput:
        """Images `[B, 3, H, W]`, RGB in `[0, 1]`, of sizes `[B, 2]` in their padding, to what is said of the whole of
        each, `input_size` pixels long."""
        patches = self._cut(pixels, sizes_hw, whole_images(sizes_hw, self.input_size))
        maps = self.backbone(patches)
        return SaccadeOutput(pixels, sizes_hw, [self._said(maps, stack) for stack in range(len(self.points))])

    def _cut(self, pixels: Tensor, sizes_hw: Tensor, patches: Patches) -> Tensor:
        mean = cast(Tensor, self.pixel_mean)
        colour = mean if self.beyond == "mean" else torch.zeros_like(mean)
        return cut_patches(pixels, sizes_hw, patches, self.input_size, colour)

    def _said(self, maps: Sequence[Tensor], stack: int, *, attention: bool = True) -> dict[str, Tensor]:
        """What one stack says, of all maps of the backbone. attention: with its attention maps."""
        points, heads = cast(Any, self.points[stack]), cast(Any, self.attention[stack])
        said = {f"{kind}_{head}": value for kind in CORNERS for head, value in points[kind](maps[stack]).items()}
        steps = maps[len(self.points) + stack * len(ATTENTION) :][: len(ATTENTION)]
        attended = zip(ATTENTION, steps, strict=True) if attention else ()
        return said | {f"{size}_attention": heads[size](step) for size, step in attended}

    # Training

    def loss(self, raw: SaccadeOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Those of `corner_losses`, and `attention`: focal loss of the maps of each size divided by the number of their
        objects, or by one where there is none, added up; the mean over the stacks."""
        heatmap = raw.maps[0]["top_left_heatmap"]
        check_labels(targets, images=len(heatmap), classes=len(self.classes), what="CornerNetSaccade.loss")
        views = whole_images(raw.sizes_hw, self.input_size)
        boxes = [
            into_patches(target.boxes[None], view, self.input_size)[0]
            for target, view in zip(targets, views.portions(1), strict=True)
        ]
        targets = [replace(target, boxes=inside) for target, inside in zip(targets, boxes, strict=True)]
        goals = self.goals(targets, (heatmap.shape[-2], heatmap.shape[-1]))
        losses = corner_losses(raw.maps, goals, CORNERS, pull_weight=self.pull_weight, push_weight=self.push_weight)
        return {**losses, "attention": self.attention_weight * self._attention_loss(raw.maps, targets)}

    def _attention_loss(self, maps: CornerMaps, targets: Sequence[Targets]) -> Tensor:
        total = maps[0]["large_attention"].new_zeros((), dtype=torch.float32)
        for size, stride in zip(ATTENTION, self._attention_strides, strict=True):
            height, width = maps[0][f"{size}_attention"].shape[-2:]
            goals = attention_goals(targets, (height, width), stride, ATTENTION[size], len(self.classes))
            number = world_mean((goals == 1).sum().float()).clamp(min=1)
            for stack in maps:
                logits = stack[f"{size}_attention"].float()
                total = total + penalty_reduced_focal_loss_sum(logits, goals, unknown=UNKNOWN) / number
        return total / len(maps)

    @property
    def _attention_strides(self) -> tuple[int, ...]:
        return self.backbone.strides[len(self.points) :][: len(ATTENTION)]

    @torch.no_grad()
    def goals(self, targets: Sequence[Targets], size_hw: tuple[int, int]) -> CornerGoals:
        """What corners there are to learn in patches on maps of `size_hw` cells; boxes in pixels of the patch.

        Where an object is to be ignored, or smaller than `min_size`, the squares of its corners' Gaussians are neither
        corners nor background of its class.
        """
        stride, number = self.input_size / size_hw[1], len(self.classes)
        nowhere = [torch.zeros_like(target.ignore) for target in targets]
        every = [replace(target, ignore=no, uncertain=no) for target, no in zip(targets, nowhere, strict=True)]
        objects = objects_on_map(every, size_hw, stride)
        learned = torch.cat([target.learned for target in targets])[objects.row]
        ignored = torch.cat([target.ignore for target in targets])[objects.row]
        large = box_ops.longer_sides(objects.boxes) * stride >= self.min_size
        draw = partial(
            corner_goals,
            kinds=CORNERS,
            size=(len(targets), number, *size_hw),
            radius=self.radius,
            radius_iou=self.radius_iou,
        )
        unknown = unknown_cells(targets, size_hw, stride, number, margin=stride)
        goals = draw(MapObjects(*(part[learned & large] for part in objects)), unknown=unknown)
        hidden = draw(MapObjects(*(part[(learned & ~large) | ignored] for part in objects)))
        for kind in CORNERS:
            drawn = goals.heatmaps[kind]
            goals.heatmaps[kind] = torch.where((hidden.heatmaps[kind] > 0) & (drawn < 1), UNKNOWN, drawn)
        return goals

    # Prediction

    @torch.no_grad()
    def decode(self, raw: SaccadeOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """`select`, cut to the number found: one `Detections` per image, best first."""
        found = self.select(raw, torch.tensor(sizes_hw, device=raw.pixels.device))
        return Detections.unpadded(found, classes=self.classes, sizes_hw=sizes_hw)

    def select(self, raw: SaccadeOutput, sizes_hw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the first look says, and closer looks at the best places of each image, merged; padded to a fixed
        number."""
        chosen = self.selection
        views = self._first_looks(raw, sizes_hw)
        found = [self._first_found(*view) for view in views]
        best = self._places(views, found, sizes_hw)
        found.append(self._closer(raw, sizes_hw, best))
        boxes, scores, labels = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        boxes = box_ops.clip(boxes, sizes_hw)
        scores = torch.where((box_ops.areas(boxes) > 0) & (scores > chosen.score_threshold), scores, 0)
        return box_ops.select_detections(
            boxes,
            scores,
            labels,
            iou_threshold=chosen.nms_threshold,
            max_detections=chosen.max_detections,
            method=chosen.nms,
            sigma=SIGMA,
        )

    def _first_looks(self, raw: SaccadeOutput, sizes_hw: Tensor) -> list[tuple[Patches, dict[str, Tensor]]]:
        """The views of the whole of each image, and what is said of them."""
        views = [(whole_images(sizes_hw, self.input_size), raw.maps[-1])]
        if self.small_size is not None:
            smaller = whole_images(sizes_hw, self.small_size)
            views.append((smaller, self._look(raw, sizes_hw, smaller, attention=True)))
        return views

    def _first_found(self, view: Patches, stack: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The boxes `[B, n, 4]` of a first look, scores, 0 for none, and labels `[B, n]`."""
        boxes, scores, labels = self._boxes(stack, view)
        return boxes, torch.where(scores > self.selection.first_look_threshold, scores, 0), labels

    def _places(
        self,
        views: Sequence[tuple[Patches, dict[str, Tensor]]],
        found: Sequence[tuple[Tensor, Tensor, Tensor]],
        sizes_hw: Tensor,
    ) -> Places:
        """The middles of closer looks, of what each first look found, boxes `[B, n, 4]`, scores and labels `[B, n]`."""
        chosen, places = self.selection, []
        for (view, stack), (boxes, scores, _) in zip(views, found, strict=True):
            places.append(around_boxes(boxes, scores, threshold=chosen.reference_threshold))
            for size, stride in zip(ATTENTION, self._attention_strides, strict=True):
                logits, threshold = stack[f"{size}_attention"].float(), chosen.attention_threshold
                side, zoom = self.input_size, ZOOM[size]
                places.append(attended(logits, view, sizes_hw, side, stride=stride, zoom=zoom, threshold=threshold))
        together = Places(*(torch.cat(parts, dim=1) for parts in zip(*places, strict=True)))
        return best_places(together, chosen.max_crops, distance=chosen.suppression_distance)

    def answers(self, raw: SaccadeOutput, sizes_hw: Tensor, wanted: Targets | None = None) -> Answers:
        """All that is said of one image, see `Detector`, in the first looks and then in each closer one."""
        chosen, views = self.selection, self._first_looks(raw, sizes_hw)
        found = [self._first_found(*view) for view in views]
        places, names = self._places(views, found, sizes_hw), [f"look at the whole {i + 1}" for i in range(len(views))]
        first = len(views)
        for row in (places.scores[0] > 0).nonzero():
            crop = Patches(torch.zeros_like(row), places.middles[0, row], places.scales[0, row])
            views.append((crop, self._look(raw, sizes_hw, crop)))
            names.append(f"closer look {len(views) - first}")
        objects = wanted or Targets.empty(raw.pixels.device)
        looks = [self._answers_of(stack, view, objects) for view, stack in views]
        of_each, of_labels, of_parts, of_gates = zip(*looks, strict=True)
        levels, labels = level_numbers(of_each), torch.cat(of_labels)
        boxes = box_ops.clip(torch.cat(of_each), sizes_hw[0])
        parts = {name: torch.cat([part[name] for part in of_parts]) for name in of_parts[0]}
        gates = joined_gates(of_gates)
        scores = combined(parts, "mean")
        in_first = torch.where(levels[:, None] < first, scores, torch.inf)
        gates.add("score in a look at the whole", in_first, ">", chosen.first_look_threshold, "first_look_threshold")
        gates.add("size", box_ops.areas(boxes)[:, None], ">", 0)
        gates.add("score", scores, ">", chosen.score_threshold, "score_threshold")
        return Answers(
            "pair of corners", boxes, boxes[:, None], labels, parts, "mean", levels, names, gates.all, chosen, SIGMA
        )

    def _answers_of(
        self, stack: dict[str, Tensor], view: Patches, objects: Targets
    ) -> tuple[Tensor, Tensor, dict[str, Tensor], Gates]:
        """Of one look, as `pair_answers`; boxes in pixels of the image."""
        chosen, side = self.selection, self.input_size
        height, width = stack["top_left_heatmap"].shape[-2:]
        corners = (into_patches(objects.boxes[None], view, side)[0] * (width / side)).chunk(2, dim=1)
        seen = []
        for kind, places, edge in zip(CORNERS, corners, ((0, 0), (width - 1, height - 1)), strict=True):
            each = seen_points(stack, kind, chosen.points_per_kind, places, objects.labels)
            seen.append(each._replace(points=not_at(each.points, edge, width)))
        return pair_answers(
            stack, seen, lambda cells: out_of_patches(cells * (side / width), view, side),
            points_per_kind=chosen.points_per_kind, embedding_distance=chosen.embedding_distance,
            max_pairs=chosen.max_pairs,
        )  # fmt: skip

    def _look(
        self, raw: SaccadeOutput, sizes_hw: Tensor, patches: Patches, *, attention: bool = False
    ) -> dict[str, Tensor]:
        """What the last stack says of patches, computed in the format in which the network was."""
        precision = raw.maps[-1]["top_left_heatmap"].dtype
        lower = precision in (torch.bfloat16, torch.float16)
        with torch.autocast(raw.pixels.device.type, precision) if lower else nullcontext():
            pixels = self._cut(raw.pixels, sizes_hw, patches).to(cast(Tensor, self.pixel_mean).dtype)
            return self._said(self.backbone(pixels), len(self.points) - 1, attention=attention)

    def _boxes(self, stack: dict[str, Tensor], patches: Patches) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes `[P, n, 4]` in pixels of their images, scores and labels `[P, n]`, of what is said of patches."""
        chosen = self.selection
        height, width = stack["top_left_heatmap"].shape[-2:]
        corners = []
        for kind, edge in zip(CORNERS, ((0, 0), (width - 1, height - 1)), strict=True):
            points = best_points(stack, kind, chosen.points_per_kind)
            corners.append(not_at(points, edge, width))
        distance, most = chosen.embedding_distance, chosen.max_pairs
        boxes, scores, labels = best_pairs_of_corners(stack, *corners, embedding_distance=distance, max_pairs=most)
        return out_of_patches(boxes * (self.input_size / width), patches, self.input_size), scores, labels

    def _closer(self, raw: SaccadeOutput, sizes_hw: Tensor, places: Places) -> tuple[Tensor, Tensor, Tensor]:
        """Of closer looks at places: boxes `[B, k * n, 4]`, scores and labels `[B, k * n]`."""
        images, count = places.scores.shape
        there = places.scores.flatten() > 0
        rows = torch.arange(images * count, device=there.device)
        graph = torch.compiler.is_compiling()  # has one shape for all data, and looks at what is no place too
        rows = rows if graph else rows[there]
        patches = Patches(rows // count, places.middles.flatten(0, 1)[rows], places.scales.flatten()[rows])
        looks = [patches] if graph else patches.portions(AT_ONCE)
        parts = [self._boxes(self._look(raw, sizes_hw, look), look) for look in looks]
        if not parts:
            nothing = places.scores.new_zeros(images, 0)
            return nothing[..., None].expand(-1, -1, 4), nothing, nothing.long()
        found = [torch.cat(each) for each in zip(*parts, strict=True)]
        whole = [each.new_zeros(images * count, *each.shape[1:]).index_copy(0, rows, each) for each in found]
        boxes, scores, labels = (each.view(images, -1, *each.shape[2:]) for each in whole)
        scores = torch.where(there.view(images, count).repeat_interleave(found[1].shape[1], dim=1), scores, 0)
        return boxes, scores, labels


@torch.no_grad()
def attention_goals(
    targets: Sequence[Targets],
    size_hw: tuple[int, int],
    stride: float,
    sides: tuple[float, float],
    num_classes: int,
) -> Tensor:
    """`[B, 1, H, W]`: 1 in the cell of the middle of each object whose longer side lies within `sides`, both included;
    UNKNOWN where nobody knows of every class whether it is there, else 0. Boxes in pixels of the patch."""
    image, _, boxes = objects_on_map(targets, size_hw, stride)[1:]
    height, width = size_hw
    goals = boxes.new_zeros(len(targets), height * width)
    unknown = unknown_cells(targets, size_hw, stride, num_classes)
    if unknown is not None:
        goals = torch.where(unknown.any(dim=1).flatten(1), UNKNOWN, goals)
    longest = box_ops.longer_sides(boxes) * stride
    chosen = (longest >= sides[0]) & (longest <= sides[1])
    last = torch.tensor([width - 1, height - 1], device=boxes.device)
    cell = torch.minimum(((boxes[chosen, :2] + boxes[chosen, 2:]) / 2).floor().long(), last)
    goals[image[chosen], cell[:, 1] * width + cell[:, 0]] = 1
    return goals.view(-1, 1, height, width)


def not_at(points: Points, edge: tuple[int, int], width: int) -> Points:
    """The points, but none in this column or in this row of maps of so many columns: what is cut off by the edge of a
    crop has no corner there (the authors' code)."""
    columns, rows = columns_rows(points.cells, width).unbind(dim=-1)
    cut_off = (columns == edge[0]) | (rows == edge[1])
    return points._replace(scores=torch.where(cut_off, 0, points.scores))


# Builders


@passes_on(CornerNetSaccade)
def cornernet_saccade(
    backbone: Hourglass,
    classes: Classes,
    heads: Callable[..., list[nn.ModuleDict]],
    *,
    attention_channels: Width = 256,
    **settings: Any,
) -> CornerNetSaccade:
    """On hourglasses of three halvings or more. attention_channels: between the convolutions of an attention map."""
    of_steps = backbone.channels[backbone.stacks :][: len(ATTENTION)]
    attention = [
        nn.ModuleDict(
            {
                size: make_heads(channels, {"heatmap": 1}, hidden=attention_channels)["heatmap"]
                for size, channels in zip(ATTENTION, of_steps, strict=True)
            }
        )
        for _ in range(backbone.stacks)
    ]
    points = heads(backbone.channels[: backbone.stacks], len(classes))
    return CornerNetSaccade(backbone, points, attention, classes=classes, **settings)


BUILDERS = {
    # AP 43.2 on test-dev; of the val split 42.6, and 41.4 with the stacks, channels
    # and blocks of Hourglass-104.
    "cornernet_saccade": Builder(
        cornernet_saccade,
        partial(hourglass_backbone, 2, "residual", len(ATTENTION)),
        {"stacks": 3, "channels": (256, 384, 384, 512), "blocks": (1, 1, 1, 1)},
        {"heads": corner_points},
    ),
}

PUBLISHED = by_builder(
    replace(
        cornernet_record(
            "cornernet_saccade",
            "CornerNet_Saccade_500000",
            "file/d/1MQDyPRI0HgDHxHToudHqQ-2m8TVBciaa/view",
            "BSD-3-Clause (princeton-vl/CornerNet-Lite)",
            43.2,
        ),
        arguments={"beyond": "black"},
    ),
)
