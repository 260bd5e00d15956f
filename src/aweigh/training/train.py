"""A run from its first line to its last: `train`.

What is decided before the first step (data, model, optimiser) is in `prepare.py`, one epoch in `loop.py`, one update in
`step.py`, what is saved to go on from in `state.py`, what is shown in `logs/report.py`. Several processes run this same
code, each on its share of the images (`distributed.py`).
"""

import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from aweigh import distributed
from aweigh.checkpoints.checkpoint import load_model
from aweigh.console import SafeConsole
from aweigh.edit.held_out import FILE as HELD_OUT
from aweigh.edit.held_out import HeldOut
from aweigh.errors import AweighError, UsageError, counted, lost_worker
from aweigh.evaluation.coco import UNDEFINED
from aweigh.files import remove_leftovers, write_text
from aweigh.inference.device import determinism
from aweigh.inference.engine import TorchEngine
from aweigh.lock import FolderTakenError, hold
from aweigh.prediction.sheet import save_predictions
from aweigh.training import state
from aweigh.training.config import TrainConfig, resolve
from aweigh.training.logs.callback import Beginning, Callback
from aweigh.training.logs.log import RunLog
from aweigh.training.logs.report import save_inputs, start_report
from aweigh.training.logs.tensorboard import require_tensorboard
from aweigh.training.loop import RESULTS, save_checkpoint, train_and_validate
from aweigh.training.prepare import Run, prepare, run_folder
from aweigh.training.recipes import other_recipes
from aweigh.training.settings import load_recipe, to_toml
from aweigh.training.step import TrainingLosses
from aweigh.training.stop import Interrupts, Stopped
from aweigh.visualise.mistakes import save_evaluation

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def train(
    config: TrainConfig,
    origin: Mapping[str, str] | None = None,
    *,
    extend: state.Extend = "keep",
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train a detector and return the run folder.

    The folder holds `config.toml` (each value with its `origin`), `log.jsonl`, `best.safetensors` (by
    `select`), `last.safetensors`, `last/` (the state to go on from), and what docs/logs.md lists. extend: how
    the learning-rate schedule of a resumed run follows another length (see `state.restore`). console: where the
    progress is told; the error stream when not given. callbacks: what else is told how the run goes.
    """
    if config.tensorboard:
        require_tensorboard()
    console = console or SafeConsole(stderr=True)
    with (
        distributed.join(config.device) as device_name,
        determinism(config.deterministic),
        _claimed(config, console) as folder,
    ):
        run = prepare(config, folder, device_name=device_name)
        try:
            _train(run, origin, extend, console, callbacks)
        except RuntimeError as error:
            if not lost_worker(error):
                raise
            raise AweighError(
                f"A process that reads images is gone ({' '.join(str(error).split())}); where memory was short, give "
                f"fewer --workers or a smaller --batch. To go on from the last saved state: aweigh resume {folder}"
            ) from error
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise AweighError(
                f"The disk of {folder} is full: {error.filename or 'a file'} could not be written. The weights and the "
                f"state saved before are whole. Make room, then go on: aweigh resume {folder}"
            ) from error
    return folder


@contextmanager
def _claimed(config: TrainConfig, console: Console) -> Iterator[Path]:
    """The run folder, held for this run by process 0 until it ends; one that is numbered is another where two begin."""
    with ExitStack() as stack:
        folder = Path()
        while distributed.is_main():
            folder = run_folder(config)
            try:
                remark = stack.enter_context(hold(folder))
            except FolderTakenError:
                if config.resume or config.output:
                    raise
                continue
            if config.output and not config.resume:
                run_folder(config)  # once more: a run may have begun and ended since the first look
            if remark:
                console.print(remark, markup=False, highlight=False, soft_wrap=True)
            break
        yield distributed.from_main(folder)


def _train(
    run: Run,
    origin: Mapping[str, str] | None,
    extend: state.Extend,
    console: Console,
    callbacks: Sequence[Callback],
) -> None:
    folder, main = run.folder, distributed.is_main()
    remark = _begin(run, origin, extend)
    beginning = Beginning(
        folder,
        epochs=run.schedule.epochs,
        total_steps=run.schedule.total_steps,
        classes=run.data.train.classes.names,
        select=run.select,
        step=run.step,
        epoch=run.epoch,
    )
    board = run.config.tensorboard
    with RunLog(beginning, console=console, tensorboard=board, active=main, callbacks=callbacks) as log:
        if main:
            _tell_beforehand(run, log, origin, remark)
        losses = distributed.batches_of(TrainingLosses(run), run.device)
        try:
            with Interrupts(lambda: log.say("Stopping after this step; once more stops at once.")) as interrupts:
                while not run.finished and not run.out_of_patience:
                    train_and_validate(run, losses, log, interrupts)
        except Stopped:
            if main:
                save_checkpoint(run, "last", {})
            where = f"step {run.step} of {run.schedule.total_steps}"
            log.say(f"Stopped after {where}. To go on from there: aweigh resume {folder}")
            raise
        except KeyboardInterrupt:
            log.say(f"Stopped at once. To go on from the last saved state: aweigh resume {folder}")
            raise
        if run.out_of_patience:
            ends = f"No better {run.select} for {counted(run.epochs_without_gain, 'epoch')}: the run ends here."
            log.say(f"{ends} To go on all the same: aweigh resume {folder} --patience 0")
        if main:
            finish(run, log)


def _begin(run: Run, origin: Mapping[str, str] | None, extend: state.Extend) -> str:
    """Make the run folder, or take over the state in it; says from where the run goes on."""
    folder, main, remark = run.folder, distributed.is_main(), ""
    if main:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
    if run.config.resume:
        there = distributed.gather(state.exists(folder))
        if any(there) and not all(there):
            raise UsageError(f"Not every process sees {folder}/last; put the folder on a disk that all of them share.")
        asked = any((origin or {}).get(name) == "command line" for name in ("epochs", "iterations"))
        begun = "No state was saved yet: from the beginning."
        remark = state.restore(run, extend, asked=asked) if all(there) else begun
    if main:
        save_config(run, origin)
        if run.data.held_out and run.data.val is not None and not (folder / HELD_OUT).exists():
            write_text(folder / HELD_OUT, HeldOut.of(run.data.val).text())
    if run.step == 0:
        state.save(run)
    return remark


def _tell_beforehand(run: Run, log: RunLog, origin: Mapping[str, str] | None, remark: str) -> None:
    """What the user should see before the first step: lines, and images of what goes in."""
    known = other_recipes(run.config.model, origin or {})
    for line in filter(None, [*start_report(run), known, run.batch_note, str(run.schedule), remark]):
        log.say(line)
    if run.step == 0:
        run.loader.set_epoch(0)
        save_inputs(run, run.folder / "inputs_train.png")
        if run.data.val is not None:
            save_inputs(run, run.folder / "inputs_val.png", split="val")


def save_config(run: Run, origin: Mapping[str, str] | None) -> None:
    """Write `config.toml`, unless the run goes on with the very values that it holds, whose origins it names."""
    path, config = run.folder / "config.toml", replace(run.config, resume="")
    if not path.exists() or resolve(load_recipe(TrainConfig, path))[0] != config:
        write_text(path, to_toml(config, origin))


def finish(run: Run, log: RunLog) -> None:
    """The images of the best weights, and the last line."""
    if run.data.val is not None:
        best, _ = load_model(run.folder / "best.safetensors", device=run.device)
        path, tiles = run.folder / "val_predictions.png", run.config.tiles
        save_predictions(TorchEngine(best, run.how), run.resize, run.data.val, path, tiles=tiles)
        results = json.loads((run.folder / RESULTS).read_text(encoding="utf-8"))
        for line in save_evaluation(run.folder, run.data.val.without(run.unread), results):
            log.say(line)
    log.say(f"{summary(run)} Weights: {run.folder / 'best.safetensors'}")


def summary(run: Run) -> str:
    if run.data.val is None:
        return f"Trained {counted(run.epoch, 'epoch')}, not validated."
    select, name = run.select, run.data.val.name
    if run.best == UNDEFINED and select != "val_loss":
        return f"Trained {counted(run.epoch, 'epoch')}; {select} is not defined on {name}, which has no such objects."
    value = -run.best if select == "val_loss" else run.best
    return f"Trained {counted(run.epoch, 'epoch')}; best {select} on {name}: {value:.3f} in epoch {run.best_epoch}."
