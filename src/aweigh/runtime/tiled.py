"""A large image looked at in tiles: each goes through the network as an image of its own, several at a time.

Every tile is looked at in one scale, that of a whole tile, also where the image is smaller than one: a detector that
was trained on tiles sees objects in the size it knows. The image is read from its top to its bottom, and of a large PNG
or TIFF no more is in memory than some rows of tiles; seams are joined row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain, groupby, islice, zip_longest

import numpy as np

from aweigh.ahead import computed_ahead
from aweigh.detections import Detections
from aweigh.geometry.frames import Frame
from aweigh.geometry.tiles import Tiles, Window
from aweigh.images.reader import ByRows
from aweigh.images.resize import Resize
from aweigh.runtime.engine import Batch, Engine
from aweigh.runtime.seams import Seams
from aweigh.runtime.tta import TTA, find


def find_in_tiles(
    engine: Engine,
    image: ByRows,
    tiles: Tiles,
    resize: Resize,
    tta: TTA,
    *,
    batch: int = 1,
    kept: Callable[[Detections], Detections] = lambda found: found,
) -> Detections:
    """The detections of an image, joined at the seams, best first, in its pixels.

    resize: the detector's. batch: how many tiles go through the network together. kept: which detections of a tile
    count. How many there are in the whole is not limited.
    """
    rows = [[*row] for _, row in groupby(tiles.cut(*image.size_hw), key=lambda window: window[1])]
    resizes = [each.for_tiles(tiles.side) for each in tta.resizes(resize)]
    engine, calls = engine.side_by_side() if sum(map(len, rows)) > batch else (engine, 1)

    def look(some: list[tuple[Window, np.ndarray]]) -> list[Detections]:
        parts = [part for _, part in some]
        batches = [
            Batch.stack([each(part) for part in parts], divisor=engine.stride_divisor, fill=engine.pixel_mean)
            for each in resizes
        ]
        found = find(engine, batches, [part.shape[:2] for part in parts], tta)
        places = [Frame.shift(x, y) for (x, y, _, _), _ in some]
        return [kept(own).moved(place, image.size_hw) for own, place in zip(found, places, strict=True)]

    parts = cut_out(image, rows)
    chunks = iter(lambda: [*islice(parts, batch)], [])
    seams = Seams(agnostic=engine.selection.nms == "agnostic")
    with closing(computed_ahead(look, chunks, ahead=calls if calls > 1 else 0, threads=calls)) as seen:
        found = chain.from_iterable(seen)
        for row, after in zip_longest(rows, rows[1:]):
            seams.add([*islice(found, len(row))], row, after[0][1] if after else math.inf)
    return seams.objects()


def cut_out(image: ByRows, rows: list[list[Window]]) -> Iterator[tuple[Window, np.ndarray]]:
    """Each window of each row with its pixels `(h, w, 3)`; a row of windows is read at a time."""
    for pixels, row in zip(image.read((row[0][1], row[0][3]) for row in rows), rows, strict=True):
        yield from ((window, pixels[:, window[0] : window[2]]) for window in row)
