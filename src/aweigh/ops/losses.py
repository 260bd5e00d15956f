"""Losses: what can be learned and what is left out, the focal losses, the IoU family, the normaliser of all processes.

Every function returns values that are not reduced, except where it says `sum`; the model divides by its normaliser.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from aweigh.errors import UsageError, counted
from aweigh.ops import boxes as box_ops

BYTES_PER_PAIR = 8  # of a point and a box at the peak: bool values, and one of float32
_world_mean: ContextVar[Callable[[Tensor], Tensor] | None] = ContextVar("world_mean", default=None)
BoxLoss = Literal["iou", "linear_iou", "giou", "diou", "ciou"]


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of independent binary labels (Lin et al. 2017, equation 5), element by element.

    logits, targets: any equal shape; targets in `[0, 1]`.
    """
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    agreement = probability * targets + (1 - probability) * (1 - targets)
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    return balance * (1 - agreement) ** gamma * cross_entropy


def sigmoid_focal_loss_sum(
    logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0, no_loss: Tensor | None = None
) -> Tensor:
    """The sum of `sigmoid_focal_loss` over locations and classes, without building one-hot targets.

    logits: `[A, C]`. labels: `[A]` int64; `0..C-1` for an object, -1 for background, -2 for "no loss here".
    no_loss: `[A, C]` bool, entries that are no background, since nobody knows; an object's own entry counts in full.
    The background form is summed over everything, then exchanged at the (few) positive entries: half the memory
    of the one-hot form.
    """
    background = _background_focal(logits, alpha, gamma)  # [A, C]
    if no_loss is not None:
        background = torch.where(no_loss, 0, background)
    total = torch.where(labels == -2, 0, background.sum(dim=-1)).sum()
    rows = (labels >= 0).nonzero().squeeze(1)  # [P]
    positive = logits[rows, labels[rows]]  # [P]
    foreground = alpha * (-positive).sigmoid() ** gamma * F.softplus(-positive)
    exchanged = _background_focal(positive, alpha, gamma)
    if no_loss is not None:  # what was not counted is not taken back
        exchanged = torch.where(no_loss[rows, labels[rows]], 0, exchanged)
    return total + (foreground - exchanged).sum()


