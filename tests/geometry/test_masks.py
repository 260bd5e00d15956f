"""Masks: pixels equal torchvision's and detectron2's rule, run lengths pycocotools', in the memory of one object."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pycocotools import mask as reference
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from aweigh.errors import UsageError
from aweigh.geometry.masks import count_runs, decode_counts, encode_counts, paste, run_lengths, windows

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")

SIZE_HW = (61, 87)


def some_masks(count: int, side: int = 28, seed: int = 0) -> np.ndarray:
    """Smooth shapes with soft edges, `[count, side, side]` in `[0, 1]`."""
    noise = torch.randn(count, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    return (4 * F.interpolate(noise, size=(side, side), mode="bicubic")).sigmoid()[:, 0].numpy()


def some_boxes(count: int, seed: int = 0, *, beyond: float = 0.0) -> np.ndarray:
    """Boxes of all sizes in the image, down to a fraction of a pixel, or reaching so far out of it."""
    random = np.random.default_rng(seed)
    height, width = SIZE_HW
    corners = random.random((count, 2)) * [width - 1, height - 1]
    reach = [width, height] - corners
    sides = reach * random.random((count, 2)) ** 2 + 0.05
    if beyond:
        corners = corners + beyond * (2 * random.random((count, 2)) - 1)
    ends = corners + sides if beyond else np.minimum(corners + sides, corners + reach)
    return np.concatenate([corners, ends], axis=1).astype(np.float32)


@pytest.mark.parametrize("side", [7, 28])
@pytest.mark.parametrize("beyond", [0.0, 30.0])
def test_rounded_pixels_are_torchvisions(side: int, beyond: float) -> None:
    masks, boxes = some_masks(300, side), some_boxes(300, beyond=beyond)
    ours = paste(masks, boxes, SIZE_HW, rounded=True)
    grown = (boxes[:, 2:] - boxes[:, :2]) / side + 2  # torchvision fails on boxes wholly outside
    inside = ((boxes[:, 2:] > grown) & (boxes[:, :2] < np.array(SIZE_HW[::-1]) - grown)).all(axis=1)
    tensors = torch.from_numpy(masks[inside, None]), torch.from_numpy(boxes[inside])
    theirs = paste_masks_in_image(*tensors, SIZE_HW)[:, 0].numpy() > 0.5
    assert inside.sum() > 200 and theirs.any(axis=(1, 2)).mean() > 0.5
    assert (ours[inside] == theirs).all()


def by_grid_sample(mask: np.ndarray, box: np.ndarray) -> np.ndarray:
    """One mask at the centres of all pixels, as detectron2 samples: linear in the box, nothing beyond the mask."""
    height, width = SIZE_HW
    x0, y0, x1, y1 = box.tolist()
    xs = (torch.arange(width, dtype=torch.float64) + 0.5 - x0) / (x1 - x0) * 2 - 1
    ys = (torch.arange(height, dtype=torch.float64) + 0.5 - y0) / (y1 - y0) * 2 - 1
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)[None]
    return F.grid_sample(torch.from_numpy(mask)[None, None].double(), grid, align_corners=False)[0, 0].numpy()


@pytest.mark.parametrize("beyond", [0.0, 30.0])
def test_exact_pixels_are_those_of_sampling_at_their_centres(beyond: float) -> None:
    masks, boxes = some_masks(100), some_boxes(100, beyond=beyond)
    ours = paste(masks, boxes, SIZE_HW)
    assert ours.any(axis=(1, 2)).mean() > 0.5
    for mask, box, pixels in zip(masks, boxes, ours, strict=True):
        values = by_grid_sample(mask, box)
        sure = np.abs(values - 0.5) > 1e-5
        assert (pixels == (values >= 0.5))[sure].all() and sure.mean() > 0.999


def test_a_full_mask_covers_exactly_the_pixels_whose_centre_is_in_the_box() -> None:
    boxes = np.array([[10, 20, 14, 26], [10.4, 20.6, 14.6, 25.4], [-5, -5, 500, 500]], np.float32)
    pixels = paste(np.ones((3, 28, 28), np.float32), boxes, SIZE_HW)
    assert pixels[0, 20:26, 10:14].all() and pixels[0].sum() == 24
    assert pixels[1, 21:25, 10:15].all() and pixels[1].sum() == 20
    assert pixels[2].all()


@pytest.mark.parametrize("rounded", [False, True])
def test_nothing_is_an_ordinary_case(rounded: bool) -> None:
    assert paste(np.zeros((0, 28, 28)), np.zeros((0, 4)), SIZE_HW, rounded=rounded).shape == (0, *SIZE_HW)
    outside = np.array([[200, 10, 220, 20], [-40, -40, -20, -20], [3e7, 3e7, 3.1e7, 3.1e7], [5, 5, 5, 5]], np.float32)
    masks = np.ones((4, 28, 28), np.float32)
    pixels = paste(masks, outside, SIZE_HW, rounded=rounded)
    assert not pixels[:3].any() and pixels[3].sum() <= 1
    assert run_lengths(masks[:3], outside[:3], SIZE_HW, rounded=rounded) == [encoded(pixels[0])] * 3


def encoded(pixels: np.ndarray) -> str:
    return reference.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"].decode()


@pytest.mark.parametrize("rounded", [False, True])
def test_run_lengths_are_those_of_pycocotools(rounded: bool) -> None:
    masks, boxes = some_masks(120, seed=1), some_boxes(120, seed=1, beyond=20)
    boxes[0], masks[0] = [-9.0, -9.0, 99.0, 99.0], 1.0  # the whole image
    boxes[1], masks[1] = [8.0, -3.0, 9.0, 70.0], 1.0  # one column
    boxes[2], masks[2] = [8.0, -9.0, 30.0, 90.0], 1.0  # full columns, one run
    texts = run_lengths(masks, boxes, SIZE_HW, rounded=rounded)
    pixels = paste(masks, boxes, SIZE_HW, rounded=rounded)
    assert texts == [encoded(one) for one in pixels]
    if not rounded:
        assert decode_counts(texts[0].encode()).tolist() == [0, 61 * 87]
        assert decode_counts(texts[2].encode()).tolist() == [8 * 61, 22 * 61, 57 * 61]


@pytest.mark.parametrize("seed", range(4))
def test_any_window_in_any_place(seed: int) -> None:
    """Random pixels, so that runs end and begin at the head and foot of columns."""
    random = np.random.default_rng(seed)
    for _ in range(100):
        height, width = random.integers(1, 9, 2).tolist()
        top, left = int(random.integers(0, height + 1)), int(random.integers(0, width + 1))
        bottom, right = int(random.integers(top, height + 1)), int(random.integers(left, width + 1))
        whole = np.zeros((height, width), dtype=bool)
        whole[top:bottom, left:right] = random.random((bottom - top, right - left)) < random.choice([0.5, 0.9, 1.0])
        counts = count_runs(whole[top:bottom, left:right], (left, top), (height, width))
        assert encode_counts(counts).decode() == encoded(whole)
        assert decode_counts(encode_counts(counts)).tolist() == counts.tolist()


def test_large_numbers_of_pixels_are_encoded() -> None:
    counts = np.array([2**33, 5, 1, 2**32 - 1, 2**31, 0, 7])
    assert decode_counts(encode_counts(counts)).tolist() == counts.tolist()


def test_bitmaps_over_the_budget_are_refused_with_their_bytes() -> None:
    with pytest.raises(
        UsageError, match=r"The bitmaps of 500 objects in 4000 x 3000 pixels take 6,000,000,000 bytes.*run lengths"
    ):
        paste(np.zeros((500, 28, 28)), np.zeros((500, 4)), (3000, 4000))
    with pytest.raises(UsageError, match=r"float \[N, S, S\]"):
        list(windows(np.zeros((2, 28, 28), bool), np.zeros((2, 4)), SIZE_HW))


def test_run_lengths_of_hundreds_of_objects_in_a_large_photograph_need_little_memory(
    memory_needed: Callable[[Callable[[], object]], int],
) -> None:
    """Of 12 megapixels, all of them in one object: 6 GB as bitmaps."""
    masks, boxes = some_masks(500), np.array([[100, 100, 180, 190]] * 500, np.float32)
    boxes[0] = [0, 0, 4000, 3000]
    texts: list[str] = []
    assert memory_needed(lambda: texts.extend(run_lengths(masks, boxes, (3000, 4000)))) < 300 * 2**20
    assert len(texts) == 500
