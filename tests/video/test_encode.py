"""Drawn frames as a video again: `aweigh predict clip.mp4` writes it, with its times, its sound and its boxes."""

import errno
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from tests.runtime.toy_engines import Spots
from tests.video.clips import clip, steady, uneven

import aweigh.cli.predict
from aweigh.cli.main import run
from aweigh.images.resize import Resize
from aweigh.images.sources import images_of
from aweigh.predictor import Predictor
from aweigh.video.encode import written_video


@pytest.fixture
def spots(monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector of every command is one that finds what is bright."""
    monkeypatch.setattr(aweigh.cli.predict, "find_detector", lambda *_: Predictor(Spots(), Resize(None, None)))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "detections.jsonl").read_text().splitlines()]


def seconds_of_sound(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.dts is not None]
        return [(float(packet.pts * packet.time_base), bytes(packet)) for packet in packets]


@pytest.mark.usefixtures("spots")
@pytest.mark.parametrize(("name", "times", "turned"), [("a.mp4", uneven, 90), ("a.ts", steady, 0)])
def test_a_drawn_video_has_the_times_and_the_sound(tmp_path: Path, name: str, times: Any, turned: int) -> None:
    source = clip(tmp_path / name, times=times, turned=turned, sound=True)
    assert run(["predict", str(source), "-o", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "detections.jsonl"]
    rows = rows_of(tmp_path / "out")
    assert [(row["path"], row["frame"]) for row in rows] == [(f"{source}/{n:06d}", n) for n in range(30)]
    frames = [*images_of(tmp_path / "out" / "a.mp4")]
    assert [frame.time for frame in frames] == pytest.approx([times(number) for number in range(30)], abs=1e-3)
    assert [row["time"] for row in rows] == pytest.approx([frame.time for frame in frames], abs=1e-3)
    for frame, original in zip(frames, images_of(source), strict=True):
        assert frame.size_hw == (96, 160)
        changed = np.abs(frame.pixels.astype(int) - original.pixels).max(axis=2) > 60
        assert 20 < changed.sum() < 4000  # the boxes and their labels
    sound, copied = seconds_of_sound(source), seconds_of_sound(tmp_path / "out" / "a.mp4")
    assert len(copied) == len(sound)
    assert all(one.endswith(other) for (_, one), (_, other) in zip(sound, copied))  # of .ts without its own heads
    assert copied[9][0] - copied[0][0] == pytest.approx(sound[9][0] - sound[0][0], abs=1e-3)


@pytest.mark.usefixtures("spots")
def test_a_part_of_a_video_begins_at_zero(tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mp4", 100, sound=True)
    assert (
        run(["predict", str(source), "--start", "1", "--end", "0:03", "--every", "5", "-o", str(tmp_path / "out")]) == 0
    )
    assert [row["frame"] for row in rows_of(tmp_path / "out")] == [*range(25, 75, 5)]
    assert [frame.time for frame in images_of(tmp_path / "out" / "a.mp4")] == pytest.approx(np.arange(10) * 0.2)
    copied = seconds_of_sound(tmp_path / "out" / "a.mp4")
    whole = [data for _, data in seconds_of_sound(source)]
    assert len(copied) == pytest.approx(2 * 8000 / 1024, abs=2)
    first = whole.index(copied[0][1])
    assert whole[first : first + len(copied)] == [data for _, data in copied]
    assert first == pytest.approx(8000 / 1024, abs=2)


@pytest.mark.usefixtures("spots")
def test_sound_that_mp4_does_not_hold_is_kept(tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4", 5, sound=True)
    with av.open(str(tmp_path / "a.mp4")) as source, av.open(str(tmp_path / "b.mkv"), "w") as container:
        picture = container.add_stream_from_template(source.streams.video[0])
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = picture
                container.mux(packet)
        tone = av.AudioFrame.from_ndarray(np.arange(1600, dtype=np.int16)[None], format="s16", layout="mono")
        tone.sample_rate = 8000
        container.mux(sound.encode(tone))
        container.mux(sound.encode(None))
    assert run(["predict", str(tmp_path / "b.mkv"), "-o", str(tmp_path / "out")]) == 0
    copied = seconds_of_sound(tmp_path / "out" / "b.mkv")
    assert b"".join(data for _, data in copied) == np.arange(1600, dtype=np.int16).tobytes()


@pytest.mark.usefixtures("spots")
def test_videos_and_images_together(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a.mp4", "b.mp4"):
        clip(tmp_path / name, 4)
    Image.new("RGB", (40, 30)).save(tmp_path / "c.png")
    (tmp_path / "d.mp4").write_bytes(b"nothing" * 50)
    (tmp_path / "list.txt").write_text("".join(f"{tmp_path}/{name}\n" for name in ("a.mp4", "c.png", "d.mp4", "b.mp4")))
    assert run(["predict", f"@{tmp_path}/list.txt", "-o", str(tmp_path / "out")]) == 1
    names = ["a.mp4", "b.mp4", "c.jpg", "detections.jsonl"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    rows = rows_of(tmp_path / "out")
    assert [row.get("frame") for row in rows] == [0, 1, 2, 3, None, 0, 0, 1, 2, 3]
    assert "cannot be opened" in rows[5]["error"]


@pytest.mark.usefixtures("spots")
def test_a_video_is_not_overwritten_by_its_drawing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = clip(tmp_path / "a.mp4", 2).read_bytes()
    assert run(["predict", str(tmp_path / "a.mp4"), "-o", str(tmp_path)]) == 2
    assert "would be overwritten by a drawing" in capsys.readouterr().err
    assert (tmp_path / "a.mp4").read_bytes() == data


@pytest.mark.usefixtures("spots")
def test_a_full_disk_costs_the_drawing_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aweigh.video.encode import VideoWriter

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(VideoWriter, "add", full)
    source = clip(tmp_path / "a.mp4", 5)
    assert run(["predict", str(source), "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.count(f"not drawn: {source}: No space left on device") == 1
    assert len(rows_of(tmp_path / "out")) == 5
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["detections.jsonl"]


def test_colours_and_odd_sides_are_kept(tmp_path: Path) -> None:
    colours = np.array([[220, 30, 40], [30, 180, 60], [40, 60, 200], [128, 128, 128], [250, 250, 250]], np.uint8)
    pixels = np.repeat(np.repeat(colours[None], 21, axis=0), 9, axis=1)  # (21, 45, 3)
    with written_video(tmp_path / "a.mp4", (21, 45)) as writer:
        for number in range(3):
            writer.add(pixels, number / 10)
    for frame in images_of(tmp_path / "a.mp4"):
        assert frame.size_hw == (22, 46)
        assert np.abs(frame.pixels[10, 4:45:9].astype(int) - colours).max() < 12


def test_an_error_leaves_no_video(tmp_path: Path) -> None:
    with pytest.raises(KeyError), written_video(tmp_path / "a.mp4", (20, 20)) as writer:
        writer.add(np.zeros((20, 20, 3), np.uint8), 0)
        raise KeyError
    assert not [*tmp_path.iterdir()]
