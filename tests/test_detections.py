"""`Detections` are counted, indexed, compared and shown as what a user takes them for."""

import numpy as np
import pytest
import torch

from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detection, Detections
from aweigh.errors import UsageError

NAMES = ("person", "dog", "cat")


def detections(labels: tuple[int, ...] = (0, 1, 0, 2), **fields: object) -> Detections:
    """Objects of these classes in an image of 80 x 60 pixels, best first."""
    number = len(labels)
    boxes = np.array([[5 * i, 2, 5 * i + 30, 20.5] for i in range(number)], np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.3, number, dtype=np.float32)
    given = {"classes": Classes(NAMES, (1, 18, 17)), "size_hw": (60, 80), "path": "photo.jpg", **fields}
    return Detections(boxes, scores, np.array(labels, np.int64), **given)  # type: ignore[arg-type]


def test_they_have_a_length_and_give_one_after_the_other() -> None:
    found = detections()
    assert len(found) == len(list(found)) == 4
    assert [one.name for one in found] == found.names == ["person", "dog", "person", "cat"]
    assert found.category_ids == [1, 18, 1, 17]
    first = found[0]
    assert isinstance(first, Detection) and (first.label, first.name) == (0, "person")
    assert first.box == (0.0, 2.0, 30.0, 20.5) and first.score == pytest.approx(0.9)
    assert first.mask is first.keypoints is first.cuboid is None
    assert repr(first) == "Detection(person 0.90, box (0.0, 2.0, 30.0, 20.5))"
    with pytest.raises(AttributeError):
        first.score = 1.0  # type: ignore[misc]


def test_a_number_is_one_of_them() -> None:
    found = detections()
    for number in (-1, np.int64(3), np.array(3), torch.tensor(3)):
        assert found[number].name == "cat"  # type: ignore[index]
    for beyond in (4, -5):
        with pytest.raises(IndexError):
            found[beyond]


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(1, 3), [1, 2]),
        (slice(None, None, -1), [3, 2, 1, 0]),
        ("person", [0, 2]),
        (["dog", "cat"], [1, 3]),
        (("cat",), [3]),
        ([2, 0], [2, 0]),
        ([], []),
        (np.array([3, -4]), [3, 0]),
        (np.array([True, False, False, True]), [0, 3]),
        ([False, True, False, False], [1]),
        (torch.tensor([1]), [1]),
        (torch.tensor([False, False, True, True]), [2, 3]),
    ],
    ids=str,
)
def test_the_rest_are_some_of_them(index: object, rows: list[int]) -> None:
    points = np.arange(4 * 2 * 3, dtype=np.float32).reshape(4, 2, 3)
    found = detections(keypoints=points, keypoint_set=KeypointSet(("head", "tail")))
    some = found[index]  # type: ignore[call-overload]
    assert some.path == "photo.jpg" and some.keypoint_set == found.keypoint_set
    np.testing.assert_array_equal(some.boxes, found.boxes[rows])
    np.testing.assert_array_equal(some.keypoints, points[rows])
    assert some == found[np.array(rows, dtype=int)]


def test_what_is_no_index_is_an_error_that_says_what_is() -> None:
    found = detections()
    with pytest.raises(UsageError, match=r"no class 'dgo' among person, dog, cat\. Did you mean 'dog'\?"):
        found["dgo"]
    with pytest.raises(UsageError, match="no class 'bird'"):
        found[["dog", "bird"]]
    for wrong in (0.5, None, True, {"dog"}, [[0, 1]], [0.5], np.zeros((4, 1), bool)):
        with pytest.raises(UsageError, match="Detections take a number, a slice, a class name"):
            found[wrong]  # type: ignore[call-overload]
    with pytest.raises(IndexError):
        found[np.array([True])]


def test_an_object_has_its_mask_and_keypoints() -> None:
    masks = np.zeros((2, 4, 4), np.float32)
    masks[1] = 1
    points = np.ones((2, 3, 3), np.float32)
    found = detections((0, 1), masks=masks, keypoints=points)
    empty, full = (one.mask for one in found)
    assert empty is not None and full is not None and full.shape == (60, 80)
    assert not empty.any() and full[10, 20] and not full[40].any()
    np.testing.assert_array_equal(found[1].keypoints, points[1])


def test_none_of_them_is_ordinary_with_masks_and_keypoints_too() -> None:
    nothing = detections((), masks=np.zeros((0, 4, 4), np.float32), keypoints=np.zeros((0, 3, 3), np.float32))
    assert nothing["person"] == nothing[:0] == nothing[[]] == nothing and list(nothing) == nothing.to_coco(1) == []


def test_they_are_equal_where_all_that_they_hold_is() -> None:
    assert detections() == detections()
    assert detections()[::-1] != detections()
    for other in ({"path": None}, {"size_hw": (60, 81)}, {"masks": np.zeros((4, 2, 2), np.float32)}):
        assert detections() != detections(**other)
    unknown = np.full((4, 7), np.nan, np.float32)
    assert detections(cuboids=unknown) == detections(cuboids=unknown.copy())
    assert detections() != "photo.jpg" and detections(()) == detections(())


def test_a_short_text_says_what_is_there() -> None:
    found = detections()
    assert repr(found) == "Detections(photo.jpg, 80 x 60: 2 person, 1 dog, 1 cat, scores 0.30 to 0.90)"
    assert repr(found[:0]) == "Detections(photo.jpg, 80 x 60: none)"
    with_all = detections(masks=np.zeros((4, 2, 2), np.float32), keypoints=np.zeros((4, 1, 3), np.float32), path=None)
    assert repr(with_all).endswith("with masks and keypoints)") and repr(with_all).startswith("Detections(80 x 60")
    unread = Detections.empty(found.classes, path="bad.jpg", error="bad.jpg: the file is empty")
    assert repr(unread) == "Detections(error: bad.jpg: the file is empty)"
    many = detections((*range(300),), classes=Classes.from_names([f"\x1b[2Jname {i}\n" for i in range(300)]))
    assert len(repr(many)) < 200 and repr(many).isprintable() and "and 294 more classes" in repr(many)


def test_labels_stand_for_classes_that_nobody_named() -> None:
    bare = Detections(np.zeros((2, 4), np.float32), np.ones(2, np.float32), np.array([7, 2]))
    assert bare.names == ["7", "2"] and bare.category_ids == [7, 2]
    assert [entry["category_id"] for entry in bare.to_coco(1)] == [7, 2]
