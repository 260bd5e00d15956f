"""The figures of a study: what a paper prints of a row and what is measured of it here, under one name each.

Shares are in percent, as papers print them; times in milliseconds; the rest counts. This file imports no torch.
"""

from collections.abc import Mapping
from typing import Any

from aweigh.evaluation.metrics import METRICS, RECALL

# Those that are counted or timed, and not metrics of detections, with what they are.
OTHERS = {
    "parameters": "parameters",
    "flops": "multiply-adds of one image",
    "parameters_ratio": "parameters, as a multiple of those of one row",
    "flops_ratio": "multiply-adds, as a multiple of those of one row",
    "ms": "milliseconds for an image",
    "fps": "images in a second",
    "step_ms": "milliseconds for a step of training",
    "memory_gb": "most memory while training, in GB",
    "top1_error": "images whose class is not the first, in percent",
    "top5_error": "images whose class is not among the first five, in percent",
    "best_possible_recall": "boxes that a point learns, in percent",
    "ambiguous": "positive points that could learn several boxes, in percent",
    "ambiguous_classes": "positive points that could learn boxes of several classes, in percent",
}
METRIC_FIGURES = tuple(metric.prefix + number for metric in METRICS.values() for number in metric.numbers)
PROPOSAL_FIGURES = tuple(f"proposal_{number}" for number in RECALL)
FIGURES = (*METRIC_FIGURES, *PROPOSAL_FIGURES, *OTHERS)
# Better where they are smaller.
FALLING = {"parameters", "flops", "parameters_ratio", "flops_ratio", "ms", "step_ms", "memory_gb", "top1_error",
           "top5_error", "ambiguous", "ambiguous_classes"}  # fmt: skip


def in_percent(numbers: Mapping[str, Any]) -> dict[str, float]:
    """The metrics among numbers in `[0, 1]`, in percent; those that are not defined (-1) are left out."""
    return {
        name: 100 * value
        for name, value in numbers.items()
        if name in METRIC_FIGURES and isinstance(value, int | float) and value >= 0
    }
