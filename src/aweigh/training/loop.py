"""One epoch: the steps, the validation, and what is written and told after it."""

import json
import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from aweigh import distributed
from aweigh.checkpoints.checkpoint import save_model
from aweigh.errors import counted
from aweigh.evaluation.coco import UNDEFINED
from aweigh.evaluation.measurement import measure_results
from aweigh.evaluation.metrics import METRICS, NUMBERS, VALIDATED, metric_of, numbers_of
from aweigh.files import atomic_file, write_text
from aweigh.inference.detect import detect
from aweigh.inference.detect_tiles import detect_in_tiles
from aweigh.inference.meters import Means, Stopwatch
from aweigh.training import state
from aweigh.training.logs.json_lines import read_log
from aweigh.training.logs.log import RunLog
from aweigh.training.prepare import Run
from aweigh.training.settings import to_dict
from aweigh.training.step import groups, optimiser_step
from aweigh.training.stop import Interrupts, Stopped
from aweigh.visualise.charts import curves

DATA_BOUND = 0.3  # the share of waiting from which it is worth a word
RESULTS = "best_val_results.json"  # what the best weights found on the validation split, as COCO results
SAVE_SECONDS = 600  # between saved states, where `save_every` names no number of steps


def train_and_validate(run: Run, losses: nn.Module, log: RunLog, interrupts: Interrupts) -> None:
    """One epoch, or what is left of it: training, validation, the files of the run folder, one line for the user."""
    row = train_epoch(run, losses, log, interrupts)
    started = time.perf_counter()
    distributed.same_buffers(run.evaluated_model.buffers())
    state.save(run)  # a validation that is cut off is repeated from here
    metrics: dict[str, Any] = {}
    results: list[dict[str, Any]] = []
    last = run.epoch + 1 >= run.schedule.epochs
    if run.data.val is not None and ((run.epoch + 1) % run.config.eval_every == 0 or last):
        metrics, results = validate(run, log)
        row |= {name: None if value == UNDEFINED else value for name, value in reported(metrics).items()}
    run.epoch, run.batches = run.epoch + 1, 0
    row["seconds"] += time.perf_counter() - started

    better = _is_better(run, metrics)
    if distributed.is_main():
        _save(run, metrics, results, better=better)
    log.epoch(epoch=run.epoch, step=run.step, **row)
    if distributed.is_main():
        with atomic_file(run.folder / "curves.png") as path:
            curves(log.history(), path)
    state.save(run)
    if run.epoch == 1 and row["data_share"] > DATA_BOUND:
        log.say(
            f"Data-bound {row['data_share']:.0%}: that part of each step waited for images. Use more workers (now "
            f"{run.workers}), a smaller short, or photographs stored smaller."
        )
    tell_problems(run, log)
    if distributed.reduced([interrupts.wanted], largest=True)[0] and not run.finished:
        raise Stopped


def _is_better(run: Run, metrics: Mapping[str, Any]) -> bool:
    """Whether the checkpoint of this epoch is the best so far; notes how long there was none."""
    if not metrics and run.data.val is not None:
        return False
    value = selected(metrics, run.select)
    better = value >= run.best  # of equals the later, which has seen more
    run.epochs_without_gain = 0 if value > run.best else run.epochs_without_gain + run.config.eval_every
    if better:
        run.best, run.best_epoch = value, run.epoch
    return better


def _save(run: Run, metrics: Mapping[str, Any], results: list[dict[str, Any]], *, better: bool) -> None:
    """The files of an epoch: checkpoints, what the best one found."""
    save_checkpoint(run, "last", metrics)
    if better:
        save_checkpoint(run, "best", metrics)
        if run.data.val is not None:
            names = dict(zip(run.data.val.image_ids.tolist(), run.data.val.file_names()))
            found = [{**result, "file_name": names[result["image_id"]]} for result in results]
            write_text(run.folder / RESULTS, json.dumps(found))


def train_epoch(run: Run, losses: nn.Module, log: RunLog, interrupts: Interrupts) -> dict[str, Any]:
    """One pass over the training images (or what is left of it, or of the run); returns the means of the epoch.

    Raises `Stopped`, once the state is saved, where the user or the system asked for an end.
    """
    run.model.train()
    run.loader.set_epoch(run.epoch, skip=run.batches)
    watch, saved = Stopwatch(), time.monotonic()
    rows = [row for row in read_log(log.path) if row.get("epoch") == run.epoch + 1] if run.batches else []
    left = math.ceil((len(run.loader) - run.batches) / run.config.accumulate)
    with log.bar(f"epoch {run.epoch + 1}/{run.schedule.epochs}", min(left, run.schedule.total_steps - run.step)) as bar:
        for group in groups(run.loader, run.config.accumulate) if left and run.step < run.schedule.total_steps else ():
            data_seconds = watch.lap("data")
            row = optimiser_step(run, losses, group)
            run.batches += len(group)
            images = sum(map(len, group)) * distributed.world_size()
            row |= {"data_seconds": data_seconds, "step_seconds": watch.lap("step"), "images": images}
            log.step(step=run.step, epoch=run.epoch + 1, **row)
            rows.append({"kind": "step", **row})
            bar.advance(f"loss {row['loss']:.3f}")
            if run.step >= run.schedule.total_steps:
                break
            every = run.config.save_every
            due = run.step % every == 0 if every else time.monotonic() - saved > SAVE_SECONDS
            stop, due_anywhere = distributed.reduced([interrupts.wanted, due], largest=True)
            if stop or due_anywhere:
                state.save(run)
                saved = time.monotonic()
            if stop:
                raise Stopped
    return epoch_means(run, [row for row in rows if row["kind"] == "step"])


