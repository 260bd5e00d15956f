"""One reader for every image: training, evaluation and prediction see the same pixels.

The result is always a uint8 array `(H, W, 3)`, RGB. Choices made here, once:

- The EXIF orientation is applied (`exif="apply"`), so that a photograph is upright.
- Grey, grey with alpha, palette, palette with transparency, RGBA, CMYK and one-bit images become RGB. What is
  transparent is laid over white.
- 16-bit, 32-bit and floating-point images are scaled from their declared range to 0..255 and never clipped
  silently: 16-bit integers are declared by their type (0..65535), floats are taken as 0..1 when they lie in it, and
  anything else asks for `value_range`, which maps lo to 0 and hi to 255; values beyond it saturate. Images of 8
  bits are what they are, whatever `value_range` says.
- Of a file with several frames the first is read.

- An image too large for the memory is refused like a damaged one: the error names it, and the others are read.

`read_reduced` is for those who scale the image down anyway: a JPEG that is much larger than they need is decoded at
a half, a quarter or an eighth of its size, which takes a fraction of the time; a file of another format is reduced so
from 33 megapixels on, which bounds the memory. `read_image` gives every pixel.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from aweigh.errors import DataError, UsageError, counted
from aweigh.files import special
from aweigh.images.decode import (
    BACKGROUND,
    BROKEN,
    STRIP,
    ValueRange,
    declared_range,
    line,
    loaded,
    orientation,
    pixels_of,
    quiet,
    stored_wh,
    to_8_bits,
)
from aweigh.images.stored import StoredImage
from aweigh.video.frames import VideoFrame

if TYPE_CHECKING:
    from torch import Tensor

ImageSource: TypeAlias = "str | Path | StoredImage | VideoFrame | bytes | IO[bytes] | Image.Image | np.ndarray | Tensor"
SizeRule = Callable[[int, int], tuple[int, int]]  # height and width of a whole image -> those it is needed in

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm", ".jp2", ".avif")
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")  # others may start programs
MAX_PIXELS = 178_956_970  # where Pillow itself refuses: twice its MAX_IMAGE_PIXELS
TOO_LARGE = "Scale it down, or allow it with max_pixels."
LARGE = 1 << 25  # pixels: a larger file of any format is reduced while it is converted, where it is much too large

# An image decoded at reduced size keeps at least so many times the sides that are needed. Scaled down from there, 200
# photographs of COCO with detail down to the pixel are 0.7 grey levels (of 255) beside the whole image scaled down,
# 1.8 at most, each on average over its pixels; with a margin of 1 it is 2.8 and 6.6. Pillow's thumbnails use 2 as well.
REDUCED_MARGIN = 2.0
REDUCTIONS = (8, 4, 2)  # that libjpeg offers

_pillow_limit = threading.Lock()


def read_image(
    source: ImageSource,
    *,
    exif: Literal["apply", "ignore"] = "apply",
    value_range: ValueRange = "auto",
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Any image as a uint8 array `(H, W, 3)`, RGB.

    source: a path, an image in an archive or at an address, a frame of a video, the bytes of a file, a file opened for
    reading bytes, a PIL image, an array `(H, W)`, `(H, W, 1)`, `(H, W, 3)` or `(H, W, 4)`, or a tensor of torch
    `[3, H, W]`, `[4, H, W]`, `[1, H, W]` or `[H, W]`. exif: whether the orientation of a photograph is applied.
    value_range: `(lo, hi)` of the values that become 0 and 255, for images of more than 8 bits. max_pixels: larger
    images are refused.
    """
    pixels, _ = read_reduced(source, None, exif=exif, value_range=value_range, max_pixels=max_pixels)
    return pixels


