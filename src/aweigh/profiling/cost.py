"""Parameters, multiply-adds and memory access cost of any module at any input size, layer by layer.

The three numbers of "ShuffleNet V2" (Ma et al., 2018). Multiply-adds, which the paper calls FLOPs (section 1), are
those of convolutions and linear layers; what is done element by element, normalisation and pooling included, is left
out. Memory access cost is the number of values these layers read and write for one image: input, output and weights
(section 2, G1 and G2: `hw (c1 + c2) + c1 c2 / g` for a 1x1 convolution). Parameters are all there are.

The module runs once, on the meta device: shapes go through it and no numbers, so it takes no time and no memory. What
calls a function instead of a layer (`F.conv2d`, matrix products of attention) is not seen.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torchvision.ops import DeformConv2d

COUNTED = (_ConvNd, DeformConv2d, nn.Linear)


@dataclass(frozen=True)
class LayerCost:
    """One layer, all its calls together (a detector's head runs on several levels).

    name: within the module. output: shape of its last output, without the batch. memory_access: values, not bytes.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    calls: int
    parameters: int
    multiply_adds: int
    memory_access: int


@dataclass(frozen=True)
class PartCost:
    """The sum over a part of the module: one of its children."""

    name: str
    parameters: int
    multiply_adds: int
    memory_access: int


@dataclass(frozen=True)
class Cost:
    """layers: in the order in which they run first. parts: the module's children that cost anything, then the rest."""

    layers: tuple[LayerCost, ...]
    parts: tuple[PartCost, ...]

    @property
    def total(self) -> PartCost:
        return PartCost(
            "total",
            sum(part.parameters for part in self.parts),
            sum(part.multiply_adds for part in self.parts),
            sum(part.memory_access for part in self.parts),
        )


def count(module: nn.Module, size_hw: tuple[int, int], *, run: Callable[[Any, Tensor], object] | None = None) -> Cost:
    """The cost of `module` for one image `[1, 3, *size_hw]`. The module is left as it is.

    run: how it is called, for one that takes more than an image: `lambda detector, x: detector.network(x)`.
    """
    module = copy.deepcopy(module).to("meta").eval()
    names = {layer: name for name, layer in module.named_modules() if isinstance(layer, COUNTED)}
    found: dict[nn.Module, LayerCost] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        before = found.get(layer) or LayerCost(
            names[layer], type(layer).__name__, (), 0, sum(each.numel() for each in layer.parameters()), 0, 0
        )
        found[layer] = replace(
            before,
            output=tuple(output.shape[1:]),
            calls=before.calls + 1,
            multiply_adds=before.multiply_adds + _multiply_adds(layer, inputs[0], output),
            memory_access=before.memory_access + inputs[0].numel() + output.numel() + _weight(layer).numel(),
        )

    for layer in names:
        layer.register_forward_hook(note)
    with torch.no_grad():
        (run or nn.Module.__call__)(module, torch.empty(1, 3, *size_hw, device="meta"))
    layers = tuple(found.values())
    parameters = {name: value.numel() for name, value in module.named_parameters()}
    parts = []
    for child in dict.fromkeys(name.split(".")[0] for name in [*parameters, *(layer.name for layer in layers)]):
        own = [layer for layer in layers if layer.name.split(".")[0] == child]
        parts.append(
            PartCost(
                child,
                sum(number for name, number in parameters.items() if name.split(".")[0] == child),
                sum(layer.multiply_adds for layer in own),
                sum(layer.memory_access for layer in own),
            )
        )
    return Cost(layers, tuple(parts))


def _multiply_adds(layer: nn.Module, input: Tensor, output: Tensor) -> int:
    """Every value of the output (of a transposed convolution: of the input) meets one row of the weight."""
    rows = input if isinstance(layer, _ConvTransposeNd) else output
    return rows.numel() * _weight(layer)[0].numel()


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight
