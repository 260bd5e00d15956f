"""Bilinear scaling of pixels in NumPy: bit for bit what torch's kernels make of 8-bit images on a CPU with AVX2.

Each axis is a matrix product: an output pixel is a weighted sum of neighbouring input pixels. The matrices are banded,
so they are applied in blocks of outputs. The 8-bit kernel rounds its weights to multiples of a power of two and its
sums, after either axis, to whole grey levels (as Pillow does). Such sums are exact whatever their order, in float32
where they take at most 24 bits and else in float64, so that every processor gives the same pixels.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

BLOCK = 16  # outputs of one matrix: the fastest of 8, 16, 24 and 32
MOST_PRODUCTS = 1 << 18  # in one product, up to which OpenBLAS starts no threads; those wait for each other
STRIP = 1 << 20  # pixels that are floats at a time, four times the bytes: a large image is not held so as a whole


class _Block(NamedTuple):
    """Outputs `start` to `stop` are `weights` `[stop - start, last - first]` times inputs `first` to `last`."""

    start: int
    stop: int
    first: int
    last: int
    weights: np.ndarray


def resample(
    pixels: np.ndarray,
    size_hw: tuple[int, int],
    *,
    antialias: bool,
    span_hw: tuple[float, float] | None = None,
) -> np.ndarray:
    """`(H, W, C)` to `[C, h, w]`, plane by plane: uint8 with `antialias` stays uint8, the rest becomes float32.

    antialias: an output pixel of a smaller image is a mean over all it covers, by a triangle of twice its width.
    Without it, it lies between the four nearest pixels. span_hw: the part of the image, from its upper left corner,
    that becomes the whole result.
    """
    whole = antialias and pixels.dtype == np.uint8
    height, width = pixels.shape[:2]
    span_h, span_w = span_hw or (height, width)
    if (width, span_w) == (size_hw[1], size_hw[1]):
        planes = _planes(pixels)
    else:
        blocks, step = _blocks(width, size_hw[1], span_w, antialias, whole), max(1, STRIP // width)
        strips = (_planes(pixels[top : top + step]) for top in range(0, height, step))
        planes = np.concatenate([_rounded(_along_rows(strip, blocks), whole) for strip in strips], axis=1)  # [C, H, w]
    if (height, span_h) != (size_hw[0], size_hw[0]):
        planes = _rounded(_along_columns(planes, _blocks(height, size_hw[0], span_h, antialias, whole)), whole)
    return planes.astype(np.uint8 if whole else np.float32, copy=False)


def _planes(pixels: np.ndarray) -> np.ndarray:
    """`(H, W, C)` to float32 `[C, H, W]`."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)


def _rounded(values: np.ndarray, whole: bool) -> np.ndarray:
    if whole:
        values += 0.5
        np.floor(values, out=values)
    return values


def _along_rows(planes: np.ndarray, blocks: tuple[_Block, ...]) -> np.ndarray:
    """`[C, H, W]` to `[C, H, w]`."""
    rows = planes.reshape(-1, planes.shape[2])
    result = np.empty((len(rows), blocks[-1].stop), blocks[0].weights.dtype)
    for start, stop, first, last, weights in blocks:
        step = max(1, MOST_PRODUCTS // weights.size)
        for top in range(0, len(rows), step):
            part = slice(top, top + step)
            np.matmul(rows[part, first:last], weights.T, out=result[part, start:stop])
    return result.reshape(*planes.shape[:2], -1)


def _along_columns(planes: np.ndarray, blocks: tuple[_Block, ...]) -> np.ndarray:
    """`[C, H, W]` to `[C, h, W]`."""
    channels, _, width = planes.shape
    result = np.empty((channels, blocks[-1].stop, width), blocks[0].weights.dtype)
    for start, stop, first, last, weights in blocks:
        step = max(1, MOST_PRODUCTS // weights.size)
        for left in range(0, width, step):
            part = slice(left, left + step)
            np.matmul(weights, planes[:, first:last, part], out=result[:, start:stop, part])
    return result


@lru_cache(maxsize=256)
def _blocks(before: int, after: int, span: float, antialias: bool, whole: bool) -> tuple[_Block, ...]:
    """The matrices that take `before` inputs, of which the first `span` are shown, to `after` outputs."""
    scale = np.float64(span / after) if whole else np.float32(span) / np.float32(after)
    index, weights = _smooth(before, after, scale) if antialias else _nearest_two(before, after, scale)
    number: type[np.floating] = np.float32
    if whole:
        weights, bits = _in_15_bits(weights)
        number = np.float32 if bits + 8 <= 24 else np.float64  # grey levels have 8 bits
    blocks = []
    for start in range(0, after, BLOCK):
        stop = min(start + BLOCK, after)
        first, last = int(index[start:stop].min()), int(index[start:stop].max()) + 1
        matrix = np.zeros((stop - start, last - first), number)
        rows = np.broadcast_to(np.arange(stop - start)[:, None], index[start:stop].shape)
        np.add.at(matrix, (rows, index[start:stop] - first), weights[start:stop])
        blocks.append(_Block(start, stop, first, last, matrix))
    return tuple(blocks)


def _smooth(before: int, after: int, scale: np.floating) -> tuple[np.ndarray, np.ndarray]:
    """Of every output the inputs it is made of `[after, K]` and their weights, a triangle, which sum to one."""
    number = type(scale)
    reach = max(scale, number(1))
    centres = scale * (np.arange(after, dtype=number) + number(0.5))
    first = np.maximum((centres - reach + number(0.5)).astype(np.int64), 0)
    last = np.minimum((centres + reach + number(0.5)).astype(np.int64), before)
    index = first[:, None] + np.arange(math.ceil(reach) * 2 + 1)  # [after, K]
    distance = (index.astype(number) - centres[:, None] + number(0.5)) * (1 / reach)
    weights = np.maximum(1 - np.abs(distance), 0) * (index < last[:, None])
    weights /= np.add.accumulate(weights, axis=1)[:, -1:]
    return index.clip(0, before - 1), weights


def _nearest_two(before: int, after: int, scale: np.floating) -> tuple[np.ndarray, np.ndarray]:
    """Of every output the two inputs it lies between `[after, 2]`, and their weights."""
    places = float(scale) * (np.arange(after) + 0.5) - 0.5
    places = np.maximum(places, 0).astype(np.float32)
    first = np.minimum(places.astype(np.int64), before - 1)
    share = np.minimum(places - first.astype(np.float32), 1)
    return np.stack([first, np.minimum(first + 1, before - 1)], axis=1), np.stack([1 - share, share], axis=1)


def _in_15_bits(weights: np.ndarray) -> tuple[np.ndarray, int]:
    """Weights as multiples of the highest power of 1/2 with which the largest fits in 15 bits, and that power."""
    bits = 0
    while bits < 22 and int(0.5 + weights.max() * 2 ** (bits + 1)) < 1 << 15:
        bits += 1
    return np.floor(weights * 2**bits + 0.5) / 2**bits, bits
