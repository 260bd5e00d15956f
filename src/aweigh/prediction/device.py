"""Where to compute, and in which number format."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from aweigh.errors import UsageError


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
