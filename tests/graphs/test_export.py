"""`aweigh.export` and its gate: what is written, compared, refused and said. The graph is traced once, by a fixture."""

import json
from dataclasses import replace

import numpy as np
import onnx_ir
import pytest
import torch
from PIL import Image

import aweigh
from aweigh.checkpoints.checkpoint import load_model, save_model
from aweigh.cli.main import run
from aweigh.detections import Detections
from aweigh.errors import DataError, GateError, UsageError
from aweigh.graphs import export, form
from aweigh.graphs.gate import TOLERANCES, Tolerance, differences, matched
from aweigh.graphs.graph import Exported, halve
from aweigh.images.resize import Resize
from aweigh.models import create


class Traced:
    """What the exporter would give, read from a file."""

    def __init__(self, path):
        self.model = onnx_ir.load(path)

    def save(self, path):
        onnx_ir.save(self.model, path)


@pytest.fixture
def traced(small_graph, monkeypatch):
    """Nothing is traced: every detector is said to have the graph of the small one."""
    monkeypatch.setattr(form, "onnx_graph", lambda model, **how: Traced(small_graph))


@pytest.fixture
def not_traced(monkeypatch):
    monkeypatch.setattr(form, "onnx_graph", lambda *_, **__: pytest.fail("refused after it was traced"))


@pytest.fixture
def other(small_detector, tmp_path):
    """A checkpoint of the same detector whose last layer says something else."""
    model, header = load_model(small_detector)
    with torch.no_grad():
        model.head.logits.bias += 1.0
    save_model(tmp_path / "other.safetensors", model, resize=Resize.from_dict(header["resize"]))
    return tmp_path / "other.safetensors"


def test_a_file_that_finds_the_same_has_its_name_and_a_card(small_detector, traced, tmp_path):
    path = aweigh.export(small_detector, tmp_path / "a.onnx")
    assert path == tmp_path / "a.onnx" and {file.name for file in tmp_path.iterdir()} == {
        *("a.onnx", "a.json", "a_decode.py", "a_decode.hpp")
    }
    card = json.loads((tmp_path / "a.json").read_text())
    gate, seen = card["gate"], card["gate"]["differences"]
    assert gate["passed"] and seen["matched"] == seen["detections"] > 100 and seen["unmatched"] == 0
    assert 0 < seen["boxes_px"] < 0.05 and seen["scores"] < 1e-3
    assert [image["name"] for image in gate["images"]][-1] == "grey, nothing on it" and len(gate["images"]) == 5
    assert len({tuple(image["size_hw"]) for image in gate["images"]}) == 5
    assert card["bytes"] == {"a.onnx": path.stat().st_size}
    assert card["preprocess"]["resize"] == {"short": None, "long": 96, "antialias": True}
    assert card["inputs"]["images"]["shape"] == ["batch", 3, "height", "width"] and [*card["outputs"]][-1] == "count"
    assert card["classes"]["names"] == list(aweigh.load(path).classes.names)
    assert "onnxruntime" in gate["computed_by"] and "torch" in gate["model_computed_by"]


def test_a_file_that_finds_something_else_is_kept_under_another_name(other, traced, tmp_path, capsys):
    (tmp_path / "a.onnx").write_text("the file before")
    assert run(["export", str(other), "-o", str(tmp_path / "a.onnx")]) == 4
    assert (tmp_path / "a.onnx").read_text() == "the file before"
    said = capsys.readouterr().err
    assert "a.unverified.onnx" in said and "scores differ by" in said and "(at most 0.001)" in said
    card = json.loads((tmp_path / "a.unverified.json").read_text())
    assert not card["gate"]["passed"] and card["file"] == "a.unverified.onnx"
    assert card["gate"]["wrong"][0] in said
    assert (tmp_path / "a.unverified.onnx").stat().st_size == card["bytes"]["a.unverified.onnx"]


def test_two_that_find_nothing_are_not_the_same_for_that(other, traced, tmp_path):
    with pytest.raises(GateError, match=r"scores differ by|to be compared|one of the two alone"):
        aweigh.export(other, tmp_path / "a.onnx", settings={"score_threshold": 0.999})
    card = json.loads((tmp_path / "a.unverified.json").read_text())
    assert card["gate"]["score_threshold"].startswith("0, since nothing was found")


