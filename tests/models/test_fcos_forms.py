"""The rows of FCOS's tables that lie between its forms, each against a slow form written from the papers."""

import math
from dataclasses import replace

import pytest
import torch
from tests.contract.forms import settings
from tests.models.test_fcos import random_targets, slow_assign

from aweigh.graphs.graph import Exported
from aweigh.models import DETECTORS, create, fcos, fcos_forms
from aweigh.ops import boxes as box_ops
from aweigh.structures import Images, Targets

BASE = "fcos_shufflenet_v2_x0_5_fpn_base"
SMALL = {"num_classes": 3, "channels": 16, "head_convs": 1}
STEPS = [  # lower part of table 3 of the TPAMI paper, each on top of those before
    ({"centerness_on_boxes": True}, {"head.centerness_on_boxes": "True"}),
    ({"center_radius": 1.5}, {"candidates": "1.5"}),
    ({"box_loss": "giou"}, {"box_loss": "'giou'"}),
    ({"normalise_distances": True, "exponential": False}, {"normalise_distances": "True", "head.exponential": "False"}),
]


def told(**arguments: object) -> dict[str, object]:
    with torch.device("meta"):
        return said(create(BASE, **arguments))


def said(model: torch.nn.Module) -> dict[str, object]:
    """Its settings; `assign` holds `candidates`, which are there already."""
    return {key.lstrip("."): value for key, value in settings(model).items() if key != ".assign"}


def test_every_improvement_changes_what_it_says_and_all_of_them_are_the_improved_form() -> None:
    given: dict[str, object] = {}
    before = told()
    for step, expected in STEPS:
        given |= step
        after = told(**given)
        changed = {key: str(value) for key, value in after.items() if value != before.get(key)}
        assert changed.keys() == expected.keys(), step
        assert all(value in changed[key] for key, value in expected.items())
        before = after
    with torch.device("meta"):
        assert before == said(create(BASE.removesuffix("_base")))


def test_the_base_form_stands_on_every_backbone_of_the_improved_one() -> None:
    assert {f"{name}_base" for name in fcos.BUILDERS} < {*DETECTORS}
    with torch.device("meta"):
        plain = create("fcos_resnet50_fpn_base", head_norm=None, top="c5", nms_threshold=0.5)  # the first row of FCOS
        model = create("fcos_resnet50_fpn_base")
    assert not [key for key in plain.state_dict() if key.startswith("head.") and "tower.1." in key]
    assert plain.neck.top == "c5" and plain.selection == replace(model.selection, nms_threshold=0.5)
    assert model.selection == fcos.FCOSSelection() and model.selection.nms_threshold == 0.6
    assert create(BASE, **SMALL, nms="soft").nms == "soft"


def test_first_names_of_arguments_of_the_base_form() -> None:
    with torch.device("meta"):
        old = create(BASE, channels=16, convs=2, centerness=False)
        new = create(BASE, channels=16, head_convs=2, quality=None)
    assert settings(old) == settings(new) and old.head.centerness is None
    assert {key: value.shape for key, value in old.state_dict().items()} == {
        key: value.shape for key, value in new.state_dict().items()
    }


def random_output(model: torch.nn.Module, seed: int = 0) -> fcos.FCOSOutput:
    """Of an image of 64 x 96; some distances are 0, and some boxes have no area."""
    torch.manual_seed(seed)
    raw = model.network(torch.rand(2, 3, 64, 96))
    distances = [(torch.rand_like(level) * 3 - 0.3).relu() for level in raw.distances]
    return raw._replace(logits=[torch.randn_like(level) * 2 for level in raw.logits], distances=distances)


