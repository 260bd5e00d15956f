"""What an image was not labelled for, and what may or may not be there: read, carried along, written, not counted."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.annotated import Make, coco_dict

from aweigh.annotations.split import Split
from aweigh.edit.clean import clean
from aweigh.errors import DataError
from aweigh.evaluation.coco import evaluate_coco
from aweigh.feeding.batches import pack, unpack
from aweigh.feeding.dataset import DetectionDataset, Sample, targets_of
from aweigh.feeding.loader import make_loader
from aweigh.feeding.mixing import copy_paste, in_sight, join, mixup, mosaic
from aweigh.feeding.transforms import Augmentation, Transform, flip_horizontally
from aweigh.feeding.windows import cut_window, random_crop
from aweigh.images.resize import Resize
from aweigh.inspect.doctor import examine
from aweigh.layouts.load import load_split
from aweigh.layouts.save import not_held, save_dataset
from aweigh.structures import Targets


def partial(coco: Make, *, sets: bool = True) -> Split:
    """An object and a guess in the first of two images; the second was labelled for dogs (id 7) alone."""
    data = coco_dict([[2, 2, 10, 10], [20, 5, 12, 12]])
    data["annotations"][1] |= {"uncertain": True, "iscrowd": 1, "score": 0.25}
    if sets:
        data["label_sets"] = [{"name": "all", "category_ids": [3, 7]}, {"name": "dogs", "category_ids": [7]}]
        for number, image in enumerate(data["images"]):
            image["label_set"] = number
    return load_split(coco(data))


def scene(
    known: list[bool] | None = None, *, uncertain: tuple[bool, ...] = (False, True)
) -> tuple[torch.Tensor, Targets]:
    targets = Targets(
        torch.tensor([[2.0, 2, 12, 12], [20, 5, 32, 17]])[: len(uncertain)],
        torch.arange(len(uncertain)),
        uncertain=torch.tensor(uncertain, dtype=torch.bool),
        known=None if known is None else torch.tensor(known),
    )
    return torch.zeros(3, 30, 40, dtype=torch.uint8), targets


# --- targets ------------------------------------------------------------------------------------------------------


def test_targets_carry_both(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = scene([True, False])[1]
    assert Targets.empty().uncertain.shape == (0,) and Targets.empty().known is None
    assert scene()[1].learned.tolist() == [True, False]
    assert replace(targets, ignore=torch.tensor([True, False])).learned.tolist() == [False, False]
    for part in (targets[1:], targets[torch.tensor([False, True])], targets.split([1, 1])[1], targets.to("cpu")[1:]):
        assert part.uncertain.tolist() == [True] and part.known.tolist() == [True, False]
    moved: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: moved.append(tensor) or tensor)
    targets.to("cuda")
    assert any(tensor is targets.known for tensor in moved) and any(tensor is targets.uncertain for tensor in moved)
    with pytest.raises(DataError, match=r"Targets\.known must be a bool tensor"):
        replace(targets, known=torch.ones(2))
    with pytest.raises(DataError, match=r"Targets\.uncertain has 1 entry"):
        replace(targets, uncertain=torch.tensor([True]))


# --- files --------------------------------------------------------------------------------------------------------


def test_a_guess_is_read_and_is_no_object(coco: Make) -> None:
    split = partial(coco)
    assert split.uncertain.tolist() == split.ignore.tolist() == [False, True] and not split.crowd.any()
    assert "2 boxes, 1 uncertain; " in split.summary() and "cat 1, dog 0" in split.summary()
    first, second = targets_of(split, 0), targets_of(split, 1)
    assert first.uncertain.tolist() == [False, True] and not first.ignore.any() and first.known is None
    assert second.known is not None and second.known.tolist() == [False, True]
    assert split.take([1, 0]).objects(1)["uncertain"].tolist() == [False, True]
    assert split.take_annotations(np.array([1])).uncertain.tolist() == [True]
    assert pickle.loads(pickle.dumps(split.for_training())).objects(0)["uncertain"].tolist() == [False, True]
    assert split.content_hash != replace(split, uncertain=np.zeros(2, dtype=bool)).content_hash
    counts = examine({"train": split}).splits[0]
    assert (counts.boxes, counts.ignored, counts.uncertain) == (2, 0, 1)


def test_an_image_that_nobody_labelled_is_known_for_nothing(coco: Make) -> None:
    """With label sets and without them."""
    data = coco_dict([[2, 2, 10, 10]])
    data["images"][1]["reviewed"] = False
    split = load_split(coco(data))
    assert split.objects(0)["known"] is None and split.objects(1)["known"].tolist() == [False, False]
    data["label_sets"] = [{"name": "all", "category_ids": [3, 7]}]
    split = load_split(coco(data))
    assert split.objects(0)["known"] is None
    known = split.objects(1)["known"]
    assert known is not None and known.tolist() == [False, False]


def test_it_is_written_and_read_back(coco: Make, tmp_path: Path) -> None:
    split = partial(coco)
    assert save_dataset({"train": split}, tmp_path / "out", "coco") == []
    written = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())["annotations"]
    assert "uncertain" not in written[0] and written[1]["uncertain"] is True and written[1]["score"] == 0.25
    assert written[1]["iscrowd"] == 1 and "difficult" not in written[1]  # other readers take it for no object
    again = load_split(tmp_path / "out")
    assert again.uncertain.tolist() == [False, True] and not again.crowd.any()
    assert again.content_hash == split.content_hash and again.extras is not None
    assert json.loads(again.extras[1]) == {"score": 0.25}
    for layout in ("voc", "yolo"):
        assert "uncertain: 1 annotation that may be no object: left out" in not_held({"train": split}, layout)
        save_dataset({"train": split}, tmp_path / layout, layout)
        assert load_split(tmp_path / layout).boxes.tolist() == [[2, 2, 12, 12]]
    same_box = replace(split, boxes=split.boxes[[0, 0]], source_boxes_xywh=split.source_boxes_xywh[[0, 0]])
    kept = clean({"train": same_box}, examine({"train": same_box})).splits["train"]
    assert kept.uncertain.tolist() == [False, True]  # an object and a guess in its place are not the same box twice


def test_evaluation_neither_finds_nor_misses_a_guess(coco: Make) -> None:
    split = partial(coco)
    on_object = {"image_id": 1, "category_id": 3, "bbox": [2, 2, 10, 10], "score": 0.5}
    on_guess = {"image_id": 1, "category_id": 3, "bbox": [20, 5, 12, 12], "score": 0.9}
    elsewhere = {"image_id": 1, "category_id": 3, "bbox": [20, 20, 9, 9], "score": 0.9}
    truth = split.to_coco()
    assert truth["annotations"][1]["uncertain"] is True and truth["annotations"][1]["iscrowd"] == 1
    assert pytest.approx(1) == evaluate_coco(truth, [on_object]).AP
    assert pytest.approx(1) == evaluate_coco(truth, [on_object, on_guess]).AP
    assert pytest.approx(0.5) == evaluate_coco(truth, [on_object, elsewhere]).AP


# --- transforms ---------------------------------------------------------------------------------------------------


def test_a_flip_exchanges_what_is_known_of_a_pair() -> None:
    flipped = flip_horizontally(*scene([True, False, True]), class_pairs=[(1, 2)])[1]
    assert flipped.known.tolist() == [True, True, False] and flipped.labels.tolist() == [0, 2]
    assert flipped.uncertain.tolist() == [False, True]
    assert flip_horizontally(*scene([True, False, True]))[1].known.tolist() == [True, False, True]


def test_what_is_cut_off_mostly_stays_uncertain() -> None:
    image, targets = scene([True, False])
    cut = cut_window(image, targets, (11, 0, 22, 30))[1]
    assert cut.ignore.tolist() == [True, False] and cut.uncertain.tolist() == [False, True]
    assert cut.known.tolist() == [True, False] and cut.boxes[1].tolist() == [9, 5, 11, 17]
    shown = torch.zeros(30, 40, dtype=torch.bool)
    shown[:, 11:22] = True
    left = in_sight(targets, shown, min_visible=0.25, hidden_keypoints=0)
    assert left.ignore.tolist() == [True, False] and left.uncertain.tolist() == [False, True]
    for seed in range(5):  # a guess alone is nothing that a window must hold
        image, cut = random_crop(*scene(uncertain=(True, True)), torch.Generator().manual_seed(seed))
        assert cut.uncertain.all() and image.shape[1:] < (30, 40)


def test_mixed_pictures_are_labelled_for_what_all_were_labelled_for() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two, all_three = scene([True, True, False]), scene([False, True, True]), scene()
    assert join([all_three[1], all_three[1]]).known is None
    assert join([all_three[1], one[1]]).known.tolist() == [True, True, False]
    for mixed in (
        mosaic([one, two, all_three, all_three], generator)[1],
        mixup(one, two, generator)[1],
        copy_paste(one, two, generator)[1],
    ):
        assert mixed.known.tolist() == [False, True, False]
    assert mixup(one, two, generator)[1].uncertain.tolist() == [False, True, False, True]
    only_guesses = scene(uncertain=(True, True))
    assert len(copy_paste(one, only_guesses, generator)[1]) == 2  # nothing to paste


# --- batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_carry_both(coco: Make, workers: int) -> None:
    transform = Transform(Resize(30, 40), Augmentation(flip=1.0, class_pairs=((0, 1),)))
    how = {"workers": workers, "start_method": "forkserver" if workers else None}
    batch = next(iter(make_loader(DetectionDataset(partial(coco), transform), batch=2, **how)))
    assert [targets.known.tolist() for targets in batch.targets] == [[True, True], [True, False]]
    assert batch.targets[0].uncertain.tolist() == [False, True] and batch.targets[1].uncertain.shape == (0,)
    whole = next(iter(make_loader(DetectionDataset(partial(coco, sets=False), transform), batch=2)))
    assert all(targets.known is None for targets in whole.targets)


def test_nothing_more_travels_where_all_is_labelled() -> None:
    samples = [Sample(*scene(known), 0, 0, (30, 40)) for known in (None, None, [False, True])]
    assert pack(samples[:2], eight_bits=True).known is None
    packed = pack(samples, eight_bits=True)
    assert packed.known is not None and packed.known.tolist() == [[True, True], [True, True], [False, True]]
    how = {"divisor": 4, "fill": (0.0, 0.0, 0.0), "device": torch.device("cpu"), "allocate": torch.empty}
    assert [targets.known.tolist() for targets in unpack(packed, **how).targets] == packed.known.tolist()
