"""The table: what was found here and what the paper prints are never in one column."""

from aweigh.studies.table import cell, comparison


def test_here_and_the_paper_each_have_their_column(written) -> None:
    paper = {row.name: row.paper for row in written().rows}
    found = {"narrow": {"AP": [20.0, 22.0], "parameters": [123e4]}, "wide": {"AP": [25.0, 25.0]}}
    titles, lines = comparison(paper, found)
    assert titles == ["row", "AP here", "AP paper", "parameters here", "parameters paper", "flops_ratio paper"]
    assert lines == [
        ["narrow", "21.0 ± 1.4", "30.0", "1.23 M", "1.00 M", "0.50"],
        ["wide", "25.0 ± 0.0", "31.0", "", "", ""],
    ]
    assert comparison(paper, {}, ("AP",)) == (["row", "AP paper"], [["narrow", "30.0"], ["wide", "31.0"]])


def test_cells() -> None:
    assert cell("AP", []) == ""
    assert cell("AP", [12.34]) == "12.3"
    assert cell("flops", [2e9, 2e9]) == "2.00 G"
    assert cell("memory_gb", [1.5, 1.25]) == "1.38 ± 0.18"
