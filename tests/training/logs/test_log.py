"""The log of a run: what it holds after kills, what results.csv says, what a terminal shows."""

import csv
import io
import itertools
import json
import math
import os
import sys
import time
import types
from typing import ClassVar

import pytest
from rich.console import Console
from tests.runs import FORKS

from aweigh.errors import UsageError
from aweigh.inference.meters import Means, Stopwatch
from aweigh.training.logs.callback import Beginning
from aweigh.training.logs.json_lines import read_log
from aweigh.training.logs.log import RunLog
from aweigh.training.logs.progress import Display, duration, epoch_table
from aweigh.training.logs.table import COLUMNS, best_epoch, results_table
from aweigh.training.logs.tensorboard import require_tensorboard

ENDED = {"lr": 0.01, "seconds": 61.0, "data_share": 0.25, "skipped_steps": 0}  # of every epoch
PER_CLASS = {"cat": {"AP": 0.25, "AP50": 0.5}, "a, dog": {"AP": -1.0, "AP50": -1.0}}


def silent() -> Console:
    return Console(file=io.StringIO())


def log_in(folder, *, console=None, tensorboard=False, active=True, **begun) -> RunLog:
    """The log of a run in a folder. begun: of its beginning, as the steps and epochs that are done."""
    beginning = Beginning(folder, **begun)
    return RunLog(beginning, console=console or silent(), tensorboard=tensorboard, active=active)


def terminal(width: int = 80, height: int = 24) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None, _environ={})


