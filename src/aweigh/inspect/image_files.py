"""Every image file of a split, looked at once: can it be read, what size has it, what does it resemble?

The pixels of one image per thread are in memory at a time, those of a JPEG already reduced in decoding (which still
reads the whole file, so that one cut short is noticed). What is kept of an image is some 300 bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from aweigh.annotations.problems import CHANGED, KEPT, SKIPPED, Problem
from aweigh.annotations.records import SAME_SHAPE
from aweigh.annotations.split import Split
from aweigh.errors import DataError
from aweigh.images.decode import loaded, orientation
from aweigh.images.opening import opened
from aweigh.images.reader import read_image, read_size
from aweigh.inspect.same_images import THUMB_WH, file_hash, fingerprint

_REDUCED = (128, 128)  # pixels: a JPEG is decoded to no less than this, more than enough for 16 x 16 cells
_AT_ONCE = 512  # images handed to the threads at a time


@dataclass(frozen=True, eq=False)
class Pictures:
    """What was found of the images of one split, in its order.

    problems: by the row of the image, at most one of each. readable: `[I]` bool. hashes: of the bytes of each file,
    None where it was not read. look: `[I]` uint64 and thumbs `[I, 256]` uint8: the fingerprints, meaningful where
    `decoded` `[I]` bool.
    """

    problems: dict[int, Problem]
    readable: np.ndarray
    decoded: np.ndarray
    hashes: list[bytes | None]
    look: np.ndarray
    thumbs: np.ndarray


@dataclass(frozen=True)
class _Looked:
    problem: Problem | None = None
    readable: bool = True
    digest: bytes | None = None
    fingerprint: tuple[int, np.ndarray] | None = None


def look_at_pictures(
    split: Split, *, decode: bool = True, workers: int = 0, progress: Callable[[int], object] = lambda done: None
) -> Pictures:
    """Look at every image file. decode: read the pixels too, else only the header.

    workers: threads; 0 for one per core, 8 at most (decoding and hashing leave Python's lock). progress: called with
    how many images are done.
    """
    count = len(split)
    problems: dict[int, Problem] = {}
    hashes: list[bytes | None] = [None] * count
    readable, decoded = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
    look = np.zeros(count, dtype=np.uint64)
    thumbs = np.zeros((count, THUMB_WH[0] * THUMB_WH[1]), dtype=np.uint8)

    def one(row: int) -> _Looked:
        height, width = split.sizes_hw[row].tolist()
        return look_at(split.paths[row], (height, width), decode=decode)

    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, count, _AT_ONCE):
            part = range(start, min(count, start + _AT_ONCE))
            for row, found in zip(part, pool.map(one, part), strict=True):
                if found.problem is not None:
                    problems[row] = found.problem
                readable[row], hashes[row] = found.readable, found.digest
                if found.fingerprint is not None:
                    decoded[row] = True
                    look[row], thumbs[row] = found.fingerprint
                progress(row + 1)
    return Pictures(problems, readable, decoded, hashes, look, thumbs)


def look_at(path: Path, declared_hw: tuple[int, int], *, decode: bool = True) -> _Looked:
    """One image, judged as training would: what it could not use is `SKIPPED`, what it would mend is `CHANGED`."""
    try:
        height, width = read_size(path, exif="ignore")
        problem = _judge_size(path, (height, width), declared_hw)
        digest = file_hash(path) if decode else None
        seen = _fingerprint(path) if decode else None
    except (DataError, OSError) as error:
        detail = str(error).removeprefix(f"{path}: ")
        return _Looked(Problem("unreadable image", path.name, None, detail, SKIPPED), readable=False)
    return _Looked(problem, problem is None or problem.action != SKIPPED, digest, seen)


def _judge_size(path: Path, stored_hw: tuple[int, int], declared_hw: tuple[int, int]) -> Problem | None:
    """What the sizes tell; `aweigh.feeding.dataset` does the same when it reads an image."""
    with opened(path) as image:
        turn = orientation(image)
    height, width = stored_hw[::-1] if turn >= 5 else stored_hw
    said = f"annotations say {declared_hw[1]} x {declared_hw[0]}, the image is {width} x {height}"
    if (height, width) == declared_hw:
        if turn == 1 or (turn >= 5 and height != width):
            return None
        detail = f"orientation {turn}; {width} x {height} is its size with and without it"
        return Problem("EXIF rotation that the size cannot confirm", path.name, None, detail, KEPT)
    if stored_hw == declared_hw:
        detail = f"{said} once its EXIF rotation is applied; it is used without"
        return Problem("annotated before EXIF rotation", path.name, None, detail, CHANGED)
    if abs(height * declared_hw[1] / (width * declared_hw[0]) - 1) <= SAME_SHAPE:
        return Problem("another size than declared", path.name, None, f"{said}; the boxes are scaled", CHANGED)
    return Problem("another shape than declared", path.name, None, f"{said}; the boxes cannot be placed", SKIPPED)


def _fingerprint(path: Path) -> tuple[int, np.ndarray]:
    """Decode all of the image, as small as its format allows; `DataError` where it is damaged."""
    with opened(path) as image:
        if image.mode.startswith(("I", "F")):  # more than 8 bits: the one reader knows what is black and white
            return fingerprint(Image.fromarray(read_image(path)[:, :, 0]))
        image.draft("L", _REDUCED)  # JPEG alone can do so; nothing happens to others
        loaded(image, "apply", str(path))
        small = image.reduce(max(1, min(image.size) // _REDUCED[0])) if image.mode in ("L", "RGB", "RGBA") else image
        return fingerprint(small.convert("L"))
