"""Layouts are recognised by looking, and a good data set is read as it is."""

import json
import shutil
from pathlib import Path

import hotcoco
import numpy as np
import pytest
from tests.annotated import Make, coco_dict, picture, voc_xml

from aweigh.annotations.flat import Packed
from aweigh.annotations.split import split_off
from aweigh.errors import DataError, UsageError
from aweigh.inspect.rules import remarks
from aweigh.layouts.finding import split_name
from aweigh.layouts.load import find_splits, load_split


def test_coco_is_read_as_it_is(coco: Make) -> None:
    data = coco_dict([[5, 6, 10, 12], [0.25, 0.5, 39.5, 29.25]])
    data["annotations"][1] |= {"category_id": 7, "iscrowd": 1}
    split = load_split(coco(data))
    assert (split.name, split.layout, len(split)) == ("train", "coco", 2)
    assert split.classes.names == ("cat", "dog") and split.classes.ids == (3, 7)
    assert split.boxes.tolist() == [[5, 6, 15, 18], [0.25, 0.5, 39.75, 29.75]]
    assert split.labels.tolist() == [0, 1] and split.ignore.tolist() == [False, True]
    assert split.area[0] == 60 and split.annotation_ids.tolist() == [10, 11]
    assert split.first.tolist() == [0, 2, 2] and split.problems == [] and split.problem_report() == ""
    objects = split.objects(0)
    assert objects["boxes"].tolist() == split.boxes.tolist() and objects["ids"].tolist() == [10, 11]
    assert len(split.objects(1)["labels"]) == 0 and split.objects(1)["boxes"].shape == (0, 4)
    assert "2 images, 2 boxes, 1 of them to be ignored" in split.summary() and "1 image without" in split.summary()


def test_to_coco_gives_back_what_was_read(coco: Make) -> None:
    data = coco_dict([[5.1, 6.7, 10.3, 12.9], [1, 2, 3, 4]])
    data["annotations"][1] |= {"category_id": 7, "iscrowd": 1}
    truth = load_split(coco(data)).to_coco()
    assert [entry["bbox"] for entry in truth["annotations"]] == [[5.1, 6.7, 10.3, 12.9], [1, 2, 3, 4]]
    assert [entry["category_id"] for entry in truth["annotations"]] == [3, 7]
    assert [entry["iscrowd"] for entry in truth["annotations"]] == [0, 1]
    assert truth["annotations"][0]["area"] == data["annotations"][0]["area"]
    assert truth["categories"] == data["categories"] and truth["images"] == data["images"]
    json.dumps(truth)


def test_what_cannot_be_learned_still_counts_in_evaluation(coco: Make) -> None:
    """COCO's own evaluator counts an object of half a pixel as one to be found."""
    boxes = [[5, 6, 0.5, 12], [5, 6, 10, 12], [500, 6, 10, 12], [5, 6, 0, 12], [5, float("nan"), 3, 12]]
    data = coco_dict(boxes)
    del data["annotations"][0]["area"]
    split = load_split(coco(data))
    assert split.annotation_ids.tolist() == [11]
    truth = {entry["id"]: entry for entry in split.to_coco()["annotations"]}
    assert {number: entry["bbox"] for number, entry in truth.items()} == {10: boxes[0], 11: boxes[1], 12: boxes[2]}
    assert truth[10]["area"] == 6 and truth[10].keys() == truth[11].keys()
    assert len(split.take([0]).to_coco()["annotations"]) == 3
    assert split.take([1]).to_coco()["annotations"] == []


def test_annotation_id_zero_is_moved_for_evaluation(coco: Make) -> None:
    data = coco_dict([[5, 6, 10, 12], [1, 2, 3, 4]])
    for number, entry in enumerate(data["annotations"]):
        entry["id"] = number
    split = load_split(coco(data))
    assert split.annotation_ids.tolist() == [0, 1]
    assert [entry["id"] for entry in split.to_coco()["annotations"]] == [1, 2]


