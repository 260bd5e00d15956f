"""Graphs of a few nodes, written in milliseconds: a detector that finds the same two boxes in every image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aweigh.header import FORMAT, METADATA_KEY
from aweigh.runtime.graph import Graph

BOXES = np.float32([[4, 8, 24, 28], [40, 0, 60, 20]])
SCORES = np.float32([0.9, 0.75])
LABELS = np.int64([0, 2])
OUTPUTS: dict[str, np.ndarray] = {"boxes": BOXES, "scores": SCORES, "labels": LABELS, "count": np.int64(2)}
CLASSES = {"names": ["left hand", "right hand", "ball"], "ids": [1, 2, 3]}


def header(graph: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """What the metadata of the graph say of it. graph: what it says beside the defaults of `Graph`."""
    return {
        "format": FORMAT,
        "builder": "toy",
        "arguments": {},
        "classes": CLASSES,
        "resize": {"short": None, "long": None, "antialias": True},
        "selection": {"score_threshold": 0.05, "nms": "class", "nms_threshold": 0.6, "max_detections": 100},
        "graph": {**Graph().to_dict(), **(graph or {})},
        **changes,
    }


def toy_graph(
    path: Path,
    *,
    outputs: Mapping[str, np.ndarray] = OUTPUTS,
    said: Mapping[str, Any] | str | None = None,
    inputs: Sequence[str] = ("images", "sizes_hw"),
    rank: int = 4,
) -> Path:
    """Write it. outputs: of one image, the same for each. said: the header, or any text. rank: of the images."""
    opset = [helper.make_opsetid("", 18)]
    shape = ["batch", 3, "height", "width", "more"][:rank]
    given = [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)]
    if "sizes_hw" in inputs:
        given.append(helper.make_tensor_value_info("sizes_hw", TensorProto.INT64, ["batch", 2]))
    if "proposals" in inputs:
        given.append(helper.make_tensor_value_info("proposals", TensorProto.FLOAT, ["batch", "proposals", 4]))
    constants, nodes, results = [numpy_helper.from_array(np.int64([0]), "first")], [], []
    nodes.append(helper.make_node("Shape", ["images"], ["count_of_images"], start=0, end=1))
    for name, value in outputs.items():
        value = np.asarray(value)
        constants.append(numpy_helper.from_array(value[None], f"{name}_of_one"))
        ones = numpy_helper.from_array(np.ones(value.ndim, np.int64), f"{name}_ones")
        constants.append(ones)
        nodes.append(helper.make_node("Concat", ["count_of_images", f"{name}_ones"], [f"{name}_shape"], axis=0))
        nodes.append(helper.make_node("Expand", [f"{name}_of_one", f"{name}_shape"], [name]))
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        results.append(helper.make_tensor_value_info(name, kind, ["batch", *value.shape]))
    model = helper.make_model(
        helper.make_graph(nodes, "toy", given, results, constants), opset_imports=opset, ir_version=9
    )
    text = said if isinstance(said, str) else json.dumps(said or header())
    helper.set_model_props(model, {METADATA_KEY: text})
    onnx.save(model, path)
    return path
