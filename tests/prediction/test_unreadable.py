"""Images that cannot be read leave the numbers, with their objects, and it is said how many did."""

import json

import pytest
import torch
from tests.inference.test_detect import Oracle
from tests.runs import write_coco

from aweigh.checkpoints.checkpoint import save_model
from aweigh.classes import Classes
from aweigh.cli.main import run
from aweigh.errors import DataError
from aweigh.evaluation.coco import evaluate_coco
from aweigh.evaluation.recall import average_recall
from aweigh.evaluation.voc import evaluate_voc
from aweigh.header import read_header
from aweigh.images.resize import Resize
from aweigh.inference.detect import detect
from aweigh.inference.measure import measure
from aweigh.layouts.load import load_split
from aweigh.models import create
from aweigh.training.train import train
from aweigh.visualise.mistakes import save_evaluation

RESIZE = Resize(short=64, long=96)


@pytest.fixture
def data(tmp_path):
    """Four validation images with two objects each, of which the second cannot be read."""
    return damaged(write_coco(tmp_path / "data", {"train": 4, "val": 4}), "val", 1)


def damaged(data, split, *numbers):
    for number in numbers:
        path = data / "images" / split / f"{number}.png"
        path.write_bytes(path.read_bytes()[:100])
    return data


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    classes = Classes(("box", "ball"), (1, 7))
    model = create("fcos_shufflenet_v2_x0_5_fpn", classes=classes, channels=32, head_convs=1)
    save_model(tmp_path / "model.safetensors", model, resize=RESIZE)
    return str(tmp_path / "model.safetensors")


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_detector_that_finds_all_objects_of_the_others_has_ap_one(data, batch):
    val = load_split(data, "val")
    measured = measure(Oracle(val.take([0, 2, 3]), RESIZE), RESIZE, val, ["boxes"], batch=batch)
    metrics, results = measured.metrics["boxes"], measured.results
    assert pytest.approx(1) == metrics.AP and pytest.approx(1) == metrics.AR100
    assert (metrics.images, metrics.left_out, sum(metrics.objects.values())) == (3, 1, 6)
    assert metrics.table().startswith("COCO protocol, boxes: 3 of 4 images, 6 objects, 6 detections")
    assert metrics.to_dict()["protocol"]["left_out"] == 1
    assert {result["image_id"] for result in results} == {100, 102, 103}


def test_every_kind_of_number_leaves_them_out(data, tmp_path):
    val = load_split(data, "val")
    found = detect(Oracle(val.take([0, 2, 3]), RESIZE), RESIZE, val, max_bad=1.0)
    assert found.unread == [1]
    measured = found.measured(val)
    truth = measured.to_coco()
    assert {entry["image_id"] for entry in truth["annotations"]} == {100, 102, 103}
    voc = evaluate_voc(truth, found.results)
    assert voc.mAP == pytest.approx(1) and "VOC protocol: 3 of 4 images, 6 objects" in voc.table()
    boxes = [[entry["image_id"], *entry["bbox"], entry["score"]] for entry in found.results]
    recall = average_recall(truth, torch.tensor(boxes, dtype=torch.float64).numpy())
    assert recall.numbers["AR100"] == pytest.approx(1) and "3 of 4 images" in recall.table()
    save_evaluation(tmp_path / "plots", measured, found.results)
    errors = json.loads((tmp_path / "plots" / "errors.json").read_text())
    assert errors["best_f1"]["objects"] == 6 and errors["best_f1"]["recall"] == pytest.approx(1)
    assert evaluate_coco(truth, found.results, iou_type="bbox").left_out == 1


def test_training_validates_on_what_can_be_read(data, configure, quiet):
    folder = train(configure(data=str(data)), console=quiet)
    protocol = read_header(folder / "best.safetensors")["metrics"]["protocol"]
    assert (protocol["images"], protocol["left_out"]) == (3, 1)
    assert json.loads((folder / "errors.json").read_text())["best_f1"]["objects"] == 6
    assert quiet.file.getvalue().count("validated on 3 of 4 images") == 1


@pytest.mark.parametrize("split", ["train", "val"])
def test_strict_training_stops_at_an_unreadable_image(configure, quiet, tmp_path, split):
    data = damaged(write_coco(tmp_path / "data", {"train": 4, "val": 4}), split, 2)
    with pytest.raises(DataError, match="1 of 4 images cannot be read"):
        train(configure(data=str(data), strict=True), console=quiet)


def test_eval_says_how_many_and_refuses_when_strict(data, checkpoint, tmp_path, capsys):
    words = ["eval", checkpoint, str(data), "--device", "cpu"]
    assert run([*words, "--json", str(tmp_path / "n.json"), "--plots", str(tmp_path / "plots")]) == 0
    shown = capsys.readouterr()
    assert "COCO protocol, boxes: 3 of 4 images, 6 objects" in shown.out and "1.png: unreadable image" in shown.err
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert numbers["protocol"]["images"] == 3
    assert numbers["settings"]["data_hash"] == load_split(data, "val").content_hash
    assert run([*words, "--protocol", "voc07"]) == 0
    assert "VOC protocol: 3 of 4 images, 6 objects" in capsys.readouterr().out
    assert run([*words, "--strict"]) == 3
    refused = capsys.readouterr()
    assert refused.out == "" and "1.png" in refused.err

    damaged(data, "val", 0)  # half of them
    (data / "images" / "val" / "3.png").unlink()  # this one is missed when the annotations are read
    assert run(words) == 0
    assert "COCO protocol, boxes: 1 of 4 images, 2 objects" in capsys.readouterr().out
    damaged(data, "val", 2)
    assert run(words) == 3
    assert "none of the 3 images of val can be read" in capsys.readouterr().err


def test_proposals_are_measured_without_them(data, checkpoint, capsys):
    for words in (
        ["eval", checkpoint, str(data), "--proposals"],
        ["proposals", checkpoint, str(data), "--split", "val"],
    ):
        assert run([*words, "--device", "cpu"]) == 0
        assert "COCO recall of proposals: 3 of 4 images, 6 objects" in capsys.readouterr().out
        assert run([*words, "--device", "cpu", "--strict"]) == 3
        assert "cannot be read" in capsys.readouterr().err


def test_places_in_space_are_measured_without_them(tmp_path):
    from aweigh.evaluation.space import kitti_metrics
    from aweigh.scenes.road import write_road

    write_road(tmp_path, train=0, val=3, test=0, width=640, seed=0)
    val = load_split(tmp_path, "val")
    without = kitti_metrics(val.without([1]), [])
    apart = [kitti_metrics(val.take([row]), []) for row in (0, 2)]
    counts = [
        [metrics.curves[name, "box", "hard"].objects for name in val.classes.names] for metrics in (without, *apart)
    ]
    assert counts[0] == [one + other for one, other in zip(*counts[1:], strict=True)] and sum(counts[0]) > 0