def test_coco_without_what_may_be_missing(coco: Make) -> None:
    data = coco_dict([[5, 6, 10, 12]])
    for entry in data["annotations"]:
        del entry["area"], entry["iscrowd"], entry["id"]
    for image in data["images"]:
        del image["width"], image["height"]
    split = load_split(coco(data))
    assert split.sizes_hw.tolist() == [[30, 40], [30, 40]] and split.area.tolist() == [120]
    assert split.annotation_ids.tolist() == [1] and not split.ignore.any() and split.problems == []
    del data["categories"]
    assert load_split(coco(data)).classes.names == ("3",)


def test_official_coco_layout(tmp_path: Path) -> None:
    for part, number in (("train2017", 1), ("val2017", 2)):
        data = coco_dict([[5, 5, 10, 10]]) | {
            "images": [{"id": 1, "file_name": f"{number}.jpg", "height": 30, "width": 40}]
        }
        (tmp_path / "annotations").mkdir(exist_ok=True)
        for kind in ("instances", "person_keypoints", "captions"):
            (tmp_path / "annotations" / f"{kind}_{part}.json").write_text(json.dumps(data))
        picture(tmp_path / part / f"{number}.jpg")
    found = find_splits(tmp_path)
    assert list(found) == ["train", "val"] and found["val"].annotations.name == "instances_val2017.json"
    assert load_split(tmp_path, "val").paths[0] == tmp_path / "val2017" / "2.jpg"
    assert load_split(tmp_path, "validation").name == "val"


