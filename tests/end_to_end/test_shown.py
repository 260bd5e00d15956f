"""What the documents show and takes no time is done: commands, in a folder where all that they name is there, and
blocks of Python. What trains, downloads or needs files of others is only read, by `tests/architecture/test_shown_*.py`.
"""

import json
import pickle
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from cyclopts import MissingArgumentError
from PIL import Image
from tests.architecture.shown import BLOCKS, COMMANDS, TOP, Shown
from tests.end_to_end.conftest import typed
from tests.photographs import portrait
from tests.video.clips import clip

import aweigh.commands
from aweigh.catalogue import DEFAULT_MODEL, PACKAGED
from aweigh.checkpoints.checkpoint import save_model
from aweigh.cli.main import app
from aweigh.images.resize import Resize
from aweigh.layouts.load import load_split
from aweigh.studies.results import Results
from aweigh.studies.study import find_study

DONE = {
    *(("predict",), ("explain",), ("why-not",)),
    *(("eval",), ("proposals",), ("info",), ("models",), ("average",), ("shrink",), ("config", "show")),
    *(("profile", "cost"), ("profile", "reuse"), ("study", "list"), ("study", "cost"), ("study", "show")),
    *(("data", "check"), ("data", "convert"), ("data", "merge"), ("data", "complete"), ("data", "synth")),
}
DATA_SETS = ("DATA", "SRC", "C", "D", "ROAD", "full", "persons", "coco_person", "voc5", "coco_tiny", "bccd", "coco")
DENSE = (
    *("RUN/best.safetensors", "RUN/last.safetensors", "runs/x/best.safetensors"),
    *(
        "runs/bccd/best.safetensors",
        "runs/DATA-fcos_lite/best.safetensors",
        "A.safetensors",
        "B.safetensors",
        "detector.safetensors",
        "mean.safetensors",
    ),
    *("second/last.safetensors", "third/last.safetensors", "runs/fcos_rpn/last.safetensors"),
    "runs/fcos_rpn_without/last.safetensors",
)
STAND_INS = dict.fromkeys(("FILE", "CHECKPOINT", "DETECTOR"), "RUN/best.safetensors")
RESULTS = ("RESULTS", "persons_train", "coco_person_train", "voc5_train")
TINY = {"channels": 16}
CLASSES = {"A": {"circle": "car", "square": "bicycle"}, "B": {"circle": "truck", "square": "Bike"}}


def is_done(shown: Shown) -> bool:
    words = shown.words
    if words[0] != "aweigh" or not DONE & {tuple(words[1:2]), tuple(words[1:3])}:
        return False
    if {"--weights", "NAME", "--cluster"}.intersection(words):  # weights of others are downloads, or files of theirs
        return False
    if any(word.startswith(("camera:", "rtsp:")) for word in words):
        return False
    try:
        app.parse_args(words[1:], exit_on_error=False, print_error=False)
    except MissingArgumentError:  # a part of a command, in a sentence
        return not shown.inline
    return words[1] != "predict" or "--sample" in words or (len(words) > 2 and words[2][0] != "-")


