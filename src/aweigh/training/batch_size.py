"""`batch = "auto"`: how many images fit into one step, found by training on the worst that the data can give.

Memory depends on the size of the padded batch and on the number of objects, so the worst batch is made from both: as
tall as the tallest and as wide as the widest image can become, with the annotations of the images that have most. Real
steps are done with it (forward, loss, backward, update), and everything is put back afterwards.
"""

import copy
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from aweigh import distributed
from aweigh.errors import AweighError, counted
from aweigh.feeding.batches import Batch
from aweigh.feeding.dataset import DetectionDataset
from aweigh.feeding.mixing import join
from aweigh.geometry.frames import Frame
from aweigh.images.resize import Resize
from aweigh.inference import memory
from aweigh.inference.device import How
from aweigh.inference.memory import GIB
from aweigh.models.detector import Detector
from aweigh.structures import Images, padded_proposals
from aweigh.training.debug.replay import losses_of

HEADROOM = 0.9  # of a GPU's memory: the rest is lost to blocks of changing size
CPU_SHARE = 0.5  # of the free main memory: the rest is for reading images, the system and other programs
USUAL = 8  # without a GPU, taken wherever it fits: small batches teach worse, larger ones have to be faster
GAIN = 1.05  # so much faster an image has to become for the next larger batch


@dataclass(frozen=True)
class Worst:
    """The worst that the training images can become. size_hw: of the padding. order: images, most objects first.

    mixed: how many images' objects one image can have (mosaic, copy-paste, mixup). resize: the largest.
    """

    size_hw: tuple[int, int]
    order: np.ndarray
    mixed: int
    objects: int
    resize: Resize

    def __str__(self) -> str:
        return f"worst images {self.size_hw[1]} x {self.size_hw[0]} with {counted(self.objects, 'object')}"


def find_batch(
    model: Detector,
    optimizer: torch.optim.Optimizer,
    train_set: DetectionDataset,
    how: How,
    *,
    limit: int = 64,
) -> tuple[int, str]:
    """The images per step of this process, and one line on how that was found.

    On a GPU the largest batch that fits into 90 % of its memory. On a CPU what fits into half of the free memory: up to
    8 images, and more only while an image then takes less time. At most `limit`, and the number of images. Detector,
    optimiser and random state are left as they were. Each process finds its own; take the smallest.
    """
    most = min(limit, len(train_set))
    worst = worst_of(train_set, model.stride_divisor)

    def step(count: int) -> None:
        batch = worst_batch(worst, train_set, count)
        try:
            _train_step(model, optimizer, batch, how)
        except RuntimeError as error:
            if count > 1 or not memory.is_out_of_memory(error):
                raise
            raise memory.out_of_memory(error, batch) from error

    with _put_back(model, optimizer, how.device):
        model.train()
        if how.device.type == "cuda":
            count, tried = _fill_gpu(step, most, how.device)
        elif how.device.type == "cpu" and memory.high_water() is not None:
            count, tried = _fill_cpu(step, most)
        else:
            count, tried = min(USUAL, most), f"memory cannot be measured on {how.device.type} of {sys.platform}"
    return count, f"batch auto: {count} ({worst}: {tried})"


