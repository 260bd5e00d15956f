"""A split as a PyTorch data set: reads an image, applies the transform, hands out a `Sample`.

What is random in a sample depends on (seed, epoch, index) alone, and on which time in the epoch it is drawn where a
sampler draws it more than once: not on the worker, the batch or what was read before.
An image that cannot be read is handed out as `Unreadable`, for the loader to skip, count and list.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from aweigh.annotations.images import read_as_annotated
from aweigh.annotations.problems import SKIPPED, Problem
from aweigh.annotations.split import Split
from aweigh.errors import DataError
from aweigh.feeding.mixing import Pair, Plan, mix
from aweigh.feeding.randomness import sample_generator, uniform
from aweigh.feeding.sampling import classes_shown
from aweigh.feeding.tiles import KeptImages, TileRows
from aweigh.feeding.transforms import Transform
from aweigh.images.reader import SizeRule, reduction
from aweigh.structures import Targets


@dataclass(frozen=True, eq=False)
class Sample:
    """image: `[3, h, w]`, uint8 or float32 in `[0, 1]`. original_hw: the size of what was resized, in the pixels that
    the annotations are in.

    problem: what was mended. partner_problems: of the images that were mixed in, or should have been.
    """

    image: Tensor
    targets: Targets
    index: int
    image_id: int
    original_hw: tuple[int, int]
    problem: Problem | None = None
    partner_problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be used, or a tile of one. original_hw: as of `Sample`."""

    index: int
    problem: Problem
    image_id: int
    original_hw: tuple[int, int]


@dataclass(eq=False)
class DetectionDataset(Dataset["Sample | Unreadable"]):
    """The images of a split, transformed. Can be sent to worker processes however they are started.

    An index is the row of an image, or `(epoch, row, turn)`, as the loader sends it, `turn` counting how often the row
    was drawn before in this epoch; with the row alone the epoch is that of `set_epoch`.
    masks: whether targets have masks; in a split without any they have no pixel. keypoints: how many keypoints targets
    have at least; in a split without any none of them is given. cuboids: whether targets have cuboids; in a split
    without any nothing is known of them. draws: `[I]`, how often an image is drawn in an epoch,
    see `aweigh.feeding.sampling`; the loader follows it, and so do the partners of mixing. tiles: of the split; a row
    is then one of these, and so is what is said here of an image. mixing_until_epoch: number of epochs with the mosaic,
    copy-paste and mixup of the transform's augmentation, all when None; it may be changed until the first epoch begins.
    """

    split: Split
    transform: Transform
    _: KW_ONLY
    seed: int = 0
    masks: bool = False
    keypoints: int = 0
    cuboids: bool = False
    draws: np.ndarray | None = None
    tiles: TileRows | None = None
    mixing_until_epoch: int | None = None
    epoch: int = 0

    def __post_init__(self) -> None:
        self._changes = self.transform.augmentation
        self.split = self.split.for_training(masks=self.masks or self._changes.copy_paste > 0)
        if self._changes.mixes:
            shows = classes_shown(self.split) if self.tiles is None else self.tiles.shows
            self._partners, self._partners_with_objects = _chances(shows, self.draws)
        self._images = KeptImages()

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sizes_hw)

    @property
    def sizes_hw(self) -> np.ndarray:
        """`[R, 2]`: how large each row is in the pixels of the annotations."""
        return self.split.sizes_hw if self.tiles is None else self.tiles.sizes_hw

    @property
    def counts(self) -> np.ndarray:
        """`[R]`: how many objects each row has."""
        return np.diff(self.split.first) if self.tiles is None else self.tiles.counts

    def image_of(self, row: int) -> int:
        """The row in the split of the image that a row shows."""
        return row if self.tiles is None else int(self.tiles.image_of[row])

    def objects(self, row: int) -> Targets:
        """The annotations of what a row shows, in its pixels before anything is changed."""
        targets = targets_of(self.split, self.image_of(row), masks=self.masks and self.tiles is None)
        return targets if self.tiles is None else self.tiles.cut(self.split, row, targets, masks=self.masks)

    def _size_hw(self, row: int) -> tuple[int, int]:
        return int(self.sizes_hw[row, 0]), int(self.sizes_hw[row, 1])

    def __getitem__(self, index: int | tuple[int, ...]) -> Sample | Unreadable:
        epoch, row, *turn = index if isinstance(index, tuple) else (self.epoch, index)
        row = range(len(self))[row]
        generator = sample_generator(self.seed, epoch, row, *turn)
        mixes = self._changes.mixes and (self.mixing_until_epoch is None or epoch < self.mixing_until_epoch)
        plan = Plan.draw(self._changes, generator) if mixes else Plan()
        image_id = int(self.split.image_ids[self.image_of(row)])
        original_hw = self._size_hw(row)
        try:
            (image, targets), problem = self._transformed(row, generator, masks=self.masks or plan.copy_paste)
        except _UnreadablePicture as error:
            return Unreadable(row, error.problem, image_id, original_hw)
        problems: tuple[Problem, ...] = ()
        if plan.mixes:
            image, targets, problems = self._mixed((image, targets), plan, generator)
        if not self.masks and targets.masks is not None:
            targets = replace(targets, masks=None)
        return Sample(image, targets, row, image_id, original_hw, problem, problems)

    def _mixed(self, base: Pair, plan: Plan, generator: Generator) -> tuple[Tensor, Targets, tuple[Problem, ...]]:
        """The sample by its plan; as it is where a partner cannot be read."""
        problems: list[Problem] = []

        def partner(with_objects: bool) -> Pair:
            chances = self._partners_with_objects if with_objects else self._partners
            row = min(int(np.searchsorted(chances, uniform(generator) * chances[-1], side="right")), len(chances) - 1)
            pair, problem = self._transformed(row, generator, masks=self.masks or plan.copy_paste)
            problems.extend([problem] if problem is not None else [])
            return pair

        try:
            image, targets = mix(base, plan, partner, generator, min_visible=self._changes.min_visible)
        except _UnreadablePicture as error:
            return *base, (*problems, error.problem)
        return image, targets, tuple(problems)

    def _transformed(self, row: int, generator: Generator, *, masks: bool) -> tuple[Pair, Problem | None]:
        """One image on its own, and what had to be mended; `_UnreadablePicture` where it cannot be read."""
        path = self.split.paths[self.image_of(row)]
        targets = targets_of(self.split, self.image_of(row))
        if self.keypoints and targets.keypoints is None:
            targets = replace(targets, keypoints=torch.zeros(len(targets), self.keypoints, 3))
        if self.cuboids and targets.cuboids is None:
            targets = replace(targets, cuboids=torch.full((len(targets), 7), torch.nan))
        try:
            cut = self._whole if self.tiles is None else self._tile
            image, targets, full_hw, problem = cut(row, targets, masks=masks)
        except DataError as error:
            problem = Problem("unreadable image", str(path), None, _reason(error, path), SKIPPED)
            raise _UnreadablePicture(problem) from error
        return self.transform(image, targets, generator, full_hw=full_hw), problem

    def _whole(
        self, row: int, targets: Targets, *, masks: bool
    ) -> tuple[Tensor, Targets, tuple[int, int] | None, Problem | None]:
        """An image as it was read, see `read_annotated`."""
        path, declared_hw = self.split.paths[row], self._size_hw(row)
        image, targets, full_hw, problem = read_annotated(path, targets, declared_hw, self.transform.needed_size)
        image_hw = (image.shape[1], image.shape[2])
        if masks:
            pixels = self.split.mask_pixels(row, *_grid(declared_hw, full_hw, image_hw))
            targets = self._with_masks(targets, pixels, image_hw)
        return image, targets, full_hw, problem

    def _tile(
        self, row: int, targets: Targets, *, masks: bool
    ) -> tuple[Tensor, Targets, tuple[int, int] | None, Problem | None]:
        """A tile, with what is in sight of the objects."""
        assert self.tiles is not None
        number = self.image_of(row)
        declared_hw = (int(self.split.sizes_hw[number, 0]), int(self.split.sizes_hw[number, 1]))
        pixels, full_hw, problem = self._images.read(self.split.paths[number], declared_hw)
        x0, y0, x1, y1 = self.tiles.window(row, declared_hw, full_hw)
        image = torch.from_numpy(pixels[y0:y1, x0:x1].copy()).permute(2, 0, 1)  # [3, y1 - y0, x1 - x0]
        targets, size_hw = self.tiles.cut(self.split, row, targets, masks=masks), self._size_hw(row)
        if masks and targets.masks is None:
            targets = self._with_masks(targets, None, size_hw)
        return image, targets.resized(size_hw, (image.shape[1], image.shape[2])), None, problem

    def _with_masks(self, targets: Targets, pixels: np.ndarray | None, size_hw: tuple[int, int]) -> Targets:
        """With these masks; where the data have none, without a pixel where targets have to have some."""
        if pixels is not None:
            return replace(targets, masks=torch.from_numpy(pixels))
        return replace(targets, masks=torch.zeros(len(targets), *size_hw, dtype=torch.bool)) if self.masks else targets


