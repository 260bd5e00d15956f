"""Operators as ONNX has them, for torch's exporter: our own, and those it does not know or not in every use."""

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import FLOAT, INT64, opset18, opset20, script

from aweigh.ops import boxes as box_ops
from aweigh.ops import region_points

op18: Any = opset18  # of the exporter's own operators, which it converts to ours at the end
op: Any = opset20  # the functions build parts of a graph: what they are given and return are values in it, not arrays


def hard_nms(boxes: Any, scores: Any, groups: Any, iou_threshold: float, most: int) -> Any:
    """`aweigh.ops.boxes.hard_nms`: boxes `[B, N, 4]`, scores and groups `[B, N]` to rows `[B, most]`.

    ONNX's operator suppresses within the classes of an image, each with scores of its own, and gives rows `(image,
    class, box)`, class by class. A box is here in one class alone: the one of its group.
    """
    zero, one, most_rows = op.Constant(value_int=0), op.Constant(value_int=1), op.Constant(value_ints=[most])
    nothing, there = op.Constant(value_float=0.0), op.Greater(scores, op.Constant(value_float=0.0))
    groups = op.Where(there, groups, zero)
    classes = op.Range(zero, op.Add(op.ReduceMax(groups, keepdims=0), one), one)  # [C]
    of_class = op.Equal(op.Unsqueeze(groups, [1]), op.Unsqueeze(classes, [0, 2]))  # [B, C, N]
    of_class = op.Where(of_class, op.Unsqueeze(scores, [1]), nothing)
    kept = op.NonMaxSuppression(boxes, of_class, most_rows, op.Constant(value_float=iou_threshold), nothing)
    places = op.Gather(kept, op.Constant(value_ints=[0, 2]), axis=1)  # [kept, 2] image, row
    ones = op.Expand(op.Constant(value_float=1.0), op.Shape(kept, end=1))
    scores = op.Mul(scores, op.ScatterND(op.Mul(scores, nothing), places, ones))  # [B, N] 0: not kept
    padding = op.Expand(nothing, op.Concat(op.Shape(scores, end=1), most_rows, axis=0))
    best, rows = op.TopK(op.Concat(scores, padding, axis=1), most_rows)  # [B, most]; of equal scores the first
    return op.Where(op.Greater(best, nothing), rows, op.Constant(value_int=-1))


@script(default_opset=opset18)
def running_maximum(x: FLOAT, cells: INT64, axis: int) -> FLOAT:
    """The largest value at each of `cells` `[n]`, 0 to n - 1, of an axis of `x` and before it, in about log2(n) steps:
    each compares what reaches 1, 2, 4 ... cells back with the same at the cell before these."""
    zero, reach = op18.Constant(value_int=0), op18.Constant(value_int=1)
    last = op18.ReduceMax(cells, keepdims=0)
    more = op18.LessOrEqual(reach, last)
    while more:
        x = op18.Max(x, op18.Gather(x, op18.Max(op18.Sub(cells, reach), zero), axis=axis))
        reach = op18.Add(reach, reach)
        more = op18.LessOrEqual(reach, last)
    return x


def cummax(x: Any, dim: int) -> tuple[Any, Any]:
    """`torch.cummax`, which ONNX has not. Of its two results the values alone are read; both are the values here."""
    side = op.Squeeze(op.Shape(x, start=dim, end=dim + 1))
    cells = op.Range(op.Constant(value_int=0), side, op.Constant(value_int=1))
    largest = running_maximum(x, cells, axis=dim)
    return largest, largest


@script(default_opset=opset18)
def pooled_points(
    pooled: FLOAT, table: FLOAT, rows: INT64, row_weights: FLOAT, columns: INT64, column_weights: FLOAT
) -> FLOAT:
    """`aweigh.ops.region_points.pool_points`, point by point of all cells at once.

    pooled: what stands in a cell before, 0 for a sum, for the largest a number below all.
    """
    zero, one = op18.Constant(value_int=0), op18.Constant(value_int=1)
    two, three = op18.Constant(value_int=2), op18.Constant(value_int=3)
    down, across = op18.Constant(value_ints=[2, 4]), op18.Constant(value_ints=[1, 3])
    to_pixels, last_axis = op18.Constant(value_ints=[0, 0, 0, 4]), op18.Constant(value_ints=[-1])
    nothing, lowest = op18.Constant(value_float=0.0), op18.Constant(value_float=-3.0e38)
    points_across = op18.Squeeze(op18.Shape(columns, start=2, end=3))
    number = op18.Mul(op18.Squeeze(op18.Shape(rows, start=2, end=3)), points_across)
    cells, cell_row = op18.Shape(rows, start=0, end=2), op18.Shape(rows, start=1, end=2)
    largest = op18.Less(pooled, nothing)
    pooled = op18.Expand(pooled, op18.Concat(cells, cell_row, op18.Shape(table, start=1), axis=0))
    point = op18.Constant(value_int=0)
    more = op18.Less(point, number)
    while more:
        t, u = op18.Div(point, points_across), op18.Mod(point, points_across)
        row, column = op18.Gather(rows, t, axis=2), op18.Gather(columns, u, axis=2)  # [R, S, 2]
        index = op18.Add(op18.Unsqueeze(row, down), op18.Unsqueeze(column, across))  # [R, S, S, 2, 2]
        index = op18.Reshape(index, to_pixels)
        row_weight, column_weight = op18.Gather(row_weights, t, axis=2), op18.Gather(column_weights, u, axis=2)
        weights = op18.Mul(op18.Unsqueeze(row_weight, down), op18.Unsqueeze(column_weight, across))
        weights = op18.Unsqueeze(op18.Reshape(weights, to_pixels), last_axis)  # [R, S, S, 4, 1]
        first = op18.Gather(table, op18.Gather(index, zero, axis=3), axis=0)  # [R, S, S, C]
        second = op18.Gather(table, op18.Gather(index, one, axis=3), axis=0)
        third = op18.Gather(table, op18.Gather(index, two, axis=3), axis=0)
        fourth = op18.Gather(table, op18.Gather(index, three, axis=3), axis=0)
        value = op18.Add(
            op18.Add(
                op18.Mul(first, op18.Gather(weights, zero, axis=3)),
                op18.Mul(second, op18.Gather(weights, one, axis=3)),
            ),
            op18.Add(
                op18.Mul(third, op18.Gather(weights, two, axis=3)),
                op18.Mul(fourth, op18.Gather(weights, three, axis=3)),
            ),
        )
        counts = op18.Greater(op18.ReduceSum(weights, op18.Constant(value_ints=[3]), keepdims=0), nothing)
        greatest = op18.Max(pooled, op18.Where(counts, value, lowest))
        pooled = op18.Where(largest, greatest, op18.Add(pooled, value))
        point = op18.Add(point, one)
        more = op18.Less(point, number)
    pooled = op18.Where(op18.Greater(pooled, lowest), pooled, nothing)
    return pooled


