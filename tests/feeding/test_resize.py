"""What training scales with torch and prediction with NumPy: the same pixels, whatever the sizes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from aweigh.errors import UsageError
from aweigh.feeding.resize import resize_pixels
from aweigh.images.resample import resample

# The positions of torch's float kernels without smoothing are rounded once on processors with fused multiply-adds, as
# ours are, and twice on others.
FUSED = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")

CONTENTS: dict[str, Callable[[np.random.Generator, tuple[int, int, int]], np.ndarray]] = {
    "noise": lambda dice, shape: dice.integers(0, 256, shape),
    "black and white": lambda dice, shape: 255 * dice.integers(0, 2, shape),
    "one colour": lambda dice, shape: np.broadcast_to(dice.integers(0, 256, shape[2]), shape),
    "shades": lambda dice, shape: np.indices(shape[:2]).sum(axis=0)[..., None] % 256 + np.zeros(shape, int),
}


def pixels(content: str, size_hw: tuple[int, int], seed: int = 0) -> np.ndarray:
    return CONTENTS[content](np.random.default_rng(seed), (*size_hw, 3)).astype(np.uint8)


def both(
    image: np.ndarray,
    size_hw: tuple[int, int],
    *,
    antialias: bool,
    span_hw: tuple[float, float] | None = None,
    planar: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """By NumPy and by torch, the latter of the memory order of a decoded image or plane by plane."""
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    theirs = resize_pixels(
        tensor.contiguous() if planar else tensor, size_hw, antialias=antialias, span_hw=span_hw
    ).numpy()
    return resample(image, size_hw, antialias=antialias, span_hw=span_hw), theirs


def unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / np.float32(255)


side, small = st.integers(1, 150), st.integers(1, 60)
cut = st.sampled_from([0, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8])  # by how much the last pixel reaches beyond the whole


@settings(max_examples=150, deadline=None)
@given(
    before=st.one_of(st.tuples(side, side), st.tuples(st.just(1), side), st.tuples(side, st.just(1))),
    after=st.one_of(st.tuples(small, small), st.tuples(small, st.just(1)), st.tuples(st.just(1), small), st.just(None)),
    beyond=st.tuples(cut, cut),
    content=st.sampled_from(list(CONTENTS)),
    seed=st.integers(0, 99),
    planar=st.booleans(),
)
@example(before=(50, 10), after=(13, 10), beyond=(0.5, 0.25), content="black and white", seed=0, planar=False)
@example(before=(72, 2), after=(28, 1), beyond=(0, 0), content="noise", seed=0, planar=True)
def test_numpy_and_torch_agree(
    before: tuple[int, int],
    after: tuple[int, int] | None,
    beyond: tuple[float, float],
    content: str,
    seed: int,
    planar: bool,
) -> None:
    """Bit for bit where pixels stay bytes. `after=None`: one side stays as long as it was."""
    image, after = pixels(content, before, seed), after or (before[0], max(1, before[1] // 2))
    if after == before:
        return
    span_hw = (before[0] - beyond[0], before[1] - beyond[1])
    ours, theirs = both(image, after, antialias=True, span_hw=span_hw, planar=planar)
    assert ours.dtype == theirs.dtype == np.uint8 and ours.shape == theirs.shape == (3, *after)
    np.testing.assert_array_equal(ours, theirs)
    ours, theirs = both(unit(image), after, antialias=True, span_hw=span_hw, planar=planar)
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    ours, theirs = both(unit(image), after, antialias=False, span_hw=span_hw, planar=planar)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 if FUSED else 2e-5)
    np.testing.assert_array_equal(theirs, both(image, after, antialias=False, span_hw=span_hw, planar=planar)[1])


@pytest.mark.parametrize("before", [(3000, 7), (7, 3000), (2500, 1), (1, 2500), (601, 1999)])
@pytest.mark.parametrize("after", [(1, 1), (2, 3), (3, 1), (1, 5)])
def test_a_very_large_reduction(before: tuple[int, int], after: tuple[int, int]) -> None:
    for content in ("noise", "black and white"):
        image = pixels(content, before)
        np.testing.assert_array_equal(*both(image, after, antialias=True))
        np.testing.assert_allclose(*both(unit(image), after, antialias=True), rtol=0, atol=5e-6)  # of thousands of sums


def test_sums_of_more_bits_than_float32_holds_are_exact() -> None:
    """Of a bright image that is reduced by twenty, some 40 of half a million sums would be rounded otherwise."""
    bright = np.random.default_rng(0).integers(200, 256, (600, 6000, 3), dtype=np.uint8)
    np.testing.assert_array_equal(*both(bright, (600, 300), antialias=True))


@pytest.mark.parametrize("before", [(40, 60), (60, 40), (33, 47), (1, 9)])
@pytest.mark.parametrize("after", [(20, 30), (47, 33), (64, 100), (1, 2)])
def test_without_smoothing_it_is_what_torch_calls_bilinear(before: tuple[int, int], after: tuple[int, int]) -> None:
    image = unit(pixels("noise", before))
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
    (theirs,) = functional.interpolate(planes, size=after, mode="bilinear", align_corners=False).numpy()
    np.testing.assert_allclose(resample(image, after, antialias=False), theirs, rtol=0, atol=1e-6 if FUSED else 2e-5)


def test_torch_gives_the_same_pixels_whatever_the_number_of_threads() -> None:
    image, before = pixels("noise", (700, 900)), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append([both(kind, (240, 311), antialias=True)[1] for kind in (image, unit(image))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(results[0], other))


def test_what_is_no_image_is_refused() -> None:
    for wrong in (torch.zeros(4, 5), torch.zeros(3, 4, 5, dtype=torch.int64)):
        with pytest.raises(UsageError, match=r"uint8 or float \[3, H, W\]"):
            resize_pixels(wrong, (2, 2), antialias=True)
