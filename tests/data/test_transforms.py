"""Resizing equals torchvision's; random changes keep boxes true and depend on the generator alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from aweigh.data.transforms import (
    Augmentation,
    EvalTransform,
    Resize,
    TrainTransform,
    cut_window,
    flip_horizontally,
    left_right_pairs,
    resize_targets,
)
from aweigh.errors import UsageError
from aweigh.structures import Classes, Targets

few = settings(max_examples=30, deadline=None)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[torch.Tensor, Targets]:
    """A small picture with boxes, areas, ignore flags, ids, masks and keypoints."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    count = draw(st.integers(0, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.9
    side = (torch.tensor([width, height]) - corner) * torch.rand(count, 2, generator=generator).clamp(min=0.05)
    boxes = torch.cat([corner, corner + side], dim=1)
    targets = Targets(
        boxes=boxes,
        labels=torch.randint(0, 4, (count,), generator=generator),
        ignore=torch.rand(count, generator=generator) < 0.3,
        area=side.prod(dim=1) * 0.7,
        ids=torch.arange(count) + 100,
        masks=torch.rand(count, height, width, generator=generator) < 0.5,
        keypoints=torch.cat(
            [corner[:, None].repeat(1, 2, 1), torch.tensor([2.0, 0.0]).reshape(1, 2, 1).repeat(count, 1, 1)], dim=2
        ),
    )
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8), targets


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
    ours, targets = EvalTransform(resize)(image, Targets(boxes, torch.zeros(2, dtype=torch.int64)))
    assert resize.size_for(*size_hw) == expected.image_sizes[0] == tuple(ours.shape[1:])
    torch.testing.assert_close(ours, expected.tensors[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(resize(image), ours, rtol=0, atol=0)
    torch.testing.assert_close(targets.boxes, described[0]["boxes"], rtol=1e-6, atol=1e-4)


def test_resize_to_a_fixed_long_side() -> None:
    fit = Resize(short=None, long=416)
    for size_hw in ((480, 640), (640, 480), (417, 419), (1, 30_000), (7, 7), (415, 416)):
        assert max(fit.size_for(*size_hw)) == 416 and min(fit.size_for(*size_hw)) >= 1
    assert fit.size_for(480, 640) == (312, 416)
    assert Resize(short=100, long=None).size_for(200, 1000) == (100, 500)
    assert Resize(short=None, long=None).size_for(7, 9) == (7, 9)
    assert fit(torch.zeros(3, 1, 1, dtype=torch.uint8)).shape == (3, 416, 416)
    assert fit(torch.zeros(3, 2, 30_000, dtype=torch.uint8)).shape == (3, 1, 416)


@pytest.mark.parametrize("antialias", [True, False])
def test_resize_of_bytes_and_floats_agree(antialias: bool) -> None:
    image = torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8)
    resize = Resize(short=None, long=50, antialias=antialias)
    apart = (resize(image) - resize(image.float() / 255)).abs().max()
    assert apart <= (1.01 / 255 if antialias else 0)
    assert resize(image).dtype == torch.float32 and resize(image).min() >= 0 and resize(image).max() <= 1


def test_resize_round_trip_and_errors() -> None:
    resize = Resize(600, None, antialias=False)
    assert Resize.from_dict(resize.to_dict()) == resize
    with pytest.raises(UsageError, match="unknown argument 'shrot'"):
        Resize.from_dict({"shrot": 1})
    with pytest.raises(UsageError, match="short"):
        Resize(short=0)


@few
@given(scenes(), st.integers(1, 60), st.integers(1, 60))
def test_resize_scales_everything(scene: tuple[torch.Tensor, Targets], height: int, width: int) -> None:
    image, targets = scene
    before = tuple(image.shape[1:])
    resized = resize_targets(targets, before, (height, width))
    ratio = torch.tensor([width / before[1], height / before[0]])
    torch.testing.assert_close(resized.boxes, targets.boxes * ratio.repeat(2))
    torch.testing.assert_close(resized.area, targets.area * ratio.prod())
    torch.testing.assert_close(resized.keypoints[:, :, :2], targets.keypoints[:, :, :2] * ratio)
    assert resized.masks.shape == (len(targets), height, width) and resized.masks.dtype == torch.bool
    assert torch.equal(resized.ids, targets.ids) and torch.equal(resized.ignore, targets.ignore)


@few
@given(scenes())
def test_two_flips_are_none(scene: tuple[torch.Tensor, Targets]) -> None:
    image, targets = scene
    pairs = {"keypoint_pairs": [(0, 1)], "class_pairs": [(2, 3)]}
    once = flip_horizontally(image, targets, **pairs)
    again, back = flip_horizontally(*once, **pairs)
    assert torch.equal(again, image) and torch.equal(back.masks, targets.masks)
    torch.testing.assert_close(back.boxes, targets.boxes, rtol=0, atol=1e-4)
    torch.testing.assert_close(back.keypoints, targets.keypoints, rtol=0, atol=1e-4)
    assert torch.equal(back.labels, targets.labels)


def test_flip_moves_pixels_and_boxes_alike() -> None:
    image = torch.zeros(3, 4, 10)
    image[:, 1:3, 1:4] = 1
    keypoints = torch.tensor([[[1.0, 1, 2], [4, 3, 1], [0, 0, 0]]])
    targets = Targets(torch.tensor([[1.0, 1, 4, 3]]), torch.tensor([0]), keypoints=keypoints)
    flipped, moved = flip_horizontally(image, targets, [(0, 1)], [(0, 1)])
    assert moved.boxes.tolist() == [[6, 1, 9, 3]] and bool((flipped[:, 1:3, 6:9] == 1).all())
    assert moved.keypoints.tolist() == [[[6, 3, 1], [9, 1, 2], [0, 0, 0]]]
    assert moved.labels.tolist() == [1]


@few
@given(scenes(), st.data())
def test_a_crop_only_shifts_what_is_inside(scene: tuple[torch.Tensor, Targets], data: st.DataObject) -> None:
    image, targets = scene
    height, width = image.shape[1:]
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    window = (x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height)))
    cropped, cut = cut_window(image, targets, window)
    assert cropped.shape == (3, window[3] - y0, window[2] - x0) == (3, *cut.masks.shape[1:])
    assert bool((cut.boxes >= 0).all()) and bool((cut.boxes[:, 2:] <= torch.tensor(cropped.shape[:0:-1])).all())
    inside = (targets.boxes[:, :2] >= torch.tensor([x0, y0])).all(1) & (
        targets.boxes[:, 2:] <= torch.tensor(window[2:])
    ).all(1)
    for index in inside.nonzero().flatten().tolist():
        row = int((cut.ids == targets.ids[index]).nonzero()[0, 0])
        shifted = targets.boxes[index] - torch.tensor([x0, y0, x0, y0])
        torch.testing.assert_close(cut.boxes[row], shifted, rtol=0, atol=1e-4)
        torch.testing.assert_close(cut.area[row], targets.area[index])
        assert cut.ignore[row] == targets.ignore[index]


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
@given(scenes(), st.integers(0, 1000))
def test_training_keeps_boxes_valid_and_is_repeatable(scene: tuple[torch.Tensor, Targets], seed: int) -> None:
    augmentation = Augmentation(0.5, (8, 24), scale_jitter=(0.5, 2.0), crop=0.7, color=0.5)
    transform = TrainTransform(Resize(16, 32), augmentation)
    image, targets = transform(*scene, torch.Generator().manual_seed(seed))
    again, same = transform(*scene, torch.Generator().manual_seed(seed))
    assert torch.equal(image, again) and torch.equal(targets.boxes, same.boxes)
    assert image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1
    limits = torch.tensor([image.shape[2], image.shape[1]]) + 1e-3
    assert bool((targets.boxes[:, :2] >= 0).all()) and bool((targets.boxes[:, 2:] <= limits).all())