@torch.no_grad()
def test_computed_centerness_is_that_of_the_box_the_network_says() -> None:
    """Table 4: no branch and no loss of its own; the probability is multiplied by it where objects are chosen."""
    model = create(BASE.removesuffix("_base"), **SMALL, quality="computed").eval()
    assert model.head.centerness is None
    raw, threshold = random_output(model), 0.05
    degenerate = 0
    for level in range(5):
        pairs = []
        logits, distances = raw.logits[level][0].flatten(1).T.tolist(), raw.distances[level][0].flatten(1).T.tolist()
        for row, (l, t, r, b) in enumerate(distances):  # noqa: E741 (the paper's names)
            flat = max(l, r) == 0 or max(t, b) == 0
            degenerate += flat
            central = 0.0 if flat else math.sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))
            for logit in logits[row]:
                p = 1 / (1 + math.exp(-logit))
                pairs.append(math.sqrt(p * central) if p > threshold else 0.0)
        _, scores, _ = model.best_of_level(raw, level, 30)
        expected = sorted(pairs, reverse=True)[: scores.shape[1]]
        assert scores[0].tolist() == pytest.approx(expected, abs=1e-4)
    assert degenerate > 0
    target = Targets(torch.tensor([[10.0, 10, 60, 60]]), torch.tensor([1]))
    none = create(BASE.removesuffix("_base"), **SMALL, quality=None)
    none.load_state_dict(model.state_dict())
    losses, without = (each.loss(raw, [target, target]) for each in (model, none))
    assert losses == without and set(losses) == {"classification", "box"}


# Several points of a cell (FCOS_PLUS)

QUARTERS = {
    4: [(-1, -1), (1, -1), (-1, 1), (1, 1)],
    5: [(-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1)],
}
WIDTHS = {"logits": 3, "distances": 4, "centerness": 1}


@pytest.mark.parametrize("dense", QUARTERS)
@torch.no_grad()
def test_each_point_of_a_cell_has_the_channels_of_its_own(dense: int) -> None:
    """Points of a cell follow one another; of the channels all of one point come before those of the next."""
    torch.manual_seed(0)
    model = create(BASE, **SMALL, dense_points=dense).eval()
    maps: dict[str, torch.Tensor] = {}
    for name in WIDTHS:

        def keep(module: torch.nn.Module, given: object, output: torch.Tensor, name: str = name) -> None:
            maps.setdefault(name, output)  # that of the finest level, which comes first

        getattr(model.head, name).register_forward_hook(keep)
    raw = model.network(torch.rand(2, 3, 64, 96))
    assert maps["logits"].shape[1:] == (dense * 3, 8, 12) and maps["centerness"].shape[1] == dense
    found = [part[0].flatten(2).mT for part in (raw.logits, raw.distances, raw.quality)]  # [B, A, X]
    row = 0
    for y in range(8):
        for x in range(12):
            for point, (right, down) in enumerate(QUARTERS[dense]):
                assert raw.points[0][row].tolist() == [x * 8 + 4 + 2 * right, y * 8 + 4 + 2 * down]
                for part, (name, width) in zip(
                    found, (("logits", 3), ("distances", 4), ("centerness", 1)), strict=True
                ):
                    cell = maps[name][:, point * width : (point + 1) * width, y, x]
                    torch.testing.assert_close(part[:, row], cell.exp() if name == "distances" else cell)
                row += 1
    assert row == len(raw.points[0])
    assert [len(points) for points in raw.points] == [dense * count for count in (96, 24, 6, 2, 1)]


def test_four_points_of_a_cell_are_a_grid_of_half_the_stride() -> None:
    model = create(BASE, **SMALL, dense_points=4)
    half = box_ops.grid_points(16, 24, (4, 4), (2, 2), like=torch.zeros(1))
    points = model.network(torch.rand(1, 3, 64, 96)).points[0]
    assert {tuple(point) for point in points.tolist()} == {tuple(point) for point in half.tolist()}


