"""Batches: pictures padded to one tensor, the same in the same order for the same seed, whatever the workers.

The order depends on (seed, epoch). Unreadable pictures are skipped, counted and listed in `loader.problems`; when they
are more than one file and more than `max_bad` of the data, reading stops with the exit code for data problems.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from aweigh.data.check import SKIPPED, Problem
from aweigh.data.dataset import DetectionDataset, Sample, Unreadable
from aweigh.errors import DataError, UsageError
from aweigh.structures import IMAGENET_MEAN, Images, Targets

MAX_BAD = 0.01


@dataclass(frozen=True, eq=False)
class Batch:
    """indices: rows of the split. image_ids: as in the data. original_sizes_hw: sizes the annotations are in.

    problems: of the pictures that were meant to be in this batch; a skipped one is not in it.
    """

    images: Images
    targets: list[Targets]
    indices: list[int]
    image_ids: list[int]
    original_sizes_hw: list[tuple[int, int]]
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        images = self.images.to(device, non_blocking=non_blocking)
        return replace(self, images=images, targets=[targets.to(device) for targets in self.targets])

    def pin_memory(self) -> Batch:
        return replace(self, images=Images(self.images.pixels.pin_memory(), self.images.sizes_hw))


def make_loader(
    dataset: DetectionDataset,
    *,
    batch: int,
    shuffle: bool = False,
    seed: int = 0,
    workers: int = 0,
    stride_divisor: int = 32,
    fill: Sequence[float] = IMAGENET_MEAN,
    drop_last: bool = False,
    rank: int = 0,
    world: int = 1,
    max_bad: float = MAX_BAD,
    pin_memory: bool = False,
    start_method: str | None = None,
) -> Loader:
    """A loader of `Batch`es.

    fill: the colour of the padding, the model's own mean. rank, world: this process's share of each epoch (see
    `EpochSampler`): without shuffling every batch is as with one process, and belongs to one of them.
    Call `loader.set_epoch(epoch, skip=batches)` before each epoch; skip leaves out batches that were trained already.
    """
    if batch < 1 or workers < 0:
        raise UsageError(f"make_loader: batch must be at least 1 and workers at least 0, got {batch} and {workers}.")
    if workers:
        _check_shared_memory(dataset, batch, workers)
    sampler = EpochSampler(len(dataset), batch, shuffle=shuffle, seed=seed, drop_last=drop_last, rank=rank, world=world)
    return Loader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=partial(collate, divisor=stride_divisor, fill=tuple(float(value) for value in fill)),
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        multiprocessing_context=start_method if workers else None,
        worker_init_fn=_one_thread if workers else None,
        generator=torch.Generator().manual_seed(seed),  # torch draws a number here for each pass, which nothing uses
        max_bad=max_bad,
    )


class Loader(DataLoader[Batch]):
    """A `DataLoader` that skips what cannot be read, and says so.

    problems: each picture that was skipped or mended, once, in the order met.
    """

    def __init__(self, dataset: DetectionDataset, *, max_bad: float, **rest: Any) -> None:
        super().__init__(dataset, **rest)  # type: ignore[arg-type]
        self._max_bad = max_bad
        self._met: dict[str, Problem] = {}

    @property
    def problems(self) -> list[Problem]:
        return list(self._met.values())

    def set_epoch(self, epoch: int, *, skip: int = 0) -> None:
        """The epoch to come, from batch `skip` on."""
        assert isinstance(self.batch_sampler, EpochSampler)
        self.batch_sampler.epoch, self.batch_sampler.skip = epoch, skip

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for entry in super().__iter__():
            for problem in entry.problems if isinstance(entry, Batch) else entry:
                self._met[problem.where] = problem
            self._refuse_too_many()
            if isinstance(entry, Batch):
                yield entry

    def _refuse_too_many(self) -> None:
        bad = [problem for problem in self._met.values() if problem.action == SKIPPED]
        total = len(self.dataset)  # type: ignore[arg-type]
        if len(bad) > max(1, self._max_bad * total):
            shown = "; ".join(f"{problem.where}: {problem.detail}" for problem in bad[:3])
            raise DataError(
                f"{len(bad)} of {total} pictures cannot be read, more than the {self._max_bad:.0%} that is let pass: "
                f"{shown}{'; ...' if len(bad) > 3 else ''}. Mend or remove them."
            )


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of `(epoch, row)`, ordered by (seed, epoch) alone, from batch `skip` on.

    Shuffled, each of `world` processes has an equal share of the rows, the first ones a second time where they do not
    divide evenly. In order, each has whole batches: batch k belongs to process `k % world`, so that every batch is
    the same whatever the number of processes, and nothing is repeated.
    """

    def __init__(
        self, length: int, batch: int, *, shuffle: bool, seed: int, drop_last: bool, rank: int = 0, world: int = 1
    ) -> None:
        self.length, self.batch, self.shuffle, self.seed = length, batch, shuffle, seed
        self.drop_last, self.rank, self.world = drop_last, rank, world
        self.epoch, self.skip = 0, 0

    def _rows(self) -> np.ndarray:
        """The rows of this process if shuffled, else of all."""
        rows = np.arange(self.length)
        if self.shuffle:
            rows = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
            rows = np.resize(rows, -(-self.length // self.world) * self.world)  # the first again, for equal shares
            rows = rows[self.rank :: self.world]
        return rows

    def _numbers(self, rows: int) -> range:
        """Which batches of `rows` rows are this process's."""
        count = rows // self.batch if self.drop_last else -(-rows // self.batch)
        return range(count) if self.shuffle else range(self.rank, count, self.world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rows = self._rows().tolist()
        for number in self._numbers(len(rows))[self.skip :]:
            yield [(self.epoch, row) for row in rows[number * self.batch : (number + 1) * self.batch]]

    def __len__(self) -> int:
        """Batches in a whole epoch, whatever is skipped."""
        return len(self._numbers(len(self._rows())))


def collate(
    samples: list[Sample | Unreadable], *, divisor: int, fill: tuple[float, ...]
) -> Batch | tuple[Problem, ...]:
    """The samples that could be read as a batch; the problems alone when there is none."""
    good = [sample for sample in samples if isinstance(sample, Sample)]
    problems = tuple(sample.problem for sample in samples if sample.problem is not None)
    if not good:
        return problems
    return Batch(
        images=Images.stack([sample.image for sample in good], divisor=divisor, fill=fill),
        targets=[sample.targets for sample in good],
        indices=[sample.index for sample in good],
        image_ids=[sample.image_id for sample in good],
        original_sizes_hw=[sample.original_hw for sample in good],
        problems=problems,
    )


def _one_thread(worker: int) -> None:
    """The processes are the parallelism; threads inside them would fight for the same cores."""
    torch.set_num_threads(1)


def _check_shared_memory(dataset: DetectionDataset, batch: int, workers: int) -> None:
    """Batches travel through /dev/shm; in a container it is often too small, which ends in a bus error."""
    resize = getattr(dataset.transform, "resize", None)
    shared = Path("/dev/shm")
    if resize is None or not shared.is_dir() or len(dataset) == 0:
        return
    pixels = max(np.prod(resize.size_for(int(h), int(w))) for h, w in np.unique(dataset.split.sizes_hw, axis=0))
    needed = int(pixels) * 3 * 4 * batch * workers * 2  # each worker holds two batches ready
    free = shutil.disk_usage(shared).free
    if needed > free:
        raise UsageError(
            f"{workers} workers may hold {needed >> 20} MiB of batches in /dev/shm, which has {free >> 20} MiB free. "
            "Use workers=0, a smaller batch, or start the container with a larger --shm-size."
        )
