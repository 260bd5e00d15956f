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
        wide, high = math.ceil(font.getlength(caption)) + round(0.7 * font.size), round(1.35 * font.size)
        small = boxes[areas < 8 * wide * high]  # a label over a larger object hides little of it
        best, cost = None, math.inf
        for x, y in _wanted(boxes[index].tolist(), wide, high, width):
            left, top = max(0, min(x, size_wh[0] - wide)), max(0, min(y, size_wh[1] - high))
            place = (left, top, left + wide, top + high)
            pushed = wide * high * (abs(top - y) > 1 or abs(left - x) > font.size)
            hidden = _overlap(place, small) + pushed
            if hidden < cost and not _overlap(place, taken):
                best, cost = place, hidden
        if best is not None and (free >= wide * high or not len(taken)):
            places[index], free = best, free - wide * high
            taken = np.append(taken, [best], axis=0)
    return places


def _wanted(box: Box, wide: int, high: int, width: int) -> list[tuple[float, float]]:
    """Where a label of this size could begin, the usual place first: above its box, inside it, below it, beside it."""
    x0, y0, x1, y1 = box
    along = [(x, y) for y in (y0 - high, y0 + width, y1, y1 - width - high) for x in (x0, x1 - wide)]
    return along + [(x, y) for y in (y0, y1 - high) for x in (x1, x0 - wide)]


def _overlap(box: Box, others: np.ndarray) -> float:
    """The area of `box` that `others` `[N, 4]` cover, counted once for each."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(sides.clip(0).prod(1).sum())


def write_label(draw: ImageDraw.ImageDraw, caption: str, place: Box, colour: Colour, font: Any) -> None:
    x0, y0, x1, y1 = place
    draw.rounded_rectangle((x0, y0, x1 - 1, y1 - 1), radius=max(2, (y1 - y0) // 6), fill=(*colour, 235))
    light = luminance(colour)
    ink = INK if (light + 0.05) ** 2 > (luminance(INK) + 0.05) * 1.05 else PAPER  # the stronger contrast, WCAG 2.1
    draw.text(((x0 + x1) / 2, (y0 + y1) / 2), caption, fill=ink, font=font, anchor="mm")
