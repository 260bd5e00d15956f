"""One training step of each row of every study that comes with the package, on drawn scenes. Takes minutes."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tests.studies.test_rows import STUDIES

from aweigh.annotations.proposals import Proposals
from aweigh.layouts.load import load_split
from aweigh.scenes.shapes import write_synthetic
from aweigh.studies.plan import Plan, make_plan
from aweigh.training.backbone import classify
from aweigh.training.backbone.config import ClassifyConfig
from aweigh.training.config import TrainConfig
from aweigh.training.prepare import prepare
from aweigh.training.step import TrainingLosses, optimiser_step

pytestmark = pytest.mark.thorough
SIDE = 128
STEPS = {  # of hourglasses where a row does not say how many: sixteen channels each, since theirs take minutes
    "centernet_hourglass104": 6,
    "cornernet_hourglass104": 6,
    "cornernet_squeeze": 5,
    "cornernet_saccade": 4,
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With boxes, masks and keypoints; beside them proposals, which are the boxes."""
    folder = tmp_path_factory.mktemp("scenes")
    write_synthetic(folder, train=6, val=2, test=0, size=SIDE)
    images = []
    for name in ("train", "val"):
        split = load_split(folder, name)
        for row, file in enumerate(split.file_names()):
            boxes = split.objects(row)["boxes"]
            height, width = split.sizes_hw[row].tolist()
            whole = np.array([[0, 0, width, height]])
            images.append((file, (height, width), np.concatenate([boxes, whole]), np.ones(len(boxes) + 1)))
    Proposals.of(images, number=100, made={}).write(folder / "proposals.safetensors")
    return folder


TRAINED = [  # of rows that share a training the first
    pytest.param(study, training.rows[0], id=f"{name}: {training.rows[0].name}")
    for name, study in STUDIES.items()
    if study.kind not in ("assignment", "cost")
    for training in Plan(study, study.rows, "", Path(), seeds=1).trainings()
]


@pytest.mark.parametrize(("study", "row"), TRAINED)
def test_a_row_takes_a_step(study, row, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if study.kind == "backbone":
        plan = make_plan(study, str(request.getfixturevalue("folders")), tmp_path, rows=[row.name], device="cpu")
        config = plan.config(row, output=tmp_path / "run")
        assert isinstance(config, ClassifyConfig)
        small = replace(config, batch=2, iterations=1, size=64, workers=0, statistics=1)
        run = classify.prepare(small, new=True, console=Console(file=io.StringIO()))
        assert math.isfinite(classify.train_epoch(run)["loss"]) and run.step == 1
        return
    data = request.getfixturevalue("scenes")
    proposals = str(data / "proposals.safetensors")
    start = {"backbone_weights": "none"} if "backbone_weights" not in row.own.settings else {}
    plan = make_plan(
        study, str(data), tmp_path, rows=[row.name], settings=start, proposals=(proposals, ""), device="cpu"
    )
    config = plan.config(row)
    assert isinstance(config, TrainConfig)
    side = 2 * SIDE if config.model in STEPS else SIDE  # whose coarsest maps are of 128 pixels a cell
    config = replace(config, short=0, long=side, batch=2, accumulate=1, multi_scale=(), workers=0, init="none")
    if config.model in STEPS:
        config = replace(config, arguments=narrowed(config))
    run = prepare(config, tmp_path)
    step = optimiser_step(run, TrainingLosses(run), [next(iter(run.loader))])
    assert math.isfinite(step["loss"]) and step["loss"] > 0 and run.skipped == 0


def narrowed(config: TrainConfig) -> tuple[str, ...]:
    given = dict(entry.split("=", 1) for entry in config.arguments)
    steps = len(json.loads(given["blocks"])) if "blocks" in given else STEPS[config.model]
    return tuple(f"{name}={text}" for name, text in {**given, "channels": str([16] * steps)}.items())
