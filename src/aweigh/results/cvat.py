"""`cvat`: "CVAT for images 1.1", one XML that is uploaded to a task as its annotations; holds no scores, no keypoints.

CVAT finds the image of a task by its file name, as this file has it, and the class by its name, which the task's labels
must have. An object with a mask is a mask there, whose run lengths are those of its box, row by row.
"""

from __future__ import annotations

from pathlib import Path
from typing import TextIO
from xml.etree import ElementTree

import numpy as np

from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.errors import escaped
from aweigh.results.format import OneFile


class Images:
    def __init__(self, stream: TextIO, _: Path | None) -> None:
        self._stream = stream
        self._begun = False
        self._count = 0

    def add(self, detections: Detections, _: int) -> None:
        if detections.error is None:
            self._begin(detections.classes)
            self._write(image(detections, self._count))
        self._count += 1

    def finish(self) -> None:
        self._begin(Classes((), ()))
        self._stream.write("</annotations>\n")

    def _begin(self, classes: Classes) -> None:
        """What stands before the images, once it is known which classes there are."""
        if self._begun:
            return
        self._begun = True
        self._stream.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
        meta = ElementTree.Element("meta")
        labels = ElementTree.SubElement(ElementTree.SubElement(meta, "task"), "labels")
        for name in classes.names:
            ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = escaped(name)
        self._write(meta)

    def _write(self, element: ElementTree.Element) -> None:
        ElementTree.indent(element, level=1)
        self._stream.write("  " + ElementTree.tostring(element, encoding="unicode") + "\n")


def image(detections: Detections, number: int) -> ElementTree.Element:
    """An image with its objects. number: its place among all, from 0, by which CVAT finds it where no name fits."""
    height, width = detections.size_hw
    name = escaped(Path(detections.path or "").name)
    sides = {"width": str(width), "height": str(height)}
    root = ElementTree.Element("image", {"id": str(number), "name": name, **sides})
    windows = detections.windows() if detections.masks is not None else None
    for label, box in zip(detections.names, detections.boxes.tolist(), strict=True):
        said = {"label": escaped(label), "source": "auto", "occluded": "0", "z_order": "0"}
        pixels, (left, top) = next(windows) if windows is not None else (np.zeros((0, 0), dtype=bool), (0, 0))
        if pixels.any():
            frame = {"left": left, "top": top, "width": pixels.shape[1], "height": pixels.shape[0]}
            more = {"rle": ", ".join(map(str, row_runs(pixels))), **{key: str(side) for key, side in frame.items()}}
            ElementTree.SubElement(root, "mask", said | more)
        else:
            corners = {key: f"{side:.2f}" for key, side in zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True)}
            ElementTree.SubElement(root, "box", said | corners)
    return root


def row_runs(pixels: np.ndarray) -> list[int]:
    """The run lengths of `[h, w]` bool, row by row, of ground and object in turn, ground first."""
    flat = np.concatenate([[False], pixels.reshape(-1)])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(changes, prepend=0, append=pixels.size).tolist()


FORMAT = OneFile("annotations.xml", Images, left_out=("keypoints", "cuboids", "tracks"))
