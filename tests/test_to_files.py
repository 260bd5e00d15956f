"""`aweigh.predict_files`: what was stopped at any moment is gone on with, and writes the very same files."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.scenes_on_disk import entry, write_coco
from tests.stand_in import bright
from tests.video.clips import clip

import aweigh
from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.images.sources.source import Images
from aweigh.layouts.load import load_split
from aweigh.prediction import drawing
from aweigh.prediction.journal import Journal, unfinished
from aweigh.prediction.summary import Summary
from aweigh.results import FORMATS

COUNT = 7


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images with an object, without one (2.png), and one that cannot be read (4.png)."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        pixels = np.zeros((30, 40, 3), np.uint8)
        pixels[5 : 8 + number, 9:20] = 255 * (number != 2)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "4.png").write_bytes(b"no image")
    return folder


def content(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def stops_at(wanted: int, error: type[BaseException] = Stopped) -> Callable[[int], None]:
    def stop(number: int) -> None:
        if number == wanted:
            raise error

    return stop


@pytest.mark.parametrize("format", FORMATS)
def test_a_run_that_is_stopped_and_gone_on_with_writes_the_same_file(format: str, photos: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    told: list[str] = []
    done = aweigh.predict_files(photos, whole, model=bright(), format=format, draw=False)
    assert (done.images, done.failed, done.done_before) == (COUNT, 1, 0) and done.objects == {"light": COUNT - 2}
    assert done.file is not None
    for before in (1, 2, 1):  # so many images are looked at in addition
        with pytest.raises(Stopped):
            resumed(photos, out, stops_at(before), format=format, draw=False, batch=1, remark=told.append)
        assert not (out / done.file.name).is_file()
    assert told[-1] == f"5 images are done, and kept in {unfinished(out / done.file.name)}: --resume goes on."
    again, looked = resumed(photos, out, format=format, draw=False)
    assert (again.done_before, looked) == (5, 2)  # 4.png could not be read
    assert (again.images, again.failed, again.objects) == (COUNT, 1, done.objects)
    assert content(out) == content(whole)
    again, looked = resumed(photos, out, format=format, draw=False, remark=told.append)
    assert told[-1] == f"{again.file} is there, whole, and nothing was done; leave --resume out to predict again."
    assert again.finished_before and (again.images, looked) == (0, 0)


def resumed(source: Path, out: Path, failing: Any = lambda number: None, **rest: Any) -> tuple[Summary, int]:
    """What came of it, and how many images were looked at."""
    predictor = bright(failing)
    return aweigh.predict_files(source, out, model=predictor, resume=True, **rest), predictor.engine.looked


def test_what_is_drawn_is_not_drawn_again_and_keeps_its_name(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "MOST_DRAWING", 1)  # thread, so that few drawings are on their way at once
    folder, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(photos, folder)
    Image.open(folder / "6.png").save(folder / "3.tif")  # whose drawing would be called like that of 3.png
    with pytest.raises(Stopped):
        resumed(folder, out, stops_at(5), batch=1)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.jpg")}
    done, looked = resumed(folder, out)
    assert (done.done_before, looked) == (4, 3)  # two drawings were on their way; 4.png could not be read
    kept = [name for name, time in before.items() if (out / name).stat().st_mtime_ns == time]
    assert len(kept) >= done.done_before and "3.jpg" in kept
    aweigh.predict_files(folder, tmp_path / "whole", model=bright())
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.parametrize("draw", [False, True])
def test_a_video_that_is_drawn_is_looked_at_from_its_first_frame(draw: bool, tmp_path: Path) -> None:
    video, out = clip(tmp_path / "a.mp4"), tmp_path / "out"
    with pytest.raises(Stopped):
        resumed(video, out, stops_at(20), batch=1, draw=draw)
    done, looked = resumed(video, out, draw=draw)
    assert (done.images, done.done_before, looked) == ((30, 0, 30) if draw else (30, 20, 10))
    aweigh.predict_files(video, tmp_path / "whole", model=bright(), draw=draw)
    assert content(out).keys() == content(tmp_path / "whole").keys()
    assert content(out)["detections.jsonl"] == content(tmp_path / "whole")["detections.jsonl"]


def test_a_process_that_is_killed_loses_nothing(photos: Path, tmp_path: Path) -> None:
    script = """
