"""A prediction of many images that several machines do: what is asked, which images, and what of it is done.

All of it stands in the folder of the output, so that whoever opens that folder can go on:

    job.json              what is asked, once the images are listed
    lists/00000.jsonl     their names, a JSON text on each line
    parts/part-000000.*   the detections of so many images, in the order of the list
    manifest/00000.jsonl  of each part its images, errors, objects, bytes, and when it was written

A part is written as a whole or not at all, and done when its file is there: the manifest says only what it holds.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import Any

from aweigh import stores
from aweigh.errors import DataError, UsageError, counted, printable, some_of

SCHEMA = "aweigh.job/1"
JOB, LISTS, PARTS, MANIFEST = "job.json", "lists", "parts", "manifest"
LISTED = 1 << 14  # names in a file of the list, ours
PARTS_TOLD = 1 << 10  # parts in a file of the manifest, ours
LEAST, MOST = 16, 1 << 10  # images of a part, ours: what a death costs at most, and what one request may carry
USUAL_PARTS = 256  # of a job of any size, ours


@dataclass(frozen=True)
class Job:
    """out: its folder. sources: what the user named. format: of the parts. images: how many there are. part_images: in
    each part but the last. asked: what the rows depend on; whoever goes on has to ask the same."""

    out: str
    sources: tuple[str, ...]
    format: str
    images: int
    part_images: int
    asked: Mapping[str, Any]

    @property
    def parts(self) -> int:
        return -(-self.images // self.part_images)

    def rows(self, part: int) -> range:
        """Which images are in a part, by their places in the list."""
        return range(part * self.part_images, min((part + 1) * self.part_images, self.images))

    def names(self, part: int) -> list[str]:
        """The names of the images of a part."""
        rows = self.rows(part)
        files = range(rows.start // LISTED, (rows.stop - 1) // LISTED + 1)
        listed = [*chain.from_iterable(_listed(self.out, file) for file in files)]
        first = rows.start - files.start * LISTED
        return listed[first : first + len(rows)]

    def file(self, part: int) -> str:
        return stores.joined(self.out, f"{PARTS}/part-{part:06d}.{self.format}")

    def done(self) -> dict[int, int]:
        """The parts that are there, with their bytes."""
        sizes = stores.sizes_in(stores.joined(self.out, PARTS))
        names = {f"part-{part:06d}.{self.format}": part for part in range(self.parts)}
        return {names[name]: size for name, size in sizes.items() if name in names}


def find_job(out: str) -> Job | None:
    """The job of a folder; None where there is none yet. `DataError` for one that cannot be read."""
    if JOB not in stores.sizes_in(out):
        return None
    where = stores.joined(out, JOB)
    try:
        held = json.loads(stores.read(where))
        schema, sources = held.pop("schema"), tuple(held.pop("sources"))
        if schema != SCHEMA:
            raise ValueError(f"it is of {schema}, this version of aweigh reads {SCHEMA}")
        return Job(out, sources, **held)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise DataError(f"{where}: is no job that can be gone on with ({error}). Name another folder.") from error


def begin_job(
    out: str, sources: tuple[str, ...], names: Iterable[str], *, format: str, asked: Mapping[str, Any]
) -> Job:
    """List the images and write the job down. Until that is done, the folder holds no job."""
    images, each = 0, iter(names)
    for number, some in enumerate(iter(lambda: [*islice(each, LISTED)], [])):
        lines = "".join(f"{json.dumps(name)}\n" for name in some)
        stores.write(stores.joined(out, f"{LISTS}/{number:05d}.jsonl"), lines.encode())
        images += len(some)
    _listed.cache_clear()
    job = Job(out, sources, format, images, images_of_a_part(images), asked)
    held = {"schema": SCHEMA, **asdict(job)}
    del held["out"]
    stores.write(stores.joined(out, JOB), (json.dumps(held, indent=2) + "\n").encode())
    return job


def images_of_a_part(images: int) -> int:
    """How many images of a job are done together: a power of 2, so that batches end where parts do."""
    together = LEAST
    while together < MOST and together * USUAL_PARTS < images:
        together *= 2
    return together


def check_same(job: Job, sources: tuple[str, ...], format: str, asked: Mapping[str, Any]) -> None:
    """`UsageError` where a folder holds another job than the one that is asked for."""
    there = {"source": [*job.sources], "format": job.format, **job.asked}
    here = {"source": [*sources], "format": format, **asked}
    for name in [*there, *(here.keys() - there.keys())]:
        if json.dumps(there.get(name)) != json.dumps(here.get(name)):
            told = (printable(json.dumps(which.get(name), ensure_ascii=False)) for which in (there, here))
            raise UsageError(
                f"{job.out} holds another job: {name} is {' there, and here '.join(told)}. Ask the same to go on with "
                "it, or name another folder with -o."
            )


def check_free(out: str) -> None:
    """`UsageError` where a folder without a job holds something else than lists that were begun."""
    others = sorted(stores.sizes_in(out))
    if others:
        raise UsageError(f"{out} holds no job but {some_of(others)}; name a new folder with -o.")


@lru_cache(maxsize=2)
def _listed(out: str, file: int) -> list[str]:
    lines = stores.read(stores.joined(out, f"{LISTS}/{file:05d}.jsonl")).splitlines()
    return [json.loads(line) for line in lines]


@dataclass
class Counts:
    """What is in parts: images, those of them with an error, objects, bytes."""

    images: int = 0
    errors: int = 0
    objects: int = 0
    bytes: int = 0

    def add(self, entry: Mapping[str, Any]) -> None:
        self.images += entry["images"]
        self.errors += entry["errors"]
        self.objects += entry["objects"]
        self.bytes += entry["bytes"]


class Manifest:
    """What is known of the parts of a job: written now and then, and at the end. Only files with a part that is not
    yet there are held.

    entries: a dict for each part: part, images, errors, objects, bytes, seconds (of work), written (Unix time).
    """

    PAUSE = 5.0  # seconds between two writings, ours

    def __init__(self, job: Job) -> None:
        self.job, self.counts = job, Counts()
        self._files: dict[int, dict[int, dict[str, Any]]] = {}
        self._changed: set[int] = set()
        self._written = time.monotonic()

    def add(self, entry: dict[str, Any]) -> None:
        number = entry["part"] // PARTS_TOLD
        self._files.setdefault(number, {})[entry["part"]] = entry
        self._changed.add(number)
        self.counts.add(entry)
        if time.monotonic() - self._written >= self.PAUSE:
            self.write()

    def load(self, done: Iterable[int]) -> list[int]:
        """Take over what was told of the parts that are there; returns those of which nothing was."""
        there = set(done)
        for entry in entries_of(self.job.out):
            if entry["part"] in there:
                there.discard(entry["part"])
                self._files.setdefault(entry["part"] // PARTS_TOLD, {})[entry["part"]] = entry
                self.counts.add(entry)
        self._forget()
        return sorted(there)

    def write(self) -> None:
        for number in self._changed:
            entries = self._files[number]
            lines = "".join(f"{json.dumps(entries[part])}\n" for part in sorted(entries))
            stores.write(stores.joined(self.job.out, f"{MANIFEST}/{number:05d}.jsonl"), lines.encode())
        self._changed.clear()
        self._forget()
        self._written = time.monotonic()

    def _forget(self) -> None:
        """Hold no file any more of which all parts are told."""
        for number in [*self._files]:
            parts = min((number + 1) * PARTS_TOLD, self.job.parts) - number * PARTS_TOLD
            if len(self._files[number]) == parts:
                del self._files[number]


def entries_of(out: str) -> Iterator[dict[str, Any]]:
    """What the manifest says of each part."""
    folder = stores.joined(out, MANIFEST)
    for name in sorted(stores.sizes_in(folder)):
        if not os.path.basename(name).startswith("."):
            for line in stores.read(stores.joined(folder, name)).splitlines():
                yield json.loads(line)


@dataclass(frozen=True)
class Status:
    """How far a job is. images, parts: those there are. images_done, parts_done: of them. counts: of the parts that the
    manifest tells of, which is a few seconds behind. rate: images a second of late, 0 where it is not known. written:
    Unix time of the last part, 0 for none."""

    out: str
    format: str
    images: int
    images_done: int
    parts: int
    parts_done: int
    counts: Counts
    rate: float
    written: float

    @property
    def seconds_left(self) -> float | None:
        return (self.images - self.images_done) / self.rate if self.rate else None

    def __str__(self) -> str:
        left = self.images - self.images_done
        lines = [
            f"{self.out}: {self.images_done:,} of {counted(self.images, 'image')}, {self.parts_done:,} of "
            f"{counted(self.parts, 'part')} ({self.format})",
            f"{counted(self.counts.objects, 'object')}, {counted(self.counts.errors, 'image')} with an error, "
            f"{self.counts.bytes / 1e6:,.1f} MB",
        ]
        if left and self.written:
            pace = f"{self.rate:,.1f} images/s, {told_seconds(self.seconds_left)} left at that; " if self.rate else ""
            lines.append(f"{pace}the last part was written {told_seconds(time.time() - self.written)} ago")
        if left:
            lines.append("To go on: the same command again.")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "seconds_left": self.seconds_left}


LATE = 100  # parts of which the rate is told, ours


def status_of(out: str) -> Status:
    """How far the job of a folder is. `UsageError` where there is none."""
    job = find_job(out)
    if job is None:
        raise UsageError(f"{out} holds no job; `aweigh predict SOURCE --cluster -o {out}` begins one.")
    done, counts, written = job.done(), Counts(), list[tuple[float, int]]()
    for entry in entries_of(out):
        if entry["part"] in done:
            counts.add(entry)
            written.append((entry["written"], entry["images"]))
    late = sorted(written)[-LATE:]
    seconds = late[-1][0] - late[0][0] if late else 0.0
    rate = sum(images for _, images in late[1:]) / seconds if seconds else 0.0
    images = sum(len(job.rows(part)) for part in done)
    return Status(out, job.format, job.images, images, job.parts, len(done), counts, rate, late[-1][0] if late else 0.0)


def told_seconds(seconds: float | None) -> str:
    """`45 s`, `12 min`, `3.5 h`, `2.1 days`; `?` where it is not known."""
    if seconds is None:
        return "?"
    for size, unit, digits in ((86_400.0, "days", 1), (3600.0, "h", 1), (100.0, "min", 0)):
        if seconds >= size:
            return f"{seconds / (60.0 if unit == 'min' else size):.{digits}f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
