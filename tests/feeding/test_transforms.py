"""Resizing equals torchvision's; random changes keep boxes true and depend on the generator alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.feeding.strategies import Scene, check_inside, check_tight, same, scenes, without_masks
from torch.nn import functional
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from aweigh.classes import Classes
from aweigh.errors import UsageError
from aweigh.feeding.resize import resize_pixels, to_float
from aweigh.feeding.transforms import Augmentation, Transform, flip_horizontally
from aweigh.feeding.windows import cut_window
from aweigh.images.resize import Resize
from aweigh.structures import Targets

few = settings(max_examples=30, deadline=None)


@pytest.mark.parametrize(
    "size_hw", [(480, 640), (600, 601), (333, 1000), (1, 1), (37, 2000), (800, 1333), (799, 1334), (501, 375)]
)
@pytest.mark.parametrize("limits", [(800, 1333), (160, 267)])
def test_resize_equals_torchvision(size_hw: tuple[int, int], limits: tuple[int, int]) -> None:
    resize = Resize(*limits, antialias=False)
    reference = GeneralizedRCNNTransform(*limits, image_mean=[0, 0, 0], image_std=[1, 1, 1], size_divisible=1).eval()
    image = torch.randint(0, 256, (3, *size_hw), dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0.0, size_hw[1], size_hw[0]], [0.1, 0.2, 0.7, 0.9]])
    expected, described = reference([image.float() / 255], [{"boxes": boxes}])
    ours, targets = Transform(resize)(image, Targets(boxes, torch.zeros(2, dtype=torch.int64)), torch.Generator())
    assert resize.size_for(*size_hw) == expected.image_sizes[0] == tuple(ours.shape[1:])
    torch.testing.assert_close(to_float(ours), expected.tensors[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(resize(image.permute(1, 2, 0).numpy()), to_float(ours), rtol=0, atol=1e-6)
    torch.testing.assert_close(targets.boxes, described[0]["boxes"], rtol=1e-6, atol=1e-4)


def test_resize_to_a_fixed_long_side() -> None:
    fit = Resize(short=None, long=416)
    for size_hw in ((480, 640), (640, 480), (417, 419), (1, 30_000), (7, 7), (415, 416)):
        assert max(fit.size_for(*size_hw)) == 416 and min(fit.size_for(*size_hw)) >= 1
    assert fit.size_for(480, 640) == (312, 416)
    assert {Resize(short=None, long=96).size_for(side, side) for side in range(1, 500)} == {(96, 96)}
    assert Resize(short=100, long=None).size_for(200, 1000) == (100, 500)
    assert Resize(short=None, long=None).size_for(7, 9) == (7, 9)
    assert fit(np.zeros((1, 1, 3), np.uint8)).shape == (3, 416, 416)
    assert fit(np.zeros((2, 30_000, 3), np.uint8)).shape == (3, 1, 416)


@pytest.mark.parametrize("antialias", [True, False])
def test_resize_of_bytes_and_floats_agree(antialias: bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    resize = Resize(short=None, long=50, antialias=antialias)
    apart = np.abs(resize(image) - resize(image.astype(np.float32) / np.float32(255))).max()
    assert apart <= (1.01 / 255 if antialias else 0)
    assert resize(image).dtype == np.float32 and resize(image).min() >= 0 and resize(image).max() <= 1


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 1), (20, 1), (1, 2), (2, 2)])
def test_resize_to_almost_nothing(size_hw: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, 7, 5), dtype=torch.uint8)
    resized, exact = (resize_pixels(picture, size_hw, antialias=True) for picture in (image, image / 255))
    assert resized.shape == (3, *size_hw) and float((to_float(resized) - exact).abs().max()) <= 1.01 / 255


def test_a_factor_on_the_size() -> None:
    assert Resize(short=None, long=416, scale=1.25).size_for(480, 640) == (390, 520)
    assert Resize(short=None, long=None, scale=0.5).size_for(5, 9) == (2, 4)
    assert Resize(short=None, long=None, scale=0.01).size_for(7, 9) == (1, 1)
    assert Resize(short=None, long=10, scale=1).size_for(7, 9) == Resize(short=None, long=10).size_for(7, 9)
    for scale in (0, -1, math.nan, math.inf, "1", True):
        with pytest.raises(UsageError, match="scale must be a number above 0"):
            Resize(scale=scale)


def test_a_size_in_words() -> None:
    trained = Resize(short=800, long=1333, antialias=False)
    assert trained.with_size("original") == Resize(None, None, antialias=False)
    assert trained.with_size("512") == Resize(None, 512, antialias=False)
    assert trained.with_size("600,1000") == Resize(600, 1000, antialias=False)
    for text in ("", "keep", "5x5", "1,2,3", "12.5"):
        with pytest.raises(UsageError, match="expected original, the long side as 512"):
            trained.with_size(text)
    for text in ("0", "-4", "0,7"):
        with pytest.raises(UsageError, match="whole number of pixels above 0"):
            trained.with_size(text)


def test_resize_round_trip_and_errors() -> None:
    for resize in (Resize(600, None, antialias=False), Resize(600, None, scale=0.5)):
        assert Resize.from_dict(resize.to_dict()) == resize
    assert Resize(600, None).to_dict() == {"short": 600, "long": None, "antialias": True}
    with pytest.raises(UsageError, match="unknown argument 'shrot'"):
        Resize.from_dict({"shrot": 1})
    with pytest.raises(UsageError, match="short"):
        Resize(short=0)


@few
@given(scenes(), st.integers(1, 60), st.integers(1, 60))
def test_resize_scales_everything(scene: Scene, height: int, width: int) -> None:
    image, targets = scene
    before = tuple(image.shape[1:])
    resized = targets.resized(before, (height, width))
    ratio = torch.tensor([width / before[1], height / before[0]])
    torch.testing.assert_close(resized.boxes, targets.boxes * ratio.repeat(2))
    torch.testing.assert_close(resized.area, targets.area * ratio.prod())
    torch.testing.assert_close(resized.keypoints[:, :, :2], targets.keypoints[:, :, :2] * ratio)
    assert resized.masks.shape == (len(targets), height, width) and resized.masks.dtype == torch.bool
    assert torch.equal(resized.ids, targets.ids) and torch.equal(resized.ignore, targets.ignore)
    if float(ratio.min()) >= 0.5:
        check_tight(resized)


@few
@given(scenes())
def test_two_flips_are_none(scene: Scene) -> None:
    image, targets = scene
    pairs = {"keypoint_pairs": [(0, 1)], "class_pairs": [(2, 3)]}
    once = flip_horizontally(image, targets, **pairs)
    again, back = flip_horizontally(*once, **pairs)
    assert torch.equal(again, image) and same(back, targets)
    check_tight(once[1], 0)
    check_inside(*once)
    assert torch.equal(once[1].ids, targets.ids) and torch.equal(once[1].ignore, targets.ignore)


def test_flip_moves_pixels_and_boxes_alike() -> None:
    image = torch.zeros(3, 4, 10)
    image[:, 1:3, 1:4] = 1
    keypoints = torch.tensor([[[1.0, 1, 2], [4, 3, 1], [0, 0, 0]]])
    targets = Targets(torch.tensor([[1.0, 1, 4, 3]]), torch.tensor([0]), keypoints=keypoints)
    flipped, moved = flip_horizontally(image, targets, keypoint_pairs=[(0, 1)], class_pairs=[(0, 1)])
    assert moved.boxes.tolist() == [[6, 1, 9, 3]] and bool((flipped[:, 1:3, 6:9] == 1).all())
    assert moved.keypoints.tolist() == [[[6, 3, 1], [9, 1, 2], [0, 0, 0]]]
    assert moved.labels.tolist() == [1]


@st.composite
def windows(draw: st.DrawFn, height: int, width: int) -> tuple[int, int, int, int]:
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))


@few
@given(scenes(), st.data())
def test_a_crop_only_shifts_what_is_inside(scene: Scene, data: st.DataObject) -> None:
    image, targets = scene
    x0, y0, x1, y1 = window = data.draw(windows(*image.shape[1:]))
    cropped, cut = cut_window(image, targets, window)
    assert torch.equal(cropped, image[:, y0:y1, x0:x1])
    check_inside(cropped, cut)
    check_tight(cut, 0)
    inside = (targets.boxes[:, :2] >= torch.tensor([x0, y0])).all(1) & (
        targets.boxes[:, 2:] <= torch.tensor(window[2:])
    ).all(1)
    for index in inside.nonzero().flatten().tolist():
        row = int((cut.ids == targets.ids[index]).nonzero()[0, 0])
        assert torch.equal(cut.boxes[row], targets.boxes[index] - torch.tensor([x0, y0, x0, y0]))
        assert cut.area[row] == targets.area[index] and cut.ignore[row] == targets.ignore[index]
        assert torch.equal(cut.masks[row], targets.masks[index, y0:y1, x0:x1])
    for row, number in enumerate(cut.ids.tolist()):
        index = number - 100
        assert cut.labels[row] == targets.labels[index] and cut.ignore[row] >= targets.ignore[index]
        torch.testing.assert_close(cut.area[row], cut.masks[row].sum().float())


@few
@given(scenes(), st.data(), st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_crop_then_shift_is_shift_then_crop(scene: Scene, data: st.DataObject, dx: int, dy: int, plain: bool) -> None:
    image, targets = without_masks(scene) if plain else scene
    x0, y0, x1, y1 = window = data.draw(windows(*image.shape[1:]))
    given = targets.keypoints[:, :, 2:] > 0
    moved = replace(
        targets,
        boxes=targets.boxes + torch.tensor([dx, dy, dx, dy]),
        masks=None if plain else functional.pad(targets.masks, (dx, 0, dy, 0)),
        keypoints=torch.where(given, targets.keypoints + torch.tensor([dx, dy, 0]), targets.keypoints),
    )
    padded = functional.pad(image, (dx, 0, dy, 0))
    first, cut = cut_window(image, targets, window)
    second, cut_moved = cut_window(padded, moved, (x0 + dx, y0 + dy, x1 + dx, y1 + dy))
    assert torch.equal(first, second) and same(cut, cut_moved)


@few
@given(scenes(), st.data())
def test_two_crops_are_one(scene: Scene, data: st.DataObject) -> None:
    image, targets = scene
    x0, y0, x1, y1 = outer = data.draw(windows(*image.shape[1:]))
    u0, v0, u1, v1 = inner = data.draw(windows(y1 - y0, x1 - x0))
    twice = cut_window(*cut_window(image, targets, outer, min_visible=0), inner, min_visible=0)
    once = cut_window(image, targets, (x0 + u0, y0 + v0, x0 + u1, y0 + v1), min_visible=0)
    assert torch.equal(twice[0], once[0]) and torch.equal(twice[1].boxes, once[1].boxes)
    assert torch.equal(twice[1].masks, once[1].masks) and torch.equal(twice[1].ids, once[1].ids)
    torch.testing.assert_close(twice[1].area, once[1].area)


def test_what_is_cut_off_mostly_is_ignored_and_what_is_gone_is_dropped() -> None:
    boxes = torch.tensor([[0.0, 0, 20, 20], [8, 8, 28, 28], [12, 12, 20, 20]])
    keypoints = torch.tensor([[[2.0, 2, 2]], [[9, 9, 2]], [[15, 15, 2]]])
    targets = Targets(boxes, torch.tensor([0, 1, 2]), area=torch.tensor([400.0, 200, 64]), keypoints=keypoints)
    _, cut = cut_window(torch.zeros(3, 32, 32), targets, (0, 0, 10, 10), min_visible=0.2)
    assert cut.labels.tolist() == [0, 1] and cut.ignore.tolist() == [False, True]
    assert cut.area.tolist() == pytest.approx([100, 2])
    _, cut = cut_window(torch.zeros(3, 32, 32), targets, (4, 4, 10, 10))
    assert cut.keypoints[:, 0].tolist() == [[0, 0, 0], [5, 5, 2]]


@few
@given(scenes(), st.integers(0, 1000), st.booleans())
def test_training_keeps_boxes_valid_and_is_repeatable(scene: Scene, seed: int, plain: bool) -> None:
    scene = without_masks(scene) if plain else scene
    augmentation = Augmentation(0.5, (8, 24), scale_jitter=(0.5, 2.0), crop=0.7, color=0.5)
    transform = Transform(Resize(16, 32), augmentation)
    image, targets = transform(*scene, torch.Generator().manual_seed(seed))
    again, repeated = transform(*scene, torch.Generator().manual_seed(seed))
    assert torch.equal(image, again) and same(targets, repeated)
    assert image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1
    check_inside(image, targets)
    before = dict(zip(scene[1].ids.tolist(), zip(scene[1].labels.tolist(), scene[1].ignore.tolist())))
    for number, label, ignore in zip(targets.ids.tolist(), targets.labels.tolist(), targets.ignore.tolist()):
        assert before[number][0] == label and before[number][1] <= ignore


@few
@given(scenes(least=16), st.integers(0, 1000))
def test_boxes_follow_their_masks(scene: Scene, seed: int) -> None:
    transform = Transform(Resize(40, None), Augmentation(0.5, scale_jitter=(1.0, 2.0), crop=0.7))
    _, targets = transform(*scene, torch.Generator().manual_seed(seed))
    check_tight(targets)


@few
@given(st.integers(0, 10_000), st.floats(0.5, 2), st.booleans(), st.booleans())
def test_keypoints_stay_on_their_dots(seed: int, scale: float, flip: bool, paired: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(3, 80, 100, dtype=torch.uint8)
    places = (torch.rand(2, 2, generator=generator) * torch.tensor([92.0, 72.0])).long() + 4
    for channel, (x, y) in enumerate(places.tolist()):
        image[channel, y - 2 : y + 3, x - 2 : x + 3] = 255
    keypoints = torch.cat([places + 0.5, torch.full((2, 1), 2.0)], dim=1)[None]
    targets = Targets(torch.tensor([[0.0, 0, 100, 80]]), torch.zeros(1).long(), keypoints=keypoints)
    pairs = ((0, 1),) if paired else ()
    change = Augmentation(float(flip), scale_jitter=(scale, scale), crop=0.5, keypoint_pairs=pairs, min_visible=0)
    changed, moved = Transform(Resize(80, None), change)(image, targets, generator)
    changed = changed.float()
    height, width = changed.shape[1:]
    reach = 12 * scale  # nearer to the edge a dot may be cut, and its centre is another
    for point, (x, y, visibility) in enumerate(moved.keypoints[0].tolist()):
        if visibility and reach < x < width - reach and reach < y < height - reach:
            dot = changed[1 - point if flip and paired else point]
            center_x = float((dot.sum(0) * (torch.arange(width) + 0.5)).sum() / dot.sum())
            center_y = float((dot.sum(1) * (torch.arange(height) + 0.5)).sum() / dot.sum())
            assert abs(center_x - x) <= 0.5 and abs(center_y - y) <= 0.5


def test_none_is_none() -> None:
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    targets = Targets(torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([0]))
    transform = Transform(Resize(None, None), Augmentation.none())
    kept_image, kept = transform(image, targets, torch.Generator().manual_seed(0))
    assert torch.equal(kept_image, image) and torch.equal(kept.boxes, targets.boxes)
    assert Augmentation.none().describe() == ["none: every image is used as it is"]


def test_short_sides_are_drawn_as_told() -> None:
    image, targets = torch.zeros(3, 20, 20, dtype=torch.uint8), Targets.empty()

    def sides(short_sides: tuple[int, ...]) -> set[int]:
        transform = Transform(Resize(99, 500), Augmentation(flip=0, short_sides=short_sides))
        return {transform(image, targets, torch.Generator().manual_seed(s))[0].shape[1] for s in range(60)}

    assert sides((10, 13)) == {10, 11, 12, 13}
    assert sides((10, 20, 30)) == {10, 20, 30}
    assert sides((64,)) == {64}


def test_scale_jitter_keeps_within_the_size_of_resize() -> None:
    image, targets = (
        torch.zeros(3, 20, 40, dtype=torch.uint8),
        Targets(torch.tensor([[5.0, 5, 15, 15]]), torch.zeros(1).long()),
    )
    transform = Transform(Resize(20, 40), Augmentation(flip=0, scale_jitter=(0.5, 2.0)))
    shapes = [tuple(transform(image, targets, torch.Generator().manual_seed(s))[0].shape[1:]) for s in range(40)]
    assert max(shapes) == (20, 40) and min(shapes) < (15, 30)


def test_a_random_crop_leaves_an_object() -> None:
    image, targets = (
        torch.zeros(3, 100, 100, dtype=torch.uint8),
        Targets(torch.tensor([[0.0, 0, 8, 8]]), torch.zeros(1).long()),
    )
    transform = Transform(Resize(None, None), Augmentation(flip=0, crop=1.0))
    for seed in range(50):
        assert len(transform(image, targets, torch.Generator().manual_seed(seed))[1]) == 1


def test_the_list_of_changes_is_exact_and_warns_of_left_and_right() -> None:
    hands = Classes.from_names(["left hand", "right hand"])
    lines = Augmentation(short_sides=(640, 800), color=0.5).describe(hands)
    assert lines[0] == "short side 640 to 800 pixels" and lines[1] == "horizontal flip, probability 0.5"
    assert lines[2].startswith("warning: a flip leaves the classes left hand/right hand as they are")
    assert lines[3].startswith("colour: brightness +-20%") and len(lines) == 4
    everything = Augmentation(
        crop=0.1, scale_jitter=(0.1, 2), mosaic=0.2, copy_paste=0.3, mixup=0.4, class_pairs=((0, 1),),
        keypoint_pairs=((1, 2),),
    )  # fmt: skip
    lines = everything.describe(hands, ("nose", "left_eye", "right_eye"), mixing_until_epoch=27)
    heads = [
        "random crop, probability 0.1: ", "scale jitter: size times 0.1 to 2, a random window", "horizontal flip",
        "a flip exchanges the classes left hand/right hand", "a flip exchanges the keypoints left_eye/right_eye",
        "mosaic, probability 0.2, in the first 27 epochs: ", "copy-paste, probability 0.3, in the first 27 epochs: ",
        "mixup, probability 0.4, in the first 27 epochs: ",
    ]  # fmt: skip
    assert [line[: len(head)] for line, head in zip(lines, heads, strict=True)] == heads
    assert everything.mixes and not Augmentation().mixes
    mixup = Augmentation(flip=0, mixup=0.5)
    heads = [mixup.describe(mixing_until_epoch=until)[0].split(":")[0] for until in (None, 0, 1)]
    whole = "mixup, probability 0.5"
    assert heads == [whole, f"{whole}, in no epoch of this run", f"{whole}, in the first epoch"]


@pytest.mark.parametrize(
    "wrong", [{"flip": 1.5}, {"mosaic": -0.1}, {"short_sides": (800, 640)}, {"scale_jitter": (2.0, 1.0)}]
)
def test_wrong_augmentation(wrong: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Augmentation(**wrong)
