"""A run survives: kills at any moment, broken and missing state files, a full disk, another length, other data."""

import errno
import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from tests.runs import outcome

from aweigh.checkpoints.checkpoint import load_model, load_state, save_state
from aweigh.errors import DataError, UsageError
from aweigh.files import atomic_file
from aweigh.header import read_header
from aweigh.training import loop
from aweigh.training.config import TrainConfig, resolve
from aweigh.training.logs.json_lines import read_log
from aweigh.training.settings import load_recipe
from aweigh.training.train import train


def rows(folder, kind):
    return [row for row in read_log(folder / "log.jsonl") if row["kind"] == kind]


def again(folder, **changes):
    return resolve(None, {"resume": str(folder), **changes})[0]


@pytest.mark.parametrize(("kills", "workers"), [(6, 0), (3, 1), pytest.param(100, 0, marks=pytest.mark.thorough)])
@pytest.mark.long
def test_a_run_killed_many_times_ends_with_the_same_bits(tmp_path, start, kills, workers):
    """Weights, state, log and files are those of a run that was left alone; no file is half written."""
    script = f"import runpy; runpy.run_path({str(Path(__file__).with_name('kills.py'))!r}, run_name='__main__')"
    process = start(tmp_path, "--kills", kills, "--workers", workers, code=script)
    (code,), (output,) = outcome([process], timeout=1200)
    assert code == 0, output
    found = json.loads(output.splitlines()[-1])
    print(found)
    assert found["kills"] == kills and found["differences"] == []


@pytest.fixture
def stopped(configure, quiet, monkeypatch):
    """A run of 2 epochs with 2 steps each that was asked to stop in step 3, its state saved at every step."""
    from aweigh.training import loop

    step = loop.optimiser_step

    def until_three(run, losses, group):
        if run.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(run, losses, group)

    monkeypatch.setattr(loop, "optimiser_step", until_three)
    config = configure(save_every=1)
    with pytest.raises(KeyboardInterrupt):
        train(config, console=quiet)
    monkeypatch.undo()
    return Path(config.output)


def test_a_truncated_state_falls_back_to_the_one_before_and_says_so(stopped, quiet, configure, tmp_path):
    whole = train(configure(output=str(tmp_path / "whole")), console=quiet)
    path = stopped / "last" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    train(again(stopped), console=quiet)
    assert f"{path} is truncated" in quiet.file.getvalue()
    assert f"Going on from {path.with_name('previous.safetensors')}" in quiet.file.getvalue()
    a, b = (load_model(run / "last.safetensors")[0].state_dict() for run in (whole, stopped))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_with_both_states_broken_nothing_is_trained_or_overwritten(stopped, quiet):
    for name in ("state", "previous"):
        (stopped / "last" / f"{name}.safetensors").write_bytes(b"nothing")
    before = (stopped / "log.jsonl").read_bytes()
    with pytest.raises(DataError, match="no state to go on from"):
        train(again(stopped), console=quiet)
    assert (stopped / "log.jsonl").read_bytes() == before


def test_a_run_killed_before_its_first_state_begins_again(stopped, quiet, configure, tmp_path):
    for path in (stopped / "last").iterdir():
        path.unlink()
    (stopped / "last" / ".state.4711.safetensors").write_bytes(b"half")  # what a kill leaves
    (stopped / ".best.4711.safetensors").write_bytes(b"half")
    (stopped / "last" / ".tmpDXDAYP").write_bytes(b"half")
    train(again(stopped), console=quiet)
    assert "No state was saved yet: from the beginning." in quiet.file.getvalue()
    assert [row["step"] for row in rows(stopped, "step")] == [1, 2, 3, 4]
    assert not list(stopped.rglob(".*"))


def test_the_configuration_keeps_its_origins_when_a_run_goes_on(stopped, quiet):
    before = (stopped / "config.toml").read_text()
    train(again(stopped), console=quiet)
    assert (stopped / "config.toml").read_text() == before and 'resume = ""' in before
    assert load_recipe(TrainConfig, stopped / "config.toml")["save_every"] == 1


