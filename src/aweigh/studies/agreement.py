"""Whether the rows come in the order of the paper: Spearman's rank correlation, and how far seeds can tell it.

The interval is a bootstrap over seeds: rows of one seed saw the same images in the same order, so that seeds are drawn
whole, with replacement, and the rows of each draw are ranked by their means. This file imports no torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aweigh.errors import counted
from aweigh.ranks import spearman

DRAWS = 2000
SHARE = 0.95


@dataclass(frozen=True)
class Agreement:
    """Of the metric of a study. correlation: of the means over seeds, in `[-1, 1]`, NaN where all rows are alike here
    or in the paper. low, high: the ends of the interval that holds 95 % of the draws. rows, seeds: how many. most: the
    correlation of rows that differ and come in the order of the paper, below 1 where the paper has equal rows. exact:
    nothing was trained, so that no seed changes the values."""

    metric: str
    correlation: float
    low: float
    high: float
    rows: int
    seeds: int
    most: float = 1.0
    exact: bool = False

    def __str__(self) -> str:
        """One line, which claims no more than the seeds can tell."""
        if self.rows < 2:
            return f"Order: fewer than two rows have {self.metric} here and in the paper; there is nothing to compare."
        if math.isnan(self.correlation):
            return f"Order: all rows have the same {self.metric}, here or in the paper; there is none to compare."
        found = f"Spearman {self.correlation:.2f} of {self.metric} over {counted(self.rows, 'row')}"
        if self.most < 1 - 1e-9:
            found += f", some equal in the paper, so that an order agrees from {self.most:.2f} on"
        if self.exact:
            return self._said(found)
        if self.seeds < 2:
            return f"Order: the budget is too small to tell: one seed alone ({found})."
        found += f"; 95 % of draws of {counted(self.seeds, 'seed')} from {self.low:.2f} to {self.high:.2f}"
        if self.low <= 0 <= self.high:
            return f"Order: the budget is too small to tell whether it is the paper's ({found})."
        return self._said(found)

    def _said(self, found: str) -> str:
        how = "" if self.correlation > self.most - 1e-9 else "in part " if self.correlation > 0 else "not "
        return f"Order: {how}the paper's ({found})."

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        numbers = {name: None if value != value else value for name, value in vars(self).items()}
        return {**numbers, "said": str(self)}


def agreement(
    metric: str, found: Mapping[str, Mapping[int, float]], paper: Mapping[str, float], *, exact: bool = False
) -> Agreement:
    """found: by row and seed; seeds that one of the rows lacks are left out. paper: by row. exact: see `Agreement`."""
    rows = [row for row in paper if found.get(row)]
    seeds = sorted(set.intersection(*(set(found[row]) for row in rows))) if rows else []
    values = np.array([[found[row][seed] for seed in seeds] for row in rows]).reshape(len(rows), len(seeds))  # [R, S]
    printed = np.array([paper[row] for row in rows])
    if len(rows) < 2 or not seeds:
        return Agreement(metric, math.nan, math.nan, math.nan, len(rows) if seeds else 0, len(seeds))
    drawn = np.random.default_rng(0).integers(len(seeds), size=(DRAWS, len(seeds)))
    draws = spearman(values[:, drawn].mean(axis=2).T, printed)  # [DRAWS]
    low, high = np.quantile(np.nan_to_num(draws), [(1 - SHARE) / 2, (1 + SHARE) / 2])  # all alike: no order
    correlation = float(spearman(values.mean(axis=1), printed))
    most = float(spearman(np.argsort(np.argsort(printed)), printed))
    return Agreement(metric, correlation, float(low), float(high), len(rows), len(seeds), most, exact)
