"""What a run over many images has found, in numbers, and what could not be read, drawn or written as it should."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aweigh.detections import Detections


@dataclass
class Summary:
    """file: that of the detections (a folder, where the format has a file for each image), None for the output stream.

    images: how many there were, failed: those that could not be read, done_before: those that a run that was stopped
    had done. objects: how many of each class. not_drawn: images whose drawing failed. without_camera: images whose
    camera is not known. renamed: the first images whose file of detections is not called as they are, each with its
    name, renamed_count: how many there are. finished_before: there was nothing to go on with. seconds: since the run
    began.
    """

    file: Path | None
    images: int = 0
    failed: int = 0
    done_before: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    not_drawn: int = 0
    without_camera: int = 0
    renamed: list[str] = field(default_factory=list)
    renamed_count: int = 0
    finished_before: bool = False
    seconds: float = 0.0

    def watched(self, results: Iterable[Detections], remark: Callable[[str], object]) -> Iterator[Detections]:
        """The same results, counted on their way. remark: is told of each image that could not be read."""
        started = time.perf_counter()
        for result in results:
            self.images += 1
            self.objects.update(result.names)
            self.without_camera += result.camera is None and result.error is None
            if result.error is not None:
                self.failed += 1
                remark(f"left out: {result.error}")
            yield result
            self.seconds = time.perf_counter() - started
