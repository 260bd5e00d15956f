"""`aweigh resume`: go on with a run that was stopped, killed or finished."""

from pathlib import Path
from typing import Literal

from aweigh.cli.flags import Processes
from aweigh.cli.processes import run_in_processes


def command(
    run: Path,
    /,
    *,
    epochs: int | None = None,
    iterations: int | None = None,
    schedule: Literal["keep", "stretch"] = "keep",
    patience: int | None = None,
    batch: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    data: str | None = None,
    processes: Processes = 1,
) -> int:
    """Go on with a run, from the last state it saved.

    Everything is taken from the run folder. On a CPU the run ends with the very weights of one that never stopped.

    Args:
        run: The run folder, as `aweigh train` made it.
        epochs: Train so many epochs in all, instead of those the run was started with.
        iterations: Train so many optimiser steps in all.
        schedule: What the learning rate does in a run of another length. keep: it follows the old schedule, and stays
            where that ends. stretch: the schedule is laid over the new length, so that the rate is higher again at
            once.
        patience: Epochs without a better validation after which the run stops.
        batch: Images per step of one process, where the number of processes is another one than before.
        workers: Processes that read images.
        device: auto, cpu, cuda, cuda:1 or mps.
        data: Where the data set lies now, when it has moved.
    """
    if processes != 1:
        return run_in_processes(processes)
    from aweigh.training.config import resolve
    from aweigh.training.train import train

    given = {
        "resume": str(run),
        "epochs": epochs,
        "iterations": iterations,
        "patience": patience,
        "batch": batch,
        "workers": workers,
        "device": device,
        "data": data,
    }
    train(*resolve(None, given), extend=schedule)
    return 0
