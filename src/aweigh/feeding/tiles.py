"""The tiles of a split, in which a network is trained and validated.

Only their places are kept. A tile is cut out of its image when it is drawn, and what is in sight of the objects with
it, so that nothing is written and the annotations stay those of the images.
Legend: T tiles, C classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Sampler

from aweigh.annotations.images import read_as_annotated
from aweigh.annotations.problems import Problem
from aweigh.annotations.split import Split
from aweigh.feeding.windows import cut_targets
from aweigh.geometry.boxes import pairwise_share
from aweigh.geometry.frames import Frame
from aweigh.geometry.tiles import Tiles, Window
from aweigh.structures import Targets

KEPT_BYTES = 1 << 29  # of pixels that a process keeps, since the next tile may be of the same image; ours


@dataclass(frozen=True, eq=False)
class TileRows:
    """Which tiles there are, and what is in sight in each.

    tiles: how images are cut. min_visible: the share of an object that has to be in sight, for it to be learned.
    image_of: `[T]` int64, the row of the image in its split, rising. windows: `[T, 4]` int64, in the pixels of the
    annotations. shows: `[T, C]` bool, the classes with an object to learn. counts: `[T]` int64, objects in sight.
    """

    tiles: Tiles
    min_visible: float
    image_of: np.ndarray
    windows: np.ndarray
    shows: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, split: Split, tiles: Tiles, *, min_visible: float = 0.25) -> TileRows:
        """All tiles of the images of a split, image by image, as `Tiles.cut` orders them."""
        windows = [np.array(tiles.cut(height, width)) for height, width in split.sizes_hw.tolist()]
        each = [_in_sight(split, row, own, min_visible) for row, own in enumerate(windows)]
        return cls(
            tiles,
            min_visible,
            image_of=np.repeat(np.arange(len(split)), [len(own) for own in windows]),
            windows=np.concatenate([np.zeros((0, 4), np.int64), *windows]),
            shows=np.concatenate([np.zeros((0, len(split.classes)), bool), *(shows for shows, _ in each)]),
            counts=np.concatenate([np.zeros(0, np.int64), *(counts for _, counts in each)]),
        )

    def teaching(self, split: Split) -> TileRows:
        """Those that teach something: of an image of which not all objects are known, the ones with an object."""
        rows = np.flatnonzero(split.complete[self.image_of] | (self.counts > 0))
        kept = (self.image_of[rows], self.windows[rows], self.shows[rows], self.counts[rows])
        return TileRows(self.tiles, self.min_visible, *kept)

    def __len__(self) -> int:
        return len(self.image_of)

    @property
    def sizes_hw(self) -> np.ndarray:
        """`[T, 2]`."""
        return self.windows[:, [3, 2]] - self.windows[:, [1, 0]]

    def window(self, row: int, declared_hw: tuple[int, int], full_hw: tuple[int, int]) -> Window:
        """Where a tile lies in its image, whose size may be another than the one that was annotated."""
        moved = Frame.resize(declared_hw, full_hw).boxes(self.windows[row].astype(np.float64))
        x0, y0, x1, y1 = np.rint(moved).astype(int).tolist()
        return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)

    def cut(self, split: Split, row: int, targets: Targets, *, masks: bool) -> Targets:
        """What is in sight in a tile of the objects of its image, in the pixels of the tile.

        targets: of the whole image, as it was annotated, without masks. masks: whether those of the split are added.
        """
        window, boxes = self.windows[row], targets.boxes.numpy()
        objects = np.flatnonzero(((boxes[:, :2] < window[2:]) & (boxes[:, 2:] > window[:2])).all(axis=1))
        near = np.vstack([boxes[objects], window])  # masks are needed of the tile and of all of the objects in sight
        x0, y0 = np.floor(near[:, :2].min(axis=0)).astype(int).tolist()
        x1, y1 = np.ceil(near[:, 2:].max(axis=0)).astype(int).tolist()
        found = targets[torch.from_numpy(objects)].moved(Frame.shift(-x0, -y0), (y1 - y0, x1 - x0))
        pixels = split.masks_in_window(int(self.image_of[row]), objects, (x0, y0, x1, y1)) if masks else None
        if pixels is not None:
            found = replace(found, masks=torch.from_numpy(pixels))
        left, top, right, bottom = (window - [x0, y0, x0, y0]).tolist()
        return cut_targets(found, (left, top, right, bottom), min_visible=self.min_visible)

    def __str__(self) -> str:
        showing = int(self.shows.any(axis=1).sum())
        return f"{self.tiles}: {len(self):,} of them, {showing:,} of which show objects to learn"


def _in_sight(split: Split, row: int, windows: np.ndarray, min_visible: float) -> tuple[np.ndarray, np.ndarray]:
    """Of the tiles of an image which classes they show `[t, C]`, and how many objects `[t]`."""
    own = slice(int(split.first[row]), int(split.first[row + 1]))
    shares = pairwise_share(split.boxes[own], windows)  # [n, t]
    learned = (shares >= min_visible) & (shares > 0) & ~split.ignore[own, None]
    objects, tiles = np.nonzero(learned)
    shows = np.zeros((len(windows), len(split.classes)), dtype=bool)
    shows[tiles, split.labels[own][objects]] = True
    return shows, (shares > 0).sum(axis=0)


class KeptImages:
    """Images as they were annotated, every pixel; the last ones that were read stay in memory, up to a limit."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit = limit
        self._kept: OrderedDict[Path, tuple[np.ndarray, tuple[int, int], Problem | None]] = OrderedDict()

    def read(self, path: Path, declared_hw: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int], Problem | None]:
        """As `read_as_annotated`."""
        if path not in self._kept:
            self._kept[path] = read_as_annotated(path, declared_hw)
            while len(self._kept) > 1 and sum(pixels.nbytes for pixels, _, _ in self._kept.values()) > self._limit:
                self._kept.popitem(last=False)
        self._kept.move_to_end(path)
        return self._kept[path]


@dataclass(eq=False)
class ImageByImage(Sampler[list[int]]):
    """Batches of the rows of tiles in order, none with tiles of two images.

    The images are dealt to `world` processes, so that each of them has all tiles of an image, in the same batches
    whatever the number of processes.
    """

    rows: TileRows
    batch: int
    rank: int = 0
    world: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        return (rows for _, rows in self.numbered())

    def __len__(self) -> int:
        return sum(1 for _ in self.numbered())

    def numbered(self) -> Iterator[tuple[int, list[int]]]:
        """This process's batches, each with its number among those of all processes."""
        number = 0
        images, firsts = np.unique(self.rows.image_of, return_index=True)
        for image, first, after in zip(images, firsts, [*firsts[1:], len(self.rows)], strict=True):
            for start in range(int(first), int(after), self.batch):
                if image % self.world == self.rank:
                    yield number, [*range(start, min(start + self.batch, int(after)))]
                number += 1
