"""The rows of a study as what trains and counts them takes: a configuration of `aweigh train`, a network."""

import json
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from aweigh.arguments import change_settings
from aweigh.backbones.classifier import classifier
from aweigh.classes import Classes
from aweigh.errors import UsageError
from aweigh.models import create
from aweigh.studies.study import Row, Study
from aweigh.training import config as of_detector
from aweigh.training.backbone import config as of_backbone
from aweigh.training.backbone.classify import chosen_network
from aweigh.training.backbone.config import ClassifyConfig
from aweigh.training.config import TrainConfig
from aweigh.training.prepare import builder_arguments
from aweigh.training.recipes import find_recipe, from_this_start
from aweigh.training.settings import load_recipe


def config_of(study: Study, row: Row, changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """What a row is trained with: its recipe, its settings over it, and `changes`, those of a run, over both."""
    part = study.whole(row)
    recipe = load_recipe(TrainConfig, find_recipe(study.recipe)) if study.recipe else {}
    arguments = dict(entry.split("=", 1) for entry in recipe.get("arguments", ()))
    arguments |= {name: as_text(value) for name, value in part.arguments.items()}
    given = _settings(part.settings, changes or {})
    given["arguments"] = tuple(f"{name}={text}" for name, text in arguments.items())
    if part.model:
        given["model"] = part.model
    recipe = from_this_start(recipe, {"init": "none", **recipe, **given})
    return of_detector.resolve(recipe, given, recipe_name=f"study {study.name}")[0]


def backbone_config_of(study: Study, row: Row, changes: Mapping[str, Any] | None = None) -> ClassifyConfig:
    """The same of a study of backbones."""
    recipe = load_recipe(ClassifyConfig, find_recipe(study.recipe)) if study.recipe else None
    given = _settings(study.whole(row).settings, changes or {})
    return of_backbone.resolve(recipe, given, recipe_name=f"study {study.name}")


def build(study: Study, row: Row, classes: Classes | None = None) -> nn.Module:
    """The network of a row on the meta device, its thresholds set; `UsageError` names the row that cannot be built."""
    try:
        with torch.device("meta"):
            if study.kind == "backbone":
                config = backbone_config_of(study, row)
                body = chosen_network(config)
                return classifier(body, len(classes)) if classes else classifier(body)
            settings = config_of(study, row)
            model = create(settings.model, classes=classes, **builder_arguments(settings))
        change_settings(model, study.whole(row).selection)
    except UsageError as error:
        raise UsageError(f"{study.path}, row {row.name!r}: {error}") from error
    return cast(nn.Module, model)


def _settings(own: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a run over those of the study, of which none is kept that belongs to another length."""
    if changes.keys() & {"iterations", "epochs"}:
        own = {name: value for name, value in own.items() if name not in ("iterations", "epochs", "schedule_steps")}
    return {**own, **changes}


def as_text(value: Any) -> str:
    """A value of TOML as --arguments has it."""
    return value if isinstance(value, str) else json.dumps(value)
