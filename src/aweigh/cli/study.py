"""`aweigh study ...`: tables of papers, and of users, as commands."""

import json
from typing import Annotated

from cyclopts import Parameter

from aweigh.cli.flags import SEVERAL, AsJson
from aweigh.cli.help import epilogue, several
from aweigh.cli.tables import print_table
from aweigh.cli.terminal import output

Rows = Annotated[tuple[str, ...], SEVERAL, Parameter(help="Only these rows, by name.", show_default=False)]

app = several("study", "Run a table of a paper, or your own, on your data: every row with equal budget.", "study list")


@app.command(name="list", help_epilogue=epilogue("study list"))
def list_(*, as_json: AsJson = False) -> None:
    """List the tables that come with aweigh: what each varies, its rows, and what it needs.

    Args:
        as_json: Print them as JSON, with the names of the rows and the numbers of the papers.
    """
    from aweigh.studies.study import NEEDS, find_study, packaged_studies

    studies = [find_study(name) for name in packaged_studies()]
    if as_json:
        print(json.dumps([study.to_dict() for study in studies], ensure_ascii=False, indent=2))
        return
    rows = [(study.name, str(len(study.rows)), NEEDS[study.kind], study.varies) for study in studies]
    print_table(output(), ("study", "rows", "needs", "what it varies"), rows, left=(0, 2, 3))


@app.command(help_epilogue=epilogue("study cost"))
def cost(study: str, /, *, rows: Rows = (), as_json: AsJson = False) -> None:
    """Count parameters and multiply-adds (FLOPs) of each row, beside the numbers of the paper.

    Nothing is computed or loaded. What is counted is what `aweigh profile cost` counts.

    Args:
        study: One of aweigh study list, or the file of your own.
        as_json: Print the numbers as JSON.
    """
    from aweigh.studies.cost import cost_of_rows
    from aweigh.studies.study import find_study
    from aweigh.studies.table import comparison

    table = find_study(study)
    chosen = table.chosen(rows)
    found = cost_of_rows(table, chosen)
    if as_json:
        both = [{"row": row.name, "here": found[row.name], "paper": dict(row.paper)} for row in chosen]
        print(json.dumps(both, ensure_ascii=False, indent=2))
        return
    screen = output()
    height, width = table.image_hw
    what = f"the {table.cost.part} of " if table.cost.part else ""
    screen.print(f"{table.title} ({table.paper}, table {table.table})", soft_wrap=True)
    screen.print(f"{what}one image of {width} x {height}", soft_wrap=True)
    figures = ("parameters", "parameters_ratio", "flops", "flops_ratio")
    values = {name: {figure: [value] for figure, value in own.items()} for name, own in found.items()}
    print_table(screen, *comparison(chosen, values, figures))
