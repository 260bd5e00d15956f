"""Images of several requests go through the network together: a bounded queue, and threads that empty it.

Only images of one size that are asked the same share a batch, so that none is padded beyond what it would be alone and
none is answered otherwise than alone. An image that nobody waits for any more is not computed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aweigh.arguments import NMS
from aweigh.detections import Detections
from aweigh.errors import AweighError, counted
from aweigh.geometry.tiles import OVERLAP
from aweigh.predictor import SCORE, Predictor


@dataclass(frozen=True)
class Asked:
    """What is asked of an image, as of a predictor; tile 0 looks at the whole."""

    score: float = SCORE
    classes: tuple[str, ...] = ()
    nms: NMS | None = None
    tile: int | None = None
    overlap: float = OVERLAP

    def arguments(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(eq=False)
class Job:
    """An image that waits. image: the bytes of a file, or pixels `(H, W, 3)` uint8 RGB. size_hw: of the image. found:
    its detections, with an error in place of them where it cannot be read; cancelled by who does not want them any
    more, or has waited too long."""

    image: bytes | np.ndarray
    size_hw: tuple[int, int]
    asked: Asked
    queued: float = field(default_factory=time.monotonic)
    found: Future[Detections] = field(default_factory=Future)

    @property
    def kind(self) -> object:
        """Equal for those that may share a batch."""
        return self.asked, self.size_hw


class BusyError(AweighError):
    """As many images wait as may."""


# Is told of each batch how many images it had, how many seconds the first waited, and how many it took.
Watch = Callable[[int, float, float], None]


class Batcher:
    """Threads that compute what is submitted, first come, first served.

    workers: threads. max_batch: images that go through the network together. max_delay: seconds that an image waits for
    others of its kind, where there are fewer. max_waiting: images in the queue, beyond which `BusyError` is raised.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        workers: int,
        max_batch: int,
        max_delay: float,
        max_waiting: int,
        watch: Watch = lambda images, queued, seconds: None,
    ) -> None:
        self.predictor = predictor  # may be replaced at any moment: the next batch takes the new one
        self._max_batch, self._max_delay, self._max_waiting = max_batch, max_delay, max_waiting
        self._watch = watch
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._ending = False
        self._threads = [
            threading.Thread(target=self._work, name=f"aweigh-serve-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, *jobs: Job) -> None:
        """All of them, or none."""
        with self._changed:
            if self._ending:
                raise BusyError("The service is stopping.")
            if len(self._waiting) + len(jobs) > self._max_waiting:
                raise BusyError(f"{counted(len(self._waiting), 'image', 'waits')} already; try again later.")
            self._waiting.extend(jobs)
            self._changed.notify_all()

    def close(self) -> None:
        """What was accepted is computed; then the threads end."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while jobs := self._take():
            self._compute(jobs)

    def _take(self) -> list[Job]:
        """The next batch; empty when it is over."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._ending)
                if not self._waiting:
                    return []
                jobs: list[Job] = []
                self._gather(jobs, self._waiting[0].kind)
                if not jobs:  # nobody waits for them any more
                    continue
                until = jobs[0].queued + self._max_delay
                while len(jobs) < self._max_batch and not self._ending and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
                    self._gather(jobs, jobs[0].kind)
                return jobs

    def _gather(self, jobs: list[Job], kind: object) -> None:
        """Those of this kind that wait, as many as still fit; those in vain are dropped."""
        others: deque[Job] = deque()
        while self._waiting:
            job = self._waiting.popleft()
            if job.kind != kind or len(jobs) >= self._max_batch:
                others.append(job)
            elif job.found.set_running_or_notify_cancel():
                jobs.append(job)
        self._waiting = others

    def _compute(self, jobs: list[Job]) -> None:
        begun = time.monotonic()
        asked = jobs[0].asked.arguments()
        try:
            with closing(self.predictor.with_images([job.image for job in jobs], len(jobs), **asked)) as found:
                results = [replace(result, path=None) for _, result in found]
        except Exception as error:  # of the program, not of an image: each who waits is told, and the thread goes on
            for job in jobs:
                job.found.set_exception(error)
            return
        for job, result in zip(jobs, results, strict=True):
            job.found.set_result(result)
        self._watch(len(jobs), begun - jobs[0].queued, time.monotonic() - begun)
