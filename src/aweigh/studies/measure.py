"""What a trained row comes to: the figures of its metric and of its paper, and what its training took."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, cast

from aweigh.annotations.proposals import read_proposals
from aweigh.annotations.split import Split
from aweigh.arguments import change_settings
from aweigh.classes import Classes
from aweigh.commands import evaluate, propose
from aweigh.edit.held_out import split_to_measure
from aweigh.errors import UsageError
from aweigh.evaluation.metrics import METRICS, measurable, numbers_of
from aweigh.evaluation.recall import LIMITS, recall_of
from aweigh.images.resize import Resize
from aweigh.inference.assignment import rule_of_detector
from aweigh.inference.engine import torch_engine
from aweigh.inspect.coverage import boxes_at_input, measure_coverage
from aweigh.layouts.load import load_split
from aweigh.models.detector import Detector
from aweigh.predictor import Predictor, load
from aweigh.studies.figures import PROPOSAL_FIGURES, in_percent
from aweigh.studies.plan import Plan
from aweigh.studies.rows import build
from aweigh.studies.study import Row, Study, checked_views
from aweigh.training.config import TrainConfig
from aweigh.training.logs.json_lines import iterate_log

Figures = dict[str, float]


def figures_of(plan: Plan, row: Row, folder: Path) -> Figures:
    """Of the last weights of a run, with the thresholds and views of the row: metrics of the split, in percent."""
    weights = folder / "last.safetensors"
    part = plan.study.whole(row)
    resize, tta = checked_views(part.views)
    predictor = load(weights, resize=resize or None, tta=tta, device=plan.device, runtime="torch")
    change_settings(torch_engine(predictor.engine).model, part.selection)
    engine = predictor.engine
    config = plan.config(row)
    learned = [*getattr(config, "classes", ())] or None  # the others are nobody's fault
    keypoints = "keypoints" in engine.extras
    split = split_to_measure(str(weights), plan.data, plan.split, classes=learned, keypoints=keypoints).measurable()
    names, _ = measurable(split, engine.extras, engine.keypoint_set)
    names += [name for name, metric in METRICS.items() if name not in names and _is_wanted(plan.study, metric.prefix)]
    given = getattr(config, "val_proposals_file", "") or getattr(config, "proposals_file", "")
    found = evaluate(predictor, split, metrics=names, proposals=read_proposals(given) if given else None)
    figures = in_percent(numbers_of(found.metrics))
    if not engine.needs_proposals and any(name in PROPOSAL_FIGURES for name in wanted(plan.study)):
        figures |= _of_proposals(predictor, split)
    return figures


def wanted(study: Study) -> set[str]:
    """The figures that a study is about: its metric, and what its paper prints."""
    return {study.metric, *(figure for row in study.rows for figure in row.paper)}


def _is_wanted(study: Study, prefix: str) -> bool:
    """Whether a metric with this prefix is asked for, which is not one of every validation."""
    return bool(prefix) and any(figure.startswith(prefix) for figure in wanted(study))


def _of_proposals(predictor: Predictor, split: Split) -> Figures:
    """COCO's average recall of what the detector proposes."""
    regions, _, unread = propose(predictor, split, number=max(LIMITS), made={})
    numbers = recall_of(regions, split, unread).numbers
    return {f"proposal_{name}": 100 * value for name, value in numbers.items() if value >= 0}


def training_figures(folder: Path) -> Figures:
    """The median time of a step, of the rows of a run's log, or of its epochs' means; reading images is not in it."""
    rows = [row for row in iterate_log(folder / "log.jsonl") if "step_seconds" in row]
    seconds = [row["step_seconds"] for row in rows if row["kind"] == "step"] or [row["step_seconds"] for row in rows]
    return {"step_ms": 1000 * median(seconds)} if seconds else {}


def backbone_figures(folder: Path) -> Figures:
    """Of the last row of the log of a backbone's training, in percent."""
    *_, last = iterate_log(folder / "log.jsonl")
    return {f"{name}_error": 100 * (1 - last[name]) for name in ("top1", "top5")}


def assignment_figures(plan: Plan, row: Row) -> Figures:
    """What the assignment of a row can reach on the boxes of the split, in the size it is trained with; in percent."""
    config = plan.config(row)
    assert isinstance(config, TrainConfig)
    rule = rule_of_detector(cast(Detector, build(plan.study, row, Classes.numbered(1))))
    if rule is None:
        raise UsageError(f"{plan.study.name}, row {row.name!r}: {config.model} assigns no points to boxes.")
    split = load_split(plan.data, plan.split or "train").measurable()
    resize = Resize(short=config.short or None, long=config.long or None)
    coverage = measure_coverage(boxes_at_input(split, resize), rule)
    numbers: Mapping[str, Any] = {
        "best_possible_recall": coverage.best_possible_recall,
        "ambiguous": coverage.ambiguous_share,
        "ambiguous_classes": coverage.ambiguous_classes_share,
    }
    return {name: 100 * value for name, value in numbers.items() if value >= 0}
