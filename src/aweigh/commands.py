"""What `aweigh train` and `aweigh eval` do, from Python: `aweigh.train` and `aweigh.evaluate`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from aweigh.annotations.proposals import Proposals
from aweigh.annotations.split import Split
from aweigh.edit.held_out import split_to_measure
from aweigh.evaluation.measurement import Measurement
from aweigh.inference.engine import torch_engine
from aweigh.inference.measure import measure
from aweigh.predictor import Predictor, load
from aweigh.training.config import configuration
from aweigh.training.logs.callback import Callback
from aweigh.training.train import train as run


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

    model: a checkpoint as `aweigh.load` takes it, or a predictor, whose resize and test-time augmentation are then
    used. data: a folder, or a split that was loaded. split: train, val, test, or as it is called there; when not given
    val, and where the data have none, what the run of the checkpoint held out. metrics: names in
    `aweigh.evaluation.metrics.METRICS`; when none is given, COCO's of all that detector and data have. proposals: for a
    detector that needs them. batch: images at a time, 0 for what pays on the device. workers: processes that read
    images. max_bad: the share of images that cannot be read above which there is a `DataError` instead of numbers.
    progress: called with the images that are done and all there are.
    """
    predictor = model if isinstance(model, Predictor) else load(model)
    engine = torch_engine(predictor.engine)
    if not isinstance(data, Split):
        beside = "" if isinstance(model, Predictor) else str(model)
        data = split_to_measure(beside, data, split, keypoints="keypoints" in engine.extras)
    part = data.measurable()
    return measure(
        engine.model,
        predictor.resize,
        part if proposals is None else part.with_proposals(proposals),
        metrics,
        batch=batch or engine.usual_batch,
        how=engine.how,
        workers=workers,
        tta=predictor.tta,
        max_bad=max_bad,
        progress=progress,
    )
