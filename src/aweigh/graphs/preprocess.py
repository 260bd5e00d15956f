"""A graph that takes an image as it was decoded: resizing and padding before the detector's graph, scaling after it.

Sides are computed as `aweigh.images.resize.Resize` computes them, in float64. The pixels are those of the runtime's own
operator, which works with the weights that ours has, and rounds elsewhere: of onnxruntime's one in 600 is a grey level
beside ours. OpenVINO leaves the antialias out, so it is given no such graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxscript
from onnx import TensorProto, compose, helper

from aweigh.images.resize import Resize

op: Any = onnxscript.opset20
types: Any = onnxscript
IN_PIXELS = {"boxes": 4, "keypoints": 3, "cuboids": 7}  # outputs whose rows begin with pixels, and a row's length


def take_whole_images(file: Path, *, resize: Resize, divisor: int, mean: Sequence[float]) -> None:
    """Change the graph of a detector for one image, in a file, into one for `image` `[height, width, 3]` uint8 RGB.

    The image has any size. `images` and `sizes_hw` are made of it inside; what comes out is in its pixels. resize: the
    detector's step. divisor, mean: what its padded sides are multiples of, and the colour of the padding.
    """
    detector = onnx.load(file)
    before = _before(resize, divisor, mean).to_model_proto(
        input_types=[types.UINT8[None, None, 3]],
        output_types=[
            types.FLOAT[1, 3, None, None],
            types.INT64[1, 2],
            *(types.FLOAT[length] for length in IN_PIXELS.values()),
        ],
    )
    before.ir_version = detector.ir_version
    names = [output.name for output in detector.graph.output]
    scaled = [name for name in names if name in IN_PIXELS]
    inside = compose.add_prefix(detector, "detector/")
    whole = compose.merge_models(
        before,
        inside,
        io_map=[(name, f"detector/{name}") for name in ("images", "sizes_hw")],
        outputs=[*(f"detector/{name}" for name in names), *(f"{name}_factor" for name in scaled)],
    )
    del whole.graph.output[:]
    for output in detector.graph.output:
        given = [f"detector/{output.name}", *([f"{output.name}_factor"] if output.name in scaled else [])]
        whole.graph.node.append(helper.make_node("Mul" if len(given) == 2 else "Identity", given, [output.name]))
        whole.graph.output.append(output)
    whole.metadata_props.extend(detector.metadata_props)
    onnx.save(whole, file)


def _before(resize: Resize, divisor: int, mean: Sequence[float]) -> Any:
    """From the image to `images` `[1, 3, H, W]`, `sizes_hw` `[1, 2]`, and what rows of each kind are multiplied by."""
    short, long = (float(limit or math.inf) for limit in (resize.short, resize.long))
    most = 1.0 if resize.short is resize.long is None else math.inf
    exact = float(resize.long or 0) if resize.short is None else 0.0  # the longest side, where it is to be hit
    within = [float(side) for side in resize.within or (math.inf, math.inf)]
    antialias, colour, white = int(resize.antialias), list(mean), 255.0
    # With antialias our pixels are rounded to grey levels, and so are the operator's of whole numbers.
    resized_as = TensorProto.UINT8 if resize.antialias else TensorProto.FLOAT
    single, double, whole_number = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64

    @onnxscript.script(default_opset=op)
    def before(image):  # type: ignore[no-untyped-def]
        one = op.Cast(op.Constant(value_floats=[1.0]), to=double)
        whole_hw = op.Cast(op.Shape(image, start=0, end=2), to=double)
        longest = op.ReduceMax(whole_hw, keepdims=1)
        by_short = op.Div(op.Cast(op.Constant(value_floats=[short]), to=double), op.ReduceMin(whole_hw, keepdims=1))
        by_long = op.Div(op.Cast(op.Constant(value_floats=[long]), to=double), longest)
        scale = op.Min(by_short, by_long, op.Cast(op.Constant(value_floats=[most]), to=double))
        scaled = op.Max(op.Floor(op.Mul(whole_hw, scale)), one)
        hit = op.Cast(op.Constant(value_floats=[exact]), to=double)
        sides = op.Where(op.And(op.Equal(whole_hw, longest), op.Greater(hit, op.Sub(one, one))), hit, scaled)
        limits = op.Cast(op.Constant(value_floats=within), to=double)
        fitting = op.Min(op.ReduceMin(op.Div(limits, sides), keepdims=1), one)
        size_hw = op.Cast(op.Max(op.Floor(op.Mul(sides, fitting)), one), to=whole_number)

        planes = op.Unsqueeze(op.Transpose(image, perm=[2, 0, 1]), op.Constant(value_ints=[0]))
        target = op.Concat(op.Constant(value_ints=[1, 3]), size_hw, axis=0)
        as_resized = op.Cast(planes, to=resized_as)
        resized = op.Resize(
            as_resized, None, None, target, mode="linear", antialias=antialias, exclude_outside=antialias
        )
        pixels = op.Div(op.Cast(resized, to=single), op.Constant(value_float=white))
        step = op.Constant(value_ints=[divisor])
        less_one = op.Constant(value_ints=[divisor - 1])
        room = op.Mul(op.Div(op.Add(size_hw, less_one), step), step)
        pads = op.Concat(op.Constant(value_ints=[0, 0, 0, 0, 0, 0]), op.Sub(room, size_hw), axis=0)
        mean_colour = op.Reshape(op.Constant(value_floats=colour), op.Constant(value_ints=[1, 3, 1, 1]))
        images = op.Add(op.Pad(op.Sub(pixels, mean_colour), pads), mean_colour)

        factor = op.Cast(op.Div(whole_hw, op.Cast(size_hw, to=double)), to=single)
        factor_xy = op.Gather(factor, op.Constant(value_ints=[1, 0]))
        boxes_factor = op.Concat(factor_xy, factor_xy, axis=0)
        keypoints_factor = op.Concat(factor_xy, op.Constant(value_floats=[1.0]), axis=0)
        cuboids_factor = op.Concat(factor_xy, op.Constant(value_floats=[1.0, 1.0, 1.0, 1.0, 1.0]), axis=0)
        sizes_hw = op.Unsqueeze(size_hw, op.Constant(value_ints=[0]))
        return images, sizes_hw, boxes_factor, keypoints_factor, cuboids_factor

    return before
