"""Sets united by name, with what each was labelled for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.annotated import Make, coco_dict

from aweigh.annotations.split import Split
from aweigh.edit.merge import merge
from aweigh.errors import UsageError
from aweigh.layouts.load import load_split
from aweigh.layouts.save import not_held, save_dataset


def make(coco: Make, root: Path, *names: str, boxes: int = 2, **changes: Any) -> Split:
    """A set with these classes, ids 3, 4, ..., one box of each and more of the first."""
    data = coco_dict([[5 + n, 5, 10, 10] for n in range(max(boxes, len(names)))])
    data["categories"] = [{"id": 3 + n, "name": name} for n, name in enumerate(names)]
    for number, entry in enumerate(data["annotations"]):
        entry["category_id"] = 3 + (number if number < len(names) else 0)
    return load_split(coco(data | changes, root=root))


def found(split: Split) -> list[tuple[str, float]]:
    return [(split.classes.names[label], box[0]) for label, box in zip(split.labels, split.boxes.tolist(), strict=True)]


def test_classes_are_united_by_name(coco: Make, tmp_path: Path) -> None:
    one = make(coco, tmp_path / "a", "car", "person")
    two = make(coco, tmp_path / "b", "truck", "bike", "person", boxes=3)
    merged = merge({"a": {"train": one}, "b": {"train": two, "val": two}}, {"truck": "car"})
    assert list(merged.splits) == ["train", "val"]
    train, val = merged.splits["train"], merged.splits["val"]
    assert train.classes == val.classes and train.classes.names == ("car", "person", "bike")
    assert train.classes.ids == (3, 4, 6) and len(train) == 4  # what the first has, and a free one
    assert found(train) == [*found(one), ("car", 5), ("bike", 6), ("person", 7)]
    assert found(val) == [("car", 5), ("bike", 6), ("person", 7)]
    assert len(set(train.image_ids.tolist())) == 4 and len(set(train.annotation_ids.tolist())) == 5
    assert train.image_ids[:2].tolist() == one.image_ids.tolist()
    assert train.labelled_for(0).tolist() == [True, True, False] and train.labelled_for(3).all()
    assert val.label_sets is None and train.take([3, 0]).labelled_for(1).tolist() == [True, True, False]
    assert merged.remarks[0].startswith("a was not labelled for bike;")
    assert "labelled in a part of the images only: bike 2" in train.summary()


def test_what_a_set_was_labelled_for_is_written_and_read_back(coco: Make, tmp_path: Path) -> None:
    one, two = make(coco, tmp_path / "a", "car", "person"), make(coco, tmp_path / "b", "bike", "person")
    merged = merge({"a": {"train": one}, "b": {"train": two}})
    assert save_dataset(merged.splits, tmp_path / "out", "coco") == [
        "file names: 2 images have a new one, since another has theirs"
    ]
    again = load_split(tmp_path / "out")
    expected = [[True, True, False]] * 2 + [[False, True, True]] * 2
    assert [again.labelled_for(image).tolist() for image in range(4)] == expected
    assert again.label_sets is not None and again.label_sets.names == ("a", "b")
    chosen = load_split(tmp_path / "out", classes=["bike", "car"])
    assert chosen.labelled_for(0).tolist() == [False, True] and chosen.labelled_for(2).tolist() == [True, False]
    document = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    assert document["label_sets"][1] == {"name": "b", "category_ids": [4, 5]}
    third = make(coco, tmp_path / "c", "dog")
    thrice = merge({"ab": {"train": again}, "c": {"train": third}}).splits["train"]
    assert thrice.labelled_for(0).tolist() == [True, True, False, False]
    assert thrice.labelled_for(4).tolist() == [False, False, False, True]
    assert again.content_hash != merge({"a": {"train": one}}).splits["train"].content_hash
    lost = [line for line in not_held(merged.splits, "yolo") if line.startswith("label sets")]
    assert lost == ["label sets: 4 images labelled for a part of the classes; which ones is lost"]


@pytest.mark.parametrize(
    ("label_sets", "problems"),
    [([{"name": "a", "category_ids": [3, "7", {}]}], 0), ([{"name": "a"}], 1), ("x", 1), ([7], 1), ({"x": 1}, 1)],
)
def test_bad_label_sets_are_named(coco: Make, label_sets: Any, problems: int) -> None:
    data = coco_dict([[5, 6, 10, 12]], label_sets=label_sets)
    for image, number in zip(data["images"], (0, 99), strict=True):
        image["label_set"] = number
    split = load_split(coco(data))
    assert [problem.kind for problem in split.problems] == ["unreadable label set"] * problems
    assert split.labelled_for(0).all() and split.labelled_for(1).all()  # what cannot be read takes no class away


def test_two_classes_become_one_only_where_both_were_looked_for(coco: Make, tmp_path: Path) -> None:
    both = make(coco, tmp_path / "a", "car", "truck")
    data = json.loads((tmp_path / "a" / "annotations" / "instances_train.json").read_text())
    data["label_sets"] = [{"name": "cars", "category_ids": [3]}]
    data["images"][1]["label_set"] = 0
    part = load_split(coco(data, root=tmp_path / "b"))
    merged = merge({"a": {"train": both}, "b": {"train": part}}, {"truck": "car"}).splits["train"]
    assert merged.classes.names == ("car",)
    assert [merged.labelled_for(image).tolist() for image in range(4)] == [[True], [True], [True], [False]]


def test_a_name_that_no_set_has(coco: Make, tmp_path: Path) -> None:
    split = make(coco, tmp_path / "a", "car", "truck")
    with pytest.raises(UsageError, match=r"No set has a class 'truk' .* Did you mean 'truck'"):
        merge({"a": {"train": split}}, {"truk": "car"})


def test_remarks_on_doubtful_sets(coco: Make, tmp_path: Path) -> None:
    one = make(coco, tmp_path / "a", "Traffic Light", "person")
    two = make(coco, tmp_path / "b", "traffic_light", "person", "horse").take([1])
    remarks = merge({"a": {"train": one}, "b": {"val": two}, "c": {"train": one}}).remarks
    text = "\n".join(remarks)
    assert "b lists person, traffic_light, horse without a box" in text
    assert "unite them with --map traffic_light=Traffic Light" in text
    assert "train: 2 images come twice" in text


def test_shapes_and_sources_are_united(coco: Make, tmp_path: Path) -> None:
    data = coco_dict([[5, 6, 10, 12]], info={"year": 1}, licenses=[{"id": 1}])
    data["categories"][0]["keypoints"] = ["nose", "tail"]
    data["categories"][0]["skeleton"] = [[1, 2]]
    data["annotations"][0] |= {"segmentation": [[5, 6, 15, 6, 15, 18]], "keypoints": [1, 2, 2, 3, 4, 1], "score": 1}
    one = load_split(coco(data, root=tmp_path / "a"))
    data["categories"][0]["keypoints"] = ["tail", "ear"]
    data["annotations"][0] |= {"bbox": [5, 6, 0.5, 9]}
    data["annotations"].append({"id": 5, "image_id": 2, "category_id": 7, "bbox": [1, 2, 3, 4]})
    two = load_split(coco(data, root=tmp_path / "b"))
    merged = merge({"a": {"train": one}, "b": {"train": two}}).splits["train"]
    assert merged.keypoint_names == ("nose", "tail", "ear") and merged.skeleton == ((0, 1), (1, 2))
    assert merged.keypoints is not None and merged.keypoints[0].tolist() == [[1, 2, 2], [3, 4, 1], [0, 0, 0]]
    (entry,) = merged.evaluation_only
    assert entry["keypoints"] == [0, 0, 0, 1, 2, 2, 3, 4, 1] and entry["image_id"] == merged.image_ids[2]
    masks = merged.objects(0, masks=True)["masks"]
    assert masks.any() and not merged.objects(3, masks=True)["masks"].any()
    assert merged.header == {"sources": [{"name": n, "info": {"year": 1}, "licenses": [{"id": 1}]} for n in "ab"]}
    assert merged.extras is not None and list(merged.extras) == ['{"score": 1}', ""]
    save_dataset({"train": merged}, tmp_path / "out", "coco")
    again = load_split(tmp_path / "out")
    assert again.keypoints is not None and (again.keypoints == merged.keypoints).all()
    assert again.header == merged.header and again.evaluation_only == merged.evaluation_only


def test_real_sets(shared: Path, tmp_path: Path) -> None:
    sources = {name: {"val": load_split(shared / "data" / name, "val")} for name in ("coco_tiny", "voc5", "bccd")}
    merged = merge(sources)
    split = merged.splits["val"]
    assert len(split) == 188 + 476 + 87 and len(split.classes) == 80 + 3
    known = np.array([split.labelled_for(image) for image in (0, 200, 700)]).sum(axis=1)
    assert known.tolist() == [80, 5, 3]
    save_dataset(merged.splits, tmp_path / "out", "coco", pictures="link")
    again = load_split(tmp_path / "out", "val")
    assert again.content_hash == split.content_hash or [path.name for path in again.paths] != [
        path.name for path in split.paths
    ]
    np.testing.assert_array_equal(again.boxes, split.boxes)
    np.testing.assert_array_equal(again.labels, split.labels)