def test_changed_data_are_noticed(stopped, quiet):
    root = Path(load_recipe(TrainConfig, stopped / "config.toml")["data"])
    path = root / "annotations" / "instances_train.json"
    text = path.read_text()
    content = json.loads(text)
    content["annotations"] = content["annotations"][:-1]
    try:
        path.write_text(json.dumps(content))
        train(again(stopped), console=quiet)
    finally:
        path.write_text(text)
    assert "The training data has changed since: boxes 16 -> 15, hash " in quiet.file.getvalue()


def test_a_longer_run_keeps_or_stretches_the_schedule(configure, quiet, tmp_path):
    """Stretched, the rate follows the curve over the new length; kept, it stays where the old one ended."""
    base = {"epochs": 2, "schedule": "step", "steps": (0.5,), "lr_batch": 0, "lr": 0.01, "warmup": 0}
    kept = train(configure(**base), console=quiet)
    train(again(kept, epochs=4), extend="keep", console=quiet)
    assert [row["lr"] for row in rows(kept, "step")] == pytest.approx([0.01] * 2 + [0.001] * 6)
    assert "The schedule stays laid out for 4 steps; after them lr stays at 0.001." in quiet.file.getvalue()
    assert load_recipe(TrainConfig, kept / "config.toml")["schedule_steps"] == 4
    stretched = train(configure(**base, output=str(tmp_path / "stretched")), console=quiet)
    train(again(stretched, epochs=4), extend="stretch", console=quiet)
    assert [row["lr"] for row in rows(stretched, "step")] == pytest.approx([0.01] * 2 + [0.001] * 2 + [0.001] * 4)
    assert "The schedule of 4 steps is now laid over 8." in quiet.file.getvalue()


def test_a_length_that_trains_nothing_is_refused(configure, quiet, tmp_path):
    """Fewer than are done: exit code 2, and what to give; as many: it is finished, and in which unit to go on."""
    by_epochs = train(configure(epochs=2), console=quiet)
    by_steps = train(configure(iterations=3, output=str(tmp_path / "steps")), console=quiet)
    for folder, length, words in (
        (by_epochs, {"epochs": 1}, "has done 2 epochs already; give more than that, as --epochs 4"),
        (by_steps, {"iterations": 2}, "has done 3 steps already; give more than that, as --iterations 6"),
    ):
        before = (folder / "config.toml").read_bytes()
        config, origin = resolve(None, {"resume": str(folder), **length})
        with pytest.raises(UsageError, match=words):
            train(config, origin, console=quiet)
        assert (folder / "config.toml").read_bytes() == before
    for folder, length, words in (
        (by_epochs, {"epochs": 2}, "finished (2 epochs, 4 steps); --epochs 4 would go on"),
        (by_steps, {"iterations": 3}, "finished (2 epochs, 3 steps); --iterations 6 would go on"),
    ):
        train(*resolve(None, {"resume": str(folder), **length}), console=quiet)
        assert words in quiet.file.getvalue()


def test_a_run_that_ended_by_patience_says_how_to_go_on(configure, quiet, monkeypatch):
    values = iter([0.5, 0.4, 0.3, 0.2])
    monkeypatch.setattr(loop, "selected", lambda metrics, select: next(values))
    folder = train(configure(epochs=4, patience=1), console=quiet)
    assert f"To go on all the same: aweigh resume {folder} --patience 0" in quiet.file.getvalue()
    with pytest.raises(UsageError, match=r"no better AP for 1 epoch \(patience 1\).*--patience 0"):
        train(*resolve(None, {"resume": str(folder), "epochs": 9}), extend="stretch", console=quiet)
    train(*resolve(None, {"resume": str(folder), "patience": 0, "epochs": 3}), extend="stretch", console=quiet)
    assert len(rows(folder, "epoch")) == 3


