"""Streams from servers on the loopback, and a camera that draws: late frames are dropped, what breaks off goes on."""

import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.toy_engines import Spots
from tests.video.clips import box_of, clip

import aweigh.cli.predict
import aweigh.video.live
from aweigh.cli.main import run
from aweigh.detections import Detections
from aweigh.errors import DataError, UsageError, counted
from aweigh.images.resize import Resize
from aweigh.images.sources import images_of
from aweigh.predictor import Predictor
from aweigh.runtime.engine import Batch
from aweigh.video.frames import FrameChoice
from aweigh.video.live import LiveVideo, Source

Serve = Callable[[socket.socket], object]


@contextmanager
def server(*connections: Serve) -> Iterator[int]:
    """Answers one connection after the other, each as it is told, and then no more. Gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for answer in connections:
                try:
                    connection, _ = listening.accept()
                except OSError:  # it was closed
                    return
                with connection, suppress(OSError):  # the other side has gone
                    answer(connection)
            listening.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            with socket.socket() as knock:  # wakes what still waits
                knock.connect_ex(listening.getsockname()) if listening.fileno() >= 0 else None
            listening.close()
            thread.join()


def sends(data: bytes, *, seconds: float = 0.0) -> Serve:
    """The bytes of a video, evenly over so many seconds."""

    def answer(connection: socket.socket) -> None:
        parts = [data[start : start + 1880] for start in range(0, len(data), 1880)]
        for part in parts:
            connection.sendall(part)
            time.sleep(seconds / len(parts))

    return answer


def plays(data: bytes) -> Serve:
    """The least that RTSP needs (RFC 2326), over its own connection: MPEG-TS in RTP (RFC 2250)."""

    def answer(connection: socket.socket) -> None:
        says = {
            "DESCRIBE": "Content-Type: application/sdp\r\nContent-Length: {length}\r\n\r\n{sdp}",
            "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n\r\n",
        }
        sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track1\r\n"
        with connection.makefile("rb") as lines:
            while line := lines.readline().decode():
                method, number = line.split()[0], 0
                while (head := lines.readline().decode().strip()) != "":
                    number = int(head.partition(":")[2]) if head.startswith("CSeq") else number
                rest = says.get(method, "\r\n").format(length=len(sdp), sdp=sdp)
                connection.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{rest}".encode())
                if method == "PLAY":
                    break
        for number, start in enumerate(range(0, len(data), 1316)):
            packet = struct.pack(">BBHII", 0x80, 33, number, number * 900, 1) + data[start : start + 1316]
            connection.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
            time.sleep(0.02)

    return answer


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return clip(tmp_path_factory.mktemp("live") / "a.ts", 100, key_every=6).read_bytes()


@pytest.fixture
def spots(monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector of every command is one that finds what is bright."""
    monkeypatch.setattr(aweigh.cli.predict, "find_detector", lambda *_: Predictor(Spots(), Resize(None, None)))


@pytest.fixture
def drawing_camera(monkeypatch: pytest.MonkeyPatch) -> str:
    """A camera that FFmpeg draws, 50 frames a second."""
    monkeypatch.setattr(aweigh.video.live, "CAMERAS", {sys.platform: ("lavfi", "{}")})
    return "camera:testsrc=rate=50:size=64x48,realtime"


def test_a_stream_that_breaks_off_is_opened_again_and_at_last_given_up(stream: bytes) -> None:
    with server(sends(stream), sends(stream), sends(stream)) as port:
        video = LiveVideo(f"tcp://127.0.0.1:{port}", patience=0.3)
        video.check()
        *frames, gone = video.frames()
        shown = [frame.pixels for frame in frames]
    assert len(shown) >= 2
    assert all(pixels.shape == (96, 160, 3) for pixels in shown)
    numbers, times = [frame.number for frame in frames], [frame.time for frame in frames]
    assert numbers == sorted(set(numbers))
    assert times == sorted(times)
    with pytest.raises(DataError, match=rf"tcp://127.0.0.1:{port}: no frame came for \d s \(Connection refused\)"):
        _ = gone.pixels
    assert ", opened again 1 time; from the arrival of a frame to its detections " in video.report()


