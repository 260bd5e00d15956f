"""`voc`: a folder with one XML per image, with a confidence; holds no masks and keypoints."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from aweigh.detections import Detections
from aweigh.errors import escaped
from aweigh.results.format import FileEach, shortest


def voc_text(detections: Detections) -> str:
    """A VOC annotation: continuous `(x0, y0, x1, y1)` become 1-based inclusive `(x0 + 1, y0 + 1, x1, y1)`."""
    height, width = detections.size_hw
    path = Path(detections.path or "")
    root = ElementTree.Element("annotation")
    _add(root, "folder", path.parent.name)
    _add(root, "filename", path.name)
    size = ElementTree.SubElement(root, "size")
    for side, value in (("width", width), ("height", height), ("depth", 3)):
        _add(size, side, value)
    scores = shortest(detections.scores)
    for box, score, name in zip(detections.boxes.tolist(), scores, detections.names):
        item = ElementTree.SubElement(root, "object")
        for key, content in (("name", name), ("difficult", 0), ("confidence", score)):
            _add(item, key, content)
        corners = ElementTree.SubElement(item, "bndbox")
        for key, corner, shift in zip(("xmin", "ymin", "xmax", "ymax"), box, (1, 1, 0, 0)):
            _add(corners, key, f"{corner + shift:.2f}".rstrip("0").rstrip("."))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = escaped(str(value))


FORMAT = FileEach(voc_text, ".xml", left_out=("masks", "keypoints", "cuboids", "tracks"))
