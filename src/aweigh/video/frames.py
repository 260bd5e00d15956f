"""A frame of a video as an image: its pixels, its number and its time; and which frames of a video are meant."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from aweigh.errors import DataError, UsageError


class Video(Protocol):
    """A file, a camera or a stream.

    name: as it was given. path: of the file, or of one that what has no file could be called. live: whether frames come
    by themselves, and those that nobody takes in time are gone.
    """

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def live(self) -> bool: ...

    def frames(self) -> Iterator[VideoFrame]:
        """Those that are meant, in the order shown. What is wrong with one is said where its pixels are asked for."""


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """number: from 0, in the order shown, also of frames that are left out. time: seconds after the first frame.
    size_hw: of the upright frame. decoded: gives the pixels; `DataError` where that cannot be.
    """

    video: Video
    number: int
    time: float
    size_hw: tuple[int, int]
    decoded: Callable[[], np.ndarray]

    @cached_property
    def pixels(self) -> np.ndarray:
        """uint8 `(H, W, 3)`, RGB, upright; not to be written to."""
        pixels = self.decoded()
        pixels.flags.writeable = False
        return pixels

    def __str__(self) -> str:
        """`clip.mp4/000012`: what no other frame is called."""
        return f"{self.video.name}/{self.number:06d}"


def lost_frame(video: Video, number: int, time: float, why: str) -> VideoFrame:
    """In the place of a frame that cannot be had: its error."""

    def refuse() -> np.ndarray:
        raise DataError(why)

    return VideoFrame(video, number, time, (0, 0), refuse)


@dataclass(frozen=True)
class FrameChoice:
    """Which frames are meant: each `every`-th by its number, from second `start` until before second `end`."""

    every: int = 1
    start: float = 0.0
    end: float = math.inf

    @classmethod
    def of(cls, every: int = 1, start: str | float = 0.0, end: str | float = math.inf) -> FrameChoice:
        """Checked. Times are seconds, or `minutes:seconds`, or `hours:minutes:seconds`; `UsageError` for others."""
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise UsageError(f"every = {every!r}: expected a whole number from 1, as 5 for every fifth frame.")
        begins, ends = _seconds("start", start), _seconds("end", end)
        if not begins < ends:
            raise UsageError(f"start = {begins:g} s, end = {ends:g} s: the end has to be later.")
        return cls(every, begins, ends)

    def takes(self, number: int, time: float) -> bool:
        return number % self.every == 0 and self.start <= time < self.end


ALL_FRAMES = FrameChoice()


def _seconds(name: str, value: str | float) -> float:
    text = str(value).strip()
    if re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?", text):
        return float(sum(float(part) * 60**power for power, part in enumerate(reversed(text.split(":")))))
    if value == math.inf:
        return math.inf
    raise UsageError(f"{name} = {value}: expected seconds, as 90 or 90.5, or 1:30, or 0:01:30.")