def table_of(path):
    if not path.with_name("results.csv").exists():
        return []
    with path.with_name("results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rows_are_written_at_once_and_never_hold_nan(tmp_path):
    path = tmp_path / "log.jsonl"
    with log_in(tmp_path) as log:
        log.step(step=1, loss=math.nan, lr=0.1)
        assert read_log(path) == [{"kind": "step", "step": 1, "loss": None, "lr": 0.1}]


def test_a_resumed_log_loses_only_what_comes_after_the_state(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"kind": "step", "step": 1}\n{"kind": "step", "step": 2}\n{"kind": "st', encoding="utf-8")
    assert len(read_log(path)) == 2
    with log_in(tmp_path, step=1, epoch=0) as log:
        log.step(step=2)
    assert [row["step"] for row in read_log(path)] == [1, 2]


def test_an_epoch_that_is_validated_again_is_there_once(tmp_path):
    """The state was saved after the last step of epoch 2, and the kill came after its row was written."""
    path = tmp_path / "log.jsonl"
    with log_in(tmp_path, step=0, epoch=0) as log:
        for epoch in (1, 2):
            log.step(step=epoch, epoch=epoch, loss=1.0)
            log.epoch(step=epoch, epoch=epoch, loss=1.0, AP=0.1 * epoch, **ENDED)
    with log_in(tmp_path, step=2, epoch=1) as log:
        assert [row["epoch"] for row in table_of(path)] == ["1"]
        log.epoch(step=2, epoch=2, loss=1.0, AP=0.5, **ENDED)
    assert [(row["epoch"], row["AP"]) for row in table_of(path)] == [("1", "0.1"), ("2", "0.5")]
    assert [row["kind"] for row in read_log(path)] == ["step", "epoch", "step", "epoch"]
    with log_in(tmp_path):  # a new run in the same place
        pass
    assert read_log(path) == table_of(path) == []


def test_only_one_of_several_processes_logs(tmp_path):
    path, out = tmp_path / "log.jsonl", io.StringIO()
    path.write_text('{"kind": "step", "step": 1}\n', encoding="utf-8")
    with log_in(tmp_path, console=Console(file=out, force_terminal=True), active=False, tensorboard=True) as log:
        log.epoch(step=2, epoch=1, loss=1.0, **ENDED)
        log.say("hello")
        with log.bar("epoch", 3) as bar:
            bar.advance("x")
            bar.to(1, 3)
    assert out.getvalue() == "" and os.listdir(tmp_path) == ["log.jsonl"]
    assert [row["step"] for row in read_log(path)] == [1]


def test_columns_of_the_table_are_the_same_in_every_epoch():
    first = {"epoch": 1, "step": 5, "loss": 2.0, "loss_box": 1.0, "lr": 0.1}
    second = {**first, "epoch": 2, "val_loss": 1.5, "val_loss_box": 0.5, "AP": None, "per_class": PER_CLASS}
    head, *rows = results_table([first, second], classes=("cat", "a, dog"))
    assert head[: len(COLUMNS)] == list(COLUMNS)
    assert head[len(COLUMNS) :] == ["loss_box", "val_loss_box", "AP:cat", "AP:a, dog"]
    assert results_table([first], classes=("cat", "a, dog"))[0] == head
    by_name = [dict(zip(head, row)) for row in rows]
    assert by_name[0]["AP"] == by_name[1]["AP"] == by_name[1]["AP:a, dog"] == by_name[0]["val_loss"] == ""
    assert by_name[1]["AP:cat"] == 0.25 and by_name[1]["val_loss_box"] == 0.5
    assert [row["best"] for row in by_name] == [0, 1]


def test_the_best_epoch_is_that_of_the_checkpoint():
    rows = [
        {"epoch": 1, "AP": 0.2, "val_loss": 1.0, "per_class": {"cat": {"AP": 0.9}}},
        {"epoch": 2},  # not validated
        {"epoch": 3, "AP": 0.3, "val_loss": None, "per_class": {"cat": {"AP": 0.1}}},
        {"epoch": 4, "AP": 0.3, "val_loss": 2.0, "per_class": {"cat": {"AP": 0.1}}},
    ]
    assert best_epoch(rows, "AP") == 4  # the later of equals
    assert best_epoch(rows, "val_loss") == 1 and best_epoch(rows, "AP:cat") == 1
    assert best_epoch(rows[1:2], "AP") is None and best_epoch([], "AP") is None
    assert best_epoch([{"epoch": 1, "AP": None}], "AP") == 1  # no number, but nothing better


def write_epochs(folder, ready):
    """What a run does to its log, for ever; three steps in an epoch."""
    finished = max((row["epoch"] for row in read_log(folder / "log.jsonl") if row["kind"] == "epoch"), default=0)
    ready.send_bytes(b"!")
    with log_in(folder, step=finished * 3, epoch=finished) as log:
        for epoch in itertools.count(finished + 1):
            for step in range(3 * epoch - 2, 3 * epoch + 1):
                log.step(step=step, epoch=epoch, loss=1 / step)
            log.epoch(step=epoch * 3, epoch=epoch, loss=1 / epoch, **ENDED)


def test_killed_at_any_moment_each_epoch_is_there_once(tmp_path):
    path, count = tmp_path / "log.jsonl", 0
    for number in range(30):
        heard, ready = FORKS.Pipe(duplex=False)
        child = FORKS.Process(target=write_epochs, args=(tmp_path, ready))
        child.start()
        ready.close()  # here; a child that ends without a word is an EOFError then
        heard.recv_bytes()
        time.sleep(0.0023 * (number * 11 % 30))  # 0 to 67 ms: while it is read, too
        child.kill()
        child.join()
        heard.close()
        rows = read_log(path)
        epochs = [row["epoch"] for row in rows if row["kind"] == "epoch"]
        assert epochs == list(range(1, len(epochs) + 1)) and len(epochs) >= count
        steps = [row["step"] for row in rows if row["kind"] == "step"]
        assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 3 * len(epochs)
        assert [int(row["epoch"]) for row in table_of(path)] in (epochs, epochs[:-1])  # the table follows the log
        count = len(epochs)
    assert count > 5  # on a busy machine few end before they are killed


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    real = os.write

    def half(file, data):
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return real(file, data[: len(data) // 2])

    with log_in(tmp_path) as log:
        log.step(step=1)
        monkeypatch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space left") as raised:
            log.step(step=2, loss=1.0)
        assert raised.value.filename == str(path)
        monkeypatch.undo()
        log.step(step=3)
    assert path.read_text() == '{"kind": "step", "step": 1}\n{"kind": "step", "step": 3}\n'


def test_history_is_short_and_holds_the_means(tmp_path):
    with log_in(tmp_path) as log:
        for step in range(1, 4101):
            log.step(step=step, epoch=1, loss=float(step), lr=0.1, grad_norm=3.0)
        log.epoch(step=4100, epoch=1, loss=2.0, **ENDED)
        rows = log.history()
    steps = [row for row in rows if row["kind"] == "step"]
    assert rows[-1]["kind"] == "epoch" and 1000 <= len(steps) <= 2000
    assert all(row["loss"] == pytest.approx(row["step"]) and row["lr"] == pytest.approx(0.1) for row in steps)
    assert steps[0]["step"] == 2.5 and steps[-1]["step"] == 4098.5 and "grad_norm" not in steps[0]
    with log_in(tmp_path, step=4100, epoch=1) as log:
        assert log.history() == rows


# --- TensorBoard ------------------------------------------------------------------------------------------------------


class Writer:
    """In the place of TensorBoard's."""

    made: ClassVar[list["Writer"]] = []

    def __init__(self, folder, purge_step=None):
        self.folder, self.purge_step, self.rows, self.closed = folder, purge_step, [], False
        Writer.made.append(self)

    def add_scalar(self, name, value, step):
        self.rows.append((name, value, step))

    def close(self):
        self.closed = True


def test_tensorboard_gets_every_number_and_hides_what_is_written_again(tmp_path, monkeypatch):
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Writer, "made", [])
    with log_in(tmp_path, step=7, epoch=1, tensorboard=True) as log:
        log.step(step=8, epoch=2, loss=1.0, loss_box=math.inf, lr=0.1)
        log.epoch(step=8, epoch=2, loss=1.0, val_loss=2.0, AP=0.5, per_class={"cat": {"AP": 0.5}}, **ENDED)
        log.problem("a file", step=8, epoch=2)
    (writer,) = Writer.made
    assert writer.folder == str(tmp_path) and writer.purge_step == 8 and writer.closed
    assert writer.rows == [
        *(("train/loss", 1.0, 8), ("train/lr", 0.1, 8)),
        *(("epoch/loss", 1.0, 8), ("val/loss", 2.0, 8), ("val/AP", 0.5, 8)),
        *((f"epoch/{name}", value, 8) for name, value in ENDED.items()),
    ]
    with log_in(tmp_path):
        assert len(Writer.made) == 1  # never unasked


def test_without_tensorboard_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r'pip install "aweigh\[track\]"'):
        require_tensorboard()


# --- what the user sees -----------------------------------------------------------------------------------------------


def test_without_a_terminal_there_are_plain_lines_only(tmp_path):
    out = io.StringIO()
    with log_in(tmp_path, console=Console(file=out, width=20), epochs=2) as log:
        with log.bar("epoch 1", 2) as bar:
            log.step(step=1, epoch=1, loss=1.0)
            bar.advance("loss 1")
            bar.to(2, 2)
        log.epoch(step=2, epoch=1, loss=0.5, loss_box=0.5, val_loss=math.nan, AP=0.25, **ENDED)
        log.say("[bold] and a line longer than the console")
    line = "epoch 1/2  loss 0.500 (box 0.500)  val_loss -  AP 0.250  lr 0.01  61 s, 25% waiting for images  *best"
    assert out.getvalue() == f"{line}\n[bold] and a line longer than the console\n"


def played(console: Console, tmp_path, *, epochs: int = 3, stop: bool = False) -> str:
    """A small run on a terminal; what the terminal was sent."""
    try:
        with log_in(tmp_path, console=console, total_steps=4 * epochs) as log:
            for epoch in range(1, epochs + 1):
                with log.bar(f"epoch {epoch}/{epochs}", 4) as bar:
                    for step in range(4 * epoch - 3, 4 * epoch + 1):
                        numbers = {"loss": 3.0 / step, "loss_box": 1.0 / step, "loss_class": 2.0 / step, "lr": 0.01}
                        log.step(step=step, epoch=epoch, **numbers, data_seconds=0.1, step_seconds=0.3, images=8)
                        bar.advance("loss")
                        if stop and step == 6:
                            raise KeyboardInterrupt
                numbers = {"loss": 1.0 / epoch, "val_loss": 1.2 / epoch, **ENDED}
                metrics = dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), 0.5 if epoch == 2 else 0.1)
                log.epoch(step=4 * epoch, epoch=epoch, **numbers, **metrics, images_per_second=20.0)
                log.say(f"a remark {epoch}")
    except KeyboardInterrupt:
        pass
    assert console.file.getvalue().count("\x1b[?25l") <= console.file.getvalue().count("\x1b[?25h")  # hidden, shown
    return console.file.getvalue()


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_a_terminal_of_any_width_shows_the_table_and_no_line_is_too_long(tmp_path, width):
    text = played(terminal(width), tmp_path)
    assert "waiting for images" not in text and "a remark 3" in text
    plain = [line for line in strip(text).splitlines() if "remark" not in line]
    assert max(map(len, plain)) <= width
    last = "\n".join(plain[-5:])
    assert "*2" in last and "0.500" in last  # the best epoch is marked in what is left behind
    assert ("AP75" in last) == ("waiting" in last) == (width >= 80)


