"""The paper's experiments: blocks of equal multiply-adds, and what is said of a direction."""

import numpy as np
import pytest
import torch
from torch import nn

from aweigh.profiling.guidelines import EXPERIMENTS, Bottleneck, Found, Parallel, measure_guidelines
from aweigh.profiling.operators import record


def multiply_adds(module: nn.Module, channels: int, side: int) -> int:
    module = module.to("meta").eval()
    return sum(
        each.multiply_adds
        for each in record(module, lambda: module(torch.empty(1, channels, side, side, device="meta")))
    )


@pytest.mark.parametrize("name", ["G1", "G2", "G3", "G4"])
def test_rows_of_a_table_cost_the_same(name: str) -> None:
    experiment = EXPERIMENTS[name]
    for column in range(len(experiment.columns)):
        costs = [multiply_adds(row.build(column), row.channels[column], 8) for row in experiment.rows]
        assert max(costs) / min(costs) < 1.08, costs  # the widths are whole numbers


def test_networks_of_figure_1_cost_what_their_columns_say() -> None:
    experiment = EXPERIMENTS["figure 1"]
    for row in experiment.rows:
        for column, millions in ((0, 40), (3, 500)):
            with torch.device("meta"):
                module = row.build(column)
            cost = multiply_adds(module, 3, 224) / 1e6
            assert 0.7 * millions < cost < 1.25 * millions, (row.name, cost)


def test_the_blocks_compute_what_they_are() -> None:
    x = torch.rand(1, 8, 5, 5)
    parallel = Parallel(8, 4)
    assert torch.equal(parallel(x), torch.cat([conv(x) for conv in parallel.fragments], 1))
    block = Bottleneck(8, relu=True, shortcut=True)
    first, second, third = block.convs
    expected = (third(second(first(x).relu()).relu()) + x).relu()
    assert torch.allclose(block(x), expected)
    assert torch.allclose(
        Bottleneck(8, relu=False, shortcut=False)(x * 0)[0, 0, 0, 0].isfinite().float(), torch.ones(())
    )


def test_what_is_said_of_a_direction() -> None:
    experiment = EXPERIMENTS["G1"]
    arm = np.array([row.arm for row in experiment.rows])
    as_there = Found(experiment, 1 / arm)
    assert np.allclose(as_there.here, as_there.paper("arm")) and as_there.spearman == pytest.approx(1)
    assert str(as_there) == "Faster or slower than the first row in 9 places of 9 as on the paper's ARM; Spearman 1.00."
    turned = 1 / arm
    turned[2, 1] = turned[0, 1] / 2  # 1:6, 2x: twice as fast as the first row
    assert "8 places of 9" in str(Found(experiment, turned)) and "Not: 1:6, 2x (2.00 here" in str(
        Found(experiment, turned)
    )
    assert as_there.to_dict()["gpu"][3][0] == pytest.approx(748 / 1480)


def test_experiments_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setitem(EXPERIMENTS, "G4", replace(EXPERIMENTS["G4"], side=4))
    found, _ = measure_guidelines(["G4"], repeats=1)
    assert found[0].seconds.shape == (4, 3) and (found[0].seconds >= 0).all()
