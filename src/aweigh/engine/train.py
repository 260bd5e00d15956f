"""The training loop.

`train` is the whole run; `train_epoch` one pass over the images; `optimiser_step` one update. What is decided before
the first step (data, model, optimiser, what the user is told) is in `prepare.py`.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from aweigh.data.loader import Batch
from aweigh.engine import distributed
from aweigh.engine.checkpoint import load_model, load_state, save_model, save_state, write_atomically
from aweigh.engine.config import TrainConfig, to_dict, to_toml
from aweigh.engine.evaluate import detect, to_device
from aweigh.engine.log import Means, RunLog, Stopwatch, read_log
from aweigh.engine.optim import lr_factor, set_lr
from aweigh.engine.prepare import Run, learning_rate_line, prepare, run_folder
from aweigh.engine.report import save_inputs, save_predictions, start_report
from aweigh.errors import AweighError, UsageError
from aweigh.evaluation.coco import UNDEFINED, evaluate_coco
from aweigh.visualise import curves

BAD_STEPS = 3  # so many steps in a row without a finite loss end the run


def train(config: TrainConfig, origin: Mapping[str, str] | None = None, *, console: Console | None = None) -> Path:
    """Train a detector and return the run folder.

    The folder holds `config.toml` (each value with its `origin`), `log.jsonl`, `best.safetensors` (by
    `config.select`), `last.safetensors`, `last/` (what `resume` needs), `inputs_train.png`, `curves.png` and
    `val_predictions.png`. console: where the progress is told; the error stream when not given.
    """
    distributed.require_one_process()
    folder = run_folder(config)
    console = console or Console(stderr=True)
    run = prepare(config, folder)
    folder.mkdir(parents=True, exist_ok=True)
    remark = resume(run) if config.resume else ""
    write_atomically(folder / "config.toml", lambda path: path.write_text(to_toml(config, origin), encoding="utf-8"))

    with RunLog(folder / "log.jsonl", console=console, keep_to_step=run.step) as log:
        for line in [*start_report(run), learning_rate_line(run), *([remark] if remark else [])]:
            log.say(line)
        if run.epoch == 0:
            save_inputs(run, folder / "inputs_train.png")
        try:
            while run.epoch < run.epochs and run.step < run.total_steps:
                train_and_validate(run, log)
                if config.patience and run.epochs_without_gain >= config.patience:
                    log.say(f"No better {config.select} for {run.epochs_without_gain} epochs: the run ends here.")
                    break
        except KeyboardInterrupt:
            save_checkpoint(run, "last", {})
            log.say(
                f"Stopped in epoch {run.epoch + 1}, after step {run.step}; {folder / 'last.safetensors'} holds these "
                f"weights. To go on from the end of epoch {run.epoch}: aweigh train --resume {folder}"
                if (folder / "last").exists()
                else f"Stopped after step {run.step}; {folder / 'last.safetensors'} holds these weights."
            )
            raise
        if run.data.val is not None:
            best, _ = load_model(folder / "best.safetensors", device=run.device)
            save_predictions(best, run.resize, run.data.val, folder / "val_predictions.png", device=run.device)
        log.say(f"{summary(run)} Weights: {folder / 'best.safetensors'}")
    return folder


def train_and_validate(run: Run, log: RunLog) -> None:
    """One epoch: training, validation, the files of the run folder, one line for the user."""
    started = time.perf_counter()
    row = train_epoch(run, log)
    run.epoch += 1
    metrics: dict[str, Any] = {}
    due = run.epoch % run.config.eval_every == 0 or run.epoch == run.epochs
    if run.data.val is not None and due:
        metrics = validate(run, log)
        numbers = ("val_loss", "AP", "AP50", "AP75", "APs", "APm", "APl")
        row |= {name: None if metrics[name] == UNDEFINED else metrics[name] for name in numbers}
        row["per_class"] = metrics["per_class"]
    log.write("epoch", epoch=run.epoch, step=run.step, seconds=time.perf_counter() - started, **row)

    save_checkpoint(run, "last", metrics)
    if metrics or run.data.val is None:
        value = selected(metrics, run.config.select)
        if value >= run.best:
            run.best, run.best_epoch, run.epochs_without_gain = value, run.epoch, 0
            save_checkpoint(run, "best", metrics)
        else:
            run.epochs_without_gain += run.config.eval_every
    save_state(run.folder / "last", *run_state(run))
    rows = [entry for entry in read_log(log.path) if entry["kind"] == "epoch"]
    shown = ("loss", "val_loss", "AP", "AP50", "AP75")
    picture = [{name: entry[name] for name in ("epoch", *shown) if entry.get(name) is not None} for entry in rows]
    write_atomically(run.folder / "curves.png", lambda path: curves(picture, path))
    log.say(epoch_line(run, row, time.perf_counter() - started))
    tell_problems(run, log)


def train_epoch(run: Run, log: RunLog) -> dict[str, Any]:
    """One pass over the training images (or what is left of the run); returns the means of the epoch."""
    run.model.train()
    run.loader.set_epoch(run.epoch)
    means, watch = Means(), Stopwatch()
    steps = min(math.ceil(len(run.loader) / run.config.accumulate), run.total_steps - run.step)
    with log.bar(f"epoch {run.epoch + 1}/{run.epochs}", steps) as bar:
        for group in groups(run.loader, run.config.accumulate):
            data_seconds = watch.lap("data")
            row = optimiser_step(run, group)
            row |= {"data_seconds": data_seconds, "step_seconds": watch.lap("step")}
            log.write("step", step=run.step, epoch=run.epoch + 1, **row)
            means.add(row)
            bar.advance(f"loss {row['loss']:.3f}")
            if run.step >= run.total_steps:
                break
    result = means.result()
    seconds = sum(watch.seconds.values())
    return {
        **{name: result[name] for name in result if name.startswith("loss")},
        "lr": run.lr * current_factor(run, run.step - 1),
        "data_share": watch.seconds.get("data", 0.0) / max(seconds, 1e-9),
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


def optimiser_step(run: Run, group: list[Batch]) -> dict[str, float]:
    """Forward and backward over the batches of `group`, then one update; skipped where the loss is not finite.

    A skipped step leaves weights, buffers, optimiser and average as they were.
    """
    buffers = [buffer.clone() for buffer in run.model.buffers()]
    factor = current_factor(run, run.step)
    set_lr(run.optimizer, run.lr * factor)
    run.optimizer.zero_grad(set_to_none=True)
    parts: dict[str, Tensor] = {}
    for batch in group:
        losses = batch_losses(run, batch)
        loss = torch.stack(list(losses.values())).sum() / len(group)
        run.scaler.scale(loss).backward()
        for name, value in losses.items():
            parts[name] = parts.get(name, 0) + value.detach() / len(group)
    run.scaler.unscale_(run.optimizer)
    gradients = [p.grad for entry in run.optimizer.param_groups for p in entry["params"] if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    *values, gradient_norm = torch.stack([*parts.values(), norm.to(run.device)]).tolist()
    run.step += 1

    finite = all(map(math.isfinite, values)) and (math.isfinite(gradient_norm) or run.scaler.is_enabled())
    if finite:
        if run.config.clip > 0 and gradient_norm > run.config.clip:
            torch._foreach_mul_(gradients, run.config.clip / (gradient_norm + 1e-6))
        run.scaler.step(run.optimizer)
        run.scaler.update()
        if run.ema is not None:
            run.ema.update(run.model)
        run.bad_in_a_row = 0
    else:
        torch._foreach_copy_(list(run.model.buffers()), buffers)
        run.optimizer.zero_grad(set_to_none=True)
        run.skipped, run.bad_in_a_row = run.skipped + 1, run.bad_in_a_row + 1
        run.bad_images += [str(image_id) for batch in group for image_id in batch.image_ids]
        if run.bad_in_a_row >= BAD_STEPS:
            raise not_finite(run, dict(zip(parts, values, strict=True)), gradient_norm)
    return {
        "lr": run.lr * factor,
        "loss": sum(values),
        **{f"loss_{name}": value for name, value in zip(parts, values, strict=True)},
        "grad_norm": gradient_norm,
        "skipped": float(not finite),
    }


def batch_losses(run: Run, batch: Batch) -> dict[str, Tensor]:
    """The losses of one batch, each a scalar that can be differentiated."""
    pixels = to_device(batch.images.pixels, run.device, channels_last=run.config.channels_last)
    targets = [target.to(run.device) for target in batch.targets]
    with torch.autocast(run.device.type, dtype=run.precision, enabled=run.precision != torch.float32):
        raw = run.model.network(pixels)
    return run.model.loss(raw, targets)


def validate(run: Run, log: RunLog) -> dict[str, Any]:
    """Validation losses and COCO's numbers of the weights that are saved, from one pass over the validation images."""
    val = run.data.val
    assert val is not None
    with log.bar("validate", len(val)) as bar:
        found = detect(
            run.evaluated_model,
            run.resize,
            val,
            batch=run.config.batch,
            device=run.device,
            workers=run.workers,
            losses=True,
            channels_last=run.config.channels_last,
            precision=run.precision,
            progress=bar.to,
        )
    run.val_problems = found.problems
    losses = {f"val_loss_{name}": value for name, value in found.losses.items()}
    metrics = evaluate_coco(val.to_coco(), found.results).to_dict()
    return {"split": val.name, "val_loss": sum(losses.values()), **losses, **metrics}


