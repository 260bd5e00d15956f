"""Small images whose objects have tight boxes, masks, keypoints, areas, ignore flags and ids."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from aweigh.feeding.windows import boxes_of_masks
from aweigh.structures import Targets

Scene = tuple[Tensor, Targets]


@st.composite
def scenes(draw: st.DrawFn, *, least: int = 1, first_id: int = 100) -> Scene:
    """Noise of sides from `least` to 40, no object to 5: rectangles, one corner of some cut out, no part under 2 pixels
    thin where the image is not."""
    height, width = draw(st.integers(least, 40)), draw(st.integers(least, 40))
    count = draw(st.integers(0, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def whole(lo: int, hi: int) -> int:
        return int(torch.randint(lo, max(lo, hi) + 1, (), generator=generator))

    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask in masks:
        x0, y0 = whole(0, max(0, width - 4)), whole(0, max(0, height - 4))
        x1, y1 = whole(min(width, x0 + 4), width), whole(min(height, y0 + 4), height)
        mask[y0:y1, x0:x1] = True
        if min(x1 - x0, y1 - y0) >= 4 and torch.rand((), generator=generator) < 0.5:
            mask[y0 : (y0 + y1) // 2, x0 : (x0 + x1) // 2] = False
    boxes = boxes_of_masks(masks)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    keypoints = torch.zeros(count, 3, 3)
    keypoints[:, 0] = torch.cat([middle, torch.full((count, 1), 2.0)], dim=1)
    keypoints[:, 1] = torch.cat([boxes[:, 2:] - 0.5, torch.full((count, 1), 1.0)], dim=1)
    targets = Targets(
        boxes=boxes,
        labels=torch.randint(0, 4, (count,), generator=generator),
        ignore=torch.rand(count, generator=generator) < 0.3,
        area=masks.sum(dim=(1, 2)).float(),
        ids=torch.arange(count) + first_id,
        masks=masks,
        keypoints=keypoints,
    )
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8), targets


def without_masks(scene: Scene) -> Scene:
    targets = scene[1]
    return scene[0], Targets(
        targets.boxes, targets.labels, targets.ignore, targets.area, targets.ids, keypoints=targets.keypoints
    )


def check_inside(image: Tensor, targets: Targets) -> None:
    """All of the targets lies in the image, and is of its size."""
    height, width = image.shape[1:]
    rounding = 1e-3  # pixels
    limits = torch.tensor([width, height]) + rounding
    assert bool((targets.boxes[:, :2] >= -rounding).all()) and bool((targets.boxes[:, 2:] <= limits).all())
    assert bool((targets.area > 0).all()) and len(targets.ids) == len(targets)
    assert targets.masks is None or targets.masks.shape == (len(targets), height, width)
    if targets.keypoints is not None:
        given = targets.keypoints[:, :, 2] > 0
        places = targets.keypoints[given][:, :2]
        assert bool((places >= 0).all()) and bool((places <= limits).all())
        assert bool((targets.keypoints[~given] == 0).all())


def check_tight(targets: Targets, tolerance: float = 1.0) -> None:
    """The box of each mask that has a pixel is that of its object within `tolerance` pixels."""
    seen = targets.masks.any(dim=2).any(dim=1)
    apart = (boxes_of_masks(targets.masks) - targets.boxes)[seen].abs()
    assert bool((apart <= tolerance + 1e-4).all()), apart


def same(first: Targets, second: Targets) -> bool:
    names = ("boxes", "labels", "ignore", "area", "ids", "masks", "keypoints")
    pairs = [(getattr(first, name), getattr(second, name)) for name in names]
    return all((a is None and b is None) or torch.equal(a, b) for a, b in pairs)
