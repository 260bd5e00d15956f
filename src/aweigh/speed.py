"""How long each step of a prediction takes, for detectors of any engines, in turn in one process.

What differs between two detectors is then the detectors, and not the minute in which each was measured: every image
goes through one after the other. Between them a small fixed computation tells how busy the machine was with other
things; where it was, the times say little.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.detections import Detections
from aweigh.errors import UsageError, check_reach
from aweigh.images.reader import read_image, read_reduced
from aweigh.images.resize import Resize
from aweigh.images.stored import StoredImage
from aweigh.runtime.engine import Batch, Engine
from aweigh.runtime.tta import View, in_whole

STEPS = {
    "decode": "the file to pixels, at a reduced size where that is enough",
    "resize": "to the size of the network, and the images of a batch into one array",
    "network": "the engine: normalisation, network, decoding and suppression",
    "select": "boxes into the pixels of the image, those of the score",
    "draw": "the whole image read, drawn on and compressed as JPEG",
}
MOST_WAITED, MOST_SPREAD = 0.05, 1.25  # ours: of the fixed computation, beyond which a machine is too noisy
JPEG_QUALITY = 92

Opener = Callable[[], tuple[Engine, Resize]]


@dataclass(frozen=True, eq=False)
class Timed:
    """What one detector took.

    computed_by: the engine, in words. first_s: seconds from opening it to the first detections, what it imports
    included. memory_mib: by how much the memory of the process rose meanwhile at its peak; None where the system does
    not tell. steps_ms: milliseconds per image of each of `STEPS`, `[N]` for N measured batches. detections: found, on
    average.
    """

    computed_by: str
    first_s: float
    memory_mib: float | None
    steps_ms: dict[str, np.ndarray]
    detections: float

    @property
    def whole_ms(self) -> np.ndarray:
        """`[N]`: all steps together."""
        total: np.ndarray = np.sum([*self.steps_ms.values()], axis=0)
        return total

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "computed_by": self.computed_by,
            "first_s": self.first_s,
            "memory_mib": self.memory_mib,
            "detections": self.detections,
            "ms": {name: percentiles(values) for name, values in {**self.steps_ms, "whole": self.whole_ms}.items()},
        }


@dataclass(frozen=True)
class Noise:
    """How busy the machine was with other things, by the times of one fixed computation between the predictions.

    waited: the share of its time in which the processor did not compute it. spread: how many times its fastest it took
    at the 90th percentile.
    """

    waited: float
    spread: float

    @property
    def too_much(self) -> bool:
        return self.waited > MOST_WAITED or self.spread > MOST_SPREAD

    def __str__(self) -> str:
        verdict = "too noisy: measure again with nothing else running" if self.too_much else "quiet"
        return (
            f"The machine was {verdict} (a fixed computation waited {self.waited:.0%} of its time, at most "
            f"{MOST_WAITED:.0%} is quiet; the 90th percentile of its times was {self.spread:.2f} of the fastest, at "
            f"most {MOST_SPREAD} is quiet)."
        )


@dataclass(frozen=True)
class Speed:
    """What `measure_speed` found, by the names of the detectors. measured: how many images each, and the batch."""

    detectors: dict[str, Timed]
    noise: Noise
    images: int
    repeats: int
    batch: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it, with how many cores and what load there was."""
        return {
            "detectors": {name: timed.to_dict() for name, timed in self.detectors.items()},
            "noise": {"waited": self.noise.waited, "spread": self.noise.spread, "too_much": self.noise.too_much},
            "images": self.images,
            "repeats": self.repeats,
            "batch": self.batch,
            "cores": os.cpu_count(),
        }


def percentiles(values: np.ndarray) -> dict[str, float]:
    """The 50th, 95th and 99th."""
    return {f"p{share}": float(np.percentile(values, share)) for share in (50, 95, 99)}


def measure_speed(
    openers: Mapping[str, Opener],
    images: Sequence[Path | StoredImage | bytes],
    *,
    repeats: int = 5,
    batch: int = 1,
    score: float = 0.5,
    progress: Callable[[int], object] = lambda done: None,
) -> Speed:
    """Time detectors on the same images, in turn: each batch of images goes through each, in another order every time.

    openers: by a name, what gives an engine and its resize step; each is opened, and called for the first time, one
    after the other. images: files, or the bytes of some. repeats: how often all of them are gone through, after once
    that is not timed. score: the lowest of a detection that is drawn. progress: called with the number of rounds done.
    """
    if not (openers and images):
        raise UsageError("Speed is measured of one detector at least, on one image at least.")
    for name, value in (("repeats", repeats), ("batch", batch)):
        check_reach(name, value)
        if value < 1:
            raise UsageError(f"{name} = {value}: expected a number above 0.")
    chunks = [images[start : start + batch] for start in range(0, len(images), batch)]
    opened = {name: _Detector.opened(name, opener, chunks[0], score) for name, opener in openers.items()}
    names, fixed = [*opened], FixedComputation()
    for round in range(repeats + 1):
        for turn, chunk in enumerate(chunks):
            first = (round + turn) % len(names)
            for name in names[first:] + names[:first]:
                opened[name].take(chunk, score, count=round > 0)
            fixed.compute()
        progress(round + 1)
    return Speed({name: one.timed() for name, one in opened.items()}, fixed.noise(), len(images), repeats, batch)


