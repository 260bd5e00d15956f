"""The layouts of labelling tools, as these write them: read whole, by folder and by hand, never outside the folder."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.annotated import picture, voc_xml

from aweigh.annotations.split import LABELS_LOST, NOT_SAID, REVIEWED, Split
from aweigh.cli.main import run
from aweigh.errors import DataError
from aweigh.layouts.load import find_splits, load_split

BOX = [5.0, 6.0, 25.0, 20.0]  # xyxy, in images of 40 x 30
CASES = {
    "cvat_train_txt": ("yolo", 3, 2),
    "cvat_yolo11": ("yolo", 1, 1),
    "labelme": ("labelme", 1, 1),
    "via": ("via", 1, 1),
    "createml": ("createml", 1, 1),
    "dota_txt": ("dota", 1, 1),
    "annots_voc": ("voc", 1, 1),
}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def only(root: Path, name: str = "train", **options: Any) -> Split:
    split = load_split(root, name, **options)
    assert len(split) == 1 and split.boxes.tolist() == [BOX], (split.boxes, split.problems)
    return split


def kinds(split: Split) -> list[str]:
    return [problem.kind for problem in split.problems]


@pytest.mark.parametrize("case", CASES)
def test_the_cases_are_checked_converted_and_read(
    shared: Path, case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, (layout, images, boxes) = shared / "cases" / case, CASES[case]
    split = load_split(root)
    assert (split.layout, len(split), len(split.boxes)) == (layout, images, boxes)
    assert run(["data", "check", str(root), "--model", "none"]) == 0
    for target in ("coco", "yolo", "voc"):
        out = tmp_path / target
        assert run(["data", "convert", str(root), "--to", target, "--out", str(out)]) == 0
        assert np.allclose(load_split(out).boxes, split.boxes, atol=0.01)
    capsys.readouterr()


# --- labelme ------------------------------------------------------------------------------------------------------


def labelme(shapes: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "a.png", "imageData": None}
    return content | {"imageHeight": 30, "imageWidth": 40} | changes


def shape(points: list[list[float]], kind: str | None = "rectangle", label: str = "cat", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | more


CORNERS = [BOX[:2], BOX[2:]]


@pytest.mark.parametrize(
    ("annotations", "pictures", "path"),
    [
        ("a.json", "a.png", "a.png"),
        ("train/a.json", "train/a.png", "..\\train\\a.png"),
        ("train/a.json", "train/images/a.png", "C:\\photos\\a.png"),
        ("annotations/a.json", "images/a.png", "../images/a.png"),
        ("labels/train/a.json", "images/train/a.png", "/home/somebody/images/train/a.png"),
        ("train/labels/a.json", "train/images/a.png", "../images/a.jpg"),  # saved anew in another format
        ("a.json", "a.png", ""),
        ("set/a.json", "set/a.png", "a.png"),  # one folder deeper
    ],
)
def test_labelme_wherever_its_pictures_lie(tmp_path: Path, annotations: str, pictures: str, path: str) -> None:
    picture(tmp_path / pictures)
    write(tmp_path / annotations, labelme([shape(CORNERS)], imagePath=path, imageData="iVBORw0KGgo="))
    split = only(tmp_path)
    assert split.layout == "labelme" and split.problems == [] and split.classes.names == ("cat",)


def test_labelme_shapes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    shapes = [
        shape([BOX[2:], BOX[:2]]),  # from the lower right corner
        shape([[5, 6], [25, 6], [25, 20]], "polygon"),
        shape([[20, 15], [26, 23]], "circle", "dog"),  # a radius of 10
        shape([[5, 6], [25, 6], [25, 20], [5, 20]], None),  # no type: as before there were any
        shape([[2, 2], [6, 2], [6, 6]], "polygon", "dog", group_id=1),
        shape([[10, 2], [14, 2], [14, 6]], "polygon", "dog", group_id=1),  # the same dog, behind a post
        shape([[5, 5], [9, 9]], "mask", mask="iVBORw0KGgo="),
        shape([[20, 5], [30, 15], [20, 25], [10, 15]], "rotation"),
        shape([[3, 3]], "point"),
        shape([[3, 3], [9, 9]], "linestrip"),
        {"points": [[1, 1], [2, 2]]},
        shape([[1, 1], ["x", None]]),
    ]
    write(tmp_path / "a.json", labelme(shapes, imageHeight=None, imageWidth=None))
    split = load_split(tmp_path)
    assert split.boxes.tolist() == [
        BOX, BOX, [10, 5, 30, 25], BOX, [5, 5, 10, 10], [10, 5, 30, 25], [2, 2, 14, 6],
    ]  # fmt: skip
    assert [split.classes.names[label] for label in split.labels] == ["cat", "cat", "dog", "cat", "cat", "cat", "dog"]
    assert split.area[[1, 2, 6]].tolist() == pytest.approx([140, math.pi * 100, 16], rel=0.004)
    assert split.masks is not None and split.masks.kinds.tolist() == [0, 1, 1, 1, 0, 0, 1]
    assert sorted(kinds(split)) == [
        "mask as an image",
        "rotated box",
        *["shape without an area"] * 2,
        *["unreadable record"] * 2,
    ]


def test_labelme_what_is_not_there_and_what_is_outside(tmp_path: Path) -> None:
    root = tmp_path / "set"
    picture(tmp_path / "secret.png")
    picture(root / "a.png")
    write(root / "a.json", labelme([shape(CORNERS)]))
    write(root / "b.json", labelme([shape(CORNERS)], imagePath="../secret.png", imageData="iVBORw0KGgo="))
    write(root / "c.json", labelme([shape(CORNERS)], imagePath=str(tmp_path / "secret.png")))
    write(root / "d.json", '{"version": "5.5.0", "shapes": [')
    write(root / "e.json", {"shapes": "something else"})
    write(root / "f.json", labelme([shape(CORNERS)], imagePath="a.png"))
    split = only(root)
    assert kinds(split) == ["annotation file unreadable", *["image file missing"] * 2, "image described twice"]
    assert "imageData" in split.problems[1].detail and "imageData" not in split.problems[2].detail


def test_pictures_whose_only_shape_cannot_be_used_are_not_empty(tmp_path: Path) -> None:
    for stem, shapes in (("a", [shape(CORNERS)]), ("b", [shape([[3, 3]], "point")]), ("c", [])):
        picture(tmp_path / f"{stem}.png")
        write(tmp_path / f"{stem}.json", labelme(shapes, imagePath=f"{stem}.png"))
    assert load_split(tmp_path).reviewed.tolist() == [REVIEWED, LABELS_LOST, REVIEWED]
    (tmp_path / "d.json").write_text("{")
    for stem in "abc":
        write(tmp_path / "labelTxt" / f"{stem}.txt", {"a": "5 6 25 6 25 20 5 20 ship 0\n", "b": "5 6\n", "c": ""}[stem])
        (tmp_path / f"{stem}.json").unlink()
    assert load_split(tmp_path).reviewed.tolist() == [REVIEWED, LABELS_LOST, REVIEWED]


def test_one_list_of_classes_for_all_splits(tmp_path: Path) -> None:
    for name, label in (("train", "dog"), ("valid", "cat")):
        picture(tmp_path / name / f"{name}.png")
        write(tmp_path / name / "a.json", labelme([shape(CORNERS, label=label)], imagePath=f"{name}.png"))
    assert list(find_splits(tmp_path)) == ["train", "val"]
    train, val = only(tmp_path), only(tmp_path, "val")
    assert train.classes == val.classes and train.classes.names == ("cat", "dog")
    assert (train.labels.tolist(), val.labels.tolist()) == ([1], [0])
    assert only(tmp_path, classes=["dog"]).classes.names == ("dog",)


# --- VIA ----------------------------------------------------------------------------------------------------------

RECT = {"name": "rect", "x": 5, "y": 6, "width": 20, "height": 14}


def region(said: dict[str, Any], drawn: dict[str, Any] = RECT) -> dict[str, Any]:
    return {"shape_attributes": drawn, "region_attributes": said}


def via(*regions: dict[str, Any], numbered: bool = False) -> dict[str, Any]:
    held: Any = {str(number): one for number, one in enumerate(regions)} if numbered else list(regions)
    return {"a.png123": {"filename": "a.png", "size": 123, "file_attributes": {}, "regions": held}}


@pytest.mark.parametrize(
    "content",
    [
        via(region({"class": "cat"})),
        via(region({"class": "cat"}), numbered=True),
        {"_via_settings": {"ui": {}}, "_via_img_metadata": via(region({"class": "cat"})), "_via_attributes": {}},
        via(region({"colour": "red", "Label": "cat"})),
        via(region({"kind of animal": {"cat": True}})),
        {key: entry | {"fileref": "", "base64_img_data": ""} for key, entry in via(region({"name": "cat"})).items()},
    ],
    ids=["list", "numbered", "project", "two attributes", "ticked", "version 1"],
)
@pytest.mark.parametrize("place", ["via_region_data.json", "train/via_project.json", "annotations/via_train.json"])
def test_via(tmp_path: Path, content: dict[str, Any], place: str) -> None:
    picture(tmp_path / ("train" if place.startswith("train") else "images") / "a.png")
    write(tmp_path / place, content)
    split = only(tmp_path)
    assert split.layout == "via" and split.classes.names == ("cat",) and split.problems == []


def test_via_shapes_and_regions_without_a_class(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    polygon = {"name": "polygon", "all_points_x": [5, 25, 25], "all_points_y": [6, 6, 20]}
    drawn = [
        polygon,
        {"name": "circle", "cx": 20, "cy": 15, "r": 10},
        {"name": "ellipse", "cx": 20, "cy": 15, "rx": 10, "ry": 5, "theta": math.pi / 2},
    ]
    regions = [region({"class": "cat"}, one) for one in drawn]
    regions += [
        region({"class": ""}),
        region({"class": "cat"}, {"name": "point", "cx": 1, "cy": 1}),
        region({"class": 1}, {}),
    ]
    content = via(*regions) | {"b.png1": {"filename": "b.png", "size": 1, "regions": []}}
    write(tmp_path / "via_region_data.json", content)
    split = load_split(tmp_path)
    assert np.allclose(split.boxes, [BOX, [10, 5, 30, 25], [15, 5, 25, 25]])
    assert split.area.tolist() == pytest.approx([140, math.pi * 100, math.pi * 50], rel=0.004)
    assert kinds(split) == ["region without a class", "shape without an area", "unreadable record"]
    assert len(split) == 2 and split.reviewed.tolist() == [
        LABELS_LOST,
        NOT_SAID,
    ]  # an image without regions: nobody says that somebody looked


VIA_3 = {
    "project": {"pid": "x", "data_format_version": "3.1.1", "vid_list": ["1", "2"]},
    "config": {},
    "attribute": {"1": {"aname": "class", "options": {"0": "cat", "1": "dog"}}, "2": {"aname": "note", "options": {}}},
    "file": {"1": {"fid": 1, "fname": "a.png", "type": 2}, "2": {"fid": 2, "fname": "b.png", "type": 2}},
    "view": {"1": {"fid_list": [1]}, "2": {"fid_list": ["2"]}},
}


def test_via_3(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    shapes: list[list[Any]] = [
        [2, 5, 6, 20, 14],
        [3, 20, 15, 10],
        [4, 20, 15, 10, 5],
        [7, 5, 6, 25, 6, 25, 20],
        [8, 5, 10, 10, 6, 25, 12, 9, 20],  # the four outermost points
        [1, 3, 3],
        [2, 5, "x"],
        ["?"],
    ]
    metadata = {
        f"1_{number}": {"vid": "1", "flg": 0, "z": [], "xy": shape, "av": {"2": "seen", "1": str(number % 2)}}
        for number, shape in enumerate(shapes)
    }
    metadata["2_x"] = {"vid": "2", "flg": 0, "z": [], "xy": [], "av": {"1": "0"}}  # of the whole file
    write(tmp_path / "project.json", VIA_3 | {"metadata": metadata})
    split = load_split(tmp_path)
    assert split.layout == "via" and [path.name for path in split.paths] == ["a.png", "b.png"]
    np.testing.assert_allclose(split.boxes, [BOX, [10, 5, 30, 25], [10, 10, 30, 20], BOX, BOX], atol=1e-5)
    assert [split.classes.names[label] for label in split.labels] == ["cat", "dog", "cat", "dog", "cat"]
    assert kinds(split) == ["shape without an area", *["unreadable record"] * 2]
    assert split.reviewed.tolist() == [LABELS_LOST, NOT_SAID]


def test_via_3_with_tables_that_do_not_fit(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    stray = {"vid": "9", "xy": [2, 5, 6, 20, 14], "av": {"7": "cat"}}
    whole = {"vid": "1", "xy": [2, 5, 6, 20, 14], "av": {"1": "0,1"}}
    broken = {"view": {"1": {"fid_list": [1]}, "2": {"fid_list": None}, "3": 5}, "metadata": {"s": stray, "w": whole}}
    write(tmp_path / "project.json", VIA_3 | broken)
    split = only(tmp_path)
    assert split.classes.names == ("cat",) and kinds(split) == ["unreadable record"] * 2


def test_via_without_attributes_and_as_csv(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    write(tmp_path / "a" / "via_region_data.json", via(region({})))
    picture(tmp_path / "a" / "a.png")
    assert only(tmp_path / "a").classes.names == ("object",)
    rect = json.dumps(RECT).replace('"', '""')
    head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
    row = f'a.png,123,"{{}}",1,0,"{rect}","{{""class"":""cat""}}"\n'
    write(tmp_path / "b" / "via_export_csv.csv", head + row)
    picture(tmp_path / "b" / "a.png")
    assert only(tmp_path / "b").classes.names == ("cat",)


# --- Create ML, DOTA, CVAT, VOC -----------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [("image", "annotations"), ("imagefilename", "annotation")])
@pytest.mark.parametrize("place", ["train/_annotations.createml.json", "annotations.json", "set/train/x.json"])
def test_createml(tmp_path: Path, keys: tuple[str, str], place: str) -> None:
    folder = (tmp_path / place).parent
    picture(folder / "a.png")
    picture(folder / "b.png")
    box = {"x": 15, "y": 13, "width": 20, "height": 14}  # its centre
    objects = [{"label": "cat", "coordinates": box}, {"label": "cat"}, {"label": "cat", "coordinates": {"x": "?"}}]
    write(tmp_path / place, [{keys[0]: "a.png", keys[1]: objects}, {keys[0]: "b.png", keys[1]: []}, {"x": 1}])
    split = load_split(tmp_path)
    assert split.layout == "createml" and split.boxes.tolist() == [BOX] and len(split) == 2
    assert kinds(split) == ["unreadable record"] * 3


@pytest.mark.parametrize(
    ("annotations", "pictures"),
    [
        ("labelTxt/a.txt", "images/a.png"),
        ("train/labelTxt/a.txt", "train/images/a.png"),
        ("labelTxt-v1.5/train/a.txt", "images/train/a.png"),
        ("train/annfiles/a.txt", "train/images/a.tif"),
    ],
)
def test_dota(tmp_path: Path, annotations: str, pictures: str) -> None:
    picture(tmp_path / pictures)
    head = "imagesource:GoogleEarth\ngsd:0.1\n"
    upright = "5.0 6.0 25.0 6.0 25.0 20.0 5.0 20.0 ship 0\n"
    write(tmp_path / annotations, head + upright)
    assert only(tmp_path).problems == []
    write(tmp_path / annotations, upright + "15 6 25 13 15 20 5 13 plane 1\n1 2 3 ship 0\n")
    split = load_split(tmp_path)
    assert split.boxes.tolist() == [BOX, BOX] and split.ignore.tolist() == [False, True]
    assert split.classes.names == ("plane", "ship") and kinds(split) == ["rotated box", "unreadable line"]


@pytest.mark.parametrize("subset", ["train", "Train"])
@pytest.mark.parametrize("prefix", ["data/", "", "/home/somebody/data/"])
def test_cvat_yolo(tmp_path: Path, subset: str, prefix: str) -> None:
    write(tmp_path / "obj.names", "cat\ndog\n")
    keys = f"classes = 2\n{subset} = {prefix}{subset}.txt\nnames = {prefix}obj.names\nbackup = backup/\n"
    write(tmp_path / "obj.data", keys)
    for name, stem in ((subset, "a"), ("Validation", "b")):
        picture(tmp_path / f"obj_{name}_data" / f"{stem}.png")
        write(tmp_path / f"obj_{name}_data" / f"{stem}.txt", "1 0.375 0.43333333 0.5 0.46666667\n")
        write(tmp_path / f"{name}.txt", f"{prefix}obj_{name}_data/{stem}.png\n")
    assert list(find_splits(tmp_path)) == ["train", "val"]
    for name in ("train", "val"):
        split = load_split(tmp_path, name)
        assert np.allclose(split.boxes, [BOX], atol=1e-4) and split.labels.tolist() == [1] and split.problems == []
        assert split.classes.names == ("cat", "dog")
    (tmp_path / "obj.data").unlink()  # the folders alone say it too
    assert list(find_splits(tmp_path)) == ["train", "val"] and len(load_split(tmp_path, "val").boxes) == 1


def test_a_list_is_followed_without_its_leading_parts_inside_the_folder_alone(tmp_path: Path) -> None:
    root = tmp_path / "images" / "set"  # the labels are not those beside a folder above the data
    picture(tmp_path / "images" / "secret" / "a.png")
    write(tmp_path / "labels" / "set" / "train" / "a.txt", "0 0.5 0.5 0.5 0.5\n")
    picture(root / "train" / "a.png")
    write(root / "train" / "a.txt", "0 0.375 0.43333333 0.5 0.46666667\n")
    write(root / "data.yaml", "train: train.txt\nnames: [cat]\n")
    lines = [
        "data/train/a.png",
        "../secret/a.png",
        "..\\..\\images\\secret\\a.png",
        str(tmp_path / "images/secret/a.png"),
    ]
    write(root / "train.txt", "\n".join(lines))
    split = load_split(root)
    assert [path.relative_to(root).as_posix() for path in split.paths] == ["train/a.png"]
    assert np.allclose(split.boxes, [BOX], atol=1e-4)
    assert [problem.action for problem in split.problems] == ["image skipped"] * 3


@pytest.mark.parametrize(
    ("annotations", "pictures"),
    [
        ("annots/a.xml", "images/a.png"),
        ("xmls/a.xml", "images/a.png"),
        ("labels/a.xml", "images/a.png"),
        ("annotations/xmls/a.xml", "images/a.png"),
        ("train/annotations/a.xml", "train/images/a.png"),
        ("labels/train/a.xml", "images/train/a.png"),
        ("set/Annotations/a.xml", "set/JPEGImages/a.png"),
        ("set/train/a.xml", "set/train/a.png"),
    ],
)
def test_voc_by_other_names_and_one_folder_deeper(tmp_path: Path, annotations: str, pictures: str) -> None:
    picture(tmp_path / pictures)
    (tmp_path / "__MACOSX").mkdir()
    write(tmp_path / annotations, voc_xml([("cat", [6, 7, 25, 20], 0)]))
    assert only(tmp_path).layout == "voc"


def test_several_data_sets_one_folder_deeper_are_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        picture(tmp_path / name / "a.png")
        write(tmp_path / name / "a.json", labelme([shape(CORNERS)]))
    with pytest.raises(DataError, match="holds several data sets, one, two; name one"):
        find_splits(tmp_path)


def test_by_hand(tmp_path: Path) -> None:
    picture(tmp_path / "pictures" / "a.png")
    box = {"x": 15, "y": 13, "width": 20, "height": 14}
    files: dict[str, Any] = {
        "x.json": [{"image": "a.png", "annotations": [{"label": "cat", "coordinates": box}]}],
        "y.json": via(region({"class": "cat"})),
        "z/a.json": labelme([shape(CORNERS)]),
    }
    for name, content in files.items():
        file = write(tmp_path / name, content)
        for annotations in (file, file.parent) if name.startswith("z") else (file,):
            assert only(tmp_path, annotations=annotations, images=tmp_path / "pictures").classes.names == ("cat",)
        assert only(file, images=tmp_path / "pictures").classes.names == ("cat",)
    for name in ("y.json", "z/a.json"):
        (tmp_path / name).unlink()
    write(tmp_path / "w.json", files["x.json"])
    with pytest.raises(DataError, match="could each be the annotations; name one"):
        find_splits(tmp_path)
