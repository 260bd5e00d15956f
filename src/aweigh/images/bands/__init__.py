"""Large image files read from top to bottom, a band of rows at a time: PNG that is not interlaced, and TIFF.

Each format has a file of its own; what a band is stands in `bands`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from aweigh.images.bands.bands import Bands
from aweigh.images.bands.png import bands_of_png
from aweigh.images.bands.tiff import bands_of_tiff
from aweigh.images.decode import ValueRange, loaded, pixels_of
from aweigh.images.opening import Named, opened

__all__ = ["Bands", "Range", "bands_of", "read_ranges"]

Range = tuple[int, int]  # of rows: the first, and the one behind the last


def bands_of(file: Path | BytesIO, image: Image.Image) -> Bands | None:
    """The bands of a file that Pillow opened as this image; None where it has to be read whole."""
    if isinstance(image, PngImageFile):
        return bands_of_png(file)
    return bands_of_tiff(file, image) if isinstance(image, TiffImageFile) else None


def read_ranges(bands: Bands, ranges: Iterable[Range], value_range: ValueRange, name: str) -> Iterator[np.ndarray]:
    """The rows of each range, `(rows, W, 3)` uint8 RGB, as they are stored; no range begins above the one before."""
    each, end = _pixels(bands, value_range, name), 0
    held: list[tuple[int, np.ndarray]] = []  # bands, each with its first row
    for first, last in ranges:
        while end < last:
            held.append((end, next(each)))
            end += len(held[-1][1])
            held = [(top, band) for top, band in held if top + len(band) > first]
        yield np.concatenate([band[max(0, first - top) : max(0, last - top)] for top, band in held])


def _pixels(bands: Bands, value_range: ValueRange, name: str) -> Iterator[np.ndarray]:
    for content in bands.files():
        with opened(Named(content, name)) as image:
            turn = loaded(image, "ignore", name)
            yield pixels_of(image, turn, value_range, name)
