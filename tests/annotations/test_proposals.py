"""Proposals: one file without pickle, checked; carried through every change of an image."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from tests.annotated import Make, coco_dict

from aweigh.annotations.proposals import Proposals, is_proposals, read_proposals
from aweigh.annotations.split import split_off
from aweigh.errors import DataError, UsageError
from aweigh.feeding.dataset import DetectionDataset
from aweigh.feeding.loader import make_loader
from aweigh.feeding.transforms import Augmentation, Transform
from aweigh.images.resize import Resize
from aweigh.layouts.load import load_split
from aweigh.structures import Targets

BOXES = [[5.0, 5, 15, 15], [20, 3, 39, 28], [0, 10, 12.5, 30]]
OBJECTS = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in BOXES]  # as COCO writes them
MADE = {"split": "train", "data": "set"}


@pytest.fixture
def split(coco: Make):
    """Two images, 1.png and 2.png, of 40 x 30; three objects in the first."""
    return load_split(coco(coco_dict(OBJECTS)))


def of_pictures(*pictures: tuple, number: int = 100) -> Proposals:
    return Proposals.of(pictures, number=number, made=MADE)


@pytest.fixture
def given() -> Proposals:
    """The objects themselves, of falling score, for the first image; one box for the second."""
    return of_pictures(("1.png", (30, 40), BOXES, [0.9, 0.5, 0.1]), ("2.png", (30, 40), [[1, 2, 3, 4]], [0.3]))


# --- the file -------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(given: Proposals, tmp_path: Path) -> None:
    given.write(tmp_path / "p.safetensors")
    again = read_proposals(tmp_path / "p.safetensors")
    assert list(again.files) == ["1.png", "2.png"] and again.made == {**MADE, "file": str(tmp_path / "p.safetensors")}
    for name in ("sizes_hw", "first", "boxes", "scores"):
        assert np.array_equal(getattr(again, name), getattr(given, name)), name
    assert again.of_image(1).tolist() == [[1, 2, 3, 4]]
    assert is_proposals(tmp_path / "p.safetensors") and not is_proposals(Path(__file__))


def test_boxes_are_cut_off_ordered_and_counted() -> None:
    boxes = [[-5, -5, 10, 10], [50, 5, 60, 9], [3, 3, 3, 9], [2, 2, 90, 90], [1, 1, 2, 2], [1, 1, 2, 2]]
    made = of_pictures(("a", (30, 40), boxes, [0.2, 0.9, 0.9, 0.8, 0.1, np.nan]), ("b", (5, 5), [], []), number=2)
    assert made.boxes.tolist() == [[2, 2, 40, 30], [0, 0, 10, 10]] and made.first.tolist() == [0, 2, 2]
    assert made.scores.tolist() == pytest.approx([0.8, 0.2]) and made.of_image(1).shape == (0, 4)
    assert made.best(1).boxes.tolist() == [[2, 2, 40, 30]]


def test_scores_that_rise_are_put_in_order(given: Proposals, tmp_path: Path) -> None:
    replace(given, scores=given.scores[[2, 1, 0, 3]]).write(tmp_path / "p.safetensors")
    again = read_proposals(tmp_path / "p.safetensors")
    assert again.boxes[:3].tolist() == BOXES[::-1] and again.scores[:3].tolist() == given.scores[:3].tolist()


WRONG = [
    ({"boxes": np.array([[5, 5, 15, 15], [20, 3, np.nan, 28], [0, 10, 12, 30], [1, 2, 3, 4]], np.float32)},
     "proposal 1 of 1.png (40 x 30) has a coordinate or score that is not finite"),
    ({"boxes": np.array([[5, 5, 15, 15], [20, 3, 39, 28], [0, 10, 12, 30], [1, 2, 3, 31]], np.float32)},
     "proposal 0 of 2.png (40 x 30) lies outside its image"),
    ({"boxes": np.array([[5, 5, 15, 15], [20, 3, 39, 28], [0, 10, 0, 30], [1, 2, 3, 4]], np.float32)},
     "proposal 2 of 1.png (40 x 30) has no area"),
    ({"scores": np.array([0.9, 0.5, np.inf, 0.3], np.float32)}, "proposal 2 of 1.png"),
    ({"first": np.array([0, 4, 3], np.int64)}, "first must rise from 0 to the number of boxes, 4"),
    ({"first": np.array([0, 4], np.int64)}, "first must be int64 [3], got int64 [2]"),
    ({"boxes": np.zeros((4, 4), np.float64)}, "boxes must be float32 [4, 4], got float64"),
    ({"sizes_hw": None}, "lacks sizes_hw"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_wrong_file_is_named_with_picture_and_row(given, tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "p.safetensors"
    tensors = {name: getattr(given, name) for name in ("sizes_hw", "first", "boxes", "scores")} | change
    header = {"kind": "aweigh.proposals", "format": 1, "files": list(given.files)}
    metadata = {"aweigh": json.dumps(header)}
    save_file({name: value for name, value in tensors.items() if value is not None}, path, metadata=metadata)
    with pytest.raises(DataError, match=re.escape(message)):
        read_proposals(path)


@pytest.mark.parametrize(
    ("header", "error", "message"),
    [
        ({"kind": "checkpoint"}, DataError, "something else than proposals"),
        ({"kind": "aweigh.proposals", "format": 2, "files": []}, UsageError, "format 2, this version reads up to 1"),
        ({"kind": "aweigh.proposals", "format": 1, "files": ["a", "a"]}, DataError, "names the image a twice"),
        ({"kind": "aweigh.proposals", "format": 1, "files": [1]}, DataError, "a list of names"),
        ([], DataError, "something else"),
    ],
)
def test_a_wrong_header_is_named(tmp_path: Path, header: object, error: type, message: str) -> None:
    path = tmp_path / "p.safetensors"
    save_file({"boxes": np.zeros((0, 4), np.float32)}, path, metadata={"aweigh": json.dumps(header)})
    with pytest.raises(error, match=message):
        read_proposals(path)


def test_a_broken_file_ends_with_one_clear_line(given: Proposals, tmp_path: Path) -> None:
    given.write(tmp_path / "p.safetensors")
    whole = (tmp_path / "p.safetensors").read_bytes()
    with pytest.raises(UsageError, match="no file of proposals at"):
        read_proposals(tmp_path / "none.safetensors")
    for seed in range(150):
        dice = random.Random(seed)
        broken = bytearray(whole[: dice.randint(0, len(whole))] if seed % 3 == 0 else whole)
        for _ in range(dice.randint(1, 5) if len(broken) else 0):
            broken[dice.randrange(len(broken))] = dice.randrange(256)
        (tmp_path / "b.safetensors").write_bytes(broken)
        try:
            read_proposals(tmp_path / "b.safetensors")
        except (DataError, UsageError) as error:
            assert "\n" not in str(error)


# --- which images it is for ---------------------------------------------------------------------------------------


def test_a_split_takes_its_own_in_its_order(split, given: Proposals) -> None:
    turned = given.take(np.array([1, 0]))
    for proposals in (given, turned):
        taken = split.with_proposals(proposals)
        assert taken.objects(0)["proposals"].tolist() == BOXES
        assert taken.objects(1)["proposals"].tolist() == [[1, 2, 3, 4]]
    part = taken.take([1, 0])
    assert part.objects(0)["proposals"].tolist() == [[1, 2, 3, 4]] and part.for_training().proposals is not None
    first, second = split_off(taken, 0.5, seed=0)
    assert {len(first.objects(0)["proposals"]), len(second.objects(0)["proposals"])} == {1, 3}
    assert split.objects(0)["proposals"] is None and split.content_hash == taken.content_hash


def test_pictures_are_found_by_the_end_of_their_path() -> None:
    made = of_pictures(*((name, (30, 40), [], []) for name in ("a/1.png", "b/1.png", "b/2.png")))
    assert [made.row(name) for name in ("b/1.png", "/data/b/1.png", "2.png", "c/2.png")] == [1, 1, 2, 2]
    assert made.row("1.png") == made.row("c/1.png") == made.row("") == -1  # which of the two?


def test_other_pictures_and_other_sizes_are_refused(split, given: Proposals) -> None:
    with pytest.raises(DataError, match=r"1 of the 2 images of train .* no proposals, such as 2.png.*train of set"):
        split.with_proposals(given.take(np.array([0])))
    other = of_pictures(("1.png", (30, 40), [], []), ("2.png", (40, 30), [], []))
    with pytest.raises(DataError, match=r"2.png is 40 x 30 pixels in train .*made for 30 x 40, as 1 in all"):
        split.with_proposals(other)
    with pytest.raises(DataError, match=r"3\.png: the proposals has no proposals for it.*train of set"):
        given.of_picture(Path("3.png"), (30, 40))
    with pytest.raises(DataError, match=r"1\.png: is 41 x 30 pixels"):
        given.of_picture(Path("1.png"), (30, 41))


def test_another_picture_of_the_same_name_and_size_is_refused(split, tmp_path: Path) -> None:
    split.proposed([(BOXES, [3, 2, 1]), ([], [])], number=9, made={"data": "set"}).write(tmp_path / "p.safetensors")
    made = read_proposals(tmp_path / "p.safetensors")
    assert made.file_bytes.tolist() == [path.stat().st_size for path in split.paths]
    assert made.made["data_hash"] == split.content_hash and made.made["number"] == 9
    turned = split.take([1, 0]).with_proposals(made)
    assert turned.objects(1)["proposals"].tolist() == BOXES
    assert made.of_picture(split.paths[0], (30, 40)).tolist() == BOXES
    Image.effect_noise((40, 30), 50).save(split.paths[1])
    with pytest.raises(DataError, match=r"2\.png of train .* another image .* same name .*, as 1 in all.*train of set"):
        split.with_proposals(made)
    with pytest.raises(DataError, match="made for another image of that name, of train of set"):
        made.of_picture(split.paths[1], (30, 40))
    split.paths[1].unlink()
    with pytest.raises(DataError, match="another image"):
        split.with_proposals(made)


# --- through every change of an image ------------------------------------------------------------------------------

CHANGES = [
    Augmentation(flip=1.0),
    Augmentation(flip=0.5, scale_jitter=(0.4, 2.5), color=0.3),
    Augmentation(crop=1.0, min_visible=0.0),
    Augmentation(short_sides=(20, 60), crop=0.5, min_visible=0.0),
    Augmentation(mosaic=1.0, min_visible=0.0),
    Augmentation(mixup=1.0, min_visible=0.0),
]


@pytest.mark.parametrize("change", CHANGES)
def test_proposals_that_are_the_objects_stay_the_objects(split, given, change: Augmentation) -> None:
    """Whatever moves, scales, mirrors and cuts the boxes does the same with them."""
    taken = split.take([0, 0]).with_proposals(given)
    dataset = DetectionDataset(taken, Transform(Resize(48, 64), change), seed=3)
    for epoch in range(12):
        dataset.set_epoch(epoch)
        sample = dataset[0]
        targets, size = sample.targets, torch.tensor([sample.image.shape[2], sample.image.shape[1]] * 2)
        assert len(targets) == len(targets.proposals) > 0
        torch.testing.assert_close(targets.proposals, targets.boxes)
        assert (targets.proposals >= -1e-4).all() and (targets.proposals <= size + 1e-4).all()


def test_pasted_objects_bring_theirs(split, given: Proposals) -> None:
    taken = split.take([0, 0]).with_proposals(given)
    change = Augmentation(flip=0, copy_paste=1.0, min_visible=0.0)
    sample = DetectionDataset(taken, Transform(Resize(30, 40), change), seed=1)[0]
    apart = (sample.targets.proposals[:, None] - torch.tensor(BOXES)).abs().amax(dim=-1)
    assert len(sample.targets.proposals) == 6 and apart.amin(dim=1).max() < 1e-4


def test_a_picture_stored_in_another_size_has_them_scaled(split, given: Proposals) -> None:
    Image.new("RGB", (80, 60)).save(split.paths[0])
    sample = DetectionDataset(split.with_proposals(given), Transform(Resize(None, 160)))[0]
    assert sample.image.shape[1:] == (120, 160) and sample.problem is not None
    torch.testing.assert_close(sample.targets.proposals, 4 * torch.tensor(BOXES))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_has_them_padded_in_its_images(split, given: Proposals, workers: int) -> None:
    loader = make_loader(
        DetectionDataset(split.with_proposals(given), Transform(Resize(60, 80))), batch=2, workers=workers
    )
    (batch,) = loader
    assert batch.images.proposals.shape == (2, 3, 4) and batch.targets[0].proposals is None
    assert batch.images.proposals[0].tolist() == (2 * torch.tensor(BOXES)).tolist()
    assert batch.images.proposals[1].tolist() == [[2, 4, 6, 8], [0, 0, 0, 0], [0, 0, 0, 0]]
    (without,) = make_loader(DetectionDataset(split, Transform(Resize(60, 80))), batch=2)
    assert without.images.proposals is None


def test_a_batch_of_which_no_picture_can_be_read_has_none_that_count(split, given: Proposals) -> None:
    for path in split.paths:
        path.write_bytes(b"no picture")
    dataset = DetectionDataset(split.with_proposals(given), Transform(Resize(60, 80)))
    (batch,) = make_loader(dataset, batch=2, max_bad=1.0)
    assert batch.blank and batch.images.proposals.tolist() == [[[0, 0, 0, 0]]]


def test_targets_carry_them_along() -> None:
    targets = Targets(torch.tensor(BOXES), torch.zeros(3, dtype=torch.int64), proposals=torch.ones(5, 4))
    assert targets[1:].proposals.shape == targets.to("cpu").proposals.shape == (5, 4)
