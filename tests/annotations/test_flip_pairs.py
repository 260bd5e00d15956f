"""Pairs of left and right are found by name in the spellings people use, and can be given instead."""

import pytest

from aweigh.annotations.flip_pairs import FlipPairs, describe_pairs, find_pairs, flip_pairs
from aweigh.errors import UsageError
from aweigh.scenes.shapes import KEYPOINTS

COCO_PERSON = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
]  # fmt: skip


@pytest.mark.parametrize(
    "names",
    [
        ("left_eye", "right_eye"), ("LeftHand", "RightHand"), ("arrow left", "arrow right"), ("hand-l", "hand-r"),
        ("LHand", "RHand"), ("eyeL", "eyeR"), ("L_ankle", "R_ankle"), ("TURN_RIGHT", "TURN_LEFT"), ("left", "right"),
        ("lefteye", "righteye"), ("handleft", "handright"), ("arrow.l", "arrow.r"), ("left2", "right2"),
        ("left hand of right player", "right hand of left player"), ("Left Eye", "right eye"), ("l", "r"),
        ("left(rear)", "right(rear)"),
    ],
)  # fmt: skip
def test_spellings(names: tuple[str, str]) -> None:
    assert find_pairs(("other", *names)) == ((1, 2),) == find_pairs((names[1], *names[:1], "other")[::-1])


@pytest.mark.parametrize(
    "names",
    [
        ("lamp", "ramp"), ("light", "right"), ("left", "light"), ("lock", "rock"), ("left_eye", "right_ear"), ("", "l"),
        ("left_eye", "left eye", "right_eye"), ("class 1l5", "class 1r6"), ("bright", "bleach"), ("left",), (),
    ],
)  # fmt: skip
def test_no_pairs(names: tuple[str, ...]) -> None:
    assert find_pairs(names) == ()


def test_a_leading_letter_tells_the_side_of_keypoints_alone() -> None:
    names = ("lshoulder", "rshoulder", "lhip", "rhip")
    assert find_pairs(names, keypoints=True) == ((0, 1), (2, 3)) and find_pairs(names) == ()


def test_the_keypoints_of_a_person_and_of_the_synthetic_shapes() -> None:
    assert find_pairs(COCO_PERSON, keypoints=True) == tuple((row, row + 1) for row in range(1, 17, 2))
    ((first, second),) = find_pairs(KEYPOINTS, keypoints=True)
    assert {KEYPOINTS[first], KEYPOINTS[second]} == {"left", "right"}


def test_found_given_or_none() -> None:
    classes, keypoints = ["cat", "left hand", "right hand", "b", "d"], ["left_eye", "right_eye", "nose"]
    assert flip_pairs((), classes, keypoints) == FlipPairs(((1, 2),), ((0, 1),))
    assert flip_pairs(["none"], classes, keypoints) == FlipPairs()
    assert flip_pairs(["b=d"], classes, keypoints) == FlipPairs(((3, 4),), ())
    assert flip_pairs([" b = d ", "right_eye=left_eye"], classes, keypoints) == FlipPairs(((3, 4),), ((1, 0),))
    assert flip_pairs(["b=d"], ["b", "d"], ["d", "b"]) == FlipPairs(((0, 1),), ((1, 0),))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["left hnd=right hand"], r"'left hnd' is neither a class nor a keypoint.*Did you mean 'left hand'"),
        (["left hand"], "'left hand' is no pair; write left_hand=right_hand"),
        (["none", "left hand=right hand"], "'none' is no pair"),
        (["left hand=nose"], "one is a class and the other a keypoint"),
        (["cat=cat"], "'cat' has two counterparts"),
        (["left hand=right hand", "cat=right hand"], "'right hand' has two counterparts"),
    ],
)
def test_wrong_pairs(given: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        flip_pairs(given, ["cat", "left hand", "right hand"], ["nose"])
    assert caught.value.exit_code == 2


def test_what_the_user_is_shown() -> None:
    names = ["nose", "left_eye", "right_eye"]
    assert describe_pairs("keypoints", names, ((1, 2),)) == ["a flip exchanges the keypoints left_eye/right_eye"]
    (line,) = describe_pairs("keypoints", names, ())
    assert line.startswith("warning: a flip leaves the keypoints left_eye/right_eye as they are")
    (line,) = describe_pairs("classes", ["left turn", "stop"], ())
    assert line.startswith("warning: a flip leaves the classes left turn as they are")
    assert describe_pairs("classes", ["cat", "dog"], ()) == describe_pairs("classes", [], ((0, 1),)) == []
