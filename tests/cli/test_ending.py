"""A command that is ended from outside leaves nothing unfinished; names are shown in any locale."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App
from PIL import Image
from tests.runs import outcome

from aweigh.cli import main
from aweigh.cli.ending import SIGNALS, ended_by_signals
from aweigh.files import atomic_file, atomic_folder
from aweigh.results.writers import DetectionWriter
from aweigh.training.stop import Interrupts


def writes_whole(folder: Path, stop: Callable[[], None]) -> None:
    with atomic_file(folder / "a.png") as path:
        path.write_text("half")
        stop()


def writes_detections(folder: Path, stop: Callable[[], None]) -> None:
    with DetectionWriter(folder / "a.jsonl"):
        stop()


def writes_a_data_set(folder: Path, stop: Callable[[], None]) -> None:
    with atomic_folder(folder / "a") as made:
        (made / "half").touch()
        stop()


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """Whoever started the tests may ignore signals, as nohup and shells without a terminal do."""
    usual = {signal.SIGINT: signal.default_int_handler, **dict.fromkeys(SIGNALS, signal.SIG_DFL)}
    before = {each: signal.signal(each, handler) for each, handler in usual.items()}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("work", [writes_whole, writes_detections, writes_a_data_set])
def test_a_signal_leaves_nothing_unfinished(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    work: Callable[[Path, Callable[[], None]], None],
) -> None:
    app = App(name="aweigh", suppress_keyboard_interrupt=False)
    before = [signal.getsignal(each) for each in SIGNALS]

    @app.default
    def command() -> None:
        work(tmp_path, lambda: os.kill(os.getpid(), number))

    monkeypatch.setattr(main, "app", app)
    assert main.run([]) == 128 + number
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == "stopped\n"
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_a_second_signal_does_not_disturb_the_clearing_away() -> None:
    cleared = False
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
            cleared = True
    assert cleared


def test_what_nohup_ignores_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            with Interrupts(lambda: None) as interrupts:
                os.kill(os.getpid(), signal.SIGHUP)
                assert not interrupts.wanted
    finally:
        signal.signal(signal.SIGHUP, before)
    with Interrupts(lambda: None) as interrupts:
        os.kill(os.getpid(), signal.SIGHUP)
        assert interrupts.wanted


CODE = """
import os, signal, sys, time
from pathlib import Path
from aweigh.images import reader as images
from aweigh.cli.main import main
read = images.read_reduced
def slow(path, *arguments, **options):
    if path.name == "b.png":  # which is read ahead: not before the first is drawn
        drawn, until = Path(sys.argv[-1]) / "a größe 猫.jpg", time.monotonic() + 60
        while not drawn.exists() and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
    return read(path, *arguments, **options)
import aweigh.predictor
aweigh.predictor.read_reduced = slow
main()
"""


@pytest.mark.long
def test_predict_is_ended_as_a_process_and_names_are_shown_in_ascii(tmp_path: Path, start: Callable[..., Any]) -> None:
    """The whole path; and in a new process, with a terminal's encoding that has no such letters."""
    names = ("a größe 猫.png", "b.png", "caf\udce9.png")
    (tmp_path / "in").mkdir()
    for name in names:
        Image.new("RGB", (40, 30)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "c猫\udce9.png").write_bytes(b"")
    words = ["predict", str(tmp_path / "in"), "--device", "cpu"]

    (code,), (said,) = outcome([start(*words, "-o", tmp_path / "ended", code=CODE)])
    assert code == 128 + signal.SIGTERM, said
    assert "Traceback" not in said and said.endswith("stopped\n")
    assert [path.name for path in (tmp_path / "ended").iterdir()] == ["a größe 猫.jpg"]
    command = [sys.executable, "-m", "aweigh", *words, "-o", "-", "--format", "csv", "--no-draw", "--score", "0.01"]
    plain = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    whole = subprocess.run(command, capture_output=True, text=True, env=plain)
    assert whole.returncode == 1 and "Traceback" not in whole.stderr, whole.stderr
    assert "c\\u732b\\udce9.png" in whole.stdout
    assert "left out:" in whole.stderr and "c\\u732b\\udce9.png: the file is empty" in whole.stderr