def test_a_run_that_kept_its_schedule_can_be_stretched_later(configure, quiet):
    folder = train(configure(epochs=1, schedule="cosine", final_lr=0.5, warmup=0, lr=0.01, lr_batch=0), console=quiet)
    train(again(folder, epochs=2), extend="keep", console=quiet)
    train(again(folder, epochs=4), extend="stretch", console=quiet)
    assert "The schedule of 2 steps is now laid over 8." in quiet.file.getvalue()
    assert load_recipe(TrainConfig, folder / "config.toml")["schedule_steps"] == 0
    curve = [0.01 * (0.5 + 0.25 * (1 + math.cos(math.pi * step / 8))) for step in range(4, 8)]
    assert [row["lr"] for row in rows(folder, "step")] == pytest.approx([0.01, 0.0075, 0.005, 0.005, *curve])


def test_a_state_of_another_version_is_refused_by_name(stopped, quiet):
    tensors, values, _ = load_state(stopped / "last")
    save_state(stopped / "last", tensors, {name: value for name, value in values.items() if name != "batches"})
    with pytest.raises(UsageError, match="saved by another version: its state lacks batches"):
        train(again(stopped), console=quiet)


def test_a_schedule_that_ends_at_zero_cannot_be_kept(configure, quiet):
    folder = train(configure(schedule="cosine", epochs=1), console=quiet)
    with pytest.raises(UsageError, match=r"ends at lr 0 after step 2.*--schedule stretch --epochs 2"):
        train(again(folder, epochs=2), extend="keep", console=quiet)
    train(again(folder, epochs=2), extend="stretch", console=quiet)
    assert len(rows(folder, "step")) == 4 and rows(folder, "step")[3]["lr"] > 0


def test_the_images_per_step_have_to_stay_the_same(stopped, quiet):
    with pytest.raises(UsageError, match=r"trained with 4 images per step \(1 x 4\).*give --batch 4"):
        train(again(stopped, batch=2), console=quiet)


def test_a_full_disk_ends_the_run_with_one_line_and_the_state_before_intact(stopped, start):
    """The limit on file sizes makes the write of the next checkpoint fail in its middle."""
    state_path = stopped / "last" / "state.safetensors"
    before = state_path.read_bytes()
    best = (stopped / "best.safetensors").read_bytes()
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2}, resource.RLIM_INFINITY)); "
        "from aweigh.cli.main import main; main()"
    )
    (code,), (output,) = outcome([start("resume", stopped, code=script)])
    assert code == 1, output
    last = output.strip().splitlines()[-1]
    assert last.startswith(f"error: The disk of {stopped} is full") and f"aweigh resume {stopped}" in last
    assert state_path.read_bytes() == before and (stopped / "best.safetensors").read_bytes() == best
    assert not list(stopped.rglob(".*.safetensors"))
    load_state(stopped / "last")
    (code,), (output,) = outcome([start("resume", stopped)])
    assert code == 0 and "best AP" in output, output


def test_no_space_while_writing_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(OSError) as caught, atomic_file(path):
        raise SafetensorError("I/O error: No space left on device (os error 28)")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert path.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_the_resume_command(stopped, start):
    (code,), (output,) = outcome([start("resume", stopped, "--epochs", 3, "--schedule", "stretch")])
    assert code == 0 and "Going on in epoch 2, step 3 of 6." in output, output
    assert read_header(stopped / "last.safetensors")["training"]["step"] == 6
    (code,), (output,) = outcome([start("resume", stopped / "last")])
    assert code == 2 and "no run folder to go on with" in output


def test_deterministic_runs_repeat_their_bits(configure, quiet, tmp_path):
    first, second = (
        train(configure(deterministic=True, epochs=1, color=0.5, output=str(tmp_path / name)), console=quiet)
        for name in "ab"
    )
    a, b = (load_state(run / "last")[0] for run in (first, second))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.are_deterministic_algorithms_enabled()
