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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from PIL import Image, JpegImagePlugin

from aweigh.errors import DataError, UsageError
from aweigh.images.bands import Bands, Range, bands_of, read_ranges
from aweigh.images.decode import (
    BACKGROUND,
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
    turned,
)
from aweigh.images.opening import MAX_PIXELS, MOST_PIXELS, Named, name_of, opened, refuse_larger
from aweigh.images.stored import StoredImage
from aweigh.video.frames import VideoFrame

if TYPE_CHECKING:
    from torch import Tensor

ImageSource: TypeAlias = "str | Path | StoredImage | VideoFrame | bytes | IO[bytes] | Image.Image | np.ndarray | Tensor"
SizeRule = Callable[[int, int], tuple[int, int]]  # height and width of a whole image -> those it is needed in

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm", ".jp2", ".avif")
LARGE = 1 << 25  # pixels: a larger file of any format is reduced while it is converted, where it is much too large

# An image decoded at reduced size keeps at least so many times the sides that are needed. Scaled down from there, 200
# photographs of COCO with detail down to the pixel are 0.7 grey levels (of 255) beside the whole image scaled down,
# 1.8 at most, each on average over its pixels; with a margin of 1 it is 2.8 and 6.6. Pillow's thumbnails use 2 as well.
REDUCED_MARGIN = 2.0
REDUCTIONS = (8, 4, 2)  # that libjpeg offers


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
    file = _file_of(source)
    if file is not None:
        return _from_file(file, needed, exif, value_range, max_pixels)
    if isinstance(source, VideoFrame):
        refuse_larger(str(source), source.size_hw, max_pixels)
        return source.pixels, source.size_hw
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


@dataclass(frozen=True)
class ByRows:
    """An image that is read from its top to its bottom.

    size_hw: of the whole. read: the rows of each range (the first, and the one behind the last), uint8 `(rows, W, 3)`
    RGB, one range after the other; none may begin above the one before. `DataError` where the file is damaged.
    """

    size_hw: tuple[int, int]
    read: Callable[[Iterable[Range]], Iterator[np.ndarray]]


def read_by_rows(
    source: ImageSource, *, exif: Literal["apply", "ignore"] = "apply", value_range: ValueRange = "auto"
) -> ByRows:
    """Any image by rows. Of a PNG or TIFF of more than 33 megapixels no more is in memory than the rows of a range and
    some megapixels; another image, and one that has to be turned, is read whole, as by `read_image`.
    """
    check_reading(exif, value_range)
    file = _file_of(source)
    if file is None:
        pixels = read_image(source, exif=exif, value_range=value_range)
    else:
        with opened(file, MOST_PIXELS) as image:
            bands = _bands_of_large(file, image)
        if bands is not None and (exif == "ignore" or bands.turn == 1):
            return ByRows(bands.size_hw, partial(read_ranges, bands, value_range=value_range, name=name_of(file)))
        pixels, _ = _from_file(file, None, exif, value_range, MAX_PIXELS)
    return ByRows((pixels.shape[0], pixels.shape[1]), lambda ranges: (pixels[top:last] for top, last in ranges))


def _file_of(source: ImageSource) -> Path | BytesIO | None:
    """The file that an image is read from; None for pixels in memory."""
    if isinstance(source, str | Path):
        return Path(source)
    if isinstance(source, StoredImage):
        return Named(source.read(), source.name)
    if isinstance(source, bytes | bytearray | memoryview):
        return BytesIO(source)
    return _in_memory(source) if is_file(source) else None


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


def read_size(path: Path, *, exif: Literal["apply", "ignore"] = "apply") -> tuple[int, int]:
    """Height and width of an image of any size from its header, without decoding it (but a PNG, whose EXIF data may
    follow)."""
    with opened(path, MOST_PIXELS) as image:
        width, height = stored_wh(image)
        if exif == "ignore":
            return height, width
        bands = _bands_of_large(path, image)  # which know it without decoding
        return _upright((height, width), orientation(image) if bands is None else bands.turn)


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


def _from_file(
    file: Path | BytesIO, needed: SizeRule | None, exif: str, value_range: ValueRange, max_pixels: int
) -> tuple[np.ndarray, tuple[int, int]]:
    name = name_of(file)
    with opened(file, max(max_pixels, MOST_PIXELS)) as image:
        bands = None if needed is None else _bands_of_large(file, image)
        turn = 1 if bands is None or exif == "ignore" else bands.turn
        factor = 1 if bands is None else _fitting(_upright(bands.size_hw, turn), needed, turned=turn != 1)
        if bands is not None and factor > 1:
            refuse_larger(name, bands.size_hw, max_pixels * factor)
            return turned(_reduced(bands, factor, value_range, name), turn), _upright(bands.size_hw, turn)
        refuse_larger(name, stored_wh(image)[::-1], max_pixels)
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            width, height = image.size
            full_hw = _upright((height, width), orientation(image) if exif == "apply" else 1)
            factor = _fitting(full_hw, needed, turned=orientation(image) != 1 and exif == "apply")
            if factor > 1:
                image.draft(None, (width // factor, height // factor))
            return pixels_of(image, loaded(image, exif, name), value_range, name), full_hw
        turn = loaded(image, exif, name)
        full_hw = _upright(image.size[::-1], turn)
        large = image.width * image.height > LARGE
        factor = _fitting(full_hw, needed, turned=turn != 1) if large else 1
        return pixels_of(image, turn, value_range, name, factor), full_hw


def _upright(size_hw: tuple[int, int], turn: int) -> tuple[int, int]:
    return size_hw[::-1] if turn >= 5 else size_hw


def _bands_of_large(file: Path | BytesIO, image: Image.Image) -> Bands | None:
    """The bands of a file that Pillow opened, where it is large and can be read by them."""
    width, height = stored_wh(image)
    return bands_of(file, image) if width * height > LARGE else None


def _reduced(bands: Bands, factor: int, value_range: ValueRange, name: str) -> np.ndarray:
    """The whole as it is stored, both sides reduced, as `pixels_of` does it."""
    height, width = bands.size_hw
    step = max(1, STRIP // (width * factor)) * factor
    ranges = [(top, min(height, top + step)) for top in range(0, height, step)]
    rows = read_ranges(bands, ranges, value_range, name)
    return np.concatenate([np.asarray(Image.fromarray(part).reduce(factor)) for part in rows])


def _fitting(full_hw: tuple[int, int], needed: SizeRule | None, *, turned: bool) -> int:
    """By how much an image can be reduced: 8, 4, 2 or 1."""
    if needed is None:
        return 1
    sides = [math.ceil(side * REDUCED_MARGIN) for side in needed(*full_hw)]
    fitting = [r for r in REDUCTIONS if all(side // r >= least for side, least in zip(full_hw, sides))]
    if turned:  # what is rounded up has to stay at the right and at the bottom
        fitting = [r for r in fitting if all(side % r == 0 for side in full_hw)]
    return max(fitting, default=1)


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
