"""Detections of the tiles of an image, joined where the tiles meet.

One rule says which detections of two tiles are one object: in the pixels that both tiles see, they look alike. That
holds of an object which is whole in the overlap, of one that is whole in one tile and cut in the other, and of one that
both cut, whose halves share what lies in the overlap. A plain suppression knows the first of these alone: the half of
an object overlaps the whole by as little as it shows.

Of one object the best whole detection stays as it is. Where every tile cuts it, the detections become one: the box that
holds them all, the score of the best, the mask that any of them sees, and each keypoint where it is surest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aweigh.detections import Detections
from aweigh.geometry.boxes import pairwise_iou, pairwise_share
from aweigh.geometry.masks import sampled
from aweigh.geometry.tiles import Window, neighbours, shared

ALIKE = 0.3  # IoU, in what both tiles see, from which two detections may be one object: the most alike go first; ours
COVERED = (
    0.5  # the share of a cut detection, inside that of a tile which sees more, from which it is a part of it; ours
)
EDGE = 0.01  # of a tile's side: a box that comes so close to its edge is cut by it; ours


def join(found: Sequence[Detections], windows: Sequence[Window], *, agnostic: bool = False) -> Detections:
    """The objects of a whole image, best first.

    found: what each tile shows, in the pixels of the whole. windows: of the tiles, as `Tiles.cut` orders them.
    agnostic: whether boxes of different classes may be one object.
    """
    seams = Seams(agnostic=agnostic)
    seams.add(found, windows)
    return seams.objects()


@dataclass(frozen=True)
class _Objects:
    """Objects, each of one detection or several.

    tiles: of each, those that its detections are of. cut: `[N]` bool, whether no tile shows the whole of it. rows:
    `[N]`, its place among all. decided: `[N]` bool, whether it is known if it is a part of another one.
    """

    found: Detections
    tiles: list[np.ndarray]
    cut: np.ndarray
    rows: np.ndarray
    decided: np.ndarray

    def __getitem__(self, kept: np.ndarray) -> _Objects:
        tiles = [self.tiles[row] for row in np.flatnonzero(kept)]
        return _Objects(self.found[kept], tiles, self.cut[kept], self.rows[kept], self.decided[kept])

    def and_also(self, other: _Objects) -> _Objects:
        arrays = ((self.cut, other.cut), (self.rows, other.rows), (self.decided, other.decided))
        found = Detections.joined([self.found, other.found])
        return _Objects(found, self.tiles + other.tiles, *(np.concatenate(pair) for pair in arrays))


class Seams:
    """Joins what tiles show, a row of tiles after the other: the objects are those of all tiles at once.

    Held are the detections that a further row may change, and the objects.
    """

    def __init__(self, *, agnostic: bool = False) -> None:
        self._agnostic = agnostic
        self._windows: list[Window] = []
        self._held: tuple[Detections, np.ndarray, np.ndarray] | None = None  # with the tile of each, and its row
        self._near: _Objects | None = None  # objects that are not decided, and those beside them
        self._done: list[tuple[Detections, np.ndarray]] = []  # with their rows
        self._count = 0

    def add(self, found: Sequence[Detections], windows: Sequence[Window], below: float = math.inf) -> None:
        """What the next row of tiles shows. below: where the row after it begins; infinite when there is none."""
        detections = Detections.joined(found)
        tile_of = len(self._windows) + np.repeat(np.arange(len(found)), [len(one) for one in found])
        rows = self._count + np.arange(len(detections))
        self._windows += windows
        self._count += len(detections)
        if self._held is not None:
            detections = Detections.joined([self._held[0], detections])
            tile_of, rows = np.concatenate([self._held[1], tile_of]), np.concatenate([self._held[2], rows])
        objects, waiting = self._grouped(detections, tile_of, rows, below)
        self._held = detections[waiting], tile_of[waiting], rows[waiting]
        near = objects if self._near is None else self._near.and_also(objects)
        line = min(below, float(detections.boxes[waiting, 1].min(initial=math.inf)))  # whatever comes lies below it
        ready = ~near.decided & (near.found.boxes[:, 3] <= line)
        covered = _covered(near.found, near.tiles, near.cut, self._windows, self._agnostic)
        kept = ready & ~covered
        self._done.append((near.found[kept], near.rows[kept]))
        near = replace(near, decided=near.decided | ready)
        line = min(line, float(near.found.boxes[~near.decided, 1].min(initial=math.inf)))
        self._near = near[~near.decided | (near.found.boxes[:, 3] > line)]

    @property
    def held(self) -> int:
        """How many detections and objects a further row may change, or are beside one that it may change."""
        detections = 0 if self._held is None else len(self._held[0])
        return detections + (0 if self._near is None else len(self._near.found))

    def objects(self) -> Detections:
        """All of them, best first, once every row is added."""
        result = Detections.joined([found for found, _ in self._done])
        rows = np.concatenate([rows for _, rows in self._done])
        self._done.clear()
        return result[np.lexsort((rows, -result.scores))]

    def _grouped(
        self, found: Detections, tile_of: np.ndarray, rows: np.ndarray, below: float
    ) -> tuple[_Objects, np.ndarray]:
        """The objects that no further row has a part of, and which detections wait for one: `[N]` bool."""
        tiles, numbers = np.unique(tile_of, return_inverse=True)
        windows = [self._windows[tile] for tile in tiles.tolist()]
        pairs = _alike(found, numbers, windows, self._agnostic)
        waiting = np.zeros(len(found), dtype=bool)
        for own in _united(len(found), pairs, lambda one, other: True):
            waiting[own] = bool((found.boxes[own, 3] > below).any())

        def of_different_tiles(one: list[int], other: list[int]) -> bool:
            together = numbers[one + other]
            return len({*together.tolist()}) == len(together)  # an object has one detection of each tile

        cut = _cut(found, np.array(windows)[numbers])
        members = [own for own in _united(len(found), pairs, of_different_tiles) if not waiting[own[0]]]
        best = np.array([_best(found, own, cut) for own in members], dtype=np.int64)
        parts = [own if cut[own].all() and len(own) > 1 else [] for own in members]
        objects = _with_joined(found[best], found, parts)
        first = np.array([rows[own[0]] for own in members], dtype=np.int64)
        nothing = np.zeros(len(members), dtype=bool)
        return _Objects(objects, [tile_of[own] for own in members], cut[best], first, nothing), waiting


def _united(
    count: int, pairs: Sequence[tuple[int, int]], may: Callable[[list[int], list[int]], bool]
) -> list[list[int]]:
    """Rows in groups: those of each pair come into one, in the order of the pairs, where both groups `may`."""
    groups = np.arange(count)  # each named by one of its rows
    members = {row: [row] for row in range(count)}
    for first, second in pairs:
        one, other = groups[first], groups[second]
        if one != other and may(members[one], members[other]):
            groups[members[other]] = one
            members[one] += members.pop(other)
    return [*members.values()]


def _cut(found: Detections, windows: np.ndarray) -> np.ndarray:
    """`[N]`: whether a box reaches an edge of its tile `[N, 4]` behind which the image goes on."""
    height, width = found.size_hw
    windows = windows.reshape(-1, 4)
    margin = EDGE * (windows[:, 2:] - windows[:, :2])
    low = (found.boxes[:, :2] < windows[:, :2] + margin) & (windows[:, :2] > 0)
    high = (found.boxes[:, 2:] > windows[:, 2:] - margin) & (windows[:, 2:] < [width, height])
    reached: np.ndarray = (low | high).any(axis=1)
    return reached


def _alike(found: Detections, tile_of: np.ndarray, windows: Sequence[Window], agnostic: bool) -> list[tuple[int, int]]:
    """The pairs of rows that may be one object, those that are surest of it first."""
    rows = np.split(np.arange(len(found)), np.searchsorted(tile_of, np.arange(1, len(windows))))
    pairs, sure = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    for one, other in neighbours([*windows]):
        both = shared(windows[one], windows[other])
        inside = [own[_reaches(found.boxes[own], both)] for own in (rows[one], rows[other])]
        if not (len(inside[0]) and len(inside[1])):
            continue
        seen = [_clipped(found.boxes[own], both) for own in inside]
        alike = pairwise_iou(*seen)
        if not agnostic:
            alike = np.where(found.labels[inside[0]][:, None] == found.labels[inside[1]], alike, 0)
        first, second = np.nonzero(alike >= ALIKE)
        pair = np.stack([inside[0][first], inside[1][second]], axis=1)
        pairs.append(pair)
        sure.append(alike[first, second] * found.scores[pair].min(axis=1))
    order = np.argsort(-np.concatenate(sure), kind="stable")
    return [(int(first), int(second)) for first, second in np.concatenate(pairs)[order]]


def _reaches(boxes: np.ndarray, window: Window) -> np.ndarray:
    x0, y0, x1, y1 = window
    apart = (boxes[:, :2] >= [x1, y1]) | (boxes[:, 2:] <= [x0, y0])
    inside: np.ndarray = np.logical_not(np.any(apart, axis=1))
    return inside


def _clipped(boxes: np.ndarray, window: Window) -> np.ndarray:
    x0, y0, x1, y1 = window
    clipped: np.ndarray = boxes.clip([x0, y0, x0, y0], [x1, y1, x1, y1])
    return clipped


def _best(found: Detections, rows: list[int], cut: np.ndarray) -> int:
    """The row of the best of a group, a whole one where there is one."""
    return max(rows, key=lambda row: (not cut[row], found.scores[row]))


def _with_joined(result: Detections, found: Detections, parts: Sequence[list[int]]) -> Detections:
    """The result with the boxes, masks and keypoints of those rows that are made of several parts."""
    boxes = result.boxes.copy()
    scores = result.scores.copy()
    masks = None if result.masks is None else result.masks.copy()
    keypoints = None if result.keypoints is None else result.keypoints.copy()
    for row, own in enumerate(parts):
        if not own:
            continue
        boxes[row, :2], boxes[row, 2:] = found.boxes[own, :2].min(axis=0), found.boxes[own, 2:].max(axis=0)
        scores[row] = found.scores[own].max()
        if masks is not None and found.masks is not None:
            seen = [sampled(found.masks[part], found.boxes[part], boxes[row]) for part in own]
            masks[row] = np.max(seen, axis=0)
        if keypoints is not None and found.keypoints is not None:
            points = found.keypoints[own]  # [parts, K, 3]
            keypoints[row] = points[points[:, :, 2].argmax(axis=0), np.arange(points.shape[1])]
    return replace(result, boxes=boxes, scores=scores, masks=masks, keypoints=keypoints)


def _covered(
    result: Detections,
    tiles: Sequence[np.ndarray],
    cut: np.ndarray,
    windows: Sequence[Window],
    agnostic: bool,
) -> np.ndarray:
    """`[N]`: whether a cut detection of a single tile is a part of another one, of a tile which sees all of it."""
    covered = np.zeros(len(result), dtype=bool)
    left, right = result.boxes[:, 0], result.boxes[:, 2]
    by_left = np.argsort(left, kind="stable")
    longest = float((right - left).max(initial=0))
    alone = [row for row in np.flatnonzero(cut).tolist() if len(tiles[row]) == 1]
    for row in alone:
        box = result.boxes[row]
        near = by_left[slice(*np.searchsorted(left[by_left], [box[0] - longest, box[2]]))]
        near = near[(result.boxes[near, 1] < box[3]) & (result.boxes[near, 3] > box[1]) & (right[near] > box[0])]
        near = near if agnostic else near[result.labels[near] == result.labels[row]]
        near = near[pairwise_share(box[None], result.boxes[near])[0] >= COVERED]
        for other in near.tolist():
            seen = [windows[tile] for tile in tiles[other] if tile != tiles[row][0]]
            # Of two that are cut the surer one stays.
            stays = not cut[other] or len(tiles[other]) > 1 or result.scores[other] > result.scores[row]
            if other != row and stays and seen and pairwise_share(box[None], np.array(seen))[0].max() >= COVERED:
                covered[row] = True
    return covered
