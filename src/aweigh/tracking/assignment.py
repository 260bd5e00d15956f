"""Which row goes with which column, so that all pairs together gain most: the assignment problem, exactly.

Shortest augmenting paths with potentials (Jonker and Volgenant 1987, for rectangles Crouse 2016, section III): each row
in turn takes its best column, and where that is taken its owner is moved on along the path that costs least.
"""

from __future__ import annotations

import numpy as np


def best_pairs(gains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns `[K]` int64 of the pairs whose gains have the largest sum, each row and column in one at most.

    gains: `[N, M]` float, what each pair is worth; one of 0 or less is never made.
    """
    worth = np.maximum(gains, 0)
    rows, columns = np.flatnonzero(worth.any(axis=1)), np.flatnonzero(worth.any(axis=0))
    worth = worth[np.ix_(rows, columns)]
    if len(rows) > len(columns):
        pairs = np.arange(len(columns)), _cheapest(-worth.T)
        chosen_rows, chosen_columns = rows[pairs[1]], columns[pairs[0]]
    else:
        pairs = np.arange(len(rows)), _cheapest(-worth)
        chosen_rows, chosen_columns = rows[pairs[0]], columns[pairs[1]]
    made = gains[chosen_rows, chosen_columns] > 0
    return chosen_rows[made], chosen_columns[made]


def _cheapest(costs: np.ndarray) -> np.ndarray:
    """The column `[N]` of each row, all different, of the least sum of costs `[N, M]`, N at most M."""
    count, width = costs.shape
    of_row, of_column = np.zeros(count), np.zeros(width)  # potentials: no cost is below their sum
    owner = np.full(width, -1)
    for row in range(count):
        distance, before = (
            np.full(width, np.inf),
            np.full(width, -1),
        )  # of the path to each column; the column before it
        open_columns, column, end, reached = np.ones(width, dtype=bool), -1, row, 0.0
        while end >= 0:
            through = reached + costs[end] - of_row[end] - of_column
            shorter = open_columns & (through < distance)
            distance[shorter], before[shorter] = through[shorter], column
            column = int(np.where(open_columns, distance, np.inf).argmin())
            reached, open_columns[column], end = float(distance[column]), False, int(owner[column])
        passed = np.flatnonzero(~open_columns & (owner >= 0))
        of_row[row] += reached
        of_row[owner[passed]] += reached - distance[passed]
        of_column[passed] -= reached - distance[passed]
        while column >= 0:
            owner[column] = owner[before[column]] if before[column] >= 0 else row
            column = int(before[column])
    chosen = np.empty(count, dtype=np.int64)
    taken = np.flatnonzero(owner >= 0)
    chosen[owner[taken]] = taken
    return chosen
