"""`kitti`: a folder with one `.txt` per image, KITTI's label files with a score as the 16th column.

Holds no masks and keypoints; -1, -1000 and -10 stand where a 3D box is not known.
"""

from __future__ import annotations

import re

from aweigh.detections import Detections
from aweigh.errors import escaped
from aweigh.geometry.cuboids import solids_from_cuboids
from aweigh.layouts.kitti import NOT_KNOWN, Label, label_text
from aweigh.results.format import FileEach


def kitti_text(found: Detections) -> str:
    """A label file with scores. Where a detection has no cuboid or its image no camera, KITTI's "not known"."""
    lines = []
    spaces = [NOT_KNOWN] * len(found)
    alphas = [-10.0] * len(found)
    if found.cuboids is not None:
        sides, alphas = found.cuboids[:, 3:6].tolist(), found.cuboids[:, 6].tolist()
        spaces = [(*own, *NOT_KNOWN[3:]) for own in sides]
        if found.camera is not None:
            solids = solids_from_cuboids(found.cuboids, found.camera).tolist()
            spaces = [(h, w, length, x, y, z, turn) for x, y, z, h, w, length, turn in solids]
    rows = zip(found.names, alphas, found.boxes.tolist(), spaces, found.scores.tolist(), strict=True)
    for name, alpha, box, space, score in rows:
        lines.append(label_text(Label(_word(name), -1, -1, alpha, tuple(box), space, score)))
    return "".join(lines)


def _word(name: str) -> str:
    """A class name as one word, which is all that a column holds."""
    return re.sub(r"\s", "_", escaped(name)) or "_"


FORMAT = FileEach(kitti_text, ".txt", left_out=("masks", "keypoints", "tracks"))
