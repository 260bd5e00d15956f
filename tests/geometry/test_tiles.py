"""Where large images are cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh.errors import UsageError
from aweigh.geometry.tiles import Tiles, neighbours, shared, starts

TILES = st.builds(Tiles, st.integers(32, 200), st.floats(0.05, 0.75))
SIDES = st.integers(1, 900)


@settings(max_examples=50, deadline=None)
@given(TILES, SIDES, SIDES)
def test_every_pixel_is_in_a_tile_and_no_tile_reaches_beyond_the_image(tiles: Tiles, height: int, width: int) -> None:
    seen = np.zeros((height, width), dtype=bool)
    for x0, y0, x1, y1 in tiles.cut(height, width):
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        assert (x1 - x0, y1 - y0) == (min(tiles.side, width), min(tiles.side, height))
        seen[y0:y1, x0:x1] = True
    assert seen.all()


@settings(max_examples=50, deadline=None)
@given(TILES, SIDES, st.data())
def test_what_is_no_longer_than_the_overlap_is_whole_in_a_tile(tiles: Tiles, length: int, data: st.DataObject) -> None:
    size = data.draw(st.floats(0, min(tiles.overlap_pixels, length)))
    begin = data.draw(st.floats(0, length - size))
    ends = [(start, start + tiles.side) for start in starts(length, tiles.side, tiles.overlap_pixels)]
    assert any(first <= begin and begin + size <= last for first, last in ends)


@settings(max_examples=50, deadline=None)
@given(TILES, SIDES, SIDES)
def test_neighbours_are_the_tiles_that_share_pixels(tiles: Tiles, height: int, width: int) -> None:
    windows = tiles.cut(height, width)[:40]
    both = {
        (one, other)
        for other in range(len(windows))
        for one in range(other)
        if shared(windows[one], windows[other])[2] > shared(windows[one], windows[other])[0]
        and shared(windows[one], windows[other])[3] > shared(windows[one], windows[other])[1]
    }
    assert {*neighbours(windows)} == both


def test_the_last_tile_is_moved_inwards() -> None:
    assert starts(1500, 640, 128) == [0, 512, 860]
    assert starts(640, 640, 128) == [0]
    assert starts(1152, 640, 128) == [0, 512]


@pytest.mark.parametrize("side, overlap", [(0, 0.2), (640.0, 0.2), (640, 0.0), (640, 1.0), (640, float("nan"))])
def test_tiles_that_cannot_be_are_refused(side: int, overlap: float) -> None:
    with pytest.raises(UsageError, match=r"tile = |overlap = "):
        Tiles(side, overlap)
