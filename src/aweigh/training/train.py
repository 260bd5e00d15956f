"""The training loop.

`train` is the whole run; `train_epoch` one pass over the images; `optimiser_step` one update. What is decided before
the first step (data, model, optimiser) is in `prepare.py`, what is saved to go on from in `state.py`, what is shown in
`report.py`. Several processes run this same code, each on its share of the images (`distributed.py`).
"""

import errno
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from aweigh import distributed
from aweigh.checkpoints.checkpoint import load_model, save_model
from aweigh.edit.held_out import FILE as HELD_OUT
from aweigh.edit.held_out import HeldOut
from aweigh.errors import AweighError, UsageError, counted, lost_worker
from aweigh.evaluation.coco import UNDEFINED
from aweigh.evaluation.metrics import METRICS, NUMBERS, VALIDATED, metric_of, numbers_of
from aweigh.feeding.batches import Batch
from aweigh.files import atomic_file, remove_leftovers, write_text
from aweigh.ops.losses import normalised_together
from aweigh.prediction.device import determinism
from aweigh.prediction.evaluate import detect, inputs_on
from aweigh.prediction.extras import measure_all
from aweigh.prediction.memory import is_out_of_memory, out_of_memory
from aweigh.prediction.meters import Means, Stopwatch
from aweigh.training import state
from aweigh.training.config import TrainConfig, resolve
from aweigh.training.debug.crash import kept
from aweigh.training.lock import FolderTakenError, hold
from aweigh.training.logs.log import RunLog, read_log, require_tensorboard
from aweigh.training.logs.report import save_evaluation, save_inputs, save_predictions, start_report
from aweigh.training.logs.screen import Screen
from aweigh.training.optim import set_lr
from aweigh.training.prepare import Run, learning_rate_line, prepare, run_folder
from aweigh.training.recipes import other_recipes
from aweigh.training.settings import load_recipe, to_dict, to_toml
from aweigh.training.stop import Interrupts, Stopped
from aweigh.visualise import curves

BAD_STEPS = 3  # so many steps in a row without a finite loss end the run
DATA_BOUND = 0.3  # the share of waiting from which it is worth a word
RESULTS = "best_val_results.json"  # what the best weights found on the validation split, as COCO results
SAVE_SECONDS = 600  # between saved states, where `save_every` names no number of steps
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def train(
    config: TrainConfig,
    origin: Mapping[str, str] | None = None,
    *,
    extend: state.Extend = "keep",
    console: Console | None = None,
) -> Path:
    """Train a detector and return the run folder.

    The folder holds `config.toml` (each value with its `origin`), `log.jsonl`, `best.safetensors` (by
    `select`), `last.safetensors`, `last/` (the state to go on from), and what docs/logs.md lists. extend: how
    the learning-rate schedule of a resumed run follows another length (see `state.restore`). console: where the
    progress is told; the error stream when not given.
    """
    if config.tensorboard:
        require_tensorboard()
    console = console or Screen(stderr=True)
    with (
        distributed.join(config.device) as device_name,
        determinism(config.deterministic),
        _claimed(config, console) as folder,
    ):
        run = prepare(config, folder, device_name=device_name)
        try:
            _train(run, origin, extend, console)
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


def _train(run: Run, origin: Mapping[str, str] | None, extend: state.Extend, console: Console) -> None:
    folder, main = run.folder, distributed.is_main()
    remark = ""
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
            text = HeldOut.of(run.data.val).text()
            write_text(folder / HELD_OUT, text)
    if run.step == 0:
        state.save(run)
    with RunLog(
        folder / "log.jsonl",
        console=console,
        keep_to=(run.step, run.epoch) if run.step else None,
        active=main,
        select=run.select,
        classes=run.data.train.classes.names,
        total_steps=run.total_steps,
        tensorboard=run.config.tensorboard,
    ) as log:
        known = other_recipes(run.config.model, origin or {})
        for line in [*start_report(run), known, run.batch_note, learning_rate_line(run), remark] if main else ():
            if line:
                log.say(line)
        if run.step == 0 and main:
            run.loader.set_epoch(0)
            save_inputs(run, folder / "inputs_train.png")
            if run.data.val is not None:
                save_inputs(run, folder / "inputs_val.png", split="val")
        losses = distributed.batches_of(TrainingLosses(run), run.device)
        try:
            with Interrupts(lambda: log.say("Stopping after this step; once more stops at once.")) as interrupts:
                while not run.finished and not run.out_of_patience:
                    train_and_validate(run, losses, log, interrupts)
        except Stopped:
            if main:
                save_checkpoint(run, "last", {})
            log.say(f"Stopped after step {run.step} of {run.total_steps}. To go on from there: aweigh resume {folder}")
            raise
        except KeyboardInterrupt:
            log.say(f"Stopped at once. To go on from the last saved state: aweigh resume {folder}")
            raise
        if run.out_of_patience:
            ends = f"No better {run.select} for {counted(run.epochs_without_gain, 'epoch')}: the run ends here."
            log.say(f"{ends} To go on all the same: aweigh resume {folder} --patience 0")
        if main:
            finish(run, log)


