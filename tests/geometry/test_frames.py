"""Frames move all that is known of an image: the laws of affine maps, and objects in space against a projection."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.feeding.strategies import Scene, scenes
from torch.nn import functional

from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.geometry.cuboids import corners, cuboids_from_solids, project, wrapped
from aweigh.geometry.frames import Frame, exchanged
from aweigh.structures import Targets

few = settings(max_examples=40, deadline=None)
scales = st.floats(0.1, 10)
shifts = st.floats(-500, 500)
frames = st.builds(Frame, st.one_of(scales, scales.map(lambda scale: -scale)), scales, shifts, shifts)
# As KITTI's P2: the camera stands beside the origin, which its last column says.
CAMERA = np.array([[700.0, 0, 600, 45], [0, 710, 180, 0.2], [0, 0, 1, 0.003]])
CAR = np.array([[3.0, 1.7, 12, 1.5, 1.6, 4, 0.4], [-2, 1.6, 20, 1.7, 0.6, 0.8, -2.9]])
SIZE_HW = (370, 1242)
LEFT_AND_RIGHT = ((0, 1),)


def close(found: np.ndarray, expected: np.ndarray, *, atol: float = 1e-7, rtol: float = 1e-7) -> None:
    np.testing.assert_allclose(found, expected, atol=atol, rtol=rtol, equal_nan=False)
    assert found.dtype == np.asarray(expected).dtype


def boxes(seed: int, count: int = 5) -> np.ndarray:
    corner, sides = np.random.default_rng(seed).random((2, count, 2)) * 300
    return np.concatenate([corner, corner + sides + 1], axis=1)


# --- the map --------------------------------------------------------------------------------------------------------


@few
@given(frames, st.integers(0, 1000))
def test_there_and_back(frame: Frame, seed: int) -> None:
    given = boxes(seed)
    for back in (frame.inverse.boxes(frame.boxes(given)), frame.then(frame.inverse).boxes(given)):
        close(back, given, atol=1e-6, rtol=1e-9)
    close(frame.inverse.areas(frame.areas(given)), given)


@few
@given(frames, frames, st.integers(0, 1000))
def test_composed_is_one_after_the_other(first: Frame, second: Frame, seed: int) -> None:
    given, both = boxes(seed), first.then(second)
    close(both.boxes(given), second.boxes(first.boxes(given)), atol=1e-6, rtol=1e-9)
    close(both.points(given[:, :2]), second.points(first.points(given[:, :2])))
    assert both.mirrors == (first.mirrors != second.mirrors)


@few
@given(frames, st.integers(0, 1000))
def test_boxes_stay_boxes(frame: Frame, seed: int) -> None:
    given = boxes(seed)
    moved = frame.boxes(given)
    sides, before = moved[:, 2:] - moved[:, :2], given[:, 2:] - given[:, :2]
    close(sides, before * [abs(frame.scale_x), frame.scale_y], atol=1e-6, rtol=1e-9)
    close(frame.areas(before.prod(axis=1)), sides.prod(axis=1))


def test_the_named_frames_by_hand() -> None:
    box = np.array([10.0, 20, 30, 60])
    assert Frame.resize((100, 200), (50, 400)).boxes(box).tolist() == [20, 10, 60, 30]
    assert Frame.shift(-5, 7).boxes(box).tolist() == [5, 27, 25, 67]
    assert Frame.mirror(200).boxes(box).tolist() == [170, 20, 190, 60]
    assert Frame.mirror(200).then(Frame.mirror(200)) == Frame()
    for wrong in ({"scale_x": 0}, {"scale_y": -1}, {"shift_x": math.nan}, {"scale_x": math.inf}):
        with pytest.raises(UsageError, match="scale_x not 0 and scale_y above 0"):
            Frame(**wrong)


def test_what_is_a_pair_changes_places() -> None:
    labels = np.array([0, 3, 1, 2, 0])
    assert exchanged(labels, ((0, 1), (2, 4))).tolist() == [1, 3, 0, 4, 1]
    assert exchanged(labels, ()).tolist() == labels.tolist()


# --- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [((7, 9), (20, 4)), ((40, 30), (40, 30)), ((48, 64), (31, 90))])
def test_masks_are_resized_as_torch_does(before: tuple[int, int], after: tuple[int, int]) -> None:
    masks = np.random.default_rng(0).random((3, *before)) > 0.5
    expected = (
        functional.interpolate(torch.from_numpy(masks)[:, None].float(), size=after, mode="nearest-exact")[:, 0] > 0
    )
    np.testing.assert_array_equal(Frame.resize(before, after).masks(masks, after), expected)


@few
@given(scenes(), st.booleans(), st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3))
def test_masks_follow_their_boxes(scene: Scene, mirrored: bool, x: int, y: int, scale: int) -> None:
    image, targets = scene
    height, width = image.shape[1:]
    frame = Frame.shift(9 + x, 9 + y).then(Frame(scale, scale))
    frame = Frame.mirror(width).then(frame) if mirrored else frame
    moved = targets.moved(frame, (scale * (height + 18), scale * (width + 18)))
    assert moved.masks is not None and moved.masks.sum() == scale**2 * targets.masks.sum()
    assert moved.area.tolist() == pytest.approx(moved.masks.sum(dim=(1, 2)).tolist())
    for mask, box in zip(moved.masks, moved.boxes):
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box.tolist()


# --- targets and detections -----------------------------------------------------------------------------------------


@few
@given(frames, st.booleans(), st.integers(0, 1000))
def test_targets_and_detections_agree(frame: Frame, paired: bool, seed: int) -> None:
    pairs = LEFT_AND_RIGHT if paired else ()
    random = np.random.default_rng(seed)
    labels, cuboids = random.integers(3, size=5), random.random((5, 7), np.float32) * 3
    keypoints = random.random((5, 3, 3), np.float32) + np.array([5, 5, 1], np.float32)
    whole = frame.boxes(np.array([0.0, 0, 700, 700]))
    frame = frame.then(Frame.shift(-float(whole[0]), -float(whole[1])))  # all of the image stays in sight
    size_hw = tuple(math.ceil(side) + 1 for side in (700 * frame.scale_y, 700 * abs(frame.scale_x)))
    names = KeypointSet(("left", "right", "nose"), flip_pairs=pairs)
    rest = {"keypoints": keypoints, "cuboids": cuboids}
    given, scores = boxes(seed).astype(np.float32), random.random(5, np.float32)
    targets = Targets.of(given, labels, **rest).moved(frame, size_hw, class_pairs=pairs, keypoint_pairs=pairs).arrays()
    found = Detections(given, scores, labels, keypoint_set=names, size_hw=(700, 700), **rest)
    found = found.moved(frame, size_hw, class_pairs=pairs)
    assert found.size_hw == size_hw
    close(found.boxes, targets["boxes"], atol=1e-3, rtol=0)
    for name in ("labels", "keypoints", "cuboids"):
        np.testing.assert_array_equal(getattr(found, name), targets[name], name)
    swapped = paired and frame.mirrors
    np.testing.assert_array_equal(found.labels, exchanged(labels, LEFT_AND_RIGHT) if swapped else labels)
    rows = [1, 0, 2] if swapped else [0, 1, 2]
    close(found.keypoints[..., :2], frame.points(keypoints[:, rows, :2]))


def test_proposals_and_known_classes_go_with_targets() -> None:
    targets = Targets.of(
        [[1, 2, 5, 6]], [0], known=[True, False, True], proposals=[[0, 0, 4, 4], [2, 2, 10, 8]],
        keypoints=np.zeros((1, 2, 3), np.float32),
    )  # fmt: skip
    moved = targets.moved(Frame.mirror(10), (8, 10), class_pairs=LEFT_AND_RIGHT)
    assert moved.known.tolist() == [False, True, True] and moved.labels.tolist() == [1]
    assert moved.proposals.tolist() == [[6, 0, 10, 4], [0, 2, 8, 8]]
    assert moved.keypoints.tolist() == [[[0, 0, 0]] * 2]  # what is not given stays at 0, 0


# --- objects in space -----------------------------------------------------------------------------------------------


def in_a_mirror(solids: np.ndarray) -> np.ndarray:
    """Solids `[N, 7]` of a world in which left is right: at -x, turned round."""
    turned = solids * [-1, 1, 1, 1, 1, 1, 1]
    turned[:, 6] = wrapped(math.pi - solids[:, 6])
    return turned


@few
@given(frames)
def test_the_camera_of_a_frame_sees_what_the_frame_shows(frame: Frame) -> None:
    """The corners of a car, projected and then moved, are those that the moved camera projects: of the same car, or in
    a mirror of the mirrored one, whose left corners are its right ones."""
    solids = in_a_mirror(CAR) if frame.mirrors else CAR
    seen, depth = project(corners(solids), frame.camera(CAMERA))
    expected, depth_before = project(corners(CAR), CAMERA)
    order = [1, 0, 3, 2, 5, 4, 7, 6] if frame.mirrors else [*range(8)]
    close(seen, frame.points(expected)[:, order])
    close(depth, depth_before[:, order])
    assert frame.camera(CAMERA)[0, 0] > 0  # still a camera


def test_a_mirrored_cuboid_is_how_a_mirrored_car_looks() -> None:
    """An independent computation: the angle between the ray to the car and where it heads, from positions alone."""
    frame = Frame.mirror(SIZE_HW[1])
    mirrored = frame.cuboids(cuboids_from_solids(CAR, CAMERA))
    close(mirrored, cuboids_from_solids(in_a_mirror(CAR), frame.camera(CAMERA)))
    for cuboid, solid in zip(mirrored.tolist(), CAR):
        front = corners(solid)[[0, 1], :].mean(axis=0) - solid[:3]  # heads there
        x, z = float(-solid[0]), float(solid[2])  # in the mirror
        heading = math.atan2(-float(front[2]), -float(front[0]))
        assert math.remainder(cuboid[6] - (heading - math.atan2(x, z)), 2 * math.pi) == pytest.approx(0, abs=1e-9)
        assert -math.pi <= cuboid[6] < math.pi
    assert frame.cuboids(np.array([[math.nan] * 6 + [0.5]]))[0, 6] == pytest.approx(math.pi - 0.5)


@pytest.mark.parametrize(
    "frame", [Frame.resize(SIZE_HW, (185, 414)), Frame.shift(-300, -20), Frame.mirror(SIZE_HW[1])], ids=str
)
def test_detections_stand_where_they_stood(frame: Frame) -> None:
    """Places in space are the same from a resized image or a window of it, and mirrored in a mirror."""
    boxes, scores, labels = np.array([[100, 100, 200, 200]] * 2, np.float32), np.ones(2, np.float32), np.array([0, 1])
    found = Detections(
        boxes, scores, labels, Classes.numbered(2), SIZE_HW,
        cuboids=cuboids_from_solids(CAR, CAMERA).astype(np.float32), camera=CAMERA,
    )  # fmt: skip
    moved = found.moved(frame, SIZE_HW)
    expected = in_a_mirror(CAR) if frame.mirrors else CAR
    close(moved.solids(), expected, atol=1e-4, rtol=0)
    if frame.mirrors:
        again = moved.moved(frame, SIZE_HW)
        for name in ("boxes", "cuboids", "camera"):
            close(getattr(again, name), getattr(found, name), atol=1e-5, rtol=1.3e-6)  # most of it is float32