def _background_focal(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    return (1 - alpha) * logits.sigmoid() ** gamma * F.softplus(logits)


def quality_focal_loss_sum(
    logits: Tensor, labels: Tensor, goals: Tensor, *, beta: float = 2.0, no_loss: Tensor | None = None
) -> Tensor:
    """The sum of the quality focal loss (Li et al. 2020, "Generalized Focal Loss", equation 2).

    logits: `[A, C]`. labels: `[A]` int64; `0..C-1` for an object, -1 for background, -2 for "no loss here". goals:
    `[A]` in `[0, 1]`, what the object's class should score. no_loss: as in `sigmoid_focal_loss_sum`.
    """
    background = _background_quality(logits, beta)  # [A, C]
    if no_loss is not None:
        background = torch.where(no_loss, 0, background)
    counted = labels >= -1
    rows = (labels >= 0).nonzero().squeeze(1)  # [P]
    at = (rows, labels[rows])
    positive, goal = logits[at], goals[rows]  # [P]
    cross_entropy = F.binary_cross_entropy_with_logits(positive, goal, reduction="none")
    foreground = (goal - positive.sigmoid()).abs() ** beta * cross_entropy
    return torch.where(counted, background.sum(dim=-1), 0).sum() + (foreground - background[at]).sum()


def _background_quality(logits: Tensor, beta: float) -> Tensor:
    return logits.sigmoid() ** beta * F.softplus(logits)


def distribution_focal_loss(logits: Tensor, values: Tensor) -> Tensor:
    """Cross-entropy with the two bins next to each value, by nearness (Li et al. 2020, equation 6).

    logits: `[..., K]` of bins at 0, 1, ..., K - 1. values: `[...]`, cut off at the last bin. Returns `[...]`.
    """
    last = logits.shape[-1] - 1
    values = values.clamp(0, last)
    lower = values.floor().clamp(max=last - 1).long()
    share = values - lower  # of the upper bin
    nearby = torch.stack([lower, lower + 1], dim=-1)
    below, above = logits.log_softmax(dim=-1).gather(-1, nearby).unbind(-1)
    return -(below * (1 - share) + above * share)


def penalty_reduced_focal_loss_sum(
    logits: Tensor, goals: Tensor, *, alpha: float = 2.0, beta: float = 4.0, unknown: float = 0.9999
) -> Tensor:
    """The sum of CornerNet's focal loss (Law and Deng 2018, equation 1) over heat maps of any equal shape.

    goals: in `[0, 1]`; 1 is an object, less is background whose loss is reduced by `(1 - goal) ** beta`, and what is
    `unknown` or more but not 1 gives none. Probabilities are kept 1e-4 from 0 and 1, as CenterNet's authors do; beyond
    that there is no gradient.
    """
    probability = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    positive = goals == 1
    weight = torch.where(positive, 1, torch.where(goals < unknown, (1 - goals) ** beta, 0))
    error = torch.where(positive, 1 - probability, probability)
    return -(weight * error**alpha * torch.log1p(-error)).sum()


def pull_and_push(embeddings: Tensor, image: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Associative embedding (Newell et al. 2017; Law and Deng 2018, equations 4 and 5): two scalars, means over images.

    embeddings: `[N, K]`, one number of each of the K points of each object. image: `[N]`, which of `images` it is of.
    Pull: the squared distances of an object's points from their mean, the mean over the objects of an image. Push: how
    much less than 1 the means of two objects of an image lie apart, the mean over its ordered pairs.

    In the order of their means, each object is near to those that follow it up to some place, so that sums over all
    that precede a place are enough: no table of all pairs is made.
    """
    mean = embeddings.mean(dim=1)  # [N]
    objects = torch.bincount(image, minlength=images)[image]  # [N], of its image
    pull = ((embeddings - mean[:, None]).square().sum(dim=1) / objects).sum() / images
    if len(mean) == 0:
        return pull, mean.sum()
    mean = mean.to(torch.float32 if mean.device.type == "mps" else torch.float64)
    line = mean.detach() - mean.detach().min()
    line, order = (line + image * (line.max() + 2)).sort()  # one image far behind the other
    mean, objects = mean[order], objects[order]
    behind = torch.arange(1, len(mean) + 1, device=mean.device)
    until = torch.searchsorted(line, line + 1)  # [N], the first that lies 1 or more behind
    before = F.pad(mean.cumsum(0), (1, 0))  # [N + 1]
    near = (until - behind) * (1 + mean) - (before[until] - before[behind])  # [N], the sum of 1 - distance
    push = (2 * near / (objects * (objects - 1)).clamp(min=1)).sum() / images
    return pull, push.to(embeddings.dtype)


class Labelled(Protocol):
    """What is read here of the `Targets` of an image."""

    @property
    def boxes(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def uncertain(self) -> Tensor: ...
    @property
    def known(self) -> Tensor | None: ...


def check_labels(targets: Sequence[Labelled], *, images: int, classes: int, what: str) -> None:
    """`UsageError`, unless there are targets for each image and a detector of so many classes can learn them all.

    what: who asks, for the message.
    """
    if len(targets) != images:
        raise UsageError(f"{what}: {counted(images, 'image')}, but {counted(len(targets), 'target')}.")
    for index, target in enumerate(targets):
        if target.known is not None and len(target.known) != classes:
            raise UsageError(
                f"{what}: image {index} says of {counted(len(target.known), 'class')} whether it was labelled for "
                f"them, but the model knows {classes}; train with the classes of the data."
            )
        if len(target.labels) and int(target.labels.max()) >= classes:
            raise UsageError(
                f"{what}: image {index} has label {int(target.labels.max())}, but the model knows "
                f"{counted(classes, 'class')} (labels 0 to {classes - 1})."
            )


def unknown_in_batch(
    points: Tensor, targets: Sequence[Labelled], num_classes: int, *, margin: float = 0
) -> Tensor | None:
    """`unknown_entries` of several images one after the other, `[B * A, C]` bool; None when there are none in any."""
    entries = [unknown_entries(points, t.boxes, t.labels, t.uncertain, t.known, num_classes, margin) for t in targets]
    if all(entry is None for entry in entries):
        return None
    nowhere = points.new_zeros(1, num_classes, dtype=torch.bool).expand(len(points), -1)  # [A, C]
    return torch.cat([nowhere if entry is None else entry for entry in entries])


@torch.no_grad()
def unknown_entries(
    points: Tensor,
    boxes: Tensor,
    labels: Tensor,
    uncertain: Tensor,
    known: Tensor | None,
    num_classes: int,
    margin: float = 0,
    *,
    byte_budget: int = 16 * 2**20,
) -> Tensor | None:
    """Which classes cannot be called background at which points: `[A, C]` bool, None when all can everywhere.

    points: `[A, 2]` x, y in pixels. boxes: `[N, 4]` xyxy, labels: `[N]` int64, uncertain: `[N]` bool, known: `[C]` bool
    or None, as in `Targets` of one image. True where the image was not labelled for the class, and where the point lies
    inside an uncertain box of the class that is wider by `margin` pixels on each side. Memory beside the result is
    bounded: points are taken in portions of about `byte_budget` bytes. The result may be a view that repeats one row;
    it is not to be written to.
    """
    everywhere = None if known is None else (~known).expand(len(points), -1)  # [A, C]
    guesses = uncertain.nonzero().squeeze(1)  # [U]
    if len(guesses) == 0:
        return everywhere
    x0, y0, x1, y1 = boxes[guesses].unbind(1)
    of_class = F.one_hot(labels[guesses], num_classes).float()  # [U, C]
    size = max(1, byte_budget // (BYTES_PER_PAIR * len(guesses)))
    portions = []
    for portion in torch.split(points, size):
        x, y = portion[:, :1], portion[:, 1:]  # [p, 1]
        inside = (x > x0 - margin) & (x < x1 + margin) & (y > y0 - margin) & (y < y1 + margin)  # [p, U]
        portions.append(inside.float() @ of_class > 0)  # [p, C], in how many guesses of each class the point lies
    covered = torch.cat(portions)
    return covered if everywhere is None else covered | everywhere


def box_loss(boxes: Tensor, targets: Tensor, kind: BoxLoss, *, smoothing: float = 0.0) -> Tensor:
    """Box regression loss, box by box: `[N, 4]`, `[N, 4]` -> `[N]`.

    kind: `"iou"` is -log IoU (Yu et al. 2016, UnitBox), `"linear_iou"` 1 - IoU, the others 1 - GIoU, DIoU, CIoU.
    smoothing: square pixels added to intersection and union (for `"iou"` and `"linear_iou"`), so that a box without
    overlap has a finite loss and a gradient; the authors of FCOS use 1. A tiny floor is kept in any case.
    """
    if kind == "giou":
        return 1 - box_ops.aligned_giou(boxes, targets)
    if kind == "diou":
        return 1 - box_ops.aligned_diou(boxes, targets)
    if kind == "ciou":
        return 1 - box_ops.aligned_ciou(boxes, targets)
    top_left = torch.maximum(boxes[:, :2], targets[:, :2])
    intersection = (torch.minimum(boxes[:, 2:], targets[:, 2:]) - top_left).clamp(min=0).prod(dim=-1)
    union = box_ops.areas(boxes) + box_ops.areas(targets) - intersection
    iou = (intersection + smoothing) / (union + smoothing).clamp(min=1e-7)
    if kind == "iou":
        return -iou.clamp(min=1e-7).log()
    if kind == "linear_iou":
        return 1 - iou
    raise UsageError(f"box_loss: unknown kind {kind!r}; known: {', '.join(get_args(BoxLoss))}.")


def world_mean(value: Tensor) -> Tensor:
    """A normaliser as the mean over all processes that compute a step together; elsewhere as it is.

    Dividing each process's loss by the mean number of positives makes the averaged gradient equal to that of one
    process with the whole batch.
    """
    mean = _world_mean.get()
    return value if mean is None else mean(value)


@contextmanager
def normalised_together(mean: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within it the normalisers of losses are averaged by `mean`, which every process of a step has to call alike.

    The training loop alone does so. A loss that is computed for anything else, such as a validation loss, whose
    batches the processes share out unevenly, or a failed step that is computed again, waits for nobody.
    """
    token = _world_mean.set(mean)
    try:
        yield
    finally:
        _world_mean.reset(token)
