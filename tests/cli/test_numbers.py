"""Every number of every command: what no setting can be is one line and exit code 2, whatever else was typed."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from aweigh.cli.main import run
from aweigh.errors import UsageError, check_reach
from aweigh.training.backbone.config import ClassifyConfig
from aweigh.training.config import TrainConfig
from aweigh.training.settings import field_types

HUGE = 10**20


def numeric(types: dict[str, Any]) -> list[tuple[str, bool, bool]]:
    """Name of each setting with numbers, whether there are several, whether they are whole."""
    found = []
    for name, kind in types.items():
        several = get_origin(kind) is tuple
        kinds = {kind, *get_args(kind)}
        if int in kinds or float in kinds:
            found.append((name, several, int in kinds))
    return found


@pytest.mark.parametrize(("name", "several", "whole"), numeric(field_types(TrainConfig)))
def test_no_setting_of_a_run_takes_what_no_number_can_be(name: str, several: bool, whole: bool) -> None:
    for value in (HUGE, -HUGE) if whole else (math.nan, math.inf, -math.inf, 1e300, float(HUGE)):
        with pytest.raises(UsageError, match=name):
            TrainConfig(**{name: (value, value) if several else value})  # type: ignore[arg-type]


@pytest.mark.parametrize("entry", [entry for entry in fields(ClassifyConfig) if not isinstance(entry.default, str)])
def test_no_setting_of_a_body_does_either(entry: Any) -> None:
    for value in (HUGE, -HUGE) if isinstance(entry.default, int) else (math.nan, math.inf, 1e300):
        with pytest.raises(UsageError, match=entry.name):
            ClassifyConfig(**{entry.name: value})


@pytest.mark.parametrize(
    "words",
    [
        "train DATA --processes 0",
        "train DATA --processes -1",
        "train DATA --processes 2000000000",
        f"train DATA --batch {HUGE}",
        f"train DATA --iterations {HUGE}",
        f"train DATA --seed {HUGE}",
        "train DATA --seed -1",
        "train DATA --steps nan",
        f"resume RUN --batch {HUGE}",
        "resume RUN --processes -3",
        f"eval MODEL DATA --batch {HUGE}",
        "eval MODEL DATA --batch -1",
        "eval MODEL DATA --workers -1",
        "eval MODEL DATA --workers 2000000000",
        f"proposals MODEL DATA --number {HUGE}",
        "proposals MODEL DATA --number 0",
        "proposals MODEL DATA --batch -1",
        f"data synth OUT --train {HUGE}",
        "data synth OUT --train -1",
        "data synth OUT --size 2000000000",
        "data synth OUT --seed -1",
        "data synth OUT --kind road --size 2000000000",
        "data synth OUT --kind road --seed -1",
        f"demo OUT --pictures {HUGE}",
        "demo OUT --size 2000000000",
        "demo OUT --seed -1",
        "profile cost fcos_shufflenet_v2_x1_0_lite --size 0",
        "profile cost fcos_shufflenet_v2_x1_0_lite --size 2000000000",
        f"predict PICTURE --batch {HUGE}",
        "predict PICTURE --score inf",
        "train-backbone DATA --width nan",
        "train-backbone DATA --lr inf",
        f"train-backbone DATA --epochs {HUGE}",
    ],
)
def test_commands(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = [str(tmp_path / "OUT") if word == "OUT" else word for word in words.split()]
    assert run(typed) == 2
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith("error: ") and len(err.splitlines()[-1]) < 300 and out == ""
    assert not (tmp_path / "OUT" / "annotations").exists()


def test_reach() -> None:
    for value in (1, 4096):
        check_reach("batch", value)
    check_reach("lr", 0.5)
    check_reach("steps", (1, 2.5))
    check_reach("model", "a text")
    check_reach("draw", True)
    for name, value in (("batch", 0), ("batch", 4097), ("lr", math.nan), ("steps", (1, -1)), ("workers", -2)):
        with pytest.raises(UsageError, match=f"{name} = "):
            check_reach(name, value)
