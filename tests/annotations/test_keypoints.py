"""Keypoints and what is known of an image, as the three layouts say it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.annotated import Make, coco_dict, picture, voc_xml

from aweigh.annotations.split import NEVER_LABELLED, NOT_SAID, REVIEWED
from aweigh.errors import DataError
from aweigh.layouts.load import load_split

NAMES = ["nose", "left_eye", "right_eye"]


def pose_dict(*keypoints: Any) -> dict[str, Any]:
    data = coco_dict([[5, 6, 10, 12] for _ in keypoints])
    data["categories"][0] |= {"keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}
    for entry, points in zip(data["annotations"], keypoints, strict=True):
        if points is not None:
            entry |= {"keypoints": points, "num_keypoints": 2}
    return data


def test_coco_keypoints(coco: Make) -> None:
    data = pose_dict([6, 7, 2, 8.25, 9, 1, 0, 0, 0], None)
    split = load_split(coco(data))
    assert split.keypoint_names == tuple(NAMES) and split.skeleton == ((0, 1), (0, 2)) and split.problems == []
    points = split.objects(0)["keypoints"]
    assert points is not None and points[0].tolist() == [[6, 7, 2], [8.25, 9, 1], [0, 0, 0]] and not points[1].any()
    truth = split.to_coco()
    assert truth["annotations"][0]["keypoints"] == [6, 7, 2, 8.25, 9, 1, 0, 0, 0]
    assert [entry["num_keypoints"] for entry in truth["annotations"]] == [2, 0]
    assert truth["categories"][0] == data["categories"][0]
    assert "1 with keypoints" in split.summary()
    assert split.take([1, 0]).objects(1)["keypoints"].tolist() == points.tolist()
    moved = pose_dict([6, 7, 2, 8.5, 9, 1, 0, 0, 0], None)
    assert load_split(coco(moved)).content_hash != split.content_hash


def test_keypoints_without_names_are_numbered(coco: Make) -> None:
    data = pose_dict([6, 7, 2, 8, 9, 1, 0, 0, 0])
    del data["categories"][0]["keypoints"], data["categories"][0]["skeleton"]
    split = load_split(coco(data))
    assert split.keypoint_names == ("0", "1", "2") and split.objects(0)["keypoints"] is not None


@pytest.mark.parametrize(
    ("points", "why"),
    [
        ([6, 7, 2], "expected 9 numbers"),
        ({"nose": 1}, "expected 9 numbers"),
        ([6, 7, 2, float("nan"), 9, 1, 0, 0, 0], "no number"),
        ([6, 7, 2, {}, 9, 1, 0, 0, 0], "no number"),
        ([6, 7, 2, 1e20, 9, 1, 0, 0, 0], "too large"),
        ([6, 7, 5, 8, 9, 1, 0, 0, 0], "visibility is 5"),
    ],
)
def test_bad_keypoints_are_named_and_the_box_kept(coco: Make, points: Any, why: str) -> None:
    split = load_split(coco(pose_dict(points, [6, 7, 2, 8, 9, 1, 0, 0, 0])))
    (problem,) = split.problems
    assert (problem.kind, problem.where, problem.annotation) == ("keypoints cannot be used", "1.png", 10)
    assert why in problem.detail and len(split.boxes) == 2
    assert split.keypoints is not None and not split.keypoints[0].any() and split.keypoints[1].any()


def test_two_ways_of_naming_keypoints_and_a_bad_skeleton(coco: Make) -> None:
    data = pose_dict([6, 7, 2, 8, 9, 1, 0, 0, 0])
    data["categories"][0]["skeleton"] = [[1, 2], [0, 9], "x"]
    data["categories"][1]["keypoints"] = ["tail"]
    split = load_split(coco(data))
    assert sorted(problem.kind for problem in split.problems) == [
        "keypoints named in two ways", "unreadable skeleton", "unreadable skeleton",
    ]  # fmt: skip
    dogs = load_split(coco(data) / "annotations" / "instances_train.json", "val", classes=["dog"])
    assert split.skeleton == ((0, 1),) and dogs.keypoint_names == ("tail",)


def make_pose(root: Path, line: str, **description: Any) -> Path:
    picture(root / "images" / "train" / "a.jpg")
    (root / "labels" / "train").mkdir(parents=True)
    (root / "labels" / "train" / "a.txt").write_text(f"0 0.5 0.5 0.5 0.5 {line}\n0 0.25 0.25 0.5 0.5\n")
    (root / "data.yaml").write_text(json.dumps({"train": "images/train", "names": ["cat"]} | description))
    return root


def test_yolo_keypoints(tmp_path: Path) -> None:
    three = load_split(make_pose(tmp_path / "3", "0.25 0.5 2 0 0 0", kpt_shape=[2, 3], kpt_names={0: ["head", "tail"]}))
    assert three.keypoint_names == ("head", "tail") and three.problems == []
    np.testing.assert_allclose(three.objects(0)["keypoints"], [[[10, 15, 2], [0, 0, 0]], np.zeros((2, 3))])
    two = load_split(make_pose(tmp_path / "2", "0.25 0.5 0 0", kpt_shape=[2, 2], skeleton=[[0, 1], [0, 7]]))
    np.testing.assert_allclose(two.objects(0)["keypoints"][0], [[10, 15, 2], [0, 0, 0]])
    assert two.keypoint_names == ("0", "1") and two.skeleton == ((0, 1),)
    wrong = load_split(make_pose(tmp_path / "wrong", "0.25 0.5 2", kpt_shape=[2, 3]))
    assert [problem.kind for problem in wrong.problems] == ["unreadable line"] and len(wrong.boxes) == 1
    with pytest.raises(DataError, match="kpt_shape must be"):
        load_split(make_pose(tmp_path / "bad", "", kpt_shape=[2, "x"]))


def test_yolo_polygons_are_masks(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "train" / "a.jpg")
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.25 0.2 0.5 0.2 0.5 0.6\n")
    split = load_split(tmp_path)
    masks = split.objects(0, masks=True)["masks"]
    assert split.boxes.tolist() == [[10, 6, 20, 18]] and masks is not None
    assert split.area.tolist() == pytest.approx([60]) and 50 < masks.sum() < 75


def test_whether_somebody_looked_at_an_image(coco: Make, tmp_path: Path) -> None:
    data = coco_dict([[5, 6, 10, 12]])
    assert load_split(coco(data)).reviewed.tolist() == [REVIEWED, NOT_SAID]
    for key, value, expected in (("reviewed", True, REVIEWED), ("labeled", False, NEVER_LABELLED)):
        data["images"][0] |= {key: False}  # what has boxes was looked at, whatever a tool wrote
        data["images"][1] = {"id": 2, "file_name": "2.png", "width": 40, "height": 30, key: value}
        split = load_split(coco(data))
        assert split.reviewed.tolist() == [REVIEWED, expected]
        assert split.labelled_for(0).all() and split.labelled_for(1).all() == (expected == REVIEWED)
        assert split.take([1, 0]).reviewed.tolist() == [expected, REVIEWED]
    assert "1 image without objects, kept (1 never labelled)" in split.summary()
    chosen = load_split(coco(data) / "annotations" / "instances_train.json", "val", classes=["dog"])
    assert chosen.reviewed.tolist() == [REVIEWED, NEVER_LABELLED]  # an image of cats was looked at

    root = tmp_path / "voc"
    for name in "abc":
        picture(root / "JPEGImages" / f"{name}.jpg")
    (root / "Annotations").mkdir()
    (root / "Annotations" / "a.xml").write_text(voc_xml([("dog", [1, 1, 10, 10], 0)]))
    (root / "Annotations" / "b.xml").write_text(voc_xml([]))
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nc\n")
    split = load_split(root)
    assert split.reviewed.tolist() == [REVIEWED, REVIEWED, NEVER_LABELLED]
    assert "(1 reviewed and empty, 1 never labelled)" in split.summary()
    assert [(p.kind, p.where, p.action) for p in split.problems] == [("annotation file missing", "c.xml", "kept")]

    yolo = tmp_path / "yolo"
    for name in "abc":
        picture(yolo / "images" / "train" / f"{name}.jpg")
    (yolo / "labels" / "train").mkdir(parents=True)
    (yolo / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    (yolo / "labels" / "train" / "b.txt").write_text("")
    assert load_split(yolo).reviewed.tolist() == [REVIEWED, REVIEWED, NEVER_LABELLED]


def test_a_rotated_voc_box_becomes_the_upright_one_around_it(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages" / "a.jpg")
    (tmp_path / "Annotations").mkdir()
    turned = "<robndbox><cx>20</cx><cy>15</cy><w>10</w><h>4</h><angle>1.5707963</angle></robndbox>"
    text = voc_xml([("dog", [1, 1, 10, 10], 0)]).replace(
        "</object>", f"</object><object><name>dog</name>{turned}</object>"
    )
    (tmp_path / "Annotations" / "a.xml").write_text(text)
    split = load_split(tmp_path)
    np.testing.assert_allclose(split.boxes[1], [18, 10, 22, 20], atol=1e-4)
    assert [(p.kind, p.annotation, p.action) for p in split.problems] == [("rotated box", "object 2", "changed")]


def test_real_keypoints(shared: Path) -> None:
    folder = shared / "data" / "coco_tiny"
    file = folder / "annotations" / "person_keypoints_val.json"
    split = load_split(folder, "val", annotations=file, images=folder / "images")
    assert split.problems == [] and len(split.keypoint_names) == 17 and len(split.skeleton) == 19
    given = {entry["id"]: entry for entry in json.loads(file.read_text())["annotations"]}
    for entry in split.to_coco()["annotations"]:
        assert {key: entry[key] for key in ("keypoints", "num_keypoints", "segmentation", "area", "bbox")} == {
            key: given[entry["id"]][key] for key in ("keypoints", "num_keypoints", "segmentation", "area", "bbox")
        }


def test_of_cocos_own_files_that_with_keypoints_is_taken_where_they_are_wanted(shared: Path) -> None:
    folder = shared / "data" / "coco_tiny"
    assert load_split(folder, "val").keypoints is None
    split = load_split(folder, "val", keypoints=True)
    assert len(split.keypoint_names) == 17 and split.classes.names == ("person",)
    assert load_split(shared / "data" / "bccd", "val", keypoints=True).keypoints is None  # there is one kind alone


def test_images_without_objects_in_data_with_keypoints(coco: Make) -> None:
    data = coco_dict([[5, 5, 10, 10]])
    data["categories"][0] |= {"keypoints": ["left", "right"]}
    data["annotations"][0] |= {"keypoints": [6, 6, 2, 9, 9, 1], "num_keypoints": 2}
    empty = load_split(coco(data)).take([1])
    assert empty.keypoints is not None and empty.to_coco()["annotations"] == []
