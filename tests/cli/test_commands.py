"""What single commands do that needs no training: the flags of train, models, doctor, places of drawn images."""

import json
import sys
import tomllib
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch

import aweigh
from aweigh.catalogue import detector_named, detectors
from aweigh.cli import doctor, models, predict, train
from aweigh.cli.main import run
from aweigh.errors import UsageError
from aweigh.images.sources.source import Images
from aweigh.models import DETECTORS, PUBLISHED
from aweigh.prediction.drawing import Places, refuse_overwriting
from aweigh.prediction.summary import Summary
from aweigh.training.backbone.config import ClassifyConfig
from aweigh.training.config import TrainConfig, configuration
from aweigh.training.recipes import find_recipe
from aweigh.training.settings import Settings, load_recipe, to_dict

FAMILIES = [module for module in vars(aweigh.models).values() if hasattr(module, "BUILDERS")]


@pytest.mark.parametrize(("command", "settings"), [("train", TrainConfig), ("train-backbone", ClassifyConfig)])
def test_every_setting_is_a_flag(command: str, settings: type[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help-all"]) == 0
    text = capsys.readouterr().out
    for entry in fields(settings):
        if entry.name != "data":
            assert f"--{entry.name.replace('_', '-')}" in text, entry.name


def test_flags_beat_the_recipe_and_the_recipe_beats_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    flags = train.Flags(lr=0.5, classes=("a", "b"), channels_last=False)
    config, origin = configuration("synthetic", {"data": "DATA", **asdict(flags)})
    recipe = load_recipe(TrainConfig, find_recipe("synthetic"))
    assert (config.data, config.lr, config.classes, config.channels_last) == ("DATA", 0.5, ("a", "b"), False)
    assert config.model == recipe["model"] and origin["model"] == "recipe synthetic"
    assert origin["lr"] == "command line" and origin["gamma"] == "default"


def test_config_show_prints_a_recipe_that_gives_the_same_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["--lr", "0.5", "--classes", "a", "b", "--multi-scale", "480", "640", "--no-channels-last"]
    assert run(["config", "show", "DATA", "--recipe", "synthetic", *flags]) == 0
    text = capsys.readouterr().out
    assert tomllib.loads(text)["multi_scale"] == [480, 640]
    (tmp_path / "again.toml").write_text(text)
    again, _ = configuration(str(tmp_path / "again.toml"), asdict(train.NO_FLAGS))
    flags = train.Flags(lr=0.5, classes=("a", "b"), multi_scale=(480, 640), channels_last=False)
    given, _ = configuration("synthetic", {"data": "DATA", **asdict(flags)})
    assert to_dict(again) == to_dict(given)


def test_unknown_recipe_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.toml").write_text("epoch = 3\n")
    assert run(["train", "DATA", "--recipe", str(tmp_path / "mine.toml")]) == 2
    err = capsys.readouterr().err
    assert "'epoch'" in err and "Did you mean 'epochs'?" in err and err.count("\n") == 1


def test_the_stored_table_names_every_detector_and_all_published_weights() -> None:
    """Made by `python -m aweigh.cli.models`; that again where this fails."""
    stored = detectors()
    assert [row["name"] for row in stored] == list(DETECTORS)
    assert [row["weights"] for row in stored] == [models.published(name) for name in DETECTORS]


@pytest.mark.parametrize("name", [next(iter(family.BUILDERS)) for family in FAMILIES])
def test_the_stored_rows_are_those_of_the_detectors(name: str) -> None:
    """The first detector of each file, built without memory; all of them are built when the table is written."""
    assert detector_named(name) == json.loads(json.dumps(models.built(name)))


def test_the_table_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "mask_rcnn_resnet50_fpn_v2", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["name"] == "mask_rcnn_resnet50_fpn_v2_torchvision" and row["parameters"] == 46301232
    (weights,) = row["weights"]
    assert weights["metrics"] == {"AP": 47.4, "mask AP": 41.8} and weights["licence"].startswith("BSD-3-Clause (")


def test_models_lists_every_detector_and_every_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models"]) == 0
    text = capsys.readouterr().out
    for name in DETECTORS:
        assert name in text
    for published in PUBLISHED.values():
        for record in published.values():
            assert record.file in text and record.licence.split()[0] in text


def test_parameters_are_those_of_the_real_model() -> None:
    model = aweigh.create("fcos_shufflenet_v2_x0_5_fpn")
    assert models.built("fcos_shufflenet_v2_x0_5_fpn")["parameters"] == sum(p.numel() for p in model.parameters())


def test_doctor_finds_this_machine_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert f"torch {torch.__version__.split('+')[0]}" in out and "cpu" in out and "ok" in out
    assert err == ""


def test_doctor_names_the_pair_that_does_not_go_together() -> None:
    wrong = doctor.pair_problems("2.11.0+cu128", "0.29.2+cu132", ["numpy", "torch (>=2.14.0)", "pillow>=5"])
    assert len(wrong) == 1 and "torchvision 0.29.2" in wrong[0] and "2.11.0" in wrong[0]
    assert doctor.pair_problems("2.14.1", "0.29.2", ["torch>=2.14.0"]) == []
    assert doctor.pair_problems("2.11.0", "0.26.0", ["torch==2.11.0"]) == []
    assert doctor.pair_problems("2.11.1", "0.26.0", ["torch==2.11.0"]) != []


def test_doctor_ends_with_1_when_a_device_does_not_compute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: object, **options: object) -> torch.Tensor:
        raise RuntimeError("no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(torch.nn.functional, "conv2d", broken)
    assert run(["doctor"]) == 1
    out, err = capsys.readouterr()
    assert "FAILED" in out and "no kernel image" in err and "torchvision" in err and err.count("\n") == 1


def test_doctor_ends_with_1_when_an_answer_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_device("cpu") is None
    monkeypatch.setattr("torchvision.ops.nms", lambda *_: torch.tensor([0, 1, 2]))
    assert "instead of [0, 2]" in (doctor.check_device("cpu") or "")


def test_doctor_ends_with_1_when_a_library_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "timm" else version(name))
    assert run(["doctor"]) == 1
    assert "timm is not installed" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torchvision", None)  # importing it now fails
    assert run(["doctor"]) == 1
    assert "cannot be loaded together" in capsys.readouterr().err


@pytest.mark.parametrize("score", ["nan", "1.5", "-0.1"])
def test_a_score_that_none_can_have(score: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "photo.jpg", "--model", "best.safetensors", "--score", score]) == 2
    assert "expected a number from 0 to 1" in capsys.readouterr().err


