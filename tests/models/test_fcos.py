"""FCOS's own rules: which point learns which box, checked against a slow implementation written out from the paper."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from aweigh.classes import Classes
from aweigh.errors import UsageError
from aweigh.models import create, fcos
from aweigh.ops import boxes as box_ops
from aweigh.structures import Images, Targets

STRIDES = (8, 16, 32, 64, 128)
LEVEL_RANGES = [(0, 64), (64, 128), (128, 256), (256, 512), (512, math.inf)]  # section 3.2


def pyramid_points(height: int = 128, width: int = 192) -> list[torch.Tensor]:
    return [
        box_ops.grid_points(math.ceil(height / s), math.ceil(width / s), (s, s), (s // 2, s // 2), like=torch.zeros(1))
        for s in STRIDES
    ]


def random_targets(count: int, seed: int, height: int = 128, width: int = 192) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.8
    size = 2 + torch.rand(count, 2, generator=generator) ** 2 * torch.tensor([width, height])
    labels = torch.randint(0, 5, (count,), generator=generator)
    ignore = torch.rand(count, generator=generator) < 0.15
    return Targets(torch.cat([corner, corner + size], dim=1), labels, ignore=ignore)


def slow_assign(points, targets, center_radius, inclusive) -> list[int]:
    result = []
    for level, (low, high) in enumerate(LEVEL_RANGES):
        for x, y in points[level].tolist():
            best, best_area, covered = -1, math.inf, False
            for index, (x0, y0, x1, y1) in enumerate(targets.boxes.tolist()):
                distances = (x - x0, y - y0, x1 - x, y1 - y)
                inside = min(distances) > 0
                if targets.ignore[index]:
                    covered |= inside
                    continue
                if center_radius is not None:
                    radius, cx, cy = center_radius * STRIDES[level], (x0 + x1) / 2, (y0 + y1) / 2
                    sub = (max(x0, cx - radius), max(y0, cy - radius), min(x1, cx + radius), min(y1, cy + radius))
                    inside &= min(x - sub[0], y - sub[1], sub[2] - x, sub[3] - y) > 0
                reach = max(distances)
                inside &= low <= reach <= high if inclusive else low < reach < high
                area = (x1 - x0) * (y1 - y0)
                if inside and area < best_area:
                    best, best_area = index, area
            result.append(-2 if best == -1 and covered else best)
    return result


def assign(points: list[torch.Tensor], targets: Targets, **rule: object) -> torch.Tensor:
    return fcos.assign(points, targets, candidates=partial(box_ops.candidates, **rule))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("radius", "inclusive"), [(1.5, True), (None, True), (1.5, False)])
def test_assignment_equals_the_written_out_rule(seed: int, radius: float | None, inclusive: bool) -> None:
    points, targets = pyramid_points(), random_targets(12, seed)
    options = {"strides": STRIDES, "level_ranges": LEVEL_RANGES, "center_radius": radius}
    matched = assign(points, targets, inclusive_ranges=inclusive, **options)
    assert matched.tolist() == slow_assign(points, targets, radius, inclusive)
    portions = assign(points, targets, inclusive_ranges=inclusive, byte_budget=5000, **options)
    assert torch.equal(matched, portions)


@pytest.mark.parametrize("inclusive", [True, False])
def test_a_distance_of_exactly_64_belongs_to_both_levels_or_to_none(inclusive: bool) -> None:
    points = pyramid_points()[0]
    x, y = points[30].tolist()
    box = torch.tensor([[x - 4, y - 4, x + 64, y + 4]])
    for level_range in LEVEL_RANGES[:2]:
        portions = box_ops.candidates(
            [points], box, strides=[8], level_ranges=[level_range], inclusive_ranges=inclusive, center_radius=None
        )
        assert bool(torch.cat([mask for _, mask in portions])[30, 0]) is inclusive


def test_five_thousand_boxes_are_assigned_within_bounded_memory() -> None:
    points, targets = pyramid_points(800, 1344), random_targets(5000, 0, 800, 1344)
    options = {"strides": STRIDES, "level_ranges": LEVEL_RANGES}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        matched = assign(points, targets, **options)
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert 2**20 < peak < 512 * 2**20
    assert (matched >= 0).sum() > 1000


def test_centerness_is_one_in_the_middle_and_the_formula_elsewhere() -> None:
    distances = torch.tensor([[5.0, 5, 5, 5], [1, 2, 4, 8], [0, 3, 3, 3]])
    expected = [1.0, math.sqrt((1 / 4) * (2 / 8)), 0.0]
    assert fcos.centerness_of(distances).tolist() == pytest.approx(expected)


@pytest.fixture(scope="module")
def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return create("fcos_resnet18_fpn", num_classes=5, channels=32, head_convs=1).eval()


def test_perfect_outputs_decode_to_the_targets_and_cost_nothing(small) -> None:
    """Outputs made from the targets themselves must give them back: targets, loss and decoding agree."""
    targets = random_targets(6, 3)
    targets = targets[~targets.ignore]
    raw = small.network(torch.zeros(1, 3, 128, 192))
    matched = small.assign(raw.points, targets)
    logits, distances, quality, start = [], [], [], 0
    for level, points in enumerate(raw.points):
        own = matched[start : start + len(points)]
        start += len(points)
        shape = raw.logits[level].shape[-2:]
        score = torch.full((len(points), 5), -20.0)
        score[own >= 0, targets.labels[own[own >= 0]]] = 20.0
        sides = box_ops.encode_distances(points, targets.boxes[own.clamp(min=0)])
        central = fcos.centerness_of(sides).nan_to_num().clamp(1e-4, 1 - 1e-4)
        logits.append(score.T.reshape(1, 5, *shape))
        distances.append((sides / STRIDES[level]).clamp(min=0).T.reshape(1, 4, *shape))
        quality.append(central.logit().reshape(1, 1, *shape))
    perfect = fcos.FCOSOutput(logits, distances, quality, raw.points)
    losses = small.loss(perfect, [targets])
    assert losses["classification"] < 1e-6 and losses["box"] < 1e-5
    (found,) = small.decode(perfect, [(400, 400)])
    learned = matched[matched >= 0].unique()
    overlaps = box_ops.pairwise_iou(targets.boxes[learned], torch.from_numpy(found.boxes))
    same_class = targets.labels[learned][:, None] == torch.from_numpy(found.labels)
    assert (overlaps * same_class).amax(dim=1).min() > 0.999
    assert len(found) == len(learned)


def test_candidates_are_the_best_pairs_over_all_points_and_classes(small) -> None:
    torch.manual_seed(1)
    raw = small.network(torch.rand(1, 3, 128, 192))
    raw = raw._replace(logits=[torch.randn_like(level) * 2 for level in raw.logits])
    small.candidates_per_level = 40
    try:
        for level in range(5):
            _, scores, labels = small.best_of_level(raw, level, small.candidates_per_level)
            probability = raw.logits[level][0].flatten(1).T.sigmoid()  # [H*W, C]
            product = (probability * raw.quality[level][0].flatten(1).T.sigmoid()).sqrt()
            expected = torch.where(probability > 0.05, product, 0).flatten()
            k = min(40, len(expected))
            torch.testing.assert_close(scores[0], expected.topk(k).values[: scores.shape[1]])
            assert torch.equal(labels[0], expected.topk(k).indices % 5)
    finally:
        small.candidates_per_level = 1000


def test_every_option_builds_and_trains() -> None:
    images = Images.stack([torch.rand(3, 64, 64)] * 2)
    target = Targets(torch.tensor([[10.0, 10, 60, 60]]), torch.tensor([1]))
    for options in (
        {"deformable": True},
        {"quality": "iou"},
        {"quality": None},
        {"top": "c5"},
        {"head_norm": None},
        {"head_norm": "bn"},
        {"neck": "bifpn"},
        {"assignment": "adaptive"},
        {"assignment": "aligned"},
        {"backbone_norm": "frozen_bn", "frozen_stages": 2},
        {"backbone_norm": "gn"},
        *({"box_loss": kind} for kind in ("iou", "linear_iou", "diou", "ciou")),
    ):
        model = create("fcos_resnet18_fpn", num_classes=2, channels=32, head_convs=2, **options).train()
        losses = model(images, [target] * 2)
        sum(losses.values()).backward()
        assert set(losses) == {"classification", "box", options.get("quality", "centerness")} - {None}
        assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None), options


@torch.no_grad()
def test_without_the_quality_branch_the_probability_decides(small) -> None:
    torch.manual_seed(1)
    raw = small.network(torch.rand(1, 3, 128, 192))
    raw = raw._replace(logits=[torch.randn_like(level) * 2 for level in raw.logits], quality=[])
    for level in range(5):
        _, scores, _ = small.best_of_level(raw, level, 40)
        expected = raw.logits[level].sigmoid().flatten().sort(descending=True).values[: scores.shape[1]]
        torch.testing.assert_close(scores[0], torch.where(expected > 0.05, expected, 0).sqrt())
    with pytest.raises(UsageError, match="quality is None, which does not go with the head's quality branch"):
        fcos.FCOS(small.backbone, small.neck, small.head, classes=small.classes, quality=None)


def test_parameter_counts_are_the_published_ones() -> None:
    classes = Classes.numbered(91)
    model = create("fcos_resnet50_fpn_torchvision", classes=classes)
    assert sum(value.numel() for value in model.parameters()) == 32_322_720
    assert sum(value.numel() for value in model.head.parameters()) == 4_946_016
    model = create("fcos_resnet50_fpn_torchvision", classes=Classes.numbered(80))
    assert sum(value.numel() for value in model.head.parameters()) == 4_920_661


def test_names_and_arguments_are_checked() -> None:
    with pytest.raises(UsageError, match="Did you mean 'fcos_resnet50_fpn'"):
        create("fcos_resnet50")
    with pytest.raises(UsageError, match="there is no option 'chanels'"):
        create("fcos_resnet18_fpn", chanels=3)
    with pytest.raises(UsageError, match="at least one class"):
        create("fcos_resnet18_fpn", num_classes=0)
    with pytest.raises(UsageError, match="unknown assignment 'nearest'; known: ranges, adaptive, aligned"):
        create("fcos_resnet18_fpn", assignment="nearest")
    with pytest.raises(UsageError, match="unknown neck 'nas'; known: fpn, bottom_up, top_down, pan, hrfpn"):
        create("fcos_resnet18_fpn", neck="nas")
    with pytest.raises(UsageError, match="timm has no model 'resnet'"):
        create("fcos_timm_fpn", backbone="resnet")
    with pytest.raises(UsageError, match="bring their own classes"):
        create("fcos_resnet50_fpn", weights="torchvision", num_classes=3)


@pytest.mark.parametrize("kind", ["ignore", "uncertain"])
@pytest.mark.parametrize("assignment", ["ranges", "adaptive", "aligned"])
def test_the_index_is_that_among_all_boxes(assignment: str, kind: str) -> None:
    """One that is nobody's target stands first: points inside the second box learn its class, and no others."""
    torch.manual_seed(0)
    model = create("fcos_shufflenet_v2_x0_5_fpn", num_classes=4, channels=16, head_convs=1, assignment=assignment)
    boxes = torch.tensor([[120.0, 8, 180, 60], [10, 12, 70, 70]])
    targets = Targets(boxes, torch.tensor([1, 2]), **{kind: torch.tensor([True, False])})
    raw = model.network(torch.rand(1, 3, 128, 192))
    logits, distances = (torch.cat([part.flatten(2).mT for part in parts], 1) for parts in (raw.logits, raw.distances))
    labels, positive, learned = model._targets(raw.points, [targets], logits, distances)
    points = torch.cat(raw.points)
    inside = box_ops.encode_distances(points, boxes[1]).amin(dim=1) > 0
    assert positive.any() and labels[positive].unique().tolist() == [2] and not positive[0, ~inside].any()
    assert learned.eq(boxes[1]).all() and len(learned) == positive.sum()
    assert (labels == -2).any() == (kind == "ignore")
    assert (model.assign is None) == (assignment == "aligned")


