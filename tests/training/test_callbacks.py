"""Callbacks are told of the beginning, steps, epochs and the end; what fails in one ends the run by its name."""

import pytest
import torch

import aweigh
from aweigh.checkpoints.checkpoint import load_model, read_header
from aweigh.errors import AweighError, DataError
from aweigh.training.config import resolve
from aweigh.training.logs.json_lines import read_log
from aweigh.training.train import train


class Listening:
    """Keeps all it is told, with what lies in the run folder then; no child of ours."""

    def __init__(self):
        self.told = []

    def start(self, beginning):
        self.folder = beginning.folder
        self.told.append(("start", beginning))

    def step(self, row):
        self.told.append(("step", row))

    def epoch(self, row, *, best):
        self.told.append(("epoch", row, best, read_header(self.folder / "last.safetensors")["training"]["epoch"]))

    def end(self, *, complete):
        self.told.append(("end", complete, (self.folder / "val_predictions.png").exists()))

    def of(self, event):
        return [entry for entry in self.told if entry[0] == event]


class Failing(aweigh.Callback):
    """Raises an error when it is told of a step, an epoch or the end."""

    def __init__(self, *, step=0, epoch=0, end=False):
        self.at, self.fails_at_end = (step, epoch), end

    def step(self, row):
        if row["step"] == self.at[0]:
            raise OSError("the tracker does not answer")

    def epoch(self, row, *, best):
        if row["epoch"] == self.at[1]:
            raise KeyError("AP of birds")

    def end(self, *, complete):
        if self.fails_at_end:
            raise ValueError("the end")


def test_each_is_told_what_the_log_holds_in_order(configure, quiet) -> None:
    first, second = Listening(), Listening()
    folder = train(configure(), console=quiet, callbacks=[first, second])
    assert first.told == second.told
    assert [entry[0] for entry in first.told] == ["start", *["step", "step", "epoch"] * 2, "end"]
    (_, beginning), *_ = first.told
    assert (beginning.folder, beginning.epochs, beginning.total_steps) == (folder, 2, 4)
    assert (beginning.classes, beginning.select) == (("box", "ball"), "AP")
    assert (beginning.step, beginning.epoch, beginning.earlier) == (0, 0, ())
    rows = read_log(folder / "log.jsonl")
    assert [row for _, row, *_ in first.told[1:-1]] == rows and "val_loss" in rows[2]
    assert [saved for *_, saved in first.of("epoch")] == [1, 2]  # its checkpoint is there
    best = [row["epoch"] for _, row, best, _ in first.of("epoch") if best]
    assert best[-1] == read_header(folder / "best.safetensors")["training"]["epoch"]
    assert first.told[-1] == ("end", True, True)  # after the images of the best weights


@pytest.mark.parametrize(
    ("failing", "event", "why", "done"),
    [
        (Failing(step=3), "step", "OSError: the tracker does not answer", (2, 1)),
        (Failing(epoch=2), "epoch", "KeyError: 'AP of birds'", (4, 1)),
    ],
)
def test_an_error_ends_the_run_by_name_and_it_goes_on(configure, quiet, tmp_path, failing, event, why, done) -> None:
    undisturbed = train(configure(output=str(tmp_path / "other")), console=quiet)
    before, after = Listening(), Listening()
    said = rf"The callback Failing failed in `{event}`: {why}\. .* aweigh resume"
    with pytest.raises(AweighError, match=said) as error:
        train(configure(), console=quiet, callbacks=[before, failing, after])
    assert type(error.value) is AweighError
    assert [*map(len, (before.of(event), after.of(event)))] == {"step": [3, 2], "epoch": [2, 1]}[event]
    assert before.told[-1] == after.told[-1] == ("end", False, False)

    again = Listening()
    folder = train(*resolve(None, {"resume": str(before.folder)}), console=quiet, callbacks=[again])
    assert (again.told[0][1].step, again.told[0][1].epoch) == done
    assert [row["epoch"] for row in again.told[0][1].earlier] == [1]
    assert [row["epoch"] for _, row, *_ in again.of("epoch")] == [2]
    (ours, _), (theirs, _) = (load_model(run / "last.safetensors") for run in (folder, undisturbed))
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_an_error_at_the_end_hides_no_other(configure, quiet, tmp_path) -> None:
    with pytest.raises(AweighError, match="Failing failed in `end`: ValueError: the end") as error:
        train(configure(epochs=1), console=quiet, callbacks=[Failing(end=True)])
    assert (tmp_path / "run" / "best.safetensors").exists()

    class Stopping(aweigh.Callback):
        def step(self, row):
            raise KeyboardInterrupt

    last = Listening()
    config = configure(epochs=1, output=str(tmp_path / "stopped"))
    with pytest.raises(KeyboardInterrupt) as error:
        train(config, console=quiet, callbacks=[Failing(end=True), Stopping(), last])
    assert "Failing failed in `end`" in error.value.__notes__[0] and last.told[-1] == ("end", False, False)


def test_what_fails_at_the_start_leaves_the_others_ended(configure, quiet) -> None:
    class Refusing(aweigh.Callback):
        def start(self, beginning):
            raise DataError(f"no account for {beginning.select}")

    before, after = Listening(), Listening()
    with pytest.raises(AweighError, match="Refusing failed in `start`: DataError: no account for AP"):
        train(configure(), console=quiet, callbacks=[before, Refusing(), after])
    assert [entry[0] for entry in before.told] == ["start", "end"] and after.told == []
