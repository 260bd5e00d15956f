"""Where progress, tables and remarks are shown: names from files cannot move the cursor of a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from aweigh.errors import spelled_out


class SafeConsole(Console):
    """A console whose texts are shown as they are spelled; only rich itself colours and moves the cursor."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(spelled_out(segment.text), segment.style)
