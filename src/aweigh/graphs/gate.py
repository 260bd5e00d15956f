"""Whether an exported detector finds what the detector finds: the same images through both, and their differences."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.detections import Detections
from aweigh.errors import counted
from aweigh.geometry.boxes import pairwise_iou
from aweigh.images.reader import read_image
from aweigh.images.resize import Resize
from aweigh.images.sources import images_of_several
from aweigh.runtime.engine import Batch, Engine
from aweigh.runtime.graph import Precision
from aweigh.scenes.shapes import render

SAME = 0.5  # IoU from which on boxes of one class may be the same detection; closer ones are joined first
DRAWN_HW = ((384, 512), (512, 384), (320, 320), (180, 640))  # ours: both directions, a square, and a panorama
PROPOSED = 50  # boxes of each image, for a detector that needs proposals


@dataclass(frozen=True)
class Tolerance:
    """How far a file may be from its detector. boxes_px: of a side, also of keypoints, and of the numbers of a 3D box
    that are no pixels; in pixels of what the network sees. scores: also of places of masks. share: of the pairs, which
    has to be as near as that. unmatched: the share of detections without a partner, those at the limit left aside."""

    boxes_px: float
    scores: float
    share: float = 1.0
    unmatched: float = 0.0


# Of float32 what rounding in another order makes; of a thousand detections one is left aside, since two candidates may
# score the same to the last bits, and rounding decides which suppresses the other. Of the others ours, above what the
# box's detector shows: in bf16 10.5 px, 0.034 and 1.5 % over 34 photographs, 21 px on the drawn scenes, detections of
# the lowest scores among them, for 0.1 AP of coco_tiny val.
TOLERANCES: dict[Precision, Tolerance] = {
    "float32": Tolerance(0.05, 1e-3, share=0.999),
    "float16": Tolerance(2.0, 0.02, unmatched=0.02),
    "bf16": Tolerance(32.0, 0.05, share=0.95, unmatched=0.05),
    "int8": Tolerance(64.0, 0.2, share=0.95, unmatched=0.25),
}
# Of float32 that resizes itself: one pixel in 600 is a grey level beside ours, which moved
# 99 of 100 boxes of the package's detector by less than 0.4 px of photographs of 640, and one by 23.
WHOLE_IMAGES = Tolerance(2.0, 0.02, share=0.99, unmatched=0.02)


@dataclass(frozen=True, eq=False)
class Image:
    """name: of the file, or how it was drawn. sha256: of its pixels before it was resized, uint8 `(H, W, 3)` RGB.
    pixels: these. resized: `[3, h, w]` float32, what the network sees."""

    name: str
    sha256: str
    pixels: np.ndarray
    resized: np.ndarray

    @classmethod
    def of(cls, name: str, pixels: np.ndarray, resize: Resize) -> Image:
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        return cls(name, digest, pixels, resize(pixels))

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "size_hw": list(self.pixels.shape[:2]), "sha256": self.sha256}


def images_to_compare(named: Sequence[str | Path], resize: Resize) -> list[Image]:
    """The images of sources; when none is named, four drawn scenes and one with nothing on it."""
    if named:
        return [Image.of(str(image), read_image(image), resize) for image in images_of_several(named)]
    drawn = [render(number, size_hw=size_hw).image for number, size_hw in enumerate(DRAWN_HW)]
    scenes = {f"drawn scene {number}": pixels for number, pixels in enumerate(drawn)}
    scenes["grey, nothing on it"] = np.full((240, 320, 3), 114, np.uint8)
    return [Image.of(name, pixels, resize) for name, pixels in scenes.items()]


def batches(images: Sequence[Image], engine: Engine, size_hw: tuple[int, int] | None) -> Iterator[Batch]:
    """Each image alone, and each with the next, padded as the predictor does it, or to the one size of a graph."""
    for group in (*((image,) for image in images), *pairwise(images)):
        batch = Batch.stack([image.resized for image in group], divisor=engine.stride_divisor, fill=engine.pixel_mean)
        if size_hw is not None:  # the network sees the margin: it has to be the same
            batch = replace(batch, pixels=_padded(batch.pixels, size_hw, engine.pixel_mean))
        if engine.needs_proposals:
            batch = batch.with_proposals([_anywhere(size_hw) for size_hw in batch.sizes_hw])
        yield batch


def found_by(engine: Engine, images: Sequence[Image], size_hw: tuple[int, int] | None = None) -> list[Detections]:
    """The detections of every image of every batch, in the pixels that the network sees. size_hw: of its input, where
    it has one."""
    return [found for batch in batches(images, engine, size_hw) for found in engine.run(batch)]


@dataclass(frozen=True)
class Differences:
    """Of all pairs of a detection of the model and the same one of the file: the largest, or the largest of the share
    that a tolerance counts; extras: by name, and largest: of all, by name.

    detections: of the model. matched: pairs. unmatched: of either, without a partner. at_limit: of those without a
    partner the ones whose score lies at the threshold, or at the last of as many as are kept: rounding decides there.
    """

    detections: int
    matched: int
    unmatched: int
    at_limit: int
    boxes_px: float
    scores: float
    extras: dict[str, float]
    largest: dict[str, float]

    def beyond(self, tolerance: Tolerance) -> list[str]:
        """What is not within the tolerance, in words."""
        within = {"boxes": (self.boxes_px, tolerance.boxes_px, " px"), "scores": (self.scores, tolerance.scores, "")}
        for name, value in self.extras.items():
            within[name] = (value, tolerance.scores if name == "masks" else tolerance.boxes_px, "")
        wrong = [
            f"{name} differ by {value:.3g}{unit} (at most {most:g}{unit})"
            for name, (value, most, unit) in within.items()
            if not value <= most  # nor NaN
        ]
        if self.unmatched > tolerance.unmatched * max(self.detections, 1):
            wrong.append(f"{self.unmatched} of {counted(self.detections, 'detection')} found by one of the two alone")
        if 2 * self.matched < self.detections:
            wrong.append(f"only {self.matched} of {counted(self.detections, 'detection')} to be compared")
        return wrong

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def differences(
    ours: Sequence[Detections], theirs: Sequence[Detections], *, most: int, tolerance: Tolerance
) -> Differences:
    """Of the detections of the same images. most: how many are kept of each. tolerance: of scores, at the limit."""
    lowest = min((float(found.scores.min()) for found in (*ours, *theirs) if len(found)), default=0.0)
    pairs, unmatched, at_limit = [], 0, 0
    for one, other in zip(ours, theirs, strict=True):
        rows, columns = matched(one, other)
        pairs.append((one[rows], other[columns]))
        for found, taken in ((one, rows), (other, columns)):
            left = np.delete(found.scores, taken)
            limit = float(found.scores.min()) if len(found) >= most else lowest
            near = int((left <= limit + tolerance.scores).sum())
            unmatched, at_limit = unmatched + len(left) - near, at_limit + near
    extras = [name for name in ("masks", "keypoints", "cuboids") if any(getattr(one, name) is not None for one in ours)]
    apart = {name: _apart(pairs, name) for name in ("boxes", "scores", *extras)}
    counting = {name: float(np.quantile(each, tolerance.share, method="higher")) for name, each in apart.items()}
    return Differences(
        detections=sum(map(len, ours)),
        matched=sum(len(one) for one, _ in pairs),
        unmatched=unmatched,
        at_limit=at_limit,
        boxes_px=counting["boxes"],
        scores=counting["scores"],
        extras={name: counting[name] for name in extras},
        largest={name: float(each.max()) for name, each in apart.items()},
    )


def matched(ours: Detections, theirs: Detections) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the one and of the other that are the same detection: of one class, the largest IoU first."""
    larger = np.array([-0.5, -0.5, 0.5, 0.5], np.float32)  # so that a box without area, at an edge, has a partner
    overlaps = pairwise_iou(ours.boxes + larger, theirs.boxes + larger)
    overlaps[ours.labels[:, None] != theirs.labels[None]] = 0
    apart = np.abs(ours.scores[:, None] - theirs.scores[None])
    rows, columns = np.nonzero(overlaps >= SAME)
    order = np.lexsort((apart[rows, columns], -overlaps[rows, columns].round(3)))  # of equal boxes those of equal score
    taken: dict[int, int] = {}
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in taken and column not in taken.values():
            taken[row] = column
    return np.array([*taken], np.int64), np.array([*taken.values()], np.int64)


def _apart(pairs: Sequence[tuple[Detections, Detections]], name: str) -> np.ndarray:
    """How far each pair is apart, `[P]`: the largest of its numbers; of no pair one 0."""
    found = [np.abs(getattr(one, name) - getattr(other, name)) for one, other in pairs if len(one)]
    return np.concatenate([values.reshape(len(values), -1).max(axis=1) for values in found] or [np.zeros(1)])


def _padded(pixels: np.ndarray, size_hw: tuple[int, int], colour: Sequence[float]) -> np.ndarray:
    height, width = pixels.shape[2:]
    room = np.empty((*pixels.shape[:2], *size_hw), np.float32)
    room[:] = np.array(colour, np.float32)[:, None, None]
    room[:, :, :height, :width] = pixels
    return room


def _anywhere(size_hw: tuple[int, int]) -> np.ndarray:
    """Boxes `[PROPOSED, 4]` all over an image, the same for each of that size."""
    height, width = size_hw
    corners = np.sort(np.random.default_rng(0).random((2, PROPOSED, 2)), axis=0) * (width, height)
    return np.concatenate([corners[0], corners[1] + 1], axis=1).astype(np.float32)
