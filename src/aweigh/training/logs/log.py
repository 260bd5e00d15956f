"""What a run tells: rows to its callbacks, our own logs first, and lines and bars to the user.

Our own are `log.jsonl`, which is the truth, `results.csv`, on demand TensorBoard's files, and what the console shows:
on a terminal a table and a bar, elsewhere one plain line per epoch.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

from rich.console import Console

from aweigh.console import SafeConsole
from aweigh.errors import AweighError
from aweigh.training.logs.callback import Beginning, Callback, Row
from aweigh.training.logs.epoch_lines import EpochLines
from aweigh.training.logs.json_lines import JsonLines
from aweigh.training.logs.progress import Display
from aweigh.training.logs.table import Table, best_epoch
from aweigh.training.logs.tensorboard import Board


class RunLog:
    """Tells each callback of the beginning, the steps, the epochs and the end of a run; a context manager."""

    def __init__(
        self,
        beginning: Beginning,
        *,
        console: Console | None = None,
        tensorboard: bool = False,
        active: bool = True,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        """beginning: its `earlier` rows are read from the log. active: False for all but one of several processes:
        nothing is written and nothing told."""
        self.console = console or SafeConsole(stderr=True)
        self.path = beginning.folder / "log.jsonl"
        self._beginning, self._active = beginning, active
        self._epochs: list[Row] = []
        self._lines = JsonLines(self.path)
        self._display = Display(self.console)
        shown = [] if self._display.shows else [EpochLines(self.console)]
        boards = [Board()] if tensorboard else []
        self._own = [self._lines, Table(self.path.with_name("results.csv")), self._display, *shown, *boards]
        self._callbacks = [*self._own, *callbacks]
        self._told: list[Callback] = []  # those that have been told of the beginning, and will be of the end

    def __enter__(self) -> "RunLog":
        if not self._active:
            return self
        begun = self._beginning
        self._epochs = self._lines.keep(begun.step, begun.epoch)
        try:
            for callback in self._callbacks:
                with self._named(callback, "start"):
                    callback.start(replace(begun, earlier=tuple(self._epochs)))
                self._told.append(callback)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Every callback is told of the end. What ended the run comes before what fails here."""
        failed: list[AweighError] = []
        for callback in self._told:
            try:
                with self._named(callback, "end"):
                    callback.end(complete=error is None)
            except AweighError as why:
                failed.append(why)
        if error is not None:
            for also in failed:
                error.add_note(str(also))
        elif failed:
            raise failed[0]

    def step(self, **values: Any) -> None:
        """One update: step, epoch, lr, each loss, grad_norm, data_seconds (waiting for images), step_seconds, images.

        Numbers that are not finite become None, here and in an epoch."""
        if self._active:
            row = _row("step", values)
            for callback in self._callbacks:
                with self._named(callback, "step"):
                    callback.step(row)

    def epoch(self, **values: Any) -> None:
        """One epoch: its means, val_loss and metrics."""
        if self._active:
            row = _row("epoch", values)
            self._epochs.append(row)
            best = best_epoch(self._epochs, self._beginning.select) == row["epoch"]
            for callback in self._callbacks:
                with self._named(callback, "epoch"):
                    callback.epoch(row, best=best)

    def problem(self, text: str, *, epoch: int, step: int) -> None:
        """An image that was skipped or mended while reading: one line for the user, one row of the log."""
        self.say(f"  {text}")
        if self._active:
            self._lines.append(_row("problem", {"problem": text, "epoch": epoch, "step": step}))

    def say(self, text: str) -> None:
        """One line for the user, above the table where there is one. The text is taken literally."""
        if self._active:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[Display]:
        """A progress bar for one pass, under the table, where the console is a terminal; else nothing."""
        if self._active:
            self._display.open_bar(description, total)
        try:
            yield self._display
        finally:
            self._display.close_bar()

    def history(self) -> list[Row]:
        """What the curves are drawn from: steps (at most about a thousand rows, neighbours averaged), then epochs."""
        return self._lines.history()

    @contextmanager
    def _named(self, callback: Callback, event: str) -> Iterator[None]:
        """What goes wrong in a callback that is not ours is an `AweighError` with its name."""
        try:
            yield
        except Exception as error:
            if callback in self._own:
                raise
            raise AweighError(
                f"The callback {type(callback).__name__} failed in `{event}`: {type(error).__name__}: {error}. To go "
                f"on from the last saved state: aweigh resume {self._beginning.folder}"
            ) from error


def _row(kind: str, values: dict[str, Any]) -> Row:
    finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
    return {"kind": kind, **finite}
