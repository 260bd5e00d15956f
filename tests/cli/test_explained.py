"""`aweigh explain` and `aweigh why-not`, as they are typed."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from aweigh.cli.main import run
from aweigh.scenes import STREET


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return Path(shutil.copy(STREET, tmp_path / "street.jpg"))


def test_text_and_a_drawing(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = tmp_path / "why.png"
    assert run(["explain", str(photo), "--box", "1", "-o", str(drawn)]) == 0
    said = capsys.readouterr()
    assert said.out.count("#") == 1 and "from the point at" in said.out and "score_threshold" in said.out
    assert "image: " in said.err and Image.open(drawn).width > 300


def test_json_and_settings(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(photo), "--json", "--set", "max_detections=2", "--score", "0.1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["detections"]) == 2 and told["detections"][0]["tests"][0]["setting"] == "score_threshold"


def test_an_object_that_is_found_and_one_that_is_not(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(photo), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["detections"][0]
    box = ",".join(map(str, first["answer"]["box"]))
    assert run(["why-not", str(photo), "--gt", f"{first['answer']['name']}:{box}", "zebra:5,5,60,60"]) == 0
    said = capsys.readouterr().out
    assert "1 of 2 objects found" in said and ": found, #1" in said and "lost at: " in said


def test_the_objects_of_a_data_set(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    width, height = Image.open(photo).size
    coco = {
        "images": [{"id": 1, "file_name": photo.name, "width": width, "height": height}],
        "categories": [{"id": 7, "name": "car"}, {"id": 8, "name": "gnome"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [3, 3, 40, 30], "area": 1200, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 8, "bbox": [3, 3, 40, 30], "area": 1200, "iscrowd": 0},
            {"id": 3, "image_id": 1, "category_id": 7, "bbox": [0, 0, 90, 90], "area": 8100, "iscrowd": 1},
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(coco))
    assert run(["why-not", str(photo), "--gt", str(tmp_path), "--json"]) == 0
    said = capsys.readouterr()
    assert [entry["object"]["box"] for entry in json.loads(said.out)["objects"]] == [[3, 3, 43, 33]]
    assert "gnome" in said.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["explain", "PHOTO", "--box", "900"], 2, "There is no box 900"),
        (["explain", "gone.jpg"], 3, "gone.jpg"),
        (["explain", "PHOTO", "-m", "box.onnx"], 2, "name its checkpoint"),
        (["explain", "PHOTO", "--set", "nms_treshold=1"], 2, "Did you mean"),
        (["why-not", "PHOTO", "--gt", "person:1,2,3"], 2, "NAME:X0,Y0,X1,Y1"),
        (["why-not", "PHOTO", "--gt", "persn:1,2,30,40"], 2, "persn"),
        (["why-not", "PHOTO", "--gt", "person:9,2,3,40"], 3, "x0 < x1"),
        (["why-not", "PHOTO"], 2, "gt"),
    ],
)
def test_mistakes_are_one_line(
    photo: Path, words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([str(photo) if word == "PHOTO" else word for word in words]) == code
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1
