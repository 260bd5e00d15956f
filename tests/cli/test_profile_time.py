"""`aweigh profile speed`: rows for each setting, shares of the time, a page, numbers."""

import json
from pathlib import Path

import pytest
from tests.runtime.toy_graphs import toy_graph

from aweigh.cli.main import run
from aweigh.profiling.machine import Machine
from aweigh.speed import Noise


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The roof of a machine without measuring it."""
    found = Machine(1, {"float32": 50.0}, {1 << 20: 40.0}, Noise(0.0, 1.0))
    monkeypatch.setattr("aweigh.profiling.machine.measure_machine", lambda *given, **settings: found)


@pytest.mark.usefixtures("quick")
def test_settings_and_shares_of_a_network_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, page, numbers = toy_graph(tmp_path / "toy.onnx"), tmp_path / "out" / "page.html", tmp_path / "speed.json"
    given = ["fcos_shufflenet_v2_x0_5_fpn", str(file), "--size", "64", "--batch", "1", "2", "--threads", "1"]
    assert run(["profile", "speed", *given, "--repeats", "1", "--html", str(page), "--json", str(numbers)]) == 0
    out = capsys.readouterr().out
    for said in (
        "times as fast",
        "own",
        "of which operators take",
        "depthwise convolution",
        "backbone.stage2",
        "noisy",
    ):
        assert said in out or (said == "noisy" and "quiet" in out)
    found = json.loads(numbers.read_text())
    assert [(row["engine"], row["format"], row["batch"], row["threads"]) for row in found["rows"]] == [
        ("eager", "float32", 1, 1), ("eager", "float32", 2, 1), ("onnx", "own", 1, 1), ("onnx", "own", 2, 1),
    ]  # fmt: skip
    profiles = found["profiles"]
    assert list(profiles) == ["fcos_shufflenet_v2_x0_5_fpn"]  # a file has no operators of torch
    assert profiles["fcos_shufflenet_v2_x0_5_fpn"]["machine"]["gflops"] == {"float32": 50.0}
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Name the networks to time"),
        (["resnet18", "--batch", "1", "0"], "batch = 0: expected a number from 1"),
        (["resnet18", "--threads", "-1"], "threads = -1"),
        (["resnet18", "--repeats", "0"], "repeats = 0"),
        (["resnet1888"], "neither a checkpoint, nor a detector, nor a backbone"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", "speed", *arguments]) == 2
    assert said in capsys.readouterr().err
