"""One reader for every picture: training, evaluation and prediction see the same pixels.

The result is always a uint8 tensor `[3, H, W]`, RGB. Choices made here, once:

- The EXIF orientation is applied (`exif="apply"`), so that a photograph is upright.
- Grey, grey with alpha, palette, palette with transparency, RGBA, CMYK and one-bit pictures become RGB. What is
  transparent is laid over white.
- 16-bit, 32-bit and floating-point pictures are scaled from their declared range to 0..255 and never clipped
  silently: 16-bit integers are declared by their type (0..65535), floats are taken as 0..1 when they lie in it, and
  anything else asks for `value_range`, which maps lo to 0 and hi to 255; values beyond it saturate. Pictures of 8
  bits are what they are, whatever `value_range` says.
- Of a file with several frames the first is read.

`read_reduced` is for those who scale the picture down anyway: a JPEG that is much larger than they need is decoded at
a half, a quarter or an eighth of its size, which takes a fraction of the time. `read_image` gives every pixel.
"""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, JpegImagePlugin, UnidentifiedImageError
from torch import Tensor

from aweigh.data.files import special
from aweigh.errors import DataError, UsageError

ImageSource = str | Path | Image.Image | np.ndarray | Tensor
ValueRange = Literal["auto"] | tuple[float, float]
SizeRule = Callable[[int, int], tuple[int, int]]  # height and width of a whole picture -> those it is needed in

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm", ".jp2", ".avif")
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")  # others may start programs
BROKEN = (  # what Pillow's decoders raise for bytes that are no picture
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, MemoryError, EOFError,
    struct.error,
)  # fmt: skip
MAX_PIXELS = 178_956_970  # where Pillow itself refuses: twice its MAX_IMAGE_PIXELS
BACKGROUND = (255, 255, 255)

# A picture decoded at reduced size keeps at least so many times the sides that are needed. Scaled down from there, 200
# photographs of COCO with detail down to the pixel are 0.7 grey levels (of 255) beside the whole picture scaled down,
# 1.8 at most, each on average over its pixels; with a margin of 1 it is 2.8 and 6.6. Pillow's thumbnails use 2 as well.
REDUCED_MARGIN = 2.0
REDUCTIONS = (8, 4, 2)  # that libjpeg offers

_EXIF_ORIENTATION = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_pillow_limit = threading.Lock()


