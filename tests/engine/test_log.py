import io
import math

from rich.console import Console

from aweigh.engine.log import Means, RunLog, Stopwatch, read_log


def test_rows_are_written_at_once_and_never_hold_nan(tmp_path):
    path = tmp_path / "log.jsonl"
    with RunLog(path, console=Console(file=io.StringIO())) as log:
        log.write("step", step=1, loss=math.nan, lr=0.1)
        assert read_log(path) == [{"kind": "step", "step": 1, "loss": None, "lr": 0.1}]


def test_a_resumed_log_loses_only_what_comes_after_the_state(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"kind": "step", "step": 1}\n{"kind": "step", "step": 2}\n{"kind": "st', encoding="utf-8")
    assert len(read_log(path)) == 2
    with RunLog(path, console=Console(file=io.StringIO()), keep_to_step=1) as log:
        log.write("step", step=2)
    assert [row["step"] for row in read_log(path)] == [1, 2]


def test_without_a_terminal_there_are_plain_lines_only(tmp_path):
    out = io.StringIO()
    with RunLog(tmp_path / "log.jsonl", console=Console(file=out, width=20)) as log:
        with log.bar("epoch 1", 2) as bar:
            bar.advance("loss 1")
            bar.to(2, 2)
        log.say("epoch 1/2  loss 0.5 [bold] and a line longer than the console")
    assert out.getvalue() == "epoch 1/2  loss 0.5 [bold] and a line longer than the console\n"


def test_means_leave_out_what_is_not_finite():
    means = Means()
    means.add({"a": 1.0, "b": math.inf})
    means.add({"a": 3.0, "b": 2.0})
    assert means.result() == {"a": 2.0, "b": 2.0}


def test_stopwatch_adds_laps():
    watch = Stopwatch()
    first, second = watch.lap("read"), watch.lap("read")
    assert watch.seconds["read"] == first + second >= 0
