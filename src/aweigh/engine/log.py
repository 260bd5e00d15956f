"""What a run leaves to read: `log.jsonl`, and on the terminal a progress bar or one plain line per epoch."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class RunLog:
    """Appends one JSON object per line to `log.jsonl`, and tells the user what happens.

    Rows of kind `step`: step, epoch, lr, each loss, grad_norm, data_seconds (waiting for images), step_seconds.
    Rows of kind `epoch`: means of the epoch, val_loss and val_ metrics. Numbers that are not finite become null.
    """

    def __init__(self, path: str | Path, *, console: Console | None = None, keep_to_step: int | None = None) -> None:
        """keep_to_step: of an existing file, the rows after this step are dropped (they will be written again)."""
        self.path = Path(path)
        self.console = console or Console(stderr=True)
        self.progress: Progress | None = None
        rows = [row for row in read_log(self.path) if row.get("step", 0) <= keep_to_step] if keep_to_step else []
        self.path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self._file = self.path.open("a", encoding="utf-8")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def write(self, kind: str, **values: Any) -> None:
        """Append one row and flush it, so that a killed run keeps it."""
        row = {"kind": kind, **{name: _json_number(value) for name, value in values.items()}}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def say(self, text: str) -> None:
        """One line for the user, above the progress bar where there is one. The text is taken literally."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator["Bar"]:
        """A progress bar for one pass, where the console is a terminal; else nothing."""
        if not self.console.is_terminal:
            yield Bar(None)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            progress.add_task(description, total=total, note="")
            yield Bar(progress)


class Bar:
    """A progress bar, or the place where one would be."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def advance(self, note: str = "") -> None:
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], advance=1, note=note)

    def to(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done, total=total)


class Means:
    """Running means of named numbers; a value that is not finite is left out."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._counts[name] = self._counts.get(name, 0) + 1

    def result(self) -> dict[str, float]:
        return {name: total / self._counts[name] for name, total in self._sums.items()}


class Stopwatch:
    """Splits the time of a loop into named parts: `lap(name)` adds the time since the lap before."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> float:
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
        return elapsed


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a `log.jsonl`; a last line that was cut off by a kill is left out."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
