"""Several processes that train as one, as `torchrun` starts them; every question is answered also where there is one.

`torchrun --nproc-per-node 2 -m aweigh train ...` sets RANK, WORLD_SIZE and LOCAL_RANK; `join` connects the processes
(gloo between CPUs, NCCL between GPUs). Every collective below is called by all processes on every path: what one of
them alone knows (the time, a metric, a signal) is sent to the others before anybody decides by it.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from aweigh.errors import AweighError, UsageError

Value = TypeVar("Value")

_alone: ContextVar[bool] = ContextVar("alone", default=False)
WAIT = timedelta(minutes=30)  # for the slowest process: the longest validation or image of the report


@contextmanager
def join(device_name: str) -> Iterator[str]:
    """Join the processes that a launcher started, for the time of the block; gives the device name of this process.

    With one process nothing happens. A process that fails ends by its own exception; the others, which then wait for
    it in vain, end with one line that points to it, as `torchrun` stops them all.
    """
    world = _number("WORLD_SIZE", 1)
    if world == 1 or dist.is_initialized():
        yield device_name
        return
    local = _number("LOCAL_RANK", _number("RANK", 0))
    if device_name in ("auto", "cuda") and torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"Process {local} of this machine has no GPU of its own: there are {torch.cuda.device_count()}. Start "
                "as many processes as there are GPUs, or give --device cpu."
            )
        device_name = f"cuda:{local}"
        torch.cuda.set_device(local)
    gpu = device_name.startswith("cuda")
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=WAIT)
    try:
        yield device_name
    except RuntimeError as error:
        if not lost_connection(error):
            raise
        raise AweighError(
            f"Process {rank()} lost the connection to the others, most likely because one of them ended; its own "
            f"message says why ({str(error).splitlines()[0]})."
        ) from None
    finally:
        if sys.exc_info()[0] is None:  # after an exception the others are not there to say goodbye to
            dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """Within it this process counts as the only one: the others do something else, and would be waited for in vain."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def rank() -> int:
    """The number of this process among those of the run."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes of the run."""
    together = dist.is_available() and dist.is_initialized() and not _alone.get()
    return dist.get_world_size() if together else 1


def is_main() -> bool:
    """Whether this process writes files and speaks to the user."""
    return rank() == 0


def from_main(value: Value) -> Value:
    """The value that process 0 has; the others' is not looked at. It travels pickled between our own processes."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def gather(value: Value) -> list[Value]:
    """The values of all processes, in their order; for all of them."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def reduced(values: Sequence[float], *, largest: bool = False) -> list[float]:
    """The mean (or the largest) over all processes of each number."""
    if world_size() == 1:
        return list(values)
    numbers = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(numbers, op=dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
    return (numbers if largest else numbers / world_size()).tolist()


def mean(value: Tensor) -> Tensor:
    """The mean over all processes of a tensor, without gradient."""
    if world_size() == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / world_size()


def same_buffers(buffers: Iterable[Tensor]) -> None:
    """Give every process the buffers of process 0: running statistics differ between processes while training."""
    if world_size() == 1:
        return
    for buffer in buffers:
        dist.broadcast(buffer, src=0)


def batches_of(module: nn.Module, device: torch.device) -> nn.Module:
    """`module`, with its gradients averaged over all processes after each backward pass."""
    if world_size() == 1:
        return module
    ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True)


def random_states() -> dict[str, Tensor]:
    """The states of torch's random generators of all processes, by name; equal names restore them."""
    own: dict[str, Tensor] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        own["cuda"] = torch.cuda.get_rng_state()
    return {f"{process}.{name}": state for process, states in enumerate(gather(own)) for name, state in states.items()}


def set_random_states(states: dict[str, Tensor]) -> None:
    """Take over this process's part of `random_states`; a process that was not there before keeps its own."""
    mine = {name.partition(".")[2]: state for name, state in states.items() if name.startswith(f"{rank()}.")}
    if "cpu" in mine:
        torch.set_rng_state(mine["cpu"])
    if "cuda" in mine and torch.cuda.is_available():
        torch.cuda.set_rng_state(mine["cuda"])


def lost_connection(error: Exception) -> bool:
    """Whether the exception only says that another process is gone."""
    words = ("Connection closed by peer", "Connection reset by peer", "Connection refused", "Broken pipe")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default
