"""The frames of a video file, decoded by FFmpeg's libraries (PyAV), each with its true number and time.

A frame is known by the time that its packet says: packets come in the order of decoding, frames in the order shown, and
where a packet's frame has not come when a later one does, it is lost. Its number is not given to another.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from aweigh.errors import DataError, said_if_missing
from aweigh.files import special
from aweigh.video.frames import ALL_FRAMES, FrameChoice, VideoFrame, lost_frame

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame as Decoded
    from av.video.stream import VideoStream

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts",
            ".mts", ".m2ts", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp", ".ogv")  # fmt: skip
# What a file may be. Others, such as play lists, make FFmpeg open further files and addresses.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg"
HIDES_FRAMES = ("vp8",)  # a codec with packets whose frame is never shown
MOST_HELD = 1 << 26  # bytes of packets, ours: from a key frame to the start that is asked for


@dataclass(frozen=True, eq=False)
class VideoFile:
    """A video file, and which of its frames are meant."""

    path: Path
    choice: FrameChoice = ALL_FRAMES
    live = False

    @property
    def name(self) -> str:
        return str(self.path)

    def check(self) -> None:
        """`DataError` where it is not there or holds no video."""
        with opened(self.path):
            pass

    def frames(self) -> Iterator[VideoFrame]:
        """A frame that cannot be decoded, and the place where the file breaks off, are frames with an error."""
        number, time = 0, 0.0
        try:
            with opened(self.path) as (container, stream):
                for number, time, frame in _decoded(container, stream, self.choice.start):
                    if time >= self.choice.end:
                        return
                    if not self.choice.takes(number, time):
                        continue
                    if frame is None:
                        yield self._lost(number, time, "this frame cannot be decoded")
                    else:
                        yield VideoFrame(self, number, time, *pixels_of(frame))
                if (promised := _duration(container, stream)) is not None and time + 1 < min(promised, self.choice.end):
                    yield self._lost(number + 1, time, f"breaks off after {time:.1f} of {promised:.1f} s. Is it whole?")
        except DataError as error:
            yield lost_frame(self, number, time, str(error))
        except ffmpeg_errors() as error:
            yield self._lost(number + 1, time, f"cannot be read from here on ({reason(error)}). Is it whole?")

    def _lost(self, number: int, time: float, why: str) -> VideoFrame:
        return lost_frame(self, number, time, f"{self.path}, frame {number} at {time:.2f} s: {why}")


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its video; `DataError` where there is none."""
    with said_if_missing(f"The video {path}"):
        import av
    try:
        if kind := special(path):
            raise DataError(f"{path}: this is {kind}, a video was expected.")
        options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    except ffmpeg_errors() as error:
        raise DataError(f"{path}: the video cannot be opened ({reason(error)}). Is it whole?") from error
    with container:
        stream = video_of(container)
        if stream is None:
            raise DataError(f"{path}: holds no video.")
        stream.thread_type = "AUTO"
        yield container, stream


def video_of(container: InputContainer) -> VideoStream | None:
    """Of several the one that players show."""
    return cast("VideoStream | None", container.streams.best("video"))


@dataclass
class _Order:
    """Numbers frames by the times of packets whose frame has not come yet."""

    hides: bool
    number: int = 0  # of the next frame
    waiting: list[int] = field(default_factory=list)  # a heap
    shown: float = -math.inf  # when the last frame is

    def sent(self, packet: Packet[VideoStream]) -> None:
        if packet.pts is not None and not packet.is_discard:
            heapq.heappush(self.waiting, packet.pts)

    def lost(self, until: int | None) -> Iterator[tuple[int, int]]:
        """The number and the time of each whose frame should have come before this time, None for all."""
        while self.waiting and (until is None or self.waiting[0] < until):
            pts = heapq.heappop(self.waiting)
            if not self.hides:
                yield self.next(), pts

    def next(self) -> int:
        self.number += 1
        return self.number - 1


def _decoded(
    container: InputContainer, stream: VideoStream, start: float
) -> Iterator[tuple[int, float, Decoded | None]]:
    """Number, time and frame, None for one that is lost, in the order shown, from a key frame before `start` on."""
    tick = float(stream.time_base or 1)
    first = stream.start_time
    order = _Order(stream.codec_context.name in HIDES_FRAMES)
    packets: Iterable[Packet[VideoStream]] = container.demux(stream)
    if start > 0 and not order.hides:
        packets = _from_key_frame(packets, (first or 0) + int(start / tick), order)
    for packet in packets:
        order.sent(packet)
        for frame in frames_of(packet):
            if frame.pts is None:
                number = order.next()
                yield number, number / float(stream.average_rate or 25), frame
                continue
            if frame.pts <= order.shown:  # behind broken packets, out of turn: it was said to be lost
                continue
            order.shown = frame.pts
            first = frame.pts if first is None else first
            for number, pts in order.lost(frame.pts):
                yield number, (pts - first) * tick, None
            if order.waiting and order.waiting[0] == frame.pts:
                heapq.heappop(order.waiting)
            yield order.next(), (frame.pts - first) * tick, frame
    for number, pts in order.lost(None):
        yield number, (pts - (first or 0)) * tick, None


def frames_of(packet: Packet[VideoStream]) -> list[Decoded]:
    """What the decoder gives when it is given this; a packet that it refuses gives none, and its frame is lost."""
    try:
        return packet.decode()
    except ffmpeg_errors():
        return []


def _from_key_frame(packets: Iterable[Packet[VideoStream]], start: int, order: _Order) -> Iterator[Packet[VideoStream]]:
    """The packets from the last key frame on that is shown no later than `start`; those before it are counted alone.

    A seek would be quicker, and would not say how many frames lie before its place.
    """
    each, held, size = iter(packets), list[Any](), 0
    for packet in each:
        if packet.is_keyframe and packet.pts is not None and packet.pts <= start:
            order.number += sum(one.pts is not None and not one.is_discard for one in held)
            held, size = [], 0
        held.append(packet)
        size += packet.size
        if not packet.size or size > MOST_HELD or (packet.dts is not None and packet.dts > start):
            break
    yield from held
    yield from each


def _duration(container: InputContainer, stream: VideoStream) -> float | None:
    """How many seconds of video the file announces, where it does; that of all it holds can be the sound's."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1 and container.duration is not None
    return container.duration / 1e6 if alone and container.duration else None


def pixels_of(frame: Decoded) -> tuple[tuple[int, int], Any]:
    """The size of the upright frame, and what gives its pixels."""
    turns = round(frame.rotation / 90) % 4  # counterclockwise
    size_hw = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
    return size_hw, partial(_upright, frame, turns)


def _upright(frame: Decoded, turns: int) -> np.ndarray:
    """uint8 `(H, W, 3)`, RGB."""
    try:
        pixels = frame.to_ndarray(format="rgb24")
    except ffmpeg_errors() as error:
        raise DataError(f"A frame of {frame.width} x {frame.height} cannot be converted ({reason(error)}).") from error
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def ffmpeg_errors() -> tuple[type[Exception], ...]:
    """What reading and writing with it raises."""
    from av import FFmpegError

    return FFmpegError, OSError, ValueError


def reason(error: Exception) -> str:
    """What FFmpeg says, in one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())
