"""CornerNet-Saccade: what it learns, and its looks, against slow forms that go object by object and crop by crop."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.errors import AweighError, UsageError
from aweigh.models import PUBLISHED, create
from aweigh.models.cornernet_saccade import CornerNetSaccade, SaccadeOutput, attention_goals
from aweigh.ops.heatmaps import UNKNOWN, gaussian_radius
from aweigh.ops.patches import Patches, into_patches, whole_images
from aweigh.structures import Images, Targets
from aweigh.weights.load import locate

SIDE, CELLS, KINDS = 64, 16, ("top_left", "bottom_right")
SIZES = {"large": (96, math.inf, 16, 1), "medium": (32, 96, 8, 2), "small": (0, 32, 4, 4)}  # sides, stride, zoom
NARROW = {"channels": [8, 8, 8, 12], "point_channels": 8, "attention_channels": 8, "stacks": 2}


@pytest.fixture(scope="module")
def model() -> CornerNetSaccade:
    """In evaluation mode, with weights by chance that say something different of each cell. Not to be changed."""
    torch.manual_seed(3)
    made = create("cornernet_saccade", num_classes=3, input_size=SIDE, small_size=48, min_size=8.0, **NARROW)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    made.train()(Images(torch.rand(8, 3, SIDE, SIDE), [(SIDE, SIDE)] * 8))
    with torch.no_grad():
        for name, value in made.named_parameters():  # the last layers: scores on both sides of each threshold
            if name.endswith("3.weight"):
                value.mul_({"embedding": 2.0, "offset": 1.0}.get(name.split(".")[-3], 10.0))
            elif name.endswith("3.bias"):
                value.fill_(0.3 if "heatmap" in name or "attention" in name else 0.0)
    return made.eval()


# What there is to learn


def square(shape: tuple[int, ...], image: int, label: int, at: tuple[int, int], radius: int) -> Tensor:
    """A Gaussian in its square, 0 elsewhere."""
    drawn = torch.zeros(shape)
    for row in range(max(0, at[1] - radius), min(shape[2], at[1] + radius + 1)):
        for column in range(max(0, at[0] - radius), min(shape[3], at[0] + radius + 1)):
            squared = (row - at[1]) ** 2 + (column - at[0]) ** 2
            drawn[image, label, row, column] = math.exp(-squared / (2 * ((2 * radius + 1) / 6) ** 2))
    return drawn


def slow_goals(targets: list[Targets]) -> tuple[dict[str, Tensor], list[list[tuple[int, int, float, float]]]]:
    """Heat maps by kind, and of each learned corner its cell and where in it the corner lies; boxes in pixels of the
    patch, none of them uncertain."""
    shape = (len(targets), 3, CELLS, CELLS)
    maps = {kind: torch.zeros(shape) for kind in KINDS}
    hidden = {kind: torch.zeros(shape) for kind in KINDS}
    corners: list[list[tuple[int, int, float, float]]] = []
    for image, target in enumerate(targets):
        for box, label, ignore in zip(target.boxes.tolist(), target.labels.tolist(), target.ignore, strict=True):
            ends = [min(max(value * CELLS / SIDE, 0.0), CELLS) for value in box]
            if ends[0] >= ends[2] or ends[1] >= ends[3]:
                continue
            size = torch.tensor([math.ceil(ends[3] - ends[1]), math.ceil(ends[2] - ends[0])])
            radius = int(gaussian_radius(size, kind="corrected", min_iou=0.5))
            long_enough = max(ends[2] - ends[0], ends[3] - ends[1]) * SIDE / CELLS >= 8
            learned = long_enough and not ignore
            for kind, (x, y) in zip(KINDS, (ends[:2], ends[2:]), strict=True):
                at = (min(int(x), CELLS - 1), min(int(y), CELLS - 1))
                drawn = square(shape, image, label, at, radius)
                into = maps if learned else hidden
                into[kind] = torch.maximum(into[kind], drawn)
                if learned:
                    corners.append([(*at, x - at[0], y - at[1])])
    for kind in KINDS:
        maps[kind] = torch.where((hidden[kind] > 0) & (maps[kind] < 1), torch.tensor(UNKNOWN), maps[kind])
    return maps, corners


BOXES = [[0.0, 0, 30, 20], [10, 8, 17, 13], [40, 3, 63, 60], [-20, 40, 9, 90], [50, 50, 57.9, 57.9], [56, 56, 64, 64]]


def test_goals_are_those_of_a_slow_form(model: CornerNetSaccade) -> None:
    targets = [Targets(torch.tensor(BOXES), torch.tensor([0, 1, 2, 0, 1, 1])), Targets.empty()]
    goals = model.goals(targets, (CELLS, CELLS))
    expected, corners = slow_goals(targets)
    for kind in KINDS:
        torch.testing.assert_close(goals.heatmaps[kind], expected[kind])
    assert goals.image.tolist() == [0, 0, 0, 0]  # two are too small: hidden, neither corners nor background
    assert (goals.heatmaps["top_left"][0, 1] == UNKNOWN).any()
    said = [[cell % CELLS, cell // CELLS] for cell in goals.cells["top_left"].tolist()]
    assert said == [[x, y] for ((x, y, _, _),) in corners[::2]]
    np.testing.assert_allclose(goals.offsets["bottom_right"], [each[0][2:] for each in corners[1::2]], atol=1e-6)


def test_where_an_object_is_ignored_its_corners_are_hidden_beyond_its_box_too(model: CornerNetSaccade) -> None:
    """On maps of one pixel a cell."""
    target = Targets(torch.tensor([[12.0, 12, 64, 64]]), torch.tensor([2]), ignore=torch.tensor([True]))
    (heatmap,) = model.goals([target], (SIDE, SIDE)).heatmaps["top_left"]
    expected = torch.zeros(3, SIDE, SIDE)
    expected[:, 11:, 11:] = UNKNOWN  # the box, and a cell round it
    radius = int(gaussian_radius(torch.tensor([52, 52]), kind="corrected", min_iou=0.5))
    assert radius > 1
    expected[2, 12 - radius : 13 + radius, 12 - radius : 13 + radius] = UNKNOWN
    assert torch.equal(heatmap, expected)


@pytest.mark.parametrize(
    ("longest", "sizes"),
    [(5, ["small"]), (32, ["small", "medium"]), (33, ["medium"]), (96, ["medium", "large"]), (200, ["large"])],
)
def test_the_attention_map_of_an_object_is_that_of_its_size(longest: int, sizes: list[str]) -> None:
    x, y = 120.0, 90.0
    target = Targets(torch.tensor([[x - longest / 2, y - 2, x + longest / 2, y + 2]]), torch.tensor([1]))
    for size, (low, high, stride, _) in SIZES.items():
        side = 256 // stride
        goal = attention_goals([Targets.empty(), target], (side, side), stride, (low, high), 3)
        assert goal.shape == (2, 1, side, side)
        expected = [[1, 0, int(y // stride), int(x // stride)]] if size in sizes else []
        assert goal.nonzero().tolist() == expected and (not expected or goal.max() == 1)


def test_attention_knows_nothing_of_what_is_ignored_or_was_not_labelled() -> None:
    boxes, labels = torch.tensor([[8.0, 8, 24, 24], [40, 40, 60, 60]]), torch.tensor([0, 1])
    target = Targets(boxes, labels, ignore=torch.tensor([True, False]))
    (goal,) = attention_goals([target], (16, 16), 4, (0, 32), 3)[0]
    marked = torch.zeros(16, 16)
    marked[2:6, 2:6], marked[12, 12] = UNKNOWN, 1
    assert torch.equal(goal, marked)
    partly = Targets(boxes, labels, known=torch.tensor([True, True, False]))
    (goal,) = attention_goals([partly], (16, 16), 4, (0, 32), 3)[0]
    assert (goal == 1).sum() == 2 and (goal == UNKNOWN).sum() == 254


def focal(logits: Tensor, goal: Tensor) -> float:
    p, positive = logits.double().sigmoid().clamp(1e-4, 1 - 1e-4), goal == 1
    known = (goal < UNKNOWN) & ~positive
    loss = -((1 - p) ** 2 * p.log())[positive].sum() - ((1 - goal) ** 4 * p**2 * (1 - p).log())[known].sum()
    return float(loss) / max(1, int(positive.sum()))


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (4, 3)])
def test_losses_are_those_of_a_slow_form(model: CornerNetSaccade, counts: tuple[int, int]) -> None:
    """Of images of 96 x 128 pixels, half as large in the patch."""
    generator = torch.Generator().manual_seed(sum(counts))
    targets = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([80.0, 50.0])
        sides = 10 + torch.rand(count, 2, generator=generator) * torch.tensor([38.0, 36.0])
        targets.append(Targets(torch.cat([corner, corner + sides], dim=1), torch.arange(count) % 3))
    pixels = torch.rand(2, 3, 96, 128, generator=generator)
    with torch.no_grad():
        raw = model.network(pixels, torch.tensor([[96, 128]] * 2))
    losses = {name: float(value) for name, value in model.loss(raw, targets).items()}

    shift = torch.tensor([0.0, 8, 0, 8])  # an image of 64 x 48 in a patch of 64 x 64
    seen = [Targets(target.boxes / 2 + shift, target.labels) for target in targets]
    maps, corners = slow_goals(seen)
    heatmap = sum(focal(stack[f"{kind}_heatmap"], maps[kind]) for stack in raw.maps for kind in KINDS) / 2
    attention = 0.0
    for size, (low, high, stride, _) in SIZES.items():
        goal = attention_goals(seen, (SIDE // stride,) * 2, stride, (low, high), 3)
        attention += sum(focal(stack[f"{size}_attention"], goal) for stack in raw.maps) / 2 / 3
    assert losses["heatmap"] == pytest.approx(heatmap, rel=1e-4)
    assert losses["attention"] == pytest.approx(attention, rel=1e-4)
    number = sum((target.boxes[:, 2:] - target.boxes[:, :2]).amax(dim=1).ge(16).sum() for target in targets)
    offset = 0.0
    for stack in raw.maps:
        objects = iter(corners)
        for image, target in enumerate(seen):
            for _ in range(int((target.boxes[:, 2:] - target.boxes[:, :2]).amax(dim=1).ge(8).sum())):
                for kind in KINDS:
                    ((column, row, dx, dy),) = next(objects)
                    said = stack[f"{kind}_offset"][image, :, row, column]
                    offset += float(F.smooth_l1_loss(said, torch.tensor([dx, dy]), reduction="sum")) / 2
    assert losses["offset"] == pytest.approx(offset / (int(number) + 1e-4), rel=1e-4, abs=1e-9)
    assert (losses["pull"] == 0) == (sum(counts) == 0) and set(losses) == {
        *("heatmap", "pull", "push", "offset", "attention")
    }


def test_a_weight_of_attention_scales_its_loss_alone(model: CornerNetSaccade) -> None:
    heavy = create("cornernet_saccade", num_classes=3, input_size=SIDE, small_size=48, attention_weight=1.0, **NARROW)
    heavy.load_state_dict(model.state_dict())
    given = Images(torch.rand(1, 3, 64, 64), [(64, 64)])
    target = [Targets(torch.tensor([[5.0, 5, 50, 40]]), torch.tensor([1]))]
    light, more = model(given, target), heavy.eval()(given, target)
    assert float(more["attention"]) == pytest.approx(3 * float(light["attention"]), rel=1e-5)
    assert float(more["heatmap"]) == pytest.approx(float(light["heatmap"]), rel=1e-5)


def drawn(height: int, width: int) -> Tensor:
    """A smooth image `[3, H, W]`, in which a rounded place of a pixel changes little."""
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(height))
    return F.interpolate(coarse, (height, width), mode="bilinear")[0]


# Its looks, with another operator for the crops and loops for the rest


def slow_patch(model: CornerNetSaccade, image: Tensor, middle: tuple[float, float], scale: float) -> Tensor:
    """By `grid_sample`, whose border reaches out to the edge."""
    height, width = image.shape[1:]
    steps = (torch.arange(SIDE, dtype=torch.float64) + 0.5 - SIDE / 2) / scale
    x, y = steps + middle[0], steps + middle[1]
    grid = torch.stack(torch.meshgrid(2 * x / width - 1, 2 * y / height - 1, indexing="xy"), dim=-1)
    seen = F.grid_sample(image.double()[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)
    there = ((x > 0) & (x < width))[None, :] & ((y > 0) & (y < height))[:, None]
    return torch.where(there, seen[0], model.pixel_mean.double()[:, None, None])[None].float()


Box = tuple[float, int, list[float]]  # score, label, ends


def slow_boxes(stack: dict[str, Tensor], middle: tuple[float, float], scale: float) -> list[Box]:
    """The best 12 pairs of the best 12 corners of each kind, but of corners at the edge of the patch."""
    points = {}
    for kind in KINDS:
        heatmap, found = stack[f"{kind}_heatmap"][0], []
        for label, row, column in np.ndindex(*heatmap.shape):
            value = heatmap[label, row, column]
            if (heatmap[label, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] <= value).all():
                dx, dy = stack[f"{kind}_offset"][0, :, row, column].tolist()
                tag = float(stack[f"{kind}_embedding"][0, 0, row, column])
                found.append((float(value.sigmoid()), label, row, column, column + dx, row + dy, tag))
        points[kind] = sorted(found, reverse=True)[:12]
    pairs = []
    for score, label, row, column, x0, y0, tag in points["top_left"]:
        for other, alike, below, right, x1, y1, other_tag in points["bottom_right"]:
            cut_off = 0 in (row, column) or CELLS - 1 in (below, right)
            if label == alike and not cut_off and abs(tag - other_tag) <= 0.3 and x0 < x1 and y0 < y1:
                ends = [(4 * value - SIDE / 2) / scale + middle[i % 2] for i, value in enumerate((x0, y0, x1, y1))]
                pairs.append(((score + other) / 2, label, ends))
    return sorted(pairs, key=lambda pair: -pair[0])[:12]


def slow_detections(model: CornerNetSaccade, image: Tensor, *, crops: int) -> tuple[list[Box], int]:
    """What is found in an image `[3, H, W]`, before suppression, and how many closer looks there were."""
    height, width = image.shape[1:]
    limits = [width, height]

    def look(middle: tuple[float, float], scale: float) -> dict[str, Tensor]:
        pixels = slow_patch(model, image, middle, scale)
        return model.network(pixels, torch.tensor([[SIDE, SIDE]])).maps[-1]

    found: list[Box] = []
    places: list[tuple[float, float, float, float]] = []
    for size in (SIDE, 48):
        middle, scale = (width / 2, height / 2), size / max(height, width)
        stack = look(middle, scale)
        boxes = [box for box in slow_boxes(stack, middle, scale) if box[0] > 0.3]
        found += boxes
        for score, _, (x0, y0, x1, y1) in boxes:
            if score > 0.5:
                longest = max(x1 - x0, y1 - y0, 1)
                wanted = 192 if longest > 96 else 64 if longest > 32 else 24
                places.append((1.0, (x0 + x1) / 2, (y0 + y1) / 2, wanted / longest))
        for name, (_, _, stride, zoom) in SIZES.items():
            heatmap = stack[f"{name}_attention"][0, 0]
            for row, column in np.ndindex(*heatmap.shape):
                around = heatmap[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
                score = float(heatmap[row, column].sigmoid())
                x, y = ((at * stride - SIDE / 2) / scale + mid for at, mid in zip((column, row), middle, strict=True))
                inside = 0 <= x < width and 0 <= y < height and scale <= 2 and zoom * scale <= 4
                if heatmap[row, column] == around.max() and score > 0.3 and inside:
                    places.append((score, x, y, zoom * scale))
    kept: list[tuple[float, float, float, float]] = []
    for place in sorted(places, key=lambda place: -place[0]):
        near = [
            min(abs(place[1] - x), abs(place[2] - y)) <= 16 / scale and 0.8 <= scale / place[3] <= 1.2
            for _, x, y, scale in kept
        ]
        if not any(near):
            kept.append(place)
    for _, x, y, scale in kept[:crops]:
        found += slow_boxes(look((x, y), scale), (x, y), scale)
    clipped = [
        (score, label, [min(max(value, 0.0), limits[i % 2]) for i, value in enumerate(ends)])
        for score, label, ends in found
    ]
    return [box for box in clipped if box[2][0] < box[2][2] and box[2][1] < box[2][3]], min(len(kept), crops)


def slow_soft_nms(boxes: list[Box]) -> list[Box]:
    rest, found = [list(box) for box in boxes], []
    while rest and len(found) < 100:
        best = max(rest, key=lambda box: box[0])
        rest.remove(best)
        found.append(tuple(best))
        for box in rest:
            if box[1] == best[1]:
                box[0] *= math.exp(-(overlap(best[2], box[2]) ** 2) / 0.7)
        rest = [box for box in rest if box[0] >= 1e-3]
    return found


def overlap(one: list[float], other: list[float]) -> float:
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    both = max(0.0, width) * max(0.0, height)
    return both / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - both)


@torch.no_grad()
@pytest.mark.parametrize(("size_hw", "crops", "least"), [((96, 128), 30, 15), ((70, 50), 4, 5), ((20, 31), 30, 1)])
def test_detections_are_those_of_a_slow_form(
    model: CornerNetSaccade, size_hw: tuple[int, int], crops: int, least: int
) -> None:
    image = drawn(*size_hw)
    model.max_crops = crops
    (found,) = model(Images(image[None], [size_hw]))
    model.max_crops = 30
    boxes, looks = slow_detections(model, image, crops=crops)
    expected = slow_soft_nms(boxes)
    assert looks > 1 and len(found) == len(expected) >= least
    rows = match(found, expected)
    assert len({*rows}) == len(rows)
    for row, (score, label, ends) in zip(rows, expected, strict=True):
        assert float(found.scores[row]) == pytest.approx(score, abs=2e-4) and int(found.labels[row]) == label
        assert found.boxes[row].tolist() == pytest.approx(ends, abs=0.02)


def match(found: Detections, expected: list[Box]) -> list[int]:
    """The row that is nearest to each; of equal scores the order is anybody's."""
    rows = []
    for score, label, ends in expected:
        far = np.abs(found.boxes - ends).max(axis=1) + 100 * np.abs(found.scores - score)
        rows.append(int((far + 1e3 * (found.labels != label)).argmin()))
    return rows


