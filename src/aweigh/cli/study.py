"""`aweigh study ...`: tables of papers, and of users, as commands."""

import json

from aweigh.cli.flags import AsJson
from aweigh.cli.help import epilogue, several
from aweigh.cli.tables import print_table
from aweigh.cli.terminal import output

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
