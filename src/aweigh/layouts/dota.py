"""DOTA's text files: a line for each object, four corners, a class and whether it is difficult.

    imagesource:GoogleEarth
    gsd:0.146343
    x1 y1 x2 y2 x3 y3 x4 y4 ship 0

Boxes here are upright: the one around the four corners is used, and said. The two lines at the head may be missing.
A file without a line says that somebody looked and found nothing.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np

from aweigh.annotations.problems import CHANGED, DROPPED, SKIPPED, Problem
from aweigh.annotations.records import as_number
from aweigh.errors import DataError, printable
from aweigh.files import read_text
from aweigh.layouts.drawn import Drawn, Shape, read_drawn
from aweigh.layouts.finding import annotation_folders, in_order, picture_folders
from aweigh.layouts.layout import Layout, SplitFiles


def find(root: Path) -> dict[str, SplitFiles]:
    """`labelTxt/` beside `images/`, in the folder or in those of the splits; MMRotate calls it `annfiles/`."""
    folders = [root, *sorted(entry for entry in root.iterdir() if entry.is_dir())]
    names = dict.fromkeys(entry.name for folder in folders for entry in sorted(folder.iterdir()) if _is_named(entry))
    found = annotation_folders(root, tuple(names), _holds)
    return in_order({name: _files(name, folder, root) for name, folder in found.items()})


def by_hand(annotations: Path, name: str) -> SplitFiles | None:
    """A folder of DOTA's files; None where it is none."""
    return _files(name, annotations, annotations.parent) if _is_named(annotations) and _holds(annotations) else None


def _files(name: str, folder: Path, root: Path) -> SplitFiles:
    return SplitFiles(name, "dota", folder, picture_folders(folder, root))


def _is_named(entry: Path) -> bool:
    name = entry.name.casefold()
    return entry.is_dir() and (name.startswith("labeltxt") or name == "annfiles")


def _holds(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*.txt"))


def _parse(files: SplitFiles, problems: list[Problem]) -> list[Drawn]:
    drawn = []
    for file in sorted(files.annotations.glob("*.txt")):
        try:
            lines = read_text(file).splitlines()
        except DataError as error:
            problems.append(Problem("annotation file unreadable", file.name, None, str(error), SKIPPED))
            continue
        picture = Drawn((f"{file.stem}.png",), file.name, looked_at=True)
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.casefold().lstrip("\ufeff ").startswith(("imagesource", "gsd", "acquisition")):
                continue
            shape = _shape(line, f"line {number}", file.name, problems)
            if shape is None:
                picture.lost = True
            else:
                picture.shapes.append(shape)
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


LAYOUT = Layout(looks_for="DOTA (labelTxt/*.txt)", find=find, by_hand=by_hand, read=partial(read_drawn, _parse))
