"""A detector as one ONNX graph: normalisation, network, decoding and suppression, by torch.export."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import tree_map

from aweigh.backbones.timm import fix_same_padding
from aweigh.graphs.operators import TRANSLATIONS
from aweigh.graphs.simplified import simplify
from aweigh.graphs.winograd import convolutions
from aweigh.inference.engine import folded
from aweigh.models.detector import Detector, network_inputs
from aweigh.runtime.graph import Precision
from aweigh.structures import Images

OPSET = 20
SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's note of the modules that a node is of
TRACED_HW = (512, 640)  # what is traced where any size will do: no side of a map may be 1 then, nor two sides equal


class Exported(nn.Module):
    """Images `[B, 3, H, W]`, RGB in `[0, 1]`, their sizes `[B, 2]` in the padding, and the proposals `[B, P, 4]` of a
    detector that needs them, to what its `select` gives: a fixed number of rows for each image."""

    def __init__(self, model: Detector, *, half: bool = False) -> None:
        super().__init__()
        self.model, self.half_network = cast(Any, model), half

    def forward(self, images: Tensor, sizes_hw: Tensor, proposals: Tensor | None = None) -> tuple[Tensor, ...]:
        inputs = [images, *([] if proposals is None else [proposals]), *([sizes_hw] if self.model.needs_sizes else [])]
        if self.half_network:
            halves = (each.half() if each.is_floating_point() else each for each in inputs)
            raw = tree_map(_in_single, self.model.network(*halves))
        else:
            raw = self.model.network(*inputs)
        found: tuple[Tensor, ...] = self.model.select(raw, sizes_hw)
        return found


def onnx_graph(
    model: Detector,
    *,
    size_hw: tuple[int, int] | None = None,
    batch: int | None = None,
    precision: Precision = "float32",
) -> torch.onnx.ONNXProgram:
    """The graph of a detector in evaluation mode. size_hw, batch: of its inputs; None: any.

    precision: float32 writes wide convolutions as `winograd` has them, float16 computes the network in it, between
    inputs, decoding and outputs in float32; the others are as plain as they come, for what makes them of it.

    Its inputs are those of `Exported` by their names, its outputs `boxes`, `scores`, `labels`, `count` and the
    detector's extras.
    """
    any_size = size_hw is None
    height, width = size_hw or TRACED_HW
    number = batch or 2
    of_batch = {} if batch else {0: Dim("batch")}
    inputs = {
        "images": torch.zeros(number, 3, height, width),
        "sizes_hw": torch.tensor([[height, width]] * number),
    }
    # That sides are multiples makes those of all maps plain to the exporter, which else takes minutes over them.
    sides = {2: model.stride_divisor * Dim("rows"), 3: model.stride_divisor * Dim("columns")}
    shapes: dict[str, dict[int, Any]] = {
        "images": {**of_batch, **(sides if any_size else {})},
        "sizes_hw": of_batch,
    }
    if model.needs_proposals:
        inputs["proposals"] = torch.tensor([0.0, 0.0, 64.0, 64.0]).expand(number, 5, 4).contiguous()
        shapes["proposals"] = {**of_batch, 1: Dim.DYNAMIC}
    network = cast(Detector, fix_same_padding(folded(model)))
    if precision == "float16":
        halve(network)
    exported = Exported(network, half=precision == "float16")
    translations: dict[Callable[..., Any], Callable[..., Any]] = {**TRANSLATIONS}
    if precision == "float32":
        translations[torch.ops.aten.conv2d.default] = convolutions()
    with _quiet():
        program = torch.onnx.export(
            exported,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=["boxes", "scores", "labels", "count", *model.extras],
            dynamic_shapes=tuple(shapes.values()),
            custom_translation_table=translations,
            optimize=False,  # see `simplify`
            verbose=False,
        )
        assert program is not None  # what the exporter gives where it writes no file itself
        simplify(program.model)
    return program


def save_graph(program: torch.onnx.ONNXProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the graph with these texts in its metadata. Of the exporter's notes the modules of each node stay, not
    which line of which file of this machine it comes from, nor what is in another order each time."""
    program.model.graph.metadata_props.clear()
    for node in program.model.graph.all_nodes():
        scopes = node.metadata_props.get(SCOPES)
        node.metadata_props.clear()
        if scopes is not None:
            node.metadata_props[SCOPES] = scopes
    program.model.metadata_props.update(metadata)
    program.save(str(path))


@torch.no_grad()
def halve(model: Detector) -> None:
    """Weights and constants of all modules that the network calls in float16; a second stage stays as it is."""
    called: list[nn.Module] = []
    hooks = [module.register_forward_pre_hook(lambda module, _: called.append(module)) for module in model.modules()]
    side = model.stride_divisor
    model.network(*network_inputs(model, Images(torch.zeros(1, 3, side, side), [(side, side)])))
    for hook in hooks:
        hook.remove()
    for module in called:
        for value in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if value.is_floating_point():
                value.data = value.data.half()


def _in_single(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks, which are for its developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
