"""Each format reads back as what was written, and nothing half-written is left behind."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import hotcoco
import numpy as np
import pytest
from tests.annotated import picture

from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.layouts.load import load_split
from aweigh.results import FORMATS
from aweigh.results.csv import COLUMNS
from aweigh.results.format import FileEach
from aweigh.results.writers import DetectionWriter, write_detections

CLASSES = Classes(("cat", "dog"), (3, 7))


def found(path: str = "a/x.jpg", count: int = 2) -> Detections:
    return Detections(
        boxes=np.array([[1.1, 2, 30, 20.5], [0, 0, 40, 30]], np.float32)[:count],
        scores=np.array([0.9, 0.3], np.float32)[:count],
        labels=np.array([1, 0])[:count],
        classes=CLASSES,
        size_hw=(30, 40),
        path=path,
    )


def results() -> list[Detections]:
    return [
        found(),
        found("a/y.jpg", 0),
        Detections.empty(CLASSES, path="a/bad.jpg", error="cut short"),
        found("b/z.jpg"),
    ]


def test_jsonl(tmp_path: Path) -> None:
    assert write_detections(results(), tmp_path / "out" / "found.jsonl") == 4
    lines = [json.loads(line) for line in (tmp_path / "out" / "found.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == ["a/x.jpg", "a/y.jpg", "a/bad.jpg", "b/z.jpg"]
    assert lines[0] == {
        "schema": "aweigh.detections/1",
        "path": "a/x.jpg",
        "width": 40,
        "height": 30,
        "detections": [
            {"box": [1.1, 2.0, 30.0, 20.5], "score": 0.9, "class": "dog", "category_id": 7},
            {"box": [0.0, 0.0, 40.0, 30.0], "score": 0.3, "class": "cat", "category_id": 3},
        ],
        "error": None,
    }
    assert lines[1]["detections"] == [] and lines[2]["error"] == "cut short"


def test_coco_is_loaded_by_coco_tools(tmp_path: Path) -> None:
    write_detections(results(), tmp_path / "found.json", "coco")
    listed = json.loads((tmp_path / "found.images.json").read_text())
    assert [image["id"] for image in listed["images"]] == [1, 2, 3, 4]
    assert listed["images"][2]["error"] == "cut short" and listed["categories"][1] == {"id": 7, "name": "dog"}
    entries = json.loads((tmp_path / "found.json").read_text())
    assert [entry["image_id"] for entry in entries] == [1, 1, 4, 4]
    assert entries[0] == {
        "image_id": 1,
        "category_id": 7,
        "bbox": [1.1, 2.0, 28.9, 18.5],
        "score": 0.9,
        "file_name": "a/x.jpg",
    }
    loaded = hotcoco.COCO({**listed, "annotations": []}).load_res(str(tmp_path / "found.json"))
    assert len(loaded.dataset["annotations"]) == 4


def test_coco_image_ids_and_no_results(tmp_path: Path) -> None:
    with DetectionWriter(tmp_path / "a.json", "coco", image_ids=[42]) as writer:
        writer.write(found(count=1))
    assert json.loads((tmp_path / "a.json").read_text())[0]["image_id"] == 42
    write_detections([], tmp_path / "b.json", "coco")
    assert json.loads((tmp_path / "b.json").read_text()) == []


def test_csv(tmp_path: Path) -> None:
    write_detections(results(), tmp_path / "found.csv", "csv")
    rows = list(csv.DictReader((tmp_path / "found.csv").open()))
    assert [row["path"] for row in rows] == ["a/x.jpg", "a/x.jpg", "a/bad.jpg", "b/z.jpg", "b/z.jpg"]
    assert (rows[0]["x0"], rows[0]["class"], rows[0]["category_id"], rows[0]["score"]) == ("1.1", "dog", "7", "0.9")
    assert rows[2]["error"] == "cut short" and rows[2]["x0"] == ""


POSE = KeypointSet(("head", "tail"), joints=((0, 1),))


def with_shapes(path: str = "a/x.jpg", count: int = 2) -> Detections:
    points = np.array([[[1.1, 2, 3.5], [29, 20.25, -1]], [[0, 0, 0.5], [40, 30, 0.25]]], np.float32)
    return replace(
        found(path, count), masks=np.ones((count, 4, 4), np.float32), keypoints=points[:count], keypoint_set=POSE
    )


def all_with_shapes() -> list[Detections]:
    bad = Detections.empty(CLASSES, path="a/bad.jpg", error="cut short")
    return [bad, with_shapes("a/y.jpg", 0), with_shapes()]


def test_masks_and_keypoints_in_jsonl(tmp_path: Path) -> None:
    write_detections(all_with_shapes(), tmp_path / "found.jsonl")
    bad, empty, line = (json.loads(text) for text in (tmp_path / "found.jsonl").read_text().splitlines())
    assert "keypoint_names" not in bad and empty["keypoint_names"] == ["head", "tail"] == line["keypoint_names"]
    first, second = line["detections"]
    assert first["keypoints"] == [[1.1, 2.0, 3.5], [29.0, 20.25, -1.0]]
    assert first["segmentation"]["size"] == [30, 40]
    pixels = hotcoco.mask.decode(second["segmentation"])
    assert pixels.shape == (30, 40) and pixels[3:27, 5:35].all()  # the whole image, but for its corners


def test_masks_and_keypoints_are_loaded_by_coco_tools(tmp_path: Path) -> None:
    write_detections(all_with_shapes(), tmp_path / "found.json", "coco")
    listed = json.loads((tmp_path / "found.images.json").read_text())
    assert listed["categories"][0] == {"id": 3, "name": "cat", "keypoints": ["head", "tail"], "skeleton": [[1, 2]]}
    entries = json.loads((tmp_path / "found.json").read_text())
    assert entries[0]["keypoints"] == [1.1, 2.0, 3.5, 29.0, 20.25, -1.0] and entries[0]["bbox"] == [
        1.1,
        2.0,
        28.9,
        18.5,
    ]
    loaded = hotcoco.COCO({**listed, "annotations": []}).load_res(str(tmp_path / "found.json"))
    covered = hotcoco.mask.area(loaded.dataset["annotations"][1]["segmentation"])
    assert len(entries) == 2 and 0.95 * 1200 < covered <= 1200


def test_csv_has_columns_for_keypoints_and_none_for_masks(tmp_path: Path) -> None:
    write_detections(all_with_shapes(), tmp_path / "found.csv", "csv")
    head, bad, first, second = csv.reader((tmp_path / "found.csv").open())
    assert head == [*COLUMNS, "head_x", "head_y", "head_score", "tail_x", "tail_y", "tail_score"]
    assert bad == ["a/bad.jpg", *[""] * 9, "cut short"] and len(first) == len(head) == len(second)
    assert dict(zip(head, first, strict=True))["tail_y"] == "20.25"
    write_detections(all_with_shapes()[:1], tmp_path / "bad.csv", "csv")  # nothing says what there would be
    assert next(csv.reader((tmp_path / "bad.csv").open())) == list(COLUMNS)


@pytest.mark.parametrize("format", ["yolo", "voc"])
def test_yolo_and_voc_hold_the_boxes_of_objects_with_masks(tmp_path: Path, format: str) -> None:
    write_detections([with_shapes()], tmp_path / "shapes", format)
    write_detections([found()], tmp_path / "boxes", format)
    (one,), (other,) = (list((tmp_path / name).glob("x.*")) for name in ("shapes", "boxes"))
    assert one.read_text() == other.read_text()
    assert FORMATS[format].left_out == ("masks", "keypoints", "cuboids", "tracks")


@pytest.mark.parametrize("format", ["yolo", "voc"])
def test_yolo_and_voc_read_back(tmp_path: Path, format: str) -> None:
    labels = {"yolo": tmp_path / "labels" / "train", "voc": tmp_path / "Annotations"}[format]
    write_detections(results(), labels, format)
    for name in ("x", "y", "z"):
        picture(tmp_path / {"yolo": "images/train", "voc": "JPEGImages"}[format] / f"{name}.jpg")
    if format == "yolo":
        (labels / "classes.txt").rename(tmp_path / "classes.txt")
    split = load_split(tmp_path)
    assert split.layout == format and split.problems == [] and split.classes.names == ("cat", "dog")
    assert [path.name for path in split.paths] == ["x.jpg", "y.jpg", "z.jpg"] and split.first.tolist() == [0, 2, 2, 4]
    np.testing.assert_allclose(split.boxes[:2], found().boxes, atol=0.005)
    assert split.labels[:2].tolist() == [1, 0]


def test_labelme_reads_back_and_keeps_the_score(tmp_path: Path) -> None:
    write_detections(results(), tmp_path / "labels", "labelme")
    for name in ("x", "y", "z"):
        picture(tmp_path / f"{name}.jpg")
    split = load_split(tmp_path)
    assert split.layout == "labelme" and split.problems == [] and split.classes.names == ("cat", "dog")
    assert [path.name for path in split.paths] == ["x.jpg", "y.jpg", "z.jpg"] and split.first.tolist() == [0, 2, 2, 4]
    np.testing.assert_array_equal(split.boxes[:2], found().boxes)
    written = json.loads((tmp_path / "labels" / "x.json").read_text())
    assert [shape["score"] for shape in written["shapes"]] == [0.9, 0.3] and written["imagePath"] == "x.jpg"


def test_voc_corners_count_from_one(tmp_path: Path) -> None:
    write_detections([found()], tmp_path, "voc")
    root = ElementTree.parse(tmp_path / "x.xml").getroot()
    corners = [entry.text for entry in root.findall("object/bndbox/*")]
    assert corners == ["2.1", "3", "30", "20.5", "1", "1", "40", "30"]
    assert root.findtext("object/confidence") == "0.9" and root.findtext("size/width") == "40"


def test_pictures_of_the_same_name(tmp_path: Path) -> None:
    write_detections([found("a/x.jpg"), found("b/x.jpg"), found("x.png")], tmp_path, "yolo")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.txt", "x-2.txt", "x-3.txt", "x.txt"]


@pytest.mark.parametrize("format", ["jsonl", "coco", "csv"])
def test_standard_output(format: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_detections(results(), "-", format)
    shown = capsys.readouterr().out
    write_detections(results(), tmp_path / "file", format)
    assert shown == (tmp_path / "file").read_text()
    if format == "csv":
        assert len(list(csv.reader(io.StringIO(shown)))) == 6


@pytest.mark.parametrize("format", FORMATS)
def test_a_failure_leaves_nothing_half_written(tmp_path: Path, format: str) -> None:
    file = tmp_path / "found"
    in_folder = isinstance(FORMATS[format], FileEach)
    if not in_folder:
        file.write_text("before")

    def failing() -> object:
        yield found()
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_detections(failing(), file, format)
    if in_folder:
        (only,) = file.iterdir()  # complete: it was the first image's own file
        assert only.stem == "x"
    else:
        assert [path.name for path in tmp_path.iterdir()] == ["found"] and file.read_text() == "before"


def test_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'josnl'.*Did you mean 'jsonl'"):
        DetectionWriter(tmp_path / "x", "josnl")
    with pytest.raises(UsageError, match="standard output"):
        DetectionWriter("-", "voc")
    with pytest.raises(UsageError, match="folder"):
        DetectionWriter(tmp_path, "csv")


def test_files_that_are_not_called_as_their_picture_are_told(tmp_path: Path) -> None:
    with DetectionWriter(tmp_path, "yolo") as writer:
        for path in ("a.jpg", "a.png", "b/a.jpg", "c.jpg"):
            writer.write(found(path))
    assert writer.renamed == ["a.png: a-2.txt", "b/a.jpg: a-3.txt"] and writer.renamed_count == 2