def test_the_numbers_of_the_moment(monkeypatch, tmp_path):
    clock = iter(range(1000))
    monkeypatch.setattr("aweigh.training.logs.progress.time.monotonic", lambda: float(next(clock)))
    console = terminal(100)
    display = Display(console)
    display.start(Beginning(tmp_path, total_steps=100))
    display.open_bar("epoch 1/2", 50)
    for step in (1, 2):
        losses = {"loss": 3.0 * step, "loss_box": 1.0 * step, "loss_class": None}
        display.step({"step": step, **losses, "lr": 0.0025, "data_seconds": 1.0, "step_seconds": 3.0, "images": 8})
        display.advance()
    text = strip(console.file.getvalue())
    display.end(complete=True)
    assert "loss 4.500 = box 1.500\n" in text
    assert "lr 0.0025, 2.0 images/s, 4.00 s/step, 25% waiting, run done in " in text
    assert "2/50" in text


def test_the_terminal_is_given_back_when_the_run_is_broken_off(tmp_path):
    streams = sys.stdout, sys.stderr
    text = played(terminal(), tmp_path, stop=True)
    assert (sys.stdout, sys.stderr) == streams
    assert strip(text).endswith("\n") and text.rindex("\x1b[?25h") > text.rfind("\x1b[?25l")


