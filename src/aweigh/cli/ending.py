"""Ending from outside, and a terminal that cannot show every letter: what holds for all commands alike."""

import io
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TextIO

from aweigh.errors import spelled_out

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Ended(KeyboardInterrupt):
    """A signal asked the process to end; what was being written is cleared away on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP end the process as Ctrl-C does: with `Ended`, so that nothing unfinished is left.

    A signal that the caller ignores (nohup) stays ignored. A second one does not disturb the clearing away; Ctrl-C
    does. Processes that read images inherit the handler, and end at once.
    """
    process = os.getpid()
    before: dict[int, Any] = {}

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise Ended(number)

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def shown_output() -> Iterator[None]:
    """Within it what is printed shows names as they are spelled: no control characters, and no letters that the
    encoding of the output does not have."""
    before = sys.stdout
    if isinstance(before, io.TextIOWrapper):
        before.reconfigure(errors="backslashreplace")
    sys.stdout = Shown(before)
    try:
        yield
    finally:
        sys.stdout = before


class Shown:
    """A text stream on which what cannot be printed is spelled out. rich writes its colours to the stream below."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream  # rich's own name for it

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(spelled_out(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)
