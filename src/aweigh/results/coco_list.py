"""`coco`: the list of results that COCO's tools load, each with the `file_name` of its image.

Beside it `NAME.images.json` has the images (with the `bytes` of their files) and categories, see `aweigh.results.coco`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from aweigh.annotations.proposals import length_of
from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.files import write_text
from aweigh.results.coco import list_of
from aweigh.results.format import OneFile, shortest


class CocoList:
    def __init__(self, stream: TextIO, path: Path | None) -> None:
        self._stream, self._path = stream, path
        self._classes: Classes | None = None
        self._keypoints: KeypointSet | None = None
        self._images: list[dict[str, Any]] = []
        self._rows = 0
        stream.write("[")

    def add(self, detections: Detections, number: int) -> None:
        self._classes = self._classes or (detections.classes if len(detections.classes) else None)
        self._keypoints = self._keypoints or detections.keypoint_set
        height, width = detections.size_hw
        name = detections.path or ""
        image = {"id": number, "file_name": name, "width": width, "height": height}
        if name and (length := length_of(Path(name))) >= 0:
            image["bytes"] = length
        self._images.append(image if detections.error is None else image | {"error": detections.error})
        entries = detections.to_coco(number)
        if detections.keypoints is not None:
            for entry, points in zip(entries, shortest(detections.keypoints), strict=True):
                entry["keypoints"] = [value for point in points for value in point]
        for entry, (x0, y0, x1, y1), score in zip(entries, shortest(detections.boxes), shortest(detections.scores)):
            entry |= {"bbox": [x0, y0, round(x1 - x0, 4), round(y1 - y0, 4)], "score": score}
            entry |= {"file_name": name} if name else {}
            self._stream.write((",\n" if self._rows else "\n") + json.dumps(entry))
            self._rows += 1

    def finish(self) -> None:
        self._stream.write("\n]\n" if self._rows else "]\n")
        if self._path is None:
            return
        classes = self._classes or Classes((), ())
        categories = [
            {"id": number, "name": name, **_said_of(self._keypoints)}
            for number, name in zip(classes.ids, classes.names)
        ]
        write_text(list_of(self._path), json.dumps({"images": self._images, "categories": categories}) + "\n")


def _said_of(keypoints: KeypointSet | None) -> dict[str, Any]:
    """What a category of COCO says of its keypoints; joints count from 1 there."""
    if keypoints is None:
        return {}
    joints = [[first + 1, second + 1] for first, second in keypoints.joints]
    return {"keypoints": list(keypoints.names), "skeleton": joints}


FORMAT = OneFile("detections.json", CocoList)
