"""A stand-in for an engine: it finds the bright rectangle of an image, in a blink."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.images.resize import Resize
from aweigh.predictor import Predictor
from aweigh.runtime.engine import Batch

CLASSES = Classes(("dark", "light"), (3, 7))


class Bright:
    """Finds what is brighter than the middle, with a mask and keypoints, and nothing where nothing is. failing: is
    called with the number of images before this one."""

    name, classes, extras = "bright", CLASSES, ("masks", "keypoints")
    keypoint_set = KeypointSet(("upper", "lower"))
    needs_proposals = averages_flips = False
    stride_divisor, pixel_mean, usual_batch = 8, (0.5, 0.5, 0.5), 2
    selection = SimpleNamespace(score_threshold=0.1, nms="class", nms_threshold=0.6, max_detections=100)
    settings, computed_by = vars(selection), "NumPy"

    def __init__(self, failing: Any = lambda number: None) -> None:
        self.failing, self.looked = failing, 0

    def run(self, batch: Batch, *, flipped_classes: Any = None) -> list[Detections]:
        return [self.found(image[:, :h, :w]) for image, (h, w) in zip(batch.pixels, batch.sizes_hw, strict=True)]

    def found(self, image: np.ndarray) -> Detections:
        self.failing(self.looked)
        self.looked += 1
        rows, columns = np.nonzero(image.mean(axis=0) > 0.5)
        some = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]] if len(rows) else []
        points = np.array([[[x0, y0, 0.7], [x1, y1, 1 / 3]] for x0, y0, x1, y1 in some], np.float32)
        return Detections.of(
            *(some, [0.1 + 2 / 3] * len(some), [1] * len(some)),
            masks=np.full((len(some), 4, 4), 0.9, np.float32),
            keypoints=points.reshape(len(some), 2, 3),
            keypoint_set=self.keypoint_set,
            classes=self.classes,
            size_hw=(image.shape[1], image.shape[2]),
        )

    def with_nms(self, nms: Any) -> "Bright":
        return self

    def side_by_side(self) -> "tuple[Bright, int]":
        return self, 1


def bright(failing: Any = lambda number: None) -> Predictor:
    return Predictor(Bright(failing), Resize(short=None, long=64))
