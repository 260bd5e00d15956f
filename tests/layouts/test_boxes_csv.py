"""A CSV of boxes: columns by name in any spelling, what is missing said by name, and what it cannot hold counted."""

from pathlib import Path

import numpy as np
import pytest
from tests.annotated import Make, coco_dict, picture

from aweigh.annotations.split import LABELS_LOST, NEVER_LABELLED, REVIEWED, Split
from aweigh.errors import DataError
from aweigh.layouts.load import find_splits, load_split
from aweigh.layouts.save import not_held, save_dataset

BOX = [5.0, 6.0, 25.0, 20.0]  # xyxy, in an image of 40 x 30


def one(root: Path, text: str, *, file: str = "train.csv", images: str = "images") -> Split:
    picture(root / images / "a.png")
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(text, encoding="utf-8")
    return load_split(root)


@pytest.mark.parametrize(
    "text",
    [
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,40,30,cat,5,6,25,20\n",
        "image,xmin,ymin,xmax,ymax,label\na.png,5,6,25,20,cat\n",
        "label_name;X_Min;Y_Min;X_Max;Y_Max;Image Path\r\ncat;5;6;25;20;photos/images/a.png\r\n",
        "\ufeffpath\tx1\ty1\tx2\ty2\tname\nC:\\data\\images\\a.png\t5.0\t6.0\t25.0\t20.0\tcat\n",
        "image_id,x,y,w,h,category\na,5,6,20,14,cat\n",
        'file_name,x,y,width,height,class\n"a.png",5,6,20,14,"cat"\n',
        "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\ncat,5,6,20,14,a.png,40,30\n",
        "file,left,top,right,bottom,label\na.png,5,6,25,20,cat\n",
    ],
)
def test_common_spellings(tmp_path: Path, text: str) -> None:
    split = one(tmp_path, text)
    assert split.boxes.tolist() == [BOX] and split.classes.names == ("cat",) and split.problems == []
    assert split.layout == "csv" and split.sizes_hw.tolist() == [[30, 40]]


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("train/_annotations.csv", "train"),
        ("train_labels.csv", "images/train"),
        ("annotations/train.csv", "images"),
        ("data/boxes.csv", "images"),
    ],
)
def test_where_it_lies(tmp_path: Path, file: str, images: str) -> None:
    text = "filename,xmin,ymin,xmax,ymax,class\na.png,5,6,25,20,cat\n"
    assert one(tmp_path, text, file=file, images=images).boxes.tolist() == [BOX]


def test_a_name_of_two_splits_is_the_picture_of_its_own(tmp_path: Path) -> None:
    for key, size in (("train", (40, 30)), ("val", (80, 60))):
        picture(tmp_path / "images" / key / "a.png", *size)
        (tmp_path / f"{key}.csv").write_text("filename,xmin,ymin,xmax,ymax,class\na.png,5,6,25,20,cat\n")
    assert [load_split(tmp_path, key).sizes_hw.tolist() for key in ("train", "val")] == [[[30, 40]], [[60, 80]]]


def test_what_is_missing_is_said_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column names the class \(class, label.*; its first line .* has filename"):
        one(tmp_path, "filename,xmin,ymin,xmax,ymax\na.png,5,6,25,20\n")
    with pytest.raises(DataError, match=r"the image \(filename, .* nor the box \(xmin, ymin, .*has a, class"):
        (tmp_path / "other.csv").write_text("a,class\n1,cat\n")
        load_split(tmp_path, annotations=tmp_path / "other.csv")


def test_lines_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    for name in ("b.png", "c.png", "d.png"):
        picture(tmp_path / "images" / name)
    split = one(
        tmp_path,
        "filename,class,xmin,ymin,xmax,ymax\na.png,cat,5,6,25,20\nb.png,,,,,\nc.png,cat,5,six,25,20\n"
        "a.png,,5,6,25,20\n,cat,5,6,25,20\nd.png\ngone.png,cat,5,6,25,20\n",
    )
    assert [path.name for path in split.paths] == ["a.png", "b.png", "c.png", "d.png"]
    assert split.boxes.tolist() == [BOX]
    assert split.reviewed.tolist() == [LABELS_LOST, REVIEWED, LABELS_LOST, REVIEWED]
    assert [(problem.kind, problem.annotation) for problem in split.problems] == [
        ("unreadable line", "line 4"),
        ("unreadable line", "line 5"),
        ("unreadable record", "line 6"),
        ("image file missing", None),
    ]


def test_written_and_read_back(coco: Make, tmp_path: Path) -> None:
    data = coco_dict([[5, 6, 10, 12], [1.5, 2.25, 30, 20], [0, 0, 40, 30]])
    data["annotations"][2]["iscrowd"] = 1
    data["images"] += [{"id": 3, "file_name": "3.png", "width": 40, "height": 30}]
    data["images"][1]["reviewed"], data["images"][2]["reviewed"] = True, False
    data["categories"].reverse()
    root = coco(data)
    picture(root / "images" / "3.png")
    split = load_split(root)
    lines = save_dataset({"train": split}, tmp_path / "out", "csv")
    assert lines == not_held({"train": split}, "csv")
    assert "crowd: 1 region left out" in lines and any(line.startswith("never labelled: 1 image") for line in lines)
    again = load_split(tmp_path / "out")
    assert again.problems == [] and again.classes.names == split.classes.names
    np.testing.assert_allclose(again.boxes, split.boxes[~split.crowd], atol=1e-6)
    assert again.labels.tolist() == split.labels[~split.crowd].tolist()
    assert again.reviewed.tolist() == [REVIEWED, REVIEWED] and split.reviewed.tolist()[2] == NEVER_LABELLED


def test_a_table_of_other_things_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text("name,price\ncat,5\n")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="no known layout"):
        find_splits(tmp_path)
