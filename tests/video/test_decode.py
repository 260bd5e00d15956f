"""Frames of drawn videos: their numbers, times and boxes, whatever the codec and the container do to their order."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from tests.runtime.toy_engines import Spots
from tests.video.clips import box_of, clip, steady, uneven

from aweigh.errors import DataError, UsageError
from aweigh.images.reader import read_image
from aweigh.images.resize import Resize
from aweigh.images.sources import images_of
from aweigh.predictor import Predictor
from aweigh.video.frames import FrameChoice, VideoFrame

AS_IT_IS = Resize(short=96, long=160)


def found(source: Path, **asked: Any) -> list[tuple[int | None, float | None, list[int] | str]]:
    """Number, time and box of each frame, or its error."""
    predictor = Predictor(Spots(), AS_IT_IS)
    results = predictor.stream(source, batch=4, classes=["left hand"], **asked)
    return [
        (each.frame_number, each.time, each.error or each.boxes[0].round().astype(int).tolist()) for each in results
    ]


def expected(numbers: Iterable[int], times: Any = steady) -> list[Any]:
    return [(number, pytest.approx(times(number) - times(0), abs=2e-3), list(box_of(number))) for number in numbers]


@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_every_frame_of_a_clip_with_b_frames(tmp_path: Path, name: str) -> None:
    assert found(clip(tmp_path / name, 300)) == expected(range(300))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_variable_rate(tmp_path: Path, name: str) -> None:
    assert found(clip(tmp_path / name, times=uneven)) == expected(range(30), uneven)


@pytest.mark.parametrize("turned", [90, 180, 270])
def test_turned_frames_are_upright(tmp_path: Path, turned: int) -> None:
    assert found(clip(tmp_path / "a.mp4", turned=turned)) == expected(range(30))


def test_another_codec(tmp_path: Path) -> None:
    assert found(clip(tmp_path / "a.avi", codec="mpeg4")) == expected(range(30))
    assert found(clip(tmp_path / "a.webm", codec="libvpx"), start=0.4) == expected(range(10, 30))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_part_has_the_numbers_of_the_whole(tmp_path: Path, name: str) -> None:
    path = clip(tmp_path / name, 60)
    assert found(path, every=7) == expected(range(0, 60, 7))
    assert found(path, start=0.4) == expected(range(10, 60))
    assert found(path, start=1.52, end="0:02") == expected(range(38, 50))
    assert found(path, end=0.1, every=2) == expected(range(0, 3, 2))
    assert found(path, start="0:01", every=6) == expected(range(30, 60, 6))
    assert found(path, start=100) == []


def test_what_is_no_part() -> None:
    with pytest.raises(UsageError, match="every = 0"):
        FrameChoice.of(0)
    with pytest.raises(UsageError, match="the end has to be later"):
        FrameChoice.of(start="1:00", end=60)
    for wrong in ("soon", "1:2:3:4", "-1", "nan", -1):
        with pytest.raises(UsageError, match="expected seconds"):
            FrameChoice.of(start=wrong)


def test_frames_that_cannot_be_decoded_keep_their_numbers(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mkv", 40)
    broken = tmp_path / "b.mkv"
    with av.open(str(path)) as whole, av.open(str(broken), "w") as container:
        stream = container.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is None and packet.pts is None:
                continue
            if 0.47 < float(packet.pts * packet.time_base) < 0.49:  # the key frame 12
                packet = _of_zeros(packet)
            packet.stream = stream
            container.mux(packet)
    results = found(broken)
    assert [number for number, _, _ in results] == [*range(40)]
    decoded = [each for each in results if not isinstance(each[2], str)]
    assert len(decoded) > 25
    assert decoded == expected([number for number, _, _ in decoded])
    assert f"{broken}, frame 12 at 0.48 s: this frame cannot be decoded" in [what for _, _, what in results]


def _of_zeros(packet: Any) -> Any:
    other = av.Packet(bytes(packet.size))
    other.pts, other.dts, other.time_base, other.is_keyframe = packet.pts, packet.dts, packet.time_base, True
    return other


def test_a_file_that_breaks_off_says_so(tmp_path: Path) -> None:
    data = clip(tmp_path / "a.mkv", 150).read_bytes()
    (tmp_path / "b.mkv").write_bytes(data[: len(data) // 2])
    *frames, (_, _, last) = found(tmp_path / "b.mkv")
    assert frames[:-3] == expected(range(len(frames) - 3))  # of the last the frames between may be in what is gone
    assert 30 < len(frames) < 120
    assert "breaks off" in str(last)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.mp4", b"no video at all" * 100, "cannot be opened"),
        ("a.mkv", b"", "cannot be opened"),
        ("a.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.ts\n#EXT-X-ENDLIST\n", "cannot be opened"),
        ("a.avi", b"ffconcat version 1.0\nfile other.mp4\n", "cannot be opened"),
    ],
)
def test_what_is_no_video(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    clip(tmp_path / "other.ts"), clip(tmp_path / "other.mp4")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        images_of(tmp_path / name)


def test_sound_alone(tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4", sound=True)
    with av.open(str(tmp_path / "a.mp4")) as both, av.open(str(tmp_path / "b.mp4"), "w") as container:
        stream = container.add_stream_from_template(both.streams.audio[0])
        for packet in both.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    with pytest.raises(DataError, match="holds no video"):
        images_of(tmp_path / "b.mp4")


def test_videos_by_pattern_and_list(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.mp4"):
        clip(tmp_path / name, 3)
    (tmp_path / "list.txt").write_text(f"{tmp_path}/b.mp4\n{tmp_path}/gone.mp4\n")
    names = [f"{tmp_path}/{name}/{number:06d}" for name in ("a.mp4", "b.mp4") for number in range(3)]
    assert [str(frame) for frame in images_of(f"{tmp_path}/*.mp4")] == names
    *frames, gone = images_of(f"@{tmp_path}/list.txt")
    assert [str(frame) for frame in frames] == names[3:]
    with pytest.raises(DataError, match=r"gone\.mp4: the video cannot be opened \(No such file"):
        read_image(gone)
    with pytest.raises(DataError, match="There is no file"):
        images_of(f"{tmp_path}/x*.mp4")


def test_a_frame_is_as_large_as_an_image_may_be(tmp_path: Path) -> None:
    frame = next(iter(images_of(clip(tmp_path / "a.mp4", 1))))
    assert isinstance(frame, VideoFrame)
    assert np.array_equal(read_image(frame), frame.pixels)
    with pytest.raises(DataError, match=r"a\.mp4/000000: 160 x 96 is more than 100 pixels"):
        read_image(frame, max_pixels=100)
