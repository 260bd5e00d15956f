"""Which answers become detections, as papers and their authors' code have it: numbers that a comparison may hide."""

from dataclasses import asdict
from typing import Any

import pytest

from aweigh.models.centernet import CenterNetSelection
from aweigh.models.cornernet import CornerNetSelection
from aweigh.models.cornernet_saccade import SaccadeSelection
from aweigh.models.detector import LevelSelection, Selection
from aweigh.models.efficientdet import EfficientDetSelection
from aweigh.models.faster_rcnn import FasterRCNNSelection
from aweigh.models.fcos import FCOSSelection

# score_threshold, nms, nms_threshold, max_detections, and what else there is.
PAPERS: list[tuple[type[Selection], float, str, float, int, dict[str, Any]]] = [
    (FCOSSelection, 0.05, "class", 0.6, 100, {"candidates_per_level": 1000, "threshold_product": False}),  # its code
    (
        LevelSelection,
        0.05,
        "class",
        0.5,
        100,
        {"candidates_per_level": 1000},
    ),  # RetinaNet's section 4.1, FoveaBox's code
    (FasterRCNNSelection, 0.05, "class", 0.5, 100, {}),  # Detectron
    (EfficientDetSelection, 0.0, "class", 0.5, 100, {"candidates_per_image": 5000}),  # effdet
    (CenterNetSelection, 0.0, "none", 0.5, 100, {}),  # section 4
    (
        *(CornerNetSelection, 0.0, "soft", 0.5, 100),  # section 4.2
        {"points_per_kind": 100, "max_pairs": 1000, "embedding_distance": 0.5},
    ),
    (
        *(SaccadeSelection, 0.0, "soft", 0.5, 100),  # its code
        {"points_per_kind": 12, "max_pairs": 12, "embedding_distance": 0.3, "max_crops": 30}
        | {"first_look_threshold": 0.3, "attention_threshold": 0.3, "reference_threshold": 0.5}
        | {"suppression_distance": 16.0},
    ),
]


@pytest.mark.parametrize(("kind", "score", "nms", "overlap", "most", "others"), PAPERS, ids=lambda each: str(each)[:40])
def test_the_defaults_are_those_of_the_paper(
    kind: type[Selection], score: float, nms: str, overlap: float, most: int, others: dict[str, Any]
) -> None:
    numbers = {"score_threshold": score, "nms": nms, "nms_threshold": overlap, "max_detections": most}
    assert asdict(kind()) == {**numbers, **others}
