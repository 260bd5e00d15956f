"""Which parts of an assignment nobody knows: where an image was not labelled for a class, or has a guess.

Legend: A points over all levels, p of a portion, C classes, N boxes of one image, U of them uncertain.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

BYTES_PER_PAIR = 8  # of a point and a box at the peak: bool values, and one of float32


@torch.no_grad()
def unknown_entries(
    points: Tensor,
    boxes: Tensor,
    labels: Tensor,
    uncertain: Tensor,
    known: Tensor | None,
    num_classes: int,
    *,
    byte_budget: int = 16 * 2**20,
) -> Tensor | None:
    """Which classes cannot be called background at which points: `[A, C]` bool, None when all can everywhere.

    points: `[A, 2]` x, y in pixels. boxes: `[N, 4]` xyxy, labels: `[N]` int64, uncertain: `[N]` bool, known: `[C]` bool
    or None, as in `Targets` of one image. True where the image was not labelled for the class, and where the point lies
    inside an uncertain box of the class. Memory beside the result is bounded: points are taken in portions of about
    `byte_budget` bytes. The result may be a view that repeats one row; it is not to be written to.
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
        inside = (x > x0) & (x < x1) & (y > y0) & (y < y1)  # [p, U]
        portions.append(inside.float() @ of_class > 0)  # [p, C], in how many guesses of each class the point lies
    covered = torch.cat(portions)
    return covered if everywhere is None else covered | everywhere
