"""What the operators of exported graphs are, under the names of ONNX and of OpenVINO.

What does not depend on the values of an image is left out: weights as they are unpacked, arithmetic with shapes, grids.
So is what only sees values in another shape.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aweigh.errors import UsageError
from aweigh.profiling.operators import Kind, Operator

Shape = tuple[int, ...]

_CONVOLUTIONS = "conv convinteger qlinearconv convolution groupconvolution"
_TRANSPOSED = "convtranspose convolutionbackpropdata groupconvolutionbackpropdata"
_DEFORMABLE = "deformconv deformableconvolution"
_PRODUCTS = "matmul gemm matmulinteger qlinearmatmul"
_KINDS: dict[Kind, str] = {
    "convolution": _CONVOLUTIONS,
    "transposed convolution": _TRANSPOSED,
    "deformable convolution": _DEFORMABLE,
    "matrix product": _PRODUCTS,
    "normalisation": (
        "batchnormalization batchnorminference instancenormalization groupnormalization layernormalization "
        "rmsnormalization lpnormalization lrn mvn normalizel2"
    ),
    "element-wise": (
        "add sub subtract mul multiply div divide pow power sqrt exp log abs neg negative sign sin cos atan erf floor "
        "ceil ceiling round mod floormod reciprocal relu leakyrelu prelu elu celu selu sigmoid hardsigmoid hardswish "
        "hswish swish mish tanh gelu softplus softsign softmax logsoftmax clip clamp max maximum min minimum sum equal "
        "notequal greater greaterorequal greaterequal less lessorequal lessequal and or xor not logicaland logicalor "
        "logicalxor logicalnot where select isnan isinf cumsum quantizelinear dequantizelinear fakequantize "
        "dynamicquantizelinear"
    ),
    "reduction": (
        "reducemax reducemin reducesum reduceprod reducel1 reducel2 reducesumsquare reducelogicaland reducelogicalor "
        "argmax argmin"
    ),
    "pooling": (
        "maxpool averagepool avgpool globalaveragepool globalmaxpool adaptiveavgpool adaptivemaxpool reducemean"
    ),
    "resize": "resize upsample interpolate gridsample",
    "data movement": (
        "concat split variadicsplit slice stridedslice gather gatherelements gathernd scatterelements scatternd "
        "scatterelementsupdate scatterndupdate pad transpose expand broadcast tile range constantofshape depthtospace "
        "spacetodepth shufflechannels onehot trilu cast convert convertlike"
    ),
    "regions": "roialign maxroipool roipooling psroipooling",
    "selection": "nonmaxsuppression topk nonzero unique multiclassnms matrixnms",
}
KIND_OF: Mapping[str, Kind] = {name: kind for kind, names in _KINDS.items() for name in names.split()}
SHAPE = frozenset({"shape", "shapeof", "size"})  # what they give depends on no value
NOTHING = SHAPE | {"constant", "identity", "reshape", "flatten", "squeeze", "unsqueeze", "result"}


@dataclass(frozen=True)
class Node:
    """One call of an operator of a graph.

    type: as the format calls it. inputs, outputs: shapes. constants: of each input None where it depends on the values
    of an image, else the name of the weight that it comes from, "" without one. attributes: by the format's names; read
    are the strides and the groups of a convolution, and whether a matrix is transposed.
    """

    type: str
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    constants: tuple[str | None, ...]
    attributes: Mapping[str, Any]

    @property
    def module(self) -> str:
        """Of its first weight, by the weight's name."""
        return next((name for name in self.constants if name), "").rpartition(".")[0]


def image_shape(path: Path, name: str, sides: Sequence[int | None], size: int) -> Shape:
    """The shape of an input for one image. sides: as the graph has them, None for one that may be any."""
    if len(sides) not in (3, 4) or (len(sides) == 3 and sides[2] != 3):  # sizes of images, proposals ...
        return tuple(side or 1 for side in sides)
    wanted = (1, size, size, 3)[-len(sides) :] if sides[-1] == 3 else (1, sides[1] or 3, size, size)
    if any(side not in (None, one) for one, side in zip(wanted, sides)):
        shown = " x ".join("any" if side is None else str(side) for side in sides)
        raise UsageError(
            f"{path}: input {name} is {shown}, and one image of {size} x {size} is {' x '.join(map(str, wanted))}. "
            "Give the size that the file was exported for."
        )
    return wanted


def operators_of(nodes: Iterable[Node]) -> list[Operator]:
    """What the nodes compute, those left out that compute nothing for an image."""
    return [_operator(node) for node in nodes if not (node.type.lower() in NOTHING or None not in node.constants)]


def _operator(node: Node) -> Operator:
    kind: Kind = KIND_OF.get(node.type.lower(), "unknown")
    given = [shape for shape, constant in zip(node.inputs, node.constants) if constant is None]
    weights = [shape for shape, constant in zip(node.inputs, node.constants) if constant is not None]
    multiply_adds = 0
    form: dict[str, Any] = {}
    if kind.endswith("convolution"):
        kind, multiply_adds, form = _convolution(kind, node)
    elif kind == "matrix product":
        multiply_adds = math.prod(node.outputs[0]) * _inner_side(node)
    if multiply_adds:  # the paper counts no biases; scales and zero points of whole numbers are none either
        weights = [shape for shape in weights if len(shape) > 1]
    return Operator(
        node.type,
        kind,
        node.module,
        tuple(given),
        node.outputs,
        multiply_adds,
        sum(map(math.prod, given)),
        sum(map(math.prod, node.outputs)),
        sum(map(math.prod, weights)),
        **form,
    )


def _convolution(kind: Kind, node: Node) -> tuple[Kind, int, dict[str, Any]]:
    """A weight is `[out, in / groups, *kernel]`, of a transposed one `[in, out / groups, *kernel]`; OpenVINO puts the
    groups before. Every value of the output (or of the input, if transposed) meets one row of it."""
    tensors = [shape for shape in node.inputs if len(shape) > 2]
    image, weight = tensors[0], tensors[2 if node.type == "DeformableConvolution" else 1]
    groups = int(node.attributes.get("group", 1))
    if node.type.startswith("Group"):
        groups, weight = weight[0], weight[1:]
    values = image if kind == "transposed convolution" else node.outputs[0]
    if kind == "convolution" and groups > 1:
        kind = "depthwise convolution" if groups == image[1] else "grouped convolution"
    stride = tuple(int(step) for step in node.attributes.get("strides", (1,) * (len(weight) - 2)))
    return kind, math.prod(values) * math.prod(weight[1:]), {"kernel": weight[2:], "stride": stride, "groups": groups}


def _inner_side(node: Node) -> int:
    """How many products each value of a matrix product is the sum of."""
    turned = any(node.attributes.get(name) for name in ("transA", "transpose_a"))
    return node.inputs[0][-2 if turned else -1]
