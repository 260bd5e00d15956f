"""Mosaic, copy-paste and mixup: what was painted where, boxes that stay true, samples that depend on nothing else."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.annotated import Make
from tests.feeding.strategies import Scene, check_inside, check_tight, same, scenes, without_masks
from tests.feeding.test_loader import equal, many

from aweigh.annotations.split import Split
from aweigh.feeding.dataset import DetectionDataset, Sample
from aweigh.feeding.loader import make_loader
from aweigh.feeding.mixing import Plan, copy_paste, epochs_with_mixing, in_sight, join, mix, mixup, mosaic
from aweigh.feeding.transforms import Augmentation, Transform
from aweigh.feeding.windows import boxes_of_masks
from aweigh.images.resize import Resize
from aweigh.layouts.load import load_split
from aweigh.scenes.shapes import write_synthetic
from aweigh.structures import IMAGENET_MEAN, Targets

few = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 100_000)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def boxed(*boxes: list[float], label: int = 0, first_id: int = 0, ignore: bool = False) -> Targets:
    count = len(boxes)
    return Targets(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.full((count,), label),
        ignore=torch.full((count,), ignore),
        ids=torch.arange(count) + first_id,
    )


# --- mosaic -------------------------------------------------------------------------------------------------------


@few
@given(seeds, st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=4, max_size=4))
def test_a_mosaic_of_four_colours_puts_the_boxes_on_the_right_colour(seed: int, sizes: list[tuple[int, int]]) -> None:
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    parts = [
        (colour.reshape(3, 1, 1).repeat(1, *size), boxed([0, 0, size[1], size[0]], label=label, first_id=label))
        for label, (colour, size) in enumerate(zip(colours, sizes))
    ]
    canvas, targets = mosaic(parts, generator(seed))
    assert tuple(canvas.shape[1:]) == max(sizes, key=lambda size: size[0] * size[1])
    check_inside(canvas, targets)
    covered = torch.zeros(canvas.shape[1:], dtype=torch.int64)
    for box, label in zip(targets.boxes, targets.labels.tolist()):
        x0, y0, x1, y1 = (round(value) for value in box.tolist())
        torch.testing.assert_close(box, torch.tensor([x0, y0, x1, y1]).float(), rtol=0, atol=1e-3)
        torch.testing.assert_close(canvas[:, y0:y1, x0:x1], colours[label].reshape(3, 1, 1).expand(3, y1 - y0, x1 - x0))
        covered[y0:y1, x0:x1] += 1
    assert int(covered.max()) <= 1  # a quarter each
    rest = canvas[:, covered == 0]
    torch.testing.assert_close(rest, torch.tensor(IMAGENET_MEAN).reshape(3, 1).expand_as(rest))
    if min(canvas.shape[1:]) >= 4:
        assert targets.labels.tolist() == [0, 1, 2, 3]


def test_small_pictures_of_a_mosaic_lie_at_the_point_where_the_four_meet() -> None:
    parts = [(torch.zeros(3, side, side), boxed([0, 0, side, side], label=n)) for n, side in enumerate((40, 4, 4, 4))]
    for seed in range(10):
        first, right, below, across = mosaic(parts, generator(seed))[1].boxes.tolist()
        assert right[0] == across[0] == below[2] == first[2] and right[3] == first[3] == below[1] == across[1]


@few
@given(seeds, st.lists(scenes(least=8), min_size=4, max_size=4), st.booleans())
def test_a_mosaic_keeps_everything_together(seed: int, parts: list[Scene], plain: bool) -> None:
    parts = [with_ids(without_masks(part) if plain else part, 100 * number) for number, part in enumerate(parts)]
    image, targets = mosaic(parts, generator(seed))
    again = mosaic(parts, generator(seed))
    assert torch.equal(image, again[0]) and same(targets, again[1])
    check_inside(image, targets)
    check_origin(targets, [part[1] for part in parts])
    if not plain and min(min(part[0].shape[1:]) for part in parts) >= 2:
        check_tight(targets, 2.0)  # shrunk twofold or more, a thin part may fall between two pixels


# --- mixup --------------------------------------------------------------------------------------------------------


@few
@given(seeds, scenes(), scenes(), st.booleans())
def test_mixup_keeps_all_boxes(seed: int, base: Scene, partner: Scene, plain: bool) -> None:
    base, partner = (without_masks(scene) if plain else scene for scene in (base, partner))
    partner = with_ids(partner, 500)
    image, targets = mixup(base, partner, generator(seed))
    assert image.shape == base[0].shape and image.dtype == torch.uint8
    count = len(base[1])
    assert same(targets[:count], base[1])
    assert targets.ids[count:].tolist() == partner[1].ids.tolist()
    assert torch.equal(targets.labels[count:], partner[1].labels)
    assert torch.equal(targets.ignore[count:], partner[1].ignore)
    check_inside(image, targets)
    assert same(mixup(base, partner, generator(seed))[1], targets)


def test_mixup_blends_where_both_are_and_boxes_lie_on_their_pixels() -> None:
    black, white = torch.zeros(3, 20, 30, dtype=torch.uint8), torch.full((3, 8, 10), 255, dtype=torch.uint8)
    for seed in range(20):
        image, targets = mixup((black, boxed([0, 0, 5, 5])), (white, boxed([0, 0, 10, 8], label=1)), generator(seed))
        x0, y0, x1, y1 = (int(value) for value in targets.boxes[1].tolist())
        assert (x1 - x0, y1 - y0) == (10, 8)
        inside = image[:, y0:y1, x0:x1]
        assert 0.4 * 255 <= float(inside.min()) == float(inside.max()) <= 0.6 * 255
        assert float(image.sum()) == pytest.approx(float(inside.sum()))
    large = torch.full((3, 60, 40), 255, dtype=torch.uint8)
    image, targets = mixup((black, boxed()), (large, boxed([0, 0, 40, 60])), generator(0))
    assert targets.boxes[0, 3] - targets.boxes[0, 1] == 20 and int((image[0] > 0).sum()) == 20 * 13


# --- copy-paste ---------------------------------------------------------------------------------------------------


@few
@given(seeds, scenes(), scenes())
def test_copy_paste_pastes_exactly_the_pixels_of_the_masks(seed: int, base: Scene, donor: Scene) -> None:
    black, white = torch.zeros(base[0].shape), torch.ones(donor[0].shape)
    donor = (white, with_ids(donor, 500)[1])
    image, targets = copy_paste((black, base[1]), donor, generator(seed))
    pasted = targets.ids >= 500
    painted = image[0] == 1
    assert torch.equal(painted, targets.masks[pasted].any(dim=0)) and bool(((image == 0) | (image == 1)).all())
    assert not bool((targets.masks[~pasted] & painted).any())  # what is covered belongs to nothing below
    for box, mask in zip(targets.boxes, targets.masks):
        assert bool(mask.any())
        assert torch.equal(box, boxes_of_masks(mask[None])[0])
    torch.testing.assert_close(targets.area, targets.masks.sum(dim=(1, 2)).float())
    check_inside(image, targets)
    check_origin(targets, [base[1], donor[1]])
    before = dict(zip(base[1].ids.tolist(), zip(base[1].masks.sum(dim=(1, 2)).tolist(), base[1].ignore.tolist())))
    for number, ignore, area in zip(*(getattr(targets[~pasted], name).tolist() for name in ("ids", "ignore", "area"))):
        assert ignore == (before[number][1] or area / before[number][0] < 0.25)
    if not bool(pasted.any()):
        assert same(targets, base[1])
    assert same(copy_paste((black, base[1]), donor, generator(seed))[1], targets)


@few
@given(seeds, scenes(), scenes())
def test_copy_paste_along_boxes(seed: int, base: Scene, donor: Scene) -> None:
    black, white = torch.zeros(base[0].shape), torch.ones(donor[0].shape)
    donor = (white, with_ids(without_masks(donor), 500)[1])
    image, targets = copy_paste((black, without_masks(base)[1]), donor, generator(seed))
    check_inside(image, targets)
    check_origin(targets, [base[1], donor[1]])
    pasted = targets[targets.ids >= 500]
    assert targets.masks is None and bool((pasted.ids >= 500).all())
    covered = torch.zeros(image.shape[1:], dtype=torch.bool)
    for x0, y0, x1, y1 in pasted.boxes.tolist():
        covered[int(np.floor(y0)) : int(np.ceil(y1)), int(np.floor(x0)) : int(np.ceil(x1))] = True
    assert not bool((image[0] == 1)[~covered].any())  # every pasted pixel belongs to a box


def test_what_is_covered_shrinks_is_ignored_or_goes() -> None:
    shown = torch.ones(20, 40, dtype=torch.bool)
    shown[:, 10:30] = False
    keypoints = torch.tensor([[[2.0, 5, 2]], [[15, 5, 2]], [[15, 5, 2]], [[35, 5, 1]]])
    targets = Targets(
        torch.tensor([[0.0, 0, 20, 10], [9.5, 0, 20, 10], [12, 2, 20, 10], [30, 0, 40, 10]]),
        torch.arange(4),
        area=torch.tensor([100.0, 50, 40, 60]),
        keypoints=keypoints,
    )
    left = in_sight(targets, shown, min_visible=0.25, hidden_keypoints=1)
    assert left.labels.tolist() == [0, 3] and left.boxes.tolist() == [[0, 0, 10, 10], [30, 0, 40, 10]]
    assert left.area.tolist() == [50, 60] and left.ignore.tolist() == [False, False]
    assert left.keypoints[:, 0].tolist() == [[2, 5, 2], [35, 5, 1]]
    shown[:, 10:12] = True
    left = in_sight(targets, shown, min_visible=0.25, hidden_keypoints=1)
    assert left.labels.tolist() == [0, 1, 3] and left.ignore.tolist() == [False, False, False]
    assert left.boxes[1].tolist() == [9.5, 0, 12, 10] and left.keypoints[1, 0].tolist() == [15, 5, 1]
    assert in_sight(targets, shown, min_visible=0.3, hidden_keypoints=1).ignore.tolist() == [False, True, False]
    assert in_sight(targets, shown, min_visible=0.3, hidden_keypoints=0).keypoints[1, 0].tolist() == [0, 0, 0]


def test_others_that_show_in_a_pasted_box_come_along() -> None:
    black, white = torch.zeros(3, 40, 40), torch.ones(3, 40, 40)
    donor = boxed([0.0, 0, 20, 20], [5, 5, 15, 15], [15, 0, 35, 20], [10, 18, 30, 40], [30, 30, 40, 40])
    found = set()
    for seed in range(60):
        _, targets = copy_paste((black, boxed()), (white, donor), generator(seed))
        objects = dict(zip(targets.ids.tolist(), zip(targets.boxes.tolist(), targets.ignore.tolist())))
        found.add(tuple(sorted(objects)))
        if objects.get(0) == ([0, 0, 20, 20], False):
            assert objects[1] == ([5, 5, 15, 15], False)
    assert (0, 1, 2, 3) in found and (4,) in found
    ignored = boxed([0, 0, 20, 20], ignore=True)
    assert same(copy_paste((black, boxed()), (white, ignored), generator(0))[1], boxed())  # a region is not pasted


def test_neighbours_come_along_with_a_mask_only_when_they_show() -> None:
    masks = torch.zeros(3, 40, 40, dtype=torch.bool)
    masks[0, :20, :20] = True
    masks[1, 5:10, 5:10] = True  # on the first
    masks[2, :20, 18:38] = True  # its outline runs a little over the first
    donor = replace(boxed([0, 0, 20, 20], [5, 5, 10, 10], [18, 0, 38, 20]), masks=masks)
    found = set()
    for seed in range(60):
        base = replace(boxed(), masks=masks[:0])
        found.add(
            tuple(
                copy_paste((torch.zeros(3, 40, 40), base), (torch.ones(3, 40, 40), donor), generator(seed))[
                    1
                ].ids.tolist()
            )
        )
    assert found == {(1,), (2,), (0, 1), (1, 2), (0, 1, 2)}


# --- all of them --------------------------------------------------------------------------------------------------


@few
@given(seeds, scenes(), scenes(), st.booleans(), st.booleans(), st.booleans())
def test_any_plan(seed: int, base: Scene, partner: Scene, mosaic: bool, copy_paste: bool, mixup: bool) -> None:
    plan = Plan(mosaic, copy_paste, mixup)
    asked: list[bool] = []

    def draw(with_objects: bool) -> Scene:
        asked.append(with_objects)
        return with_ids(partner, 500 * len(asked))

    image, targets = mix(base, plan, draw, generator(seed))
    check_inside(image, targets)
    assert asked == [False] * 3 * mosaic + [True] * copy_paste + [False] * mixup
    assert image.dtype == torch.uint8 and tuple(image.shape[1:]) in [base[0].shape[1:], partner[0].shape[1:]]


def test_pictures_without_objects() -> None:
    image = torch.rand(3, 12, 16)
    for mixed in (
        mosaic([(image, Targets.empty())] * 4, generator(0)),
        copy_paste((image, Targets.empty()), (image, Targets.empty()), generator(0)),
        mixup((image, Targets.empty()), (image, Targets.empty()), generator(0)),
    ):
        assert len(mixed[1]) == 0 and mixed[0].shape == image.shape
    assert len(join([Targets.empty(), boxed([0, 0, 1, 1])])) == 1


def test_plans_are_drawn_as_often_as_told() -> None:
    change = Augmentation(mosaic=0.2, copy_paste=0.5, mixup=1.0)
    plans = [Plan.draw(change, generator(seed)) for seed in range(1000)]
    assert all(plan.mixup for plan in plans)
    assert 160 < sum(plan.mosaic for plan in plans) < 240 and 440 < sum(plan.copy_paste for plan in plans) < 560


def test_the_last_epochs_are_without_mixing() -> None:
    counts = [epochs_with_mixing(epochs, 0.1) for epochs in (1, 2, 10, 30, 70, 5)]
    assert counts == [1, 1, 9, 27, 63, 4]
    assert epochs_with_mixing(10, 0) == 10 and epochs_with_mixing(10, 1) == 0 and epochs_with_mixing(1, 1) == 0


# --- samples ------------------------------------------------------------------------------------------------------


MIXED = Augmentation(crop=0.3, scale_jitter=(0.3, 1.5), mosaic=0.5, copy_paste=0.5, mixup=0.5, color=0.3)


def test_a_mixed_sample_depends_on_seed_epoch_and_index_alone(coco: Make) -> None:
    split = many(coco, 6)
    data = DetectionDataset(split, Transform(Resize(24, 48), MIXED), seed=3)
    again = pickle.loads(pickle.dumps(data))
    for index in ((0, 5), (2, 1), (0, 5), (1, 4, 2)):
        again[0, 0]
        first, second = data[index], again[index]
        assert isinstance(first, Sample) and isinstance(second, Sample)
        assert torch.equal(first.image, second.image) and same(first.targets, second.targets)
    alone = make_loader(data, batch=3, shuffle=True, seed=5)
    workers = make_loader(data, batch=3, shuffle=True, seed=5, workers=1, start_method="fork")
    assert equal(list(alone), list(workers))


def test_mixing_ends_with_its_epoch(coco: Make) -> None:
    split = many(coco, 6)
    plain = DetectionDataset(split, Transform(Resize(24, 48), Augmentation.none()))
    change = Augmentation(flip=0, mosaic=1.0)
    data = DetectionDataset(split, Transform(Resize(24, 48), change), mixing_until_epoch=2)
    for row in range(6):
        late = data[2, row].image
        assert torch.equal(late, plain[2, row].image)
        assert not torch.equal(data[1, row].image, late)
    data.mixing_until_epoch = 0
    assert torch.equal(data[1, 0].image, plain[1, 0].image)


def test_an_unreadable_partner_leaves_the_sample_as_it_is_and_is_reported(coco: Make) -> None:
    split = many(coco, 3)
    split.paths[2].write_text("no image")
    change = Augmentation(flip=0, mixup=1.0)
    data = DetectionDataset(split, Transform(Resize(24, 48), change))
    samples = [data[epoch, 0] for epoch in range(20)]
    plain = DetectionDataset(split, Transform(Resize(24, 48), Augmentation.none()))[0].image
    left = [sample for sample in samples if sample.partner_problems]
    assert 0 < len(left) < 20 and all(torch.equal(sample.image, plain) for sample in left)
    assert all(sample.partner_problems[0].where == str(split.paths[2]) for sample in left)
    assert not all(torch.equal(sample.image, plain) for sample in samples if not sample.partner_problems)
    loader = make_loader(data, batch=2, max_bad=0.5)
    for epoch in range(4):
        loader.set_epoch(epoch)
        list(loader)
    assert [problem.where for problem in loader.problems] == [str(split.paths[2])]


def test_partners_follow_the_sampler_and_pasted_pictures_have_objects(coco: Make) -> None:
    split = many(coco, 3)  # image n has n objects

    def ids(change: Augmentation, draws: np.ndarray | None, row: int) -> set[int]:
        data = DetectionDataset(split, Transform(Resize(None, None), change), draws=draws)
        return {number // 10 for epoch in range(12) for number in data[epoch, row].targets.ids.tolist()}

    assert ids(Augmentation(flip=0, mixup=1.0), np.array([0.0, 0, 3]), 0) == {2}
    assert ids(Augmentation(flip=0, copy_paste=1.0), None, 0) == {1, 2}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Split:
    root = tmp_path_factory.mktemp("shapes") / "set"
    write_synthetic(root, train=8, val=1, test=1, size=96)
    return load_split(root, "train")


@pytest.mark.parametrize("masks", [True, False])
def test_scenes_with_masks_and_keypoints(shapes: Split, masks: bool) -> None:
    split = shapes
    change = Augmentation(crop=0.3, scale_jitter=(0.7, 1.5), mosaic=0.4, copy_paste=0.7, mixup=0.3)
    data = DetectionDataset(split, Transform(Resize(96, None), change), masks=masks)
    seen = 0
    for epoch in range(3):
        for row in range(len(split)):
            sample = data[epoch, row]
            assert isinstance(sample, Sample) and (sample.targets.masks is not None) == masks
            check_inside(sample.image, sample.targets)
            seen += len(sample.targets)
            if masks:
                check_tight(sample.targets, 4.0)  # a pointed shape, shrunk, loses its tip between two pixels
    assert seen > 24


def test_a_picture_of_one_pixel(coco: Make) -> None:
    change = Augmentation(mosaic=1.0, copy_paste=1.0, mixup=1.0)
    for row in range(3):
        sample = DetectionDataset(many(coco, 3), Transform(Resize(None, 1), change))[row]
        assert isinstance(sample, Sample) and sample.image.shape == (3, 1, 1)
        check_inside(sample.image, sample.targets)


def with_ids(scene: Scene, first: int) -> Scene:
    targets = scene[1]
    return scene[0], join([Targets(**{**vars(targets), "ids": torch.arange(len(targets)) + first})])


def check_origin(targets: Targets, parts: list[Targets]) -> None:
    """Every object has the label of the annotation it comes from, and is ignored if that was."""
    whole = {
        number: (label, ignore)
        for part in parts
        for number, label, ignore in zip(part.ids.tolist(), part.labels.tolist(), part.ignore.tolist())
    }
    for number, label, ignore in zip(targets.ids.tolist(), targets.labels.tolist(), targets.ignore.tolist()):
        assert whole[number][0] == label and whole[number][1] <= ignore
