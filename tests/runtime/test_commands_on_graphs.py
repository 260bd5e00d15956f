"""Commands and `aweigh.evaluate` take a graph where they take a checkpoint."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.runtime.toy_engines import Spots
from tests.runtime.toy_graphs import BOXES, CLASSES, header, toy_graph
from tests.scenes_on_disk import entry, scene, write_coco

import aweigh
from aweigh.catalogue import find_model
from aweigh.cli.main import run
from aweigh.errors import DataError, UsageError
from aweigh.images.resize import Resize
from aweigh.layouts.load import load_split

CATEGORIES = [{"id": number, "name": name} for number, name in zip(CLASSES["ids"], CLASSES["names"])]
XYWH = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in BOXES.tolist()]


@pytest.fixture
def data(tmp_path):
    """Four images of 60 x 40 with the two boxes that the toy graph finds; in the last one more, of another class."""
    rows = [
        entry(2 * n + k, n, xywh, category) for n in range(1, 5) for k, (category, xywh) in enumerate(zip((1, 3), XYWH))
    ]
    rows.append(entry(99, 4, [30, 25, 10, 10], 2))
    images = {f"{n}.png": scene(n, 60, 40) for n in range(4)}
    return write_coco(tmp_path / "data", "val", images, rows, categories=CATEGORIES)


@pytest.fixture
def graph(tmp_path):
    return toy_graph(tmp_path / "toy.onnx")


@pytest.mark.parametrize("flags", [[], ["--batch", "3"], ["--tta", "flip", "--flip-pairs", "none"]])
def test_eval(data, graph, tmp_path, capsys, flags):
    assert run(["eval", str(graph), str(data), "--json", str(tmp_path / "numbers.json"), *flags]) == 0
    said = capsys.readouterr().out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    found = 1 if not flags or "--batch" in flags else pytest.approx(0.71, abs=0.01)  # in the mirror they are elsewhere
    assert [each["AP"] for each in numbers["per_class"].values()] == [found, 0, found]
    assert "score above 0.05, NMS at IoU 0.6, at most 100 detections per image" in said
    settings = numbers["settings"]
    assert settings["computed_by"].startswith("onnxruntime") and settings["computed_by"] in said
    assert settings["computed_by"].endswith("float32") and settings["builder"] == "toy"


def test_images_that_are_not_as_annotated(data, graph):
    """One cannot be read, one is stored as it was annotated and turned by its EXIF data, one is twice as large."""
    broken, turned, large, _ = load_split(data, "val").paths
    broken.write_bytes(broken.read_bytes()[:100])
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(1, 60, 40).save(turned, exif=exif)
    scene(2, 120, 80).save(large)
    found = aweigh.evaluate(graph, data)
    assert [(problem.kind, problem.where) for problem in found.problems] == [
        ("unreadable image", str(broken)),
        ("annotated before EXIF rotation", str(turned)),
        ("another size than declared", str(large)),
    ]
    assert len(found.split) == 3 and found.split.left_out == 1
    boxes = {result["image_id"]: result["bbox"] for result in found.results if result["category_id"] == 1}
    assert boxes == {2: XYWH[0], 3: [side / 2 for side in XYWH[0]], 4: XYWH[0]}
    with pytest.raises(DataError, match="1 of 4 images cannot be read"):
        aweigh.evaluate(graph, data, max_bad=0)


def test_any_engine_is_measured(data):
    found = aweigh.evaluate(aweigh.Predictor(Spots(), Resize(None, None)), data)
    assert list(found.metrics) == ["boxes"] and found.speed.keys() == {"total"}


def test_proposals(data, graph, tmp_path, capsys):
    out = tmp_path / "found.safetensors"
    assert run(["proposals", str(graph), str(data), "--split", "val", "-o", str(out), "--number", "1"]) == 0
    from aweigh.annotations.proposals import read_proposals

    told = read_proposals(out)
    assert told.boxes.tolist() == [BOXES[0].tolist()] * 4 and told.made["builder"] == "toy"
    assert run(["eval", str(graph), str(data), "--proposals"]) == 0
    assert "2 of each on average" in capsys.readouterr().out


def test_predict_and_info(data, graph, tmp_path, capsys):
    words = ["predict", str(data / "images" / "val"), "-m", str(graph), "-o", str(tmp_path / "out"), "--no-draw"]
    assert run([*words, "--score", "0.8"]) == 0
    lines = (tmp_path / "out" / "detections.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["detections"]) for line in lines] == [1] * 4
    assert run(["info", str(graph)]) == 0
    assert "precision float32" in capsys.readouterr().out


def test_what_is_inside_a_graph_is_not_changed(graph, tmp_path):
    def changed(path, **settings):
        flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        return run(["predict", str(tmp_path / "photo.png"), "-m", str(path), "-o", str(tmp_path / "out"), *flags])

    scene(0, 60, 40).save(tmp_path / "photo.png")
    assert changed(graph, score_threshold=0.1) == 2 and changed(graph, nms="none") == 2
    with pytest.raises(UsageError, match="Export it again: --nms none leaves nms, nms_threshold and max_detections"):
        aweigh.load(graph).engine.with_settings({"nms_threshold": 0.3})
    open_one = toy_graph(tmp_path / "open.onnx", said=header(graph={"nms": "none"}))
    assert changed(open_one, nms="none", max_detections=1) == 0 and changed(open_one, score_threshold=0.1) == 2
    assert changed(open_one, max_detections=0) == 2
    engine = aweigh.load(open_one).engine.with_settings({"max_detections": 1})
    assert len(aweigh.Predictor(engine, Resize(None, None))(np.zeros((40, 60, 3), np.uint8))) == 1
    assert engine.settings["max_detections"] == 1 and aweigh.load(open_one).engine.selection.max_detections == 100


def test_flags_that_do_not_go_with_a_graph(data, graph, capsys):
    for flags, words in {
        ("--weights", "box"): "go with the name of a detector",
        ("--workers", "2"): "processes read images for torch alone",
        ("--device", "cuda:7"): "cannot be used by this onnxruntime",
        ("--runtime", "tensorrt"): "tensorrt",
        ("--runtime", "openvino", "--device", "nowhere"): "cannot be used by OpenVINO here",
    }.items():
        assert run(["eval", str(graph), str(data), *flags]) == 2
        assert words in capsys.readouterr().err
    assert run(["eval", str(find_model("box")), str(data), "--runtime", "onnxruntime"]) == 2
    assert "goes with a graph" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["shrink", "GRAPH", "-o", "small.safetensors"],
        ["average", "GRAPH", "GRAPH", "-o", "mean.safetensors"],
    ],
)
def test_commands_that_need_a_network_say_so(words, data, graph, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [{"GRAPH": str(graph), "DATA": str(data)}.get(word, word) for word in words]
    assert run(given) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].endswith("this needs the checkpoint that it was made from.")
