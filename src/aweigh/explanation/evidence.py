"""What a score rests on: by how much each square of the image holds it up.

To first order a score changes by its gradient times the change of the pixels. The change asked about is the one to the
mean colour, which is nothing to a network: what a square adds over it is its gradient times what it differs from the
mean, added up ("gradient times input", Shrikumar et al. 2016, arXiv 1605.01713, with the mean as their reference). A
square that speaks against the object has a value below 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aweigh.explanation.look import Look

SQUARE = 16  # pixels of a side, of what the network sees; ours: smaller ones show its texture, not its objects


def evidence_for(look: Look, score: Tensor) -> np.ndarray:
    """By how much each square of `SQUARE` pixels holds up the score, a scalar of the look: `[h, w]` float32.

    Only what is the image's counts, not its padding; the last row and column may be of smaller squares.
    """
    (gradient,) = torch.autograd.grad(score, look.seen, retain_graph=True)
    colour = look.model.pixel_mean.view(1, -1, 1, 1)
    added = (gradient * (look.seen.detach() - colour)).sum(dim=1, keepdim=True)  # [1, 1, H, W]
    height, width = look.size_hw
    inside = added[..., :height, :width]
    mean = F.avg_pool2d(inside, SQUARE, ceil_mode=True, count_include_pad=False)
    areas = F.avg_pool2d(torch.ones_like(inside), SQUARE, ceil_mode=True, divisor_override=1)
    found: np.ndarray = (mean * areas)[0, 0].float().numpy(force=True)
    return found