def test_pictures_that_could_not_be_read_are_not_said_to_be_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    for pictures, words in ((1, ""), (2, "; boxes drawn in out")):
        predict.tell(Summary(Path("out/detections.csv"), images=pictures, failed=1), "torch", drawn=True)
        assert capsys.readouterr().err.endswith(f"Detections: out/detections.csv{words}\n")


def test_places_of_drawn_pictures(tmp_path: Path) -> None:
    paths = [Path("photos/a.png"), Path("photos/b/a.jpg"), Path("photos/b/c.tif"), Path("photos/b/c.png")]
    place = Places(tmp_path, Path("photos"))
    assert [place(path).relative_to(tmp_path).as_posix() for path in paths] == [
        "a.jpg",
        "b/a.jpg",
        "b/c.jpg",
        "b/c.png.jpg",
    ]
    assert place(Path("photos/b/c.png")).name == "c-2.jpg"


def test_a_source_is_never_overwritten(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png"):
        (tmp_path / name).touch()

    def of(*names: str) -> Images:
        return Images(lambda: (tmp_path / name for name in names), tmp_path)

    with pytest.raises(UsageError, match="overwritten"):
        refuse_overwriting(of("a.jpg"), tmp_path)
    with pytest.raises(UsageError, match=r"a\.jpg would be overwritten"):
        refuse_overwriting(of("a.png", "a.jpg"), tmp_path)
    refuse_overwriting(of("a.png", "b.png"), tmp_path)
    refuse_overwriting(of("a.jpg"), tmp_path / "new")


def test_a_time_per_picture_needs_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    predict.tell(Summary(None, images=1, failed=1), "torch", drawn=False)
    assert capsys.readouterr().err.splitlines() == ["0 images, 0 objects", "1 of 1 image could not be read."]
    predict.tell(Summary(None, images=2, failed=1), "torch", drawn=False)
    assert "1 image, 0 objects; 0.00 s per image (torch)" in capsys.readouterr().err
