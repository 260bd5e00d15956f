"""Parameter groups, the optimisers and the schedule against values worked out by hand."""

import pytest
import torch
from torch import nn

from aweigh.training.config import TrainConfig
from aweigh.training.optim import Schedule, make_optimizer, parameter_groups, set_lr


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)
        self.scales = nn.Parameter(torch.ones(5))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)


RULES = {"weight_decay": 1e-4, "norm_weight_decay": 0.5, "bias_lr": 2.0, "bias_weight_decay": 0.0}


def test_each_parameter_is_in_the_group_of_its_rule_once():
    model = Tiny()
    groups = parameter_groups(model, **RULES, backbone_lr=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group["lr_factor"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    assert found == {
        "scales": (1.0, 1e-4),
        "backbone.0.weight": (0.1, 1e-4),
        "backbone.1.weight": (0.1, 0.5),
        "backbone.1.bias": (0.2, 0.0),
        "head.weight": (1.0, 1e-4),
        "head.bias": (2.0, 0.0),
    }
    assert sum(len(group["params"]) for group in groups) == 6


def test_shared_parameters_are_counted_once():
    model = Tiny()
    model.again = model.head
    assert sum(len(group["params"]) for group in parameter_groups(model, **RULES)) == 6


def test_one_sgd_step_with_momentum_and_decay_by_hand():
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 2.0)
    nn.init.constant_(model.bias, 1.0)
    optimizer = make_optimizer(parameter_groups(model, weight_decay=0.5, bias_lr=2.0), kind="sgd", lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(1, 1)).sum().backward()  # both gradients are 1
        optimizer.step()
    # weight: g1 = 1 + 0.5 * 2 = 2, w = 1.8; g2 = 1 + 0.9 = 1.9, v = 0.9 * 2 + 1.9 = 3.7, w = 1.43
    assert model.weight.item() == pytest.approx(1.43)
    # bias, twice the rate and no decay: 1 - 0.2 * 1 - 0.2 * 1.9 = 0.42
    assert model.bias.item() == pytest.approx(0.42)


def test_adamw_decays_apart_from_the_gradient():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimizer = make_optimizer(parameter_groups(model, weight_decay=0.5), kind="adamw", lr=0.1)
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    assert model.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1)  # the first step has size lr
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_set_lr_keeps_the_factors():
    optimizer = make_optimizer(parameter_groups(Tiny(), bias_lr=2.0), kind="sgd", lr=1.0)
    set_lr(optimizer, 0.5)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.5, 1.0]


def schedule(**settings):
    return Schedule(TrainConfig(**settings), images=16, steps_per_epoch=10)


def test_step_schedule_of_the_paper():
    warmup = {"warmup": 500, "warmup_kind": "constant"}
    factor = schedule(iterations=90_000, schedule="step", steps=(60_000.0, 80_000.0), **warmup).factor
    assert [factor(step) for step in (0, 499, 500, 59_999)] == pytest.approx([1 / 3, 1 / 3, 1, 1])
    assert [factor(step) for step in (60_000, 79_999, 80_000, 89_999)] == pytest.approx([0.1, 0.1, 0.01, 0.01])


def test_linear_warm_up():
    rising = schedule(epochs=10, schedule="constant", warmup=4, warmup_factor=0.2)
    assert [rising.factor(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_cosine_runs_from_one_to_the_final_value():
    factor = schedule(epochs=11, schedule="cosine", warmup=10, warmup_factor=1.0, final_lr=0.1).factor
    assert [factor(step) for step in (0, 10, 60, 110, 200)] == pytest.approx([1.0, 1.0, 0.55, 0.1, 0.1])


def test_a_run_of_one_step_has_a_finite_rate():
    assert schedule(iterations=1, schedule="cosine").factor(0) == 1.0


def test_milestones_as_fractions_epochs_and_iterations():
    assert schedule(epochs=20, steps=(0.5, 1.0)).milestones == (100, 200)
    assert schedule(epochs=12, steps=(8.0, 11.0)).milestones == (80, 110)
    assert schedule(iterations=90_000, steps=(60_000.0, 80_000.0)).milestones == (60_000, 80_000)
