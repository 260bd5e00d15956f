import torch
from torch import nn

from aweigh.training.optim import ModelEma


def test_average_by_hand_and_counters_copied():
    model = nn.BatchNorm1d(1)
    ema = ModelEma(model, decay=0.5)
    model.weight.data.fill_(2.0)
    model.running_mean.fill_(4.0)
    model.num_batches_tracked.fill_(7)
    ema.update(model)  # d = min(0.5, 2 / 11)
    assert torch.allclose(ema.model.weight, torch.tensor([2 / 11 * 1 + 9 / 11 * 2]))
    assert torch.allclose(ema.model.running_mean, torch.tensor([9 / 11 * 4.0]))
    assert ema.model.num_batches_tracked.item() == 7
    for _ in range(60):
        ema.update(model)
    assert torch.allclose(ema.model.weight, model.weight)
    assert not ema.model.training and not ema.model.weight.requires_grad


def test_late_updates_move_by_the_decay():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = ModelEma(model, decay=0.9)
    ema.updates = 1000
    model.weight.data.fill_(1.0)
    ema.update(model)
    assert torch.allclose(ema.model.weight, torch.tensor([[0.1]]))


def test_the_average_is_apart_from_the_model():
    model = nn.Linear(2, 2)
    ema = ModelEma(model, decay=0.9)
    before = ema.model.weight.clone()
    model.weight.data.add_(1.0)
    assert torch.equal(ema.model.weight, before)
