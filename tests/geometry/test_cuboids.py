"""Objects in space: hand-computed cases, and overlaps against counting points of a fine grid."""

import math

import numpy as np
import pytest

from aweigh.geometry import cuboids as ops

CAMERA = np.array([[700.0, 0, 600, 45], [0, 700, 180, 0.2], [0, 0, 1, 0.003]], np.float64)


def test_a_point_straight_ahead_lies_at_the_principal_point() -> None:
    plain = np.array([[700.0, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0]], np.float64)
    pixels, depth = ops.project(np.array([[0.0, 0, 10], [1, -2, 10]], np.float64), plain)
    assert depth.tolist() == [10, 10]
    assert pixels.tolist() == [[600, 180], [670, 40]]  # 600 + 700 * 1 / 10, 180 - 700 * 2 / 10


def test_the_two_forms_by_hand() -> None:
    """A car of 1.5 x 1.6 x 4 m, 10 m to the right and 10 m ahead, which drives away from the camera's place."""
    plain = np.array([[700.0, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0]], np.float64)
    solid = np.array([[10.0, 1.75, 10, 1.5, 1.6, 4, -math.pi / 4]], np.float64)
    (seen,) = ops.cuboids_from_solids(solid, plain).tolist()
    # The middle is 0.75 m above the ground contact: v = 180 + 700 * (1.75 - 0.75) / 10. Seen under 45 degrees.
    assert seen == pytest.approx([1300, 250, 10, 1.5, 1.6, 4, -math.pi / 2])


def test_there_and_back() -> None:
    random = np.random.default_rng(0)
    solids = random.random((50, 7)) * [40.0, 4, 60, 3, 3, 8, 6] + [-20.0, -2, 3, 0.5, 0.5, 0.5, -3]
    solids[:, 6] = ops.wrapped(solids[:, 6])
    np.testing.assert_allclose(
        ops.solids_from_cuboids(ops.cuboids_from_solids(solids, CAMERA), CAMERA), solids, rtol=1e-7, atol=1e-7
    )
    cameras = np.broadcast_to(CAMERA, (50, 3, 4))
    np.testing.assert_allclose(
        ops.solids_from_cuboids(ops.cuboids_from_solids(solids, cameras), cameras), solids, rtol=1e-7, atol=1e-7
    )


def test_angles_are_wrapped() -> None:
    angles = np.array([0.0, math.pi, -math.pi, 3.5, -3.5, 7.0], np.float64)
    found = ops.wrapped(angles)
    assert found.tolist() == pytest.approx(
        [0, -math.pi, -math.pi, 3.5 - 2 * math.pi, 2 * math.pi - 3.5, 7 - 2 * math.pi]
    )


def test_corners_by_hand() -> None:
    solid = np.array([1.0, 2, 10, 1.5, 2, 4, 0], np.float64)
    found = ops.corners(solid)
    assert found.shape == (8, 3)
    assert found[:4].tolist() == [[3, 2, 11], [3, 2, 9], [-1, 2, 9], [-1, 2, 11]]
    assert found[4:].tolist() == [[3, 0.5, 11], [3, 0.5, 9], [-1, 0.5, 9], [-1, 0.5, 11]]
    solid[6] = math.pi / 2  # KITTI's rotation by a quarter: what pointed right points to the camera
    front = ops.corners(solid)[:2].mean(axis=0)
    np.testing.assert_allclose(front, [1.0, 2, 8], rtol=1e-7, atol=1e-7)


def _rectangle(x: float, z: float, length: float, width: float, turn: float = 0.0) -> np.ndarray:
    return np.array([[x, 0, z, 2, width, length, turn]], np.float64)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (_rectangle(0, 10, 4, 2), _rectangle(0, 10, 4, 2), 1.0),
        (_rectangle(0, 10, 4, 2), _rectangle(0, 10, 4, 2, math.pi), 1.0),
        (_rectangle(0, 10, 4, 2), _rectangle(1, 10, 4, 2), 6 / 10),
        (_rectangle(0, 10, 4, 2), _rectangle(4, 10, 4, 2), 0.0),  # they touch
        (_rectangle(0, 10, 4, 2), _rectangle(0, 13, 4, 2), 0.0),
        (_rectangle(0, 10, 4, 2), _rectangle(0, 10, 4, 2, math.pi / 2), 4 / 12),  # crossed
        (_rectangle(0, 10, 4, 4), _rectangle(0, 10, 1, 2, 0.7), 2 / 16),  # one inside the other
        # A square of side 2 and the same turned by 45 degrees: a regular octagon, 8 (sqrt(2) - 1) of area.
        (_rectangle(0, 10, 2, 2), _rectangle(0, 10, 2, 2, math.pi / 4), 1 / math.sqrt(2)),
    ],
)
def test_overlap_from_above_by_hand(first: np.ndarray, second: np.ndarray, expected: float) -> None:
    for a, b in ((first, second), (second, first)):
        assert ops.birds_eye_iou(a, b).item() == pytest.approx(expected, abs=1e-7)


def test_overlap_in_space_by_hand() -> None:
    first = _rectangle(0, 10, 4, 2)
    second = _rectangle(1, 10, 4, 2)
    second[:, 1] = -1  # half as high again: of 2 m they share 1, of 8 m2 6
    assert ops.solid_iou(first, second).item() == pytest.approx(6 / (16 + 16 - 6))
    second[:, 1] = -2  # it stands on top
    assert ops.solid_iou(first, second).item() == 0


def test_overlaps_agree_with_counting_points() -> None:
    """Against points of a grid that both rectangles hold, each tested by its own four half-planes."""
    random = np.random.default_rng(1)
    solids = random.random((12, 7)) * [4.0, 1, 4, 1, 2, 4, 6.3] + [-2.0, 0, 8, 1, 0.5, 1, -3.1]
    step = 0.01
    x, z = np.meshgrid(np.arange(-6, 6, step), np.arange(4, 16, step), indexing="ij")
    points = np.stack([x, z], axis=-1).reshape(-1, 2)
    inside = []
    for solid in solids:
        ring = ops.corners(solid)[:4][:, [0, 2]]
        side = [
            (ring[(k + 1) % 4] - ring[k])[0] * (points - ring[k])[:, 1]
            - (ring[(k + 1) % 4] - ring[k])[1] * (points - ring[k])[:, 0]
            for k in range(4)
        ]
        signs = np.stack(side)
        inside.append((signs >= 0).all(axis=0) | (signs <= 0).all(axis=0))
    held = np.stack(inside).astype(np.float64)
    shared = held @ held.T * step**2
    np.testing.assert_allclose(ops.shared_ground(solids, solids), shared, atol=0.02, rtol=0)
    assert (shared > 0.5).sum() > 40


def test_nothing_is_a_normal_case() -> None:
    nothing, some = np.zeros((0, 7)), np.random.default_rng(0).random((3, 7))
    assert ops.solid_iou(nothing, some).shape == (0, 3) and ops.birds_eye_iou(some, nothing).shape == (3, 0)
    assert ops.corners(nothing).shape == (0, 8, 3)
    assert ops.solids_from_cuboids(nothing, CAMERA).shape == (0, 7)
