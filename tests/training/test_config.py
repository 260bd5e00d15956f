"""Configuration: defaults < recipe < command line, and every mistake named in one line."""

import subprocess
import sys
from dataclasses import fields, replace
from typing import get_type_hints

import pytest

from aweigh.errors import UsageError
from aweigh.training.backbone.config import ClassifyConfig
from aweigh.training.config import TrainConfig, resolve
from aweigh.training.recipes import MEASURED, other_recipes, packaged_recipes
from aweigh.training.settings import help_texts, load_recipe, load_run, to_dict, to_toml


def recipe(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_command_line_beats_recipe_beats_default(tmp_path):
    values = load_recipe(
        TrainConfig, recipe(tmp_path, 'model = "fcos_resnet50_fpn"\nlr = 0.02\nbatch = 4\nsteps = [0.5, 1]\n')
    )
    config, origin = resolve(values, {"batch": 2, "epochs": None}, recipe_name="recipe.toml")
    assert (config.lr, config.batch, config.epochs, config.steps) == (0.02, 2, 30, (0.5, 1.0))
    assert [origin[name] for name in ("lr", "batch", "epochs")] == ["recipe.toml", "command line", "default"]
    assert set(origin) == {entry.name for entry in fields(TrainConfig)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bacth = 4", ["bacth", "recipe.toml", "Did you mean 'batch'?"]),
        ("batch = 'four'", ["batch = 'four'", "expected a whole number"]),
        ("batch = 4.5", ["batch = 4.5", "expected a whole number"]),
        ("batch = true", ["batch = True", "expected a whole number"]),
        ("lr = '0.1'", ["lr = '0.1'", "expected a number"]),
        ("channels_last = 1", ["channels_last = 1", "expected true or false"]),
        ("optimizer = 'adamv'", ["'adamv'", "'sgd', 'adamw'", "Did you mean 'adamw'?"]),
        ("classes = 'person'", ["classes = 'person'", "expected a list of texts"]),
        ("multi_scale = [640, 800.5]", ["expected a list of whole numbers"]),
        ("lr = ", ["not valid TOML"]),
        ("[train]\nlr = 1.0", ["Unknown setting 'train'"]),
    ],
)
def test_mistakes_in_a_recipe_are_named(tmp_path, text, words):
    with pytest.raises(UsageError) as caught:
        load_recipe(TrainConfig, recipe(tmp_path, text))
    assert all(word in str(caught.value) for word in words), caught.value
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"batch": 0}, "batch = 0: expected a number above 0"),
        ({"lr": float("nan")}, "lr = nan"),
        ({"clip": -1.0}, "clip = -1.0: expected a number 0 or more"),
        ({"flip": 1.5}, "flip = 1.5: expected a number from 0 to 1"),
        ({"short": 0, "long": 0}, "short = 0 and long = 0"),
        ({"scale_jitter": (1.2, 0.8)}, "scale_jitter"),
        ({"affine_crop": (0.6, 0.0)}, "affine_crop = [0.6, 0.0]: expected shares above 0"),
        ({"object_crop": -1}, "object_crop = -1: expected a number 0 or more"),
        ({"shuffled_color": 1.5}, "shuffled_color = 1.5: expected a number from 0 to 1"),
        ({"lighting": -0.1}, "lighting = -0.1: expected a number 0 or more"),
        ({"select": "map"}, "Did you mean 'AP'?"),
        ({"select": "AP:"}, "select = 'AP:'"),
        ({"select": "APs:person"}, "select = 'APs:person'"),
        ({"learning_rate": 1.0}, "from the command line"),
    ],
)
def test_impossible_values_are_refused(values, word):
    with pytest.raises(UsageError) as caught:
        resolve({}, values)
    assert word in str(caught.value)


def test_a_missing_recipe_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe(TrainConfig, tmp_path / "none.toml")


def test_the_written_configuration_gives_itself_again(tmp_path):
    config = replace(
        TrainConfig(),
        data='a "quoted" \\ folder\twith ümlaut\x7f',
        classes=("one", "two"),
        lr=1e-5,
        steps=(),
        multi_scale=(640, 800),
        channels_last=False,
        select="AP:a class",
    )
    path = recipe(tmp_path, to_toml(config, {"lr": "command line"}))
    assert resolve(load_recipe(TrainConfig, path))[0] == config
    assert resolve(load_recipe(TrainConfig, recipe(tmp_path, to_toml(config))))[0] == config
    assert "# command line" in to_toml(config, {"lr": "command line"})


def test_resume_takes_the_configuration_of_the_run(tmp_path):
    (tmp_path / "config.toml").write_text(to_toml(replace(TrainConfig(), lr=0.5, data="cells")), encoding="utf-8")
    config, origin = resolve(None, {"resume": str(tmp_path), "epochs": 60})
    assert (config.lr, config.data, config.epochs) == (0.5, "cells", 60)
    assert origin["lr"].endswith("config.toml")