def test_images_are_those_that_are_named(small_detector, traced, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, (width, height) in enumerate([(90, 60), (40, 80)]):
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    aweigh.export(small_detector, tmp_path / "a.onnx", images=[folder], resize="64")
    card = json.loads((tmp_path / "a.json").read_text())
    assert [image["name"] for image in card["gate"]["images"]] == [str(folder / "0.png"), str(folder / "1.png")]
    assert card["preprocess"]["resize"]["long"] == 64
    with pytest.raises(DataError, match="There is no file or folder"):
        aweigh.export(small_detector, tmp_path / "a.onnx", images=[tmp_path / "missing"])


def test_the_command_says_what_was_compared(small_detector, traced, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["export", str(small_detector)]) == 0
    table, said = capsys.readouterr()
    assert table.splitlines()[1].startswith("boxes") and "0.05 px" in table.splitlines()[1]
    assert table.splitlines()[3].startswith("found by one alone")
    assert "small.onnx" in said and "detections on 5 images" in said
    assert "small.json, small_decode.py, small_decode.hpp" in said
    assert (tmp_path / "small.onnx").is_file()


def test_openvino_files(small_detector, traced, tmp_path):
    path = aweigh.export(small_detector, tmp_path / "a.xml", to="openvino")
    assert {file.name for file in tmp_path.iterdir()} == {*("a.xml", "a.bin", "a.json", "a_decode.py", "a_decode.hpp")}
    card = json.loads((tmp_path / "a.json").read_text())
    assert card["gate"]["differences"]["matched"] > 100 and "OpenVINO" in card["gate"]["computed_by"]
    assert [*card["bytes"]] == ["a.xml", "a.bin"]
    detector = aweigh.load(path)
    assert detector.engine.name == "fcos_shufflenet_v2_x0_5_lite" and detector.resize.long == 96


def test_bf16_is_said_and_computed_by_openvino(small_detector, traced, tmp_path):
    try:
        path = aweigh.export(small_detector, tmp_path / "a.xml", to="openvino", precision="bf16")
    except GateError:
        path = tmp_path / "a.unverified.xml"  # far from an ordinary detector, this one has random weights
    except UsageError as error:
        pytest.skip(str(error))
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["precision"] == "bf16" and "bf16" in aweigh.load(path).engine.computed_by
    assert card["gate"]["differences"]["largest"]["scores"] > 1e-4  # that of float32 is below 1e-5


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"precision": "bf16"}, "--to openvino does"),
        ({"precision": "half"}, "precision"),
        ({"size_hw": (100, 640)}, "multiples of 32, such as 96x640"),
        ({"size_hw": (0, 64)}, "multiples of 32, such as 32x64"),
        ({"batch": 0}, "from 1 to 4,096"),
        ({"to": "tflite"}, "unknown to 'tflite'"),
        ({"nms": "soft"}, "unknown nms 'soft'"),
        ({"output": "a.xml"}, "NAME.onnx"),
        ({"to": "openvino", "output": "a.onnx"}, "NAME.xml"),
        ({"settings": {"score": 0.1}}, "There is no setting 'score'"),
    ],
)
def test_refused_before_anything_is_traced(asked, words, small_detector, not_traced, tmp_path):
    name = asked.pop("output", "a.xml" if asked.get("to") == "openvino" else "a.onnx")
    with pytest.raises(UsageError, match=words):
        aweigh.export(small_detector, tmp_path / name, **asked)
    assert not [*tmp_path.glob("a.*")]


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        ("mask_rcnn_resnet18_fpn", {"nms": "none"}, "would make masks of each"),
        ("centernet_resnet18_dcn", {"nms": "none"}, "no fixed number of candidates"),
        ("fast_rcnn_resnet18_fpn", {"precision": "float16"}, "which float16 rounds"),
    ],
)
def test_what_a_detector_cannot_be_is_refused(name, asked, words):
    asked = {"to": "onnx", "size_hw": None, "batch": None, "nms": "graph", "precision": "float32", **asked}
    with torch.device("meta"):
        model = create(name)
    with pytest.raises(UsageError, match=words):
        form.Form(**asked).check(model)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--size", "640"], "height and width as 384x640"),
        (["--batch", "many"], "a number of images, or dynamic"),
        (["--split", "val"], "goes with --data"),
        (["--set", "nms"], "expected NAME=VALUE"),
    ],
)
def test_flags_that_say_nothing(flags, words, small_detector, not_traced, capsys):
    assert run(["export", str(small_detector), *flags]) == 2
    assert words in capsys.readouterr().err


def test_half_precision_is_that_of_the_network_alone(small_detector):
    model, _ = load_model(small_detector)
    images, sizes = torch.rand(1, 3, 64, 96), torch.tensor([[64, 96]])
    whole = Exported(model)(images, sizes)
    halve(model)
    half = Exported(model, half=True)(images, sizes)
    assert model.head.logits.weight.dtype is torch.float16
    assert all(value.dtype is torch.float32 for value in half[:2])
    assert 0 < (half[1] - whole[1]).abs().mean() < 0.01  # of scores in their order


class Reached:
    """What a detector, or its file, reaches on a split: AP of boxes."""

    def __init__(self, ap):
        self.metrics = {"boxes": self}
        self.to_dict = lambda: {"AP": ap}


