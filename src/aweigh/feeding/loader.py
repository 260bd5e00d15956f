"""Batches: pictures padded to one tensor, the same in the same order for the same seed, whatever the workers.

The order depends on (seed, epoch). Unreadable pictures are skipped, counted and listed in `loader.problems`; when they
are more than one file and more than `max_bad` of the data (any at all where that is 0), reading stops with the exit
code for data problems. Where nothing is left of a batch, a blank one takes its place, so that every epoch has the same
number of batches.

Pictures travel from a worker in 8 bits, one after the other in one tensor, and become padded floats in the process
(and on the device) that uses them: a quarter of the bytes in shared memory, and one file descriptor per batch.
"""

from __future__ import annotations

import math
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, get_worker_info

from aweigh.annotations.problems import SKIPPED, Problem
from aweigh.errors import DataError, UsageError, counted
from aweigh.feeding.dataset import DetectionDataset, Sample, Unreadable
from aweigh.feeding.sampling import epoch_rows, times_drawn
from aweigh.structures import IMAGENET_MEAN, Images, Targets, padded_proposals

Value = TypeVar("Value")

MAX_BAD = 0.01
AHEAD = 2  # batches that each worker holds ready
BLANK_SIDE = 256  # pixels: more than the coarsest stride, 128, so that the region covers every point of every level


@dataclass(frozen=True, eq=False)
class Batch:
    """indices: rows of the split. image_ids: as in the data. original_sizes_hw: sizes the annotations are in.

    problems: of the pictures that were meant to be in this batch; a skipped one is not in it. blank: none of them could
    be read; this is one picture of the padding's colour, in the place of the first of them, with one region to ignore
    all over it, so that it gives no loss.
    """

    images: Images
    targets: list[Targets]
    indices: list[int]
    image_ids: list[int]
    original_sizes_hw: list[tuple[int, int]]
    problems: tuple[Problem, ...] = ()
    blank: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        images = self.images.to(device, non_blocking=non_blocking)
        return replace(self, images=images, targets=[targets.to(device) for targets in self.targets])


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
    `EpochSampler`): without shuffling every batch is as with one process, and belongs to one of them.
    Call `loader.set_epoch(epoch, skip=batches)` before each epoch; skip leaves out batches that were trained already.
    device: where the batches are to be; pixels get there in 8 bits, pin_memory lets that happen in the background.
    """
    if batch < 1 or workers < 0:
        raise UsageError(f"make_loader: batch must be at least 1 and workers at least 0, got {batch} and {workers}.")
    eight_bits = _travels_in_8_bits(dataset)
    if workers:
        _check_shared_memory(dataset, batch, workers, 1 if eight_bits else 4)
    sampler = EpochSampler(
        len(dataset),
        batch,
        shuffle=shuffle,
        seed=seed,
        drop_last=drop_last,
        rank=rank,
        world=world,
        draws=dataset.draws,
    )
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

    problems: each picture that was skipped or mended, once, in the order met. unread: the rows of those skipped.
    """

    def __init__(
        self, dataset: DetectionDataset, *, max_bad: float, unpack: Callable[[Packed], Batch], **rest: Any
    ) -> None:
        super().__init__(dataset, **rest)  # type: ignore[arg-type]
        self._max_bad, self._unpack = max_bad, unpack
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
            self._unread.update(packed.unread)
            self._refuse_too_many()
            with _one_thread_here():
                batch = self._unpack(packed)
            yield batch

    def _refuse_too_many(self) -> None:
        bad = [problem for problem in self._met.values() if problem.action == SKIPPED]
        total = len(self.dataset)  # type: ignore[arg-type]
        if len(bad) > (max(1, self._max_bad * total) if self._max_bad else 0):
            shown = "; ".join(f"{problem.where}: {problem.detail}" for problem in bad[:3])
            raise DataError(
                f"{len(bad)} of {counted(total, 'picture')} cannot be read, more than the {self._max_bad:.0%} that is "
                f"let pass: {shown}{'; ...' if len(bad) > 3 else ''}. Mend or remove them."
            )


def said_if_lost(batches: Iterator[Value], *, workers: int) -> Iterator[Value]:
    """The batches; where the connection to a worker breaks before torch has noticed why, what torch would say."""
    try:
        yield from batches
    except (ConnectionError, EOFError) as error:
        if not workers:
            raise
        raise RuntimeError(f"DataLoader worker exited unexpectedly: {type(error).__name__}") from error


