"""`aweigh predict --track`: an id for each object of frames in a folder, in the file and in the summary."""

from pathlib import Path

import pytest
from tests.cli.test_predict import finds, lines, pictures
from tests.video.clips import clip

from aweigh.cli.flags import Tracks
from aweigh.cli.main import run
from aweigh.tracking.tracker import Tracker

__all__ = ["finds"]  # the fixture: one object of score 0.9 in the middle of every image


def track_ids(out: Path) -> list[list[int]]:
    return [[one["track_id"] for one in line["detections"]] for line in lines(out)]


def test_an_object_has_one_id_in_all_frames(tmp_path: Path, finds: None, capsys: pytest.CaptureFixture[str]) -> None:
    frames = pictures(tmp_path / "frames", "001.png", "002.png", "003.png")
    assert run(["predict", str(frames), "--track", "-o", str(tmp_path / "out")]) == 0
    assert track_ids(tmp_path / "out") == [[1], [1], [1]]
    assert "3 images, 3 objects" in (told := capsys.readouterr().err) and "1 track\n" in told
    assert len([*(tmp_path / "out").glob("*.jpg")]) == 3


def test_two_folders_are_two_sequences(tmp_path: Path, finds: None) -> None:
    for name in ("a", "b"):
        pictures(tmp_path / name, "001.png", "002.png")
    sequences = [str(tmp_path / name) for name in ("a", "b")]
    assert run(["predict", *sequences, "--track", "--no-draw", "-o", str(tmp_path / "out")]) == 0
    assert track_ids(tmp_path / "out") == [[1], [1], [2], [2]]


def test_frames_of_a_video_have_their_numbers(tmp_path: Path, finds: None) -> None:
    path = clip(tmp_path / "clip.mp4", frames=10)
    words = ("--track", "--every", "4", "--format", "mot", "--no-draw", "-o", str(tmp_path / "out"))
    assert run(["predict", str(path), *words]) == 0
    rows = (tmp_path / "out" / "tracks.txt").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows] == [["1", "1"], ["5", "1"], ["9", "1"]]


def test_the_score_is_that_of_what_is_written(tmp_path: Path, finds: None) -> None:
    frames = pictures(tmp_path / "frames", "001.png", "002.png")
    asked = ["predict", str(frames), "--track", "--no-draw", "-o", str(tmp_path / "out"), "--score"]
    assert run([*asked, "0.95"]) == 0 and track_ids(tmp_path / "out") == [[], []]
    assert run([*asked, "0.8"]) == 0 and track_ids(tmp_path / "out") == [[1], [1]]


def test_where_no_track_is_confirmed_it_says_why(
    tmp_path: Path, finds: None, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = pictures(tmp_path / "frames", "001.png", "002.png")
    assert run(["predict", str(frames), "--track", "--track-new", "0.92", "-o", str(tmp_path / "out")]) == 0
    assert "one begins at a score of 0.92, and the highest was 0.90" in capsys.readouterr().err.replace("\n", " ")


def test_a_format_without_a_place_for_them_says_so(
    tmp_path: Path, finds: None, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = pictures(tmp_path / "frames", "001.png")
    assert run(["predict", str(frames), "--track", "--format", "voc", "-o", str(tmp_path / "out")]) == 0
    assert "Format voc has no place for tracks" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--track-high", "0.5"], "--track-high 0.5 goes with --track"),
        (["--track", "--track-high", "0.05"], "low = 0.1, high = 0.05"),
        (["--track", "--track-lost", "-1"], "lost = -1"),
    ],
)
def test_flags_that_do_not_go_together(
    tmp_path: Path, finds: None, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    frames = pictures(tmp_path / "frames", "001.png")
    assert run(["predict", str(frames), *flags, "-o", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_a_data_set_is_no_sequence(tmp_path: Path, finds: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "--data", str(tmp_path), "--track", "-o", str(tmp_path / "out")]) == 2
    assert "--track goes with frames in order" in capsys.readouterr().err.replace("\n", " ")


def test_what_the_help_says_of_the_thresholds_is_so() -> None:
    tracker = Tracker()
    for name in ("high", "low", "new", "iou", "lost"):
        (mark,) = Tracks.__annotations__[f"track_{name}"].__metadata__
        assert mark.help.endswith(f"; {getattr(tracker, name):g} when not given."), name
