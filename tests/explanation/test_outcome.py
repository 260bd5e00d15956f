"""Which answer suppressed which, beside suppression written out box by box."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from aweigh.explanation.outcome import Outcome, outcome_of
from aweigh.heads.answers import Answers


def crowd(nms: str, number: int = 60) -> Outcome:
    drawn = np.random.default_rng(3)
    corners = drawn.uniform(0, 60, (number, 2))
    boxes = torch.tensor(
        np.concatenate([corners, corners + drawn.uniform(20, 40, (number, 2))], 1), dtype=torch.float32
    )
    return outcome_of(
        Answers(
            kind="point",
            places=boxes[:, :2],
            boxes=boxes[:, None],
            labels=torch.tensor(drawn.integers(0, 2, (number, 1))),
            parts={"class score": torch.tensor(drawn.uniform(0.1, 1, (number, 1)), dtype=torch.float32)},
            rule="product",
            levels=torch.zeros(number, dtype=torch.int64),
            level_names=["one"],
            gates=[],
            suppression=SimpleNamespace(nms=nms, nms_threshold=0.4, max_detections=100),
        )
    )


@pytest.mark.parametrize("nms", ["class", "agnostic"])
def test_the_best_box_that_is_left_and_covers_another_suppresses_it(nms: str) -> None:
    outcome = crowd(nms)
    iou = box_iou(outcome.boxes.double(), outcome.boxes.double())
    by: dict[int, int] = {}  # of a row, best first, that which suppressed it
    for row in range(len(iou)):
        for other in range(row):
            same = nms == "agnostic" or outcome.labels[other] == outcome.labels[row]
            if other not in by and same and iou[other, row] > 0.4:
                by[row] = other
                break
    assert len(by) > 20 and any(by[row] != outcome.left[0] for row in by)
    for row in range(len(iou)):
        found = outcome.suppressor(row)
        assert (found and found[0]) == by.get(row) and (
            found is None or found[1] == pytest.approx(float(iou[row, found[0]]))
        )
        assert [other for other, _ in outcome.suppressed_by(row)] == [other for other in by if by[other] == row]


def test_where_nothing_is_suppressed_nothing_did_it() -> None:
    outcome = crowd("none")
    assert all(outcome.suppressor(row) is None for row in range(60)) and len(outcome.left) == 60
