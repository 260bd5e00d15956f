"""Every bad record is named by file and annotation, and nothing good is lost with it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.annotated import Make, coco_dict, picture, voc_xml

from aweigh.annotations.problems import clean_boxes
from aweigh.errors import DataError
from aweigh.inspect.rules import remarks
from aweigh.layouts.load import load_split

GOOD = [5, 5, 10, 10]


@pytest.mark.parametrize(
    ("box", "kind", "kept"),
    [
        ([5, 5, 0, 10], "zero-size box", None),
        ([5, 5, 0, 0], "zero-size box", None),
        ([15, 5, -10, 10], "corners exchanged", [5, 5, 15, 15]),
        ([50, 5, 10, 10], "box outside the image", None),
        ([5, -20, 10, 10], "box outside the image", None),
        ([float("nan"), 5, 10, 10], "box not finite", None),
        ([5, 5, float("inf"), 10], "box not finite", None),
        ([5, 5, 10], "box not finite", None),
        (None, "box not finite", None),
        (["a", 5, 10, 10], "box not finite", None),
        ([5, 5, 0.5, 10], "box under one pixel", None),
        ([39.5, 5, 10, 10], "box under one pixel", None),
        ([-5, 20, 20, 20], "box over the edge", [0, 20, 15, 30]),
    ],
)
def test_bad_boxes_in_coco(coco: Make, box: Any, kind: str, kept: list[float] | None) -> None:
    data = coco_dict([GOOD, GOOD])
    data["annotations"][1]["bbox"] = box
    split = load_split(coco(data))
    (problem,) = split.problems
    assert (problem.kind, problem.where, problem.annotation) == (kind, "1.png", 11)
    has_a_size = kind in ("box outside the image", "box under one pixel")
    assert problem.action == (
        "changed"
        if kind == "corners exchanged"
        else "clipped"
        if kept
        else "not trained on"
        if has_a_size
        else "dropped"
    )
    assert split.boxes.tolist() == [[5, 5, 15, 15]] + ([kept] if kept else [])
    assert "1.png annotation 11" in split.problem_report()
    with pytest.raises(DataError, match="strict"):
        load_split(coco(data), strict=True)


def test_a_box_without_a_box(coco: Make) -> None:
    data = coco_dict([GOOD, GOOD])
    del data["annotations"][0]["bbox"]
    split = load_split(coco(data))
    assert len(split.boxes) == 1 and split.problems[0].annotation == 10


def test_rounding_over_the_edge_is_no_problem(coco: Make) -> None:
    split = load_split(coco(coco_dict([[30, 20, 10.004, 10.0000001]])))
    assert split.boxes.tolist() == [[30, 20, 40, 30]] and split.problems == []


def test_labels_out_of_range(coco: Make) -> None:
    data = coco_dict([GOOD, GOOD, GOOD])
    data["annotations"][1]["category_id"] = 99
    data["annotations"][2]["category_id"] = [3]
    split = load_split(coco(data))
    assert len(split.boxes) == 1 and [p.annotation for p in split.problems] == [11, 12]
    assert split.problems[0].kind == "label out of range" and "99, the file has 3, 7" in split.problems[0].detail


def test_duplicate_ids(coco: Make) -> None:
    data = coco_dict([GOOD, [1, 1, 5, 5]])
    data["annotations"][1]["id"] = 10
    data["images"].append({"id": 2, "file_name": "3.png", "width": 40, "height": 30})
    split = load_split(coco(data))
    assert {p.kind: p.action for p in split.problems} == {
        "duplicate image id": "image skipped",
        "duplicate annotation id": "changed",
    }
    assert len(split) == 2 and len(split.boxes) == 2 and split.annotation_ids.tolist() == [10, 11]


def test_ids_that_are_text(coco: Make) -> None:
    data = coco_dict([GOOD])
    for image in data["images"]:
        image["id"] = f"img-{image['id']}"
    data["annotations"][0] |= {"image_id": "img-1", "id": "x"}
    split = load_split(coco(data))
    assert split.image_ids.tolist() == [1, 2] and split.boxes.tolist() == [[5, 5, 15, 15]]
    assert {p.kind for p in split.problems} == {
        "image ids are not whole numbers",
        "annotation id is not a whole number",
    }


def test_whole_numbers_however_they_are_written(coco: Make) -> None:
    data = coco_dict([GOOD])
    data["images"][0]["id"] = "1"
    data["annotations"][0] |= {"image_id": 1.0, "id": "10", "category_id": "3"}
    split = load_split(coco(data))
    assert split.problems == [] and split.annotation_ids.tolist() == [10] and len(split.boxes) == 1
    data["annotations"][0]["id"] = [1]
    (problem,) = load_split(coco(data)).problems
    assert problem.kind == "annotation id is not a whole number"


def test_annotation_for_a_missing_image(coco: Make) -> None:
    data = coco_dict([GOOD, GOOD])
    data["annotations"][1]["image_id"] = 77
    split = load_split(coco(data))
    (problem,) = split.problems
    assert (problem.kind, problem.annotation) == ("annotation for a missing image", 11) and "77" in problem.detail


def test_missing_files_are_named_with_the_folder(coco: Make) -> None:
    data = coco_dict([GOOD])
    data["images"] += [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 30} for n in range(3, 8)]
    data["annotations"].append({"id": 50, "image_id": 4, "category_id": 3, "bbox": GOOD})
    root = coco(data)
    split = load_split(root)
    assert len(split) == 2 and len(split.boxes) == 1
    assert [p.kind for p in split.problems] == ["image file missing"] * 5
    assert [p.detail for p in split.problems[:3]] == [f"looked for {root / 'images' / f'{n}.png'}" for n in (3, 4, 5)]


def test_paths_do_not_lead_outside(coco: Make, tmp_path: Path) -> None:
    picture(tmp_path / "secret.png")
    data = coco_dict([GOOD])
    data["images"].append({"id": 3, "file_name": "../../secret.png", "width": 40, "height": 30})
    data["images"].append({"id": 4, "file_name": str(tmp_path / "secret.png"), "width": 40, "height": 30})
    split = load_split(coco(data))
    assert len(split) == 2 and [p.kind for p in split.problems] == ["path outside the folder"] * 2


def test_unreadable_records(coco: Make) -> None:
    data = coco_dict([GOOD])
    data["images"] += ["text", {"id": 9}]
    data["annotations"] += [None, 5]
    split = load_split(coco(data))
    assert len(split) == 2 and [p.kind for p in split.problems] == ["unreadable record"] * 4
    assert [p.annotation for p in split.problems] == ["images[2]", "annotations[1]", "annotations[2]", "images[2]"]


def test_unreadable_sizes(coco: Make) -> None:
    data = coco_dict([GOOD])
    del data["images"][1]["width"]
    root = coco(data)
    (root / "images" / "2.png").write_text("no image")
    split = load_split(root)
    assert len(split) == 1 and split.problems[0].kind == "image unreadable" and split.problems[0].where == "2.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('{"info": 1}', "a COCO file is an object"),
        ('{"images": 5}', "images must be a list"),
        ('{"images": [], "categories": [{"id": "a"}]}', "category needs a whole number"),
        ('{"images": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "'a' and 'b'"),
        ('{"images": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}', "two classes"),
        ('{"images": [], "annotations": []}', "no images"),
    ],
)
def test_broken_files(coco: Make, text: str, message: str) -> None:
    root = coco()
    file = root / "annotations" / "instances_train.json"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load_split(root, annotations=file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 3


def test_training_without_a_box_stops(coco: Make) -> None:
    with pytest.raises(DataError, match=r"2 images but no box.*Classes in the data: cat, dog"):
        load_split(coco(coco_dict([])))
    with pytest.raises(DataError, match=r"Classes asked for: dog"):
        load_split(coco(), classes=["dog"])
    with pytest.raises(DataError, match=r"zero-size box: 1 dropped \(1\.png annotation 10"):
        load_split(coco(coco_dict([[1, 1, 0, 0]])))
    root = coco(coco_dict([]))
    (root / "annotations" / "instances_train.json").rename(root / "annotations" / "instances_val.json")
    assert len(load_split(root, "val").boxes) == 0


def test_corners_stored_as_sizes_are_suspected(coco: Make) -> None:
    corners = [[n, n, n + 12, n + 10] for n in range(20)]
    split = load_split(coco(coco_dict(corners)))
    kinds = {p.kind for p in split.problems if p.action == "kept"}
    assert kinds == {"looks like corners (x0, y0, x1, y1) stored as sizes"}
    assert "instances_train.json" in split.problem_report()
    good = [[n, n, 10, 10] for n in range(20)]
    assert load_split(coco(coco_dict(good))).problems == []


def test_fractions_stored_as_pixels_are_suspected(coco: Make) -> None:
    with pytest.raises(DataError, match="looks like fractions of the image instead of pixels"):
        load_split(coco(coco_dict([[0.1, 0.2, 0.5, 0.5]] * 3)))


def test_remarks(coco: Make) -> None:
    split = load_split(coco(coco_dict([GOOD, [0, 0, 40, 30], GOOD, [5, 5, 10, 11]])))
    found = {kind: split.annotation_ids[rows].tolist() for kind, rows in remarks(split).items()}
    assert found == {"same box twice": [12], "box as large as the image": [11]}


def test_bad_voc(tmp_path: Path) -> None:
    root = tmp_path
    (root / "Annotations").mkdir()
    bomb = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'
    texts = {
        "good": voc_xml([("dog", [1, 1, 10, 10], 0), ("dog", [10, 10, 5, 5], 0), ("", [1, 1, 5, 5], 0)]),
        "broken": "<annotation>",
        "bomb": bomb,
        "alone": voc_xml([("dog", [1, 1, 10, 10], 0)]),
    }
    for name, text in texts.items():
        (root / "Annotations" / f"{name}.xml").write_text(text)
        if name != "alone":
            picture(root / "JPEGImages" / f"{name}.jpg")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join([*texts, "gone"]))
    split = load_split(root)
    assert split.boxes.tolist() == [[0, 0, 10, 10], [4, 4, 10, 10]]
    assert sorted((p.kind, p.where, p.annotation) for p in split.problems) == [
        ("annotation file missing", "gone.xml", None),
        ("annotation file unreadable", "bomb.xml", None),
        ("annotation file unreadable", "broken.xml", None),
        ("corners exchanged", "good.jpg", "object 2"),
        ("image file missing", "alone.xml", None),
        ("label out of range", "good.xml", "object 3"),
    ]


def test_bad_yolo(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "train" / "a.jpg")
    labels = tmp_path / "labels" / "train"
    labels.mkdir(parents=True)
    lines = ["0 0.5 0.5 0.5 0.5", "5 0.5 0.5 0.1 0.1", "-1 0.5 0.5 0.1 0.1", "0 1 2 3", "x 0.5 0.5 0.1 0.1", "",
             "0 nan 0.5 0.1 0.1", "0 200 100 50 50", "0.5 0.5 0.5 0.1 0.1"]  # fmt: skip
    (labels / "a.txt").write_text("\n".join(lines))
    (labels / "b.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [egg, hen]\n")
    split = load_split(tmp_path)
    assert split.boxes.tolist() == [[10, 7.5, 30, 22.5]]
    assert sorted((p.kind, str(p.annotation)) for p in split.problems) == [
        ("box not finite", "line 7"),
        ("box outside the image", "line 8"),
        ("label out of range", "line 2"),
        ("label out of range", "line 3"),
        ("labels for a missing image", "None"),
        ("looks like pixels instead of fractions", "line 8"),
        ("unreadable line", "line 4"),
        ("unreadable line", "line 5"),
        ("unreadable line", "line 9"),
    ]
    (tmp_path / "data.yaml").write_text("train: [\n")
    with pytest.raises(DataError, match="cannot be read as YAML"):
        load_split(tmp_path)


numbers = st.one_of(st.floats(-100, 200), st.sampled_from([0.0, 40.0, 30.0, math.nan, math.inf, -math.inf, 1e300]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=8))
def test_no_good_box_is_lost_and_no_bad_one_kept(rows: list[tuple[float, float, float, float]]) -> None:
    boxes = np.array(rows, dtype=np.float64).reshape(-1, 4)
    clipped, good, found = clean_boxes(boxes, np.tile([[30, 40]], (len(boxes), 1)))
    limits = np.array([40, 30, 40, 30])
    for box, after, kept in zip(boxes, clipped, good):
        inside = np.isfinite(box).all() and (box >= 0).all() and (box <= limits).all()
        if inside and (np.abs(box[2:] - box[:2]) >= 1).all():
            ordered = np.concatenate([np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])])
            assert kept and np.array_equal(after, ordered)
        if kept:
            assert (after[2:] - after[:2] >= 0.99).all() and (after >= 0).all() and (after <= limits).all()
    assert {row for row, _, action in found if action not in ("clipped", "changed")} == set(
        np.flatnonzero(~good).tolist()
    )
    json.dumps(found)
