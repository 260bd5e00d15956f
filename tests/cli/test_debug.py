"""`aweigh debug`: what a user reads about a step that failed, from the kept folder alone."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from aweigh.cli import debug
from aweigh.errors import DataError
from aweigh.feeding.batches import Batch
from aweigh.models import fcos
from aweigh.scenes.shapes import write_synthetic
from aweigh.training.config import resolve
from aweigh.training.debug.crash import write_bundle
from aweigh.training.prepare import Run, prepare

TINY = {"model": "fcos_shufflenet_v2_x0_5_fpn", "arguments": ("channels=32", "head_convs=1"), "long": 96, "short": 0}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    write_synthetic(tmp_path / "data", train=4, val=1, test=1, size=64, seed=1)
    values = {"data": str(tmp_path / "data"), "batch": 4, "workers": 0, "device": "cpu", "lr": 0.02, **TINY}
    run = prepare(resolve({}, values)[0], tmp_path / "run")
    run.model.train()
    run.step = 7
    return run


@pytest.fixture
def batch(run: Run) -> Batch:
    return next(iter(run.loader))


def told(run: Run, batch: Batch, capsys: pytest.CaptureFixture[str]) -> tuple[str, Path]:
    """What is printed on a failed step of `batch`, once data and run are gone."""
    state = torch.get_rng_state()
    losses = {"box": math.nan, "classification": 1.5}
    folder = write_bundle(
        run, [batch], reason="3 steps in a row", losses=losses, gradient_norm=math.inf, random_state=state
    )
    alone = run.folder.parent / "copied"
    shutil.move(folder, alone)
    shutil.rmtree(run.folder.parent / "data")
    debug.command(str(alone))
    return capsys.readouterr().out, alone


def test_a_lost_weight(run: Run, batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    with torch.no_grad():
        run.model.backbone.conv1[0].weight[0, 0, 0, 0] = math.nan
    text, folder = told(run, batch, capsys)
    assert "step 7, in epoch 1" in text and "3 steps in a row" in text
    assert "in the run: box nan, classification 1.5, gradient norm inf; lr 0.02, clip 10, cpu, float32" in text
    assert f"image {batch.image_ids[0]}: " in text and "train/" in text
    assert "on the CPU in float32: fails: " in text
    assert "not finite in backbone.conv1.0.weight" in text
    assert "first bad module: backbone.conv1.0 (Conv2d): inputs finite; its weights not finite" in text
    assert "whatever the annotations are" in text
    assert "lost before this step" in text and "a lower lr (now 0.02)" in text
    assert "Traceback" not in text
    with Image.open(folder / "batch.png") as picture:
        assert min(picture.size) > 96


def test_an_annotation_the_model_cannot_learn(run: Run, batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    image = next(image for image, targets in enumerate(batch.targets) if len(targets) > 1)
    labels = batch.targets[image].labels.clone()
    labels[1] = 55
    wrong = [replace(targets, labels=labels) if at == image else targets for at, targets in enumerate(batch.targets)]
    text, _ = told(run, replace(batch, targets=wrong), capsys)
    annotation = int(batch.targets[image].ids[1])
    assert "fails: UsageError: " in text and "label 55" in text
    assert f"failing: image {batch.image_ids[image]}\n" in text
    assert f"annotation {annotation} (label 55, which the model does not know, box " in text
    assert "Mend what the message says" in text


def test_what_is_finite_on_the_cpu(run: Run, batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    run.how = replace(run.how, precision=torch.float16)  # as on a GPU; computed here in float32
    run.model.head.box_tower[0].weight.data[:] *= 1e7
    text, _ = told(run, batch, capsys)
    assert "on the CPU in float32: all is finite: " in text and "first bad module" not in text
    assert "more than float16 can hold" in text and 'precision = "bf16" or "float32"' in text
    assert "failing:" not in text


def test_what_fails_in_the_precision_of_the_run_alone(
    run: Run, batch: Batch, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run.how = replace(run.how, precision=torch.bfloat16)
    sound = fcos._flatten

    def broken(levels: list[torch.Tensor]) -> torch.Tensor:
        flat = sound(levels)
        return flat * (flat.abs().neg() - 1).sqrt() if levels[0].dtype == torch.bfloat16 else flat

    monkeypatch.setattr(fcos, "_flatten", broken)
    text, _ = told(run, batch, capsys)
    assert "on the CPU in float32: all is finite: " in text
    assert "on the CPU in bfloat16, as in the run: fails: classification nan" in text
    assert "first bad operation: sqrt at models/fcos.py:" in text
    assert "failing: image " in text
    assert 'fails in bfloat16 alone: precision = "float32"' in text


def test_a_truncated_folder(run: Run, batch: Batch) -> None:
    state = torch.get_rng_state()
    folder = write_bundle(run, [batch], reason="", losses={}, gradient_norm=math.nan, random_state=state)
    path = folder / "batch.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"crash-000007 is not whole"):
        debug.command(str(folder))
