"""Graphs computed by OpenVINO: its own (`.xml` beside `.bin`), and ONNX files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from aweigh.errors import DataError, UsageError, counted, did_you_mean, said_if_missing
from aweigh.runtime.graph import Graph, Opened, failure, first_line
from aweigh.runtime.ports import Port
from aweigh.runtime.threads import usable_cores


@cache
def the_core() -> Any:
    """One for the process: its CPU plugin replaces the stack that signals are handled on, and puts the one before back
    when its core ends. Where several end in another order, that one is gone itself, and the next signal is fatal."""
    import openvino

    return openvino.Core()


def opened(path: Path, graph: Graph, device: str | None = None, threads: int = 0) -> Opened:
    """The graph of a file. `UsageError` for a device that OpenVINO has not, or one without the file's bf16, and where
    OpenVINO is not installed."""
    with said_if_missing(f"Computing {path} with OpenVINO"):
        import openvino
    core = the_core()
    name, there = (device or "cpu").upper(), core.available_devices
    if name not in there:
        known = ", ".join(each.lower() for each in there)
        raise UsageError(
            f"Device {device!r} cannot be used by OpenVINO here, which has {known}.{did_you_mean(name, there)}"
        )
    wanted = "bf16" if graph.precision == "bf16" else "f32"  # it is bf16 by itself at times
    count = threads or usable_cores()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": wanted}
    if name == "CPU":
        settings["INFERENCE_NUM_THREADS"] = str(count)
    try:
        compiled = core.compile_model(core.read_model(path), name, settings)
    except RuntimeError as error:
        raise DataError(f"{path}: OpenVINO cannot read this graph ({first_line(error)}).") from error
    if wanted == "bf16" and compiled.get_property("INFERENCE_PRECISION_HINT") != openvino.Type.bf16:
        raise UsageError(
            f"{path} is to be computed in bf16, which OpenVINO has not on this {name}. Export it with --precision "
            "float32."
        )
    inputs, outputs = _ports(compiled.inputs), _ports(compiled.outputs)

    in_turn = Lock()  # a compiled model holds the inputs and outputs of one call

    def compute(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        try:
            with in_turn:
                results = compiled(dict(given))
                return {each: results[each] for each in outputs}
        except RuntimeError as error:
            raise failure(error, f"{path}: OpenVINO") from error

    threads_said = f", {counted(count, 'thread')}" if name == "CPU" else ""
    words = f"OpenVINO {openvino.__version__.split('-')[0]} on {name.lower()}{threads_said}"
    return Opened(compute, words, inputs, outputs)


def _ports(described: Any) -> dict[str, Port]:
    """Inputs or outputs by name, of what a compiled model says of them."""
    ports = {}
    for number, each in enumerate(described):
        rank = each.get_partial_shape().rank
        name = each.get_any_name() if each.get_names() else f"number {number}"
        kind = str(np.dtype(each.get_element_type().to_dtype()))
        ports[name] = Port(kind, rank.get_length() if rank.is_static else None)
    return ports