@torch.no_grad()
def test_an_image_is_seen_alike_alone_and_beside_a_larger_one(model: CornerNetSaccade) -> None:
    small, large = drawn(40, 70), drawn(96, 90)
    together = model(Images.stack([small, large], divisor=1))
    (alone,) = model(Images(small[None], [(40, 70)]))
    assert len(alone) == len(together[0]) > 5
    np.testing.assert_allclose(together[0].boxes, alone.boxes, atol=1e-3)
    np.testing.assert_allclose(together[0].scores, alone.scores, atol=1e-5)


def said(images: int, **peaks: Any) -> dict[str, Tensor]:
    """Of nothing, but for heads by name, with values by (image, channel, row, column)."""
    stack = {}
    for kind in KINDS:
        stack[f"{kind}_heatmap"] = torch.full((images, 3, CELLS, CELLS), -9.0)
        stack[f"{kind}_offset"] = torch.full((images, 2, CELLS, CELLS), 0.5)
        stack[f"{kind}_embedding"] = torch.zeros(images, 1, CELLS, CELLS)
    for size, (_, _, stride, _) in SIZES.items():
        stack[f"{size}_attention"] = torch.full((images, 1, SIDE // stride, SIDE // stride), -9.0)
    for name, values in peaks.items():
        for at, value in values.items():
            stack[name][at] = value
    return stack


@pytest.mark.parametrize(
    ("corner", "end", "found"),
    [((1, 1), (14, 14), 1), ((0, 5), (9, 9), 0), ((5, 0), (9, 9), 0), ((5, 5), (15, 9), 0), ((5, 5), (9, 15), 0)],
)
def test_a_corner_at_the_edge_of_a_patch_is_none(
    model: CornerNetSaccade, corner: tuple[int, int], end: tuple[int, int], found: int
) -> None:
    stack = said(1, top_left_heatmap={(0, 2, *corner): 4.0}, bottom_right_heatmap={(0, 2, *end): 4.0})
    boxes, scores, labels = model._boxes(stack, whole_images(torch.tensor([[32, 32]]), SIDE))
    sure = scores[0] > 0.9
    assert int(sure.sum()) == found
    if found:
        assert boxes[0, sure].tolist() == [[3, 3, 29, 29]] and labels[0, sure].tolist() == [2]


def looks_of(model: CornerNetSaccade, monkeypatch: pytest.MonkeyPatch, *, seen: dict[str, Tensor]) -> list[int]:
    """How many patches each look has, of two images of which the network says `seen` in the first looks and nothing
    in closer ones."""
    counts = []

    def look(raw: SaccadeOutput, sizes_hw: Tensor, patches: Any, *, attention: bool = False) -> dict[str, Tensor]:
        counts.append(len(patches.scales))
        return seen if attention else said(len(patches.scales))

    monkeypatch.setattr(model, "_look", look)
    raw = SaccadeOutput(torch.zeros(2, 3, 96, 128), torch.tensor([[96, 128]] * 2), [seen])
    model.decode(raw, [(96, 128)] * 2)
    return counts


def test_where_there_is_nothing_no_closer_look_is_taken(
    model: CornerNetSaccade, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert looks_of(model, monkeypatch, seen=said(2)) == [2]  # of the smaller views alone


def test_closer_looks_are_as_many_as_there_are_places(model: CornerNetSaccade, monkeypatch: pytest.MonkeyPatch) -> None:
    # In both views of the second image, whose zooms give other scales, or lie far apart.
    seen = said(2, large_attention={(1, 0, 1, 1): 3.0}, small_attention={(1, 0, 8, 3): 2.0, (1, 0, 5, 10): 2.0})
    assert looks_of(model, monkeypatch, seen=seen) == [2, 6]


def oracle(model: CornerNetSaccade, target: Targets, patches: Patches) -> dict[str, Tensor]:
    """What a network that has learned all of it says of patches of an image with these objects."""
    side, seen = model.input_size, []
    for patch in patches.portions(1):
        boxes = into_patches(target.boxes[None], patch, side)[0]
        inside = boxes.clamp(0, side)
        share = ((inside[:, 2:] - inside[:, :2]) / (boxes[:, 2:] - boxes[:, :2])).prod(dim=1)
        kept = share > 0
        seen.append(Targets(inside[kept], target.labels[kept], ignore=share[kept] < 0.5))
    goals = model.goals(seen, (64, 64))
    numbers = torch.cat([torch.arange(int((goals.image == patch).sum())) for patch in range(len(seen))])
    stack = {}
    for kind in KINDS:
        known = torch.where(goals.heatmaps[kind] == UNKNOWN, torch.tensor(0.0), goals.heatmaps[kind])
        stack[f"{kind}_heatmap"] = torch.logit(known * 0.9 + 0.01)
        for head, values in (("offset", goals.offsets[kind]), ("embedding", 2.0 * numbers[:, None])):
            maps = torch.zeros(len(seen), values.shape[1], 64 * 64)
            maps[goals.image, :, goals.cells[kind]] = values
            stack[f"{kind}_{head}"] = maps.view(len(seen), -1, 64, 64)
    for size, (low, high, stride, _) in SIZES.items():
        goal = attention_goals(seen, (256 // stride,) * 2, stride, (low, high), len(model.classes))
        stack[f"{size}_attention"] = torch.logit(torch.where(goal == UNKNOWN, torch.tensor(0.0), goal) * 0.9 + 0.01)
    return stack


def test_what_is_learned_perfectly_is_found_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an image twice as large as a patch: the small objects are seen in closer looks alone."""
    model = create("cornernet_saccade", num_classes=3, **NARROW)
    boxes = [[60, 40, 260, 190], [300, 220, 380, 285], [420, 60, 440, 76], [330, 120, 341, 132], [20, 300, 50, 330.5]]
    target, sizes_hw = Targets.of(boxes, [0, 1, 2, 0, 1]), torch.tensor([[400, 500]])
    views = whole_images(sizes_hw, 255)
    monkeypatch.setattr(model, "_look", lambda raw, sizes, patches, attention=False: oracle(model, target, patches))
    raw = SaccadeOutput(torch.zeros(1, 3, 400, 500), sizes_hw, [oracle(model, target, views)])
    (found,) = model.decode(raw, [(400, 500)])
    found = found[found.scores > 0.8]
    rows = match(found, [(0.9, int(label), box) for label, box in zip(target.labels, boxes, strict=True)])
    np.testing.assert_allclose(found.boxes[rows], boxes, atol=1e-3)
    assert len(found) == 5
    model.max_crops = 1  # the largest object's
    (first,) = model.decode(raw, [(400, 500)])
    assert len(first[first.scores > 0.8]) < 5


def test_one_look_at_the_whole_image_will_do() -> None:
    torch.manual_seed(0)
    model = create("cornernet_saccade", num_classes=2, input_size=SIDE, small_size=None, **NARROW).eval()
    with torch.no_grad():
        (found,) = model(Images(torch.rand(1, 3, 40, 60), [(40, 60)]))
    assert found.size_hw == (40, 60)


def test_what_lies_beyond_the_image_is_its_mean_colour_or_black() -> None:
    for beyond in ("mean", "black"):
        model = create("cornernet_saccade", num_classes=2, input_size=SIDE, small_size=48, beyond=beyond, **NARROW)
        sizes_hw = torch.tensor([[10, 40]])
        patch = model._cut(torch.ones(1, 3, 10, 40), sizes_hw, whole_images(sizes_hw, SIDE))
        colour = model.pixel_mean if beyond == "mean" else torch.zeros(3)
        assert torch.equal(patch[0, :, 0, 0], colour) and (patch[0, :, SIDE // 2] == 1).all()


# The builder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"small_size": 300}, "small_size = 300 is more than input_size = 255"),
        ({"radius_iou": 1.0}, "radius_iou must lie between 0 and 1, got 1.0"),
        (
            {"channels": [8, 8], "blocks": [1, 1]},
            "2 numbers of channels make 1 step, of which step_maps = 3 asks",
        ),
        ({"beyond": "white"}, "unknown beyond 'white'; known: mean, black"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message), torch.device("meta"):
        create("cornernet_saccade", num_classes=3, **arguments)


def test_heads_for_other_classes_are_refused(model: CornerNetSaccade) -> None:
    with pytest.raises(UsageError, match="head predicts 3 classes, but 2 classes are named"):
        CornerNetSaccade(model.backbone, list(model.points), list(model.attention), classes=Classes.numbered(2))


def test_of_a_deeper_hourglass_the_three_finest_steps_attend() -> None:
    deep = {**NARROW, "channels": [8, 8, 10, 12, 12, 14], "blocks": [1, 1, 1, 1, 1, 2]}
    with torch.device("meta"):
        model = create("cornernet_saccade", **deep)
        raw = model.network(torch.zeros(1, 3, 255, 255), torch.tensor([[255, 255]]))
    assert [tuple(raw.maps[1][f"{size}_attention"].shape) for size in SIZES] == [(1, 1, n, n) for n in (16, 32, 64)]


def test_published_weights_have_to_be_given_as_a_file() -> None:
    (record,) = PUBLISHED["cornernet_saccade"].values()
    assert record.arguments == {"beyond": "black"}
    with pytest.raises(AweighError, match=r"without a checksum.*--weights CornerNet_Saccade_500000.pth"):
        locate(record)
