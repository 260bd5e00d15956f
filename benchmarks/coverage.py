"""Best possible recall and ambiguous points of FCOS on a data set, beside the paper's tables 1 and 2.

    python benchmarks/coverage.py DATA [DATA ...] --out benchmarks/results/coverage.md

The assignment is the one that trains (`aweigh.inspect.coverage.LevelRanges`), on images resized to 800 pixels for the
short side and 1333 at most, as in the paper. Four forms: all points inside a box (the base form, the paper's) or only
those near its centre (the improved form); five levels with their ranges, or level P4 alone.
"""

import argparse
import datetime
import math
import os
import platform
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

import aweigh
from aweigh.images.resize import Resize
from aweigh.inspect.coverage import LevelRanges, boxes_at_input, measure_coverage
from aweigh.layouts.load import find_splits, load_split

RANGES = ((0, 64), (64, 128), (128, 256), (256, 512), (512, math.inf))
IMPROVED, IMPROVED_P4 = LevelRanges((8, 16, 32, 64, 128), RANGES), LevelRanges((16,), ((0, math.inf),))
FORMS = {
    "base, with FPN": replace(IMPROVED, center_radius=None),
    "base, P4 only": replace(IMPROVED_P4, center_radius=None),
    "improved, with FPN": IMPROVED,
    "improved, P4 only": IMPROVED_P4,
}
# ICCV 2019, tables 1 and 2, percent: best possible recall, ambiguous, ambiguous between classes.
PAPER = {"base, with FPN": (98.40, 7.14, 3.75), "base, P4 only": (95.55, 23.16, 17.84)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="data set folders (COCO, VOC or YOLO)")
    parser.add_argument("--short", type=int, default=800)
    parser.add_argument("--long", type=int, default=1333)
    parser.add_argument("--out", type=Path, help="write the table there as well")
    arguments = parser.parse_args()

    resize = Resize(arguments.short, arguments.long)
    rows = [
        ("data", "form", "images", "boxes", "best possible recall", "ambiguous", "of different classes"),
        *(("COCO (the paper)", form, "", "", *map(percent, numbers)) for form, numbers in PAPER.items()),
    ]
    started = time.perf_counter()
    for folder in arguments.data:
        splits = [load_split(folder, name) for name in find_splits(folder) if name in ("train", "val")]
        for form, rule in FORMS.items():
            images = chain.from_iterable(boxes_at_input(split, resize) for split in splits)
            coverage = measure_coverage(images, rule)
            rows.append(
                (
                    f"{folder.name} ({' + '.join(split.name for split in splits)})",
                    form,
                    f"{sum(map(len, splits)):,}",
                    f"{coverage.boxes:,}",
                    percent(100 * coverage.best_possible_recall),
                    percent(100 * coverage.ambiguous_share),
                    percent(100 * coverage.ambiguous_classes_share),
                )
            )
    seconds = time.perf_counter() - started
    text = table(rows)
    print(text)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(report(text, resize, seconds), encoding="utf-8")


def percent(value: float) -> str:
    return f"{value:.2f} %" if value >= 0 else "-"


def table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def report(text: str, resize: Resize, seconds: float) -> str:
    return f"""# What FCOS's assignment can reach

{text}

Best possible recall: the share of boxes that at least one point learns. Ambiguous: the share of positive points that
could learn more than one box; of different classes: those whose boxes are not all of one class. Images resized to a
short side of {resize.short} and a long side of at most {resize.long}; crowd regions left out.

The paper's numbers are for COCO as a whole; the data sets here are small parts of it (coco_person holds persons
alone, so no two boxes differ in class, and some of its boxes are crowd regions). The same order of magnitude is what
can be expected; no claim of equality is made.

{datetime.date.today().isoformat()}; {os.cpu_count()} CPU cores ({platform.machine()}); Python \
{platform.python_version()}, numpy {np.__version__}, aweigh {aweigh.__version__}; {seconds:.0f} s for everything. Made \
by `benchmarks/coverage.py`.
"""


if __name__ == "__main__":
    main()
