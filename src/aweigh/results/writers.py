"""Detections to files that other programs read, as a stream: one image after the other, in bounded memory.

- `jsonl`: one line per image: schema, path, width, height, detections (box as xyxy, score, class, category_id, where
  there are any a segmentation, keypoints, a cuboid and, with the camera, a solid), error; with keypoints their names.
- `coco`: the list of results that COCO's tools load, each with the `file_name` of its image; beside it
  `NAME.images.json` with the images (with the `bytes` of their files) and categories, see `aweigh.results.coco`.
- `csv`: one row per detection, with x, y and score of each keypoint at its end; an image that could not be read has a
  row with its error. Holds no masks.
- `yolo`: a folder with one `.txt` per image (class, centre and size as fractions) and `classes.txt`; holds no scores,
  masks and keypoints.
- `kitti`: a folder with one `.txt` per image, KITTI's label files with a score (16 columns; -1, -1000 and -10 where a
  place in space is not known); holds no masks and keypoints.
- `voc`: a folder with one XML per image (1-based inclusive corners, as VOC has them, with a confidence); holds no masks
  and keypoints.

Masks are COCO's compressed run lengths, keypoints (x, y, score) in the detector's order. Boxes are in the pixels of the
original image; category ids are those of the data set the model learned from. Files are written aside and renamed when
they are complete. `-` writes jsonl, coco and csv to standard output.

Names are those of classes and files, whatever they hold. JSON holds everything. In the other formats control characters
and bytes that are no text are spelled out (a line end as `\\n`), and a cell of csv that a spreadsheet would compute (it
begins with =, +, - or @ and is no number) begins with an apostrophe.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO, get_args
from xml.etree import ElementTree

import numpy as np

from aweigh.annotations.proposals import length_of
from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.errors import UsageError, did_you_mean, escaped
from aweigh.files import atomic_file, fitting_name, write_text
from aweigh.layouts.kitti import detections_text as kitti_text
from aweigh.results.coco import list_of

Format = Literal["jsonl", "coco", "csv", "yolo", "voc", "kitti"]
FOLDERS = ("yolo", "voc", "kitti")  # formats with a file for each picture
FORMATS: tuple[str, ...] = get_args(Format)
# What a format has no place for. YOLO's lines of polygons hold no holes, and those of keypoints no scores.
LEFT_OUT: dict[str, tuple[str, ...]] = {
    "csv": ("masks", "cuboids"),
    "yolo": ("masks", "keypoints", "cuboids"),
    "voc": ("masks", "keypoints", "cuboids"),
    "kitti": ("masks", "keypoints"),
}
SCHEMA = "aweigh.detections/1"
# An object as its camera sees it, and where it stands: pixels, metres, radians, see `aweigh.ops.cuboids`.
CUBOID = ("u", "v", "depth", "height", "width", "length", "alpha")
SOLID = ("x", "y", "z", "height", "width", "length", "rotation")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
COLUMNS = ("path", "width", "height", "x0", "y0", "x1", "y1", "score", "class", "category_id", "error")


def write_detections(
    results: Iterable[Detections], out: str | Path, format: Format = "jsonl", *, image_ids: Sequence[int] | None = None
) -> int:
    """Write all results; returns the number of images. See `DetectionWriter`."""
    with DetectionWriter(out, format, image_ids=image_ids) as writer:
        for detections in results:
            writer.write(detections)
    return writer.count


class DetectionWriter:
    """A context manager: what is written inside appears when it ends well, and not at all when it does not.

    out: a file, or a folder for yolo, voc and kitti (whose files appear one by one, each complete); `-` is standard
    output. Images are numbered from 1 in the order written; `image_ids` gives other numbers, in the same order.
    """

    def __init__(self, out: str | Path, format: Format = "jsonl", *, image_ids: Sequence[int] | None = None) -> None:
        if format not in FORMATS:
            raise UsageError(f"Unknown format {format!r}; known: {', '.join(FORMATS)}.{did_you_mean(format, FORMATS)}")
        self.format, self.count, self._image_ids = format, 0, image_ids
        self._path = None if str(out) == "-" else Path(out)
        if self._path is None and format in FOLDERS:
            raise UsageError(
                f"The {format} format is a folder of files and cannot go to standard output; name a folder."
            )
        if self._path is not None and format not in FOLDERS and self._path.is_dir():
            raise UsageError(f"{self._path}: this is a folder; name the file to write ({format}).")
        self._classes: Classes | None = None
        self._keypoints: KeypointSet | None = None
        self._waiting: list[list[Any]] | None = []  # rows of csv that came before its head could be written
        self._images: list[dict[str, Any]] = []
        self._names: set[str] = set()
        self.renamed: list[str] = []  # the first pictures whose file is not called as they are, each with its name
        self.renamed_count = 0
        self._rows = 0

    def __enter__(self) -> DetectionWriter:
        self._open = ExitStack()
        self._stream: TextIO = sys.stdout
        if self.format in FOLDERS:
            assert self._path is not None
            self._path.mkdir(parents=True, exist_ok=True)
        elif self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            aside = self._open.enter_context(atomic_file(self._path))
            stream = aside.open("w", encoding="utf-8", errors="surrogateescape", newline="")
            self._stream = self._open.enter_context(stream)
        if self.format == "coco":
            self._stream.write("[")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._open.__exit__(kind, error, trace)
            return
        with self._open:  # at its end the file gets its name
            self._finish()

    def _finish(self) -> None:
        """Write what comes at the end."""
        if self.format == "coco":
            self._stream.write("\n]\n" if self._rows else "]\n")
        elif self.format == "csv":
            self._write_head(())
        if self._path is None:
            return
        if self.format == "coco":
            classes = self._classes or Classes((), ())
            categories = [
                {"id": number, "name": name, **_said_of(self._keypoints)}
                for number, name in zip(classes.ids, classes.names)
            ]
            write_text(list_of(self._path), json.dumps({"images": self._images, "categories": categories}) + "\n")
        elif self.format == "yolo" and self._classes is not None:
            write_text(self._path / "classes.txt", "".join(f"{escaped(name)}\n" for name in self._classes.names))

    def write(self, detections: Detections) -> None:
        """The detections of one image; for one that could not be read, its error."""
        number = self._image_ids[self.count] if self._image_ids is not None else self.count + 1
        self.count += 1
        self._classes = self._classes or (detections.classes if len(detections.classes) else None)
        self._keypoints = self._keypoints or detections.keypoint_set
        if self.format == "jsonl":
            self._stream.write(json.dumps(json_line(detections)) + "\n")
        elif self.format == "coco":
            self._write_coco(detections, number)
        elif self.format == "csv":
            self._write_csv(detections)
        elif detections.error is None:
            assert self._path is not None
            name = self._free_name(detections, number)
            text = {"yolo": yolo_text, "kitti": kitti_text, "voc": voc_text}[self.format]
            write_text(self._path / name, text(detections))

    def _write_coco(self, detections: Detections, number: int) -> None:
        height, width = detections.size_hw
        name = detections.path or ""
        image = {"id": number, "file_name": name, "width": width, "height": height}
        if name and (length := length_of(Path(name))) >= 0:
            image["bytes"] = length
        self._images.append(image if detections.error is None else image | {"error": detections.error})
        entries = detections.to_coco(number)
        if detections.keypoints is not None:
            for entry, points in zip(entries, _short(detections.keypoints.flatten(1)), strict=True):
                entry["keypoints"] = points
        for entry, (x0, y0, x1, y1), score in zip(entries, _short(detections.boxes), _short(detections.scores)):
            entry |= {"bbox": [x0, y0, round(x1 - x0, 4), round(y1 - y0, 4)], "score": score}
            entry |= {"file_name": name} if name else {}
            self._stream.write((",\n" if self._rows else "\n") + json.dumps(entry))
            self._rows += 1

    def _write_csv(self, detections: Detections) -> None:
        height, width = detections.size_hw
        if detections.error is not None:
            row = [_cell(detections.path or ""), *[""] * 9, _cell(detections.error)]
            self._table().writerow(row) if self._waiting is None else self._waiting.append(row)
            return
        self._write_head(_keypoint_names(detections))
        for found in json_line(detections, masks=False)["detections"]:
            what = [found["score"], _cell(found["class"]), found["category_id"], ""]
            points = [value for point in found.get("keypoints", ()) for value in point]
            self._table().writerow([_cell(detections.path or ""), width, height, *found["box"], *what, *points])

    def _write_head(self, keypoints: Sequence[str]) -> None:
        """The names of the columns, once it is known what a detection has, and the rows that waited for them."""
        if self._waiting is not None:
            points = [_cell(f"{name}_{what}") for name in keypoints for what in ("x", "y", "score")]
            self._table().writerows([[*COLUMNS, *points], *self._waiting])
            self._waiting = None

    def _table(self) -> Any:
        return csv.writer(self._stream, lineterminator="\n")

    def _free_name(self, detections: Detections, number: int) -> str:
        """The stem of the picture's file; with a number where another picture has it already."""
        stem = Path(detections.path).stem if detections.path else f"{number:06d}"
        ending = ".xml" if self.format == "voc" else ".txt"
        name, further = fitting_name(stem, ending), 1
        while name in self._names or name == "classes.txt":
            further += 1
            name = fitting_name(stem, f"-{further}{ending}")
        self._names.add(name)
        if name != stem + ending:
            self.renamed_count += 1
            self.renamed += [f"{detections.path}: {name}"] * (len(self.renamed) < 3)
        return name


