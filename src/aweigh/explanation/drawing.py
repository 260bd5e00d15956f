"""Explanations as images: evidence as a heat map, boxes, the place an answer comes from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from aweigh.explanation.answer import Answer, Box, Explanation
from aweigh.explanation.look import Look
from aweigh.explanation.why_not import FOUND, Fate
from aweigh.visualise.colours import IGNORED, INK, PALETTE, PAPER, Colour
from aweigh.visualise.pictures import draw_boxes, draw_heat_map
from aweigh.visualise.sheet import grid

PANEL = 640  # long side of the image in a panel of a sheet
MOST_PANELS = 12
THIS, OBJECT, OTHER = PALETTE[0], PALETTE[2], IGNORED
MOST_SUPPRESSED = 10  # boxes of answers that were left out


def draw_explanations(look: Look, found: Sequence[Explanation]) -> Image.Image:
    """A panel for each of the first `MOST_PANELS`; the image as it is where there is none."""
    panels = [_panel_of(look, each) for each in found[:MOST_PANELS]]
    captions = [f"#{each.number} {each.name} {each.score:.2f}: {_origin(each.answer)}" for each in found]
    return _sheet(look, panels, captions[:MOST_PANELS])


def draw_fates(look: Look, fates: Sequence[Fate]) -> Image.Image:
    """A panel for each of the first objects that were not found; the image as it is where there is none."""
    lost = [fate for fate in fates if fate.stage != FOUND][:MOST_PANELS]
    captions = [f"{fate.object.name}: lost at {fate.stage}" for fate in lost]
    return _sheet(look, [_panel_of_fate(look, fate) for fate in lost], captions)


def _panel_of(look: Look, each: Explanation) -> Image.Image:
    picture = Image.fromarray(look.pixels)
    if each.evidence is not None and each.evidence.max() > 0:
        picture = draw_heat_map(picture, each.evidence.clip(min=0) / each.evidence.max())
    boxes = [each.answer.box, *(other.box for other in each.suppressed[:MOST_SUPPRESSED])]
    colours = [THIS] + [OTHER] * (len(boxes) - 1)
    captions = [f"{each.name} {each.score:.2f}"] + [""] * (len(boxes) - 1)
    return _with_places(picture, boxes, colours, captions, [(each.answer, THIS)])


def _panel_of_fate(look: Look, fate: Fate) -> Image.Image:
    boxes, colours, captions = [fate.object.box], [OBJECT], [f"{fate.object.name}, not found"]
    for box, colour, caption in (
        (fate.nearest and fate.nearest.box, THIS, fate.nearest and f"nearest, {fate.nearest.score:.2f}"),
        (fate.by and fate.by.box, OTHER, fate.by and f"by {fate.by.name} {fate.by.score:.2f}"),
        (fate.instead and fate.instead.box, OTHER, fate.instead and f"{fate.instead.name} {fate.instead.score:.2f}"),
    ):
        if box and caption:
            boxes, colours, captions = [*boxes, box], [*colours, colour], [*captions, caption]
    places = [(fate.nearest, THIS)] if fate.nearest is not None else []
    return _with_places(Image.fromarray(look.pixels), boxes, colours, captions, places)


def _with_places(
    picture: Image.Image,
    boxes: Sequence[Box],
    colours: Sequence[Colour],
    captions: Sequence[str],
    places: Sequence[tuple[Answer, Colour]],
) -> Image.Image:
    """The picture with boxes, the first on top, and the place of each answer: a cross, or the box of an anchor."""
    drawn = draw_boxes(picture, np.array(boxes, np.float32), colours, captions)
    draw, reach = ImageDraw.Draw(drawn), max(4, min(drawn.size) // 60)
    for answer, colour in places:
        if len(answer.place) == 2:
            x, y = answer.place
            for width, ink in ((5, INK), (3, PAPER), (1, colour)):
                draw.line((x - reach, y, x + reach, y), fill=ink, width=width)
                draw.line((x, y - reach, x, y + reach), fill=ink, width=width)
        elif answer.place != answer.box:
            draw.rectangle(answer.place, outline=colour, width=1)
    return drawn


def _sheet(look: Look, panels: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    if not panels:
        return Image.fromarray(look.pixels)
    small = [panel.copy() for panel in panels]
    for panel in small:
        panel.thumbnail((PANEL, PANEL))
    return grid(small, captions=captions)


def _origin(answer: Answer) -> str:
    return f"{answer.kind}, {answer.level}"
