"""Drawn mosaics: large images of fields on which small shapes lie, as a drone or a satellite sees the ground.

Ours, to try tiles on. The shapes and their colours are those of `aweigh.scenes.shapes`; none covers another, so that
each is seen whole, but for those that reach over the edge. A mosaic is drawn field by field and shape by shape on one
canvas of 8 bits, so that one of 12,000 x 12,000 pixels takes little more memory than its pixels. It depends on (seed,
split, number) only.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aweigh.errors import UsageError, check_reach
from aweigh.files import atomic_folder
from aweigh.scenes.shapes import SHAPES, Shape
from aweigh.scenes.textures import ground

SIDES = (10.0, 60.0)  # pixels: of the boxes round the shapes, from the smallest to the largest
DENSITY = 1 / 8000  # shapes per pixel where no number is asked for: some eight in a tile of 256
FIELD = 400  # pixels: the side of a field
APART = 3.0  # pixels, at least, from one shape to the next
TRIES = 40  # to find a free place for a shape

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Mosaic:
    """image: `(S, S, 3)` uint8. labels: `[N]` int64, rows of `SHAPES`. boxes: `[N, 4]` float32 xyxy, tight."""

    image: Array
    labels: Array
    boxes: Array


def render_mosaic(seed: int | list[int], *, side: int, objects: int) -> Mosaic:
    """A square mosaic with so many shapes, or as many as find a place; the same for the same arguments."""
    random = np.random.default_rng(seed)
    image = np.empty((side, side, 3), dtype=np.uint8)
    for y in range(0, side, FIELD):
        for x in range(0, side, FIELD):
            size_hw = min(FIELD, side - y), min(FIELD, side - x)
            image[y : y + FIELD, x : x + FIELD] = _in_bytes(ground(random, size_hw))
    angle = random.uniform(0, 2 * math.pi)
    light = np.array([math.cos(angle), math.sin(angle)])
    places = _Places(side)
    labels: list[int] = []
    boxes: list[tuple[float, float, float, float]] = []
    for _ in range(objects):
        radius = 0.5 * math.exp(random.uniform(math.log(SIDES[0]), math.log(SIDES[1] / 1.1)))
        place = places.find(radius, random)
        if place is None:
            continue
        label = int(random.integers(len(SHAPES)))
        shape = Shape(SHAPES[label], *place, radius, random)
        rows, columns, window = shape.in_picture(image.shape)
        inside = shape.inside[window]
        if inside.sum() < 0.5 * shape.inside.sum():  # reaches too far over the edge
            continue
        image[rows, columns] = _in_bytes(shape.over(image[rows, columns] / 255, window, light))
        ys, xs = np.nonzero(inside)
        labels.append(label)
        boxes.append(
            (columns.start + xs.min(), rows.start + ys.min(), columns.start + xs.max() + 1, rows.start + ys.max() + 1)
        )
    return Mosaic(image, np.array(labels, dtype=np.int64), np.array(boxes, dtype=np.float32).reshape(-1, 4))


def write_mosaics(
    out: str | Path,
    *,
    train: int = 6,
    val: int = 2,
    test: int = 0,
    side: int = 1536,
    objects: int = 0,
    seed: int = 0,
) -> Path:
    """Write a COCO data set of mosaics: `annotations/instances_{split}.json` and `images/{split}/*.png`.

    side: of the square images, pixels. objects: in each, at most; 0 for one on 8,000 pixels. The folder appears when it
    is complete; one that holds something already is a `UsageError`.
    """
    check_reach("size", side)
    check_reach("seed", seed)
    if side < 64:
        raise UsageError(f"Mosaics need a side of at least 64 pixels, got {side}.")
    if min(train, val, test) < 0 or train + val + test == 0:
        raise UsageError(f"The numbers of images must be 0 or more and not all 0, got {train}, {val}, {test}.")
    most = objects or round(DENSITY * side * side)
    with atomic_folder(out) as folder:
        (folder / "annotations").mkdir()
        for number, (name, count) in enumerate((("train", train), ("val", val), ("test", test))):
            if count:
                _write_split(folder, name, [seed, number], count, side, most)
    return Path(out)


class _Places:
    """Which places of the canvas are taken, by cells that are as wide as the largest shape."""

    def __init__(self, side: int) -> None:
        self._side, self._cell = side, SIDES[1] + APART
        self._taken: dict[tuple[int, int], list[tuple[float, float, float]]] = {}

    def find(self, radius: float, random: np.random.Generator) -> tuple[float, float] | None:
        """The middle of a free place for a shape of this radius; None where none was found."""
        for _ in range(TRIES):
            x, y = random.uniform(0, self._side, 2).tolist()
            column, row = int(x // self._cell), int(y // self._cell)
            near = [
                other
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
                for other in self._taken.get((column + dx, row + dy), ())
            ]
            reach = 1.2 * radius  # of the corners of a shape
            if all(math.hypot(x - left, y - top) > reach + 1.2 * own + APART for left, top, own in near):
                self._taken.setdefault((column, row), []).append((x, y, radius))
                return x, y
        return None


def _write_split(root: Path, name: str, seed: list[int], count: int, side: int, objects: int) -> None:
    (root / "images" / name).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        mosaic = render_mosaic([*seed, number], side=side, objects=objects)
        file_name = f"{name}_{number:05d}.png"
        Image.fromarray(mosaic.image).save(root / "images" / name / file_name, compress_level=1)
        images.append({"id": number + 1, "file_name": file_name, "width": side, "height": side})
        for label, (x0, y0, x1, y1) in zip(mosaic.labels.tolist(), mosaic.boxes.tolist(), strict=True):
            entry = {"id": len(annotations) + 1, "image_id": number + 1, "category_id": label + 1, "iscrowd": 0}
            annotations.append({**entry, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)})
    categories = [{"id": label + 1, "name": shape} for label, shape in enumerate(SHAPES)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(data), encoding="utf-8")


def _in_bytes(image: Array) -> Array:
    """`[0, 1]` to uint8."""
    pixels: Array = (image * 255).round().astype(np.uint8)
    return pixels
