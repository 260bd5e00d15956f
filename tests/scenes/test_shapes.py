"""The scenes are what their annotations say, and the same every time."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hotcoco import mask as run_lengths

from aweigh.errors import UsageError
from aweigh.images.reader import read_image
from aweigh.inspect.rules import remarks
from aweigh.layouts.load import find_splits, load_split
from aweigh.scenes.shapes import KEYPOINTS, LEAST_PIXELS, SHAPES, Scene, render, write_synthetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "shapes"
    return write_synthetic(out, train=12, val=3, test=0, size=128, seed=4, empty=0.2, crowd=0.3)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = write_synthetic(tmp_path / "again", train=12, val=3, test=0, size=128, seed=4, empty=0.2, crowd=0.3)
    assert digest(again) == digest(folder)
    more = write_synthetic(tmp_path / "more", train=13, val=0, test=0, size=128, seed=4, empty=0.2, crowd=0.3)
    kept = {name: value for name, value in digest(folder).items() if name.startswith("images/train")}
    assert kept.items() <= digest(more).items()  # a scene does not depend on how many there are
    other = write_synthetic(tmp_path / "other", train=1, val=0, test=0, size=128, seed=5)
    assert digest(other)["images/train/train_00000.jpg"] != kept["images/train/train_00000.jpg"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_reader_finds_nothing_wrong(folder: Path) -> None:
    assert list(find_splits(folder)) == ["train", "val"]
    split = load_split(folder)
    assert split.problems == [] and split.classes.names == SHAPES and len(split) == 12
    assert remarks(split) == {}
    assert (np.diff(split.first) == 0).any() and split.crowd.any()
    for index in range(len(split)):
        assert read_image(split.paths[index]).shape[:2] == tuple(split.sizes_hw[index])


def test_masks_boxes_and_areas_agree(folder: Path) -> None:
    data = json.loads((folder / "annotations" / "instances_train.json").read_text())
    sizes = {image["id"]: [image["height"], image["width"]] for image in data["images"]}
    assert len(data["annotations"]) > 10
    for entry in data["annotations"]:
        assert entry["segmentation"]["size"] == sizes[entry["image_id"]]
        mask = run_lengths.decode(entry["segmentation"])
        ys, xs = np.nonzero(mask)
        x, y, w, h = entry["bbox"]
        assert [x, y, x + w, y + h] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert entry["area"] == mask.sum() >= LEAST_PIXELS
        points = np.array(entry["keypoints"]).reshape(len(KEYPOINTS), 3)
        assert entry["num_keypoints"] == (points[:, 2] > 0).sum()
        assert (points[points[:, 2] == 0] == 0).all()


def scenes() -> list[Scene]:
    return [render(seed, size_hw=(120, 160), crowd=0.2) for seed in range(12)]


def test_shapes_cover_one_another_but_stay_visible() -> None:
    covered = 0
    for scene in scenes():
        assert scene.image.shape == (120, 160, 3) and scene.image.dtype == np.uint8
        assert (scene.masks.sum(axis=0) <= 1).all()  # a pixel belongs to one shape
        covered += int((scene.keypoints[:, :, 2] == 1).sum())
    assert covered > 0


def test_seen_extreme_points_touch_the_box() -> None:
    touching = total = 0
    for scene in scenes():
        for box, points, crowd in zip(scene.boxes, scene.keypoints, scene.crowd):
            if crowd:
                assert not points.any()
                continue
            x0, y0, x1, y1 = box
            for number, (axis, edge) in enumerate(((1, y0), (0, x1), (1, y1), (0, x0))):
                if points[number, 2] == 2:
                    total += 1
                    touching += abs(points[number, axis] - edge) <= 0.51
    assert total > 50 and touching / total > 0.9  # the rest: the middle of an edge that is covered elsewhere


def test_empty_scenes() -> None:
    scene = render(0, size_hw=(64, 80), empty=1.0)
    assert scene.masks.shape == (0, 64, 80) and scene.boxes.shape == (0, 4) and scene.keypoints.shape == (0, 5, 3)


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        write_synthetic(tmp_path / "full", train=1)
    (tmp_path / "empty").mkdir()
    write_synthetic(tmp_path / "empty", train=1, val=0, test=0, size=64)
    with pytest.raises(UsageError, match="size"):
        write_synthetic(tmp_path / "x", size=10)
    with pytest.raises(UsageError, match="numbers of images"):
        write_synthetic(tmp_path / "x", train=0, val=0, test=0)
