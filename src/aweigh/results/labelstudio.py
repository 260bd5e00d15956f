"""`labelstudio`: tasks with predictions, to be imported into Label Studio and corrected there; holds no masks.

Each image is a task under `/data/local-files/?d=PATH`, which Label Studio serves from its local files, below the folder
that `LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT` names. Beside the file, `NAME.config.xml` is the labelling interface that
its labels fit: paste it into the project's settings. An image that could not be read is no task.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.errors import escaped
from aweigh.files import fitting_name, write_text
from aweigh.results.format import OneFile, shortest
from aweigh.results.jsonl import keypoint_names

VERSION = "aweigh"  # Label Studio groups predictions by the model that they name
IMAGE, BOXES, KEYPOINTS = "image", "label", "keypoint"  # what the parts of the interface are called
POINT = 0.75  # percent of the image's width: how large Label Studio draws a keypoint


class Tasks:
    def __init__(self, stream: TextIO, path: Path | None) -> None:
        self._stream, self._path = stream, path
        self._classes: Classes | None = None
        self._points: list[str] = []
        self._count = 0
        stream.write("[")

    def add(self, detections: Detections, _: int) -> None:
        self._classes = self._classes or (detections.classes if len(detections.classes) else None)
        self._points = self._points or keypoint_names(detections)
        if detections.error is None:
            self._stream.write((",\n" if self._count else "\n") + json.dumps(task(detections)))
            self._count += 1

    def finish(self) -> None:
        self._stream.write("\n]\n" if self._count else "]\n")
        if self._path is not None:
            names = self._classes.names if self._classes is not None else ()
            write_text(interface_of(self._path), interface(names, self._points))


def interface_of(path: Path) -> Path:
    """Where the labelling interface of a file of predictions lies."""
    return path.with_name(fitting_name(path.stem, ".config.xml"))


def interface(names: Sequence[str], points: Sequence[str]) -> str:
    """Label Studio's labelling interface for these classes and keypoints."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", {"name": IMAGE, "value": f"${IMAGE}"})
    for tag, control, labels in (("RectangleLabels", BOXES, names), ("KeyPointLabels", KEYPOINTS, points)):
        if labels:
            element = ElementTree.SubElement(view, tag, {"name": control, "toName": IMAGE})
            for label in labels:
                ElementTree.SubElement(element, "Label", {"value": escaped(label)})
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def task(detections: Detections) -> dict[str, Any]:
    """An image with one prediction; its score, by which tasks are sorted, is the mean of its boxes'."""
    path = Path(detections.path or "").as_posix().lstrip("/")
    address = "/data/local-files/?d=" + quote(path, errors="surrogateescape")
    score = float(np.mean(detections.scores)) if len(detections) else 0.0
    prediction = {"model_version": VERSION, "score": score, "result": list(_regions(detections))}
    return {"data": {IMAGE: address}, "predictions": [prediction]}


def _regions(detections: Detections) -> Iterator[dict[str, Any]]:
    """A rectangle for each box, in percent of the sides, and behind it its keypoints whose score is above 0."""
    height, width = detections.size_hw
    sides = {"original_width": width, "original_height": height, "image_rotation": 0, "to_name": IMAGE}
    percent = 100 / np.array([width, height], dtype=np.float64)
    corners, names = detections.boxes.astype(np.float64).reshape(-1, 2, 2) * percent, keypoint_names(detections)
    of_box = {"type": "rectanglelabels", "from_name": BOXES, **sides}
    of_point = {"type": "keypointlabels", "from_name": KEYPOINTS, **sides}
    scores = shortest(detections.scores)
    for row, label in enumerate(detections.names):
        (x, y), (right, bottom) = corners[row].tolist()
        box = {"x": x, "y": y, "width": right - x, "height": bottom - y, "rotation": 0}
        value = box | {"rectanglelabels": [escaped(label)]}
        yield {"id": f"box{row + 1}", **of_box, "score": scores[row], "value": value}
        points = np.zeros((0, 3)) if detections.keypoints is None else detections.keypoints[row]
        for number in np.flatnonzero(points[:, 2] > 0).tolist():
            x, y = (points[number, :2] * percent).tolist()
            value = {"x": x, "y": y, "width": POINT, "keypointlabels": [escaped(names[number])]}
            yield {"id": f"box{row + 1}-{number + 1}", "parentID": f"box{row + 1}", **of_point, "value": value}


FORMAT = OneFile("predictions.json", Tasks, left_out=("masks", "cuboids", "tracks"))
