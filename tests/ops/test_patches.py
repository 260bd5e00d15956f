"""Patches of images and places to look at, against forms that go pixel by pixel, cell by cell and place by place."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aweigh.ops.patches import Patches, cut_patches, into_patches, out_of_patches, whole_images
from aweigh.ops.places import Places, around_boxes, attended, best_places

BEYOND = torch.tensor([0.25, 0.5, 0.75])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# Patches


def slow_patch(image: np.ndarray, size_hw: tuple[int, int], middle: list[float], scale: float, side: int) -> np.ndarray:
    """Pixel by pixel, in float64: bilinear between the middles of the image's pixels, those at its edge reaching out to
    it."""
    height, width = size_hw
    patch = np.tile(BEYOND.double().numpy()[:, None, None], (1, side, side))
    for row in range(side):
        for column in range(side):
            x, y = ((at + 0.5 - side / 2) / scale + center for at, center in zip((column, row), middle, strict=True))
            if not (0 < x < width and 0 < y < height):
                continue
            x, y = min(max(x - 0.5, 0), width - 1), min(max(y - 0.5, 0), height - 1)
            total = np.zeros(3)
            for j in (math.floor(y), math.floor(y) + 1):
                for i in (math.floor(x), math.floor(x) + 1):
                    weight = max(0.0, 1 - abs(x - i)) * max(0.0, 1 - abs(y - j))
                    total += weight * image[:, min(j, height - 1), min(i, width - 1)]
            patch[:, row, column] = total
    return patch


def test_patches_are_those_of_a_slow_form() -> None:
    pixels, sizes_hw = drawn(2, 3, 20, 30), torch.tensor([[20, 30], [13, 17]])
    middles = [[15.0, 10.0], [8.25, 6.5], [0.0, 0.0], [17.0, 3.1], [40.0, 5.0], [1.0, 12.75]]
    scales, image = [0.4, 1.0, 2.5, 0.9, 1.0, 3.7], [0, 1, 1, 1, 0, 1]
    patches = Patches(torch.tensor(image), torch.tensor(middles), torch.tensor(scales))
    found = cut_patches(pixels, sizes_hw, patches, 11, BEYOND)
    assert found.shape == (6, 3, 11, 11)
    for row, (index, middle, scale) in enumerate(zip(image, middles, scales, strict=True)):
        size_hw = (int(sizes_hw[index, 0]), int(sizes_hw[index, 1]))
        expected = slow_patch(pixels[index].double().numpy(), size_hw, middle, scale, 11)
        np.testing.assert_allclose(found[row], expected, atol=1e-5)
    assert (found[4] == BEYOND[:, None, None]).all()  # beyond the image, all of it


def test_an_image_of_the_size_of_a_patch_is_the_patch() -> None:
    pixels = drawn(1, 3, 15, 15)
    sizes_hw = torch.tensor([[15, 15]])
    assert torch.equal(cut_patches(pixels, sizes_hw, whole_images(sizes_hw, 15), 15, BEYOND), pixels)


@pytest.mark.parametrize("side", [9, 24])
def test_a_whole_image_is_resized_as_torch_does(side: int) -> None:
    pixels, sizes_hw = drawn(2, 3, 18, 18), torch.tensor([[18, 18]] * 2)
    found = cut_patches(pixels, sizes_hw, whole_images(sizes_hw, side), side, BEYOND)
    torch.testing.assert_close(found, F.interpolate(pixels, (side, side), mode="bilinear"), atol=1e-5, rtol=0)


def test_a_long_image_lies_in_the_middle_of_its_patch() -> None:
    sizes_hw = torch.tensor([[10, 40], [1, 1]])
    patches = whole_images(sizes_hw, 20)
    assert patches.scales.tolist() == [0.5, 20.0] and patches.middles.tolist() == [[20, 5], [0.5, 0.5]]
    found = cut_patches(torch.ones(2, 3, 10, 40), sizes_hw, patches, 20, BEYOND)
    rows = (found[0, 0] == 1).all(dim=1).nonzero().flatten()
    assert rows.tolist() == [8, 9, 10, 11]  # it reaches from 7.5 to 12.5; these have their middles in it
    assert (found[1] == 1).all()


def test_no_patches() -> None:
    none = Patches(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2), torch.zeros(0))
    assert cut_patches(drawn(1, 3, 8, 8), torch.tensor([[8, 8]]), none, 5, BEYOND).shape == (0, 3, 5, 5)
    assert none.portions(4) == [] and into_patches(torch.zeros(0, 2, 4), none, 5).shape == (0, 2, 4)


def test_portions_are_all_of_them_in_order() -> None:
    patches = Patches(torch.arange(5), drawn(5, 2), drawn(5))
    parts = patches.portions(2)
    assert [len(part.scales) for part in parts] == [2, 2, 1]
    for before, after in zip(patches, (torch.cat(each) for each in zip(*parts, strict=True)), strict=True):
        assert torch.equal(before, after)


def test_boxes_go_into_a_patch_and_out_of_it() -> None:
    patches = Patches(torch.tensor([0, 0]), torch.tensor([[30.0, 20.0], [5.0, 5.0]]), torch.tensor([2.0, 0.5]))
    boxes = torch.tensor([[[28.0, 18, 33, 20]], [[5, 5, 15, 25]]])
    inside = into_patches(boxes, patches, 10)
    assert inside.tolist() == [[[1, 1, 11, 5]], [[5, 5, 10, 15]]]
    torch.testing.assert_close(out_of_patches(inside, patches, 10), boxes)
    torch.testing.assert_close(out_of_patches(inside[..., :2], patches, 10), boxes[..., :2])


# Places


def slow_attended(
    logits: Tensor, view: Patches, size_hw: tuple[int, int], side: int, stride: float, zoom: float, threshold: float
) -> dict[tuple[int, int], tuple[float, float, float]]:
    """By (row, column): x, y and score of the cells of one view that are places."""
    found = {}
    scale = float(view.scales[0])
    if scale > 2 or zoom * scale > 4:
        return found
    for row, column in np.ndindex(*logits.shape):
        around = logits[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        score = 1 / (1 + math.exp(-float(logits[row, column])))
        x, y = (
            (at * stride - side / 2) / scale + float(middle)
            for at, middle in zip((column, row), view.middles[0], strict=True)
        )
        if logits[row, column] == around.max() and score > threshold and 0 <= x < size_hw[1] and 0 <= y < size_hw[0]:
            found[row, column] = (x, y, score)
    return found


@pytest.mark.parametrize(("zoom", "longest"), [(1.0, 60), (2.0, 60), (4.0, 60), (4.0, 30), (1.0, 15), (2.0, 2)])
def test_attended_places_are_those_of_a_slow_form(zoom: float, longest: int) -> None:
    logits = (drawn(2, 1, 8, 8) * 6 - 3).round(decimals=1)  # with equal ones
    sizes_hw = torch.tensor([[longest, max(1, longest // 2)], [max(1, longest // 3), longest]])
    views = whole_images(sizes_hw, 63)
    places = attended(logits, views, sizes_hw, 63, stride=8, zoom=zoom, threshold=0.3)
    assert places.middles.shape == (2, 64, 2) and places.scales.shape == places.scores.shape == (2, 64)
    for image, view in enumerate(views.portions(1)):
        size_hw = (int(sizes_hw[image, 0]), int(sizes_hw[image, 1]))
        expected = slow_attended(logits[image, 0], view, size_hw, 63, 8, zoom, 0.3)
        kept = places.scores[image].nonzero().flatten().tolist()
        assert [(cell // 8, cell % 8) for cell in kept] == sorted(expected)
        assert (len(expected) > 0) == (zoom * 63 / longest <= 4 and 63 / longest <= 2)
        for cell in kept:
            x, y, score = expected[cell // 8, cell % 8]
            assert places.middles[image, cell].tolist() == pytest.approx([x, y], abs=1e-4)
            assert float(places.scores[image, cell]) == pytest.approx(score, abs=1e-6)
            assert float(places.scales[image, cell]) == pytest.approx(zoom * 63 / longest)


def test_looks_round_boxes_by_hand() -> None:
    boxes = torch.tensor([[[0.0, 0, 100, 50], [0, 0, 96, 96], [10, 10, 20, 42.5], [0, 0, 32, 8], [5, 5, 6, 5.5]]])
    places = around_boxes(boxes, torch.tensor([[0.9, 0.6, 0.51, 0.5, 0.7]]), threshold=0.5)
    assert places.middles.tolist() == [[[50, 25], [48, 48], [15, 26.25], [16, 4], [5.5, 5.25]]]
    assert places.scores.tolist() == [[1, 1, 1, 0, 1]]  # before all others, whatever they score
    assert places.scales[0].tolist() == pytest.approx([192 / 100, 64 / 96, 64 / 32.5, 24 / 32, 24])


def slow_best(places: list[tuple[float, float, float, float]], count: int, distance: float) -> list[tuple[float, ...]]:
    """Of (score, x, y, scale), best first: each is kept that no better kept one hides."""
    kept: list[tuple[float, ...]] = []
    for score, x, y, scale in sorted(places, reverse=True):
        hidden = any(
            min(abs(x - a), abs(y - b)) <= distance / other and 0.8 <= other / scale <= 1.2 for _, a, b, other in kept
        )
        if score > 0 and not hidden:
            kept.append((score, x, y, scale))
    return kept[:count]


@pytest.mark.parametrize("count", [1, 4, 40])
def test_best_places_are_those_of_a_slow_form(count: int) -> None:
    middles, scales = drawn(2, 60, 2) * 400, drawn(2, 60, seed=1) * 3.5 + 0.5
    scores = (drawn(2, 60, seed=2) - 0.3).clamp(min=0)
    found = best_places(Places(middles, scales, scores), count, distance=16)
    assert found.middles.shape == (2, count, 2) and found.scales.shape == found.scores.shape == (2, count)
    for image in range(2):
        rows = torch.cat([scores[image, :, None], middles[image], scales[image, :, None]], dim=1).tolist()
        expected = slow_best([tuple(row) for row in rows], count, 16)
        assert 1 <= len(expected) <= count and (count < 40 or len(expected) < 40)
        kept = [
            (float(score), *middle.tolist(), float(scale))
            for middle, scale, score in zip(*(part[image] for part in found), strict=True)
            if score > 0
        ]
        assert kept == expected


def test_no_places() -> None:
    none = Places(torch.zeros(1, 3, 2), torch.ones(1, 3), torch.zeros(1, 3))
    assert best_places(none, 2, distance=16).scores.tolist() == [[0, 0]]
