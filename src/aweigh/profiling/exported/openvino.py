"""The nodes of a graph of OpenVINO's own, whose shapes follow from those of its inputs; nothing is computed."""

import math
from pathlib import Path
from typing import Any

from aweigh.errors import DataError, said_if_missing
from aweigh.profiling.exported.nodes import SHAPE, Node, Shape, image_shape
from aweigh.runtime.graph import first_line
from aweigh.runtime.openvino import the_core


def read(path: Path, size: int) -> tuple[list[Node], dict[str, int]]:
    """The nodes for one square image, and how many numbers each weight has, by its name."""
    with said_if_missing(f"Counting {path}"):
        core = the_core()
    try:
        model = core.read_model(path)
        model.reshape({number: list(_input_shape(path, each, size)) for number, each in enumerate(model.inputs)})
    except RuntimeError as error:
        raise DataError(f"{path}: this graph cannot be counted ({first_line(error)}).") from error
    weights, nodes = {}, []
    constant: dict[str, str] = {}  # operations that depend on no image, with the names of the weights they come from
    for each in model.get_ordered_ops():
        name, type_ = each.get_name(), each.get_type_name()
        if type_ == "Constant":
            constant[name] = each.get_friendly_name()
            if _is_weight(each.get_element_type()):
                weights[each.get_friendly_name()] = math.prod(each.get_output_shape(0))
        if type_ in ("Constant", "Parameter"):
            continue
        constants = tuple(constant.get(source.get_node().get_name()) for source in each.input_values())
        if type_.lower() in SHAPE or None not in constants:
            constant[name] = next(filter(None, constants), "")
        inputs, outputs = (tuple(map(_sides, ports)) for ports in (each.inputs(), each.outputs()))
        nodes.append(Node(type_, inputs, outputs, constants, each.get_attributes()))
    return nodes, weights


def _input_shape(path: Path, port: Any, size: int) -> Shape:
    sides = [side.get_length() if side.is_static else None for side in port.get_partial_shape()]
    return image_shape(path, port.get_any_name() if port.get_names() else "of the graph", sides, size)


def _sides(port: Any) -> Shape:
    """A side that the values of an image decide, as how many boxes stay, is as large as it can be, or 0 where nothing
    limits it."""
    return tuple(max(0, side.get_max_length()) for side in port.get_partial_shape())


def _is_weight(kind: Any) -> bool:
    """Whether numbers are of a float, or have eight bits or fewer."""
    return bool(kind.is_real() or 1 < kind.bitwidth <= 8)