# --- partial labels -----------------------------------------------------------------------------------------------


def logit_gradient(model: torch.nn.Module, targets: list[Targets]) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of the classification loss, `[B, A, C]`, and the points `[A, 2]`."""
    pixels = torch.rand(len(targets), 3, 128, 192, generator=torch.Generator().manual_seed(0))
    raw = model.network(pixels)
    model.loss(raw, targets)["classification"].backward(inputs=raw.logits)
    gradients = [level.grad.flatten(2).transpose(1, 2) for level in raw.logits]
    return torch.cat(gradients, dim=1), torch.cat(raw.points)


@pytest.fixture
def detector() -> torch.nn.Module:
    torch.manual_seed(0)
    return create("fcos_shufflenet_v2_x0_5_fpn", num_classes=4, channels=32, head_convs=1)


def keep_gradients(model: torch.nn.Module) -> None:
    network = model.network

    def kept(pixels: torch.Tensor) -> fcos.FCOSOutput:
        raw = network(pixels)
        for level in raw.logits:
            level.retain_grad()
        return raw

    model.network = kept


def test_what_an_image_was_not_labelled_for_gives_no_negative_loss(detector: torch.nn.Module) -> None:
    keep_gradients(detector)
    objects = Targets(torch.tensor([[20.0, 20, 60, 70], [90, 30, 150, 100]]), torch.tensor([0, 2]))
    known = torch.tensor([True, False, False, True])
    gradient, points = logit_gradient(detector, [replace(objects, known=known), objects])
    whole, _ = logit_gradient(detector, [objects, objects])
    assert torch.equal(gradient[1], whole[1])  # the other image is not touched
    assert torch.equal(gradient[0][:, known], whole[0][:, known]) and whole.ne(0).all()
    assert gradient[0][:, 1].eq(0).all()
    positive = detector.assign([points[: 16 * 24], *points[16 * 24 :].split([8 * 12, 24, 6, 2])], objects) == 1
    assert positive.any()
    torch.testing.assert_close(gradient[0][positive, 2], whole[0][positive, 2])  # its own box still counts
    assert gradient[0][~positive, 2].eq(0).all()


def test_a_guess_is_nobodys_target_and_gives_its_class_no_negative_loss(detector: torch.nn.Module) -> None:
    keep_gradients(detector)
    guess, other = torch.tensor([[10.0, 10, 90, 90]]), torch.tensor([[40.0, 40, 60, 60]])
    objects = Targets(torch.cat([guess, other]), torch.tensor([1, 3]), uncertain=torch.tensor([True, False]))
    gradient, points = logit_gradient(detector, [objects])
    without, _ = logit_gradient(detector, [objects[1:]])
    inside = ((points > 10) & (points < 90)).all(dim=1)
    assert inside.any() and gradient[0][inside, 1].eq(0).all()
    expected = without.clone()
    expected[0, inside, 1] = 0
    assert torch.equal(gradient, expected) and without.ne(0).all()
    raw = detector.network(torch.rand(1, 3, 128, 192))
    with_guess, alone = detector.loss(raw, [objects]), detector.loss(raw, [objects[1:]])
    assert with_guess["box"] == alone["box"] and with_guess["classification"] < alone["classification"]
    assert with_guess["centerness"] == alone["centerness"]
    only = detector.loss(raw, [objects[:1]])
    assert all(value.isfinite() for value in only.values()) and only["box"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_assignment_is_that_without_the_guesses(seed: int) -> None:
    points, targets = pyramid_points(), random_targets(12, seed)
    uncertain = torch.rand(12, generator=torch.Generator().manual_seed(seed)) < 0.4
    options = {"strides": STRIDES, "level_ranges": LEVEL_RANGES}
    alone = assign(points, targets[~uncertain], **options)
    matched = assign(points, replace(targets, uncertain=uncertain), **options)
    back = torch.where(alone >= 0, (~uncertain).nonzero().squeeze(1)[alone.clamp(min=0)], alone)
    assert uncertain.any() and torch.equal(matched, back) and (alone >= 0).any()


def test_known_classes_must_be_those_of_the_model(detector: torch.nn.Module) -> None:
    raw = detector.network(torch.rand(1, 3, 128, 192))
    with pytest.raises(UsageError, match=r"image 0 says of 3 classes .* but the model knows 4"):
        detector.loss(raw, [replace(Targets.empty(), known=torch.ones(3, dtype=torch.bool))])
