"""Masks: pixels equal torchvision's and detectron2's rule, run lengths pycocotools', in the memory of one object."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pycocotools import mask as reference
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

from aweigh.errors import UsageError
from aweigh.ops.masks import count_runs, crop, decode_counts, encode_counts, paste, run_lengths, windows

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")

SIZE_HW = (61, 87)


def some_masks(count: int, side: int = 28, seed: int = 0) -> Tensor:
    """Smooth shapes with soft edges, `[count, side, side]` in `[0, 1]`."""
    noise = torch.randn(count, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    return (4 * F.interpolate(noise, size=(side, side), mode="bicubic")).sigmoid()[:, 0]


def some_boxes(count: int, seed: int = 0, *, beyond: float = 0.0) -> Tensor:
    """Boxes of all sizes in the picture, down to a fraction of a pixel, or reaching so far out of it."""
    generator = torch.Generator().manual_seed(seed)
    height, width = SIZE_HW
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([width - 1.0, height - 1.0])
    reach = torch.tensor([float(width), float(height)]) - corners
    sides = reach * torch.rand(count, 2, generator=generator) ** 2 + 0.05
    if beyond:
        shift = beyond * (2 * torch.rand(count, 2, generator=generator) - 1)
        return torch.cat([corners + shift, corners + sides + shift], dim=1)
    return torch.cat([corners, torch.minimum(corners + sides, corners + reach)], dim=1)


@pytest.mark.parametrize("side", [7, 28])
@pytest.mark.parametrize("beyond", [0.0, 30.0])
def test_rounded_pixels_are_torchvisions(side: int, beyond: float) -> None:
    masks, boxes = some_masks(300, side), some_boxes(300, beyond=beyond)
    ours = paste(masks, boxes, SIZE_HW, rounded=True)
    grown = (boxes[:, 2:] - boxes[:, :2]) / side + 2  # torchvision fails on boxes wholly outside
    inside = ((boxes[:, 2:] > grown) & (boxes[:, :2] < torch.tensor(SIZE_HW[::-1]) - grown)).all(dim=1)
    theirs = paste_masks_in_image(masks[inside, None], boxes[inside], SIZE_HW)[:, 0] > 0.5
    assert inside.sum() > 200 and theirs.any(dim=(1, 2)).float().mean() > 0.5
    assert (ours[inside] == theirs).all()


def by_grid_sample(mask: Tensor, box: Tensor) -> Tensor:
    """One mask at the centres of all pixels, as detectron2 samples: linear in the box, nothing beyond the mask."""
    height, width = SIZE_HW
    x0, y0, x1, y1 = box.double()
    xs = (torch.arange(width, dtype=torch.float64) + 0.5 - x0) / (x1 - x0) * 2 - 1
    ys = (torch.arange(height, dtype=torch.float64) + 0.5 - y0) / (y1 - y0) * 2 - 1
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)[None]
    return F.grid_sample(mask[None, None].double(), grid, align_corners=False)[0, 0]


@pytest.mark.parametrize("beyond", [0.0, 30.0])
def test_exact_pixels_are_those_of_sampling_at_their_centres(beyond: float) -> None:
    masks, boxes = some_masks(100), some_boxes(100, beyond=beyond)
    ours = paste(masks, boxes, SIZE_HW)
    assert ours.any(dim=(1, 2)).float().mean() > 0.5
    for mask, box, pixels in zip(masks, boxes, ours, strict=True):
        values = by_grid_sample(mask, box)
        sure = (values - 0.5).abs() > 1e-5
        assert (pixels == (values >= 0.5))[sure].all() and sure.float().mean() > 0.999


def test_a_full_mask_covers_exactly_the_pixels_whose_centre_is_in_the_box() -> None:
    boxes = torch.tensor([[10.0, 20.0, 14.0, 26.0], [10.4, 20.6, 14.6, 25.4], [-5.0, -5.0, 500.0, 500.0]])
    pixels = paste(torch.ones(3, 28, 28), boxes, SIZE_HW)
    assert pixels[0, 20:26, 10:14].all() and pixels[0].sum() == 24
    assert pixels[1, 21:25, 10:15].all() and pixels[1].sum() == 20
    assert pixels[2].all()


@pytest.mark.parametrize("rounded", [False, True])
def test_nothing_is_an_ordinary_case(rounded: bool) -> None:
    assert paste(torch.zeros(0, 28, 28), torch.zeros(0, 4), SIZE_HW, rounded=rounded).shape == (0, *SIZE_HW)
    outside = torch.tensor([[200.0, 10, 220, 20], [-40.0, -40, -20, -20], [3e7, 3e7, 3.1e7, 3.1e7], [5.0, 5, 5, 5]])
    masks = torch.ones(4, 28, 28)
    pixels = paste(masks, outside, SIZE_HW, rounded=rounded)
    assert not pixels[:3].any() and pixels[3].sum() <= 1
    assert run_lengths(masks[:3], outside[:3], SIZE_HW, rounded=rounded) == [encoded(pixels[0].numpy())] * 3


def encoded(pixels: np.ndarray) -> str:
    return reference.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"].decode()


@pytest.mark.parametrize("rounded", [False, True])
def test_run_lengths_are_those_of_pycocotools(rounded: bool) -> None:
    masks, boxes = some_masks(120, seed=1), some_boxes(120, seed=1, beyond=20)
    boxes[0], masks[0] = torch.tensor([-9.0, -9.0, 99.0, 99.0]), 1.0  # the whole picture
    boxes[1], masks[1] = torch.tensor([8.0, -3.0, 9.0, 70.0]), 1.0  # one column
    boxes[2], masks[2] = torch.tensor([8.0, -9.0, 30.0, 90.0]), 1.0  # full columns, one run
    texts = run_lengths(masks, boxes, SIZE_HW, rounded=rounded)
    pixels = paste(masks, boxes, SIZE_HW, rounded=rounded).numpy()
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
        paste(torch.zeros(500, 28, 28), torch.zeros(500, 4), (3000, 4000))
    with pytest.raises(UsageError, match=r"float \[N, S, S\]"):
        list(windows(torch.zeros(2, 28, 28, dtype=torch.bool), torch.zeros(2, 4), SIZE_HW))


def test_run_lengths_of_hundreds_of_objects_in_a_large_photograph_need_little_memory(
    memory_needed: Callable[[Callable[[], object]], int],
) -> None:
    """Of 12 megapixels, all of them in one object: 6 GB as bitmaps."""
    masks, boxes = some_masks(500), torch.tensor([[100.0, 100.0, 180.0, 190.0]]).repeat(500, 1)
    boxes[0] = torch.tensor([0.0, 0.0, 4000.0, 3000.0])
    texts: list[str] = []
    assert memory_needed(lambda: texts.extend(run_lengths(masks, boxes, (3000, 4000)))) < 300 * 2**20
    assert len(texts) == 500


@pytest.mark.parametrize("size", [7, 28])
def test_crops_are_torchvisions_where_they_are_not_aligned(size: int) -> None:
    masks, boxes = some_masks(9, side=61) > 0.5, some_boxes(40, seed=1, beyond=10)
    index = torch.randint(9, (40,), generator=torch.Generator().manual_seed(0))
    theirs = project_masks_on_boxes(masks, boxes, index, size)
    assert 0.2 < theirs.mean() < 0.8
    for budget in (2**28, 3 * 4 * 61 * 61, 1):  # all at once, three at a time, one by one
        assert torch.equal(crop(masks, index, boxes, size, aligned=False, byte_budget=budget), theirs)


def test_an_aligned_crop_of_whole_pixels_is_the_picture() -> None:
    masks = some_masks(2, side=40) > 0.5
    boxes = torch.tensor([[4.0, 6, 18, 20], [20, 20, 34, 34]])
    cropped = crop(masks, torch.tensor([1, 0]), boxes, 14)
    assert torch.equal(cropped, torch.stack([masks[1, 6:20, 4:18], masks[0, 20:34, 20:34]]).float())
    assert crop(masks[:0], torch.tensor([], dtype=torch.int64), boxes[:0], 14).shape == (0, 14, 14)
