"""How many threads pay on a machine that others use too."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """The cores that this process may use: of those of the machine the ones it is not kept from."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
