"""Spearman's rank correlation against pandas."""

import math

import numpy as np
import pandas as pd
import pytest

from aweigh.ranks import spearman


def test_spearman_equals_pandas() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        first, second = random.integers(0, 5, size=(2, 7))  # with ties
        expected = pd.DataFrame({"first": first, "second": second}).corr(method="spearman").iloc[0, 1]
        assert spearman(first, second) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert spearman([[1, 2, 3], [3, 2, 1]], [10, 20, 25]) == pytest.approx([1, -1])
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3])) and math.isnan(spearman([1], [2]))
