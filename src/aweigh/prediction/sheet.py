"""A sheet of images of a split with what was found in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aweigh.annotations.images import read_as_annotated
from aweigh.annotations.split import Split
from aweigh.detections import Detections
from aweigh.errors import DataError
from aweigh.files import atomic_file
from aweigh.geometry.frames import Frame
from aweigh.geometry.tiles import Tiles
from aweigh.images.reader import read_by_rows
from aweigh.images.resize import Resize
from aweigh.runtime.engine import Batch, Engine
from aweigh.runtime.tiled import find_in_tiles
from aweigh.runtime.tta import PLAIN, TTA, find
from aweigh.visualise.pictures import as_picture, draw_detections
from aweigh.visualise.sheet import enlarged, grid

LARGE_CELL = 900  # pixels: the long side of an image in the sheet


def save_predictions(
    engine: Engine,
    resize: Resize,
    split: Split,
    path: Path,
    *,
    tta: TTA = PLAIN,
    tiles: Tiles | None = None,
    count: int = 6,
    min_score: float = 0.5,
) -> None:
    """Images of the split, evenly chosen, with the detections of an engine, large enough to see both.

    tiles: in which the images are looked at; whole when not given.
    """
    pictures, captions = [], []
    for row in evenly(len(split), count):
        declared_hw = (int(split.sizes_hw[row, 0]), int(split.sizes_hw[row, 1]))
        try:
            image, _, _ = read_as_annotated(split.paths[row], declared_hw)
        except DataError:  # it was told where the numbers are
            continue
        if tiles is None:
            proposals = None if split.proposals is None else split.proposals.of_image(row)
            found = _whole(engine, image, resize, tta, proposals, declared_hw)
        else:
            found = find_in_tiles(engine, read_by_rows(image), tiles, resize, tta)
        picture = enlarged(as_picture(image), LARGE_CELL)
        pictures.append(draw_detections(picture, found.resized((picture.height, picture.width)), min_score=min_score))
        captions.append(Path(split.paths[row]).name)
    if pictures:
        title = f"{split.title}: detections with a score from {min_score:.2f}"
        with atomic_file(path) as aside:
            grid(pictures, columns=2, captions=captions, title=title).save(aside)


def _whole(
    engine: Engine,
    image: np.ndarray,
    resize: Resize,
    tta: TTA,
    proposals: np.ndarray | None,
    declared_hw: tuple[int, int],
) -> Detections:
    """The detections of an image that is looked at as a whole. proposals: `[P, 4]`, of an image of `declared_hw`."""
    batches = []
    for size in tta.resizes(resize):
        batch = Batch.stack([size(image)], divisor=engine.stride_divisor, fill=engine.pixel_mean)
        if proposals is not None:
            batch = batch.with_proposals([Frame.resize(declared_hw, batch.sizes_hw[0]).boxes(proposals)])
        batches.append(batch)
    (found,) = find(engine, batches, [(image.shape[0], image.shape[1])], tta)
    return found


def evenly(length: int, count: int) -> list[int]:
    """Up to `count` rows, spread evenly over all."""
    return np.linspace(0, length - 1, min(count, length)).astype(int).tolist() if length else []
