"""Label Studio's JSON export: the regions of the annotation that counts, in pixels; what is no object is named."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.annotated import picture

from aweigh.annotations.split import LABELS_LOST, NOT_SAID, REVIEWED, Split
from aweigh.cli.main import run
from aweigh.errors import DataError
from aweigh.layouts.load import find_splits, load_split

BOX = [5.0, 6.0, 25.0, 20.0]  # xyxy, in images of 40 x 30
PERCENT = {"x": 12.5, "y": 20.0, "width": 50.0, "height": 100 * 14 / 30}


def region(value: dict[str, Any], kind: str = "rectanglelabels", **more: Any) -> dict[str, Any]:
    sides = {"original_width": 40, "original_height": 30, "image_rotation": 0}
    return {"id": "r", "type": kind, "from_name": "label", "to_name": "image", "value": value, **sides} | more


def rectangle(label: str = "cat", **more: Any) -> dict[str, Any]:
    return region(PERCENT | {"rotation": 0, "rectanglelabels": [label]}, **more)


def annotation(*result: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": 1, "completed_by": 1, "was_cancelled": False, "result": list(result), **more}


def task(*annotations: dict[str, Any], image: Any = "/data/upload/1/0a1b2c3d-a.png", **more: Any) -> dict[str, Any]:
    data = {"image": image} if isinstance(image, str) else image
    return {"id": 7, "annotations": list(annotations), "drafts": [], "predictions": [], "data": data} | more


def load(root: Path, *tasks: dict[str, Any], name: str = "a.png", **options: Any) -> Split:
    picture(root / name)
    (root / "export.json").write_text(json.dumps(list(tasks)))
    return load_split(root, **options)


def kinds(split: Split) -> list[str]:
    return [problem.kind for problem in split.problems]


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("/data/upload/1/0a1b2c3d-a.png", "a.png"),
        ("/data/upload/1/0a1b2c3d-a.png", "0a1b2c3d-a.png"),  # as Label Studio keeps it
        ("/data/upload/0a1b2c3d-a%20b.png", "a b.png"),
        ("/data/local-files/?d=photos/train/a.png", "a.png"),
        ("/data/local-files/?d=photos/a%20b.png", "images/photos/a b.png"),
        ("https://example.org/photos/a.png?token=1", "images/a.png"),
        ("s3://bucket/photos/a.png", "a.png"),
        ({"caption": "no image", "img": "a.png"}, "a.png"),
    ],
)
def test_the_image_of_a_task(tmp_path: Path, image: Any, name: str) -> None:
    split = load(tmp_path, task(annotation(rectangle()), image=image), name=name)
    assert split.layout == "labelstudio" and split.problems == [] and split.classes.names == ("cat",)
    np.testing.assert_allclose(split.boxes, [BOX], atol=1e-4)
    assert split.paths[0].name == Path(name).name


def test_nothing_outside_the_folder_is_an_image_of_it(tmp_path: Path) -> None:
    picture(tmp_path / "secret.png")
    outside = (str(tmp_path / "secret.png"), "../secret.png", f"/data/local-files/?d={tmp_path}/secret.png")
    tasks = [task(annotation(rectangle()), image=image) for image in outside]
    split = load(tmp_path / "set", task(annotation(rectangle())), *tasks)
    assert len(split) == 1 and kinds(split) == ["image file missing"] * 3


def test_what_is_drawn(tmp_path: Path) -> None:
    half = {"x": 50.0, "y": 50.0}
    polygon = {"points": [[12.5, 20], [62.5, 20], [62.5, 200 / 3]], "polygonlabels": ["dog"]}
    ellipse = half | {"radiusX": 25, "radiusY": 100 / 6, "rotation": 0, "ellipselabels": ["cat"]}
    regions = [
        rectangle(id="a"),
        region(polygon, "polygonlabels", id="b"),
        region(ellipse, "ellipselabels", id="c"),
        # A quarter of a turn about its first corner: 10 wide and 6 high, 6 wide and 10 high after it.
        region(half | {"width": 25, "height": 20, "rotation": 90, "rectanglelabels": ["cat"]}, id="d"),
        region(PERCENT, "rectangle", id="e"),  # the label of a region may be a result of its own
        region(PERCENT | {"labels": ["dog"]}, "labels", id="e"),
        region(PERCENT, "rectangle", id="f"),
        region({"choices": ["cow"]}, "choices", id="f"),
    ]
    split = load(tmp_path, task(annotation(*regions)))
    expected = [BOX, BOX, [10, 10, 30, 20], [14, 15, 20, 25], BOX, BOX]
    np.testing.assert_allclose(split.boxes, expected, atol=1e-4)
    assert [split.classes.names[label] for label in split.labels] == ["cat", "dog", "cat", "cat", "dog", "cow"]
    assert split.masks is not None and split.masks.kinds.tolist() == [0, 1, 1, 0, 0, 0]
    assert split.area[1:3].tolist() == pytest.approx([140, math.pi * 50], rel=0.004)
    assert kinds(split) == ["rotated box"]


def test_of_several_classes_the_first_is_used_and_said(tmp_path: Path) -> None:
    split = load(tmp_path, task(annotation(region(PERCENT | {"rectanglelabels": ["cat", "dog"]}))))
    assert split.classes.names == ("cat",) and kinds(split) == ["region of several classes"]
    assert "cat, dog; the first is used" in split.problems[0].detail


def test_keypoints_belong_to_a_region(tmp_path: Path) -> None:
    def point(name: str, parent: str | None = "r") -> dict[str, Any]:
        value = {"x": 25, "y": 50, "width": 0.5, "keypointlabels": [name]}
        return region(value, "keypointlabels", id=name, parentID=parent)

    split = load(tmp_path, task(annotation(point("tail"), rectangle(), point("head"), rectangle(id="s"))))
    assert split.keypoint_names == ("head", "tail") and split.problems == []
    assert split.keypoints is not None and split.keypoints.tolist() == [[[10, 15, 2]] * 2, [[0, 0, 0]] * 2]
    stray = load(tmp_path, task(annotation(rectangle(), point("head", None))))
    assert kinds(stray) == ["keypoint without an object"] and stray.keypoints is None


def test_several_annotations_of_a_task(tmp_path: Path) -> None:
    early = annotation(rectangle("early"), updated_at="2024-01-02T00:00:00Z", created_at="2024-01-01T00:00:00Z")
    late = annotation(rectangle("late"), updated_at="2024-01-03T00:00:00Z", created_at="2024-01-01T00:00:00Z")
    skipped = annotation(rectangle("skipped"), was_cancelled=True, updated_at="2024-01-04T00:00:00Z")
    guessed = [{"model_version": "m", "result": [rectangle("guessed")]}]
    split = load(tmp_path, task(late, early, skipped, predictions=guessed))
    assert split.classes.names == ("late",) and kinds(split) == ["task annotated several times"]
    assert load(tmp_path, task(early, skipped)).classes.names == ("early",)


def test_predictions_alone_are_no_annotations(tmp_path: Path) -> None:
    guessed = [{"model_version": "m", "result": [rectangle("guessed")]}]
    with pytest.raises(DataError, match=r"no box that can be used.*predictions alone"):
        load(tmp_path, task(predictions=guessed))


def test_looked_at_and_empty_skipped_and_lost(tmp_path: Path) -> None:
    brush = region({"format": "rle", "rle": [0, 1, 2], "brushlabels": ["cat"]}, "brushlabels")
    annotated = {
        "a": [annotation(rectangle())],
        "b": [annotation()],
        "c": [annotation(was_cancelled=True)],
        "d": [],
        "e": [annotation(brush)],
        "f": [annotation(region(PERCENT | {"rectanglelabels": []}))],
        "g": [annotation(region({"choices": ["indoors"]}, "choices"))],
    }
    for name in annotated:
        picture(tmp_path / f"{name}.png")
    tasks = [task(*every, image=f"/data/upload/1/0a1b2c3d-{name}.png") for name, every in annotated.items()]
    split = load(tmp_path, *tasks)
    assert [path.stem for path in split.paths] == list(annotated)
    said = [REVIEWED, REVIEWED, NOT_SAID, NOT_SAID, LABELS_LOST, LABELS_LOST, REVIEWED]
    assert split.reviewed.tolist() == said
    assert kinds(split) == ["painted mask", "region without a class", "said of the whole image"]
    assert "Brush labels to COCO" in split.problems[0].detail


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    result: list[Any] = [
        rectangle(),
        region(PERCENT | {"x": "many", "rectanglelabels": ["cat"]}, id="a"),
        rectangle(id="b", original_width=None),
        region({"points": [[1, 2]], "polygonlabels": ["cat"]}, "polygonlabels", id="c"),
        region({"sequence": [], "labels": ["cat"]}, "videorectangle", id="d"),
        {"type": "relation", "from_id": "a", "to_id": "b"},
        "text",
    ]
    split = load(tmp_path, task(annotation(*result)), task(image="no image"), "text")  # type: ignore[arg-type]
    assert len(split.boxes) == 1 and kinds(split) == ["unreadable record"] * 7
    assert [problem.action for problem in split.problems].count("image skipped") == 2


def test_splits_by_hand_and_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "set"
    for name, label in (("train", "dog"), ("val", "cat")):
        picture(root / name / "a.png")
        (root / name / "export.json").write_text(json.dumps([task(annotation(rectangle(label)))]))
    assert list(find_splits(root)) == ["train", "val"]
    assert load_split(root, "val").classes.names == ("cat", "dog")
    by_hand = load_split(root, annotations=root / "val" / "export.json", images=root / "train")
    assert by_hand.classes.names == ("cat",) and len(by_hand.boxes) == 1
    assert run(["data", "check", str(root), "--model", "none"]) == 0
    for layout in ("coco", "voc", "yolo", "csv"):
        assert run(["data", "convert", str(root), "--to", layout, "--out", str(tmp_path / layout)]) == 0
        np.testing.assert_allclose(load_split(tmp_path / layout, "val").boxes, [BOX], atol=1e-3)
    capsys.readouterr()
