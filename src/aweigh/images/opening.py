"""Image files as Pillow opens them: the header read, the pixels not yet, and whatever is wrong said in one line."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from aweigh.errors import DataError, counted
from aweigh.files import special
from aweigh.images.decode import BROKEN, line, quiet, stored_wh

FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")  # others may start programs
MAX_PIXELS = 178_956_970  # of an image that is read whole: where Pillow itself refuses, twice its MAX_IMAGE_PIXELS
MOST_PIXELS = 1 << 34  # of a file that is read by and by, ours: a day of a detector

_pillow_limit = threading.Lock()


@contextmanager
def opened(file: Path | BytesIO, max_pixels: int | None = None) -> Iterator[Image.Image]:
    """An image file as Pillow opens it, header read and pixels not yet; what Pillow prints meanwhile is not shown.

    max_pixels: of a larger one there is a `DataError`, see `refuse_larger`.
    """
    with quiet(), _opened(file) as image:
        refuse_larger(name_of(file), stored_wh(image)[::-1], MAX_PIXELS if max_pixels is None else max_pixels)
        yield image


def refuse_larger(name: str, size_hw: tuple[int, int], max_pixels: int) -> None:
    """`DataError` for an image of more pixels than this."""
    height, width = size_hw
    if width * height > max_pixels:
        raise DataError(
            f"{name}: {width} x {height} is more than {counted(max_pixels, 'pixel')}, too large to be read whole. "
            "Scale it down, look at it in tiles (--tile), for which it has to be a PNG or TIFF, or allow it with "
            "max_pixels."
        )


class Named(BytesIO):
    """The bytes of an image that has a name."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name


def name_of(file: Path | BytesIO) -> str:
    """What the file is called in messages."""
    return str(file) if isinstance(file, Path | Named) else "the image"


def _opened(file: Path | BytesIO) -> Image.Image:
    """The file opened by Pillow, header read, pixels not yet."""
    path = name_of(file)
    try:
        if isinstance(file, Path) and (kind := special(file)):
            raise DataError(
                f"{path}: this is {kind}, an image file was expected. Name a file{' in it' * file.is_dir()}."
            )
        return _of_any_size(file)
    except DataError:
        raise
    except FileNotFoundError as error:
        what = "this link leads nowhere" if os.path.islink(path) else "there is no such file"
        raise DataError(f"{path}: {what}. Check the path.") from error
    except MemoryError as error:
        raise DataError(f"{path}: there is not enough memory to open it ({line(error)}).") from error
    except PermissionError as error:
        raise DataError(f"{path}: no permission to read this file.") from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path}: the image is too large to read safely ({line(error)}). Scale it down, or cut it into pieces."
        ) from error
    except UnidentifiedImageError as error:
        what = "the file is empty (0 bytes)" if _is_empty(file) else "this is not an image that can be read"
        raise DataError(f"{path}: {what}. Use JPEG, PNG, TIFF, WebP or BMP, or remove it.") from error
    except BROKEN as error:
        raise DataError(
            f"{path}: the image cannot be opened ({line(error)}). Export it again, or remove it."
        ) from error


def _of_any_size(file: Path | BytesIO) -> Image.Image:
    """Opened up to `MOST_PIXELS`; the usual image needs no lock, since Pillow's own limit stays as it is."""
    try:
        return Image.open(file, formats=_formats())
    except Image.DecompressionBombError:
        with _pillow_limit:
            before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MOST_PIXELS // 2  # Pillow refuses twice as many
            try:
                return Image.open(file, formats=_formats())
            finally:
                Image.MAX_IMAGE_PIXELS = before


def _is_empty(file: Path | BytesIO) -> bool:
    return (file.stat().st_size if isinstance(file, Path) else file.getbuffer().nbytes) == 0


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]
