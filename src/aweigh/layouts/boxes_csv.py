"""A CSV of boxes: one box a line, columns by name, as TensorFlow's tutorials, Roboflow and many scripts write it.

    filename,width,height,class,xmin,ymin,xmax,ymax
    images/train/a.jpg,640,480,cat,10,20,110,220

Columns come in any order and spelling of those below, between commas, semicolons or tabs; a file without such a head is
none. Corners are pixels, taken as they are. A line with an image alone says that somebody looked and found nothing.
Class names come from `classes.txt` or `labels.txt` beside the file, if there is one. The file is `train.csv`,
`train_labels.csv`, `train/_annotations.csv` or one CSV alone, in the folder or in those inside.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aweigh.annotations.flat import Packed
from aweigh.annotations.problems import DROPPED, SKIPPED, Problem
from aweigh.annotations.records import as_number, as_side
from aweigh.annotations.split import Split
from aweigh.errors import DataError, counted, printable
from aweigh.files import read_text
from aweigh.layouts.drawn import Drawn, Places, Shape, drawn_layout
from aweigh.layouts.finding import annotation_files, head_of, listed_names
from aweigh.layouts.layout import MaskChoice, SplitFiles, Writing
from aweigh.layouts.writing import (
    AREAS,
    IGNORED,
    SHAPES,
    decimal,
    has_file,
    is_object,
    lost_beside_boxes,
    united_names,
    write_text,
)

# Names of columns in small letters without signs, so that "X_Min" is "xmin"; the first that is there is taken.
_PICTURE = (
    "filename",
    "image",
    "imagepath",
    "path",
    "filepath",
    "file",
    "imagename",
    "imagefilename",
    "img",
    "imageid",
)
_LABEL = ("class", "label", "classname", "labelname", "name", "category", "categoryname")
_CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("x0", "y0", "x1", "y1"),
            ("left", "top", "right", "bottom"))  # fmt: skip
_SIDES = (("x", "y", "w", "h"), ("x", "y", "width", "height"), ("xmin", "ymin", "width", "height"),
          ("left", "top", "width", "height"), ("bboxx", "bboxy", "bboxwidth", "bboxheight"))  # fmt: skip
_SIZE = (("height", "width"), ("imageheight", "imagewidth"), ("imgheight", "imgwidth"))


def _with_names(files: SplitFiles) -> SplitFiles:
    """Also the images in folders of the split's name, and the classes that a file beside the CSV names."""
    own = [folder / files.name for folder in files.images if (folder / files.name).is_dir()]
    beside = files.annotations.parent
    names = listed_names(beside / "classes.txt", beside / "labels.txt")
    return replace(files, images=(*own, *files.images), names=names)


