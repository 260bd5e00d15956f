"""What works with nothing but the package: a detector that is there, and training that starts from it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Aweigh = Callable[..., Any]


def test_predicting_needs_no_model_and_no_network(aweigh: Aweigh, tmp_path: Path) -> None:
    ended = aweigh("predict", "--sample", "-o", tmp_path / "out", "--device", "cpu")
    assert ended.code == 0, ended.err
    (line,) = map(json.loads, (tmp_path / "out" / "detections.jsonl").read_text().splitlines())
    best = line["detections"][0]
    assert best["class"] == "person" and best["score"] > 0.5
    left, top, right, bottom = best["box"]
    assert (right - left) * (bottom - top) > 0.5 * line["width"] * line["height"]  # a portrait
    assert (tmp_path / "out" / "grace_hopper.jpg").is_file()


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


def test_the_sample_may_be_missing(aweigh: Aweigh, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    ended = aweigh("predict", "--sample")
    assert ended.code == 2 and "sample data" in ended.mistake
