"""Batches: images padded to one tensor, the same in the same order for the same seed, whatever the workers.

The order depends on (seed, epoch). Unreadable images are skipped, counted and listed in `loader.problems`; when they
are more than one file and more than `max_bad` of the data (any at all where that is 0), reading stops with the exit
code for data problems. Where nothing is left of a batch, a blank one takes its place, so that every epoch has the same
number of batches.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from aweigh.annotations.problems import SKIPPED, Problem, refuse_too_many
from aweigh.errors import UsageError, counted
from aweigh.feeding.batches import AHEAD, Batch, Packed, Rooms, pack, unpack
from aweigh.feeding.dataset import DetectionDataset
from aweigh.feeding.sampling import epoch_length, epoch_rows, times_drawn
from aweigh.feeding.tiles import ImageByImage
from aweigh.structures import IMAGENET_MEAN

Value = TypeVar("Value")

MAX_BAD = 0.01


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
    device: torch.device | str = "cpu",
    start_method: str | None = None,
) -> Loader:
    """A loader of `Batch`es.

    fill: the colour of the padding, the model's own mean. rank, world: this process's share of each epoch (see
    `EpochSampler`): without shuffling every batch is as with one process, and belongs to one of them. Tiles come in
    order image by image, see `ImageByImage`.
    Call `loader.set_epoch(epoch, skip=batches)` before each epoch; skip leaves out batches that were trained already.
    device: where the batches are to be; pixels get there in 8 bits, pin_memory lets that happen in the background.
    """
    if batch < 1 or workers < 0:
        raise UsageError(f"make_loader: batch must be at least 1 and workers at least 0, got {batch} and {workers}.")
    # Pixels that went through the 8-bit kernel are 255ths; only without antialias are there others to be kept.
    eight_bits = dataset.transform.resize.antialias
    if workers:
        _check_shared_memory(dataset, batch, workers, 1 if eight_bits else 4)
    sampler: Sampler[Any]
    if dataset.tiles is not None and not shuffle:
        sampler = ImageByImage(dataset.tiles, batch, rank, world)
    else:
        sampler = EpochSampler(len(dataset), batch, shuffle, seed, drop_last, rank, world, dataset.draws)
    return Loader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=partial(pack, eight_bits=eight_bits),
        prefetch_factor=AHEAD if workers else None,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        multiprocessing_context=start_method if workers else None,
        worker_init_fn=_one_thread if workers else None,
        generator=torch.Generator().manual_seed(seed),  # torch draws a number here for each pass, which nothing uses
        max_bad=max_bad,
        unpack=partial(
            unpack,
            divisor=stride_divisor,
            fill=tuple(map(float, fill)),
            device=torch.device(device),
            allocate=Rooms() if torch.device(device).type == "cpu" else partial(torch.empty, device=device),
        ),
    )


class Loader(DataLoader[Batch]):
    """A `DataLoader` that skips what cannot be read, and says so.

    problems: each image that was skipped or mended, once, in the order met. unread: the rows of those skipped, in the
    split.
    """

    def __init__(
        self, dataset: DetectionDataset, *, max_bad: float, unpack: Callable[[Packed], Batch], **rest: Any
    ) -> None:
        super().__init__(dataset, **rest)  # type: ignore[arg-type]
        self._samples, self._max_bad, self._unpack = dataset, max_bad, unpack
        self._met: dict[str, Problem] = {}
        self._unread: set[int] = set()

    @property
    def problems(self) -> list[Problem]:
        return list(self._met.values())

    @property
    def unread(self) -> list[int]:
        return sorted(self._unread)

    def set_epoch(self, epoch: int, *, skip: int = 0) -> None:
        """The epoch to come, from batch `skip` on."""
        assert isinstance(self.batch_sampler, EpochSampler)
        self.batch_sampler.epoch, self.batch_sampler.skip = epoch, skip

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for packed in said_if_lost(cast(Iterator[Packed], super().__iter__()), workers=self.num_workers):
            for problem in packed.problems:
                self._met[problem.where] = problem
            self._unread.update(map(self._samples.image_of, packed.unread))
            self._refuse_too_many()
            with _one_thread_here():
                batch = self._unpack(packed)
            yield batch

    def _refuse_too_many(self) -> None:
        bad = [problem for problem in self._met.values() if problem.action == SKIPPED]
        refuse_too_many(bad, len(self._samples.split), self._max_bad)


def said_if_lost(batches: Iterator[Value], *, workers: int) -> Iterator[Value]:
    """The batches; where the connection to a worker breaks before torch has noticed why, what torch would say."""
    try:
        yield from batches
    except (ConnectionError, EOFError) as error:
        if not workers:
            raise
        raise RuntimeError(f"DataLoader worker exited unexpectedly: {type(error).__name__}") from error


@dataclass(eq=False)
class EpochSampler(Sampler[list[tuple[int, ...]]]):
    """Batches of `(epoch, row, turn)`, ordered by (seed, epoch) alone, from batch `skip` on.

    Shuffled, each of `world` processes has an equal share of the rows, the first ones a second time where they do not
    divide evenly. In order, each has whole batches: batch k belongs to process `k % world`, so that every batch is
    the same whatever the number of processes, and nothing is repeated. turn: how often the row came before in this
    epoch. draws: `[length]`, how often a row is drawn in an epoch if shuffled, see `aweigh.feeding.sampling`.
    """

    length: int
    batch: int
    shuffle: bool
    seed: int
    drop_last: bool
    rank: int = 0
    world: int = 1
    draws: np.ndarray | None = None
    epoch: int = 0
    skip: int = 0

    def _rows(self) -> np.ndarray:
        """`[R, 2]`, row and turn: those of this process if shuffled, else of all."""
        if not self.shuffle:
            return np.stack([np.arange(self.length), np.zeros(self.length, dtype=np.int64)], axis=1)
        rows = epoch_rows(self.length, self.seed, self.epoch, self.draws)
        rows = np.resize(rows, self._share() * self.world)  # the first again, for equal shares
        return np.stack([rows, times_drawn(rows)], axis=1)[self.rank :: self.world]

    def _share(self) -> int:
        """The number of rows of this process if shuffled, else of all."""
        return -(-epoch_length(self.length, self.draws) // self.world) if self.shuffle else self.length

    def _numbers(self, rows: int) -> range:
        """Which batches of `rows` rows are this process's."""
        count = rows // self.batch if self.drop_last else -(-rows // self.batch)
        return range(count) if self.shuffle else range(self.rank, count, self.world)

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        rows = self._rows().tolist()
        for number in self._numbers(len(rows))[self.skip :]:
            yield [(self.epoch, row, turn) for row, turn in rows[number * self.batch : (number + 1) * self.batch]]

    def __len__(self) -> int:
        """Batches in a whole epoch, whatever is skipped."""
        return len(self._numbers(self._share()))


@contextmanager
def _one_thread_here() -> Iterator[None]:
    """Threads that share out a copy of a millisecond then wait busily, on the cores that the workers need."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _one_thread(worker: int) -> None:
    """The processes are the parallelism; threads inside them would fight for the same cores."""
    torch.set_num_threads(1)


def _check_shared_memory(dataset: DetectionDataset, batch: int, workers: int, bytes_per_value: int) -> None:
    """Batches travel through /dev/shm; in a container it is often too small, which ends in a bus error."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or len(dataset) == 0:
        return
    resize = dataset.transform.largest_resize
    pixels = max(math.prod(resize.size_for(int(h), int(w))) for h, w in np.unique(dataset.sizes_hw, axis=0))
    per_pixel = 3 * bytes_per_value + (dataset.counts.mean() if dataset.masks else 0)
    needed = int(pixels * per_pixel) * batch * workers * AHEAD
    free = shutil.disk_usage(shared).free
    if needed > free:
        raise UsageError(
            f"{counted(workers, 'worker')} may hold {needed >> 20} MiB of batches in /dev/shm, which has {free >> 20} "
            "MiB free. Use workers=0, a smaller batch, or start the container with a larger --shm-size."
        )
