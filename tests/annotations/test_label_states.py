"""An image is labelled, reviewed and empty, or not usable: one that lost its labels never says "nothing is here"."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.annotated import Make, coco_dict, picture, voc_xml

from aweigh.annotations.split import LABELS_LOST, NEVER_LABELLED, NOT_SAID, REVIEWED, Split, split_off
from aweigh.classes import Classes
from aweigh.edit.clean import clean
from aweigh.edit.complete import Proposals, complete
from aweigh.edit.merge import merge
from aweigh.errors import DataError
from aweigh.feeding.dataset import targets_of
from aweigh.inspect.doctor import count_split, examine
from aweigh.layouts.load import load_split
from aweigh.layouts.save import not_held, save_dataset
from aweigh.models import create
from aweigh.structures import Images, Targets
from aweigh.training.config import TrainConfig
from aweigh.training.data import load_data

GOOD = "0 0.5 0.5 0.5 0.5"
LOST_LINES = {
    "a word": "zero 0.5 0.5 0.5 0.5",
    "no numbers": "# 3 objects",
    "four columns": "0 0.5 0.5 0.5",
    "a sixth column that is no score": "0 0.5 0.5 0.5 0.5 45",
    "a ragged polygon": "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1",
    "no number": "0 nan 0.5 0.5 0.5",
    "infinite": "0 0.5 0.5 inf 0.5",
    "outside": "0 1.5 1.5 0.5 0.5",
    "no size": "0 0.5 0.5 0 0",
    "under one pixel": "0 0.5 0.5 0.001 0.001",
    "unknown class": "7 0.5 0.5 0.5 0.5",
    "half a class": "0.5 0.5 0.5 0.5 0.5",
}
NO_PLACE = ["a word", "four columns", "a ragged polygon", "no number", "unknown class"]


def yolo(root: Path, **labels: str | bytes | None) -> Path:
    """Images with these label files; None: without one."""
    (root / "labels" / "train").mkdir(parents=True)
    for name, text in labels.items():
        picture(root / "images" / "train" / f"{name}.png")
        if text is not None:
            data = text if isinstance(text, bytes) else text.encode()
            (root / "labels" / "train" / f"{name}.txt").write_bytes(data)
    (root / "data.yaml").write_text("train: images/train\nnames: [egg, hen]\n")
    return root


def known(split: Split, row: int) -> list[bool] | None:
    learned = split.objects(row)["known"]
    return None if learned is None else learned.tolist()


@pytest.mark.parametrize("line", LOST_LINES.values(), ids=LOST_LINES.keys())
def test_a_picture_of_which_no_line_can_be_used_is_not_empty(tmp_path: Path, line: str) -> None:
    split = load_split(yolo(tmp_path / "set", bad=f"{line}\n", blank=" \n\n", empty="", good=GOOD, none=None))
    assert [path.stem for path in split.paths] == ["bad", "blank", "empty", "good", "none"]
    assert split.reviewed.tolist() == [LABELS_LOST, REVIEWED, REVIEWED, REVIEWED, NEVER_LABELLED]
    assert split.complete.tolist() == [False, True, True, True, False]
    assert [known(split, row) for row in range(5)] == [[False, False], None, None, None, [False, False]]
    assert "4 images without objects, kept (2 reviewed and empty, 1 never labelled, 1 labels lost)" in split.summary()
    counts = count_split(split)
    assert (counts.background, counts.unknown, counts.labels_lost, counts.partly_lost) == (2, 2, 1, 0)
    found = {one.kind: one for one in examine({"train": split}).findings}
    assert found["labels lost"].count == 1 and found["labels lost"].examples[0].problem.where == "bad.png"
    assert found["without objects"].count == 2


@pytest.mark.parametrize("layout", ["yolo", "voc", "coco"])
def test_no_copy_calls_it_empty(tmp_path: Path, layout: Any) -> None:
    """Converted, cleaned, merged or divided: it stays what it is, or becomes one that nobody labelled."""
    split = load_split(yolo(tmp_path / "set", bad="0 nan 0 0 0", empty="", good=GOOD, hen="1 0.5 0.5 0.5 0.5"))
    save_dataset({"train": split}, tmp_path / "out", layout)
    cleaned = clean({"train": split}, examine({"train": split}, pictures=False))
    assert "train: 1 image marked as never labelled: all their boxes were bad" in cleaned.changes
    save_dataset(cleaned.splits, tmp_path / "clean", layout)
    copies = [load_split(tmp_path / "out"), load_split(tmp_path / "clean"), cleaned.splits["train"]]
    copies += [merge({"a": {"train": split}, "b": {"train": split}}).splits["train"], *split_off(split, 0.5, seed=1)]
    for copy in copies:
        for row, path in enumerate(copy.paths):
            assert bool(copy.complete[row]) == (path.stem != "bad"), (copy.root, path.stem)
    if layout != "coco":
        assert not list((tmp_path / "clean").rglob("bad.txt")) + list((tmp_path / "clean").rglob("bad.xml"))


@pytest.mark.parametrize("name", NO_PLACE)
def test_a_lost_object_of_an_unknown_place_is_nowhere_background(tmp_path: Path, name: str) -> None:
    """The boxes that can be used teach as before; COCO keeps the state, and for other layouts it is told."""
    split = load_split(yolo(tmp_path / "set", part=f"{GOOD}\n{LOST_LINES[name]}\n", good=GOOD))
    assert split.reviewed.tolist() == [REVIEWED, LABELS_LOST] and len(split.boxes) == 2
    targets = targets_of(split, 1)
    assert targets.learned.tolist() == [True] and targets.known is not None and not targets.known.any()
    assert split.summary().count("1 with a part of their labels lost") == 1
    assert count_split(split).partly_lost == count_split(split).unknown == 1
    save_dataset({"train": split}, tmp_path / "coco", "coco")
    again = load_split(tmp_path / "coco")
    assert again.reviewed.tolist() == split.reviewed.tolist() and len(again.boxes) == 2
    for layout in ("voc", "yolo"):
        assert [line for line in not_held({"train": split}, layout) if line.startswith("labels lost: 1 image")]
    cleaned = clean({"train": split}, examine({"train": split}, pictures=False))
    assert "train: 1 image kept with a part of the labels, the others are lost: part.png" in cleaned.changes


def test_a_lost_box_that_covers_nothing_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    """Its place is known, and nothing of the image is in it."""
    lines = [GOOD, LOST_LINES["outside"], LOST_LINES["no size"], LOST_LINES["under one pixel"]]
    split = load_split(yolo(tmp_path / "set", part="\n".join(lines)))
    assert split.reviewed.tolist() == [REVIEWED] and len(split.boxes) == 1 and known(split, 0) is None


def test_a_sixth_column_is_a_score(tmp_path: Path) -> None:
    split = load_split(yolo(tmp_path / "set", scored="0 0.5 0.5 0.5 0.5 0.91", good=GOOD))
    assert split.boxes.tolist() == [[10, 7.5, 30, 22.5]] * 2 and split.complete.all()
    assert split.extras is not None and [text and json.loads(text) for text in split.extras] == ["", {"score": 0.91}]
    (remark,) = split.problems
    assert (remark.kind, remark.where, remark.annotation, remark.action) == (
        "sixth column",
        "scored.txt",
        "line 1",
        "kept",
    )
    strict = load_split(tmp_path / "set", strict=True)  # a remark is no problem
    assert len(strict.boxes) == 2


@pytest.mark.parametrize(
    ("line", "box"),
    [("0 0.5 0.5 -0.5 0.5", [10, 7.5, 30, 22.5]), ("0 0.5 0.5 -0.5 -0.5", [10, 7.5, 30, 22.5])],
)
def test_exchanged_corners_are_mended_in_yolo(tmp_path: Path, line: str, box: list[float]) -> None:
    split = load_split(yolo(tmp_path / "set", turned=line))
    assert split.boxes.tolist() == [box] and split.source_boxes_xywh.tolist() == [[10, 7.5, 20, 15]]
    assert [(p.kind, p.action) for p in split.problems] == [("corners exchanged", "changed")] and split.complete.all()


def test_exchanged_corners_are_mended_in_voc(tmp_path: Path) -> None:
    """As the same corners in order are read; a side of no pixels, which VOC writes as one less, is not exchanged."""
    for name, box in {"a": [5, 6, 10, 12], "b": [10, 6, 5, 12], "c": [10, 12, 5, 6], "d": [10, 6, 9, 12]}.items():
        picture(tmp_path / "JPEGImages" / f"{name}.png")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "Annotations" / f"{name}.xml").write_text(voc_xml([("dog", box, 0)]))
    split = load_split(tmp_path)
    assert split.boxes.tolist() == [[4, 5, 10, 12]] * 3
    kinds = [(problem.kind, problem.where) for problem in split.problems]
    assert kinds == [("corners exchanged", "b.png"), ("corners exchanged", "c.png"), ("zero-size box", "d.png")]
    assert split.reviewed.tolist() == [REVIEWED] * 3 + [LABELS_LOST]
    assert split.to_coco()["annotations"][1]["bbox"] == [4, 5, 6, 7]


@pytest.mark.parametrize(
    "change",
    [{"bbox": None}, {"bbox": [1, 2, 3]}, {"bbox": [float("nan"), 1, 9, 9]}, {"bbox": [90, 90, 9, 9]},
     {"category_id": 99}, {"category_id": None}, {"bbox": [5, 5, 0, 9]}],
)  # fmt: skip
def test_a_coco_annotation_that_is_dropped(coco: Make, tmp_path: Path, change: dict[str, Any]) -> None:
    data = coco_dict([[5, 5, 10, 10], [5, 5, 10, 10]])
    data["annotations"][1] |= {"image_id": 2, **change}
    data["images"].append({"id": 3, "file_name": "3.png", "width": 40, "height": 30})
    data["images"][1]["reviewed"] = True  # somebody looked, and what was seen is lost
    root = coco(data)
    picture(root / "images" / "3.png")
    split = load_split(root)
    assert split.reviewed.tolist() == [REVIEWED, LABELS_LOST, NOT_SAID]
    assert [known(split, row) for row in range(3)] == [None, [False, False], None]


@pytest.mark.parametrize("entry", ["text", {"id": 5, "category_id": 3, "bbox": [1, 1, 9, 9]}])
def test_a_coco_record_of_no_image_could_be_of_any_that_has_none(coco: Make, entry: Any) -> None:
    data = coco_dict([[5, 5, 10, 10]])
    data["annotations"].append(entry)
    assert load_split(coco(data)).reviewed.tolist() == [REVIEWED, LABELS_LOST]
    data["images"][1]["reviewed"] = True
    assert load_split(coco(data)).reviewed.tolist() == [REVIEWED, REVIEWED]
    data = coco_dict([[5, 5, 10, 10]])
    data["annotations"].append({"id": 9, "image_id": 77, "category_id": 3, "bbox": [1, 1, 9, 9]})  # of an image that is
    assert load_split(coco(data)).reviewed.tolist() == [REVIEWED, NOT_SAID]  # not here, as in a part of a data set


def test_a_voc_object_that_cannot_be_used(tmp_path: Path) -> None:
    texts = {
        "a": voc_xml([("dog", [5, 5, 9, 9], 0)]),
        "b": voc_xml([]).replace("</annotation>", "<object><name>dog</name></object></annotation>"),
        "c": voc_xml([("", [5, 5, 9, 9], 0)]),
        "d": voc_xml([]),
        "e": voc_xml([("dog", [5, 5, 9, 9], 0), ("", [5, 5, 9, 9], 0)]),
    }
    (tmp_path / "Annotations").mkdir()
    for name, text in texts.items():
        picture(tmp_path / "JPEGImages" / f"{name}.png")
        (tmp_path / "Annotations" / f"{name}.xml").write_text(text)
    split = load_split(tmp_path)
    assert split.reviewed.tolist() == [REVIEWED, LABELS_LOST, LABELS_LOST, REVIEWED, LABELS_LOST]
    chosen = load_split(tmp_path, classes=["dog"])
    assert chosen.reviewed.tolist() == split.reviewed.tolist()


def test_a_label_file_that_cannot_be_read(tmp_path: Path) -> None:
    root = yolo(tmp_path / "set", bytes=b"\xff\xfe\x00\x01\x80", good=GOOD)
    (root / "labels" / "train" / "folder.txt").mkdir()
    picture(root / "images" / "train" / "folder.png")
    split = load_split(root)
    assert [path.stem for path in split.paths] == ["bytes", "folder", "good"]
    assert split.reviewed.tolist() == [LABELS_LOST, LABELS_LOST, REVIEWED]


KITTI = "Car 0.00 0 -1.58 5.0 6.0 15.0 18.0 1.5 1.6 3.9 1.0 1.5 10.0 -1.59\n"


def test_a_kitti_line_that_cannot_be_read(tmp_path: Path) -> None:
    texts = {"0": KITTI, "1": "Car 0.00 0\n", "2": "", "3": KITTI + "Car x\n", "4": None, "5": "Tram" + KITTI[3:]}
    (tmp_path / "label_2").mkdir()
    for name, text in texts.items():
        picture(tmp_path / "image_2" / f"{name}.png")
        if text is not None:
            (tmp_path / "label_2" / f"{name}.txt").write_text(text)
    split = load_split(tmp_path)
    lost = LABELS_LOST
    assert split.reviewed.tolist() == [REVIEWED, lost, REVIEWED, lost, NEVER_LABELLED, REVIEWED]
    assert np.diff(split.first).tolist() == [1, 0, 0, 1, 0, 0]


def test_what_a_detector_adds_completes_it(tmp_path: Path) -> None:
    """A proposal fills in what was lost, and then the image is known for the detector's classes."""
    split = load_split(yolo(tmp_path / "set", bad="garbage", good=GOOD))
    box = np.array([[2.0, 2, 20, 20]])
    found = Proposals(Classes(("egg", "hen"), (1, 2)), np.array([1]), np.array([1]), box, np.array([0.9]))
    completed = complete({"train": split}, found).splits["train"]
    assert len(completed.boxes) == 2 and completed.objects(0)["known"] is None