def selected(metrics: Mapping[str, Any], select: str) -> float:
    """The number that decides which checkpoint is best; larger is better. Without validation the last one is."""
    if not metrics:
        return math.inf
    name, _, class_name = select.partition(":")
    if name == "val_loss":
        return -metrics["val_loss"] if math.isfinite(metrics["val_loss"]) else -math.inf
    return float(metrics["per_class"][class_name][name] if class_name else metrics[name])


def current_factor(run: Run, step: int) -> float:
    config = run.config
    return lr_factor(
        step,
        run.total_steps,
        schedule=config.schedule,
        milestones=run.milestones,
        gamma=config.gamma,
        final=config.final_lr,
        warmup=run.warmup,
        warmup_factor=config.warmup_factor,
        warmup_kind=config.warmup_kind,
    )


def not_finite(run: Run, losses: Mapping[str, float], gradient_norm: float) -> AweighError:
    values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
    images = ", ".join(run.bad_images[-24:])
    kept = f" {run.folder / 'last.safetensors'} holds epoch {run.epoch}." if run.epoch else ""
    return AweighError(
        f"{BAD_STEPS} steps in a row had no finite loss or gradient; the run stopped at step {run.step} ({values}, "
        f"gradient norm {gradient_norm:g}). Images of these steps: {images}. Look at their boxes, lower lr "
        f"({run.config.lr:g}), or set clip.{kept}"
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


# --- the state of a run ---------------------------------------------------------------------------------------------

COUNTERS = ("epoch", "step", "best", "best_epoch", "epochs_without_gain", "skipped")


def run_state(run: Run) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything that changes while training, as tensors by name and plain values."""
    tensors = {f"model.{name}": value for name, value in run.model.state_dict().items()}
    if run.ema is not None:
        tensors |= {f"ema.{name}": value for name, value in run.ema.model.state_dict().items()}
    for index, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items() if value is not None}
    tensors["random.cpu"] = torch.get_rng_state()
    values = {name: getattr(run, name) for name in COUNTERS}
    values["best"] = None if math.isinf(run.best) else run.best
    values["ema_updates"] = run.ema.updates if run.ema is not None else 0
    values["scaler"] = run.scaler.state_dict()
    values["data_hash"] = run.data.train.content_hash
    return tensors, values


def resume(run: Run) -> str:
    """Take over the state in `last/` of the run folder; says from where, and what has changed since."""
    tensors, values, remark = load_state(run.folder / "last")

    def below(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    try:
        run.model.load_state_dict(below("model."))
        if run.ema is not None:
            run.ema.model.load_state_dict(below("ema."))
            run.ema.updates = values["ema_updates"]
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in below("optimizer.").items():
            index, _, key = name.partition(".")
            states.setdefault(int(index), {})[key] = value
        run.optimizer.load_state_dict({"state": states, "param_groups": run.optimizer.state_dict()["param_groups"]})
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"{run.folder} was trained with another model, ema or optimizer: {first}") from error
    torch.set_rng_state(tensors["random.cpu"])
    run.scaler.load_state_dict(values["scaler"])
    for name in COUNTERS:
        setattr(run, name, values[name])
    run.best = -math.inf if values["best"] is None else values["best"]
    if run.step >= run.total_steps:
        raise UsageError(f"{run.folder} is finished ({run.epoch} epochs, {run.step} steps); give more epochs to go on.")
    changed = " The training data has changed since." if values["data_hash"] != run.data.train.content_hash else ""
    return f"{remark} Going on after epoch {run.epoch}, step {run.step} of {run.total_steps}.{changed}".strip()


# --- what the user reads --------------------------------------------------------------------------------------------


def tell_problems(run: Run, log: RunLog) -> None:
    """Each picture that was skipped or mended while reading, once."""
    for problem in [*run.loader.problems, *run.val_problems]:
        if str(problem) not in run.told:
            run.told.add(str(problem))
            log.say(f"  {problem}")
            log.write("problem", problem=str(problem), epoch=run.epoch, step=run.step)


def epoch_line(run: Run, row: Mapping[str, Any], seconds: float) -> str:
    parts = ", ".join(f"{name.removeprefix('loss_')} {row[name]:.3f}" for name in row if name.startswith("loss_"))
    words = [f"epoch {run.epoch}/{run.epochs}", f"loss {row.get('loss', math.nan):.3f} ({parts})"]
    if "val_loss" in row:
        words += [f"{name} {'-' if row[name] is None else f'{row[name]:.3f}'}" for name in ("val_loss", "AP", "AP50")]
    words += [f"lr {row['lr']:.3g}", f"{seconds:.0f} s, {row['data_share']:.0%} waiting for images"]
    if run.skipped:
        words.append(f"{run.skipped} steps skipped (loss not finite)")
    return "  ".join(words) + ("  *best" if run.best_epoch == run.epoch and "AP" in row else "")


def summary(run: Run) -> str:
    if run.data.val is None:
        return f"Trained {run.epoch} epochs, not validated."
    select, name = run.config.select, run.data.val.name
    if run.best == UNDEFINED and select != "val_loss":
        return f"Trained {run.epoch} epochs; {select} is not defined on {name}, which has no such objects."
    value = -run.best if select == "val_loss" else run.best
    return f"Trained {run.epoch} epochs; best {select} on {name}: {value:.3f} in epoch {run.best_epoch}."