def drawn_images(count: int, *, long: int = 640) -> list[bytes]:
    """Images to measure with where there are none: scenes of textured shapes, as JPEG files in memory."""
    from PIL import Image

    from aweigh.scenes.shapes import render

    files = []
    for number in range(count):
        file = BytesIO()
        size_hw = (long * 3 // 4, long) if number % 3 else (long, long * 3 // 4)
        Image.fromarray(render(number, size_hw=size_hw).image).save(file, "JPEG", quality=JPEG_QUALITY)
        files.append(file.getvalue())
    return files


@dataclass
class _Detector:
    """A detector that is open, and what it has taken so far."""

    engine: Engine
    resize: Resize
    first_s: float
    memory_mib: float | None
    taken: list[list[float]] = field(default_factory=list)
    found: list[float] = field(default_factory=list)

    @classmethod
    def opened(cls, name: str, opener: Opener, chunk: Sequence[Path | StoredImage | bytes], score: float) -> _Detector:
        """With the time and the memory until its first detections are there."""
        before, start = reset_peak(), time.perf_counter()
        engine, resize = opener()
        if engine.needs_proposals:
            raise UsageError(f"{name}: {engine.name} needs proposals of every image; leave it out.")
        for _ in predicted(engine, resize, chunk, score):
            pass
        seconds, peak = time.perf_counter() - start, memory_mib("VmHWM")
        return cls(engine, resize, seconds, None if before is None or peak is None else peak - before)

    def take(self, chunk: Sequence[Path | StoredImage | bytes], score: float, *, count: bool) -> None:
        """Predict once more. count: whether its time is kept."""
        times, found = [time.perf_counter()], 0
        for results in predicted(self.engine, self.resize, chunk, score):
            times.append(time.perf_counter())
            found = sum(map(len, results))
        if count:
            self.taken.append([(end - start) * 1000 / len(chunk) for start, end in pairwise(times)])
            self.found += [found / len(chunk)]

    def timed(self) -> Timed:
        steps = dict(zip(STEPS, np.array(self.taken).T, strict=True))
        return Timed(self.engine.computed_by, self.first_s, self.memory_mib, steps, float(np.mean(self.found)))


def predicted(
    engine: Engine, resize: Resize, images: Sequence[Path | StoredImage | bytes], score: float
) -> Iterator[Sequence[Detections]]:
    """Predict images as a predictor does, and draw them; yields at the end of each of `STEPS`, at last two what is
    found."""
    read = [read_reduced(image, resize.needed_size) for image in images]
    yield ()
    resized = [resize(pixels, full_hw=full_hw) for pixels, full_hw in read]
    batch = Batch.stack(resized, divisor=engine.stride_divisor, fill=engine.pixel_mean)
    yield ()
    found = engine.run(batch)
    yield ()
    whole = in_whole(found, [full_hw for _, full_hw in read], View(0), ())
    kept = [one[one.scores >= score] for one in whole]
    yield kept
    for image, detections in zip(images, kept, strict=True):
        detections.draw(read_image(image)).save(BytesIO(), "JPEG", quality=JPEG_QUALITY)
    yield kept


class FixedComputation:
    """Some milliseconds of one thread, which take as long every time on a machine that does nothing else."""

    def __init__(self) -> None:
        self._bytes = np.random.default_rng(0).integers(0, 64, 1 << 17, np.uint8).tobytes()
        self._walls: list[float] = []
        self._processor: list[float] = []

    def compute(self) -> None:
        start, used = time.perf_counter(), time.thread_time()
        zlib.compress(self._bytes)
        self._processor.append(time.thread_time() - used)
        self._walls.append(time.perf_counter() - start)

    def noise(self) -> Noise:
        waited = max(0.0, 1 - sum(self._processor) / sum(self._walls))
        return Noise(waited, float(np.percentile(self._walls, 90) / min(self._walls)))


def reset_peak() -> float | None:
    """Let the peak of the memory begin anew, and what is held now in MiB; None where the system has no such thing."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return memory_mib("VmRSS")


def memory_mib(name: str) -> float | None:
    """What Linux says of the memory of this process, in MiB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), None)
