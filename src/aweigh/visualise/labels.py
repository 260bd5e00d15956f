"""Labels of boxes: the font, a place for each, and how one is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import ImageDraw, ImageFont

from aweigh.visualise.colours import INK, PAPER, Colour, luminance
from aweigh.visualise.strokes import Box

MOST_PLACED = 300  # labels of one picture; their places are compared each with each


@cache
def font_of(size: int) -> Any:
    """Pillow's own scalable font: nothing to download, nothing to find."""
    return ImageFont.load_default(size)


def label_places(
    captions: Sequence[str], corners: Sequence[Box], font: Any, width: int, size_wh: tuple[int, int]
) -> list[Box]:
    """A place for each label, the best first: by its own box, inside the picture, hiding as little as can be.

    Only the first `MOST_PLACED` are weighed against one another; among so many there is no free place for the others.
    """
    places = np.zeros((len(captions), 4))
    boxes = np.asarray(corners, dtype=float).reshape(-1, 4) + np.array((0, 0, 1, 1))
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for index, caption in enumerate(captions):
        x0, y0, x1, y1 = boxes[index]
        wide, high = math.ceil(font.getlength(caption)) + round(0.7 * font.size), round(1.35 * font.size)
        wanted = [(x, y) for y in (y0 - high, y0 + width, y1, y1 - width - high) for x in (x0, x1 - wide)]
        wanted += [(x, y) for y in (y0, y1 - high) for x in (x1, x0 - wide)]  # beside it
        if index >= MOST_PLACED:
            x, y = wanted[0]
            left, top = max(0, min(x, size_wh[0] - wide)), max(0, min(y, size_wh[1] - high))
            places[index] = (left, top, left + wide, top + high)
            continue
        small = boxes[:MOST_PLACED][
            areas[:MOST_PLACED] < 8 * wide * high
        ]  # a label over a larger object hides little of it
        costs, options = [], []
        for x, y in wanted:
            left, top = max(0, min(x, size_wh[0] - wide)), max(0, min(y, size_wh[1] - high))
            option = (left, top, left + wide, top + high)
            pushed = wide * high * (abs(top - y) > 1 or abs(left - x) > font.size)
            costs.append(4 * _overlap(option, places[:index]) + _overlap(option, small) + pushed)
            options.append(option)
        places[index] = options[int(np.argmin(costs))]
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in places.tolist()]


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
