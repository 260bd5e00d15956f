"""What a run of a study is planned to do, before anything is trained."""

from dataclasses import replace
from pathlib import Path

import pytest

from aweigh.errors import UsageError
from aweigh.studies.plan import ONCE, changed_equally, make_plan
from aweigh.studies.study import find_study

THREE = """
[equal]
model = "fcos_shufflenet_v2_x0_5_fpn"
settings = { iterations = 90000, steps = [60000, 80000], schedule = "step" }

[[rows]]
name = "one"
[[rows]]
name = "one, suppression at 0.5"
selection = { nms_threshold = 0.5 }
[[rows]]
name = "two"
settings = { lr = 0.5 }
"""
DETECTOR = 'kind = "detector"\n'


def test_settings_of_the_run_go_over_those_of_the_study(written, tmp_path: Path) -> None:
    plan = make_plan(written(DETECTOR, THREE), "toys", tmp_path, steps=600, size=320, batch=8, settings={"flip": 0.0})
    one, _, two = plan.rows
    config = plan.config(one, seed=2, output="run")
    assert (config.iterations, config.batch, config.short, config.long, config.flip) == (600, 8, 0, 320, 0.0)
    assert (config.seed, config.output, config.data, config.eval_every) == (2, "run", "toys", ONCE)
    assert config.steps == (pytest.approx(2 / 3), pytest.approx(8 / 9))  # where the paper's rate falls
    assert plan.config(two) == replace(plan.config(one), lr=0.5)  # but for what is varied all is equal
    by_epochs = make_plan(written(DETECTOR, THREE), "toys", tmp_path, epochs=3).config(one)
    assert (by_epochs.iterations, by_epochs.epochs) == (0, 3) and by_epochs.steps == config.steps
    as_in_the_paper = make_plan(written(DETECTOR, THREE), "toys", tmp_path).config(one)
    assert (as_in_the_paper.iterations, as_in_the_paper.steps) == (90_000, (60_000, 80_000))


def test_rows_that_train_the_same_share_a_training(written, tmp_path: Path) -> None:
    study = written(DETECTOR, THREE)
    trainings = make_plan(study, "toys", tmp_path, steps=2, seeds=2).trainings()
    assert [(str(t.folder.relative_to(tmp_path)), [row.name for row in t.rows]) for t in trainings] == [
        ("runs/01-one/seed0", ["one", "one, suppression at 0.5"]),
        ("runs/03-two/seed0", ["two"]),
        ("runs/01-one/seed1", ["one", "one, suppression at 0.5"]),
        ("runs/03-two/seed1", ["two"]),
    ]
    assert str(trainings[0]) == "one and 1 more, seed 0"
    (alone,) = make_plan(study, "toys", tmp_path, steps=2, seeds=1, rows=["one, suppression at 0.5"]).trainings()
    assert alone.folder == trainings[0].folder  # rows that are added later find what is trained


def test_random_weights_have_no_statistics_to_keep(tmp_path: Path) -> None:
    study = find_study("fcos/4")
    kept = make_plan(study, "toys", tmp_path, steps=2).config(study.rows[0])
    random = make_plan(study, "toys", tmp_path, steps=2, settings={"backbone_weights": "none"}).config(study.rows[0])
    assert (kept.backbone_norm, kept.frozen_stages, kept.backbone_weights) == ("frozen_bn", 2, "imagenet")
    assert (random.backbone_norm, random.frozen_stages) == ("", -1)


def test_another_model_for_all_rows(written, tmp_path: Path) -> None:
    study = changed_equally(written(), model="fcos_shufflenet_v2_x1_0_fpn", arguments={"head_convs": "2"})
    config = make_plan(study, "toys", tmp_path, steps=2).config(study.rows[0])
    assert config.model == "fcos_shufflenet_v2_x1_0_fpn" and config.arguments == ("head_convs=2", "channels=16")
    with pytest.raises(UsageError, match="Row 'narrow' of mine changes arguments that is given for all"):
        changed_equally(written(), arguments={"channels": "64"})
    with pytest.raises(UsageError, match="There is no model 'fcos'"):
        changed_equally(written(), model="fcos")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 2, "epochs": 2}, "steps = 2 and epochs = 2 are both given"),
        ({"settings": {"lr": 0.1}}, "Row 'two' of mine varies lr; leave it out"),
        ({"settings": {"seed": 3}}, "seed is no setting of all rows"),
        ({"settings": {"lrr": 3}}, "Unknown setting 'lrr'"),
        ({"seeds": 0}, "seeds = 0: expected a number above 0"),
        ({"rows": ["three"]}, "unknown row 'three'"),
    ],
)
def test_mistakes(given: dict, said: str, written, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        make_plan(written(DETECTOR, THREE), "toys", tmp_path, **given)


def test_rows_that_vary_the_length_keep_their_proportion(written, tmp_path: Path) -> None:
    rows = THREE.replace("iterations = 90000", "epochs = 140").replace("60000, 80000", "90, 120")
    study = written(DETECTOR, rows.replace("lr = 0.5", "epochs = 280"))
    for given, name in (({"epochs": 10}, "epochs"), ({"steps": 10}, "iterations")):
        plan = make_plan(study, "toys", tmp_path, **given)
        assert [getattr(plan.config(row), name) for row in plan.rows] == [5, 5, 10]
        assert len(plan.trainings()) == 3 * 2
    as_in_the_paper = make_plan(study, "toys", tmp_path)
    assert [as_in_the_paper.config(row).epochs for row in as_in_the_paper.rows] == [140, 140, 280]


def test_equal_steps_of_unequal_batches_are_refused(written, tmp_path: Path) -> None:
    study = written(DETECTOR, THREE.replace("lr = 0.5", "batch = 4"))
    with pytest.raises(UsageError, match="differ in batch"):
        make_plan(study, "toys", tmp_path, steps=2)
    assert make_plan(study, "toys", tmp_path, epochs=2).config(study.rows[2]).batch == 4


def test_proposals_go_to_the_rows_that_are_told_them(written, tmp_path: Path) -> None:
    rows = [f'[[rows]]\nname = "{name}"\nmodel = "{name}_rcnn_resnet50_fpn"\n' for name in ("fast", "faster")]
    study = written(DETECTOR, "".join(rows))
    with pytest.raises(UsageError, match="Row 'fast' of mine proposes no regions itself: give --proposals-file"):
        make_plan(study, "toys", tmp_path, steps=2)
    plan = make_plan(study, "toys", tmp_path, steps=2, proposals=("train.safetensors", ""))
    assert [plan.config(row).proposals_file for row in plan.rows] == ["train.safetensors", ""]


def test_a_folder_keeps_the_plan_it_was_begun_with(written, tmp_path: Path) -> None:
    study, output = written(DETECTOR, THREE), tmp_path / "out"
    output.mkdir()
    make_plan(study, "toys", output, steps=2).claim()
    make_plan(study, "toys", output, steps=2, seeds=5, rows=["one"]).claim()  # rows and seeds may be added
    with pytest.raises(UsageError, match=r"begun with settings = .*'iterations': 2.*asked is .*'iterations': 3"):
        make_plan(study, "toys", output, steps=3).claim()
    with pytest.raises(UsageError, match=r"mine.toml has changed since"):
        make_plan(written(DETECTOR, THREE.replace("0.5 }", "0.6 }")), "toys", output, steps=2).claim()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(UsageError, match="holds something else"):
        make_plan(study, "toys", tmp_path / "full", steps=2).claim()
