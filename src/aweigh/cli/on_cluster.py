"""What `aweigh predict` and `eval` do with --cluster: the same detections, in parts, with one line that says how far
they are, and the same numbers."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from aweigh.cli.detectors import find_detector
from aweigh.cli.flags import Cluster, Loading, Views, Weights
from aweigh.cli.terminal import bar, log, one_line
from aweigh.errors import UsageError, counted

if TYPE_CHECKING:
    from aweigh.annotations.split import Split
    from aweigh.cluster.job import Counts, Job
    from aweigh.cluster.loader import Loader
    from aweigh.cluster.prediction import Progress
    from aweigh.cluster.ray_cluster import Workers
    from aweigh.evaluation.measurement import Measurement
    from aweigh.predictor import Predictor

PAUSE = 30.0  # seconds between two lines where the error stream is no terminal


def predict_on(
    cluster: Cluster, sources: tuple[str, ...], output: str, model: str, weights: Weights, views: Views, **asked: Any
) -> int:
    """Find objects in the images of sources, and tell what came of it. asked: as of `predict_on_cluster`."""
    from aweigh.cluster.prediction import predict_on_cluster

    if output in ("", "-"):
        raise UsageError("-o names the folder of a cluster's output: one that all its machines see, or of a store.")
    workers = cluster.workers(weights)
    views.augmentation(), views.tiles(), weights.changes()  # what is wrong with flags is told here
    with live_line() as progress:
        counts = predict_on_cluster(
            sources,
            output,
            loader_of(model, weights, views, workers),
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


def evaluate_on(
    cluster: Cluster,
    predictor: "Predictor",
    detector: str,
    part: "Split",
    metrics: Sequence[str],
    weights: Weights,
    views: Views,
    loading: Loading,
) -> "Measurement":
    """The numbers of a split, as `evaluate.measure` has them."""
    from aweigh.cluster.evaluation import evaluate

    workers = cluster.workers(weights)
    with bar("measuring", len(part)) as show:
        found = evaluate(
            predictor,
            loader_of(detector, weights, views, workers),
            part,
            address=cluster.address,
            workers=workers,
            metrics=metrics,
            batch=loading.batch,
            max_bad=loading.max_bad,
            progress=lambda done, total: show(done),
        )
    for problem in found.problems:
        log().print(f"  {one_line(str(problem))}")
    return found


def loader_of(model: str, weights: Weights, views: Views, workers: "Workers") -> "Loader":
    """What makes the detector of these flags in each process."""
    from aweigh.cluster.loader import Loader

    make = partial(find_detector, chosen=replace(weights, threads=workers.cpus), views=views)
    return Loader.of(model, make, weights.weights)


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