class EpochSampler(Sampler[list[tuple[int, ...]]]):
    """Batches of `(epoch, row, turn)`, ordered by (seed, epoch) alone, from batch `skip` on.

    Shuffled, each of `world` processes has an equal share of the rows, the first ones a second time where they do not
    divide evenly. In order, each has whole batches: batch k belongs to process `k % world`, so that every batch is
    the same whatever the number of processes, and nothing is repeated. turn: how often the row came before in this
    epoch. draws: `[length]`, how often a row is drawn in an epoch if shuffled, see `aweigh.feeding.sampling`.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        *,
        shuffle: bool,
        seed: int,
        drop_last: bool,
        rank: int = 0,
        world: int = 1,
        draws: np.ndarray | None = None,
    ) -> None:
        self.length, self.batch, self.shuffle, self.seed = length, batch, shuffle, seed
        self.drop_last, self.rank, self.world, self.draws = drop_last, rank, world, draws
        self.epoch, self.skip = 0, 0

    def _rows(self) -> np.ndarray:
        """`[R, 2]`, row and turn: those of this process if shuffled, else of all."""
        if not self.shuffle:
            return np.stack([np.arange(self.length), np.zeros(self.length, dtype=np.int64)], axis=1)
        rows = epoch_rows(self.length, self.seed, self.epoch, self.draws)
        rows = np.resize(rows, self._share() * self.world)  # the first again, for equal shares
        return np.stack([rows, times_drawn(rows)], axis=1)[self.rank :: self.world]

    def _share(self) -> int:
        """The number of rows of this process if shuffled, else of all."""
        return -(-self.length // self.world) if self.shuffle else self.length

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


@dataclass(frozen=True, eq=False)
class Packed:
    """A batch on its way from a worker: few large pieces, since each tensor that is sent costs a file descriptor.

    pixels: of all pictures, `[sum of h * w * 3]`, uint8 or float32, row by row, red, green and blue together.
    counts: objects in each picture. objects: what `Targets` holds of them, all pictures together. masks:
    `[sum of n * h * w]` bool. known: `[B, C]` bool, the classes each picture was labelled for, None when that is every
    class in all. proposals: of each picture `[P_i, 4]`, padded as in `Images`. unread: rows of the pictures that
    could not be read. The rest as in `Batch`.
    """

    pixels: Tensor
    sizes_hw: list[tuple[int, int]]
    counts: list[int]
    objects: dict[str, np.ndarray]
    masks: Tensor | None
    known: np.ndarray | None
    proposals: np.ndarray | None
    indices: list[int]
    image_ids: list[int]
    original_sizes_hw: list[tuple[int, int]]
    problems: tuple[Problem, ...]
    blank: bool
    unread: tuple[int, ...] = ()

    def pin_memory(self) -> Packed:
        masks = None if self.masks is None else self.masks.pin_memory()
        return replace(self, pixels=self.pixels.pin_memory(), masks=masks)


def pack(samples: Sequence[Sample | Unreadable], *, eight_bits: bool) -> Packed:
    """The samples that could be read. eight_bits: floats are rounded to 255ths, else all become floats."""
    readable = [sample for sample in samples if isinstance(sample, Sample)]
    used: Sequence[Sample | Unreadable] = readable or samples[:1]
    images = [sample.image for sample in readable] or [torch.zeros(3, BLANK_SIDE, BLANK_SIDE, dtype=torch.uint8)]
    targets = [sample.targets for sample in readable] or [_ignored_everywhere()]
    problems = [sample.problem for sample in samples if sample.problem is not None]
    problems += [problem for sample in readable for problem in sample.partner_problems]
    return Packed(
        pixels=_in_one_row([image.permute(1, 2, 0) for image in images], torch.uint8 if eight_bits else torch.float32),
        sizes_hw=[(image.shape[1], image.shape[2]) for image in images],
        counts=[len(entry) for entry in targets],
        objects={name: _joined(name, targets) for name in _OBJECT_FIELDS if _given(name, targets)},
        masks=_in_one_row([_masks(entry) for entry in targets], torch.bool) if _given("masks", targets) else None,
        known=_known(targets),
        proposals=_proposals(targets),
        indices=[sample.index for sample in used],
        image_ids=[sample.image_id for sample in used],
        original_sizes_hw=[sample.original_hw for sample in used],
        problems=tuple(problems),
        blank=not readable,
        unread=tuple(sample.index for sample in samples if isinstance(sample, Unreadable)),
    )


def unpack(
    packed: Packed, *, divisor: int, fill: tuple[float, ...], device: torch.device, allocate: Callable[[int], Tensor]
) -> Batch:
    """The batch on its device, pictures padded to one size with the colour `fill`, in memory from `allocate`."""
    flat = packed.pixels.to(device, non_blocking=True).split([3 * h * w for h, w in packed.sizes_hw])
    pictures = [row.view(h, w, 3).permute(2, 0, 1) for row, (h, w) in zip(flat, packed.sizes_hw)]  # [3, h, w] each
    if packed.blank:
        pictures = [torch.tensor(fill, device=device).reshape(3, 1, 1).expand_as(picture) for picture in pictures]
    together = Targets(**{name: torch.from_numpy(array) for name, array in packed.objects.items()})
    targets = together.to(device).split(packed.counts)
    if packed.masks is not None:
        shapes = [(count, h, w) for count, (h, w) in zip(packed.counts, packed.sizes_hw)]
        parts = packed.masks.to(device, non_blocking=True).split([math.prod(shape) for shape in shapes])
        targets = [replace(entry, masks=part.view(shape)) for entry, part, shape in zip(targets, parts, shapes)]
    if packed.known is not None:
        known = torch.from_numpy(packed.known).to(device)
        targets = [replace(entry, known=row) for entry, row in zip(targets, known)]
    images = Images.stack(pictures, divisor=divisor, fill=fill, allocate=allocate)
    if packed.proposals is not None:
        images = replace(images, proposals=torch.from_numpy(packed.proposals).to(device))
    return Batch(
        images=images,
        targets=targets,
        indices=packed.indices,
        image_ids=packed.image_ids,
        original_sizes_hw=packed.original_sizes_hw,
        problems=packed.problems,
        blank=packed.blank,
    )


class Rooms:
    """Memory for batches on the CPU, used again once nothing refers to the batch that was in it.

    Memory fresh from the system is handed out page by page as it is touched, which takes several times as long as
    writing a batch. A room is free again when torch lets go of the array behind the last tensor that lies in it.
    """

    def __init__(self, keep: int = AHEAD) -> None:
        self._keep = keep
        self._free: list[np.ndarray] = []

    def __call__(self, count: int) -> Tensor:
        """An empty float32 tensor of `count` elements."""
        room = next((room for room in self._free if len(room) >= count), None)
        if room is None:
            room = np.empty(count, dtype=np.float32)
        else:
            self._free = [other for other in self._free if other is not room]
        lent = room[:count]
        weakref.finalize(lent, self._take_back, room).atexit = False
        return torch.from_numpy(lent)

    def _take_back(self, room: np.ndarray) -> None:
        self._free = sorted([*self._free, room], key=len)[-self._keep :]


_OBJECT_FIELDS = tuple(entry.name for entry in fields(Targets) if entry.name not in ("masks", "known", "proposals"))


def _given(name: str, targets: Sequence[Targets]) -> bool:
    """Whether the objects of a batch have this: all of them or none."""
    given = [getattr(entry, name) is not None for entry in targets if len(entry)]
    if any(given) and not all(given):
        raise UsageError(f"Some pictures of a batch have {name} and others have none; give all of them {name}.")
    return all(given) and any(getattr(entry, name) is not None for entry in targets)


def _joined(name: str, targets: Sequence[Targets]) -> np.ndarray:
    return torch.cat([value for entry in targets if (value := getattr(entry, name)) is not None]).numpy()


def _masks(targets: Targets) -> Tensor:
    return torch.zeros(0, dtype=torch.bool) if targets.masks is None else targets.masks


def _known(targets: Sequence[Targets]) -> np.ndarray | None:
    """`[B, C]` bool, None where every picture was labelled for all classes."""
    count = max((len(entry.known) for entry in targets if entry.known is not None), default=None)
    if count is None:
        return None
    rows = [torch.ones(count, dtype=torch.bool) if entry.known is None else entry.known for entry in targets]
    return torch.stack(rows).numpy()


def _proposals(targets: Sequence[Targets]) -> np.ndarray | None:
    """`[B, P, 4]`, None where not every picture has some."""
    given = [entry.proposals for entry in targets if entry.proposals is not None]
    return padded_proposals(given).numpy() if len(given) == len(targets) else None


def _ignored_everywhere() -> Targets:
    side = float(BLANK_SIDE)
    box, label = torch.tensor([[0.0, 0.0, side, side]]), torch.zeros(1, dtype=torch.int64)
    return Targets(box, label, torch.tensor([True]), proposals=torch.zeros(0, 4))


def _in_one_row(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """The elements of all parts in one tensor; in a worker it lies in shared memory, and is not copied once more."""
    counts = [part.numel() for part in parts]
    row = torch.empty(0, dtype=dtype)
    if get_worker_info() is not None:
        row = row.set_(torch.UntypedStorage._new_shared(sum(counts) * dtype.itemsize))
    row.resize_(sum(counts))
    for slot, part in zip(row.split(counts), parts):
        if part.is_floating_point() and dtype == torch.uint8:
            part = (part * 255).round_().clamp_(0, 255)
        slot.view(part.shape).copy_(part)
        if dtype.is_floating_point and not part.is_floating_point():
            slot.div_(255)
    return row


def _travels_in_8_bits(dataset: DetectionDataset) -> bool:
    """Pixels that went through the 8-bit kernel are 255ths; only without antialias are there others to be kept."""
    return bool(getattr(getattr(dataset.transform, "resize", None), "antialias", False))


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
    resize = getattr(dataset.transform, "resize", None)
    shared = Path("/dev/shm")
    if resize is None or not shared.is_dir() or len(dataset) == 0:
        return
    sides = getattr(getattr(dataset.transform, "augmentation", None), "short_sides", ())
    resize = replace(resize, short=max(sides)) if sides else resize
    pixels = max(math.prod(resize.size_for(int(h), int(w))) for h, w in np.unique(dataset.split.sizes_hw, axis=0))
    per_pixel = 3 * bytes_per_value + (len(dataset.split.boxes) / len(dataset) if dataset.masks else 0)
    needed = int(pixels * per_pixel) * batch * workers * AHEAD
    free = shutil.disk_usage(shared).free
    if needed > free:
        raise UsageError(
            f"{counted(workers, 'worker')} may hold {needed >> 20} MiB of batches in /dev/shm, which has {free >> 20} "
            "MiB free. Use workers=0, a smaller batch, or start the container with a larger --shm-size."
        )
