"""Main memory: how much there is, how much this process has had, and what to say when there is not enough."""

import os
import sys
from pathlib import Path

import torch

from aweigh.errors import AweighError, counted
from aweigh.feeding.batches import Batch

GIB = 2**30
STATUS = "/proc/self/status"
SHOWN = 8  # images named in a message


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was asked for and not there, on a GPU or in main memory."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def out_of_memory(error: BaseException, batch: Batch, *, accumulate: int = 1) -> AweighError:
    """What to tell the user of `error`: the images, how large and how full they are, and which setting to turn.

    accumulate: that of the run, for the advice that leaves the images of each update as they are.
    """
    count, (height, width) = len(batch), batch.images.pixels.shape[-2:]
    order = sorted(range(count), key=lambda image: -len(batch.targets[image]))
    shown = [
        f"{batch.image_ids[image]} ({batch.images.sizes_hw[image][1]} x {batch.images.sizes_hw[image][0]}, "
        f"{counted(len(batch.targets[image]), 'object')})"
        for image in order[:SHOWN]
    ]
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    smaller = (
        f"batch = {count // 2} with accumulate = {2 * accumulate} (the same images for each update), or "
        if count > 1
        else ""
    )
    first = " ".join(str(error).split(". ")[0].split()).rstrip(".")
    return AweighError(
        f"Out of memory with {counted(count, 'image')} of {width} x {height} pixels, padding "
        f"included ({first or type(error).__name__}). Images: {', '.join(shown)}{more}. Try {smaller}a smaller short "
        f"and long{'; batch = auto finds what fits' if count > 1 else ''}."
    )


def available() -> int:
    """Bytes of main memory that may still be used: of the machine, or of its container where that has less."""
    of_machine = _entry("/proc/meminfo", "MemAvailable")
    found = [] if of_machine is None else [of_machine]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        bound, current = _text(limit).strip(), _text(used).strip()
        if bound.isdecimal() and current.isdecimal():
            found.append(max(0, int(bound) - int(current)))
    if found:
        return min(found)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 4 * GIB


def high_water() -> int | None:
    """The most main memory this process has had, in bytes; None where that cannot be known."""
    known = _entry(STATUS, "VmHWM")
    if known is not None:
        return known
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def resident() -> int:
    return _entry(STATUS, "VmRSS") or high_water() or 0


def begin_high_water_anew() -> bool:
    """Let `high_water` begin anew, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _entry(file: str, name: str) -> int | None:
    """Bytes, of a line such as `VmHWM:    1024 kB`."""
    for line in _text(file).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
