"""Boxes that nearly coincide, found without comparing all with all, however many lie in one place.

Two boxes that overlap by much differ little in x, y, width and height. Boxes are put into cells of these four numbers,
as large as that difference, so that all partners of a box lie in the sixteen cells round it. Where many boxes share a
place, most meet a partner in a smaller cell, within a few comparisons, and need no more: each box is named once, beside
one partner.

Legend: N boxes.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np

STAND_INS = 4  # boxes of a class that are compared in the place of all that lie within 0.6 % of one another
FIRST_COMPARED = 8
CLASSES_APART = 1 << 16  # classes beyond are searched together with others, which finds no less of their own
HERE, AROUND = [(0, 0, 0, 0)], list(product((-1, 1), repeat=4))
PAIRS_AT_ONCE = 1 << 18  # bounds the memory of a search to some 50 MB


def near_pairs(
    boxes: np.ndarray, images: np.ndarray, labels: np.ndarray, min_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes that overlap an earlier one of their image by more than `min_iou`: one of their class, and one of another.

    boxes: `[N, 4]` xyxy, images, labels: `[N]` whole numbers. Returns two arrays `[K, 2]` of rows: each box that has
    earlier partners of the kind once, behind one of them. Boxes that equal an earlier one of their class are in
    neither, and are nobody's partner. Of boxes of a class within 0.6 % of one another only four, and of those of
    more than two classes only one a class, are compared with what lies further away.
    """
    boxes = boxes.astype(np.float64) + 0.0  # of -0.0 makes 0.0, which it equals
    rows = np.flatnonzero(_first_of(_key(images, labels, *boxes.T.copy().view(np.int64))) == np.arange(len(boxes)))
    rows = rows[_in_company(boxes[rows], images[rows], min_iou)]
    boxes, images, labels = boxes[rows], images[rows], labels[rows]
    cell = _small_cells(boxes, images, min_iou)
    numbers = np.arange(len(rows))
    head, of_class = _first_of(cell), _first_of(_key(cell, labels))  # the first in the cell, and that of one's class
    changes = np.flatnonzero(labels != labels[head])
    second = np.full(len(rows), len(rows))  # by head: the first whose class is not that of the head
    np.minimum.at(second, head[changes], changes)
    stranger = np.where(labels == labels[head], second[head], head)
    limit = np.where((of_class == head) | (of_class == second[head]), STAND_INS, 1)
    compared = np.flatnonzero(_rank(of_class) < limit)

    search = _Search(boxes, images, labels, min_iou, compared)
    same = search.partners(np.where(of_class < numbers, of_class, -1), alike=True)
    other = search.partners(np.where(stranger < numbers, stranger, -1), alike=False)
    return rows[same], rows[other]


