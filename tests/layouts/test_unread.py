"""Exports that are not read are named by their files, with the export to choose instead, and never read as another."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.annotated import Make, coco_dict, picture
from tests.layouts import fuzz_layouts

from aweigh.errors import DataError
from aweigh.layouts.load import find_splits, load_split
from aweigh.layouts.unread import UNREAD, export_of, told

RECTANGLE = {"x": 1, "y": 1, "width": 2, "height": 2, "original_width": 40, "rectanglelabels": ["cat"]}
EXPORTS: dict[str, tuple[str, Any, str, str]] = {  # file, content, what it is called, what to choose
    "TFRecord": ("train/cells.tfrecord", "\x00", "is TFRecord", "COCO JSON"),
    "Labelbox": ("export.ndjson", {"data_row": {"id": "x"}, "projects": {}}, "Labelbox", "COCO"),
    "Labelbox's list": ("export.json", [{"data_row": {"id": "x"}, "projects": {}}], "Labelbox", "COCO"),
    "Labelbox, a line": ("a.json", {"data_row": {"id": 1}, "projects": {"p": {"annotations": {}}}}, "Labelbox", "COCO"),
    "VoTT's project": ("cells.vott", {"name": "cells"}, "VoTT project", "Pascal VOC"),
    "VoTT": (
        "vott-json-export/cells-export.json",
        {"name": "cells", "tags": [{"name": "cat"}], "assets": {"1": {"asset": {}, "regions": []}}},
        "VoTT's JSON",
        "Pascal VOC",
    ),
    "Supervisely": ("ds0/ann/a.jpg.json", {"size": {"height": 1}, "tags": [], "objects": []}, "Supervisely", "to COCO"),
    "panoptic": ("annotations/panoptic_val2017.json", coco_dict([]), "panoptic", r"instances_\*"),
    "results": (
        "found.json",
        [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}],
        "detections",
        "data complete",
    ),
    "JSON-MIN": ("a.json", [{"image": "a.jpg", "id": 1, "label": [RECTANGLE]}], "JSON-MIN", "'JSON'"),
    "Label Studio's CSV": (
        "a.csv",
        "annotation_id,annotator,id,image,label,lead_time\n1",
        "Label Studio's CSV",
        "'JSON'",
    ),
    "Darwin": (
        "a.json",
        {"version": "2.0", "schema_ref": "https://x", "item": {}, "annotations": []},
        "Darwin",
        "COCO",
    ),
    "Datumaro": ("a.json", {"dm_format_version": "1.0", "info": {}, "categories": {}, "items": []}, "Datumaro", "COCO"),
    "Ground Truth": ("output.manifest", {"source-ref": "s3://a.jpg"}, "Ground Truth", "COCO"),
}


def put(root: Path, file: str, content: Any) -> Path:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    picture(root / "images" / "a.jpg")
    return path


@pytest.mark.parametrize("case", EXPORTS)
def test_it_is_named_with_what_to_choose_instead(tmp_path: Path, case: str) -> None:
    file, content, called, instead = EXPORTS[case]
    path = put(tmp_path, file, content)
    for source in (tmp_path, path) if path.suffix == ".json" else (tmp_path,):
        with pytest.raises(DataError, match=f"{called}.*which is not read.*{instead}") as refused:
            load_split(source)
        assert Path(file).name in str(refused.value) and "\n" not in str(refused.value)


def test_masks_as_images_without_boxes(tmp_path: Path) -> None:
    picture(tmp_path / "VOC" / "SegmentationClass" / "a.png")
    picture(tmp_path / "VOC" / "JPEGImages" / "a.jpg")
    with pytest.raises(DataError, match=r"VOC/SegmentationClass/ is masks as images, which is not read.*COCO"):
        find_splits(tmp_path)


def test_every_one_is_recognised_by_a_case() -> None:
    titles = {export.name for export in UNREAD} - {"masks as images"}
    assert all(any(called.removeprefix("is ") in title for _, _, called, _ in EXPORTS.values()) for title in titles)
    page = " ".join((Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8").split())
    assert [export.name for export in UNREAD if export.name not in page] == []
    assert told(Path(__file__)) == ""


@pytest.mark.parametrize("layout", fuzz_layouts.LAYOUTS)
def test_what_is_read_is_none_of_them(layout: str, tmp_path: Path) -> None:
    assert told(fuzz_layouts.write(tmp_path / "set", layout)) == ""


def test_a_folder_that_is_read_may_hold_one(coco: Make) -> None:
    root = coco()
    put(root, "annotations/panoptic_train.json", coco_dict([]))
    put(root, "SegmentationClass/readme.txt", "")
    put(root, "a.vott", {})
    assert export_of(root / "a.vott") is not None and len(load_split(root).boxes) == 1


@pytest.mark.parametrize("count", [1, 2, 4, 17])
def test_keypoints_of_yolo_that_no_file_describes(tmp_path: Path, count: int) -> None:
    """4 + 3 K numbers are as many as a polygon has where K is even."""
    picture(tmp_path / "images" / "train" / "a.png")
    points = "".join(f" {0.3 + 0.2 * n / count:.3f} 0.5 {2 if n % 2 == 0 else 0}" for n in range(count))
    put(tmp_path, "labels/train/a.txt", f"0 0.4 0.5 0.4 0.4{points}\n")
    with pytest.raises(DataError, match=rf"data\.yaml does not say: kpt_shape: \[{count}, 3\]"):
        load_split(tmp_path)
    put(tmp_path, "data.yaml", f"train: images/train\nnames: [cat]\nkpt_shape: [{count}, 3]\n")
    assert len(load_split(tmp_path).boxes) == 1 and load_split(tmp_path).problems == []


@pytest.mark.parametrize(
    "line",
    [
        "0 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6 0.0 0.3",  # a pentagon, as many numbers as two keypoints
        "0 0.5 0.0 1.0 0.5 1.0 1.0 0.5 1.0 0.0 1.0",  # along the edges of the image: zeros and ones
    ],
)
def test_polygons_are_no_keypoints(tmp_path: Path, line: str) -> None:
    picture(tmp_path / "images" / "train" / "a.png")
    put(tmp_path, "labels/train/a.txt", f"{line}\n")
    split = load_split(tmp_path)
    assert split.masks is not None and split.masks.kinds.tolist() == [1] and split.problems == []
