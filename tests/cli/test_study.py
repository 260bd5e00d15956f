"""`aweigh study list` and `aweigh study cost`."""

import json

import pytest

from aweigh.cli.main import run
from aweigh.studies.study import packaged_studies


def test_list_names_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(packaged_studies())
    assert run(["study", "list", "--json"]) == 0
    four = next(study for study in json.loads(capsys.readouterr().out) if study["name"] == "fcos/4")
    assert four["needs"] == "trains a detector for each row"
    assert four["rows"][0]["arguments"] == {"centerness": False} and four["rows"][0]["paper"]["AP"] == 33.5


def test_cost_has_the_paper_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "cost", "fcos/4", "--rows", "none", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["row"] == "none" and row["paper"]["AP"] == 33.5 and row["here"]["parameters"] == 32_295_065
    assert run(["study", "cost", "fcos/4"]) == 0
    out = capsys.readouterr().out
    assert "table 4" in out and "32.3 M" in out and "1344 x 800" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cost", "fcos/5x"], "no study 'fcos/5x'"),
        (["cost", "fcos/4", "--rows", "nont"], "unknown row 'nont'; known: none"),
    ],
)
def test_mistakes(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1
