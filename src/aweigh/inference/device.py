"""Where to compute, in which number format and memory order."""

import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aweigh.errors import UsageError, check_reach, counted
from aweigh.models.detector import Detector, network_inputs
from aweigh.runtime.threads import usable_cores
from aweigh.structures import Images

CPU = torch.device("cpu")
WORDS = {torch.float32: "float32", torch.bfloat16: "bf16", torch.float16: "float16"}


@dataclass(frozen=True)
class How:
    """What a network is computed with: the device, its number format, the memory order of the images.

    threads: of the CPU; 0 for those that torch has.
    """

    device: torch.device = CPU
    precision: torch.dtype = torch.float32
    channels_last: bool = True
    threads: int = 0

    def __str__(self) -> str:
        """As `cpu, bf16, 2 threads`."""
        words = [str(self.device), WORDS[self.precision]]
        return ", ".join([*words, counted(self.threads, "thread")] if self.threads else words)

    @contextmanager
    def with_threads(self, after: int = 0) -> Iterator[None]:
        """Within the block, torch computes with these threads of the CPU; afterwards with `after`, or those it had.

        torch keeps a number for each thread of Python, and the last that was set anywhere for those that begin later.
        """
        before = torch.get_num_threads()
        if self.threads in (0, before):
            yield
            return
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(after or before)

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
    """The format of the network's forward pass: `"float32"`, `"bf16"`, `"float16"`; `"auto"` is bf16 on a GPU that has
    it, else float32. `UsageError` for one that the device would compute slower than float32, or not at all."""
    there = has_bf16(device)
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and there else torch.float32
    if name == "float16" and device.type != "cuda":
        raise UsageError(f"precision = 'float16' needs a CUDA device, not {device.type}; use float32 or bf16.")
    if name == "bf16" and not there:
        instead = "float32 or float16" if device.type == "cuda" else "float32, which is faster here"
        raise UsageError(f"precision = 'bf16': this {device.type} device does not have it; use {instead}.")
    return {word: precision for precision, word in WORDS.items()}[name]


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies numbers of bf16 itself: a GPU from compute capability 8.0 on, an x86 processor with
    AVX512-BF16 or AMX, an ARM one with BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):  # where oneDNN says yes to those that emulate it too
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose_threads(count: int) -> int:
    """So many threads; for 0 those that torch has, but no more than this process has cores, where nobody said how many
    (`OMP_NUM_THREADS`)."""
    check_reach("threads", count or 1)
    here = torch.get_num_threads()
    return count or (here if os.environ.get("OMP_NUM_THREADS") else min(here, usable_cores()))


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
