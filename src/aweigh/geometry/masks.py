"""Masks of objects: from probabilities in the frame of a box to pixels and back, and from pixels to COCO's run lengths.

A mask is `[S, S]` probabilities over its box, as a mask head says them. Pixels are those above one half. Every function
here works in the window of one box at a time, so that hundreds of objects in a large photograph need the memory of one.

Pasting has two forms. The exact one samples the mask bilinearly at the centre of each pixel, with nothing beyond the
mask (detectron2's). The rounded one is torchvision's: mask and box grow by a cell on each side, the box is cut to whole
pixels, and the mask is resized to it.

Legend: N masks, S cells of a mask's side, H and W of the image, h and w of a window, K run lengths.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aweigh.errors import UsageError, counted

BYTE_BUDGET = 2**31  # ours: 2 GiB of bitmaps, 178 objects of a 12-megapixel photograph
Window = tuple[np.ndarray, tuple[int, int]]  # pixels [h, w] bool, and the column and row of the first in the image


def paste(
    masks: np.ndarray,
    boxes: np.ndarray,
    size_hw: tuple[int, int],
    *,
    rounded: bool = False,
    byte_budget: int = BYTE_BUDGET,
) -> np.ndarray:
    """Which pixels each object covers: `[N, H, W]` bool.

    masks: `[N, S, S]` float in `[0, 1]`, each in the frame of its box. boxes: `[N, 4]` xyxy in the pixels of an image
    of `size_hw` (height, width); what lies outside the image is cut off. rounded: as torchvision pastes.
    `UsageError` where the bitmaps would take more than `byte_budget` bytes; `run_lengths` has no such limit.
    """
    height, width = size_hw
    needed = len(masks) * height * width
    if needed > byte_budget:
        raise UsageError(
            f"The bitmaps of {counted(len(masks), 'object')} in {width} x {height} pixels take "
            f"{counted(needed, 'byte')}, more than the {byte_budget:,} allowed; take fewer objects at a time, use run "
            "lengths (`rle`), or set byte_budget."
        )
    pasted = np.zeros((len(masks), height, width), dtype=bool)
    for bitmap, (inside, (left, top)) in zip(pasted, windows(masks, boxes, size_hw, rounded=rounded), strict=True):
        bitmap[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return pasted


def run_lengths(masks: np.ndarray, boxes: np.ndarray, size_hw: tuple[int, int], *, rounded: bool = False) -> list[str]:
    """The same pixels as `paste`, each mask as COCO's compressed run lengths (see `encode_counts`)."""
    return [
        encode_counts(count_runs(inside, corner, size_hw)).decode("ascii")
        for inside, corner in windows(masks, boxes, size_hw, rounded=rounded)
    ]


def windows(
    masks: np.ndarray, boxes: np.ndarray, size_hw: tuple[int, int], *, rounded: bool = False
) -> Iterator[Window]:
    """Of each mask the pixels of its box that lie in the image, one after the other; arguments as for `paste`."""
    if masks.ndim != 3 or masks.dtype.kind != "f" or boxes.shape != (len(masks), 4):
        raise UsageError(
            f"Masks must be float [N, S, S] with boxes [N, 4], got {masks.dtype} {masks.shape} and {boxes.shape}."
        )
    cells_y, cells_x = masks.shape[1:]
    if rounded:
        boxes = _grown(boxes.astype(np.float32), cells_y, cells_x)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.tolist()):
        place = _rounded_places if rounded else _exact_places
        top, ys = place(y0, y1, cells_y, size_hw[0])
        left, xs = place(x0, x1, cells_x, size_hw[1])
        values = _shares(ys, cells_y) @ mask.astype(np.float32, copy=False) @ _shares(xs, cells_x).T  # [h, w]
        yield values > 0.5 if rounded else values >= 0.5, (left, top)


def _exact_places(first: float, last: float, cells: int, limit: int) -> tuple[int, np.ndarray]:
    """Along one axis: the first pixel whose centre is in the box, and where in the mask the centres lie, in cells."""
    start = min(max(int(np.ceil(first - 0.5)), 0), limit)
    stop = max(min(int(np.floor(last - 0.5)) + 1, limit), start) if last > first else start
    centres = np.arange(start, stop, dtype=np.float64) + 0.5
    return start, ((centres - first) / (last - first or 1) * cells - 0.5).astype(np.float32)


def _rounded_places(first: float, last: float, cells: int, limit: int) -> tuple[int, np.ndarray]:
    """The same for a box in whole pixels, the last one inside, whose mask has a cell more on each side."""
    start, stop = (int(min(max(edge, 0), limit)) for edge in (first, last + 1))
    pixels = max(last - first + 1, 1)
    offsets = np.arange(start, max(start, stop), dtype=np.float32) - np.float32(first)
    return start, (offsets + np.float32(0.5)) * np.float32((cells + 2) / pixels) - np.float32(1.5)