class _Search:
    """Finds partners among the boxes `compared`, for those of them that have none yet."""

    def __init__(
        self, boxes: np.ndarray, images: np.ndarray, labels: np.ndarray, min_iou: float, compared: np.ndarray
    ) -> None:
        self.boxes, self.images, self.labels, self.min_iou, self.compared = boxes, images, labels, min_iou, compared
        self.logs = np.log(np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6))  # [N, 2]
        # The overlap along each side is more than min_iou as well, so sides differ by a factor of e^reach at most, and
        # corners by less than `apart` of a side.
        self.reach, self.apart = -math.log(min_iou) * (1 + 1e-9), (1 - min_iou) / min_iou * (1 + 1e-9)

    def partners(self, known: np.ndarray, *, alike: bool) -> np.ndarray:
        """`[K, 2]` pairs, the earlier box first. known: `[N]`, a partner of each box, -1 for none found yet. alike:
        partners are of the same class; else of another."""
        found = known.copy()
        labels = (self.labels % CLASSES_APART).astype(np.uint64)
        for scale, besides, most in ((1 / 8, HERE, 16), (1 / 4, HERE, 16), (1 / 2, HERE, 16), (1, AROUND, len(found))):
            own = self._cells(self.compared, scale) | labels[self.compared]
            order = np.argsort(own, kind="stable")  # by cell, in it by class, in it the earliest first
            keys, members = own[order], self.compared[order]
            for beside in besides:
                earlier = (found[self.compared] >= 0) & (found[self.compared] < self.compared)
                rows = self.compared[~earlier]
                cells = self._cells(rows, scale, beside)
                class_low = np.searchsorted(keys, cells | labels[rows], side="left")
                class_high = np.searchsorted(keys, cells | labels[rows], side="right")
                parts = [(class_low, class_high)]
                if not alike:
                    low = np.searchsorted(keys, cells, side="left")
                    high = np.searchsorted(keys, cells | np.uint64(CLASSES_APART - 1), side="right")
                    parts = [(low, class_low), (class_high, high)]
                for low, high in parts:
                    self._look(rows, members, low, np.minimum(high, low + most), found, alike=alike)
        rows = np.flatnonzero(found >= 0)
        pairs = np.sort(np.column_stack([found[rows], rows]), axis=1)
        return pairs[np.unique(pairs[:, 1], return_index=True)[1]]

    def _cells(self, rows: np.ndarray, scale: float, beside: tuple[int, ...] = (0, 0, 0, 0)) -> np.ndarray:
        """The cell of each box or, with -1 and 1, that in which its partners of less and more width, height, x and y
        lie. At scale 1 it is twice as large as partners differ, so that these two hold all of them. A number of 64
        bits, the last 16 free for the class."""
        step = 2 * self.reach * scale
        levels = np.floor(self.logs[rows] / step + 0.5 * np.array(beside[:2]))
        size = 2 * self.apart * scale * np.exp(step * (levels + 1))
        corners = np.floor(self.boxes[rows, :2] / size + 0.5 * np.array(beside[2:]))
        return _key(self.images[rows], *levels.T, *corners.T) & ~np.uint64(CLASSES_APART - 1)

    def _look(
        self,
        rows: np.ndarray,
        members: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        found: np.ndarray,
        *,
        alike: bool,
    ) -> None:
        """Compare each of these boxes with the members from its `low` to its `high`, until one is near.

        Of its own class only earlier ones are looked for, and the members are in order; of another class any, since
        one class may come before the other altogether, and of the first few the earliest.
        """
        width = FIRST_COMPARED
        left = low < high
        while left.any():
            rows, low, high = rows[left], low[left], high[left]
            width = max(1, min(width, int((high - low).max()), PAIRS_AT_ONCE // len(rows)))
            places = low[:, None] + np.arange(width)  # [n, width]
            mates = members[np.minimum(places, len(members) - 1)]
            valid = (places < high[:, None]) & ((mates < rows[:, None]) if alike else True)
            best = np.where(valid & self._near(rows[:, None], mates, alike), mates, len(found)).min(axis=1)
            before = np.where(found[rows] < 0, len(found), found[rows])
            best = np.minimum(best, before)
            found[rows] = np.where(best < len(found), best, -1)
            low, width = low + width, 2 * width
            left = (low < high) & (found[rows] < 0)
            if alike:
                left &= members[np.minimum(low, len(members) - 1)] < rows

    def _near(self, one: np.ndarray, other: np.ndarray, alike: bool) -> np.ndarray:
        first, second = self.boxes[one], self.boxes[other]
        sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
        shared = sides.clip(0).prod(axis=-1)
        areas = (first[..., 2:] - first[..., :2]).prod(axis=-1) + (second[..., 2:] - second[..., :2]).prod(axis=-1)
        same_class = self.labels[one] == self.labels[other]
        near = (self.images[one] == self.images[other]) & (same_class == alike)
        return np.asarray(near & (shared > self.min_iou * (areas - shared)))


def _in_company(boxes: np.ndarray, images: np.ndarray, min_iou: float) -> np.ndarray:
    """`[N]` bool: whether each side of a box has one of another box of its image as near as a partner's would be.

    Most boxes of most data sets have not, and need no search.
    """
    near = np.ones(len(boxes), dtype=bool)
    for side in range(4):
        order = np.lexsort((boxes[:, side], images))
        gap = np.diff(boxes[order, side], prepend=-np.inf, append=np.inf)
        gap[1:-1][np.diff(images[order]) != 0] = np.inf
        length = boxes[order, side % 2 + 2] - boxes[order, side % 2]
        near[order] &= np.minimum(gap[:-1], gap[1:]) <= (1 - min_iou) / min_iou * (1 + 1e-9) * length
    return near


def _small_cells(boxes: np.ndarray, images: np.ndarray, min_iou: float) -> np.ndarray:
    """A number for each box; all of one number overlap by more than `min_iou`.

    Where sides differ by a factor of e^s at most, and corners by s of a side, boxes share a = e^-s - s of each side or
    more, and so overlap by a^2 / (2 - a^2) or more.
    """
    step = 0.99 * (1 - math.sqrt(2 * min_iou / (1 + min_iou))) / 2
    levels = np.floor(np.log(np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6)) / step)
    corners = np.floor(boxes[:, :2] / (step * np.exp(step * (levels + 1))))
    return _key(images, *levels.T, *corners.T)


def _first_of(keys: np.ndarray) -> np.ndarray:
    """Of each place the first one that has the same key."""
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    return np.asarray(first[which.reshape(-1)])


def _rank(groups: np.ndarray) -> np.ndarray:
    """How many earlier places are of the same group."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    rank = np.empty(len(groups), dtype=np.int64)
    rank[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
    return rank


def _key(*columns: np.ndarray) -> np.ndarray:
    """One number of 64 bits for each row of whole numbers; two rows share one with a chance of 1 to 10^19."""
    mixed = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        mixed = (mixed ^ column.astype(np.int64).view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed
