"""A split that is named and holds nothing: the rest is read, and training sets a part aside as without a val."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.annotated import coco_dict, picture, voc_xml

from aweigh.annotations.records import EmptySplit
from aweigh.cli.main import run
from aweigh.layouts.load import load_split, load_splits
from aweigh.training.config import TrainConfig
from aweigh.training.data import load_data

LINE = "0 0.5 0.5 0.5 0.5"


def yolo(root: Path, split: str) -> None:
    """data.yaml names a folder without an image."""
    (root / "labels" / "train").mkdir(parents=True)
    (root / "images" / split).mkdir(parents=True)
    for name in "abcd":
        picture(root / "images" / "train" / f"{name}.png")
        (root / "labels" / "train" / f"{name}.txt").write_text(LINE)
    (root / "data.yaml").write_text(f"train: images/train\n{split}: images/{split}\nnames: [egg]\n")


def yolo_missing(root: Path, split: str) -> None:
    """data.yaml names a folder that is not there."""
    yolo(root, split)
    (root / "images" / split).rmdir()


def yolo_listing(root: Path, split: str) -> None:
    """data.yaml names a text file without a line."""
    yolo(root, split)
    (root / "list.txt").write_text("\n")
    (root / "data.yaml").write_text(f"train: images/train\n{split}: list.txt\nnames: [egg]\n")


def yolo_folders(root: Path, split: str) -> None:
    """Folders by name, without a description."""
    yolo(root, split)
    (root / "data.yaml").unlink()
    (root / "labels" / split).mkdir()


def voc(root: Path, split: str) -> None:
    """A listing without a name."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name in "abcd":
        picture(root / "JPEGImages" / f"{name}.png")
        (root / "Annotations" / f"{name}.xml").write_text(voc_xml([("dog", [5, 5, 19, 19], 0)]))
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nc\nd\n")
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("")


def voc_gone(root: Path, split: str) -> None:
    """A listing of images that are not there."""
    voc(root, split)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("x\ny\n")


def coco(root: Path, split: str) -> None:
    """A file without images, annotations and categories."""
    data = coco_dict([])
    data["images"] = [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 30} for n in range(1, 5)]
    data["annotations"] = [{"id": n, "image_id": n, "category_id": 3, "bbox": [5, 5, 9, 9]} for n in range(1, 5)]
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "instances_train.json").write_text(json.dumps(data))
    nothing = {"images": [], "annotations": [], "categories": []}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(nothing))
    for n in range(1, 5):
        picture(root / "images" / "train" / f"{n}.png")


def coco_gone(root: Path, split: str) -> None:
    """A file of images of which none was fetched."""
    coco(root, split)
    data = json.loads((root / "annotations" / "instances_train.json").read_text())
    for image in data["images"]:
        image["file_name"] = f"other-{image['file_name']}"
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))


def kitti(root: Path, split: str) -> None:
    """A listing without a stem."""
    (root / "label_2").mkdir(parents=True)
    (root / "ImageSets").mkdir()
    for name in "abcd":
        picture(root / "image_2" / f"{name}.png")
        line = "Car 0.00 0 -1.58 5.0 6.0 15.0 18.0 1.5 1.6 3.9 1.0 1.5 10.0 -1.59\n"
        (root / "label_2" / f"{name}.txt").write_text(line)
    (root / "ImageSets" / "train.txt").write_text("a\nb\nc\nd\n")
    (root / "ImageSets" / f"{split}.txt").write_text("")


MAKERS = [yolo, yolo_missing, yolo_listing, yolo_folders, voc, voc_gone, coco, coco_gone, kitti]


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("make", MAKERS)
def test_the_rest_is_read(tmp_path: Path, make: Callable[[Path, str], None], split: str) -> None:
    root = tmp_path / "set"
    make(root, split)
    splits, empty = load_splits(root)
    assert [(name, len(part)) for name, part in splits.items()] == [("train", 4)]
    assert [(problem.kind, problem.where) for problem in empty] == [("split without images", split)]
    with pytest.raises(EmptySplit):  # where it is asked for by name
        load_split(root, split)
    data = load_data(TrainConfig(data=str(root)))
    assert (len(data.train), data.val and len(data.val)) == (3, 1)
    assert "1 training image set aside for validation, a tenth" in data.note
    assert ("the val split cannot be used" in data.note) == (split == "val")


