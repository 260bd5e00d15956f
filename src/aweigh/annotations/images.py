"""An image in the pixels that its annotations were made on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aweigh.annotations.problems import CHANGED, Problem
from aweigh.annotations.records import SAME_SHAPE
from aweigh.errors import DataError
from aweigh.images.reader import SizeRule, read_reduced


def read_as_annotated(
    path: Path, declared_hw: tuple[int, int], needed: SizeRule | None = None
) -> tuple[np.ndarray, tuple[int, int], Problem | None]:
    """The pixels `[h, w, 3]` uint8, the size of the whole image, and what had to be mended.

    needed: in which size the image is needed; a much larger JPEG is decoded at a reduced size, see `read_reduced`.
    Where the declared size is that of the image before its EXIF rotation, the annotations were made on the unrotated
    pixels, and these are used. Where it is the same image at another size, its boxes are to be scaled. Of an image that
    cannot be read, or of another shape, it is a `DataError`.
    """
    pixels, full_hw = read_reduced(path, needed)
    if full_hw == declared_hw:
        return pixels, full_hw, None
    said = f"annotations say {declared_hw[1]} x {declared_hw[0]}, the image is {full_hw[1]} x {full_hw[0]}"
    if full_hw[::-1] == declared_hw:
        unrotated, unrotated_hw = read_reduced(path, needed, exif="ignore")
        if unrotated_hw == declared_hw:
            detail = f"{said} once its EXIF rotation is applied; used without rotation, as it was annotated"
            return unrotated, declared_hw, Problem("annotated before EXIF rotation", str(path), None, detail, CHANGED)
    if abs(full_hw[0] * declared_hw[1] / (full_hw[1] * declared_hw[0]) - 1) <= SAME_SHAPE:
        problem = Problem("another size than declared", str(path), None, f"{said}; boxes scaled", CHANGED)
        return pixels, full_hw, problem
    raise DataError(f"{path}: {said}, another shape; the boxes cannot be placed. Correct the annotations.")
