"""CenterNet for poses: what it learns and how it decodes, against values worked out by hand and slow forms."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from aweigh.classes import KeypointSet
from aweigh.errors import UsageError
from aweigh.feeding.transforms import flip_horizontally
from aweigh.models import DETECTORS, PUBLISHED, create
from aweigh.models.centernet_pose import CenterNetPose
from aweigh.ops.heatmaps import UNKNOWN, gaussian_radius
from aweigh.structures import Targets
from aweigh.weights.coco import PERSON

LITE = "centernet_shufflenet_v2_x0_5_lite_pose"
THREE = {"names": ["nose", "left_paw", "right_paw"], "flip_pairs": [[1, 2]], "sigmas": [0.03, 0.1, 0.1]}
NOWHERE = [0.0, 0.0, 0.0]


def lite(keypoints: object = THREE, **options: object) -> CenterNetPose:
    torch.manual_seed(0)
    model: CenterNetPose = create(LITE, keypoints=keypoints, **options)
    return model


def outputs(images: int, height: int, width: int, *, classes: int = 1, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (height, width)
    return {
        "heatmap": torch.randn(images, classes, *shape, generator=generator) * 2 - 2,
        "offset": torch.rand(images, 2, *shape, generator=generator),
        "size": torch.rand(images, 2, *shape, generator=generator) * 14,
        "joints": torch.randn(images, 6, *shape, generator=generator) * 3,
        "joint_heatmap": torch.randn(images, 3, *shape, generator=generator) * 2 - 3,
        "joint_offset": torch.rand(images, 2, *shape, generator=generator),
    }


def person(boxes: list[list[float]], keypoints: list[list[list[float]]], **rest: Tensor) -> Targets:
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    return Targets(torch.tensor(boxes), labels, keypoints=torch.tensor(keypoints), **rest)


# What there is to learn


def test_goals_of_one_object_by_hand() -> None:
    # Centre (25, 30) px in cell (6, 7), radius 1 of 5 x 8 cells; the first joint in cell (3, 9), the third beyond the
    # map of 24 x 16 cells, the second not labelled.
    target = person([[10.0, 21, 40, 39]], [[[15.0, 37, 1], [30, 30, 0], [96, 20, 2]]])
    goals = lite().goals([Targets.empty(), target], (16, 24))
    assert goals.image.tolist() == [1] and goals.cell.tolist() == [7 * 24 + 6] and goals.size.tolist() == [[7.5, 4.5]]
    assert (goals.owner.tolist(), goals.joint.tolist()) == ([0], [0])
    assert goals.place.tolist() == [[3.75 - 6, 9.25 - 7]]  # from the cell of the centre, not from the centre
    assert goals.joint_cell.tolist() == [9 * 24 + 3] and goals.joint_offset.tolist() == [[0.75, 0.25]]
    expected = torch.zeros(2, 3, 16, 24)
    for row in range(8, 11):
        for column in range(2, 5):
            expected[1, 0, row, column] = math.exp(-((row - 9) ** 2 + (column - 3) ** 2) / (2 * 0.5**2))
    torch.testing.assert_close(goals.joint_heatmap, expected)


@pytest.mark.parametrize(
    ("point", "cell"), [([0.0, 0.0], 0), ([63.9, 31.9], 7 * 16 + 15), ([64.0, 8.0], None), ([8.0, -0.1], None)]
)
def test_joints_at_the_border(point: list[float], cell: int | None) -> None:
    """Of an object of one pixel, far from its joint: joints outside a box teach, those beyond the map do not."""
    goals = lite().goals([person([[31.0, 15, 32, 16]], [[[*point, 2.0], NOWHERE, NOWHERE]])], (8, 16))
    assert goals.joint_cell.tolist() == ([] if cell is None else [cell])
    assert (goals.joint_heatmap > 0).sum() == (cell is not None) and len(goals.image) == 1


def test_an_object_without_labelled_joints_is_unknown_or_a_centre() -> None:
    boxes = [[4.0, 4, 28, 28], [36, 4, 60, 28], [40, 0, 56, 32]]  # the last two have the same centre
    seen = [[40.0, 8, 2], [56, 8, 1], NOWHERE]
    target = person(boxes, [[NOWHERE] * 3, [NOWHERE] * 3, seen])
    unknown, center = (lite(without_keypoints=kind).goals([target], (8, 16)) for kind in ("unknown", "center"))
    assert unknown.heatmap[0, 0, 4, 4] == UNKNOWN and center.heatmap[0, 0, 4, 4] == 1
    assert unknown.heatmap[0, 0, 4, 12] == center.heatmap[0, 0, 4, 12] == 1  # the one with joints counts
    for goals in (unknown, center):
        assert goals.size.tolist() == [[4, 8]] and goals.row.tolist() == [2]  # and alone learns its size
        assert 0 < goals.heatmap[0, 0, 4, 3] < 1
        assert goals.owner.tolist() == [0, 0] and goals.joint.tolist() == [0, 1]


def test_what_nobody_knows_is_marked_in_the_maps_of_joints() -> None:
    boxes, joints = [[0.0, 0, 16, 16], [4, 4, 12, 12], [16, 16, 32, 32]], [[6.0, 6, 2], NOWHERE, NOWHERE]
    flags = {"ignore": torch.tensor([True, False, False]), "uncertain": torch.tensor([False, False, True])}
    goals = lite().goals([person(boxes, [joints] * 3, **flags)], (8, 8))
    corner = torch.zeros(8, 8, dtype=torch.bool)
    corner[:4, :4] = corner[4:, 4:] = True
    for number, heatmap in enumerate(goals.joint_heatmap[0]):
        assert torch.equal(heatmap >= UNKNOWN, corner)
        assert (heatmap == 1).nonzero().tolist() == ([[1, 1]] if number == 0 else [])
    known = person([[4.0, 4, 12, 12]], [joints], known=torch.tensor([True, False]))
    torch.manual_seed(0)
    two = create(LITE, num_classes=2, keypoints=THREE).goals([known], (8, 8))
    assert (two.joint_heatmap >= UNKNOWN).all() and (two.heatmap[0, 0] < UNKNOWN).sum() == 63


# Losses


def slow_loss(stack: dict[str, Tensor], targets: list[Targets]) -> dict[str, float]:
    """The authors' normalisers, object by object and joint by joint, in float64; all objects have a labelled joint."""
    images, number, height, width = stack["joint_heatmap"].shape
    goal = torch.zeros(images, number, height, width, dtype=torch.float64)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    joints = offset = 0.0
    count = 0
    for image, target in enumerate(targets):
        keypoints = [] if target.keypoints is None else target.keypoints.tolist()
        for box, points in zip((target.boxes / 4).tolist(), keypoints, strict=True):
            center = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
            size = [math.ceil(box[3] - box[1]), math.ceil(box[2] - box[0])]
            radius = int(gaussian_radius(torch.tensor(size)))
            for k, (x, y, visible) in enumerate(points):
                x, y = x / 4, y / 4
                if visible == 0 or not (0 <= x < width and 0 <= y < height):
                    continue
                count += 1
                said = stack["joints"][image, 2 * k : 2 * k + 2, center[1], center[0]].tolist()
                joints += abs(said[0] - (x - center[0])) + abs(said[1] - (y - center[1]))
                column, row = int(x), int(y)
                said = stack["joint_offset"][image, :, row, column].tolist()
                offset += abs(said[0] - (x - column)) + abs(said[1] - (y - row))
                near = ((rows - row).abs() <= radius) & ((columns - column).abs() <= radius)
                squared = ((rows - row) ** 2 + (columns - column) ** 2).double()
                gaussian = torch.exp(-squared / (2 * ((2 * radius + 1) / 6) ** 2)) * near
                goal[image, k] = torch.maximum(goal[image, k], gaussian)
    p = stack["joint_heatmap"].double().sigmoid()
    positive = goal == 1
    focal = -((1 - p) ** 2 * p.log())[positive].sum() - ((1 - goal) ** 4 * p**2 * (1 - p).log())[~positive].sum()
    return {
        "joints": joints / (2 * count + 1e-4),
        "joint_heatmap": float(focal) / max(1, int(positive.sum())),
        "joint_offset": offset / (2 * count + 1e-4),
    }


