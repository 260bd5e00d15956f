"""What a user can get wrong: each ends with one clear line and its exit code, or is left out, counted and listed."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from aweigh.training.logs.json_lines import read_log

from .conftest import TINY

Aweigh = Callable[..., Any]


def photo(path: Path, width: int = 64, height: int = 48) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def coco(folder: Path, boxes: list[list[float]], **changes: Any) -> Path:
    """A data set of three images for training and two for validation; `boxes` are those of the first, as xywh."""
    for split, count in (("train", 3), ("val", 2)):
        images = [{"id": n, "file_name": f"{split}{n}.png", "width": 64, "height": 48} for n in range(1, count + 1)]
        for image in images:
            photo(folder / "images" / split / image["file_name"])
        annotations = [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "area": 100, "iscrowd": 0}
            for n, box in enumerate(boxes if split == "train" else [[4, 4, 20, 20]], start=1)
        ]
        data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
        data |= changes.get(split, {})
        file = folder / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(data))  # NaN is written as NaN, as other programs do
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


# --- images -------------------------------------------------------------------------------------------------------


def test_a_missing_file_and_an_empty_folder(aweigh: Aweigh, trained: Path, tmp_path: Path) -> None:
    model = ["--model", trained / "best.safetensors", "-o", tmp_path / "out"]
    (tmp_path / "empty").mkdir()
    missing = aweigh("predict", tmp_path / "missing.jpg", *model)
    empty = aweigh("predict", tmp_path / "empty", *model)
    pattern = aweigh("predict", tmp_path / "*.gif", *model)
    assert (missing.code, empty.code, pattern.code) == (3, 3, 3)
    assert "missing.jpg" in missing.mistake
    assert "holds no file that is an image" in empty.mistake
    assert "*.gif" in pattern.mistake
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["jsonl", "coco", "csv", "yolo", "voc"])
def test_bad_pictures_are_left_out_counted_and_listed(
    aweigh: Aweigh, trained: Path, tmp_path: Path, format: str
) -> None:
    folder = tmp_path / "photos"
    photo(folder / "good.png")
    photo(folder / "whole.jpg", 200, 200)
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:1500])
    (folder / "letter.jpg").write_text("Dear reader, this is not an image.")
    (folder / "nothing.png").touch()
    model = ["--model", trained / "best.safetensors", "-o", tmp_path / "out", "--format", format]
    ended = aweigh("predict", folder, *model, "--batch", 2)
    assert ended.code == 1
    assert "Traceback" not in ended.err
    listed = [line for line in ended.err.splitlines() if line.startswith("left out: ")]
    assert [name for name in ("cut.jpg", "letter.jpg", "nothing.png") if any(name in line for line in listed)] == [
        "cut.jpg",
        "letter.jpg",
        "nothing.png",
    ]
    assert "3 of 5 images could not be read." in ended.err
    assert {"good.jpg", "whole.jpg"} <= set(files(tmp_path / "out"))
    assert not any("cut" in name or name.startswith(".") for name in files(tmp_path / "out"))


def test_one_pixel_and_thirty_thousand(aweigh: Aweigh, trained: Path, tmp_path: Path) -> None:
    paths = [photo(tmp_path / "one.png", 1, 1), photo(tmp_path / "wide.png", 30_000, 3)]
    ended = aweigh("predict", *paths, "--model", trained / "best.safetensors", "-o", tmp_path / "out", "--score", 0)
    assert ended.code == 0, ended.err
    for line in (tmp_path / "out" / "detections.jsonl").read_text().splitlines():
        found = json.loads(line)
        for entry in found["detections"]:
            x0, y0, x1, y1 = entry["box"]
            assert 0 <= x0 <= x1 <= found["width"] and 0 <= y0 <= y1 <= found["height"]


def test_a_file_as_output(aweigh: Aweigh, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    ended = aweigh("predict", tmp_path / "a.png", "--model", trained / "best.safetensors", "-o", tmp_path / "out")
    assert ended.code == 2 and "is a file; name a folder" in ended.err
    assert (tmp_path / "out").read_text() == "mine"


def test_the_folder_of_the_pictures_as_output(aweigh: Aweigh, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    before = photo(folder / "a.jpg").read_bytes()
    ended = aweigh("predict", folder, "--model", trained / "best.safetensors", "-o", folder)
    assert ended.code == 2 and "overwritten" in ended.mistake
    assert (folder / "a.jpg").read_bytes() == before and files(folder) == ["a.jpg"]


def test_a_detector_without_weights(aweigh: Aweigh, tmp_path: Path) -> None:
    ended = aweigh("predict", photo(tmp_path / "a.png"), "--model", "fcos_resnet18_fpn")
    assert ended.code == 2
    for way in ("no published weights", "name a checkpoint", "aweigh train DATA --model fcos_resnet18_fpn"):
        assert way in ended.mistake


def test_published_weights_without_a_network(aweigh: Aweigh, tmp_path: Path) -> None:
    words = ["--model", "fcos_resnet50_fpn", "--weights", "torchvision"]
    ended = aweigh("predict", photo(tmp_path / "a.png"), *words)
    assert ended.code == 1, ended.err
    assert "AWEIGH_OFFLINE" in ended.mistake and "fcos_resnet50_fpn_coco-99b0c9b7.pth" in ended.mistake


# --- annotations ----------------------------------------------------------------------------------------------------


def test_bad_boxes_are_left_out_and_never_a_nan(aweigh: Aweigh, tmp_path: Path) -> None:
    bad = {
        "zero-size box": [10, 10, 0, 0],
        "corners exchanged": [30, 30, -10, -10],
        "box outside the image": [100, 100, 20, 20],
        "box not finite": [math.nan, 4, 10, 10],
    }
    data = coco(tmp_path / "data", [[4, 4, 20, 20], *bad.values(), [50, 40, 30, 30]])
    checked = aweigh("data", "check", data, "--strict")
    assert checked.code == 3
    for kind in bad:
        assert kind in checked.out, checked.out
    assert "annotation 2" in checked.out and "annotation 5" in checked.out

    ended = aweigh("train", data, "--epochs", 2, "--output", tmp_path / "run", *TINY)
    assert ended.code == 0, ended.err
    assert "zero-size box" in ended.err
    losses = [row["loss"] for row in read_log(tmp_path / "run" / "log.jsonl") if row["kind"] == "step"]
    assert losses and all(loss is not None and math.isfinite(loss) for loss in losses)


def test_a_category_that_is_not_listed(aweigh: Aweigh, tmp_path: Path) -> None:
    strange = {"annotations": [{"id": 1, "image_id": 1, "category_id": 99, "bbox": [4, 4, 9, 9]}]}
    strange["annotations"].append({"id": 2, "image_id": 1, "category_id": 1, "bbox": [4, 4, 9, 9]})
    data = coco(tmp_path / "data", [], train=strange)
    checked = aweigh("data", "check", data, "--strict")
    assert checked.code == 3
    assert "99" in checked.out and "annotation 1" in checked.out
    assert aweigh("train", data, "--epochs", 1, "--output", tmp_path / "run", *TINY).code == 0


def test_coco_without_the_fields_that_tools_forget(aweigh: Aweigh, trained: Path, tmp_path: Path) -> None:
    bare = {"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20]}]}
    data = coco(tmp_path / "data", [], train=bare, val=bare)
    assert aweigh("data", "check", data).code == 0
    assert aweigh("train", data, "--epochs", 1, "--output", tmp_path / "run", *TINY).code == 0
    ended = aweigh("eval", tmp_path / "run" / "best.safetensors", data)
    assert ended.code == 0, ended.err
    assert "cell" in ended.out and "nan" not in ended.out.lower()


def test_duplicate_ids_and_an_annotation_without_its_picture(aweigh: Aweigh, tmp_path: Path) -> None:
    annotation = {"image_id": 1, "category_id": 1, "iscrowd": 0}
    twice = [
        {"id": 7, "bbox": [4, 4, 20, 20], **annotation},
        {"id": 7, "bbox": [9, 9, 20, 20], **annotation},
        {"id": 8, "bbox": [4, 4, 20, 20], **annotation, "image_id": 55},
    ]
    data = coco(tmp_path / "data", [], train={"annotations": twice})
    checked = aweigh("data", "check", data, "--strict")
    assert checked.code == 3
    assert "annotation 7" in checked.out and "annotation 8" in checked.out
    assert aweigh("train", data, "--epochs", 1, "--output", tmp_path / "run", *TINY).code == 0


def test_pictures_that_are_missing_or_broken(aweigh: Aweigh, tmp_path: Path) -> None:
    data = coco(tmp_path / "data", [[4, 4, 20, 20]])
    (data / "images" / "train" / "train3.png").unlink()
    checked = aweigh("data", "check", data, "--strict")
    assert checked.code == 3 and "train3.png" in checked.out


def test_a_class_the_data_do_not_have(aweigh: Aweigh, tmp_path: Path) -> None:
    data = coco(tmp_path / "data", [[4, 4, 20, 20]])
    ended = aweigh("train", data, "--classes", "Cel", "--output", tmp_path / "run", *TINY)
    assert ended.code == 2
    assert "Cel" in ended.mistake and "'cell'" in ended.mistake
    assert not files(tmp_path / "run")


def test_a_folder_of_no_known_layout(aweigh: Aweigh, tmp_path: Path) -> None:
    photo(tmp_path / "photos" / "a.png")
    ended = aweigh("train", tmp_path / "photos", "--output", tmp_path / "run", *TINY)
    assert ended.code == 3
    for layout in ("COCO", "VOC", "YOLO"):
        assert layout in ended.mistake
    assert aweigh("train", tmp_path / "nowhere", *TINY).code == 3
    assert not files(tmp_path / "run")


def test_a_data_set_without_objects(aweigh: Aweigh, trained: Path, drawn: Path, tmp_path: Path) -> None:
    data = coco(tmp_path / "data", [])
    ended = aweigh("train", data, "--output", tmp_path / "run", *TINY)
    assert ended.code == 3 and "train" in ended.mistake
    assert not files(tmp_path / "run")

    shapes = [{"id": 1, "name": "circle"}]
    none = coco(tmp_path / "none", [], val={"annotations": [], "categories": shapes})
    ended = aweigh("eval", trained / "best.safetensors", none, "--json", tmp_path / "none.json")
    assert ended.code == 0, ended.err
    assert "nan" not in (ended.out + (tmp_path / "none.json").read_text()).lower()


def test_batches_without_objects(aweigh: Aweigh, tmp_path: Path) -> None:
    data = coco(tmp_path / "data", [[4, 4, 20, 20]])  # only the first of three images has an object
    ended = aweigh("train", data, "--epochs", 2, "--batch", 1, "--output", tmp_path / "run", *TINY)
    assert ended.code == 0, ended.err
    steps = [row for row in read_log(tmp_path / "run" / "log.jsonl") if row["kind"] == "step"]
    assert len(steps) == 6 and all(math.isfinite(row["loss"]) for row in steps)
    assert sum(row["loss_box"] == 0 for row in steps) == 4


# --- checkpoints ----------------------------------------------------------------------------------------------------


def rewritten(source: Path, target: Path, **changes: Any) -> Path:
    with safe_open(source, framework="pt") as file:
        header = json.loads(file.metadata()["aweigh"])
    save_file(load_file(source), target, metadata={"aweigh": json.dumps(header | changes)})
    return target


def test_a_checkpoint_that_is_no_checkpoint(aweigh: Aweigh, trained: Path, drawn: Path, tmp_path: Path) -> None:
    best = trained / "best.safetensors"
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(best.read_bytes()[:50_000])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    picture = photo(tmp_path / "a.png")
    for file, words in ((cut, "truncated"), (foreign, "header"), (picture, "safetensors")):
        for command in (["info", file], ["predict", picture, "--model", file, "-o", tmp_path / "out"]):
            ended = aweigh(*command)
            assert ended.code == 3, ended.err
            assert file.name in ended.mistake and words in ended.mistake
    missing = aweigh("eval", tmp_path / "missing.safetensors", drawn)
    assert missing.code == 2 and "missing.safetensors" in missing.mistake
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_architecture(aweigh: Aweigh, trained: Path, drawn: Path, tmp_path: Path) -> None:
    best = trained / "best.safetensors"
    other = rewritten(best, tmp_path / "other.safetensors", builder="fcos_resnet18_fpn")
    unknown = rewritten(best, tmp_path / "unknown.safetensors", builder="fcos_resnet81_fpn")
    newer = rewritten(best, tmp_path / "newer.safetensors", format=99)
    picture = photo(tmp_path / "a.png")
    for file, words in ((other, "fcos_resnet18_fpn"), (unknown, "Did you mean"), (newer, "update aweigh")):
        ended = aweigh("predict", picture, "--model", file)
        assert ended.code == 2, ended.err
        assert words in ended.mistake or file.name in ended.mistake
        assert len(ended.mistake) < 1000
    model = ["--model", "fcos_resnet18_fpn", "--init", best, "--output", tmp_path / "run"]
    ended = aweigh("train", drawn, *TINY, *model)
    assert ended.code == 2 and "fcos_shufflenet_v2_x0_5_fpn" in ended.mistake
    assert not files(tmp_path / "run")


def test_a_device_that_is_not_here(aweigh: Aweigh, trained: Path, tmp_path: Path) -> None:
    ended = aweigh("predict", photo(tmp_path / "a.png"), "--model", trained / "best.safetensors", "--device", "gpu")
    assert ended.code == 2 and "'gpu'" in ended.mistake
