"""Detections to files that other programs read, as a stream: one image after the other, in bounded memory.

Boxes are in the pixels of the original image, keypoints (x, y, score) in the detector's order; category ids are those
of the data set that the model learned from. Files are written aside and renamed when they are complete. `-` writes a
format of one file to standard output.

Names are those of classes and files, whatever they hold. JSON holds everything. In the other formats control characters
and bytes that are no text are spelled out (a line end as `\\n`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.errors import UsageError, did_you_mean, escaped
from aweigh.files import atomic_file, fitting_name, write_text
from aweigh.results import FORMATS
from aweigh.results.format import FileEach, Format, OneFile

CLASS_LIST = "classes.txt"

Add = Callable[[Detections, int], None]


def write_detections(
    results: Iterable[Detections], out: str | Path, format: str = "jsonl", *, image_ids: Sequence[int] | None = None
) -> int:
    """Write all results; returns the number of images. See `DetectionWriter`."""
    with DetectionWriter(out, format, image_ids=image_ids) as writer:
        for detections in results:
            writer.write(detections)
    return writer.count


def format_named(name: str) -> Format:
    """The format of this name; `UsageError` lists those there are."""
    if name not in FORMATS:
        raise UsageError(f"Unknown format {name!r}; known: {', '.join(FORMATS)}.{did_you_mean(name, FORMATS)}")
    return FORMATS[name]


class DetectionWriter:
    """A context manager: what is written inside appears when it ends well, and not at all when it does not.

    out: a file, or a folder for yolo, voc, kitti, labelme and geojson (whose files appear one by one, each complete);
    `-` is standard output. Images are numbered from 1 in the order written; `image_ids` gives other numbers, in that
    order.
    """

    def __init__(self, out: str | Path, format: str = "jsonl", *, image_ids: Sequence[int] | None = None) -> None:
        self.count, self._image_ids = 0, image_ids
        self.renamed: list[str] = []  # the first images whose file is not called as they are, each with its name
        self.renamed_count = 0
        self._names = {CLASS_LIST}
        path, known = None if str(out) == "-" else Path(out), format_named(format)
        self._into: Callable[[], AbstractContextManager[Add]]
        if isinstance(known, OneFile):
            if path is not None and path.is_dir():
                raise UsageError(f"{path}: this is a folder; name the file to write ({format}).")
            self._into = partial(_one_file, known, path)
        elif path is None:
            raise UsageError(
                f"The {format} format is a folder of files and cannot go to standard output; name a folder."
            )
        else:
            self._into = partial(self._files, known, path)

    def __enter__(self) -> DetectionWriter:
        self._open = ExitStack()
        self._add = self._open.enter_context(self._into())
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def write(self, detections: Detections) -> None:
        """The detections of one image; for one that could not be read, its error."""
        number = self._image_ids[self.count] if self._image_ids is not None else self.count + 1
        self.count += 1
        self._add(detections, number)

    @contextmanager
    def _files(self, format: FileEach, folder: Path) -> Iterator[Add]:
        """Where a file for each image is written."""
        folder.mkdir(parents=True, exist_ok=True)
        classes: Classes | None = None

        def add(detections: Detections, number: int) -> None:
            nonlocal classes
            classes = classes or (detections.classes if len(detections.classes) else None)
            if detections.error is None:
                name = self._free_name(detections.path, number, format.ending)
                write_text(folder / name, format.text(detections))

        yield add
        if format.class_list and classes is not None:
            write_text(folder / CLASS_LIST, "".join(f"{escaped(name)}\n" for name in classes.names))

    def _free_name(self, path: str | None, number: int, ending: str) -> str:
        """The stem of the image's file; with a number where another image has it already."""
        stem = Path(path).stem if path else f"{number:06d}"
        name, further = fitting_name(stem, ending), 1
        while name in self._names:
            further += 1
            name = fitting_name(stem, f"-{further}{ending}")
        self._names.add(name)
        if name != stem + ending:
            self.renamed_count += 1
            self.renamed += [f"{path}: {name}"] * (len(self.renamed) < 3)
        return name


@contextmanager
def _one_file(format: OneFile, path: Path | None) -> Iterator[Add]:
    """Where all images are written to one stream."""
    with _stream(path) as stream:
        writer = format.open(stream, path)
        yield writer.add
        writer.finish()


@contextmanager
def _stream(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as aside, aside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        yield stream
