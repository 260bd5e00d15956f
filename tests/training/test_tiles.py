"""A run in tiles: validated in tiles, kept in its files, gone on with to the same bits, and used by what follows."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tests.runs import TINY, charts_not_rendered, write_coco
from tests.runtime.toy_graphs import header as toy_header
from tests.runtime.toy_graphs import toy_graph

import aweigh
from aweigh.arguments import change_settings
from aweigh.checkpoints.checkpoint import load_model
from aweigh.cli.main import run as command
from aweigh.errors import DataError, UsageError
from aweigh.feeding.tiles import TileRows
from aweigh.geometry.tiles import Tiles
from aweigh.graphs.form import Form
from aweigh.graphs.int8 import calibration_inputs
from aweigh.header import tiles_of
from aweigh.images.resize import Resize
from aweigh.inference.detect_tiles import detect_in_tiles
from aweigh.inference.device import ON_CPU
from aweigh.inference.engine import TorchEngine
from aweigh.layouts.load import load_split
from aweigh.predictor import Predictor
from aweigh.training import loop
from aweigh.training.config import TrainConfig, resolve
from aweigh.training.prepare import prepare
from aweigh.training.train import train

TILED = {
    **TINY,
    "tile": 64,
    "overlap": 0.25,
    "short": 0,
    "long": 64,
    "mosaic": 0.3,
    "empty_tiles": 0.5,
    "save_every": 1,
}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Images of two tiles by two and more."""
    root = tmp_path_factory.mktemp("large")
    return write_coco(root, {"train": 4, "val": 3}, objects=4, sizes=((150, 110), (120, 96)))


def configuration(data, output, **changes) -> TrainConfig:
    return resolve({}, {"data": str(data), **TILED, **changes, "output": str(output)})[0]


@pytest.fixture(scope="module")
def trained(large, tmp_path_factory):
    """The folder of a run of two epochs, and all it said."""
    console = Console(file=io.StringIO(), width=400)
    with charts_not_rendered():
        folder = train(configuration(large, tmp_path_factory.mktemp("tiled") / "run"), console=console)
    return folder, console.file.getvalue()


def test_the_run_says_what_it_trains_on(trained):
    folder, said = trained
    assert "tiles of 64 x 64, overlapping by 16: " in said and "every whole tile: " in said
    assert (folder / "val_predictions.png").exists() and (folder / "inputs_val.png").exists()


def test_it_is_validated_as_its_checkpoint_is_evaluated(trained, large):
    """In the tiles that the checkpoint keeps: the same detections, to the last digit."""
    folder, _ = trained
    model, header = load_model(folder / "best.safetensors")
    assert aweigh.load(folder / "best.safetensors").tiles == tiles_of(header) == Tiles(64, 0.25)
    assert aweigh.load(folder / "best.safetensors", tiles=None).tiles is None
    change_settings(model, {"score_threshold": 0.0, "max_detections": 20})
    split, resize = load_split(large, "val"), Resize.from_dict(header["resize"])
    rows = TileRows.of(split, Tiles(64, 0.25))
    found = detect_in_tiles(model, resize, split, rows=rows, batch=4, how=ON_CPU)
    predictor = Predictor(TorchEngine(model, ON_CPU), resize, tiles=Tiles(64, 0.25))
    assert found.results == aweigh.evaluate(predictor, split, batch=4).results and len(found.results) > 100
    assert all(np.isfinite(value) for value in found.losses.values()) and len(found.losses) == 3


