"""`aweigh eval`: the numbers of a detector, or of a results file, on one split of a data set."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from aweigh.cli.detectors import find_detector, given_proposals, told_tiles
from aweigh.cli.flags import DATA_SET, Cluster, Files, JsonFile, Loading, OwnIds, ProposalsFile, Views, Weights
from aweigh.cli.terminal import bar, log, one_line, write_numbers
from aweigh.errors import UsageError, counted

if TYPE_CHECKING:
    from aweigh.annotations.split import Split
    from aweigh.evaluation.measurement import Measurement
    from aweigh.evaluation.submission import Submission
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
    submission: Annotated[str, Parameter(show_default=False)] = "",
    own_ids: OwnIds = False,
    keep_cost: Annotated[bool, Parameter(negative="")] = False,
    files: Files = Files(),
    weights: Weights = Weights(),
    loading: Loading = Loading(),
    views: Views = Views(),
    cluster: Cluster = Cluster(),
) -> None:
    """Measure a trained detector, or the detections of any program, on a labelled split.

    Prints the numbers and, beside them, what they depend on: the size images are brought to and the thresholds of
    detections. Classes are matched by name; numbers are those of the whole data set, in the pixels of its images.
    Masks, keypoints and, by KITTI's rules, 3D boxes are measured as well, where detector and data have them.

    Args:
        detector: A checkpoint, a graph that `aweigh export` wrote (.onnx, .xml), the folder of a run (its best
            weights), box (the detector that comes with aweigh), or the name of one with published weights. Or a file of
            detections in COCO's results format (.json): its images are joined with the data by their names. Neither a
            graph nor a file needs torch.
        split: Which part of the data: train, val, test, or as it is called there. When not given val; and where the
            data have none, the images that the run held out of training.
        metric: coco: COCO's numbers of boxes, and of what else detector and data have. Or one of these, or several as
            voc07,recall: boxes, masks, keypoints, space (KITTI's), space_loose, voc07 (AP50 at eleven recalls), voc12
            (AP50 as an area), recall (of the best 100 and 1,000, classes left aside).
        proposals: Measure what the detector proposes instead of what it detects: how many objects, of any class, the
            best 100 and 1,000 regions of each image reach.
        picture: Draw six images of the split with what was found, into this file.
        plots: Write into this folder: precision over recall, the confusion matrix, the images with the most mistakes,
            and the same in numbers with the best score threshold of each class.
        submission: The name of an algorithm, behind a folder or alone: write there the zip of detections that COCO's
            server takes. DATA is the list of images then, as annotations/image_info_test-dev2017.json, with their
            folder beside it; without annotations nothing is measured here.
        keep_cost: Measure in float32 too, and write into the checkpoint how much AP --precision costs: --precision auto
            goes by it.
    """
    from aweigh.edit.held_out import split_to_measure

    loading.check()
    names = [] if metric == USUAL else [name.strip() for name in metric.split(",")]
    into, split = submission_of(submission, data, split, files)
    if detector.endswith(".json") and Path(detector).is_file():
        if proposals or proposals_file is not None or picture is not None or (weights, views) != (Weights(), Views()):
            raise UsageError(f"{detector} holds detections that are made: leave out the flags of a detector.")
        found = measure_results(Path(detector), data, split, names, own_ids=own_ids, strict=loading.strict, files=files)
        tell_numbers(found)
        tell_submission(found, into)
        if json_file is not None:
            origin = {"split": found.split.name, "data_hash": found.split.content_hash}
            write_numbers(json_file, {**found.to_dict(), "settings": {**origin, "results": detector, "data": data}})
        draw_mistakes(found, plots)
        return
    if own_ids:
        raise UsageError("--own-ids goes with a file of detections (.json).")
    if proposals:
        if plots is not None or picture is not None or proposals_file is not None or metric != USUAL or submission:
            raise UsageError(
                "--proposals measures regions alone: leave out --plots, --picture, --submission and --metric."
            )
        if views != Views():
            raise UsageError("--proposals measures what is proposed in training's size: leave out --resize and --tta.")
        part = split_to_measure(detector, data, split, strict=loading.strict, **files.to_dict())
        tell_proposals(detector, part, json_file, data, weights, loading)
        return
    other = weights.weights or weights.settings or views != Views() or names
    if keep_cost and (other or weights.precision in ("auto", "float32")):
        raise UsageError(
            "--keep-cost goes with --precision bf16 or float16, and no other size, views, weights, metric or --set."
        )
    predictor = find_detector(detector, weights, views)
    keypoints = "keypoints" in predictor.engine.extras
    part = split_to_measure(detector, data, split, keypoints=keypoints, strict=loading.strict, **files.to_dict())
    tell_split(part)
    if cluster.wanted:
        if proposals_file is not None or keep_cost or loading.workers:
            raise UsageError("--cluster goes without --proposals-file, --keep-cost and --workers.")
        from aweigh.cli.on_cluster import evaluate_on

        found = evaluate_on(cluster, predictor, detector, part, names, weights, views, loading)
    else:
        found = measure(predictor, part, names, proposals_file, loading)
    tell_numbers(found)
    tell_submission(found, into)
    print(*conditions(predictor, loading, weights, views, found.speed), sep="\n")
    if json_file is not None:
        origin = {"split": part.name, "data_hash": part.content_hash, "detector": detector, "data": data}
        write_numbers(json_file, {**found.to_dict(), "settings": {**origin, **settings(predictor, loading)}})
    if keep_cost:
        keep_cost_of(detector, found, part, proposals_file, weights, loading)
    draw_mistakes(found, plots)
    if picture is not None:
        draw(predictor, found, picture)


def keep_cost_of(
    detector: str,
    found: "Measurement",
    part: "Split",
    proposals_file: Path | None,
    weights: Weights,
    loading: Loading,
) -> None:
    """Measure in float32 as well, and write into the checkpoint what the precision of `found` costs."""
    from aweigh.catalogue import find_model
    from aweigh.checkpoints.checkpoint import keep_cost

    path = find_model(detector)
    if not isinstance(path, Path):
        raise UsageError(f"--keep-cost: {detector} is no file that could be written into; name a checkpoint.")
    exact = measure(find_detector(detector, replace(weights, precision="float32")), part, [], proposals_file, loading)
    compared: dict[str, Measurement] = {weights.precision: found, "float32": exact}
    both = {word: each.to_dict()["AP"] for word, each in compared.items()}
    lost = both["float32"] - both[weights.precision]
    measured_on = {"split": part.name, "images": len(part), "data_hash": part.content_hash}
    keep_cost(path, weights.precision, {"lost_AP": lost, **both, **measured_on})
    values = ", ".join(f"{word} {100 * value:.2f}" for word, value in both.items())
    print(f"AP of {counted(len(part), 'image')}: {values}; {100 * lost:.2f} lost, written into {path}")


def measure_results(
    path: Path, data: str, split: str, names: Sequence[str], *, own_ids: bool, strict: bool, files: Files
) -> "Measurement":
    """The numbers of a file of detections."""
    from aweigh.edit.held_out import split_to_measure
    from aweigh.evaluation.measurement import has, measure_file
    from aweigh.results.coco import read_results_file

    file = read_results_file(path)
    keypoints = has(file, "keypoints")
    part = split_to_measure(str(path), data, split, keypoints=keypoints, strict=strict, **files.to_dict())
    tell_split(part)
    return measure_file(file, part.measurable(), names, own_ids=own_ids)


def submission_of(name: str, data: str, split: str, files: Files) -> tuple["Submission | None", str]:
    """Where --submission writes, and the split whose images the server knows; as it was where there is none."""
    from aweigh.evaluation.submission import Submission
    from aweigh.layouts.finding import ALIASES
    from aweigh.layouts.load import find_splits

    if not name:
        return None, split
    found = find_splits(data, **files.to_dict())
    wanted = ALIASES.get(split, split) or ("val" if "val" in found else next(iter(found)))
    listed = found.get(wanted) or next(iter(found.values()))  # a file alone is the split that is asked for
    return Submission.named(name, listed.annotations), wanted


def tell_submission(found: "Measurement", into: "Submission | None") -> None:
    """Write the files of --submission."""
    if into is not None:
        for path in into.write(found.results):
            log().print(f"For COCO's server: {path}")


def tell_numbers(found: "Measurement") -> None:
    """The table of each metric, and what is not measured; nothing of images that nobody annotated."""
    if not len(found.split.boxes) and not found.split.evaluation_only:
        print(
            f"{counted(len(found.split), 'image')}, {counted(len(found.results), 'detection')}; nothing to measure: "
            "the data have no annotations.\n"
        )
        return
    print("\n\n".join([*(measured.table() for measured in found.metrics.values()), *found.notes]), end="\n\n")


def tell_split(part: "Split") -> None:
    """What is in it, and what is wrong with it."""
    log().print(part.summary())
    if part.problems:
        log().print(part.problem_report())


def tell_proposals(
    detector: str, part: "Split", json_file: Path | None, data: str, weights: Weights, loading: Loading
) -> None:
    """The recall of what a detector proposes."""
    from aweigh.cli.proposals import collect, detector_of, tell_recall
    from aweigh.evaluation.recall import LIMITS, recall_of

    log().print(part.summary())
    part = part.measurable()
    predictor = detector_of(detector, weights)
    regions, unread = collect(detector, predictor, part, max(LIMITS), data=data, loading=loading)
    tell_recall(recall_of(regions, part, unread), regions.made, part.without(unread), json_file)


def measure(
    predictor: "Predictor", part: "Split", names: Sequence[str], proposals_file: Path | None, loading: Loading
) -> "Measurement":
    """The numbers of a split, with a bar; what was wrong with its images is said."""
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


def conditions(
    predictor: "Predictor", loading: Loading, weights: Weights, views: Views, speed: Mapping[str, float]
) -> Iterator[str]:
    """What the numbers depend on, and the time, as lines."""
    engine = predictor.engine
    selection = engine.selection
    resize = ", ".join(f"{name} {value}" for name, value in predictor.resize.to_dict().items())
    suppressed = {
        "class": f"NMS at IoU {selection.nms_threshold:g}",
        "agnostic": f"NMS of all classes together at IoU {selection.nms_threshold:g}",
        "soft": "soft NMS",
        "none": "no NMS",
    }
    yield (
        f"score above {selection.score_threshold:g}, {suppressed[selection.nms]}, at most "
        f"{counted(selection.max_detections, 'detection')} per image; resize: {resize}; "
        f"batch {loading.batch or engine.usual_batch}"
    )
    if changes := weights.changes():
        yield f"set: {', '.join(f'{name} {value}' for name, value in changes.items())}"
    if predictor.tiles is not None:
        yield told_tiles(predictor.tiles, views)
    if not predictor.tta.plain:
        yield from predictor.tta.describe(engine)
    times = ", ".join(f"{name} {value:.1f}" for name, value in speed.items())
    yield f"ms per image: {times} ({engine.computed_by})"


def settings(predictor: "Predictor", loading: Loading) -> dict[str, Any]:
    """What the numbers depend on, for a file of them."""
    engine = predictor.engine
    selection = engine.selection
    return {
        "builder": engine.name,
        "resize": predictor.resize.to_dict(),
        "tiles": None if predictor.tiles is None else asdict(predictor.tiles),
        "tta": None if predictor.tta.plain else predictor.tta.to_dict(engine),
        "score_threshold": selection.score_threshold,
        "nms": selection.nms,
        "nms_threshold": selection.nms_threshold,
        "max_detections": selection.max_detections,
        "selection": engine.settings,
        "batch": loading.batch or engine.usual_batch,
        "computed_by": engine.computed_by,
    }


def draw_mistakes(found: "Measurement", plots: Path | None) -> None:
    """The files of --plots."""
    if plots is not None:
        from aweigh.visualise.mistakes import save_evaluation

        for line in save_evaluation(plots, found.split, found.results):
            print(line)
        log().print(f"Plots: {plots}")


def draw(predictor: "Predictor", found: "Measurement", picture: Path) -> None:
    """The file of --picture."""
    from aweigh.prediction.sheet import save_predictions

    picture.parent.mkdir(parents=True, exist_ok=True)
    save_predictions(predictor.engine, predictor.resize, found.split, picture, tta=predictor.tta, tiles=predictor.tiles)
    log().print(f"Image: {picture}")