def worst_of(train_set: DetectionDataset, divisor: int) -> Worst:
    """What the images of a data set can become at worst. divisor: of the padding's sides."""
    augmentation = train_set.transform.augmentation
    side = augmentation.object_crop
    resize = Resize(None, side) if side else train_set.transform.largest_resize
    sizes = {(int(height), int(width)) for height, width in np.unique(train_set.sizes_hw, axis=0)}
    if augmentation.crop:  # windows have half to all of each side
        sizes |= {(max(1, h // a), max(1, w // b)) for h, w in sizes for a, b in ((1, 2), (2, 1))}
    if augmentation.affine_crop:
        sizes |= {(max(size), max(size)) for size in sizes}
    if side:
        sizes.add((side, side))
    resized = [resize.size_for(*size) for size in sizes]
    height, width = (math.ceil(max(sides) / divisor) * divisor for sides in zip(*resized, strict=True))
    counts = train_set.counts
    order = np.argsort(-counts, kind="stable")
    mixed = (4 if augmentation.mosaic else 1) + bool(augmentation.copy_paste) + bool(augmentation.mixup)
    return Worst((height, width), order, mixed, int(counts[order[:mixed]].sum()), resize)


def worst_batch(worst: Worst, train_set: DetectionDataset, count: int) -> Batch:
    """`count` images of noise in the worst size, with the objects of the images that have most."""
    generator = torch.Generator().manual_seed(0)
    targets, rows = [], []
    for slot in range(count):
        own = [int(worst.order[at % len(worst.order)]) for at in range(slot * worst.mixed, (slot + 1) * worst.mixed)]
        parts = []
        for row in own:
            before_hw = (int(train_set.sizes_hw[row, 0]), int(train_set.sizes_hw[row, 1]))
            objects = train_set.objects(row)
            resized = objects.resized(before_hw, worst.resize.size_for(*before_hw))
            parts.append(resized.moved(Frame(), worst.size_hw))  # masks on the whole padded image
        targets.append(join(parts))
        rows.append(own[0])
    pixels = torch.rand(count, 3, *worst.size_hw, generator=generator)
    proposals = [entry.proposals for entry in targets if entry.proposals is not None]
    return Batch(
        images=Images(pixels, [worst.size_hw] * count, padded_proposals(proposals) if proposals else None),
        targets=targets,
        indices=rows,
        image_ids=[int(train_set.split.image_ids[train_set.image_of(row)]) for row in rows],
        original_sizes_hw=[worst.size_hw] * count,
    )


# --- how much fits --------------------------------------------------------------------------------------------------


def _fill_gpu(step: Callable[[int], None], most: int, device: torch.device) -> tuple[int, str]:
    torch.cuda.empty_cache()
    whole = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    needed: dict[int, int] = {}
    for count in _sizes(most):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            step(count)
            step(count)  # the optimiser has its state, libraries have chosen their algorithms
            torch.cuda.synchronize(device)
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            needed[count] = max(_line(needed, count), whole)
        else:
            needed[count] = torch.cuda.max_memory_reserved(device)
        if needed[count] > HEADROOM * whole:
            break
    torch.cuda.empty_cache()
    fitting = [count for count, size in needed.items() if size <= HEADROOM * whole]
    if not fitting:  # one image fits, but leaves no room
        raise AweighError(
            f"batch auto: one image needs {needed[1] / GIB:.1f} GiB of the {HEADROOM * whole / GIB:.1f} GiB that may "
            "be used; lower short and long, or choose a smaller model."
        )
    best, last = max(fitting), max(needed)
    told = f"{last} needs {needed[last] / GIB:.1f} GiB" if last > best else f"it needs {needed[best] / GIB:.1f} GiB"
    return best, f"{told} of {whole / GIB:.1f}"


def _fill_cpu(step: Callable[[int], None], most: int) -> tuple[int, str]:
    free = int(CPU_SHARE * memory.available() / distributed.world_size())
    step(1)  # what is set up once
    memory.begin_high_water_anew()
    start, best = memory.resident(), 1
    peaks: dict[int, int] = {}
    speeds: dict[int, float] = {}
    for count in [size for size in _sizes(most) if size & (size - 1) == 0]:
        if count > 2 and (_line(peaks, count) - start > free or speeds[count // 2] < GAIN * speeds[count // 4]):
            break
        began = time.perf_counter()
        step(count)
        speeds[count] = count / (time.perf_counter() - began)
        peak = memory.high_water()
        assert peak is not None
        peaks[count] = peak
        best = count if speeds[count] >= GAIN * speeds.get(count // 2, 0.0) else best
    image = max(1, (_line(peaks, 1000) - _line(peaks, 0)) // 1000)
    fits = max(1, (start + free - _line(peaks, 0)) // image)
    count = max(size for size in _sizes(most) if size <= min(max(best, USUAL), fits) or size == 1)
    told = f"{image / GIB:.2f} GiB an image of {free / GIB:.1f}, half of what is free"
    if max(speeds) > best:
        told += f"; {speeds[max(speeds)]:.2g} images a second with {max(speeds)}, {speeds[best]:.2g} with {best}"
    return count, told


def _sizes(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, ...: powers of two and the middles between them."""
    sizes = sorted({2**power for power in range(20)} | {3 * 2**power for power in range(20)})
    return [size for size in sizes if size <= most]


def _line(measured: dict[int, int], count: int) -> int:
    """What `count` images would need, on the straight line through the smallest and the largest measurement."""
    if not measured:
        return 0
    low, high = min(measured), max(measured)
    if low == high:
        return measured[low] * count // max(1, low)
    slope = max(0.0, (measured[high] - measured[low]) / (high - low))
    return int(measured[low] + slope * (count - low))


# --- steps that leave no trace --------------------------------------------------------------------------------------


def _train_step(model: Detector, optimizer: torch.optim.Optimizer, batch: Batch, how: How) -> None:
    """One step of training, apart from the other processes, which try other sizes."""
    optimizer.zero_grad(set_to_none=True)
    with distributed.alone():
        torch.stack(list(losses_of(model, batch, how).values())).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    nn.utils.get_total_norm(gradients)
    optimizer.step()


@contextmanager
def _put_back(model: Detector, optimizer: torch.optim.Optimizer, device: torch.device) -> Iterator[None]:
    """Leave weights, buffers, gradients, mode, optimiser and random state as they were."""
    values = [*model.parameters(), *model.buffers()]
    before = [value.detach().to("cpu", copy=True) for value in values]
    state, training = copy.deepcopy(optimizer.state_dict()), {module: module.training for module in model.modules()}
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for value, kept in zip(values, before, strict=True):
                value.copy_(kept)
        optimizer.zero_grad(set_to_none=True)
        optimizer.load_state_dict(state)
        for module, mode in training.items():
            module.training = mode
