"""Ending a run from outside: Ctrl-C, or the signal that a cluster sends before it takes a machine back."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """The run was asked to end, and has saved its state."""


class Interrupts:
    """Within the block the first SIGINT, SIGTERM or SIGHUP sets `wanted`, for the loop to end after the step under way.

    tell: called then, to let the user know. The second ends at once, as Ctrl-C does. Outside the main thread, where
    Python allows no handlers, nothing changes. Processes that read images inherit the handler, and leave it to us.
    """

    def __init__(self, tell: Callable[[], object]) -> None:
        self.wanted = False
        self._tell = tell
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            ignored = [number for number in SIGNALS[2:] if signal.getsignal(number) is signal.SIG_IGN]  # nohup
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS if number not in ignored}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
        self._tell()