@pytest.mark.parametrize("make", [yolo, yolo_missing, voc, coco])
def test_without_a_train_split(
    tmp_path: Path, make: Callable[[Path, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """What there is gets looked at; training refuses in one line."""
    root = tmp_path / "set"
    make(root, "val")
    if make is coco:
        swap(root / "annotations" / "instances_train.json", root / "annotations" / "instances_val.json")
        (root / "images" / "train").rename(root / "images" / "val")
    elif make is voc:
        swap(root / "ImageSets" / "Main" / "train.txt", root / "ImageSets" / "Main" / "val.txt")
    else:
        text = (root / "data.yaml").read_text()
        text = text.replace("train: ", "x: ").replace("val: ", "train: ").replace("x: ", "val: ")
        (root / "data.yaml").write_text(text)
    assert [*load_splits(root)[0]] == ["val"]
    assert run(["data", "check", str(root), "--model", "none"]) == 0
    assert "split without images\n  train: 1 file" in capsys.readouterr().out
    assert run(["train", str(root), "--output", str(tmp_path / "run")]) == 3
    written = capsys.readouterr().err
    assert written.count("error: ") == 1 and "'train' has no images that can be used" in written


def swap(first: Path, second: Path) -> None:
    text = first.read_text()
    first.write_text(second.read_text())
    second.write_text(text)


def test_nothing_at_all_is_refused(tmp_path: Path) -> None:
    yolo(tmp_path / "set", "val")
    shutil.rmtree(tmp_path / "set" / "images" / "train")
    (tmp_path / "set" / "images" / "train").mkdir()
    with pytest.raises(EmptySplit, match="split 'train' has no images"):
        load_splits(tmp_path / "set")


def test_the_commands_go_on(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "set"
    shutil.copytree(shared / "cases" / "empty_val", root)
    (root / "images" / "val").mkdir()
    assert run(["data", "check", str(root), "--html", str(tmp_path / "r.html"), "--json", str(tmp_path / "r.json"),
                "--fix-to", str(tmp_path / "clean"), "--model", "fcos_shufflenet_v2_x1_0_lite"]) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "error split without images\n  val: 1 file\n" in out and "train       4      4" in out
    findings = json.loads((tmp_path / "r.json").read_text())["findings"]
    assert [one["split"] for one in findings if one["kind"] == "split without images"] == ["val"]
    assert run(["data", "check", str(root), "--model", "none", "--strict"]) == 3
    for words in (["convert", str(root), "--to", "voc"], ["merge", str(root), str(root)]):
        capsys.readouterr()
        assert run(["data", *words, "--out", str(tmp_path / words[0])]) == 0
        assert "val: " in capsys.readouterr().out
        assert [*load_splits(tmp_path / words[0])[0]] == ["train"]
    assert run(["data", "convert", str(root), "--to", "voc", "--out", str(tmp_path / "val"), "--split", "val"]) == 3


def test_a_validation_of_which_nothing_is_known_is_none(tmp_path: Path) -> None:
    """Images that nobody labelled cannot measure anything."""
    yolo(tmp_path, "val")
    picture(tmp_path / "images" / "val" / "v.png")
    data = load_data(TrainConfig(data=str(tmp_path)))
    assert "val has 1 image, but nobody labelled them" in data.note and len(data.train) == 3
    with pytest.raises(EmptySplit):
        load_data(TrainConfig(data=str(tmp_path), val_split="val"))
    as_empty = load_data(TrainConfig(data=str(tmp_path), val_split="val", empty="background"))
    assert as_empty.val is not None and as_empty.val.complete.tolist() == [True]
