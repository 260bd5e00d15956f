"""Whether boxes were drawn on images as they are stored or as they are shown, where EXIF data rotate them.

A photograph with orientation 5 to 8 has its sides exchanged when it is shown. Tools differ in which sizes they write
and on which image people draw; what they write of the size does not tell the other. The boxes do: of a set, the frame
is taken in which they fit. Where all fit both ways, the size that is said decides. Orientations 2 to 4, and squares,
have one size in both frames, so that nothing can be told from it.

Legend: I images, M boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from aweigh.annotations.problems import CHANGED, MIXED_UP_FROM, Problem
from aweigh.errors import DataError
from aweigh.images.reader import read_size

SLACK = 1.0  # pixels that a box may reach over the edge and still fit, as rounding makes it
MOST_LOOKED_AT = 1000  # images whose boxes fit with exchanged sides alone, in which an EXIF rotation is looked for
AS_SHOWN, AS_STORED = "size before EXIF rotation, boxes after it", "size after EXIF rotation, boxes before it"


def settle_frames(
    paths: Sequence[Path], sizes_hw: np.ndarray, image_of: np.ndarray, boxes: np.ndarray, problems: list[Problem]
) -> np.ndarray:
    """The sizes `[I, 2]` of the images as they were drawn on; a problem for each whose size is exchanged.

    sizes_hw: as the data say. image_of: `[M]`, boxes: `[M, 4]` xyxy, as read. No file is opened while all boxes fit.
    All rotated images go the way of the most boxes that fit one way only; where more than one in twenty of these
    disagrees, each image goes the way of its own boxes, as in a set that two tools have made.
    """
    finite = np.isfinite(boxes).all(axis=1)
    placed = finite & (np.where(finite[:, None], boxes, 0.0)[:, :2] >= -SLACK).all(axis=1)
    sides_wh = np.where(finite[:, None], boxes, 0.0)[:, 2:]
    limits_hw = sizes_hw[image_of].reshape(-1, 2) + SLACK
    fits = placed & (sides_wh <= limits_hw[:, ::-1]).all(axis=1)
    fits_turned = placed & (sides_wh <= limits_hw).all(axis=1)
    suspects = np.unique(image_of[fits_turned & ~fits])
    suspects = suspects[:: max(1, len(suspects) // MOST_LOOKED_AT)]
    if not any(rotated(paths[row], sizes_hw[row]) for row in suspects.tolist()):
        return sizes_hw

    with ThreadPoolExecutor(8) as pool:
        frames = list(pool.map(rotated, paths, sizes_hw))
    turned, said_shown = (np.array([frame in words for frame in frames]) for words in (("stored", "shown"), ("shown",)))
    shown, stored = (np.where(said_shown[image_of], *pair) for pair in ((fits, fits_turned), (fits_turned, fits)))
    votes = np.where(turned[image_of], (shown & ~stored).astype(np.int64) - (stored & ~shown), 0)  # [M]
    for_shown, for_stored = int((votes > 0).sum()), int((votes < 0).sum())
    use_shown = said_shown if for_shown == for_stored else np.full(len(paths), for_shown > for_stored)
    if min(for_shown, for_stored) > MIXED_UP_FROM * (for_shown + for_stored):
        own = np.bincount(image_of, weights=votes, minlength=len(paths))
        use_shown = np.where(own == 0, use_shown, own > 0)
    exchanged = turned & (use_shown != said_shown)
    counts = [int((which & turned[image_of]).sum()) for which in (np.full(len(image_of), True), shown, stored)]
    said = "of {} boxes in rotated images {} fit as these are shown, {} as they are stored".format(*counts)
    for row in np.flatnonzero(exchanged).tolist():
        height, width = sizes_hw[row].tolist()
        how, kind = ("shown", AS_SHOWN) if use_shown[row] else ("stored", AS_STORED)
        detail = f"{width} x {height} is said, it is used as {how}, {height} x {width}: {said}"
        problems.append(Problem(kind, paths[row].name, None, detail, CHANGED))
    return np.where(exchanged[:, None], sizes_hw[:, ::-1], sizes_hw)


def rotated(path: Path, said_hw: np.ndarray) -> str:
    """Of an image whose sides EXIF data exchange, whether the size is that of the "stored" or the "shown" one; else
    nothing."""
    height, width = said_hw.tolist()
    if height == width:
        return ""
    try:
        shown, stored = read_size(path), read_size(path, exif="ignore")
    except (DataError, OSError):
        return ""
    if shown == stored or (height, width) not in (shown, stored):
        return ""
    return "shown" if (height, width) == shown else "stored"
