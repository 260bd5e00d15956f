"""`csv`: one row per detection, with x, y and score of each keypoint and the id of its track at its
end; holds no masks.

An image that could not be read has a row with its error. A cell that a spreadsheet would compute (it begins with =, +,
- or @ and is no number) begins with an apostrophe.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from aweigh.detections import Detections
from aweigh.errors import escaped
from aweigh.results.format import OneFile
from aweigh.results.jsonl import json_line, keypoint_names

COLUMNS = ("path", "width", "height", "x0", "y0", "x1", "y1", "score", "class", "category_id", "error")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


class Table:
    def __init__(self, stream: TextIO, _: Path | None) -> None:
        self._table = csv.writer(stream, lineterminator="\n")
        self._waiting: list[list[Any]] | None = []  # rows that came before the head could be written

    def add(self, detections: Detections, _: int) -> None:
        height, width = detections.size_hw
        if detections.error is not None:
            row = [_cell(detections.path or ""), *[""] * 9, _cell(detections.error)]
            self._table.writerow(row) if self._waiting is None else self._waiting.append(row)
            return
        self._write_head(keypoint_names(detections), tracked=detections.track_ids is not None)
        for found in json_line(detections, masks=False)["detections"]:
            what = [found["score"], _cell(found["class"]), found["category_id"], ""]
            points = [value for point in found.get("keypoints", ()) for value in point]
            track = [found["track_id"]] if "track_id" in found else []
            self._table.writerow([_cell(detections.path or ""), width, height, *found["box"], *what, *points, *track])

    def _write_head(self, keypoints: Sequence[str], *, tracked: bool = False) -> None:
        """The names of the columns, once it is known what a detection has, and the rows that waited for them."""
        if self._waiting is not None:
            points = [_cell(f"{name}_{what}") for name in keypoints for what in ("x", "y", "score")]
            self._table.writerows([[*COLUMNS, *points, *["track_id"] * tracked], *self._waiting])
            self._waiting = None

    def finish(self) -> None:
        self._write_head(())


def _cell(text: str) -> str:
    """A text as a cell of csv: on one line, and nothing that a spreadsheet takes for a formula."""
    text = escaped(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and not _NUMBER.fullmatch(text) else text


FORMAT = OneFile("detections.csv", Table, left_out=("masks", "cuboids"))
