"""Task-aligned assignment against a slow one written from the paper, and what it must do at the edges."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aweigh.ops.boxes import grid_points, pairwise_iou
from aweigh.ops.matching import task_aligned


def slow(
    points: Tensor, reach: Tensor, boxes: Tensor, labels: Tensor, scores: Tensor, predicted: Tensor, topk: int
) -> tuple[list[int], list[float]]:
    """Box by box and point by point, as section 3.3 of TOOD says it."""
    overlap = pairwise_iou(predicted, boxes)
    chosen: dict[int, tuple[float, int, float]] = {}  # point -> (IoU, box, alignment)
    for n, (box, label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True)):
        found = []
        for a, (x, y) in enumerate(points.tolist()):
            sides = (x - box[0], y - box[1], box[2] - x, box[3] - y)
            if min(sides) > 0 and max(sides) <= float(reach[a]):
                t = float(scores[a, label]) * float(overlap[a, n]) ** 6
                if t > 0:
                    found.append((t, a))
        for t, a in sorted(found, key=lambda pair: -pair[0])[:topk]:
            if a not in chosen or float(overlap[a, n]) > chosen[a][0]:
                chosen[a] = (float(overlap[a, n]), n, t)
    index, goal = [-1] * len(points), [0.0] * len(points)
    for a, (_, n, t) in chosen.items():
        mine = [pair for pair in chosen.values() if pair[1] == n]
        index[a] = n
        goal[a] = t / max(pair[2] for pair in mine) * max(pair[0] for pair in mine)
    return index, goal


def scene(seed: int, count: int, classes: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.cat(
        [grid_points(96 // s, 96 // s, (s, s), (s // 2, s // 2), like=torch.zeros(())) for s in (8, 16, 32)]
    )
    strides = torch.cat([torch.full(((96 // s) ** 2, 1), float(s)) for s in (8, 16, 32)])
    corner = torch.rand(count, 2, generator=generator) * 70
    boxes = torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=generator) * 60], dim=1).clamp(max=96)
    distances = torch.rand(len(points), 4, generator=generator) * 4 * strides
    return {
        "points": points,
        "reach": 4 * strides,
        "boxes": boxes,
        "labels": torch.randint(classes, (count,), generator=generator),
        "scores": torch.rand(len(points), classes, generator=generator),
        "predicted": torch.cat([points - distances[:, :2], points + distances[:, 2:]], dim=1),
    }


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12), topk=st.sampled_from([1, 5, 13]))
def test_equals_the_slow_form(seed: int, count: int, topk: int) -> None:
    values = scene(seed, count)
    index, goal = task_aligned(**values, topk=topk)
    slow_index, slow_goal = slow(**values, topk=topk)
    assert index.tolist() == slow_index
    torch.testing.assert_close(goal, torch.tensor(slow_goal), rtol=1e-4, atol=1e-6)


def test_portions_change_nothing() -> None:
    values = scene(3, 40)
    whole, portions = task_aligned(**values), task_aligned(**values, byte_budget=1)
    assert torch.equal(whole[0], portions[0]) and torch.equal(whole[1], portions[1])
    assert (whole[0] >= 0).any()


def test_no_boxes_and_no_overlap_are_nobodys() -> None:
    values = scene(0, 0)
    index, goal = task_aligned(**values)
    assert (index == -1).all() and (goal == 0).all()
    values = scene(0, 5)
    values["predicted"] = torch.full_like(values["predicted"], 1e4)
    index, goal = task_aligned(**values)
    assert (index == -1).all() and (goal == 0).all()


def test_a_point_that_does_not_reach_the_sides_learns_nothing() -> None:
    values = scene(1, 8)
    index, _ = task_aligned(**values)
    learns = index >= 0
    assert learns.any()
    boxes = values["boxes"][index[learns]]
    points = values["points"][learns]
    sides = torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], dim=1)
    assert (sides > 0).all() and (sides.amax(dim=1) <= values["reach"][learns, 0]).all()


@pytest.mark.parametrize("count", [1, 6])
def test_the_best_point_of_a_box_is_to_score_its_highest_overlap(count: int) -> None:
    values = scene(5, count)
    index, goal = task_aligned(**values)
    overlap = pairwise_iou(values["predicted"], values["boxes"])
    for n in range(count):
        mine = index == n
        if mine.any():
            assert float(goal[mine].max()) == pytest.approx(float(overlap[mine, n].max()))
            assert (goal[mine] <= 1).all()