@pytest.mark.parametrize(("of_file", "falls"), [(0.26, False), (0.2501, False), (0.2449, True)])
def test_average_precision_may_fall_by_half_a_point(of_file, falls):
    lost = export._fallen({"model": Reached(0.25), "file": Reached(of_file)}, 0.5)
    assert lost == (["AP of boxes falls from 25.0 to 24.5 (at most 0.5 points)"] if falls else [])


# What is compared


def detections(boxes, scores=None, labels=None):
    number = len(boxes)
    scores = np.linspace(0.9, 0.2, number) if scores is None else scores
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels or [0] * number, np.int64),
    )


def test_partners_are_of_one_class_and_nearest():
    ours = detections(boxes=[[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60], [5, 5, 5, 20]], labels=[0, 1, 0, 0])
    theirs = detections(boxes=[[5, 5, 5, 20], [0, 0, 10, 10], [0, 1, 10, 10], [0, 0, 10, 10]], labels=[0, 1, 0, 0])
    rows, columns = matched(ours, theirs)
    assert dict(zip(rows.tolist(), columns.tolist(), strict=True)) == {0: 3, 1: 1, 3: 0}


def test_equal_scores_may_come_in_any_order():
    boxes = [[0, 0, 10, 10], [30, 0, 40, 10]]
    ours = detections(boxes=boxes, scores=[0.5, 0.5])
    seen = differences([ours], [ours[np.array([1, 0])]], most=100, tolerance=TOLERANCES["float32"])
    assert (seen.matched, seen.boxes_px, seen.unmatched) == (2, 0, 0)


def test_what_lies_at_the_limit_is_counted_apart():
    ours = detections(boxes=[[0, 0, 10, 10], [30, 0, 40, 10], [60, 0, 70, 10]], scores=[0.9, 0.5, 0.1001])
    theirs = replace(ours, boxes=ours.boxes + np.float32(0.01))
    tolerance = Tolerance(0.05, 1e-3)
    last_is_missing = differences([ours, ours], [theirs, theirs[:2]], most=100, tolerance=tolerance)
    assert (last_is_missing.unmatched, last_is_missing.at_limit) == (0, 1) and not last_is_missing.beyond(tolerance)
    first_is_missing = differences([ours], [theirs[1:]], most=100, tolerance=tolerance)
    assert first_is_missing.unmatched == 1
    assert first_is_missing.beyond(tolerance) == ["1 of 3 detections found by one of the two alone"]


def test_nothing_found_and_one_found_are_ordinary():
    nothing, one = detections(boxes=[]), detections(boxes=[[0, 0, 10, 10]])
    tolerance = TOLERANCES["float32"]
    assert not differences([nothing], [nothing], most=100, tolerance=tolerance).beyond(tolerance)
    assert not differences([one], [one], most=100, tolerance=tolerance).beyond(tolerance)


def test_a_difference_that_is_no_number_is_beyond_every_tolerance():
    ours = detections(boxes=[[0, 0, 10, 10]])
    theirs = replace(ours, scores=np.array([np.nan], np.float32))
    tolerance = TOLERANCES["float32"]
    assert "scores differ by nan" in differences([ours], [theirs], most=100, tolerance=tolerance).beyond(tolerance)[0]


def test_most_of_the_pairs_count_where_the_tolerance_says_so():
    ours = detections(boxes=[[10 * row, 0, 10 * row + 9, 9] for row in range(100)])
    moved = ours.boxes.copy()
    moved[7, 2] += 1
    theirs = replace(ours, boxes=moved)
    all_of_them, most = Tolerance(0.5, 0.1), Tolerance(0.5, 0.1, share=0.95)
    assert differences([ours], [theirs], most=1000, tolerance=all_of_them).beyond(all_of_them)
    seen = differences([ours], [theirs], most=1000, tolerance=most)
    assert not seen.beyond(most) and seen.largest["boxes"] == 1


def test_in_float32_one_of_a_thousand_pairs_may_be_two_candidates_of_one_score_and_no_more():
    tolerance = TOLERANCES["float32"]
    ours = [detections(boxes=[[10 * row, 0, 10 * row + 9, 9] for row in range(100)]) for _ in range(21)]  # 2,100 pairs
    theirs = [replace(found, boxes=found.boxes.copy()) for found in ours]
    for image in range(2):
        theirs[image].boxes[0, 2] += 1
    assert not differences(ours, theirs, most=1000, tolerance=tolerance).beyond(tolerance)
    assert differences(ours[:5], theirs[:5], most=1000, tolerance=tolerance).beyond(tolerance)  # two of 500
    theirs[2].boxes[0, 2] += 1
    assert differences(ours, theirs, most=1000, tolerance=tolerance).beyond(tolerance)
