"""The pairs that gain most, against trying all of them."""

from itertools import permutations

import numpy as np
import pytest

from aweigh.tracking.assignment import best_pairs


def gained(gains: np.ndarray) -> float:
    """The best sum, by trying every choice of columns for the rows, of which each may also stay alone."""
    count, width = gains.shape
    wide = np.concatenate([np.maximum(gains, 0), np.zeros((count, count))], axis=1)
    return max(sum(wide[range(count), chosen]) for chosen in permutations(range(width + count), count))


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (3, 2), (4, 4), (3, 5), (5, 2)])
@pytest.mark.parametrize("seed", range(6))
def test_no_other_pairs_gain_more(shape: tuple[int, int], seed: int) -> None:
    gains = np.random.default_rng(seed).uniform(-0.5, 0.5, shape)
    gains[gains < -0.3] = 0  # ties too
    rows, columns = best_pairs(gains)
    assert len({*rows.tolist()}) == len(rows) == len({*columns.tolist()}) == len(columns)
    assert (gains[rows, columns] > 0).all()
    assert gains[rows, columns].sum() == pytest.approx(gained(gains))


def test_the_greatest_gain_is_let_go_where_all_together_gain_more() -> None:
    rows, columns = best_pairs(np.array([[0.9, 0.8], [0.8, 0.1]]))
    assert dict(zip(rows.tolist(), columns.tolist())) == {0: 1, 1: 0}


def test_hundreds_are_paired_as_they_lie() -> None:
    order = np.random.default_rng(0).permutation(300)
    gains = np.full((300, 400), 0.05)
    gains[np.arange(300), order] = 0.5
    rows, columns = best_pairs(gains)
    np.testing.assert_array_equal(columns[np.argsort(rows)], order)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (2, 2)])
def test_where_nothing_gains_there_is_no_pair(shape: tuple[int, int]) -> None:
    rows, columns = best_pairs(np.zeros(shape))
    assert rows.shape == columns.shape == (0,)
