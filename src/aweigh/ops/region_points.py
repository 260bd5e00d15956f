"""Points of a map between its pixels, which the cells of regions read: where they lie, and what counts of them.

Each cell of a region has some points along each axis and so their product in the plane. A point has the bilinear value
of the four pixels round it. RoIAlign and RoIWarp differ in where the points lie; of their values the largest counts, or
a sum by weight, such as the mean.

Legend: R regions, S cells of a side, T and U points of a cell down and across, P pixels of a map, C channels.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

Along = tuple[Tensor, Tensor]
"""Along one axis, the two pixels that each point lies between and the weight of each: `[R, S, T, 2]`, int64 and float.
The weights of a point are 1 together, 0 where it does not count."""


def points_of_align(start: Tensor, end: Tensor, pixels: Tensor, size: int, samples: int, shortest: float) -> Along:
    """The points of RoIAlign (He et al. 2017, Mask R-CNN, section 3): evenly spread, none on the edge of a cell.

    start, end: of each region `[R]`, in pixels of its map; pixels: how many the map has `[R]`. samples: points of a
    cell, 0 for as many as there are pixels. shortest: side of a region. More than a pixel outside there is nothing.
    """
    cell = (end - start).clamp(min=shortest) / size  # [R]
    number = torch.full_like(cell, samples) if samples else cell.ceil()
    order = torch.arange(samples or _most(number), device=start.device)
    at = (order + 0.5) * (cell / number.clamp(min=1))[:, None]  # [R, T]
    at = start[:, None, None] + torch.arange(size, device=start.device)[:, None] * cell[:, None, None] + at[:, None]
    there = (order < number[:, None])[:, None] & (at >= -1) & (at <= pixels[:, None, None])
    return _between(at, there, pixels)


def points_of_warp(start: Tensor, end: Tensor, pixels: Tensor, size: int) -> Along:
    """The points of RoIWarp, as its authors' program has them: the region is rounded to whole pixels, and in each of
    its cells points lie a pixel or less apart, from edge to edge.

    Arguments as in `points_of_align`. More than half a pixel outside there is nothing.
    """
    start, end = _rounded(start), _rounded(end)
    cell = (end - start).clamp(min=0) / size  # [R]
    steps = cell.ceil().clamp(min=1)
    order = torch.arange(_most(steps) + 1, device=start.device)
    share = torch.arange(size, device=start.device)[:, None] + (order / steps[:, None])[:, None]  # [R, S, T]
    at = start[:, None, None] + share * cell[:, None, None]
    there = (order <= steps[:, None])[:, None] & (at >= -0.5) & (at <= pixels[:, None, None] - 0.5)
    return _between(at, there, pixels)


def _most(number: Tensor) -> int:
    """The largest of `[R]`, at least 1. A graph finds out whenever it runs."""
    most = cast(int, torch.cat([number, number.new_ones(1)]).max().long().item())
    torch._check(most >= 1)
    return most


def _rounded(values: Tensor) -> Tensor:
    """To whole numbers, halves away from zero, as C's `round` does."""
    return values.sign() * (values.abs() + 0.5).floor()


def _between(at: Tensor, there: Tensor, pixels: Tensor) -> Along:
    """Of points `[R, S, T]`, those which are `there`; pixels: of the axis `[R]`."""
    last = (pixels - 1)[:, None, None]
    at = at.clamp(min=0).minimum(last)
    low = at.floor().long()
    share = at - low
    index = torch.stack([low, (low + 1).minimum(last)], dim=-1)  # [R, S, T, 2]
    return index, torch.stack([1 - share, share], dim=-1) * there[..., None]


