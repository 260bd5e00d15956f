"""What a run of a study has found so far: `results.json` in its folder, the table and the chart made of it.

It holds all that is shown, so that it can be shown where there is no torch. The numbers of the paper are kept apart
from ours throughout.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aweigh.errors import DataError, UsageError
from aweigh.files import read_json, write_text
from aweigh.studies.agreement import Agreement, agreement
from aweigh.studies.figures import FIGURES, OTHERS
from aweigh.studies.table import Found, comparison

FILE, TABLE, CHART = "results.json", "table.md", "chart.png"
MAIN = ("AP", "mask_AP", "keypoint_AP")


@dataclass
class Results:
    """study: `Study.to_dict`. run: what it was run with, `Plan.to_dict` and how many seeds. paper: by row. found: by
    row, figure and seed; what does not depend on one has seed 0."""

    study: Mapping[str, Any]
    run: Mapping[str, Any]
    paper: Mapping[str, Mapping[str, float]]
    found: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)

    def add(self, row: str, seed: int, figures: Mapping[str, float]) -> None:
        for figure, value in figures.items():
            self.found.setdefault(row, {}).setdefault(figure, {})[seed] = value

    @property
    def metric(self) -> str:
        metric: str = self.study["metric"]
        return metric

    @property
    def missing(self) -> list[tuple[str, int]]:
        """Rows and seeds that are not measured yet."""
        done = {row: self.found.get(row, {}).get(self.metric, {}) for row in self.paper}
        return [(row, seed) for row in self.paper for seed in range(self.run["seeds"]) if seed not in done[row]]

    def agreement(self) -> Agreement:
        """With the order of the paper, by the metric of the study."""
        found = {row: figures.get(self.metric, {}) for row, figures in self.found.items()}
        printed = {row: figures[self.metric] for row, figures in self.paper.items() if self.metric in figures}
        return agreement(self.metric, found, printed, exact=self.study["kind"] == "assignment")

    def table(self, *, every: bool = False) -> tuple[list[str], list[list[str]]]:
        """Titles and texts: the metric, what other AP the paper prints, and what is counted and timed.

        every: all figures that were measured or are printed.
        """
        printed = [figure for figure in MAIN if any(figure in row for row in self.paper.values())]
        return comparison(
            self.paper, self.values(), dict.fromkeys([self.metric, *(FIGURES if every else printed), *OTHERS])
        )

    def values(self) -> dict[str, dict[str, list[float]]]:
        """By row and figure, the values in the order of their seeds."""
        return {
            row: {figure: [by_seed[seed] for seed in sorted(by_seed)] for figure, by_seed in figures.items()}
            for row, figures in self.found.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        rows = [
            {
                "name": row,
                "paper": dict(self.paper[row]),
                "here": {
                    figure: {**vars(Found.of(list(by_seed.values()))), "seeds": {str(k): v for k, v in by_seed.items()}}
                    for figure, by_seed in self.found.get(row, {}).items()
                },
            }
            for row in self.paper
        ]
        return {"study": self.study, "run": self.run, "rows": rows, "agreement": self.agreement().to_dict()}

    def write(self, folder: Path) -> None:
        """`results.json`, and the table as Markdown."""
        write_text(folder / FILE, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")
        titles, rows = self.table()
        lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
        text = "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)
        write_text(folder / TABLE, f"# {self.study['title']}\n\n{text}\n{self.agreement()}\n")


def read_results(folder: str | Path) -> Results:
    """The results in the folder of a run; `UsageError` where it is none, `DataError` where they cannot be read."""
    file = Path(folder) / FILE
    if not file.is_file():
        raise UsageError(f"{folder} is no folder of a study with results: there is no {file}.")
    content = read_json(file)
    try:
        found = {
            row["name"]: {
                figure: {int(seed): float(value) for seed, value in own["seeds"].items()}
                for figure, own in row["here"].items()
            }
            for row in content["rows"]
        }
        paper = {
            row["name"]: {figure: float(value) for figure, value in row["paper"].items()} for row in content["rows"]
        }
        results = Results(dict(content["study"]), dict(content["run"]), paper, found)
        for key in ("name", "title", "paper", "table", "kind", "metric", "notes"):
            results.study[key]
        results.run["seeds"] + 0
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise DataError(f"{file}: are no results of `aweigh study run` ({type(error).__name__}: {error}).") from error
    return results
