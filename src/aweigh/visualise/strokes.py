"""How one thing is painted on an image: an outline, a dashed one, hatching, a mask, a trail, keypoints with their
skeleton.

opacity, everywhere: 1 in full, towards 0 the fainter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from aweigh.visualise.colours import INK, PAPER, Colour

Box = tuple[float, float, float, float]


def outline(draw: ImageDraw.ImageDraw, box: Box, colour: Colour, width: int, opacity: float) -> None:
    """The box in its colour between two faint dark lines, so that it shows on any ground."""
    x0, y0, x1, y1 = box
    inner = (x0 + width, y0 + width, x1 - width, y1 - width)
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(*INK, round(110 * opacity)))
    if inner[2] > inner[0] and inner[3] > inner[1]:
        draw.rectangle(inner, outline=(*INK, round(70 * opacity)))
    draw.rectangle(box, outline=(*colour, round(255 * opacity)), width=width)


def dashed(draw: ImageDraw.ImageDraw, box: Box, colour: Colour, width: int) -> None:
    x0, y0, x1, y1 = box
    draw.rectangle(box, outline=(*INK, 120), width=width)
    dash = 4 * width + 2
    for start in np.arange(x0, x1, 2 * dash):
        end = min(start + dash, x1)
        draw.rectangle((start, y0, end, min(y0 + width - 1, y1)), fill=colour)
        draw.rectangle((start, max(y1 - width + 1, y0), end, y1), fill=colour)
    for start in np.arange(y0, y1, 2 * dash):
        end = min(start + dash, y1)
        draw.rectangle((x0, start, min(x0 + width - 1, x1), end), fill=colour)
        draw.rectangle((max(x1 - width + 1, x0), start, x1, end), fill=colour)


def hatch(picture: Image.Image, box: Box, colour: Colour, width: int) -> None:
    """Faint diagonal lines over the box."""

    def lines(draw: ImageDraw.ImageDraw, scale: int, origin: tuple[float, float]) -> None:
        high, wide = (box[3] - box[1] + 1) * scale, (box[2] - box[0] + 1) * scale
        for start in np.arange(-high, wide, 7 * width * scale + 4):
            draw.line((start, high, start + high, 0), fill=(*colour, 130), width=max(1, width * scale // 2))

    _smoothly(picture, box, lines)


def paint_mask(
    picture: Image.Image, inside: np.ndarray, corner: tuple[int, int], colour: Colour, width: int, opacity: float
) -> None:
    """The mask as a translucent area with a firm edge. inside: `[h, w]` bool, from the image's pixel `corner` on."""
    if not inside.any():
        return
    core = _eroded(inside, max(1, width // 2))
    alpha = (np.where(core, 105, np.where(inside, 235, 0)) * opacity).astype(np.uint8)
    picture.paste(colour, (*corner, corner[0] + inside.shape[1], corner[1] + inside.shape[0]), Image.fromarray(alpha))


def _eroded(inside: np.ndarray, reach: int) -> np.ndarray:
    """`[h, w]` bool: the pixels with nothing outside in the square that reaches so far round them."""
    for axis in (0, 1):
        padded = np.pad(inside, [(reach, reach) if axis == side else (0, 0) for side in (0, 1)])
        shifted = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=axis)
        inside = np.logical_and.reduce(shifted, axis=-1)
    return inside


def paint_trail(picture: Image.Image, points: np.ndarray, colour: Colour, width: int, opacity: float) -> None:
    """A line through `[T, 2]` (x, y), the later the firmer; points of NaN are left out."""
    places = [(x, y) for x, y in points[np.isfinite(points).all(axis=1)].tolist()]
    draw = ImageDraw.Draw(picture, "RGBA")
    for number, ends in enumerate(pairwise(places), start=1):
        age = 1 - number / (len(places) - 1)
        draw.line(ends, fill=(*colour, round(255 * opacity * (1 - 0.7 * age))), width=width + 1)


def paint_keypoints(
    picture: Image.Image,
    points: np.ndarray,
    skeleton: Sequence[tuple[int, int]],
    colour: Colour,
    width: int,
    box: Box,
    opacity: float,
) -> None:
    """Keypoints as dots, joined along the skeleton. points: `[K, 3]` `(x, y, visibility or score, > 0 if seen)`."""
    seen = [tuple(point[:2]) if point[2] > 0 else None for point in points.tolist()]
    if not any(seen):
        return
    thick = min(1.1 * width, max(1.0, math.sqrt((box[2] - box[0]) * (box[3] - box[1])) / 50))
    radius = 1.4 * thick + 1
    xs, ys = zip(*[point for point in seen if point])
    region = (min(xs) - 2 * radius, min(ys) - 2 * radius, max(xs) + 2 * radius, max(ys) + 2 * radius)

    def figure(draw: ImageDraw.ImageDraw, scale: int, origin: tuple[float, float]) -> None:
        placed = [((p[0] - origin[0]) * scale, (p[1] - origin[1]) * scale) if p else None for p in seen]
        for rim, fill in ((1.0, (*INK, round(150 * opacity))), (0.0, (*colour, round(255 * opacity)))):
            for start, end in skeleton:
                a, b = placed[start], placed[end]
                if a and b:
                    draw.line((*a, *b), fill=fill, width=round((thick + 2 * rim) * scale))
        for rim, fill in (
            (1.0, (*INK, round(200 * opacity))),
            (0.0, (*PAPER, round(255 * opacity))),
            (-0.35 * radius, (*colour, round(255 * opacity))),
        ):
            reach = (radius + rim) * scale
            for x, y in filter(None, placed):
                draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=fill)

    _smoothly(picture, region, figure)


def _smoothly(
    picture: Image.Image, region: Box, paint: Callable[[ImageDraw.ImageDraw, int, tuple[float, float]], None]
) -> None:
    """Paint one region at up to four times the size and shrink it, so that slanted lines have smooth edges.

    paint(draw, scale, origin) draws in `(picture coordinates - origin) * scale`.
    """
    left, top = max(0, math.floor(region[0])), max(0, math.floor(region[1]))
    right, bottom = min(picture.width, math.ceil(region[2]) + 1), min(picture.height, math.ceil(region[3]) + 1)
    if right <= left or bottom <= top:
        return
    size = (right - left, bottom - top)
    scale = max(1, min(4, 6000 // max(size)))
    layer = Image.new("RGBA", (size[0] * scale, size[1] * scale))
    paint(ImageDraw.Draw(layer), scale, (left, top))
    layer = layer.resize(size, Image.Resampling.BOX)
    picture.paste(layer, (left, top), layer)
