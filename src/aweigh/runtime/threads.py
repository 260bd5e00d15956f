"""How many threads pay on a machine that others use too."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")  # where Linux says what a container may use


def usable_cores() -> int:
    """The cores that this process may use: of those of the machine the ones it is not kept from, and no more than the
    processor time that its container is given."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, min(cores, math.ceil(_quota(CGROUPS) or cores)))


def _quota(folder: Path) -> float | None:
    """The processor time a second that a container is given, in seconds; None where there is no limit."""
    try:
        if (folder / "cpu.max").is_file():  # version 2: "200000 100000", or "max 100000"
            time, period = (folder / "cpu.max").read_text().split()
        else:
            time, period = ((folder / "cpu" / f"cpu.cfs_{part}_us").read_text() for part in ("quota", "period"))
        limit = math.inf if time == "max" else int(time) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such system, or a file that says something else
        return None
    return limit if 0 < limit < math.inf else None  # version 1 says -1 for none
