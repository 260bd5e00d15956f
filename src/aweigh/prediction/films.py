"""Drawn frames of videos, written into one video for each of these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.detections import Detections
from aweigh.errors import AweighError, DataError
from aweigh.video.decode import VideoFile, ffmpeg_errors
from aweigh.video.encode import VideoWriter, written_video
from aweigh.video.frames import Video


@dataclass(frozen=True)
class Film:
    """A video to write: the frames of `video`, drawn, in the file `target`."""

    video: Video
    target: Path


@dataclass(frozen=True, eq=False)
class Drawn:
    """What came of an image. film, picture: of a frame of a video where it goes, and uint8 `(H, W, 3)`, None where it
    is not drawn. error: why not."""

    result: Detections
    error: Exception | None = None
    film: Film | None = None
    picture: np.ndarray | None = None


def filmed(images: Iterable[Drawn], lost: Callable[[str, Exception], object]) -> Iterator[Detections]:
    """Pass all detections on, and write each frame among the images into its video then.

    lost: called with the name of an image or a video and the reason where it is not drawn.
    """
    with _Films(lost) as films:
        for each in images:
            if each.error is not None:
                lost(each.result.path or "", each.error)
            yield each.result
            films.add(each)
        films.finish()


class _Films:
    """The video that is written now. At an error elsewhere it is dropped."""

    def __init__(self, lost: Callable[[str, Exception], object]) -> None:
        self._lost = lost
        self._film: Film | None = None
        self._open = ExitStack()
        self._writer: VideoWriter | None = None
        self._failed = False

    def __enter__(self) -> _Films:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def add(self, drawn: Drawn) -> None:
        """Write a frame, if it is one; the video before it is whole then."""
        if drawn.film is not self._film:
            self.finish()
            self._film, self._failed = drawn.film, False
        if drawn.film is None or drawn.picture is None or self._failed:
            return
        try:
            if self._writer is None:
                self._writer = self._open.enter_context(_video_of(drawn.film, drawn.picture.shape[:2]))
            self._writer.add(drawn.picture, drawn.result.time or 0.0)
        except _errors() as error:
            self._drop(drawn.film, error)

    def finish(self) -> None:
        """The video is there from now on."""
        if self._film is None or self._writer is None:
            return
        sound, self._writer = self._writer.sound, None
        try:
            self._open.close()
            if sound is not None and sound.error is not None:
                raise DataError(sound.error)
        except _errors() as error:
            self._lost(self._film.video.name, error)

    def _drop(self, film: Film, error: Exception) -> None:
        self._failed, self._writer = True, None
        self._lost(film.video.name, error)
        with suppress(*_errors()):  # to end what cannot be written fails again
            self._open.__exit__(type(error), error, error.__traceback__)


def _video_of(film: Film, size_hw: tuple[int, ...]) -> AbstractContextManager[VideoWriter]:
    """With the sound of the part that is meant."""
    height, width = size_hw
    if not isinstance(film.video, VideoFile):
        return written_video(film.target, (height, width))
    choice = film.video.choice
    return written_video(film.target, (height, width), sound_of=film.video.path, start=choice.start, end=choice.end)


def _errors() -> tuple[type[Exception], ...]:
    return (AweighError, MemoryError, *ffmpeg_errors())
