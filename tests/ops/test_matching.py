"""Assignments against slow ones written from their papers, or torchvision's; and what they must do at the edges."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import Matcher

from aweigh.ops.boxes import grid_points, pairwise_iou
from aweigh.ops.matching import (
    BACKGROUND,
    IGNORED,
    among_all,
    balanced_sample,
    by_adaptive_samples,
    by_overlap,
    hard_examples,
    hardest,
    task_aligned,
)


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


def grid(size: int = 128, strides: tuple[int, ...] = (8, 16, 32)) -> list[Tensor]:
    """Square anchors of four strides round each cell, per level."""
    levels = []
    for stride in strides:
        points = grid_points(
            size // stride, size // stride, (stride, stride), (stride // 2, stride // 2), like=torch.ones(1)
        )
        levels.append(torch.cat([points - 2 * stride, points + 2 * stride], dim=1))
    return levels


def objects(seed: int, count: int, size: int = 128) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * size * 0.8
    return torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=generator) * size * 0.6], dim=1)


@given(st.integers(0, 10**6), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_matching_by_overlap_is_torchvisions(seed: int, count: int) -> None:
    anchors, boxes = torch.cat(grid()), objects(seed, count)
    expected = Matcher(0.5, 0.4, allow_low_quality_matches=True)(pairwise_iou(boxes, anchors))
    for budget in (64 * 2**20, 100_000):
        got = by_overlap(anchors, boxes, positive=0.5, negative=0.4, byte_budget=budget)
        assert torch.equal(got, expected)
    without = Matcher(0.5, 0.4)(pairwise_iou(boxes, anchors))
    assert torch.equal(by_overlap(anchors, boxes, positive=0.5, negative=0.4, rescue="none"), without)


@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([0.0, 0.2, 0.4]))
@settings(max_examples=30, deadline=None)
def test_a_box_is_rescued_where_its_best_overlap_is_enough(seed: int, count: int, least: float) -> None:
    anchors, boxes = torch.cat(grid()), objects(seed, count)
    overlap, best = pairwise_iou(anchors, boxes), pairwise_iou(anchors, boxes).amax(dim=0)
    for anchor, index in enumerate(by_overlap(anchors, boxes, positive=0.5, negative=0.4, least=least).tolist()):
        own = overlap[anchor]
        rescued = any(own[box] == best[box] >= max(least, 1e-9) for box in range(count))
        expected = int(own.argmax()) if rescued or own.max() >= 0.5 else -1 if own.max() < 0.4 else -2
        assert index == expected


@given(st.integers(0, 10**6), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_one_anchor_is_found_for_each_box(seed: int, count: int) -> None:
    anchors, boxes = torch.cat(grid()), objects(seed, count)
    overlap = pairwise_iou(anchors, boxes)
    expected = [int(row.argmax()) if float(row.max()) >= 0.5 else -1 for row in overlap]
    for box in reversed(range(count)):
        expected[int(overlap[:, box].argmax())] = box
    got = by_overlap(anchors, boxes, positive=0.5, negative=0.5, rescue="one", byte_budget=100_000)
    assert got.tolist() == expected


def test_a_box_that_no_anchor_touches_teaches_none() -> None:
    anchors, far = torch.cat(grid()), torch.tensor([[5000.0, 5000, 5040, 5040]])
    for rescue in ("ties", "one"):
        assert (by_overlap(anchors, far, positive=0.5, negative=0.4, rescue=rescue) == -1).all()
    assert (by_adaptive_samples(grid(), far) == -1).all()
    assert (by_overlap(anchors, far[:0], positive=0.5, negative=0.4) == -1).all()
    assert (by_adaptive_samples(grid(), far[:0]) == -1).all()


@given(st.integers(0, 10**6), st.integers(1, 10))
@settings(max_examples=30, deadline=None)
def test_adaptive_samples_are_those_of_the_algorithm(seed: int, count: int) -> None:
    levels, boxes = grid(), objects(seed, count)
    anchors = torch.cat(levels)
    owner, value = [-1] * len(anchors), [0.0] * len(anchors)
    for n, box in enumerate(boxes):
        chosen, first = [], 0
        for level in levels:
            distance = ((level[:, :2] + level[:, 2:]) / 2 - (box[:2] + box[2:]) / 2).square().sum(dim=1)
            chosen += (distance.topk(min(9, len(level)), largest=False).indices + first).tolist()
            first += len(level)
        overlap = pairwise_iou(anchors[chosen], box[None]).squeeze(1)
        threshold = float(overlap.mean() + overlap.std())
        for anchor, iou in zip(chosen, overlap.tolist(), strict=True):
            x, y = ((anchors[anchor, :2] + anchors[anchor, 2:]) / 2).tolist()
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if iou >= threshold and inside and iou > value[anchor]:
                owner[anchor], value[anchor] = n, iou
    for budget in (64 * 2**20, 30_000):
        assert by_adaptive_samples(levels, boxes, byte_budget=budget).tolist() == owner


def test_ten_thousand_boxes_are_matched() -> None:
    levels, boxes = grid(512), objects(0, 10_000, 512)
    index = by_overlap(torch.cat(levels), boxes, positive=0.5, negative=0.4, byte_budget=2**22)
    assert index.max() < 10_000 and (index >= 0).any()
    assert (by_adaptive_samples(levels, boxes, byte_budget=2**22) >= 0).any()


def test_hard_examples_are_those_of_the_highest_loss_that_do_not_overlap() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [80, 80, 90, 90], [20, 20, 30, 30]])
    losses = torch.tensor([3.0, 5.0, 1.0, 0.0, 2.0])
    positive = torch.tensor([False, False, True, False, False])
    assert hard_examples(losses, boxes, positive, count=9, nms_threshold=0.5).tolist() == [1, 4, 2]
    assert hard_examples(losses, boxes, positive, count=2, nms_threshold=0.5).tolist() == [1, 4]
    kept = hard_examples(losses, boxes, positive, count=4, nms_threshold=0.5, negatives_per_positive=1)
    assert kept.tolist() == [2, 1]
    assert hard_examples(losses * 0, boxes, positive, count=4, nms_threshold=0.5).tolist() == []


@pytest.mark.parametrize("count", [1, 4, 50])
def test_the_hardest_of_each_image_are_those_of_a_sort(count: int) -> None:
    sizes = [7, 0, 12, 3]
    losses = torch.randint(0, 6, (22,), generator=torch.Generator().manual_seed(0)).float()  # many are equal
    expected, start = [], 0
    for size in sizes:
        rows = sorted(range(start, start + size), key=lambda row: (-float(losses[row]), row))
        expected += rows[:count]
        start += size
    assert hardest(losses, sizes, count).tolist() == expected


@pytest.mark.parametrize("positives", [0, 5, 60, 200])
def test_a_balanced_sample_is_no_larger_and_no_more_positive_than_asked(positives: int) -> None:
    index = torch.full((1000,), BACKGROUND)
    index[torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:positives]] = 3
    index[::7] = IGNORED
    rows = balanced_sample(index, count=128, positive_fraction=0.25, seed=torch.tensor(0.5))
    positive = int((index[rows] >= 0).sum())
    assert len(rows) == len(rows.unique()) == 128 and (index[rows] != IGNORED).all()
    assert positive == min(32, int((index >= 0).sum())) and (index[rows[:positive]] >= 0).all()


def test_every_row_is_drawn_as_often_as_another() -> None:
    index = torch.full((90,), BACKGROUND)
    drawn = torch.zeros(90)
    for step in range(3000):
        seed = torch.rand((), generator=torch.Generator().manual_seed(step)) * 100
        drawn[balanced_sample(index, count=30, positive_fraction=0.5, seed=seed)] += 1
    assert drawn.sum() == 30 * 3000
    assert drawn.min() > 0.85 * 1000 and drawn.max() < 1.15 * 1000


def test_a_sample_follows_from_its_arguments_and_another_seed_gives_another() -> None:
    index = torch.full((500,), BACKGROUND)
    first, again, other = (
        set(balanced_sample(index, count=50, positive_fraction=0.5, seed=torch.tensor(seed)).tolist())
        for seed in (1.25, 1.25, 1.2537)
    )
    assert first == again != other


def test_an_index_into_the_learned_boxes_becomes_one_into_all() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50], [60, 60, 70, 70]])
    learned, ignored = torch.tensor([False, True, False, True]), torch.tensor([True, False, False, False])
    points = torch.tensor([[5.0, 5], [25, 25], [65, 65], [45, 45], [5, 6], [5, 7]])
    index = torch.tensor([BACKGROUND, 0, 1, BACKGROUND, 1, IGNORED])
    among = among_all(index, points, boxes, learned, ignored)
    assert among.tolist() == [IGNORED, 1, 3, BACKGROUND, 3, IGNORED]  # what learns a box does so in any region
    assert index.tolist() == [BACKGROUND, 0, 1, BACKGROUND, 1, IGNORED]
    assert among_all(index, points, boxes, learned, torch.zeros(4, dtype=torch.bool))[0] == BACKGROUND
