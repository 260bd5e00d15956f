"""The way to COCO's server: images that nobody annotated are predicted on, and packed as the server takes it."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aweigh.cli.main import run
from aweigh.errors import UsageError
from aweigh.evaluation.submission import Submission, best, of_boxes, of_keypoints
from aweigh.scenes import STREET
from aweigh.weights.coco import COCO_CLASSES

NUMBERS = (9, 57, 191)  # of test-dev; the folder of images holds others too


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """As COCO's archives unpack: lists without annotations, `test2017` with the images of all of them."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "test2017").mkdir()
    street = Image.open(STREET).convert("RGB").resize((160, 120))
    for number in (*NUMBERS, 4000):
        street.save(root / "test2017" / f"{number:012d}.jpg")
    entries = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 160, "height": 120} for n in NUMBERS]
    categories = [{"id": i, "name": name} for i, name in zip(COCO_CLASSES.ids, COCO_CLASSES.names, strict=True)]
    listed = {"info": {}, "licenses": [], "images": entries, "categories": categories}
    for image_set in ("test-dev2017", "test2017", "test-challenge2017"):
        (root / "annotations" / f"image_info_{image_set}.json").write_text(json.dumps(listed))
    return root


def packed(path: Path) -> list[dict[str, Any]]:
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"{path.stem}.json"]
        return json.loads(archive.read(f"{path.stem}.json"))


def test_from_the_list_of_images_to_the_zip(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a detector at once, and by a file of its detections: the same boxes, to the rounding of the zip."""
    listed = coco / "annotations" / "image_info_test-dev2017.json"
    assert run(["eval", "box", str(listed), "--submission", str(tmp_path / "sent" / "my-net")]) == 0
    out, err = capsys.readouterr()
    zip_file = tmp_path / "sent" / "detections_test-dev2017_my-net_results.zip"
    assert "nothing to measure: the data have no annotations" in out and str(zip_file) in err
    entries = packed(zip_file)
    assert {entry["image_id"] for entry in entries} == set(NUMBERS)
    assert {*map(frozenset, entries)} == {frozenset({"image_id", "category_id", "bbox", "score"})}
    assert {entry["category_id"] for entry in entries} <= set(COCO_CLASSES.ids)

    words = ["--data", str(listed), "--score", "0", "--format", "coco", "--no-draw", "-o", str(tmp_path / "found")]
    assert run(["predict", *words]) == 0
    found = tmp_path / "found" / "detections.json"
    assert {entry["image_id"] for entry in json.loads(found.read_text())} == set(NUMBERS)
    assert run(["eval", str(found), str(listed), "--submission", str(tmp_path / "again")]) == 0
    again = packed(tmp_path / "detections_test-dev2017_again_results.zip")
    assert len(again) == len(entries) and [entry["score"] for entry in again] == [entry["score"] for entry in entries]


def test_a_file_that_the_server_would_not_take_is_refused_before_anything_is_found(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for image_set, name, said in (
        ("test2017", "my-net", r"val2017, test-dev2017, test-challenge2017.*not of image_info_test2017.json"),
        ("test-dev2017", "my_net", "letters, digits and hyphens"),
        ("test-dev2017", "sent/", "letters, digits and hyphens"),
    ):
        with pytest.raises(UsageError, match=said):
            Submission.named(name, Path(f"image_info_{image_set}.json"))
        listed = coco / "annotations" / f"image_info_{image_set}.json"
        assert run(["eval", "no-such-model", str(listed), "--submission", name]) == 2
        assert "--submission" in capsys.readouterr().err
    assert run(["eval", "box", str(coco), "--proposals", "--submission", "x"]) != 0


def test_val2017_is_measured_as_well_and_what_is_sent_measures_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "val2017" / "a.png")
    truth = {
        "images": [{"id": 4000, "file_name": "a.png", "width": 64, "height": 48}],
        "annotations": [
            {"id": n, "image_id": 4000, "category_id": 18, "bbox": [4 + 20 * n, 5, 15, 20], "area": 300, "iscrowd": 0}
            for n in (1, 2)
        ],
        "categories": [{"id": 18, "name": "dog"}],
    }
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(truth))
    found = [
        {"image_id": 4000, "category_id": 18, "bbox": [23.123456, 5, 15, 20], "score": 0.87654321},
        {"image_id": 4000, "category_id": 18, "bbox": [44, 6, 11, 20], "score": 0.7},
        {"image_id": 4000, "category_id": 18, "bbox": [0, 0, 9, 9], "score": 0.8},
    ]
    (tmp_path / "found.json").write_text(json.dumps(found))
    words = [str(tmp_path), "--own-ids", "--json"]
    numbers = [tmp_path / "first.json", tmp_path / "second.json"]
    sent = ["--submission", str(tmp_path / "net")]
    assert run(["eval", str(tmp_path / "found.json"), *words, str(numbers[0]), *sent]) == 0
    assert "COCO protocol" in capsys.readouterr().out
    (tmp_path / "back.json").write_text(json.dumps(packed(tmp_path / "detections_val2017_net_results.zip")))
    assert run(["eval", str(tmp_path / "back.json"), *words, str(numbers[1])]) == 0
    first, second = (json.loads(path.read_text()) for path in numbers)
    assert first["AP"] == second["AP"] and 0.2 < first["AP"] < 1


def entry(image: int, score: float, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": 1, "bbox": [1.23456, 2, 3, 4], "score": score, **more}


def test_the_best_of_each_image_are_sent() -> None:
    many = [entry(image, (7 * number % 150) / 150) for number in range(150) for image in (1, 2)] + [entry(3, 0.1)]
    sent = list(of_boxes(many))
    assert [sum(each["image_id"] == image for each in sent) for image in (1, 2, 3)] == [100, 100, 1]
    assert min(each["score"] for each in sent if each["image_id"] == 1) == pytest.approx(50 / 150, abs=1e-5)
    assert sent[0]["bbox"] == [1.23, 2.0, 3.0, 4.0] and list(best([], 5)) == []


def test_masks_go_with_boxes_and_keypoints_by_themselves(tmp_path: Path) -> None:
    mask = {"size": [4, 4], "counts": "04L0"}
    points = [10.04, 20.06, 0.9, 1.0, 2.0, 0.3]
    submission = Submission(tmp_path, "val2017", "net")
    (boxes,) = submission.write([entry(1, 0.5, segmentation=mask)])
    assert boxes.name == "detections_val2017_net_results.zip" and packed(boxes)[0]["segmentation"] == mask
    (poses,) = submission.write([entry(1, 0.5, keypoints=points)] * 30)
    assert poses.name == "person_keypoints_val2017_net_results.zip"
    expected = {"image_id": 1, "category_id": 1, "score": 0.5, "keypoints": [10.0, 20.1, 1, 1.0, 2.0, 1]}
    assert packed(poses) == [expected] * 20 == list(of_keypoints([entry(1, 0.5, keypoints=points)] * 30))
    both = submission.write([entry(1, 0.5, keypoints=points, segmentation=mask)])
    assert [path.name.split("_val")[0] for path in both] == ["detections", "person_keypoints"]
    (nothing,) = submission.write([])
    assert packed(nothing) == []
