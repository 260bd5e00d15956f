"""CenterNet for objects in space: what stands at a centre, how far, how large and which way it looks, from one image.

Paper: Zhou et al., "Objects as Points", 2019 (arXiv 1904.07850), section 5.1, "3D detection". `centernet.py` is the
detector of boxes; here are three heads more, for the depth (equation 5 of its appendix), the sides in metres, and the
observation angle in two bins (Mousavian et al., CVPR 2017, as the appendix has it), their losses and decoding.

What is learned and said of an object is its cuboid as the camera sees it (see `geometry/cuboids.py`), for which no
camera is needed; where the object stands follows with the camera of the image. A depth holds for cameras of the focal
length that was learned from, at the size of images that was learned from.

How ours differs:
- The authors take the middle of the box for the middle of the object, which it is not: perspective moves it, and where
  an object is cut by the edge of the image, far. A head of ours says how far it lies from there; `middle="box"` is
  theirs.
- They average over 50 places for objects in each image, whether there is an object or not, so that losses grow with
  the number of objects; so do we with `slots=50`, and objects beyond the 50th, which they leave out, count too. An
  empty place adds log 2 to their loss of the bins, which has no gradient and is left out. `slots=None` divides by the
  objects.
- With an augmented image they leave out depth and sides; here the data say what is not known, by NaN (see
  `feeding/transforms.py`), and each of the three losses takes what is known.
- Depths begin at 20 metres and sides at 1.6, not at 1 and 0.
- Sides are never less than zero. They keep detections above a score of 0.2; here all are kept, as `score_threshold`
  says.

Legend: B images, H x W cells of the map, N objects of all images that are learned, k peaks of each image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Count, checked_class, passes_on
from aweigh.backbones import Backbone
from aweigh.classes import Classes
from aweigh.errors import UsageError
from aweigh.models import centernet
from aweigh.models.builders import Builder, with_neck_and_heads
from aweigh.models.centernet import CenterGoals, CenterNet, CenterNetOutput, Mirroring, center_heads
from aweigh.necks import Neck
from aweigh.ops.heatmaps import at_cells, at_peaks, columns_rows, gaussian_radius
from aweigh.ops.losses import world_mean
from aweigh.structures import IMAGENET_MEAN, IMAGENET_STD, Targets
from aweigh.weights.convert.centernet import centernet_3d_from_authors, centernet_record
from aweigh.weights.record import PublishedWeights, by_builder

KITTI_CLASSES = Classes(("Pedestrian", "Car", "Cyclist"), (1, 2, 3))
# ImageNet's numbers, which the authors apply to KITTI's images in the order BGR.
KITTI_MEAN, KITTI_STD = IMAGENET_MEAN[::-1], IMAGENET_STD[::-1]

OUTPUTS = {"depth": 1, "orientation": 8, "dimensions": 3}
# Two bins that overlap: angles round -pi/2 and round pi/2, each up to 2 pi / 3 away (the authors' code).
BIN_CENTERS = (-math.pi / 2, math.pi / 2)
BIN_REACH = 2 * math.pi / 3

# Biases by which a head says 20 metres at first, and sides of 1.6 metres (ours).
STARTS = {"depth": -math.log(20.0), "dimensions": 1.6}

Middle = Literal["learned", "box"]


@dataclass(frozen=True, eq=False)
class SpaceGoals(CenterGoals):
    """What there is to learn in a batch."""

    cuboids: Tensor  # [N, 7] as the camera sees the objects, NaN for what is not known
    middle: Tensor  # [N, 2] x, y of their middles from those of their boxes, cells


@checked_class(CenterNet)
class CenterNet3D(CenterNet):
    """The detector.

    Args:
        heads: beside those of `CenterNet`, `depth` (1 channel), `orientation` (8) and `dimensions` (3), and `middle`
            (2) unless the middle of the box is taken.
        slots: how many objects of each image losses are averaged over, those that are not there included; None for
            the objects that are there.
        options: those of `CenterNet`.
    """

    extras = ("cuboids",)

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck,
        heads: Sequence[nn.ModuleDict],
        *,
        slots: Count | None = 50,
        **options: Any,
    ) -> None:
        super().__init__(backbone, neck, heads, **options)
        self.slots = slots
        for head in heads:
            for name, value in STARTS.items():
                nn.init.constant_(cast(Tensor, cast(nn.Conv2d, cast(nn.Sequential, head[name])[-1]).bias), value)

    # Training

    def stack_losses(self, raw: CenterNetOutput, goals: CenterGoals) -> dict[str, list[Tensor]]:
        """Those of `CenterNet` and, of what is known of each object, of `depth` and `dimensions` (metres),
        `orientation` and, where it is learned, `middle` (cells).

        The mean absolute difference at the centres, over what `slots` says; see `orientation_loss` for the angle.
        """
        assert isinstance(goals, SpaceGoals)
        losses = super().stack_losses(raw, goals)
        wanted = {"depth": goals.cuboids[:, 2:3], "dimensions": goals.cuboids[:, 3:6], "middle": goals.middle}
        angles = goals.cuboids[:, 6]
        seen = angles.isfinite()
        for stack in raw:
            for name, goal in wanted.items():
                if name in stack:
                    said = at_cells(stack[name], goals.image, goals.cell)  # [N, X]
                    known = goal.isfinite().all(dim=1)
                    difference = (depth_of(said) if name == "depth" else said)[known] - goal[known]
                    count = goal.shape[1] * self._count(raw, known)
                    losses.setdefault(name, []).append(difference.abs().sum() / count)
            said = at_cells(stack["orientation"], goals.image, goals.cell)
            loss = orientation_loss(said[seen], angles[seen], self._count(raw, seen))
            losses.setdefault("orientation", []).append(loss)
        return losses

    def averaged_over(self, raw: CenterNetOutput, goals: CenterGoals) -> Tensor:
        return self._count(raw, goals.image >= 0)

    def _count(self, raw: CenterNetOutput, known: Tensor) -> Tensor:
        """What a sum over objects is divided by, a scalar. known: `[N]` bool, those that are in it."""
        if self.slots is not None:
            return known.new_tensor(float(self.slots * len(raw[0]["heatmap"])), dtype=torch.float32)
        return world_mean(known.sum().float()).clamp(min=1)

    @torch.no_grad()
    def goals(self, targets: Sequence[Targets], size_hw: tuple[int, int]) -> SpaceGoals:
        """What a map of `size_hw` cells has to learn of the targets of each image; `UsageError` for objects to find
        without cuboids."""
        for number, target in enumerate(targets):
            if target.cuboids is None and target.learned.any():
                raise UsageError(
                    f"CenterNet3D: the objects of image {number} have no cuboids; give data with 3D boxes "
                    "(KITTI's layout), or train a detector of boxes."
                )
        centers = super().goals(targets, size_hw)
        given = [t.boxes.new_full((len(t), 7), torch.nan) if t.cuboids is None else t.cuboids for t in targets]
        cuboids = torch.cat(given)[centers.row]  # [N, 7]
        center = columns_rows(centers.cell, size_hw[1]) + centers.offset
        return SpaceGoals(**vars(centers), cuboids=cuboids, middle=cuboids[:, :2] / self.stride - center)

    def radii(self, size: Tensor) -> Tensor:
        """As the authors have it for KITTI, of sizes that are not rounded."""
        return gaussian_radius(size.flip(1), kind=self.radius).long()

    # Prediction

    def mirroring(self, class_order: Tensor) -> dict[str, Mirroring]:
        """As `CenterNet.mirroring`; where an object is in space is what the plain image says."""
        return {**super().mirroring(class_order), **dict.fromkeys((*OUTPUTS, "middle"))}

    def more(self, stack: dict[str, Tensor], inside: Tensor, cells: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        """The cuboids of detections, `[B, K, 7]` float32."""
        middle = (boxes[..., :2] + boxes[..., 2:]) / 2
        if "middle" in stack:
            middle = middle + at_peaks(stack["middle"], cells) * self.stride
        depth, sides = depth_of(at_peaks(stack["depth"], cells)), at_peaks(stack["dimensions"], cells).clamp(min=0)
        angle = angle_of(at_peaks(stack["orientation"], cells))
        return (torch.cat([middle, depth, sides, angle[..., None]], dim=-1),)


def depth_of(said: Tensor) -> Tensor:
    """Metres, of what the head of depths says (section 5.1: 1 / sigmoid - 1)."""
    return 1 / (said.sigmoid() + 1e-6) - 1


def orientation_loss(said: Tensor, angles: Tensor, count: Tensor) -> Tensor:
    """The loss of angles `[N]`, radians, of which the head says `[N, 8]`: of each bin two logits (outside, inside), and
    sine and cosine of the angle from the bin's middle.

    The cross-entropy of both bins, divided by `count`, and of each bin that holds angles the mean smooth L1 loss of the
    two others over these angles.
    """
    total = said.sum() * 0
    for own, center in zip((said[:, :4], said[:, 4:]), BIN_CENTERS, strict=True):
        turn = _wrapped(angles - center)
        inside = turn.abs() < BIN_REACH
        total = total + F.cross_entropy(own[:, :2], inside.long(), reduction="sum") / count
        goal = torch.stack([turn.sin(), turn.cos()], dim=1)
        difference = F.smooth_l1_loss(own[inside, 2:], goal[inside], reduction="sum")
        total = total + difference / world_mean(inside.sum().float()).clamp(min=1)
    return total


def angle_of(said: Tensor) -> Tensor:
    """The angle, radians in `[-pi, pi)`, that the likelier bin of `[..., 8]` says."""
    first, second = (
        torch.atan2(own[..., 2], own[..., 3]) + center
        for own, center in zip((said[..., :4], said[..., 4:]), BIN_CENTERS, strict=True)
    )
    return _wrapped(torch.where(said[..., 1] > said[..., 5], first, second))


# Builders


@passes_on(center_heads)
def space_heads(
    channels: Sequence[int], num_classes: int, *, middle: Middle = "learned", **settings: Any
) -> list[nn.ModuleDict]:
    """`center_heads` with those of space. middle: of an object, or that of its `"box"`, as the authors take it."""
    outputs = {**OUTPUTS, **({"middle": 2} if middle == "learned" else {})}
    return center_heads(channels, num_classes, outputs, **settings)


def _in_space(boxes: Builder, **values: Any) -> Builder:
    parts, values = {**boxes.parts, "heads": space_heads}, {**boxes.values, **values}
    return replace(boxes, form=_FORM, parts=parts, classes=KITTI_CLASSES, values=values)


_FORM = with_neck_and_heads(CenterNet3D)
BUILDERS = {
    "centernet_dla34_3d": _in_space(centernet.BUILDERS["centernet_dla34"], pixel_mean=KITTI_MEAN, pixel_std=KITTI_STD),
    "centernet_shufflenet_v2_x0_5_lite_3d": _in_space(centernet.BUILDERS["centernet_shufflenet_v2_x0_5_lite"]),
}


def _published(name: str, run: str, half: str, **metrics: float) -> PublishedWeights:
    """metrics: the authors' AP of cars at 11 recalls, moderate."""
    return replace(
        centernet_record(name, "centernet_dla34_3d", run, metrics["AP"]),
        licence="MIT (xingyizhou/CenterNet); trained on KITTI, whose data are CC BY-NC-SA 3.0",
        source=f"the authors, {run}, trained on {half} half of KITTI's training images",
        metrics=metrics,
        arguments={"middle": "box"},
        classes=KITTI_CLASSES,
        resize={"short": 384, "long": 1280},
        convert=centernet_3d_from_authors,
    )


PUBLISHED = by_builder(
    _published("3dop", "ddd_3dop", "3DOP's", AP=87.8, AOS=84.3, birds_eye=30.5),
    _published("sub", "ddd_sub", "SubCNN's", AP=79.8, AOS=75.2, birds_eye=27.7),
)


def _wrapped(angles: Tensor) -> Tensor:
    """The same angles in `[-pi, pi)`."""
    return torch.remainder(angles + math.pi, 2 * math.pi) - math.pi