@torch.library.custom_op("aweigh::pool_points", mutates_args=())
def pool_points(
    table: Tensor, rows: Tensor, row_weights: Tensor, columns: Tensor, column_weights: Tensor, largest: bool
) -> tuple[Tensor, Tensor]:
    """The largest value of all points of each cell, or their sum by weight, 0 without any point: `[R, S, S, C]`.

    table: the pixels of all maps `[P, C]`; one is `rows` `[R, S, T, 2]` + `columns` `[R, S, U, 2]`, its weight the
    product of theirs. Returns too which point is the largest, t * U + u, or -1: `[R, S, S, C]` int64.

    An operator of its own, since memory for the values of all points at once would be many times that of the result.
    Its gradient is that of `table` alone: regions do not learn where they lie.
    """
    shape = (rows.shape[0], rows.shape[1], rows.shape[1], table.shape[1])
    pooled = table.new_full(shape, -torch.inf if largest else 0)
    which = rows.new_full(shape if largest else (0,), -1)
    for point, of, index, weights in _each_point(rows, row_weights, columns, column_weights):
        values = F.embedding_bag(index, table, per_sample_weights=weights, mode="sum").view(len(of), *shape[1:])
        if not largest:
            pooled[of] += values
            continue
        counts = weights.sum(dim=1).view(len(of), *shape[1:3], 1) > 0
        better = counts & (values > pooled[of])
        pooled[of] = torch.where(better, values, pooled[of])
        which[of] = torch.where(better, point, which[of])
    return torch.where(pooled == -torch.inf, 0, pooled), which


@pool_points.register_fake
def _(
    table: Tensor, rows: Tensor, row_weights: Tensor, columns: Tensor, column_weights: Tensor, largest: bool
) -> tuple[Tensor, Tensor]:
    shape = (rows.shape[0], rows.shape[1], rows.shape[1], table.shape[1])
    return table.new_empty(shape), rows.new_empty(shape if largest else (0,))


def _each_point(
    rows: Tensor, row_weights: Tensor, columns: Tensor, column_weights: Tensor
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Of each point its number, the regions `[r]` that have it, and of their cells its four pixels and their weights,
    `[r * S * S, 4]` each."""
    down, across = (weights.sum(dim=(1, 3)) > 0 for weights in (row_weights, column_weights))  # [R, T], [R, U]
    for t, u in product(range(rows.shape[2]), range(columns.shape[2])):
        of = (down[:, t] & across[:, u]).nonzero().squeeze(1)
        if not len(of):
            continue
        index = rows[of, :, t][:, :, None, :, None] + columns[of, :, u][:, None, :, None, :]  # [r, S, S, 2, 2]
        weights = row_weights[of, :, t][:, :, None, :, None] * column_weights[of, :, u][:, None, :, None, :]
        yield t * columns.shape[2] + u, of, index.flatten(0, 2).flatten(1), weights.flatten(0, 2).flatten(1)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    table, *points, ctx.largest = inputs
    ctx.pixels = table.shape[0]
    ctx.save_for_backward(*points, output[1])


def _backward(ctx: Any, gradient: Tensor, of_which: Tensor) -> tuple[Tensor | None, ...]:
    *points, which = ctx.saved_tensors
    table = gradient.new_zeros(ctx.pixels, gradient.shape[-1])
    if ctx.largest:
        _to_largest(table, gradient, which, *points)
    else:
        for _, of, index, weights in _each_point(*points):
            of_cells = gradient[of].flatten(0, 2)  # [r * S * S, C]
            for pixel in range(4):
                table.index_add_(0, index[:, pixel], of_cells * weights[:, pixel, None])
    return table, None, None, None, None, None


def _to_largest(
    table: Tensor,
    gradient: Tensor,
    which: Tensor,
    rows: Tensor,
    row_weights: Tensor,
    columns: Tensor,
    column_weights: Tensor,
) -> None:
    """Add the gradient of each value of the result to the four pixels of the point that was the largest."""
    there, point = which >= 0, which.clamp(min=0)
    down, across = point // columns.shape[2], point % columns.shape[2]  # [R, S, S, C]
    down, across = down.flatten(2), across.transpose(1, 2).flatten(2)  # [R, S, S * C]: by row, by column
    channels = torch.arange(table.shape[1], device=table.device)
    for a, b in product(range(2), range(2)):
        row, row_weight = (each[..., a].gather(2, down).view_as(gradient) for each in (rows, row_weights))
        column, column_weight = (
            each[..., b].gather(2, across).view_as(gradient).transpose(1, 2) for each in (columns, column_weights)
        )
        share = gradient * row_weight * column_weight * there
        place = (row + column) * table.shape[1] + channels
        table.view(-1).index_add_(0, place.flatten(), share.flatten())


pool_points.register_autograd(_backward, setup_context=_remember)
