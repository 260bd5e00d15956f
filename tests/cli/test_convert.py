"""`aweigh data convert` and `aweigh data merge` as a user types them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from aweigh.cli.main import run
from aweigh.data.formats import load_split

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
    assert code == 3 and "crowd: 1 regions are left out" in out and not (tmp_path / "out").exists()
    code, out, err = aweigh(capsys, *command, "--link")
    assert code == 0 and "crowd: 1 regions are left out" in out, err
    assert "train: 1 images, 2 boxes of 2 classes" in out
    assert (tmp_path / "out" / "images" / "train" / "1.png").is_symlink()
    assert len(load_split(tmp_path / "out").boxes) == 1
    code, _, err = aweigh(capsys, *command)
    assert code == 2 and "not an empty folder" in err
    code, out, _ = aweigh(capsys, "convert", tmp_path / "out", "--to", "coco", "--out", tmp_path / "back", "--strict")
    assert code == 0 and out.startswith("train: 1 images, 1 boxes")
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
