"""What is said of the order at how many seeds."""

import math

import numpy as np
import pandas as pd
import pytest

from aweigh.ranks import spearman
from aweigh.studies.agreement import agreement

PAPER = {"a": 30.0, "b": 31.0, "c": 35.0}


def found(**rows: list[float]) -> dict[str, dict[int, float]]:
    return {row: dict(enumerate(values)) for row, values in rows.items()}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (found(a=[1, 2, 3], b=[4, 5, 6], c=[7, 8, 9]), "the paper's (Spearman 1.00 of AP over 3 rows; 95 %"),
        (found(a=[7, 8, 9], b=[4, 5, 6], c=[1, 2, 3]), "not the paper's (Spearman -1.00"),
        (found(a=[4, 5, 6], b=[1, 2, 3], c=[7, 8, 9]), "in part the paper's (Spearman 0.50"),
        (found(a=[1, 9, 5], b=[5, 5, 5], c=[9, 1, 6]), "too small to tell whether"),
        (found(a=[1], b=[2], c=[3]), "too small to tell: one seed alone"),
        (found(a=[1, 2]), "fewer than two rows"),
        (found(a=[1, 1], b=[1, 1]), "all rows have the same AP"),
        ({}, "fewer than two rows"),
    ],
)
def test_no_more_is_said_than_the_seeds_can_tell(rows: dict[str, dict[int, float]], said: str) -> None:
    assert said in str(agreement("AP", rows, PAPER))


def test_rows_that_are_equal_in_the_paper_may_come_in_any_order() -> None:
    paper = {"a": 33.5, "b": 33.5, "c": 37.1}
    for a, b in ((1.0, 2.0), (2.0, 1.0)):
        own = agreement("AP", found(a=[a] * 2, b=[b] * 2, c=[3, 3]), paper)
        assert own.correlation == pytest.approx(own.most) == pytest.approx(math.sqrt(3) / 2)
        assert "Order: the paper's (Spearman 0.87 of AP over 3 rows, some equal in the paper, so" in str(own)
    assert "Order: in part" in str(agreement("AP", found(a=[1, 1], b=[3, 3], c=[2, 2], d=[4, 4]), {**paper, "d": 40.0}))
    assert "Order: the paper's (Spearman 1.00" in str(agreement("AP", found(a=[1, 1], b=[1, 1], c=[2, 2]), paper))


def test_seeds_are_drawn_whole() -> None:
    """Between seeds everything moves together: no draw changes the order of the rows."""
    together = agreement("AP", found(a=[1, 11, 21], b=[2, 12, 22], c=[3, 13, 23]), PAPER)
    assert (together.low, together.high) == (pytest.approx(1), pytest.approx(1))
    # All 27 draws of three seeds, by hand: the share of those with a correlation below 0 decides the lower end.
    apart = found(a=[1, 2, 9], b=[2, 3, 1], c=[3, 4, 5])
    draws = np.array(np.meshgrid(*[range(3)] * 3)).reshape(3, -1).T
    means = np.array([list(row.values()) for row in apart.values()])[:, draws].mean(axis=2)  # [3, 27]
    exact = [spearman(column, list(PAPER.values())) for column in means.T]
    own = agreement("AP", apart, PAPER)
    assert own.low == pytest.approx(np.quantile(exact, 0.025)) and own.high == pytest.approx(np.quantile(exact, 0.975))


@pytest.mark.parametrize(("values", "said"), [((1, 2, 3), "the paper's ("), ((2, 1, 3), "in part"), ((3, 2, 1), "not")])
def test_what_no_seed_changes_needs_one(values: tuple[float, ...], said: str) -> None:
    rows = {row: {0: value} for row, value in zip(PAPER, values, strict=True)}
    assert str(agreement("AP", rows, PAPER, exact=True)).startswith(f"Order: {said}")


def test_only_seeds_that_all_rows_have_are_compared() -> None:
    some = agreement("AP", {"a": {0: 1.0, 1: 5.0}, "b": {0: 2.0}}, PAPER)
    assert (some.rows, some.seeds, some.correlation) == (2, 1, pytest.approx(1))
    assert some.to_dict()["said"] == str(some)


def test_rows_of_a_draw_are_ranked_by_their_means() -> None:
    """One row has the best seed of all and the worst mean: every draw of whole seeds is looked at by itself."""
    found = {row: dict(enumerate(values)) for row, values in {"a": [5.1, 0, 0, 0], "b": [4] * 4, "c": [5] * 4}.items()}
    draws = np.random.default_rng(0).integers(4, size=(2000, 4))
    orders = [pd.Series([np.mean([row[seed] for seed in draw]) for row in found.values()]).rank() for draw in draws]
    each = [order.corr(pd.Series([1.0, 2.0, 3.0])) for order in orders]
    got = agreement("AP", found, {"a": 1.0, "b": 2.0, "c": 3.0})
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(each, [0.025, 0.975])))
