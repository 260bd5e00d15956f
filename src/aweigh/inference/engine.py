"""The engine that computes with torch, see `aweigh.runtime.engine`."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from aweigh.arguments import NMS, Precision, settings_of
from aweigh.backbones.timm import pack_residual_blocks
from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.inference.device import ON_CPU, How, choose_device, choose_precision, choose_threads
from aweigh.layers import fold_batch_norm, pack_convolutions
from aweigh.models.detector import Detector, Selection, network_inputs
from aweigh.runtime.engine import Batch, Engine
from aweigh.structures import Images

MOST_CALLS = 4  # ours: at a time; each holds the feature maps of a batch


class TorchEngine:
    """A detector of `aweigh.models`, as it is; `prepared` makes one that is faster.

    model: in evaluation mode while it is run. how: device, number format, memory order and threads.
    """

    def __init__(self, model: Detector, how: How = ON_CPU) -> None:
        self.model, self.how = model, how
        self.threads_before = torch.get_num_threads()  # of the thread that makes the engine, which may differ
        self.name: str = model.builder
        self.classes: Classes = model.classes
        self.extras: tuple[str, ...] = model.extras
        self.keypoint_set: KeypointSet | None = model.keypoint_set
        self.needs_proposals: bool = model.needs_proposals
        self.averages_flips: bool = model.average_flipped is not None
        self.stride_divisor: int = model.stride_divisor
        self.pixel_mean: tuple[float, ...] = tuple(model.pixel_mean.flatten().tolist())
        self.computed_by = f"torch {torch.__version__} on {how}"
        self.usual_batch = 1 if how.device.type == "cpu" else 8  # on a CPU one without padding is as fast as several

    @property
    def selection(self) -> Selection:
        return self.model.selection

    @property
    def settings(self) -> dict[str, Any]:
        return settings_of(self.model)

    @classmethod
    def prepared(
        cls,
        model: Detector,
        device: torch.device | str | None = None,
        *,
        precision: Precision = "float32",
        threads: int = 0,
    ) -> TorchEngine:
        """Of a copy of the detector that predicts the same and faster, but cannot be trained any more.

        device: a GPU that CUDA can use when there is one, else the CPU. precision: see `choose_precision`. threads: of
        the CPU, 0 for as many as this process has cores.
        """
        if not isinstance(model, nn.Module):
            raise UsageError(f"A predictor needs a detector, got {type(model).__name__}; aweigh.load(file) reads one.")
        chosen = choose_device(device)
        how = How(chosen, choose_precision(precision, chosen), threads=choose_threads(threads))
        return cls(prepare(model, how), how)

    def with_nms(self, nms: NMS) -> TorchEngine:
        model = copy(self.model)  # of the same weights
        model.selection = replace(model.selection, nms=nms)
        return TorchEngine(model, self.how)

    def side_by_side(self) -> tuple[TorchEngine, int]:
        """On a CPU: the threads of one small network spend much of their time waiting for each other."""
        threads = self.how.threads or torch.get_num_threads()
        calls = min(threads, MOST_CALLS) if self.how.device.type == "cpu" else 1
        return TorchEngine(self.model, replace(self.how, threads=max(1, threads // calls))), calls

    @torch.inference_mode()
    def run(self, batch: Batch, *, flipped_classes: np.ndarray | None = None) -> list[Detections]:
        proposals = None if batch.proposals is None else torch.from_numpy(batch.proposals)
        images = Images(torch.from_numpy(batch.pixels), batch.sizes_hw, proposals)
        with self.how.with_threads(after=self.threads_before):
            return self.model.decode(self.outputs(images, flipped_classes), images.sizes_hw)

    def outputs(self, images: Images, flipped_classes: np.ndarray | None = None) -> Any:
        """Raw outputs of the network; averaged with those of the mirror images where `flipped_classes` are given."""
        raw = self.how.outputs(self.model, images)
        if flipped_classes is None or self.model.average_flipped is None:
            return raw
        # The padding is mirrored too, so that cells meet.
        flipped = self.how.outputs(self.model, Images(images.pixels.flip(-1), images.sizes_hw, images.proposals))
        return self.model.average_flipped(raw, flipped, torch.from_numpy(flipped_classes).to(self.how.device))


def torch_engine(engine: Engine) -> TorchEngine:
    """The engine, where more than detections is asked of it than what every engine has."""
    if not isinstance(engine, TorchEngine):
        raise UsageError(f"{engine.name} is not computed by torch; name a checkpoint.")
    return engine


def prepare(model: Detector, how: How) -> Detector:
    """A copy of the detector on its device that predicts the same and faster; it cannot be trained any more.

    Of another format than float32 the layers of its network hold their weights in that; what decodes stays as it is.
    """
    prepared = folded(model)
    for layer in _layers_of_network(prepared) if how.precision != torch.float32 else ():
        layer.to(how.precision)
    prepared.to(how.device).to(memory_format=torch.channels_last)
    packed = pack_convolutions(pack_residual_blocks(prepared))  # on a CPU; elsewhere they find nothing to pack
    return cast(Detector, packed)


def folded(model: Detector) -> nn.Module:
    """A copy of the detector in evaluation mode, its batch normalisations merged into the convolutions before them."""

    def run(copied: Any) -> None:
        example = _example(copied)
        copied.decode(copied.network(*network_inputs(copied, example)), example.sizes_hw)  # where a second stage is

    return fold_batch_norm(cast(nn.Module, model), run).eval().requires_grad_(False)


def _example(model: Any) -> Images:
    """The smallest image that a detector takes, with a proposal."""
    side, zeros = model.stride_divisor, model.pixel_mean.new_zeros
    return Images(zeros(1, 3, side, side), [(side, side)], zeros(1, 1, 4))


@torch.no_grad()
def _layers_of_network(model: Any) -> list[nn.Module]:
    """The convolutions and linear layers that are computed before anything is decoded."""
    found: dict[nn.Module, None] = {}
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_pre_hook(lambda layer, _: found.update({layer: None})) for layer in layers]
    model.network(*network_inputs(model, _example(model)))
    for hook in hooks:
        hook.remove()
    return list(found)