def save_config(run: Run, origin: Mapping[str, str] | None) -> None:
    """Write `config.toml`, unless the run goes on with the very values that it holds, whose origins it names."""
    path, config = run.folder / "config.toml", replace(run.config, resume="")
    if not path.exists() or resolve(load_recipe(TrainConfig, path))[0] != config:
        write_text(path, to_toml(config, origin))


def finish(run: Run, log: RunLog) -> None:
    """The pictures of the best weights, and the last line."""
    if run.data.val is not None:
        best, _ = load_model(run.folder / "best.safetensors", device=run.device)
        save_predictions(best, run.resize, run.data.val, run.folder / "val_predictions.png", device=run.device)
        results = json.loads((run.folder / RESULTS).read_text(encoding="utf-8"))
        for line in save_evaluation(run.folder, run.data.val.without(run.unread), results):
            log.say(line)
    log.say(f"{summary(run)} Weights: {run.folder / 'best.safetensors'}")


class TrainingLosses(nn.Module):
    """The losses of a batch as a forward pass, round which several processes average their gradients."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.model = run.model
        self.precision = run.precision
        self.network = torch.compile(run.model.network, dynamic=True) if run.config.compile else run.model.network

    def forward(self, pixels: Tensor, targets: Sequence[Any], *given: Tensor) -> dict[str, Tensor]:
        """pixels: `[B, 3, H, W]` on the device; targets: one `Targets` per image; given: what else the network takes.
        Scalars that have a gradient."""
        with torch.autocast(pixels.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            raw = self.network(pixels, *given)
        with normalised_together(distributed.mean):
            losses: dict[str, Tensor] = self.model.loss(raw, targets)
        return losses


def train_and_validate(run: Run, losses: nn.Module, log: RunLog, interrupts: Interrupts) -> None:
    """One epoch, or what is left of it: training, validation, the files of the run folder, one line for the user."""
    row = train_epoch(run, losses, log, interrupts)
    started = time.perf_counter()
    distributed.same_buffers(run.evaluated_model)
    state.save(run)  # a validation that is cut off is repeated from here
    metrics: dict[str, Any] = {}
    results: list[dict[str, Any]] = []
    last = run.epoch + 1 >= run.epochs
    if run.data.val is not None and ((run.epoch + 1) % run.config.eval_every == 0 or last):
        metrics, results = validate(run, log)
        row |= {name: None if value == UNDEFINED else value for name, value in reported(metrics).items()}
    run.epoch, run.batches = run.epoch + 1, 0
    row["seconds"] += time.perf_counter() - started
    log.write("epoch", epoch=run.epoch, step=run.step, **row)

    better = False
    if metrics or run.data.val is None:
        value = selected(metrics, run.select)
        better = value >= run.best  # of equals the later, which has seen more
        run.epochs_without_gain = 0 if value > run.best else run.epochs_without_gain + run.config.eval_every
        if better:
            run.best, run.best_epoch = value, run.epoch
    if distributed.is_main():
        save_checkpoint(run, "last", metrics)
        if better:
            save_checkpoint(run, "best", metrics)
            if metrics:
                names = dict(zip(run.data.val.image_ids.tolist(), run.data.val.file_names())) if run.data.val else {}
                found = json.dumps([{**result, "file_name": names[result["image_id"]]} for result in results])
                write_text(run.folder / RESULTS, found)
        with atomic_file(run.folder / "curves.png") as path:
            curves(log.history(), path)
    state.save(run)
    log.say_epoch(epoch_line(run, row))
    if run.epoch == 1 and row["data_share"] > DATA_BOUND:
        log.say(
            f"Data-bound {row['data_share']:.0%}: that part of each step waited for images. Use more workers (now "
            f"{run.workers}), a smaller short, or photographs stored smaller."
        )
    tell_problems(run, log)
    if distributed.reduced([interrupts.wanted], largest=True)[0] and not run.finished:
        raise Stopped


def train_epoch(run: Run, losses: nn.Module, log: RunLog, interrupts: Interrupts) -> dict[str, Any]:
    """One pass over the training images (or what is left of it, or of the run); returns the means of the epoch.

    Raises `Stopped`, once the state is saved, where the user or the system asked for an end.
    """
    run.model.train()
    run.loader.set_epoch(run.epoch, skip=run.batches)
    watch, saved = Stopwatch(), time.monotonic()
    rows = [row for row in read_log(log.path) if row.get("epoch") == run.epoch + 1] if run.batches else []
    left = math.ceil((len(run.loader) - run.batches) / run.config.accumulate)
    with log.bar(f"epoch {run.epoch + 1}/{run.epochs}", min(left, run.total_steps - run.step)) as bar:
        for group in groups(run.loader, run.config.accumulate) if left and run.step < run.total_steps else ():
            data_seconds = watch.lap("data")
            row = optimiser_step(run, losses, group)
            run.batches += len(group)
            images = sum(map(len, group)) * distributed.world_size()
            row |= {"data_seconds": data_seconds, "step_seconds": watch.lap("step"), "images": images}
            log.write("step", step=run.step, epoch=run.epoch + 1, **row)
            rows.append({"kind": "step", **row})
            bar.advance(f"loss {row['loss']:.3f}")
            if run.step >= run.total_steps:
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
        "lr": run.lr * run.lr_factor(run.step - 1),
        "seconds": total,
        "images_per_second": sum(row["images"] for row in rows) / max(total, 1e-9),
        "data_share": seconds["data_seconds"] / max(total, 1e-9),
        "skipped_steps": run.skipped,
    }


def groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """The batches of each optimiser step; the last group may be smaller."""
    group = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def optimiser_step(run: Run, losses: nn.Module, group: list[Batch]) -> dict[str, float]:
    """Forward and backward over the batches of `group`, then one update; skipped where the loss is not finite.

    A skipped step leaves weights, buffers, optimiser and average as they were. All processes skip together. The third
    in a row ends the run, and so does an exception; either leaves a bundle that `aweigh debug` replays.
    """
    random_state = torch.get_rng_state()
    buffers = [buffer.clone() for buffer in run.model.buffers()]
    factor = run.lr_factor(run.step)
    set_lr(run.optimizer, run.lr * factor)
    run.optimizer.zero_grad(set_to_none=True)
    try:
        parts = gradients_of(run, losses, group)
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(error, largest(group), accumulate=run.config.accumulate) from error
        if not (distributed.lost_connection(error) or lost_worker(error) or isinstance(error, AweighError)):
            torch._foreach_copy_(list(run.model.buffers()), buffers)
            reason, step = f"{type(error).__name__}: {error}", run.step + 1
            error.add_note(
                kept(run, group, reason=reason, losses={}, gradient_norm=math.nan, random_state=random_state, step=step)
            )
        raise
    run.scaler.unscale_(run.optimizer)
    gradients = [p.grad for entry in run.optimizer.param_groups for p in entry["params"] if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    *own, gradient_norm = torch.stack([*parts.values(), norm.to(run.device)]).tolist()
    values = dict(zip(parts, distributed.reduced(own), strict=True))
    run.step += 1

    finite = all(map(math.isfinite, values.values())) and (math.isfinite(gradient_norm) or run.scaler.is_enabled())
    if finite:
        if run.config.clip > 0 and gradient_norm > run.config.clip:
            torch._foreach_mul_(gradients, run.config.clip / (gradient_norm + 1e-6))
        run.scaler.step(run.optimizer)
        run.scaler.update()
        if run.ema is not None:
            run.ema.update(run.model)
        run.bad_in_a_row = 0
    else:
        run.scaler.update()  # which expects one for each time it was asked to unscale
        torch._foreach_copy_(list(run.model.buffers()), buffers)
        run.optimizer.zero_grad(set_to_none=True)
        run.skipped, run.bad_in_a_row = run.skipped + 1, run.bad_in_a_row + 1
        run.bad_images += [str(image_id) for batch in group for image_id in batch.image_ids]
        if run.bad_in_a_row >= BAD_STEPS:
            remark = kept(
                run,
                group,
                reason=f"{counted(BAD_STEPS, 'step')} in a row had no finite loss or gradient",
                losses=values,
                gradient_norm=gradient_norm,
                random_state=random_state,
            )
            raise not_finite(run, values, gradient_norm, remark)
    return {
        "lr": run.lr * factor,
        "loss": sum(values.values()),
        **{f"loss_{name}": value for name, value in values.items()},
        "grad_norm": gradient_norm,
        "skipped": float(not finite),
    }


def gradients_of(run: Run, losses: nn.Module, group: list[Batch]) -> dict[str, Tensor]:
    """Forward and backward over the batches of a step; the mean of each loss, without gradient."""
    parts: dict[str, Tensor] = {}
    for number, batch in enumerate(group, start=1):
        alone = number < len(group) and distributed.world_size() > 1  # gradients are averaged with the last batch
        with losses.no_sync() if alone else nullcontext():  # type: ignore[operator]
            found = batch_losses(run, losses, batch)
            loss = torch.stack(list(found.values())).sum() / len(group)
            run.scaler.scale(loss).backward()
        for name, value in found.items():
            parts[name] = parts.get(name, 0) + value.detach() / len(group)
    return parts


def largest(group: list[Batch]) -> Batch:
    return max(group, key=lambda batch: batch.images.pixels.numel())


def batch_losses(run: Run, losses: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The losses of one batch, each a scalar that can be differentiated."""
    pixels, *given = inputs_on(batch.images, run.model, run.device, channels_last=run.config.channels_last)
    found: dict[str, Tensor] = losses(pixels, [target.to(run.device) for target in batch.targets], *given)
    return found


