"""Graphs computed by OpenVINO: its own (`.xml` beside `.bin`), and ONNX files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.errors import DataError, UsageError, counted, did_you_mean, said_if_missing
from aweigh.header import METADATA_KEY
from aweigh.runtime.graph import Opened, graph_header
from aweigh.runtime.onnx_file import metadata
from aweigh.runtime.threads import usable_cores


def opened(path: Path, device: str | None = None, threads: int = 0) -> Opened:
    """The graph of a file. `UsageError` for a device that OpenVINO has not, or one without the file's bf16, and where
    OpenVINO is not installed."""
    with said_if_missing(f"Computing {path} with OpenVINO"):
        import openvino
    core = openvino.Core()
    name, there = (device or "cpu").upper(), core.available_devices
    if name not in there:
        known = ", ".join(each.lower() for each in there)
        raise UsageError(
            f"Device {device!r} cannot be used by OpenVINO here, which has {known}.{did_you_mean(name, there)}"
        )
    try:
        model = core.read_model(path)
        header = _header(model, path)
        wanted = "bf16" if graph_header(header, path)[1].precision == "bf16" else "f32"  # it is bf16 by itself at times
        count = threads or usable_cores()
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": wanted}
        if name == "CPU":
            settings["INFERENCE_NUM_THREADS"] = str(count)
        compiled = core.compile_model(model, name, settings)
    except RuntimeError as error:
        raise DataError(f"{path}: OpenVINO cannot read this graph ({str(error).strip().splitlines()[-1]}).") from error
    if wanted == "bf16" and compiled.get_property("INFERENCE_PRECISION_HINT") != openvino.Type.bf16:
        raise UsageError(
            f"{path} is to be computed in bf16, which OpenVINO has not on this {name}. Export it with --precision "
            "float32."
        )
    names = [output.get_any_name() for output in compiled.outputs]

    def compute(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        results = compiled(dict(inputs))
        return {each: results[each] for each in names}

    threads_said = f", {counted(count, 'thread')}" if name == "CPU" else ""
    return Opened(header, compute, f"OpenVINO {openvino.__version__.split('-')[0]} on {name.lower()}{threads_said}")


def _header(model: Any, path: Path) -> str | None:
    """The text in the metadata of an ONNX file, or in those of OpenVINO's own."""
    if path.suffix == ".onnx":
        return metadata(path).get(METADATA_KEY)
    info = model.get_rt_info()
    return info[METADATA_KEY].astype(str) if METADATA_KEY in info else None
