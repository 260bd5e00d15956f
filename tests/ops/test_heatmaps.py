"""Heat maps against slow forms written from their definitions: radii, Gaussians, peaks, and the loss on them."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from aweigh.ops.boxes import aligned_iou
from aweigh.ops.heatmaps import UNKNOWN, draw_gaussians, gaussian_radius, mean_logits, peaks
from aweigh.ops.losses import penalty_reduced_focal_loss_sum

SIZES = torch.tensor([[8, 8], [20, 20], [50, 30], [100, 100], [128, 128]])


def test_radii_are_those_of_the_authors_code_or_those_of_their_text() -> None:
    expected = torch.tensor([2.187, 5.466, 10.302, 27.33, 34.99]).double()
    torch.testing.assert_close(gaussian_radius(SIZES), expected, atol=0.006, rtol=0)
    expected = torch.tensor([0.653, 1.633, 3.044, 8.17, 10.45]).double()
    torch.testing.assert_close(gaussian_radius(SIZES, kind="corrected"), expected, atol=0.006, rtol=0)


@pytest.mark.parametrize("min_iou", [0.3, 0.7, 0.9])
def test_corners_within_the_corrected_radius_keep_the_iou(min_iou: float) -> None:
    sizes = torch.tensor([[1.0, 1], [3, 40], [17, 5], [128, 96]], dtype=torch.float64)
    radius = gaussian_radius(sizes, kind="corrected", min_iou=min_iou)[:, None]
    boxes = torch.cat([torch.zeros_like(sizes), sizes.flip(1)], dim=1)
    # Each corner may move to each of the four ends of its square.
    ends = [torch.tensor(end) for end in itertools.product((-1.0, 1.0), repeat=4)]
    worst = torch.stack([aligned_iou(boxes, boxes + radius * end) for end in ends]).amin(dim=0)
    torch.testing.assert_close(worst, torch.full_like(worst, min_iou))


def slow_drawing(size: tuple[int, int, int], planes: Tensor, cells: Tensor, radii: Tensor) -> Tensor:
    heatmaps = torch.zeros(size)
    for plane, (x, y), radius in zip(planes.tolist(), cells.tolist(), radii.tolist(), strict=True):
        deviation = (2 * radius + 1) / 6
        for row in range(max(0, y - radius), min(size[1], y + radius + 1)):
            for column in range(max(0, x - radius), min(size[2], x + radius + 1)):
                value = math.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * deviation**2))
                heatmaps[plane, row, column] = max(float(heatmaps[plane, row, column]), value)
    return heatmaps


def points(count: int, size: tuple[int, int, int], largest: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    planes, rows, columns = (torch.randint(0, side, (count,), generator=generator) for side in size)
    return planes, torch.stack([columns, rows], dim=1), torch.randint(0, largest + 1, (count,), generator=generator)


@pytest.mark.parametrize(("count", "largest"), [(0, 0), (1, 0), (9, 40), (500, 3)])
@pytest.mark.parametrize("byte_budget", [1, 4000, 2**26])
def test_gaussians_keep_the_larger_value_and_end_at_the_border(count: int, largest: int, byte_budget: int) -> None:
    size = (3, 11, 14)
    drawn = draw_gaussians(size, *points(count, size, largest), byte_budget=max(80, byte_budget))
    torch.testing.assert_close(drawn, slow_drawing(size, *points(count, size, largest)))


def test_centres_are_exactly_one_and_nothing_else_is() -> None:
    size = (2, 40, 50)
    planes, cells, radii = points(30, size, 35)
    drawn = draw_gaussians(size, planes, cells, radii)
    centres = torch.zeros(size, dtype=torch.bool)
    centres[planes, cells[:, 1], cells[:, 0]] = True
    assert torch.equal(drawn == 1, centres)


def slow_peaks(heatmaps: Tensor, count: int) -> list[tuple[float, int, int]]:
    """Of one image: value, class, cell."""
    classes, height, width = heatmaps.shape
    found = []
    for c, row, column in itertools.product(range(classes), range(height), range(width)):
        around = heatmaps[c, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        if (around <= heatmaps[c, row, column]).all():
            found.append((float(heatmaps[c, row, column]), c, row * width + column))
    return sorted(found, reverse=True)[:count]


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_peaks_are_the_best_cells_that_no_neighbour_exceeds(count: int) -> None:
    heatmaps = torch.randn(2, 4, 9, 7, generator=torch.Generator().manual_seed(0))
    values, classes, cells = peaks(heatmaps, count)
    assert values.shape == classes.shape == cells.shape == (2, min(count, 4 * 9 * 7))
    for image in range(2):
        expected = slow_peaks(heatmaps[image], values.shape[1])
        found = zip(values[image].tolist(), classes[image].tolist(), cells[image].tolist(), strict=True)
        assert list(found)[: len(expected)] == expected
        assert values[image, len(expected) :].isneginf().all()


def test_of_two_classes_in_one_cell_both_are_peaks() -> None:
    heatmaps = torch.zeros(1, 3, 5, 5)
    heatmaps[0, :2, 2, 3] = torch.tensor([2.0, 1.0])
    values, classes, cells = peaks(heatmaps, 2)
    assert values.tolist() == [[2, 1]] and classes.tolist() == [[0, 1]] and cells.tolist() == [[13, 13]]


def test_the_loss_by_hand() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 3.0], requires_grad=True)
    goals = torch.tensor([1.0, 0.0, 0.5, UNKNOWN])
    loss = penalty_reduced_focal_loss_sum(logits, goals)
    p = [1 / (1 + math.exp(-value)) for value in (0, 1, -1)]
    object_, background = (1 - p[0]) ** 2 * math.log(p[0]), p[1] ** 2 * math.log(1 - p[1])
    near = (1 - 0.5) ** 4 * p[2] ** 2 * math.log(1 - p[2])
    assert loss.item() == pytest.approx(-(object_ + background + near))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[3] == 0 and (gradient[:3] != 0).all() and gradient[0] < 0 < gradient[1]


def test_the_loss_ends_where_the_authors_cut_probabilities_off() -> None:
    logits = torch.tensor([-30.0, 30.0], requires_grad=True)
    loss = penalty_reduced_focal_loss_sum(logits, torch.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx(-2 * (1 - 1e-4) ** 2 * math.log(1e-4), rel=1e-4)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient == 0).all()


def test_the_mean_of_two_maps_of_probabilities() -> None:
    logits, others = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).mul(4).unbind(0)
    mean = (logits.double().sigmoid() + others.double().sigmoid()) / 2
    torch.testing.assert_close(mean_logits(logits, others), mean.logit().float(), atol=1e-5, rtol=1e-5)
    sure = torch.tensor([20.0, 30.0, -200.0])  # the first two have a score of 1 in float32
    torch.testing.assert_close(mean_logits(sure, sure), sure)


def test_a_smaller_divisor_makes_a_wider_gaussian_of_the_same_square() -> None:
    size, place = (1, 9, 9), (torch.tensor([0]), torch.tensor([[4, 4]]), torch.tensor([2]))
    wide = draw_gaussians(size, *place, divisor=5.0)
    assert float(wide[0, 4, 5]) == pytest.approx(math.exp(-1 / (2 * (5 / 5) ** 2)))
    assert float(draw_gaussians(size, *place)[0, 4, 5]) == pytest.approx(math.exp(-1 / (2 * (5 / 6) ** 2)))
    assert (wide > 0).sum() == 25
