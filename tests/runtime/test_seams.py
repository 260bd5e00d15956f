"""Objects on the seams of tiles: none is found twice, none is lost."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.geometry.boxes import pairwise_iou
from aweigh.geometry.tiles import Tiles, Window
from aweigh.runtime.seams import Seams, join

CLASSES = Classes(("ship", "car"), (1, 2))
TILES = Tiles(100, 0.25)
SIZE = (300, 400)


def seen(
    boxes: np.ndarray, windows: list[Window], labels: np.ndarray | None = None, *, noise: float = 0.0, least: float = 2
) -> list[Detections]:
    """What a detector sees of objects in each tile: what lies in it of each, with `noise` pixels on its sides."""
    random, labels = np.random.default_rng(0), np.zeros(len(boxes)) if labels is None else labels
    found = []
    for x0, y0, x1, y1 in windows:
        inside = boxes.clip([x0, y0, x0, y0], [x1, y1, x1, y1])
        shown = (inside[:, 2:] - inside[:, :2]).min(axis=1, initial=1000) >= least
        moved = inside[shown] + random.uniform(-noise, noise, (int(shown.sum()), 4))
        scores = random.uniform(0.5, 1, int(shown.sum()))
        moved = moved.clip([x0, y0, x0, y0], [x1, y1, x1, y1])
        found.append(Detections.of(moved, scores, labels[shown], classes=CLASSES, size_hw=SIZE))
    return found


def grid(side: float, apart: float) -> np.ndarray:
    """Squares in rows, at places that no tile repeats."""
    rows, columns = np.arange(3, SIZE[0] - side, apart), np.arange(3, SIZE[1] - side, apart)
    x, y = (each.ravel() for each in np.meshgrid(columns, rows))
    return np.stack([x, y, x + side, y + side], axis=1)


@pytest.mark.parametrize(("moved", "left"), [(6, 2), (2, 1)])
def test_what_looks_little_alike_to_two_tiles_is_two_objects(moved: float, left: int) -> None:
    windows = [(0, 0, 100, 100), (75, 0, 175, 100)]
    first = np.array([[80.0, 10.0, 90.0, 20.0]])  # whole in both tiles; each finds one: IoU 0.09, or 0.47
    found = [Detections.of(boxes, [0.9], [0], classes=CLASSES, size_hw=(100, 175)) for boxes in (first, first + moved)]
    assert len(join(found, windows)) == left


@pytest.mark.parametrize("side", [6, 13, 25, 40, 90, 130, 250])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_every_object_is_found_once(side: float, noise: float) -> None:
    boxes, windows = grid(side, side + 7.3), TILES.cut(*SIZE)
    result = join(seen(boxes, windows, noise=noise), windows)
    assert len(result) == len(boxes)
    overlaps = pairwise_iou(boxes, result.boxes)
    assert (overlaps.argmax(axis=1) == overlaps.T.argmax(axis=0)).all()
    assert overlaps.max(axis=1).min() > (0.999 if not noise else 0.45 if side < 10 else 0.7)
    assert (np.diff(result.scores) <= 0).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.floats(4, 44), st.floats(4, 44)), min_size=1, max_size=12), st.data())
def test_objects_anywhere_are_found_once(sides: list[tuple[int, float, float]], data: st.DataObject) -> None:
    boxes = []
    for cell, (_, width, height) in enumerate(sides):  # each in a cell of its own of 100 x 100 pixels
        left, top = cell % 4 * 100 + 1, cell // 4 * 100 + 1
        x = left + data.draw(st.floats(0, 98 - width))
        y = top + data.draw(st.floats(0, 98 - height))
        boxes.append([x, y, x + width, y + height])
    truth, windows = np.array(boxes), TILES.cut(*SIZE)
    result = join(seen(truth, windows, least=0.01), windows)
    assert len(result) == len(truth)
    assert pairwise_iou(truth, result.boxes).max(axis=1).min() > 0.99


def test_neighbours_stay_two_objects_and_so_do_classes() -> None:
    truth = np.array([[60, 20, 79, 60], [80, 20, 130, 60], [80, 20, 130, 60]], float)
    windows = TILES.cut(*SIZE)
    labels = np.array([0, 0, 1])
    assert len(join(seen(truth, windows, labels), windows)) == 3
    as_ship, as_car = seen(truth[1:2], windows), seen(truth[1:2], windows, np.array([1]))
    mixed = [as_ship[0], *as_car[1:]]
    assert sorted(join(mixed, windows).names) == ["car", "ship"]
    assert len(join(mixed, windows, agnostic=True)) == 1


def test_a_small_object_before_a_large_one_stays() -> None:
    truth = np.array([[20, 20, 170, 90], [60, 40, 80, 60], [76, 66, 99, 80]], float)
    windows = TILES.cut(*SIZE)
    result = join(seen(truth, windows), windows)
    assert len(result) == 3


def test_nothing_and_one_tile_stay_as_they_are() -> None:
    windows = Tiles(512).cut(*SIZE)
    truth = np.array([[10, 10, 50, 50], [12, 12, 52, 52]], float)
    (found,) = seen(truth, windows)
    assert np.array_equal(np.sort(join([found], windows).scores), np.sort(found.scores))
    empty = Detections.empty(CLASSES, SIZE)
    assert join([empty] * 12, TILES.cut(*SIZE)) == empty


def test_a_joined_object_has_the_mask_and_the_keypoints_of_its_parts() -> None:
    windows = Tiles(100, 0.25).cut(100, 175)  # 0 to 100, 75 to 175
    left = Detections.of(
        [[40, 20, 100, 80]], [0.9], [0], classes=CLASSES, size_hw=(100, 175),
        masks=np.ones((1, 28, 28), np.float32),
        keypoints=np.array([[[45, 30, 0.9], [99, 50, 0.2]]], np.float32),
    )  # fmt: skip
    right = Detections.of(
        [[75, 20, 140, 80]], [0.8], [0], classes=CLASSES, size_hw=(100, 175),
        masks=np.ones((1, 28, 28), np.float32),
        keypoints=np.array([[[76, 30, 0.1], [130, 50, 0.8]]], np.float32),
    )  # fmt: skip
    result = join([left, right], windows)
    assert result.boxes.tolist() == [[40, 20, 140, 80]]
    assert result.scores.tolist() == pytest.approx([0.9])
    assert result.keypoints is not None
    assert result.keypoints[0].tolist() == pytest.approx(np.array([[45, 30, 0.9], [130, 50, 0.8]]))
    (pixels,) = result.bitmaps()
    assert pixels.sum() == pixels[20:80, 40:140].sum() == 60 * 100 - 4  # pasting rounds the corners


def crowd(seed: int, number: int) -> tuple[list[Detections], list[Window]]:
    """Boxes of any size one over the other, each seen with noise, some of them missed, with masks and two classes."""
    random = np.random.default_rng(seed)
    corners, windows = random.uniform(0, (380, 280), (number, 2)), TILES.cut(*SIZE)
    boxes = np.concatenate([corners, corners + random.uniform(4, 90, (number, 2))], axis=1).clip(0, [400, 300] * 2)
    found = []
    for one in seen(boxes, windows, random.integers(0, 2, number).astype(float), noise=3):
        kept = random.random(len(one)) > 0.2
        masks = random.random((int(kept.sum()), 4, 4)).astype(np.float32)
        scores = random.choice([0.5, 0.7, 0.9], int(kept.sum())).astype(np.float32)  # many are equal
        found.append(replace(one[kept], masks=masks, scores=scores))
    return found, windows


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize(("seed", "number"), [(seed, number) for seed in range(3) for number in (8, 120)])
def test_row_by_row_it_is_as_at_once(seed: int, number: int, agnostic: bool) -> None:
    found, windows = crowd(seed, number)
    seams, first = Seams(agnostic=agnostic), 0
    while first < len(windows):
        row = [window for window in windows if window[1] == windows[first][1]]
        last = first + len(row)
        seams.add(found[first:last], row, windows[last][1] if last < len(windows) else math.inf)
        first = last
    assert seams.objects() == join(found, windows, agnostic=agnostic)


def test_what_no_further_row_changes_is_not_held() -> None:
    size = (5000, 400)
    y, x = (each.ravel() for each in np.mgrid[3:4960:30, 3:360:30])
    truth, windows = np.stack([x, y, x + 12, y + 12], axis=1).astype(np.float32), TILES.cut(*size)
    seams, most = Seams(), 0
    for first in range(0, len(windows), 5):
        row = windows[first : first + 5]
        below = windows[first + 5][1] if first + 5 < len(windows) else math.inf
        seams.add([replace(one, size_hw=size) for one in seen(truth, row)], row, below)
        most = max(most, seams.held)
    assert len(seams.objects()) == len(truth) and most < 100 < len(truth) / 10
