"""A cluster of Ray: joined or, on this machine, started; a pool of its processes that do numbered tasks; let go."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from aweigh.errors import AweighError, DataError, GateError, UsageError, said_if_missing

MOST_BLOCKS = 4096  # ours: of so many pieces Ray Data keeps count; a piece is done again where its process dies
FOR_EVER = -1  # what Ray calls it
ERRORS = {error.exit_code: error for error in (AweighError, UsageError, DataError, GateError)}

Task = Callable[[int], Any]


@dataclass(frozen=True)
class Workers:
    """The processes of a job. count: how many, 0 for as many as the cluster has room for. cpus: of each, which are the
    threads it computes with. gpus: of each."""

    count: int = 0
    cpus: int = 1
    gpus: int = 0


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


def done_on_cluster(
    begin: Callable[[], Task], tasks: Sequence[int], workers: Workers, *, deaths: int = FOR_EVER
) -> Iterator[tuple[int, Any]]:
    """What became of each task, with its number, in the order in which they are done.

    begin: is called once in each process, in the folder of this one where that is there, and returns what does a task.
    An `AweighError` of either is raised here, and ends all. deaths: how many of a process are borne; `AweighError`
    after more.
    """
    import ray
    import ray.data

    count = min(workers.count or _fitting(workers), len(tasks))
    blocks = min(len(tasks), MOST_BLOCKS)
    results = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=blocks).map_batches(
        _Process,
        batch_size=1,
        fn_constructor_args=(begin, os.getcwd()),
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=count, initial_size=count, max_tasks_in_flight_per_actor=1
        ),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
        max_restarts=deaths,
        max_task_retries=deaths,
    )
    try:
        for row in results.iter_rows():
            if row["failure"]:
                raise ERRORS[row["exit_code"]](row["failure"])
            yield row["task"], pickle.loads(row["result"])
    except ray.exceptions.ActorDiedError as error:
        raise AweighError("A process of the cluster dies each time; is there too little memory for it?") from error


def _fitting(workers: Workers) -> int:
    """How many of these processes the cluster has room for, one at least."""
    import ray

    there: Mapping[str, float] = ray.cluster_resources()
    room = int(there.get("CPU", 0)) // workers.cpus
    return max(1, min(room, int(there.get("GPU", 0)) // workers.gpus) if workers.gpus else room)


class _Process:
    """A process of the pool, which Ray calls with a row for each task."""

    def __init__(self, begin: Callable[[], Task], folder: str) -> None:
        with suppress(OSError):  # names in stores and whole paths do without it, and others say that they are not there
            os.chdir(folder)
        self._failure: AweighError | None = None
        try:
            self._do = begin()
        except AweighError as error:
            self._failure = error

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, list[Any]]:
        (task,) = rows["task"].tolist()
        result, error = None, self._failure
        if error is None:
            try:
                result = self._do(task)
            except AweighError as raised:
                error = raised
        told = {"failure": str(error or ""), "exit_code": 0 if error is None else error.exit_code}
        return {name: [value] for name, value in ({"task": task, "result": pickle.dumps(result)} | told).items()}
