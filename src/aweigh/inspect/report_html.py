"""The doctor's report as one page that needs nothing else: no script, no font and no image from elsewhere.

It shows the worst cases with their boxes drawn, small and embedded, and reads well in light and dark, on a telephone
and on paper.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from PIL import Image, ImageDraw

from aweigh.annotations.split import Split
from aweigh.errors import DataError, counted
from aweigh.images.decode import loaded, orientation, pixels_of, stored_wh
from aweigh.images.opening import opened
from aweigh.inspect.doctor import SIZE_EDGES, ClassCounts, Examination, example_lines
from aweigh.inspect.findings import Box, Example, Finding, by_kind, percent
from aweigh.page import page, table, text

PICTURES_PER_KIND, PICTURES_IN_ALL = 6, 120
SIDE = 340  # pixels, the long side of an embedded image
OTHERS_DRAWN = 1000  # boxes of the image beside the affected ones
ZOOM_BELOW, ZOOM = 0.12, 7.0  # boxes smaller than this part of the image are shown in a window this much larger
AFFECTED, SECOND, OTHERS = (255, 69, 58), (10, 190, 255), (255, 255, 255)
LEVEL_COLOURS = ("#4e79a7", "#59a14f", "#d6a800", "#b07aa1", "#9c755f", "#76b7b2", "#bab0ac")
NO_LEVEL = "#e0443e"


def report_html(
    title: str, splits: Mapping[str, Split], examination: Examination, fit: Mapping[str, Any] | None = None
) -> str:
    """The page. splits: those that were examined, for their images. fit: what `aweigh.inspect.fit` measured, as a
    dictionary; None to leave it out."""
    budget = [PICTURES_IN_ALL]
    body = [
        _head(title, examination),
        _findings(splits, examination, budget),
        _fit(fit, splits, budget) if fit is not None else "",
        _sizes(examination),
        _classes(examination),
    ]
    return page(f"{title}: data check", body)


# --- the parts of the page ----------------------------------------------------------------------------------------


def _head(title: str, examination: Examination) -> str:
    splits = examination.splits
    totals = {
        "images": sum(split.pictures for split in splits),
        "boxes": sum(split.boxes for split in splits),
        "classes": len(examination.classes),
        "without objects": sum(split.background for split in splits),
    }
    tiles = "".join(f"<div><b>{count:,}</b><span>{name}</span></div>" for name, count in totals.items())
    rows = []
    for split in splits:
        empty = f"{split.background:,}" + (f" ({split.looked_at:,} looked at)" if split.looked_at else "")
        lost = split.labels_lost + split.partly_lost
        unknown = f"{split.unknown:,}" + (f" ({lost:,} lost labels)" if lost else "")
        sizes = ", ".join(f"{width} x {height} ({times:,})" for width, height, times in split.picture_sizes[:3])
        ignored = f"{split.ignored:,}" + (f" and {split.uncertain:,} uncertain" if split.uncertain else "")
        cells = [split.layout, f"{split.pictures:,}", f"{split.boxes:,}", ignored, empty, unknown, sizes]
        rows.append([split.name, *cells])
    shown = table(
        ["split", "layout", "images", "boxes", "ignored", "empty", "not known", "commonest sizes"],
        rows,
        numbers={2, 3, 4},
    )
    state = "sound" if examination.sound else "error" if examination.count("error") else "warning"
    return (
        f"<header><p class=kicker>Data check</p><h1>{text(title)}</h1>"
        f'<p class="verdict {state}">{text(examination.verdict())}</p></header>\n'
        f"<div class=tiles>{tiles}</div>\n{shown}"
    )


def _findings(splits: Mapping[str, Split], examination: Examination, budget: list[int]) -> str:
    if not examination.findings:
        return "<section><h2>Findings</h2><p>Nothing to complain of.</p></section>"
    cards = []
    for group in by_kind(examination.findings):
        first = group[0]
        where = "".join(f"<li>{text(found.line())}</li>" for found in group)
        named = [line for found in group for line in example_lines(found, 10)]
        shown = figures(splits, group, budget)
        lines = "".join(f"<li>{text(line)}</li>" for line in named)
        opened = "" if shown else " open"
        details = f"<details{opened}><summary>By name</summary><ul class=names>{lines}</ul></details>" if named else ""
        gallery = f"<div class=gallery>{''.join(shown)}</div>" if shown else ""
        cards.append(
            f'<article class="{first.severity}"><h3><span class=tag>{first.severity}</span> {text(first.kind)}</h3>'
            f"<ul class=where>{where}</ul><p>{text(first.advice)}</p>{gallery}{details}</article>"
        )
    return "<section><h2>Findings</h2>\n" + "\n".join(cards) + "\n</section>"


def _fit(fit: Mapping[str, Any], splits: Mapping[str, Split], budget: list[int]) -> str:
    here = fit["here"]
    advice = "".join(f"<li>{text(line)}</li>" for line in fit["advice"])
    parts = [
        f"<section><h2>The objects as {text(fit['model'])} would see them</h2>",
        f"<p>Input: {_input_size(here['short'], here['long'])}. Test boxes are left out.</p>",
        f"<ul class=advice>{advice}</ul>",
    ]
    if any(map(any, fit["owners"])):
        names = [f"stride {level['stride']}" for level in fit["levels"]]
        colours = [LEVEL_COLOURS[index % len(LEVEL_COLOURS)] for index in range(len(names))]
        series = {name: [row[index] for row in fit["owners"]] for index, name in enumerate(names)}
        series["no level"] = [row[-1] for row in fit["owners"]]
        caption = "Size of the boxes at the input, and the level of the detector that would learn them"
        parts.append(stacked_bars(caption, _bins(), series, [*colours, NO_LEVEL]))
    elif any(fit["sizes"]):
        caption = "Size of the boxes at the input"
        parts.append(stacked_bars(caption, _bins(), {"boxes": fit["sizes"]}, LEVEL_COLOURS))
    if fit["trials"]:
        rows = [
            [
                trial["flags"] + (" (here)" if trial["flags"] == here["flags"] else ""),
                percent(trial["small"]),
                "-" if trial["best_possible_recall"] is None else percent(1 - trial["best_possible_recall"]),
                "-" if trial["ambiguous"] is None else percent(trial["ambiguous"]),
            ]
            for trial in fit["trials"]
        ]
        titles = ["input", "boxes under 8 px", "boxes no point learns", "ambiguous points"]
        note = "The last two columns are measured on the same few images at every size."
        parts.append(table(titles, rows, numbers={1, 2, 3}) + f"<p class=small>{note}</p>")
    drawn = []
    for box in fit["unowned"][:: max(1, len(fit["unowned"]) // PICTURES_PER_KIND)][:PICTURES_PER_KIND]:
        width, height = box["size_wh"]
        where = f"{box['file']}, annotation {box['annotation']}"
        caption = f"{where}: {width:.0f} x {height:.0f} px at the input, {box['reason']}"
        drawn.append(_figure(splits, [(box["split"], box["image"])], [tuple(box["box"])], caption, budget))
    if drawn := [figure for figure in drawn if figure]:
        parts.append(f"<h3>Boxes that no point would learn</h3><div class=gallery>{''.join(drawn)}</div>")
    return "\n".join([*parts, "</section>"])


def _input_size(short: int, long: int) -> str:
    """In words, 0 for no such limit."""
    if short:
        return f"short side {short}" + (f", long side at most {long}" if long else "") + " pixels"
    return f"long side {counted(long, 'pixel')}" if long else "the images in their own size"


def _sizes(examination: Examination) -> str:
    series = {split.name: list(split.sizes) for split in examination.splits}
    chart = stacked_bars("Size of the boxes in the original images", _bins(), series, LEVEL_COLOURS)
    return f"<section><h2>Sizes of the objects</h2>{chart}</section>"


def _classes(examination: Examination) -> str:
    names = [split.name for split in examination.splits]
    rows = sorted(examination.classes, key=lambda row: -sum(row.boxes.values()))
    most = {name: max((row.boxes[name] for row in rows), default=0) or 1 for name in names}

    def cells(row: ClassCounts) -> list[str]:
        bars = []
        for name in names:
            share = math.sqrt(row.boxes[name] / most[name])  # the root lets small classes be seen
            pictures = counted(row.pictures[name], "image")
            shape = f'<i style="width:{100 * share:.1f}%"></i><b>{row.boxes[name]:,}</b>'
            bars.append(f'<td class=bar title="{pictures}">{shape}</td>')
        return [f"<th scope=row>{text(row.name)}</th>", *bars]

    body = "".join(f"<tr>{''.join(cells(row))}</tr>" for row in rows)
    titles = "".join(f"<th scope=col>{text(name)}</th>" for name in ("class", *names))
    return (
        "<section><h2>Classes</h2><p class=small>Boxes per class, regions to ignore left out. The length of a bar "
        "grows with the square root.</p><div class=scroll><table class=classes>"
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


# --- images -----------------------------------------------------------------------------------------------------


def figures(splits: Mapping[str, Split], group: Sequence[Finding], budget: list[int]) -> list[str]:
    """The first cases of a finding drawn, taken from its splits in turn, as far as there is something to be seen."""
    cases = [case for found in group for case in found.examples[: 4 * PICTURES_PER_KIND // len(group)]]
    drawn: list[str] = []
    for case in cases:
        if len(drawn) == PICTURES_PER_KIND:
            break
        if figure := _example_figure(splits, case, budget):
            drawn.append(figure)
    return drawn


def _example_figure(splits: Mapping[str, Split], case: Example, budget: list[int]) -> str:
    if case.image is None:
        return ""
    places = [(case.split, case.image)] + ([case.beside] if case.beside is not None else [])
    return _figure(splits, places, case.boxes, case.line(), budget)


def _figure(
    splits: Mapping[str, Split],
    places: Sequence[tuple[str, int]],
    boxes: Sequence[Box],
    caption: str,
    budget: list[int],
) -> str:
    if budget[0] <= 0:
        return ""
    pictures = [draw_case(splits[name], row, boxes, side=SIDE // len(places)) for name, row in places]
    drawn = [picture for picture in pictures if picture is not None]
    if len(drawn) < len(places):
        return ""
    budget[0] -= len(drawn)
    shown = "".join(
        f'<img src="{_data_uri(picture)}" width={picture.width} height={picture.height} alt="" loading=lazy>'
        for picture in drawn
    )
    return f"<figure>{shown}<figcaption>{text(caption)}</figcaption></figure>"


def draw_case(split: Split, row: int, boxes: Sequence[Box], *, side: int = SIDE) -> Image.Image | None:
    """One image, or the part of it that matters, with these boxes marked and the others faint; None if unreadable.

    boxes: xyxy in the pixels of the annotations. One without a size, or outside, is marked by a ring where it is.
    """
    height, width = split.sizes_hw[row].tolist()
    path = split.paths[row]
    finite = [box for box in boxes if all(map(math.isfinite, box))]
    window = _window(finite, width, height)
    try:
        with opened(path) as image:
            stored = stored_wh(image)
            upright = stored[::-1] if orientation(image) >= 5 else stored
            as_stored = upright[0] * height != upright[1] * width  # another shape: annotated before the rotation
            whole = window == (0, 0, width, height)
            if whole:
                image.draft("RGB", (side, side))
            turn = loaded(image, "ignore" if as_stored else "apply", str(path))
            picture = Image.fromarray(pixels_of(image, turn, "auto", str(path)))
    except (DataError, OSError):
        return None
    scale_x, scale_y = picture.width / width, picture.height / height  # a draft, or another size than declared
    left, top, right, bottom = window
    part = picture.crop((round(left * scale_x), round(top * scale_y), round(right * scale_x), round(bottom * scale_y)))
    zoom = side / max(right - left, bottom - top)
    size = max(1, round((right - left) * zoom)), max(1, round((bottom - top) * zoom))
    part = part.resize(size, Image.Resampling.LANCZOS if zoom < 1 else Image.Resampling.NEAREST)

    draw = ImageDraw.Draw(part, "RGBA")
    others = split.boxes[int(split.first[row]) : int(split.first[row + 1])][:OTHERS_DRAWN].tolist()
    for box in others:
        if tuple(box) not in boxes:
            draw.rectangle(_placed(box, window, zoom), outline=(*OTHERS, 110))
    for number, box in reversed(list(enumerate(finite))):
        _mark(draw, _placed(box, window, zoom), AFFECTED if number == 0 else SECOND, part.size)
    return part


def _window(boxes: Sequence[Box], width: int, height: int) -> tuple[float, float, float, float]:
    """The part of the image to show: all of it, or the surroundings of boxes that would be too small to see."""
    if not boxes:
        return 0, 0, width, height
    xs = [min(max(x, 0), width) for box in boxes for x in box[::2]]
    ys = [min(max(y, 0), height) for box in boxes for y in box[1::2]]
    extent = max(max(xs) - min(xs), max(ys) - min(ys))
    if extent >= ZOOM_BELOW * max(width, height):
        return 0, 0, width, height
    reach = min(max(ZOOM * extent, 64), max(width, height))
    wide, high = min(reach, width), min(reach, height)
    left = min(max((max(xs) + min(xs) - wide) / 2, 0), width - wide)
    top = min(max((max(ys) + min(ys) - high) / 2, 0), height - high)
    return left, top, left + wide, top + high


def _placed(box: Sequence[float], window: tuple[float, float, float, float], zoom: float) -> tuple[float, ...]:
    """The box in the pixels of the part shown, its sides in order."""
    x0, x1 = sorted(((box[0] - window[0]) * zoom, (box[2] - window[0]) * zoom))
    y0, y1 = sorted(((box[1] - window[1]) * zoom, (box[3] - window[1]) * zoom))
    return x0, y0, x1, y1


def _mark(
    draw: ImageDraw.ImageDraw, box: tuple[float, ...], colour: tuple[int, int, int], size_wh: tuple[int, int]
) -> None:
    x0, y0, x1, y1 = box
    last = (size_wh[0] - 1, size_wh[1] - 1)
    inside = x0 < last[0] and y0 < last[1] and x1 > 0 and y1 > 0
    if inside and x1 - x0 >= 3 and y1 - y0 >= 3:
        corners = (max(x0, 0), max(y0, 0), min(x1, last[0]), min(y1, last[1]))
        around = (corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1)
        draw.rectangle(around, outline=(0, 0, 0, 150), width=1)
        draw.rectangle(corners, outline=colour, width=2 if min(x1 - x0, y1 - y0) > 12 else 1)
        return
    x, y = min(max((x0 + x1) / 2, 8), last[0] - 8), min(max((y0 + y1) / 2, 8), last[1] - 8)
    for radius, width, ink in ((9, 5, (0, 0, 0, 200)), (8, 3, colour)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=ink, width=width)


def _data_uri(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


# --- charts and tables --------------------------------------------------------------------------------------------


def stacked_bars(caption: str, bins: Sequence[str], series: Mapping[str, Sequence[int]], colours: Sequence[str]) -> str:
    """An inline SVG of bars, one per bin, each stacked of the series; with a legend and the numbers as a table."""
    totals = [sum(values) for values in zip(*series.values(), strict=True)]
    most, whole = max([*totals, 1]), max(1, sum(totals))
    wide, high, left, base = 720, 240, 8, 200
    step = (wide - 2 * left) / len(bins)
    shapes = []
    for index, name in enumerate(bins):
        x, y = left + index * step + 4, float(base)
        for (what, values), colour in zip(series.items(), colours, strict=False):
            tall = values[index] / most * (base - 26)
            y -= tall
            if tall > 0:
                tip = f"{name} px, {what}: {values[index]:,}"
                place = f'x="{x:.1f}" y="{y:.1f}" width="{step - 8:.1f}" height="{max(tall, 0.6):.1f}"'
                shapes.append(f'<rect {place} fill="{colour}"><title>{text(tip)}</title></rect>')
        middle = x + (step - 8) / 2
        if totals[index]:
            shapes.append(f'<text x="{middle:.1f}" y="{y - 6:.1f}" class=value>{percent(totals[index] / whole)}</text>')
        shapes.append(f'<text x="{middle:.1f}" y="{base + 18}" class=axis>{text(name)}</text>')
    shapes.append(f'<line x1="{left}" x2="{wide - left}" y1="{base}" y2="{base}" class=base />')
    shapes.append(f'<text x="{wide / 2}" y="{high - 4}" class=axis>pixels, square root of the area</text>')
    legend = "".join(
        f'<span><i style="background:{colour}"></i>{text(name)} {percent(sum(values) / whole)}</span>'
        for (name, values), colour in zip(series.items(), colours, strict=False)
    )
    rows = [[name, *(f"{values[index]:,}" for values in series.values())] for index, name in enumerate(bins)]
    shown = table(["pixels", *series], rows, numbers=set(range(1, len(series) + 1)))
    return (
        f"<figure class=chart><figcaption>{text(caption)}</figcaption>"
        f'<svg viewBox="0 0 {wide} {high}" role="img" aria-label="{text(caption)}; the numbers are below">'
        f"{''.join(shapes)}</svg><div class=legend>{legend}</div>"
        f"<details><summary>The numbers</summary>{shown}</details></figure>"
    )


def _bins() -> list[str]:
    return [f"{low}-{high}" for low, high in pairwise(SIZE_EDGES)] + [f"{SIZE_EDGES[-1]}+"]
