"""A detector in NumPy that any process can make, and images for it: what a test of a cluster does many times."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tests.runtime.toy_engines import Spots

from aweigh.detections import Detections
from aweigh.images.resize import Resize
from aweigh.predictor import Predictor
from aweigh.runtime.engine import Batch

DEADLY = (32, 17)  # height and width of an image that a process dies of, where it is told so


def spotting(_: str = "") -> Predictor:
    """Finds bright spots."""
    return Predictor(Spots(), Resize(short=None, long=32))


@dataclass
class Dying(Spots):
    """Is killed by the system when it is given an image of this size."""

    def run(self, batch: Batch, *, flipped_classes: np.ndarray | None = None) -> list[Detections]:
        if DEADLY in batch.sizes_hw:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(batch, flipped_classes=flipped_classes)


def dying(_: str = "") -> Predictor:
    """Finds bright spots, and dies of an image of the deadly size."""
    return Predictor(Dying(), Resize(short=None, long=32))


def draw_spots(folder: Path, number: int, *, bad: int | None = None, deadly: int | None = None) -> list[Path]:
    """Images with a bright spot each, somewhere; one of them may be no image, and one of the deadly size."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index in range(number):
        height, width = DEADLY if index == deadly else (24, 32)
        pixels = np.zeros((height, width, 3), np.uint8)
        x, y = index % (width - 8), index * 3 % (height - 8)
        pixels[y : y + 6, x : x + 7, index % 3] = 255
        files.append(folder / f"{index:05d}.png")
        Image.fromarray(pixels).save(files[-1])
    if bad is not None:
        files[bad].write_bytes(b"no image")
    return files
