"""An exponential moving average of a model's parameters and buffers, which is what is evaluated and saved."""

import copy

import torch
from torch import nn


class ModelEma:
    """`average <- d * average + (1 - d) * model` after each optimiser step.

    d rises as `min(decay, (1 + n) / (10 + n))` with the number n of updates, so that a short run does not keep its
    random start. Buffers that are not floating point are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
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
