"""A study that is run: its rows trained as `aweigh train` does, gone on with after a kill, measured and compared."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.runs import charts_not_rendered, outcome
from tests.studies.conftest import HEAD

from aweigh.arguments import change_settings
from aweigh.cli.main import run
from aweigh.commands import evaluate
from aweigh.errors import AweighError
from aweigh.evaluation.metrics import BOXES, numbers_of
from aweigh.feeding.dataset import DetectionDataset
from aweigh.images.resize import Resize
from aweigh.inference.engine import torch_engine
from aweigh.inspect.coverage import LevelRanges, boxes_at_input, measure_coverage
from aweigh.layouts.load import load_split
from aweigh.predictor import load
from aweigh.runtime.tta import TTA
from aweigh.studies.figures import in_percent
from aweigh.studies.plan import Plan, make_plan
from aweigh.studies.results import Results, read_results
from aweigh.studies.run import run_study
from aweigh.studies.study import Study, load_study
from aweigh.training.config import TrainConfig
from aweigh.training.train import train

ROWS = """
[equal]
model = "fcos_shufflenet_v2_x0_5_fpn"
arguments = { head_convs = 1, channels = 16 }
settings = { ema = 0.5 }
selection = { score_threshold = 0.0 }

[[rows]]
name = "plain"
paper = { AP = 30.0, voc07_mAP = 60.0 }
[[rows]]
name = "strict"
selection = { score_threshold = 0.9 }
paper = { AP = 29.0 }
[[rows]]
name = "mirrored"
views = { flip = true, resize = "128", merge = "soft" }
[[rows]]
name = "quick"
settings = { lr = 0.1 }
paper = { AP = 31.0 }
"""
SMALL = ["--steps", "3", "--size", "96", "--batch", "4", "--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("study") / "mine.toml"
    path.write_text(HEAD + 'kind = "detector"\n' + ROWS)
    return load_study(path)


def planned(study: Study, data: Path, output: Path, **given: Any) -> Plan:
    how = {"steps": 3, "seeds": 2, "size": 96, "batch": 4, "device": "cpu", "workers": 0, **given}
    return make_plan(study, str(data), output, **how)


class Whole(NamedTuple):
    """A study that ran unbroken. seen: of each training the images it read. told: what its progress was."""

    plan: Plan
    results: Results
    seen: list[list[tuple[Any, float]]]
    told: list[tuple[float, str]]


@pytest.fixture(scope="module")
def whole(study: Study, toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    plan = planned(study, toys, tmp_path_factory.mktemp("whole") / "out")
    seen: list[list[tuple[Any, float]]] = [[]]
    told: list[tuple[float, str]] = []
    read = DetectionDataset.__getitem__

    def note(dataset: DetectionDataset, index: Any) -> Any:
        sample = read(dataset, index)
        seen[-1].append((index, sample.image.sum().item()))
        return sample

    def tell(done: float, what: str) -> None:
        told.append((done, what))
        if done == int(done):
            seen.append([])

    with charts_not_rendered(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetectionDataset, "__getitem__", note)
        yield Whole(plan, run_study(plan, progress=tell), seen[:-1], told)


def without_times(results: Results) -> dict[str, dict[str, dict[int, float]]]:
    return {
        row: {figure: seeds for figure, seeds in figures.items() if figure not in ("step_ms", "memory_gb")}
        for row, figures in results.found.items()
    }


def test_rows_are_trained_and_measured_as_the_commands_do(whole: Whole, toys: Path, tmp_path: Path) -> None:
    plan, results = whole.plan, whole.results
    assert results.missing == [] and read_results(plan.output).found == results.found
    assert sorted(path.name for path in (plan.output / "runs").iterdir()) == ["01-plain", "04-quick"]
    config = plan.config(plan.rows[3], seed=1, output=tmp_path / "alone")
    assert isinstance(config, TrainConfig)
    predictor = load(train(config) / "last.safetensors", runtime="torch")
    change_settings(torch_engine(predictor.engine).model, {"score_threshold": 0.0})
    expected = evaluate(predictor, toys).metrics["boxes"].to_dict()
    quick = results.found["quick"]
    assert {name: quick[name][1] for name in BOXES if name in quick} == in_percent(expected)
    assert quick["step_ms"].keys() == {0, 1} and results.found["plain"]["parameters"][0] > 1e5


def test_rows_that_share_a_training_are_measured_each_in_its_way(whole: Whole, toys: Path) -> None:
    plain, strict = (whole.results.found[row] for row in ("plain", "strict"))
    assert min(plain["AR100"].values()) > 0 and set(strict["AR100"].values()) == {0.0}
    assert plain["step_ms"] == strict["step_ms"]
    weights = whole.plan.output / "runs" / "01-plain" / "seed1" / "last.safetensors"
    predictor = load(weights, runtime="torch", resize="128", tta=TTA(flip=True, merge="soft"))
    change_settings(torch_engine(predictor.engine).model, {"score_threshold": 0.0})
    expected = in_percent(numbers_of(evaluate(predictor, toys, metrics=["boxes", "voc07"]).metrics))
    mirrored = {name: seeds[1] for name, seeds in whole.results.found["mirrored"].items() if name in expected}
    assert mirrored == expected and mirrored != {name: plain[name][1] for name in expected}


def test_every_row_sees_the_same_images_in_the_same_order(whole: Whole) -> None:
    plain, quick, other, _ = whole.seen
    assert len(quick) >= 3 * 4 and plain[: len(quick)] == quick != other[: len(quick)]  # that is of another seed


def test_progress_is_told_for_the_whole(whole: Whole) -> None:
    done = [done for done, _ in whole.told]
    assert done == sorted(done) and len(done) == 4 * (3 + 1) and whole.told[-1] == (4.0, "quick, seed 1")


def test_a_study_that_was_killed_goes_on_where_it_was(
    study: Study, whole: Whole, toys: Path, tmp_path: Path, start: Any
) -> None:
    words = ["study", "run", study.path, toys, "-o", tmp_path, *SMALL, "--seeds", "1", "--settings", "save_every=1"]
    under_way, done = (tmp_path / "runs" / name / "seed0" for name in ("04-quick", "01-plain"))
    first = start(*words)
    until = time.monotonic() + 120
    while not any((under_way / "last").glob("*")) and first.is_alive() and time.monotonic() < until:
        time.sleep(0.01)
    first.kill()
    _, said = outcome([first])
    assert (under_way / "config.toml").exists() and not (under_way / "measured.json").exists(), said
    kept = (done / "measured.json").stat().st_mtime_ns
    codes, said = outcome([start(*words)])
    assert codes == [0], said
    expected = without_times(whole.results)
    assert without_times(read_results(tmp_path)) == {
        row: {figure: {0: seeds[0]} for figure, seeds in figures.items()} for row, figures in expected.items()
    }
    assert (done / "measured.json").stat().st_mtime_ns == kept  # not trained again


def test_a_row_that_is_added_finds_what_is_trained(whole: Whole, tmp_path: Path) -> None:
    plan = replace(whole.plan, output=tmp_path / "copy")
    shutil.copytree(whole.plan.output, plan.output)
    measured = plan.output / "runs" / "01-plain" / "seed0" / "measured.json"
    content = json.loads(measured.read_text())
    del content["rows"]["strict"]
    measured.write_text(json.dumps(content))
    weights = {file: file.stat().st_mtime_ns for file in plan.output.rglob("*.safetensors")}
    assert run_study(plan).found == whole.results.found
    assert weights == {file: file.stat().st_mtime_ns for file in plan.output.rglob("*.safetensors")}


def test_a_training_that_fails_is_named(study: Study, tmp_path: Path) -> None:
    with pytest.raises(AweighError, match=r"^plain and 2 more, seed 0: .*no_such_folder"):
        run_study(planned(study, Path("no_such_folder"), tmp_path / "out"))


def test_what_an_assignment_can_reach(written, toys: Path, tmp_path: Path) -> None:
    rows = """
    [equal]
    model = "fcos_resnet50_fpn"
    settings = { short = 80, long = 0 }
    [[rows]]
    name = "near the centre"
    paper = { best_possible_recall = 98.4, ambiguous = 7.1 }
    [[rows]]
    name = "anywhere"
    arguments = { center_radius = "none" }
    """
    study = written('kind = "assignment"\nmetric = "best_possible_recall"\n', rows)
    with charts_not_rendered():
        results = run_study(make_plan(study, str(toys), tmp_path / "out"))
    ranges = ((0.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, float("inf")))
    split = load_split(toys, "train").measurable()
    for row, radius in (("near the centre", 1.5), ("anywhere", None)):
        rule = LevelRanges((8, 16, 32, 64, 128), ranges, center_radius=radius)
        expected = measure_coverage(boxes_at_input(split, Resize(80, None)), rule)
        assert results.found[row]["best_possible_recall"][0] == 100 * expected.best_possible_recall
        assert results.found[row]["ambiguous"][0] == 100 * expected.ambiguous_share
    assert results.missing == []


def test_a_study_of_backbones(written, folders: Path, tmp_path: Path) -> None:
    rows = '[[rows]]\nname = "plain"\npaper = { top1_error = 30.0 }\n[[rows]]\nname = "leaky"\n'
    study = written('kind = "backbone"\n', rows + 'settings = { activation = "leaky_relu" }\n')
    study = replace(study, equal=replace(study.equal, settings={"width": 0.5, "statistics": 1}))
    told: list[float] = []
    with charts_not_rendered():
        plan = make_plan(study, str(folders), tmp_path / "out", seeds=1, epochs=2, batch=2, size=64, workers=0)
        results = run_study(plan, progress=lambda done, what: told.append(done))
    last = json.loads((tmp_path / "out/runs/02-leaky/seed0/log.jsonl").read_text().splitlines()[-1])
    assert results.found["leaky"]["top1_error"] == {0: 100 * (1 - last["top1"])} and results.missing == []
    assert results.found["plain"]["step_ms"][0] > 0 and told == sorted(told) and len(told) == 2 * (4 + 1)


def test_the_commands_run_and_show(whole: Whole, study: Study, toys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run once more there is nothing left to train."""
    words = ["study", "run", str(study.path), str(toys), "-o", str(whole.plan.output), *SMALL, "--seeds", "2"]
    assert run(words) == 0
    out = capsys.readouterr().out
    assert "AP here" in out and "AP paper" in out and "Order: " in out and "iterations 3" in out
    assert run(["study", "show", str(whole.plan.output)]) == 0
    assert capsys.readouterr().out == out
    assert run(["study", "show", str(whole.plan.output), "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]] == [
        "plain",
        "strict",
        "mirrored",
        "quick",
    ]
    assert run([*words, "--settings", "lr=0.5"]) == 2
    assert "Row 'quick' of mine varies lr" in capsys.readouterr().err
