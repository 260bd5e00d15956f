"""Heat maps with a peak at each point to be found: how far a peak reaches, drawing, and reading peaks off again.

Papers: Law and Deng, "CornerNet", ECCV 2018, section 3.2 (the radius); Zhou et al., "Objects as Points", 2019, section
3 (Gaussians that keep the larger value where they meet, and peaks that need no suppression); Duan et al., "CenterNet:
Keypoint Triplets", ICCV 2019 (whose centres have wider Gaussians, in its code).

Legend: B images, C classes, H x W cells, N points, P planes (a plane is one class of one image).
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Radius = Literal["official", "corrected"]

# What a cell holds of which nobody knows whether it is background: next to a peak's 1, so that the authors' penalty
# (1 - 0.9999)^4 leaves next to nothing of its loss; `penalty_reduced_focal_loss_sum` leaves out all of it.
UNKNOWN = 0.9999


def gaussian_radius(sizes_hw: Tensor, *, kind: Radius = "official", min_iou: float = 0.7) -> Tensor:
    """How far the corners of boxes may move: sizes `[..., 2]` (height, width) -> radii `[...]` float64, in their unit.

    `"corrected"` is what CornerNet's text asks for: two boxes of this size whose corners lie no farther apart than this
    have an IoU of `min_iou` or more. It is the smallest solution of three quadratic equations: for a box moved aside,
    for one inside and for one outside. `"official"` is what the code of CornerNet and CenterNet computes, which takes
    another root of the first two and divides all three by 2, not by 2a: about 3.3 times as far, and what the published
    results rest on.
    """
    wide = torch.float32 if sizes_hw.device.type == "mps" else torch.float64
    height, width = sizes_hw.to(wide).unbind(-1)
    sides, area = height + width, height * width
    aside = (sides.square() - 4 * area * (1 - min_iou) / (1 + min_iou)).clamp(min=0).sqrt()
    inside = (4 * sides.square() - 16 * area * (1 - min_iou)).clamp(min=0).sqrt()
    outside = ((2 * min_iou * sides).square() + 16 * min_iou * area * (1 - min_iou)).sqrt() - 2 * min_iou * sides
    if kind == "official":
        radii = (sides + aside, 2 * sides + inside, outside)
        divisors = (2.0, 2.0, 2.0)
    else:
        radii = (sides - aside, 2 * sides - inside, outside)
        divisors = (2.0, 8.0, 8 * min_iou)
    return torch.stack([radius / divisor for radius, divisor in zip(radii, divisors, strict=True)]).amin(dim=0)


@torch.no_grad()
def draw_gaussians(
    size: tuple[int, int, int],
    planes: Tensor,
    cells: Tensor,
    radii: Tensor,
    *,
    divisor: float = 6.0,
    byte_budget: int = 64 * 2**20,
) -> Tensor:
    """Heat maps `[P, H, W]` float32 with a Gaussian round each point, the larger value where several meet.

    size: (P, H, W). planes: `[N]` int64. cells: `[N, 2]` int64 (column, row), inside the map. radii: `[N]` int64, >= 0.
    A Gaussian is 1 at its point, ends `radius` cells from it, in a square, and has a third of that as its deviation
    (Law and Deng, section 3.2; (2 radius + 1) / 6 in their code; divisor: what stands for the 6). All points are drawn
    at once, each in its own square only, in portions of about `byte_budget` bytes.
    """
    count, height, width = size
    heatmaps = torch.zeros(count * height * width, device=cells.device)
    x, y = cells.unbind(1)
    left, right = (x - radii).clamp(min=0), (x + radii).clamp(max=width - 1)
    top, bottom = (y - radii).clamp(min=0), (y + radii).clamp(max=height - 1)
    columns, rows = right - left + 1, bottom - top + 1  # of the square, inside the map
    corner = (planes * height + top) * width + left
    falloff = -0.5 * (divisor / (2 * radii + 1)).square()  # -1 / (2 deviation^2)
    points = torch.stack([columns, rows, left - x, top - y, corner])
    bytes_per_cell = 80
    for portion in _portions(columns * rows, byte_budget // bytes_per_cell):
        place, value = _squares(points[:, portion], falloff[portion], width)
        heatmaps.scatter_reduce_(0, place, value, "amax")
    return heatmaps.view(count, height, width)


def draw_heatmaps(
    size: tuple[int, int, int, int],
    image: Tensor,
    labels: Tensor,
    cells: Tensor,
    radii: Tensor,
    unknown: Tensor | None = None,
    *,
    divisor: float = 6.0,
) -> Tensor:
    """`draw_gaussians` into a heat map for each class of each image: `[B, C, H, W]` float32.

    size: (B, C, H, W). image, labels: `[N]`, whose points they are. unknown: `[B, C, H, W]` bool, or of one class for
    all, where nobody knows whether it is background: `UNKNOWN` there, but at points.
    """
    batch, classes, height, width = size
    planes = (batch * classes, height, width)
    heatmaps = draw_gaussians(planes, image * classes + labels, cells, radii, divisor=divisor).view(size)
    return heatmaps if unknown is None else torch.where(unknown & (heatmaps < 1), UNKNOWN, heatmaps)


def _squares(points: Tensor, falloff: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Places in the heat maps and values `[M]` of all cells of the squares of points `[5, n]`, falloff `[n]`.

    A Gaussian is the product of one along its columns and one along its rows.
    """
    columns, rows, left, top, corner = points
    of_column, step = _counted(columns)
    along_row = torch.exp(falloff[of_column] * (left[of_column] + step).square())  # all columns of all points
    of_row, step = _counted(rows)
    along_column = torch.exp(falloff[of_row] * (top[of_row] + step).square())  # all rows of all points, [R]
    first_place = corner[of_row] + step * width
    first_column = (columns.cumsum(0) - columns)[of_row]
    of_cell, step = _counted(columns[of_row])  # [M], the row of each cell and its column in it
    value = along_column.index_select(0, of_cell) * along_row.index_select(
        0, first_column.index_select(0, of_cell) + step
    )
    return first_place.index_select(0, of_cell) + step, value