def test_a_terminal_without_control_codes_gets_plain_lines(tmp_path):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None, _environ={"TERM": "dumb"})
    played(console, tmp_path)
    assert "\x1b" not in out.getvalue() and out.getvalue().count("waiting for images") == 3


def test_the_best_epoch_stays_in_the_table():
    rows = [{"epoch": epoch, "loss": 1.0, "AP": 0.5} for epoch in range(1, 101)]
    table = epoch_table(rows, 3, (80, 24))
    epochs = list(table.columns[0].cells)
    assert epochs[0] == "*3" and epochs[1:] == [str(epoch) for epoch in range(94, 101)]
    assert list(epoch_table(rows, 100, (80, 8)).columns[0].cells) == ["99", "*100"]
    assert list(epoch_table(rows, 3, (80, 3)).columns[0].cells) == ["*3", "100"]
    assert [duration(seconds) for seconds in (0, 7.4, 754, 10_800)] == ["0:00", "0:07", "12:34", "3:00:00"]


def strip(text: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")


def test_means_leave_out_what_is_not_finite():
    means = Means()
    means.add({"a": 1.0, "b": math.inf})
    means.add({"a": 3.0, "b": 2.0})
    assert means.result() == {"a": 2.0, "b": 2.0}


def test_stopwatch_adds_laps():
    watch = Stopwatch()
    first, second = watch.lap("read"), watch.lap("read")
    assert watch.seconds["read"] == first + second >= 0


def test_the_log_is_json_lines(tmp_path):
    with log_in(tmp_path) as log:
        log.epoch(epoch=1, step=1, loss=0.1, per_class=PER_CLASS, **ENDED)
    assert json.loads((tmp_path / "log.jsonl").read_text())["per_class"] == PER_CLASS
