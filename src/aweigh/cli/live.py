"""What is particular to cameras and streams on the command line: they end when the user says so, and what came late is
told."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from aweigh.cli.terminal import log


@contextmanager
def until_interrupted(source: object) -> Iterator[None]:
    """Ctrl-C, or being told to end, ends live images, and what was found is written; a second time it ends the command.

    Lines on the output stream are then written one by one. At the end it says how many frames came too late.
    """
    from aweigh.images.sources.source import Images
    from aweigh.video.live import LiveVideo

    if not isinstance(source, Images) or not source.live:
        yield
        return
    videos = [video for video in source.each() if isinstance(video, LiveVideo)]
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: FrameType | None) -> None:
        restore()
        for video in videos:
            video.stop()

    for number in before:
        signal.signal(number, stop)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    try:
        yield
    finally:
        restore()
        for video in videos:
            log().print(video.report())
