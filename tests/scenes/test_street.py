"""The sample image is what its code draws."""

import numpy as np
from PIL import Image

from aweigh.scenes import STREET
from aweigh.scenes.street import SIZE_WH, draw_street


def test_the_file_is_what_is_drawn() -> None:
    """To what a JPEG loses; letters are as this Pillow writes them."""
    drawn = draw_street()
    assert drawn.size == SIZE_WH and drawn.tobytes() == draw_street().tobytes()
    with Image.open(STREET) as stored:
        apart = np.abs(np.asarray(stored, dtype=np.float32) - np.asarray(drawn, dtype=np.float32))
    assert apart.mean() < 4 and np.percentile(apart, 99) < 20
    assert STREET.stat().st_size < 200_000
