"""One part of a job: its images read, looked at, and written down as rows."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO, TextIOWrapper
from itertools import groupby
from typing import Any, Protocol

from aweigh import stores
from aweigh.cluster.job import Job
from aweigh.detections import Detections
from aweigh.images.sources.lists import named_image
from aweigh.images.sources.source import Image, Images
from aweigh.images.stored import StoredImage
from aweigh.predictor import Predictor
from aweigh.results import FORMATS
from aweigh.results.format import OneFile
from aweigh.stores import DeniedError, StoreError

STEP = 16  # images, ours: so many more are told at a time to be looked at

FORMATS_OF_PARTS = ("jsonl", "parquet")  # files of these, put one behind the other, are what one machine writes


class Watcher(Protocol):
    """Who is told which images a process is at, see `aweigh.cluster.attempts`."""

    def begin(self, part: int) -> tuple[set[int], set[int]]: ...

    def at(self, part: int, images: range) -> None: ...

    def done(self, part: int) -> None: ...


def predict_part(
    job: Job, part: int, predictor: Predictor, watcher: Watcher, *, batch: int, allow_net: bool, **asked: Any
) -> dict[str, Any]:
    """Write a part; returns its entry in the manifest.

    asked: as `Predictor.with_images` takes it. `StoreError` where the store of the images does not answer, or gives no
    right to any of them: nothing is written then, since nothing is wrong with the images.
    """
    started = time.perf_counter()
    reads = _Reads()
    images = [reads.watched(named_image(name, allow_net=allow_net)) for name in job.names(part)]
    look = partial(predictor.with_images, batch=batch, **asked)
    found = _each(images, look, watcher, part, predictor)
    content, errors, objects = BytesIO(), 0, 0
    with TextIOWrapper(content, encoding="utf-8", errors="surrogateescape", newline="", write_through=True) as stream:
        writer = _format(job.format).open(stream, None)
        for number, detections in enumerate(found, job.rows(part).start + 1):
            writer.add(detections, number)
            errors += detections.error is not None
            objects += len(detections)
        writer.finish()
        stream.flush()
        reads.check(len(images))
        stores.write(job.file(part), content.getvalue())
        size = len(content.getvalue())
    watcher.done(part)
    entry = {"part": part, "images": len(images), "errors": errors, "objects": objects, "bytes": size}
    return entry | {"seconds": round(time.perf_counter() - started, 3), "written": round(time.time(), 3)}


def _format(name: str) -> OneFile:
    known = FORMATS[name]
    assert isinstance(known, OneFile)
    return known


class Look(Protocol):
    """`Predictor.with_images`, told how."""

    def __call__(self, images: Iterable[Any], batch: int = ...) -> Generator[tuple[Any, Detections]]: ...


def _each(images: list[Image], look: Look, watcher: Watcher, part: int, predictor: Predictor) -> Iterator[Detections]:
    """The detections of each image, in order, while the watcher is told of which it is."""
    alone, lost = watcher.begin(part)

    def kind(place: int) -> int:
        return place if place in alone or place in lost else -1

    for place, group in groupby(range(len(images)), key=kind):
        rows = [*group]
        if place in lost:
            path = str(images[place])
            error = f"{path}: the process that looks at it dies each time; is there too little memory for it?"
            yield Detections.empty(predictor.classes, path=path, error=error)
        elif place in alone:
            watcher.at(part, range(place, place + 1))
            yield from _found(look([images[place]], batch=1))
        else:
            yield from _together(images, range(rows[0], rows[-1] + 1), look, watcher, part)


def _together(images: list[Image], rows: range, look: Look, watcher: Watcher, part: int) -> Iterator[Detections]:
    """Those of images that are looked at in batches and read ahead."""
    done, told = rows.start, rows.start

    def each() -> Iterator[Image]:
        nonlocal told
        for row in rows:
            if row >= told:
                told = min(row + STEP, rows.stop)
                watcher.at(part, range(done, told))
            yield images[row]

    for detections in _found(look(Images(each))):
        done += 1
        yield detections


def _found(pairs: Generator[tuple[Any, Detections]]) -> Iterator[Detections]:
    with closing(pairs):
        yield from (detections for _, detections in pairs)


@dataclass
class _Reads:
    """What stores said where images could not be read."""

    silent: list[StoreError] = field(default_factory=list)
    denied: list[StoreError] = field(default_factory=list)

    def watched(self, image: Image) -> Image:
        return replace(image, read=partial(self._read, image)) if isinstance(image, StoredImage) else image

    def _read(self, image: StoredImage) -> bytes:
        try:
            return image.read()
        except DeniedError as error:
            self.denied.append(error)
            raise
        except StoreError as error:
            self.silent.append(error)
            raise

    def check(self, images: int) -> None:
        """Raise what is no fault of images: a store that did not answer, or that gives no right to any of them."""
        if self.silent or len(self.denied) >= images:
            raise (self.silent or self.denied)[0]


def count_part(job: Job, part: int, size: int) -> dict[str, Any]:
    """The entry in the manifest of a part that is there, by what its file holds."""
    content = stores.read(job.file(part))
    if job.format == "parquet":
        from pyarrow import parquet

        columns = parquet.read_table(BytesIO(content), columns=["error", "scores"]).to_pydict()
        rows = [(error is not None, len(scores)) for error, scores in zip(columns["error"], columns["scores"])]
    else:
        lines = map(json.loads, content.splitlines())
        rows = [(line["error"] is not None, len(line["detections"])) for line in lines]
    entry = {"part": part, "images": len(rows), "errors": sum(row[0] for row in rows)}
    return entry | {"objects": sum(row[1] for row in rows), "bytes": size, "seconds": 0.0, "written": 0.0}
