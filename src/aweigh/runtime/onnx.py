"""Graphs computed by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from aweigh.errors import DataError, UsageError, counted, did_you_mean
from aweigh.header import METADATA_KEY
from aweigh.runtime.graph import Opened
from aweigh.runtime.onnx_file import metadata
from aweigh.runtime.threads import usable_cores

PROVIDERS = {  # devices, and what onnxruntime calls what computes on them
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}


def opened(path: Path, device: str | None = None, threads: int = 0) -> Opened:
    """The graph of an ONNX file. `UsageError` for a device that this onnxruntime has not."""
    import onnxruntime

    header = metadata(path).get(METADATA_KEY)  # before anything else of the file is looked at
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
        raise DataError(f"{path}: onnxruntime cannot read this graph ({_first_line(error)}).") from error
    names = [output.name for output in session.get_outputs()]

    def compute(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    words = f"onnxruntime {onnxruntime.__version__} on {name}, {counted(options.intra_op_num_threads, 'thread')}"
    return Opened(header, compute, words)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