# --- training and evaluation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fcos_shufflenet_v2_x0_5_lite", "faster_rcnn_mobilenet_v3_large_320_fpn"])
def test_it_gives_no_loss_anywhere(name: str) -> None:
    """The loss of an image that may show anything does not depend on what is found there."""
    torch.manual_seed(0)
    model = create(name, num_classes=2)
    images = Images(torch.rand(1, 3, 64, 64), [(64, 64)])
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), known=torch.zeros(2, dtype=torch.bool))
    empty = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert sum(float(value.detach()) for value in model(images, [nothing]).values()) == 0
    assert sum(float(value.detach()) for value in model(images, [empty]).values()) > 0


def test_training_leaves_out_what_teaches_nothing(tmp_path: Path) -> None:
    root = yolo(
        tmp_path / "set",
        bad="garbage",
        empty="",
        part=f"{GOOD}\ngarbage",
        none=None,
        **{f"g{n}": GOOD for n in range(3)},
    )
    data = load_data(TrainConfig(data=str(root), val_split="none"))
    assert [path.stem for path in data.train.paths] == ["empty", "g0", "g1", "g2", "part"]
    assert data.note.endswith("; left out: 2 training images, never labelled or with all labels lost")
    assert [known(data.train, row) for row in (0, 1, 4)] == [None, None, [False, False]]
    as_empty = load_data(TrainConfig(data=str(root), val_split="none", empty="background")).train
    assert [path.stem for path in as_empty.paths] == ["empty", "g0", "g1", "g2", "none", "part"]
    assert known(as_empty, 4) is None


def test_evaluation_leaves_it_out(tmp_path: Path) -> None:
    split = load_split(yolo(tmp_path / "set", bad="garbage", empty="", part=f"{GOOD}\ngarbage", none=None, good=GOOD))
    measured = split.measurable()
    assert [path.stem for path in measured.paths] == ["empty", "good"]
    truth = measured.to_coco()
    assert truth["left_out"] == 3 and len(truth["images"]) == 2
    alone = load_split(yolo(tmp_path / "other", bad="garbage", good=GOOD))
    with pytest.raises(DataError, match="none of the 1 image of train can be measured"):
        alone.take([0]).measurable()


def test_the_case_of_one_unreadable_line(shared: Path) -> None:
    split = load_split(shared / "cases" / "unreadable_line_negative")
    assert split.reviewed.tolist() == [REVIEWED, REVIEWED, NEVER_LABELLED, REVIEWED, REVIEWED, REVIEWED]
    assert np.diff(split.first).tolist() == [0, 0, 0, 1, 1, 1]
    assert split.boxes.tolist() == [[60, 45, 100, 75]] * 3
