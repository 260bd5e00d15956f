"""Every call of `create` that a document shows builds a detector, and every setting that it shows is one.

The detectors are built without memory. Weights of others are not read: their name has to be that of a published file,
whose form is built. A name in a call stands for what a block of Python on the same page gives it.
"""

import ast
import inspect
import sys
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

import pytest
from tests.architecture.shown import CALLS, SETTINGS, Shown, build, built, given

from aweigh.arguments import check_arguments, check_value, parameters
from aweigh.backbones.shufflenet_v2 import ShuffleNetV2
from aweigh.errors import UsageError
from aweigh.evaluation.coco import evaluate_coco
from aweigh.models import DETECTORS, PUBLISHED
from aweigh.runtime.tta import TTA
from aweigh.training.config import TrainConfig, resolve

FUNCTIONS = (evaluate_coco,)
MODULES = [module for name, module in sys.modules.items() if name.startswith(("aweigh.models.", "aweigh.heads."))]


@pytest.mark.parametrize("shown", CALLS, ids=str)
def test_a_call_builds_a_detector(shown: Shown) -> None:
    name, arguments = given(shown)
    if not name:
        assert any(arguments["weights"] in published for published in PUBLISHED.values())
        return
    model = built(shown)
    assert model.builder in DETECTORS and len(model.classes)


def test_enough_calls_are_found() -> None:
    assert len(CALLS) > 60 and len(SETTINGS) > 25


@pytest.mark.parametrize(
    "wrong",
    [
        'create("fcos_resnet51_fpn")',
        'create("fcos_resnet50_fpn", chanels=64)',
        'create("fcos_resnet50_fpn", centerness="computed")',
        'create("fcos_resnet50_fpn", box_loss="smooth_l1")',
        'create("fcos_resnet50_fpn", weights="nobody")',
        'create("fcos_resnet50_fpn", **NOTHING)',
    ],
)
def test_what_builds_none_is_found(wrong: str) -> None:
    with pytest.raises((UsageError, KeyError, AssertionError)):
        build(*given(Shown(CALLS[0].file, 1, wrong)))


@pytest.mark.parametrize("shown", SETTINGS, ids=str)
def test_a_setting_is_one(shown: Shown) -> None:
    check_setting(shown.text)


def check_setting(text: str) -> None:
    """`name=value`, or with several values: of a run, of a builder, of a body, or of what looks at images."""
    name, _, values = (part.strip() for part in text.partition("="))
    takes = takers(name)
    assert takes, f"nothing has a setting {name}"
    for value in values.split(" | "):
        fitting = [taker for taker in takes if fits(taker, {name: read(value)})]
        assert fitting, f"{name} is no {value}"


def read(value: str) -> Any:
    """A value as Python or TOML has it."""
    return {"true": True, "false": False}.get(value) if value in ("true", "false") else ast.literal_eval(value)


@cache
def takers(name: str) -> list[Any]:
    """What has a setting of this name: builders, bodies, and the classes of settings."""
    builders = [*DETECTORS.values(), ShuffleNetV2]
    selections = [kind for module in MODULES for kind in vars(module).values() if is_selection(kind)]
    classes = [kind for kind in (TrainConfig, TTA, *selections) if name in {entry.name for entry in fields(kind)}]
    functions = [function for function in FUNCTIONS if name in inspect.signature(function).parameters]
    return [*classes, *functions, *(builder for builder in builders if name in parameters(builder))]


def is_selection(kind: Any) -> bool:
    return isinstance(kind, type) and is_dataclass(kind) and kind.__name__.endswith("Selection")


def fits(taker: Any, setting: dict[str, Any]) -> bool:
    try:
        if taker is TrainConfig:
            resolve(setting, {})
        elif taker in FUNCTIONS:
            for name, value in setting.items():
                check_value(name, value, get_type_hints(taker)[name])
        elif isinstance(taker, type) and is_dataclass(taker):
            taker(**setting)  # which checks its fields
        else:
            check_arguments(taker, setting, plain=True)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize(
    "wrong",
    ['aligned="perhaps"', "chanels=64", 'batch = "many"', 'merge="all"', 'neck="bifpn" | "fpm"', 'nms = "firm"'],
)
def test_what_is_no_setting_is_found(wrong: str) -> None:
    with pytest.raises((AssertionError, UsageError)):
        check_setting(wrong)
