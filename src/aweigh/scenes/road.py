"""Synthetic road scenes: cars, pedestrians and cyclists on a flat road before one camera, written as KITTI's files.

Ours, for tries and tests of 3D detection with nothing downloaded. What stands on the road is made of shaded cuboids, so
that where it is, how large it is and where it looks are exact and can be seen: lamps in front and behind, windows,
wheels, a rider who leans forward. Which pixel belongs to whom is decided by a depth buffer, and truncation and
occlusion are counted in pixels. A scene depends on (seed, split, number) only; the same call writes the same bytes.

Legend: x to the right, y down, z ahead, metres, the camera at 0; a solid as in `aweigh.geometry.cuboids`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from aweigh.errors import UsageError, check_reach
from aweigh.files import atomic_folder
from aweigh.geometry.cuboids import CORNERS, corners, cuboids_from_solids, shared_ground
from aweigh.layouts.kitti import NOT_KNOWN, Label, calibration_text, label_text
from aweigh.scenes.shapes import Array, Random

CAMERA_HEIGHT = 1.65  # metres, KITTI's
NEAREST, FARTHEST = 6.0, 55.0  # metres
ASPECT = 0.3  # height of an image by its width, 384 x 1280
LEAST_PIXELS = 30  # of an object; what shows less is not placed
# Of the pixels an object has in the image, those that others leave in sight: KITTI's levels 0, 1 and 2 begin here.
IN_SIGHT = (0.95, 0.5, 0.15)

# Names, how often they come, and smallest and largest height, width and length in metres (ours, near KITTI's).
KINDS: dict[str, tuple[float, tuple[float, float, float], tuple[float, float, float]]] = {
    "Car": (0.52, (1.4, 1.55, 3.5), (1.65, 1.85, 4.7)),
    "Pedestrian": (0.22, (1.5, 0.5, 0.5), (1.9, 0.8, 1.0)),
    "Cyclist": (0.2, (1.6, 0.5, 1.6), (1.85, 0.7, 1.9)),
    "Van": (0.06, (2.0, 1.8, 4.6), (2.4, 2.0, 5.6)),
}
DARK, GLASS, WHITE, RED = (0.08, 0.08, 0.09), (0.2, 0.26, 0.33), (1.0, 0.97, 0.85), (0.85, 0.05, 0.05)

Colour = tuple[float, float, float]
# A part of an object: from and to along its length, its height and its width, as shares, and the colour, None its own.
Part = tuple[tuple[float, float], tuple[float, float], tuple[float, float], Colour | None]


def _both(along: tuple[float, float], up: tuple[float, float], out: tuple[float, float], colour: Colour) -> list[Part]:
    """A part at either side."""
    return [(along, up, out, colour), (along, up, (-out[1], -out[0]), colour)]


_LAMPS = [
    *_both((0.48, 0.5), (0.36, 0.5), (0.22, 0.46), WHITE),
    *_both((-0.5, -0.48), (0.36, 0.5), (0.22, 0.46), RED),
]
_WHEELS = [part for at in (-0.3, 0.3) for part in _both((at - 0.08, at + 0.08), (0, 0.4), (0.36, 0.5), DARK)]
PARTS: dict[str, list[Part]] = {
    "Car": [
        ((-0.49, 0.49), (0.14, 0.6), (-0.49, 0.49), None),
        ((-0.4, 0.18), (0.6, 0.96), (-0.43, 0.43), GLASS),
        ((-0.36, 0.14), (0.96, 1.0), (-0.4, 0.4), None),
        *_LAMPS,
        *_WHEELS,
    ],
    "Van": [
        ((-0.49, 0.49), (0.12, 0.6), (-0.49, 0.49), None),
        ((-0.49, 0.26), (0.6, 1.0), (-0.49, 0.49), None),
        ((0.26, 0.36), (0.6, 0.95), (-0.46, 0.46), GLASS),
        *_LAMPS,
        *_WHEELS,
    ],
    "Pedestrian": [
        *_both((-0.25, 0.25), (0, 0.48), (0.1, 0.4), (0.18, 0.2, 0.3)),
        ((-0.3, 0.3), (0.46, 0.84), (-0.5, 0.5), None),
        ((0.28, 0.5), (0.62, 0.72), (-0.4, 0.4), (0.9, 0.72, 0.6)),
        ((-0.5, -0.28), (0.5, 0.8), (-0.35, 0.35), DARK),
        ((-0.2, 0.3), (0.86, 1.0), (-0.25, 0.25), (0.9, 0.72, 0.6)),
    ],
    "Cyclist": [
        ((-0.5, -0.15), (0, 0.36), (-0.08, 0.08), DARK),
        ((0.15, 0.5), (0, 0.36), (-0.08, 0.08), DARK),
        ((-0.3, 0.34), (0.28, 0.4), (-0.06, 0.06), (0.7, 0.7, 0.72)),
        ((0.28, 0.36), (0.36, 0.6), (-0.5, 0.5), (0.7, 0.7, 0.72)),
        *_both((-0.2, 0.02), (0.12, 0.52), (0.1, 0.35), (0.18, 0.2, 0.3)),
        ((-0.2, 0.08), (0.48, 0.84), (-0.45, 0.45), None),
        ((0.06, 0.3), (0.62, 0.72), (-0.4, 0.4), (0.9, 0.72, 0.6)),
        ((-0.05, 0.16), (0.86, 1.0), (-0.3, 0.3), (0.9, 0.72, 0.6)),
    ],
}


@dataclass(frozen=True, eq=False)
class RoadScene:
    """image: `(H, W, 3)` uint8. camera: `[3, 4]` float64. labels: as KITTI has them, the nearest object first."""

    image: Array
    camera: Array
    labels: list[Label]


def write_road(
    out: str | Path, *, train: int = 50, val: int = 50, test: int = 0, width: int = 1280, seed: int = 0
) -> Path:
    """Write a KITTI data set: `training/image_2`, `label_2`, `calib`, and the lists `ImageSets/{split}.txt`.

    width: of the images, pixels; the height is 0.3 of it, to the next 32. The folder appears when it is complete; one
    that holds something already is a `UsageError`.
    """
    check_reach("size", width)
    check_reach("seed", seed)
    size_hw = picture_size(width)
    if min(train, val, test) < 0 or train + val + test == 0:
        raise UsageError(f"The numbers of images must be 0 or more and not all 0, got {train}, {val}, {test}.")
    with atomic_folder(out) as folder:
        for name in ("training/image_2", "training/label_2", "training/calib", "ImageSets"):
            (folder / name).mkdir(parents=True)
        first = 0
        for number, (split, count) in enumerate((("train", train), ("val", val), ("test", test))):
            stems = [f"{first + index:06d}" for index in range(count)]
            for index, stem in enumerate(stems):
                scene = render_road([seed, number, index], size_hw=size_hw)
                Image.fromarray(scene.image).save(folder / "training/image_2" / f"{stem}.png")
                texts = {"label_2": "".join(map(label_text, scene.labels)), "calib": calibration_text(scene.camera)}
                for place, text in texts.items():
                    (folder / "training" / place / f"{stem}.txt").write_text(text, encoding="utf-8")
            if count:
                (folder / "ImageSets" / f"{split}.txt").write_text("\n".join(stems) + "\n", encoding="utf-8")
            first += count
    return Path(out)


def picture_size(width: int) -> tuple[int, int]:
    """Height and width of an image: 384 x 1280, 128 x 416."""
    if width < 160:
        raise UsageError(f"Images of a road need a width of at least 160 pixels, got {width}.")
    return 32 * max(1, round(ASPECT * width / 32)), width


def render_road(seed: int | list[int], *, size_hw: tuple[int, int] = (384, 1280)) -> RoadScene:
    """One scene; the same for the same arguments."""
    random = np.random.default_rng(seed)
    height, width = size_hw
    focal = 0.56 * width
    # The camera stands 6 cm beside the origin, as KITTI's second does: what learns by heart that it is 0 is found out.
    camera = np.array(
        [[focal, 0, width / 2, 0.06 * focal], [0, focal, 0.45 * height, 0], [0, 0, 1, 0]], dtype=np.float64
    )
    stage = _Stage(random, camera, size_hw)
    for _ in range(int(random.integers(4, 11))):
        stage.place()
    return stage.finish()


@dataclass
class _Placed:
    kind: str
    solid: Array  # [7]
    colour: Colour
    truncated: float
    pixels: int = 0  # in the image, if it stood alone
    box: tuple[float, float, float, float] = field(default=(0, 0, 0, 0))


class _Stage:
    """The road, and what stands on it."""

    def __init__(self, random: Random, camera: Array, size_hw: tuple[int, int]) -> None:
        self.random, self.camera, self.size_hw = random, camera, size_hw
        self.placed: list[_Placed] = []
        angle = random.uniform(0, 2 * math.pi)
        self.light = np.array([0.5 * math.cos(angle), -0.8, 0.5 * math.sin(angle)])

    def place(self) -> None:
        """Put one object where it stands in no other; give up after some tries."""
        names = list(KINDS)
        kind = str(self.random.choice(names, p=[KINDS[name][0] for name in names]))
        sides = self.random.uniform(*KINDS[kind][1:])
        on_road = kind != "Pedestrian" or self.random.random() < 0.3
        for _ in range(20):
            z = math.exp(self.random.uniform(math.log(NEAREST), math.log(FARTHEST)))
            reach = min(14.0, 0.95 * z)  # a little beyond the edge of the image
            x = self.random.uniform(-reach, reach)
            if on_road and kind != "Pedestrian" and self.random.random() < 0.6:
                x = float(self.random.choice([-3.2, 0.1, 3.3])) + self.random.normal(0, 0.3)
            ahead = -math.pi / 2 if x > -1.5 else math.pi / 2
            free = kind == "Pedestrian" or self.random.random() < 0.3
            turn = self.random.uniform(-math.pi, math.pi) if free else ahead + self.random.normal(0, 0.08)
            solid = np.array([x, CAMERA_HEIGHT, z, *sides, (turn + math.pi) % (2 * math.pi) - math.pi])
            if self._fits(solid):
                colour = tuple(self.random.uniform(0.15, 0.95, 3).tolist())
                self.placed.append(_Placed(kind, solid, colour, self._truncation(solid)))
                return

    def _fits(self, solid: Array) -> bool:
        roomy = solid[None] * [1, 1, 1, 1, 1.3, 1.2, 1]
        others = np.array([other.solid for other in self.placed]).reshape(-1, 7)
        if bool((shared_ground(roomy, others) > 0).any()) or self._corners(solid)[:, 2].min() < 1.5:
            return False
        return self._truncation(solid) < 0.6

    def _corners(self, solid: Array) -> Array:
        return corners(solid)

    def _pixels(self, points: Array) -> Array:
        """`[N, 3]` in front of the camera to `[N, 2]`."""
        seen = points @ self.camera[:, :3].T + self.camera[:, 3]
        return seen[:, :2] / seen[:, 2:]

    def _truncation(self, solid: Array) -> float:
        """The share of the box round an object that lies outside the image."""
        pixels = self._pixels(self._corners(solid))
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        inside = np.clip(np.minimum(high, self.size_hw[::-1]) - np.maximum(low, 0), 0, None)
        return float(1 - inside.prod() / (high - low).prod())

    def finish(self) -> RoadScene:
        image = self._ground()
        depth = np.full(self.size_hw, np.inf)
        owner = np.full(self.size_hw, -1)
        for number, one in enumerate(self.placed):
            alone = np.zeros(self.size_hw, dtype=bool)
            for part in PARTS[one.kind]:
                self._paint(one, part, number, (image, depth, owner, alone))
            rows, columns = np.nonzero(alone)
            one.pixels = len(rows)
            if len(rows):
                one.box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        grain = self.random.normal(0, self.random.uniform(0.5, 2.5), (*self.size_hw, 1))
        exposure = self.random.uniform(0.9, 1.1) * self.random.uniform(0.97, 1.03, 3)
        pixels = np.clip(image * 255 * exposure + grain, 0, 255).round().astype(np.uint8)
        in_sight = np.bincount(owner[owner >= 0], minlength=len(self.placed))
        order = sorted(range(len(self.placed)), key=lambda number: float(self.placed[number].solid[2]))
        labels = [self._label(self.placed[number], int(in_sight[number])) for number in order]
        return RoadScene(pixels, self.camera, [label for label in labels if label is not None])

    def _label(self, one: _Placed, in_sight: int) -> Label | None:
        if in_sight == 0:
            return None
        share = in_sight / one.pixels
        if share < IN_SIGHT[-1] or in_sight < LEAST_PIXELS * (self.size_hw[1] / 1280) ** 2:
            return Label("DontCare", -1, -1, -10, one.box, NOT_KNOWN)
        occluded = next(level for level, least in enumerate(IN_SIGHT) if share >= least)
        (seen,) = cuboids_from_solids(one.solid[None], self.camera).tolist()
        x, y, z, *sides, turn = one.solid.tolist()
        return Label(one.kind, one.truncated, occluded, seen[6], one.box, (*sides, x, y, z, turn))

    def _paint(self, one: _Placed, part: Part, number: int, layers: tuple[Array, Array, Array, Array]) -> None:
        """One part of an object, its faces towards the camera, pixel by pixel where its rays meet them."""
        image, depth, owner, alone = layers
        center, axes, half = self._frame(one.solid, part)
        eye = -np.linalg.solve(self.camera[:, :3], self.camera[:, 3])
        pixels = self._pixels(center + (np.array(_SIGNS) * half) @ axes)
        height, width = self.size_hw
        x0, y0 = (int(np.clip(math.floor(low), 0, side)) for low, side in zip(pixels.min(axis=0), (width, height)))
        x1, y1 = (int(np.clip(math.ceil(high), 0, side)) for high, side in zip(pixels.max(axis=0), (width, height)))
        if x1 <= x0 or y1 <= y0:
            return
        u, v = np.meshgrid(np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5)
        rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(self.camera[:, :3]).T  # z is 1
        toward, start = rays @ axes.T, (eye - center) @ axes.T  # in the frame of the part, [h, w, 3] and [3]
        window = (slice(y0, y1), slice(x0, x1))
        colour = np.array(part[3] or one.colour)
        for axis in range(3):
            if abs(start[axis]) <= half[axis]:
                continue  # the camera lies between the two faces and sees neither
            sign = math.copysign(1, start[axis])
            with np.errstate(divide="ignore", invalid="ignore"):
                distance = (sign * half[axis] - start[axis]) / toward[..., axis]
                place = start + distance[..., None] * toward
            others = [other for other in range(3) if other != axis]
            met = (distance > 0) & (np.abs(place[..., others]) <= half[others]).all(axis=-1)
            alone[window] |= met
            nearer = met & (distance < depth[window])
            shade = 0.62 + 0.38 * float(np.clip(sign * axes[axis] @ self.light, -0.8, 1))
            depth[window][nearer] = distance[nearer]
            owner[window][nearer] = number
            image[window][nearer] = np.clip(colour * shade, 0, 1)

    def _frame(self, solid: Array, part: Part) -> tuple[Array, Array, Array]:
        """The middle `[3]`, axes `[3, 3]` (along, up, across, one a row) and half sides `[3]` of a part."""
        x, y, z, height, width, length, turn = solid
        axes = np.array([[math.cos(turn), 0, -math.sin(turn)], [0, -1, 0], [math.sin(turn), 0, math.cos(turn)]])
        spans = np.array(part[:3]) * np.array([length, height, width])[:, None]  # [3, 2]
        return np.array([x, y, z]) + spans.mean(axis=1) @ axes, axes, np.diff(spans, axis=1)[:, 0] / 2

    def _ground(self) -> Array:
        """Sky above the horizon, road with marks and grass below, under the shadows of what stands there."""
        height, width = self.size_hw
        focal, horizon = self.camera[0, 0], self.camera[1, 2]
        random = self.random
        rows = np.arange(height)[:, None] + 0.5
        columns = np.arange(width)[None] + 0.5
        below = np.maximum(rows - horizon, 1e-3)
        z = np.broadcast_to(focal * CAMERA_HEIGHT / below, self.size_hw)
        x = (columns - width / 2) / focal * z - 0.06
        sky = np.array([0.55, 0.68, 0.85]) + (1 - rows / horizon)[..., None] * np.array([-0.25, -0.18, 0.05])
        asphalt = np.full(3, random.uniform(0.33, 0.45))
        grass = np.array([0.33, 0.42, 0.24]) * random.uniform(0.8, 1.2)
        patches = 0.9 + 0.1 * np.sin(x * 1.7) * np.sin(z * 0.9 + random.uniform(0, 6))
        on_road = np.abs(x - 0.1) < random.uniform(4.8, 6)
        image = np.where(on_road[..., None], asphalt, grass * patches[..., None])
        dashed = (np.abs(np.abs(x - 0.1) - 1.65) < 0.07) & ((z + random.uniform(0, 6)) % 6 < 3)
        image[dashed & on_road & (z < 80)] = 0.85
        for one in self.placed:
            turn = one.solid[6]
            dx, dz = x - one.solid[0], z - one.solid[2]
            along = np.abs(dx * math.cos(turn) - dz * math.sin(turn)) / (0.55 * one.solid[5])
            across = np.abs(dx * math.sin(turn) + dz * math.cos(turn)) / (0.6 * one.solid[4])
            image[(along < 1) & (across < 1)] *= 0.55
        haze = np.clip(z / 150, 0, 1)[..., None]
        image = image * (1 - haze) + np.array([0.6, 0.66, 0.72]) * haze
        return np.where((rows <= horizon)[..., None], np.clip(sky, 0, 1), image)


_SIGNS = [(2 * a, 2 * b - 1, 2 * c) for b in (0, 1) for a, _, c in CORNERS]  # of a cuboid's corners about its middle
