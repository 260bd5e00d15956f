"""What a user does with `Detections`: draw, show and save them, hand them to other libraries.

Each function is the method of `Detections` of the same name. They stand here, above it, since drawing and the formats
of files are made of detections.
"""

from __future__ import annotations

import math
import sys
from base64 import b64encode
from dataclasses import replace
from html import escape
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageShow

from aweigh.detections import Detections
from aweigh.errors import AweighError, DataError, UsageError, counted, escaped
from aweigh.files import atomic_file, write_text
from aweigh.images.reader import SUFFIXES, ImageSource, SizeRule, read_image, read_reduced
from aweigh.results.format import OneFile
from aweigh.results.jsonl import json_line, keypoint_names
from aweigh.results.rows import table
from aweigh.results.writers import format_named, write_detections
from aweigh.visualise.pictures import draw_detections
from aweigh.visualise.space import draw_in_space

FORMAT_OF = {
    ".json": "jsonl",  # one line is JSON too
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".xml": "voc",
    ".txt": "yolo",
    ".geojson": "geojson",
}
PREVIEW = 1000  # pixels of the longer side in a notebook, ours
ROWS = 20  # detections that a notebook lists, ours


def draw(detections: Detections, image: ImageSource | None = None, *, min_score: float = 0.0) -> Image.Image:
    pixels = _image_of(detections)[0] if image is None else read_image(image)
    height, width = pixels.shape[:2]
    detections = _of_size(detections, (height, width))
    if detections.size_hw != (height, width):
        raise UsageError(
            f"The image is {width} x {height}, but these detections are of one of {detections.size_hw[1]} x "
            f"{detections.size_hw[0]}; bring them to its size: detections.resized(({height}, {width}))."
        )
    in_space = detections.cuboids is not None and detections.camera is not None
    return (draw_in_space if in_space else draw_detections)(pixels, detections, min_score=min_score)


def show(detections: Detections, image: ImageSource | None = None, *, min_score: float = 0.0) -> None:
    drawing = draw(detections, image, min_score=min_score)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if hasattr(shell, "kernel"):  # a notebook, no terminal
        import_module("IPython.display").display(drawing)
    elif not ImageShow.show(drawing):
        raise AweighError("This system has no program to show images with; use detections.save('drawn.png').")


def save(detections: Detections, path: str | Path, image: ImageSource | None = None, *, format: str = "") -> None:
    path, ending = Path(path), Path(path).suffix.lower()
    if not format and ending in SUFFIXES:
        drawing = draw(detections, image)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as aside:
            drawing.save(aside, quality=92)
        return
    if not format and ending not in FORMAT_OF:
        raise UsageError(
            f"{path}: nothing is known to write into a file of this name; it ends in {', '.join(FORMAT_OF)} or as "
            "images do (.jpg, .png), or format names what to write."
        )
    known = format_named(format or FORMAT_OF[ending])
    if isinstance(known, OneFile):
        write_detections([detections], path, format or FORMAT_OF[ending])
    elif detections.error is not None:
        raise DataError(detections.error)  # such a file would say that there is nothing in the image
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, known.text(detections))


def to_dict(detections: Detections) -> dict[str, Any]:
    return json_line(detections)


def to_supervision(detections: Detections) -> Any:
    supervision = _installed("supervision", "to_supervision")
    data: dict[str, Any] = {"class_name": np.array(detections.names, dtype=str)}
    if detections.keypoints is not None:
        data["keypoints"] = detections.keypoints
    return supervision.Detections(
        xyxy=detections.boxes,
        confidence=detections.scores,
        class_id=detections.labels,
        mask=None if detections.masks is None else detections.bitmaps(),
        tracker_id=detections.track_ids,
        data=data,
    )


def to_dataframe(detections: Detections) -> Any:
    pandas = _installed("pandas", "to_dataframe")
    height, width = detections.size_hw
    columns: dict[str, Any] = {"path": [detections.path or ""] * len(detections), "width": width, "height": height}
    columns |= dict(zip(("x0", "y0", "x1", "y1"), detections.boxes.T))
    columns |= {"score": detections.scores, "class": detections.names}
    columns |= {"category_id": np.array(detections.category_ids, np.int64)}
    if detections.keypoints is not None:
        for name, values in zip(keypoint_names(detections), detections.keypoints.transpose(1, 2, 0)):
            columns |= {f"{name}_{what}": row for what, row in zip(("x", "y", "score"), values)}
    if detections.track_ids is not None:
        columns |= {"track_id": detections.track_ids}
    return pandas.DataFrame(columns)


def to_arrow(detections: Detections) -> Any:
    return table([detections])


def preview(detections: Detections, kind: str) -> bytes | None:
    """The drawing as a small file of this kind, for a notebook; None where there is no image that can be read."""

    def half(height: int, width: int) -> tuple[int, int]:  # of the least that is kept
        share = min(1.0, PREVIEW / max(height, width)) / 2
        return math.ceil(height * share), math.ceil(width * share)

    try:
        pixels, size_hw = _image_of(detections, half)
        image = Image.fromarray(pixels)
        image.thumbnail((PREVIEW, PREVIEW))
        drawing = draw(_of_size(detections, size_hw).resized((image.height, image.width)), image)
    except (AweighError, OSError, MemoryError):
        return None
    content = BytesIO()
    drawing.save(content, kind, quality=90)
    return content.getvalue()


def html(detections: Detections) -> str:
    """The drawing, and a row for each of the best detections."""
    picture = preview(detections, "JPEG")
    drawn = f'<img src="data:image/jpeg;base64,{b64encode(picture).decode()}"><br>' if picture else ""
    rows = "".join(
        f"<tr><td>{escape(escaped(one.name))}<td>{one.score:.2f}<td>{', '.join(f'{side:.1f}' for side in one.box)}"
        for one in detections[:ROWS]
    )
    head = "<tr><th>class<th>score<th>box (x0, y0, x1, y1)" if rows else ""
    more = f"and {counted(len(detections) - ROWS, 'detection')} more" if len(detections) > ROWS else ""
    return f"<p>{escape(repr(detections))}</p>{drawn}<table>{head}{rows}</table>{more}"


def _image_of(detections: Detections, needed: SizeRule | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """The image that the detections are of, perhaps decoded at a reduced size, and the size of the whole.

    It is upright, or as it is stored where the detections are in that frame.
    """
    path = detections.path
    if detections.error is not None:
        raise DataError(detections.error)
    if path is None:
        raise UsageError("These detections are not of a file: name the image, as in detections.draw(image).")
    image, size_hw = read_reduced(Path(path), needed)
    wanted = _of_size(detections, size_hw).size_hw
    if size_hw != wanted and size_hw == wanted[::-1]:
        image, size_hw = read_reduced(Path(path), needed, exif="ignore")
    if size_hw != wanted:
        sizes = [f"{width} x {height}" for height, width in (size_hw, wanted)]
        raise UsageError(f"{path}: is {sizes[0]}, but these detections are of an image of {sizes[1]}; name that image.")
    return image, size_hw


def _of_size(detections: Detections, size_hw: tuple[int, int]) -> Detections:
    """With the size of their image, where nobody said it."""
    return replace(detections, size_hw=size_hw) if detections.size_hw == (0, 0) else detections


def _installed(package: str, method: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise UsageError(f"{method} needs {package}, which is not installed: pip install {package}") from error
