"""Detections as annotations to begin with: Label Studio's predictions and CVAT's XML, as those programs read them."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from tests.annotated import picture

from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.layouts.load import load_split
from aweigh.results import FORMATS
from aweigh.results.cvat import row_runs
from aweigh.results.writers import write_detections

CLASSES = Classes(('cat "big" & <old>', "dog\x07"), (3, 7))
BOXES = [[1.125, 2.0, 30.0, 20.5], [0.0, 0.0, 40.0, 30.0]]
POSE = KeypointSet(("head", "tail"), joints=((0, 1),))


def detections(path: str = "photos/a x.png", count: int = 2, **more: Any) -> Detections:
    boxes, scores = np.array(BOXES, np.float32)[:count], np.array([0.9, 0.3], np.float32)[:count]
    labels = np.array([1, 0])[:count]
    return Detections(boxes, scores, labels, classes=CLASSES, size_hw=(30, 40), path=path, **more)


def with_keypoints() -> Detections:
    points = np.array([[[10, 15, 3.5], [20, 12, -1]], [[0, 0, 0.5], [40, 30, 0.25]]], np.float32)
    return detections(keypoints=points, keypoint_set=POSE)


def results() -> list[Detections]:
    bad = Detections.empty(CLASSES, path="photos/bad.png", error="cut short")
    return [bad, detections(), detections("/home/me/b.png", 0)]


# --- Label Studio -------------------------------------------------------------------------------------------------


def test_label_studio_has_a_task_for_each_image(tmp_path: Path) -> None:
    write_detections(results(), tmp_path / "predictions.json", "labelstudio")
    first, second = json.loads((tmp_path / "predictions.json").read_text())
    assert first["data"] == {"image": "/data/local-files/?d=photos/a%20x.png"}
    assert second["data"] == {"image": "/data/local-files/?d=home/me/b.png"}
    (prediction,) = first["predictions"]
    assert prediction["model_version"] == "aweigh" and abs(prediction["score"] - 0.6) < 1e-6
    one, _ = prediction["result"]
    assert one["value"]["rectanglelabels"] == ["dog\\x07"] and one["score"] == 0.9
    sides = [one["value"][key] for key in ("x", "y", "width", "height", "rotation")]
    np.testing.assert_allclose(sides, [2.8125, 100 * 2 / 30, 100 * 28.875 / 40, 100 * 18.5 / 30, 0])
    assert (one["original_width"], one["original_height"], one["type"]) == (40, 30, "rectanglelabels")
    assert second["predictions"][0]["result"] == []


def test_its_labelling_interface_has_the_controls_and_labels_of_the_results(tmp_path: Path) -> None:
    bad = Detections.empty(CLASSES, path="bad.png", error="cut short")
    write_detections([bad, with_keypoints()], tmp_path / "found.json", "labelstudio")
    view = ElementTree.parse(tmp_path / "found.config.xml").getroot()
    controls = {tag.get("name"): (tag.tag, [label.get("value") for label in tag]) for tag in view if tag.tag != "Image"}
    assert controls == {
        "label": ("RectangleLabels", ['cat "big" & <old>', "dog\\x07"]),
        "keypoint": ("KeyPointLabels", ["head", "tail"]),
    }
    (task,) = json.loads((tmp_path / "found.json").read_text())
    for region in task["predictions"][0]["result"]:
        assert set(region["value"][region["type"]]) <= set(controls[region["from_name"]][1])
    assert view.find("Image").attrib == {"name": "image", "value": "$image"}  # type: ignore[union-attr]
    write_detections([], tmp_path / "none.json", "labelstudio")
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_label_studio_accepted_as_they_are_reads_back(tmp_path: Path) -> None:
    """What an annotator submits without a change is the prediction's result."""
    write_detections([with_keypoints()], tmp_path / "found.json", "labelstudio")
    (task,) = json.loads((tmp_path / "found.json").read_text())
    task["annotations"] = [{"was_cancelled": False, "result": task["predictions"][0]["result"]}]
    (tmp_path / "found.json").write_text(json.dumps([task]))
    picture(tmp_path / "photos" / "a x.png")
    split = load_split(tmp_path)
    assert split.layout == "labelstudio" and split.problems == [] and split.keypoint_names == ("head", "tail")
    np.testing.assert_allclose(split.boxes, BOXES, atol=1e-5)
    assert [split.classes.names[label] for label in split.labels] == ["dog\\x07", 'cat "big" & <old>']
    expected = [[[10, 15, 2], [0, 0, 0]], [[0, 0, 2], [40, 30, 2]]]
    assert split.keypoints is not None and np.allclose(split.keypoints, expected, atol=1e-5)


