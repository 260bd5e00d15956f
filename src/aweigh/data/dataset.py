"""A split as a PyTorch data set: reads a picture, applies the transform, hands out a `Sample`.

What is random in a sample depends on (seed, epoch, index) alone: not on the worker, the batch or what was read before.
A picture that cannot be read is handed out as `Unreadable`, for the loader to skip, count and list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from aweigh.data.check import CHANGED, SKIPPED, Problem
from aweigh.data.images import read_image
from aweigh.data.split import Split
from aweigh.data.transforms import resize_targets
from aweigh.errors import DataError
from aweigh.structures import Targets

Transform = Callable[[Tensor, Targets, Generator], tuple[Tensor, Targets]]
SAME_SHAPE = 0.01  # relative: a picture stored at another size than declared is of the same shape within this


@dataclass(frozen=True, eq=False)
class Sample:
    """image: float `[3, h, w]` in `[0, 1]`. original_hw: the size the annotations are in. problem: what was mended."""

    image: Tensor
    targets: Targets
    index: int
    image_id: int
    original_hw: tuple[int, int]
    problem: Problem | None = None


@dataclass(frozen=True)
class Unreadable:
    """A picture that could not be used."""

    index: int
    problem: Problem


class DetectionDataset(Dataset["Sample | Unreadable"]):
    """The images of a split, transformed. Can be sent to worker processes however they are started.

    An index is the row of an image, or `(epoch, row)`, as the loader sends it; with the row alone the epoch is that of
    `set_epoch`.
    """

    def __init__(self, split: Split, transform: Transform, *, seed: int = 0, masks: bool = False) -> None:
        self.split = split.for_training(masks=masks)
        self.transform = transform
        self.seed = seed
        self.masks = masks
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int | tuple[int, int]) -> Sample | Unreadable:
        epoch, row = index if isinstance(index, tuple) else (self.epoch, index)
        row = range(len(self.split))[row]
        path = self.split.paths[row]
        height, width = (int(side) for side in self.split.sizes_hw[row])
        try:
            image, targets, problem = _read(path, self.split.targets(row, masks=self.masks), (height, width))
        except DataError as error:
            return Unreadable(row, Problem("unreadable picture", str(path), None, _reason(error, path), SKIPPED))
        image, targets = self.transform(image, targets, sample_generator(self.seed, epoch, row))
        return Sample(image, targets, row, int(self.split.image_ids[row]), (height, width), problem)


def sample_generator(seed: int, epoch: int, index: int) -> Generator:
    """The random numbers of one sample in one epoch."""
    mixed = np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed) >> 1)


def _read(path: Any, targets: Targets, declared_hw: tuple[int, int]) -> tuple[Tensor, Targets, Problem | None]:
    """The picture in the frame of its annotations.

    Where the declared size is that of the picture before its EXIF rotation, the annotations were made on the unrotated
    pixels, and these are used. Where it is the same picture at another size, the boxes are scaled to it.
    """
    image = read_image(path)
    height, width = image.shape[1:]
    if (height, width) == declared_hw:
        return image, targets, None
    said = f"annotations say {declared_hw[1]} x {declared_hw[0]}, the picture is {width} x {height}"
    if (width, height) == declared_hw:
        unrotated = read_image(path, exif="ignore")
        if tuple(unrotated.shape[1:]) == declared_hw:
            detail = f"{said} once its EXIF rotation is applied; used without rotation, as it was annotated"
            return unrotated, targets, Problem("annotated before EXIF rotation", str(path), None, detail, CHANGED)
    if abs(height * declared_hw[1] / (width * declared_hw[0]) - 1) <= SAME_SHAPE:
        targets = resize_targets(targets, declared_hw, (height, width))
        return image, targets, Problem("another size than declared", str(path), None, f"{said}; boxes scaled", CHANGED)
    raise DataError(f"{path}: {said}, another shape; the boxes cannot be placed. Correct the annotations.")


def _reason(error: DataError, path: Any) -> str:
    return str(error).removeprefix(f"{path}: ")
