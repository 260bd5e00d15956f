"""From drawn roads to KITTI's numbers, label files and images, by the commands a user types."""

import json
from pathlib import Path

import pytest
from PIL import Image

from aweigh.cli.main import run
from aweigh.layouts.kitti import parse_label

SMALL = ["--arguments", "channels=8", "--arguments", "slots=null", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set and a checkpoint, after two steps."""
    folder = tmp_path_factory.mktemp("space")
    road = ["data", "synth", str(folder / "road"), "--kind", "road", "--train", "2", "--val", "2", "--test", "0"]
    assert run([*road, "--size", "160"]) == 0
    training = ["train", str(folder / "road"), "--model", "centernet_shufflenet_v2_x0_5_lite_3d", *SMALL]
    training += ["--epochs", "1", "--batch", "1", "--long", "160", "--workers", "0", "--output", str(folder / "run")]
    assert run(training) == 0
    return folder / "road", folder / "run"


def test_a_run_is_chosen_by_its_ap_in_space(trained: tuple[Path, Path]) -> None:
    rows = [json.loads(line) for line in (trained[1] / "log.jsonl").read_text().splitlines()]
    epoch = next(row for row in rows if "val_loss" in row)
    assert epoch["space_AP"] is None  # no object in so small an image is 25 pixels high
    assert epoch["space_per_class"]["Car"]["overlap"] == 0.7
    assert {"val_loss_depth", "val_loss_orientation", "val_loss_middle"} <= epoch.keys()
    assert "space_AP" in (trained[1] / "results.csv").read_text().splitlines()[0]


def test_eval_prints_and_writes_kittis_numbers(trained: tuple[Path, Path], tmp_path: Path, capsys: object) -> None:
    data, made = trained
    numbers = tmp_path / "numbers.json"
    assert run(["eval", str(made / "last.safetensors"), str(data), "--device", "cpu", "--json", str(numbers)]) == 0
    shown = capsys.readouterr().out  # type: ignore[attr-defined]
    assert "Car > 0.7" in shown and "Car > 0.5" in shown and "bird's eye" in shown and "at 11 recalls" in shown
    written = json.loads(numbers.read_text())["space"]["per_class"]["Cyclist"]
    assert {"box_easy_11", "space_moderate_40", "orientation_hard_40"} <= written.keys()


def test_predict_writes_labels_and_draws_in_space(trained: tuple[Path, Path], tmp_path: Path) -> None:
    data, made = trained
    pictures = data / "training/image_2"
    command = ["predict", str(pictures), "--model", str(made / "last.safetensors"), "--score", "0", "--device", "cpu"]
    assert run([*command, "--format", "kitti", "-o", str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out/labels/000000.txt").read_text().splitlines()
    label = parse_label(lines[0])
    assert 0 < len(lines) <= 100 and not isinstance(label, str) and label.score is not None and label.solid[5] > 0
    assert Image.open(tmp_path / "out/000000.jpg").size == (160 + 48, 64)  # the view from above beside it
    # Without a camera nothing is known of space, and the boxes are drawn.
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/x.png").write_bytes((pictures / "000000.png").read_bytes())
    command[1] = str(tmp_path / "alone/x.png")
    assert run([*command, "--format", "kitti", "-o", str(tmp_path / "plain")]) == 0
    unknown = parse_label((tmp_path / "plain/labels/x.txt").read_text().splitlines()[0])
    assert not isinstance(unknown, str) and unknown.solid[3:] == (-1000, -1000, -1000, -10)
    assert Image.open(tmp_path / "plain/x.jpg").size == (160, 64)
    calibration = str(data / "training/calib/000000.txt")
    assert run([*command, "-o", str(tmp_path / "given"), "--camera", calibration]) == 0
    line = json.loads((tmp_path / "given/detections.jsonl").read_text())
    assert line["detections"][0]["solid"]["z"] > 0 and line["detections"][0]["cuboid"].keys() >= {"u", "alpha"}
    assert run([*command, "-o", str(tmp_path / "none"), "--camera", str(tmp_path / "no.txt")]) == 3


def test_check_reads_kitti_and_does_not_write_it(trained: tuple[Path, Path], tmp_path: Path) -> None:
    data = str(trained[0])
    assert run(["data", "check", data, "--model", "none"]) == 0
    assert run(["data", "check", data, "--model", "none", "--fix-to", str(tmp_path / "clean")]) == 2


def test_a_detector_of_boxes_takes_no_camera(trained: tuple[Path, Path], tmp_path: Path) -> None:
    picture = str(trained[0] / "training/image_2/000000.png")
    assert run(["predict", picture, "-o", str(tmp_path / "x"), "--camera", "c.txt", "--device", "cpu"]) == 2