def json_line(detections: Detections, *, masks: bool = True) -> dict[str, Any]:
    """One image as plain values: what a line of jsonl holds. masks: with the segmentations."""
    height, width = detections.size_hw
    found: list[dict[str, Any]] = [
        {"box": box, "score": score, "class": name, "category_id": detections.classes.ids[label]}
        for box, score, name, label in zip(
            _short(detections.boxes), _short(detections.scores), detections.names, detections.labels.tolist()
        )
    ]
    if masks and detections.masks is not None:
        for entry, segmentation in zip(found, detections.rle(), strict=True):
            entry["segmentation"] = segmentation
    names = {}
    if detections.keypoints is not None:
        names = {"keypoint_names": _keypoint_names(detections)}
        for entry, points in zip(found, _short(detections.keypoints), strict=True):
            entry["keypoints"] = points
    if detections.cuboids is not None:
        for entry, values in zip(found, _short(detections.cuboids), strict=True):
            entry["cuboid"] = dict(zip(CUBOID, values, strict=True))
    if detections.cuboids is not None and detections.camera is not None:
        for entry, values in zip(found, _short(detections.solids()), strict=True):
            entry["solid"] = dict(zip(SOLID, values, strict=True))
    return {
        "schema": SCHEMA,
        "path": detections.path,
        "width": width,
        "height": height,
        **names,
        "detections": found,
        "error": detections.error,
    }


