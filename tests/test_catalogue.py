"""What a model is called: one rule for Python and every command that takes one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aweigh
from aweigh import catalogue
from aweigh.catalogue import DEFAULT_MODEL, PACKAGED, Published, find_model
from aweigh.checkpoints import checkpoint
from aweigh.checkpoints.checkpoint import average, contents, load_model, save_model, shrink, start_from
from aweigh.cli.main import run
from aweigh.errors import UsageError
from aweigh.header import read_header, selection_of
from aweigh.images.resize import Resize
from aweigh.profiling.networks import cost_of, shufflenet_of

BOX_FILE = PACKAGED / f"{DEFAULT_MODEL}.safetensors"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The folder of a run whose best weights are those of the box."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "best.safetensors").write_bytes(BOX_FILE.read_bytes())
    return folder


def test_a_name_is_a_file_a_run_the_box_or_a_detector_with_published_weights(run_folder: Path) -> None:
    best = run_folder / "best.safetensors"
    assert find_model(best) == find_model(str(best)) == find_model(run_folder) == find_model(str(run_folder)) == best
    assert find_model("box") == find_model(DEFAULT_MODEL) == find_model(DEFAULT_MODEL, "box") == BOX_FILE
    assert find_model("box", graph=True) == find_model(DEFAULT_MODEL, graph=True) == BOX_FILE.with_suffix(".onnx")
    assert find_model(best, graph=True) == best and find_model("mine.onnx") == Path("mine.onnx")
    assert find_model("missing.safetensors") == Path("missing.safetensors")  # who reads it says so
    assert find_model("centernet_dla34") == Published("centernet_dla34", "2x")  # the first that the table has
    assert find_model("centernet_dla34", "1x") == Published("centernet_dla34", "1x")
    assert (
        find_model(DEFAULT_MODEL, "mine.pth") == find_model("box", "mine.pth") == Published(DEFAULT_MODEL, "mine.pth")
    )


def test_every_name_of_the_table_is_a_model_or_told_to_have_no_weights() -> None:
    for row in catalogue.detectors():
        if row["weights"]:
            find_model(row["name"])
        else:
            with pytest.raises(UsageError, match="has no published weights; name a checkpoint"):
                find_model(row["name"])


def test_a_file_is_meant_where_it_is_named_as_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("box").write_bytes(b"")
    assert find_model("box") == BOX_FILE
    assert find_model("./box") == find_model(Path("box")) == Path("box")


@pytest.mark.parametrize(
    ("model", "weights", "told"),
    [
        ("fcos_resnet51_fpn", "", "'fcos_resnet51_fpn' is neither a checkpoint file nor a detector. Did you mean"),
        ("bx", "", "Did you mean 'box'"),
        ("", "", "neither"),
        ("run/best.safetensors", "torchvision", r"Weights \(torchvision\) go with the name of a detector"),
    ],
)
def test_what_is_no_model_is_told(model: str, weights: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        find_model(model, weights)


def test_a_folder_without_weights_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder without best\.safetensors"):
        find_model(tmp_path)


def test_published_weights_are_loaded_as_their_checkpoint_is(monkeypatch: pytest.MonkeyPatch) -> None:
    (file, header), (model, _) = contents(BOX_FILE)[::-1], load_model(BOX_FILE)
    monkeypatch.setattr(checkpoint, "find_model", lambda *_: Published(DEFAULT_MODEL, "box"))
    published, said = load_model("box")
    for key in ("builder", "classes", "resize", "licence"):
        assert said[key] == header[key]
    assert selection_of(said) == selection_of(header)
    assert said["metrics"]["AP"] == pytest.approx(0.175)
    assert published.state_dict().keys() == model.state_dict().keys()
    assert all(value.equal(model.state_dict()[name]) for name, value in published.state_dict().items())
    tensors = contents("box")[1]
    assert all(value.float().equal(tensors[name]) for name, value in file.items() if value.is_floating_point())


def test_python_and_the_parts_of_a_command_take_each_name(run_folder: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    names: list[Any] = ["box", run_folder, DEFAULT_MODEL]
    found = [aweigh.load(name, runtime="torch", device="cpu")(pixels, score=0).scores for name in names]
    assert len(found[0]) > 0 and all(np.array_equal(found[0], one) for one in found)
    shrink("box", tmp_path / "small.safetensors")
    average(["box", str(run_folder)], tmp_path / "mean.safetensors")
    assert read_header(tmp_path / "mean.safetensors")["builder"] == DEFAULT_MODEL
    model = aweigh.create(DEFAULT_MODEL, num_classes=2, backbone_norm="frozen_bn")
    assert start_from(model, "box").startswith("loaded ") and start_from(model, run_folder).startswith("loaded ")
    assert cost_of("box", 64).total.parameters == cost_of(str(run_folder), 64).total.parameters > 0
    assert shufflenet_of("box").name == shufflenet_of(str(run_folder)).name


def test_commands_take_each_name(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", "box", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_header(BOX_FILE)
    assert run(["info", str(run_folder)]) == 0
    assert capsys.readouterr().out.startswith(f"{run_folder}\n  detector ")
    assert run(["info", "centernet_dla34"]) == 0
    text = capsys.readouterr().out
    assert "ctdet_coco" in text or "CenterNet" in text
    assert "2x" in text and "licence" in text
    assert run(["info", "fcos_resnet18_fpn"]) == 2
    assert "fcos_resnet18_fpn has no published weights" in capsys.readouterr().err
    assert run(["shrink", "box", "-o", str(tmp_path / "small.safetensors")]) == 0
    assert "MB, was" in capsys.readouterr().out
    assert run(["profile", "cost", "box", "--size", "64"]) == 0


def test_what_a_checkpoint_is_called_is_no_matter_to_its_loading(tmp_path: Path) -> None:
    """A file of any suffix, as `load_model` took before."""
    model: Any = aweigh.create("fcos_shufflenet_v2_x0_5_fpn", num_classes=2)
    save_model(tmp_path / "model.weights", model, resize=Resize())
    assert load_model(tmp_path / "model.weights")[1]["builder"] == "fcos_shufflenet_v2_x0_5_fpn"
