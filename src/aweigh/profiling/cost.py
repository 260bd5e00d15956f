"""Parameters, multiply-adds and memory access of any module at any input size, by layer, part, stage and operator.

The three numbers of "ShuffleNet V2" (Ma et al., 2018). Multiply-adds, which the paper calls FLOPs (section 1), are
those of convolutions and matrix products, layers and functions alike; what is done element by element, normalisation
and pooling included, has none. Memory access cost is the number of values these read and write for one image: input,
output and weights (section 2, G1 and G2: `hw (c1 + c2) + c1 c2 / g` for a 1x1 convolution). Activations are the values
they write. Parameters are all there are. What the other operators read and write is in the sums by operator.

The module runs once, on the meta device: shapes go through it and no numbers, so it takes no time and no memory.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from aweigh.profiling.operators import WITH_ARITHMETIC, Kind, Operator, record

NOWHERE = "(itself)"  # the part of what the module computes outside its children


@dataclass(frozen=True)
class PartCost:
    """The sum over a part of the module. name: within it. memory_access, activations: values, not bytes."""

    name: str
    parameters: int
    multiply_adds: int
    memory_access: int
    activations: int

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: multiply-adds for each value of the memory access."""
        return self.multiply_adds / self.memory_access if self.memory_access else 0.0


@dataclass(frozen=True)
class LayerCost(PartCost):
    """A module that computes convolutions or matrix products itself, all its calls together (a head runs on several
    levels). kind: its class. output: shape of its last output, without the batch."""

    kind: str
    output: tuple[int, ...]
    calls: int


@dataclass(frozen=True)
class KindCost:
    """The sum over all operators of a kind. read, written, weights: values, as `Operator` has them. names: of the
    operators, as torch calls them."""

    kind: Kind
    names: tuple[str, ...]
    calls: int
    multiply_adds: int
    read: int
    written: int
    weights: int

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: multiply-adds for each value read or written."""
        return self.multiply_adds / max(self.read + self.written + self.weights, 1)


@dataclass(frozen=True)
class Cost:
    """operators: all calls in order. parameters: numbers, by their names in the module. classes: of the modules, by
    their names."""

    operators: tuple[Operator, ...]
    parameters: dict[str, int]
    classes: dict[str, str]

    @property
    def total(self) -> PartCost:
        return _sum("total", self._counted, sum(self.parameters.values()))

    @property
    def parts(self) -> tuple[PartCost, ...]:
        """The module's children that cost anything."""
        return self._grouped(lambda name: name.split(".")[0])

    @property
    def stages(self) -> tuple[PartCost, ...]:
        """The parts of the parts: of a detector the stages of its backbone, its neck's and its head's children. A
        part that wraps one module is seen as that module."""
        return self._grouped(self.stage_of)

    def stage_of(self, module: str) -> str:
        """The stage that a module, by its dotted name, belongs to."""
        steps, depth = module.split("."), 1
        while depth < len(steps) and len(self._children.get(".".join(steps[:depth]), ())) == 1:
            depth += 1
        return ".".join(steps[: depth + 1])

    @property
    def layers(self) -> tuple[LayerCost, ...]:
        """In the order in which they run first."""
        found: dict[str, list[Operator]] = {}
        for operator in self._counted:
            found.setdefault(operator.module, []).append(operator)
        return tuple(
            LayerCost(
                *_numbers(name or NOWHERE, calls, sum(self._parameters_of(name))),
                kind=self.classes[name],
                output=calls[-1].outputs[0][1:],
                calls=len(calls),
            )
            for name, calls in found.items()
        )

    @property
    def kinds(self) -> tuple[KindCost, ...]:
        """All that is computed, by what it is; those with the most multiply-adds first, then those that move most."""
        found: dict[Kind, list[Operator]] = {}
        for operator in self.operators:
            found.setdefault(operator.kind, []).append(operator)
        kinds = [
            KindCost(
                kind,
                tuple(dict.fromkeys(call.name for call in calls)),
                len(calls),
                sum(call.multiply_adds for call in calls),
                sum(call.read for call in calls),
                sum(call.written for call in calls),
                sum(call.weights for call in calls),
            )
            for kind, calls in found.items()
        ]
        return tuple(sorted(kinds, key=lambda each: (-each.multiply_adds, -each.read - each.written)))

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the operators that are none of the kinds; what they move is counted, what they compute is not."""
        return tuple(dict.fromkeys(each.name for each in self.operators if each.kind == "unknown"))

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        parts: dict[str, Sequence[PartCost | KindCost]] = {
            "parts": self.parts, "stages": self.stages, "operators": self.kinds, "layers": self.layers,
        }  # fmt: skip
        rows = {name: [asdict(row) for row in rows] for name, rows in parts.items()}
        return {"total": asdict(self.total), **rows, "unknown": list(self.unknown)}

    def _parameters_of(self, module: str) -> list[int]:
        return [number for name, number in self.parameters.items() if name.rpartition(".")[0] == module]

    @cached_property
    def _children(self) -> dict[str, set[str]]:
        """Of each module those children that hold parameters or count, by their names."""
        found: dict[str, set[str]] = {}
        names = {name.rpartition(".")[0] for name in self.parameters} | {each.module for each in self._counted}
        for steps in (name.split(".") for name in names):
            for depth in range(1, len(steps)):
                found.setdefault(".".join(steps[:depth]), set()).add(steps[depth])
        return found

    @property
    def _counted(self) -> list[Operator]:
        return [each for each in self.operators if each.kind in WITH_ARITHMETIC]

    def _grouped(self, group: Callable[[str], str]) -> tuple[PartCost, ...]:
        """group: from the dotted name of a module to that of its group."""
        operators: dict[str, list[Operator]] = {}
        parameters: dict[str, int] = {}
        for name, number in self.parameters.items():
            key = group(name.rpartition(".")[0])
            parameters[key] = parameters.get(key, 0) + number
        for operator in self._counted:
            operators.setdefault(group(operator.module), []).append(operator)
        keys = dict.fromkeys([*parameters, *operators])
        return tuple(_sum(key or NOWHERE, operators.get(key, ()), parameters.get(key, 0)) for key in keys)


def count(module: nn.Module, size_hw: tuple[int, int], *, run: Callable[[Any, Tensor], object] | None = None) -> Cost:
    """The cost of `module` for one image `[1, 3, *size_hw]`. The module is left as it is.

    run: how it is called, for one that takes more than an image: `lambda detector, x: detector.network(x)`.
    """
    module = copy.deepcopy(module).to("meta").eval()
    image = torch.empty(1, 3, *size_hw, device="meta")
    return count_run(module, record(module, lambda: (run or nn.Module.__call__)(module, image)))


def count_run(module: nn.Module, operators: Iterable[Operator]) -> Cost:
    """The cost of a run of `module` that was recorded."""
    return Cost(
        tuple(operators),
        {name: value.numel() for name, value in module.named_parameters()},
        {name: type(each).__name__ for name, each in module.named_modules()},
    )


def _sum(name: str, calls: Sequence[Operator], parameters: int) -> PartCost:
    return PartCost(*_numbers(name, calls, parameters))


def _numbers(name: str, calls: Sequence[Operator], parameters: int) -> tuple[str, int, int, int, int]:
    """The fields of a `PartCost`."""
    multiply_adds, access = sum(call.multiply_adds for call in calls), sum(call.memory_access for call in calls)
    return name, parameters, multiply_adds, access, sum(call.written for call in calls)
