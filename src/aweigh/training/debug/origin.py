"""Which line of code first makes a number that is not finite: in forward and loss, and in the backward pass."""

import linecache
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import aweigh
from aweigh.training.debug.outputs import all_finite

UNWRITTEN = ("empty", "resize", "new_empty")  # operations whose memory holds anything


def first_bad_operation(compute: Callable[[], object]) -> str:
    """The first operation of `compute` that makes NaN or infinity out of finite numbers: "exp at models/x.py:7 (...)".

    What is computed without gradients (the assignment of targets) is named only when there is nothing else: infinity
    has its uses there. Empty when there is no such operation. An exception of `compute` ends the search.
    """
    watch = _Operations()
    try:
        with watch:
            compute()
    except Exception:  # what is looked for lies before it
        pass
    return watch.found or watch.found_without_gradient


def first_bad_gradient(losses: Callable[[], Mapping[str, Tensor]]) -> str:
    """The operation whose backward pass first makes NaN or infinity out of finite gradients: "Sqrt at x.py:7 (...)".

    losses: computes them; they are added up. Empty when there is none.
    """
    found: list[str] = []
    before = torch.is_anomaly_enabled()
    torch.autograd.set_detect_anomaly(True, check_nan=False)  # keeps the lines of code of every operation
    try:
        total = torch.stack(list(losses().values())).sum()
    finally:
        torch.autograd.set_detect_anomaly(before)

    def watch(node: Any) -> None:
        def after(made: Any, given: Any) -> None:
            if not found and all_finite(given) and not all_finite(made):
                lines = "".join(node.metadata.get("traceback_", [])).splitlines()
                found.append(f"{node.name().partition('Backward')[0]} at {_place(_frames(lines))}")

        node.register_hook(after)

    for node in _graph(total.grad_fn):
        watch(node)
    total.backward()
    return found[0] if found else ""


class _Operations(TorchDispatchMode):
    """Sees every operation on tensors while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.found = self.found_without_gradient = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        clean = not self.found and not name.startswith(UNWRITTEN) and _finite_arguments((args, kwargs))
        result = func(*args, **kwargs)
        if clean and not all_finite(result):
            place = f"{name} at {_place(traceback.extract_stack())}"
            if torch.is_grad_enabled():
                self.found = place
            else:
                self.found_without_gradient = self.found_without_gradient or place
        return result


def _finite_arguments(value: Any) -> bool:
    """Whether tensors and plain numbers are finite: an infinity that is given was meant."""
    if isinstance(value, dict):
        return all(map(_finite_arguments, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite_arguments, value))
    return math.isfinite(value) if isinstance(value, float) else all_finite(value)


def _graph(root: Any) -> set[Any]:
    """Every node of the backward graph."""
    seen, waiting = {root}, [root]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                waiting.append(node)
    return seen


def _frames(lines: Sequence[str]) -> list[traceback.FrameSummary]:
    """The frames of a printed traceback."""
    frames = []
    for line in lines:
        parts = line.strip().split('"')
        if len(parts) == 3 and parts[0] == "File " and parts[2].startswith(", line "):
            number = int(parts[2].removeprefix(", line ").split(",")[0])
            frames.append(traceback.FrameSummary(parts[1], number, "", line=linecache.getline(parts[1], number)))
    return frames


def _place(frames: Sequence[traceback.FrameSummary]) -> str:
    """The innermost line of the library or, without one, of another file; not torch's, nor of what calls a detector."""
    package, foreign = Path(aweigh.__file__).parent, Path(torch.__file__).parent
    callers = (foreign, *(package / name for name in ("training", "prediction", "cli")))
    others = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(path) for path in callers)]
    own = [frame for frame in others if Path(frame.filename).is_relative_to(package)]
    if not others:
        return "a place that is not known"
    frame = (own or others)[-1]
    path = Path(frame.filename)
    shown = path.relative_to(package).as_posix() if own else path.name
    return f"{shown}:{frame.lineno} ({(frame.line or '').strip()})"
