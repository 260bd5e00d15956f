"""Frames into a video again: H.264, with the sound of the video that they are of, copied as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from aweigh.errors import DataError, said_if_missing
from aweigh.files import atomic_file
from aweigh.video.decode import ffmpeg_errors, opened, reason
from aweigh.video.frames import Video

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

ENCODERS = ("libx264", "libopenh264", "h264_videotoolbox", "h264_mf", "mpeg4")  # the first that FFmpeg has
OPTIONS = {"libx264": {"preset": "veryfast", "crf": "20"}}  # ours: quick, and what it loses is hard to see
TICK = Fraction(1, 60_000)  # of a second, ours: frames of all usual rates are whole numbers of it apart
BT709, LIMITED = 1, 1  # FFmpeg's numbers of the colours that players expect, and of their range
IN_MP4 = ("aac", "mp3", "ac3", "eac3", "opus", "alac", "flac")  # sound that players of it play


def ending_for(video: Video) -> str:
    """Of the file of a drawn video: `.mp4`, or where that cannot hold the sound `.mkv`, which can."""
    if video.live:
        return ".mp4"
    try:
        with opened(video.path) as (container, _):
            return ".mp4" if all(sound.codec_context.name in IN_MP4 for sound in container.streams.audio) else ".mkv"
    except DataError:  # it is told where its frames are asked for
        return ".mp4"


@contextmanager
def written_video(
    path: Path, size_hw: tuple[int, int], *, sound_of: Path | None = None, start: float = 0.0, end: float = math.inf
) -> Iterator[VideoWriter]:
    """What writes frames; the file is there when the block ends well, and not at all when it does not.

    path: ends in `.mp4` or `.mkv`. size_hw: of the frames; others are scaled to it. sound_of: a video whose sound is
    copied, from second `start` of its frames, which becomes the beginning, until before second `end`.
    """
    with said_if_missing("A video to write"):
        import av
    path.parent.mkdir(parents=True, exist_ok=True)
    source = nullcontext() if sound_of is None else opened(sound_of)
    with source as sound, atomic_file(path) as aside, av.open(f"file:{aside}", "w") as container:
        name = next(name for name in ENCODERS if name in av.codecs_available)
        stream = cast("VideoStream", container.add_stream(name, rate=25, options=OPTIONS.get(name)))
        stream.height, stream.width = (side + side % 2 for side in size_hw)  # 4:2:0 has even sides
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = TICK
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED
        writer = VideoWriter(container, stream, None if sound is None else _Sound(*sound, container, start, end), start)
        yield writer
        container.mux(stream.encode(None))
        if writer.sound is not None:
            writer.sound.copy(math.inf)


@dataclass
class VideoWriter:
    """What `written_video` gives. sound: what copies it, None where there is none."""

    container: OutputContainer
    stream: VideoStream
    sound: _Sound | None
    start: float
    last: int = -1  # when the last frame is, in ticks

    def add(self, pixels: np.ndarray, time: float) -> None:
        """A frame, uint8 `(H, W, 3)` RGB, at this second of the video that it is of; later than the one before."""
        from av.video.frame import VideoFrame

        height, width = pixels.shape[:2]
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(self.stream.width, self.stream.height, "yuv420p", dst_colorspace=BT709)
        self.last = max(self.last + 1, round((time - self.start) / TICK))
        frame.pts, frame.time_base = self.last, TICK
        if self.sound is not None:
            self.sound.copy(until=time - self.start)
        self.container.mux(self.stream.encode(frame))


class _Sound:
    """Copies all sound of a video, packet by packet, so far as it is asked to. error: why it breaks off."""

    def __init__(
        self, source: InputContainer, video: VideoStream, target: OutputContainer, start: float, end: float
    ) -> None:
        self.error: str | None = None
        self._target, self._end = target, end - start
        self._streams: dict[int, Any] = {
            sound.index: target.add_stream_from_template(sound) for sound in source.streams.audio
        }
        first = 0.0 if video.start_time is None else float(video.start_time * cast(Fraction, video.time_base))
        self._packets = self._moved(source, first + start, cut=start > 0)
        self._next = next(self._packets, None)

    def copy(self, until: float) -> None:
        """Write the packets before this second."""
        while self._next is not None and self._next[0] < until:
            self._target.mux(self._next[1])
            self._next = next(self._packets, None)

    def _moved(self, source: InputContainer, beginning: float, *, cut: bool) -> Iterator[tuple[float, Packet[Any]]]:
        """The packets with their seconds, so that the video's `beginning` is at 0; cut: without those before it."""
        if not self._streams:
            return
        try:
            for packet in source.demux(*source.streams.audio):
                if packet.dts is None:
                    continue
                shift = round(beginning / packet.time_base)
                packet.dts -= shift
                packet.pts = packet.dts if packet.pts is None else packet.pts - shift
                time = float(packet.pts * packet.time_base)
                packet.stream = self._streams[packet.stream.index]
                if time < self._end and not (cut and time < 0):
                    yield time, packet
        except ffmpeg_errors() as error:
            self.error = f"the sound breaks off ({reason(error)})"
