"""CenterNet in space: losses and decoding against slow forms by the authors' rules, object by object."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from aweigh.classes import Classes
from aweigh.errors import UsageError
from aweigh.models import create
from aweigh.models.centernet_3d import BIN_CENTERS, CenterNet3D, angle_of, depth_of, orientation_loss
from aweigh.structures import Images, Targets

CLASSES = Classes.from_names(["car", "person"])


def detector(**options: object) -> CenterNet3D:
    torch.manual_seed(0)
    model: CenterNet3D = create(
        "centernet_shufflenet_v2_x0_5_lite_3d", classes=CLASSES, channels=16, head_channels=8, **options
    )
    return model


def targets(count: int, seed: int = 0) -> Targets:
    random = np.random.default_rng(seed)
    corner, side = random.uniform(0, 40, (count, 2)), random.uniform(4, 24, (count, 2))
    cuboids = random.uniform(0.5, 30, (count, 7))
    cuboids[:, :2], cuboids[:, 6] = corner + side * random.uniform(0, 1, (count, 2)), random.uniform(-3.1, 3.1, count)
    boxes = np.hstack([corner, corner + side])
    labels = torch.tensor(random.integers(0, 2, count))
    return Targets(torch.tensor(boxes).float(), labels, cuboids=torch.tensor(cuboids).float())


def raw_output(images: int, *, middle: bool = True, seed: int = 0) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    channels = {"heatmap": 2, "size": 2, "offset": 2, "depth": 1, "orientation": 8, "dimensions": 3}
    channels |= {"middle": 2} if middle else {}
    return [{name: torch.randn(images, count, 16, 16, generator=generator) for name, count in channels.items()}]


def _bins(alpha: float) -> tuple[bool, bool]:
    """The authors' two bins: each is 4 pi / 3 wide, and they overlap round 0 and pi."""
    return alpha < math.pi / 6 or alpha > 5 * math.pi / 6, alpha > -math.pi / 6 or alpha < -5 * math.pi / 6


def _slow_losses(raw: dict[str, Tensor], images: list[Targets], slots: int | None) -> dict[str, float]:
    """The authors' losses with a place for each of `slots` objects of each image, one object at a time."""
    sums = {"depth": 0.0, "dimensions": 0.0, "middle": 0.0, "offset": 0.0, "size": 0.0}
    cross_entropy, residuals, members = [0.0, 0.0], [0.0, 0.0], [0, 0]
    count = 0
    for image, target in enumerate(images):
        for box, cuboid in zip(target.boxes.tolist(), target.cuboids.tolist(), strict=True):
            count += 1
            cx, cy = (box[0] + box[2]) / 8, (box[1] + box[3]) / 8
            x, y = int(cx), int(cy)
            said = {name: values[image, :, y, x].tolist() for name, values in raw.items()}
            depth = 1 / (1 / (1 + math.exp(-said["depth"][0])) + 1e-6) - 1
            sums["depth"] += abs(depth - cuboid[2])
            sums["dimensions"] += sum(abs(a - b) for a, b in zip(said["dimensions"], cuboid[3:6], strict=True)) / 3
            sums["middle"] += (
                abs(said["middle"][0] - (cuboid[0] / 4 - cx)) + abs(said["middle"][1] - (cuboid[1] / 4 - cy))
            ) / 2
            sums["offset"] += (abs(said["offset"][0] - (cx - x)) + abs(said["offset"][1] - (cy - y))) / 2
            sides = (box[2] - box[0]) / 4, (box[3] - box[1]) / 4
            sums["size"] += 0.1 * (abs(said["size"][0] - sides[0]) + abs(said["size"][1] - sides[1])) / 2
            for number, (inside, center) in enumerate(zip(_bins(cuboid[6]), (-math.pi / 2, math.pi / 2), strict=True)):
                logits = said["orientation"][4 * number : 4 * number + 2]
                total = math.log(sum(map(math.exp, logits)))
                cross_entropy[number] += total - logits[1 if inside else 0]
                if inside:
                    members[number] += 1
                    turn = cuboid[6] - center
                    for value, goal in zip(
                        said["orientation"][4 * number + 2 :][:2], (math.sin(turn), math.cos(turn)), strict=True
                    ):
                        away = abs(value - goal)
                        residuals[number] += 0.5 * away**2 if away < 1 else away - 0.5
    places = count if slots is None else slots * len(images)
    losses = {name: value / places for name, value in sums.items()}
    losses["orientation"] = sum(
        cross_entropy[number] / places + residuals[number] / max(members[number], 1) for number in (0, 1)
    )
    return losses


@pytest.mark.parametrize("slots", [50, None])
def test_losses_are_the_authors(slots: int | None) -> None:
    model = detector(slots=slots)
    raw, images = raw_output(2), [targets(5), targets(9, seed=1)]
    losses = model.loss(raw, images)
    expected = _slow_losses(raw[0], images, slots)
    assert losses.keys() == {"heatmap", *expected}
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(value, rel=1e-4), name


