"""CornerNet-Saccade's crops: how large the object is in them, where it lies, and what is hidden; by arithmetic."""

import itertools

import pytest
import torch
from torch import Tensor

from aweigh.errors import UsageError
from aweigh.feeding.transforms import Augmentation, Transform
from aweigh.feeding.windows import object_crop
from aweigh.images.resize import Resize
from aweigh.structures import IMAGENET_MEAN, Targets

GREY = [round(255 * value) for value in IMAGENET_MEAN]


def numbered(height: int, width: int) -> Tensor:
    """uint8, each pixel of which says its row and its column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows % 256, columns % 256, rows // 256 * 16 + columns // 256]).byte()


def crops(image: Tensor, targets: Targets, count: int = 30) -> list[tuple[Tensor, Targets]]:
    return [object_crop(image, targets, torch.Generator().manual_seed(seed)) for seed in range(count)]


def one(*box: float) -> Targets:
    return Targets.of([box], [0])


@pytest.mark.parametrize(
    ("longest", "low", "high"), [(10, 16, 32), (32, 16, 32), (33, 32, 96), (96, 32, 96), (97, 96, 254), (700, 96, 254)]
)
def test_the_object_becomes_as_long_as_its_size_says(longest: int, low: int, high: int) -> None:
    image, target = numbered(800, 900), one(50, 60, 50 + longest, 60 + longest / 2)
    lengths = []
    for cut, moved in crops(image, target):
        assert cut.shape[1] == cut.shape[2]
        length = longest * 255 / cut.shape[1]
        rounding = length / cut.shape[1]  # of the square's side to whole pixels
        assert low - rounding <= length <= high + rounding
        width, height = (moved.boxes[0, 2:] - moved.boxes[0, :2]).tolist()
        reach = max(0.0, length / 2 + 15 - 127) * cut.shape[1] / 255  # what a shift of the middle may cut off
        assert longest - reach - 1 <= width <= longest and height == longest / 2
        lengths.append(length)
    assert min(lengths) < low + (high - low) / 4 and max(lengths) > high - (high - low) / 4


def test_half_of_the_crops_have_the_object_in_their_middle() -> None:
    image, target = numbered(700, 900), one(410, 320, 490, 380)
    far = []
    for cut, moved in crops(image, target, 100):
        middle = (moved.boxes[0, :2] + moved.boxes[0, 2:]) / 2 * 255 / cut.shape[1] - 255 / 2
        far.append(float(middle.abs().max()))
    near = sum(value <= 17 for value in far)  # 15, and the rounding of corners to whole pixels
    assert 40 <= near <= 75 and max(far) > 80  # of the others, about one in ten by chance


def test_pixels_are_moved_with_the_box_and_it_is_grey_beyond_the_image() -> None:
    image, target = numbered(300, 400), one(2, 1, 42, 31)
    outside = 0
    for cut, moved in crops(image, target):
        x0, y0 = (target.boxes[0, :2] - moved.boxes[0, :2]).int().tolist()
        side = cut.shape[1]
        for row, column in itertools.product((0, side // 3, side - 1), (0, side // 2, side - 1)):
            inside = 0 <= row + y0 < 300 and 0 <= column + x0 < 400
            assert cut[:, row, column].tolist() == (image[:, row + y0, column + x0].tolist() if inside else GREY)
            outside += not inside
    assert outside > 20


def test_an_image_that_is_shorter_than_the_crop_lies_in_its_middle() -> None:
    for cut, moved in crops(numbered(50, 60), one(10, 10, 40, 40), 20):  # a crop has 239 pixels or more
        x0, y0 = (moved.boxes[0, :2] - 10).int().tolist()
        assert (x0, y0) == (-((60 - cut.shape[2]) // 2), -((50 - cut.shape[1]) // 2))


def test_what_is_less_than_half_in_sight_is_ignored() -> None:
    boxes = torch.tensor([[400.0, 300, 430, 330], [100, 100, 700, 500], [0, 0, 30, 30]])
    targets = Targets(boxes, torch.tensor([0, 1, 2]), uncertain=torch.tensor([False, False, True]))
    seen = set()
    for cut, moved in crops(numbered(600, 800), targets):
        for box, label, ignore in zip(moved.boxes, moved.labels.tolist(), moved.ignore.tolist(), strict=True):
            whole = boxes[label, 2:] - boxes[label, :2]
            share = float(((box[2:] - box[:2]) / whole).prod())
            assert ignore == (share < 0.5 and label != 2)
            seen.add((label, ignore))
        assert 0 in moved.labels.tolist() or cut.shape[1] < 800  # the uncertain one is never what is drawn
    assert {(0, False), (1, False), (1, True)} <= seen


@pytest.mark.parametrize("targets", [Targets.empty(), one(-30, -30, -5, 700)])
def test_without_an_object_in_the_image_it_is_any_part_at_one_of_six_scales(targets: Targets) -> None:
    sides = {cut.shape[1] for cut, _ in crops(numbered(600, 700), targets)}
    assert sides == {round(255 / scale) for scale in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)}


def test_in_a_transform_it_takes_the_place_of_the_resize() -> None:
    image, target = numbered(300, 400), one(100, 100, 180, 160)
    transform = Transform(Resize(None, 100), Augmentation(flip=0.0, object_crop=255))
    assert transform.needed_size(300, 400) == (300, 400)  # crops are enlarged
    for seed in range(10):
        cut, moved = transform(image, target, torch.Generator().manual_seed(seed))
        assert cut.shape == (3, 255, 255)
        width, height = (moved.boxes[0, 2:] - moved.boxes[0, :2]).tolist()
        assert 31.5 < width < 96.5 and height == pytest.approx(width * 0.75, rel=1e-3)
    plain, _ = Transform(Resize(None, 100))(image, target, torch.Generator())
    assert plain.shape == (3, 75, 100)


def test_it_is_said_and_a_wrong_side_is_refused() -> None:
    (line, _) = Augmentation(object_crop=255).describe()
    assert "one object, scaled to 255 x 255 pixels" in line
    with pytest.raises(UsageError, match="object_crop must be a side in pixels, 0 for none, got -1"):
        Augmentation(object_crop=-1)