import os, signal, sys
import aweigh
from tests.stand_in import bright
kill = lambda number: number == 2 and os.kill(os.getpid(), signal.SIGKILL)
aweigh.predict_files(sys.argv[1], sys.argv[2], model=bright(kill), format="csv", batch=1, draw=False)
"""
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", script, str(photos), str(out)], check=False)
    assert killed.returncode == -signal.SIGKILL and len([*out.iterdir()]) == 3  # a lock, what is half written, the rest
    with unfinished(out / "detections.csv").open("ab") as file:
        file.write(b'{"path": "half a li')  # as a machine may leave it that lost its power
    told: list[str] = []
    done, looked = resumed(photos, out, format="csv", draw=False, remark=told.append)
    assert (done.done_before, looked) == (2, 4) and "ended without a word" in told[0]
    aweigh.predict_files(photos, tmp_path / "whole", model=bright(), format="csv", draw=False)
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.thorough
def test_ten_kills_at_random_moments_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    folder, out, looked = tmp_path / "in", tmp_path / "out", tmp_path / "looked"
    folder.mkdir()
    for number in range(300):
        Image.fromarray(np.full((9, 9 + number % 7, 3), 255 * (number % 3 > 0), np.uint8)).save(
            folder / f"{number:03}.png"
        )
    script = """
import sys, time
import aweigh
from tests.stand_in import bright
def look(number):
    time.sleep(0.02)
    with open(sys.argv[3], "a") as file:
        file.write("x")