@pytest.mark.parametrize("dense", [1, 4, 5])
@pytest.mark.parametrize("radius", [None, 1.5])
def test_dense_points_learn_and_find_what_the_rule_says(dense: int, radius: float | None) -> None:
    """The written out assignment; and what was made from the targets gives them back and costs nothing."""
    torch.manual_seed(0)
    model = create(BASE, **SMALL, dense_points=dense, center_radius=radius).eval()
    raw = model.network(torch.zeros(1, 3, 128, 192))
    targets = random_targets(9, 5)
    targets = replace(targets[~targets.ignore], labels=targets.labels[~targets.ignore] % 3)
    matched = model.assign(raw.points, targets)
    assert matched.tolist() == slow_assign(raw.points, targets, radius, True)
    parts: list[list[torch.Tensor]] = [[], [], []]
    for points, own, level in zip(raw.points, matched.split([len(p) for p in raw.points]), raw.logits, strict=True):
        score = torch.full((len(points), 3), -20.0)
        score[own >= 0, targets.labels[own[own >= 0]]] = 20.0
        sides = box_ops.encode_distances(points, targets.boxes[own.clamp(min=0)])
        central = fcos.centerness_of(sides.clamp(min=0)).clamp(1e-4, 1 - 1e-4).logit()[:, None]
        for values, part in zip((score, sides.clamp(min=0), central), parts, strict=True):
            part.append(values.T.reshape(1, -1, *level.shape[-2:]))
    perfect = fcos.FCOSOutput(*parts, raw.points)
    losses = model.loss(perfect, [targets])
    assert losses["classification"] < 1e-6 and losses["box"] < 1e-5
    (found,) = model.decode(perfect, [(400, 400)])
    learned = matched[matched >= 0].unique()
    overlaps = box_ops.pairwise_iou(targets.boxes[learned], torch.from_numpy(found.boxes))
    assert len(found) == len(learned) > 2 and overlaps.amax(dim=1).min() > 0.999


def test_dense_points_train_without_objects_and_with_every_loss_of_fcos_plus() -> None:
    images = Images.stack([torch.rand(3, 64, 64)] * 2)
    target = Targets(torch.tensor([[10.0, 10, 60, 60]]), torch.tensor([1]))
    for dense in (4, 5):
        for loss in ("iou", "linear_iou", "giou"):
            model = create(BASE, **SMALL, dense_points=dense, box_loss=loss, center_radius=1.5).train()
            for targets in ([target, Targets.empty()], [Targets.empty()] * 2):
                losses = model(images, targets)
                sum(losses.values()).backward()
                assert all(value.isfinite() for value in losses.values())
            assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)


# One level without a pyramid (tables 1 and 2 of the ICCV paper)


def test_level_p4_alone_takes_objects_of_any_size() -> None:
    model = create("fcos_resnet50_p4_base", **SMALL)
    raw = model.network(torch.rand(1, 3, 128, 192))
    assert model.strides == (16,) and [tuple(level.shape[-2:]) for level in raw.logits] == [(8, 12)]
    boxes = torch.tensor([[20.0, 20, 60, 70], [0, 0, 192, 128], [1, 1, 7, 7]])  # small, the image, between points
    targets = Targets(boxes, torch.tensor([0, 1, 2]))
    expected = []
    for x, y in raw.points[0].tolist():
        assert (x % 16, y % 16) == (8, 8)
        inside = [i for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()) if x0 < x < x1 and y0 < y < y1]
        expected.append(inside[0] if inside else -1)  # of two the first, which is the smaller
    assert model.assign(raw.points, targets).tolist() == expected
    assert {*expected} == {0, 1}
    assert not [key for key in model.state_dict() if "layer4" in key or ".p6." in key]


def test_ranges_of_levels_follow_their_strides() -> None:
    paper = [(0, 64), (64, 128), (128, 256), (256, 512), (512, math.inf)]
    assert fcos.level_ranges_of((8, 16, 32, 64, 128)) == paper
    assert fcos.level_ranges_of((8, 16, 32)) == [*paper[:2], (128, math.inf)]  # AdelaiDet's FCOS-RT
    assert fcos.level_ranges_of((16,)) == [(0, math.inf)]
    assert fcos_forms.BASE_RULES["center_radius"] is None


def test_points_of_a_cell_and_computed_centerness_are_exported() -> None:
    """Without a branch on the data: traced on a black image, asked about another."""
    torch.manual_seed(0)
    model = create(BASE, **SMALL, levels=3, dense_points=5, quality="computed", score_threshold=0).eval()
    sizes = torch.tensor([[64, 64]])
    with torch.no_grad():
        program = torch.export.export(Exported(model), (torch.zeros(1, 3, 64, 64), sizes), strict=False).module()
        pixels = torch.rand(1, 3, 64, 64)
        for expected, got in zip(Exported(model)(pixels, sizes), program(pixels, sizes), strict=True):
            torch.testing.assert_close(got, expected)
        assert int(expected.sum()) > 1
