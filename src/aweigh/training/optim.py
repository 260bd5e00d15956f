"""How weights change: SGD and AdamW with their parameter groups, the learning rate at each step, the moving average."""

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from aweigh.errors import counted
from aweigh.models.detector import Detector
from aweigh.training.config import TrainConfig

NORM_LAYERS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)


def make_optimizer(
    groups: list[dict[str, Any]], *, kind: Literal["sgd", "adamw"], lr: float, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """SGD with momentum (not Nesterov's) or AdamW over `parameter_groups`, each group with its learning rate set.

    On CPU and CUDA one fused kernel updates all weights; elsewhere torch chooses.
    """
    places = {parameter.device.type for group in groups for parameter in group["params"]}
    fused = True if places <= {"cpu", "cuda"} else None
    if kind == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=fused)
    else:
        optimizer = torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999), fused=fused)
    set_lr(optimizer, lr)
    return optimizer


def parameter_groups(
    model: nn.Module | Detector,
    *,
    weight_decay: float = 1e-4,
    norm_weight_decay: float = 0.0,
    bias_lr: float = 1.0,
    bias_weight_decay: float = 0.0,
    backbone_lr: float = 1.0,
) -> list[dict[str, Any]]:
    """The trainable parameters by their decay and factor on the learning rate, in the order of the model.

    A parameter named `bias` gets `bias_lr` and `bias_weight_decay`, that of a normalisation layer too (as FCOS's
    authors do); another parameter of a normalisation layer gets `norm_weight_decay`; everything else `weight_decay`.
    Parameters below `backbone` have their rate multiplied by `backbone_lr`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            factor, decay = 1.0, weight_decay
            if name == "bias":
                factor, decay = bias_lr, bias_weight_decay
            elif isinstance(module, NORM_LAYERS):
                decay = norm_weight_decay
            if module_name.split(".")[0] == "backbone":
                factor *= backbone_lr
            groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_factor": factor}
        for (factor, decay), parameters in groups.items()
    ]


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to `lr` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


@dataclass(frozen=True)
class Schedule:
    """How long a run is, and its learning rate at each step.

    images: in a step of all processes together, which the learning rate is scaled to. steps_per_epoch: updates.
    """

    config: TrainConfig
    images: int
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        return self.config.iterations or self.config.epochs * self.steps_per_epoch

    @property
    def epochs(self) -> int:
        return math.ceil(self.total_steps / self.steps_per_epoch)

    @property
    def steps(self) -> int:
        """Those that the learning rate is laid out for; after them it stays as it is."""
        return self.config.schedule_steps or self.total_steps

    @property
    def warmup(self) -> int:
        return min(self.config.warmup, self.steps // 10)

    @property
    def milestones(self) -> tuple[int, ...]:
        """Where schedule step falls, in optimiser steps. Up to 1 they are stated as fractions of the run, above it as
        epochs, or as steps where the run is stated in iterations."""
        unit = 1 if self.config.iterations else self.steps_per_epoch
        return tuple(round(place * (self.steps if place <= 1 else unit)) for place in self.config.steps)

    @property
    def lr(self) -> float:
        """The learning rate at factor 1."""
        return self.config.lr * (self.images / self.config.lr_batch if self.config.lr_batch else 1)

    def factor(self, step: int) -> float:
        """The factor on the learning rate of optimiser step `step`, of which 0 is the first.

        The warm-up multiplies the schedule below it. Cosine runs from 1 at the end of the warm-up to `final_lr`.
        """
        config, factor = self.config, 1.0
        if config.schedule == "step":
            factor = config.gamma ** sum(step >= milestone for milestone in self.milestones)
        elif config.schedule == "cosine":
            progress = min(1.0, max(0, step - self.warmup) / max(1, self.steps - self.warmup))
            factor = config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
        if step < self.warmup:
            start = config.warmup_factor
            factor *= start if config.warmup_kind == "constant" else start + (1 - start) * step / self.warmup
        return factor

    def __str__(self) -> str:
        """How the learning rate comes about: "lr 0.0025 = 0.01 x 4/16 (...)"."""
        config = self.config
        scaled = f"{config.lr:g} x {self.images}/{config.lr_batch}" if config.lr_batch else "as given, not scaled"
        milestones = f" at {', '.join(map(str, self.milestones))}" if config.schedule == "step" else ""
        laid_out = f" laid out for {counted(self.steps, 'step')}" if self.steps != self.total_steps else ""
        return (
            f"lr {self.lr:g} = {scaled} ({config.optimizer}, {config.schedule}{milestones}{laid_out}; "
            f"{counted(self.total_steps, 'step')} in {counted(self.epochs, 'epoch')}, warm-up "
            f"{counted(self.warmup, 'step')}, {config.warmup_kind} from {config.warmup_factor:g})"
        )


class ModelEma:
    """`average <- d * average + (1 - d) * model` after each optimiser step.

    d rises as `min(decay, (1 + n) / (10 + n))` with the number n of updates, so that a short run does not keep its
    random start. Buffers that are not floating point are copied.
    """

    def __init__(self, model: Detector, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model: Detector = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: Detector) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = model.state_dict()
        averages, values = [], []
        for name, average in self.model.state_dict().items():
            if average.is_floating_point():
                averages.append(average)
                values.append(current[name])
            else:
                average.copy_(current[name])
        torch._foreach_lerp_(averages, values, 1 - decay)
