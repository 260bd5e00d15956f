"""`mot`: one row per detection of a sequence, as tools of MOTChallenge read tracks; holds no classes.

frame, id of the track (-1 where there is none), left, top, width, height, score, and -1 for each of x, y and z; frames
(of a video by their numbers there) and pixels are counted from 1 (https://motchallenge.net/instructions).
"""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

import numpy as np

from aweigh.detections import Detections
from aweigh.results.format import OneFile, shortest


class Rows:
    def __init__(self, stream: TextIO, _: Path | None) -> None:
        self._stream = stream

    def add(self, detections: Detections, number: int) -> None:
        frame = number if detections.frame_number is None else detections.frame_number + 1
        tracks = np.full(len(detections), -1) if detections.track_ids is None else detections.track_ids
        rows = zip(tracks.tolist(), detections.boxes.tolist(), shortest(detections.scores), strict=True)
        for track, (x0, y0, x1, y1), score in rows:
            box = f"{x0 + 1:.2f},{y0 + 1:.2f},{x1 - x0:.2f},{y1 - y0:.2f}"
            self._stream.write(f"{frame},{track},{box},{score},-1,-1,-1\n")

    def finish(self) -> None:
        pass


FORMAT = OneFile("tracks.txt", Rows, left_out=("masks", "keypoints", "cuboids"))
