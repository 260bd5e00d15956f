"""ByteTrack: which detections of one frame are the objects of the frames before it (Zhang et al. 2022,
https://arxiv.org/abs/2110.06864, algorithm 1).

    tracker = aweigh.Tracker()
    for frame in detector.stream("frames/", score=tracker.low):  # weak ones count as well
        found = tracker.update(frame)  # what belongs to a track, with `track_ids`

Objects move on at their speed (`motion.py`); then the sure detections go to the tracks that they overlap most, and weak
ones, which are mostly objects that something covers, to the tracks that are left. What no track takes begins one.

Ours differs: only objects of one class are matched; boxes are the detector's, not the filter's; a track that is not yet
confirmed is predicted too, and needs no more overlap than others; tracks are numbered when they are confirmed, so that
no number is left out; and frames may be left out, for which every track moves on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aweigh.arguments import Number, Share, checked_class
from aweigh.detections import Detections
from aweigh.errors import UsageError, counted
from aweigh.geometry.boxes import pairwise_iou
from aweigh.tracking.assignment import best_pairs
from aweigh.tracking.motion import begun, boxes_of, corrected, predicted

WEAK_IOU = 0.5  # between a track and a weak detection, as in the authors' code
DUPLICATE_IOU = 0.85  # from which on a lost track and one that is seen are the same object, as in the authors' code
TRAIL = 30  # frames, ours


@dataclass(frozen=True, eq=False)
class _Track:
    """id: 0 until it is confirmed. first, last: frames in which it was seen. state: `[5, 4]`, see
    `aweigh.tracking.motion`. trail: `[TRAIL, 2]` float32, see `Detections.trails`."""

    id: int
    label: int
    first: int
    last: int
    state: np.ndarray
    trail: np.ndarray


@checked_class()
class Tracker:
    """Gives the detections of frames, one after the other, the ids of their objects.

    high: from this score on a detection is sure. low: below it, it is nothing; between the two it can go on with a
    track that was seen in the frame before. new: from this score on, it can begin a track, which is confirmed by a sure
    detection in the next frame; in the first frame it is confirmed at once. iou: the least overlap between a sure
    detection and the place where its track is expected. lost: for so many frames a track waits to be seen again. All
    as in the paper (section 4.1) and its code.
    """

    def __init__(
        self, *, high: Share = 0.6, low: Share = 0.1, new: Share = 0.7, iou: Share = 0.2, lost: Number = 30
    ) -> None:
        if not low <= high <= new:
            raise UsageError(f"Tracker: low = {low:g}, high = {high:g}, new = {new:g}; none may be above the next.")
        self.high, self.low, self.new, self.iou, self.lost = high, low, new, iou, lost
        self.count = 0  # tracks that were confirmed, of all sequences; their ids are 1 to this
        self.best = 0.0  # the highest score of all detections
        self.begin()

    def begin(self) -> None:
        """Begin a sequence: no object of the frames so far comes again. Ids go on."""
        self._tracks: list[_Track] = []
        self._path: Path | None = None
        self._number = self._looked_at = 0  # of the last frame, and of the last that could be read; the first is 1

    def update(self, found: Detections, frame: int | None = None) -> Detections:
        """Those that belong to a confirmed track, with `track_ids` and `trails`, in their order.

        found: what a detector finds in the next frame, with scores down to `low`; one that could not be read comes back
        as it is, and its time passes. frame: its number in the sequence, higher than the last one's; when not given,
        that of a video, else the next. Frames of another video or folder than those before begin a sequence.
        """
        self._go_on(found, frame)
        if found.error is not None:
            return found
        self.best = max(self.best, float(found.scores.max(initial=0)))
        tracks = self._moved_on()
        known, unconfirmed = [track for track in tracks if track.id], [track for track in tracks if not track.id]
        sure, weak = found.scores >= self.high, (found.scores >= self.low) & (found.scores < self.high)
        taken = _matched(known, found, np.flatnonzero(sure), self.iou)
        seen_before = [track for track in known if track not in taken and track.last == self._looked_at]
        taken |= _matched(seen_before, found, np.flatnonzero(weak), WEAK_IOU)
        sure[list(taken.values())] = False
        taken |= _matched(unconfirmed, found, np.flatnonzero(sure), self.iou)
        sure[list(taken.values())] = False

        sure[found.scores < self.new] = False
        rows = {**self._seen_again(taken, found), **self._begun(found, np.flatnonzero(sure))}
        lost = [track for track in known if track not in taken]
        twice = _twice([*rows], lost)
        self._tracks = [track for track in (*rows, *lost) if track not in twice]
        self._looked_at = self._number
        return _of_tracks({row: track for track, row in rows.items() if track.id and track not in twice}, found)

    def told(self) -> str:
        """How many tracks there are; where there is none, why."""
        if self.count:
            return counted(self.count, "track")
        return (
            f"No track was confirmed: one begins at a score of {self.new:g}, and the highest was {self.best:.2f}. For "
            "a detector that is less sure, docs/tracking.md says what to choose."
        )

    def _go_on(self, found: Detections, frame: int | None) -> None:
        """To this frame, of this sequence or of the next."""
        path = None if found.path is None else Path(found.path)
        if self._number and (path and path.parent) != (self._path and self._path.parent):
            self.begin()
        if path is not None and self._path is not None and _counts_back(self._path.stem, path.stem):
            raise UsageError(
                f"{path} comes after {self._path.name}: these frames are in no order of time. Fill up the numbers in "
                "their names with zeros, or name them in order, in a list (@list.txt)."
            )
        self._path = path
        if frame is None:
            frame = self._number + 1 if found.frame_number is None else found.frame_number + 1
        if frame <= self._number:
            raise UsageError(f"Frame {frame} comes after frame {self._number}; give them in order, or begin() anew.")
        self._number = frame

    def _moved_on(self) -> list[_Track]:
        """The tracks that still wait or were just seen, where they are expected in this frame."""
        tracks = [track for track in self._tracks if self._number - track.last - 1 <= self.lost]
        if not tracks:
            return []
        states = np.stack([track.state for track in tracks])
        states[[track.last < self._looked_at for track in tracks], 1, 3] = 0  # the height of a lost one stays
        for _ in range(self._number - self._looked_at):
            states = predicted(states)
        return [replace(track, state=state) for track, state in zip(tracks, states, strict=True)]

    def _seen_again(self, taken: dict[_Track, int], found: Detections) -> dict[_Track, int]:
        """The tracks after they were seen at the rows that they took, with these; those without an id have one now."""
        if not taken:
            return {}
        rows = [*taken.values()]
        states = corrected(np.stack([track.state for track in taken]), found.boxes[rows])
        return {
            replace(
                track,
                id=track.id or self._next_id(),
                last=self._number,
                state=state,
                trail=np.concatenate([track.trail[1:], middle]),
            ): row
            for track, row, state, middle in zip(taken, rows, states, _middles(found.boxes[rows]), strict=True)
        }

    def _begun(self, found: Detections, rows: np.ndarray) -> dict[_Track, int]:
        """New tracks at these rows, with these."""
        boxes, nowhere = found.boxes[rows], np.full((TRAIL - 1, 2), np.nan, np.float32)
        return {
            _Track(
                self._next_id() if not self._looked_at else 0,
                int(found.labels[row]),
                self._number,
                self._number,
                state,
                np.concatenate([nowhere, middle]),
            ): int(row)
            for row, state, middle in zip(rows, begun(boxes), _middles(boxes), strict=True)
        }

    def _next_id(self) -> int:
        self.count += 1
        return self.count


def _counts_back(before: str, name: str) -> bool:
    """Whether two names differ in their last number alone, and the second has the lower one, as frame10, frame2."""
    parts = [re.fullmatch(r"(.*?)(\d+)(\D*)", text) for text in (before, name)]
    if parts[0] is None or parts[1] is None or parts[0][1] != parts[1][1] or parts[0][3] != parts[1][3]:
        return False
    return int(parts[1][2]) < int(parts[0][2])


def _matched(tracks: Sequence[_Track], found: Detections, rows: np.ndarray, least: float) -> dict[_Track, int]:
    """Which of these rows each track takes: of its class, with an overlap above `least`, so that all overlap most."""
    gains = pairwise_iou(_expected(tracks), found.boxes[rows]) - least  # [T, R]
    labels = np.array([track.label for track in tracks], np.int64)
    gains[labels[:, None] != found.labels[rows]] = 0
    of_tracks, of_rows = best_pairs(gains)
    return {tracks[track]: int(row) for track, row in zip(of_tracks, rows[of_rows], strict=True)}


def _twice(seen: Sequence[_Track], lost: Sequence[_Track]) -> set[_Track]:
    """Of a track that is seen and one that is lost in the same place, the one that was seen for the shorter time."""
    overlaps = pairwise_iou(_expected(seen), _expected(lost))
    pairs = [(seen[one], lost[other]) for one, other in np.argwhere(overlaps > DUPLICATE_IOU)]
    return {
        other if one.last - one.first > other.last - other.first else one
        for one, other in pairs
        if one.label == other.label
    }


def _expected(tracks: Sequence[_Track]) -> np.ndarray:
    """`[T, 4]` xyxy, where they are by their states."""
    return boxes_of(np.stack([track.state for track in tracks])) if tracks else np.zeros((0, 4))


def _middles(boxes: np.ndarray) -> np.ndarray:
    """`[N, 1, 2]` float32, the middles of boxes `[N, 4]`."""
    middles: np.ndarray = boxes.reshape(-1, 2, 2).mean(axis=1, keepdims=True).astype(np.float32)
    return middles


def _of_tracks(tracks: Mapping[int, _Track], found: Detections) -> Detections:
    """The detections of these rows, in their order, with the ids and trails of their tracks."""
    rows = sorted(tracks)
    return replace(
        found[rows],
        track_ids=np.array([tracks[row].id for row in rows], np.int64),
        trails=np.stack([tracks[row].trail for row in rows]) if rows else np.zeros((0, TRAIL, 2), np.float32),
    )
