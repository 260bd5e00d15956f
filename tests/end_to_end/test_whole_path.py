"""What a user types, from data to images with boxes, and the files it leaves."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

import aweigh as library
from aweigh.evaluation.coco import evaluate_coco
from aweigh.training.logs.json_lines import read_log

Aweigh = Callable[..., Any]


def test_demo(aweigh: Aweigh, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = aweigh("demo", out, "--pictures", 10, "--size", 96, "--epochs", 1)
    assert done.code == 0, done.err
    for typed in ("aweigh data synth", "aweigh train", "aweigh eval", "aweigh predict"):
        assert f"$ {typed}" in done.err
    assert "AP50" in done.out
    assert json.loads((out / "test.json").read_text())["AP"] >= 0
    for name in ("config.toml", "log.jsonl", "best.safetensors", "last.safetensors", "curves.png", "inputs_train.png"):
        assert (out / "run" / name).stat().st_size > 0, name
    tests = sorted((out / "data" / "images" / "test").iterdir())
    assert [path.name for path in sorted((out / "pictures").glob("*.jpg"))] == [path.name for path in tests]
    again = aweigh("demo", out)
    assert again.code == 2 and "is there already" in again.mistake


def test_training_leaves_a_run(trained: Path) -> None:
    rows = read_log(trained / "log.jsonl")
    steps = [row for row in rows if row["kind"] == "step"]
    assert len(steps) == 3 and all(math.isfinite(row["loss"]) for row in steps)
    with Image.open(trained / "inputs_train.png") as picture:
        assert min(picture.size) > 100
    assert not list(trained.glob(".*")), "nothing half-written stays"


def test_eval_prints_what_it_writes(aweigh: Aweigh, trained: Path, drawn: Path, tmp_path: Path) -> None:
    file = tmp_path / "numbers" / "test.json"
    sketch = tmp_path / "pictures" / "test.png"
    ended = aweigh("eval", trained / "best.safetensors", drawn, "--split", "test", "--json", file, "--picture", sketch)
    assert Image.open(sketch).width > 200
    assert ended.code == 0, ended.err
    numbers = json.loads(file.read_text())
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    assert all(name in ended.out and name in numbers for name in names)
    assert set(numbers["per_class"]) == {"circle", "square", "triangle", "star", "ring", "cross"}
    assert numbers["settings"]["resize"] == library.load(trained / "best.safetensors").resize.to_dict()
    assert f"score above {numbers['settings']['score_threshold']:g}" in ended.out


@pytest.mark.parametrize("protocol", ["voc07", "voc12"])
def test_eval_by_the_protocol_of_voc(aweigh: Aweigh, trained: Path, drawn: Path, protocol: str) -> None:
    ended = aweigh("eval", trained / "best.safetensors", drawn, "--split", "test", "--protocol", protocol)
    assert ended.code == 0, ended.err
    assert "VOC protocol" in ended.out
    assert ("11 recall points" in ended.out) == (protocol == "voc07")


def test_info(aweigh: Aweigh, trained: Path) -> None:
    ended = aweigh("info", trained / "best.safetensors")
    assert ended.code == 0
    for text in (
        "fcos_shufflenet_v2_x0_5_fpn",
        "circle (id 1)",
        "long 96",
        "1 epoch",
        "aweigh " + library.__version__,
    ):
        assert text in ended.out
    header = json.loads(aweigh("info", trained / "best.safetensors", "--json").out)
    assert header["classes"]["ids"] == [1, 2, 3, 4, 5, 6]


@pytest.fixture
def predicted(aweigh: Aweigh, trained: Path, drawn: Path, tmp_path: Path) -> Callable[..., tuple[Path, list[Any]]]:
    """Predicts the test images in a format; returns the output folder and what the library itself finds."""

    def predict(format: str) -> tuple[Path, list[Any]]:
        pictures = drawn / "images" / "test"
        out = tmp_path / "out"
        model = trained / "best.safetensors"
        ended = aweigh("predict", pictures, "--model", model, "-o", out, "--format", format, "--score", 0.05)
        assert ended.code == 0, ended.err
        assert "6 images" in ended.err and ended.out == ""
        drawings = sorted(out.glob("*.jpg"))
        assert [path.name for path in drawings] == [path.name for path in sorted(pictures.iterdir())]
        results = list(library.load(model).stream(pictures, batch=1, score=0.05))
        with Image.open(drawings[0]) as drawing:
            assert (drawing.height, drawing.width) == results[0].size_hw
        assert sum(map(len, results)) > 0
        return out, results

    return predict


def test_predict_jsonl(predicted: Callable[..., Any]) -> None:
    out, results = predicted("jsonl")
    lines = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [result.path for result in results]
    for line, result in zip(lines, results, strict=True):
        assert (line["height"], line["width"]) == result.size_hw
        assert [entry["class"] for entry in line["detections"]] == result.names
        boxes = [entry["box"] for entry in line["detections"]]
        for box, expected in zip(boxes, result.boxes.tolist(), strict=True):
            assert box == pytest.approx(expected, abs=1e-3)


def test_predict_coco_is_what_eval_measures(
    predicted: Callable[..., Any], aweigh: Aweigh, trained: Path, drawn: Path, tmp_path: Path
) -> None:
    out, results = predicted("coco")
    found = json.loads((out / "detections.json").read_text())
    assert len(found) == sum(map(len, results))
    images = json.loads((out / "detections.images.json").read_text())["images"]
    truth = json.loads((drawn / "annotations" / "instances_test.json").read_text())
    ids = {image["file_name"]: image["id"] for image in truth["images"]}
    renumbered = {image["id"]: ids[Path(image["file_name"]).name] for image in images}
    for entry in found:
        entry["image_id"] = renumbered[entry["image_id"]]
    file = tmp_path / "eval.json"
    aweigh("eval", trained / "best.safetensors", drawn, "--split", "test", "--json", file)
    measured = json.loads(file.read_text())
    again = evaluate_coco(truth, found).to_dict()
    for name in ("AP", "AP50", "AR1", "AR100"):
        assert again[name] == pytest.approx(measured[name], abs=1e-6), name


def test_predict_csv(predicted: Callable[..., Any]) -> None:
    out, results = predicted("csv")
    with (out / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(map(len, results))
    first = next(result for result in results if len(result))
    assert [float(rows[0][key]) for key in ("x0", "y0", "x1", "y1")] == pytest.approx(first.boxes[0].tolist(), abs=1e-3)


def test_predict_yolo(predicted: Callable[..., Any]) -> None:
    out, results = predicted("yolo")
    assert (out / "labels" / "classes.txt").read_text().split() == list(results[0].classes.names)
    for result in results:
        rows = (out / "labels" / f"{Path(result.path).stem}.txt").read_text().splitlines()
        assert len(rows) == len(result)
        height, width = result.size_hw
        for row, (x0, y0, x1, y1) in zip(rows, result.boxes.tolist(), strict=True):
            values = [float(value) for value in row.split()[1:]]
            assert values == pytest.approx(
                [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height], abs=1e-4
            )


def test_predict_voc(predicted: Callable[..., Any]) -> None:
    out, results = predicted("voc")
    for result in results:
        root = ElementTree.parse(out / "labels" / f"{Path(result.path).stem}.xml").getroot()
        assert [item.findtext("name") for item in root.iter("object")] == result.names
        for item, (x0, y0, x1, y1) in zip(root.iter("object"), result.boxes.tolist(), strict=True):
            corners = [float(item.findtext(f"bndbox/{key}") or "nan") for key in ("xmin", "ymin", "xmax", "ymax")]
            assert corners == pytest.approx([x0 + 1, y0 + 1, x1, y1], abs=0.006)


def test_predict_to_the_output_stream(aweigh: Aweigh, trained: Path, drawn: Path, tmp_path: Path) -> None:
    picture = drawn / "images" / "test" / "test_00000.jpg"
    ended = aweigh("predict", picture, "--model", trained / "best.safetensors", "-o", "-")
    assert ended.code == 0
    (line,) = ended.out.splitlines()
    assert json.loads(line)["path"] == str(picture)
    assert "1 image" in ended.err


def test_predict_some_classes_of_several_sources(aweigh: Aweigh, trained: Path, drawn: Path, tmp_path: Path) -> None:
    test = drawn / "images" / "test"
    words = [test / "test_00000.jpg", test / "test_0000[12].jpg", test / "test_00001.jpg", "--score", 0.05]
    model = ["--model", trained / "best.safetensors", "-o", tmp_path, "--no-draw", "--batch", 2]
    assert aweigh("predict", *words, *model, "--classes", "cross", "ring").code == 0
    lines = [json.loads(line) for line in (tmp_path / "detections.jsonl").read_text().splitlines()]
    assert [Path(line["path"]).name for line in lines] == [f"test_0000{number}.jpg" for number in range(3)]
    assert {entry["class"] for line in lines for entry in line["detections"]} <= {"cross", "ring"}
    assert [path.name for path in tmp_path.iterdir()] == ["detections.jsonl"]


def test_resume_goes_on(aweigh: Aweigh, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    kept = aweigh("resume", run, "--epochs", 2)
    assert kept.code == 2 and "ends at lr 0" in kept.err
    ended = aweigh("resume", run, "--epochs", 2, "--schedule", "stretch")
    assert ended.code == 0, ended.err
    assert "Going on after epoch 1" in ended.err
    assert [row["epoch"] for row in read_log(run / "log.jsonl") if row["kind"] == "epoch"] == [1, 2]
