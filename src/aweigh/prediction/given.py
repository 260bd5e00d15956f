"""What a program gives as images: one, several, names that stand for several, a split of a data set."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aweigh.annotations.split import Split
from aweigh.images.reader import ImageSource, is_file, is_tensor
from aweigh.images.sources import images_of
from aweigh.images.sources.source import Images
from aweigh.images.stored import StoredImage


def sources(
    source: ImageSource | Split | Iterable[ImageSource], *, recursive: bool = False, allow_net: bool = False
) -> Iterable[ImageSource]:
    """The images a source stands for, in a fixed order: of a name `Images`, of a sequence the same, and of anything
    else what gives them one by one. `Predictor.stream` says what a source may be. `DataError` at once when there is
    nothing of that name.
    """
    if isinstance(source, str | Path):
        return images_of(source, recursive=recursive, allow_net=allow_net)
    if isinstance(source, Split):
        return Images(partial(map, Path, source.paths))
    if isinstance(source, StoredImage):
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
        and all(isinstance(image, str | Path | StoredImage | bytes | np.ndarray) for image in images)
    )


def begun(images: Iterable[ImageSource], batch: int) -> tuple[Iterable[ImageSource], bool]:
    """The images, and whether further ones can be read while a batch is computed."""
    if not isinstance(images, Images):
        return images, pays_ahead(images, batch)
    each = iter(images)
    first = [*islice(each, batch + 1)]
    return chain(first, each), len(first) > batch


def is_batch(source: object) -> bool:
    """Whether this is an array `(N, H, W, 3)` or a tensor `[N, 3, H, W]`."""
    several: Any = source
    return (isinstance(source, np.ndarray) or is_tensor(source)) and several.ndim == 4
