"""How often each image is drawn: all alike, repeated by its rarest class, or each class alike.

- repeat_factor: Gupta, Dollar, Girshick, "LVIS", CVPR 2019, arXiv 1908.03195: a class that is in the share
  f(c) of the images has r(c) = max(1, sqrt(t / f(c))); an image is drawn in proportion to the largest r of its
  classes, 1 without any.
- class_aware: Shen, Lin, Huang, "Relay backpropagation", ECCV 2016, arXiv 1512.05830: a class is drawn,
  each alike or by given weights, then one of the images that show it, each alike. Ours: images without objects keep
  their share of the epoch.

Ours: an epoch draws as many images as the split has, whatever the sampler, so that the number of steps and the
schedule stay the same. Numbers of draws that are no whole numbers are rounded up or down at random, anew for each
epoch, so that they are right on average; which, depends on (seed, epoch) alone.
Legend: I images, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from aweigh.annotations.split import Split
from aweigh.errors import DataError, UsageError, counted, did_you_mean
from aweigh.feeding.tiles import TileRows

Kind = Literal["uniform", "repeat_factor", "class_aware"]
SHOWN = 5  # classes that the description names


@dataclass(frozen=True)
class Sampling:
    """How images are drawn. class_draws: weights of class_aware as "truck=3", 1 for the classes not named.

    empty_tiles: of images that are cut into tiles, the share of what an epoch draws that shows nothing to learn.
    """

    kind: Kind = "uniform"
    repeat_threshold: float = 0.001
    class_draws: tuple[str, ...] = ()
    empty_tiles: float = 0.25

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(
                f"sampler = {self.kind!r}: expected one of {', '.join(get_args(Kind))}."
                + did_you_mean(self.kind, get_args(Kind))
            )
        if not 0 < self.repeat_threshold <= 1:
            raise UsageError(f"repeat_threshold = {self.repeat_threshold}: expected a share above 0, at most 1.")
        if not 0 <= self.empty_tiles <= 1:
            raise UsageError(f"empty_tiles = {self.empty_tiles}: expected a share, 0 to 1.")
        if self.class_draws and self.kind != "class_aware":
            raise UsageError(f"class_draws needs sampler = 'class_aware', got {self.kind!r}; leave one of them out.")

    def draws(self, split: Split) -> np.ndarray | None:
        """`[I]` float64: how often each image is drawn in an epoch on average, I in all; None is once each."""
        if self.kind == "uniform":
            return None
        return self._draws(classes_shown(split), split.classes.names)

    def draws_of_tiles(self, rows: TileRows, names: Sequence[str]) -> np.ndarray:
        """`[T]` float64, the same of tiles. names: of the classes.

        Of those that show objects as many are drawn as there are, and as many of the others as make up their share of
        the epoch, each alike; each no more than once, so that there may be fewer.
        """
        showing = rows.shows.any(axis=1)
        count, others = int(showing.sum()), int((~showing).sum())
        drawn = others
        if self.empty_tiles < 1 and count:
            drawn = min(others, round(count * self.empty_tiles / (1 - self.empty_tiles)))
        draws = np.full(len(rows), drawn / max(1, others))
        draws[showing] = 1.0 if self.kind == "uniform" else self._draws(rows.shows[showing], names)
        return draws

    def _draws(self, shows: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """`[R]`: how often each is drawn, by the classes it shows."""
        if self.kind == "repeat_factor":
            return _repeat_draws(shows, self.repeat_threshold)
        return _class_aware_draws(shows, class_weights(self.class_draws, names))

    def describe(self, split: Split, rows: TileRows | None = None) -> list[str]:
        """What is drawn, a line each: the tiles, and what the sampler changes; none for all images alike."""
        shows, names = (classes_shown(split) if rows is None else rows.shows), split.classes.names
        draws = self.draws(split) if rows is None else self.draws_of_tiles(rows, names)
        told = []
        if rows is not None and draws is not None:
            showing = rows.shows.any(axis=1)
            without = round(draws[~showing].sum())
            told = [f"{rows}; an epoch draws {epoch_length(len(rows), draws):,}, {without:,} of them without any"]
        if draws is None or self.kind == "uniform":
            return told
        return [*told, self._describe(shows, draws, names)]

    def _describe(self, shows: np.ndarray, draws: np.ndarray, names: Sequence[str]) -> str:
        if not shows.any():
            return f"sampler {self.kind}: no image has objects, all are drawn alike"
        counts = shows.sum(axis=0)
        change = np.divide(draws @ shows, counts, out=np.zeros(len(counts)), where=counts > 0)
        order = np.argsort(-change, kind="stable")[:SHOWN]
        shown = ", ".join(f"{names[label]} x{change[label]:.2g}" for label in order if counts[label])
        how = f", threshold {self.repeat_threshold:g}" if self.kind == "repeat_factor" else ""
        how += f", weights {', '.join(self.class_draws)}" if self.class_draws else ""
        absent = [name for name, count in zip(names, counts) if count == 0]
        lacking = f"; no image shows {', '.join(absent[:SHOWN])}{', ...' * (len(absent) > SHOWN)}" if absent else ""
        drawn = counted(epoch_length(len(draws), draws), "image")
        return f"sampler {self.kind}{how}: an epoch draws {drawn}, most often {shown}{lacking}"


def epoch_length(count: int, draws: np.ndarray | None = None) -> int:
    """How many of `count` rows an epoch draws."""
    return count if draws is None else round(float(draws.sum()))


def epoch_rows(count: int, seed: int, epoch: int, draws: np.ndarray | None = None) -> np.ndarray:
    """`[R]` int64: the images of an epoch in a random order, which depends on (seed, epoch) alone.

    draws: `[count]`, how often each is drawn on average, R in all; None is once each. An image is drawn
    that often, rounded up or down: systematic sampling (Madow 1949) along a random order.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(count)
    if draws is None or count == 0:
        return order
    ends = np.cumsum(draws[order])
    length = epoch_length(count, draws)
    ends *= length / ends[-1]
    ends[-1] = length
    marks = np.arange(length) + random.random()
    rows = order[np.searchsorted(ends, marks, side="right").clip(max=count - 1)]
    return random.permutation(rows)


