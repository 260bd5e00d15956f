"""A cluster of Ray: joined or, on this machine, started; quiet, and let go at the end."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from aweigh.errors import AweighError, UsageError, said_if_missing

# Of a cluster that is started here: nothing is told to anybody, and what Ray has to say goes to its own files.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}


@contextmanager
def joined_cluster(address: str = "") -> Iterator[None]:
    """Within it, this process is a driver of the cluster.

    address: `HOST:PORT` or `auto` (that which this machine is part of); when empty that of the variable RAY_ADDRESS,
    else one that is started on this machine for as long as it is needed. One that the program has joined already is
    used, and not let go. `AweighError` where there is no cluster there.
    """
    if address.startswith("ray://"):
        raise UsageError(
            f"--cluster {address}: Ray's clients cannot do this. Start the command on a machine of the cluster with "
            "--cluster auto, as by `ray job submit -- aweigh predict ...`."
        )
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with said_if_missing("A cluster"):
        import ray
        import ray.data
    own = not ray.is_initialized()
    if own:
        where = address or os.environ.get("RAY_ADDRESS", "")
        dashboard = None if where else False  # of a cluster that is joined others decided
        try:
            ray.init(where or "local", logging_level=logging.ERROR, log_to_driver=False, include_dashboard=dashboard)
        except (ConnectionError, RuntimeError, ValueError) as error:
            why = " ".join(str(error).split())
            raise AweighError(f"--cluster {where or 'local'}: there is no cluster to be joined ({why}).") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        if own:
            ray.shutdown()


def workers_fitting(cpus: int, gpus: int) -> int:
    """How many processes that take so much of the cluster it has room for, one at least."""
    import ray

    there = ray.cluster_resources()
    room = int(there.get("CPU", 0)) // cpus
    return max(1, min(room, int(there.get("GPU", 0)) // gpus) if gpus else room)
