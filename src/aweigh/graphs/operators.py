"""Our own operators as ONNX has them, for torch's exporter."""

from collections.abc import Callable
from typing import Any

from onnxscript import opset20

from aweigh.ops import boxes as box_ops

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


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {box_ops.hard_nms._opoverload: hard_nms}
