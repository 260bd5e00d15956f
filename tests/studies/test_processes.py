"""Trainings in processes of their own, which end with the one that began them."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from tests.runs import charts_not_rendered, outcome

from aweigh.studies.plan import make_plan
from aweigh.studies.results import read_results
from aweigh.studies.run import run_study

pytestmark = pytest.mark.thorough
SMALL = {"steps": 3, "seeds": 2, "size": 96, "batch": 4, "device": "cpu", "workers": 0}


def metrics(folder: Path) -> dict[str, Any]:
    found = read_results(folder).found
    return {row: {name: own[name] for name in ("AP", "AR100", "parameters")} for row, own in found.items()}


def test_side_by_side_they_come_to_the_same(written, toys: Path, tmp_path: Path) -> None:
    study, told = written(), []
    with charts_not_rendered():
        run_study(make_plan(study, str(toys), tmp_path / "alone", **SMALL))
        beside = make_plan(study, str(toys), tmp_path / "beside", **SMALL)
        run_study(beside, processes=2, progress=lambda done, what: told.append(done))
    assert metrics(tmp_path / "beside") == metrics(tmp_path / "alone")
    assert told == sorted(told) and told[-1] == 4.0


def test_they_end_with_the_process_that_began_them(written, toys: Path, tmp_path: Path, start: Any) -> None:
    words = ["study", "run", written().path, toys, "-o", tmp_path / "out", "--size", "96", "--device", "cpu"]
    words += ["--steps", "100000", "--processes", "2", "--workers", "0"]
    logs = [tmp_path / "out" / "runs" / row / "seed0" / "log.jsonl" for row in ("01-narrow", "02-wide")]
    process = start(*words)
    until = time.monotonic() + 120
    while not all(log.exists() and log.stat().st_size for log in logs) and time.monotonic() < until:
        time.sleep(0.1)
    process.kill()
    _, said = outcome([process])
    holders = [int((log.parent / "lock").read_text().split()[1]) for log in logs]
    until = time.monotonic() + 60
    while any(map(running, holders)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(running, holders)), said


def running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
