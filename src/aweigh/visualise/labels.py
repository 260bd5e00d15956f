"""Labels of boxes: the font, a place for each that has room, and how one is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import ImageDraw, ImageFont

from aweigh.visualise.colours import INK, PAPER, Colour, luminance
from aweigh.visualise.strokes import Box

MOST_PLACED = 300  # labels that are weighed against one another; among so many there is no room for a further one
SHARE = 0.12  # of an image that labels may cover, ours: 30 labels or so, and what they name can still be seen


@cache
def font_of(size: int) -> Any:
    """Pillow's own scalable font: nothing to download, nothing to find."""
    return ImageFont.load_default(size)


def label_places(
    captions: Sequence[str], corners: Sequence[Box], font: Any, width: int, size_wh: tuple[int, int]
) -> list[Box | None]:
    """A place for each label, the best first: by its own box, inside the image, hiding as little as can be.

    None where there is no room: a label lies on no other one, and all of them cover at most `SHARE` of the image. The
    first has its place anyway.
    """
    places: list[Box | None] = [None] * len(captions)
    taken = np.zeros((0, 4))
    boxes = np.asarray(corners[:MOST_PLACED], dtype=float).reshape(-1, 4) + np.array((0, 0, 1, 1))
    areas, free = (boxes[:, 2:] - boxes[:, :2]).prod(1), SHARE * size_wh[0] * size_wh[1]
    for index, caption in enumerate(captions[:MOST_PLACED]):
        size = wide, high = math.ceil(font.getlength(caption)) + round(0.7 * font.size), round(1.35 * font.size)
        if len(taken) and free < wide * high:
            continue
        small = boxes[areas < 8 * wide * high]  # a label over a larger object hides little of it
        wanted = np.array(_wanted(boxes[index].tolist(), wide, high, width))  # [P, 2]
        inside = np.maximum(np.minimum(wanted, np.subtract(size_wh, size)), 0)
        tried = np.concatenate([inside, inside + size], axis=1)  # [P, 4]
        pushed = (np.abs(inside - wanted) > (font.size, 1)).any(1)
        hidden = _overlaps(tried, small) + pushed * wide * high
        hidden[_overlaps(tried, taken) > 0] = math.inf
        best = int(hidden.argmin())  # the first of those that hide the least
        if hidden[best] < math.inf:
            left, top, right, bottom = tried[best].tolist()
            places[index], free = (left, top, right, bottom), free - wide * high
            taken = np.append(taken, tried[best : best + 1], axis=0)
    return places


def _wanted(box: Box, wide: int, high: int, width: int) -> list[tuple[float, float]]:
    """Where a label of this size could begin, the usual place first: above its box, inside it, below it, beside it."""
    x0, y0, x1, y1 = box
    along = [(x, y) for y in (y0 - high, y0 + width, y1, y1 - width - high) for x in (x0, x1 - wide)]
    return along + [(x, y) for y in (y0, y1 - high) for x in (x1, x0 - wide)]


def _overlaps(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """`[P]`: the area of each of `places` `[P, 4]` that `others` `[N, 4]` cover, counted once for each."""
    sides = np.minimum(places[:, None, 2:], others[:, 2:]) - np.maximum(places[:, None, :2], others[:, :2])
    areas: np.ndarray = sides.clip(0).prod(2).sum(1)  # of [P, N, 2]
    return areas


def write_label(draw: ImageDraw.ImageDraw, caption: str, place: Box, colour: Colour, font: Any) -> None:
    x0, y0, x1, y1 = place
    draw.rounded_rectangle((x0, y0, x1 - 1, y1 - 1), radius=max(2, (y1 - y0) // 6), fill=(*colour, 235))
    light = luminance(colour)
    ink = INK if (light + 0.05) ** 2 > (luminance(INK) + 0.05) * 1.05 else PAPER  # the stronger contrast, WCAG 2.1
    draw.text(((x0 + x1) / 2, (y0 + y1) / 2), caption, fill=ink, font=font, anchor="mm")
