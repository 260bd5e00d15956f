"""What the inputs and outputs of a graph are like, and whether what it gives are detections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from aweigh.errors import DataError, counted


class Port(NamedTuple):
    """An input or an output. kind: of its numbers, as NumPy calls it. rank: its dimensions, None where it says none."""

    kind: str
    rank: int | None

    def __str__(self) -> str:
        return self.kind if self.rank is None else f"{self.kind} of {counted(self.rank, 'dimension')}"


Ports = Mapping[str, Port]


def check_found(found: Mapping[str, np.ndarray], images: int, *, name: str, classes: int, keypoints: int) -> None:
    """`DataError` where the outputs of a graph are no detections of so many images. name: of the detector. keypoints:
    how many an object has."""

    def refuse(what: str) -> None:
        raise DataError(f"The graph of {name} gave {what}; it is not what its header says. Export it again.")

    rows = found["scores"].shape[1:2]
    shapes = {"boxes": (*rows, 4), "scores": rows, "labels": rows, "count": ()}
    shapes |= {"keypoints": (*rows, keypoints, 3), "cuboids": (*rows, 7)}
    for what, values in found.items():
        wanted = (images, *shapes.get(what, (*rows, *values.shape[2:])))
        if values.shape != wanted:
            refuse(f"{what} of shape {list(values.shape)}, expected {list(wanted)}")
    count, most = found["count"], found["scores"].shape[1]
    if not ((count >= 0) & (count <= most)).all():
        refuse(f"a count of {count.tolist()} in {counted(most, 'row')}")
    real = np.arange(most) < count[:, None]  # [images, rows]
    labels, scores = found["labels"][real], found["scores"][real]
    if not ((labels >= 0) & (labels < classes)).all():
        refuse(f"the label {labels[(labels < 0) | (labels >= classes)][0]}, of {counted(classes, 'class')} from 0")
    if not ((scores >= 0) & (scores <= 1)).all():  # nor NaN
        refuse(f"the score {scores[~((scores >= 0) & (scores <= 1))][0]}")
    for what, values in found.items():
        if what != "cuboids" and values.dtype.kind == "f" and not np.isfinite(values[real]).all():
            refuse(f"{what} that are not finite")