def read_reduced(
    source: ImageSource,
    needed: SizeRule | None,
    *,
    exif: Literal["apply", "ignore"] = "apply",
    value_range: ValueRange = "auto",
    max_pixels: int = MAX_PIXELS,
) -> tuple[np.ndarray, tuple[int, int]]:
    """An image in no less than twice the size that is needed, and the height and width of the whole.

    needed: from the height and width of the whole (upright) image to those it is going to be scaled to; None: every
    pixel. The array is uint8 `(h, w, 3)`, RGB. What is at x in the whole is at `x / reduction`
    in it, see `reduction`. JPEG files are reduced, and those of other formats of more than 33 megapixels.
    """
    check_reading(exif, value_range)
    if isinstance(source, str | Path):
        return _from_file(Path(source), needed, exif, value_range, max_pixels)
    if isinstance(source, StoredImage):
        return _from_file(_Named(source.read(), source.name), needed, exif, value_range, max_pixels)
    if isinstance(source, VideoFrame):
        _check_pixels(str(source), *source.size_hw, max_pixels)
        return source.pixels, source.size_hw
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_file(BytesIO(source), needed, exif, value_range, max_pixels)
    if is_file(source):
        return _from_file(_in_memory(source), needed, exif, value_range, max_pixels)
    if is_tensor(source):
        pixels = _from_array(_channels_last(source), value_range, "the tensor")
    elif isinstance(source, np.ndarray):
        pixels = _from_array(source, value_range, "the array")
    elif isinstance(source, Image.Image):
        with quiet():
            pixels = pixels_of(source, loaded(source, exif, "the image"), value_range, "the image")
    else:
        raise UsageError(
            f"An image is a path, bytes, an open file, a PIL image, an array (H, W, 3) or a tensor [3, H, W], got "
            f"{type(source)}."
        )
    return pixels, (pixels.shape[0], pixels.shape[1])


def is_tensor(source: object) -> bool:
    """Whether this is a tensor of torch, which is not imported for it."""
    return any(kind.__module__ == "torch" and kind.__name__ == "Tensor" for kind in type(source).__mro__)


def is_file(source: object) -> bool:
    """Whether this can be read like an open file."""
    return hasattr(source, "read") and not isinstance(source, Image.Image | np.ndarray)


def _in_memory(file: Any) -> BytesIO:
    """What is left to read in an open file."""
    content, why = None, ""
    try:
        content = file.read()
    except ValueError as error:  # it is closed, open for writing, or its bytes are no text
        why = f" ({line(error)})"
    except OSError as error:
        raise DataError(f"The image cannot be read from {file!r} ({line(error)}).") from error
    if not isinstance(content, bytes | bytearray):
        raise UsageError(f"A file has to be open for reading bytes, as by open(name, 'rb'), got {file!r}{why}.")
    if not content:
        raise DataError(f"Nothing is left to read in {file!r}: it is empty, or at its end; seek(0) goes to its start.")
    return BytesIO(content)


