"""Which parts of a network break the four guidelines of ShuffleNet V2 (section 2), and what each costs on this machine.

A part that breaks one is run beside a form of equal multiply-adds that obeys, at the shapes it has in the network, in
turn. What is taken for a break, and for the form that obeys:

G1: a 1x1 convolution whose channels differ by a factor of two or more; one whose input and output have their geometric
mean.
G2: a grouped convolution, not a depthwise one, which the paper takes for granted; one without groups, narrower by the
root of their number.
G3: three or more convolutions that read the same map and whose outputs are joined or added; one convolution of the
largest kernel among them, with as many outputs as equal multiply-adds allow. (Fragments in series cannot be told from
depth.)
G4: element-wise work on the map of a convolution beyond its first activation: normalisations, sums of shortcuts and of
necks, factors, further activations; the convolution and its activation alone.

Batch normalisations are folded into their convolutions first, as they are for prediction. The forms compute something
else: they say what a guideline is worth here, and a network that takes them has to be trained.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from aweigh.errors import counted
from aweigh.layers import fold_batch_norm
from aweigh.profiling.operators import WITH_ARITHMETIC, Operator, record
from aweigh.profiling.sweep import in_turn
from aweigh.speed import Noise

Guideline = Literal["G1", "G2", "G3", "G4"]
UNEQUAL, FRAGMENTS = 2.0, 3  # ours: a factor between channels, and convolutions of one map, from which on it is told
REPEATS = 9
KEPT_BYTES = 31 * 2**20  # just below the 32 MiB above which glibc gives memory back at once (mallopt(3))
Call = Callable[[], object]


@dataclass(frozen=True)
class Break:
    """A part that breaks a guideline, before it is measured. what: the part. form: what obeys. key: equal for parts of
    equal shapes, which are measured once. run, obeys: what computes each. parts: the modules that are told as one."""

    guideline: Guideline
    module: str
    what: str
    form: str
    key: tuple[Any, ...]
    run: Call
    obeys: Call
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Advice:
    """Parts of equal shapes that break a guideline. modules: their names. seconds, obeying: of one of them and of its
    form. cost: seconds that all of them together would save. of_whole: the same as a share of the network's time."""

    guideline: Guideline
    modules: tuple[str, ...]
    what: str
    form: str
    seconds: float
    obeying: float
    cost: float
    of_whole: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True)
class Advised:
    """advice: what costs most comes first. whole: seconds of the network."""

    advice: tuple[Advice, ...]
    whole: float
    noise: Noise

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"whole_ms": self.whole * 1000, "advice": [each.to_dict() for each in self.advice]}


