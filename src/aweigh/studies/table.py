"""The table of a study: what was found here beside what the paper prints, each under its own title.

This file imports no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from aweigh.errors import shortened
from aweigh.studies.figures import FIGURES

Values = Mapping[str, Sequence[float]]  # of one row: for each figure one value a seed
COUNTS = ("parameters", "flops")
TITLES = {"flops": "multiply-adds"}  # what a figure is called in a table, where not by its name


@dataclass(frozen=True)
class Found:
    """What the seeds of a row come to. deviation: of a sample; None of one value."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Found":
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)


def comparison(
    paper: Mapping[str, Mapping[str, float]], found: Mapping[str, Values], figures: Iterable[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Titles and texts: a line for each row; for each figure a column of what was found, and one of the paper's.

    paper, found: by row, all of them in `paper`. figures: those to show, in this order; all that were found or are
    printed when not given.
    """
    there = {name for values in (*found.values(), *paper.values()) for name in values}
    shown = [name for name in tuple(figures) or FIGURES if name in there]
    titles, columns = ["row"], [list(paper)]
    for figure in shown:
        title = TITLES.get(figure, figure)
        own = [found.get(row, {}).get(figure, ()) for row in paper]
        if any(own):
            titles.append(f"{title} here")
            columns.append([cell(figure, values) for values in own])
        if any(figure in printed for printed in paper.values()):
            titles.append(f"{title} paper")
            columns.append([number(figure, row[figure]) if figure in row else "" for row in paper.values()])
    return titles, [list(line) for line in zip(*columns, strict=True)]


def cell(figure: str, values: Sequence[float]) -> str:
    """`"33.5 ± 0.4"` of several seeds, `"33.5"` of one or of equal ones, nothing of none."""
    if not values:
        return ""
    own = Found.of(values)
    counted = figure in COUNTS or figure.endswith("_ratio") or own.deviation is None
    return number(figure, own.mean) + ("" if counted else f" ± {number(figure, own.deviation or 0.0)}")


def number(figure: str, value: float) -> str:
    """As papers print it."""
    if figure in COUNTS:
        return shortened(value)
    return f"{value:.2f}" if figure.endswith("_ratio") or figure == "memory_gb" else f"{value:.1f}"
