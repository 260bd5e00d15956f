"""What an exported file costs: a graph of ONNX or of OpenVINO, written by `aweigh export` or by another program.

It is counted as it lies in the file: normalisation that is folded into convolutions is gone, and so are multiply-adds
that Winograd's algorithm saves; decoding and suppression are in it where they were exported. Parts and layers are known
by the names of the weights, which exporters keep from modules.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aweigh.errors import UsageError
from aweigh.profiling.cost import Cost
from aweigh.profiling.exported import onnx, openvino
from aweigh.profiling.exported.nodes import operators_of
from aweigh.profiling.operators import WITH_ARITHMETIC


def cost_of_file(path: Path, size: int) -> Cost:
    """The cost for one square image. parameters: all numbers of the file that are floats or have eight bits.

    `UsageError` where there is no file, or its graph takes another size; `DataError` where it is no graph.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    nodes, weights = (openvino if path.suffix == ".xml" else onnx).read(path, size)
    skipped = _shared([name.split(".")[:-1] for name in weights if "." in name])
    operators = [replace(each, module=_without(skipped, each.module)) for each in operators_of(nodes)]
    return Cost(
        tuple(operators),
        {_without(skipped, name): number for name, number in weights.items()},
        {each.module: each.name for each in operators if each.kind in WITH_ARITHMETIC},
    )


def _shared(modules: Sequence[Sequence[str]]) -> int:
    """How many names the paths of all these modules begin with."""
    different = (depth for depth, names in enumerate(zip(*modules)) if len(set(names)) > 1)
    return next(different, min(map(len, modules), default=0))


def _without(skipped: int, name: str) -> str:
    return ".".join(name.split(".")[skipped:]) if "." in name else name