def advise(
    module: nn.Module,
    inputs: Tensor,
    *,
    run: Callable[..., object] = nn.Module.__call__,
    repeats: int = REPEATS,
    progress: Callable[[int], object] = lambda done: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Advised:
    """Find and measure what breaks a guideline, on a CPU. The module is left as it is.

    inputs: what it is called with. run: how, for one that is not simply called: `run(module, inputs)`. progress: called
    with the number of rounds done. clock: seconds; `time.thread_time` where one thread does the work, which other
    programs do not disturb.
    """
    folded = fold_batch_norm(module, lambda copied: run(copied, inputs))

    def call() -> object:
        return run(folded, inputs)

    found: dict[tuple[Any, ...], list[Break]] = {}
    for each in breaks(folded, call):
        found.setdefault(each.key, []).append(each)
    calls: dict[Any, Call] = {"whole": call}
    for key, parts in found.items():
        calls[key, "run"], calls[key, "obeys"] = parts[0].run, parts[0].obeys
    _keep_memory()
    with torch.no_grad():
        runs, noise = in_turn(calls, repeats, progress, clock)
    whole = float(np.median(runs["whole"]))
    advice = []
    for key, parts in found.items():
        seconds, obeying = (float(np.median(runs[key, form])) for form in ("run", "obeys"))
        saved = float(np.median(runs[key, "run"] - runs[key, "obeys"])) * len(parts)
        names = tuple(part.module for part in parts)
        first = parts[0]
        advice.append(Advice(first.guideline, names, first.what, first.form, seconds, obeying, saved, saved / whole))
    return Advised(tuple(sorted(advice, key=lambda each: -each.cost)), whole, noise)


def _keep_memory() -> None:
    """Make the allocator keep what is freed. A part that runs alone would give its output back to the system after each
    call and have its pages mapped again, up to four times its own time, where the whole network does not. glibc learns
    from a large block that is freed; other allocators lose nothing."""
    torch.empty(KEPT_BYTES, dtype=torch.uint8)


def breaks(module: nn.Module, call: Call) -> list[Break]:
    """What breaks a guideline, in the order in which it runs."""
    replays: list[Call] = []
    operators = record(module, call, replays=replays)
    fragments = list(_fragments(operators, replays))
    told = {name for each in fragments for name in each.parts}
    alone = [each for each in _pointwise(operators, replays) if each.module not in told]
    return [*alone, *fragments, *_element_wise(operators, replays)]


def _pointwise(operators: Sequence[Operator], replays: Sequence[Call]) -> Iterable[Break]:
    """G1 and G2, convolution by convolution."""
    for operator, replay in zip(operators, replays, strict=True):
        if operator.kind not in ("convolution", "grouped convolution") or len(operator.kernel) != 2:
            continue
        read, given = operator.inputs[0][1], operator.outputs[0][1]
        side, groups = operator.kernel, operator.groups
        where = f"at {_size(operator.inputs[0])}"
        if operator.kind == "grouped convolution":
            narrow = [max(1, round(width / groups**0.5)) for width in (read, given)]
            yield Break(
                "G2", operator.module,
                f"{_sides(side)} convolution of {_widths(read, given)} in {counted(groups, 'group')} {where}",
                f"{_widths(*narrow)} in one group",
                ("G2", operator.inputs[0], operator.outputs[0], side, operator.stride, groups),
                replay, _like(operator, narrow[0], narrow[1], side),
            )  # fmt: skip
        elif side == (1, 1) and max(read, given) >= UNEQUAL * min(read, given) and min(read, given) > 3:
            mean = round((read * given) ** 0.5)
            yield Break(
                "G1", operator.module,
                f"1x1 convolution of {_widths(read, given)} {where}",
                _widths(mean, mean),
                ("G1", operator.inputs[0], operator.outputs[0], operator.stride),
                replay, _like(operator, mean, mean, side),
            )  # fmt: skip


def _fragments(operators: Sequence[Operator], replays: Sequence[Call]) -> Iterable[Break]:
    """G3: convolutions that read the same map, and what joins them."""
    readers: dict[tuple[Any, ...], list[int]] = {}
    for number, operator in enumerate(operators):
        if operator.kind == "convolution" and len(operator.kernel) == 2 and operator.sources:
            key = (operator.sources[0], operator.inputs[0], operator.stride)
            readers.setdefault(key, []).append(number)
    for numbers in readers.values():
        joined = _joined(operators, numbers)
        if len(numbers) < FRAGMENTS or joined is None:
            continue
        parts = [operators[number] for number in numbers]
        side = max(part.kernel for part in parts)
        read, height, width = parts[0].inputs[0][1], *parts[0].outputs[0][2:]
        batch = parts[0].inputs[0][0]
        total = sum(part.multiply_adds for part in parts)
        given = max(1, round(total / (batch * height * width * read * side[0] * side[1])))
        kernels = ", ".join(_sides(part.kernel) for part in parts)
        yield Break(
            "G3", _common(part.module for part in parts),
            f"{len(parts)} convolutions ({kernels}) of one map of {_channels(parts[0].inputs[0])}",
            f"one {_sides(side)} convolution of {_widths(read, given)}",
            ("G3", parts[0].inputs[0], tuple((part.kernel, part.outputs) for part in parts)),
            _all([*(replays[number] for number in numbers), replays[joined]]),
            _like(parts[0], read, given, side),
            tuple(part.module for part in parts),
        )  # fmt: skip


def _element_wise(operators: Sequence[Operator], replays: Sequence[Call]) -> Iterable[Break]:
    """G4: what is done value by value with a map of a convolution, but for its activation."""
    for before, behind in _chains(operators).items():
        activation = next((number for number in behind if _activates(operators[number])), None)
        extra = [number for number in behind if number != activation]
        if extra:
            kept = [before] if activation is None else [before, activation]
            names = ", ".join(_short(operators[number]) for number in extra)
            shape = operators[before].outputs[0]
            yield Break(
                "G4", operators[extra[0]].module or operators[before].module,
                f"element-wise work beyond one activation ({names}) on {_channels(shape)}", "without it",
                ("G4", operators[before].inputs[0], shape, names),
                _all([replays[number] for number in (before, *behind)]),
                _all([replays[number] for number in kept]),
            )  # fmt: skip


def _chains(operators: Sequence[Operator]) -> dict[int, list[int]]:
    """What is done value by value with what each convolution, matrix product or joining of fragments makes, as long as
    the shape stays. What reads two of them, such as the sum of a shortcut, belongs to the later."""
    made_of: dict[int, int] = {}
    chains: dict[int, list[int]] = {}
    for number, operator in enumerate(operators):
        if operator.kind in WITH_ARITHMETIC or operator.name == "aten::cat":
            made_of[number] = number
        elif operator.kind in _BY_VALUE:
            roots = [made_of[source] for source in operator.sources if source in made_of]
            if roots and operators[max(roots)].outputs[0] == operator.outputs[0]:
                made_of[number] = max(roots)
                chains.setdefault(max(roots), []).append(number)
    return chains


def _activates(operator: Operator) -> bool:
    return operator.kind == "element-wise" and _short(operator) not in ("add", "sub", "mul", "div")


def _short(operator: Operator) -> str:
    return operator.name.removeprefix("aten::").rstrip("_")


_BY_VALUE = frozenset({"element-wise", "normalisation"})


def _like(operator: Operator, read: int, given: int, side: tuple[int, ...]) -> Call:
    """A convolution without groups where `operator` is, of other widths."""
    batch, _, *sides = operator.inputs[0]
    (down, across), (below, right) = side, operator.stride
    padding = (down // 2, across // 2)
    layer = nn.Conv2d(read, given, (down, across), stride=(below, right), padding=padding).requires_grad_(False)
    image = torch.rand(batch, read, *sides)
    return lambda: layer(image)


def _joined(operators: Sequence[Operator], numbers: Sequence[int]) -> int | None:
    """The operator that reads what all of these made, perhaps after element-wise work: a concatenation or a sum."""
    made: dict[int, set[int]] = {number: {number} for number in numbers}
    for number in range(numbers[0] + 1, len(operators)):
        operator = operators[number]
        origins: set[int] = set().union(*(made.get(source, set()) for source in operator.sources))
        if len(origins) == len(numbers):
            return number
        if origins and (operator.kind in _BY_VALUE or operator.name == "aten::cat"):
            made[number] = made.get(number, set()) | origins
    return None


def _all(calls: Sequence[Call]) -> Call:
    def run() -> None:
        for call in calls:
            call()

    return run


def _common(names: Iterable[str]) -> str:
    """What the names begin with, step by step."""
    steps = [name.split(".") for name in names]
    shared = []
    for level in zip(*steps, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape[2:]))


def _widths(read: int, given: int) -> str:
    return f"{read} to {counted(given, 'channel')}"


def _channels(shape: tuple[int, ...]) -> str:
    """A map of images; anything else by its sides, without the batch."""
    if len(shape) == 4:
        return f"{counted(shape[1], 'channel')} at {_size(shape)}"
    return f"values of {' x '.join(map(str, shape[1:]))}"


def _sides(kernel: tuple[int, ...]) -> str:
    return "x".join(map(str, kernel))
