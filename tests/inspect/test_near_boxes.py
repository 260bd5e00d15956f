"""Boxes that nearly coincide: exactly those that comparing all with all finds, and crowds of them in little memory."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.scenes_on_disk import entry, scene, write_coco

from aweigh.inspect.near_boxes import near_pairs
from aweigh.inspect.rules import near_boxes
from aweigh.layouts.load import load_split

Crowd = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def overlaps(boxes: np.ndarray) -> np.ndarray:
    sides = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    shared = sides.clip(0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return shared / (areas[:, None] + areas[None] - shared)


def expected(boxes: np.ndarray, images: np.ndarray, labels: np.ndarray) -> tuple[dict[int, set[int]], ...]:
    """By comparing all: of each box, its earlier partners of its class, and those of another."""
    earlier = np.tril(np.ones((len(boxes), len(boxes)), dtype=bool), -1) & (images[:, None] == images)
    equal = (boxes[:, None] == boxes).all(axis=2) & (labels[:, None] == labels) & earlier
    first = ~equal.any(axis=1)
    near = (overlaps(boxes) > 0.95) & earlier & first[:, None] & first
    alike = labels[:, None] == labels
    return tuple(
        {int(row): set(np.flatnonzero(table[row]).tolist()) for row in np.flatnonzero(table.any(axis=1))}
        for table in (near & alike, near & ~alike)
    )


@pytest.mark.parametrize("seed", range(12))
def test_exactly_those_that_comparing_all_finds(seed: int) -> None:
    random = np.random.default_rng(seed)
    shapes = random.uniform(3, 200, (60, 2)) * random.choice([0.5, 1, 4])
    base = np.column_stack([random.uniform(0, 300, (60, 2)), shapes])
    copies = base[random.integers(0, 60, 200)]
    copies = copies + random.uniform(-0.03, 0.03, copies.shape) * np.tile(copies[:, 2:], 2)
    xywh = np.concatenate([base, copies, copies[:20]]).astype(np.float32)
    boxes = np.column_stack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]).astype(np.float64)
    images, labels = random.integers(0, 3, len(boxes)), random.integers(0, 3, len(boxes))
    found = near_pairs(boxes, images, labels, 0.95)
    for pairs, known in zip(found, expected(boxes, images, labels), strict=True):
        assert known and set(pairs[:, 1].tolist()) == set(known) and len(pairs) == len(known)
        assert all(one in known[other] for one, other in pairs.tolist())


def test_regions_to_ignore_have_no_partners(tmp_path: Path) -> None:
    rows = [entry(n, 1, [20, 20, 30, 30 + n / 10], label) for n, label in ((1, 1), (2, 1), (3, 2), (4, 1))]
    rows[3]["iscrowd"] = 1
    write_coco(tmp_path, "train", {"a.jpg": scene(1)}, rows)
    same, other = near_boxes(load_split(tmp_path))
    assert same.tolist() == [[0, 1]] and other.tolist() == [[0, 2]]


def around(count: int, random: np.random.Generator, reach: float) -> np.ndarray:
    return np.array([50.0, 50, 100, 100]) + random.uniform(-reach, reach, (count, 4))


CROWDS: dict[str, Crowd] = {
    "equal": lambda n, random: (np.tile([10.0, 10, 100, 100], (n, 1)), np.zeros(n)),
    "equal, three classes": lambda n, random: (np.tile([10.0, 10, 100, 100], (n, 1)), np.arange(n) % 3),
    "nearly equal": lambda n, random: (around(n, random, 1), np.zeros(n)),
    "nearly equal, three classes": lambda n, random: (around(n, random, 1), np.arange(n) % 3),
    "in a cloud": lambda n, random: (around(n, random, 5), np.zeros(n)),
    "two clouds of two classes": lambda n, random: (
        np.concatenate([around(n // 2, random, 1), around(n - n // 2, random, 1) + np.array([8.0, 0, 0, 0])]),
        np.arange(n) // (n // 2),
    ),
    "nested": lambda n, random: (
        np.column_stack([np.linspace(0, 450, n)] * 2 + [1000 - 2 * np.linspace(0, 450, n)] * 2),
        np.zeros(n),
    ),
    "a column": lambda n, random: (
        np.column_stack([np.full(n, 10.0), np.linspace(0, 990, n), np.full(n, 300.0), np.full(n, 8.0)]),
        np.zeros(n),
    ),
    "all over": lambda n, random: (
        np.column_stack([random.uniform(0, 900, (n, 2)), random.uniform(2, 99, (n, 2))]),
        np.zeros(n),
    ),
}
NAMED = {  # of 20,000: how many have an earlier partner of their class, and of another
    "equal": (0, 0),
    "equal, three classes": (0, 2),
    "nested": (19_999, 0),
    "a column": (19_999, 0),
}


@pytest.mark.parametrize("name", CROWDS)
def test_crowds_take_memory_in_proportion(name: str) -> None:
    random = np.random.default_rng(0)
    count = 20_000  # all pairs would be 400 million
    xywh, labels = CROWDS[name](count, random)
    boxes = np.column_stack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])
    images, labels = np.zeros(count, dtype=np.int64), labels.astype(np.int64)
    tracemalloc.start()
    same, other = near_pairs(boxes, images, labels, 0.95)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # 3 kB a box
    if name in NAMED:
        assert (len(same), len(other)) == NAMED[name]
    if name.startswith("nearly equal"):
        assert len(same) > 0.999 * count and len(other) >= 0.99 * count * (labels.max() > 0)
    for pairs, alike in ((same, True), (other, False)):
        assert (pairs[:, 0] < pairs[:, 1]).all() and len(np.unique(pairs[:, 1])) == len(pairs)
        assert ((labels[pairs[:, 0]] == labels[pairs[:, 1]]) == alike).all()
        one, two = boxes[pairs[:, 0]], boxes[pairs[:, 1]]
        shared = (np.minimum(one[:, 2:], two[:, 2:]) - np.maximum(one[:, :2], two[:, :2])).clip(0).prod(axis=1)
        areas = (one[:, 2:] - one[:, :2]).prod(axis=1) + (two[:, 2:] - two[:, :2]).prod(axis=1)
        assert (shared > 0.95 * (areas - shared)).all()
