"""A graph in a file to the engine that computes it, by the runtime that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from aweigh.arguments import check_value
from aweigh.errors import DataError, some_of
from aweigh.header import METADATA_KEY, read_header
from aweigh.runtime import onnx_file, openvino_file
from aweigh.runtime.graph import Graph, GraphEngine, graph_of
from aweigh.runtime.ports import Port, Ports

Runtime = Literal["onnxruntime", "openvino"]
SUFFIXES: dict[str, Runtime] = {".onnx": "onnxruntime", ".xml": "openvino"}  # of files, and what computes them
EXTRAS = {"masks": 4, "keypoints": 4, "cuboids": 3}  # dimensions of what a detector may say beside boxes


def open_graph(
    path: Path, runtime: Runtime | None = None, device: str | None = None, threads: int = 0
) -> tuple[GraphEngine, dict[str, Any]]:
    """The engine of a graph, and its header, which is read before any runtime opens the file.

    runtime: what computes it; when not given onnxruntime for `.onnx`, OpenVINO for `.xml`. device: by the name that the
    runtime has for it; the CPU when not given. threads: of the CPU, 0 for as many as this process may use. `UsageError`
    where there is no file, `DataError` for one of another program, one that is damaged, and one that is not what its
    header says.
    """
    header, graph = _header_and_graph(path)
    name = check_value("runtime", runtime or SUFFIXES[path.suffix], Runtime)
    if name == "openvino":
        from aweigh.runtime.openvino import opened
    else:
        from aweigh.runtime.onnx import opened
    found = opened(path, graph, device, threads)
    check_ports(path, graph, found.inputs, found.outputs)
    return GraphEngine(header, graph, found.compute, f"{found.computed_by}, {graph.precision}"), header


def check_ports(path: Path, graph: Graph, inputs: Ports, outputs: Ports) -> None:
    """`DataError` where these are not those of a graph that says this of itself."""
    taken = {"image": Port("uint8", 3)}
    if not graph.whole_images:
        taken = {"images": Port("float32", 4), "sizes_hw": Port("int64", 2)}
    if graph.needs_proposals:
        taken["proposals"] = Port("float32", 3)
    given = {"boxes": Port("float32", 3), "scores": Port("float32", 2), "labels": Port("int64", 2)}
    given["count"] = Port("int64", 1)
    given |= {name: Port("float32", EXTRAS[name]) for name in graph.extras or ()}
    for what, there, wanted in (("input", inputs, taken), ("output", outputs, given)):
        if there.keys() != wanted.keys():
            raise DataError(
                f"{path}: the {what}s of the graph are {some_of([*there])}, by its header {some_of([*wanted])}."
            )
        for name, port in wanted.items():
            if there[name].kind != port.kind or there[name].rank not in (None, port.rank):
                raise DataError(f"{path}: {what} {name} of the graph is {there[name]}, by its header it is {port}.")


def model_header(path: Path) -> dict[str, Any]:
    """What a checkpoint or a graph says about itself, see `read_header`; no runtime is needed."""
    return _header_and_graph(path)[0] if path.suffix in SUFFIXES else read_header(path)


def _header_and_graph(path: Path) -> tuple[dict[str, Any], Graph]:
    metadata = (openvino_file if path.suffix == ".xml" else onnx_file).metadata(path)
    if METADATA_KEY not in metadata:
        raise DataError(f"{path} is no detector that `aweigh export` wrote: its metadata say nothing of one.")
    return graph_of(metadata[METADATA_KEY], path)
