"""`labelme`: a folder with one `.json` per image, to be corrected in labelme beside the images; holds no masks.

A shape keeps its score, which labelme leaves in its place; the id of a track is its group.
"""

from __future__ import annotations

import json
from pathlib import Path

from aweigh.detections import Detections
from aweigh.results.format import FileEach, shortest


def labelme_text(detections: Detections) -> str:
    """Each box as a rectangle, of which labelme has two opposite corners."""
    height, width = detections.size_hw
    boxes, scores = shortest(detections.boxes), shortest(detections.scores)
    tracks = [None] * len(detections) if detections.track_ids is None else detections.track_ids.tolist()
    shapes = [
        {
            "label": name,
            "points": [[x0, y0], [x1, y1]],
            "group_id": track,
            "shape_type": "rectangle",
            "flags": {},
            "score": score,
        }
        for name, (x0, y0, x1, y1), score, track in zip(detections.names, boxes, scores, tracks, strict=True)
    ]
    sides = {"imageHeight": height, "imageWidth": width}
    image = {"imagePath": Path(detections.path or "").name, "imageData": None, **sides}
    return json.dumps({"version": "5.0.1", "flags": {}, "shapes": shapes, **image}, indent=1) + "\n"


FORMAT = FileEach(labelme_text, ".json", left_out=("masks", "keypoints", "cuboids"))
