"""One affine change of an image, and what it does to all that is known of the image.

Resizing, mirroring, cutting out, placing on a canvas, a view of test-time augmentation and the way back to the pixels
of the original are frames: `x' = scale_x * x + shift_x`, and y alike. `Targets.moved` and `Detections.moved` move
everything they hold by one. Coordinates are continuous: pixel i reaches from i to i + 1, so that a mirror takes x to
`width - x`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from aweigh.classes import Pairs
from aweigh.errors import UsageError
from aweigh.geometry.cuboids import wrapped


@dataclass(frozen=True)
class Frame:
    """From the pixels of one image to those of another. A `scale_x` below 0 mirrors left to right."""

    scale_x: float = 1.0
    scale_y: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (self.scale_x, self.scale_y, self.shift_x, self.shift_y)))
        if not finite or self.scale_x == 0 or self.scale_y <= 0:
            raise UsageError(f"A frame needs finite numbers, scale_x not 0 and scale_y above 0, got {self}.")

    @classmethod
    def resize(cls, before_hw: tuple[float, float], after_hw: tuple[float, float]) -> Frame:
        """From an image of one size (height, width) to the same image of another."""
        return cls(scale_x=after_hw[1] / before_hw[1], scale_y=after_hw[0] / before_hw[0])

    @classmethod
    def shift(cls, x: float, y: float) -> Frame:
        """From an image to a canvas on which its upper left corner lies at (x, y); below 0 for a window cut out."""
        return cls(shift_x=x, shift_y=y)

    @classmethod
    def mirror(cls, width: float) -> Frame:
        """From an image of this width to its mirror image."""
        return cls(scale_x=-1.0, shift_x=width)

    @property
    def mirrors(self) -> bool:
        """Whether left and right change places."""
        return self.scale_x < 0

    @property
    def inverse(self) -> Frame:
        """The way back."""
        scale_x, scale_y = 1 / self.scale_x, 1 / self.scale_y
        return Frame(scale_x, scale_y, -self.shift_x * scale_x, -self.shift_y * scale_y)

    def then(self, other: Frame) -> Frame:
        """This frame and after it another one, as one frame."""
        return Frame(
            self.scale_x * other.scale_x,
            self.scale_y * other.scale_y,
            self.shift_x * other.scale_x + other.shift_x,
            self.shift_y * other.scale_y + other.shift_y,
        )

    def points(self, points: np.ndarray) -> np.ndarray:
        """`[..., 2]` (x, y), pixels."""
        scale, shift = (self.scale_x, self.scale_y), (self.shift_x, self.shift_y)
        return points * np.array(scale, points.dtype) + np.array(shift, points.dtype)

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """`[..., 4]` xyxy; x0 stays the left side in a mirror."""
        corners = self.points(boxes.reshape(*boxes.shape[:-1], 2, 2))
        moved = corners.reshape(boxes.shape)
        return moved[..., [2, 1, 0, 3]] if self.mirrors else moved

    def areas(self, areas: np.ndarray) -> np.ndarray:
        """`[...]`, square pixels."""
        return areas * abs(self.scale_x * self.scale_y)

    def keypoints(self, keypoints: np.ndarray) -> np.ndarray:
        """`[..., 3]`: x, y, and a score or visibility that stays; the rows of left and right stay where they are."""
        return np.concatenate([self.points(keypoints[..., :2]), keypoints[..., 2:]], axis=-1)

    def cuboids(self, cuboids: np.ndarray) -> np.ndarray:
        """`[..., 7]`, objects as the camera sees them, see `aweigh.geometry.cuboids`; NaN stays.

        What is seen under alpha is seen in a mirror under pi - alpha. Depth and sides stay: they hold for a camera that
        was changed with the image, see `camera`.
        """
        alpha = cuboids[..., 6:]
        alpha = wrapped(math.pi - alpha) if self.mirrors else alpha
        return np.concatenate([self.points(cuboids[..., :2]), cuboids[..., 2:6], alpha], axis=-1)

    def camera(self, camera: np.ndarray) -> np.ndarray:
        """`[..., 3, 4]`, from points in space to pixels times depth: the camera that would take the changed image.

        In a mirror x is turned round in space as well, so that its focal lengths stay above 0: an object at x stands at
        -x, and is turned by pi - rotation.
        """
        pixels = np.array([[self.scale_x, 0, self.shift_x], [0, self.scale_y, self.shift_y], [0, 0, 1]], camera.dtype)
        moved: np.ndarray = pixels @ camera
        return moved * np.array([-1 if self.mirrors else 1, 1, 1, 1], camera.dtype)

    def objects(
        self, fields: Mapping[str, np.ndarray], *, class_pairs: Pairs, keypoint_pairs: Pairs
    ) -> dict[str, np.ndarray]:
        """What there is of `boxes`, `labels`, `keypoints` and `cuboids` among the fields of objects, as `Targets` and
        `Detections` have them, in this frame; in a mirror classes and keypoints of a pair change places."""
        changed = {"boxes": self.boxes(fields["boxes"])}
        if "keypoints" in fields:
            changed["keypoints"] = self.keypoints(fields["keypoints"])
        if "cuboids" in fields:
            changed["cuboids"] = self.cuboids(fields["cuboids"])
        if self.mirrors:
            changed["labels"] = exchanged(fields["labels"], class_pairs)
            if "keypoints" in fields:
                rows = np.arange(fields["keypoints"].shape[1])
                changed["keypoints"] = changed["keypoints"][:, exchanged(rows, keypoint_pairs)]
        return changed

    def masks(self, masks: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
        """`[N, H, W]` bool to `[N, h, w]`: each pixel is that of the source in which its centre lies, or False where
        that lies beyond the source."""
        back, (height, width) = self.inverse, masks.shape[1:]
        rows, shown_rows = _source(size_hw[0], back.scale_y, back.shift_y, height)
        columns, shown_columns = _source(size_hw[1], back.scale_x, back.shift_x, width)
        found: np.ndarray = masks.take(rows, axis=1).take(columns, axis=2)  # [N, h, w]
        if not (shown_rows.all() and shown_columns.all()):
            found &= shown_rows[:, None] & shown_columns
        return found


def _source(count: int, scale: float, shift: float, length: int) -> tuple[np.ndarray, np.ndarray]:
    """`[count]` each: which of `length` source pixels each pixel shows, and whether it shows one."""
    centres = np.arange(count, dtype=np.float32) + np.float32(0.5)
    places = np.floor(centres * np.float32(scale) + np.float32(shift)).astype(np.int64)
    return places.clip(0, length - 1), (places >= 0) & (places < length)


def exchanged(indices: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Labels or rows `[N]` int64, those of a pair exchanged, as left and right are in a mirror."""
    result = indices.copy()
    for first, second in pairs:
        result[indices == first], result[indices == second] = second, first
    return result
