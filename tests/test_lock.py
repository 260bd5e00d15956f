"""A run folder belongs to one process at a time, and a process that was killed does not keep it."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from aweigh import lock
from aweigh.checkpoints.checkpoint import load_model
from aweigh.cli.main import run as run_command
from aweigh.errors import AweighError
from aweigh.lock import FolderTakenError, hold
from aweigh.training import loop
from aweigh.training import train as training
from aweigh.training.config import resolve
from aweigh.training.train import train

HOLDER = """
import os, sys, time
from aweigh.lock import hold
with hold(sys.argv[1]):
    child = os.fork() if "fork" in sys.argv else -1
    if child == 0:
        os.closerange(0, 3)
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds the folder `run`; it ends when its input is closed."""
    started = []

    def begin(*words):
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "run"), *words]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, int(process.stdout.readline())

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_a_folder_that_another_process_holds_is_refused_and_free_when_it_is_done(tmp_path, holder):
    process, _ = holder()
    with pytest.raises(
        FolderTakenError, match=rf"run is in use by another run \(process {process.pid} on .*, since 20"
    ):
        hold(tmp_path / "run").__enter__()
    process.communicate()
    with hold(tmp_path / "run") as remark:
        assert remark == "" and f"process {os.getpid()} on " in (tmp_path / "run" / "lock").read_text()
        with pytest.raises(FolderTakenError, match="held by this very process"):
            hold(tmp_path / "run").__enter__()
    assert not (tmp_path / "run" / "lock").exists()


def test_the_lock_of_a_killed_process_is_taken_over_though_its_children_live(tmp_path, holder):
    """The file of the lock is there with a process number that may be anybody's; only the system's lock counts."""
    process, child = holder("fork")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    try:
        os.kill(child, 0)  # it lives
        with hold(tmp_path / "run") as remark:
            assert remark.startswith(f"The run before (process {process.pid} on ") and "taken over" in remark
    finally:
        os.kill(child, signal.SIGKILL)
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "lock").write_text(f"process {os.getppid()} on elsewhere\n")  # alive, and not the holder
    with hold(tmp_path / "run") as remark:
        assert f"process {os.getppid()} on elsewhere" in remark


def test_a_folder_made_for_nothing_is_removed(tmp_path):
    with hold(tmp_path / "new"):
        pass
    with hold(tmp_path / "kept"):
        (tmp_path / "kept" / "file").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_disk_without_locks_is_said(tmp_path, monkeypatch):
    def none(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", none)
    with hold(tmp_path) as remark:
        assert "knows no locks (No locks available): see to it that one process alone" in remark


def test_no_second_run_trains_in_the_folder(configure, quiet, tmp_path, holder, toys, capsys, monkeypatch):
    """Training into the folder and going on with its run alike; the folder stays as it is. Numbered ones differ."""
    folder = train(configure(epochs=1), console=quiet)
    before = (folder / "log.jsonl").read_bytes()
    process, _ = holder()
    with pytest.raises(FolderTakenError):
        train(*resolve(None, {"resume": str(folder), "epochs": 2}), extend="stretch", console=quiet)
    assert run_command(["resume", str(folder)]) == 2
    assert f"in use by another run (process {process.pid} on" in capsys.readouterr().err
    (folder / "config.toml").unlink()  # as in a run that has just begun
    with pytest.raises(FolderTakenError):
        train(configure(), console=quiet)
    assert (folder / "log.jsonl").read_bytes() == before and not (folder / "config.toml").exists()
    process.communicate()

    monkeypatch.chdir(tmp_path)
    names = iter(["run", "other"])
    monkeypatch.setattr(training, "run_folder", lambda config: Path(next(names)))
    holder()
    with training._claimed(configure(output=""), quiet) as claimed:
        assert claimed == Path("other")


def test_a_run_that_takes_over_says_so(configure, quiet):
    folder = train(configure(epochs=1), console=quiet)
    (folder / "lock").write_text("process 4711 on node-3, since 2026-01-01 00:00:00\n")
    train(*resolve(None, {"resume": str(folder)}), console=quiet)
    assert "The run before (process 4711 on node-3, since 2026-01-01 00:00:00) ended" in quiet.file.getvalue()
    assert not (folder / "lock").exists()


def test_a_killed_reader_ends_the_run_with_one_line_and_it_goes_on(configure, quiet, monkeypatch, tmp_path):
    whole = train(configure(output=str(tmp_path / "whole")), console=quiet)
    step = loop.optimiser_step

    def kill_in_the_third(run, losses, group):
        if run.step == 2:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            time.sleep(0.2)  # where torch's handler finds out
        return step(run, losses, group)

    monkeypatch.setattr(loop, "optimiser_step", kill_in_the_third)
    with pytest.raises(AweighError) as caught:
        train(configure(workers=1, save_every=1), console=quiet)
    folder = tmp_path / "run"
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    assert "A process that reads images is gone (DataLoader worker (pid" in str(caught.value)
    assert str(caught.value).endswith(f"To go on from the last saved state: aweigh resume {folder}")
    assert not list(folder.glob("crash-*"))
    monkeypatch.undo()
    train(*resolve(None, {"resume": str(folder)}), console=quiet)
    one, other = (load_model(run / "last.safetensors")[0].state_dict() for run in (folder, whole))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_killed_reader_of_any_command_is_one_line(monkeypatch, capsys):
    def gone(*args, **rest):
        raise RuntimeError("DataLoader worker (pid 4711) is killed by signal: Killed. ")

    monkeypatch.setattr("aweigh.cli.main.app", gone)
    assert run_command(["eval", "x", "y"]) == 1
    assert capsys.readouterr().err.startswith(
        "error: A process that reads images is gone (DataLoader worker (pid 4711)"
    )
