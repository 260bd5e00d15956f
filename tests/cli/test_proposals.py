"""`aweigh proposals`, `aweigh eval --proposals`, and the commands of a detector that is told where to look."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.runs import write_coco

from aweigh.annotations.proposals import read_proposals
from aweigh.checkpoints.checkpoint import save_model
from aweigh.classes import Classes
from aweigh.cli.main import run
from aweigh.evaluation.recall import average_recall
from aweigh.images.resize import Resize
from aweigh.layouts.load import load_split
from aweigh.models import create

SMALL = {"channels": 8, "box_size": 2}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data `toys` and the untrained detectors `faster.safetensors` and `fast.safetensors`."""
    folder = tmp_path_factory.mktemp("proposals")
    write_coco(folder / "toys", {"train": 2, "val": 2})
    for name in ("faster", "fast"):
        torch.manual_seed(0)
        model = create(f"{name}_rcnn_resnet18_fpn", classes=Classes(("box", "ball"), (1, 7)), **SMALL)
        save_model(folder / f"{name}.safetensors", model, resize=Resize(64, 96))
    return folder


@pytest.fixture(scope="module")
def val(here: Path) -> Path:
    file = here / "val.safetensors"
    assert run(["proposals", str(here / "faster.safetensors"), str(here / "toys"), "--split", "val", "-o", str(file),
                "--number", "30", "--device", "cpu"]) == 0  # fmt: skip
    return file


def test_a_detector_writes_proposals_and_tells_their_recall(here: Path, val: Path, capsys) -> None:
    split, found = load_split(here / "toys", "val"), read_proposals(val)
    assert list(found.files) == split.file_names() and np.diff(found.first).tolist() == [30, 30]
    assert found.made["source"] == "faster.safetensors" and found.made["builder"] == "faster_rcnn_resnet18_fpn"
    expected = average_recall(split.to_coco(), found.results(split.image_ids))
    assert run(["proposals", str(val), str(here / "toys"), "--split", "val", "--json", str(here / "ar.json")]) == 0
    assert capsys.readouterr().out == expected.table() + "\n"
    numbers = json.loads((here / "ar.json").read_text())
    assert {name: numbers[name] for name in expected.numbers} == expected.numbers
    assert numbers["settings"]["number"] == 30
    assert run(["proposals", str(val), str(here / "toys"), "--split", "val", "--number", "4", "-o",
                str(here / "few.safetensors")]) == 0  # fmt: skip
    assert read_proposals(here / "few.safetensors").boxes.tolist() == found.best(4).boxes.tolist()


def test_eval_measures_what_a_detector_proposes(here: Path, val: Path, capsys) -> None:
    detector, data = str(here / "faster.safetensors"), str(here / "toys")
    assert run(["eval", detector, data, "--proposals", "--json", str(here / "e.json"), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "COCO recall of proposals: 2 images, 4 objects" in out and "1,000 " in out
    numbers = json.loads((here / "e.json").read_text())
    expected = average_recall(
        load_split(here / "toys", "val").to_coco(), read_proposals(val).results(np.array([100, 101])), limits=(30,)
    )
    assert numbers["AR1000"] >= numbers["AR100"] >= expected.numbers["AR30"]
    assert numbers["settings"]["number"] == 1000


def test_one_that_is_told_where_to_look_is_measured_and_predicts(here: Path, val: Path, capsys) -> None:
    detector, data = str(here / "fast.safetensors"), str(here / "toys")
    assert run(["eval", detector, data, "--proposals-file", str(val), "--device", "cpu"]) == 0
    assert "COCO protocol, boxes: 2 images, 4 objects" in capsys.readouterr().out
    pictures = [str(here / "toys" / "images" / "val"), str(here / "toys" / "images" / "train" / "1.png")]
    arguments = ["--model", detector, "--proposals-file", str(val), "--score", "0", "--no-draw", "--device", "cpu"]
    assert run(["predict", *pictures[:1], *arguments, "-o", str(here / "out")]) == 0
    lines = [json.loads(line) for line in (here / "out" / "detections.jsonl").read_text().splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["0.png", "1.png"]
    assert all(line["error"] is None and len(line["detections"]) > 0 for line in lines)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["eval", "fast.safetensors", "toys"], 2, "add --proposals-file FILE; `aweigh proposals` makes one"),
        (["eval", "faster.safetensors", "toys", "--proposals-file", "val.safetensors"], 2, "leave it out"),
        (["eval", "fast.safetensors", "toys", "--proposals"], 2, "proposes no regions itself"),
        (["eval", "faster.safetensors", "toys", "--proposals", "--plots", "p"], 2, "leave out --plots"),
        (
            ["eval", "fast.safetensors", "toys", "--split", "train", "--proposals-file", "val.safetensors"],
            3,
            "was made for val of toys",
        ),
        (["predict", "toys/images/val", "-m", "fast.safetensors"], 2, "add --proposals-file FILE"),
        (["predict", "toys/images/val", "-m", "faster.safetensors", "--proposals-file", "val.safetensors"], 2, "leave"),
        (["proposals", "boxes.pkl", "toys"], 2, "a pickle, which can run code"),
        (["proposals", "none.json", "toys"], 2, "no file none.json"),
        (["proposals", "faster.safetensors", "toys", "-o", "p.npz"], 2, "NAME.safetensors"),
        (["proposals", "faster.safetensors", "toys", "--number", "0"], 2, "a number of proposals above 0"),
        (["train", "toys", "--model", "fast_rcnn_resnet18_fpn"], 2, "give proposals_file"),
        (["eval", "val.safetensors", "toys"], 3, "is a file of aweigh.proposals, expected a checkpoint"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    here: Path, val: Path, monkeypatch, capsys, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(here)
    assert run(arguments) == code
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("error: ") and any(part in err for part in message.split("|")), err


def test_coco_results_become_proposals(here: Path, capsys) -> None:
    entries = [{"image_id": 100, "bbox": [1, 2, 30, 30], "score": 0.5, "category_id": 3}]
    (here / "r.json").write_text(json.dumps(entries))
    arguments = [str(here / "r.json"), str(here / "toys"), "--split", "val", "-o", str(here / "r.safetensors")]
    assert run(["proposals", *arguments]) == 3
    assert "say that the numbers are those of the data (--own-ids" in capsys.readouterr().err
    assert run(["proposals", *arguments, "--own-ids"]) == 0
    assert "1 of 2 images without a box in it" in capsys.readouterr().err
    assert read_proposals(here / "r.safetensors").boxes.tolist() == [[1, 2, 31, 32]]
