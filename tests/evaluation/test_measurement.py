"""Numbers of a results file of any program, joined with a data set by name; `aweigh eval RESULTS.json DATA`."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.scenes_on_disk import entry, scene, write_coco

from aweigh.cli.main import run
from aweigh.evaluation.coco import evaluate_coco
from aweigh.layouts.load import load_split


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three images of the validation split with an object each; the images have numbers 1 to 3."""
    rows = [entry(n, n, [10 * n, 20, 40, 30]) for n in (1, 2, 3)]
    write_coco(tmp_path / "data", "val", {f"{n}.jpg": scene(n) for n in (1, 2, 3)}, rows)
    return tmp_path / "data"


def detections(**changed: Any) -> list[dict[str, Any]]:
    """Of the second image its object, and of the third another place; numbered as another program may do."""
    found = {"image_id": 70, "category_id": 1, "bbox": [20, 20, 40, 30], "score": 0.9, "file_name": "2.jpg"}
    return [found | changed, found | {"image_id": 71, "bbox": [90, 70, 9, 9], "score": 0.8, "file_name": "3.jpg"}]


def written(folder: Path, entries: list[dict[str, Any]]) -> str:
    path = folder / "found.json"
    path.write_text(json.dumps(entries))
    return str(path)


def test_the_numbers_are_coco_s_of_results_joined_by_name(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, numbers, plots = written(tmp_path, detections()), tmp_path / "numbers.json", tmp_path / "plots"
    assert run(["eval", found, str(data), "--json", str(numbers), "--plots", str(plots)]) == 0
    split = load_split(data, "val")
    own = [found | {"image_id": found["image_id"] - 68} for found in detections()]
    expected = evaluate_coco(split.to_coco(), own)
    told = json.loads(numbers.read_text())
    assert told["settings"] == {
        "split": "val", "data_hash": split.content_hash, "results": found, "data": str(data)
    }  # fmt: skip
    assert {name: told[name] for name in expected.to_dict()} == json.loads(json.dumps(expected.to_dict()))
    assert 0 < told["AP50"] < 1 and "ms_per_image" not in told
    assert expected.table() in capsys.readouterr().out
    assert {path.name for path in plots.iterdir()} == {"pr_curves.png", "confusion.png", "worst.jpg", "errors.json"}


def test_metrics_by_name_and_numbers_that_are_those_of_the_data(data: Path, tmp_path: Path) -> None:
    bare = [
        {key: value for key, value in found.items() if key != "file_name"} | {"image_id": found["image_id"] - 68}
        for found in detections()
    ]
    found, numbers = written(tmp_path, bare), tmp_path / "numbers.json"
    assert run(["eval", found, str(data)]) == 3  # images counted from 1 could be any
    assert run(["eval", found, str(data), "--own-ids", "--metric", "voc12,recall", "--json", str(numbers)]) == 0
    told = json.loads(numbers.read_text())
    assert 0 < told["mAP"] < 1 and "AR100" in told["recall"]


def test_masks_are_measured_where_both_have_them(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outline = [[20, 20, 60, 20, 60, 50, 20, 50]]
    both = [found | {"segmentation": outline} for found in detections()]
    assert run(["eval", written(tmp_path, both), str(data)]) == 0
    assert "masks are not measured: val has none" in capsys.readouterr().out
    rows = [entry(n, n, [10 * n, 20, 40, 30]) | {"segmentation": outline} for n in (1, 2, 3)]
    write_coco(tmp_path / "masks", "val", {f"{n}.jpg": scene(n) for n in (1, 2, 3)}, rows)
    alone = [{key: value for key, value in found.items() if key != "bbox"} for found in both]
    numbers = tmp_path / "numbers.json"
    for entries, first, other in ((both, "AP50", "masks"), (alone, "AP50", None)):
        assert run(["eval", written(tmp_path, entries), str(tmp_path / "masks"), "--json", str(numbers)]) == 0
        told = json.loads(numbers.read_text())
        assert told[first] > 0 and (other in told if other else "masks" not in told)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--tta", "flip"], 2, "leave out the flags of a detector"),
        (["--weights", "box"], 2, "leave out the flags of a detector"),
        (["--proposals"], 2, "leave out the flags of a detector"),
        (["--metric", "keypoints"], 2, "finds none"),
    ],
)
def test_what_does_not_go_with_a_file(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    assert run(["eval", written(tmp_path, detections()), str(data), *words]) == code
    assert said in capsys.readouterr().err


def test_results_of_other_images_and_of_a_detector(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", written(tmp_path, detections(file_name="9.jpg")), str(data)]) == 3
    assert "9.jpg" in capsys.readouterr().err
    assert run(["eval", "fcos_shufflenet_v2_x1_0_lite", str(data), "--own-ids"]) == 2
