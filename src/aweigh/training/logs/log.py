"""What a run leaves to read: `log.jsonl`, `results.csv`, on demand TensorBoard's files; and what the user is told.

`log.jsonl` is the truth; `results.csv` is made anew from its rows of kind `epoch` whenever one is added, so the two
cannot disagree. docs/logs.md says what each column means. On a terminal `progress.py` shows a table and a bar;
elsewhere there is one plain line per epoch.
"""

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from aweigh.console import SafeConsole
from aweigh.errors import UsageError, escaped
from aweigh.evaluation.metrics import METRICS, NUMBERS, metric_of
from aweigh.files import atomic_file
from aweigh.inference.meters import Means
from aweigh.training.logs.progress import Display

# The first columns of results.csv, there in every run; then each loss, each val_loss, the numbers of masks, of
# keypoints and in space where there are any, and the AP of each class.
COLUMNS = (
    *("epoch", "step", "seconds", "lr", "loss", "val_loss", *METRICS["boxes"].numbers, "best"),
    *("images_per_second", "data_share", "skipped_steps"),
)
HISTORY = 1000  # points of the curves over steps; with more, neighbours are averaged


class RunLog:
    """Appends one JSON object per line to `log.jsonl`, and tells the user what happens.

    Rows of kind `step`: step, epoch, lr, each loss, grad_norm, data_seconds (waiting for images), step_seconds, images.
    Rows of kind `epoch`: means of the epoch, val_loss and metrics. Numbers that are not finite become null.
    epochs: the rows of kind `epoch` so far, each epoch once.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        console: Console | None = None,
        keep_to: tuple[int, int] | None = None,
        active: bool = True,
        select: str = "AP",
        classes: Sequence[str] = (),
        total_steps: int = 0,
        tensorboard: bool = False,
    ) -> None:
        """A new log, or one that goes on.

        keep_to: the steps done and the epochs finished in the state that is resumed. Rows up to there are kept, later
        ones will be written again. (The step alone would not do: a state may lie between the last step of an epoch and
        its validation.) active: False for all but one of several processes: nothing is written and nothing said.
        select: what makes an epoch the best. classes: names of the columns of results.csv. total_steps: of the whole
        run, for the time that is left.
        """
        self.path = Path(path)
        self.console = console or SafeConsole(stderr=True)
        self.select, self.classes = select, tuple(classes)
        self.epochs: list[dict[str, Any]] = []
        self._steps = _Thinned(HISTORY)
        self._file: int | None = None
        self._board: _Board | None = None
        self._display = Display(self.console, total_steps=total_steps)
        self._active = active
        if not active:
            return
        if tensorboard:
            self._board = _Board(self.path.parent, keep_to[0] if keep_to else 0)
        with atomic_file(self.path) as aside, aside.open("w", encoding="utf-8") as file:
            file.writelines(self._kept(*keep_to) if keep_to else ())
        if self.epochs or self.table_path.exists():
            self._write_table()
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    @property
    def table_path(self) -> Path:
        return self.path.with_name("results.csv")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._display.stop()
        if self._board is not None:
            self._board.close()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def write(self, kind: str, **values: Any) -> None:
        """Append one row, so that a killed run keeps it; with kind `epoch`, write `results.csv` anew."""
        if not self._active:
            return
        row = {"kind": kind, **{name: _json_number(value) for name, value in values.items()}}
        self._append(json.dumps(row).encode() + b"\n")
        self._take(row)
        if self._board is not None:
            self._board.write(row)
        if kind == "step":
            self._display.step(row)
        elif kind == "epoch":
            self._write_table()
            self._display.show_epochs(self.epochs, best_epoch(self.epochs, self.select))

    def say(self, text: str) -> None:
        """One line for the user, above the table where there is one. The text is taken literally."""
        if self._active:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def say_epoch(self, text: str) -> None:
        """The line of one epoch, where no table shows it."""
        if not self._display.shows:
            self.say(text)

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[Display]:
        """A progress bar for one pass, under the table, where the console is a terminal; else nothing."""
        if self._active:
            self._display.begin(description, total)
        try:
            yield self._display
        finally:
            self._display.end()

    def history(self) -> list[dict[str, Any]]:
        """What the curves are drawn from: steps (at most about a thousand rows, neighbours averaged), then epochs."""
        return [*self._steps.rows(), *self.epochs]

    def _kept(self, step: int, epoch: int) -> Iterator[str]:
        """The lines to keep, one after the other: the log of a long run need not fit into memory."""
        for row in iterate_log(self.path):
            if row.get("step", 0) <= step and (row["kind"] != "epoch" or row["epoch"] <= epoch):
                self._take(row)
                yield json.dumps(row) + "\n"
        self._display.show_epochs(self.epochs, best_epoch(self.epochs, self.select))

    def _take(self, row: dict[str, Any]) -> None:
        if row["kind"] == "step":
            self._steps.add(row)
        elif row["kind"] == "epoch":
            self.epochs = [*(other for other in self.epochs if other["epoch"] != row["epoch"]), row]

    def _append(self, line: bytes) -> None:
        """One whole line, or, where the disk is full, none."""
        assert self._file is not None, "the log is closed"
        end = os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            os.ftruncate(self._file, end)
            error.filename = str(self.path)
            raise

    def _write_table(self) -> None:
        rows = results_table(self.epochs, select=self.select, classes=self.classes)
        with atomic_file(self.table_path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


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


def require_tensorboard() -> None:
    """`UsageError` where TensorBoard's writer is not installed; to be called before anything long begins."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UsageError(
            'tensorboard = true needs a package that is not installed: pip install "aweigh[track]"'
        ) from error


class _Board:
    """TensorBoard's event files, beside the log: `train/...` per step, `val/...` and `epoch/...` per epoch."""

    def __init__(self, folder: Path, step: int) -> None:
        """step: of the state that is resumed; what was written after it is hidden."""
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name in ("kind", "step", "epoch") or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            validation = name in NUMBERS or "val_" in name
            group = "train" if row["kind"] == "step" else "val" if validation else "epoch"
            self._writer.add_scalar(f"{group}/{name.removeprefix('val_')}", value, row["step"])

    def close(self) -> None:
        self._writer.close()


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


def _names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