def read_image(
    source: ImageSource,
    *,
    exif: Literal["apply", "ignore"] = "apply",
    value_range: ValueRange = "auto",
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """Any picture as a uint8 tensor `[3, H, W]`, RGB.

    source: a path, a PIL image, an array `(H, W)`, `(H, W, 1)`, `(H, W, 3)` or `(H, W, 4)`, or a tensor `[3, H, W]`
    or `[1, H, W]`. exif: whether the orientation of a photograph is applied. value_range: `(lo, hi)` of the values
    that become 0 and 255, for pictures of more than 8 bits. max_pixels: larger pictures are refused.
    """
    pixels, _ = _read(source, None, exif, value_range, max_pixels)
    return pixels.contiguous()


def read_reduced(
    source: ImageSource,
    needed: SizeRule | None,
    *,
    exif: Literal["apply", "ignore"] = "apply",
    value_range: ValueRange = "auto",
    max_pixels: int = MAX_PIXELS,
) -> tuple[Tensor, tuple[int, int]]:
    """A picture in no less than twice the size that is needed, and the height and width of the whole.

    needed: from the height and width of the whole (upright) picture to those it is going to be scaled to; None: every
    pixel. The tensor is uint8 `[3, h, w]`, RGB, in any memory order. What is at x in the whole is at `x / reduction`
    in it, see `reduction`. Only JPEG files are ever reduced.
    """
    return _read(source, needed, exif, value_range, max_pixels)


def reduction(image_hw: tuple[int, int], full_hw: tuple[int, int]) -> int:
    """By how much a picture was reduced in decoding: 1, 2, 4 or 8.

    Sides that it does not divide are rounded up: the last row or column then reaches beyond the whole.
    """
    for factor in (1, *reversed(REDUCTIONS)):
        if image_hw == (-(-full_hw[0] // factor), -(-full_hw[1] // factor)):
            return factor
    raise UsageError(f"A picture of {full_hw} is not {image_hw} when it is decoded at a reduced size.")


def _read(
    source: ImageSource, needed: SizeRule | None, exif: str, value_range: ValueRange, max_pixels: int
) -> tuple[Tensor, tuple[int, int]]:
    if exif not in ("apply", "ignore"):
        raise UsageError(f"exif must be 'apply' or 'ignore', got {exif!r}.")
    if value_range != "auto" and not (len(value_range) == 2 and value_range[0] < value_range[1]):
        raise UsageError(f"value_range must be 'auto' or (lo, hi) with lo < hi, got {value_range!r}.")
    if isinstance(source, str | Path):
        return _from_file(Path(source), needed, exif, value_range, max_pixels)
    if isinstance(source, Tensor):
        pixels = _from_array(_channels_last(source), value_range, "the tensor")
    elif isinstance(source, np.ndarray):
        pixels = _from_array(source, value_range, "the array")
    elif isinstance(source, Image.Image):
        pixels = _from_pillow(source, exif, value_range, "the image")
    else:
        raise UsageError(
            f"An image is a path, a PIL image, an array (H, W, 3) or a tensor [3, H, W], got {type(source)}."
        )
    return pixels, (pixels.shape[1], pixels.shape[2])


def read_size(path: Path, *, exif: Literal["apply", "ignore"] = "apply") -> tuple[int, int]:
    """Height and width of a picture from its header, without decoding it."""
    with _opened(path, MAX_PIXELS) as image:
        width, height = image.size
        turned = exif == "apply" and orientation(image) >= 5
    return (width, height) if turned else (height, width)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where there is none or it cannot be read. From 5 on, sides swap."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except BROKEN:
        return 1  # damaged metadata says nothing about the pixels
    return value if value in _TRANSPOSITIONS else 1


def _from_file(
    path: Path, needed: SizeRule | None, exif: str, value_range: ValueRange, max_pixels: int
) -> tuple[Tensor, tuple[int, int]]:
    with _opened(path, max_pixels) as image:
        width, height = image.size
        turn = orientation(image) if exif == "apply" else 1
        upright_hw = (width, height) if turn >= 5 else (height, width)
        factor = 1 if needed is None else _fitting(image, upright_hw, needed, turned=turn != 1)
        try:
            if factor > 1:
                image.draft(None, (width // factor, height // factor))
            image.load()
        except BROKEN as error:
            raise DataError(
                f"{path}: the picture is damaged or cut short ({_line(error)}). Fetch or export it again, or remove it."
            ) from error
        return _from_pillow(image, exif, value_range, str(path)), upright_hw


def _fitting(image: Image.Image, upright_hw: tuple[int, int], needed: SizeRule, *, turned: bool) -> int:
    """By how much the picture can be reduced in decoding: 8, 4, 2 or 1."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return 1
    sides = [math.ceil(side * REDUCED_MARGIN) for side in needed(*upright_hw)]
    fitting = [r for r in REDUCTIONS if all(side // r >= least for side, least in zip(upright_hw, sides))]
    if turned:  # what is rounded up has to stay at the right and at the bottom
        fitting = [r for r in fitting if all(side % r == 0 for side in upright_hw)]
    return max(fitting, default=1)


def _opened(path: Path, max_pixels: int) -> Image.Image:
    """The file opened by Pillow, header read, pixels not yet."""
    too_large = "Scale it down, or allow it with max_pixels."
    try:
        if kind := special(path):
            raise DataError(
                f"{path}: this is {kind}, a picture file was expected. Name a file{' in it' * path.is_dir()}."
            )
        if max_pixels <= MAX_PIXELS:
            image = Image.open(path, formats=_formats())
        else:
            with _pillow_limit:
                before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
                try:
                    image = Image.open(path, formats=_formats())
                finally:
                    Image.MAX_IMAGE_PIXELS = before
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file. Check the path.") from error
    except PermissionError as error:
        raise DataError(f"{path}: no permission to read this file.") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: the picture is too large to read safely ({_line(error)}). {too_large}") from error
    except UnidentifiedImageError as error:
        what = "the file is empty (0 bytes)" if path.stat().st_size == 0 else "this is not a picture that can be read"
        raise DataError(f"{path}: {what}. Use JPEG, PNG, TIFF, WebP or BMP, or remove it.") from error
    except BROKEN as error:
        raise DataError(
            f"{path}: the picture cannot be opened ({_line(error)}). Export it again, or remove it."
        ) from error
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise DataError(f"{path}: {width} x {height} is more than {max_pixels} pixels. {too_large}")
    return image


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _from_pillow(image: Image.Image, exif: str, value_range: ValueRange, name: str) -> Tensor:
    if exif == "apply" and (turn := _TRANSPOSITIONS.get(orientation(image))) is not None:
        image = image.transpose(turn)
    mode = image.mode
    if mode.startswith(("I", "F")):
        return _from_array(np.asarray(image), value_range, name)
    if mode in ("RGBA", "LA", "La", "PA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        flat = Image.new("RGB", image.size, BACKGROUND)
        flat.paste(rgba, mask=rgba.getchannel("A"))
        image = flat
    elif mode != "RGB":
        try:
            image = image.convert("RGB")
        except ValueError as error:
            raise DataError(f"{name}: colour mode {mode} cannot be turned into RGB; save it as RGB.") from error
    return _finish(np.asarray(image))


def _channels_last(tensor: Tensor) -> np.ndarray:
    """`[C, H, W]` or `[H, W]` to `(H, W, C)` or `(H, W)`."""
    if tensor.ndim == 3 and tensor.shape[0] in (1, 3, 4):
        tensor = tensor.permute(1, 2, 0)
    elif tensor.ndim != 2:
        raise UsageError(f"A tensor image must be [3, H, W], [1, H, W] or [H, W], got {tuple(tensor.shape)}.")
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()


def _from_array(array: np.ndarray, value_range: ValueRange, name: str) -> Tensor:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or 0 in array.shape:
        raise UsageError(f"An array image must be (H, W, 3), (H, W, 4) or (H, W) and not empty, got {array.shape}.")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        array = _to_8_bits(array, value_range, name)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)  # (H, W, 3)
    elif array.shape[2] == 4:
        alpha = array[:, :, 3:].astype(np.uint16)
        over = array[:, :, :3] * alpha + np.array(BACKGROUND, dtype=np.uint16) * (255 - alpha)
        array = ((over + 127) // 255).astype(np.uint8)
    return _finish(array)


def _to_8_bits(array: np.ndarray, value_range: ValueRange, name: str) -> np.ndarray:
    """Values of the declared range to 0..255, rounded."""
    if array.dtype.kind not in "iuf":
        raise UsageError(f"{name}: an array of {array.dtype} is not a picture; use uint8, uint16 or float.")
    values = array.astype(np.float64)
    lowest, highest = float(values.min()), float(values.max())
    if not np.isfinite([lowest, highest]).all():
        raise DataError(f"{name}: the picture holds values that are not finite. Replace them before reading it.")
    if value_range != "auto":
        lo, hi = value_range
    elif array.dtype.kind == "f":
        lo, hi = 0.0, 1.0
    else:
        lo, hi = 0.0, 65535.0  # also 32-bit integers: how 16-bit grey is held by some readers
    if value_range == "auto" and not (lo <= lowest and highest <= hi):
        raise DataError(
            f"{name}: values of type {array.dtype} run from {lowest:g} to {highest:g}, expected {lo:g} to {hi:g}. "
            f"Say what is black and what is white with value_range=(lo, hi)."
        )
    scaled: np.ndarray = np.clip((values - lo) * (255.0 / (hi - lo)), 0, 255)
    return (scaled + 0.5).astype(np.uint8)


def _finish(array: np.ndarray) -> Tensor:
    """`(H, W, 3)` uint8 to a tensor `[3, H, W]` that owns its memory, in the order of the array."""
    return torch.from_numpy(np.array(array, order="C")).permute(2, 0, 1)


def _line(error: Exception | Any) -> str:
    return " ".join(str(error).split()) or type(error).__name__