def times_drawn(rows: np.ndarray) -> np.ndarray:
    """`[R]` int64: how often each row came before, so that its random changes are others each time."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    first = np.searchsorted(ordered, ordered, side="left")
    times = np.empty(len(rows), dtype=np.int64)
    times[order] = np.arange(len(rows)) - first
    return times


def classes_shown(split: Split) -> np.ndarray:
    """`[I, C]` bool: which classes have an object to be learned in which image."""
    shows = np.zeros((len(split), len(split.classes)), dtype=bool)
    image_of = split.image_of
    learned = ~split.ignore
    shows[image_of[learned], split.labels[learned]] = True
    return shows


def class_weights(given: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """`[C]` float64 from entries as "truck=3"; 1 for the classes that are not named."""
    weights = np.ones(len(names))
    seen: set[str] = set()
    for entry in given:
        name, equals, text = (part.strip() for part in entry.rpartition("="))
        if equals and name not in names:
            known = ", ".join(names)
            raise UsageError(f"class_draws: there is no class {name!r} among {known}.{did_you_mean(name, names)}")
        try:
            weight = float(text) if equals else math.nan
        except ValueError:
            weight = math.nan
        if not (math.isfinite(weight) and weight >= 0):
            raise UsageError(f"class_draws: {entry!r} is not a class and its weight, 0 or more, as truck=3.")
        if name in seen:
            raise UsageError(f"class_draws: {name!r} is given twice; keep one of them.")
        seen.add(name)
        weights[names.index(name)] = weight
    return weights


def _repeat_draws(shows: np.ndarray, threshold: float) -> np.ndarray:
    share = shows.mean(axis=0) if len(shows) else np.zeros(shows.shape[1])
    of_class = np.sqrt(threshold / np.maximum(share, 1e-12)).clip(min=1)  # [C]
    of_image = np.where(shows, of_class, 1.0).max(axis=1, initial=1.0)  # [I]
    scaled: np.ndarray = of_image * (len(shows) / max(of_image.sum(), 1))
    return scaled


def _class_aware_draws(shows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    pictures = shows.sum(axis=0)
    draws = np.ones(len(shows))
    with_objects = shows.any(axis=1)
    if not with_objects.any():
        return draws
    weights = np.where(pictures > 0, weights, 0)
    if weights.sum() == 0:
        raise DataError("class_draws: every class that the images show has weight 0; give one of them more.")
    each = with_objects.sum() * weights / weights.sum() / np.maximum(pictures, 1)  # [C]
    draws[with_objects] = (shows @ each)[with_objects]
    return draws
