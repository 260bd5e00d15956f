"""What a run has found, written and read again; the numbers of the paper stay apart."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aweigh.errors import DataError, UsageError
from aweigh.studies.results import Results, read_results
from aweigh.visualise.charts import rows_beside_the_paper


@pytest.fixture
def results(written) -> Results:
    study = written()
    made = Results(study.to_dict(), {"data": "toys", "settings": {}, "seeds": 2}, {r.name: r.paper for r in study.rows})
    for seed, value in enumerate((10.0, 12.0)):
        made.add("narrow", seed, {"AP": value, "AR1": 3.0, "step_ms": 5.0})
    made.add("wide", 0, {"AP": 20.0})
    return made


def test_what_is_written_is_read_again(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path)
    again = read_results(tmp_path)
    assert (again.found, again.paper, again.run) == (results.found, results.paper, results.run)
    assert again.missing == [("wide", 1)]
    titles, rows = again.table()
    assert titles[:3] == ["row", "AP here", "AP paper"] and "AR1 here" not in titles
    assert rows[0][:3] == ["narrow", "11.0 ± 1.4", "30.0"]
    assert "AR1 here" in again.table(every=True)[0]
    assert "| narrow | 11.0 ± 1.4 | 30.0 |" in (tmp_path / "table.md").read_text()
    numbers = json.loads((tmp_path / "results.json").read_text())["rows"][0]
    assert numbers["here"]["AP"] == {"mean": 11.0, "deviation": 2**0.5, "seeds": {"0": 10.0, "1": 12.0}}
    assert numbers["paper"] == {"AP": 30.0, "parameters": 1e6, "flops_ratio": 0.5}


def test_the_order_is_that_of_the_seeds_all_have(results: Results) -> None:
    own = results.agreement()
    assert (own.metric, own.rows, own.seeds, own.correlation) == ("AP", 2, 1, pytest.approx(1))


def test_no_results_and_broken_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder of a study with results"):
        read_results(tmp_path)
    for text, said in (("{", "cannot be read as JSON"), ("{}", "KeyError"), ('{"rows": [{"name": 3}]}', "KeyError")):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(DataError, match=said):
            read_results(tmp_path)


def test_the_chart_has_a_panel_for_each(results: Results, tmp_path: Path) -> None:
    path = rows_beside_the_paper("AP", results.values(), results.paper, tmp_path / "chart.png")
    with Image.open(path) as drawn:
        both = np.asarray(drawn.convert("RGB"))
    path = rows_beside_the_paper("AP", results.values(), {row: {} for row in results.paper}, tmp_path / "alone.png")
    with Image.open(path) as drawn:
        assert drawn.width < both.shape[1] and np.asarray(drawn.convert("L")).std() > 20
    with pytest.raises(UsageError, match="no row has AP50"):
        rows_beside_the_paper("AP50", results.values(), results.paper, tmp_path / "none.png")
