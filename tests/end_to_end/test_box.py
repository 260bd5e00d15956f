"""What works with nothing but the package: a detector that is there, and training that starts from it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Aweigh = Callable[..., Any]


def test_predicting_needs_no_model_and_no_network(aweigh: Aweigh, tmp_path: Path) -> None:
    ended = aweigh("predict", "--sample", "-o", tmp_path / "out", "--device", "cpu")
    assert ended.code == 0, ended.err
    (line,) = map(json.loads, (tmp_path / "out" / "detections.jsonl").read_text().splitlines())
    found = [one["class"] for one in line["detections"]]
    assert sorted(found) == ["bus", "car", "clock", "stop sign", "traffic light"]  # all that stand in the street
    left, top, right, bottom = line["detections"][found.index("bus")]["box"]
    assert 0 < left < right < line["width"] / 2 + 40 and 200 < top < bottom < 480
    assert (tmp_path / "out" / "street.jpg").is_file()


def test_training_starts_from_it_and_exchanges_the_classes(aweigh: Aweigh, drawn: Path, tmp_path: Path) -> None:
    words = ["--iterations", 2, "--batch", 2, "--long", 96, "--workers", 0, "--device", "cpu", "--val-split", "none"]
    ended = aweigh("train", drawn, *words, "--output", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert "start: box: loaded 409 of 411 tensors; new: head.logits.bias (80->" in ended.err
    ended = aweigh("train", drawn, *words, "--output", tmp_path / "scratch", "--init", "none")
    assert ended.code == 0 and "start: random weights" in ended.err


def test_weights_that_do_not_fit_say_how_to_do_without(aweigh: Aweigh, drawn: Path, tmp_path: Path) -> None:
    ended = aweigh("train", drawn, "--arguments", "channels=64", "--output", tmp_path / "run")
    assert ended.code == 2 and "init = none starts from random weights" in ended.mistake
    assert not (tmp_path / "run").exists()


def test_pictures_have_to_be_named(aweigh: Aweigh) -> None:
    ended = aweigh("predict")
    assert ended.code == 2 and "--sample" in ended.mistake
