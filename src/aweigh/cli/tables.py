"""Tables at any width: aligned where they fit, else a line for each row. Nothing in them is cut off."""

import textwrap
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

GAP = 2  # blanks between two columns
NO_BREAK = "\xa0"


def print_table(
    console: "Console",
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] = (0,),
    bold: Collection[int] = (),
) -> None:
    """Print rows of texts under their titles; what goes to a file or another program may be of any width.

    titles, and each of rows: as many texts as there are columns; the first names the row. left: the columns that are
    aligned on the left, the others are on the right. bold: which rows stand out.
    """
    from rich.text import Text

    lines = _aligned(titles, rows, left)
    if console.is_terminal and max(map(len, lines)) > console.width:
        for row in rows:
            console.print(Text(_in_words(titles, row, console.width)), soft_wrap=True)
        return
    for number, line in enumerate(lines, start=-1):
        console.print(Text(line, style="bold" if number == -1 or number in bold else ""), soft_wrap=True)


def _aligned(titles: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    from rich.cells import cell_len, set_cell_size

    widths = [max(map(cell_len, column)) for column in zip(titles, *rows)]
    lines = []
    for row in (titles, *rows):
        cells = [
            set_cell_size(text, width) if index in left else " " * (width - cell_len(text)) + text
            for index, (text, width) in enumerate(zip(row, widths))
        ]
        lines.append((" " * GAP).join(cells).rstrip())
    return lines


def _in_words(titles: Sequence[str], row: Sequence[str], width: int) -> str:
    """ "name: title cell, title cell", broken between cells; an empty cell is not named."""
    said = [f"{title} {cell}".replace(" ", NO_BREAK) for title, cell in zip(titles[1:], row[1:]) if cell]
    name = row[0].replace(" ", NO_BREAK)
    text = f"{name}{',' if ':' in name else ':'} {', '.join(said)}" if said else name
    lines = textwrap.wrap(text, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace(NO_BREAK, " ")
