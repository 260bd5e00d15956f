"""`aweigh.train` and `aweigh.evaluate` do what the commands do."""

import json

import numpy as np
import pytest
from tests.runs import TINY, charts_not_rendered

import aweigh
from aweigh.arguments import change_settings
from aweigh.cli.main import run
from aweigh.errors import UsageError
from aweigh.images.resize import Resize
from aweigh.layouts.load import load_split

SETTINGS = {**TINY, "epochs": 1}


@pytest.fixture(autouse=True)
def charts():
    with charts_not_rendered():
        yield


@pytest.fixture(scope="module")
def trained(toys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    with charts_not_rendered():
        assert aweigh.train(toys, output=str(folder), **SETTINGS) == folder
    return folder


def sure_of_nothing(trained, **changed):
    """The detector of the run with all it finds, as it has learned next to nothing."""
    predictor = aweigh.load(trained / "best.safetensors", device="cpu", **changed)
    change_settings(predictor.engine.model, {"score_threshold": 0.0})
    return predictor


def test_the_run_is_that_of_the_command(toys, trained, tmp_path, quiet) -> None:
    flags = [f"--{name}={value}" for name, value in SETTINGS.items() if name != "arguments"]
    words = ["--arguments", *TINY["arguments"]]
    assert run(["train", str(toys), *flags, *words, "--output", str(tmp_path / "run")]) == 0
    ours, theirs = ((folder / "last.safetensors").read_bytes() for folder in (trained, tmp_path / "run"))
    start = 8 + int.from_bytes(ours[:8], "little")  # behind the header, which holds the name of the folder
    assert ours[start:] == theirs[8 + int.from_bytes(theirs[:8], "little") :]
    assert aweigh.train(resume=str(tmp_path / "run"), epochs=2, schedule="stretch", console=quiet) == tmp_path / "run"
    assert "Trained 2 epochs" in quiet.file.getvalue()


def test_a_recipe_and_what_goes_before_it(toys, tmp_path, quiet) -> None:
    (tmp_path / "mine.toml").write_text(f"epochs = 1\nshort = 64\nlong = 96\nmodel = {TINY['model']!r}\n")
    changes = {"arguments": TINY["arguments"], "batch": 8, "workers": 0, "device": "cpu"}
    output = str(tmp_path / "run")
    aweigh.train(str(toys), recipe=str(tmp_path / "mine.toml"), output=output, console=quiet, **changes)
    assert "batch = 8" in (tmp_path / "run" / "config.toml").read_text()
    with pytest.raises(UsageError, match=r"'epoch'.*Did you mean 'epochs'"):
        aweigh.train(str(toys), epoch=3)
    with pytest.raises(UsageError, match=r"no recipe 'everday'.*Did you mean 'everyday'"):
        aweigh.train(str(toys), recipe="everday")


def test_numbers_are_those_of_the_command(toys, trained, tmp_path, capsys) -> None:
    done = []
    found = aweigh.evaluate(sure_of_nothing(trained), toys, batch=2, progress=lambda *numbers: done.append(numbers))
    assert done == [(2, 4), (4, 4)]
    flags = ["--device", "cpu", "--batch", "2", "--set", "score_threshold=0", "--json", str(tmp_path / "numbers.json")]
    assert run(["eval", str(trained / "best.safetensors"), str(toys), *flags]) == 0
    assert found.metrics["boxes"].table() in capsys.readouterr().out
    theirs = json.loads((tmp_path / "numbers.json").read_text())
    ours = found.to_dict()
    del ours["ms_per_image"], theirs["ms_per_image"]
    assert ours == {name: theirs[name] for name in ours}
    assert found.split.content_hash == theirs["settings"]["data_hash"]


def test_what_is_measured_is_chosen(toys, trained) -> None:
    file, val = trained / "best.safetensors", load_split(toys, "val")
    train = aweigh.evaluate(file, toys, split="train", metrics=["voc07"])
    assert list(train.metrics) == ["voc07"] and len(train.split) == 8
    part = aweigh.evaluate(file, val.take([1, 3]))
    assert part.split.image_ids.tolist() == [101, 103]
    with pytest.raises(UsageError, match="ap50"):
        aweigh.evaluate(file, val, metrics=["ap50"])


def test_test_augmentation_and_resize_are_those_of_the_predictor(toys, trained) -> None:
    tta = aweigh.TTA(flip=True)
    both = [
        aweigh.evaluate(sure_of_nothing(trained, **changed), toys).results
        for changed in ({}, {"tta": tta}, {"resize": Resize(None, 48)})
    ]
    scores = [np.array([entry["score"] for entry in results]) for results in both]
    assert not any(np.array_equal(scores[0], other) for other in scores[1:])