def crowd(count: int, height: int, width: int) -> Targets:
    """Boxes of one pixel and of half the image, many with a common centre; joints in sight, hidden, unlabelled, and
    some beyond the image."""
    generator = torch.Generator().manual_seed(count)
    corner = (torch.rand(count, 2, generator=generator) * torch.tensor([width - 2, height - 2])).round()
    sides = 1 + (torch.rand(count, 2, generator=generator) ** 4 * torch.tensor([width / 2, height / 2])).round()
    boxes = torch.cat([corner, torch.minimum(corner + sides, torch.tensor([float(width), height]))], dim=1)
    places = (torch.rand(count, 3, 2, generator=generator) * 1.2 - 0.1) * torch.tensor([width, height])
    visible = torch.randint(0, 3, (count, 3, 1), generator=generator).float()
    visible[:, 0] = 2  # so that each counts
    return Targets(boxes, torch.zeros(count, dtype=torch.int64), keypoints=torch.cat([places, visible], dim=2))


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (7, 200)])
def test_losses_are_those_of_a_slow_form(counts: tuple[int, int]) -> None:
    stack, targets = outputs(2, 20, 28), [crowd(count, 80, 112) for count in counts]
    losses = {name: float(value) for name, value in lite().loss([stack], targets).items()}
    expected = slow_loss(stack, targets)
    assert {name: losses[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-7)
    boxes = create("centernet_shufflenet_v2_x0_5_lite", num_classes=1).loss([stack], targets)
    assert {name: losses[name] for name in boxes} == pytest.approx({k: float(v) for k, v in boxes.items()})


def test_objects_without_any_joint_teach_no_joint_and_no_size() -> None:
    stack = {name: value.requires_grad_() for name, value in outputs(1, 8, 8).items()}
    losses = lite().loss([stack], [person([[4.0, 4, 28, 28]], [[NOWHERE] * 3])])
    assert all(losses[name] == 0 for name in ("offset", "size", "joints", "joint_offset"))
    sum(losses.values()).backward()
    assert stack["heatmap"].grad[0, 0, 4, 4] == 0 and stack["heatmap"].grad[0, 0, 4, 3] > 0
    assert (stack["joint_heatmap"].grad > 0).all()  # that its joints are background the authors' code says too


def test_stacks_count_alike_and_each_loss_has_its_weight() -> None:
    targets = [crowd(5, 64, 64)]
    first, second = outputs(1, 16, 16, seed=1), outputs(1, 16, 16, seed=2)
    model = lite()
    alone = [model.loss([stack], targets) for stack in (first, second)]
    together = model.loss([first, second], targets)
    for name, value in together.items():
        torch.testing.assert_close(value, (alone[0][name] + alone[1][name]) / 2)
    weights = {"joint": 2.0, "joint_heatmap": 3.0, "joint_offset": 5.0}
    heavier = lite(**{f"{name}_weight": weight for name, weight in weights.items()}).loss([first, second], targets)
    factors = {"joints": 2.0, "joint_heatmap": 3.0, "joint_offset": 5.0}
    for name, value in together.items():
        torch.testing.assert_close(heavier[name], value * factors.get(name, 1.0))


# Decoding


def slow_poses(stack: dict[str, Tensor], size_hw: tuple[int, int]) -> list[tuple[float, list[list[float]]]]:
    """The score and joints of each object of one image, best first."""
    height, width = math.ceil(size_hw[0] / 4), math.ceil(size_hw[1] / 4)

    def peaks(heatmap: Tensor) -> list[tuple[float, int, int]]:
        found = []
        for row in range(height):
            for column in range(width):
                value = heatmap[row, column]
                around = heatmap[max(0, row - 1) : min(height, row + 2), max(0, column - 1) : min(width, column + 2)]
                if (around <= value).all():
                    found.append((float(value.sigmoid()), row, column))
        return sorted(found, reverse=True)[:100]

    offsets = stack.get("joint_offset", torch.full((1, 2, 16, 24), 0.5))[0]
    poses = []
    for score, row, column in peaks(stack["heatmap"][0, 0]):
        (dx, dy), (w, h) = (stack[name][0, :, row, column].tolist() for name in ("offset", "size"))
        x, y, joints = column + dx, row + dy, []
        for k in range(3):
            jx, jy = (stack["joints"][0, 2 * k : 2 * k + 2, row, column] + torch.tensor([column, row])).tolist()
            if "joint_heatmap" not in stack:
                joints.append([4 * jx, 4 * jy, 1.0])
                continue
            heatmap = stack["joint_heatmap"][0, k]
            here = heatmap[min(max(math.floor(jy), 0), 15), min(max(math.floor(jx), 0), 23)]
            best, place = math.inf, [4 * jx, 4 * jy, float(here.sigmoid())]
            for height_of_peak, r, c in peaks(heatmap):
                px, py = c + float(offsets[0, r, c]), r + float(offsets[1, r, c])
                away = math.hypot(px - jx, py - jy)
                if height_of_peak > 0.1 and away < best:
                    best = away
                    in_box = x - w / 2 <= px <= x + w / 2 and y - h / 2 <= py <= y + h / 2
                    moved = [4 * px, 4 * py, height_of_peak] if in_box and away <= 0.3 * max(w, h) else None
                    kept = [4 * jx, 4 * jy, float(here.sigmoid())]
                    place = kept if moved is None else moved
            joints.append(place)
        poses.append((score, joints))
    return poses


@pytest.mark.parametrize("size_hw", [(64, 96), (41, 90)])
@pytest.mark.parametrize("form", ["whole", "joint_offsets", "joint_heatmaps"])
def test_decoding_is_that_of_a_slow_form(form: str, size_hw: tuple[int, int]) -> None:
    """In whole, without the offsets of joints, and by the regression alone."""
    stack, nonsense = outputs(1, 16, 24), outputs(1, 16, 24, seed=1)  # the last stack alone predicts
    model = lite(**({} if form == "whole" else {form: False}))
    heads = model.heads[0]
    assert [name for name in stack if name not in heads] == {
        "whole": [],
        "joint_offsets": ["joint_offset"],
        "joint_heatmaps": ["joint_heatmap", "joint_offset"],
    }[form]
    stack = {name: value for name, value in stack.items() if name in heads}
    (found,) = model.decode([nonsense, stack], [size_hw])
    expected = slow_poses(stack, size_hw)
    assert len(found) == len(expected) > 20
    np.testing.assert_allclose(found.scores, [score for score, _ in expected], atol=1e-5, rtol=1.3e-6)
    np.testing.assert_allclose(found.keypoints, [joints for _, joints in expected], atol=1e-4, rtol=1e-5)
    assert found.keypoint_set == KeypointSet.of(THREE)
    if form == "whole" and size_hw == (64, 96):  # both ways are taken
        regressed = slow_poses({k: v for k, v in stack.items() if k != "joint_heatmap"}, size_hw)
        apart = found.keypoints[..., :2] != np.float32([joints for _, joints in regressed])[..., :2]
        assert 0.1 < apart.any(axis=2).mean() < 0.9


def one_peak(place: tuple[int, int], logit: float) -> list[float]:
    """Where the joint goes of an object of 16 x 16 cells round cell (16, 8), regressed to (18, 8), from a peak."""
    stack = {name: torch.zeros(1, channels, 16, 32) for name, channels in (("offset", 2), ("joint_offset", 2))}
    stack |= {
        name: torch.full((1, channels, 16, 32), -9.0) for name, channels in (("heatmap", 1), ("joint_heatmap", 3))
    }
    stack |= {"size": torch.full((1, 2, 16, 32), 16.0), "joints": torch.zeros(1, 6, 16, 32)}
    stack["heatmap"][0, 0, 8, 16], stack["joints"][0, 0] = 3.0, 2.0
    stack["joint_heatmap"][0, 0, place[1], place[0]] = logit
    model = lite()
    model.score_threshold = 0.5
    (found,) = model.decode([stack], [(64, 128)])
    assert len(found) == 1
    return [value / 4 for value in found.keypoints[0, 0, :2].tolist()]


def test_a_joint_moves_to_a_peak_that_is_sure_near_and_in_the_box() -> None:
    tenth = math.log(0.1 / 0.9)
    assert one_peak((21, 10), 0.0) == [21, 10] and one_peak((21, 10), tenth + 1e-3) == [21, 10]
    assert one_peak((21, 10), tenth - 1e-3) == [18, 8]
    assert one_peak((22, 10), 0.0) == [22, 10] and one_peak((23, 8), 0.0) == [18, 8]  # 4.5 and 5 cells away, 4.8 is all
    stack_in_box = one_peak((18, 12), 0.0)
    assert stack_in_box == [18, 12]


def test_what_is_learned_perfectly_is_found_exactly() -> None:
    boxes = [[10.0, 21, 40, 39], [40, 0, 96, 64], [95, 63, 96, 64]]
    joints = [
        [[12.0, 23, 2], [39, 38, 1], [25, 30, 2]],
        [[41.5, 3, 2], [90, 50, 2], [70, 33, 2]],
        [[95.5, 63.5, 2]] * 3,
    ]
    target, model = person(boxes, joints), lite()
    goals = model.goals([target], (16, 24))
    raw = {name: torch.zeros(1, channels, 16, 24) for name, channels in (("offset", 2), ("size", 2), ("joints", 6))}
    raw["joint_offset"] = torch.zeros(1, 2, 16, 24)
    for name, values in (("heatmap", goals.heatmap), ("joint_heatmap", goals.joint_heatmap)):
        raw[name] = torch.logit(values * 0.9 + 0.05)
    raw["offset"].flatten(2)[0, :, goals.cell] = goals.offset.T
    raw["size"].flatten(2)[0, :, goals.cell] = goals.size.T
    raw["joint_offset"].flatten(2)[0, :, goals.joint_cell] = goals.joint_offset.T
    for owner, joint, place in zip(goals.owner, goals.joint, goals.place, strict=True):  # a little wrong
        raw["joints"].flatten(2)[0, 2 * joint : 2 * joint + 2, goals.cell[owner]] = place + 0.05
    model.score_threshold = 0.9
    (found,) = model.decode([raw], [(64, 96)])
    order = [int(np.abs(found.boxes - box).max(axis=1).argmin()) for box in boxes]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(found.keypoints[order][..., :2], target.keypoints[..., :2], atol=1e-4, rtol=0)
    assert np.abs(found.keypoints[..., 2] - 0.95).max() < 1e-5


def test_what_is_said_of_a_mirrored_picture_is_the_same_turned_back() -> None:
    boxes, joints = [[10.0, 21, 41, 39], [50, 1, 95, 60]], [[[15.0, 37.5, 1], [33, 22, 2], [18.5, 30, 2]]] * 2
    target, model = person(boxes, joints), lite()

    def said(target: Targets) -> dict[str, Tensor]:
        goals = model.goals([target], (16, 24))
        maps = {name: torch.rand(1, 2, 16, 24) for name in ("offset", "size", "joint_offset")}
        maps |= {name: torch.logit(getattr(goals, name) * 0.9 + 0.05) for name in ("heatmap", "joint_heatmap")}
        maps["joints"] = torch.full((1, 6, 16, 24), torch.nan)
        for owner, joint, place in zip(goals.owner, goals.joint, goals.place, strict=True):
            maps["joints"].flatten(2)[0, 2 * joint : 2 * joint + 2, goals.cell[owner]] = place
        return maps

    plain = said(target)
    mirrored = said(flip_horizontally(torch.zeros(3, 64, 96), target, keypoint_pairs=model.keypoint_set.flip_pairs)[1])
    (mean,) = model.average_flipped([plain], [mirrored], torch.tensor([0]))
    assert mean.keys() == plain.keys() and plain["joints"].isfinite().sum() == 12
    for name in ("heatmap", "joint_heatmap", "joints", "joint_offset"):
        torch.testing.assert_close(mean[name], plain[name], atol=1e-5, rtol=1e-5, equal_nan=True)


# Networks


@pytest.mark.parametrize(
    ("body", "boxes", "width", "stacks", "count"),
    [("dla34", 19_675_892, 64, 1, 20_112_346), ("hourglass104", 191_284_008, 256, 2, 194_811_124)],
)
def test_parameters_are_as_many_as_the_authors(body: str, boxes: int, width: int, stacks: int, count: int) -> None:
    """Those of 80 classes; in each stack three heads less, six more, of 1, 2, 2, 34, 17 and 2 channels."""
    with torch.device("meta"):
        model = create(f"centernet_{body}_pose")
    hidden = width * 256 * 9 + 256
    expected = boxes + stacks * (6 * hidden + 257 * 58 - 3 * hidden - 257 * 84)
    assert sum(value.numel() for value in model.parameters()) == expected == count
    assert model.classes == PERSON and len(model.keypoint_set) == 17 and model.extras == ("keypoints",)


def test_every_heat_map_starts_at_a_tenth() -> None:
    (heads,) = lite().heads
    start = {name: round(float(head[-1].bias.detach().sigmoid().mean()), 2) for name, head in heads.items()}
    assert start == {
        "heatmap": 0.1, "size": 0.5, "offset": 0.5, "joints": 0.5, "joint_heatmap": 0.1, "joint_offset": 0.5,
    }  # fmt: skip


def test_published_weights_say_what_they_are() -> None:
    results = {"dla34": {"3x": 58.9, "1x": 54.7}, "hourglass104": {"3x": 64.0, "1x": 58.7}}
    for body, short in (("dla34", "dla"), ("hourglass104", "hg")):
        records = PUBLISHED[f"centernet_{body}_pose"]
        for name, expected in results[body].items():
            record = records[name]
            assert record.metrics == {"keypoint AP with flipping": expected} and record.licence.startswith("MIT")
            assert record.file == f"multi_pose_{short}_{name}.pth" and record.classes == PERSON
            assert record.builder == f"centernet_{body}_pose" and DETECTORS[record.builder]


def test_wrong_arguments_and_targets_are_named() -> None:
    with pytest.raises(UsageError, match="unknown without_keypoints 'centre'"):
        lite(without_keypoints="centre")
    target, stack = Targets(torch.tensor([[4.0, 4, 28, 28]]), torch.tensor([0])), outputs(2, 8, 8)
    with pytest.raises(UsageError, match=r"image 1 need keypoints \[N, 3, 3\], got none"):
        lite().loss([stack], [Targets.empty(), target])
    with pytest.raises(UsageError, match=r"image 0 need keypoints \[N, 3, 3\], got \[N, 17, 3\]"):
        lite().loss([stack], [person([[4.0, 4, 28, 28]], [[NOWHERE] * 17]), Targets.empty()])
