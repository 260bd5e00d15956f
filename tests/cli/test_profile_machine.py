"""`aweigh profile machine`: the peaks, and a network's operators beside the roof, of a machine that is made up."""

import json
from pathlib import Path

import pytest

from aweigh.cli.main import run
from aweigh.profiling import machine
from aweigh.profiling.machine import Machine
from aweigh.speed import Noise


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rates, copies = {"float32": 100.0, "bf16": 200.0}, {2**20: 80.0, 2**28: 10.0}

    def measured(threads: int, *, formats: tuple[machine.Format, ...]) -> Machine:
        return Machine(threads, {form: rates[form] for form in formats}, copies, Noise(waited=0.5, spread=1.0))

    monkeypatch.setattr(machine, "measure_machine", measured)


def test_a_row_for_each_number_of_threads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "machine.json"
    asked = ["--threads", "1", "3", "--precision", "float32", "--json", str(file), "-o", str(tmp_path / "roof.png")]
    assert run(["profile", "machine", *asked]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[2:4]] == [["1", "100", "80", "10"], ["3", "100", "80", "10"]]
    assert "1 thread: The machine was too noisy" in lines[4]
    assert [each["threads"] for each in json.loads(file.read_text())["machines"]] == [1, 3]
    assert (tmp_path / "roof.png").stat().st_size > 10_000


def test_operators_of_a_network_beside_the_roof(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, page = tmp_path / "machine.json", tmp_path / "machine.html"
    shown = ["--size", "32", "--threads", "1", "--most", "2", "--json", str(file), "--html", str(page)]
    assert run(["profile", "machine", "shufflenet_v2_x0_5", *shown]) == 0
    out = capsys.readouterr().out
    rows = json.loads(file.read_text())["operators"]["shufflenet_v2_x0_5"]
    assert f"And {len(rows) - 2} rows more that lose less" in out
    assert sum(len(row["modules"]) for row in rows) > len(rows)  # the units of a stage have equal shapes
    assert [row["lost"] for row in rows] == sorted((row["lost"] for row in rows), reverse=True)
    first = next(row for row in rows if row["modules"] == ["conv1.0"])
    assert first["at_roof"] == pytest.approx(2 * first["multiply_adds"] / 100e9) and first["limit"] == "arithmetic"
    assert "shufflenet_v2_x0_5 under the roof" in page.read_text() and "data:image/png" in page.read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--size 0", "size = 0: expected a number above 0"),
        ("--most 0", "most = 0: expected a number above 0"),
        ("no_such_network", "neither a checkpoint"),
        ("shufflenet_v2_x0_5 shufflenet_v2_x1_0 -o roof.png", "--html draws them all"),
        ("--precision bf16 -o roof.png", "add it to --precision"),
    ],
)
def test_what_cannot_be_measured_is_a_wrong_call(given: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", "machine", *given.split()]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
