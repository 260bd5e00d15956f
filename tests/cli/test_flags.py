"""Flags that several commands share: declared once, the same everywhere; `--set` changes a detector's selection."""

import inspect
import json
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from tests.cli.test_predict import pictures

from aweigh.checkpoints.checkpoint import save_model
from aweigh.cli import check, convert, evaluate, predict, proposals, train
from aweigh.cli.flags import Files, Loading, Views, Weights
from aweigh.cli.main import run
from aweigh.errors import UsageError
from aweigh.images.resize import Resize
from aweigh.layouts.load import load_split
from aweigh.models import create
from aweigh.scenes.shapes import write_synthetic

COMMANDS = [
    *(check.check, convert.convert, convert.merge, convert.complete),
    *(evaluate.command, predict.command, proposals.command, train.command),
]
SHARED = {
    *("annotations", "images", "workers", "device", "resize", "tta", "scales", "merge", "flip_pairs", "settings"),
    *("nms", "nms_threshold"),
    *("batch", "proposals_file", "link", "recipe", "processes"),
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.__module__}.{command.__name__}")
def test_no_command_declares_a_shared_flag_itself(command: Any) -> None:
    hints = get_type_hints(command, include_extras=True)
    documented = inspect.getdoc(command).split("Args:\n")[-1]  # type: ignore[union-attr]
    for name in SHARED & hints.keys():
        assert any(getattr(mark, "help", None) for mark in getattr(hints[name], "__metadata__", ())), name
        assert f"    {name}: " not in documented, name


def test_nothing_given_is_nothing_said() -> None:
    assert (Files().to_dict(), Weights().changes()) == ({"annotations": None, "images": None}, {})
    assert Views().augmentation().plain and Loading().max_bad == 1.0 and Loading(strict=True).max_bad == 0.0


@pytest.mark.parametrize("loading", [Loading(batch=-1), Loading(workers=-1), Loading(workers=10_000)])
def test_numbers_that_cannot_be(loading: Loading) -> None:
    with pytest.raises(UsageError, match="expected a number"):
        loading.check()


@pytest.mark.parametrize("entry", ["nms", "nms=", "=soft", ""])
def test_a_setting_has_a_name_and_a_value(entry: str) -> None:
    with pytest.raises(UsageError, match="expected NAME=VALUE, such as score_threshold"):
        Weights(settings=(entry,)).changes()


def test_suppression_is_asked_for_by_flags_of_its_own() -> None:
    assert Weights(nms="soft", nms_threshold=0.4).changes() == {"nms": "soft", "nms_threshold": "0.4"}
    assert Weights(settings=("max_detections=3",), nms="none").changes() == {"max_detections": "3", "nms": "none"}
    with pytest.raises(UsageError, match=r"--set nms_threshold=0\.5 and a flag say the same"):
        Weights(settings=("nms_threshold=0.5",), nms_threshold=0.4).changes()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and m.safetensors, a detector that knows nothing and is never sure."""
    folder = tmp_path_factory.mktemp("work")
    write_synthetic(folder / "data", train=0, val=2, test=0, size=64, seed=1)
    classes = load_split(folder / "data", "val").classes
    model = create("fcos_shufflenet_v2_x0_5_fpn", classes=classes)
    save_model(folder / "m.safetensors", model, resize=Resize(64, 64))
    return folder


def test_eval_measures_with_the_settings_that_are_set(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", str(work / "m.safetensors"), str(work / "data"), "--device", "cpu", "--json", str(work / "n.json")]
    assert run(words) == 0
    before = json.loads((work / "n.json").read_text())
    assert before["protocol"]["detections"] == 0 and "\nset: " not in capsys.readouterr().out
    assert run([*words, "--set", "score_threshold=0", "--set", "max_detections=7"]) == 0
    told = capsys.readouterr().out
    assert "score above 0, " in told and "at most 7 detections" in told
    assert "\nset: score_threshold 0, max_detections 7\n" in told
    after = json.loads((work / "n.json").read_text())
    assert after["protocol"]["detections"] == 14
    assert run([*words, "--nms", "soft", "--nms-threshold", "0.4"]) == 0
    assert "score above 0.05, soft NMS, at most" in capsys.readouterr().out
    assert run([*words, "--nms-threshold", "0.4"]) == 0
    told = capsys.readouterr().out
    assert "NMS at IoU 0.4, " in told and "\nset: nms_threshold 0.4\n" in told
    assert after["settings"]["selection"] == before["settings"]["selection"] | {
        "score_threshold": 0, "max_detections": 7,
    }  # fmt: skip


def test_predict_finds_with_the_settings_that_are_set(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = str(pictures(work / "photos", "a.png") / "a.png")
    words = ["predict", photo, "--model", str(work / "m.safetensors"), "--device", "cpu", "-o", "-", "--score", "0"]
    found = []
    for settings in ([], ["--set", "score_threshold=0", "--set=max_detections=3"]):
        assert run([*words, *settings]) == 0
        found.append(len(json.loads(capsys.readouterr().out)["detections"]))
    assert found == [0, 3]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("scor_threshold=0.1", "There is no setting 'scor_threshold'. Did you mean 'score_threshold'?"),
        ("score_threshold=2", "score_threshold = '2': expected a number from 0 to 1."),
        ("nms=softest", "unknown nms 'softest'; known:"),
    ],
)
def test_a_setting_that_cannot_be_is_explained(
    work: Path, entry: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["eval", str(work / "m.safetensors"), str(work / "data")],
        ["predict", str(work / "data/images/val"), "--model", str(work / "m.safetensors")],
    ):
        assert run([*words, "--device", "cpu", "--set", entry]) == 2
        assert message in capsys.readouterr().err
