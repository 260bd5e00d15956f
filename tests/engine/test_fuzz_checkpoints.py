"""Broken model files and broken sources of pictures: one explained error that names the file, and no code is run."""

import json
import os
import random
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.data import fuzz

import aweigh
from aweigh.cli.main import run
from aweigh.data.transforms import Resize
from aweigh.engine.checkpoint import load_model, read_header, save_model
from aweigh.engine.header import check_header
from aweigh.errors import DataError, UsageError
from aweigh.predictor import load

GONE = object()
VALUES = {
    "gone": GONE,
    "null": None,
    "text": "many",
    "list": [1, [2]],
    "object": {"a": 1},
    "10^30": 10**30,
    "negative": -7,
    "nan": float("nan"),
}
PLACES = [
    (),
    ("format",),
    ("builder",),
    ("arguments",),
    ("arguments", "frozen_stages"),
    ("arguments", "head_convs"),
    ("arguments", "unknown"),
    ("classes",),
    ("classes", "names"),
    ("classes", "names", 0),
    ("classes", "ids"),
    ("classes", "ids", 0),
    ("resize",),
    ("resize", "short"),
    ("resize", "long"),
    ("score_threshold",),
    ("nms_threshold",),
    ("max_detections",),
    ("metrics",),
]
HEADERS = [(place, name) for place in PLACES for name in VALUES if not (place == () and name == "gone")]
RANDOM = 40


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = aweigh.create("fcos_shufflenet_v2_x0_5_fpn", classes=["cat", "dog"], channels=16, head_convs=1)
    path = tmp_path_factory.mktemp("good") / "good.safetensors"
    save_model(path, model, resize=Resize(short=32, long=64))
    return path


def use(path: Path) -> str:
    """The header and the detector of a file, and one prediction with it; the outcome in words."""
    try:
        check_header(read_header(path), path)
        load_model(path)
        found = load(path)(torch.zeros(3, 24, 32, dtype=torch.uint8))
        assert torch.isfinite(found.boxes).all()
    except (DataError, UsageError) as error:
        assert path.name in str(error) or str(error).startswith("create("), error
        return f"exit code {error.exit_code}"
    return "used"


@pytest.mark.parametrize(
    ("place", "value"), HEADERS, ids=lambda part: part if isinstance(part, str) else ".".join(map(str, part))
)
def test_headers(good: Path, tmp_path: Path, place: tuple[str | int, ...], value: str) -> None:
    header = {"": read_header(good)}
    inside = header
    *way, last = ("", *place)
    for step in way:
        inside = inside[step]
    if VALUES[value] is GONE:
        inside[last] = None
        del inside[last]
    else:
        inside[last] = VALUES[value]
    path = tmp_path / "broken.safetensors"
    save_file(load_file(good), path, metadata={"aweigh": json.dumps(header[""])})
    use(path)


@pytest.mark.parametrize("number", range(RANDOM))
def test_bytes(good: Path, tmp_path: Path, number: int) -> None:
    dice = random.Random(number)
    data = bytearray(good.read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(8 + length if number % 4 else 8)
        data[at] = dice.choice([0, 0x22, 0x39, 0x7D, 0xFF, dice.randrange(256)])
    path = tmp_path / "broken.safetensors"
    path.write_bytes(data[: dice.randrange(len(data))] if number % 5 == 0 else data)
    use(path)


def test_files_that_are_no_files(good: Path, tmp_path: Path) -> None:
    places = {name: tmp_path / f"{name}.safetensors" for name in ("folder", "loop", "nowhere", "empty", "pipe", "huge")}
    places["folder"].mkdir()
    places["loop"].symlink_to(places["loop"].name)
    places["nowhere"].symlink_to("x")
    places["empty"].touch()
    os.mkfifo(places["pipe"])
    places["huge"].write_bytes(struct.pack("<Q", 2**63) + b"{}")
    assert {use(path) for path in places.values()} <= {"exit code 2", "exit code 3"}
    assert use(good) == "used"


def test_sources_of_pictures(good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`aweigh predict` leaves out what is no picture, names it, and waits for no pipe."""
    folder = tmp_path / "photos"
    folder.mkdir()
    names = []
    for mutation in fuzz.MUTATIONS:
        if mutation.layout == "coco" and mutation.file == fuzz.PICTURES["coco"]:
            place = tmp_path / "images" / "train"
            place.mkdir(parents=True)
            (tmp_path / "outside").mkdir(exist_ok=True)
            shutil.copy(good, place / "a.png")
            mutation.change(tmp_path)
            if os.path.exists(place / "a.png") and not (place / "a.png").is_dir():
                names.append(f"{len(names)}.png")
                (place / "a.png").rename(folder / names[-1])
            shutil.rmtree(tmp_path / "images")
    words = ["--model", str(good), "--device", "cpu", "-o", str(tmp_path / "out")]
    assert run(["predict", *(str(folder / name) for name in names), *words]) == 1
    written = capfd.readouterr().err
    left = [line for line in written.splitlines() if line.startswith("left out: ")]
    assert "Traceback" not in written and len(names) > 20 and len(left) > 15
    assert all(any(str(folder / name) in line for name in names) for line in left)
