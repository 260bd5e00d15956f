"""One step of training: forward and backward over its batches, one update; or none, where the loss is not finite."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from aweigh import distributed
from aweigh.errors import AweighError, counted, lost_worker
from aweigh.feeding.batches import Batch
from aweigh.inference.memory import is_out_of_memory, out_of_memory
from aweigh.ops.losses import normalised_together
from aweigh.training.debug.crash import kept
from aweigh.training.optim import set_lr
from aweigh.training.prepare import Run

BAD_STEPS = 3  # so many steps in a row without a finite loss end the run


class TrainingLosses(nn.Module):
    """The losses of a batch as a forward pass, round which several processes average their gradients."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.model = run.model
        self.how = run.how
        self.network = torch.compile(run.model.network, dynamic=True) if run.config.compile else run.model.network

    def forward(self, pixels: Tensor, targets: Sequence[Any], *given: Tensor) -> dict[str, Tensor]:
        """pixels: `[B, 3, H, W]` on the device; targets: one `Targets` per image; given: what else the network takes.
        Scalars that have a gradient."""
        with self.how.autocast():
            raw = self.network(pixels, *given)
        with normalised_together(distributed.mean):
            return self.model.loss(raw, targets)


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
    lr = run.schedule.lr * run.schedule.factor(run.step)
    set_lr(run.optimizer, lr)
    run.optimizer.zero_grad(set_to_none=True)
    try:
        parts = gradients_of(run, losses, group)
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(error, largest(group), accumulate=run.config.accumulate) from error
        if not (distributed.lost_connection(error) or lost_worker(error) or isinstance(error, AweighError)):
            torch._foreach_copy_(list(run.model.buffers()), buffers)
            what = {"reason": f"{type(error).__name__}: {error}", "losses": {}, "gradient_norm": math.nan}
            error.add_note(kept(run, group, **what, random_state=random_state, step=run.step + 1))
        raise
    run.scaler.unscale_(run.optimizer)
    gradients = [p.grad for entry in run.optimizer.param_groups for p in entry["params"] if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    *own, gradient_norm = torch.stack([*parts.values(), norm.to(run.device)]).tolist()
    values = dict(zip(parts, distributed.reduced(own), strict=True))
    run.step += 1

    finite = all(map(math.isfinite, values.values())) and (math.isfinite(gradient_norm) or run.scaler.is_enabled())
    if finite:
        _update(run, gradients, gradient_norm)
    else:
        _skip(run, group, buffers)
        if run.bad_in_a_row >= BAD_STEPS:
            reason = f"{counted(BAD_STEPS, 'step')} in a row had no finite loss or gradient"
            what = {"reason": reason, "losses": values, "gradient_norm": gradient_norm}
            remark = kept(run, group, **what, random_state=random_state)
            raise not_finite(run, values, gradient_norm, remark)
    return {
        "lr": lr,
        "loss": sum(values.values()),
        **{f"loss_{name}": value for name, value in values.items()},
        "grad_norm": gradient_norm,
        "skipped": float(not finite),
    }


def _update(run: Run, gradients: list[Tensor], norm: float) -> None:
    """Clip the gradients, and change weights and average by them."""
    if run.config.clip > 0 and norm > run.config.clip:
        torch._foreach_mul_(gradients, run.config.clip / (norm + 1e-6))
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.ema is not None:
        run.ema.update(run.model)
    run.bad_in_a_row = 0


def _skip(run: Run, group: list[Batch], buffers: list[Tensor]) -> None:
    """Leave everything as it was before the step, whose images are noted."""
    run.scaler.update()  # which expects one for each time it was asked to unscale
    torch._foreach_copy_(list(run.model.buffers()), buffers)
    run.optimizer.zero_grad(set_to_none=True)
    run.skipped, run.bad_in_a_row = run.skipped + 1, run.bad_in_a_row + 1
    run.bad_images += [str(image_id) for batch in group for image_id in batch.image_ids]


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
    pixels, *given = run.how.inputs(run.model, batch.images)
    found: dict[str, Tensor] = losses(pixels, [target.to(run.device) for target in batch.targets], *given)
    return found


def not_finite(run: Run, losses: Mapping[str, float], gradient_norm: float, remark: str) -> AweighError:
    values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
    images = ", ".join(run.bad_images[-24:])
    kept_weights = f" {run.folder / 'last.safetensors'} holds epoch {run.epoch}." if run.epoch else ""
    return AweighError(
        f"{counted(BAD_STEPS, 'step')} in a row had no finite loss or gradient; the run stopped at step {run.step} "
        f"({values}, gradient norm {gradient_norm:g}). Images of these steps: {images}. Look at their boxes, lower lr "
        f"({run.config.lr:g}), or set clip. {remark}{kept_weights}"
    )