def epoch_means(run: Run, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the steps of the epoch come to; those done before a stop are among its rows too."""
    means, seconds = Means(), {"data_seconds": 0.0, "step_seconds": 0.0}
    for row in rows:
        means.add({name: value for name, value in row.items() if name.startswith("loss") and value is not None})
        for name in seconds:
            seconds[name] += row[name]
    total = sum(seconds.values())
    return {
        **means.result(),
        "lr": run.schedule.lr * run.schedule.factor(run.step - 1),
        "seconds": total,
        "images_per_second": sum(row["images"] for row in rows) / max(total, 1e-9),
        "data_share": seconds["data_seconds"] / max(total, 1e-9),
        "skipped_steps": run.skipped,
    }


def validate(run: Run, log: RunLog) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Validation losses and COCO's numbers of the weights that are saved, and the results they come from.

    Numbers of masks and keypoints are there where the detector and the data have them, as `mask_AP` and `keypoint_AP`.
    It takes one pass over the validation images, in tiles where the run trains in tiles. The processes share them out;
    every one of them gets the same numbers, those of one process alone.
    """
    val = run.data.val
    assert val is not None
    with log.bar("validate", len(val)) as bar:
        look = partial(detect, losses=True) if run.val_tiles is None else partial(detect_in_tiles, rows=run.val_tiles)
        found = look(
            run.evaluated_model,
            run.resize,
            val,
            batch=run.batch,
            how=run.how,
            workers=run.workers,
            max_bad=0.0 if run.config.strict else run.config.max_bad,
            progress=bar.to,
        )
    run.val_problems, run.unread = found.problems, found.unread
    losses = {f"val_loss_{name}": value for name, value in found.losses.items()}
    metrics: dict[str, Any] = {}
    if distributed.is_main():
        metrics = numbers_of(measure_results(run.evaluated_model, found.measured(val), found.results)[0])
    metrics = {"split": val.name, "val_loss": sum(losses.values()), **losses, **distributed.from_main(metrics)}
    return metrics, found.results


def reported(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What of it belongs into the log: losses, the numbers of the metrics and the AP of each class."""
    names = {*NUMBERS, *(f"{metric.prefix}per_class" for metric in VALIDATED.values())}
    return {name: value for name, value in metrics.items() if name in names or name.startswith("val_loss")}


def selected(metrics: Mapping[str, Any], select: str) -> float:
    """The number that decides which checkpoint is best; larger is better. Without validation the last one is."""
    if not metrics:
        return math.inf
    name, _, class_name = select.partition(":")
    if name == "val_loss":
        return -metrics["val_loss"] if math.isfinite(metrics["val_loss"]) else -math.inf
    kind, number = metric_of(name)
    return float(metrics[f"{METRICS[kind].prefix}per_class"][class_name][number] if class_name else metrics[name])


def save_checkpoint(run: Run, name: str, metrics: Mapping[str, Any]) -> None:
    save_model(
        run.folder / f"{name}.safetensors",
        run.evaluated_model,
        resize=run.resize,
        tiles=run.config.tiles,
        metrics=metrics,
        training={"epoch": run.epoch, "step": run.step, "config": to_dict(run.config)},
        licence=run.config.licence,
        data_hash=run.data.train.content_hash,
    )


def tell_problems(run: Run, log: RunLog) -> None:
    """Each image that was skipped or mended while reading, in any process, once."""
    training = [problem for own in distributed.gather(run.loader.problems) for problem in own]
    of_all = f"{len(run.data.val) - len(run.unread)} of {counted(len(run.data.val), 'image')}" if run.data.val else ""
    if run.unread and of_all not in run.told:
        run.told.add(of_all)
        log.say(f"validated on {of_all}: those that cannot be read are left out, with their objects")
    for problem in [*training, *run.val_problems]:
        if str(problem) not in run.told:
            run.told.add(str(problem))
            log.problem(str(problem), epoch=run.epoch, step=run.step)
