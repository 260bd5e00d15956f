"""Scaling in NumPy: what it makes of simple images, and the same pixels whoever computes them."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from aweigh.errors import UsageError
from aweigh.images.resample import _blocks, resample
from aweigh.images.resize import Resize

DIGEST = """
import hashlib, numpy as np
from aweigh.images.resample import resample
image = np.random.default_rng(0).integers(0, 256, (900, 1300, 3), dtype=np.uint8)
for pixels in (image, image.astype(np.float32) / np.float32(255)):
    for antialias in (True, False):
        print(hashlib.sha256(resample(pixels, (333, 480), antialias=antialias).tobytes()).hexdigest())
"""


@pytest.mark.parametrize("antialias", [True, False])
def test_one_colour_stays_and_halves_are_means(antialias: bool) -> None:
    flat = np.full((37, 53, 3), (7, 128, 250), np.uint8)
    for size_hw in ((1, 1), (9, 100), (37, 52), (200, 3)):
        scaled = resample(flat, size_hw, antialias=antialias)
        assert scaled.shape == (3, *size_hw) and scaled.dtype == (np.uint8 if antialias else np.float32)
        np.testing.assert_allclose(scaled, np.broadcast_to([[[7]], [[128]], [[250]]], scaled.shape), rtol=1e-6)
    halves = resample(np.array([[[0.0], [1], [1], [0]]]), (1, 2), antialias=False)  # between the two of each half
    assert halves.tolist() == [[[0.5, 0.5]]]


@pytest.mark.parametrize("after", [1920, 900, 600, 479, 416, 241, 200, 100])
def test_sums_of_grey_levels_are_exact(after: int) -> None:
    """In the numbers that they are computed in, whatever the pixels and the number of bits that weights take."""
    dice = np.random.default_rng(0)
    pixels = np.array([[255] * 960, dice.integers(0, 256, 960), 255 * dice.integers(0, 2, 960)], np.float32)
    for _, _, first, last, weights in _blocks(960, after, 960, antialias=True, whole=True):
        wanted = pixels[:, first:last].astype(np.float64) @ weights.T.astype(np.float64)
        sums = pixels[:, first:last] @ weights.T
        assert (sums == wanted).all() and (np.floor(sums + np.float32(0.5)) == np.floor(wanted + 0.5)).all()
        assert weights.dtype == (np.float32 if after > 240 else np.float64)  # which a share below 1/4 takes


def test_a_part_of_an_image_becomes_the_whole() -> None:
    """An image decoded at a half whose last column reaches half a pixel beyond the whole: edges stay in place."""
    steps = (np.arange(81)[None, :, None] >= 40).repeat(60, axis=0).astype(np.float32)
    middle = resample(steps, (60, 20), antialias=True, span_hw=(60, 80.5))[0, 0]
    np.testing.assert_allclose(middle[[*range(9), *range(11, 20)]], [0] * 9 + [1] * 9, atol=1e-6)
    assert middle[9] + middle[10] == pytest.approx(11 - 40 / 4.025, abs=0.01)  # the edge lies at 40 of 80.5


@pytest.mark.parametrize(("kind", "size_hw"), [(np.uint8, (20, 30)), (np.float32, (20, 30)), (np.uint8, (40, 60))])
def test_an_image_is_left_as_it_was(kind: type, size_hw: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 2, (40, 60, 3)).astype(kind)
    before = image.copy()
    scaled = Resize(None, size_hw[1])(image)
    scaled *= 0
    np.testing.assert_array_equal(image, before)
    assert scaled.dtype == np.float32 and scaled.shape == (3, *size_hw)


def test_a_large_image_is_scaled_in_strips(
    monkeypatch: pytest.MonkeyPatch, memory_needed: Callable[[Callable[[], object]], int]
) -> None:
    """24 megapixels as floats would be 288 MB. Strips of bytes give the pixels of the whole."""
    large = np.zeros((6000, 4000, 3), np.uint8)
    assert memory_needed(lambda: resample(large, (300, 200), antialias=True)) < 120e6
    image = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)
    whole = resample(image, (20, 31), antialias=True)
    monkeypatch.setattr("aweigh.images.resample.STRIP", 7 * 90)
    np.testing.assert_array_equal(resample(image, (20, 31), antialias=True), whole)


@pytest.mark.parametrize("wrong", [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3), np.int64)])
def test_what_is_no_image_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"uint8 or float \(H, W, 3\)"):
        Resize(None, 3)(wrong)


def test_the_same_pixels_whatever_the_number_of_threads() -> None:
    """Of the library that multiplies matrices, and of those who call."""
    digests = set()
    for threads in ("1", "4"):
        counts = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        command = [sys.executable, "-c", DIGEST]
        digests.add(subprocess.run(command, env=os.environ | counts, capture_output=True, check=True).stdout)
    (said,) = digests
    image = np.random.default_rng(0).integers(0, 256, (900, 1300, 3), dtype=np.uint8)
    with ThreadPoolExecutor(4) as pool:
        for scaled in pool.map(lambda _: resample(image, (333, 480), antialias=True), range(4)):
            assert hashlib.sha256(scaled.tobytes()).hexdigest() == said.decode().split()[0]
