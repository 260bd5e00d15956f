"""What is particular to Pillow: its warnings, the frame it decodes into, and the memory of its conversions.

Two frames are told apart. The stored frame is that of the rows in the file; the upright one is what the EXIF
orientation makes of it. Pillow gives every container in the stored frame but TIFF, which it turns itself while it
decodes. Pixels are converted in strips of a few megapixels, so that a large image is held once as Pillow has it and
once as the result.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, Literal

import numpy as np
from PIL import Image, TiffImagePlugin, _imaging

from aweigh.errors import DataError, UsageError

ValueRange = Literal["auto"] | tuple[float, float]

BROKEN = (Exception,)  # Pillow's decoders raise nearly every kind of error for bytes that are no image
BACKGROUND = (255, 255, 255)
STRIP = 1 << 22  # pixels that are converted at a time

_EXIF_ORIENTATION = 0x0112
_INVERSE = {6: 8, 8: 6}  # the other orientations undo themselves
_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_before: list[Callable[[], object]] = []
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Python prints what Pillow logs about damaged files


def _forked() -> None:
    """In a process forked while another thread was within `quiet`, nobody will leave it: it starts anew."""
    global _quiet_lock, _quiet_depth
    _quiet_lock, _quiet_depth = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@contextmanager
def quiet() -> Iterator[None]:
    """Within it, in every thread, the warnings of Pillow are not shown, nor what libtiff prints on the error stream.

    What is wrong with an image is the caller's to say, in one line.
    """
    global _quiet_depth
    with _quiet_lock:
        _quiet_depth += 1
        if _quiet_depth == 1:
            _quiet_before[:] = [_without_warnings(), _without_libtiff()]
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                for restore in _quiet_before:
                    restore()


def _without_warnings() -> Callable[[], object]:
    caught = warnings.catch_warnings()
    caught.__enter__()
    warnings.filterwarnings("ignore", module=r"PIL\.")
    return lambda: caught.__exit__(None, None, None)


def _without_libtiff() -> Callable[[], object]:
    setters = _libtiff_setters()
    before = [setter(None) for setter in setters]

    def restore() -> None:
        for setter, handler in zip(setters, before, strict=True):
            setter(handler)

    return restore


@cache
def _libtiff_setters() -> list[Any]:
    """libtiff's functions that say what becomes of its messages, as far as this build of Pillow lets us reach them."""
    setters = []
    try:
        library = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            setter = getattr(library, name)
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setters.append(setter)
    except (OSError, AttributeError, TypeError):  # built without libtiff, or with it inside
        return []
    return setters


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where there is none or it cannot be read. From 5 on, sides swap.

    That which still has to be applied: of a TIFF that is loaded, Pillow has applied it, and it is 1.
    """
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
        return int(value) if value in range(1, 9) else 1
    except BROKEN:
        return 1  # damaged metadata says nothing about the pixels


def stored_wh(image: Image.Image) -> tuple[int, int]:
    """Width and height in the stored frame of a file that was opened and not yet loaded."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # whose size Pillow may give as it will be once it is turned
        return image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    return image.size


def loaded(image: Image.Image, exif: str, name: str) -> int:
    """Decode the pixels of an image; the orientation that has to be applied to them to get what `exif` asks for.

    exif: "apply" for the upright frame, "ignore" for the stored one. An image in memory that Pillow turned when it was
    loaded has lost its stored frame.
    """
    before = orientation(image) if isinstance(image, TiffImagePlugin.TiffImageFile) else 1  # of a PNG it may follow
    try:
        with _unmapped(image) if before >= 5 else nullcontext():
            image.load()
    except MemoryError as error:
        raise too_much_memory(name, image) from error
    except BROKEN as error:
        raise damaged(name, line(error)) from error
    if exif == "apply":
        return orientation(image)
    turned_by_pillow = before if orientation(image) == 1 else 1
    return _INVERSE.get(turned_by_pillow, turned_by_pillow)


@contextmanager
def _unmapped(image: Any) -> Iterator[None]:
    """Within it Pillow reads a file instead of mapping it, which it does by the width of the turned image."""
    filename, image.filename = image.filename, ""
    try:
        yield
    finally:
        image.filename = filename


def pixels_of(image: Image.Image, turn: int, value_range: ValueRange, name: str, factor: int = 1) -> np.ndarray:
    """A loaded image as uint8 `(H, W, 3)`, RGB, turned by an orientation.

    factor: by how much both sides are reduced, as means of squares; sides that it does not divide are rounded up.
    """
    try:
        return _converted(image, turn, value_range, name, factor)
    except MemoryError as error:
        raise too_much_memory(name, image) from error


