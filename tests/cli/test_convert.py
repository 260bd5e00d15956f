"""`aweigh data convert` and `aweigh data merge` as a user types them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from aweigh.cli.main import run
from aweigh.layouts.load import load_split

Capture = pytest.CaptureFixture[str]


def aweigh(capsys: Capture, *words: object) -> tuple[int, str, str]:
    """Exit code, output and error stream."""
    code = run(["data", *map(str, words)])
    return code, *capsys.readouterr()


def make(root: Path, *names: str, crowd: int = 0) -> Path:
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    Image.new("RGB", (40, 30)).save(root / "images" / "1.png")
    data = {
        "images": [{"id": 1, "file_name": "1.png", "width": 40, "height": 30}],
        "annotations": [
            {"id": n + 1, "image_id": 1, "category_id": n, "bbox": [n, 2, 10, 12], "area": 120, "iscrowd": crowd * n}
            for n in range(len(names))
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
    }
    (root / "annotations" / "instances_train.json").write_text(json.dumps(data))
    return root


def test_convert(tmp_path: Path, capsys: Capture) -> None:
    source = make(tmp_path / "set", "cat", "dog", crowd=1)
    command = ("convert", source, "--to", "yolo", "--out", tmp_path / "out")
    code, out, _ = aweigh(capsys, *command, "--strict")
    assert code == 3 and "crowd: 1 region left out" in out and not (tmp_path / "out").exists()
    code, out, err = aweigh(capsys, *command, "--link")
    assert code == 0 and "crowd: 1 region left out" in out, err
    assert "train: 1 image, 2 boxes of 2 classes" in out
    assert (tmp_path / "out" / "images" / "train" / "1.png").is_symlink()
    assert len(load_split(tmp_path / "out").boxes) == 1
    code, _, err = aweigh(capsys, *command)
    assert code == 2 and "not an empty folder" in err
    code, out, _ = aweigh(capsys, "convert", tmp_path / "out", "--to", "coco", "--out", tmp_path / "back", "--strict")
    assert code == 0 and out.startswith("train: 1 image, 1 box")
    code, _, err = aweigh(capsys, "convert", source, "--split", "vall", "--to", "voc", "--out", tmp_path / "x")
    assert code == 3 and "there is no split 'vall'" in err


def test_merge(tmp_path: Path, capsys: Capture) -> None:
    sets = [make(tmp_path / "one" / "set", "car", "person"), make(tmp_path / "two" / "set", "truck")]
    command = ("merge", *sets, "--out", tmp_path / "out")
    code, _, err = aweigh(capsys, *command, "--map", "truk=car")
    assert code == 2 and "Did you mean 'truck'" in err and not (tmp_path / "out").exists()
    assert aweigh(capsys, *command, "--map", "truck")[0] == 2
    assert aweigh(capsys, *command, "--map", "truck=car", "--map", "truck=van")[0] == 2
    assert aweigh(capsys, "merge", sets[0], "--out", tmp_path / "out")[0] == 2
    code, out, err = aweigh(capsys, *command, "--map", "truck=car")
    assert code == 0 and "set-2 was not labelled for person" in out, err
    split = load_split(tmp_path / "out")
    assert split.classes.names == ("car", "person") and split.labelled_for(1).tolist() == [True, False]


def test_merge_without_what_is_held_out(tmp_path: Path, capsys: Capture) -> None:
    sets = [make(tmp_path / "one", "car"), make(tmp_path / "two", "car")]
    other = make(tmp_path / "other", "car")
    command = ("merge", *sets, "--out", tmp_path / "out", "--hold-out", other)
    code, _, err = aweigh(capsys, *command)
    assert code == 2 and "has no split but train" in err and not (tmp_path / "out").exists()
    (other / "annotations" / "instances_train.json").rename(other / "annotations" / "instances_val.json")
    Image.new("RGB", (40, 30), (9, 9, 9)).save(sets[1] / "images" / "1.png")  # the only one with other bytes
    code, out, err = aweigh(capsys, *command)
    assert code == 0 and "train: 1 image left out: in other val too (1.png)" in out, err
    assert "train: 1 image, 1 box of 1 class" in out and len(load_split(tmp_path / "out")) == 1


def test_complete(tmp_path: Path, capsys: Capture) -> None:
    source, results = make(tmp_path / "set", "car"), tmp_path / "results.json"
    (source / "annotations" / "instances_val.json").write_text(
        (source / "annotations" / "instances_train.json").read_text().replace('"id": 1, "file', '"id": 5, "file')
    )
    box = {"image_id": 1, "bbox": [15, 5, 10, 10]}
    results.write_text(json.dumps([{**box, "category_id": 1, "score": 0.5}, {**box, "category_id": 18, "score": 0.2}]))
    command = ("complete", source, "--with", results, "--own-ids", "--out", tmp_path / "out")
    code, out, err = aweigh(capsys, *command, "--link")
    assert code == 0 and "added: 1 object and 1 uncertain box" in out, err
    assert "person          1 object         0 uncertain" in out and "evaluate" not in out
    assert "train: 1 image, 3 boxes of 80 classes, 1 uncertain" in out
    assert not (tmp_path / "out" / "annotations" / "instances_val.json").exists()
    split = load_split(tmp_path / "out")
    assert split.classes.names[:2] == ("person", "bicycle") and split.classes.ids[-1] == 90
    assert (tmp_path / "out" / "images" / "train" / "1.png").is_symlink()

    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps({"categories": [{"id": 1, "name": "boat"}]}))
    more = ("--categories", classes, "--uncertain", "0.5", "--score", "0.6", "--split", "train", "val")
    code, out, err = aweigh(capsys, *command[:-1], tmp_path / "more", *more)
    assert code == 0 and "unknown category ids: left out (18)" in out, err
    assert "val: holds guesses of a detector now; do not evaluate on it" in out
    assert "added: 0 objects and 1 uncertain box" in out
    assert load_split(tmp_path / "more", "train").classes.names == ("boat", "car")
    results.write_text(json.dumps([{**box, "image_id": 77, "category_id": 1, "score": 0.5}]))
    code, _, err = aweigh(capsys, *command[:-1], tmp_path / "none")
    assert code == 3 and "No box is of an image of train" in err and not (tmp_path / "none").exists()
