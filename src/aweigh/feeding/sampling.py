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

Kind = Literal["uniform", "repeat_factor", "class_aware"]
SHOWN = 5  # classes that the description names


@dataclass(frozen=True)
class Sampling:
    """How images are drawn. class_draws: weights of class_aware as "truck=3", 1 for the classes not named."""

    kind: Kind = "uniform"
    repeat_threshold: float = 0.001
    class_draws: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(
                f"sampler = {self.kind!r}: expected one of {', '.join(get_args(Kind))}."
                + did_you_mean(self.kind, get_args(Kind))
            )
        if not 0 < self.repeat_threshold <= 1:
            raise UsageError(f"repeat_threshold = {self.repeat_threshold}: expected a share above 0, at most 1.")
        if self.class_draws and self.kind != "class_aware":
            raise UsageError(f"class_draws needs sampler = 'class_aware', got {self.kind!r}; leave one of them out.")

    def draws(self, split: Split) -> np.ndarray | None:
        """`[I]` float64: how often each image is drawn in an epoch on average, I in all; None is once each."""
        if self.kind == "uniform":
            return None
        shows = classes_shown(split)
        if self.kind == "repeat_factor":
            return _repeat_draws(shows, self.repeat_threshold)
        return _class_aware_draws(shows, class_weights(self.class_draws, split.classes.names))

    def describe(self, split: Split) -> list[str]:
        """What the sampler changes, one line; none for uniform."""
        draws = self.draws(split)
        if draws is None:
            return []
        shows = classes_shown(split)
        names = split.classes.names
        if not shows.any():
            return [f"sampler {self.kind}: no image has objects, all are drawn alike"]
        counts = shows.sum(axis=0)
        change = np.divide(draws @ shows, counts, out=np.zeros(len(counts)), where=counts > 0)
        order = np.argsort(-change, kind="stable")[:SHOWN]
        shown = ", ".join(f"{names[label]} x{change[label]:.2g}" for label in order if counts[label])
        how = f", threshold {self.repeat_threshold:g}" if self.kind == "repeat_factor" else ""
        how += f", weights {', '.join(self.class_draws)}" if self.class_draws else ""
        absent = [name for name, count in zip(names, counts) if count == 0]
        lacking = f"; no image shows {', '.join(absent[:SHOWN])}{', ...' * (len(absent) > SHOWN)}" if absent else ""
        return [f"sampler {self.kind}{how}: an epoch draws {counted(len(split), 'image')}, most often {shown}{lacking}"]


def epoch_rows(count: int, seed: int, epoch: int, draws: np.ndarray | None = None) -> np.ndarray:
    """`[count]` int64: the images of an epoch in a random order, which depends on (seed, epoch) alone.

    draws: `[count]`, how often each is drawn on average, with the sum `count`; None is once each. An image is drawn
    that often, rounded up or down: systematic sampling (Madow 1949) along a random order.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(count)
    if draws is None or count == 0:
        return order
    ends = np.cumsum(draws[order])
    ends *= count / ends[-1]
    ends[-1] = count
    marks = np.arange(count) + random.random()
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
