"""Where to compute, in which number format and memory order."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aweigh.errors import UsageError
from aweigh.models.detector import Detector, network_inputs
from aweigh.structures import Images

CPU = torch.device("cpu")


@dataclass(frozen=True)
class How:
    """What a network is computed with: the device, its number format, the memory order of the images."""

    device: torch.device = CPU
    precision: torch.dtype = torch.float32
    channels_last: bool = True

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def pixels(self, pixels: Tensor) -> Tensor:
        """Pixels `[B, 3, H, W]` on the device, in the memory order convolutions are fast in."""
        return pixels.to(self.device, non_blocking=True, memory_format=self.memory_format)

    def inputs(self, model: Detector, images: Images) -> tuple[Tensor, ...]:
        """What the model's network takes (see `network_inputs`), on the device."""
        pixels, *given = network_inputs(model, images)
        return self.pixels(pixels), *(part.to(self.device) for part in given)

    def outputs(self, model: Detector, images: Images) -> Any:
        """The raw outputs of the model's network."""
        with self.autocast():
            return model.network(*self.inputs(model, images))


ON_CPU = How()


def choose_device(name: torch.device | str | None = None) -> torch.device:
    """The device of that name; for `None` and `"auto"` a GPU that CUDA can use when there is one, else the CPU.

    Apple's `"mps"` is used only when it is named. `UsageError` where the device cannot be used.
    """
    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(
            f"Device {str(name)!r} cannot be used here ({first}); `aweigh doctor` lists what can."
        ) from error
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The format of the network's forward pass; `"auto"` is bf16 on a GPU that has it, else fp32."""
    has_bf16 = device.type == "cpu" or (
        device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and has_bf16 else torch.float32
    if name == "fp16" and device.type != "cuda":
        raise UsageError(f"precision = 'fp16' needs a CUDA device, not {device.type}; use fp32 or bf16.")
    if name == "bf16" and not has_bf16:
        raise UsageError(f"precision = 'bf16': this {device.type} device does not have it; use fp32 or fp16.")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Within the block, allow only algorithms that give the same bits again; what has none raises torch's error."""
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was given, so that a clock read next means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
