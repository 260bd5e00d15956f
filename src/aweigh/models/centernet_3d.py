"""CenterNet for objects in space: what stands at a centre, how far, how large and which way it looks, from one picture.

Paper: Zhou et al., "Objects as Points", 2019 (arXiv 1904.07850), section 5.1, "3D detection". `centernet.py` is the
detector of boxes; here are three heads more, for the depth (equation 5 of its appendix), the sides in metres, and the
observation angle in two bins (Mousavian et al., CVPR 2017, as the appendix has it), their losses and decoding.

What is learned and said of an object is its cuboid as the camera sees it (see `ops/cuboids.py`), for which no camera is
needed; where the object stands follows with the camera of the picture. A depth holds for cameras of the focal length
that was learned from, at the size of pictures that was learned from.

How ours differs:
- The authors take the middle of the box for the middle of the object, which it is not: perspective moves it, and where
  an object is cut by the edge of the picture, far. A head of ours says how far it lies from there; `middle="box"` is
  theirs.
- They average over 50 places for objects in each picture, whether there is an object or not, so that losses grow with
  the number of objects; so do we with `slots=50`, and objects beyond the 50th, which they leave out, count too. An
  empty place adds log 2 to their loss of the bins, which has no gradient and is left out. `slots=None` divides by the
  objects.
- With an augmented picture they leave out depth and sides; here the data say what is not known, by NaN (see
  `data/transforms.py`), and each of the three losses takes what is known.
- Sides are never less than zero. They keep detections above a score of 0.2; here all are kept, as `score_threshold`
  says.

Legend: B images, H x W cells of the map, N objects of all images that are learned, k peaks of each image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.backbones import DLA34, Backbone, take_shufflenet_v2, take_timm
from aweigh.errors import UsageError
from aweigh.models.centernet import CenterGoals, CenterNet, CenterNetOutput, at_cells, at_peaks, make_heads
from aweigh.necks.upsample import AggregationUpsample, LiteUpsample
from aweigh.ops.cuboids import wrapped
from aweigh.ops.heatmaps import gaussian_radius
from aweigh.ops.losses import world_mean
from aweigh.structures import IMAGENET_MEAN, IMAGENET_STD, Classes, Targets
from aweigh.weights.convert.centernet import centernet_from_authors
from aweigh.weights.record import PublishedWeights

KITTI_CLASSES = Classes(("Pedestrian", "Car", "Cyclist"), (1, 2, 3))
# ImageNet's numbers, which the authors apply to KITTI's pictures in the order BGR.
KITTI_MEAN, KITTI_STD = IMAGENET_MEAN[::-1], IMAGENET_STD[::-1]

OUTPUTS = {"depth": 1, "orientation": 8, "dimensions": 3}
MIDDLE = {"middle": 2}
# Two bins that overlap: angles round -pi/2 and round pi/2, each up to 2 pi / 3 away (the appendix; the authors' code).
BIN_CENTERS = (-math.pi / 2, math.pi / 2)
BIN_REACH = 2 * math.pi / 3


class CenterNet3D(CenterNet):
    """The detector.

    Args:
        heads: beside those of `CenterNet`, `depth` (1 channel), `orientation` (8) and `dimensions` (3), and `middle`
            (2) unless the middle of the box is taken.
        slots: how many objects of each picture losses are averaged over, those that are not there included; None for
            the objects that are there.
        options: those of `CenterNet`.
    """

    extras = ("cuboids",)

    def __init__(
        self,
        backbone: Backbone,
        neck: nn.Module,
        heads: Sequence[nn.ModuleDict],
        *,
        slots: int | None = 50,
        **options: Any,
    ) -> None:
        super().__init__(backbone, neck, heads, **options)
        if slots is not None and slots < 1:
            raise UsageError(
                f"CenterNet3D: slots = {slots}; expected a number above 0, or None for the objects there are."
            )
        self.slots = slots
        self.learns_middle = all("middle" in head for head in heads)

    # Training

    def loss(self, raw: CenterNetOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The losses of boxes and, of what is known of each object in space, of `depth` (metres), `dimensions`
        (metres), `orientation` and, where it is learned, `middle` (cells); scalars, float32, the mean over the stacks.

        Absolute differences, averaged as `slots` says; `orientation` is the cross-entropy of the two bins, and a smooth
        L1 loss of sine and cosine in the bins that hold the angle. `UsageError` for objects without cuboids.
        """
        goals = self.checked_goals(raw, targets)
        cuboids = goals_in_space(goals, targets)  # [N, 7]
        losses = self.box_losses(raw, goals, self._count(raw, cuboids.new_ones(len(cuboids), dtype=torch.bool)))
        for name in (*OUTPUTS, *(MIDDLE if self.learns_middle else ())):
            of_stacks = [self._loss_of(name, raw, stack[name], goals, cuboids) for stack in raw]
            losses[name] = torch.stack(of_stacks).mean()
        return losses

    def _loss_of(self, name: str, raw: CenterNetOutput, head: Tensor, goals: CenterGoals, cuboids: Tensor) -> Tensor:
        said = at_cells(head, goals.image, goals.cell)  # [N, X]
        if name == "orientation":
            known = cuboids[:, 6].isfinite()
            return orientation_loss(said[known], cuboids[known, 6], self._count(raw, known))
        if name == "depth":
            said, goal = depth_of(said), cuboids[:, 2:3]
        elif name == "dimensions":
            goal = cuboids[:, 3:6]
        else:
            width = head.shape[-1]
            cell = torch.stack([goals.cell % width, goals.cell // width], dim=1)
            goal = cuboids[:, :2] / self.stride - (cell + goals.offset)
        known = goal.isfinite().all(dim=1)
        return (said[known] - goal[known]).abs().sum() / (goal.shape[1] * self._count(raw, known))

    def _count(self, raw: CenterNetOutput, known: Tensor) -> Tensor:
        """What a sum over objects is divided by, a scalar. known: `[N]` bool, those that are in it."""
        if self.slots is not None:
            return known.new_tensor(float(self.slots * len(raw[0]["heatmap"])), dtype=torch.float32)
        return world_mean(known.sum().float()).clamp(min=1)

    def radii(self, size: Tensor) -> Tensor:
        """As the authors have it for KITTI, of sizes that are not rounded."""
        return gaussian_radius(size.flip(1), kind=self.radius).long()

    # Prediction

    def select(self, raw: CenterNetOutput, sizes_hw: Tensor) -> tuple[Tensor, ...]:
        """As `CenterNet.select`, and after it cuboids `[B, K, 7]` float32 of each detection."""
        boxes, scores, labels, cells, center = self.candidates(raw, sizes_hw)
        said = {name: at_peaks(head, cells) for name, head in raw[-1].items() if name in {**OUTPUTS, **MIDDLE}}
        middle = center + said["middle"] if self.learns_middle else center
        parts = [middle * self.stride, depth_of(said["depth"]), said["dimensions"].clamp(min=0)]
        cuboids = torch.cat([*parts, angle_of(said["orientation"])[..., None]], dim=-1)
        return self.keep(boxes, scores, labels, cuboids)


def goals_in_space(goals: CenterGoals, targets: Sequence[Targets]) -> Tensor:
    """The cuboids `[N, 7]` of the objects that are learned; `UsageError` where an image with objects has none."""
    for number, target in enumerate(targets):
        if target.cuboids is None and target.learned.any():
            raise UsageError(
                f"CenterNet3D.loss: the objects of image {number} have no cuboids; give data with places in space "
                "(KITTI's layout), or train a detector of boxes."
            )
    given = [t.boxes.new_zeros(len(t), 7) if t.cuboids is None else t.cuboids for t in targets]
    first = torch.tensor([0, *map(len, given)], device=goals.row.device).cumsum(0)
    return torch.cat(given)[first[goals.image] + goals.row]


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
        turn = wrapped(angles - center)
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
    return wrapped(torch.where(said[..., 1] > said[..., 5], first, second))


# Builders


def _heads(
    channels: Sequence[int], classes: Classes, middle: Literal["learned", "box"], *, hidden: int, **options: Any
) -> list[nn.ModuleDict]:
    if middle not in ("learned", "box"):
        raise UsageError(f"CenterNet3D: unknown middle {middle!r}; known: learned, box.")
    outputs = {"heatmap": len(classes), "size": 2, "offset": 2, **OUTPUTS, **(MIDDLE if middle == "learned" else {})}
    return [make_heads(width, outputs, hidden=hidden, **options) for width in channels]


def centernet_dla34_3d(
    *, classes: Classes = KITTI_CLASSES, middle: Literal["learned", "box"] = "learned", **options: Any
) -> CenterNet3D:
    """CenterNet in space on DLA-34. Options: those of `CenterNet3D`, `head_channels`, `backbone_norm`, `neck_norm`,
    `frozen_stages`.

    middle: of an object, `"learned"` by a head of its own, or that of its `"box"`, as the authors take it.
    """
    backbone = take_timm("dla34", options, kind=DLA34)
    neck = AggregationUpsample(backbone.channels, backbone.strides, norm=options.pop("neck_norm", "bn"))
    heads = _heads(neck.channels, classes, middle, hidden=options.pop("head_channels", 256))
    form = {"pixel_mean": KITTI_MEAN, "pixel_std": KITTI_STD}
    return CenterNet3D(backbone, neck, heads, classes=classes, **{**form, **options})


def centernet_shufflenet_v2_x0_5_lite_3d(
    *,
    classes: Classes = KITTI_CLASSES,
    middle: Literal["learned", "box"] = "learned",
    channels: int = 64,
    **options: Any,
) -> CenterNet3D:
    """The same light enough to be trained on a CPU, as `centernet_shufflenet_v2_x0_5_lite` (ours). Options as
    `centernet_dla34_3d`, `activation` (the backbone's)."""
    backbone = take_shufflenet_v2(0.5, options)
    neck = LiteUpsample(backbone.channels, backbone.strides, channels=channels, norm=options.pop("neck_norm", "bn"))
    hidden = options.pop("head_channels", channels)
    heads = _heads(neck.channels, classes, middle, hidden=hidden, norm="bn", separable=True)
    form = {"pixel_mean": IMAGENET_MEAN, "pixel_std": IMAGENET_STD}
    return CenterNet3D(backbone, neck, heads, classes=classes, **{**form, **options})


BUILDERS = {build.__name__: build for build in (centernet_dla34_3d, centernet_shufflenet_v2_x0_5_lite_3d)}


def _published(name: str, run: str, split: str, metrics: dict[str, float]) -> PublishedWeights:
    return PublishedWeights(
        name=name,
        url="https://drive.google.com/drive/folders/1S3NnppRgXea_IG4WeyquJcnOB3I6G-LX",
        file=f"{run}.pth",
        sha256="",  # not published
        licence="MIT (xingyizhou/CenterNet); trained on KITTI, whose data are CC BY-NC-SA 3.0",
        source=f"the authors, {run}, trained on KITTI's training pictures, {split}",
        metrics=metrics,
        builder="centernet_dla34_3d",
        arguments={"middle": "box"},
        classes=KITTI_CLASSES,
        resize={"short": 384, "long": 1280},
        convert=centernet_from_authors,
    )


# The authors' AP of cars at 11 recalls, moderate: boxes, orientation, bird's eye (their model zoo).
PUBLISHED = {
    "centernet_dla34_3d": {
        "3dop": _published("3dop", "ddd_3dop", "3DOP's half", {"AP": 87.8, "AOS": 84.3, "bird's eye AP": 30.5}),
        "sub": _published("sub", "ddd_sub", "SubCNN's half", {"AP": 79.8, "AOS": 75.2, "bird's eye AP": 27.7}),
    }
}
