"""What commands say beside their results: texts in one line, remarks and progress on the error stream."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aweigh.errors import printable

if TYPE_CHECKING:
    from rich.console import Console


def one_line(text: str) -> str:
    """The text with every run of white space, line ends included, as one space, and nothing that moves a cursor."""
    return " ".join(printable(part) for part in text.split())


def output() -> "Console":
    """The console for results: the output stream, texts as they are."""
    from aweigh.console import SafeConsole

    return SafeConsole(highlight=False, markup=False, emoji=False)


def log() -> "Console":
    """The console for progress and remarks: the error stream, so that the output stream carries results alone."""
    from aweigh.console import SafeConsole

    return SafeConsole(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


@contextmanager
def bar(description: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A progress bar on the error stream, where that is a terminal; call it with the number done, and with that of all
    where it was not known before. Gone at the end."""
    from rich.progress import Progress

    console = log()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done, total=None: progress.update(task, completed=done, total=total)


def write_numbers(file: Path, numbers: Mapping[str, Any]) -> None:
    """As JSON; folders that are not there are made."""
    from aweigh.files import write_text

    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(numbers, indent=2) + "\n")
    log().print(f"Numbers: {file}")