def test_a_missing_run_is_not_called_a_recipe(tmp_path):
    with pytest.raises(UsageError, match="nothing is no run folder"):
        resolve(None, {"resume": str(tmp_path / "nothing")})


@pytest.mark.parametrize("settings", [TrainConfig, ClassifyConfig])
def test_every_field_has_a_help_text_and_is_plain_data(settings):
    names = {entry.name for entry in fields(settings)}
    assert set(help_texts(settings)) == names == set(to_dict(settings()))
    assert all(len(text) < 130 for text in help_texts(settings).values())


@pytest.mark.parametrize("settings", [TrainConfig, ClassifyConfig])
def test_every_number_has_a_range(settings):
    """But those that may be below 0."""
    ranges = get_type_hints(settings, include_extras=True)
    assert {name for name, kind in ranges.items() if kind in (int, float)} <= {"frozen_stages", "workers", "seed"}


def test_importing_the_configuration_imports_no_torch():
    code = "import sys, aweigh.training.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


LITE = {"data": "cells", "model": "fcos_shufflenet_v2_x1_0_lite"}


def test_a_bare_run_has_the_settings_that_were_measured():
    """Without a recipe the default detector trains by the one whose numbers the documents show; each value says so."""
    bare, origin = resolve({}, {"data": "cells"})
    measured, _ = resolve(load_recipe(TrainConfig, packaged_recipes()["lite"]), {"data": "cells"})
    assert bare == measured and bare == resolve({}, LITE)[0]
    assert (bare.optimizer, bare.lr, bare.backbone_norm, bare.ema) == ("adamw", 0.001, "frozen_bn", 0.99)
    assert origin["lr"] == "recipe lite of the model" and origin["momentum"] == "default"
    assert origin["model"] == "default" and resolve({}, LITE)[1]["model"] == "command line"


def test_flags_and_recipes_go_before_the_settings_of_the_detector():
    config, origin = resolve({"lr": 0.5, "batch": 2}, {**LITE, "batch": 3}, recipe_name="recipe mine")
    assert (config.lr, config.batch, config.optimizer) == (0.5, 3, "adamw")
    expected = ["recipe mine", "command line", "recipe lite of the model"]
    assert [origin[name] for name in ("lr", "batch", "optimizer")] == expected


def test_only_a_detector_that_was_measured_has_settings_of_its_own():
    config, origin = resolve({}, {"data": "cells", "model": "fcos_resnet50_fpn"})
    assert config == replace(TrainConfig(), data="cells", model="fcos_resnet50_fpn")
    assert "coco_fcos_resnet50_1x" in other_recipes("fcos_resnet50_fpn", origin)
    assert other_recipes("fcos_resnet50_fpn", {**origin, "lr": "recipe mine"}) == ""
    assert other_recipes("no_such", origin) == other_recipes(LITE["model"], resolve({}, LITE)[1]) == ""
    for name, recipe in MEASURED.items():
        assert load_recipe(TrainConfig, packaged_recipes()[recipe])["model"] == name


def test_random_weights_keep_no_statistics():
    assert resolve({}, {**LITE, "init": "none"})[0].backbone_norm == ""
    assert resolve({}, {**LITE, "init": "none", "backbone_weights": "body.safetensors"})[0].backbone_norm == "frozen_bn"
    assert resolve({}, {**LITE, "init": "none", "backbone_norm": "frozen_bn"})[0].backbone_norm == "frozen_bn"


@pytest.mark.parametrize(
    ("recipe", "given", "words"),
    [
        ({"iterations": 90}, {"epochs": 5}, "--iterations 0 --epochs 5"),
        ({}, {"epochs": 5, "iterations": 10}, "epochs = 5 and iterations = 10 are both given"),
    ],
)
def test_a_length_that_would_change_nothing_is_refused(recipe, given, words):
    with pytest.raises(UsageError) as caught:
        resolve(recipe, {**LITE, **given})
    assert words in str(caught.value)
    assert resolve({"iterations": 90}, {**LITE, "iterations": 0, "epochs": 5})[0].epochs == 5


@pytest.mark.parametrize(
    ("run", "given", "words"),
    [
        ({"iterations": 90}, {"epochs": 60}, "counts in optimiser steps (iterations = 90). Give --iterations N"),
        ({"epochs": 30}, {"iterations": 500}, "counts in epochs (epochs = 30). Give --epochs N"),
    ],
)
def test_a_run_goes_on_in_the_unit_it_was_started_with(tmp_path, run, given, words):
    (tmp_path / "config.toml").write_text(to_toml(replace(TrainConfig(), data="cells", **run)), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        resolve(None, {"resume": str(tmp_path), **given})
    assert words in str(caught.value)


@pytest.mark.parametrize(("former", "now"), [("fp32", "float32"), ("fp16", "float16"), ("bf16", "bf16")])
def test_former_words_of_a_precision_are_read(tmp_path, former, now):
    (tmp_path / "config.toml").write_text(f'precision = "{former}"\n')
    assert load_run(TrainConfig, tmp_path) == {"precision": now}