def pool_points(
    table: Any, rows: Any, row_weights: Any, columns: Any, column_weights: Any, largest: bool
) -> tuple[Any, Any]:
    """Of the two results the pooled values alone are read; in the other's place stands that none is known."""
    before = op.Constant(value_float=-3.0e38 if largest else 0.0)
    pooled = pooled_points(before, table, rows, row_weights, columns, column_weights)
    return pooled, op.Constant(value_ints=[-1])


def remainder(values: Any, divisor: Any) -> Any:
    """`torch.remainder` by a number, which may be a side of a map: the exporter's takes constants alone."""
    divisor = op.CastLike(divisor, values)
    if values.dtype.is_integer():
        return op.Mod(values, divisor)
    return op.Sub(values, op.Mul(op.Floor(op.Div(values, divisor)), divisor))


def roi_pool(x: Any, regions: Any, scale: float, height: int, width: int) -> tuple[Any, Any]:
    """Torchvision's, of which the pooled values alone are read; they stand in the place of their indices too."""
    pooled = op.MaxRoiPool(x, regions, pooled_shape=[height, width], spatial_scale=scale)
    return pooled, pooled


def deform_conv(
    x: Any,
    weight: Any,
    offset: Any,
    mask: Any,
    bias: Any,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    *_: int,
) -> Any:
    """Torchvision's modulated deformable convolution as `aweigh.layers.DeformableConv2d` has it, without stride,
    dilation and groups, so that the map `[B, C, H, W]` keeps its size.

    Samples of the map, then a 1x1 convolution of them: OpenVINO does not read ONNX's own operator.
    """
    channels_out, channels, height, width = weight.shape
    number = height * width  # N, places of the kernel

    def ints(*values: int) -> Any:
        return op.Constant(value_ints=list(values))

    def along(axis: int, places: list[int]) -> Any:
        """Where each place reads at each cell, along one axis of the map, from -1 at its edge to 1: `[B, N, H, W]`."""
        side = op.Shape(x, start=axis, end=axis + 1)
        cells = op.Range(op.Constant(value_int=0), op.Squeeze(side), op.Constant(value_int=1))
        cells = op.Unsqueeze(cells, [1]) if axis == 2 else cells
        begin = op.Reshape(op.Constant(value_floats=[place + 0.5 for place in places]), ints(1, -1, 1, 1))
        shift = op.Squeeze(op.Slice(offsets, ints(axis - 2), ints(axis - 1), ints(2)), ints(2))
        read = op.Add(op.Add(shift, begin), op.Cast(cells, to=1))
        return op.Sub(op.Div(op.Add(read, read), op.Cast(side, to=1)), op.Constant(value_float=1.0))

    batch, map_hw = op.Shape(x, end=1), op.Shape(x, start=2)
    offsets = op.Reshape(offset, op.Concat(batch, ints(number, 2), map_hw, axis=0))  # [B, N, 2 (y, x), H, W]
    rows = along(2, [place // width - pad_h for place in range(number)])
    columns = along(3, [place % width - pad_w for place in range(number)])
    grid = op.Concat(op.Unsqueeze(columns, [4]), op.Unsqueeze(rows, [4]), axis=4)  # [B, N, H, W, 2 (x, y)]
    grid = op.Reshape(grid, op.Concat(batch, ints(-1), op.Shape(x, start=3), ints(2), axis=0))  # [B, N * H, W, 2]
    sampled = op.GridSample(x, grid, mode="linear", padding_mode="zeros", align_corners=0)  # [B, C, N * H, W]
    sampled = op.Reshape(sampled, op.Concat(batch, ints(channels, number), map_hw, axis=0))
    sampled = op.Reshape(op.Mul(sampled, op.Unsqueeze(mask, [1])), op.Concat(batch, ints(-1), map_hw, axis=0))
    return op.Conv(sampled, op.Reshape(weight, ints(channels_out, channels * number, 1, 1)), bias)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    box_ops.hard_nms._opoverload: hard_nms,
    region_points.pool_points._opoverload: pool_points,
    torch.ops.aten.cummax.default: cummax,
    torch.ops.aten.remainder.Scalar: remainder,
    torch.ops.torchvision.deform_conv2d.default: deform_conv,
    torch.ops.torchvision.roi_pool.default: roi_pool,
}