def test_late_frames_are_dropped_and_keep_their_numbers(stream: bytes) -> None:
    with server(sends(stream, seconds=0.5)) as port:
        video = LiveVideo(f"tcp://127.0.0.1:{port}", FrameChoice.of(every=2), patience=0.1)
        numbers, boxes = [], []
        for frame in [*_slowly(video.frames(), 0.1)][:-1]:
            numbers.append(frame.number)
            rows, columns = np.nonzero(frame.pixels[..., 0] > 128)
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    assert 2 <= len(numbers) < 40
    assert all(number % 2 == 0 for number in numbers)
    assert f"{len(numbers)} frames looked at, " in video.report()
    first = [box_of(number) for number in range(100)].index(boxes[0]) - numbers[0]  # those before it passed unseen
    assert boxes == [box_of(first + number) for number in numbers]


def _slowly(frames: Iterator[Any], seconds: float) -> Iterator[Any]:
    for frame in frames:
        yield frame
        time.sleep(seconds)


@pytest.mark.usefixtures("spots")
def test_predict_writes_what_a_stream_showed(
    stream: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LiveVideo.__init__, "__kwdefaults__", {"patience": 0.2})
    with server(plays(stream), plays(stream)) as port:
        name = f"rtsp://127.0.0.1:{port}/street"
        assert run(["predict", name, "--allow-net", "-o", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.count(f"left out: {name}: no frame came") == 1
    rows = [json.loads(line) for line in (tmp_path / "detections.jsonl").read_text().splitlines()]
    assert len(rows) >= 2
    assert all(row["detections"] for row in rows[:-1])
    (film,) = tmp_path.glob("*.mp4")
    assert len([*images_of(film)]) == len(rows) - 1


class Interrupted(Spots):
    """The user presses Ctrl-C while it looks at the third image."""

    def run(self, batch: Batch, *, flipped_classes: np.ndarray | None = None) -> list[Detections]:
        if len(self.batches) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return super().run(batch, flipped_classes=flipped_classes)


def test_a_camera_ends_when_the_user_says_so(
    drawing_camera: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aweigh.cli.predict, "find_detector", lambda *_: Predictor(Interrupted(), Resize(None, None)))
    before = signal.getsignal(signal.SIGINT)
    assert run(["predict", drawing_camera, "-o", str(tmp_path)]) == 0
    assert signal.getsignal(signal.SIGINT) is before
    rows = [json.loads(line) for line in (tmp_path / "detections.jsonl").read_text().splitlines()]
    assert len(rows) in (3, 4)  # one more may have come before it was told to end
    assert f"{counted(len(rows), 'frame')} looked at" in capsys.readouterr().err
    (film,) = tmp_path.glob("*.mp4")
    assert len([*images_of(film)]) == len(rows)


def test_a_camera_has_its_part_too(drawing_camera: str) -> None:
    predictor = Predictor(Spots(), Resize(None, None))
    results = [*predictor.stream(drawing_camera, every=5, start=0.1, end=0.5)]
    assert results
    assert all(result.frame_number % 5 == 0 and 0.1 <= result.time < 0.5 for result in results)  # type: ignore[operator]


def test_what_is_no_camera_and_no_stream(drawing_camera: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="camera:nothing: cannot be opened"):
        images_of("camera:nothing")
    with pytest.raises(DataError, match=r"rtsp://127.0.0.1:1/: cannot be opened \(Connection refused"):
        images_of("rtsp://127.0.0.1:1/", allow_net=True)
    with pytest.raises(UsageError, match="add --allow-net"):
        images_of("rtsp://127.0.0.1:1/")


def test_cameras_of_each_system() -> None:
    assert Source.of("camera:0", "linux") == Source("/dev/video0", "v4l2", {})
    assert Source.of("/dev/video2", "linux") == Source("/dev/video2", "v4l2", {})
    assert Source.of("camera:1", "darwin") == Source("1", "avfoundation", {})
    assert Source.of("camera:Front", "win32") == Source("video=Front", "dshow", {})
    with pytest.raises(UsageError, match="cameras of plan9 are not known"):
        Source.of("camera:0", "plan9")
