"""`aweigh eval`: the numbers of a detector on one split of a data set."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from aweigh.cli.common import AS_TRAINED, Views, bar, check_loading, find_detector, given_proposals, log, one_line
from aweigh.errors import UsageError, counted

if TYPE_CHECKING:
    from aweigh.annotations.split import Split
    from aweigh.prediction.measure import Measurement
    from aweigh.predictor import Predictor


USUAL = "coco"


def command(
    detector: str,
    data: str,
    /,
    *,
    split: Annotated[str, Parameter(show_default=False)] = "",
    metric: Annotated[str, Parameter(alias="--protocol")] = USUAL,
    weights: Annotated[str, Parameter(show_default=False)] = "",
    proposals_file: Annotated[Path | None, Parameter(show_default=False)] = None,
    proposals: Annotated[bool, Parameter(negative="")] = False,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    picture: Path | None = None,
    plots: Path | None = None,
    annotations: Path | None = None,
    images: Path | None = None,
    batch: Annotated[int, Parameter(show_default=False)] = 0,
    workers: int = 0,
    strict: Annotated[bool, Parameter(negative="")] = False,
    device: str = "auto",
    views: Annotated[Views, Parameter(name="*")] = AS_TRAINED,
) -> None:
    """Measure a trained detector on a labelled split.

    Prints the numbers and, beside them, what they depend on: the size pictures are brought to and the thresholds of
    detections. Classes are matched by name; numbers are those of the whole data set, in the pixels of its pictures.
    Masks, keypoints and, by KITTI's rules, places in space are measured as well, where detector and data have them.

    Parameters
    ----------
    detector
        A checkpoint, the folder of a run (its best weights), or the name of a detector with --weights.
    data
        Folder of the data set, in any layout that is read: COCO, VOC, YOLO, KITTI and more.
    split
        Which part of the data: train, val, test, or as it is called there. When not given val; and where the data have
        none, the images that the run held out of training.
    metric
        coco: COCO's numbers of boxes, and of what else detector and data have. Or one of these, or several as
        voc07,recall: boxes, masks, keypoints, space (KITTI's), space_loose, voc07 (AP50 at eleven recalls), voc12 (AP50
        as an area), recall (of the best 100 and 1,000, classes left aside).
    weights
        Published weights by name (torchvision), or a file of them.
    proposals_file
        File of proposals for this split, for a detector that proposes none itself (Fast R-CNN).
    proposals
        Measure what the detector proposes instead of what it detects: how many objects, of any class, the best 100 and
        1,000 regions of each picture reach.
    json_file
        Write the numbers, with all they depend on, to this file.
    picture
        Draw six pictures of the split with what was found, into this file.
    plots
        Write into this folder: precision over recall, the confusion matrix, the pictures with the most mistakes, and
        the same in numbers with the best score threshold of each class.
    annotations
        COCO file, when the folder is no known layout.
    images
        Image folder that goes with --annotations.
    batch
        Pictures that go through the network together; 1 on a CPU and 8 on a GPU when not given.
    workers
        Processes that read pictures; 0 reads in this one.
    strict
        Refuse data with problems, pictures that cannot be read among them, which are else left out of the numbers.
    device
        auto, cpu, cuda, cuda:1 or mps.
    """
    from aweigh.annotations.problems import problem_report
    from aweigh.cli.proposals import collect, measure
    from aweigh.evaluation.recall import LIMITS
    from aweigh.prediction.extras import extras

    check_loading(batch, workers)
    screen = log()
    files: dict[str, Any] = {"annotations": annotations, "images": images, "strict": strict}
    if proposals:
        if plots is not None or picture is not None or proposals_file is not None or metric != USUAL:
            raise UsageError("--proposals measures regions alone: leave out --plots, --picture and --metric.")
        if views != AS_TRAINED:
            raise UsageError("--proposals measures what is proposed in training's size: leave out --resize and --tta.")
        part = measured_on(detector, data, split, **files)
        screen.print(part.summary(), markup=False)
        part = part.measurable()
        how: dict[str, Any] = {"weights": weights, "batch": batch, "workers": workers, "device": device}
        regions, unread = collect(detector, part, max(LIMITS), data=data, strict=strict, **how)
        measure(regions, part, json_file, unread)
        return
    predictor = find_detector(detector, weights, device, views)
    keypoints = "keypoints" in extras(predictor.model)
    part = measured_on(detector, data, split, keypoints=keypoints, **files)
    screen.print(part.summary(), markup=False)
    if part.problems:
        screen.print(problem_report(part), markup=False)
    settings: dict[str, Any] = {"split": part.name, "data_hash": part.content_hash, "detector": detector, "data": data}
    part = part.measurable()
    if given := given_proposals(predictor.model, proposals_file):
        part = part.with_proposals(given)
    chosen_batch = batch or predictor.usual_batch
    names = () if metric == USUAL else [name.strip() for name in metric.split(",")]
    found = measure_with_bar(predictor, part, names, batch=chosen_batch, workers=workers, strict=strict)
    for problem in found.problems:
        screen.print(f"  {one_line(str(problem))}", markup=False)
    print("\n\n".join([*(measured.table() for measured in found.metrics.values()), *found.notes]))
    print()
    print(*conditions(predictor, chosen_batch, found.speed), sep="\n")
    if json_file is not None:
        settings |= settings_told(predictor, chosen_batch)
        write_numbers(json_file, {**found.to_dict(), "settings": settings})
        screen.print(f"Numbers: {json_file}", markup=False)
    if plots is not None:
        from aweigh.training.logs.report import save_evaluation

        for line in save_evaluation(plots, found.split, found.results):
            print(line)
        screen.print(f"Plots: {plots}", markup=False)
    if picture is not None:
        from aweigh.training.logs.report import save_predictions

        picture.parent.mkdir(parents=True, exist_ok=True)
        save_predictions(
            predictor.model, predictor.resize, found.split, picture, device=predictor.device, tta=predictor.tta
        )
        screen.print(f"Picture: {picture}", markup=False)


def measure_with_bar(
    predictor: "Predictor", part: "Split", names: Sequence[str], *, batch: int, workers: int, strict: bool
) -> "Measurement":
    from aweigh.prediction.measure import measure

    with bar("measuring", len(part)) as show:
        return measure(
            predictor.model,
            predictor.resize,
            part,
            names,
            batch=batch,
            device=predictor.device,
            workers=workers,
            tta=predictor.tta,
            max_bad=0.0 if strict else 1.0,
            progress=lambda done, total: show(done),
        )


def conditions(predictor: "Predictor", batch: int, speed: Mapping[str, float]) -> Iterator[str]:
    """What the numbers depend on, and the time, as lines."""
    model = predictor.model
    resize = ", ".join(f"{name} {value}" for name, value in predictor.resize.to_dict().items())
    yield (
        f"score above {model.score_threshold:g}, NMS at IoU {model.nms_threshold:g}, at most "
        f"{counted(model.max_detections, 'detection')} per image; resize: {resize}; batch {batch}"
    )
    if not predictor.tta.plain:
        yield from predictor.tta.describe(model)
    times = ", ".join(f"{name} {value:.1f}" for name, value in speed.items())
    yield f"ms per image: {times} ({predictor.device})"


def settings_told(predictor: "Predictor", batch: int) -> dict[str, Any]:
    """The same for a file of numbers."""
    model = predictor.model
    return {
        "builder": model.builder,
        "resize": predictor.resize.to_dict(),
        "tta": None if predictor.tta.plain else predictor.tta.to_dict(model),
        "score_threshold": model.score_threshold,
        "nms_threshold": model.nms_threshold,
        "max_detections": model.max_detections,
        "batch": batch,
        "device": str(predictor.device),
    }


def write_numbers(file: Path, numbers: Mapping[str, Any]) -> None:
    """As JSON; folders that are not there are made."""
    import json

    from aweigh.files import write_text

    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(numbers, indent=2) + "\n")


def measured_on(detector: str, data: str, split: str, **how: Any) -> "Split":
    """The split that is asked for, else val; where the data have none, what the run of the checkpoint held out.

    how: as `load_split` takes it.
    """
    from aweigh.annotations.records import EmptySplit
    from aweigh.edit.held_out import FILE, HeldOut
    from aweigh.layouts.load import find_splits, load_split

    listed = (Path(detector) if Path(detector).is_dir() else Path(detector).parent) / FILE
    if split or how.get("annotations") is not None or not listed.is_file():
        return load_split(data, split or "val", **how)
    if "val" in find_splits(data):
        with suppress(EmptySplit):  # named, and empty or without any label: the run set a part aside then too
            val = load_split(data, "val", **how)
            if val.complete.any():
                return val
    return HeldOut.read(listed).of_split(load_split(data, "train", **how))
