"""What `aweigh predict --cluster` does: the same detections, in parts, with one line that says how far it is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from aweigh.cli.detectors import find_detector
from aweigh.cli.flags import Cluster, Views, Weights
from aweigh.cli.terminal import log
from aweigh.errors import UsageError, counted

if TYPE_CHECKING:
    from aweigh.cluster.job import Counts, Job
    from aweigh.cluster.predict import Progress

PAUSE = 30.0  # seconds between two lines where the error stream is no terminal


def predict_on(
    cluster: Cluster, sources: tuple[str, ...], output: str, model: str, weights: Weights, views: Views, **asked: Any
) -> int:
    """Find objects in the images of sources, and tell what came of it. asked: as of `predict_on_cluster`."""
    from aweigh.cluster.loader import Loader
    from aweigh.cluster.predict import predict_on_cluster

    if output in ("", "-"):
        raise UsageError("-o names the folder of a cluster's output: one that all its machines see, or of a store.")
    workers = cluster.workers(weights)
    views.augmentation(), views.tiles(), weights.changes()  # what is wrong with flags is told here
    make = partial(find_detector, chosen=replace(weights, threads=workers.cpus), views=views)
    with live_line() as progress:
        counts = predict_on_cluster(
            sources,
            output,
            Loader.of(model, make, weights.weights),
            about=changed_flags(weights) | changed_flags(views),
            address=cluster.address,
            workers=workers,
            progress=progress,
            **asked,
        )
    log().print(
        f"{counted(counts.images, 'image')}, {counted(counts.objects, 'object')}; "
        f"{counted(counts.errors, 'image')} with an error.\nDetections: {output.rstrip('/')}/parts"
    )
    return 1 if counts.errors else 0


def changed_flags(flags: Weights | Views) -> dict[str, Any]:
    """Those that are not as usual and change what is found."""
    usual = asdict(type(flags)())
    return {name: value for name, value in asdict(flags).items() if name != "threads" and value != usual[name]}


@contextmanager
def live_line() -> Iterator["Progress"]:
    """What is to be called with a job and what is done of it. Where the error stream is no terminal, the line comes
    anew now and then."""
    console, pace = log(), Pace()
    if not console.is_terminal:
        yield lambda job, counts: console.print(pace.line(job, counts)) if pace.is_due() else None
        return
    with console.status("listing the images") as status:
        yield lambda job, counts: status.update(pace.line(job, counts))


class Pace:
    """How fast a job goes, since this command began."""

    def __init__(self) -> None:
        self._begun, self._there = time.monotonic(), -1
        self._due = self._begun + PAUSE

    def is_due(self) -> bool:
        """Whether it is time for another line."""
        if time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + PAUSE
        return True

    def line(self, job: "Job", counts: "Counts") -> str:
        from aweigh.cluster.job import told_seconds

        if self._there < 0:  # images that were done before
            self._begun, self._there = time.monotonic(), counts.images
        rate = (counts.images - self._there) / max(1e-3, time.monotonic() - self._begun)
        left = told_seconds((job.images - counts.images) / rate if rate else None)
        return (
            f"{counts.images:,} of {counted(job.images, 'image')}, {rate:,.1f}/s, {left} left, "
            f"{counted(counts.errors, 'image')} with an error"
        )
