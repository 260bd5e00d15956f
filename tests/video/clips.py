"""Drawn videos: in each frame one white box, whose place says which frame it is."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, BOX_WIDTH, BOX_HEIGHT = 160, 96, 24, 16
RATE = 25
TICKS = 90_000


def box_of(number: int) -> tuple[int, int, int, int]:
    """xyxy of the box in a frame, of 300 no two the same."""
    x, y = 6 * (number % 20), 5 * (number // 20)
    return x, y, x + BOX_WIDTH, y + BOX_HEIGHT


def pixels_of(number: int) -> np.ndarray:
    """uint8 `(96, 160, 3)`."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    x0, y0, x1, y1 = box_of(number)
    pixels[y0:y1, x0:x1] = 255
    return pixels


def steady(number: int) -> float:
    return number / RATE


def uneven(number: int) -> float:
    """Times of a variable rate: gaps of 40, 60 and 20 ms in turn, and of a second in the middle."""
    return number / RATE + 0.02 * (number % 3 == 1) + (number >= 10)


def clip(
    path: Path,
    frames: int = 30,
    *,
    times=steady,  # type: ignore[no-untyped-def]
    turned: int = 0,
    sound: bool = False,
    key_every: int = 12,
    codec: str = "libx264",
) -> Path:
    """A video with two B-frames between others.

    times: the second of each frame. turned: frames are stored so many degrees clockwise, and a flag turns them back.
    sound: a tone as long as the video.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stored = [np.rot90(pixels_of(number), -turned // 90) for number in range(frames)]
        stream.height, stream.width = stored[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if codec == "libx264":
            stream.options = {"bf": "2", "g": str(key_every), "sc_threshold": "0", "crf": "12"}
            stream.codec_context.time_base = Fraction(1, TICKS)
        if turned:
            stream.set_display_rotation(turned)
        tone = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for number, pixels in enumerate(stored):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.time_base = Fraction(1, TICKS)
            frame.pts = round(times(number) * TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone is not None:
            samples = np.sin(np.arange(int(times(frames) * 8000)) * 0.3).astype(np.float32)[None]
            for start in range(0, samples.shape[1], 1024):
                part = av.AudioFrame.from_ndarray(samples[:, start : start + 1024], format="fltp", layout="mono")
                part.sample_rate, part.pts, part.time_base = 8000, start, Fraction(1, 8000)
                container.mux(tone.encode(part))
            container.mux(tone.encode(None))
    return path
