"""Large images in tiles: where they are cut.

A tile is a window `(x0, y0, x1, y1)` of whole pixels. Tiles are squares that overlap, so that every object no longer
and no wider than the overlap is whole in one of them; the last of a row or column is moved inwards, so that none
reaches beyond the image and none is smaller than the others but where the image is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aweigh.errors import UsageError

Window = tuple[int, int, int, int]
OVERLAPS = (0.05, 0.75)  # with less no object would be seen by two tiles, with more every place by sixteen and more
SIDES = (32, 8192)  # ours
OVERLAP = 0.2  # the usual one


@dataclass(frozen=True)
class Tiles:
    """side: of a tile, in pixels of the image. overlap: how much of it the next tile sees as well."""

    side: int
    overlap: float = OVERLAP

    def __post_init__(self) -> None:
        if type(self.side) is not int or not SIDES[0] <= self.side <= SIDES[1]:
            raise UsageError(f"tile = {self.side!r}: expected pixels, {SIDES[0]} to {SIDES[1]}.")
        if not OVERLAPS[0] <= self.overlap <= OVERLAPS[1]:
            raise UsageError(
                f"overlap = {self.overlap!r}: expected a share of the tile's side, {OVERLAPS[0]} to {OVERLAPS[1]}."
            )

    @property
    def overlap_pixels(self) -> int:
        """What two neighbours see both, at least."""
        return round(self.side * self.overlap)

    def cut(self, height: int, width: int) -> list[Window]:
        """The tiles of an image, row by row."""
        rows, columns = (starts(length, self.side, self.overlap_pixels) for length in (height, width))
        return [(x, y, min(x + self.side, width), min(y + self.side, height)) for y in rows for x in columns]

    def count(self, height: int, width: int) -> int:
        """How many there are."""
        rows, columns = (starts(length, self.side, self.overlap_pixels) for length in (height, width))
        return len(rows) * len(columns)

    def __str__(self) -> str:
        return f"tiles of {self.side} x {self.side}, overlapping by {self.overlap_pixels}"


def check_tiles(name: str, extras: Sequence[str], *, needs_proposals: bool) -> None:
    """`UsageError` for a detector of this name that cannot look at tiles. extras: what it tells beside boxes."""
    if needs_proposals:
        raise UsageError(f"{name} needs proposals, which are of the whole image; leave the tiles out.")
    if "cuboids" in extras:
        raise UsageError(f"{name} tells depths by sizes in the whole image; leave the tiles out.")


def starts(length: int, side: int, overlap: int) -> list[int]:
    """Where tiles of `side` begin along `length` pixels; two that follow each other share `overlap` pixels or more."""
    if length <= side:
        return [0]
    return [*range(0, length - side, side - overlap), length - side]


def shared(first: Window, second: Window) -> Window:
    """What two windows have both; of no width or height where they have nothing."""
    x0, y0 = max(first[0], second[0]), max(first[1], second[1])
    return x0, y0, max(x0, min(first[2], second[2])), max(y0, min(first[3], second[3]))


def neighbours(windows: list[Window]) -> list[tuple[int, int]]:
    """The pairs of windows, as `cut` orders them, that see some of the same pixels; the earlier first."""
    pairs = []
    for first, (_, _, x1, y1) in enumerate(windows):
        for second in range(first + 1, len(windows)):
            if windows[second][1] >= y1:  # it and all that follow lie below
                break
            if windows[second][0] < x1 and windows[second][2] > windows[first][0]:
                pairs.append((first, second))
    return pairs
