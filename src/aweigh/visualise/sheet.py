"""Several images side by side on one sheet, with captions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

from aweigh.errors import UsageError, counted, escaped
from aweigh.visualise.colours import INK, PAPER
from aweigh.visualise.labels import font_of


def enlarged(picture: Image.Image, side: int) -> Image.Image:
    """The image with a long side of so many pixels."""
    width, height = (max(1, round(length * side / max(picture.size))) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def grid(
    pictures: Sequence[Image.Image],
    *,
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    cell_wh: tuple[int, int] | None = None,
    title: str = "",
) -> Image.Image:
    """Images side by side in cells of one size, each scaled to fit, with a caption of up to two lines below if given.

    columns: about as many as rows when not given. cell_wh: the size of a cell; when not given, that of the largest
    image, but no wider than makes the whole 2400 pixels. title: one line above all.
    """
    if not pictures:
        raise UsageError("grid needs at least one image.")
    if captions is not None and len(captions) != len(pictures):
        raise UsageError(f"grid: {counted(len(pictures), 'image')} but {counted(len(captions), 'caption')}.")
    columns = min(len(pictures), columns or math.ceil(math.sqrt(len(pictures))))
    if cell_wh is None:
        width, height = (max(picture.size[axis] for picture in pictures) for axis in (0, 1))
        shrink = min(1.0, 2400 / columns / width)
        cell_wh = max(1, round(width * shrink)), max(1, round(height * shrink))
    width, height = cell_wh
    fitted = [_fitted(picture, cell_wh) for picture in pictures]
    rows = [fitted[start : start + columns] for start in range(0, len(fitted), columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    gap = max(4, round(width / 60))
    font = font_of(max(12, min(24, round(width / 28))))
    texts = [_wrapped(escaped(caption), font, width) for caption in captions or ()]
    lines = 1 + any("\n" in text for text in texts)
    below = round(font.size * (0.7 + 1.2 * lines)) if captions is not None else 0
    above = round(font.size * 1.9) if title else 0
    size = columns * (width + gap) + gap, above + sum(heights) + len(rows) * (below + gap) + gap
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((gap, gap + above / 2), _shortened(escaped(title), font, size[0]), fill=INK, font=font, anchor="lm")
    top = above + gap
    for number, (row, height) in enumerate(zip(rows, heights)):
        for column, picture in enumerate(row):
            left = gap + column * (width + gap)
            sheet.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
            if captions is not None:
                text, place = texts[number * columns + column], (left + width / 2, top + height + below / 2)
                draw.multiline_text(place, text, fill=INK, font=font, anchor="mm", align="center")
        top += height + below + gap
    return sheet


def _fitted(picture: Image.Image, cell_wh: tuple[int, int]) -> Image.Image:
    scale = min(cell_wh[0] / picture.width, cell_wh[1] / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _wrapped(text: str, font: Any, width: int) -> str:
    """In one line or, broken at a space, in two, the last one shortened."""
    if font.getlength(text) <= width:
        return text
    words, count = text.split(" "), 1
    while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
        count += 1
    rest = _shortened(" ".join(words[count:]), font, width)
    return _shortened(" ".join(words[:count]), font, width) + ("\n" + rest if rest else "")


def _shortened(text: str, font: Any, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
