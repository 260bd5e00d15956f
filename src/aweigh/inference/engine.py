"""The engine that computes with torch, see `aweigh.runtime.engine`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from aweigh.arguments import NMS
from aweigh.backbones.timm import pack_residual_blocks
from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.inference.device import ON_CPU, How, choose_device
from aweigh.layers import fold_batch_norm, pack_convolutions
from aweigh.models.detector import Detector, Selection, network_inputs
from aweigh.runtime.engine import Batch, Engine
from aweigh.structures import Images

MOST_CALLS = 4  # ours: at a time; each holds the feature maps of a batch


class TorchEngine:
    """A detector of `aweigh.models`, as it is; `prepared` makes one that is faster.

    model: in evaluation mode while it is run. how: device, number format and memory order. calls: of `run` at a time,
    among which the threads of the CPU are divided.
    """

    def __init__(self, model: Detector, how: How = ON_CPU, *, calls: int = 1) -> None:
        self.model, self.how, self.calls = model, how, calls
        self.threads = torch.get_num_threads()  # of the thread that makes the engine, which may differ from others'
        self.name: str = model.builder
        self.classes: Classes = model.classes
        self.extras: tuple[str, ...] = model.extras
        self.keypoint_set: KeypointSet | None = model.keypoint_set
        self.needs_proposals: bool = model.needs_proposals
        self.averages_flips: bool = model.average_flipped is not None
        self.stride_divisor: int = model.stride_divisor
        self.pixel_mean: tuple[float, ...] = tuple(model.pixel_mean.flatten().tolist())
        self.computed_by = f"torch {torch.__version__} on {how.device}, {str(how.precision).removeprefix('torch.')}"
        self.usual_batch = 1 if how.device.type == "cpu" else 8  # on a CPU one without padding is as fast as several

    @property
    def selection(self) -> Selection:
        return self.model.selection

    @classmethod
    def prepared(cls, model: Detector, device: torch.device | str | None = None) -> TorchEngine:
        """Of a copy of the detector that predicts the same and faster, but cannot be trained any more.

        device: a GPU that CUDA can use when there is one, else the CPU.
        """
        if not isinstance(model, nn.Module):
            raise UsageError(f"A predictor needs a detector, got {type(model).__name__}; aweigh.load(file) reads one.")
        how = How(choose_device(device))
        return cls(prepare(model, how.device), how)

    def with_nms(self, nms: NMS) -> TorchEngine:
        model = copy(self.model)  # of the same weights
        model.selection = replace(model.selection, nms=nms)
        return TorchEngine(model, self.how)

    def side_by_side(self) -> tuple[TorchEngine, int]:
        """On a CPU: the threads of one small network spend much of their time waiting for each other."""
        calls = min(torch.get_num_threads(), MOST_CALLS) if self.how.device.type == "cpu" else 1
        return TorchEngine(self.model, self.how, calls=calls), calls

    @torch.inference_mode()
    def run(self, batch: Batch, *, flipped_classes: np.ndarray | None = None) -> list[Detections]:
        proposals = None if batch.proposals is None else torch.from_numpy(batch.proposals)
        images = Images(torch.from_numpy(batch.pixels), batch.sizes_hw, proposals)
        with self._share_of_threads():
            return self.model.decode(self.outputs(images, flipped_classes), images.sizes_hw)

    @contextmanager
    def _share_of_threads(self) -> Iterator[None]:
        """Within it the calling thread computes with its share. torch keeps a number for each thread, and the last one
        that was set anywhere for threads that begin later, so that it is set to what it was."""
        if self.calls > 1:
            torch.set_num_threads(max(1, self.threads // self.calls))
        try:
            yield
        finally:
            if self.calls > 1:
                torch.set_num_threads(self.threads)

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


def prepare(model: Detector, device: torch.device) -> Detector:
    """A copy of the detector on `device` that predicts the same and faster; it cannot be trained any more."""
    prepared = folded(model).to(device).to(memory_format=torch.channels_last)
    packed = pack_convolutions(pack_residual_blocks(prepared))  # on a CPU; elsewhere they find nothing to pack
    return cast(Detector, packed)


def folded(model: Detector) -> nn.Module:
    """A copy of the detector in evaluation mode, its batch normalisations merged into the convolutions before them."""
    side = model.stride_divisor
    zeros = model.pixel_mean.new_zeros
    example = Images(zeros(1, 3, side, side), [(side, side)], zeros(1, 1, 4))

    def run(copied: Any) -> None:
        copied.decode(copied.network(*network_inputs(copied, example)), [(side, side)])  # where a second stage computes

    return fold_batch_norm(cast(nn.Module, model), run).eval().requires_grad_(False)
