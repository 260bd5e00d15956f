"""What one looks at: boxes, masks and keypoints on pictures (`pictures.py`), several on a sheet (`sheet.py`), objects
in space on them and from above (`space.py`), curves and matrices (`charts.py`)."""

from aweigh.visualise.charts import confusion, curves, feature_reuse, precision_recall
from aweigh.visualise.colours import IGNORED, INK, PALETTE, PAPER
from aweigh.visualise.pictures import as_picture, draw_boxes, draw_detections, draw_heat_map, draw_targets
from aweigh.visualise.sheet import grid
from aweigh.visualise.space import birds_eye, draw_in_space

__all__ = [
    "IGNORED",
    "INK",
    "PALETTE",
    "PAPER",
    "as_picture",
    "birds_eye",
    "confusion",
    "curves",
    "draw_boxes",
    "draw_detections",
    "draw_heat_map",
    "draw_in_space",
    "draw_targets",
    "feature_reuse",
    "grid",
    "precision_recall",
]
