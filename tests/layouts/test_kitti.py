"""KITTI's files: read, judged line by line, written, drawn; and what happens to cuboids when an image is changed."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.edit.merge import merge
from aweigh.errors import DataError, UsageError
from aweigh.feeding.dataset import targets_of
from aweigh.feeding.mixing import join
from aweigh.feeding.transforms import Augmentation, Transform, flip_horizontally
from aweigh.feeding.windows import cut_window
from aweigh.geometry.cuboids import corners, project, solids_from_cuboids
from aweigh.images.resize import Resize
from aweigh.inspect.doctor import examine
from aweigh.layouts.kitti import label_text, parse_label, read_camera
from aweigh.layouts.load import find_splits, load_split
from aweigh.layouts.save import not_held
from aweigh.results.kitti import kitti_text
from aweigh.scenes.road import picture_size, render_road, write_road
from aweigh.structures import Targets

P2 = "P2: 70 0 60 4.2 0 70 20 0.14 0 0 1 0.003\n"
CAR = "Car 0.10 1 -1.20 20.00 12.00 50.00 34.00 1.50 1.60 4.00 -2.00 1.65 14.00 -1.34\n"


def kitti(tmp_path: Path, *labels: str, calibration: str | None = P2, lists: dict[str, str] | None = None) -> Path:
    """A data set of one image of 120 x 40 for each label text."""
    base = tmp_path / "training"
    for name in ("image_2", "label_2", "calib"):
        (base / name).mkdir(parents=True)
    for number, text in enumerate(labels):
        Image.new("RGB", (120, 40)).save(base / "image_2" / f"{number:06d}.png")
        (base / "label_2" / f"{number:06d}.txt").write_text(text)
        if calibration is not None:
            (base / "calib" / f"{number:06d}.txt").write_text("P0: 1 2 3\n" + calibration)
    for name, text in (lists or {}).items():
        (tmp_path / "ImageSets").mkdir(exist_ok=True)
        (tmp_path / "ImageSets" / f"{name}.txt").write_text(text)
    return tmp_path


def test_a_car_is_read_and_stands_where_the_file_says(tmp_path: Path) -> None:
    split = load_split(kitti(tmp_path, CAR))
    assert split.layout == "kitti" and split.classes == Classes(("Pedestrian", "Car", "Cyclist"), (1, 2, 3))
    assert split.problems == [] and "1 with a 3D box" in split.summary()
    objects = split.objects(0)
    assert objects["boxes"].tolist() == [[20, 12, 50, 34]] and objects["labels"].tolist() == [1]
    assert split.cameras is not None
    # Its middle is 0.75 m above (-2, 1.65, 14): 70 * -2 + 60 * 14 + 4.2 by a depth of 14.003, and so on.
    depth = 14.003
    u, v = (70 * -2 + 60 * 14 + 4.2) / depth, (70 * 0.9 + 20 * 14 + 0.14) / depth
    alpha = -1.34 - math.atan2(-2, 14)
    assert objects["cuboids"][0].tolist() == pytest.approx([u, v, depth, 1.5, 1.6, 4, alpha], rel=1e-5)
    (solid,) = solids_from_cuboids(objects["cuboids"], split.cameras[0]).tolist()
    assert solid == pytest.approx([-2, 1.65, 14, 1.5, 1.6, 4, -1.34], abs=1e-4)


def test_types_become_classes_uncertain_ones_regions_and_background(tmp_path: Path) -> None:
    names = ("Pedestrian", "Van", "Truck", "Person_sitting", "Tram", "Misc")
    region = "DontCare -1 -1 -10 60.00 1.00 90.00 30.00 -1 -1 -1 -1000 -1000 -1000 -10\n"
    split = load_split(kitti(tmp_path, "".join(CAR.replace("Car", name) for name in names) + region))
    target = targets_of(split, 0)
    assert split.problems == []
    assert target.labels.tolist() == [0, 1, 1, 0, 0, 1, 2]
    assert target.uncertain.tolist() == [False, True, True, True, False, False, False]
    assert target.ignore.tolist() == [False] * 4 + [True] * 3  # the region, once for each class
    assert target.cuboids is not None and target.cuboids[4:].isnan().all()
    cars = targets_of(load_split(tmp_path, classes=["Car"]), 0)
    assert cars.labels.tolist() == [0, 0, 0] and cars.learned.sum() == 0
    assert load_split(kitti(tmp_path / "own", CAR.replace("Car", "Boat"))).classes.names[-1] == "Boat"


@pytest.mark.parametrize(
    ("line", "kind", "where"),
    [
        ("Car 0 0 0 20 12 50 34 1.5 1.6 4 -2 1.65 14\n", "unreadable line", r"got 14"),
        (CAR.strip() + " 0.5 0.5\n", "unreadable line", r"got 17"),
        (CAR.replace("14.00", "far"), "unreadable line", r"column 14 is 'far'"),
        (CAR.replace("1.60", "-1.60"), "3D box cannot be used", r"1\.5, -1\.6 and 4"),
        (CAR.replace("14.00", "-14.00"), "3D box cannot be used", r"depth is -14"),
        (CAR.replace("14.00", "0.00"), "3D box cannot be used", r"depth is 0"),
    ],
)
def test_bad_lines_are_named_by_file_and_line(tmp_path: Path, line: str, kind: str, where: str) -> None:
    root = kitti(tmp_path, CAR, CAR + line)
    (problem,) = load_split(root).problems
    assert (problem.kind, problem.where, problem.annotation) == (kind, "000001.txt", "line 2")
    assert re.search(where, problem.detail)
    assert len(load_split(root).boxes) == (2 if kind == "unreadable line" else 3)
    with pytest.raises(DataError, match=r"000001\.txt line 2"):
        load_split(root, strict=True)
    found = [one for one in examine({"train": load_split(root)}).findings if one.kind == kind]
    assert len(found) == 1 and found[0].severity == "error" and "Look at the records" not in found[0].advice


@pytest.mark.parametrize(
    ("calibration", "kind"),
    [(None, "calibration missing"), ("", "calibration unreadable"), ("P2: 1 2 3\n", "calibration unreadable")],
)
def test_without_a_calibration_the_boxes_are_kept(tmp_path: Path, calibration: str | None, kind: str) -> None:
    split = load_split(kitti(tmp_path, CAR, calibration=calibration))
    (problem,) = split.problems
    assert (problem.kind, problem.where) == (kind, "000000.txt")
    assert len(split.boxes) == 1 and split.cuboids is None
    assert [one.severity for one in examine({"train": split}).findings if one.kind == kind] == ["error"]


def test_lists_name_the_splits(tmp_path: Path) -> None:
    root = kitti(
        tmp_path, CAR, CAR * 2, CAR * 3, lists={"train": "000000\n000002\n", "val": "000001\n", "test": "000000\n"}
    )
    assert list(find_splits(root)) == ["train", "val", "test"]
    assert [len(load_split(root, name).boxes) for name in ("train", "val")] == [4, 2]
    (root / "testing").mkdir()  # then test.txt is of its images, which have no labels
    assert list(find_splits(root)) == ["train", "val"]
    assert list(find_splits(root / "training")) == ["train", "val"]
    (root / "ImageSets/val.txt").write_text("000001\n000007\n")
    (problem,) = load_split(root, "val").problems
    assert problem.kind == "image file missing" and problem.where == "000007.png"


def test_a_line_comes_back(tmp_path: Path) -> None:
    label = parse_label(CAR)
    assert not isinstance(label, str) and label_text(label) == CAR
    scored = parse_label(CAR.strip() + " 0.75")
    assert not isinstance(scored, str) and scored.score == 0.75 and label_text(scored) == CAR.strip() + " 0.7500\n"


def test_detections_are_written_as_labels_and_read_again(tmp_path: Path) -> None:
    split = load_split(kitti(tmp_path, CAR))
    score = np.array([0.9], np.float32)
    found = Detections(split.boxes, score, split.labels, split.classes, (40, 120), cuboids=split.cuboids)
    assert split.cameras is not None
    placed = replace(found, camera=split.cameras[0])
    label = parse_label(kitti_text(placed))
    assert not isinstance(label, str)
    assert label.kind == "Car" and label.score == 0.9
    assert label.solid == pytest.approx((1.5, 1.6, 4, -2, 1.65, 14, -1.34)) and label.alpha == pytest.approx(
        -1.2, abs=0.01
    )
    unknown = parse_label(kitti_text(found))
    assert not isinstance(unknown, str) and unknown.solid == (1.5, 1.6, 4, -1000, -1000, -1000, -10)
    with pytest.raises(UsageError, match="--camera"):
        found.solids()


def test_a_split_keeps_places_and_cameras_together(tmp_path: Path) -> None:
    split = load_split(kitti(tmp_path, CAR, CAR + CAR.replace("14.00", "20.00")))
    assert split.cuboids is not None and split.cameras is not None
    part = split.take([1])
    assert part.cuboids is not None and part.cuboids[:, 2].tolist() == pytest.approx([14.003, 20.003], rel=1e-5)
    assert part.cameras is not None and part.cameras.shape == (1, 3, 4)
    assert split.take_annotations(np.array([0, 2])).cuboids.shape == (2, 7)  # type: ignore[union-attr]
    other = load_split(kitti(tmp_path / "other", CAR.replace("14.00", "15.00")))
    assert other.content_hash != split.take([0]).content_hash
    assert "3D boxes: 3 left out, with their cameras" in not_held({"train": split}, "coco")
    merged = merge({"a": {"train": split}, "b": {"train": other}}, {}).splits["train"]
    assert merged.cuboids is not None and merged.cameras is not None
    assert merged.cuboids.shape == (4, 7) and merged.cameras.shape == (3, 3, 4)


# --- changes of an image ------------------------------------------------------------------------------------------


def _target() -> Targets:
    cuboids = torch.tensor([[30.0, 20, 14, 1.5, 1.6, 4, 0.5]])
    return Targets(torch.tensor([[20.0, 12, 50, 34]]), torch.tensor([1]), cuboids=cuboids)


def test_cuboids_go_with_the_picture() -> None:
    image, target = torch.zeros(3, 40, 120, dtype=torch.uint8), _target()
    _, flipped = flip_horizontally(image, target)
    assert flipped.cuboids is not None
    assert flipped.cuboids[0].tolist() == pytest.approx([90, 20, 14, 1.5, 1.6, 4, math.pi - 0.5])
    resized = target.resized((40, 120), (80, 60)).cuboids
    assert resized is not None and resized[0].tolist() == pytest.approx([15, 40, 14, 1.5, 1.6, 4, 0.5])
    _, cut = cut_window(image, target, (10, 5, 100, 40))
    assert cut.cuboids is not None and cut.cuboids[0].tolist() == pytest.approx([20, 15, 14, 1.5, 1.6, 4, 0.5])
    both = join([target, flipped]).cuboids
    assert both is not None and both.shape == (2, 7)
    assert join([target, Targets.empty()]).cuboids is None


def test_a_random_scale_leaves_where_the_middle_lies_and_the_angle() -> None:
    image, generator = torch.zeros(3, 40, 120, dtype=torch.uint8), torch.Generator().manual_seed(0)
    plain = Transform(Resize(None, 60), Augmentation(flip=0))(image, _target(), generator)[1].cuboids
    assert plain is not None and plain[0].tolist() == pytest.approx([15, 10, 14, 1.5, 1.6, 4, 0.5])
    for changes in ({"scale_jitter": (0.9, 0.99)}, {"crop": 1.0}, {"short_sides": (20, 24)}):
        transform = Transform(Resize(None, 60), Augmentation(flip=0, **changes))  # type: ignore[arg-type]
        cuboids = transform(image, _target(), generator)[1].cuboids
        assert cuboids is not None
        assert cuboids.isnan().tolist() == [[False, False, True, True, True, True, False]]


# --- the synthetic road --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_road(tmp_path_factory.mktemp("road") / "data", train=3, val=1, width=160, seed=5)


def test_a_road_is_a_kitti_data_set_without_a_fault(road: Path) -> None:
    assert list(find_splits(road)) == ["train", "val"]
    train, val = load_split(road), load_split(road, "val")
    assert train.problems == val.problems == [] and (len(train), len(val)) == (3, 1)
    assert train.sizes_hw.tolist() == [[64, 160]] * 3 and picture_size(1280) == (384, 1280)
    assert not [found for found in examine({"train": train, "val": val}).findings if found.severity == "error"]
    assert read_camera(road / "training/calib/000000.txt")[0, 3] > 0


def test_the_same_seed_gives_the_same_scene_and_no_other() -> None:
    first, again, other = (render_road([5, 0, number], size_hw=(64, 160)) for number in (0, 0, 1))
    assert np.array_equal(first.image, again.image) and first.labels == again.labels
    assert not np.array_equal(first.image, other.image)


def test_boxes_are_those_of_what_is_drawn() -> None:
    """An object's box lies inside that of its cuboid's corners, and nearly fills it; the angle is the camera's."""
    seen = 0
    for number in range(4):
        scene = render_road([1, 0, number], size_hw=(128, 416))
        for label in scene.labels:
            if label.kind == "DontCare":
                continue
            height, width, length, x, y, z, turn = label.solid
            pixels, _ = project(corners(np.array([x, y, z, height, width, length, turn])), scene.camera)
            low, high = pixels.min(axis=0).clip(0), np.minimum(pixels.max(axis=0), [416, 128])
            box = np.array(label.box)
            assert (box[:2] >= low - 1).all() and (box[2:] <= high + 1).all()
            if label.truncated == 0:
                assert ((box[2:] - box[:2]) > 0.75 * (high - low) - 2).all()
            assert label.alpha == pytest.approx((turn - math.atan2(x, z) + math.pi) % (2 * math.pi) - math.pi)
            seen += 1
    assert seen >= 12


def test_occlusion_is_counted() -> None:
    """Over some scenes each level is there, and the nearest object of a scene is never occluded."""
    scenes = [render_road([2, 0, number], size_hw=(96, 320)) for number in range(12)]
    levels = {label.occluded for scene in scenes for label in scene.labels}
    assert {0, 1} <= levels and any(label.kind == "DontCare" for scene in scenes for label in scene.labels)
    assert all(scene.labels[0].occluded == 0 for scene in scenes if scene.labels and scene.labels[0].kind != "DontCare")


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 160"):
        write_road(tmp_path / "x", width=100)
    with pytest.raises(UsageError, match="not all 0"):
        write_road(tmp_path / "x", train=0, val=0)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    with pytest.raises(UsageError, match="exists already"):
        write_road(tmp_path / "taken")
