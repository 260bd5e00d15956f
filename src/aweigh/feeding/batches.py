"""A batch of images with their targets, and how it travels from a worker.

Images travel in 8 bits, one after the other in one tensor, and become padded floats in the process (and on the device)
that uses them: a quarter of the bytes in shared memory, and one file descriptor per batch.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from aweigh.annotations.problems import Problem
from aweigh.errors import UsageError
from aweigh.feeding.dataset import Sample, Unreadable
from aweigh.structures import Images, Targets, padded_proposals

AHEAD = 2  # batches that each worker holds ready
BLANK_SIDE = 256  # pixels: more than the coarsest stride, 128, so that the region covers every point of every level

_OBJECT_FIELDS = tuple(entry.name for entry in fields(Targets) if entry.name not in ("masks", "known", "proposals"))


@dataclass(frozen=True, eq=False)
class Batch:
    """indices: rows of the data set. image_ids: as in the data. original_sizes_hw: as of `Sample`.

    problems: of the images that were meant to be in this batch; a skipped one is not in it. blank: none of them could
    be read; this is one image of the padding's colour, in the place of the first of them, with one region to ignore
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


@dataclass(frozen=True, eq=False)
class Packed:
    """A batch on its way from a worker: few large pieces, since each tensor that is sent costs a file descriptor.

    pixels: of all images, `[sum of h * w * 3]`, uint8 or float32, row by row, red, green and blue together.
    counts: objects in each image. objects: what `Targets` holds of them, all images together. masks:
    `[sum of n * h * w]` bool. known: `[B, C]` bool, the classes each image was labelled for, None when that is every
    class in all. proposals: of each image `[P_i, 4]`, padded as in `Images`. unread: rows of the images that
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
    """The batch on its device, images padded to one size with the colour `fill`, in memory from `allocate`."""
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


def _given(name: str, targets: Sequence[Targets]) -> bool:
    """Whether the objects of a batch have this: all of them or none."""
    given = [getattr(entry, name) is not None for entry in targets if len(entry)]
    if any(given) and not all(given):
        raise UsageError(f"Some images of a batch have {name} and others have none; give all of them {name}.")
    return all(given) and any(getattr(entry, name) is not None for entry in targets)


def _joined(name: str, targets: Sequence[Targets]) -> np.ndarray:
    return torch.cat([value for entry in targets if (value := getattr(entry, name)) is not None]).numpy()


def _masks(targets: Targets) -> Tensor:
    return torch.zeros(0, dtype=torch.bool) if targets.masks is None else targets.masks


def _known(targets: Sequence[Targets]) -> np.ndarray | None:
    """`[B, C]` bool, None where every image was labelled for all classes."""
    count = max((len(entry.known) for entry in targets if entry.known is not None), default=None)
    if count is None:
        return None
    rows = [torch.ones(count, dtype=torch.bool) if entry.known is None else entry.known for entry in targets]
    return torch.stack(rows).numpy()


def _proposals(targets: Sequence[Targets]) -> np.ndarray | None:
    """`[B, P, 4]`, None where not every image has some."""
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
