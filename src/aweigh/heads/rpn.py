"""The region proposal network (Ren et al., "Faster R-CNN", 2015, section 3): where there may be an object of any class.

What proposes regions otherwise has the same three methods; see `Proposer`.

Legend: B images, L levels, K anchors of a cell, A anchors over all levels, N boxes of one image, P proposals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import (
    Count,
    Few,
    Layers,
    NotNegative,
    Positive,
    Share,
    check_fields,
    checked_class,
    with_selection,
)
from aweigh.heads.answers import Answers, proposal_answers
from aweigh.layers import Norm, make_norm, start_near_zero
from aweigh.ops import boxes as box_ops
from aweigh.ops.anchors import anchor_rows, anchor_shapes, level_anchors
from aweigh.ops.losses import world_mean
from aweigh.ops.matching import BACKGROUND, IGNORED, among_all, balanced_sample, by_overlap
from aweigh.structures import Targets

RATIOS = (0.5, 1.0, 2.0)  # of anchors, height over width (section 3.1.1)
POSITIVE_IOU, NEGATIVE_IOU = 0.7, 0.3  # section 3.1.2
SAMPLED, POSITIVE_FRACTION = 256, 0.5  # anchors of an image that learn, section 3.1.3
SMALLEST_SIDE = 1e-3  # of a proposal, pixels


class Proposer(Protocol):
    """What says where there may be an object; an `nn.Module`. Raw is whatever it says before any decision."""

    @property
    def needs_proposals(self) -> bool: ...  # whether it needs those of the data

    def __call__(self, features: Sequence[Tensor], pixels: Tensor, *proposals: Tensor) -> Any:
        """Per level `[B, channels, H, W]`, fine to coarse, and pixels `[B, 3, H, W]`, normalised, to raw.

        proposals: as `Images` has them, for one with `needs_proposals`; the others get none.
        """

    def propose(self, raw: Any, sizes_hw: Tensor, *, learning: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Proposals `[B, P, 4]`, best first, inside images of `sizes_hw` `[B, 2]`, their scores `[B, P]` and how many
        count `[B]`; the rest is padding, of score 0. learning: as many as training takes."""

    def answers(self, raw: Any, sizes_hw: Tensor) -> Answers | None:
        """All that is said of one image of `sizes_hw` `[1, 2]`, of which `propose` takes the best; None where nothing
        is."""

    def loss(self, raw: Any, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Scalars, by names of its own."""


MakeProposer = Callable[[int, Sequence[int]], Proposer]  # of the channels of the maps and their strides


class RPNOutput(NamedTuple):
    """What the network says before any decision; levels fine to coarse."""

    objectness: list[Tensor]  # [B, H*W*K] logits
    deltas: list[Tensor]  # [B, H*W*K, 4]
    anchors: list[Tensor]  # [H*W*K, 4] xyxy in the padded image, pixels


@dataclass(frozen=True)
class ProposerSelection:
    """What becomes a proposal, in training and in prediction: how many, of each level before suppression and of all
    levels after it; from which overlap on they suppress."""

    train_proposals: tuple[Count, Count] = (2000, 2000)
    test_proposals: tuple[Count, Count] = (1000, 1000)
    nms_threshold: Share = 0.7

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class RPNSelection(ProposerSelection):
    """score_threshold: the probability that an anchor must have."""

    score_threshold: Share = 0.0


@with_selection(RPNSelection)
@checked_class()
class RPN(nn.Module):
    """3x3 convolutions, then whether and where: of each anchor a logit and four deltas.

    channels: of every level. strides: of the levels, the finest first, which may be fewer than there are features.
    levels_proposed: how many levels it looks at, the finest first; None for all.
    anchor_sizes: on every level, pixels; None: one of eight strides (Lin et al. 2017, FPN, section 4.1). anchor_ratios:
    height over width.
    rounded_anchors: to whole pixels.
    fitted_steps: torchvision's cells: as far apart as the padded size // grid, not as the stride.
    rpn_convs, width: 3x3 convolutions with ReLU, and their channels (those of the levels when None). rpn_norm: after
    each.
    rpn_beta: below which the loss of a delta is quadratic; None for `beta`, which is that of the detector's second
    stage.
    rpn_box_weight: of the loss of deltas. rpn_normaliser: what the losses are divided by: the number of anchors that
    learned, or as many as may of each image, as in detectron2.
    train_proposals, test_proposals: how many, of each level before suppression and of all levels after it.
    proposal_threshold: the probability that a proposal must have.
    """

    needs_proposals = False

    def __init__(
        self,
        channels: int,
        strides: Sequence[int],
        width: int | None = None,
        *,
        levels_proposed: Few | None = None,
        anchor_sizes: Sequence[Positive] | None = None,
        anchor_ratios: Sequence[Positive] = RATIOS,
        rounded_anchors: bool = False,
        fitted_steps: bool = False,
        rpn_convs: Layers = 1,
        rpn_norm: Norm | None = None,
        beta: NotNegative = 1 / 9,
        rpn_beta: NotNegative | None = None,
        rpn_box_weight: NotNegative = 1.0,
        rpn_normaliser: Literal["sampled", "allowed"] = "sampled",
        train_proposals: tuple[Count, Count] = (2000, 2000),
        test_proposals: tuple[Count, Count] = (1000, 1000),
        proposal_threshold: Share = 0.0,
    ) -> None:
        super().__init__()
        strides = strides[:levels_proposed]
        sizes = [anchor_sizes or [8.0 * stride] for stride in strides]
        shapes = [anchor_shapes(of_level, anchor_ratios, rounded=rounded_anchors) for of_level in sizes]
        anchors, width = len(shapes[0]), channels if width is None else width
        self.tower = nn.Sequential()
        for number in range(rpn_convs):
            self.tower.append(nn.Conv2d(width if number else channels, width, 3, padding=1))
            if rpn_norm is not None:
                self.tower.append(make_norm(rpn_norm, width))
            self.tower.append(nn.ReLU(inplace=True))
        self.objectness = nn.Conv2d(width, anchors, 1)
        self.deltas = nn.Conv2d(width, 4 * anchors, 1)
        self.strides, self.shapes, self.fitted_steps = tuple(strides), shapes, fitted_steps
        self.beta, self.normaliser = beta if rpn_beta is None else rpn_beta, rpn_normaliser
        self.box_weight = rpn_box_weight
        start_near_zero(*self.modules())
        self.selection = RPNSelection(train_proposals, test_proposals, score_threshold=proposal_threshold)

    def forward(self, features: Sequence[Tensor], pixels: Tensor) -> RPNOutput:
        """Per level `[B, channels, H, W]`, more of them than strides being left alone; pixels `[B, 3, H, W]`."""
        objectness, deltas, anchors = [], [], []
        for feature, shapes, stride in zip(features, self.shapes, self.strides, strict=False):
            cells = self.tower(feature)
            objectness.append(anchor_rows(self.objectness(cells), 1).squeeze(2))
            deltas.append(anchor_rows(self.deltas(cells), 4))
            anchors.append(level_anchors(shapes, feature, pixels, stride, fitted=self.fitted_steps))
        return RPNOutput(objectness, deltas, anchors)

    @torch.no_grad()
    def propose(self, raw: RPNOutput, sizes_hw: Tensor, *, learning: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Of each level the most probable anchors, moved by their deltas; as `best_of_levels`. sizes_hw: `[B, 2]`."""
        before, after = self.selection.train_proposals if learning else self.selection.test_proposals
        boxes, scores = [], []
        for logits, deltas, anchors in zip(*raw, strict=True):
            best, rows = logits.float().topk(min(before, logits.shape[1]), dim=1)  # [B, k]
            probable = best.sigmoid()
            boxes.append(
                box_ops.decode_deltas(anchors[rows], deltas.float().gather(1, rows[..., None].expand(-1, -1, 4)))
            )
            scores.append(torch.where(probable >= self.selection.score_threshold, probable, 0))
        return best_of_levels(boxes, scores, sizes_hw, number=after, iou_threshold=self.selection.nms_threshold)

    def answers(self, raw: RPNOutput, sizes_hw: Tensor) -> Answers:
        """All that is said of one image; see `Proposer`."""
        deltas, chosen = torch.cat(raw.deltas, dim=1)[0].float(), self.selection
        boxes = box_ops.clip(box_ops.decode_deltas(torch.cat(raw.anchors), deltas), sizes_hw[0])
        parts = {"objectness": torch.cat(raw.objectness, dim=1)[0].float().sigmoid()[:, None]}
        return proposal_answers(
            "anchor", raw.anchors, self.strides, boxes, parts, "product", proposals=chosen.test_proposals,
            nms_threshold=chosen.nms_threshold, least=chosen.score_threshold, smallest_side=SMALLEST_SIDE,
        )  # fmt: skip

    def loss(self, raw: RPNOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """`objectness` and `proposals` of sampled anchors: binary cross-entropy and smooth L1 of the deltas, each
        divided by the `normaliser` (equation 1)."""
        objectness, deltas = torch.cat(raw.objectness, dim=1).float(), torch.cat(raw.deltas, dim=1).float()
        anchors = torch.cat(raw.anchors)
        proposed = [
            proposal_loss(objectness[image], deltas[image], anchors, target, beta=self.beta)
            for image, target in enumerate(targets)
        ]
        of_anchors, of_deltas, sampled = (torch.stack(parts).sum() for parts in zip(*proposed, strict=True))
        count = torch.full_like(sampled, SAMPLED * len(targets)) if self.normaliser == "allowed" else sampled
        count = world_mean(count.float()).clamp(min=1)
        return {"objectness": of_anchors / count, "proposals": self.box_weight * of_deltas / count}


def best_of_levels(
    boxes: Sequence[Tensor], scores: Sequence[Tensor], sizes_hw: Tensor, *, number: int, iou_threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The best of all levels, each suppressed by itself: boxes `[B, number, 4]`, as a `Proposer` gives them.

    boxes, scores: per level `[B, k, 4]` and `[B, k]`, 0 for none. sizes_hw: `[B, 2]`, where boxes are cut off.
    """
    together = box_ops.clip(torch.cat(list(boxes), dim=1), sizes_hw)
    large = (together[..., 2:] - together[..., :2] >= SMALLEST_SIDE).all(dim=-1)
    levels = [torch.full_like(values, level, dtype=torch.int64) for level, values in enumerate(scores)]
    best, kept, _, count = box_ops.select_detections(
        together,
        torch.where(large, torch.cat(list(scores), dim=1), 0),
        torch.cat(levels, dim=1),
        iou_threshold=iou_threshold,
        max_detections=number,
        method="class",  # the levels stand for classes
    )
    return best, kept, count


def proposal_loss(
    objectness: Tensor, deltas: Tensor, anchors: Tensor, target: Targets, *, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one image: the sums of the losses of sampled anchors, and how many there are (section 3.1.2, equation 1).

    objectness: `[A]`, deltas: `[A, 4]`, anchors: `[A, 4]`. beta: below which the loss of a delta is quadratic. Of an
    image that was not labelled for all classes only objects are learned.
    """
    index = by_overlap(anchors, target.boxes[target.learned], positive=POSITIVE_IOU, negative=NEGATIVE_IOU)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    index = among_all(index, centers, target.boxes, target.learned, ~target.learned)
    if target.known is not None and not target.known.all():
        index[index == BACKGROUND] = IGNORED
    seed = objectness.detach().sum()
    rows = balanced_sample(index, count=SAMPLED, positive_fraction=POSITIVE_FRACTION, seed=seed)
    positive = rows[index[rows] >= 0]
    goal = (index[rows] >= 0).to(objectness.dtype)
    classification = F.binary_cross_entropy_with_logits(objectness[rows], goal, reduction="sum")
    differences = box_ops.encode_deltas(anchors[positive], target.boxes[index[positive]])
    box = F.smooth_l1_loss(deltas[positive], differences, beta=beta, reduction="sum")
    return classification, box, torch.as_tensor(len(rows), device=objectness.device)
