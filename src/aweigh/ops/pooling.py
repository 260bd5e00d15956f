"""Corner pooling: what is largest to one side of each cell.

Paper: Law and Deng, "CornerNet", ECCV 2018, section 3.4, equations 6 and 7. Each is one running maximum over the map.

Legend: B images, X channels, H x W cells.
"""

from torch import Tensor


def largest_below(x: Tensor) -> Tensor:
    """`[B, X, H, W]` -> the largest value at each cell and below it (equation 6; "top pooling" of the authors)."""
    return largest_above(x.flip(2)).flip(2)


def largest_right(x: Tensor) -> Tensor:
    """The largest value at each cell and right of it (equation 7; "left pooling")."""
    return largest_left(x.flip(3)).flip(3)


def largest_above(x: Tensor) -> Tensor:
    """The largest value at each cell and above it ("bottom pooling")."""
    return x.cummax(dim=2).values


def largest_left(x: Tensor) -> Tensor:
    """The largest value at each cell and left of it ("right pooling")."""
    return x.cummax(dim=3).values
