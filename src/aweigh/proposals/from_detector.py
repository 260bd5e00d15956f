"""Proposals of a detector for every image of a split: what `aweigh proposals` writes and `aweigh eval --proposals`
measures.

A detector with a proposal network gives what its second stage would look at. Any other gives its boxes, classes left
aside: without a threshold on the score, suppressed among all classes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from aweigh.annotations.problems import Problem
from aweigh.annotations.proposals import Proposals
from aweigh.annotations.split import Split
from aweigh.arguments import change_settings, settings_of
from aweigh.errors import UsageError
from aweigh.images.resize import Resize
from aweigh.inference.detect import in_order
from aweigh.inference.device import ON_CPU, How
from aweigh.models.detector import Detector
from aweigh.prediction.of_split import PROPOSALS_NMS


@torch.no_grad()
def propose(
    model: Detector,
    resize: Resize,
    split: Split,
    *,
    number: int,
    made: Mapping[str, Any] | None = None,
    batch: int = 8,
    how: How = ON_CPU,
    workers: int = 0,
    progress: Callable[[int, int], object] = lambda done, total: None,
    max_bad: float = 1.0,
) -> tuple[Proposals, list[Problem], list[int]]:
    """The `number` best of each image, in its own pixels; what was wrong with images, and the rows of those that
    could not be read, which have none.

    model: in evaluation mode; its settings are changed. made: what else the file says of where they are from.
    """
    if number < 1:
        raise UsageError(f"number = {number}: expected a number of proposals above 0.")
    threshold = prepare_to_propose(model, number)
    loader = in_order(model, resize, split, batch=batch, device=how.device, workers=workers, max_bad=max_bad)
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for part in loader:
        if part.blank:
            continue
        with how.with_threads():
            proposed = proposals_of(model, how.outputs(model, part.images), part.images.sizes_hw)
        for row, own, (h, w), (height, width) in zip(
            part.indices, proposed, part.images.sizes_hw, part.original_sizes_hw, strict=True
        ):
            boxes, scores = own
            found[row] = boxes * np.array([width / w, height / h] * 2, np.float32), scores
        progress(len(found), len(split))
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    said = {**(made or {}), "builder": model.builder, "resize": resize.to_dict(), "nms_threshold": threshold}
    ordered = [found.get(row, nothing) for row in range(len(split))]
    return split.proposed(ordered, number=number, made=said), loader.problems, loader.unread


def prepare_to_propose(model: Detector, number: int) -> float:
    """Set how many a detector proposes, of each level and of all; returns the overlap it suppresses from."""
    if model.needs_proposals:
        raise UsageError(f"{model.builder} proposes no regions itself; it needs proposals.")
    known = settings_of(model)
    if model.propose is not None:
        change_settings(model, {"proposer.test_proposals": (number, number)})
        return float(known["proposer.nms_threshold"])
    wanted = {"score_threshold": 0.0, "nms": "agnostic", "nms_threshold": PROPOSALS_NMS, "max_detections": number}
    for name in ("candidates_per_level", "candidates_per_image"):
        wanted[name] = max(number, known.get(name, 0))
    change_settings(model, {name: value for name, value in wanted.items() if name in known})
    return PROPOSALS_NMS


def proposals_of(model: Detector, raw: Any, sizes_hw: list[tuple[int, int]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each image its boxes `[P_i, 4]` and scores `[P_i]`, best first, in the pixels of the batch."""
    if model.propose is None:
        return [(found.boxes, found.scores) for found in model.decode(raw, sizes_hw)]
    sizes = torch.tensor(sizes_hw, device=raw.features[0].device)
    boxes, scores, count = (value.numpy(force=True) for value in model.propose(raw, sizes))
    return [(boxes[image, :n], scores[image, :n]) for image, n in enumerate(count)]
