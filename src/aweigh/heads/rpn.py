"""The region proposal network (Ren et al., "Faster R-CNN", 2015, section 3): where there may be an object of any class.

Legend: B images, L levels, K anchors of a cell, A anchors over all levels, N boxes of one image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.ops import boxes as box_ops
from aweigh.ops.matching import BACKGROUND, IGNORED, balanced_sample, by_overlap

POSITIVE_IOU, NEGATIVE_IOU = 0.7, 0.3  # section 3.1.2
SAMPLED, POSITIVE_FRACTION = 256, 0.5  # anchors of an image that learn, section 3.1.3
SMALLEST_SIDE = 1e-3  # of a proposal, pixels


class RPNHead(nn.Module):
    """3x3 convolutions, then whether and where: of each anchor a logit and four deltas.

    channels: of every level. num_anchors: K. convs: 3x3 convolutions with ReLU (torchvision's second form has two).
    """

    def __init__(self, channels: int, num_anchors: int, *, convs: int = 1) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            *(
                layer
                for _ in range(convs)
                for layer in (nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True))
            )
        )
        self.objectness = nn.Conv2d(channels, num_anchors, 1)
        self.deltas = nn.Conv2d(channels, 4 * num_anchors, 1)
        self.num_anchors = num_anchors
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level `[B, channels, H, W]` to logits `[B, H*W*K]` and deltas `[B, H*W*K, 4]`, cell by cell."""
        objectness, deltas = [], []
        for feature in features:
            cells = self.tower(feature)
            objectness.append(self.objectness(cells).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(cells).permute(0, 2, 3, 1).reshape(len(feature), -1, 4))
        return objectness, deltas


@torch.no_grad()
def propose(
    objectness: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    sizes_hw: Tensor,
    *,
    before: int,
    after: int,
    iou_threshold: float = 0.7,
) -> tuple[Tensor, Tensor]:
    """The best places of each image: boxes `[B, after, 4]`, best first, and how many count `[B]`; the rest is padding.

    objectness, deltas, anchors: per level `[B, A_l]`, `[B, A_l, 4]`, `[A_l, 4]`. Of each level the `before` best are
    suppressed among themselves; of all levels together the `after` best remain. sizes_hw: `[B, 2]`.
    """
    boxes, scores, labels = [], [], []
    for level, (logits, differences, places) in enumerate(zip(objectness, deltas, anchors, strict=True)):
        best, rows = logits.float().topk(min(before, logits.shape[1]), dim=1)  # [B, k]
        chosen = differences.float().gather(1, rows[..., None].expand(-1, -1, 4))
        boxes.append(box_ops.clip(box_ops.decode_deltas(places[rows], chosen), sizes_hw))
        sides = boxes[-1][..., 2:] - boxes[-1][..., :2]
        scores.append(torch.where((sides >= SMALLEST_SIDE).all(dim=-1), best.sigmoid(), 0))
        labels.append(torch.full_like(rows, level))
    kept, _, _, count = box_ops.select_detections(
        torch.cat(boxes, dim=1),
        torch.cat(scores, dim=1),
        torch.cat(labels, dim=1),
        iou_threshold=iou_threshold,
        max_detections=after,
        method="class",  # the levels stand for classes
    )
    return kept, count


def proposal_loss(
    objectness: Tensor, deltas: Tensor, anchors: Tensor, boxes: Tensor, nobodys: Tensor, *, beta: float, known: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one image: the sums of the losses of sampled anchors, and how many there are (section 3.1.2, equation 1).

    objectness: `[A]`, deltas: `[A, 4]`, anchors: `[A, 4]`. boxes: `[N, 4]`, the objects. nobodys: `[M, 4]`, regions in
    which nothing is a mistake. known: whether all objects of the image are labelled; else only objects are learned.
    beta: below which the loss of a delta is quadratic.
    """
    index = by_overlap(anchors, boxes, positive=POSITIVE_IOU, negative=NEGATIVE_IOU)
    if len(nobodys):
        centers = (anchors[:, :2] + anchors[:, 2:]) / 2
        index[box_ops.covered(centers, nobodys) & (index == BACKGROUND)] = IGNORED
    if not known:
        index[index == BACKGROUND] = IGNORED
    seed = objectness.detach().sum()
    rows = balanced_sample(index, count=SAMPLED, positive_fraction=POSITIVE_FRACTION, seed=seed)
    positive = rows[index[rows] >= 0]
    goal = (index[rows] >= 0).to(objectness.dtype)
    classification = F.binary_cross_entropy_with_logits(objectness[rows], goal, reduction="sum")
    differences = box_ops.encode_deltas(anchors[positive], boxes[index[positive]])
    box = F.smooth_l1_loss(deltas[positive], differences, beta=beta, reduction="sum")
    return classification, box, torch.as_tensor(len(rows), device=objectness.device)
