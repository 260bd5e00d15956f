"""A network as each engine computes it: called with nothing, on one fixed array of images.

It is the network alone, without decoding and suppression, so that a backbone of timm and a detector are timed in the
same way. `aweigh bench` times whole predictions of detectors.
"""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from aweigh.errors import UsageError, said_if_missing
from aweigh.inference.device import has_bf16
from aweigh.profiling.machine import DTYPES, Format
from aweigh.profiling.networks import Network, find_network
from aweigh.runtime.engine import Batch
from aweigh.runtime.open import SUFFIXES, open_graph
from aweigh.runtime.openvino import the_core
from aweigh.runtime.threads import usable_cores

EngineName = Literal["eager", "compile", "onnx", "openvino"]
Call = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """One way to run a network. size: side of the square images. threads: 0 are as many as there are cores to use."""

    model: str
    engine: EngineName = "eager"
    format: Format = "float32"
    size: int = 416
    batch: int = 1
    threads: int = 0

    @property
    def cores(self) -> int:
        return self.threads or usable_cores()

    @property
    def needs_export(self) -> bool:
        """Whether the engine reads a file that a network is written to first."""
        return self.engine in ("onnx", "openvino") and Path(self.model).suffix not in SUFFIXES

    @property
    def shown_format(self) -> str:
        """An exported file has its own, whatever is asked for."""
        return "own" if Path(self.model).suffix in SUFFIXES else self.format


def opened(setting: Setting, network: Network | None, *, channels: int = 3, exported: Path | None = None) -> Call:
    """What runs it once.

    network: None for a file that was exported, which is run as it is, suppression included. channels: of the array it
    is called with. exported: what `export` wrote for this network, size and batch, where the engine needs it; written
    here when not given.
    """
    if network is None:
        return _graph(setting)
    images = torch.rand(setting.batch, channels, setting.size, setting.size)
    if setting.engine in ("eager", "compile"):
        return _torch(setting, network, images)
    if setting.format != "float32" and setting.engine == "onnx":
        raise UsageError("onnxruntime computes float32 here; leave bf16 to eager, compile or openvino.")
    with tempfile.TemporaryDirectory() as folder:
        file = exported or export(setting, network, Path(folder) / "network.onnx", channels=channels)
        return (_onnxruntime if setting.engine == "onnx" else _openvino)(file, images.numpy(), setting)


def export(setting: Setting, network: Network, file: Path, *, channels: int = 3) -> Path:
    """Write the network as an ONNX file of one size and batch; returns `file`."""
    images = torch.zeros(setting.batch, channels, setting.size, setting.size)
    with said_if_missing("Timing a network in onnxruntime or OpenVINO"), torch.no_grad(), _quiet():
        torch.onnx.export(_Alone(network), (images,), file, dynamo=True, external_data=False, verbose=False)
    return file


def find(model: str) -> Network | None:
    """The network of a name or a file (see `find_network`); None for an exported file."""
    return None if Path(model).suffix in SUFFIXES else find_network(model)


def engine_of(file: str) -> EngineName:
    """What runs an exported file."""
    return "openvino" if Path(file).suffix == ".xml" else "onnx"


class _Alone(nn.Module):
    """The network, called with images alone."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module, self._run = network.module, network.run
        self.eval()

    def forward(self, images: Tensor) -> Any:
        return self._run(self.module, images)


def _torch(setting: Setting, network: Network, images: Tensor) -> Call:
    dtype, alone = DTYPES[setting.format], _Alone(network)
    if dtype == torch.bfloat16 and not has_bf16(torch.device("cpu")):
        raise UsageError("This processor does not multiply numbers of bf16; use float32.")
    called = torch.compile(alone) if setting.engine == "compile" else alone

    def call() -> object:
        if torch.get_num_threads() != setting.cores:
            torch.set_num_threads(setting.cores)
        with torch.no_grad(), torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext():
            return called(images)

    return call


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks, which are for its developers."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _onnxruntime(file: Path, images: np.ndarray, setting: Setting) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = setting.cores, 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as `aweigh.runtime` has it
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: images}
    return lambda: session.run(None, given)


def _openvino(file: Path, images: np.ndarray, setting: Setting) -> Call:
    with said_if_missing("Timing a network in OpenVINO"):
        core = the_core()
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if setting.format == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": str(setting.cores),
    }
    compiled = core.compile_model(core.read_model(file), "CPU", hints)
    request = compiled.create_infer_request()
    return lambda: request.infer([images])


def _graph(setting: Setting) -> Call:
    engine, _ = open_graph(Path(setting.model), threads=setting.threads)
    if engine.needs_proposals:
        raise UsageError(f"{setting.model} needs proposals of every image; leave it out.")
    pixels = np.random.default_rng(0).random((3, setting.size, setting.size), np.float32)
    batch = Batch.stack([pixels] * setting.batch, divisor=engine.stride_divisor, fill=engine.pixel_mean)
    return lambda: engine.run(batch)