def reduction(image_hw: tuple[int, int], full_hw: tuple[int, int]) -> int:
    """By how much an image was reduced in decoding: 1, 2, 4 or 8.

    Sides that it does not divide are rounded up: the last row or column then reaches beyond the whole.
    """
    for factor in (1, *reversed(REDUCTIONS)):
        if image_hw == (-(-full_hw[0] // factor), -(-full_hw[1] // factor)):
            return factor
    raise UsageError(f"An image of {full_hw} is not {image_hw} when it is decoded at a reduced size.")


def check_reading(exif: str, value_range: ValueRange) -> None:
    """`UsageError` for ways to read an image that there are not."""
    if exif not in ("apply", "ignore"):
        raise UsageError(f"exif must be 'apply' or 'ignore', got {exif!r}.")
    if value_range != "auto" and not (
        len(value_range) == 2 and all(map(math.isfinite, value_range)) and value_range[0] < value_range[1]
    ):
        raise UsageError(f"value_range must be 'auto' or (lo, hi) with lo < hi, got {value_range!r}.")


@contextmanager
def opened(file: Path | BytesIO, max_pixels: int | None = None) -> Iterator[Image.Image]:
    """An image file as Pillow opens it, header read and pixels not yet; what Pillow prints meanwhile is not shown."""
    with quiet(), _opened(file, MAX_PIXELS if max_pixels is None else max_pixels) as image:
        yield image


def read_size(path: Path, *, exif: Literal["apply", "ignore"] = "apply") -> tuple[int, int]:
    """Height and width of an image from its header, without decoding it (but a PNG, whose EXIF data may follow)."""
    with opened(path) as image:
        width, height = stored_wh(image)
        turned = exif == "apply" and orientation(image) >= 5
        return (width, height) if turned else (height, width)


def _from_file(
    file: Path | BytesIO, needed: SizeRule | None, exif: str, value_range: ValueRange, max_pixels: int
) -> tuple[np.ndarray, tuple[int, int]]:
    name = _name(file)
    with opened(file, max_pixels) as image:
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            width, height = image.size
            turn = orientation(image) if exif == "apply" else 1
            full_hw = (width, height) if turn >= 5 else (height, width)
            factor = _fitting(full_hw, needed, turned=turn != 1)
            if factor > 1:
                image.draft(None, (width // factor, height // factor))
            return pixels_of(image, loaded(image, exif, name), value_range, name), full_hw
        turn = loaded(image, exif, name)
        full_hw = image.size if turn >= 5 else image.size[::-1]
        large = image.width * image.height > LARGE
        factor = _fitting(full_hw, needed, turned=turn != 1) if large else 1
        return pixels_of(image, turn, value_range, name, factor), full_hw


def _name(file: Path | BytesIO) -> str:
    return str(file) if isinstance(file, Path | _Named) else "the image"


class _Named(BytesIO):
    """The bytes of an image that has a name."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name


def _fitting(full_hw: tuple[int, int], needed: SizeRule | None, *, turned: bool) -> int:
    """By how much an image can be reduced: 8, 4, 2 or 1."""
    if needed is None:
        return 1
    sides = [math.ceil(side * REDUCED_MARGIN) for side in needed(*full_hw)]
    fitting = [r for r in REDUCTIONS if all(side // r >= least for side, least in zip(full_hw, sides))]
    if turned:  # what is rounded up has to stay at the right and at the bottom
        fitting = [r for r in fitting if all(side % r == 0 for side in full_hw)]
    return max(fitting, default=1)


def _opened(file: Path | BytesIO, max_pixels: int) -> Image.Image:
    """The file opened by Pillow, header read, pixels not yet."""
    path = _name(file)
    try:
        if isinstance(file, Path) and (kind := special(file)):
            raise DataError(
                f"{path}: this is {kind}, an image file was expected. Name a file{' in it' * file.is_dir()}."
            )
        if max_pixels <= MAX_PIXELS:
            image = Image.open(file, formats=_formats())
        else:
            with _pillow_limit:
                before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
                try:
                    image = Image.open(file, formats=_formats())
                finally:
                    Image.MAX_IMAGE_PIXELS = before
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
        raise DataError(f"{path}: the image is too large to read safely ({line(error)}). {TOO_LARGE}") from error
    except UnidentifiedImageError as error:
        what = "the file is empty (0 bytes)" if _is_empty(file) else "this is not an image that can be read"
        raise DataError(f"{path}: {what}. Use JPEG, PNG, TIFF, WebP or BMP, or remove it.") from error
    except BROKEN as error:
        raise DataError(
            f"{path}: the image cannot be opened ({line(error)}). Export it again, or remove it."
        ) from error
    width, height = stored_wh(image)
    try:
        _check_pixels(path, height, width, max_pixels)
    except DataError:
        image.close()
        raise
    return image


def _check_pixels(path: str, height: int, width: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise DataError(f"{path}: {width} x {height} is more than {counted(max_pixels, 'pixel')}. {TOO_LARGE}")


def _is_empty(file: Path | BytesIO) -> bool:
    return (file.stat().st_size if isinstance(file, Path) else file.getbuffer().nbytes) == 0


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _channels_last(tensor: Any) -> np.ndarray:
    """`[C, H, W]` or `[H, W]` to `(H, W, C)` or `(H, W)`."""
    if tensor.ndim == 3 and tensor.shape[0] in (1, 3, 4):
        tensor = tensor.permute(1, 2, 0)
    elif tensor.ndim != 2:
        raise UsageError(f"A tensor image must be [3, H, W], [1, H, W] or [H, W], got {tuple(tensor.shape)}.")
    half = str(tensor.dtype) in ("torch.bfloat16", "torch.float16")
    array: np.ndarray = (tensor.float() if half else tensor).numpy(force=True)
    return array


def _from_array(array: np.ndarray, value_range: ValueRange, name: str) -> np.ndarray:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or 0 in array.shape:
        raise UsageError(f"An array image must be (H, W, 3), (H, W, 4) or (H, W) and not empty, got {array.shape}.")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        array = _in_8_bits(array, value_range, name)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)  # (H, W, 3)
    elif array.shape[2] == 4:
        alpha = array[:, :, 3:].astype(np.uint16)
        over = array[:, :, :3] * alpha + np.array(BACKGROUND, dtype=np.uint16) * (255 - alpha)
        array = ((over + 127) // 255).astype(np.uint8)
    return np.array(array, order="C")  # its own memory


def _in_8_bits(array: np.ndarray, value_range: ValueRange, name: str) -> np.ndarray:
    """Values of the declared range to 0..255, a few rows at a time."""
    step = max(1, STRIP // array[0].size)
    strips = [array[top : top + step] for top in range(0, len(array), step)]  # views
    limits = declared_range(strips, value_range, name)
    return np.concatenate([to_8_bits(strip, limits) for strip in strips])
