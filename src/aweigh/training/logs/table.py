"""`results.csv`: one line an epoch, made anew from the rows of `log.jsonl`, so that the two cannot disagree."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aweigh.errors import escaped
from aweigh.evaluation.metrics import METRICS, NUMBERS, metric_of
from aweigh.files import atomic_file
from aweigh.training.logs.callback import Beginning, Callback, Row

# The first columns of results.csv, there in every run; then each loss, each val_loss, the numbers of masks, of
# keypoints and in space where there are any, and the AP of each class.
COLUMNS = (
    *("epoch", "step", "seconds", "lr", "loss", "val_loss", *METRICS["boxes"].numbers, "best"),
    *("images_per_second", "data_share", "skipped_steps"),
)


class Table(Callback):
    """Writes the file after each epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, beginning: Beginning) -> None:
        self._select, self._classes = beginning.select, beginning.classes
        self._rows = list(beginning.earlier)
        if self._rows or self.path.exists():
            self._write()

    def epoch(self, row: Row, *, best: bool) -> None:
        self._rows.append(row)
        self._write()

    def _write(self) -> None:
        rows = results_table(self._rows, select=self._select, classes=self._classes)
        with atomic_file(self.path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


def results_table(
    epochs: Sequence[Mapping[str, Any]], *, select: str = "AP", classes: Sequence[str] = ()
) -> list[list[Any]]:
    """The rows of `results.csv`, its head first: the same columns in every epoch, empty where there is no number."""
    losses = [name for name in _names(epochs) if name.startswith("loss_")]
    further = [name for name in _names(epochs) if name in NUMBERS and name not in COLUMNS]
    columns = [*COLUMNS, *losses, *(f"val_{name}" for name in losses), *further]
    classes = classes or list(dict.fromkeys(name for row in epochs for name in row.get("per_class") or ()))
    best = best_epoch(epochs, select)
    table: list[list[Any]] = [[*columns, *(f"AP:{escaped(name)}" for name in classes)]]
    for row in epochs:
        values = {**row, "best": int(row["epoch"] == best)}
        per_class = row.get("per_class") or {}
        aps = [per_class.get(name, {}).get("AP") for name in classes]
        numbers = [values.get(name) for name in columns] + [None if ap is not None and ap < 0 else ap for ap in aps]
        table.append(["" if number is None else number for number in numbers])
    return table


def best_epoch(epochs: Iterable[Mapping[str, Any]], select: str) -> int | None:
    """The epoch with the largest `select` (the least val_loss), the latest of equals; None before any validation."""
    best, value = None, -math.inf
    metric, _, class_name = select.partition(":")
    kind, name = metric_of(metric)
    classes = f"{METRICS[kind].prefix}per_class"
    for row in epochs:
        if "val_loss" not in row and metric not in row:
            continue
        found = row.get(classes, {}).get(class_name, {}).get(name) if class_name else row.get(metric)
        number = -math.inf if found is None else -found if metric == "val_loss" else found
        if number >= value:
            best, value = row["epoch"], number
    return best


def _names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))
