"""The nodes of an ONNX file as they run. onnxruntime runs the graph as it is and says the shapes."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.errors import DataError, UsageError, said_if_missing
from aweigh.profiling.exported.nodes import SHAPE, Node, Shape, image_shape
from aweigh.runtime.graph import first_line

CONTROL = frozenset({"If", "Loop", "Scan"})  # what they compute is seen node by node


def read(path: Path, size: int) -> tuple[list[Node], dict[str, int]]:
    """The nodes for one square image of random values, and how many numbers each weight has, by its name."""
    with said_if_missing(f"Counting {path}"):
        import onnx
    try:
        model, graph = onnx.load(path), _Graph()
        graph.add(model.graph, {})
        events = _run(model.SerializeToString(), path, size)
    except UsageError:
        raise
    except Exception as error:  # those of protobuf and of onnxruntime have no common class
        raise DataError(f"{path}: this graph cannot be counted ({first_line(error)}).") from error
    nodes = [graph.node(name, event) for name, event in events if not _added(name in graph.nodes, event["op_name"])]
    return nodes, graph.weights


def _added(ours: bool, type_: str) -> bool:
    """Whether it computes nothing of its own, or onnxruntime put it in: it computes few operators in float16."""
    return type_ in CONTROL or (type_ == "Cast" and not ours)


@dataclass
class _Graph:
    """What a file says of its nodes, which are given names, and of its weights. constants: of each node, as `Node` has
    them. onnxruntime replaces an operator that is a function of others by these; they are not among the nodes."""

    nodes: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, tuple[str | None, ...]] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)

    def add(self, graph: Any, constant: dict[str, str]) -> None:
        """constant: the values that depend on no image, with the names of the weights that they come from."""
        for each in graph.initializer:
            constant[each.name] = each.name
            if _is_weight(each.data_type):
                self.weights[each.name] = int(np.prod(each.dims, dtype=np.int64))
        for node in graph.node:
            node.name = f"node {len(self.nodes)}"
            given = tuple(constant.get(name) for name in node.input if name)
            self.nodes[node.name], self.constants[node.name] = node, given
            inner = [each.g for each in node.attribute if each.HasField("g")]
            for each in inner:
                self.add(each, dict(constant))
            if not inner and (node.op_type.lower() in SHAPE or None not in given):
                constant |= dict.fromkeys(node.output, next(filter(None, given), ""))

    def node(self, name: str, event: dict[str, Any]) -> Node:
        """One call of a node, as onnxruntime says it."""
        from onnx.helper import get_attribute_value

        inputs, outputs = _shapes(event["input_type_shape"]), _shapes(event["output_type_shape"])
        constants = self.constants.get(name, ())
        if len(constants) != len(inputs):
            constants = (None,) * len(inputs)
        said = self.nodes[name].attribute if name in self.nodes else ()
        attributes = {each.name: get_attribute_value(each) for each in said}
        return Node(event["op_name"], inputs, outputs, constants, attributes)


def _is_weight(data_type: int) -> bool:
    """Whether numbers are of a float, or have eight bits or fewer."""
    from onnx.helper import tensor_dtype_to_np_dtype

    kind = np.dtype(tensor_dtype_to_np_dtype(data_type))
    return kind.kind in "fV" or (kind.kind in "iu" and kind.itemsize == 1)


def _run(model: bytes, path: Path, size: int) -> list[tuple[str, dict[str, Any]]]:
    """The names of the nodes in the order in which they run, with what onnxruntime says of each."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "run")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.disable_prepacking", "1")  # weights that are packed have no shape
        options.log_severity_level = 4  # errors come as exceptions
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        session.run(None, dict(_inputs(session, path, size)))
        events = json.loads(Path(session.end_profiling()).read_text())
    ending = "_kernel_time"
    return [
        (each["name"].removesuffix(ending), each["args"])
        for each in sorted(events, key=lambda each: each["ts"])
        if each["cat"] == "Node" and each["name"].endswith(ending)
    ]


def _inputs(session: Any, path: Path, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """An image of random values; of whole numbers, which are sizes, the size."""
    for each in session.get_inputs():
        sides = [side if isinstance(side, int) else None for side in each.shape]
        shape, values = image_shape(path, each.name, sides, size), np.random.default_rng(0)
        if each.type == "tensor(uint8)":
            yield each.name, values.integers(0, 256, shape, np.uint8)
        elif each.type in ("tensor(int64)", "tensor(int32)"):
            yield each.name, np.full(shape, size, each.type[len("tensor(") : -1])
        else:
            yield each.name, values.random(shape, np.float32).astype("f2" if "16" in each.type else "f4")


def _shapes(described: list[dict[str, list[int]]]) -> tuple[Shape, ...]:
    return tuple(tuple(sides) for each in described for sides in each.values())
