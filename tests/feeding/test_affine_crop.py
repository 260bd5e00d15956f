"""CenterNet's augmentation: a square round a random point, and colours, against arithmetic on each point and pixel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.feeding.strategies import Scene, check_inside, check_tight, same, scenes, without_masks
from torch import Tensor

from aweigh.errors import UsageError
from aweigh.feeding.colour import PRINCIPAL_COLORS, shift_color, shuffle_color
from aweigh.feeding.transforms import Augmentation, Transform
from aweigh.feeding.windows import affine_crop, crop_border, padded_window
from aweigh.images.resize import Resize
from aweigh.structures import IMAGENET_MEAN, Targets

few = settings(max_examples=30, deadline=None)
GREY = [round(255 * value) for value in IMAGENET_MEAN]
SHARES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)


@pytest.mark.parametrize(
    ("length", "border"),
    [(640, 128), (257, 128), (256, 64), (129, 64), (128, 32), (100, 32), (3, 1), (2, 0), (1, 0)],
)
def test_the_border_is_halved_until_there_is_room_between(length: int, border: int) -> None:
    assert crop_border(length) == border


@few
@given(scenes(), st.data())
def test_a_window_beyond_the_picture_is_grey_there_and_shifts_the_rest(scene: Scene, data: st.DataObject) -> None:
    image, targets = scene
    height, width = image.shape[1:]
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))  # a pixel of it that lies in
    x0, y0 = x - data.draw(st.integers(0, 30)), y - data.draw(st.integers(0, 30))
    x1, y1 = x + data.draw(st.integers(1, 30)), y + data.draw(st.integers(1, 30))
    cut, moved = padded_window(image, targets, (x0, y0, x1, y1), min_visible=0)
    assert cut.shape == (3, y1 - y0, x1 - x0) and cut.dtype == torch.uint8
    there = {int(number): row for row, number in enumerate(moved.ids)}
    for row, column in {(int(a), int(b)) for a, b in zip(np.linspace(y0, y1 - 1, 9), np.linspace(x0, x1 - 1, 7))} | {
        (data.draw(st.integers(y0, y1 - 1)), data.draw(st.integers(x0, x1 - 1))) for _ in range(6)
    }:
        on = 0 <= row < height and 0 <= column < width
        assert cut[:, row - y0, column - x0].tolist() == (image[:, row, column].tolist() if on else GREY)
        for number, at in there.items():
            shown = on and bool(targets.masks[number - 100, row, column])
            assert bool(moved.masks[at, row - y0, column - x0]) == shown
    for old, (before, points) in enumerate(zip(targets.boxes.tolist(), targets.keypoints.tolist(), strict=True)):
        inside = x0 <= before[0] and y0 <= before[1] and before[2] <= x1 and before[3] <= y1
        if inside:
            at = there[old + 100]
            assert moved.boxes[at].tolist() == [before[0] - x0, before[1] - y0, before[2] - x0, before[3] - y0]
            assert moved.area[at] == targets.area[old]
        for point, (px, py, visible) in enumerate(points if old + 100 in there else []):
            kept = visible and x0 <= px <= x1 and y0 <= py <= y1
            expected = [px - x0, py - y0, visible] if kept else [0, 0, 0]
            assert moved.keypoints[there[old + 100], point].tolist() == expected
    check_inside(cut, moved)
    check_tight(moved, 0)


def drawn(seed: int, height: int, width: int, shares: tuple[float, ...]) -> tuple[int, int, int]:
    """Corner x, y and side, by the rule in words, from the same random numbers."""
    generator = torch.Generator().manual_seed(seed)
    side = round(shares[int(torch.randint(len(shares), (), generator=generator))] * max(height, width))
    middles = []
    for length in (height, width):
        border = 128
        while length - border <= border:
            border //= 2
        middles.append(int(torch.randint(border, length - border, (), generator=generator)))
    return -(-(2 * middles[1] - side) // 2), -(-(2 * middles[0] - side) // 2), side


@pytest.mark.parametrize("size_hw", [(300, 420), (50, 20), (1, 1), (3, 200)])
def test_the_whole_transform_is_one_affine_map_of_every_point(size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    points = torch.rand(1, 40, 2, generator=generator) * torch.tensor([width, height])
    keypoints = torch.cat([points, torch.full((1, 40, 1), 2.0)], dim=2)
    boxes = torch.tensor([[0.0, 0, width, height]])
    transform = Transform(Resize(None, 96), Augmentation(flip=0, affine_crop=SHARES, min_visible=0))
    shapes = set()
    for seed in range(12):
        changed, moved = transform(
            image, Targets(boxes, torch.zeros(1).long(), keypoints=keypoints), torch.Generator().manual_seed(seed)
        )
        shapes.add(tuple(changed.shape))
        x0, y0, side = drawn(seed, height, width, SHARES)
        for (x, y), got in zip(points[0].tolist(), moved.keypoints[0].tolist(), strict=True):
            at_x, at_y = (x - x0) * 96 / side, (y - y0) * 96 / side
            if 0 <= at_x <= 96 and 0 <= at_y <= 96:
                assert got == pytest.approx([at_x, at_y, 2], abs=1e-3)
            else:
                assert got == [0, 0, 0]
        ends = [(0 - x0) * 96 / side, (0 - y0) * 96 / side, (width - x0) * 96 / side, (height - y0) * 96 / side]
        assert moved.boxes[0].tolist() == pytest.approx([min(max(end, 0), 96) for end in ends], abs=1e-3)
        # Far enough from the ends of the image, what lies beyond it is grey.
        for at_x, at_y in ((1, 1), (95, 1), (1, 95), (95, 95)):
            x, y = x0 + at_x * side / 96, y0 + at_y * side / 96
            margin = 2 + 2 * side / 96
            if not (-margin < x < width + margin and -margin < y < height + margin):
                assert changed[:, at_y, at_x].tolist() == GREY
    assert shapes == {(3, 96, 96)}


@few
@given(scenes(), st.integers(0, 1000), st.booleans())
def test_training_with_all_of_it_keeps_boxes_valid_and_is_repeatable(scene: Scene, seed: int, plain: bool) -> None:
    scene = without_masks(scene) if plain else scene
    change = Augmentation(affine_crop=SHARES, shuffled_color=0.4, lighting=0.1, keypoint_pairs=((0, 1),))
    transform = Transform(Resize(None, 48), change)
    image, targets = transform(*scene, torch.Generator().manual_seed(seed))
    again, repeated = transform(*scene, torch.Generator().manual_seed(seed))
    assert torch.equal(image, again) and same(targets, repeated)
    assert image.shape == (3, 48, 48) and image.min() >= 0 and image.max() <= 1
    check_inside(image, targets)
    assert set(targets.ids.tolist()) <= set(scene[1].ids.tolist())


def test_a_picture_decoded_at_half_its_size_is_cut_in_the_same_place() -> None:
    full_hw, targets = (301, 421), Targets(torch.tensor([[30.0, 40, 400, 280]]), torch.zeros(1).long())
    image = torch.zeros(3, *full_hw, dtype=torch.uint8)
    half, small = torch.zeros(3, 151, 211, dtype=torch.uint8), Targets(targets.boxes / 2, targets.labels)
    for seed in range(10):
        whole, one = affine_crop(image, targets, SHARES, torch.Generator().manual_seed(seed), min_visible=0)
        reduced, other = affine_crop(
            half, small, SHARES, torch.Generator().manual_seed(seed), full_hw=full_hw, min_visible=0
        )
        assert abs(whole.shape[1] / 2 - reduced.shape[1]) <= 0.5
        assert (one.boxes / 2 - other.boxes).abs().max() <= 1
    transform = Transform(Resize(None, 512), Augmentation(affine_crop=(0.5, 1.3)))
    assert transform.needed_size(3000, 4000) == (768, 1024)  # so that a window of half the image fills the input


@pytest.mark.parametrize("seed", range(4))
def test_colours_are_those_of_a_loop_in_numpy(seed: int) -> None:
    image = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(3, generator=generator).tolist()
    factors = [0.6 + 0.8 * float(torch.rand((), generator=generator, dtype=torch.float64)) for _ in order]
    expected = image.double().numpy().copy()
    weights = np.array([0.2989, 0.587, 0.114])[:, None, None]  # of grey, ITU-R BT.601
    grey = (expected * weights).sum(axis=0)
    for kind, factor in zip(order, factors, strict=True):
        for row in range(5):
            for column in range(6):
                other = (0.0, grey.mean(), grey[row, column])[kind]
                expected[:, row, column] = factor * expected[:, row, column] + (1 - factor) * other
    got = shuffle_color(image, 0.4, torch.Generator().manual_seed(seed))
    np.testing.assert_allclose(got.numpy(), expected.clip(0, 1), atol=2e-4)


def test_lighting_shifts_all_pixels_alike_as_often_as_it_should() -> None:
    half = torch.full((3, 2, 2), 0.5)

    def shift(seed: int) -> Tensor:
        changed = shift_color(half, 0.1, torch.Generator().manual_seed(seed)) - 0.5
        assert torch.equal(changed, changed[:, :1, :1].expand(3, 2, 2))
        return changed[:, 0, 0]

    shifts = torch.stack([shift(seed) for seed in range(2000)])
    values = torch.tensor([0.2141788, 0.01817699, 0.00341571])
    vectors = PRINCIPAL_COLORS / values
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(3), atol=1e-4, rtol=0)  # an orthonormal basis
    assert (vectors[:, 0] < 0).all() and vectors[0, 1] > 0.7  # most is brightness, then red against blue
    torch.testing.assert_close((shifts @ vectors).std(dim=0), 0.1 * values, rtol=0.08, atol=0)
    assert (shifts.mean(dim=0)).abs().max() < 2e-3
    assert shift_color(torch.ones(3, 1, 1), 5.0, torch.Generator().manual_seed(1)).max() <= 1


def test_what_happens_is_said_and_what_cannot_is_refused() -> None:
    lines = Augmentation(flip=0, affine_crop=(0.6, 1.3), shuffled_color=0.4, lighting=0.1).describe()
    assert lines[0].startswith("affine crop: a square round a random point, grey beyond the image, its side 0.6, 1.3 ")
    assert lines[1] == "colour: brightness, contrast and saturation in random order, each +-40%"
    assert lines[2] == "lighting: along the principal colours, standard deviation 0.1" and len(lines) == 3
    for wrong in ({"affine_crop": (0.5, 0.0)}, {"shuffled_color": 1.5}, {"lighting": -0.1}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            Augmentation(**wrong)
