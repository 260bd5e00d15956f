"""A data set of a few tiny images, and a detector small enough to train on it in a second."""

import io
import json
import multiprocessing
import os
import random
from contextlib import contextmanager
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from rich.console import Console

from aweigh.training.config import TrainConfig, resolve

TINY = {
    "model": "fcos_shufflenet_v2_x0_5_fpn",
    "arguments": ("channels=32", "head_convs=1"),
    "short": 64,
    "long": 96,
    "batch": 4,
    "epochs": 2,
    "workers": 0,
    "device": "cpu",
}

AWEIGH = "from aweigh.cli.main import main; main()"

FORKS = multiprocessing.get_context("forkserver")

IN_THE_PROCESS = """
import multiprocessing, os, sys
multiprocessing.set_start_method(None, force=True)  # the default, for the processes that it starts in its turn
os.environ.clear()
os.environ.update(environment)
sys.argv = ["aweigh", *words]
from matplotlib.figure import Figure
Figure.savefig = lambda figure, path: open(path, "wb").close()  # as in `charts_not_rendered`
with open(output, "w") as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
exec(code, {"__name__": "__main__"})
"""


def write_coco(root, counts, *, objects=2, seed=0, sizes=((96, 80), (64, 96))):
    """Grey images with red boxes (category 1) and blue balls (category 7) in COCO's layout."""
    dice = random.Random(seed)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for number in range(count):
            width, height = dice.choice(sizes)
            picture = Image.new("RGB", (width, height), (90, 90, 90))
            draw = ImageDraw.Draw(picture)
            for _ in range(objects):
                category, side = dice.choice([1, 7]), dice.randint(16, 32)
                x, y = dice.randint(0, width - side), dice.randint(0, height - side)
                corners = [x, y, x + side - 1, y + side - 1]
                if category == 1:
                    draw.rectangle(corners, fill=(220, 30, 30))
                else:
                    draw.ellipse(corners, fill=(30, 30, 220))
                entry = {"id": len(annotations) + 1, "image_id": 100 + number, "category_id": category, "iscrowd": 0}
                annotations.append({**entry, "bbox": [x, y, side, side], "area": side * side})
            picture.save(root / "images" / split / f"{number}.png")
            images.append({"id": 100 + number, "file_name": f"{number}.png", "width": width, "height": height})
        categories = [{"id": 1, "name": "box"}, {"id": 7, "name": "ball"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def toys(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("toys"), {"train": 8, "val": 4})


@pytest.fixture
def quiet():
    """A console that keeps what it is told: `quiet.file.getvalue()`."""
    return Console(file=io.StringIO(), width=400)


@pytest.fixture
def configure(toys, tmp_path):
    """A configuration of a tiny run on the toys; keyword arguments change it. Its charts are not rendered."""

    def make(**changes) -> TrainConfig:
        values = {"data": str(toys), "output": str(tmp_path / "run"), **TINY, **changes}
        if "iterations" in changes:
            values.pop("epochs")
        return resolve({}, values)[0]

    with charts_not_rendered():
        yield make


@contextmanager
def charts_not_rendered():
    """Charts are composed, and their files are empty: matplotlib's rendering takes most of the time of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, path: Path(path).touch())
        yield


@pytest.fixture
def start(tmp_path_factory):
    """Starts a process in which `code` runs, by default the command line, with these words in sys.argv."""
    folder, started = tmp_path_factory.mktemp("started"), []

    def begin(*words, code=AWEIGH, **environment):
        output = str(folder / f"{len(started)}.txt")
        inside = {"code": code, "words": [*map(str, words)], "output": output}
        inside["environment"] = {**os.environ, **environment}
        started.append(FORKS.Process(target=exec, args=(IN_THE_PROCESS, inside), name=output))
        started[-1].start()
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.join()


def outcome(started, timeout=240):
    """`(exit codes, outputs)`; None is the code of a process that has not ended by then."""
    for process in started:
        process.join(timeout)
    return [process.exitcode for process in started], [Path(process.name).read_text() for process in started]
