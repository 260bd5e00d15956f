"""What an image file is that can be read from top to bottom: bands of rows, each a small image file of its own.

A band is read as any other image, so that its pixels are those of the whole, and what is decoded at a time is some
megapixels, however large the whole is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

PIXELS = 1 << 20  # of a band, ours; one row, or one row of blocks of a TIFF, may have more
WIDEST = 1 << 26  # pixels of a row, or of a row of blocks, ours; a wider image is read whole


@dataclass(frozen=True)
class Bands:
    """size_hw: of the whole as it is stored. turn: its EXIF orientation. files: goes through the bands from the top,
    anew each time; `DataError` where the file is damaged."""

    size_hw: tuple[int, int]
    turn: int
    files: Callable[[], Iterator[bytes]]


def reopened(file: Path | BytesIO) -> BinaryIO:
    """The same file with a place of its own, from its beginning."""
    return file.open("rb") if isinstance(file, Path) else BytesIO(file.getvalue())
