"""Best possible recall and ambiguous points: by hand, and against counting box by box."""

from collections.abc import Iterable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from aweigh.inference.coverage import Coverage, measure_coverage, pyramid_points
from aweigh.models import fcos
from aweigh.ops import boxes as box_ops
from aweigh.structures import Targets


def inside(points: Sequence[Tensor], boxes: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """A stand-in for a detector: a point could learn every box it lies in. In portions of seven points."""
    for portion in torch.cat(list(points)).split(7):
        x, y = portion[:, :1], portion[:, 1:]
        x0, y0, x1, y1 = boxes.unbind(1)
        yield portion, (x > x0) & (x < x1) & (y > y0) & (y < y1)


def smallest(points: Sequence[Tensor], targets: Targets) -> Tensor:
    """The smallest of them, never an ignored one."""
    size = (targets.boxes[:, 2:] - targets.boxes[:, :2]).prod(1)
    size[targets.ignore] = torch.inf
    could = torch.cat([mask for _, mask in inside(points, targets.boxes)])
    least, index = torch.where(could, size, torch.inf).min(1)
    return torch.where(least.isfinite(), index, -1)


def targets(boxes: list[list[float]], labels: list[int], ignore: list[bool] | None = None) -> Targets:
    return Targets(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        ignore=None if ignore is None else torch.tensor(ignore),
    )


def test_by_hand() -> None:
    # Points at 4, 12, 20, 28 in both directions.
    image = targets(
        [
            [0, 0, 16, 16],  # points 4 and 12 in both directions: 4 of them
            [8, 8, 32, 32],  # 12, 20, 28: 9 points, one of them also in the first box
            [5, 5, 10, 10],  # between the points: no one learns it
        ],
        [0, 1, 0],
    )
    coverage = measure_coverage([((32, 32), image)], strides=[8], assign=smallest, candidates=inside)
    assert coverage == Coverage(boxes=3, found=2, positives=12, ambiguous=1, ambiguous_classes=1)
    assert coverage.best_possible_recall == pytest.approx(2 / 3)
    assert coverage.ambiguous_share == coverage.ambiguous_classes_share == pytest.approx(1 / 12)


def test_two_boxes_of_one_class_are_ambiguous_but_not_in_class() -> None:
    image = targets([[0, 0, 16, 16], [8, 8, 32, 32]], [4, 4])
    coverage = measure_coverage([((32, 32), image)], strides=[8], assign=smallest, candidates=inside)
    assert (coverage.ambiguous, coverage.ambiguous_classes) == (1, 0)


def test_a_box_wholly_under_a_smaller_one_is_not_found() -> None:
    image = targets([[0, 0, 8, 8], [1, 1, 7, 7]], [0, 1])
    coverage = measure_coverage([((16, 16), image)], strides=[8], assign=smallest, candidates=inside)
    assert (coverage.boxes, coverage.found) == (2, 1)


def test_regions_to_ignore_do_not_count() -> None:
    image = targets([[0, 0, 16, 16], [0, 0, 32, 32]], [0, 1], [False, True])
    coverage = measure_coverage([((32, 32), image)], strides=[8], assign=smallest, candidates=inside)
    assert coverage == Coverage(boxes=1, found=1, positives=4, ambiguous=0, ambiguous_classes=0)


def test_nothing_to_measure() -> None:
    only_ignored = targets([[0, 0, 16, 16]], [0], [True])
    for images in ([], [((32, 32), Targets.empty())], [((32, 32), only_ignored)]):
        coverage = measure_coverage(images, strides=[8], assign=smallest, candidates=inside)
        assert coverage == Coverage(0, 0, 0, 0, 0)
        assert coverage.best_possible_recall == coverage.ambiguous_share == -1.0


def test_points_are_the_middles_of_the_cells() -> None:
    fine, coarse = pyramid_points((9, 17), [8, 16])
    assert fine.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    assert coarse.tolist() == [[8, 8], [24, 8]]


@pytest.mark.parametrize("radius", [None, 1.5])
@pytest.mark.parametrize("pyramid", [True, False])
def test_with_the_assignment_of_fcos_box_by_box(radius: float | None, pyramid: bool) -> None:
    strides = [8, 16, 32, 64, 128] if pyramid else [16]
    ranges = fcos.LEVEL_RANGES if pyramid else [(0.0, torch.inf)]
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(40, 2, generator=generator) * 150
    boxes = torch.cat([corners, corners + 4 + 150 * torch.rand(40, 2, generator=generator) ** 2], 1)
    image = Targets(boxes, torch.arange(40) % 3, ignore=torch.arange(40) == 5)
    options = {"strides": strides, "level_ranges": ranges, "center_radius": radius}
    got = measure_coverage(
        [((300, 320), image)],
        strides=strides,
        assign=partial(fcos.assign, candidates=partial(box_ops.candidates, **options)),
        candidates=partial(box_ops.candidates, byte_budget=4000, **options),
    )

    learned, positives, ambiguous, classes = set(), 0, 0, 0
    for stride, (low, high) in zip(strides, ranges):
        for y in range(stride // 2, -(-300 // stride) * stride, stride):
            for x in range(stride // 2, -(-320 // stride) * stride, stride):
                could = []
                for index, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
                    sides = (x - x0, y - y0, x1 - x, y1 - y)
                    near = radius is None or (
                        abs(x - (x0 + x1) / 2) < radius * stride and abs(y - (y0 + y1) / 2) < radius * stride
                    )
                    if index != 5 and min(sides) > 0 and low <= max(sides) <= high and near:
                        could.append(((x1 - x0) * (y1 - y0), index))
                positives += bool(could)
                ambiguous += len(could) > 1
                classes += len({index % 3 for _, index in could}) > 1
                learned |= {min(could)[1]} if could else set()
    assert got == Coverage(39, len(learned), positives, ambiguous, classes)
    assert 0 < got.ambiguous < got.positives
