"""Broken model files and broken sources of images: one explained error that names the file, and no code is run."""

import json
import os
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.layouts import fuzz

import aweigh
from aweigh.checkpoints.checkpoint import load_model, save_model, start_from
from aweigh.cli.main import run
from aweigh.errors import DataError, UsageError
from aweigh.header import check_header, read_header
from aweigh.images.resize import Resize
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
MUTATED = int(os.environ.get("AWEIGH_MUTATED_CHECKPOINTS", "60"))  # 1000 takes some minutes


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
        assert np.isfinite(found.boxes).all()
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


def test_mutated_files_end_in_a_detector_or_one_line_and_reach_for_nothing(good: Path, tmp_path: Path) -> None:
    """Headers, tensors, bytes; in a process of its own, in which an audit hook sees every file and every socket."""
    words = [sys.executable, "-m", "tests.checkpoints.mutated_checkpoints", str(good), str(tmp_path), str(MUTATED)]
    finished = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert finished.returncode == 0, finished.stderr[-2000:]
    found = json.loads(finished.stdout.splitlines()[-1])
    assert found["wrong"] == [] and found["gigabytes"] < 1.5, found
    assert sum(found["outcomes"].values()) == MUTATED and {"used", "DataError"} <= {*found["outcomes"]}, found


def header_of(path: Path, good: Path, **changes: object) -> Path:
    save_file(load_file(good), path, metadata={"aweigh": json.dumps(read_header(good) | changes)})
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arguments": {"backbone_weights": "imagenet"}}, "there is no option 'backbone_weights'"),
        ({"arguments": {"backbone_weights": "/etc/passwd"}}, "there is no option 'backbone_weights'"),
        ({"arguments": {"weights": "torchvision"}}, "there is no option 'weights'"),
        ({"arguments": {"classes": ["a"]}}, "there is no option 'classes'"),
        ({"arguments": {"channels": 10**4}}, "tensors fit"),
        ({"arguments": {"channels": 10**9}}, "channels = 1000000000: expected a whole number from 1 to 10000"),
        ({"arguments": {"box_loss": "smooth_l1"}}, "unknown box_loss 'smooth_l1'"),
        ({"selection": {"max_detections": 0}}, "max_detections = 0"),
        ({"selection": {"nms": "x"}}, "unknown nms 'x'"),
        ({"max_detections": 0, "selection": {}}, "max_detections = 0"),
        ({"metrics": [1, 2]}, "no metrics by name"),
        ({"training": 7}, "no training by name"),
        ({"training": {"epoch": "many", "step": 1}}, "no number as epoch"),
        ({"training": {"epoch": 1, "step": {"a": 1}}}, "no number as step"),
        ({"classes": {"names": [str(i) for i in range(9000)], "ids": list(range(9000))}}, "tensors fit"),
    ],
)
def test_headers_that_say_too_much(good: Path, tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises((DataError, UsageError), match=said) as caught:
        load_model(header_of(tmp_path / "bad.safetensors", good, **changes))
    assert "bad.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 500 + "]" * 500, "cannot be read"),
        ('{"a": ' * 500 + "1" + "}" * 500, "cannot be read"),
        ("[" * 200_000, "cannot be read"),
        ('{"format": 1, "format": 2}', "'format' is said twice"),
        ('{"format": NaN}', "NaN is no number"),
        ("7", "it is int, no object"),
    ],
)
def test_headers_that_are_no_header(good: Path, tmp_path: Path, text: str, said: str) -> None:
    save_file(load_file(good), tmp_path / "bad.safetensors", metadata={"aweigh": text})
    with pytest.raises(DataError, match=f"bad.safetensors: .*{said}"):
        read_header(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value.to(torch.int16), "is of int16, expected float32"),
        (lambda value: value.to(torch.complex64), "is of complex64, expected float32"),
        (lambda value: torch.full_like(value, float("nan")), "values are not finite"),
        (lambda value: value.index_fill(0, torch.tensor([0]), float("inf")), "not finite"),
    ],
)
def test_weights_that_are_none_are_refused_by_name(good: Path, tmp_path: Path, change: Any, said: str) -> None:
    state = load_file(good)
    state["head.logits.weight"] = change(state["head.logits.weight"])
    path = tmp_path / "bad.safetensors"
    save_file(state, path, metadata={"aweigh": json.dumps(read_header(good))})
    with pytest.raises(DataError, match=f"bad.safetensors: .*head.logits.weight.*{said}"):
        load_model(path)
    other = aweigh.create("fcos_shufflenet_v2_x0_5_fpn", classes=["cat", "dog"], channels=16, head_convs=1)
    with pytest.raises(DataError, match=r"head\.logits\.weight"):
        start_from(other, path)


def test_a_counter_of_another_shape_is_refused(good: Path, tmp_path: Path) -> None:
    state = load_file(good)
    name = next(key for key in state if key.endswith("num_batches_tracked"))
    state[name] = torch.zeros(0, dtype=torch.int64)
    save_file(state, tmp_path / "bad.safetensors", metadata={"aweigh": json.dumps(read_header(good))})
    with pytest.raises(UsageError, match=rf"of another shape: {name} \(0,\), expected \(\)"):
        load_model(tmp_path / "bad.safetensors")


def test_a_negative_variance_is_refused(good: Path, tmp_path: Path) -> None:
    state = load_file(good)
    name = next(key for key in state if key.endswith("running_var"))
    state[name][0] = -1
    save_file(state, tmp_path / "bad.safetensors", metadata={"aweigh": json.dumps(read_header(good))})
    with pytest.raises(DataError, match=f"{name} holds a negative variance"):
        load_model(tmp_path / "bad.safetensors")


def test_names_of_classes_do_not_move_the_cursor(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = {"names": ["\x1b[31mred", "two\nlines \x9b31m"], "ids": [0, 1]}
    path = header_of(tmp_path / "names.safetensors", good, classes=classes, licence="\x1b]0;title\x07")
    assert run(["info", str(path)]) == 0
    written = capsys.readouterr().out
    assert "\x1b" not in written and "\x07" not in written and "\\x1b[31mred" in written
    assert len(written.splitlines()) == len([line for line in written.splitlines() if line.strip()])
    assert run(["info", str(path), "--json"]) == 0
    written = capsys.readouterr().out
    assert "\x1b" not in written and "\x9b" not in written
    assert json.loads(written)["classes"]["names"] == classes["names"]


def test_loading_and_predicting_leave_the_random_numbers_as_they_were(good: Path) -> None:
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    predictor = load(good)
    predictor(torch.zeros(3, 24, 32, dtype=torch.uint8))
    after = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


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
    """`aweigh predict` leaves out what is no image, names it, and waits for no pipe."""
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
