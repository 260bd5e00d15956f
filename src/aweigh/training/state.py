"""The state of a run: all that changes while training, saved so that a run goes on as if it had never stopped.

`save` writes it into `last/` of the run folder, `restore` takes it over. It holds model, moving average, optimiser,
scaler, the random state of every process and the position inside the epoch; what is random in a sample depends on
(seed, epoch, image) alone, so the processes that read images have no state. A run that was killed at any moment and
goes on ends, on a CPU, with the very weights of a run that was not.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from aweigh import distributed
from aweigh.checkpoints.checkpoint import below, load_state, save_state
from aweigh.errors import UsageError, counted
from aweigh.training.prepare import Run

Extend = Literal["keep", "stretch"]
COUNTERS = ("epoch", "step", "batches", "best", "best_epoch", "epochs_without_gain", "skipped", "bad_in_a_row")


def save(run: Run) -> None:
    """Write the state; every process has to call it, process 0 writes. Each earlier state is kept until then."""
    states = distributed.random_states()
    if distributed.is_main():
        tensors, values = _state(run)
        save_state(run.folder / "last", tensors | {f"random.{name}": value for name, value in states.items()}, values)


def exists(folder: Path) -> bool:
    """Whether a state was ever saved in the run folder."""
    return any((folder / "last").glob("*.safetensors"))


def restore(run: Run, extend: Extend, *, asked: bool = False) -> str:
    """Take over the state in `last/` of the run folder; says from where, and what has changed since.

    asked: whether the length of the run was asked for now: one that trains nothing is then a `UsageError`.

    extend: where the run has become longer or shorter, `"keep"` leaves the learning-rate schedule as it was laid out
    (after its end the rate stays as it is), `"stretch"` lays it over the new length.
    """
    tensors, values, remark = load_state(run.folder / "last")
    lacking = {*COUNTERS, "data", "processes", "batch", "threads", "schedule_steps"} - values.keys()
    if lacking:
        raise UsageError(f"{run.folder} was saved by another version: its state lacks {', '.join(sorted(lacking))}.")
    _restore_tensors(run, tensors, values)
    for name in COUNTERS:
        setattr(run, name, values[name])
    run.unread = values.get("unread", [])
    run.best = -math.inf if values["best"] is None else values["best"]
    if asked:
        _check_length(run)
    remarks = [remark, *_other_processes(run, values), *_other_data(run, values), *_other_length(run, values, extend)]
    if run.finished:
        longer = f"--iterations {2 * run.step}" if run.config.iterations else f"--epochs {2 * run.epoch}"
        return (
            f"The run is finished ({counted(run.epoch, 'epoch')}, {counted(run.step, 'step')}); {longer} would go on."
        )
    where = f"in epoch {run.epoch + 1}" if run.batches else f"after epoch {run.epoch}"
    return " ".join(filter(None, [f"Going on {where}, step {run.step} of {run.schedule.total_steps}.", *remarks]))


def _state(run: Run) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {f"model.{name}": value for name, value in run.model.state_dict().items()}
    if run.ema is not None:
        tensors |= {f"ema.{name}": value for name, value in run.ema.model.state_dict().items()}
    for index, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items() if value is not None}
    values = {name: getattr(run, name) for name in COUNTERS}
    values["best"] = None if math.isinf(run.best) else run.best
    values["unread"] = run.unread
    values["ema_updates"] = run.ema.updates if run.ema is not None else 0
    values["scaler"] = run.scaler.state_dict()
    values["data"] = _data_facts(run)
    values["processes"] = distributed.world_size()
    values["batch"], values["threads"] = run.batch, torch.get_num_threads()
    values["schedule_steps"] = run.schedule.steps
    return tensors, values


def _restore_tensors(run: Run, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    try:
        run.model.load_state_dict(below("model.", tensors))
        if run.ema is not None:
            run.ema.model.load_state_dict(below("ema.", tensors))
            run.ema.updates = values["ema_updates"]
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in below("optimizer.", tensors).items():
            index, _, key = name.partition(".")
            states.setdefault(int(index), {})[key] = value
        run.optimizer.load_state_dict({"state": states, "param_groups": run.optimizer.state_dict()["param_groups"]})
        for parameter, state in run.optimizer.state.items():
            for name, value in state.items():
                if value is not None and value.shape == parameter.shape:  # fused kernels want the weight's memory order
                    state[name] = torch.empty_like(parameter).copy_(value)
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"{run.folder} was trained with another model, ema or optimizer: {first}") from error
    distributed.set_random_states(below("random.", tensors))
    run.scaler.load_state_dict(values["scaler"])


def _other_processes(run: Run, values: dict[str, Any]) -> list[str]:
    """Steps, place in the epoch and learning rate count in images per step: these have to stay the same."""
    processes, batch = values["processes"], values["batch"]
    world, remarks = distributed.world_size(), []
    if processes * batch != world * run.batch:
        fitting = f"give --batch {processes * batch // world}" if processes * batch % world == 0 else "start as many"
        raise UsageError(
            f"{run.folder} was trained with {counted(processes * batch, 'image')} per step ({processes} x {batch}), "
            f"and would go on with {world * run.batch} ({world} x {run.batch}); {fitting}."
        )
    if processes != world:
        remarks.append(
            f"It was saved by {counted(processes, 'process')} and goes on with {world}: equal but for rounding."
        )
    if values["threads"] != torch.get_num_threads():
        remarks.append(
            f"Torch has {counted(torch.get_num_threads(), 'thread')} here and had {values['threads']}: sums may "
            "differ in their last digits from those without the stop."
        )
    return remarks


def _other_data(run: Run, values: dict[str, Any]) -> list[str]:
    then, now = values["data"], _data_facts(run)
    if then["hash"] == now["hash"]:
        return []
    changed = [
        f"{name} {then[name]} -> {now[name]}" for name in ("images", "boxes", "classes") if then[name] != now[name]
    ]
    hashes = f"hash {then['hash'][:8]} -> {now['hash'][:8]}"
    return [f"The training data has changed since: {', '.join([*changed, hashes])}."]


def _data_facts(run: Run) -> dict[str, Any]:
    train = run.data.train
    return {
        "hash": train.content_hash,
        "images": len(train),
        "boxes": len(train.boxes),
        "classes": len(train.classes),
    }


def _check_length(run: Run) -> None:
    """`UsageError` where the run is to be no longer than it is, or ended by its patience, and would train nothing."""
    steps = run.config.iterations
    if run.step > steps > 0:
        raise UsageError(
            f"iterations = {steps}: {run.folder} has done {counted(run.step, 'step')} already; give more than that, as "
            f"--iterations {2 * run.step}."
        )
    if not steps and (run.epoch > run.schedule.epochs or (run.epoch == run.schedule.epochs and run.batches)):
        raise UsageError(
            f"epochs = {run.schedule.epochs}: {run.folder} has done {counted(run.epoch, 'epoch')} already; give more "
            f"than that, as --epochs {2 * run.epoch}."
        )
    if run.out_of_patience and not run.finished:
        raise UsageError(
            f"{run.folder} ended after epoch {run.epoch}, as there was no better {run.select} for "
            f"{counted(run.epochs_without_gain, 'epoch')} (patience {run.config.patience}). To go on give "
            f"--patience 0, or more than {run.epochs_without_gain}."
        )


def _other_length(run: Run, values: dict[str, Any], extend: Extend) -> list[str]:
    """The schedule of a run whose length has changed since it was saved."""
    then, config = values["schedule_steps"], run.config
    if extend == "stretch":
        _lay_out(run, 0)
        stretched = run.schedule.steps != then
        return [f"The schedule of {counted(then, 'step')} is now laid over {run.schedule.steps}."] if stretched else []
    if config.schedule_steps or run.schedule.steps == then:
        return []
    _lay_out(run, then)
    if run.schedule.total_steps <= then:
        return [f"The schedule stays laid out for {counted(then, 'step')}."]
    last = run.schedule.factor(then)
    if last == 0:
        raise UsageError(
            f"The schedule ({config.schedule}) of {run.folder} ends at lr 0 after step {then}: longer training by "
            f"it would change nothing. Lay it over the new length: aweigh resume {run.folder} --schedule stretch "
            + (f"--iterations {run.schedule.total_steps}" if config.iterations else f"--epochs {run.schedule.epochs}")
        )
    return [
        f"The schedule stays laid out for {counted(then, 'step')}; after them lr stays at {run.schedule.lr * last:g}."
    ]


def _lay_out(run: Run, schedule_steps: int) -> None:
    """Change the length of the schedule; 0 is that of the run."""
    run.config = replace(run.config, schedule_steps=schedule_steps)
    run.schedule = replace(run.schedule, config=run.config)
