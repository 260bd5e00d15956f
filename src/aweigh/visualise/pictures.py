"""Boxes, masks, keypoints and heat maps drawn on an image; several pictures in a grid.

Everything here returns a `PIL.Image`, leaves what it is given untouched, and sizes its lines and letters to the
picture. Drawing order: masks, boxes, keypoints, then the labels; the best detection on top.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from aweigh.classes import PERSON_JOINTS, Classes
from aweigh.errors import UsageError, counted, escaped
from aweigh.ops.masks import Window
from aweigh.structures import Detections, Targets

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

# 24 colours far apart from one another, the most distinct first (ours); class k has PALETTE[k % 24].
PALETTE: tuple[Colour, ...] = tuple(
    (int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16))
    for code in (
        "ff5a3c", "1f8bff", "3ddc5b", "ffc233", "a35cff", "22d3ee", "ff5fb4", "0fa888",
        "ff8f1f", "5b6bff", "b5e021", "b5763a", "e23bf0", "ffa58c", "8ab4ff", "a5a02a",
        "a75a9a", "86e0b3", "f02d6e", "19a04a", "c9a2ff", "4f8fb8", "e3c98a", "c24d33",
    )
)  # fmt: skip
IGNORED: Colour = (200, 200, 205)
INK: Colour = (10, 11, 14)  # outlines and dark letters
PAPER: Colour = (255, 255, 255)
MOST_PLACED = 300  # labels of one picture; their places are compared each with each


def draw_detections(
    image: Tensor | Image.Image,
    detections: Detections,
    *,
    min_score: float = 0.0,
    skeleton: Sequence[tuple[int, int]] | None = None,
) -> Image.Image:
    """The image with every detection of at least `min_score`: box, class name and score, mask and keypoints if any.

    image: `[3, H, W]` uint8, or float in `[0, 1]`, RGB; or a picture. detections: in the pixels of this image; a
    keypoint is drawn where its score is above 0. skeleton: pairs of keypoint indices to join; when not given, the
    joints of the detections' keypoint set, else those of COCO's persons where there are 17 keypoints.
    Masks are made into pixels one at a time, each in its own box.
    """
    kept = detections[detections.scores >= min_score].to("cpu")
    kept = kept[kept.scores.argsort(descending=True, stable=True)]
    captions = [f"{name} {score:.2f}" for name, score in zip(kept.names, kept.scores.tolist())]
    colours = [PALETTE[label % len(PALETTE)] for label in kept.labels.tolist()]
    windows = None
    if kept.masks is not None:
        picture_hw = _size_hw(image)
        if kept.size_hw != picture_hw:
            raise UsageError(f"Masks for a picture of {kept.size_hw} do not fit one of {picture_hw} (height, width).")
        windows = kept[torch.arange(len(kept) - 1, -1, -1)].windows()  # in the order they are drawn, the best last
    if skeleton is None and kept.keypoint_set is not None:
        skeleton = kept.keypoint_set.joints
    return _draw(image, kept.boxes, colours, captions, windows=windows, keypoints=kept.keypoints, skeleton=skeleton)


def draw_targets(
    image: Tensor | Image.Image,
    targets: Targets,
    classes: Classes | None = None,
    *,
    skeleton: Sequence[tuple[int, int]] | None = None,
) -> Image.Image:
    """The image with every annotated object; regions to ignore and what is uncertain are hatched and dashed.

    image, skeleton: as for `draw_detections`. classes: for the names; label numbers stand in when not given.
    """
    targets = targets.to("cpu")
    ignored, uncertain = (~targets.learned).tolist(), targets.uncertain.tolist()
    names = [classes.names[label] if classes is not None else str(label) for label in targets.labels.tolist()]
    reasons = [" (uncertain)" if guess else " (ignored)" if skip else "" for guess, skip in zip(uncertain, ignored)]
    captions = [name + reason for name, reason in zip(names, reasons)]
    colours = [
        IGNORED if skip else PALETTE[label % len(PALETTE)] for label, skip in zip(targets.labels.tolist(), ignored)
    ]
    windows = None
    if targets.masks is not None:
        if tuple(targets.masks.shape[1:]) != _size_hw(image):
            raise UsageError(
                f"Masks of {tuple(targets.masks.shape[1:])} do not fit a picture of {_size_hw(image)} (height, width)."
            )
        windows = _windows_of(targets.masks.flip(0))
    return _draw(
        image, targets.boxes, colours, captions,
        windows=windows, keypoints=targets.keypoints, skeleton=skeleton, ignored=ignored,
    )  # fmt: skip


def draw_boxes(
    image: Tensor | Image.Image,
    boxes: Tensor,
    colours: Sequence[Colour],
    captions: Sequence[str],
    *,
    ignored: Sequence[bool] | None = None,
) -> Image.Image:
    """The image with boxes in colours of one's own; the first is on top.

    image: as for `draw_detections`. boxes: `[N, 4]` xyxy in its pixels. captions: one each; nothing is written where it
    is empty. ignored: which boxes are hatched and dashed.
    """
    if not len(boxes) == len(colours) == len(captions):
        raise UsageError(
            f"draw_boxes: {counted(len(boxes), 'box')}, {counted(len(colours), 'colour')} and "
            f"{counted(len(captions), 'caption')}."
        )
    return _draw(image, boxes, colours, captions, windows=None, keypoints=None, skeleton=None, ignored=ignored)


def draw_heat_map(
    image: Tensor | Image.Image, heat: Tensor, *, opacity: float = 0.75, colours: str = "turbo"
) -> Image.Image:
    """The image under a heat map: nothing where `heat` is 0, strongest where it is 1.

    heat: `[h, w]` float in `[0, 1]`, of any resolution; it is stretched over the whole image.
    colours: the name of a matplotlib colour map.
    """
    from matplotlib import colormaps  # only drawing heat maps and curves needs matplotlib

    if heat.ndim != 2:
        raise UsageError(f"A heat map must be [h, w], got {tuple(heat.shape)}; take the maximum over its channels.")
    picture = as_picture(image)
    small = Image.fromarray(heat.detach().to("cpu", torch.float32).nan_to_num().clamp(0, 1).numpy())
    values = np.clip(np.asarray(small.resize(picture.size, Image.Resampling.BICUBIC)), 0, 1)
    colour = colormaps[colours](values)[..., :3]
    weight = opacity * np.sqrt(values)[..., None]  # the root lets weak answers be seen
    mixed = (1 - weight) * np.asarray(picture, dtype=np.float32) + weight * 255 * colour
    return Image.fromarray(mixed.round().astype(np.uint8))


def grid(
    pictures: Sequence[Image.Image],
    *,
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    cell_wh: tuple[int, int] | None = None,
    title: str = "",
) -> Image.Image:
    """Pictures side by side in cells of one size, each scaled to fit, with a caption of up to two lines below if given.

    columns: about as many as rows when not given. cell_wh: the size of a cell; when not given, that of the largest
    picture, but no wider than makes the whole 2400 pixels. title: one line above all.
    """
    if not pictures:
        raise UsageError("grid needs at least one picture.")
    if captions is not None and len(captions) != len(pictures):
        raise UsageError(f"grid: {counted(len(pictures), 'picture')} but {counted(len(captions), 'caption')}.")
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
    font = _font(max(12, min(24, round(width / 28))))
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


def as_picture(image: Tensor | Image.Image) -> Image.Image:
    """A new RGB picture from `[3, H, W]` uint8, or float in `[0, 1]`, or from another picture."""
    if isinstance(image, Image.Image):
        return image.convert("RGB").copy()
    if image.ndim != 3 or image.shape[0] != 3:
        raise UsageError(f"An image to draw on must be [3, H, W], got {tuple(image.shape)}.")
    image = image.detach().cpu()
    if image.is_floating_point():
        image = (image.float().clamp(0, 1) * 255).round()
    return Image.fromarray(image.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def _size_hw(image: Tensor | Image.Image) -> tuple[int, int]:
    return (
        (image.height, image.width) if isinstance(image, Image.Image) else (int(image.shape[-2]), int(image.shape[-1]))
    )


# --- one image with its instances ---------------------------------------------------------------------------------


def _draw(
    image: Tensor | Image.Image,
    boxes: Tensor,
    colours: Sequence[Colour],
    captions: Sequence[str],
    *,
    windows: Iterable[Window] | None,
    keypoints: Tensor | None,
    skeleton: Sequence[tuple[int, int]] | None,
    ignored: Sequence[bool] | None = None,
) -> Image.Image:
    """Everything of one image; the instances come best first. windows: of their masks, the best last."""
    picture = as_picture(image)
    captions = [escaped(caption) for caption in captions]
    short = min(picture.size)
    width = max(1, round(short / 220))  # 2 px at 480, 4 px at 800
    least = 10 if short < 300 else 12  # letters would cover most of a small picture
    font = _font(max(least, round(short / (32 if len(boxes) <= 12 else 38))))
    ignored = ignored if ignored is not None else [False] * len(boxes)
    corners = [_inside(box, picture.size) for box in boxes.tolist()]
    order = list(range(len(boxes)))[::-1]  # the best is drawn last, on top

    for index, (inside, corner) in zip(order, windows or ()):
        _paint_mask(picture, inside.cpu().numpy(), corner, colours[index], width)
    for index in order:
        if ignored[index]:
            _hatch(picture, corners[index], colours[index], width)
    draw = ImageDraw.Draw(picture, "RGBA")
    for index in order:
        (_dashed if ignored[index] else _outline)(draw, corners[index], colours[index], width)
    if keypoints is not None:
        if skeleton is None:
            skeleton = PERSON_JOINTS if keypoints.shape[1] == 17 else ()
        for index in order:
            _paint_keypoints(picture, keypoints[index], skeleton, colours[index], width, corners[index])
    named = [index for index in range(len(boxes)) if captions[index]]
    texts = [captions[index] for index in named]
    places = _label_places(texts, [corners[index] for index in named], font, width, picture.size)
    for place, index in list(zip(places, named))[::-1]:
        _label(draw, captions[index], place, colours[index], font)
    return picture


def _inside(box: Sequence[float], size_wh: tuple[int, int]) -> Box:
    """Whole pixels, first and last inside the box, kept inside the picture."""
    x0, y0, x1, y1 = box
    last_x, last_y = size_wh[0] - 1, size_wh[1] - 1
    left, top = min(max(round(x0), 0), last_x), min(max(round(y0), 0), last_y)
    return left, top, max(left, min(round(x1) - 1, last_x)), max(top, min(round(y1) - 1, last_y))


def _outline(draw: ImageDraw.ImageDraw, box: Box, colour: Colour, width: int) -> None:
    """The box in its colour between two faint dark lines, so that it shows on any ground."""
    x0, y0, x1, y1 = box
    inner = (x0 + width, y0 + width, x1 - width, y1 - width)
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(*INK, 110))
    if inner[2] > inner[0] and inner[3] > inner[1]:
        draw.rectangle(inner, outline=(*INK, 70))
    draw.rectangle(box, outline=colour, width=width)


def _dashed(draw: ImageDraw.ImageDraw, box: Box, colour: Colour, width: int) -> None:
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


def _hatch(picture: Image.Image, box: Box, colour: Colour, width: int) -> None:
    """Faint diagonal lines over the box."""

    def lines(draw: ImageDraw.ImageDraw, scale: int, origin: tuple[float, float]) -> None:
        high, wide = (box[3] - box[1] + 1) * scale, (box[2] - box[0] + 1) * scale
        for start in np.arange(-high, wide, 7 * width * scale + 4):
            draw.line((start, high, start + high, 0), fill=(*colour, 130), width=max(1, width * scale // 2))

    _smoothly(picture, box, lines)


def _windows_of(masks: Tensor) -> Iterator[Window]:
    """The part of each bitmap `[N, H, W]` that holds its pixels."""
    for mask in masks:
        rows, columns = (mask.any(dim).nonzero().squeeze(1).tolist() or [0, -1] for dim in (1, 0))
        yield mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].bool(), (columns[0], rows[0])


def _paint_mask(picture: Image.Image, inside: np.ndarray, corner: tuple[int, int], colour: Colour, width: int) -> None:
    """The mask as a translucent area with a firm edge. inside: `[h, w]` bool, from the picture's pixel `corner` on."""
    if not inside.any():
        return
    core = _eroded(inside, max(1, width // 2))
    alpha = np.where(core, np.uint8(105), np.where(inside, np.uint8(235), np.uint8(0)))
    picture.paste(colour, (*corner, corner[0] + inside.shape[1], corner[1] + inside.shape[0]), Image.fromarray(alpha))


def _eroded(inside: np.ndarray, reach: int) -> np.ndarray:
    """`[h, w]` bool: the pixels with nothing outside in the square that reaches so far round them."""
    for axis in (0, 1):
        padded = np.pad(inside, [(reach, reach) if axis == side else (0, 0) for side in (0, 1)])
        shifted = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=axis)
        inside = np.logical_and.reduce(shifted, axis=-1)
    return inside


def _paint_keypoints(
    picture: Image.Image, points: Tensor, skeleton: Sequence[tuple[int, int]], colour: Colour, width: int, box: Box
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
        for rim, fill in ((1.0, (*INK, 150)), (0.0, (*colour, 255))):
            for start, end in skeleton:
                a, b = placed[start], placed[end]
                if a and b:
                    draw.line((*a, *b), fill=fill, width=round((thick + 2 * rim) * scale))
        for rim, fill in ((1.0, (*INK, 200)), (0.0, (*PAPER, 255)), (-0.35 * radius, (*colour, 255))):
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


# --- labels -------------------------------------------------------------------------------------------------------


@cache
def _font(size: int) -> Any:
    """Pillow's own scalable font: nothing to download, nothing to find."""
    return ImageFont.load_default(size)


def _label_places(
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


def _label(draw: ImageDraw.ImageDraw, caption: str, place: Box, colour: Colour, font: Any) -> None:
    x0, y0, x1, y1 = place
    draw.rounded_rectangle((x0, y0, x1 - 1, y1 - 1), radius=max(2, (y1 - y0) // 6), fill=(*colour, 235))
    light = _luminance(colour)
    ink = INK if (light + 0.05) ** 2 > (_luminance(INK) + 0.05) * 1.05 else PAPER  # the stronger contrast, WCAG 2.1
    draw.text(((x0 + x1) / 2, (y0 + y1) / 2), caption, fill=ink, font=font, anchor="mm")


def _luminance(colour: Colour) -> float:
    """Relative luminance in `[0, 1]` (WCAG 2.1)."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


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