# --- CVAT ---------------------------------------------------------------------------------------------------------


def test_cvat_has_an_element_for_each_image(tmp_path: Path) -> None:
    write_detections(results(), tmp_path / "annotations.xml", "cvat")
    root = ElementTree.parse(tmp_path / "annotations.xml").getroot()
    assert root.tag == "annotations" and root.findtext("version") == "1.1"
    names = [label.findtext("name") for label in root.iterfind("meta/task/labels/label")]
    assert names == ['cat "big" & <old>', "dog\\x07"]
    first, second = root.iterfind("image")
    assert first.attrib == {"id": "1", "name": "a x.png", "width": "40", "height": "30"}
    assert (second.get("id"), second.get("name"), len(second)) == ("2", "b.png", 0)
    said = {"source": "auto", "occluded": "0", "z_order": "0"}
    corners = {"xtl": "1.12", "ytl": "2.00", "xbr": "30.00", "ybr": "20.50"}
    assert first[0].tag == "box" and first[0].attrib == {"label": "dog\\x07", **said, **corners}
    write_detections([], tmp_path / "none.xml", "cvat")
    assert len(ElementTree.parse(tmp_path / "none.xml").getroot()) == 2  # version and meta


def test_masks_are_masks_in_cvat(tmp_path: Path) -> None:
    masks = np.zeros((2, 4, 4), np.float32)
    masks[1, :2] = 1  # the upper half of the image; the other object has no pixel
    result = detections(masks=masks)
    write_detections([result], tmp_path / "annotations.xml", "cvat")
    box, mask = ElementTree.parse(tmp_path / "annotations.xml").getroot().find("image")  # type: ignore[misc]
    assert (box.tag, mask.tag) == ("box", "mask")
    frame = {key: int(mask.get(key, "")) for key in ("left", "top", "width", "height")}
    runs = [int(run) for run in mask.get("rle", "").split(",")]
    values = np.repeat(np.arange(len(runs)) % 2, runs).reshape(frame["height"], frame["width"])
    inside = np.zeros((30, 40), dtype=bool)
    rows, columns = slice(frame["top"], None), slice(frame["left"], None)
    inside[rows, columns][: frame["height"], : frame["width"]] = values
    np.testing.assert_array_equal(inside, result.bitmaps()[1])


def test_cvat_reads_back(tmp_path: Path) -> None:
    write_detections(results(), tmp_path / "annotations.xml", "cvat")
    for name in ("a x.png", "b.png"):
        picture(tmp_path / "images" / name)
    split = load_split(tmp_path)
    assert (
        split.layout == "cvat" and split.problems == [] and [path.name for path in split.paths] == ["a x.png", "b.png"]
    )
    np.testing.assert_allclose(split.boxes, BOXES, atol=0.006)
    assert [split.classes.names[label] for label in split.labels] == ["dog\\x07", 'cat "big" & <old>']


def test_run_lengths_go_row_by_row_and_begin_with_ground() -> None:
    pixels = np.array([[0, 1, 1], [1, 0, 0]], dtype=bool)
    assert row_runs(pixels) == [1, 3, 2] and row_runs(~pixels) == [0, 1, 3, 2]
    assert row_runs(np.ones((2, 2), dtype=bool)) == [0, 4] and row_runs(np.zeros((1, 2), dtype=bool)) == [2]


def test_what_they_have_no_place_for() -> None:
    assert FORMATS["labelstudio"].left_out == ("masks", "cuboids", "tracks")
    assert FORMATS["cvat"].left_out == ("keypoints", "cuboids", "tracks")
