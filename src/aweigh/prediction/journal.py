"""What a run over many images has found so far, on the disk: killed at any moment, it is gone on with.

A journal is a file with a line of JSON for each image, appended as soon as the image is done, and removed when all are
written in the format that was asked for. Arrays stand in it byte by byte, so that a run that was stopped and gone on
with writes the very file that it would have written at once. A line that was cut short, as on a full disk, is none.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.errors import DataError, UsageError, counted
from aweigh.files import remove_leftovers
from aweigh.images.sources.source import Image, Images
from aweigh.video.decode import VideoFile
from aweigh.video.frames import VideoFrame

SCHEMA = "aweigh.journal/1"
_SHARED = {"classes": Classes, "keypoint_set": KeypointSet}  # the same of nearly all images: told once, then by number


@contextmanager
def kept(target: Path, asked: Mapping[str, Any], *, resume: bool, remark: Callable[[str], object]) -> Iterator[Journal]:
    """The journal of what will be the file `target`, whose folder is held by this process.

    At the end it is removed; of a run that is stopped it stays, and what one that was killed has left aside is cleared
    away. remark: is told what the user should know.
    """
    path = unfinished(target)
    if path.exists() and not resume:
        remark(f"{path}, of a run that was stopped, is replaced; --resume goes on with such a run.")
    for folder in (target.parent, target):
        remove_leftovers(folder)
    journal = Journal(path, asked, resume=resume)
    try:
        yield journal
    except BaseException:
        if journal.count:
            journal.close()
            remark(f"{counted(journal.count, 'image', 'is')} done, and kept in {path}: --resume goes on.")
        else:
            journal.remove()
        raise
    journal.remove()


def unfinished(target: Path) -> Path:
    """Where the journal of what will be the file `target` lies."""
    return target.with_name(f"{target.name}.unfinished")


class Journal:
    """Of the images that were done before it hands out the results, of the others it takes them up.

        todo = journal.missing(images)
        for result in journal.merged(find(todo)): ...  # one for each of `images`, in their order

    An image is known by its name (`str(image)`), which is the `path` of its result. `done`: how many results were
    handed out that stood in the file when it was opened; `count`: how many stand in it now.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any], *, resume: bool) -> None:
        """path: of the file. asked: what the results depend on but for the images; `UsageError` where a file that
        is gone on with was begun with anything else. resume: False begins a new file."""
        asked = json.loads(json.dumps(asked, default=str))
        self.path = path
        self._places: dict[int, int] = {}  # by the hash of an image's name: a name takes three times the memory
        self._shared: list[Any] = []
        self._order: deque[int | None] = deque()  # of the images on their way: where each stands, None where missing
        self._file = open(path, "r+b" if resume and path.exists() else "w+b", buffering=0)  # noqa: SIM115
        try:
            self._end = self._read_all(asked)
            self.done, self.count = 0, len(self._places)
            if not self._end:
                self._append({"schema": SCHEMA, "asked": asked})
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """Everything is written elsewhere."""
        self._file.close()
        self.path.unlink()

    def missing(self, images: Images, place: Callable[[Image], object] | None) -> Images:
        """Those of the images that are to be looked at; to be gone through once. place: that of each drawing, asked for
        the others as well, so that names stay the same; None where nothing is drawn.

        Frames of a video that is written again are looked at from the first one on, and those of a camera are new.
        """

        def each() -> Iterator[Any]:  # frames too, each for itself
            for image in images:
                anew = isinstance(image, VideoFrame) and (place is not None or not isinstance(image.video, VideoFile))
                line = None if anew else self._places.get(hash(str(image)))
                self._order.append(line)
                if line is None:
                    yield image
                elif place is not None and not isinstance(image, VideoFrame):
                    place(image)

        return Images(each, images.root, quick=False, live=images.live)

    def merged(self, results: Iterable[Detections]) -> Generator[Detections]:
        """The results of all images, in their order. results: of those that are `missing`; each is taken up."""
        with open(self.path, "rb") as file:
            for result in results:
                yield from self._before(file)
                self._order.popleft()
                self._append(self._packed(result))
                self.count += 1
                yield result
            yield from self._before(file)

    def _before(self, file: Any) -> Iterator[Detections]:
        """Those that come before the next missing image."""
        while self._order and (place := self._order[0]) is not None:
            self._order.popleft()
            self.done += 1
            file.seek(place)
            yield self._unpacked(json.loads(file.readline()))

    def _read_all(self, asked: Mapping[str, Any]) -> int:
        """Where the last whole line ends, behind which everything is cut off; 0 where there is no first one."""
        end = 0
        with open(self.path, "rb") as file:
            for line in file:
                try:
                    entry = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    entry = None
                if not isinstance(entry, dict):
                    break
                if end == 0:
                    _compare(self.path, entry, asked)
                elif kind := next((kind for kind in _SHARED if f"new_{kind}" in entry), None):
                    self._shared.append(_SHARED[kind](**_tuples(entry[f"new_{kind}"])))
                else:
                    self._places[hash(str(entry["path"]))] = end
                end += len(line)
        self._file.truncate(end)
        return end

    def _packed(self, result: Detections) -> dict[str, Any]:
        """A result as JSON can hold it; what is shared by images is told in a line before."""
        values = {field.name: getattr(result, field.name) for field in fields(result)}
        for name, value in values.items():
            if name in _SHARED and value is not None:
                if value not in self._shared:
                    self._append({f"new_{name}": {each.name: getattr(value, each.name) for each in fields(value)}})
                    self._shared.append(value)
                values[name] = self._shared.index(value)
            elif isinstance(value, np.ndarray):
                content = b64encode(value.tobytes()).decode()
                values[name] = {"type": value.dtype.str, "shape": value.shape, "bytes": content}
        return {name: value for name, value in values.items() if value is not None}

    def _unpacked(self, entry: dict[str, Any]) -> Detections:
        values: dict[str, Any] = {}
        for name, value in entry.items():
            if name in _SHARED:
                values[name] = self._shared[value]
            elif isinstance(value, dict):
                values[name] = np.frombuffer(b64decode(value["bytes"]), value["type"]).reshape(value["shape"]).copy()
            else:
                values[name] = tuple(value) if isinstance(value, list) else value
        return Detections(**values)

    def _append(self, entry: Mapping[str, Any]) -> None:
        """A line at the end; where the disk is full, none."""
        line = json.dumps(entry).encode() + b"\n"
        self._file.seek(self._end)
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._end)
            error.filename = str(self.path)
            raise
        self._end += len(line)


def _compare(path: Path, first: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """`UsageError` unless the file was begun with the same."""
    if first.get("schema") != SCHEMA:
        raise DataError(f"{path}: is no journal of {SCHEMA}; remove it, or leave --resume out, which begins anew.")
    before = first["asked"]
    for name in [*before, *(name for name in now if name not in before)]:
        if before.get(name) != now.get(name):
            raise UsageError(
                f"{path}: was begun with {name} = {before.get(name)}, and here it is {now.get(name)}. Ask for the "
                "same, or leave --resume out, which begins anew."
            )


def _tuples(values: Any) -> Any:
    """JSON's lists as tuples, all the way down."""
    if isinstance(values, dict):
        return {name: _tuples(value) for name, value in values.items()}
    return tuple(map(_tuples, values)) if isinstance(values, list) else values
