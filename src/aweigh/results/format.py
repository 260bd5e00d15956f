"""What a format of detections is: one file that is written as a stream, or a folder with a file for each image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from aweigh.detections import Detections


class Writer(Protocol):
    """Writes images one after the other to the stream that it was made with, and keeps no detections."""

    def add(self, detections: Detections, number: int) -> None:
        """The detections of an image, or why it could not be read."""

    def finish(self) -> None:
        """Write what comes at the end."""


@dataclass(frozen=True)
class OneFile:
    """file: what it is called in a folder. open: makes the writer, of a stream and of the path that it will have, None
    for standard output; a format that is no text writes to the stream's `buffer`. left_out: what else than boxes, of
    `masks`, `keypoints`, `cuboids` and `tracks`, has no place in it."""

    file: str
    open: Callable[[TextIO, Path | None], Writer]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileEach:
    """text: what the file of an image holds. ending: of its name. left_out: as of `OneFile`. class_list: whether
    `classes.txt` names the classes. file: what the folder is called in a folder."""

    text: Callable[[Detections], str]
    ending: str
    left_out: tuple[str, ...] = ()
    class_list: bool = False
    file: str = "labels"


Format = OneFile | FileEach


def shortest(values: Any) -> Any:
    """float32 values as the shortest decimals that read back the same: 0.3, not 0.30000001192092896."""
    array = np.asarray(values, dtype=np.float32)
    return np.array([float(str(value)) for value in array.reshape(-1)]).reshape(array.shape).tolist()