def _converted(image: Image.Image, turn: int, value_range: ValueRange, name: str, factor: int) -> np.ndarray:
    width, height = image.size
    if not (width and height):
        raise DataError(f"{name}: the image has no pixels ({width} x {height}). Remove it.")
    step = max(1, STRIP // (width * factor)) * factor

    def strips() -> Iterator[Image.Image]:
        if step >= height:
            yield image
        else:
            for top in range(0, height, step):
                yield image.crop((0, top, width, min(height, top + step)))

    if image.mode.startswith(("I", "F")):
        limits = declared_range(map(np.asarray, strips()), value_range, name)
        converted: Iterator[Image.Image] = (Image.fromarray(to_8_bits(np.asarray(strip), limits)) for strip in strips())
    else:
        converted = (_coloured(strip, name) for strip in strips())
    small_wh = -(-width // factor), -(-height // factor)
    result = np.empty((*(small_wh if turn >= 5 else small_wh[::-1]), 3), dtype=np.uint8)
    stored, top = _as_stored(result, turn), 0
    for strip in converted:
        part = np.asarray(strip if factor == 1 else strip.reduce(factor))
        stored[top : top + len(part)] = part if part.ndim == 3 else part[:, :, None]
        top += len(part)
    return result


def _coloured(image: Image.Image, name: str) -> Image.Image:
    """RGB, or grey; what is transparent lies over the background."""
    try:
        if image.mode in ("RGBA", "LA", "La", "PA", "RGBa") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            flat = Image.new("RGB", image.size, BACKGROUND)
            flat.paste(rgba, mask=rgba.getchannel("A"))
            return flat
        return image if image.mode in ("RGB", "L") else image.convert("RGB")
    except ValueError as error:
        raise DataError(f"{name}: colour mode {image.mode} cannot be turned into RGB; save it as RGB.") from error


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Pixels `(H, W, 3)` as they are stored, turned by an orientation."""
    upright = np.empty_like(pixels.swapaxes(0, 1) if turn >= 5 else pixels, order="C")
    _as_stored(upright, turn)[:] = pixels
    return upright


def _as_stored(upright: np.ndarray, turn: int) -> np.ndarray:
    """The view of an upright array `[H, W, ...]` whose rows are those of the image before it was turned."""
    sides = upright.swapaxes(0, 1) if turn >= 5 else upright
    backwards = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (-1, 1), 7: (-1, -1), 8: (1, -1)}
    down, right = backwards.get(turn, (1, 1))
    return sides[::down, ::right]


def declared_range(parts: Iterable[np.ndarray], value_range: ValueRange, name: str) -> tuple[float, float]:
    """Which values of an image, given in parts, become 0 and 255."""
    ends: list[float] = []
    kind = np.dtype(np.uint8)
    for part in parts:
        if part.dtype.kind not in "iuf":
            raise UsageError(f"{name}: an array of {part.dtype} is not an image; use uint8, uint16 or float.")
        ends = [*ends, float(part.min()), float(part.max())]
        if not np.isfinite(ends).all():
            raise DataError(f"{name}: the image holds values that are not finite. Replace them before reading it.")
        kind, ends = part.dtype, [min(ends), max(ends)]
    if value_range != "auto":
        return value_range
    lo, hi = (0.0, 1.0) if kind.kind == "f" else (0.0, 65535.0)  # 32-bit integers too: how some hold 16-bit grey
    if not (lo <= ends[0] and ends[1] <= hi):
        raise DataError(
            f"{name}: values of type {kind} run from {ends[0]:g} to {ends[1]:g}, expected {lo:g} to {hi:g}. "
            f"Say what is black and what is white with value_range=(lo, hi)."
        )
    return lo, hi


def to_8_bits(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Values of the declared range to 0..255, rounded; those beyond saturate."""
    lo, hi = limits
    scaled: np.ndarray = np.clip((values.astype(np.float64) - lo) * (255.0 / (hi - lo)), 0, 255)
    return (scaled + 0.5).astype(np.uint8)


def damaged(name: str, reason: str) -> DataError:
    return DataError(f"{name}: the image is damaged or cut short ({reason}). Fetch or export it again, or remove it.")


def too_much_memory(name: str, image: Image.Image) -> DataError:
    width, height = image.size
    return DataError(f"{name}: there is not enough memory for an image of {width} x {height}. Scale it down.")


def line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
