"""`aweigh study ...`: tables of papers, and of users, as commands."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from aweigh.cli.flags import SEVERAL, AsJson, Recipe
from aweigh.cli.help import epilogue, several
from aweigh.cli.tables import print_table
from aweigh.cli.terminal import log, output
from aweigh.errors import counted

if TYPE_CHECKING:
    from aweigh.studies.results import Results

Number = Annotated[int, Parameter(show_default=False)]
Rows = Annotated[tuple[str, ...], SEVERAL, Parameter(help="Only these rows, by name.", show_default=False)]
Model = Annotated[str, Parameter(help="Another detector for all rows, where these do not vary it.")]
Arguments = Annotated[
    tuple[str, ...],
    SEVERAL,
    Parameter(help="Further options of its builder for all rows, each as name=value.", show_default=False),
]

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
def cost(
    study: str,
    /,
    *,
    rows: Rows = (),
    model: Model = "",
    arguments: Arguments = (),
    size: Number = 0,
    as_json: AsJson = False,
) -> None:
    """Count parameters and multiply-adds (FLOPs) of each row, beside the numbers of the paper.

    Nothing is computed or loaded. What is counted is what `aweigh profile cost` counts.

    Args:
        study: One of aweigh study list, or the file of your own.
        size: Side of a square image in pixels; that of the study when not given.
        as_json: Print the numbers as JSON.
    """
    from aweigh.arguments import given_by_name
    from aweigh.errors import check_reach
    from aweigh.studies.cost import cost_of_rows
    from aweigh.studies.plan import changed_equally
    from aweigh.studies.study import find_study
    from aweigh.studies.table import comparison

    check_reach("size", size)
    further = given_by_name(arguments, of="--arguments", example="channels=128")
    table = changed_equally(find_study(study), model=model, arguments=further, size=size)
    chosen = table.chosen(rows)
    found = cost_of_rows(table, chosen)
    if as_json:
        both = [{"row": row.name, "here": found[row.name], "paper": dict(row.paper)} for row in chosen]
        print(json.dumps(both, ensure_ascii=False, indent=2))
        return
    screen = output()
    sizes = {table.image_hw(row) for row in chosen}
    sides = " x ".join(map(str, reversed(sizes.pop()))) if len(sizes) == 1 else "the size of its row"
    what = f"the {table.cost.part} of " if table.cost.part else ""
    screen.print(f"{table.title} ({table.paper}, table {table.table})", soft_wrap=True)
    screen.print(f"{what}one image of {sides}", soft_wrap=True)
    figures = ("parameters", "parameters_ratio", "flops", "flops_ratio")
    values = {name: {figure: [value] for figure, value in own.items()} for name, own in found.items()}
    print_table(screen, *comparison({row.name: row.paper for row in chosen}, values, figures))


@app.command(name="run", help_epilogue=epilogue("study run"))
def run_(
    study: str,
    data: Annotated[str, Parameter(help="Folder of the data set; of a study of backbones, of class folders.")],
    /,
    *,
    steps: Number = 0,
    epochs: Number = 0,
    seeds: int = 3,
    size: Number = 0,
    batch: Number = 0,
    rows: Rows = (),
    output: Annotated[Path | None, Parameter(alias="-o", show_default=False)] = None,
    model: Model = "",
    arguments: Arguments = (),
    recipe: Recipe = "",
    settings: Annotated[tuple[str, ...], SEVERAL, Parameter(show_default=False)] = (),
    split: str = "",
    proposals_file: Annotated[str, Parameter(show_default=False)] = "",
    val_proposals_file: Annotated[str, Parameter(show_default=False)] = "",
    device: str = "auto",
    workers: int = -1,
    processes: int = 1,
) -> None:
    """Run a table on your data: every row trained with equal budget and the same order of images, and measured.

    Prints the table, with the numbers of the paper beside it, and whether the rows come in its order. The last weights
    of each training are measured. What was stopped or killed goes on where it was when the same command is given again,
    and rows and seeds can be added.

    Args:
        study: One of aweigh study list, or the file of your own.
        steps: Optimiser steps of each training; when neither is given, those of the study.
        epochs: Passes over the training images instead of steps.
        seeds: How often each row is trained, with seeds 0, 1, 2 and so on.
        size: Long side of the images in pixels; of backbones the side of the input.
        batch: Images per step.
        output: The folder to write; runs/study-NAME-DATA when not given.
        recipe: Other training settings for all rows: the path of a TOML file, or the name of a recipe that comes with
            aweigh.
        settings: Further settings of training for all rows, each as name=value, for example backbone_weights=none.
        split: The part of the data to measure on; val when not given, or the images that were held out.
        proposals_file: Proposals for the training images, for rows whose detector proposes none itself.
        val_proposals_file: The same for the images that are measured; proposals_file when not given.
        device: auto, cpu, cuda, cuda:1 or mps.
        workers: Processes that read images; -1 chooses.
        processes: Trainings at a time, each in a process of its own.
    """
    from aweigh.arguments import given_by_name
    from aweigh.errors import check_reach
    from aweigh.studies.plan import changed_equally, make_plan
    from aweigh.studies.run import run_study
    from aweigh.studies.study import find_study

    check_reach("processes", processes)
    further = given_by_name(arguments, of="--arguments", example="channels=128")
    table = changed_equally(find_study(study), model=model, arguments=further, recipe=recipe)
    texts = given_by_name(settings, of="--settings", example="lr=0.02")
    plan = make_plan(
        table,
        data,
        output or Path("runs") / f"study-{table.name.replace('/', '-')}-{Path(data).resolve().name}",
        rows=rows,
        steps=steps,
        epochs=epochs,
        size=size,
        batch=batch,
        settings={name: from_text(text) for name, text in texts.items()},
        seeds=seeds,
        split=split,
        proposals=(proposals_file, val_proposals_file),
        device=device,
        workers=workers,
    )
    try:
        with whole_bar(table.name, len(plan.trainings())) as tell:
            results = run_study(plan, processes=processes, progress=tell)
    except KeyboardInterrupt:
        log().print("Stopped. To go on, give the same command again.")
        raise
    tell_results(results)
    log().print(f"Table, chart and numbers: {plan.output}")


@app.command(help_epilogue=epilogue("study show"))
def show(run: Path, /, *, every: Annotated[bool, Parameter(negative="")] = False, as_json: AsJson = False) -> None:
    """Show what a run of a study has found so far, beside the paper.

    Args:
        run: The folder that aweigh study run wrote.
        every: All figures, AP50 and the AP of small objects among them.
        as_json: Print all numbers as JSON, each seed's too.
    """
    from aweigh.studies.results import read_results

    results = read_results(run)
    if as_json:
        print(json.dumps(results.to_dict(), ensure_ascii=False, indent=2))
        return
    tell_results(results, every=every)


def tell_results(results: "Results", *, every: bool = False) -> None:
    """The table, whether its order is the paper's, and what else has to be known of it."""
    screen, study, run = output(), results.study, results.run
    settings = ", ".join(f"{name} {value}" for name, value in run["settings"].items())
    screen.print(f"{study['title']} ({study['paper']}, table {study['table']})", soft_wrap=True)
    where = f"{run['data']}; {counted(run['seeds'], 'seed')}; {settings or 'settings of the study'}"
    screen.print(f"here: {where}", soft_wrap=True)
    print_table(screen, *results.table(every=every))
    screen.print(f"\n{results.agreement()}", soft_wrap=True)
    for note in study["notes"]:
        screen.print(f"Note: {note}", soft_wrap=True)
    if results.missing:
        screen.print(f"Not measured yet: {counted(len(results.missing), 'row')} of a seed.", soft_wrap=True)


def from_text(text: str) -> Any:
    """A setting as TOML would have it: a number, true or false, a list; else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@contextmanager
def whole_bar(name: str, total: int) -> Iterator[Callable[[float, str], None]]:
    """One bar for all trainings on the error stream, where that is a terminal; what is under way stands before it."""
    from rich.progress import Progress

    console = log()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total)
        yield lambda done, what: progress.update(task, completed=done, description=f"{name}: {what}")
