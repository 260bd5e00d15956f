"""Colours and textures of drawn scenes: grounds, patterns on shapes, smooth noise; the same for the same seed."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

Array = np.ndarray
Random = np.random.Generator


def texture(random: Random, u: Array, v: Array, radius: float) -> Array:
    """How much of the second colour, in `[0, 1]`, over the frame of a shape; nothing finer than two pixels."""
    patterns = ["stripes", "checks", "dots", "noise", "gradient", "waves"]
    kind = "plain" if random.random() < 0.5 else str(random.choice(patterns))
    waves = random.uniform(3, min(9.0, max(3.1, radius / 3)))  # per unit of the frame, in radians
    sharp = radius / waves  # edges about one pixel wide
    if kind == "stripes":
        return 0.5 + sharp * np.sin(u * waves)
    if kind == "checks":
        return 0.5 + sharp * np.sin(u * waves) * np.sin(v * waves)
    if kind == "dots":
        return 0.5 + sharp * (np.cos(u * waves) + np.cos(v * waves) - 0.7)
    if kind == "noise":
        return _noise(random, u.shape, max(3.0, radius / 3)) * 1.6 - 0.3
    if kind == "gradient":
        return 0.5 + 0.5 * u
    if kind == "waves":
        return 0.5 + sharp * np.sin(v * waves + 0.8 * np.sin(2 * u))
    return np.full(u.shape, 0.15)


def ground(random: Random, size_hw: tuple[int, int]) -> Array:
    """The ground `(H, W, 3)` in `[0, 1]`: a wash of two muted colours, cloud, grain, and often a pattern."""
    height, width = size_hw
    hue = random.random()
    first = _hsv(hue, random.uniform(0.05, 0.4), random.uniform(0.4, 0.95))
    second = _hsv(hue + random.uniform(-0.15, 0.15), random.uniform(0.05, 0.4), random.uniform(0.4, 0.95))
    angle = random.uniform(0, 2 * math.pi)
    ys, xs = np.mgrid[0:height, 0:width] + 0.5
    side = max(height, width)
    along = ((xs - width / 2) * math.cos(angle) + (ys - height / 2) * math.sin(angle)) / side
    across = ((ys - height / 2) * math.cos(angle) - (xs - width / 2) * math.sin(angle)) / side
    cloud = _noise(random, size_hw, side / random.uniform(2, 6))
    blend = np.clip(0.5 + 0.7 * along + 0.8 * (cloud - 0.5), 0, 1)[:, :, None]
    image = first * (1 - blend) + second * blend
    waves = random.uniform(15, 70)
    patterns = {
        "none": np.zeros(size_hw),
        "planks": np.abs(np.sin(across * waves)) ** 0.25 - 1 + 0.35 * _grain(random, size_hw, 40, 3),
        "weave": 0.4 * np.sin(along * 2 * waves) * np.sin(across * 2 * waves),
        "tiles": np.minimum(np.abs(np.sin(along * waves)), np.abs(np.sin(across * waves))) ** 0.2 - 1,
        "speckle": _noise(random, size_hw, 3) - 0.5,
        "furrows": 0.5 * np.sin(along * waves + 3 * cloud),
    }
    pattern = patterns[str(random.choice(list(patterns)))] * random.uniform(0.1, 0.35)
    fine = 0.10 * (_noise(random, size_hw, 5) - 0.5)
    vignette = 1 - random.uniform(0, 0.35) * 2 * (along**2 + across**2)
    return np.clip((image + (pattern + fine)[:, :, None]) * vignette[:, :, None], 0, 1)


def _noise(random: Random, shape_hw: tuple[int, ...], coarse: float) -> Array:
    """Smooth noise in about `[0, 1]`: three octaves, the coarsest `coarse` pixels wide."""
    total, weight = np.zeros(shape_hw[:2]), 0.0
    for octave in range(3):
        total += 0.5**octave * _grain(random, shape_hw, *(2 * [max(1.0, coarse / 2**octave)]))
        weight += 0.5**octave
    return total / weight


def _grain(random: Random, shape_hw: tuple[int, ...], cell_x: float, cell_y: float) -> Array:
    """One octave: random values on a grid of cells, smoothly between."""
    height, width = shape_hw[:2]
    grid = random.random((math.ceil(height / cell_y) + 2, math.ceil(width / cell_x) + 2)).astype(np.float32)
    resized = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.float64)


def two_colors(random: Random, hue: float) -> tuple[Array, Array]:
    """Two colours of about one hue that differ clearly in lightness."""
    dark = _hsv(hue, random.uniform(0.5, 0.95), random.uniform(0.3, 0.6))
    bright = _hsv(hue + random.uniform(-0.06, 0.06), random.uniform(0.4, 0.9), random.uniform(0.8, 1.0))
    return (dark, bright) if random.random() < 0.5 else (bright, dark)


def _hsv(hue: float, saturation: float, value: float) -> Array:
    sector = np.array([5.0, 3.0, 1.0]) + hue * 6
    k = np.mod(sector, 6)
    return value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)