def targets_of(split: Split, row: int, *, masks: bool = False) -> Targets:
    """The annotations of one image, in its pixels; see `Split.objects`."""
    return Targets.of(**split.objects(row, masks=masks))


class _UnreadablePicture(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def _chances(shows: np.ndarray, draws: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """`[R]` each, sums that rise from row to row: of all, and of those with objects to learn (all without any).

    shows: `[R, C]` bool, the classes of which a row has some.
    """
    weights = np.ones(len(shows)) if draws is None else draws
    teaching = weights * shows.any(axis=1)
    return np.cumsum(weights), np.cumsum(teaching if teaching.any() else weights)


def read_annotated(
    path: Path, targets: Targets, declared_hw: tuple[int, int], needed: SizeRule | None = None
) -> tuple[Tensor, Targets, tuple[int, int], Problem | None]:
    """An image `[3, h, w]` with its annotations in its own pixels, the size of the whole, and what had to be mended.

    targets: in an image of `declared_hw`, without masks. needed: see `read_as_annotated`.
    """
    pixels, full_hw, problem = read_as_annotated(path, declared_hw, needed)
    image = torch.from_numpy(pixels).permute(2, 0, 1)  # in the memory order of the file
    targets = targets.resized(declared_hw, full_hw)
    image_hw = (image.shape[1], image.shape[2])
    if image_hw != full_hw:
        factor = reduction(image_hw, full_hw)
        spanned_hw = (image_hw[0] * factor, image_hw[1] * factor)  # where rounded up, a little more than the whole
        targets = targets.resized(spanned_hw, image_hw)
    return image, targets, full_hw, problem


def _grid(
    declared_hw: tuple[int, int], full_hw: tuple[int, int], image_hw: tuple[int, int]
) -> tuple[tuple[int, int], tuple[float, float]]:
    """The size of an image as it was read, and how many pixels of the annotated one its pixels are apart."""
    factor = reduction(image_hw, full_hw)
    return image_hw, (factor * declared_hw[0] / full_hw[0], factor * declared_hw[1] / full_hw[1])


def _reason(error: DataError, path: Any) -> str:
    return str(error).removeprefix(f"{path}: ")