def validate(run: Run, log: RunLog) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Validation losses and COCO's numbers of the weights that are saved, and the results they come from.

    Numbers of masks and keypoints are there where the detector and the data have them, as `mask_AP` and `keypoint_AP`.
    It takes one pass over the validation images. The processes share out the batches; every one of them gets the same
    numbers, those of one process alone.
    """
    val = run.data.val
    assert val is not None
    with log.bar("validate", len(val)) as bar:
        found = detect(
            run.evaluated_model,
            run.resize,
            val,
            batch=run.batch,
            device=run.device,
            workers=run.workers,
            losses=True,
            channels_last=run.config.channels_last,
            precision=run.precision,
            max_bad=0.0 if run.config.strict else run.config.max_bad,
            progress=bar.to,
        )
    run.val_problems, run.unread = found.problems, found.unread
    losses = {f"val_loss_{name}": value for name, value in found.losses.items()}
    metrics: dict[str, Any] = {}
    if distributed.is_main():
        metrics = numbers_of(measure_all(run.evaluated_model, found.measured(val), found.results)[0])
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


def not_finite(run: Run, losses: Mapping[str, float], gradient_norm: float, remark: str) -> AweighError:
    values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
    images = ", ".join(run.bad_images[-24:])
    kept_weights = f" {run.folder / 'last.safetensors'} holds epoch {run.epoch}." if run.epoch else ""
    return AweighError(
        f"{counted(BAD_STEPS, 'step')} in a row had no finite loss or gradient; the run stopped at step {run.step} "
        f"({values}, gradient norm {gradient_norm:g}). Images of these steps: {images}. Look at their boxes, lower lr "
        f"({run.config.lr:g}), or set clip. {remark}{kept_weights}"
    )


def save_checkpoint(run: Run, name: str, metrics: Mapping[str, Any]) -> None:
    save_model(
        run.folder / f"{name}.safetensors",
        run.evaluated_model,
        resize=run.resize,
        metrics=metrics,
        training={"epoch": run.epoch, "step": run.step, "config": to_dict(run.config)},
        licence=run.config.licence,
        data_hash=run.data.train.content_hash,
    )


# --- what the user reads --------------------------------------------------------------------------------------------


def tell_problems(run: Run, log: RunLog) -> None:
    """Each picture that was skipped or mended while reading, in any process, once."""
    training = [problem for own in distributed.gather(run.loader.problems) for problem in own]
    of_all = f"{len(run.data.val) - len(run.unread)} of {counted(len(run.data.val), 'image')}" if run.data.val else ""
    if run.unread and of_all not in run.told:
        run.told.add(of_all)
        log.say(f"validated on {of_all}: those that cannot be read are left out, with their objects")
    for problem in [*training, *run.val_problems]:
        if str(problem) not in run.told:
            run.told.add(str(problem))
            log.say(f"  {problem}")
            log.write("problem", problem=str(problem), epoch=run.epoch, step=run.step)


def epoch_line(run: Run, row: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{name.removeprefix('loss_')} {row[name]:.3f}" for name in row if name.startswith("loss_"))
    words = [f"epoch {run.epoch}/{run.epochs}", f"loss {row.get('loss', math.nan):.3f} ({parts})"]
    if "val_loss" in row:
        names = [name for name in ("val_loss", "AP", "AP50", "mask_AP", "keypoint_AP") if name in row]
        words += [f"{name} {'-' if row[name] is None else f'{row[name]:.3f}'}" for name in names]
    words += [f"lr {row['lr']:.3g}", f"{row['seconds']:.0f} s, {row['data_share']:.0%} waiting for images"]
    if run.skipped:
        words.append(f"{counted(run.skipped, 'step')} skipped (loss not finite)")
    return "  ".join(words) + ("  *best" if run.best_epoch == run.epoch and "AP" in row else "")


def summary(run: Run) -> str:
    if run.data.val is None:
        return f"Trained {counted(run.epoch, 'epoch')}, not validated."
    select, name = run.select, run.data.val.name
    if run.best == UNDEFINED and select != "val_loss":
        return f"Trained {counted(run.epoch, 'epoch')}; {select} is not defined on {name}, which has no such objects."
    value = -run.best if select == "val_loss" else run.best
    return f"Trained {counted(run.epoch, 'epoch')}; best {select} on {name}: {value:.3f} in epoch {run.best_epoch}."