@dataclass(frozen=True)
class _Columns:
    """Where in a line each thing is, None where nowhere. box: corners, or with `sides` the first and width and height.
    size: height and width of the image."""

    picture: int | None
    label: int | None
    box: tuple[int, ...] | None
    sides: bool
    size: tuple[int, ...] | None

    @classmethod
    def of(cls, head: Sequence[str]) -> _Columns:
        names = [re.sub(r"[\W_]", "", name.casefold()) for name in head]

        def places(*choices: tuple[str, ...]) -> tuple[int, ...] | None:
            held = next((choice for choice in choices if {*choice} <= {*names}), None)
            return None if held is None else tuple(names.index(name) for name in held)

        def first(choices: tuple[str, ...]) -> int | None:
            return next((names.index(name) for name in choices if name in names), None)

        corners = places(*_CORNERS)
        box = corners or places(*_SIDES)
        size = next((size for each in _SIZE if (size := places(each)) and not {*size} & {*(box or ())}), None)
        return cls(first(_PICTURE), first(_LABEL), box, corners is None, size)

    def missing(self) -> list[str]:
        """What every line has to say and no column does, each with the names that are looked for."""
        wanted = {
            f"image ({', '.join(_PICTURE)})": self.picture,
            f"class ({', '.join(_LABEL)})": self.label,
            f"box ({'; '.join(', '.join(names) for names in (*_CORNERS, *_SIDES))})": self.box,
        }
        return [name for name, place in wanted.items() if place is None]


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line and its number, the head first."""
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count))
    for cells in reader:
        if any(cells):
            yield reader.line_num, [cell.strip() for cell in cells]


def _head(file: Path) -> list[str]:
    """The names of the columns; none where it is no text of that kind."""
    try:
        return next(_lines(head_of(file).partition(b"\n")[0].decode("utf-8", "replace")), (0, []))[1]
    except csv.Error:
        return []


def _parse(files: SplitFiles, problems: list[Problem]) -> list[Drawn]:
    file, where = files.annotations, files.annotations.name
    try:
        lines = [*_lines(read_text(file))]
    except (csv.Error, ValueError) as error:
        raise DataError(f"{file}: cannot be read as CSV ({error}).") from error
    head = lines[0][1] if lines else []
    columns = _Columns.of(head)
    if missing := columns.missing():
        raise DataError(
            f"{file}: no column names the {' nor the '.join(missing)}; its first line has to name the columns, and "
            f"has {printable(', '.join(head)) or 'nothing'}."
        )
    drawn: dict[str, Drawn] = {}
    for number, cells in lines[1:]:
        _add(drawn, columns, cells + [""] * (len(head) - len(cells)), where, f"line {number}", problems)
    return list(drawn.values())


def _add(
    drawn: dict[str, Drawn], columns: _Columns, cells: Sequence[str], where: str, mark: str, problems: list[Problem]
) -> None:
    """What one line says, to the images by name."""
    assert columns.picture is not None and columns.label is not None and columns.box is not None
    name, label, box = cells[columns.picture], cells[columns.label], [cells[place] for place in columns.box]
    if not name:
        problems.append(Problem("unreadable record", where, mark, "it names no image", SKIPPED))
        return
    picture = drawn.setdefault(name, Drawn((name,), where, looked_at=True))
    if columns.size is not None and picture.size_hw == (0, 0):
        height, width = (as_side(cells[place]) for place in columns.size)
        picture.size_hw = (height, width)
    if not label and not any(box):
        return
    x, y, right, bottom = (as_number(cell) for cell in box)
    if columns.sides:
        right, bottom = x + right, y + bottom
    if label and all(map(math.isfinite, (x, y, right, bottom))):
        picture.shapes.append(Shape(printable(label), mark, (x, y, right, bottom)))
    else:
        detail = f"a class and four numbers are expected, got {printable(', '.join([label, *box]))[:60]!r}"
        problems.append(Problem("unreadable line", where, mark, detail, DROPPED))
        picture.lost = True


def write(splits: Mapping[str, Split], names: Mapping[str, Packed[str]], out: Path, _: MaskChoice) -> list[str]:
    write_text(out / "classes.txt", "".join(f"{name}\n" for name in united_names(splits)))
    for key, split in splits.items():
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"))
        objects, annotated = is_object(split), has_file(split)
        for row, name in enumerate(names[key]):
            height, width = split.sizes_hw[row].tolist()
            picture = [f"images/{key}/{name}", width, height]
            numbers = [one for one in range(split.first[row], split.first[row + 1]) if objects[one]]
            for number in numbers:
                label = split.classes.names[int(split.labels[number])]
                table.writerow([*picture, label, *(decimal(side, 7) for side in split.boxes[number].tolist())])
            if annotated[row] and not numbers:
                table.writerow([*picture, *[""] * 5])
        write_text(out / f"{key}.csv", text.getvalue())
    return []


def cannot_hold(splits: Mapping[str, Split], _: MaskChoice) -> list[str]:
    count = sum(int((~has_file(split)).sum()) for split in splits.values())
    line = f"never labelled: {counted(count, 'image')} that nobody labelled, or whose labels are all lost, not listed"
    return lost_beside_boxes(splits, IGNORED | SHAPES | AREAS) + [line] * bool(count)


LAYOUT = drawn_layout(
    "csv",
    "CSV (train.csv with a box a line, columns by name)",
    _parse,
    Places(
        lambda root: annotation_files(root, ("*.csv",), lambda file: _Columns.of(_head(file)).box is not None),
        lambda file: file if file.is_file() and file.suffix.lower() == ".csv" else None,
    ),
    completed=_with_names,
    writing=Writing(write, cannot_hold, file_each=False),
)
