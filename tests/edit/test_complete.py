"""What a detector proposes is added for what people did not label, and for nothing else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.annotated import Make, coco_dict

from aweigh.annotations.split import REVIEWED, Split
from aweigh.classes import Classes
from aweigh.edit.clean import hold_out
from aweigh.edit.complete import Completed, complete, read_proposals
from aweigh.edit.merge import merge
from aweigh.errors import DataError, UsageError
from aweigh.layouts.coco import read_categories
from aweigh.layouts.load import load_split
from aweigh.layouts.save import save_dataset

DETECTOR = Classes(("person", "cat", "bus"), (1, 17, 6))


def proposals(tmp_path: Path, *entries: tuple[int, int, list[float], float] | Any) -> Path:
    file = tmp_path / "results.json"
    keys = ("image_id", "category_id", "bbox", "score")
    file.write_text(json.dumps([dict(zip(keys, e)) if isinstance(e, tuple) else e for e in entries]))
    return file


def completed(split: Split, tmp_path: Path, *entries: Any, **how: float) -> Completed:
    """With a file that says nothing of its images, whose numbers are said to be those of the split."""
    return complete({"train": split}, read_proposals(proposals(tmp_path, *entries), DETECTOR), own_ids=True, **how)


def found(split: Split, image: int) -> list[tuple[str, list[float], bool]]:
    rows = range(int(split.first[image]), int(split.first[image + 1]))
    names = split.classes.names
    return [(names[split.labels[row]], split.boxes[row].tolist(), bool(split.uncertain[row])) for row in rows]


def test_people_come_first_and_the_rest_is_taken(coco: Make, tmp_path: Path) -> None:
    data = coco_dict([[5, 5, 10, 10], [2, 2, 6, 6]])  # cats (id 3) and dogs (id 7) were looked for
    data["annotations"][1]["category_id"] = 7
    result = completed(
        load_split(coco(data)),
        tmp_path,
        (1, 17, [20, 5, 10, 10], 0.9),  # a cat that people did not draw: they looked
        (1, 6, [20, 5, 12, 10], 0.4),
        (1, 6, [1, 15, 12, 10], 0.39),
        (1, 6, [3, 15, 12, 10], 0.14),
        (1, 1, [30, 20, 20, 20], 0.15),  # over the edge
        (2, 1, [8, 9, 7, 7], 0.5),
    )
    split = result.splits["train"]
    assert split.classes.names == ("person", "cat", "bus", "dog") and split.classes.ids == (1, 17, 6, 7)
    assert found(split, 0) == [
        ("cat", [5, 5, 15, 15], False),
        ("dog", [2, 2, 8, 8], False),
        ("bus", [20, 5, 32, 15], False),
        ("bus", [1, 15, 13, 25], True),
        ("person", [30, 20, 40, 30], True),
    ]
    assert found(split, 1) == [("person", [8, 9, 15, 16], False)]
    assert result.objects == {"bus": 1, "person": 1} and result.uncertain == {"bus": 1, "person": 1}
    assert split.label_sets is None and split.reviewed.tolist() == [REVIEWED] * 2
    assert result.remarks == ["the detector does not know dog; nothing was added of these"]
    assert len(set(split.annotation_ids.tolist())) == 6 and split.annotation_ids[:2].tolist() == [10, 11]
    assert split.extras is not None
    assert [json.loads(text or "{}").get("score") for text in split.extras] == [None, None, 0.4, 0.39, 0.15, 0.5]
    save_dataset(result.splits, tmp_path / "out", "coco")
    again = load_split(tmp_path / "out")
    assert [found(again, image) for image in range(2)] == [found(split, image) for image in range(2)]
    assert again.content_hash == split.content_hash


def test_where_people_have_a_box(coco: Make, tmp_path: Path) -> None:
    data = coco_dict([[5, 5, 10, 10], [20, 5, 10, 10], [20, 20, 10, 8]])
    data["annotations"][2] |= {"iscrowd": 1}
    data["annotations"][1] |= {"category_id": 7}
    data["label_sets"] = [{"name": "dogs", "category_ids": [7]}]  # the cat was drawn all the same
    for image in data["images"]:
        image["label_set"] = 0
    result = completed(
        load_split(coco(data)),
        tmp_path,
        (1, 17, [5, 5, 10, 9], 0.9),  # the cat of the people
        (1, 17, [5, 5, 10, 5], 0.9),  # another one: IoU 0.5
        (1, 6, [20, 5, 10, 9], 0.9),  # a bus on the dog
        (1, 6, [20, 20, 10, 8], 0.9),  # a region to ignore is no box of anything
    )
    added = [entry for entry in found(result.splits["train"], 0)][3:]
    assert added == [("cat", [5, 5, 15, 10], False), ("bus", [20, 5, 30, 14], True), ("bus", [20, 20, 30, 28], False)]
    assert "train: 1 sure box lies where people have one: uncertain" in result.remarks


def test_what_an_image_is_labelled_for_afterwards(coco: Make, tmp_path: Path) -> None:
    """The detector's classes are known where it looked: in the images that its results name."""
    data = coco_dict([[5, 5, 10, 10]])
    data["images"].append({"id": 3, "file_name": "2.png", "width": 40, "height": 30, "reviewed": False})
    split = load_split(coco(data))
    result = completed(split, tmp_path, (1, 1, [1, 1, 9, 9], 0.01), (3, 17, [1, 1, 9, 9], 0.8))
    out = result.splits["train"]
    assert out.classes.names == ("person", "cat", "bus", "dog")
    assert [out.labelled_for(image).tolist() for image in range(3)] == [
        [True, True, True, True],
        [False, True, False, True],
        [True, True, True, False],
    ]
    assert out.label_sets is not None
    assert out.label_sets.names == ("people", "people and a detector", "nobody and a detector")
    assert "train: 1 image has no proposal at all: left as before" in result.remarks
    twice = merge({"a": {"train": out}, "b": {"train": split}}).splits["train"]
    assert twice.labelled_for(0).tolist() == [True] * 4 and twice.labelled_for(3).tolist() == [False, True, False, True]


