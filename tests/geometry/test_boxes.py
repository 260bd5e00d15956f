"""Boxes as arrays: equal to torchvision and to the tensors' functions of `aweigh.ops.boxes`, without a warning."""

import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torchvision

from aweigh.geometry import boxes as geometry
from aweigh.ops import boxes as ops

METHODS = ("class", "agnostic", "soft", "none")


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def random_boxes(count: int, seed: int = 0, scale: float = 100.0) -> np.ndarray:
    """`[count, 4]` float32 of positive size."""
    corners, sides = np.random.default_rng(seed).random((2, count, 2), np.float32) * np.float32(scale)
    return np.concatenate([corners, corners + np.float32(0.5) + sides / 2], axis=1)


def scored(count: int, seed: int = 0, *, classes: int = 3, steps: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Scores, of so many different ones, some of them 0, and labels."""
    random = np.random.default_rng(seed)
    return (random.integers(0, steps, count) / steps).astype(np.float32), random.integers(0, classes, count)


def test_overlaps_equal_torchvisions_and_those_of_tensors() -> None:
    boxes, others = random_boxes(40), random_boxes(30, seed=1)
    tensors = torch.from_numpy(boxes).double(), torch.from_numpy(others).double()
    np.testing.assert_allclose(geometry.areas(boxes), torchvision.ops.box_area(tensors[0]), rtol=1e-12)
    iou, share = geometry.pairwise_iou(boxes, others), geometry.pairwise_share(boxes, others)
    assert iou.shape == (40, 30) and iou.dtype == share.dtype == np.float64 and 50 < (iou > 0).sum() < 1200
    np.testing.assert_allclose(iou, torchvision.ops.box_iou(*tensors), rtol=1e-12)
    np.testing.assert_allclose(iou, ops.pairwise_iou(*tensors), rtol=1e-12)
    np.testing.assert_allclose(share, ops.pairwise_share(*tensors), rtol=1e-12)


def test_overlaps_by_hand() -> None:
    boxes, others = np.array([[0.0, 0, 4, 2]]), np.array([[2.0, 0, 6, 2], [1, 0, 2, 2], [4, 0, 8, 2]])
    assert geometry.intersections(boxes, others).tolist() == [[4, 2, 0]]
    assert geometry.pairwise_iou(boxes, others).tolist() == [[4 / 12, 2 / 8, 0]]
    assert geometry.pairwise_share(boxes, others).tolist() == [[0.5, 0.25, 0]]


def test_boxes_that_are_empty_inverted_huge_or_no_numbers() -> None:
    """They overlap with nothing, and are told by neither a warning nor a NaN."""
    odd = np.array(
        [[5, 5, 5, 5], [5, 5, 5, 9], [9, 9, 2, 2], [math.nan] * 4, [-3e38, -3e38, 3e38, 3e38], [5, 5, 8, 8]], np.float32
    )
    for function in (geometry.pairwise_iou, geometry.pairwise_share):
        overlaps = function(odd, odd)
        assert np.isfinite(overlaps).all() and (overlaps[:4] == 0).all()
        assert overlaps.diagonal()[4:].tolist() == [1, 1]
        for nothing in (odd[:0], np.zeros((0, 4), np.float32)):
            assert function(nothing, odd).shape == (0, 6) and function(odd, nothing).shape == (6, 0)
    for method in METHODS:
        scores, labels = np.array([0.1, 0.2, 0.3, math.nan, 0.5, 0.6], np.float32), np.zeros(6, np.int64)
        index, kept = geometry.suppress(odd, scores, labels, iou_threshold=0.5, method=method)
        assert index.tolist() == [5, 4, 2, 1, 0]  # what has no score is not there
        np.testing.assert_allclose(kept, scores[index], rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("count", "steps", "most"), [(0, 9, 5), (1, 9, 5), (60, 1000, 100), (60, 6, 100), (60, 6, 7)])
def test_what_is_kept_is_what_tensors_keep(method: str, count: int, steps: int, most: int) -> None:
    """Where there is none, where many scores are equal, and where there are more than are wanted."""
    for seed in range(4):
        boxes, (scores, labels) = random_boxes(count, seed, scale=30), scored(count, seed, steps=steps)
        options = {"iou_threshold": 0.4, "method": method}
        index, kept = geometry.suppress(boxes, scores, labels, most=most, **options)
        given = (torch.from_numpy(each)[None] for each in (boxes, scores, labels))
        (rows,), (expected,), (number,) = ops.non_maximum_suppression(*given, max_detections=most, **options)
        if method == "none":  # where torch leaves open which of equal scores comes first, here it is the first
            assert index.tolist() == np.argsort(-scores, kind="stable")[: int(number)].tolist()
        else:
            assert index.tolist() == rows[:number].tolist()
        assert index.dtype == np.int64
        np.testing.assert_allclose(kept, expected[:number], rtol=1e-5 if method == "soft" else 0)
        assert kept.dtype == np.float32 and len(kept) <= most


@pytest.mark.parametrize("method", ["class", "agnostic"])
def test_thousands_of_boxes_are_suppressed_as_torchvision_does(method: str) -> None:
    boxes, (scores, labels) = random_boxes(4000, scale=600), scored(4000, classes=5, steps=200)
    index, kept = geometry.suppress(boxes, scores, labels, iou_threshold=0.5, method=method)
    apart = boxes.astype(np.float64) + (1000.0 * labels[:, None] if method == "class" else 0)
    expected = torchvision.ops.nms(torch.from_numpy(apart), torch.from_numpy(scores).double(), 0.5).numpy()
    expected = expected[scores[expected] > 0]
    assert index.tolist() == expected.tolist() and 500 < len(index) < 3500
    assert (np.diff(kept) <= 0).all()
