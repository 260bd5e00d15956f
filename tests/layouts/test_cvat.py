"""CVAT's own XML: the shapes of its images in pixels; what is no object is named, video with the export to choose."""

import math
from pathlib import Path

import numpy as np
import pytest
from tests.annotated import picture, voc_xml

from aweigh.annotations.split import LABELS_LOST, NOT_SAID, REVIEWED, Split
from aweigh.cli.main import run
from aweigh.errors import DataError
from aweigh.layouts.load import find_splits, load_split

BOX = [5.0, 6.0, 25.0, 20.0]  # xyxy, in images of 40 x 30
RECTANGLE = '<box label="cat" source="manual" occluded="0" xtl="5" ytl="6" xbr="25" ybr="20" z_order="0"/>'


def image(shapes: str, name: str = "a.png", more: str = "") -> str:
    return f'<image id="0" name="{name}" width="40" height="30"{more}>{shapes}</image>'


def xml(*images: str) -> str:
    return f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>{"".join(images)}</annotations>'


def load(root: Path, text: str, place: str = "annotations.xml", pictures: str = "images/a.png") -> Split:
    picture(root / pictures)
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text(text)
    return load_split(root)


def kinds(split: Split) -> list[str]:
    return [problem.kind for problem in split.problems]


@pytest.mark.parametrize(
    ("place", "pictures", "name", "more"),
    [
        ("annotations.xml", "images/a.png", "a.png", ""),
        ("annotations.xml", "a.png", "photos/a.png", ""),
        ("train/annotations.xml", "train/images/a.png", "a.png", ""),
        ("annotations.xml", "images/train/a.png", "a.png", ' subset="train"'),  # as a project is exported
        ("set/annotations.xml", "set/images/a.png", "a.png", ""),  # one folder deeper
    ],
)
def test_where_it_lies(tmp_path: Path, place: str, pictures: str, name: str, more: str) -> None:
    split = load(tmp_path, xml(image(RECTANGLE, name, more)), place, pictures)
    assert split.layout == "cvat" and split.boxes.tolist() == [BOX] and split.problems == []
    assert split.classes.names == ("cat",)


def test_shapes(tmp_path: Path) -> None:
    shapes = [
        RECTANGLE,
        '<box label="cat" xtl="16" ytl="12" xbr="26" ybr="18" rotation="90"/>',  # about its middle (21, 15)
        '<polygon label="dog" points="5,6;25,6;25,20"/>',
        '<ellipse label="dog" cx="20" cy="15" rx="10" ry="5"/>',
        '<mask label="cat" rle="1, 2, 1" left="5" top="6" width="20" height="14"/>',
        '<tag label="indoors"/>',
        '<polyline label="cat" points="1,1;2,2"/>',
        '<points label="cat" points="1,1"/>',
        '<skeleton label="cat"><points label="nose" points="1,1"/></skeleton>',
        '<cuboid label="cat" xtl1="1"/>',
        '<box label="cat" xtl="x" ytl="1" xbr="2" ybr="3"/>',
        '<box xtl="1" ytl="1" xbr="2" ybr="3"/>',
        '<polygon label="cat" points="5,6;25"/>',
    ]
    split = load(tmp_path, xml(image("".join(shapes))))
    np.testing.assert_allclose(split.boxes, [BOX, [18, 10, 24, 20], BOX, [10, 10, 30, 20], BOX], atol=1e-4)
    assert [split.classes.names[label] for label in split.labels] == ["cat", "cat", "dog", "dog", "cat"]
    assert split.masks is not None and split.masks.kinds.tolist() == [0, 0, 1, 1, 0]
    assert split.area[2:4].tolist() == pytest.approx([140, math.pi * 50], rel=0.004)
    expected = ["rotated box", "mask as an image", *["shape that is no box"] * 4, *["unreadable record"] * 3]
    assert kinds(split) == expected and "COCO Keypoints 1.0" in str(split.problems[4])


def test_images_without_shapes_and_without_a_usable_one(tmp_path: Path) -> None:
    for name in "bc":
        picture(tmp_path / "images" / f"{name}.png")
    shapes = {"a.png": RECTANGLE, "b.png": "", "c.png": '<points label="cat" points="1,1"/>', "d.png": RECTANGLE}
    split = load(tmp_path, xml(*(image(one, name) for name, one in shapes.items()), "<image/>"))
    assert split.reviewed.tolist() == [REVIEWED, NOT_SAID, LABELS_LOST]
    assert sorted(kinds(split)) == ["image file missing", "shape that is no box", "unreadable record"]


def test_subsets_of_a_project_are_one_split(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "val" / "a.png", width=41)
    images = [image(RECTANGLE, more=f' subset="{subset}"') for subset in ("train", "val")]
    split = load(tmp_path, xml(*images), pictures="images/train/a.png")
    assert len(split) == 2 and "train, val are one split" in split.problems[0].detail


def test_video_and_what_is_no_xml_of_cvat(tmp_path: Path) -> None:
    track = '<track id="0" label="cat"><box frame="0" xtl="1" ytl="1" xbr="2" ybr="3"/></track>'
    with pytest.raises(DataError, match=r"CVAT for video.*Export the task as 'CVAT for images 1\.1'"):
        load(tmp_path, xml(track))
    with pytest.raises(DataError, match=r"annotations\.xml: cannot be read as CVAT's XML.*Export it again"):
        load(tmp_path, xml(image(RECTANGLE))[:-20])
    with pytest.raises(DataError, match="declares a document type"):
        load(tmp_path, f"<!DOCTYPE a [<!ENTITY x 'y'>]>{xml()[38:]}")


def test_other_xml_beside_voc_stays_voc(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages" / "a.png")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(voc_xml([("cat", [6, 7, 25, 20], 0)]))
    (tmp_path / "config.xml").write_text("<View/>")
    assert {files.layout for files in find_splits(tmp_path).values()} == {"voc"}


def test_checked_by_hand_and_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "set"
    picture(root / "photos" / "a.png")
    load(root, xml(image(RECTANGLE)), "task_1.xml")
    assert load_split(root, annotations=root / "task_1.xml", images=root / "photos").boxes.tolist() == [BOX]
    assert run(["data", "check", str(root), "--model", "none"]) == 0
    for layout in ("coco", "voc", "yolo", "csv"):
        assert run(["data", "convert", str(root), "--to", layout, "--out", str(tmp_path / layout)]) == 0
        np.testing.assert_allclose(load_split(tmp_path / layout).boxes, [BOX], atol=1e-3)
    capsys.readouterr()
