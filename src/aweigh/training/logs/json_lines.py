"""`log.jsonl`: all that a run measures, one JSON object a line. docs/logs.md says what each column means."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aweigh.files import atomic_file
from aweigh.inference.meters import Means
from aweigh.training.logs.callback import Beginning, Callback, Row

HISTORY = 1000  # points of the curves over steps; with more, neighbours are averaged


class JsonLines(Callback):
    """Appends each row, so that a killed run keeps it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._epochs: list[Row] = []
        self._steps = _Thinned(HISTORY)
        self._file: int | None = None

    def keep(self, step: int, epoch: int) -> list[Row]:
        """Rows of the steps and epochs that are done are kept, later ones will be written again; returns the epochs.

        (The step alone would not do: a state may lie between the last step of an epoch and its validation.)
        """
        epochs: dict[int, Row] = {}
        with atomic_file(self.path) as aside, aside.open("w", encoding="utf-8") as file:
            for row in iterate_log(self.path) if step else ():  # one after the other: a long log need not fit in memory
                if row.get("step", 0) > step or (row["kind"] == "epoch" and row["epoch"] > epoch):
                    continue
                file.write(json.dumps(row) + "\n")
                if row["kind"] == "step":
                    self._steps.add(row)
                elif row["kind"] == "epoch":
                    epochs[row["epoch"]] = row
        return list(epochs.values())

    def start(self, beginning: Beginning) -> None:
        self._epochs = list(beginning.earlier)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def step(self, row: Row) -> None:
        self.append(row)
        self._steps.add(row)

    def epoch(self, row: Row, *, best: bool) -> None:
        self.append(row)
        self._epochs.append(row)

    def end(self, *, complete: bool) -> None:
        assert self._file is not None, "the log is closed"
        os.close(self._file)
        self._file = None

    def history(self) -> list[Row]:
        """What the curves are drawn from: steps (at most about a thousand rows, neighbours averaged), then epochs."""
        return [*self._steps.rows(), *self._epochs]

    def append(self, row: Row) -> None:
        """One whole line, or, where the disk is full, none."""
        line = json.dumps(row).encode() + b"\n"
        assert self._file is not None, "the log is closed"
        end = os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            os.ftruncate(self._file, end)
            error.filename = str(self.path)
            raise


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a `log.jsonl`; a line that was cut off by a kill is left out."""
    return list(iterate_log(path))


def iterate_log(path: str | Path) -> Iterator[dict[str, Any]]:
    """As `read_log`, one row after the other."""
    if not Path(path).exists():
        return
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "kind" in row:
                yield row


class _Thinned:
    """The losses and rates of all steps in at most twice `limit` rows: neighbours are averaged as it fills."""

    def __init__(self, limit: int) -> None:
        self._limit, self._each = limit, 1  # so many steps in one row
        self._full: list[dict[str, float]] = []
        self._open: list[dict[str, float]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        numbers = {name: value for name, value in row.items() if name in ("step", "lr") or name.startswith("loss")}
        self._open.append({name: value for name, value in numbers.items() if isinstance(value, int | float)})
        if len(self._open) == self._each:
            self._full.append(_mean(self._open))
            self._open = []
        if len(self._full) == 2 * self._limit:
            self._full = [_mean(self._full[i : i + 2]) for i in range(0, len(self._full), 2)]
            self._each *= 2

    def rows(self) -> list[dict[str, Any]]:
        return [{"kind": "step", **row} for row in [*self._full, *([_mean(self._open)] if self._open else [])]]


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    means = Means()
    for row in rows:
        means.add(row)
    return means.result()
