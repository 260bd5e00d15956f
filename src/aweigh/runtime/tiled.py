"""A large image looked at in tiles: each goes through the network as an image of its own, several at a time.

Every tile is looked at in one scale, that of a whole tile, also where the image is smaller than one: a detector that
was trained on tiles sees objects in the size it knows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np

from aweigh.ahead import computed_ahead
from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.geometry.frames import Frame
from aweigh.geometry.tiles import Tiles, Window
from aweigh.images.resize import Resize
from aweigh.runtime.engine import Batch, Engine
from aweigh.runtime.seams import join
from aweigh.runtime.tta import TTA, find


def check_tiles(engine: Engine) -> None:
    """`UsageError` for a detector that cannot look at tiles."""
    if engine.needs_proposals:
        raise UsageError(f"{engine.name} needs proposals, which are of the whole image; leave the tiles out.")
    if "cuboids" in engine.extras:
        raise UsageError(f"{engine.name} tells depths by sizes in the whole image; leave the tiles out.")


def resize_of_tiles(resize: Resize, tiles: Tiles) -> Resize:
    """The resize step of a detector as one of tiles: by the factor that a whole tile gets."""
    side = resize.size_for(tiles.side, tiles.side)[0]
    return replace(resize, short=None, long=None, scale=side / tiles.side)


def find_in_tiles(
    engine: Engine,
    image: np.ndarray,
    tiles: Tiles,
    resize: Resize,
    tta: TTA,
    *,
    batch: int = 1,
    kept: Callable[[Detections], Detections] = lambda found: found,
) -> Detections:
    """The detections of an image `(H, W, 3)` uint8 RGB, joined at the seams, best first, in its pixels.

    resize: the detector's. batch: how many tiles go through the network together. kept: which detections of a tile
    count. How many there are in the whole is not limited.
    """
    size_hw = image.shape[0], image.shape[1]
    windows = tiles.cut(*size_hw)
    resizes = [resize_of_tiles(each, tiles) for each in tta.resizes(resize)]
    engine, calls = engine.side_by_side() if len(windows) > batch else (engine, 1)

    def look(some: list[Window]) -> list[Detections]:
        parts = [image[y0:y1, x0:x1] for x0, y0, x1, y1 in some]
        batches = [
            Batch.stack([each(part) for part in parts], divisor=engine.stride_divisor, fill=engine.pixel_mean)
            for each in resizes
        ]
        found = find(engine, batches, [part.shape[:2] for part in parts], tta)
        return [kept(own).moved(Frame.shift(x, y), size_hw) for own, (x, y, _, _) in zip(found, some, strict=True)]

    chunks = [windows[first : first + batch] for first in range(0, len(windows), batch)]
    with closing(computed_ahead(look, chunks, ahead=calls if calls > 1 else 0, threads=calls)) as seen:
        found = [own for chunk in seen for own in chunk]
    return join(found, windows, agnostic=engine.selection.nms == "agnostic")
