"""`jsonl`: one line per image: schema, path, width, height, detections, error; with keypoints their names.

A frame of a video has its number (frame, from 0) and its seconds after the first (time).

A detection is its box as xyxy, score, class, category_id and, where there are any, a segmentation (COCO's compressed
run lengths), keypoints, a cuboid and, with the camera, a solid, and the id of its track.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from aweigh.detections import Detections
from aweigh.results.format import OneFile, shortest

SCHEMA = "aweigh.detections/1"
# An object as its camera sees it, and where it stands: pixels, metres, radians, see `aweigh.geometry.cuboids`.
CUBOID = ("u", "v", "depth", "height", "width", "length", "alpha")
SOLID = ("x", "y", "z", "height", "width", "length", "rotation")


class JsonLines:
    def __init__(self, stream: TextIO, _: Path | None) -> None:
        self._stream = stream

    def add(self, detections: Detections, _: int) -> None:
        self._stream.write(json.dumps(json_line(detections)) + "\n")

    def finish(self) -> None:
        pass


def json_line(detections: Detections, *, masks: bool = True) -> dict[str, Any]:
    """One image as plain values: what a line of jsonl holds. masks: with the segmentations."""
    height, width = detections.size_hw
    found: list[dict[str, Any]] = [
        {"box": box, "score": score, "class": name, "category_id": category}
        for box, score, name, category in zip(
            shortest(detections.boxes), shortest(detections.scores), detections.names, detections.category_ids
        )
    ]
    more: dict[str, list[Any]] = {}  # a value for each detection
    if masks and detections.masks is not None:
        more["segmentation"] = detections.rle()
    if detections.keypoints is not None:
        more["keypoints"] = shortest(detections.keypoints)
    if detections.cuboids is not None:
        more["cuboid"] = [dict(zip(CUBOID, values, strict=True)) for values in shortest(detections.cuboids)]
        if detections.camera is not None:
            more["solid"] = [dict(zip(SOLID, values, strict=True)) for values in shortest(detections.solids())]
    if detections.track_ids is not None:
        more["track_id"] = detections.track_ids.tolist()
    for key, values in more.items():
        for entry, value in zip(found, values, strict=True):
            entry[key] = value
    return {
        "schema": SCHEMA,
        "path": detections.path,
        "width": width,
        "height": height,
        **({} if detections.frame_number is None else {"frame": detections.frame_number, "time": detections.time}),
        **({} if detections.keypoints is None else {"keypoint_names": keypoint_names(detections)}),
        "detections": found,
        "error": detections.error,
    }


def keypoint_names(detections: Detections) -> list[str]:
    """The names of the keypoints, numbers where they have none; empty where there are no keypoints."""
    if detections.keypoint_set is not None:
        return list(detections.keypoint_set.names)
    return [] if detections.keypoints is None else [str(number) for number in range(detections.keypoints.shape[1])]


FORMAT = OneFile("detections.jsonl", JsonLines)