def _keypoint_names(detections: Detections) -> list[str]:
    """The names of the keypoints, numbers where they have none; empty where there are no keypoints."""
    if detections.keypoint_set is not None:
        return list(detections.keypoint_set.names)
    return [] if detections.keypoints is None else [str(number) for number in range(detections.keypoints.shape[1])]


def _said_of(keypoints: KeypointSet | None) -> dict[str, Any]:
    """What a category of COCO says of its keypoints; joints count from 1 there."""
    if keypoints is None:
        return {}
    joints = [[first + 1, second + 1] for first, second in keypoints.joints]
    return {"keypoints": list(keypoints.names), "skeleton": joints}


def yolo_text(detections: Detections) -> str:
    """Lines of class number, centre and size, as fractions of the image."""
    height, width = detections.size_hw
    lines = []
    for (x0, y0, x1, y1), label in zip(detections.boxes.tolist(), detections.labels.tolist()):
        values = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
        lines.append(f"{label} " + " ".join(f"{value:.7f}" for value in values) + "\n")
    return "".join(lines)


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
    scores = _short(detections.scores)
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


def _cell(text: str) -> str:
    """A text as a cell of csv: on one line, and nothing that a spreadsheet takes for a formula."""
    text = escaped(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and not _NUMBER.fullmatch(text) else text


def _short(values: Any) -> Any:
    """float32 values as the shortest decimals that read back the same: 0.3, not 0.30000001192092896."""
    array = np.asarray(values.detach().cpu().numpy(), dtype=np.float32)
    return np.array([float(str(value)) for value in array.reshape(-1)]).reshape(array.shape).tolist()