ONCE = list({tuple(shown.words): shown for shown in COMMANDS if is_done(shown)}.values())


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the documents name: data sets, detectors, photographs, results, proposals."""
    folder = tmp_path_factory.mktemp("workshop")
    for name, seed in (("DATA", 0), ("A", 0), ("B", 1)):
        words = ("--train", 4, "--val", 3, "--test", 2, "--size", 64, "--seed", seed)
        assert typed("data", "synth", folder / name, *words) == 0
        rename(folder / name, CLASSES.get(name, {}))
    listed = json.loads((folder / "DATA/annotations/instances_test.json").read_text())
    del listed["annotations"]  # as COCO's test-dev comes
    (folder / "DATA/annotations/image_info_test-dev2017.json").write_text(json.dumps(listed))
    for name in DATA_SETS:
        if name != "DATA":
            (folder / name).symlink_to("DATA")
    (folder / "photos" / "more").mkdir(parents=True)
    (folder / "frames").mkdir()
    for place in (
        "photo.jpg",
        "photos/a.jpg",
        "photos/more/b.jpg",
        "mosaic.png",
        "mosaic.tif",
        "frames/1.jpg",
        "frames/2.jpg",
    ):
        Image.fromarray(np.full((48, 64, 3), 90, dtype=np.uint8)).save(folder / place)
    Image.open(portrait()).reduce(2).save(folder / "photo.jpg")  # with somebody in it
    clip(folder / "clip.mp4", frames=12)
    train = load_split(folder / "DATA", "train")
    detectors = {
        ("fcos_shufflenet_v2_x0_5_lite",): DENSE,
        ("faster_rcnn_resnet18_fpn", *TINY): ("runs/rpn/best.safetensors", "runs/rpn/last.safetensors"),
        ("fast_rcnn_resnet18_fpn", *TINY): ("runs/fast/best.safetensors",),
    }
    torch.manual_seed(0)
    for (name, *small), places in detectors.items():
        model = aweigh.create(name, classes=train.classes.names, **{key: TINY[key] for key in small})
        for path in (folder / place for place in places):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_model(path, model, resize=Resize(None, 64))
    for split in ("train", "val"):
        words = ("--split", split, "--number", 20, "-o", folder / f"{split}_proposals.safetensors")
        assert typed("proposals", folder / "runs/rpn/best.safetensors", folder / "DATA", *words) == 0
    assert typed("eval", folder / "mean.safetensors", folder / "coco_tiny", "--json", folder / "mean.json") == 0
    for split, place in (("train", "found"), ("val", "found_val")):
        words = ("--data", folder / "DATA", "--split", split, "--model", folder / "RUN/best.safetensors")
        assert typed("predict", *words, "--format", "coco", "--no-draw", "-o", folder / place) == 0
    for suffix in (".json", ".images.json"):
        shutil.copy(folder / "found_val" / f"detections{suffix}", folder / f"found{suffix}")
    box = {"category_id": 1, "bbox": [4, 4, 20, 20], "score": 0.5}  # a detector that learned nothing finds nothing
    found = [{"image_id": number, **box} for number in train.image_ids.tolist()]
    (folder / "found" / "detections.json").write_text(json.dumps(found))
    for results in RESULTS:
        for suffix in (".json", ".images.json"):  # the boxes, and whose images they are
            shutil.copy(folder / "found" / f"detections{suffix}", folder / f"{results}{suffix}")
    boxes = [np.array([[1.0, 1.0, 30.0, 30.0]])] * len(train)
    given = {"ids": train.image_ids, "boxes": boxes, "objectness_logits": [np.array([0.5])] * len(train)}
    (folder / "proposals.pkl").write_bytes(pickle.dumps(given))
    own_study = next(text for text in blocks_of_toml(TOP / "docs" / "studies.md") if "varies" in text)
    (folder / "widths.toml").write_text(own_study)
    study, run = find_study("fcos/4"), folder / "runs" / "study-fcos-4-my-data"
    run.mkdir()
    paper = {row.name: row.paper for row in study.rows}
    Results(study.to_dict(), {"data": "my-data", "settings": {}, "seeds": 3}, paper).write(run)
    (folder / "box.onnx").symlink_to(PACKAGED / f"{DEFAULT_MODEL}.onnx")  # what `aweigh export box` writes
    for made_of in ("persons_completed", "person", "voc"):
        (folder / made_of).symlink_to("A")
    return folder


def blocks_of_toml(document: Path) -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def rename(root: Path, names: dict[str, str]) -> None:
    for file in (root / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        for category in content["categories"]:
            category["name"] = names.get(category["name"], category["name"])
        file.write_text(json.dumps(content))


@pytest.fixture
def place(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own with links to all in the workshop, to be in."""
    for entry in workshop.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.mark.parametrize("shown", ONCE, ids=str)
def test_a_command_that_is_shown(shown: Shown, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [STAND_INS.get(word, word) for word in shown.words[1:]]
    made = [words[words.index(flag) + 1] for flag in ("--out", "-o") if flag in words]
    if words[:2] == ["data", "synth"]:
        made, words = [words[2]], fewer(words)
    for name in made:  # what the documents make step by step
        (place / name).unlink(missing_ok=True)
    code = typed(*words)
    out, err = capsys.readouterr()
    assert code in ({0, 3} if "--strict" in words else {0}), out + err


def fewer(words: list[str]) -> list[str]:
    """The same data set with fewer and smaller images."""
    for flag, value in (("--train", "1"), ("--val", "1"), ("--test", "0"), ("--size", "160")):
        if flag in words:
            words = [*words[: words.index(flag) + 1], value, *words[words.index(flag) + 2 :]]
        else:
            words = [*words, flag, value]
    return words


@pytest.mark.parametrize("shown", BLOCKS, ids=str)
def test_a_block_of_python(shown: Shown, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = {"epochs": 1, "long": 64, "workers": 0, "device": "cpu"}  # a run of one step
    monkeypatch.setattr(aweigh, "train", lambda data, **given: aweigh.commands.train(data, **{**given, **short}))
    my_boxes = [(np.array([[1.0, 1.0, 9.0, 9.0]]), np.array([0.5]))] * 3  # of the val split
    if "import cv2" in shown.text:  # which has no place among what we depend on: what stands in for it in supervision
        monkeypatch.setitem(sys.modules, "cv2", import_module("supervision._cv2"))
    exec(compile(shown.text, str(shown), "exec"), {"my_boxes": my_boxes})


def test_enough_is_done() -> None:
    assert len(ONCE) > 35 and len(BLOCKS) > 5
    assert {tuple(shown.words[1:3]) for shown in ONCE} >= {("data", "check"), ("data", "complete"), ("profile", "cost")}
