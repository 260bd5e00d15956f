"""`yolo`: a folder with one `.txt` per image and `classes.txt`; holds no scores, masks and keypoints.

YOLO's lines of polygons hold no holes, and those of keypoints no scores.
"""

from __future__ import annotations

from aweigh.detections import Detections
from aweigh.results.format import FileEach


def yolo_text(detections: Detections) -> str:
    """Lines of class number, centre and size, as fractions of the image."""
    height, width = detections.size_hw
    lines = []
    for (x0, y0, x1, y1), label in zip(detections.boxes.tolist(), detections.labels.tolist()):
        values = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
        lines.append(f"{label} " + " ".join(f"{value:.7f}" for value in values) + "\n")
    return "".join(lines)


FORMAT = FileEach(yolo_text, ".txt", left_out=("masks", "keypoints", "cuboids", "tracks"), class_list=True)
