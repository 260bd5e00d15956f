"""What `aweigh train` and `aweigh eval` do, from Python: `aweigh.train` and `aweigh.evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aweigh.annotations.problems import Problem
from aweigh.annotations.proposals import Proposals
from aweigh.annotations.split import Split
from aweigh.edit.held_out import split_to_measure
from aweigh.errors import UsageError, said_if_missing
from aweigh.evaluation.measurement import Measurement, measure_results
from aweigh.evaluation.metrics import check_measurable
from aweigh.prediction.of_split import SplitDetections, collect
from aweigh.prediction.of_split import propose as propose_from
from aweigh.predictor import Predictor, computes_with_torch, load
from aweigh.runtime.engine import Engine
from aweigh.runtime.graph import GraphEngine

if TYPE_CHECKING:
    from rich.console import Console

    from aweigh.training.logs.callback import Callback

MOST_CANDIDATES = 100_000  # as `max_detections` has it at most


def train(
    data: str | Path | None = None,
    *,
    recipe: str = "",
    schedule: Literal["keep", "stretch"] = "keep",
    callbacks: Sequence[Callback] = (),
    console: Console | None = None,
    **settings: Any,
) -> Path:
    """Train a detector on a folder of labelled images, and return the run folder.

    It holds `best.safetensors`, which `aweigh.load` takes, and what docs/logs.md lists. data: recognised by looking at
    it. recipe: a file, or the name of one that comes with the package. settings: any flag of `aweigh train` by its
    name, as `epochs=20, model="fcos_resnet50_fpn"`, or `resume=RUN` to go on with a run, whose learning rate follows
    `schedule` as in `aweigh resume`. callbacks: are told how the run goes. console: where its progress is shown; the
    error stream when not given.
    """
    with said_if_missing("aweigh.train"):
        from aweigh.training.config import configuration
        from aweigh.training.train import train as run

    asked = {"data": None if data is None else str(data), **settings}
    return run(*configuration(recipe, asked), extend=schedule, console=console, callbacks=callbacks)


def evaluate(
    model: str | Path | Predictor,
    data: str | Path | Split,
    *,
    split: str = "",
    metrics: Sequence[str] = (),
    proposals: Proposals | None = None,
    batch: int = 0,
    workers: int = 0,
    max_bad: float = 1.0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Measurement:
    """The numbers of a detector on a labelled split: `.metrics["boxes"].AP`, `.to_dict()`, and `.table()` of each.

    model: a checkpoint or a graph as `aweigh.load` takes it, or a predictor, whose resize, tiles and test-time
    augmentation are then used. data: a folder, or a split that was loaded. split: train, val, test, or as it is called
    there; when not given val, and where the data have none, what the run of the checkpoint held out. metrics: names in
    `aweigh.evaluation.metrics.METRICS`; when none is given, COCO's of all that detector and data have. proposals: for a
    detector that needs them. batch: images at a time, 0 for what pays on the device. workers: processes that read
    images, for a detector that torch computes. max_bad: the share of images that cannot be read above which there is a
    `DataError` instead of numbers. progress: called with the images that are done and all there are.
    """
    predictor = model if isinstance(model, Predictor) else load(model)
    engine = predictor.engine
    if not isinstance(data, Split):
        beside = "" if isinstance(model, Predictor) else str(model)
        data = split_to_measure(beside, data, split, keypoints="keypoints" in engine.extras)
    part = data.measurable()
    if proposals is not None:
        part = part.with_proposals(proposals)
    batch = batch or engine.usual_batch
    if computes_with_torch(engine) and predictor.tiles is None:
        from aweigh.inference.engine import torch_engine
        from aweigh.inference.measure import measure

        prepared = torch_engine(engine)
        return measure(
            prepared.model,
            predictor.resize,
            part,
            metrics,
            batch=batch,
            how=prepared.how,
            workers=workers,
            tta=predictor.tta,
            max_bad=max_bad,
            progress=progress,
        )
    _refuse_workers(engine, workers)
    check_measurable(metrics, part, engine.extras, engine.keypoint_set)
    return measured(engine, part, found_in(predictor, part, batch, max_bad=max_bad, progress=progress), metrics)


def found_in(
    predictor: Predictor,
    part: Split,
    batch: int,
    *,
    max_bad: float = 1.0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> SplitDetections:
    """All that a predictor finds in the images of a split, with its ids and in the pixels of its boxes."""
    stream = partial(predictor.stream, score=0, proposals=part.proposals)
    return collect(
        stream([*part.paths], batch),
        part,
        predictor.classes,
        lambda path: next(stream([path], 1, exif="ignore")),
        max_bad=max_bad,
        progress=progress,
    )


def measured(engine: Engine, part: Split, found: SplitDetections, metrics: Sequence[str]) -> Measurement:
    """The numbers of what an engine found in a split."""
    read = found.measured(part)
    numbers, notes = measure_results(engine, read, found.results, metrics, when="eval")
    return Measurement(numbers, notes, read, found.results, found.speed, found.problems)


def propose(
    predictor: Predictor,
    split: Split,
    *,
    number: int,
    made: Mapping[str, Any],
    batch: int = 0,
    workers: int = 0,
    max_bad: float = 1.0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[Proposals, list[Problem], list[int]]:
    """What `aweigh proposals` writes: the `number` best of each image of a split; what was wrong with images, and the
    rows of those that could not be read.

    A detector that torch computes proposes as `aweigh.proposals.from_detector` says. Of any other these are the boxes
    it finds, classes left aside: of a graph that was exported with `--nms none` of all its candidates, of another one
    of those that its own suppression leaves.
    """
    engine = predictor.engine
    batch = batch or engine.usual_batch
    if computes_with_torch(engine):
        from aweigh.inference.engine import torch_engine
        from aweigh.proposals.from_detector import propose as propose_with_torch

        prepared = torch_engine(engine)
        return propose_with_torch(
            prepared.model,
            predictor.resize,
            split,
            number=number,
            made=made,
            batch=batch,
            how=prepared.how,
            workers=workers,
            progress=progress,
            max_bad=max_bad,
        )
    _refuse_workers(engine, workers)
    if engine.needs_proposals:
        raise UsageError(f"{engine.name} proposes no regions itself; it needs proposals.")
    if isinstance(engine, GraphEngine) and engine.graph.nms == "none":
        engine = engine.with_settings({"nms": "none", "max_detections": MOST_CANDIDATES})
    found_in = partial(Predictor(engine, predictor.resize).stream, score=0)
    return propose_from(
        found_in([*split.paths], batch),
        split,
        lambda path: next(found_in([path], 1, exif="ignore")),
        number=number,
        made={**made, "builder": engine.name, "resize": predictor.resize.to_dict()},
        max_bad=max_bad,
        progress=progress,
    )


def _refuse_workers(engine: Engine, workers: int) -> None:
    if workers and computes_with_torch(engine):
        raise UsageError(f"workers = {workers}: tiles are cut in this process; leave the workers out.")
    if workers:
        raise UsageError(f"workers = {workers}: processes read images for torch alone, not for {engine.computed_by}.")
