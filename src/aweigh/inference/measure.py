"""A detector on a split by metrics of the table: in `aweigh eval`, and after each epoch of training."""

from collections.abc import Callable, Sequence

from aweigh.annotations.split import Split
from aweigh.errors import UsageError, did_you_mean
from aweigh.evaluation.measurement import Measurement, measure_results
from aweigh.evaluation.metrics import METRICS, check_measurable, measurable, metric_of
from aweigh.images.resize import Resize
from aweigh.inference.detect import detect
from aweigh.inference.device import ON_CPU, How
from aweigh.models.detector import Detector
from aweigh.runtime.tta import PLAIN, TTA


def measure(
    model: Detector,
    resize: Resize,
    split: Split,
    names: Sequence[str] = (),
    *,
    batch: int = 8,
    how: How = ON_CPU,
    workers: int = 0,
    tta: TTA = PLAIN,
    max_bad: float = 1.0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Measurement:
    """Detections of a split, measured by the metrics of these names; when none is given, by COCO's of what both have,
    and KITTI's in space.

    split: see `Split.measurable`. `UsageError` for a metric that there is not, or that cannot be measured. max_bad: the
    share of images that cannot be read above which there are no numbers but a `DataError`.
    """
    check_measurable(names, split, model.extras, model.keypoint_set)
    found = detect(
        model,
        resize,
        split,
        batch=batch,
        how=how,
        workers=workers,
        tta=tta,
        max_bad=max_bad,
        progress=progress,
    )
    part = found.measured(split)
    metrics, notes = measure_results(model, part, found.results, names, when="eval")
    return Measurement(metrics, notes, part, found.results, found.speed, found.problems)


def choose_select(select: str, model: Detector, val: Split | None) -> str:
    """The number that makes a checkpoint the best: as given, else the AP of the most that is measured.

    `UsageError` where it would be of a class that there is not, or of masks or keypoints that are not measured.
    """
    measured = ["boxes"] if val is None else measurable(val, model.extras, model.keypoint_set)[0]
    if not select:
        best = METRICS[measured[-1]]
        return best.prefix + best.numbers[0]
    metric, _, name = select.partition(":")
    if val is not None and name and name not in val.classes.names:
        names = val.classes.names
        raise UsageError(f"select = {select!r}: there is no class {name!r} in the data.{did_you_mean(name, names)}")
    if val is not None and metric_of(metric)[0] not in measured:
        finds = " and ".join(("boxes", *model.extras))
        raise UsageError(
            f"select = {select!r} is not measured: {model.builder} finds {finds}, and {val.name} must have the same."
        )
    return select