def _counted(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Each index of `counts` `[n]` so many times, and which time it is: `[3, 1]` -> `[0, 0, 0, 1]`, `[0, 1, 2, 0]`."""
    index = torch.repeat_interleave(counts)
    start = counts.cumsum(0) - counts
    return index, torch.arange(len(index), device=counts.device) - start.index_select(0, index)


def _portions(cells: Tensor, most: int) -> list[slice]:
    """Slices of points of which each has about `most` cells together, from the cells of each point `[N]`."""
    total = cells.cumsum(0)
    every = int(total[-1]) if len(cells) else 0
    marks = torch.tensor(range(most, every, most), dtype=torch.int64, device=cells.device)
    ends = sorted({0, *torch.searchsorted(total, marks).tolist(), len(cells)})
    return [slice(first, last) for first, last in pairwise(ends)]


def peaks(heatmaps: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The highest cells among those that none of their eight neighbours exceeds: values, classes and cells, `[B, k]`.

    heatmaps: `[B, C, H, W]`, scores or logits. k is `count`, or C * H * W where that is less. Best first; what follows
    the last peak has the value -inf. A cell is `row * W + column`. The best k pairs of a class and a cell lie in the k
    cells whose best class is highest, so only those are looked into.
    """
    highest = F.max_pool2d(heatmaps, 3, stride=1, padding=1)
    values = torch.where(heatmaps == highest, heatmaps, -torch.inf).flatten(2)  # [B, C, H * W]
    most = min(count, values.shape[2])
    cells = values.amax(dim=1).topk(most, dim=1).indices  # [B, k']
    values = values.gather(2, cells[:, None].expand(-1, values.shape[1], -1)).flatten(1)  # [B, C * k']
    values, pairs = values.topk(min(count, values.shape[1]), dim=1)  # [B, k]
    return values, pairs // most, cells.gather(1, pairs % most)


def at_cells(values: Tensor, image: Tensor, cell: Tensor) -> Tensor:
    """The values of a map `[B, X, H, W]` at cells `[N]` of images `[N]`: `[N, X]` float32."""
    picked: Tensor = values.flatten(2)[image, :, cell]
    return picked.float()


def at_peaks(values: Tensor, cells: Tensor) -> Tensor:
    """The values of a map `[B, X, H, W]` at cells `[B, k]` of each image: `[B, k, X]` float32."""
    channels = values.shape[1]
    return values.float().flatten(2).gather(2, cells[:, None].expand(-1, channels, -1)).transpose(1, 2)


def columns_rows(cells: Tensor, width: int) -> Tensor:
    """Where cells `[...]`, each `row * width + column`, lie on a map: `[..., 2]` int64 (column, row)."""
    return torch.stack([cells % width, cells // width], dim=-1)


def cells_inside(size_hw: tuple[int, int], stride: int, sizes_hw: Tensor) -> Tensor:
    """Which cells of maps of `size_hw` cells begin inside of images of `sizes_hw` `[B, 2]` pixels: `[B, H, W]` bool."""
    rows, columns = (torch.arange(side, device=sizes_hw.device) * stride for side in size_hw)
    return (rows < sizes_hw[:, :1])[:, :, None] & (columns < sizes_hw[:, 1:])[:, None, :]


def mean_logits(logits: Tensor, others: Tensor) -> Tensor:
    """The logits of the mean of two maps of probabilities, given as logits of any equal shapes; float32.

    From the logarithms of p and of 1 - p, so that scores near 1 stay apart.
    """
    logits, others = logits.float(), others.float()
    yes = torch.logaddexp(F.logsigmoid(logits), F.logsigmoid(others))
    no = torch.logaddexp(F.logsigmoid(-logits), F.logsigmoid(-others))
    return yes - no