def test_roboflow_coco_layout(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        (tmp_path / part).mkdir()
        data = coco_dict([[5, 5, 10, 10]])
        data["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
        (tmp_path / part / "_annotations.coco.json").write_text(json.dumps(data))
        picture(tmp_path / part / "1.png")
        picture(tmp_path / part / "2.png")
    assert list(find_splits(tmp_path)) == ["train", "val", "test"]
    split = load_split(tmp_path, "val")
    assert split.paths[0].parent.name == "valid"
    assert split.classes.ids == (0, 3, 7)  # a category without annotations stays a class


def test_json_and_folder_by_hand(tmp_path: Path, coco: Make) -> None:
    root = coco()
    file = shutil.move(root / "annotations" / "instances_train.json", tmp_path / "labels.json")
    shutil.move(root / "images", tmp_path / "pictures")
    split = load_split(tmp_path, annotations=file, images=tmp_path / "pictures")
    assert len(split) == 2 and len(split.boxes) == 1
    assert len(load_split(tmp_path, "val", annotations="labels.json", images="pictures")) == 2
    with pytest.raises(DataError, match=r"none of its 2 images was found \(1\.png, 2\.png.*images"):
        load_split(file)
    with pytest.raises(DataError, match="no such folder of images"):
        load_split(tmp_path, annotations=file, images=tmp_path / "nowhere")
    with pytest.raises(DataError, match="no such annotation file"):
        load_split(tmp_path, annotations=tmp_path / "no.json")


def test_file_names_with_folders(coco: Make) -> None:
    data = coco_dict([[5, 5, 10, 10]])
    for name in ("images/1.png", "images\\1.png", "/data/export/1.png", "upload/7/1.png"):
        data["images"] = [{"id": 1, "file_name": name, "width": 40, "height": 30}]
        split = load_split(coco(data))
        assert split.paths[0].name == "1.png" and split.paths[0].is_file() and split.problems == []


def make_voc(root: Path) -> Path:
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name, objects in {
        "a": [("dog", [1, 1, 40, 30], 0), ("cat", [11, 6, 20, 15], 1)],
        "b": [],
        "c": [("bird", [2, 3, 12, 13], 0)],
    }.items():
        (root / "Annotations" / f"{name}.xml").write_text(voc_xml(objects))
        picture(root / "JPEGImages" / f"{name}.jpg")
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("c\n")
    (root / "ImageSets" / "Main" / "dog_train.txt").write_text("a 1\nb -1\n")
    return root


def test_voc(tmp_path: Path) -> None:
    make_voc(tmp_path / "VOCdevkit" / "VOC2007")
    assert list(find_splits(tmp_path / "VOCdevkit")) == ["train", "val"]
    split = load_split(tmp_path / "VOCdevkit")
    assert split.layout == "voc" and split.classes.names == ("bird", "cat", "dog")
    assert split.boxes.tolist() == [[0, 0, 40, 30], [10, 5, 20, 15]]  # 1-based inclusive to continuous
    assert split.ignore.tolist() == [False, True] and split.first.tolist() == [0, 2, 2]
    assert load_split(tmp_path / "VOCdevkit", "val").classes == split.classes
    second = split.to_coco()["annotations"][1]
    assert (second["iscrowd"], second["difficult"]) == (1, 1)


def test_voc_boxes_agree_with_hotcoco(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "voc")
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nc\n")
    theirs = hotcoco.COCO.from_voc(str(root)).dataset
    names = {entry["id"]: entry["name"] for entry in theirs["categories"]}
    ours = load_split(root)
    assert list(ours.classes.names) == sorted(names.values())
    expected = sorted((names[entry["category_id"]], *entry["bbox"][2:]) for entry in theirs["annotations"])
    wh = ours.boxes[:, 2:] - ours.boxes[:, :2]
    got = sorted((ours.classes.names[label], *side) for label, side in zip(ours.labels, wh.tolist()))
    assert [entry[0] for entry in got] == [entry[0] for entry in expected]
    assert np.abs(np.array([e[1:] for e in got]) - np.array([e[1:] for e in expected])).max() <= 1  # their corner rule


def test_voc_beside_pictures(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        picture(tmp_path / part / "x.jpg")
        (tmp_path / part / "x.xml").write_text(voc_xml([("dog", [1, 1, 10, 10], 0)], 0, 0))
    split = load_split(tmp_path, "val")
    assert split.layout == "voc" and len(split.boxes) == 1 and split.sizes_hw.tolist() == [[30, 40]]


def make_yolo(root: Path, *, description: str | None) -> Path:
    for part, stems in (("train", ("a", "b", "c")), ("val", ("d",))):
        for stem in stems:
            picture(root / "images" / part / f"{stem}.jpg")
        (root / "labels" / part).mkdir(parents=True)
    (root / "labels" / "train" / "a.txt").write_text("1 0.5 0.5 0.25 0.2\n0 0.125 0.1 0.25 0.2\n")
    (root / "labels" / "train" / "b.txt").write_text("")
    (root / "labels" / "val" / "d.txt").write_text("2 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6\n")
    if description is not None:
        (root / "data.yaml").write_text(description)
    return root


@pytest.mark.parametrize(
    "description",
    [
        None,
        "path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog, cow]\n",
        "train: ../images/train\nval: ../images/val\nnc: 3\nnames: {0: cat, 1: dog, 2: cow}\n",
        "train: [images/train]\nval: images/val\nnc: 3\n",
    ],
)
def test_yolo(tmp_path: Path, description: str | None) -> None:
    root = make_yolo(tmp_path, description=description)
    assert list(find_splits(root)) == ["train", "val"]
    split = load_split(root)
    assert split.layout == "yolo" and split.problems == []
    assert [path.name for path in split.paths] == ["a.jpg", "b.jpg", "c.jpg"]  # empty and missing labels are kept
    assert split.first.tolist() == [0, 2, 2, 2]
    np.testing.assert_allclose(split.boxes, [[15, 12, 25, 18], [0, 0, 10, 6]], atol=1e-5)
    named = description is not None and "names" in description
    assert split.classes.names == (("cat", "dog", "cow") if named else ("0", "1", "2"))
    val = load_split(root / "data.yaml" if description else root, "val")
    np.testing.assert_allclose(val.boxes, [[4, 3, 20, 18]], atol=1e-5)  # a polygon by its extent
    assert val.classes == split.classes


def test_yolo_roboflow_and_listings(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        picture(tmp_path / part / "images" / "x.jpg")
        (tmp_path / part / "labels").mkdir()
        (tmp_path / part / "labels" / "x.txt").write_text("0 0.5 0.5 0.5 0.5")
    assert load_split(tmp_path, "val").boxes.tolist() == [[10, 7.5, 30, 22.5]]
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: [egg]\n")
    assert load_split(tmp_path).classes.names == ("egg",)
    (tmp_path / "train.txt").write_text("./train/images/x.jpg\n./train/images/y.jpg\n")
    (tmp_path / "data.yaml").write_text("train: train.txt\nnames: [egg]\n")
    split = load_split(tmp_path)
    assert len(split.boxes) == 1 and [problem.kind for problem in split.problems] == ["image file missing"]


def test_yolo_outside_the_folder_is_told(tmp_path: Path) -> None:
    make_yolo(tmp_path / "elsewhere", description=None)
    (tmp_path / "here").mkdir()
    description = tmp_path / "here" / "data.yaml"
    description.write_text("train: ../elsewhere/images/train\nnames: [a, b, c]\n")
    with pytest.raises(DataError, match=r"data\.yaml: train leads outside the folder"):
        load_split(tmp_path / "here")
    split = load_split(description)
    assert len(split.boxes) == 2 and [problem.kind for problem in split.problems] == ["images outside the data folder"]


def test_yolo_agrees_with_hotcoco(coco: Make, tmp_path: Path) -> None:
    root = coco(coco_dict([[5, 6, 10, 12], [1.5, 2.25, 30, 20]]))
    theirs = hotcoco.COCO(str(root / "annotations" / "instances_train.json"))
    theirs.to_yolo(str(tmp_path / "yolo" / "labels" / "train"))
    shutil.copytree(root / "images", tmp_path / "yolo" / "images" / "train")
    ours, back = load_split(root), load_split(tmp_path / "yolo")
    np.testing.assert_allclose(back.boxes, ours.boxes, atol=0.01)
    assert back.first.tolist() == ours.first.tolist()


def test_a_description_of_one_split_is_not_taken_for_another(tmp_path: Path) -> None:
    make_yolo(tmp_path, description="train: images/train\nnames: [a, b, c]\n")
    with pytest.raises(DataError, match="no split 'val', only train"):
        load_split(tmp_path / "data.yaml", "val")
    (tmp_path / "compose.yaml").write_text("{{ not yaml")
    (tmp_path / "data.yaml").unlink()
    assert list(find_splits(tmp_path)) == ["train", "val"]


def test_no_known_layout_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        find_splits(tmp_path / "missing")
    with pytest.raises(DataError, match=r"Looked for COCO .* VOC .* YOLO .*; found nothing"):
        find_splits(tmp_path)
    picture(tmp_path / "holiday" / "1.jpg")
    (tmp_path / "notes.json").write_text("[1, 2]")
    with pytest.raises(DataError, match=r"found holiday/, notes\.json"):
        load_split(tmp_path)


def test_a_split_that_is_not_there(coco: Make) -> None:
    with pytest.raises(DataError, match=r"no split 'val', only train"):
        load_split(coco(), "val")
    with pytest.raises(DataError, match="Did you mean 'train'"):
        load_split(coco(), "tain")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("instances_train2017", "train"),
        ("instances_minival2014", "minival"),
        ("valid", "val"),
        ("my-test_v2", "test"),
        ("training", "train"),
        ("trains", None),
        ("latest", None),
        ("trainval", "trainval"),
    ],
)
def test_split_names(text: str, name: str | None) -> None:
    assert split_name(text) == name


def test_classes_are_chosen_by_name(coco: Make) -> None:
    data = coco_dict([[5, 6, 10, 12], [1, 2, 3, 4]])
    data["annotations"][1]["category_id"] = 7
    split = load_split(coco(data), classes=["dog"])
    assert split.classes.ids == (7,) and split.boxes.tolist() == [[1, 2, 4, 6]] and split.problems == []
    both = load_split(coco(data), classes=["dog", "cat"])
    assert both.labels.tolist() == [1, 0] and both.classes.ids == (7, 3)
    with pytest.raises(UsageError, match=r"no class 'Dog', only cat, dog\. Did you mean 'dog'"):
        load_split(coco(data), classes=["Dog"])
    with pytest.raises(UsageError, match="list of names"):
        load_split(coco(data), classes="dog")


def test_drop_empty(coco: Make) -> None:
    split = load_split(coco(), drop_empty=True)
    assert len(split) == 1 and split.image_ids.tolist() == [1]


def test_take_and_split_off(coco: Make) -> None:
    data = coco_dict([[n, n, 5, 5] for n in range(20)])
    data["images"] = [{"id": n, "file_name": "1.png", "width": 40, "height": 30} for n in range(10)]
    for number, entry in enumerate(data["annotations"]):
        entry["image_id"] = number % 10
    split = load_split(coco(data))
    some = split.take([7, 2])
    assert some.image_ids.tolist() == [7, 2] and some.first.tolist() == [0, 2, 4]
    assert some.boxes[:, 0].tolist() == [7, 17, 2, 12]
    rest, part = split_off(split, 0.3, seed=1)
    assert (len(rest), len(part), part.name) == (7, 3, "val")
    assert sorted([*rest.image_ids, *part.image_ids]) == list(range(10))
    assert split_off(split, 0.3, seed=1)[1].image_ids.tolist() == part.image_ids.tolist()
    assert len(split_off(split, 0.001)[1]) == 1
    with pytest.raises(DataError, match="cannot be divided"):
        split_off(split.take([0]), 0.1)


def test_content_hash_tells_changes(coco: Make) -> None:
    before = load_split(coco())
    assert load_split(coco()).content_hash == before.content_hash
    assert load_split(coco(coco_dict([[5, 5, 10, 11]]))).content_hash != before.content_hash


def test_path_list(tmp_path: Path) -> None:
    paths = [tmp_path / "ä.jpg", Path("x") / "y.png", Path("z")]
    packed = Packed.of(paths, Path)
    assert list(packed) == paths and packed == paths and packed[-1] == paths[-1] and packed[1:] == paths[1:]
    with pytest.raises(IndexError):
        packed[3]
    assert len(Packed.of([], Path)) == 0


def test_blood_cells(shared: Path) -> None:
    root = shared / "data" / "bccd"
    assert list(find_splits(root)) == ["train", "val", "test"]
    train, val, test = (load_split(root, name) for name in ("train", "val", "test"))
    assert [(len(split), len(split.boxes)) for split in (train, val, test)] == [(205, 2804), (87, 1137), (72, 945)]
    (first,), (second,) = train.problems, val.problems
    assert (first.kind, first.where, first.annotation, first.action) == (
        "zero-size box", "BloodImage_00343.jpg", 2288, "dropped",
    )  # fmt: skip
    assert (second.kind, second.where, second.annotation) == ("zero-size box", "BloodImage_00338.jpg", 887)
    assert "BloodImage_00343.jpg annotation 2288: [181.0, 329.0, 0.0, 0.0]" in train.problem_report()
    with pytest.raises(DataError, match=r"strict.*BloodImage_00343\.jpg annotation 2288"):
        load_split(root, strict=True)


def test_coco_photographs(shared: Path) -> None:
    split = load_split(shared / "data" / "coco_tiny", "val")
    assert (len(split), len(split.boxes), int(split.crowd.sum())) == (188, 1692, 20)
    assert len(split.classes) == 80 and split.classes.ids[-1] == 90 and int((np.diff(split.first) == 0).sum()) == 2
    assert split.problems == [] and set(remarks(split)) == {"box as large as the image"}
