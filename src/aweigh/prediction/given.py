"""What a program gives as images: one, several, names that stand for several, a split of a data set.

And what a result says of its image, whatever it was given as.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aweigh.annotations.split import Split
from aweigh.detections import Detections
from aweigh.errors import AweighError
from aweigh.images.reader import ImageSource, is_file, is_tensor
from aweigh.images.sources import images_of
from aweigh.images.sources.source import Images
from aweigh.images.stored import StoredImage
from aweigh.video.frames import ALL_FRAMES, FrameChoice, VideoFrame


def sources(
    source: ImageSource | Split | Iterable[ImageSource],
    *,
    recursive: bool = False,
    allow_net: bool = False,
    frames: FrameChoice = ALL_FRAMES,
) -> Iterable[ImageSource]:
    """The images a source stands for, in a fixed order: of a name `Images`, of a sequence the same, and of anything
    else what gives them one by one. `Predictor.stream` says what a source may be. `DataError` at once when there is
    nothing of that name.
    """
    if isinstance(source, str | Path):
        return images_of(source, recursive=recursive, allow_net=allow_net, frames=frames)
    if isinstance(source, Split):
        return Images(partial(map, Path, source.paths))
    if isinstance(source, StoredImage | VideoFrame):
        return [source]
    if isinstance(source, np.ndarray) or is_tensor(source):
        images: Any = source
        return [*images] if is_batch(images) else [images]
    if isinstance(source, Image.Image | bytes | bytearray | memoryview) or is_file(source):
        one: Any = source
        return [one]
    several: Iterable[Any] = source
    return several if isinstance(several, list | tuple | Images) else iter(several)


def pays_ahead(images: Iterable[ImageSource], batch: int) -> bool:
    """Whether further images can be read while a batch is computed: they are there already, and threads may read them.

    Images of Pillow and open files belong to the thread of the caller.
    """
    return (
        isinstance(images, list | tuple)
        and len(images) > batch
        and all(isinstance(image, str | Path | StoredImage | VideoFrame | bytes | np.ndarray) for image in images)
    )


def begun(images: Iterable[ImageSource], batch: int) -> tuple[Iterable[ImageSource], int, bool]:
    """The images, how many at a time, and whether further ones can be read while a batch is computed."""
    if not isinstance(images, Images):
        return images, batch, pays_ahead(images, batch)
    if images.live:
        return images, 1, False
    each = iter(images)
    first = [*islice(each, batch + 1)]
    return chain(first, each), batch, len(first) > batch


def path_of(image: ImageSource) -> str | None:
    """What an image is called in results; None where it has no name."""
    return str(image) if isinstance(image, str | Path | StoredImage | VideoFrame) else None


def of_image(result: Detections, image: ImageSource) -> Detections:
    """The detections with the name of their image, and with the number and the time of a frame."""
    if isinstance(image, VideoFrame):
        return replace(result, path=str(image), frame_number=image.number, time=image.time)
    return replace(result, path=path_of(image))


def reason(error: Exception, image: ImageSource) -> str:
    """What is wrong with an image, in words."""
    if isinstance(error, AweighError):
        return str(error)
    return f"{path_of(image) or 'the image'}: there is not enough memory to look at it. Choose a smaller --resize."


def is_batch(source: object) -> bool:
    """Whether this is an array `(N, H, W, 3)` or a tensor `[N, 3, H, W]`."""
    several: Any = source
    return (isinstance(source, np.ndarray) or is_tensor(source)) and several.ndim == 4
