"""DOTA's text files: a line for each object, four corners, a class and whether it is difficult.

    imagesource:GoogleEarth
    gsd:0.146343
    x1 y1 x2 y2 x3 y3 x4 y4 ship 0

Boxes here are upright: the one around the four corners is used, and said. The two lines at the head may be missing.
A file without a line says that somebody looked and found nothing.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from aweigh.annotations.problems import CHANGED, DROPPED, Problem
from aweigh.annotations.records import as_number
from aweigh.errors import printable
from aweigh.files import read_text
from aweigh.layouts.drawn import Drawn, Places, Shape, drawn_layout, each_file
from aweigh.layouts.finding import annotation_folders
from aweigh.layouts.layout import SplitFiles

_HEAD = ("imagesource", "gsd", "acquisition")


def _find(root: Path) -> dict[str, Path]:
    """`labelTxt/` beside `images/`, in the folder or in those of the splits; MMRotate calls it `annfiles/`."""
    folders = [root, *sorted(entry for entry in root.iterdir() if entry.is_dir())]
    names = dict.fromkeys(entry.name for folder in folders for entry in sorted(folder.iterdir()) if _is_named(entry))
    return annotation_folders(root, tuple(names), _holds)


def _is_named(entry: Path) -> bool:
    name = entry.name.casefold()
    return entry.is_dir() and (name.startswith("labeltxt") or name == "annfiles")


def _holds(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*.txt"))


def _parse(files: SplitFiles, problems: list[Problem]) -> list[Drawn]:
    drawn = []
    for file, text in each_file(files.annotations, "*.txt", read_text, problems):
        picture = Drawn((f"{file.stem}.png",), file.name, looked_at=True)
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip() and not line.casefold().lstrip("\ufeff ").startswith(_HEAD):
                picture.add(_shape(line, f"line {number}", file.name, problems))
        drawn.append(picture)
    return drawn


def _shape(line: str, mark: str, where: str, problems: list[Problem]) -> Shape | None:
    words = line.replace(",", " ").split()
    values = [as_number(word) for word in words[:8]]
    if len(words) not in (9, 10) or not all(map(math.isfinite, values)):
        detail = f"expected 'x1 y1 x2 y2 x3 y3 x4 y4 class difficult', got {printable(line)[:60]!r}"
        problems.append(Problem("unreadable line", where, mark, detail, DROPPED))
        return None
    corners = np.array(values).reshape(4, 2)
    low, high = corners.min(axis=0), corners.max(axis=0)
    if not (np.isclose(corners, low) | np.isclose(corners, high)).all():
        problems.append(Problem("rotated box", where, mark, "the upright box around it is used", CHANGED))
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    return Shape(
        printable(words[8]), mark, box, difficult=len(words) == 10 and as_number(words[9], 0.0) > 0, corners=corners
    )


LAYOUT = drawn_layout(
    "dota",
    "DOTA (labelTxt/*.txt)",
    _parse,
    Places(_find, lambda folder: folder if _is_named(folder) and _holds(folder) else None),
)
