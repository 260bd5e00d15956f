"""What `aweigh eval` measures: a detector on a split by metrics of the table, and the time that it took."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from aweigh.annotations.problems import Problem
from aweigh.annotations.split import Split
from aweigh.evaluation.metrics import METRICS, Measured, Results, check_measurable
from aweigh.images.resize import Resize
from aweigh.models.detector import Detector
from aweigh.prediction.detect import detect
from aweigh.prediction.supervision import measurable_of
from aweigh.prediction.tta import PLAIN, TTA


@dataclass(frozen=True)
class Measurement:
    """The numbers of a detector on a split.

    metrics: by their names in `METRICS`. notes: what the detector finds and the split has not annotated. split: the
    images that could be read. results, speed: as `detect` has them. problems: pictures that were skipped or mended.
    """

    metrics: dict[str, Measured]
    notes: list[str]
    split: Split
    results: Results
    speed: dict[str, float]
    problems: list[Problem]

    def to_dict(self) -> dict[str, Any]:
        """The numbers of the first metric, those of each other under its name, and the time: ready for JSON."""
        (_, first), *others = self.metrics.items()
        more = {name: measured.to_dict() for name, measured in others}
        return {**first.to_dict(), **more, "ms_per_image": self.speed}


def measure(
    model: Detector,
    resize: Resize,
    split: Split,
    names: Sequence[str] = (),
    *,
    batch: int = 8,
    device: torch.device | str = "cpu",
    workers: int = 0,
    tta: TTA = PLAIN,
    max_bad: float = 1.0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Measurement:
    """Detections of a split, measured by the metrics of these names; when none is given, by COCO's of what both have,
    and KITTI's in space.

    split: see `Split.measurable`. `UsageError` for a metric that there is not, or that cannot be measured. max_bad: the
    share of pictures that cannot be read above which there are no numbers but a `DataError`.
    """
    check_measurable(names, split, model.extras, model.keypoint_set)
    found = detect(
        model,
        resize,
        split,
        batch=batch,
        device=device,
        workers=workers,
        tta=tta,
        max_bad=max_bad,
        progress=progress,
    )
    part = found.measured(split)
    wanted, notes = (list(names), []) if names else measurable_of(model, part, when="eval")
    metrics = {name: METRICS[name].measure(part, found.results, model.keypoint_set) for name in wanted}
    return Measurement(metrics, notes, part, found.results, found.speed, found.problems)