def test_none_is_none() -> None:
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    targets = Targets(torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([0]))
    transform = TrainTransform(Resize(None, None), Augmentation.none())
    same, kept = transform(image, targets, torch.Generator().manual_seed(0))
    assert torch.equal(same, image / 255) and torch.equal(kept.boxes, targets.boxes)
    assert Augmentation.none().describe() == ["none: every picture is used as it is"]


def test_short_sides_are_drawn_as_told() -> None:
    image, targets = torch.zeros(3, 20, 20, dtype=torch.uint8), Targets.empty()

    def sides(short_sides: tuple[int, ...]) -> set[int]:
        transform = TrainTransform(Resize(99, 500), Augmentation(flip=0, short_sides=short_sides))
        return {transform(image, targets, torch.Generator().manual_seed(s))[0].shape[1] for s in range(60)}

    assert sides((10, 13)) == {10, 11, 12, 13}
    assert sides((10, 20, 30)) == {10, 20, 30}
    assert sides((64,)) == {64}


def test_scale_jitter_keeps_within_the_size_of_resize() -> None:
    image, targets = (
        torch.zeros(3, 20, 40, dtype=torch.uint8),
        Targets(torch.tensor([[5.0, 5, 15, 15]]), torch.zeros(1).long()),
    )
    transform = TrainTransform(Resize(20, 40), Augmentation(flip=0, scale_jitter=(0.5, 2.0)))
    shapes = [tuple(transform(image, targets, torch.Generator().manual_seed(s))[0].shape[1:]) for s in range(40)]
    assert max(shapes) == (20, 40) and min(shapes) < (15, 30)


def test_a_random_crop_leaves_an_object() -> None:
    image, targets = (
        torch.zeros(3, 100, 100, dtype=torch.uint8),
        Targets(torch.tensor([[0.0, 0, 8, 8]]), torch.zeros(1).long()),
    )
    transform = TrainTransform(Resize(None, None), Augmentation(flip=0, crop=1.0))
    for seed in range(50):
        assert len(transform(image, targets, torch.Generator().manual_seed(seed))[1]) == 1


def test_the_list_of_changes_is_exact_and_warns_of_left_and_right() -> None:
    lines = Augmentation(short_sides=(640, 800), color=0.5).describe(Classes.from_names(["left hand", "right hand"]))
    assert lines[0] == "short side 640 to 800 pixels" and lines[1] == "horizontal flip, probability 0.5"
    assert "left hand/right hand" in lines[2] and lines[3].startswith("colour: brightness +-20%")
    assert left_right_pairs(["nose", "left_eye", "right_eye", "cleft", "cright"]) == [(1, 2)]


@pytest.mark.parametrize("wrong", [{"flip": 1.5}, {"short_sides": (800, 640)}, {"scale_jitter": (2.0, 1.0)}])
def test_wrong_augmentation(wrong: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Augmentation(**wrong)
