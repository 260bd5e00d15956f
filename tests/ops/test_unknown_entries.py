"""Entries of which nobody knows, against a loop over points, boxes and classes."""

import pytest
import torch

from aweigh.ops.losses import unknown_entries


def slow(points, boxes, labels, uncertain, known, num_classes) -> list[list[bool]]:
    table = [[known is not None and not known[label] for label in range(num_classes)] for _ in points]
    for row, (x, y) in enumerate(points.tolist()):
        for (x0, y0, x1, y1), label, guess in zip(boxes.tolist(), labels.tolist(), uncertain.tolist()):
            table[row][label] |= guess and x0 < x < x1 and y0 < y < y1
    return table


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [16 * 2**20, 500, 1])
def test_unknown_entries_equal_the_loop(random_boxes, seed: int, budget: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points, boxes = torch.rand(60, 2, generator=generator) * 100, random_boxes(20, seed=seed)
    labels = torch.randint(5, (20,), generator=generator)
    uncertain = torch.rand(20, generator=generator) < 0.6
    for known in (None, torch.rand(5, generator=generator) < 0.5):
        found = unknown_entries(points, boxes, labels, uncertain, known, 5, byte_budget=budget)
        assert found.tolist() == slow(points, boxes, labels, uncertain, known, 5)
        assert known is not None or 0 < int(found.sum()) < found.numel()


def test_nothing_partial_is_none_and_a_border_is_outside() -> None:
    points, boxes, labels = (
        torch.tensor([[4.0, 4.0], [5.0, 5.0]]),
        torch.tensor([[4.0, 4.0, 8.0, 8.0]]),
        torch.tensor([1]),
    )
    certain, guess = torch.tensor([False]), torch.tensor([True])
    assert unknown_entries(points, boxes, labels, certain, None, 3) is None
    assert unknown_entries(points, boxes[:0], labels[:0], certain[:0], None, 3) is None
    assert unknown_entries(points, boxes, labels, guess, None, 3).tolist() == [[False] * 3, [False, True, False]]
    known = torch.tensor([False, True, True])
    assert unknown_entries(points, boxes, labels, certain, known, 3).tolist() == [[True, False, False]] * 2
    assert unknown_entries(points, boxes, labels, guess, known, 3).tolist() == [
        [True, False, False],
        [True, True, False],
    ]
    assert unknown_entries(points[:0], boxes, labels, guess, known, 3).shape == (0, 3)
    border = torch.tensor([[4.0, 5.0], [5.0, 4.0], [8.0, 5.0], [5.0, 8.0]])
    assert not unknown_entries(border, boxes, labels, guess, None, 3).any()
