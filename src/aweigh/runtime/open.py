"""A graph in a file to the engine that computes it, by the runtime that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from aweigh.arguments import check_value
from aweigh.errors import UsageError
from aweigh.runtime.graph import GraphEngine, graph_header

Runtime = Literal["onnxruntime", "openvino"]
SUFFIXES: dict[str, Runtime] = {".onnx": "onnxruntime", ".xml": "openvino"}  # of files, and what computes them


def open_graph(
    path: Path, runtime: Runtime | None = None, device: str | None = None, threads: int = 0
) -> tuple[GraphEngine, dict[str, Any]]:
    """The engine of a graph, and its header.

    runtime: what computes it; when not given onnxruntime for `.onnx`, OpenVINO for `.xml`. device: by the name that the
    runtime has for it; the CPU when not given. threads: of the CPU, 0 for as many as this process may use.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    name = check_value("runtime", runtime or SUFFIXES[path.suffix], Runtime)
    if name == "openvino":
        from aweigh.runtime.openvino import opened
    else:
        from aweigh.runtime.onnx import opened
    found = opened(path, device, threads)
    header, graph = graph_header(found.header, path)
    return GraphEngine(header, graph, found.compute, f"{found.computed_by}, {graph.precision}"), header
