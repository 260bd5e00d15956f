"""Boxes of photographs with EXIF rotation: drawn on the image as shown or as stored, which the boxes tell."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.inspect.test_doctor import kinds

from aweigh.annotations import exif_frames
from aweigh.annotations.split import Split
from aweigh.cli.main import run
from aweigh.errors import DataError
from aweigh.feeding.dataset import read_annotated, targets_of
from aweigh.inspect.doctor import examine
from aweigh.layouts.load import load_split

WIDE, TALL = (160, 120), (120, 160)  # width and height, as stored and as shown
BOTH, SHOWN, STORED = [10, 10, 60, 50], [20, 90, 60, 60], [90, 20, 60, 60]  # xywh: fits both, only 120 x 160, 160 x 120


def photograph(path: Path, orientation: int = 6, size_wh: tuple[int, int] = WIDE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size_wh, (90, 120, 150)).save(path, exif=exif.tobytes())


def coco(root: Path, said_wh: tuple[int, int], *pictures: list[list[int]], orientation: int = 6) -> Split:
    """A photograph for each list of boxes, of the size WIDE as stored."""
    images, annotations = [], []
    for number, boxes in enumerate(pictures):
        photograph(root / "images" / f"{number}.jpg", orientation)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": said_wh[0], "height": said_wh[1]})
        annotations += [{"image_id": number, "category_id": 1, "bbox": box} for box in boxes]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "car"}]}
    (root / "result.json").write_text(json.dumps(content))
    return load_split(root)


def sizes(split: Split) -> list[tuple[int, ...]]:
    return [(width, height) for height, width in split.sizes_hw.tolist()]


def check_pixels(split: Split) -> None:
    """What training reads has the size that the boxes were placed in."""
    for row, path in enumerate(split.paths):
        height, width = split.sizes_hw[row].tolist()
        image, targets, full_hw, _ = read_annotated(path, targets_of(split, row), (height, width))
        assert (image.shape[1], image.shape[2]) == full_hw == (height, width)
        assert targets.boxes.tolist() == split.objects(row)["boxes"].tolist()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_sizes_of_the_stored_file_and_boxes_of_the_shown_picture(tmp_path: Path, orientation: int) -> None:
    split = coco(tmp_path, WIDE, [SHOWN], [BOTH], [], orientation=orientation)
    assert sizes(split) == [TALL] * 3  # also those that fit both ways: the set decides
    assert split.boxes.tolist() == [[20, 90, 80, 150], [10, 10, 70, 60]]
    assert [problem.kind for problem in split.problems] == [exif_frames.AS_SHOWN] * 3
    assert "of 2 boxes in rotated images 2 fit as these are shown, 1 as they are stored" in split.problems[0].detail
    check_pixels(split)
    found = kinds(examine({"train": split}))
    assert exif_frames.AS_SHOWN in found and not {"annotated before EXIF rotation", "box over the edge"} & found


@pytest.mark.parametrize(
    ("said", "pictures", "used"),
    [
        (WIDE, [[STORED], [BOTH]], [WIDE, WIDE]),  # annotated before the rotation, as is said
        (WIDE, [[BOTH], [BOTH]], [WIDE, WIDE]),  # nothing but the size that is said
        (TALL, [[SHOWN], [BOTH]], [TALL, TALL]),  # as every image
        (TALL, [[STORED], [BOTH]], [WIDE, WIDE]),  # sizes of the shown image, boxes of the stored one
        (WIDE, [[SHOWN]] * 30 + [[STORED]], [TALL] * 31),  # one slip of the hand
        (WIDE, [[SHOWN]] * 3 + [[STORED]] * 2 + [[BOTH]], [TALL] * 3 + [WIDE] * 2 + [TALL]),  # two tools
        (WIDE, [[SHOWN], [STORED], [BOTH]], [TALL, WIDE, WIDE]),  # as many for one as for the other
        (WIDE, [[[-40, 90, 60, 60]], [BOTH]], [WIDE, WIDE]),  # fits neither way
    ],
)
def test_the_boxes_of_the_set_decide(
    tmp_path: Path, said: tuple[int, int], pictures: list[list[list[int]]], used: list[tuple[int, int]]
) -> None:
    split = coco(tmp_path, said, *pictures)
    assert sizes(split) == used
    exchanged = [problem for problem in split.problems if problem.kind in (exif_frames.AS_SHOWN, exif_frames.AS_STORED)]
    assert len(exchanged) == sum(one != said for one in used)
    check_pixels(split)


def test_pictures_that_are_not_rotated_and_those_whose_size_tells_nothing(tmp_path: Path) -> None:
    for orientation in (1, 2, 3, 4):
        split = coco(tmp_path / str(orientation), WIDE, [SHOWN], [BOTH], orientation=orientation)
        assert sizes(split) == [WIDE, WIDE] and exif_frames.AS_SHOWN not in {problem.kind for problem in split.problems}
    # An upright one in a set of rotated ones stays as it is; a square one does too.
    coco(tmp_path / "set", WIDE, [SHOWN], [BOTH], [BOTH])
    photograph(tmp_path / "set" / "images" / "1.jpg", 1)
    photograph(tmp_path / "set" / "images" / "2.jpg", 6, (140, 140))
    content = json.loads((tmp_path / "set" / "result.json").read_text())
    content["images"][2] |= {"width": 140, "height": 140}
    (tmp_path / "set" / "result.json").write_text(json.dumps(content))
    assert sizes(load_split(tmp_path / "set")) == [TALL, WIDE, (140, 140)]


def test_no_file_is_opened_where_all_boxes_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(exif_frames, "read_size", refuse)
    assert sizes(coco(tmp_path, WIDE, [STORED], [BOTH])) == [WIDE, WIDE]


def test_other_layouts_whose_files_say_a_size(tmp_path: Path) -> None:
    photograph(tmp_path / "voc" / "a.jpg")
    corners = "<xmin>21</xmin><ymin>91</ymin><xmax>80</xmax><ymax>150</ymax>"
    size = "<size><width>160</width><height>120</height></size>"
    text = f"<annotation>{size}<object><name>car</name><bndbox>{corners}</bndbox></object></annotation>"
    (tmp_path / "voc" / "a.xml").write_text(text)
    photograph(tmp_path / "labelme" / "a.jpg")
    one = {"label": "car", "points": [[20, 90], [80, 150]], "shape_type": "rectangle"}
    content = {"shapes": [one], "imagePath": "a.jpg", "imageHeight": 120, "imageWidth": 160}
    (tmp_path / "labelme" / "a.json").write_text(json.dumps({"version": "5.5.0"} | content))
    photograph(tmp_path / "createml" / "a.jpg")  # says no size: as shown, unless the boxes say otherwise
    place = {"x": 120, "y": 50, "width": 60, "height": 60}
    objects = [{"image": "a.jpg", "annotations": [{"label": "car", "coordinates": place}]}]
    (tmp_path / "createml" / "x.json").write_text(json.dumps(objects))
    for layout, box, size_wh in (("voc", [20, 90, 80, 150], TALL), ("labelme", [20, 90, 80, 150], TALL)):
        split = load_split(tmp_path / layout)
        assert (sizes(split), split.boxes.tolist()) == ([size_wh], [box])
        check_pixels(split)
    split = load_split(tmp_path / "createml")
    assert (sizes(split), split.boxes.tolist()) == ([WIDE], [[90, 20, 150, 80]])
    check_pixels(split)


def test_masks_and_keypoints_go_with_the_boxes(tmp_path: Path) -> None:
    coco(tmp_path, WIDE, [SHOWN])
    content = json.loads((tmp_path / "result.json").read_text())
    content["annotations"][0] |= {"segmentation": [[20, 90, 80, 90, 80, 150]], "keypoints": [30, 140, 2]}
    content["categories"][0]["keypoints"] = ["nose"]
    (tmp_path / "result.json").write_text(json.dumps(content))
    split = load_split(tmp_path)
    assert split.keypoints is not None and split.keypoints.tolist() == [[[30, 140, 2]]]
    pixels = split.mask_pixels(0)
    assert pixels is not None and tuple(pixels.shape) == (1, 160, 120) and int(pixels.sum()) > 1500


def test_the_case(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = shared / "cases" / "exif_shown_frame"
    split = load_split(root)
    assert sizes(split) == [TALL, TALL] and np.allclose(split.boxes, [[10, 100, 70, 150], [20, 90, 110, 155]])
    with pytest.raises(DataError, match="strict"):
        load_split(root, strict=True)
    for target in ("coco", "yolo", "voc"):
        assert run(["data", "convert", str(root), "--to", target, "--out", str(tmp_path / target)]) == 0
        again = load_split(tmp_path / target)
        assert sizes(again) == [TALL, TALL] and np.allclose(again.boxes, split.boxes, atol=0.01)
        assert again.problems == []
    capsys.readouterr()