def test_all_that_an_image_has_stays_with_it(coco: Make, tmp_path: Path) -> None:
    data = coco_dict([[5, 5, 10, 10], [6, 6, 0.5, 8]])
    outline, points = [5, 5, 15, 5, 15, 15, 5, 15], [6, 6, 2, 9, 9, 1]
    data["annotations"][0] |= {"segmentation": [outline], "keypoints": points, "occluded": True}
    data["categories"][0]["keypoints"] = ["nose", "tail"]
    split = load_split(coco(data))
    result = completed(split, tmp_path, (2, 1, [1, 1, 9, 9], 0.9), (1, 1, [2, 2, 9, 9], 0.8)).splits["train"]
    assert result.objects(0, masks=True)["masks"].sum(axis=(1, 2)).tolist() == [100, 0]
    assert result.objects(0)["keypoints"].tolist() == [[[6, 6, 2], [9, 9, 1]], [[0, 0, 0]] * 2]
    assert result.num_keypoints.tolist() == [2, 0, 0] and json.loads(result.extras[0]) == {"occluded": True}
    assert [entry["category_id"] for entry in result.evaluation_only] == [17]
    assert 11 not in result.annotation_ids  # it is the id of what counts in evaluation alone


def test_what_cannot_be_used_is_counted_and_named(coco: Make, tmp_path: Path) -> None:
    good = (1, 1, [20, 5, 10, 10], 0.9)
    entries = [
        (9, 1, [1, 1, 5, 5], 0.9),
        (1, 99, [1, 1, 5, 5], 0.9),
        (1, 1, [50, 1, 5, 5], 0.9),
        (1, 1, [39.5, 1, 5, 5], 0.9),
        (1, 1, [1, 1, 0, 5], 0.9),
        (1, 1, [1, 1, 5], 0.9),
        (1, 1, [1, 1, 5, float("nan")], 0.9),
        (1, 1, [1, 1, 5, 5], 1.5),
        (1, 1, [1, 1, 5, 5], "0.9x"),
        (1, 1, [1, 1, 5, 5]),
        (1, 1, None, 0.9),
        ("1", 1, [1, 1, 5, 5], 0.9),
        (1, [1], [1, 1, 5, 5], 0.9),
        "text",
    ]
    split = load_split(coco(coco_dict([[5, 5, 10, 10]])))
    result = completed(split, tmp_path, good, *entries)
    assert found(result.splits["train"], 0)[1:] == [("person", [20, 5, 30, 15], False)]
    assert (
        result.remarks[0].startswith("results.json: 10 entries without image_id, ")
        and "(5, 6, 7, 8 and 6 more" in (result.remarks[0])
    )
    assert "results.json: 1 box of unknown category ids: left out (99)" in result.remarks
    assert "1 box of images that are not in train: left out (image ids 9)" in result.remarks
    assert "train: 2 boxes outside their image, or under one pixel of it: left out" in result.remarks