def _grown(boxes: np.ndarray, cells_y: int, cells_x: int) -> np.ndarray:
    """Boxes `[N, 4]` larger by a cell on each side, about their middle, cut to whole pixels."""
    middle, half = (boxes[:, 2:] + boxes[:, :2]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = half * np.array([(cells_x + 2) / cells_x, (cells_y + 2) / cells_y], np.float32)
    return np.trunc(np.concatenate([middle - half, middle + half], axis=1))


def sampled(mask: np.ndarray, box: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A mask `[S, S]` in the frame of its box `[4]` as one in the frame of another box, 0 beyond its own."""
    shares = [_shares_of(box[axis::2], other[axis::2], mask.shape[0]) for axis in (1, 0)]
    values: np.ndarray = shares[0] @ mask @ shares[1].T
    return values


def _shares_of(own: np.ndarray, other: np.ndarray, cells: int) -> np.ndarray:
    """`[cells, cells]`: along one axis, what each cell of a mask from `own[0]` to `own[1]` gives to those of another;
    the outermost reach to the edge."""
    middles = other[0] + (np.arange(cells) + 0.5) / cells * (other[1] - other[0])
    places = (middles - own[0]) / (own[1] - own[0] or 1) * cells
    inside = (places >= 0) & (places <= cells)
    shares = _shares((places - 0.5).clip(0, cells - 1), cells) * inside[:, None]
    return shares.astype(np.float32)


def _shares(places: np.ndarray, cells: int) -> np.ndarray:
    """`[n, cells]`: what each cell of a row gives to each place between them, bilinearly, with nothing beyond."""
    distance = np.abs(places[:, None] - np.arange(cells, dtype=np.float32))
    return np.maximum(1 - distance, 0)


def count_runs(inside: np.ndarray, corner: tuple[int, int], size_hw: tuple[int, int]) -> np.ndarray:
    """`[K]` int64, the run lengths of a mask column by column, of ground and object in turn, ground first.

    inside: `[h, w]` bool, all that there is of the object in an image of `size_hw`. corner: column and row of its
    first pixel.
    """
    height, width = size_hw
    left, top = corner
    columns = np.zeros((inside.shape[1], inside.shape[0] + 2), dtype=bool)  # nothing above and below
    columns[:, 1:-1] = inside.T
    column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])  # where a run begins and where it has ended, in turn
    changes = (left + column) * height + top + row
    again = np.flatnonzero(changes[1:-1:2] == changes[2::2]) * 2 + 1  # ended at the foot, begins at the next head
    changes = np.delete(changes, np.concatenate([again, again + 1]))
    counts = np.diff(changes, prepend=0, append=height * width)
    return counts if counts[-1] or len(counts) == 1 else counts[:-1]


def encode_counts(counts: np.ndarray) -> bytes:
    """Run lengths as COCO's text: differences to the one before the last, five bits to a character, lowest first."""
    steps = counts.astype(np.int64)
    steps[3:] -= counts[1:-2]
    digits, more = [], []  # of every step, the first character, the second, ...
    going = np.ones(len(steps), dtype=bool)
    while going.any():
        low, steps = steps & 31, steps >> 5
        further = going & (steps != np.where(low & 16, -1, 0))
        digits.append(np.where(going, (low | 32 * further) + 48, 0))
        more.append(going)
        going = further
    return np.stack(digits, axis=1)[np.stack(more, axis=1)].astype(np.uint8).tobytes() if more else b""


def decode_counts(text: bytes) -> np.ndarray:
    """`[K]` int64, the run lengths of COCO's text; `[-1]` where it is none."""
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    last = (codes & 32) == 0
    number = np.cumsum(last) - last  # which length each character belongs to
    if len(codes) == 0 or (codes < 0).any() or (codes > 63).any() or not last[-1]:
        return np.array([-1])
    ends = np.flatnonzero(last)
    place = np.arange(len(codes)) - np.concatenate([[0], ends[:-1] + 1])[number]
    if place.max() > 7:  # 40 bits: more than any image has pixels
        return np.array([-1])
    steps = np.zeros(len(ends), dtype=np.int64)
    np.add.at(steps, number, (codes & 31) << (5 * place))
    steps -= np.where(codes[ends] & 16, np.int64(1) << (5 * (place[ends] + 1)), 0)  # the sign
    steps[1::2] = np.cumsum(steps[1::2])
    steps[2::2] = np.cumsum(steps[2::2])
    return steps
