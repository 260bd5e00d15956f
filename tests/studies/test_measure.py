"""The figures of a row, of weights that are there, which need not be trained."""

from pathlib import Path

import pytest
import torch

import aweigh
from aweigh.annotations.split import Split
from aweigh.checkpoints.checkpoint import save_model
from aweigh.commands import evaluate, propose
from aweigh.evaluation.recall import recall_of
from aweigh.images.resize import Resize
from aweigh.layouts.load import load_split
from aweigh.predictor import load
from aweigh.studies.figures import in_percent
from aweigh.studies.measure import figures_of
from aweigh.studies.plan import make_plan

TWO_STAGES = """
[equal]
model = "faster_rcnn_resnet18_fpn"
arguments = { channels = 16 }

[[rows]]
name = "proposals"
paper = { proposal_AR100 = 44.0, AP = 36.0 }
"""


@pytest.fixture
def saved(tmp_path: Path):
    """Saves a detector of the toys as the last weights of a run."""

    def save(name: str, **arguments) -> Path:
        torch.manual_seed(6)
        model = aweigh.create(name, **{"classes": ["box", "ball"], **arguments})
        save_model(tmp_path / "last.safetensors", model, resize=Resize(None, 96))
        return tmp_path

    return save


def test_proposals_are_measured_where_the_paper_prints_them(written, saved, toys: Path) -> None:
    folder = saved("faster_rcnn_resnet18_fpn", channels=16)
    plan = make_plan(written('kind = "detector"\n', TWO_STAGES), str(toys), folder, steps=1)
    found = figures_of(plan, plan.rows[0], folder)
    predictor, split = load(folder / "last.safetensors", runtime="torch"), load_split(toys, "val").measurable()
    regions, _, unread = propose(predictor, split, number=1000, made={})
    numbers = recall_of(regions, split, unread).numbers
    assert found["proposal_AR100"] == 100 * numbers["AR100"] > 0 and found["proposal_AR1000"] == 100 * numbers["AR1000"]
    assert {"AP", "AP50"} <= found.keys()
    assert in_percent({"AP": -1.0, "AP50": 0.5, "split": "val"}) == {"AP50": 50.0}  # what is not defined is left out


def test_classes_that_training_leaves_out_are_no_misses(written, saved, toys: Path, monkeypatch) -> None:
    folder = saved("fcos_resnet18_fpn", classes=["ball"], channels=16)
    study = written(
        'kind = "detector"\n', TWO_STAGES.replace("faster_rcnn", "fcos").replace("proposal_AR100 = 44.0, ", "")
    )
    plan = make_plan(study, str(toys), folder, steps=1, settings={"classes": ["ball"]})
    measured: list[Split] = []

    def remembered(predictor, split: Split, **options):
        measured.append(split)
        return evaluate(predictor, split, **options)

    monkeypatch.setattr("aweigh.studies.measure.evaluate", remembered)
    figures_of(plan, plan.rows[0], folder)
    whole = load_split(toys, "val")
    assert whole.classes.names == ("box", "ball") and measured[0].classes.names == ("ball",)
    assert len(measured[0]) == len(whole)  # images without one are there
