"""Cameras and streams, whose frames come by themselves: the newest is looked at, those that came meanwhile are gone.

A thread reads them as they come. Where a source breaks off it is opened again, for as long as `PATIENCE` says.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from typing import TYPE_CHECKING

from aweigh.errors import DataError, UsageError, counted, said_if_missing
from aweigh.video.decode import FORMATS, ffmpeg_errors, frames_of, pixels_of, reason, video_of
from aweigh.video.frames import ALL_FRAMES, FrameChoice, VideoFrame, lost_frame

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame as Decoded

CAMERA = re.compile(r"camera:(?P<name>.+)|(?P<device>/dev/video\d+)")
STREAM = re.compile(r"(rtsps?|rtmps?|srt|udp|tcp|rtp)://", re.IGNORECASE)
CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}
STREAM_OPTIONS = {
    "rtsp_transport": "tcp",
    "fflags": "nobuffer",
    "protocol_whitelist": "rtsp,rtsps,rtp,srtp,rtmp,rtmps,srt,udp,tcp,tls,crypto",
    "format_whitelist": f"rtsp,rtp,sdp,live_flv,h264,hevc,mjpeg,{FORMATS}",
}
PATIENCE = 30.0  # seconds without a frame after which a source is given up, ours
PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds before it is opened again, ours; the last is repeated
SILENCE = 10.0  # seconds in which a source that is open has to send something, ours
REMEMBERED = 1000  # frames whose latency is told


@dataclass(frozen=True)
class Source:
    """What FFmpeg opens, and as what."""

    file: str
    format: str | None
    options: dict[str, str]

    @classmethod
    def of(cls, name: str, platform: str = sys.platform) -> Source:
        """Of `camera:0`, `camera:NAME`, `/dev/video0` or the address of a stream."""
        if (camera := CAMERA.fullmatch(name)) is None:
            return cls(name, None, STREAM_OPTIONS)
        if platform not in CAMERAS:
            raise UsageError(f"{name}: cameras of {platform} are not known; name a stream, as rtsp://.")
        format, device = CAMERAS[platform]
        return cls(camera["device"] or device.format(camera["name"]), format, {})

    @contextmanager
    def opened(self) -> Iterator[InputContainer]:
        with said_if_missing(f"The video {self.file}"):
            import av
        with av.open(self.file, format=self.format, options=self.options, timeout=SILENCE) as container:
            yield container


class LiveVideo:
    """A camera or a stream, and which of its frames are meant. Their numbers and times count from the first that came.

    name: see `Source.of`. patience: seconds without a frame after which it is given up.
    """

    live = True

    def __init__(self, name: str, choice: FrameChoice = ALL_FRAMES, *, patience: float = PATIENCE) -> None:
        self.name, self.choice, self.patience = name, choice, patience
        self.path = Path(re.sub(r"[^\w.]+", "-", name).strip("-.") + ".mp4")
        self.source = Source.of(name)
        self.latencies: deque[float] = deque(maxlen=REMEMBERED)  # seconds from the arrival of a frame to its detections
        self._newest = _Newest()

    def check(self) -> None:
        """`DataError` where it does not give a frame."""
        try:
            with self.source.opened() as container:
                next(_decoded(container))
        except StopIteration:
            raise DataError(f"{self.name}: gives no frame.") from None
        except ffmpeg_errors() as error:
            raise DataError(f"{self.name}: cannot be opened ({reason(error)}).") from error

    def frames(self) -> Iterator[VideoFrame]:
        """The newest that nobody has taken, whenever one is asked for; at the end an error, if it was given up."""
        self._newest = newest = _Newest()
        reader = Thread(target=self._read, args=(newest,), name="aweigh-live", daemon=True)
        reader.start()
        try:
            while (taken := newest.take()) is not None:
                frame, arrived = taken
                yield frame
                self.latencies.append(time.monotonic() - arrived)  # when the next is asked for, this one is done with
            if newest.why:
                yield lost_frame(self, newest.number, newest.seconds, f"{self.name}: {newest.why}")
        finally:
            newest.end()
            reader.join()

    def stop(self) -> None:
        """No further frame comes."""
        self._newest.end()

    def report(self) -> str:
        """How many frames were looked at, how many were not, and how late the detections came."""
        newest, taken = self._newest, self._newest.taken
        again = f", opened again {counted(newest.opened - 1, 'time')}" if newest.opened > 1 else ""
        counts = f"{self.name}: {counted(taken, 'frame')} looked at, {newest.dropped:,} dropped as late{again}"
        if not self.latencies:
            return counts
        late = sorted(self.latencies)
        median, tenth = statistics.median(late), late[len(late) * 9 // 10]
        latency = f"{median * 1e3:.0f} ms, {tenth * 1e3:.0f} ms in the slowest tenth"
        return f"{counts}; from the arrival of a frame to its detections {latency}"

    def _read(self, newest: _Newest) -> None:
        """In a thread: offer each frame as it comes, and open the source again where it breaks off."""
        try:
            self._read_on(newest)
        finally:
            newest.end("it cannot be read any more.")  # where nothing better is known

    def _read_on(self, newest: _Newest) -> None:
        last, tries = time.monotonic(), 0
        while not newest.ended:
            try:
                with self.source.opened() as container:
                    newest.opened += 1
                    for frame in _decoded(container):
                        last, tries = time.monotonic(), 0
                        if not newest.offer(self, frame, last):
                            return
                why = "it ended"
            except ffmpeg_errors() as error:
                why = reason(error)
            if time.monotonic() - last > self.patience:
                newest.end(f"no frame came for {time.monotonic() - last:.0f} s ({why}).")
            newest.wait(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1


class _Newest:
    """The place of one frame between the thread that reads and the one that asks."""

    def __init__(self) -> None:
        self.number = self.taken = self.dropped = self.opened = 0
        self.seconds = 0.0  # from the first frame to the last
        self.ended, self.why = False, ""
        self._first = 0.0  # when it came
        self._waiting: tuple[VideoFrame, float] | None = None
        self._changed = Condition()

    def offer(self, video: LiveVideo, frame: Decoded, arrived: float) -> bool:
        """A frame that came at this moment of `time.monotonic`; whether further ones are wanted."""
        with self._changed:
            if self.number == 0:
                self._first = arrived
            self.seconds = arrived - self._first
            if self.seconds >= video.choice.end:
                self.ended = True
            elif video.choice.takes(self.number, self.seconds):
                self.dropped += self._waiting is not None
                self._waiting = VideoFrame(video, self.number, self.seconds, *pixels_of(frame)), arrived
            self.number += 1
            self._changed.notify_all()
            return not self.ended

    def take(self) -> tuple[VideoFrame, float] | None:
        """The frame and when it came, as soon as there is one; None at the end."""
        with self._changed:
            while self._waiting is None and not self.ended:
                self._changed.wait()
            taken, self._waiting = self._waiting, None
            self.taken += taken is not None
            return taken

    def end(self, why: str = "") -> None:
        with self._changed:
            if not self.ended:
                self.ended, self.why = True, why
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Until then, or the end."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended, seconds)


def _decoded(container: InputContainer) -> Iterator[Decoded]:
    stream = video_of(container)
    if stream is None:
        raise ValueError("it holds no video")
    stream.thread_type = "SLICE"  # whole frames side by side would each come later
    for packet in container.demux(stream):
        yield from frames_of(packet)
