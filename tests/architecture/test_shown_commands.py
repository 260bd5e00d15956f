"""Every command that a document shows is one: program, flags, values, recipe, detector and its arguments.

Nothing is run here. A command goes through the parser of its program; the configuration of a training run is resolved,
and its detector built without memory. `tests/end_to_end/test_shown.py` runs what takes no time.
"""

import argparse
import importlib.util
import runpy
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from cyclopts import CycloptsError, MissingArgumentError
from tests.architecture.shown import COMMANDS, TOP, Shown

from aweigh.backbones.classifier import NETWORKS
from aweigh.cli import study, train, train_backbone
from aweigh.cli.help import HELP_FLAGS
from aweigh.cli.main import app
from aweigh.errors import UsageError
from aweigh.models import DETECTORS, PUBLISHED, create
from aweigh.studies.study import find_study
from aweigh.training.backbone.classify import chosen_network
from aweigh.training.backbone.config import ClassifyConfig, resolve
from aweigh.training.config import configuration
from aweigh.training.prepare import builder_arguments
from aweigh.training.recipes import find_recipe
from aweigh.training.settings import load_recipe
from aweigh.weights.imagenet import imagenet_record

TOOLS = {("pre-commit", "install")}  # of others, without paths of ours


@pytest.mark.parametrize("shown", COMMANDS, ids=str)
def test_a_command_is_one(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    monkeypatch.syspath_prepend(TOP / "benchmarks")
    check(shown.words, whole=not shown.inline)


def check(words: list[str], *, whole: bool = True) -> None:
    """Whether a command is one. whole: with all that it needs; in a sentence its file may be left out."""
    program, *rest = words
    if program == "aweigh":
        if rest:
            check_ours(rest, whole=whole)
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser

        given = get_args_parser().parse_args(rest)
        assert given.module and given.training_script == "aweigh"
        check_ours(given.training_script_args, whole=whole)
    elif program == "python":
        check_python(rest)
    elif program == "pytest":
        paths = [word for word in rest if "/" in word]
        assert all((TOP / path).exists() for path in paths), paths
    elif program in (".ci/run", ".ci/wheel"):
        assert (TOP / program).is_file()
    else:
        assert tuple(words) in TOOLS, words


def check_python(words: list[str]) -> None:
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1]) is not None, words[1]
        return

    class Parsed(Exception):
        pass

    original = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        try:
            original(self, *args, **kwargs)
        except SystemExit as error:
            raise UsageError(f"{words}: the script does not take these words") from error
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        patch.setattr(sys, "argv", words)
        with pytest.raises(Parsed):
            runpy.run_path(str(TOP / words[0]), run_name="__main__")


def check_ours(words: list[str], *, whole: bool) -> None:
    if "--help" in words:
        words = [word for word in words if word != "--help"]
        whole = False
    try:
        command, bound, *_ = app.parse_args(words, exit_on_error=False, print_error=False)
    except MissingArgumentError:
        if whole:
            raise
        return
    given = bound.arguments
    if command in (train.command, train.show):
        check_run(given.get("data"), given.get("recipe", ""), given.get("flags", train.NO_FLAGS))
    elif command in (study.run_, study.cost):
        check_study(given["study"], given.get("model", ""), given.get("rows", ()))
    elif "model" in given and isinstance(given["model"], str):
        check_detector(given["model"], getattr(given.get("weights"), "weights", ""))
    if command is train_backbone.command:
        check_backbone_run(given)


def check_backbone_run(given: dict[str, Any]) -> None:
    """The configuration is resolved, and its network built."""
    recipe, flags = given.get("recipe"), asdict(given.get("flags", train_backbone.NO_FLAGS))
    values = load_recipe(ClassifyConfig, find_recipe(recipe)) if recipe else None
    with torch.device("meta"):
        chosen_network(resolve(values, {"data": given.get("data"), **flags}))


def check_run(data: str | None, recipe: str, flags: Any) -> None:
    """The configuration is resolved, the detector is built; a file of weights need not be there."""
    if recipe == "NAME":
        recipe = ""
    config, _ = configuration(recipe, {"data": data, **asdict(flags)})
    backbone = build(config.model, **builder_arguments(config)).backbone
    if config.backbone_weights == "imagenet":
        assert imagenet_record(backbone.name).sha256
    for weights in (config.init, config.backbone_weights):
        assert weights in ("", "none", "imagenet", "FILE") or Path(weights).suffix in (".safetensors", ".pth"), weights


def check_study(name: str, model: str, rows: tuple[str, ...]) -> None:
    """One that comes with the package, or a file of one's own."""
    assert not model or model in DETECTORS, model
    if Path(name).suffix != ".toml":
        find_study(name).chosen(rows)


def check_detector(model: str, weights: str) -> None:
    """A checkpoint, a graph, a run, or a detector with weights of that name or file."""
    file = Path(model).suffix in (".safetensors", ".onnx", ".xml") or Path(model).parent == Path("runs")
    if model in ("NAME", "FILE", "DETECTOR", "CHECKPOINT", "none", "box") or file:
        assert not weights
        return
    assert model in DETECTORS or (model in NETWORKS and not weights), model
    published = PUBLISHED.get(model, {})
    assert not weights or weights in {*published, *(record.file for record in published.values())}, weights


BUILT: dict[str, Any] = {}  # by name and arguments, for all commands that say the same


def build(name: str, **arguments: Any) -> Any:
    key = f"{name} {sorted(arguments.items())}"
    if key not in BUILT:
        with torch.device("meta"):
            BUILT[key] = create(name, **arguments)
    return BUILT[key]


def test_enough_commands_are_found() -> None:
    programs = {shown.words[0] for shown in COMMANDS}
    assert len(COMMANDS) > 150 and {"aweigh", "torchrun", "python", "pytest", ".ci/run"} <= programs
    assert len({tuple(shown.words[1:3]) for shown in COMMANDS if shown.words[0] == "aweigh"}) > 50


def test_every_command_that_aweigh_has_is_shown() -> None:
    shown = {shown.words[1] for shown in COMMANDS if shown.words[0] == "aweigh" and len(shown.words) > 1}
    assert shown >= set(app) - {"--version", *HELP_FLAGS}


@pytest.mark.parametrize(
    "wrong",
    [
        "aweigh trian DATA",
        "aweigh train DATA --epoch 3",
        "aweigh train DATA --epochs many",
        "aweigh train DATA --recipe evryday",
        "aweigh train DATA --model fcos_resnet51_fpn",
        "aweigh train DATA --arguments chanels=64",
        "aweigh train DATA --arguments neck_norm=nothing",
        "aweigh train DATA --model fcos_resnet50_fpn --arguments centerness=perhaps",
        "aweigh eval RUN/best.safetensors",
        "aweigh predict photo.jpg --model fcos_resnet50_fpn --weights nobody",
        "aweigh profile cost",
        "aweigh study run fcos/44 DATA",
        "aweigh study cost fcos/4 --rows nobody",
        "torchrun --nproc-by-node 2 -m aweigh train DATA",
        "torchrun --nproc-per-node 2 -m aweigh train DATA --epoch 3",
        "python benchmarks/nothing.py",
        "python benchmarks/tta.py box DATA --splt val",
        "python -m aweigh.cli.nothing",
        "pytest tests/nothing",
        "rm DATA",
    ],
)
def test_what_is_no_command_is_found(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    monkeypatch.syspath_prepend(TOP / "benchmarks")
    with pytest.raises((UsageError, CycloptsError, AssertionError, SystemExit, OSError)):
        check(Shown(TOP / "README.md", 1, wrong).words)
