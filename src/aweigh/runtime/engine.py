"""What computes a network: the contract between the predictor and an engine, and the batch of images it is given.

Reading, resizing, test-time augmentation, drawing and writing are the same whatever the engine, since none of them
knows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from aweigh.arguments import NMS
from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.geometry.boxes import Suppression
from aweigh.geometry.frames import Frame


@dataclass(frozen=True, eq=False)
class Batch:
    """Images of different sizes, each in the top left corner of one padded array.

    pixels: `[B, 3, H, W]` float32, RGB in `[0, 1]`. sizes_hw: height and width of each image inside the padding.
    proposals: `[B, P, 4]` float32 xyxy in these pixels, for a detector that needs them; rows without area are padding.
    """

    pixels: np.ndarray
    sizes_hw: list[tuple[int, int]]
    proposals: np.ndarray | None = None

    @classmethod
    def stack(cls, images: Sequence[np.ndarray], *, divisor: int, fill: Sequence[float]) -> Batch:
        """Pad images `[3, h, w]`, float32 in `[0, 1]`, at the right and bottom to a common multiple of `divisor`.

        fill: the colour of the padding. With the network's mean it is zero after normalisation.
        """
        sizes_hw = [(image.shape[1], image.shape[2]) for image in images]
        height, width = (math.ceil(max(sides) / divisor) * divisor for sides in zip(*sizes_hw, strict=True))
        pixels = np.empty((len(images), 3, height, width), np.float32)
        colour = np.array(fill, np.float32)[:, None, None]
        for slot, image, (h, w) in zip(pixels, images, sizes_hw, strict=True):
            slot[:, :h, :w] = image
            slot[:, h:] = colour
            slot[:, :h, w:] = colour
        return cls(pixels, sizes_hw)

    def with_proposals(self, boxes: Sequence[np.ndarray]) -> Batch:
        """With the proposals `[P_i, 4]` of each image, filled up with boxes without area."""
        padded = np.zeros((len(boxes), max(1, *map(len, boxes)), 4), np.float32)
        for row, own in zip(padded, boxes, strict=True):
            row[: len(own)] = own
        return replace(self, proposals=padded)

    def mirrored(self) -> Batch:
        """Each image mirrored left to right in its own corner, with its proposals; the padding stays."""
        pixels = self.pixels.copy()
        for slot, (height, width) in zip(pixels, self.sizes_hw, strict=True):
            slot[:, :height, :width] = slot[:, :height, :width][..., ::-1].copy()
        proposals = self.proposals
        if proposals is not None:
            rows = zip(proposals, self.sizes_hw, strict=True)
            proposals = np.stack([Frame.mirror(width).boxes(own) for own, (_, width) in rows])
        return replace(self, pixels=pixels, proposals=proposals)


class Thresholds(Suppression, Protocol):
    """What every `selection` of a detector says."""

    @property
    def score_threshold(self) -> float: ...


@runtime_checkable
class Engine(Protocol):
    """A detector that can be run.

    name: of the builder. stride_divisor: what the sides of a batch are multiples of. pixel_mean: `[3]`, the colour of
    padding. extras: what it says beside boxes, of "masks", "keypoints" and "cuboids". averages_flips: whether it can
    average raw outputs of an image and of its mirror image. usual_batch: how many images at a time pay. computed_by:
    the runtime, the device and the number format, in words. settings: all thresholds and counts by name, those of its
    `selection` among them.
    """

    name: str
    classes: Classes
    extras: tuple[str, ...]
    keypoint_set: KeypointSet | None
    needs_proposals: bool
    averages_flips: bool
    stride_divisor: int
    pixel_mean: tuple[float, ...]
    usual_batch: int
    computed_by: str

    @property
    def selection(self) -> Thresholds: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...

    def run(self, batch: Batch, *, flipped_classes: np.ndarray | None = None) -> list[Detections]:
        """The detections of each image, best first, in the pixels of the batch.

        flipped_classes: `[C]`, the class that each becomes in a mirror: raw outputs are averaged with those of the
        mirror images. Only of an engine that `averages_flips`.
        """

    def with_nms(self, nms: NMS) -> Engine:
        """The same with this in its `selection`; itself stays as it is."""

    def side_by_side(self) -> tuple[Engine, int]:
        """The same for calls of `run` from several threads at a time, each of which takes its share of the cores, and
        from how many that pays; itself and 1 where one call keeps everything busy."""


def check_engine(engine: object) -> None:
    """`UsageError` that names what an object with a `run` lacks to be an `Engine`; nothing for what has none."""
    parts = (*Engine.__annotations__, "selection", "settings", "run", "with_nms", "side_by_side")
    if missing := [name for name in parts if hasattr(engine, "run") and not hasattr(engine, name)]:
        raise UsageError(f"The engine {type(engine).__name__} lacks {', '.join(missing)}; see aweigh.runtime.engine.")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was asked for and not there, on a GPU or in main memory."""
    words = (
        *("can't allocate memory", "not enough memory", "out of memory"),  # torch, CUDA
        *("failed to allocate memory", "bad_alloc", "bad allocation"),  # onnxruntime, the C++ library
        *("cl_out_of_", "cl_mem_object_allocation_failure", "memory allocation failed"),  # OpenVINO on a GPU, oneDNN
    )
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )
