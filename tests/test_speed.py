"""Steps are timed per image, in turn, with the machine's noise beside them."""

import json
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.runtime.toy_engines import Spots

from aweigh.cli.main import run
from aweigh.errors import DataError, UsageError
from aweigh.images.resize import Resize
from aweigh.speed import STEPS, Noise, drawn_images, measure_speed

HALF = Resize(short=None, long=48)


@dataclass
class Slow(Spots):
    """Sleeps for so long in each call, and remembers who was called."""

    seconds: float = 0.0
    called: list | None = None

    def run(self, batch, *, flipped_classes=None):
        time.sleep(self.seconds)
        self.called.append(self.name)
        return super().run(batch, flipped_classes=flipped_classes)


def photographs(folder: Path, count: int) -> list[Path]:
    for number, file in enumerate(drawn_images(count, long=96)):
        (folder / f"{number}.jpg").write_bytes(file)
    return sorted(folder.iterdir())


def test_each_image_goes_through_each_detector_in_turn_and_the_slow_one_is_told(tmp_path):
    called, rounds = [], []
    openers = {
        name: lambda name=name, seconds=seconds: (Slow(name=name, seconds=seconds, called=called), HALF)
        for name, seconds in (("quick", 0.0), ("slow", 0.02))
    }
    paths = photographs(tmp_path, 3)
    speed = measure_speed(openers, paths, repeats=2, batch=2, progress=rounds.append)
    assert called[:2] == ["quick", "slow"] and rounds == [1, 2, 3]  # the first calls, then the rounds
    turns = [*zip(called[2::2], called[3::2], strict=True)]
    assert len(turns) == 3 * 2 and all({*turn} == {"quick", "slow"} for turn in turns)
    assert {("quick", "slow"), ("slow", "quick")} == {*turns}  # neither is always behind the other
    quick, slow = speed.detectors["quick"], speed.detectors["slow"]
    assert [*quick.steps_ms] == [*STEPS] and all(times.shape == (4,) for times in quick.steps_ms.values())
    assert (slow.steps_ms["network"] >= 9).all() and slow.first_s >= 0.02  # 20 ms for one or two images
    assert np.median(quick.steps_ms["network"]) < 9 and (quick.whole_ms >= quick.steps_ms["decode"]).all()
    told = json.loads(json.dumps(speed.to_dict()))
    assert told["detectors"]["slow"]["computed_by"] == "NumPy" and told["batch"] == 2 and told["images"] == 3
    assert told["detectors"]["slow"]["ms"]["whole"]["p50"] <= told["detectors"]["slow"]["ms"]["whole"]["p99"]


def test_a_machine_that_does_other_things_is_too_noisy():
    assert not Noise(0.01, 1.1).too_much and "quiet" in str(Noise(0.01, 1.1))
    assert Noise(0.2, 1.1).too_much and Noise(0.01, 2.0).too_much
    assert "20%" in str(Noise(0.2, 1.1)) and "nothing else running" in str(Noise(0.2, 1.1))


def test_drawn_images_are_files_and_the_same_every_time():
    files = drawn_images(4, long=96)
    assert files == drawn_images(4, long=96) and len({*files}) == 4
    assert {Image.open(BytesIO(file)).size for file in files} == {(96, 72), (72, 96)}


def test_what_cannot_be_timed_is_refused(tmp_path):
    spots = {"spots": lambda: (Spots(), HALF)}
    (image,) = photographs(tmp_path, 1)
    for openers, images, settings, said in (
        ({}, [image], {}, "one detector"),
        (spots, [], {}, "one image"),
        (spots, [image], {"repeats": 0}, "repeats = 0"),
        (spots, [image], {"batch": -1}, "batch = -1"),
        ({"told": lambda: (Spots(needs_proposals=True), HALF)}, [image], {}, "told: spots needs proposals"),
    ):
        with pytest.raises(UsageError, match=said):
            measure_speed(openers, images, **settings)
    image.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"0\.jpg"):
        measure_speed(spots, [image])


def test_the_command_times_a_checkpoint_beside_its_graph(small_detector, small_graph, tmp_path, capsys):
    photographs(tmp_path, 2)
    models = [str(small_detector), str(small_graph)]
    numbers = tmp_path / "out" / "speed.json"
    flags = ["--images", str(tmp_path), "--repeats", "1", "--score", "0.05", "--json", str(numbers)]
    assert run(["bench", *models, *flags]) == 0
    title, head, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith("Milliseconds per image: 2 images, ") and head.split()[1:6] == [*STEPS]
    assert [row.split()[0] for row in rows[:2]] == models
    assert " torch " in rows[2] and " onnxruntime " in rows[3] and rows[4].startswith("The machine was ")
    written = json.loads(numbers.read_text())
    assert [*written["detectors"]] == models and written["drawn"] is False
    found = [one["detections"] for one in written["detectors"].values()]
    assert found[0] == found[1] > 0
    assert run(["bench"]) == 2 and "Name the detectors" in capsys.readouterr().err
