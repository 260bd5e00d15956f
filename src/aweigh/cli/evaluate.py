"""`aweigh eval`: the numbers of a detector on one split of a data set."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from aweigh.cli.detectors import find_detector, given_proposals
from aweigh.cli.flags import DATA_SET, Files, JsonFile, Loading, ProposalsFile, Views, Weights
from aweigh.cli.terminal import bar, log, one_line, write_numbers
from aweigh.errors import UsageError, counted

if TYPE_CHECKING:
    from aweigh.annotations.split import Split
    from aweigh.inference.measure import Measurement
    from aweigh.predictor import Predictor

USUAL = "coco"


def command(
    detector: str,
    data: Annotated[str, DATA_SET],
    /,
    *,
    split: Annotated[str, Parameter(show_default=False)] = "",
    metric: Annotated[str, Parameter(alias="--protocol")] = USUAL,
    proposals_file: ProposalsFile = None,
    proposals: Annotated[bool, Parameter(negative="")] = False,
    json_file: JsonFile = None,
    picture: Path | None = None,
    plots: Path | None = None,
    files: Files = Files(),
    weights: Weights = Weights(),
    loading: Loading = Loading(),
    views: Views = Views(),
) -> None:
    """Measure a trained detector on a labelled split.

    Prints the numbers and, beside them, what they depend on: the size pictures are brought to and the thresholds of
    detections. Classes are matched by name; numbers are those of the whole data set, in the pixels of its pictures.
    Masks, keypoints and, by KITTI's rules, places in space are measured as well, where detector and data have them.

    Args:
        detector: A checkpoint, the folder of a run (its best weights), box (the detector that comes with aweigh), or
            the name of one with published weights.
        split: Which part of the data: train, val, test, or as it is called there. When not given val; and where the
            data have none, the images that the run held out of training.
        metric: coco: COCO's numbers of boxes, and of what else detector and data have. Or one of these, or several as
            voc07,recall: boxes, masks, keypoints, space (KITTI's), space_loose, voc07 (AP50 at eleven recalls), voc12
            (AP50 as an area), recall (of the best 100 and 1,000, classes left aside).
        proposals: Measure what the detector proposes instead of what it detects: how many objects, of any class, the
            best 100 and 1,000 regions of each picture reach.
        picture: Draw six pictures of the split with what was found, into this file.
        plots: Write into this folder: precision over recall, the confusion matrix, the pictures with the most mistakes,
            and the same in numbers with the best score threshold of each class.
    """
    from aweigh.edit.held_out import split_to_measure

    loading.check()
    if proposals:
        if plots is not None or picture is not None or proposals_file is not None or metric != USUAL:
            raise UsageError("--proposals measures regions alone: leave out --plots, --picture and --metric.")
        if views != Views():
            raise UsageError("--proposals measures what is proposed in training's size: leave out --resize and --tta.")
        part = split_to_measure(detector, data, split, strict=loading.strict, **files.to_dict())
        tell_proposals(detector, part, json_file, data, weights, loading)
        return
    predictor = find_detector(detector, weights, views)
    keypoints = "keypoints" in predictor.engine.extras
    part = split_to_measure(detector, data, split, keypoints=keypoints, strict=loading.strict, **files.to_dict())
    tell_split(part)
    names = [] if metric == USUAL else [name.strip() for name in metric.split(",")]
    found = measure(predictor, part, names, proposals_file, loading)
    print("\n\n".join([*(measured.table() for measured in found.metrics.values()), *found.notes]), end="\n\n")
    print(*conditions(predictor, loading, weights, found.speed), sep="\n")
    if json_file is not None:
        origin = {"split": part.name, "data_hash": part.content_hash, "detector": detector, "data": data}
        write_numbers(json_file, {**found.to_dict(), "settings": {**origin, **settings(predictor, loading)}})
    draw(predictor, found, plots, picture)


def tell_split(part: "Split") -> None:
    """What is in it, and what is wrong with it."""

    log().print(part.summary())
    if part.problems:
        log().print(part.problem_report())


def tell_proposals(
    detector: str, part: "Split", json_file: Path | None, data: str, weights: Weights, loading: Loading
) -> None:
    """The recall of what a detector proposes."""
    from aweigh.cli.proposals import collect, tell_recall
    from aweigh.evaluation.recall import LIMITS
    from aweigh.proposals.from_detector import recall_of

    log().print(part.summary())
    part = part.measurable()
    regions, unread = collect(detector, part, max(LIMITS), data=data, weights=weights, loading=loading)
    tell_recall(recall_of(regions, part, unread), regions.made, part.without(unread), json_file)


def measure(
    predictor: "Predictor", part: "Split", names: Sequence[str], proposals_file: Path | None, loading: Loading
) -> "Measurement":
    """The numbers of a split, with a bar; what was wrong with its pictures is said."""
    from aweigh.commands import evaluate

    part = part.measurable()
    proposals = given_proposals(predictor.engine, proposals_file)
    with bar("measuring", len(part)) as show:
        found = evaluate(
            predictor,
            part,
            metrics=names,
            proposals=proposals,
            batch=loading.batch,
            workers=loading.workers,
            max_bad=loading.max_bad,
            progress=lambda done, total: show(done),
        )
    for problem in found.problems:
        log().print(f"  {one_line(str(problem))}")
    return found


def conditions(predictor: "Predictor", loading: Loading, weights: Weights, speed: Mapping[str, float]) -> Iterator[str]:
    """What the numbers depend on, and the time, as lines."""
    from aweigh.inference.engine import torch_engine

    engine = torch_engine(predictor.engine)
    selection = engine.selection
    resize = ", ".join(f"{name} {value}" for name, value in predictor.resize.to_dict().items())
    yield (
        f"score above {selection.score_threshold:g}, NMS at IoU {selection.nms_threshold:g}, at most "
        f"{counted(selection.max_detections, 'detection')} per image; resize: {resize}; "
        f"batch {loading.batch or predictor.engine.usual_batch}"
    )
    if changes := weights.changes():
        yield f"set: {', '.join(f'{name} {value}' for name, value in changes.items())}"
    if not predictor.tta.plain:
        yield from predictor.tta.describe(engine)
    times = ", ".join(f"{name} {value:.1f}" for name, value in speed.items())
    yield f"ms per image: {times} ({engine.how.device})"


def settings(predictor: "Predictor", loading: Loading) -> dict[str, Any]:
    """What the numbers depend on, for a file of them."""
    from aweigh.arguments import settings_of
    from aweigh.inference.engine import torch_engine

    engine = torch_engine(predictor.engine)
    model = engine.model
    return {
        "builder": model.builder,
        "resize": predictor.resize.to_dict(),
        "tta": None if predictor.tta.plain else predictor.tta.to_dict(engine),
        "score_threshold": model.selection.score_threshold,
        "nms_threshold": model.selection.nms_threshold,
        "max_detections": model.selection.max_detections,
        "selection": settings_of(model),
        "batch": loading.batch or predictor.engine.usual_batch,
        "device": str(engine.how.device),
    }


def draw(predictor: "Predictor", found: "Measurement", plots: Path | None, picture: Path | None) -> None:
    """The files of --plots and --picture."""
    from aweigh.training.logs.report import save_evaluation, save_predictions

    if plots is not None:
        for line in save_evaluation(plots, found.split, found.results):
            print(line)
        log().print(f"Plots: {plots}")
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        save_predictions(predictor.engine, predictor.resize, found.split, picture, tta=predictor.tta)
        log().print(f"Picture: {picture}")
