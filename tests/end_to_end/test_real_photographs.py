"""The same commands on real photographs, where their folder is at hand."""

import io
import json
import math
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aweigh.training.logs.json_lines import read_log

from .conftest import TINY, typed

Aweigh = Callable[..., Any]


@pytest.fixture(scope="module")
def cells(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of three steps on photographs of blood cells."""
    run, said = tmp_path_factory.mktemp("cells") / "run", io.StringIO()
    words = ["train", shared / "data" / "bccd", "--iterations", 3, "--val-split", "none", "--output", run, *TINY]
    with redirect_stderr(said):
        assert typed(*words) == 0, said.getvalue()
    assert "zero-size box" in said.getvalue() and "annotation 2288" in said.getvalue()
    return run


def test_bad_boxes_of_real_data_are_named(aweigh: Aweigh, shared: Path) -> None:
    ended = aweigh("data", "check", shared / "data" / "bccd", "--strict")
    assert ended.code == 3
    assert "BloodImage_00343.jpg annotation 2288" in ended.out
    assert "BloodImage_00338.jpg annotation 887" in ended.out
    assert "364 images, 4,886 boxes" in ended.out and "look-alike images in two splits" in ended.out


def test_training_on_real_photographs(cells: Path) -> None:
    losses = [row["loss"] for row in read_log(cells / "log.jsonl") if row["kind"] == "step"]
    assert len(losses) == 3 and all(math.isfinite(loss) for loss in losses)


def test_predicting_on_real_photographs(aweigh: Aweigh, cells: Path, shared: Path, tmp_path: Path) -> None:
    photos = [
        *sorted((shared / "data" / "bccd" / "images").glob("*.jpg"))[:2],
        *sorted((shared / "data" / "coco_person" / "images").rglob("*.jpg"))[:3],
    ]
    model = ["--model", cells / "best.safetensors", "-o", tmp_path, "--score", 0.05, "--batch", 4]
    ended = aweigh("predict", *photos, *model)
    assert ended.code == 0, ended.err
    lines = [json.loads(line) for line in (tmp_path / "detections.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [str(path) for path in photos]
    drawings = sorted(tmp_path.rglob("*.jpg"))
    assert len(drawings) == 5
    for line in lines:
        (drawing,) = [path for path in drawings if path.stem == Path(line["path"]).stem]
        with Image.open(drawing) as picture:
            assert picture.size == (line["width"], line["height"])


@pytest.mark.parametrize("name", ["coco_tiny", "voc5"])
def test_one_step_on_each_data_set(aweigh: Aweigh, shared: Path, tmp_path: Path, name: str) -> None:
    words = ["--iterations", 1, "--batch", 2, "--val-split", "none", "--output", tmp_path / "run"]
    ended = aweigh("train", shared / "data" / name, *TINY, *words)
    assert ended.code == 0, ended.err
    assert (tmp_path / "run" / "best.safetensors").exists()