def test_refused(coco: Make, tmp_path: Path) -> None:
    split = load_split(coco())
    with pytest.raises(
        DataError, match=r"No box is of an image of train: the image ids there are 1, 2, those of .* 8\."
    ):
        completed(split, tmp_path, (8, 1, [1, 1, 5, 5], 0.9))
    with pytest.raises(DataError, match="No box is of an image"):
        completed(split, tmp_path)
    with pytest.raises(UsageError, match="0 <= uncertain <= score <= 1"):
        completed(split, tmp_path, (1, 1, [1, 1, 5, 5], 0.9), score=0.1, uncertain=0.2)
    good = read_proposals(proposals(tmp_path, (1, 1, [1, 1, 5, 5], 0.9)), DETECTOR)
    with pytest.raises(DataError, match="image id 1 is in train and in val"):
        complete({"train": split, "val": split}, good, own_ids=True)
    empty = split.take(np.empty(0, dtype=np.int64), name="val")
    assert len(complete({"train": split, "val": empty}, good, own_ids=True).splits["val"].boxes) == 0
    for text in ("{", '{"a": 1}', "7"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError, match=r"bad\.json"):
            read_proposals(tmp_path / "bad.json", DETECTOR)


def test_categories_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "classes.json"
    file.write_text(json.dumps({"categories": [{"id": 4, "name": "bus"}, {"id": 2, "name": "car"}]}))
    assert read_categories(file) == Classes(("bus", "car"), (4, 2))
    file.write_text(json.dumps({"images": []}))
    with pytest.raises(DataError, match="a COCO file is an object"):
        read_categories(file)


def test_what_is_held_out_is_recognised_by_its_look(tmp_path: Path, coco: Make) -> None:
    from PIL import Image

    data = coco_dict([[5, 5, 10, 10]])
    data["images"] = [image | {"width": 400, "height": 300} for image in data["images"]]
    root, small = coco(data), coco(coco_dict([[5, 5, 10, 10]]), root=tmp_path / "small")
    noise = np.random.default_rng(0)
    for number in (1, 2):
        rough = Image.fromarray(noise.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        rough.resize((400, 300), Image.Resampling.BICUBIC).save(root / "images" / f"{number}.png")
    train = load_split(root)
    with Image.open(root / "images" / "1.png") as image:
        image.resize((280, 210)).save(small / "images" / "2.png")
    twin = replace(load_split(small), sizes_hw=np.array([[30, 40], [210, 280]]))
    others = {"other val": twin, "none": twin.take([0], name="val")}
    kept, lines = hold_out(train, others)
    assert kept.image_ids.tolist() == [2] and lines == ["train: 1 image left out: in other val too (1.png)"]
    assert hold_out(train, {"none": others["none"]})[0].image_ids.tolist() == [1, 2]
