"""What a run shows on a terminal: the last epochs as a table, under it a bar and the numbers of the moment.

Nothing is drawn from a thread: the display is refreshed when it is told something, at most five times a second, so
that processes forked for reading never inherit a lock that is held. The cursor is left visible, so that a terminal is
sane even after the process was killed.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from aweigh.training.logs.callback import Beginning, Callback, Row
from aweigh.training.logs.table import best_epoch

REFRESH = 0.2  # seconds
RECENT = 50  # steps that the numbers of the moment are averaged over
ROWS = 8  # epochs in the table

# Columns of the table in order, each with the row's key and the order in which they are dropped on a narrow terminal
# (the largest first); ours.
_COLUMNS = (
    ("epoch", "epoch", 0),
    ("loss", "loss", 0),
    ("val_loss", "val_loss", 1),
    ("AP", "AP", 0),
    ("mask AP", "mask_AP", 0),
    ("keyp. AP", "keypoint_AP", 0),
    ("AP50", "AP50", 1),
    ("AP75", "AP75", 2),
    ("APs", "APs", 5),
    ("APm", "APm", 5),
    ("APl", "APl", 5),
    ("lr", "lr", 3),
    ("images/s", "images_per_second", 4),
    ("waiting", "data_share", 4),
    ("time", "seconds", 3),
)
_GAP = 2  # blanks between two columns


class Display(Callback):
    """The live part of a terminal. Begins with the first bar and ends with the run, which leaves the table behind.

    Where the console is no terminal nothing is shown.
    """

    def __init__(self, console: Console) -> None:
        self.shows = console.is_terminal and not console.is_dumb_terminal
        self._console = console
        self._total_steps = 0
        self._epochs: list[Row] = []
        self._best: int | None = None
        self._progress: Progress | None = None
        self._steps: deque[Row] = deque(maxlen=RECENT)
        self._first: tuple[int, float] | None = None  # a step and when it was done
        self._live: Live | None = None
        self._shown = 0.0

    def start(self, beginning: Beginning) -> None:
        self._total_steps = beginning.total_steps
        self._epochs, self._best = list(beginning.earlier), best_epoch(beginning.earlier, beginning.select)

    def step(self, row: Row) -> None:
        """The numbers of one step; shown with the next refresh."""
        self._steps.append(row)
        self._first = self._first or (row["step"], time.monotonic())

    def epoch(self, row: Row, *, best: bool) -> None:
        self._epochs.append(row)
        self._best = row["epoch"] if best else self._best
        self._refresh(now=True)

    def end(self, *, complete: bool) -> None:
        """Leave the table where it is and give the terminal back."""
        self._progress = None
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def open_bar(self, description: str, total: int) -> None:
        """A new bar."""
        if not self.shows:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[note]}", style="dim"), console=self._console)
        self._progress.add_task(description, total=total, note="")
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, get_renderable=self._picture)
            streams = sys.stdout, sys.stderr
            self._live.start()
            self._console.show_cursor(True)
            os.register_at_fork(after_in_child=lambda: self._leave_to(*streams))
        self._refresh(now=True)

    def advance(self, note: str = "") -> None:
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], advance=1, note="" if self._steps else note)
            self._refresh()

    def to(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done, total=total)
            self._refresh()

    def close_bar(self) -> None:
        """The bar is gone; the table stays."""
        self._progress = None
        self._steps.clear()
        self._refresh(now=True)

    def _refresh(self, *, now: bool = False) -> None:
        if self._live is not None and (now or time.monotonic() - self._shown >= REFRESH):
            self._live.refresh()
            self._shown = time.monotonic()

    def _leave_to(self, stdout: Any, stderr: Any) -> None:
        """In a forked process: what it prints goes to the plain streams, not through this display."""
        if self._live is not None:
            sys.stdout, sys.stderr = stdout, stderr

    # --- what it looks like -----------------------------------------------------------------------------------------

    def _picture(self) -> RenderableType:
        parts: list[RenderableType] = [epoch_table(self._epochs, self._best, self._console.size)] * bool(self._epochs)
        if self._progress is not None:
            parts += [self._progress.get_renderable()]
            parts += [Text(line) for line in self._lines()]
        return Group(*parts)

    def _lines(self) -> list[str]:
        """The losses of the last steps; then how fast it goes."""
        if not self._steps:
            return []
        names = dict.fromkeys(name for row in self._steps for name in row if name.startswith("loss"))
        means = {name: value for name in names if (value := self._recent(name)) is not None}
        parts = [f"{name.removeprefix('loss_')} {value:.3f}" for name, value in means.items() if name != "loss"]
        losses = [f"loss {means['loss']:.3f}"] * ("loss" in means) + [" + ".join(parts)] * bool(parts)
        data, seconds = (self._total(name) for name in ("data_seconds", "step_seconds"))
        last, images = self._steps[-1], self._total("images")
        speed = [f"lr {last['lr']:.3g}"] if isinstance(last.get("lr"), int | float) else []
        if data + seconds > 0:
            speed += [f"{images / (data + seconds):.1f} images/s"] if images else []
            speed += [f"{(data + seconds) / len(self._steps):.2f} s/step", f"{data / (data + seconds):.0%} waiting"]
        if self._first is not None and self._total_steps > last["step"] > self._first[0]:
            each = (time.monotonic() - self._first[1]) / (last["step"] - self._first[0])
            speed.append(f"run done in {duration(each * (self._total_steps - last['step']))}")
        return [line for line in (" = ".join(losses), ", ".join(speed)) if line]

    def _values(self, name: str) -> list[float]:
        return [row[name] for row in self._steps if isinstance(row.get(name), int | float)]

    def _recent(self, name: str) -> float | None:
        values = self._values(name)
        return sum(values) / len(values) if values else None

    def _total(self, name: str) -> float:
        return sum(self._values(name))


def epoch_table(rows: Sequence[Mapping[str, Any]], best: int | None, size: tuple[int, int]) -> Table:
    """The last epochs, and the best of all if it is not among them; as many columns and rows as fit.

    size: columns and lines of the terminal.
    """
    room = max(1, min(ROWS, size[1] - 6))  # the head, the bar, two lines of numbers, one of the shell
    shown = list(rows[-room:])
    if best is not None and best not in [row["epoch"] for row in shown]:
        shown = [row for row in rows if row["epoch"] == best] + shown[-max(1, room - 1) :]
    columns = [entry for entry in _COLUMNS if any(row.get(entry[1]) is not None for row in rows)]
    mark = {best: "*"}
    texts = [
        [head, *(mark.get(row["epoch"], "") * (key == "epoch") + cell(key, row.get(key)) for row in shown)]
        for head, key, _ in columns
    ]
    widths = [max(map(len, column)) for column in texts]
    by_rank = sorted(range(len(columns)), key=lambda index: columns[index][2])
    needed = list(accumulate(widths[index] + _GAP for index in by_rank))
    fitting = sorted(index for index, total in zip(by_rank, needed) if total - _GAP <= size[0])
    table = Table(box=None, pad_edge=False, header_style="dim")
    for index in fitting:
        table.add_column(texts[index][0], justify="right", no_wrap=True, min_width=widths[index])
    for number, row in enumerate(shown, start=1):
        cells = (texts[index][number] for index in fitting)
        table.add_row(*cells, style="bold green" if row["epoch"] == best else None)
    return table


def cell(key: str, value: Any) -> str:
    """A number as its column shows it; nothing where there is none."""
    if not isinstance(value, int | float):
        return ""
    if key == "epoch":
        return str(value)
    if key == "seconds":
        return duration(value)
    if key == "data_share":
        return f"{value:.0%}"
    return {"lr": f"{value:.3g}", "images_per_second": f"{value:.1f}"}.get(key, f"{value:.3f}")


def duration(seconds: float) -> str:
    """`"0:07"`, `"12:34"`, `"3:00:00"`."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
