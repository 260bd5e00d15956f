"""What one looks at: boxes, masks and keypoints on pictures (`pictures.py`), curves and matrices (`charts.py`)."""

from aweigh.visualise.charts import confusion, curves, feature_reuse, precision_recall
from aweigh.visualise.pictures import (
    IGNORED,
    INK,
    PALETTE,
    PAPER,
    as_picture,
    draw_boxes,
    draw_detections,
    draw_heat_map,
    draw_targets,
    grid,
)

__all__ = [
    "IGNORED",
    "INK",
    "PALETTE",
    "PAPER",
    "as_picture",
    "confusion",
    "curves",
    "draw_boxes",
    "draw_detections",
    "draw_heat_map",
    "draw_targets",
    "feature_reuse",
    "grid",
    "precision_recall",
]