def test_what_is_not_known_gives_no_loss() -> None:
    model = detector(slots=None)
    raw = raw_output(1)
    target = targets(6)
    partly = target.cuboids.clone()
    partly[:3, 2:6] = math.nan  # as after a change of scale
    known = model.loss(raw, [Targets(target.boxes, target.labels, cuboids=partly)])
    rest = model.loss(raw, [target[3:]])
    whole = model.loss(raw, [target])
    for name in ("depth", "dimensions"):
        torch.testing.assert_close(known[name], rest[name])
    for name in ("orientation", "middle", "size", "offset"):
        torch.testing.assert_close(known[name], whole[name])
    nothing = model.loss(raw, [Targets(target.boxes, target.labels, cuboids=torch.full((6, 7), math.nan))])
    assert all(float(nothing[name]) == 0 for name in ("depth", "dimensions", "orientation", "middle"))
    assert all(value.isfinite() for value in nothing.values())


def test_objects_without_cuboids_are_refused() -> None:
    target = targets(2)
    with pytest.raises(UsageError, match="image 1 have no cuboids"):
        detector().loss(raw_output(2), [target, Targets(target.boxes, target.labels)])
    ignored = Targets(target.boxes, target.labels, ignore=torch.tensor([True, True]))
    assert all(value.isfinite() for value in detector().loss(raw_output(2), [target, ignored]).values())


def test_the_bins_are_the_authors() -> None:
    for alpha in np.linspace(-math.pi, math.pi, 1001)[:-1].tolist():
        said = torch.zeros(1, 8)
        losses = []
        for inside in ((0, 0), (0, 1), (1, 0), (1, 1)):
            own = said.clone()
            for number, which in enumerate(inside):
                own[0, 4 * number + which] = 50.0
                turn = alpha - BIN_CENTERS[number]
                own[0, 4 * number + 2 : 4 * number + 4] = torch.tensor([math.sin(turn), math.cos(turn)])
            losses.append((float(orientation_loss(own, torch.tensor([alpha]), torch.tensor(1.0))), inside))
        right = min(losses)[1]
        near_an_end = min(abs(abs(alpha) - end) for end in (math.pi / 6, 5 * math.pi / 6)) < 1e-3
        assert near_an_end or right == tuple(map(int, _bins(alpha))), alpha


def test_angles_come_back() -> None:
    angles = torch.linspace(-math.pi, math.pi, 50)[:-1]
    said = torch.zeros(49, 8)
    for row, alpha in enumerate(angles.tolist()):
        number = 0 if _bins(alpha)[0] else 1
        turn = alpha - BIN_CENTERS[number]
        said[row, 4 * number + 1] = 1.0
        said[row, 4 * number + 2 : 4 * number + 4] = 3 * torch.tensor([math.sin(turn), math.cos(turn)])
    torch.testing.assert_close(angle_of(said), angles, atol=1e-5, rtol=0)


def test_depths_come_back() -> None:
    depths = torch.tensor([0.5, 1.0, 7.0, 60.0])
    torch.testing.assert_close(depth_of(-depths.log()), depths, rtol=1e-3, atol=0)  # 1 / sigmoid(-log d) - 1 = d


@pytest.mark.parametrize("middle", ["learned", "box"])
def test_a_drawn_object_is_read_off_again(middle: str) -> None:
    """Written into the maps by hand: a peak at cell (5, 7), and what is said there."""
    model = detector(middle=middle)
    raw = raw_output(1, middle=middle == "learned")
    said = raw[0]
    said["heatmap"].fill_(-9)
    said["heatmap"][0, 1, 7, 5] = 4.0
    alpha = 0.4
    here = {"size": [6, 4], "offset": [0.25, 0.5], "depth": [-math.log(12.0)], "dimensions": [1.5, -0.1, 4.0]}
    turn = alpha - math.pi / 2
    here["orientation"] = [0, 0.5, 9, 9, 0, 0.7, math.sin(turn), math.cos(turn)]
    if middle == "learned":
        here["middle"] = [-1.0, 0.75]
    for name, values in here.items():
        said[name][0, :, 7, 5] = torch.tensor(values, dtype=torch.float32)
    model.score_threshold = 0.5
    (found,) = model.decode(raw, [(64, 64)])
    assert len(found) == 1 and found.labels.tolist() == [1]
    assert found.boxes[0].tolist() == pytest.approx([21 - 12, 30 - 8, 21 + 12, 30 + 8])
    u, v = (17, 33) if middle == "learned" else (21, 30)
    assert found.cuboids is not None
    assert found.cuboids[0].tolist() == pytest.approx([u, v, 12, 1.5, 0, 4, alpha], rel=1e-3)


def test_it_learns_a_depth() -> None:
    """Two squares of different brightness at different depths, from random weights in a few steps."""
    model = detector(slots=None).train()
    image = torch.full((3, 64, 64), 0.5)
    image[:, 8:24, 8:24], image[:, 36:60, 36:60] = 1.0, 0.0
    boxes = torch.tensor([[8.0, 8, 24, 24], [36, 36, 60, 60]])
    cuboids = torch.tensor([[16.0, 16, 4, 1.5, 1.6, 4, 1.0], [48, 48, 2, 1.7, 0.6, 0.8, -2.0]])
    target = Targets(boxes, torch.tensor([0, 1]), cuboids=cuboids)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    first = None
    for _ in range(40):
        losses = model(Images.stack([image, image]), [target, target])
        first = first or {name: float(value.detach()) for name, value in losses.items()}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    for name in ("depth", "dimensions", "orientation"):
        assert float(losses[name].detach()) < 0.5 * first[name], name


def test_bad_arguments_are_named() -> None:
    with pytest.raises(UsageError, match="slots = 0"):
        detector(slots=0)
    with pytest.raises(UsageError, match="unknown middle 'corner'"):
        detector(middle="corner")
