"""An image as a detector sees it: what goes into its network, what comes out, and the way back to the image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from aweigh.errors import UsageError
from aweigh.geometry.frames import Frame
from aweigh.heads.answers import Answers
from aweigh.images.reader import ImageSource, read_image
from aweigh.images.resize import Resize
from aweigh.models.detector import Detector, network_inputs
from aweigh.structures import Images, Targets, padded_proposals


@dataclass(frozen=True, eq=False)
class Look:
    """pixels: of the image, uint8 `(H, W, 3)`. seen: `[1, 3, h, w]`, what goes into the network, of which gradients are
    known. size_hw: of the image in its padding. raw: what comes out. frame: from pixels of the network to the image.
    path: of the image, "" where it has none."""

    model: Detector
    pixels: np.ndarray
    seen: Tensor
    size_hw: tuple[int, int]
    raw: Any
    frame: Frame
    path: str

    @classmethod
    def at(
        cls,
        image: ImageSource,
        model: Detector,
        resize: Resize,
        *,
        proposals: np.ndarray | None = None,
        exif: Literal["apply", "ignore"] = "apply",
        gradients: bool = True,
    ) -> Look:
        """proposals: `[P, 4]` xyxy in pixels of the image, for a detector that needs them. gradients: whether what the
        score rests on will be asked for."""
        pixels = read_image(image, exif=exif)
        resized = torch.from_numpy(resize(pixels))
        colour = tuple(model.pixel_mean.flatten().tolist())
        size_hw, full_hw = (resized.shape[1], resized.shape[2]), (pixels.shape[0], pixels.shape[1])
        batch = Images.stack([resized], divisor=model.stride_divisor, fill=colour)
        if model.needs_proposals != (proposals is not None):
            needs = "needs proposals, one array [P, 4]" if model.needs_proposals else "proposes regions itself"
            raise UsageError(f"{model.builder} {needs}.")
        if proposals is not None:
            boxes = torch.from_numpy(Frame.resize(full_hw, size_hw).boxes(proposals.astype(np.float32)))
            batch = Images(batch.pixels, batch.sizes_hw, padded_proposals([boxes]))
        batch = batch.to(model.pixel_mean.device)
        if gradients:
            batch.pixels.requires_grad_()
        with torch.set_grad_enabled(gradients):
            raw = model.network(*network_inputs(model, batch))
        path = str(image) if isinstance(image, str | Path) else ""
        return cls(model, pixels, batch.pixels, size_hw, raw, Frame.resize(size_hw, full_hw), path)

    def answers(self, wanted: Targets | None = None) -> Answers:
        """See `Detector`; wanted: in pixels of the network."""
        with torch.set_grad_enabled(self.seen.requires_grad):
            return self.model.answers(self.raw, torch.tensor([self.size_hw], device=self.seen.device), wanted)

    @property
    def title(self) -> str:
        return f"{self.path or 'the image'}, {self.pixels.shape[1]} x {self.pixels.shape[0]} px"
