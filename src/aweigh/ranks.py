"""Spearman's rank correlation."""

import math

import numpy as np


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's correlation of the ranks along the last axis, `[..., R]` each; NaN where one has no order.

    Equal values share their mean rank.
    """
    ranks = [_centred_ranks(np.asarray(values, dtype=float)) for values in (first, second)]
    lengths = np.linalg.norm(ranks[0], axis=-1) * np.linalg.norm(ranks[1], axis=-1)
    together: np.ndarray = (ranks[0] * ranks[1]).sum(axis=-1)
    correlation: np.ndarray = np.divide(together, lengths, out=np.full(lengths.shape, math.nan), where=lengths > 0)
    return correlation


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    """`[..., R]`: how many are smaller, less how many are larger."""
    ranks: np.ndarray = np.sign(values[..., :, None] - values[..., None, :]).sum(axis=-1)
    return ranks
