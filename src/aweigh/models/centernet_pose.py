"""CenterNet for poses: from the centre of an object the network also says where each of its keypoints lies.

Paper: Zhou et al., "Objects as Points", 2019, section 5.2. `centernet.py` is the detector. A keypoint, here a joint, is
found twice: by a regression from the centre, which says whose it is, and as a peak of a heat map of its own, which says
better where. At prediction a regressed joint moves to the closest peak of its kind.

How ours differs:
- An object without a labelled joint counts as unknown at its centre: neither found nor background. So the authors'
  comments and numbers have it, 0.9999; their Gaussian, drawn after it, makes a centre of it all the same. This is
  `without_keypoints="center"`: it is found, and learns no size.
- The paper looks for the closest peak in the box. The authors' code, and ours, takes the closest of all and asks then
  whether it lies in the box and near enough.
- A joint has a score: of the peak it moved to, else of its heat map where it is. The authors write 1.
- What lies in a region to ignore, is uncertain or was not labelled gives no loss in the heat maps of joints either.

Legend, beside that of `centernet.py`: K joints, P labelled joints on the map of all objects, M detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from aweigh.arguments import Count, NotNegative, Share, checked_class, passes_on, with_selection
from aweigh.backbones import Backbone
from aweigh.classes import GivenKeypoints, KeypointSet
from aweigh.detections import Detections
from aweigh.geometry.frames import exchanged
from aweigh.models import centernet
from aweigh.models.builders import with_neck_and_heads
from aweigh.models.centernet import (
    CenterGoals,
    CenterNet,
    CenterNetOutput,
    CenterNetSelection,
    Mirroring,
    center_heads,
)
from aweigh.necks import Neck
from aweigh.ops.heatmaps import UNKNOWN, at_cells, at_peaks, columns_rows, draw_heatmaps, peaks
from aweigh.ops.keypoints import checked_keypoints
from aweigh.ops.losses import penalty_reduced_focal_loss_sum, world_mean
from aweigh.structures import Targets
from aweigh.weights.coco import PERSON
from aweigh.weights.convert.centernet import centernet_pose_from_authors, centernet_record
from aweigh.weights.record import PublishedWeights, by_builder

WithoutKeypoints = Literal["unknown", "center"]


@dataclass(frozen=True, eq=False)
class PoseGoals(CenterGoals):
    """What there is to learn in a batch; the N objects are those with a labelled joint."""

    joint_heatmap: Tensor  # [B, K, H, W] 1 at joints, less round them, UNKNOWN where no background is known
    owner: Tensor  # [P] which of the N objects a joint is of
    joint: Tensor  # [P] which of the K joints it is
    place: Tensor  # [P, 2] x, y from the cell of its object's centre, cells
    joint_cell: Tensor  # [P] row * W + column
    joint_offset: Tensor  # [P, 2] x, y in that cell, cells


@dataclass(frozen=True)
class CenterNetPoseSelection(CenterNetSelection):
    """That of `CenterNet`, and which peaks a joint may move to (the authors' code; the paper says none of these)."""

    peaks: Count = 100  # of each joint
    peak_score: Share = 0.1  # above which a peak counts
    peak_reach: NotNegative = 0.3  # of the longer side of the box, as far as a joint moves at most


@with_selection(CenterNetPoseSelection)
@checked_class(CenterNet)
class CenterNetPose(CenterNet):
    """The detector.

    Args:
        heads: beside those of `CenterNet` `joints`, 2 K channels (x, y of each joint in turn) and, for the second way,
            `joint_heatmap`, K channels, and `joint_offset`, 2; without them the regression alone answers, and without
            `joint_offset` a joint lies in the middle of its cell.
        keypoints: what the K joints are.
        joint_weight, joint_heatmap_weight, joint_offset_weight: of the losses.
        without_keypoints: what an object without any labelled joint is, see the top of the file.
        options: those of `CenterNet`.
    """

    extras = ("keypoints",)

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck,
        heads: Sequence[nn.ModuleDict],
        *,
        keypoints: GivenKeypoints = None,
        joint_weight: NotNegative = 1.0,
        joint_heatmap_weight: NotNegative = 1.0,
        joint_offset_weight: NotNegative = 1.0,
        without_keypoints: WithoutKeypoints = "unknown",
        **options: Any,
    ) -> None:
        super().__init__(backbone, neck, heads, **options)
        self.keypoint_set = KeypointSet.of(keypoints)
        self.joint_weight, self.joint_heatmap_weight = joint_weight, joint_heatmap_weight
        self.joint_offset_weight = joint_offset_weight
        self.without_keypoints = without_keypoints
        self.selection: CenterNetPoseSelection = CenterNetPoseSelection()

    # Training

    def stack_losses(self, raw: CenterNetOutput, goals: CenterGoals) -> dict[str, list[Tensor]]:
        """Those of `CenterNet` and three of joints.

        `joints` and `joint_offset`: the mean absolute difference of x and y, at the centres and at the joints, over all
        labelled joints on the map. `joint_heatmap`: focal loss divided by the number of cells that are a joint, or by
        one where there is none.
        """
        assert isinstance(goals, PoseGoals)
        losses = super().stack_losses(raw, goals)
        values = 2 * world_mean(goals.place.new_tensor(float(len(goals.place)))) + 1e-4
        cells = world_mean((goals.joint_heatmap == 1).sum().float()).clamp(min=1)
        image, number = goals.image[goals.owner], len(self.keypoint_set)  # [P]
        for stack in raw:
            joints = at_cells(stack["joints"], goals.image, goals.cell).view(-1, number, 2)  # [N, K, 2]
            difference = joints[goals.owner, goals.joint] - goals.place
            losses.setdefault("joints", []).append(self.joint_weight * difference.abs().sum() / values)
            if "joint_heatmap" in stack:
                logits = stack["joint_heatmap"].float()
                focal = penalty_reduced_focal_loss_sum(logits, goals.joint_heatmap, unknown=UNKNOWN)
                losses.setdefault("joint_heatmap", []).append(self.joint_heatmap_weight * focal / cells)
            if "joint_offset" in stack:
                difference = at_cells(stack["joint_offset"], image, goals.joint_cell) - goals.joint_offset
                weighted = self.joint_offset_weight * difference.abs().sum() / values
                losses.setdefault("joint_offset", []).append(weighted)
        return losses

    @torch.no_grad()
    def goals(self, targets: Sequence[Targets], size_hw: tuple[int, int]) -> PoseGoals:
        """What a map of `size_hw` cells has to learn of the targets of each image.

        A joint's Gaussian reaches as far as that of its object's centre. A labelled joint beyond the map teaches
        nothing, one outside the box of its object does. `UsageError` for objects to find without keypoints `[N, K, 3]`.
        """
        height, width = size_hw
        number = len(self.keypoint_set)
        centers = super().goals(targets, size_hw)
        given = [
            checked_keypoints(target.keypoints, number, image=image, what="CenterNet.loss")
            if target.learned.any()
            else target.boxes.new_zeros(len(target), number, 3)
            for image, target in enumerate(targets)
        ]
        keypoints = torch.cat(given)[centers.row]  # [N, K, 3]
        labels = torch.cat([target.labels for target in targets])[centers.row]
        labelled = (keypoints[..., 2] > 0).any(dim=1)
        if self.without_keypoints == "unknown":  # but what has a joint stays a centre where both have the same cell
            flat = centers.heatmap.view(*centers.heatmap.shape[:2], -1)
            for which, value in ((~labelled, UNKNOWN), (labelled, 1.0)):
                flat[centers.image[which], labels[which], centers.cell[which]] = value
        of_object = ("row", "image", "radius", "cell", "offset", "size")
        centers = replace(centers, **{name: getattr(centers, name)[labelled] for name in of_object})

        places = keypoints[labelled][..., :2] / self.stride
        on_map = ((places >= 0) & (places < places.new_tensor([width, height]))).all(dim=-1)
        owner, joint = (on_map & (keypoints[labelled][..., 2] > 0)).nonzero().unbind(1)  # [P]
        places, image = places[owner, joint], centers.image[owner]
        cell = places.floor().long()
        unknown = None if centers.unknown is None else centers.unknown.any(dim=1, keepdim=True)
        size = (len(targets), number, height, width)
        heatmap = draw_heatmaps(size, image, joint, cell, centers.radius[owner], unknown)
        center = columns_rows(centers.cell, width)[owner]
        return PoseGoals(
            **vars(centers),
            joint_heatmap=heatmap,
            owner=owner,
            joint=joint,
            place=places - center,
            joint_cell=cell[:, 1] * width + cell[:, 0],
            joint_offset=places - cell,
        )

    # Prediction

    def mirroring(self, class_order: Tensor) -> dict[str, Mirroring]:
        """As `CenterNet.mirroring`. Left and right joints change places; a joint that is x cells from the left edge of
        its centre's cell is x cells from the right edge of the mirrored one, which is 1 - x from the left."""
        rows = exchanged(np.arange(len(self.keypoint_set)), self.keypoint_set.flip_pairs)
        order = torch.from_numpy(rows).to(class_order.device)

        def joints(places: Tensor) -> Tensor:
            x, y = places[:, 0::2][:, order], places[:, 1::2][:, order]  # [B, K, H, W] each
            return torch.stack([1 - x, y], dim=2).flatten(1, 2)

        own: dict[str, Mirroring] = {"joints": joints, "joint_heatmap": lambda logits: logits[:, order]}
        return super().mirroring(class_order) | own | {"joint_offset": None}

    @torch.no_grad()
    def decode(self, raw: CenterNetOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """As `CenterNet.decode`, with keypoints."""
        return [replace(found, keypoint_set=self.keypoint_set) for found in super().decode(raw, sizes_hw)]

    def more(self, stack: dict[str, Tensor], inside: Tensor, cells: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        """The joints of M detections, `[B, M, K, 3]`: x and y in pixels, and a score.

        cells: `[B, M]` of the centres. boxes: `[B, M, 4]` pixels. inside: `[B, H, W]`, where a peak may be. A joint is
        where the regression has it, or the closest peak of its kind above `peak_score`, if that lies in the box and not
        farther away than `peak_reach`. Without heat maps the score is 1.
        """
        height, width = stack["heatmap"].shape[-2:]
        center = columns_rows(cells, width)  # [B, M, 2]
        joints = at_peaks(stack["joints"], cells).reshape(*cells.shape, -1, 2) + center[:, :, None]  # [B, M, K, 2]
        joints = joints.transpose(1, 2)  # [B, K, M, 2] cells
        if "joint_heatmap" not in stack:
            score = torch.ones_like(joints[..., :1])
            return (torch.cat([joints * self.stride, score], dim=-1).transpose(1, 2),)
        places, heights = self.joint_peaks(stack, inside)  # [B, K, p, 2] cells, [B, K, p] scores
        away = (joints[:, :, :, None] - places[:, :, None]).square().sum(dim=-1).sqrt()  # [B, K, M, p]
        counts = heights[:, :, None] > self.selection.peak_score
        distance, closest = torch.where(counts, away, torch.inf).min(dim=-1)  # [B, K, M]
        place = places.gather(2, closest[..., None].expand(-1, -1, -1, 2))
        corner, end = boxes[:, None, :, :2] / self.stride, boxes[:, None, :, 2:] / self.stride  # [B, 1, M, 2]
        near = distance <= self.selection.peak_reach * (end - corner).amax(dim=-1)
        moves = near & ((place >= corner) & (place <= end)).all(dim=-1)

        column, row = joints.floor().long().unbind(-1)
        at = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
        own = stack["joint_heatmap"].float().flatten(2).gather(2, at).sigmoid()
        score = torch.where(moves, heights.gather(2, closest), own)
        joints = torch.where(moves[..., None], place, joints) * self.stride
        return (torch.cat([joints, score[..., None]], dim=-1).transpose(1, 2),)

    def joint_peaks(self, stack: dict[str, Tensor], inside: Tensor) -> tuple[Tensor, Tensor]:
        """The highest peaks of each joint's heat map: places `[B, K, p, 2]` in cells, scores `[B, K, p]`."""
        heatmap = torch.where(inside[:, None], stack["joint_heatmap"].float(), -torch.inf)
        batch, number, _, width = heatmap.shape
        values, _, cells = peaks(heatmap.flatten(0, 1)[:, None], self.selection.peaks)  # [B * K, p]
        cells = cells.view(batch, number, -1)
        offset: Tensor | float = 0.5
        if "joint_offset" in stack:
            offset = at_peaks(stack["joint_offset"], cells.flatten(1)).reshape(batch, number, -1, 2)
        return columns_rows(cells, width) + offset, values.view(cells.shape).sigmoid()


# Builders


@passes_on(center_heads)
def pose_heads(
    channels: Sequence[int],
    num_classes: int,
    *,
    keypoints: GivenKeypoints = None,
    joint_heatmaps: bool = True,
    joint_offsets: bool = True,
    **settings: Any,
) -> list[nn.ModuleDict]:
    """`center_heads` with those of joints.

    joint_heatmaps: off, the regression alone is learned, the form "-reg" of table 5. joint_offsets: off, a peak lies in
    the middle of its cell.
    """
    joints = len(KeypointSet.of(keypoints))
    outputs = {"joints": 2 * joints}
    if joint_heatmaps:
        outputs |= {"joint_heatmap": joints} | ({"joint_offset": 2} if joint_offsets else {})
    return center_heads(channels, num_classes, outputs, **settings)


# AP of keypoints after the longer schedule, tested with flipping: 58.9 on DLA-34, 64.0 on Hourglass-104.
_FORM = with_neck_and_heads(CenterNetPose)
BUILDERS = {
    f"{name}_pose": replace(boxes, form=_FORM, parts={**boxes.parts, "heads": pose_heads}, classes=PERSON)
    for name, boxes in centernet.BUILDERS.items()
    if name in ("centernet_dla34", "centernet_hourglass104", "centernet_shufflenet_v2_x0_5_lite")
}


def _published(schedule: str, body: str, theirs: str, average_precision: float) -> PublishedWeights:
    run = f"multi_pose_{theirs}_{schedule}"
    record = centernet_record(schedule, f"centernet_{body}_pose", run, average_precision)
    metrics = {"keypoint AP with flipping": average_precision}
    return replace(record, metrics=metrics, classes=PERSON, convert=centernet_pose_from_authors)


PUBLISHED = by_builder(
    _published("3x", "dla34", "dla", 58.9),
    _published("1x", "dla34", "dla", 54.7),
    _published("3x", "hourglass104", "hg", 64.0),
    _published("1x", "hourglass104", "hg", 58.7),
)