def test_a_run_that_was_stopped_ends_with_the_same_bits(trained, large, tmp_path, monkeypatch, quiet):
    folder, _ = trained
    step = loop.optimiser_step

    def until_three(run, losses, group):
        if run.step == 3:
            raise KeyboardInterrupt
        return step(run, losses, group)

    monkeypatch.setattr(loop, "optimiser_step", until_three)
    config = configuration(large, tmp_path / "run", save_every=1)
    with charts_not_rendered(), pytest.raises(KeyboardInterrupt):
        train(config, console=quiet)
    monkeypatch.undo()
    with charts_not_rendered():
        train(resolve(None, {"resume": config.output})[0], console=quiet)
    a, b = (load_model(run / "last.safetensors")[0].state_dict() for run in (folder, tmp_path / "run"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_commands_use_its_tiles_unless_they_are_told_others(trained, large, tmp_path, capfd):
    folder, _ = trained
    image = str(large / "images" / "val" / "0.png")
    expected = {(): "as the detector was trained; --tile 0 looks at whole images", ("--tile", "96"): "tiles of 96 x 96"}
    for words, said in expected.items():
        assert command(["predict", image, "-m", str(folder), "--no-draw", "-o", str(tmp_path / "out"), *words]) == 0
        assert said in capfd.readouterr().err
        assert command(["eval", str(folder), str(large), "--split", "val", *words]) == 0
        assert said in capfd.readouterr().out
    assert command(["predict", image, "-m", str(folder), "-o", str(tmp_path / "out"), "--tile", "0"]) == 0
    assert "tiles of" not in capfd.readouterr().err
    assert command(["info", str(folder)]) == 0 and "tiles of 64 x 64" in capfd.readouterr().out


def test_an_exported_graph_keeps_them(trained, tmp_path, monkeypatch):
    folder, _ = trained
    kept = []

    def noted(form, model, path, resize, said):
        kept.append(said["tiles"])
        raise KeyboardInterrupt  # writing it takes long

    monkeypatch.setattr(Form, "write", noted)
    with pytest.raises(KeyboardInterrupt):
        aweigh.export(folder / "best.safetensors", tmp_path / "tiled.onnx")
    assert kept == [Tiles(64, 0.25)]
    graph = aweigh.load(toy_graph(tmp_path / "toy.onnx", said=toy_header(tiles={"side": 64, "overlap": 0.25})))
    assert graph.tiles == Tiles(64, 0.25)
    with pytest.raises(UsageError, match="trained in tiles"):
        aweigh.export(folder / "best.safetensors", tmp_path / "whole.onnx", with_preprocess=True)
    for wrong in ({"side": 4}, {"side": 64, "overlap": "0.25"}, {}, 64):
        with pytest.raises(DataError, match="no usable tiles"):
            aweigh.load(toy_graph(tmp_path / "wrong.onnx", said=toy_header(tiles=wrong)))


def test_ranges_of_int8_are_those_of_tiles(tmp_path):
    """A calibration image goes through the network as a tile does: 64 pixels of it, enlarged to 96."""
    said = toy_header(tiles={"side": 64, "overlap": 0.25}, resize={"short": None, "long": 96, "antialias": True})
    graph = toy_graph(tmp_path / "toy.onnx", said=said)
    Image.new("RGB", (150, 110)).save(tmp_path / "image.png")
    (inputs,) = calibration_inputs(graph, [tmp_path / "image.png"])
    assert inputs["sizes_hw"].tolist() == [[96, 96]]


def test_what_does_not_go_is_said_before_the_first_step(large, tmp_path):
    for changes, error, said in (
        ({"tile": 0}, UsageError, "overlap = 0.25 goes with a tile"),
        ({"tile": 8}, UsageError, "tile = 8: expected pixels"),
        (
            {"min_visible": 1.0, "tile": 32, "overlap": 0.05, "data": None},
            DataError,
            "no tile of 32 x 32 pixels shows 100%",
        ),
        ({"model": "fast_rcnn_resnet18_fpn", "arguments": ()}, UsageError, "leave the tiles out"),
    ):
        data = large
        if "data" in changes:
            data = write_coco(tmp_path / "huge", {"train": 2}, objects=1, sizes=((40, 40),))
            changes = {name: value for name, value in changes.items() if name != "data"}
            for file in (data / "annotations").glob("*.json"):
                content = json.loads(file.read_text())
                for entry in content["annotations"]:
                    entry["bbox"] = [1, 1, 38, 38]
                file.write_text(json.dumps(content))
        with pytest.raises(error, match=said):
            prepare(configuration(data, tmp_path / "run", **changes), tmp_path / "run")
