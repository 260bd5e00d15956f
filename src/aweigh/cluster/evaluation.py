"""The numbers of a detector on a split of which many machines look at the images: those of one machine, to the last
digit, since what is found is put together in the order of the images before anything is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aweigh.annotations.problems import SKIPPED, refuse_too_many
from aweigh.annotations.split import Split
from aweigh.cluster.job import images_of_a_part
from aweigh.cluster.loader import Loader
from aweigh.cluster.ray_cluster import Workers, done_on_cluster, joined_cluster
from aweigh.commands import found_in, measured
from aweigh.errors import UsageError
from aweigh.evaluation.measurement import Measurement
from aweigh.evaluation.metrics import check_measurable
from aweigh.prediction.of_split import SplitDetections
from aweigh.predictor import Predictor, computes_with_torch

DEATHS = 3  # ours: as many as of an image in a prediction


def evaluate(
    predictor: Predictor,
    loader: Loader,
    data: Split,
    *,
    address: str = "",
    workers: Workers = Workers(),
    metrics: Sequence[str] = (),
    batch: int = 0,
    max_bad: float = 1.0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Measurement:
    """As `aweigh.evaluate`, of a detector that no torch computes, or in tiles.

    predictor: what `loader` makes in each process. data: images that all machines see by the same names. address: see
    `joined_cluster`.
    """
    engine, part = predictor.engine, data.measurable()
    if computes_with_torch(engine) and predictor.tiles is None:
        raise UsageError(f"A cluster measures graphs, and {engine.name} is a checkpoint; `aweigh export` writes one.")
    check_measurable(metrics, part, engine.extras, engine.keypoint_set)
    size = images_of_a_part(len(part))
    chunks = [range(first, min(first + size, len(part))) for first in range(0, len(part), size)]
    found: dict[int, SplitDetections] = {}
    with joined_cluster(address):
        begin = _Begin(loader, part, chunks, batch or engine.usual_batch)
        for number, some in done_on_cluster(begin, range(len(chunks)), workers, deaths=DEATHS):
            found[number] = some
            progress(sum(len(chunks[each]) for each in found), len(part))
    whole = _together([found[number] for number in range(len(chunks))], chunks)
    skipped = [problem for problem in whole.problems if problem.action == SKIPPED]
    if skipped:
        refuse_too_many(skipped, len(part), max_bad)
    return measured(engine, part, whole, metrics)


def _together(found: Sequence[SplitDetections], chunks: Sequence[range]) -> SplitDetections:
    """What was found in the chunks of a split, in their order; milliseconds are those of an image in its process."""
    images = sum(len(chunk) for chunk in chunks)
    spent = sum(some.speed["total"] * len(chunk) for some, chunk in zip(found, chunks, strict=True))
    return SplitDetections(
        [entry for some in found for entry in some.results],
        {},
        {"total": spent / max(1, images)},
        [problem for some in found for problem in some.problems],
        [chunk.start + row for some, chunk in zip(found, chunks, strict=True) for row in some.unread],
    )


@dataclass(frozen=True)
class _Begin:
    """What each process needs to look at chunks; called, it makes its detector."""

    loader: Loader
    part: Split
    chunks: Sequence[range]
    batch: int

    def __call__(self) -> Callable[[int], SplitDetections]:
        predictor = self.loader()
        return lambda number: found_in(predictor, self.part.take([*self.chunks[number]]), self.batch)
