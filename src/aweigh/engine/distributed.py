"""What the loop asks about the other processes of a run, answered also where there is only one."""

import os

import torch.distributed as dist

from aweigh.errors import UsageError


def rank() -> int:
    """The number of this process among those of the run."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes of the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def require_one_process() -> None:
    """`UsageError` when a launcher started several processes, which would each train alone and overwrite files."""
    count = int(os.environ.get("WORLD_SIZE", "1") or "1")
    if max(count, world_size()) > 1:
        raise UsageError(f"Training runs in one process, but {max(count, world_size())} were started; start one.")