aweigh.predict_files(sys.argv[1], sys.argv[2], model=bright(look), batch=1, resume=True)
"""
    chance, kills = np.random.default_rng(0), 0
    while True:
        child = subprocess.Popen([sys.executable, "-c", script, str(folder), str(out), str(looked)])
        try:
            assert child.wait(chance.uniform(0.5, 2.5) if kills < 10 else None) == 0
            break
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            kills += 1
    aweigh.predict_files(folder, tmp_path / "whole", model=bright())
    assert kills == 10 and content(out) == content(tmp_path / "whole")
    on_their_way = 2 * drawing.MOST_DRAWING + 2
    assert 300 <= len(looked.read_text()) <= 300 + kills * on_their_way


def test_a_full_disk_is_one_line_and_keeps_whole_lines(photos: Path, tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from aweigh.cli import predict
from aweigh.cli.main import run
from tests.stand_in import bright
predict.find_detector = lambda *_: bright()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
sys.exit(run(["predict", sys.argv[1], "-o", sys.argv[2], "--no-draw", *sys.argv[4:]]))
"""
    words = [sys.executable, "-c", script, str(photos), str(tmp_path / "out")]
    ended = subprocess.run([*words, "2000"], capture_output=True, text=True, check=False)
    *_, kept, error = ended.stderr.splitlines()
    assert ended.returncode == 1 and kept.endswith("--resume goes on.")
    assert error == f"error: {tmp_path}/out/detections.jsonl.unfinished: {os.strerror(errno.EFBIG)}."
    lines = unfinished(tmp_path / "out" / "detections.jsonl").read_bytes()
    assert lines.endswith(b"\n") and all(json.loads(line) for line in lines.splitlines()) and len(lines) < 2000
    ended = subprocess.run([*words, str(1 << 30), "--resume"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "done before." in ended.stderr and "1 of 7 images could not be" in ended.stderr
    assert len((tmp_path / "out" / "detections.jsonl").read_text().splitlines()) == COUNT


def test_another_question_is_not_gone_on_with(photos: Path, tmp_path: Path) -> None:
    def ask(**changed: Any) -> None:
        aweigh.predict_files(photos, tmp_path, **{"model": bright(), "resume": True, "draw": False, **changed})

    with pytest.raises(Stopped):
        ask(model=bright(stops_at(4)), batch=1)
    before = content(tmp_path)
    with pytest.raises(UsageError, match=r"was begun with score = 0\.5, and here it is 0\.3"):
        ask(score=0.3)
    with pytest.raises(UsageError, match="was begun with tiles = none, and here it is tiles of 32"):
        ask(model=aweigh.Predictor(bright().engine, bright().resize, tiles=aweigh.Tiles(32)))
    assert content(tmp_path) == before
    told: list[str] = []
    ask(score=0.3, resume=False, remark=told.append)
    assert "is replaced; --resume goes on" in told[0] and [*content(tmp_path)] == ["detections.jsonl"]


def test_a_tracker_sees_all_frames(photos: Path, tmp_path: Path) -> None:
    done = aweigh.predict_files(photos, tmp_path, model=bright(), tracker=aweigh.Tracker(), draw=False)
    assert done.objects == {"light": COUNT - 2} and not unfinished(tmp_path / "detections.jsonl").exists()
    lines = [json.loads(line) for line in (tmp_path / "detections.jsonl").read_text().splitlines()]
    assert [one["track_id"] for line in lines for one in line["detections"]] == [1] * (COUNT - 2)
    with pytest.raises(UsageError, match="leave resume out"):
        aweigh.predict_files(photos, tmp_path, model=bright(), tracker=aweigh.Tracker(), resume=True)


def test_images_that_came_and_went_meanwhile(photos: Path, tmp_path: Path) -> None:
    """What is new is looked at, what is gone is not told, and the order is that of the folder."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (1, 3, 5, 6):
        os.link(photos / f"{number}.png", folder / f"{number}.png")
    with pytest.raises(Stopped):
        resumed(folder, tmp_path / "out", stops_at(3), batch=1, draw=False)
    (folder / "3.png").unlink()
    os.link(photos / "0.png", folder / "0.png")
    done, looked = resumed(folder, tmp_path / "out", draw=False)
    assert (done.images, looked) == (4, 2)
    lines = (tmp_path / "out" / "detections.jsonl").read_text().splitlines()
    assert [Path(json.loads(line)["path"]).name for line in lines] == ["0.png", "1.png", "5.png", "6.png"]
    aweigh.predict_files(folder, tmp_path / "whole", model=bright())
    assert (tmp_path / "whole" / "detections.jsonl").read_text().splitlines() == lines


def test_a_data_set_keeps_its_numbers(photos: Path, tmp_path: Path) -> None:
    names = ("0.png", "2.png", "5.png", "6.png")
    images = {name: Image.open(photos / name) for name in names}
    write_coco(tmp_path / "data", "val", images, [entry(1, 1, [9, 5, 11, 3])])
    split = load_split(tmp_path / "data", "val")
    assert aweigh.predict_files(split, tmp_path / "whole", model=bright(), format="coco").images == 4
    with pytest.raises(Stopped):
        aweigh.predict_files(split, tmp_path / "out", model=bright(stops_at(2)), format="coco", batch=1)
    aweigh.predict_files(split, tmp_path / "out", model=bright(), format="coco", resume=True)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    listed = json.loads((tmp_path / "out" / "detections.images.json").read_text())
    assert [image["id"] for image in listed["images"]] == split.image_ids.tolist()


def test_two_runs_do_not_work_in_one_folder(photos: Path, tmp_path: Path) -> None:
    def another(number: int) -> None:
        with pytest.raises(UsageError, match="is held by this very process"):
            aweigh.predict_files(photos, tmp_path / "out", model=bright())

    assert aweigh.predict_files(photos, tmp_path / "out", model=bright(another)).images == COUNT


def test_nothing_is_left_of_a_run_that_found_nothing_yet(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        aweigh.predict_files(photos, tmp_path / "out", model=bright(stops_at(0)), batch=1)
    assert not (tmp_path / "out").exists()


def test_the_journal_keeps_every_field(tmp_path: Path) -> None:
    """To the last bit, whatever it is, and of images of several detectors."""
    found = next(iter(bright().stream([np.full((8, 8, 3), 255, np.uint8)])))
    nothing = Detections.empty(found.classes, path="b\udcff.jpg", error="no image")
    camera = np.linspace(0, 1, 12).reshape(3, 4)
    full = aweigh.Detections.of(
        [[0, 1 / 3, 2, 3]], [0.5], [0], path="c", camera=camera, track_ids=np.array([9]), masks_rounded=True
    )
    images = [Path("a"), Path("b\udcff.jpg"), Path("c")]
    results = [aweigh.Detections(**{**vars(found), "path": "a"}), nothing, full]
    kept = Journal(tmp_path / "x", {"score": 0.5}, resume=False)
    todo = Images(lambda: iter(images))
    assert list(kept.merged(results[: sum(1 for _ in kept.missing(todo, None))])) == results
    kept.close()
    kept = Journal(tmp_path / "x", {"score": 0.5}, resume=True)
    assert [*kept.missing(todo, None)] == [] and list(kept.merged([])) == results and kept.done == 3
    kept.remove()
