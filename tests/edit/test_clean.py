"""A cleaned copy holds what is good, says what was changed, and leaves the source as it was."""

import hashlib
from pathlib import Path

import numpy as np
from tests.inspect.test_doctor import change, kinds, load, sound
from tests.scenes_on_disk import entry, scene, write_coco

from aweigh.edit.clean import clean
from aweigh.inspect.doctor import examine
from aweigh.layouts.save import save_dataset


def tree(root: Path) -> dict[str, str]:
    """Every file below the folder with a hash of its bytes."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def broken(root: Path) -> Path:
    """A set with one of each thing that is certain to be wrong, and one that needs a decision."""
    root = sound(root)
    train, val = root / "images" / "train", root / "images" / "val"
    rows = [
        entry(900, 2, [20, 20, 0, 10]),
        entry(901, 2, [500, 20, 9, 9]),
        entry(902, 2, [150, 20, 30, 10]),
        entry(903, 2, [40, 40, 30, 30]),
        entry(904, 2, [40, 40, 30, 30]),
        entry(905, 3, [60, 60, 30, 30], 1),
        entry(906, 3, [60, 60, 30, 30], 2),
    ]
    change(root, "train", lambda data: data["annotations"].extend(rows))
    train.joinpath("t0.jpg").write_text("no image")
    val.joinpath("v0.jpg").write_bytes(train.joinpath("t3.jpg").read_bytes())
    scene(4).resize((136, 102)).resize((160, 120)).save(val / "v1.jpg", quality=70)
    return root


def test_the_copy_is_sound_and_the_source_untouched(tmp_path: Path) -> None:
    root = broken(tmp_path / "set")
    before = tree(root)
    splits = load(root)
    cleaned = clean(splits, examine(splits))
    save_dataset(cleaned.splits, tmp_path / "clean", "coco")
    assert tree(root) == before

    assert cleaned.changes == [
        "train: 1 image left out: unreadable image",
        "train: 1 of 'zero-size box': left out",
        "train: 1 of 'box outside the image': left out",
        "train: 1 of 'box over the edge': clipped",
        "train: 1 image left out: in another split too (the same bytes)",
        "train: 1 image left out: in another split too (the same image, saved anew)",
        "train: 1 of 'same box twice': left out",
    ]
    assert cleaned.left == ["look-alike images in two splits", "one object, two classes"]
    copy = load(tmp_path / "clean")
    assert [path.name for path in copy["train"].paths] == ["t1.jpg", "t2.jpg", "t5.jpg"]
    assert [path.name for path in copy["val"].paths] == ["v0.jpg", "v1.jpg", "v2.jpg", "v3.jpg"]
    assert copy["train"].problems == [] and copy["val"].problems == []
    again = examine(copy)
    assert again.count("error") == 0 and kinds(again) == {"one object, two classes", "class with few boxes"}
    clipped = copy["train"].boxes[copy["train"].annotation_ids == 902].tolist()
    assert clipped == [[150, 20, 160, 30]]
    assert copy["train"].area[copy["train"].annotation_ids == 902].tolist() == [100]


def test_sound_data_are_copied_as_they_are(tmp_path: Path) -> None:
    splits = load(sound(tmp_path / "set"))
    cleaned = clean(splits, examine(splits))
    assert cleaned.changes == [] and cleaned.left == []
    for name, split in splits.items():
        for key in ("boxes", "labels", "first", "area", "annotation_ids", "source_boxes_xywh", "reviewed"):
            assert np.array_equal(getattr(cleaned.splits[name], key), getattr(split, key)), key
        assert list(cleaned.splits[name].paths) == list(split.paths)


def test_copies_in_one_split_are_left_out_only_with_the_same_annotations(tmp_path: Path) -> None:
    pictures = {f"{letter}.jpg": scene(seed) for letter, seed in zip("abcde", (1, 1, 1, 1, 2), strict=True)}
    rows = [entry(1, 1, [5, 5, 20, 20]), entry(2, 2, [5, 5, 20, 20]), entry(3, 3, [9, 9, 20, 20])]
    splits = load(write_coco(tmp_path, "train", pictures, [*rows, entry(5, 5, [9, 9, 20, 20])]))
    cleaned = clean(splits, examine(splits))
    assert [path.name for path in cleaned.splits["train"].paths] == ["a.jpg", "c.jpg", "e.jpg"]
    assert cleaned.changes == [
        "train: 2 images left out: the same image is there already",
        "train: 1 image kept though stored twice: their annotations differ",
    ]


def test_a_picture_that_lost_all_its_boxes_is_not_called_empty(tmp_path: Path) -> None:
    rows = [entry(1, 1, [5, 5, 0, 20]), entry(2, 2, [5, 5, 20, 20])]
    splits = load(write_coco(tmp_path, "train", {"a.jpg": scene(1), "b.jpg": scene(2)}, rows))
    cleaned = clean(splits, examine(splits))
    assert cleaned.splits["train"].reviewed.tolist() == [0, 1]
    assert "train: 1 image marked as never labelled: all their boxes were bad" in cleaned.changes
