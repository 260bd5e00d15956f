"""Graphs computed by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.errors import DataError, UsageError, counted, did_you_mean
from aweigh.runtime.graph import Graph, Opened, failure, first_line
from aweigh.runtime.ports import Port
from aweigh.runtime.threads import usable_cores

PROVIDERS = {  # devices, and what onnxruntime calls what computes on them
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}
KINDS = {"float": "float32", "double": "float64"}  # of numbers; the others are called as NumPy calls them


def opened(path: Path, graph: Graph, device: str | None = None, threads: int = 0) -> Opened:
    """The graph of an ONNX file. `UsageError` for a device that this onnxruntime has not."""
    import onnxruntime

    if path.suffix != ".onnx":
        raise UsageError(f"{path}: onnxruntime computes .onnx; a graph of OpenVINO's own needs --runtime openvino.")
    name = (device or "cpu").lower()
    there = [each for each, provider in PROVIDERS.items() if provider in onnxruntime.get_available_providers()]
    if name not in there:
        raise UsageError(
            f"Device {device!r} cannot be used by this onnxruntime {onnxruntime.__version__}, which has "
            f"{', '.join(there)}.{did_you_mean(name, there)}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # who waits leaves the core to others
    options.log_severity_level = 4  # errors come as exceptions
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[PROVIDERS[name]])
    except Exception as error:  # onnxruntime's own have no common class
        raise DataError(f"{path}: onnxruntime cannot read this graph ({first_line(error)}).") from error
    inputs, outputs = (_ports(each) for each in (session.get_inputs(), session.get_outputs()))

    def compute(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        try:
            return dict(zip(outputs, session.run([*outputs], dict(given)), strict=True))
        except Exception as error:
            raise failure(error, f"{path}: onnxruntime") from error

    words = f"onnxruntime {onnxruntime.__version__} on {name}, {counted(options.intra_op_num_threads, 'thread')}"
    return Opened(compute, words, inputs, outputs)


def _ports(described: Any) -> dict[str, Port]:
    """Inputs or outputs by name, of what a session says of them."""
    ports = {}
    for each in described:
        kind = each.type.removeprefix("tensor(").removesuffix(")")
        ports[each.name] = Port(KINDS.get(kind, kind), len(each.shape) or None)  # of an unknown shape nothing is said
    return ports
