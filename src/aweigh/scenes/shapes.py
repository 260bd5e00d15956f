"""Synthetic scenes: textured shapes on textured ground, with boxes, masks and keypoints that are right by construction.

Ours, for tries and tests with nothing downloaded. The class is the outline; each class also keeps to
a hue of its own, so that a small network tells the classes apart after minutes on a CPU. Texture, size, rotation, light
and order are random, shapes cover one another and reach over the edge, and some scenes are empty. A scene depends on
(seed, split, number) only; the same call writes the same bytes.

Legend: x to the right, y down, in pixels; a signed distance is negative inside a shape.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aweigh.errors import UsageError, check_reach
from aweigh.files import atomic_folder
from aweigh.scenes.textures import ground, texture, two_colors

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
KEYPOINTS = ("top", "right", "bottom", "left", "centre")  # of the whole shape, in the frame of the image
SKELETON = ((1, 5), (2, 5), (3, 5), (4, 5))  # 1-based, as COCO has it

LEAST_VISIBLE = 0.3  # of the whole shape; what would be covered further is not placed
LEAST_PIXELS = 24
JPEG_QUALITY = 92

Array = np.ndarray
Random = np.random.Generator


@dataclass(frozen=True, eq=False)
class Scene:
    """image: `(H, W, 3)` uint8. labels: `[N]` int64, rows of `SHAPES`. masks: `[N, H, W]` bool, the visible pixels.

    boxes: `[N, 4]` float32 xyxy, tight round the visible mask. keypoints: `[N, 5, 3]` float32 `(x, y, v)`, v is 2 when
    seen, 1 when covered by another shape, 0 (with x = y = 0) when outside the image. crowd: `[N]` bool.
    """

    image: Array
    labels: Array
    masks: Array
    boxes: Array
    keypoints: Array
    crowd: Array


def write_synthetic(
    out: str | Path,
    *,
    train: int = 300,
    val: int = 60,
    test: int = 60,
    size: int = 256,
    seed: int = 0,
    empty: float = 0.08,
    crowd: float = 0.05,
) -> Path:
    """Write a COCO data set: `annotations/instances_{split}.json` and `images/{split}/*.jpg`.

    size: the long side in pixels; the other is 0.7 to 1 of it, standing or lying. empty, crowd: the shares of scenes
    without objects and with a crowd region. Masks are compressed run lengths, `area` counts their pixels. The folder
    appears when it is complete; one that holds something already is a `UsageError`.
    """
    out = Path(out)
    check_reach("size", size)
    check_reach("seed", seed)
    if size < 64:
        raise UsageError(f"Synthetic images need a size of at least 64 pixels, got {size}.")
    if min(train, val, test) < 0 or train + val + test == 0:
        raise UsageError(f"The numbers of images must be 0 or more and not all 0, got {train}, {val}, {test}.")
    with atomic_folder(out) as folder:
        for number, (name, count) in enumerate((("train", train), ("val", val), ("test", test))):
            if count:
                _write_split(folder, name, [seed, number], count, size, empty, crowd)
    return out


def render(
    seed: int | list[int], *, size_hw: tuple[int, int] = (224, 256), empty: float = 0.0, crowd: float = 0.0
) -> Scene:
    """One scene; the same for the same arguments."""
    random = np.random.default_rng(seed)
    image = ground(random, size_hw)
    is_empty, has_crowd = random.random() < empty, random.random() < crowd
    stage = _Stage(image, random)
    if not is_empty:
        if has_crowd:
            stage.add_crowd()
        for _ in range(int(random.integers(1, 9))):
            stage.add_shape()
    return stage.finish()


# --- the stage: shapes in the order in which they are laid down ---------------------------------------------------


class _Stage:
    """The image so far, and who owns each pixel (-1: the ground)."""

    def __init__(self, image: Array, random: Random) -> None:
        self.image, self.random = image, random  # image: (H, W, 3) in [0, 1]
        self.owner = np.full(image.shape[:2], -1, dtype=np.int64)
        self.labels: list[int] = []
        self.crowd: list[bool] = []
        self.whole: list[int] = []  # pixels of each whole shape, also beyond the image
        self.points: list[Array] = []
        self.places: list[tuple[float, float, float]] = []
        angle = random.uniform(0, 2 * math.pi)
        self.light = np.array([math.cos(angle), math.sin(angle)])

    def add_shape(self) -> None:
        """Lay down one shape where it leaves enough of the others visible; give up after some tries."""
        height, width = self.image.shape[:2]
        for _ in range(12):
            radius = min(height, width) * math.exp(self.random.uniform(math.log(0.09), math.log(0.3)))
            x, y = self.random.uniform(0, width), self.random.uniform(0, height)
            if self.places and self.random.random() < 0.35:  # next to another, to cover a part of it
                near_x, near_y, near_radius = self.places[int(self.random.integers(len(self.places)))]
                turn = self.random.uniform(0, 2 * math.pi)
                away = self.random.uniform(0.7, 1.0) * (radius + near_radius)
                x, y = near_x + away * math.cos(turn), near_y + away * math.sin(turn)
            label = int(self.random.integers(len(SHAPES)))
            shape = Shape(SHAPES[label], x, y, max(radius, 6.0), self.random)
            if self._fits(shape):
                self._lay(shape, label, crowd=False)
                self.places.append((x, y, shape.radius))
                return

    def add_crowd(self) -> None:
        """A cluster of small shapes of one class, annotated as one region."""
        height, width = self.image.shape[:2]
        label = int(self.random.integers(len(SHAPES)))
        x, y = self.random.uniform(0.25, 0.75) * width, self.random.uniform(0.25, 0.75) * height
        reach = 0.16 * min(height, width)
        shapes = [
            Shape(SHAPES[label], x + dx, y + dy, float(self.random.uniform(4, 7)), self.random)
            for dx, dy in self.random.normal(0, reach / 2, (24, 2))
        ]
        for number, shape in enumerate(shapes):
            self._lay(shape, label, crowd=True, same=number > 0)
        self.places.append((x, y, reach))

    def _fits(self, shape: Shape) -> bool:
        rows, columns, window = shape.in_picture(self.owner.shape)
        inside = shape.inside[window]
        if inside.sum() < max(LEAST_PIXELS, 0.6 * shape.inside.sum()):
            return False
        owners = self.owner[rows, columns]
        for other in np.unique(owners[inside]):
            if other < 0:
                continue
            left = (self.owner == other).sum() - (inside & (owners == other)).sum()
            if left < max(LEAST_PIXELS, LEAST_VISIBLE * self.whole[other]):
                return False
        return True

    def _lay(self, shape: Shape, label: int, *, crowd: bool, same: bool = False) -> None:
        rows, columns, window = shape.in_picture(self.owner.shape)
        inside = shape.inside[window]
        if same:
            self.whole[-1] += int(inside.sum())
        else:
            self.labels.append(label)
            self.crowd.append(crowd)
            self.whole.append(int(shape.inside.sum()))
            self.points.append(np.zeros((len(KEYPOINTS), 2)) if crowd else shape.extremes())
        shape.paint(self.image, self.light)
        self.owner[rows, columns][inside] = len(self.labels) - 1

    def finish(self) -> Scene:
        height, width = self.image.shape[:2]
        count = len(self.labels)
        masks = self.owner[None] == np.arange(count)[:, None, None]  # [N, H, W]
        boxes = np.zeros((count, 4), dtype=np.float32)
        keypoints = np.zeros((count, len(KEYPOINTS), 3), dtype=np.float32)
        for index in range(count):
            ys, xs = np.nonzero(masks[index])
            boxes[index] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
            for number, (x, y) in enumerate([] if self.crowd[index] else self.points[index]):
                if 0 <= x < width and 0 <= y < height:
                    covered = self.owner[int(y), int(x)] > index
                    keypoints[index, number] = x, y, 1 if covered else 2
        grain = self.random.normal(0, self.random.uniform(1.0, 4.0), (height, width, 1))
        exposure = self.random.uniform(0.9, 1.12) * self.random.uniform(0.96, 1.04, 3)  # brightness, tint
        image = np.clip(self.image * 255 * exposure + grain, 0, 255).round().astype(np.uint8)
        return Scene(image, np.array(self.labels, dtype=np.int64), masks, boxes, keypoints, np.array(self.crowd, bool))


# --- one shape ----------------------------------------------------------------------------------------------------


class Shape:
    """A shape at (x, y), turned at random, with its signed distance on a window that holds it and its shadow."""

    def __init__(self, name: str, x: float, y: float, radius: float, random: Random) -> None:
        self.x, self.y, self.radius, self.random = x, y, radius, random
        self.hue = SHAPES.index(name) / len(SHAPES) + random.normal(0, 0.03)
        self.reach = math.ceil(radius * 1.5) + 4
        self.left, self.top = math.floor(x) - self.reach, math.floor(y) - self.reach
        side = np.arange(2 * self.reach + 1) + 0.5
        dx, dy = np.meshgrid(self.left + side - x, self.top + side - y)
        angle = random.uniform(0, 2 * math.pi)
        self.u = (math.cos(angle) * dx + math.sin(angle) * dy) / radius  # own frame, 1 is the radius
        self.v = (math.cos(angle) * dy - math.sin(angle) * dx) / radius
        self.dx, self.dy = dx / radius, dy / radius
        self.distance = _DISTANCES[name](self.u, self.v) * radius  # pixels
        self.inside: Array = self.distance <= 0

    def in_picture(self, shape_hw: tuple[int, ...]) -> tuple[slice, slice, tuple[slice, slice]]:
        """The rows and columns of the image under the window, and the part of the window that they are."""
        height, width = shape_hw[:2]
        side = self.inside.shape[0]
        y0, y1 = sorted((np.clip(self.top, 0, height), np.clip(self.top + side, 0, height)))
        x0, x1 = sorted((np.clip(self.left, 0, width), np.clip(self.left + side, 0, width)))
        window = slice(y0 - self.top, y1 - self.top), slice(x0 - self.left, x1 - self.left)
        return slice(y0, y1), slice(x0, x1), window

    def extremes(self) -> Array:
        """`[5, 2]`: the middle of the topmost, rightmost, lowest and leftmost pixels, and the centre."""
        ys, xs = np.nonzero(self.inside)
        ends = (ys == ys.min(), xs == xs.max(), ys == ys.max(), xs == xs.min())
        points = [(xs[end].mean() + 0.5 + self.left, ys[end].mean() + 0.5 + self.top) for end in ends]
        return np.array([*points, (self.x, self.y)])

    def paint(self, image: Array, light: Array) -> None:
        """Draw it on an image `(H, W, 3)` in `[0, 1]`."""
        rows, columns, window = self.in_picture(image.shape)
        image[rows, columns] = self.over(image[rows, columns], window, light)

    def over(self, ground: Array, window: tuple[slice, slice], light: Array) -> Array:
        """The ground `(h, w, 3)` in `[0, 1]` under a part of the window, with shadow, texture, shading and outline,
        anti-aliased."""
        drop = 0.10 * self.radius
        shifted = _shift(self.distance, -light * drop)
        shadow = 0.45 * np.clip(0.5 - shifted / (0.18 * self.radius + 2), 0, 1)[window]
        ground = ground * (1 - shadow[:, :, None])
        first, second = two_colors(self.random, self.hue)
        blend = np.clip(texture(self.random, self.u, self.v, self.radius), 0, 1)[:, :, None]
        surface = first * (1 - blend) + second * blend
        lit = 1.0 + 0.22 * (self.dx * light[0] + self.dy * light[1])
        edge = np.clip(1 + self.distance / max(1.5, 0.06 * self.radius), 0, 1)  # 1 at the outline, 0 inside
        surface = surface * (lit * (1 - 0.45 * edge))[:, :, None]
        cover = np.clip(0.5 - self.distance, 0, 1)[window][:, :, None]
        painted: Array = np.clip(ground * (1 - cover) + surface[window] * cover, 0, 1)
        return painted


def _polygon(corners: Array) -> Callable[[Array, Array], Array]:
    """Signed distance to a polygon `[K, 2]`, any order of corners, convex or not."""

    def distance(u: Array, v: Array) -> Array:
        squared = np.full(u.shape, np.inf)
        inside = np.zeros(u.shape, dtype=bool)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            ex, ey = x1 - x0, y1 - y0
            along = np.clip(((u - x0) * ex + (v - y0) * ey) / (ex * ex + ey * ey), 0, 1)
            squared = np.minimum(squared, (u - x0 - along * ex) ** 2 + (v - y0 - along * ey) ** 2)
            if ey != 0:
                inside ^= ((y0 > v) != (y1 > v)) & (u < ex * (v - y0) / ey + x0)
        return np.where(inside, -1.0, 1.0) * np.sqrt(squared)

    return distance


def _around(count: int, *radii: float) -> Array:
    """Corners on circles of these radii in turn."""
    angles = 2 * math.pi * np.arange(count) / count
    return np.column_stack([np.cos(angles), np.sin(angles)]) * np.resize(radii, count)[:, None]


_ARM = 0.3
_CROSS = np.array(
    [(_ARM, _ARM), (1, _ARM), (1, -_ARM), (_ARM, -_ARM), (_ARM, -1), (-_ARM, -1), (-_ARM, -_ARM), (-1, -_ARM),
     (-1, _ARM), (-_ARM, _ARM), (-_ARM, 1), (_ARM, 1)]
)  # fmt: skip
_DISTANCES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": lambda u, v: np.hypot(u, v) - 0.95,
    "square": _polygon(_around(4, 1.15)),
    "triangle": _polygon(_around(3, 1.2)),
    "star": _polygon(_around(10, 1.2, 0.5)),
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.75) - 0.24,
    "cross": _polygon(_CROSS * 1.05),
}


def _shift(array: Array, by_xy: Array) -> Array:
    """The array moved by whole pixels, its border repeated."""
    dx, dy = (round(float(value)) for value in by_xy)
    rows = np.clip(np.arange(array.shape[0]) - dy, 0, array.shape[0] - 1)
    columns = np.clip(np.arange(array.shape[1]) - dx, 0, array.shape[1] - 1)
    return array[np.ix_(rows, columns)]


# --- writing ------------------------------------------------------------------------------------------------------


def _write_split(root: Path, name: str, seed: list[int], count: int, size: int, empty: float, crowd: float) -> None:
    pictures = root / "images" / name
    pictures.mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        random = np.random.default_rng([*seed, number])
        sides = [size, round(size * random.uniform(0.7, 1.0))]
        height, width = sides if random.random() < 0.4 else reversed(sides)
        scene = render([*seed, number, 1], size_hw=(height, width), empty=empty, crowd=crowd)
        file_name = f"{name}_{number:05d}.jpg"
        Image.fromarray(scene.image).save(pictures / file_name, quality=JPEG_QUALITY)
        images.append({"id": number + 1, "file_name": file_name, "width": width, "height": height})
        annotations += _coco_annotations(scene, number + 1, len(annotations) + 1)
    categories = [
        {"id": label + 1, "name": shape, "keypoints": list(KEYPOINTS), "skeleton": [list(bone) for bone in SKELETON]}
        for label, shape in enumerate(SHAPES)
    ]
    info = {"description": "Synthetic shapes", "version": "1", "seed": seed[0], "split": name}
    data = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(data), encoding="utf-8")


def _coco_annotations(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    from hotcoco import mask as run_lengths

    entries = []
    for index, (x0, y0, x1, y1) in enumerate(scene.boxes.tolist()):
        encoded = run_lengths.encode(np.asfortranarray(scene.masks[index].astype(np.uint8)))
        counts = encoded["counts"]
        points = scene.keypoints[index]
        entries.append(
            {
                "id": first_id + index,
                "image_id": image_id,
                "category_id": int(scene.labels[index]) + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": int(scene.masks[index].sum()),
                "iscrowd": int(scene.crowd[index]),
                "segmentation": {
                    "size": list(scene.masks[index].shape),
                    "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
                },
                "keypoints": [round(float(value), 2) for value in points.reshape(-1)],
                "num_keypoints": int((points[:, 2] > 0).sum()),
            }
        )
    return entries
