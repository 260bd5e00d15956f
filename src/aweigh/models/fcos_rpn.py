"""Faster R-CNN whose regions are proposed by FCOS of one class, "object", in the place of the region proposal network.

Paper: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, the section on region proposal
networks and table 6; the rest is `faster_rcnn.py`.

One point of a cell takes the place of three anchors: on the levels of the proposal network, P2 to P6, that is the third
of its samples, about 66,000 instead of 200,000 in an image of 800 x 1024, as the table says. So those are the levels
here, and P2 to P5 are read, not FCOS's own P3 to P7 (17,000 points).

Forms, each a set of plain values; `form` names the two of FCOS:

==================  =================================  ==============================
value               base (default: that of the table)  improved
==================  =================================  ==============================
distances           exp(s_i x), pixels                 relu(s_i x), strides
centre-ness from    classification tower               box tower
positive points     all inside the box                 within 1.5 strides
box loss            -log IoU                           GIoU
==================  =================================  ==============================

How ours differs:
- The paper does not say which sizes each of these levels learns: 8 strides at most, as on P3 to P6 there.
- The score of a proposal is the root of probability times centre-ness, as of a detection; their order is the same.
- Without the centre-ness branch the score is the root of the probability, and boxes are not weighted by centre-ness.

Legend: B images, P proposals of an image, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aweigh.arguments import Count, Layers, checked_class, with_selection
from aweigh.classes import Classes
from aweigh.heads.answers import Answers, proposal_answers
from aweigh.heads.rpn import SMALLEST_SIDE, ProposerSelection, best_of_levels
from aweigh.layers import Norm
from aweigh.models.builders import Builder
from aweigh.models.faster_rcnn_forms import C2_TO_C5, on_pyramid
from aweigh.models.fcos import FCOS, FCOSHead, FCOSOutput
from aweigh.models.fcos_forms import BASE_HEAD, BASE_RULES
from aweigh.structures import Targets

OBJECT = Classes.from_names(["object"])


@with_selection(ProposerSelection)
@checked_class()
class FCOSProposer(nn.Module):
    """Where there may be an object, by FCOS; the three methods of a `Proposer`.

    channels: of every level. strides: of the levels, the finest first. centerness: with that branch. rpn_norm,
    rpn_convs: of the towers of the head. rpn_form: of FCOS. train_proposals, test_proposals: how many, of each level
    before suppression and of all levels after it.
    """

    needs_proposals = False

    def __init__(
        self,
        channels: int,
        strides: Sequence[int],
        *,
        centerness: bool = True,
        train_proposals: tuple[Count, Count] = (2000, 2000),
        test_proposals: tuple[Count, Count] = (1000, 1000),
        rpn_norm: Norm | None = "gn",
        rpn_convs: Layers = 4,
        rpn_form: Literal["base", "improved"] = "base",
    ) -> None:
        super().__init__()
        of_head, rules = (BASE_HEAD, BASE_RULES) if rpn_form == "base" else ({}, {})
        quality: Literal["centerness"] | None = "centerness" if centerness else None
        maps: Any = _MapsFromOutside(strides)
        head = FCOSHead(channels, 1, len(strides), convs=rpn_convs, norm=rpn_norm, centerness=centerness, **of_head)
        self.fcos = FCOS(maps, maps, head, classes=OBJECT, score_threshold=0.0, quality=quality, **rules)
        self.selection = ProposerSelection(train_proposals, test_proposals)

    def forward(self, features: Sequence[Tensor], pixels: Tensor) -> FCOSOutput:
        """Per level `[B, channels, H, W]`; pixels `[B, 3, H, W]`."""
        return self.fcos.outputs(features, pixels)

    @torch.no_grad()
    def propose(self, raw: FCOSOutput, sizes_hw: Tensor, *, learning: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Of each level the points that score best, as `best_of_levels`. sizes_hw: `[B, 2]`."""
        before, after = self.selection.train_proposals if learning else self.selection.test_proposals
        levels = [self.fcos.best_of_level(raw, level, before) for level in range(len(raw.points))]
        boxes, scores, _ = zip(*levels, strict=True)
        return best_of_levels(boxes, scores, sizes_hw, number=after, iou_threshold=self.selection.nms_threshold)

    def answers(self, raw: FCOSOutput, sizes_hw: Tensor) -> Answers:
        """All that is said of one image; see `Proposer`."""
        said, chosen = self.fcos.answers(raw, sizes_hw), self.selection
        return proposal_answers(
            said.kind, raw.points, self.fcos.strides, said.boxes[:, 0], said.parts, said.rule, least=0.0,
            proposals=chosen.test_proposals, nms_threshold=chosen.nms_threshold, smallest_side=SMALLEST_SIDE,
        )  # fmt: skip

    def loss(self, raw: FCOSOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """`objectness`, `proposals` and, where there is that branch, `centerness`: FCOS's losses of one class."""
        losses = self.fcos.loss(raw, [_of_one_class(target) for target in targets])
        return {"objectness": losses.pop("classification"), "proposals": losses.pop("box"), **losses}


class _MapsFromOutside(nn.Module):
    """In the place of FCOS's backbone and neck."""

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)


def _of_one_class(targets: Targets) -> Targets:
    """An image that was not labelled for all classes may show objects of others anywhere."""
    known = None if targets.known is None or targets.known.all() else targets.known.new_zeros(1)
    return replace(targets, labels=torch.zeros_like(targets.labels), known=known)


# Builders


_FCOS = {"proposer": FCOSProposer}
BUILDERS = {
    "faster_rcnn_resnet18_fcos_rpn": Builder(on_pyramid, C2_TO_C5["resnet18"], parts=_FCOS),
    # Recalls 52.8 % of objects with 100 proposals and 60.3 % with 1,000 in table 6, 48.0 and 59.3 without centerness.
    "faster_rcnn_resnet50_fcos_rpn": Builder(on_pyramid, C2_TO_C5["resnet50"], parts=_FCOS),
}
