"""Objects in space: drawn where their camera sees them, and where they stand from above."""

import numpy as np
import pytest
from PIL import Image

from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.geometry.cuboids import cuboids_from_solids
from aweigh.visualise.colours import PALETTE
from aweigh.visualise.space import birds_eye, draw_in_space

CAMERA = np.array([[100.0, 0, 100, 0], [0, 100, 40, 0], [0, 0, 1, 0]])
CAR = np.array([[0.0, 1.6, 10, 1.5, 1.6, 4, 0]])


def detections(solids: np.ndarray) -> Detections:
    count = len(solids)
    boxes, labels = np.zeros((count, 4), np.float32), np.zeros(count, np.int64)
    cuboids = cuboids_from_solids(solids, CAMERA).astype(np.float32)
    classes = Classes.from_names(["car"])
    return Detections(boxes, np.ones(count, np.float32), labels, classes, (80, 200), cuboids=cuboids, camera=CAMERA)


def test_a_cuboid_is_drawn_round_its_object() -> None:
    """A car of 4 m across, 9.2 m ahead at its nearest: 100 * 2 / 9.2 pixels to either side of the middle."""
    picture = np.asarray(draw_in_space(Image.new("RGB", (200, 80)), detections(CAR)))
    assert picture.shape == (80, 200 + 60, 3)
    rows, columns = np.nonzero((picture[:, :200] == PALETTE[0]).all(axis=2))
    assert abs(columns.min() - (100 - 21.7)) <= 2 and abs(columns.max() - (100 + 21.7)) <= 2
    assert abs(rows.max() - (40 + 100 * 1.6 / 9.2)) <= 2 and abs(rows.min() - (40 + 100 * 0.1 / 9.2)) <= 2


def test_from_above_it_stands_ahead_of_the_camera() -> None:
    """The view reaches 20 m, 0.96 of 200 pixels: 10 m ahead are 96 pixels above the camera's, which is at 196."""
    picture = np.asarray(birds_eye(CAR, [(255, 0, 0)], height=200)).astype(int)
    rows, columns = np.nonzero((picture[:, :, 0] > 180) & (picture[:, :, 1] < 140))
    assert abs(rows.mean() - 100) < 3 and abs(columns.mean() - 75) < 3
    assert columns.max() - columns.min() > 2 * (rows.max() - rows.min())  # its length lies across
    turned = CAR.copy()
    turned[:, 6] = np.pi / 2
    picture = np.asarray(birds_eye(turned, [(255, 0, 0)], height=200)).astype(int)
    rows, columns = np.nonzero((picture[:, :, 0] > 180) & (picture[:, :, 1] < 140))
    assert rows.max() - rows.min() > 1.5 * (columns.max() - columns.min())


def test_what_reaches_behind_the_camera_is_cut_off_and_nothing_is_normal() -> None:
    beside = np.array([[3.0, 1.6, 0.5, 1.5, 1.6, 4, 1.5], [3.0, 1.6, -9, 1.5, 1.6, 4, 0]])
    assert draw_in_space(Image.new("RGB", (200, 80)), detections(beside)).size == (260, 80)
    plain = Image.new("RGB", (200, 80), (9, 9, 9))
    drawn = np.asarray(draw_in_space(plain, detections(CAR[:0])))
    assert (drawn[:, :200] == 9).all()


def test_without_a_camera_it_is_refused() -> None:
    found = detections(CAR)
    with pytest.raises(UsageError, match="--camera"):
        draw_in_space(Image.new("RGB", (200, 80)), Detections(found.boxes, found.scores, found.labels, found.classes))
