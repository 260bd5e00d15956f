"""CenterNet: what it learns and how it decodes, against values worked out by hand and slow forms; its builders."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from aweigh.backbones.dla import DLA34
from aweigh.classes import Classes
from aweigh.errors import AweighError, UsageError
from aweigh.heads.heatmap import make_heads
from aweigh.images.resize import Resize
from aweigh.models import DETECTORS, PUBLISHED, create
from aweigh.models.centernet import BUILDERS, CenterNet, CenterNetOutput
from aweigh.ops.heatmaps import UNKNOWN, gaussian_radius
from aweigh.predictor import Predictor
from aweigh.runtime.tta import TTA
from aweigh.structures import Images, Targets
from aweigh.weights.load import locate

LITE = "centernet_shufflenet_v2_x0_5_lite"
SMALL_HOURGLASS = {"channels": [8, 8, 12], "blocks": [1, 1, 2], "stem_channels": 8, "head_channels": 8}
# With 80 classes, counted in the authors' code.
PARAMETERS = {
    "centernet_dla34": 19_675_892,
    "centernet_resnet18_dcn": 14_437_349,
    "centernet_resnet101_dcn": 49_673_189,
    "centernet_hourglass104": 191_284_008,
}


def lite(classes: int = 3, **options: object) -> CenterNet:
    torch.manual_seed(0)
    model: CenterNet = create(LITE, num_classes=classes, **options)
    return model


def outputs(images: int, classes: int, height: int, width: int, *, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "heatmap": torch.randn(images, classes, height, width, generator=generator) * 2 - 2,
        "offset": torch.rand(images, 2, height, width, generator=generator),
        "size": torch.rand(images, 2, height, width, generator=generator) * 12,
    }


# What there is to learn


def test_goals_of_one_box_by_hand() -> None:
    # 30 x 18 px from (10, 21): 7.5 x 4.5 cells, centre (25, 30) px = (6.25, 7.5) cells; radius of 5 x 8 cells: 1.74.
    box = Targets(torch.tensor([[10.0, 21, 40, 39]]), torch.tensor([2]))
    goals = lite().goals([Targets.empty(), box], (16, 24))
    assert goals.image.tolist() == [1] and goals.cell.tolist() == [7 * 24 + 6]
    assert goals.offset.tolist() == [[0.25, 0.5]] and goals.size.tolist() == [[7.5, 4.5]]
    expected = torch.zeros(2, 3, 16, 24)
    for row in range(6, 9):
        for column in range(5, 8):
            expected[1, 2, row, column] = math.exp(-((row - 7) ** 2 + (column - 6) ** 2) / (2 * 0.5**2))
    torch.testing.assert_close(goals.heatmap, expected)


def test_the_corrected_radius_is_a_plain_argument() -> None:
    box = Targets(torch.tensor([[0.0, 0, 80, 80]]), torch.tensor([0]))  # 20 x 20 cells: 5.5 or 1.6
    drawn = {kind: (lite(radius=kind).goals([box], (32, 32)).heatmap > 0).sum() for kind in ("official", "corrected")}
    assert drawn == {"official": 11**2, "corrected": 3**2}


@pytest.mark.parametrize(
    ("box", "cell", "offset", "size"),
    [
        ([0.0, 0, 1, 1], 0, [0.125, 0.125], [0.25, 0.25]),  # one pixel, first and last of the map
        ([63.0, 31, 64, 32], 7 * 16 + 15, [0.875, 0.875], [0.25, 0.25]),
        ([-40.0, -8, 8, 8], 16 + 1, [0.0, 0.0], [2.0, 2.0]),  # what lies beyond the map does not count
        ([60.0, 20, 100, 28], 6 * 16 + 15, [0.5, 0.0], [1.0, 2.0]),
    ],
)
def test_boxes_at_the_border(box: list[float], cell: int, offset: list[float], size: list[float]) -> None:
    goals = lite().goals([Targets(torch.tensor([box]), torch.tensor([0]))], (8, 16))
    assert goals.cell.tolist() == [cell]
    assert goals.offset.tolist() == [offset] and goals.size.tolist() == [size]
    assert goals.heatmap.flatten()[cell] == 1


def test_a_box_beyond_the_map_teaches_nothing() -> None:
    goals = lite().goals([Targets(torch.tensor([[70.0, 0, 90, 20]]), torch.tensor([0]))], (8, 16))
    assert len(goals.cell) == 0 and goals.heatmap.eq(0).all()


def test_two_objects_in_one_cell_are_one_centre_and_two_sizes() -> None:
    boxes = torch.tensor([[8.0, 8, 24, 24], [4, 4, 28, 28]])
    goals = lite().goals([Targets(boxes, torch.tensor([1, 1]))], (8, 8))
    assert goals.cell.tolist() == [4 * 8 + 4] * 2 and goals.size.tolist() == [[4, 4], [6, 6]]
    assert (goals.heatmap == 1).sum() == 1


def test_what_nobody_knows_is_marked_and_objects_stay() -> None:
    boxes = torch.tensor([[0.0, 0, 16, 16], [4, 4, 12, 12], [16, 16, 32, 32]])
    target = Targets(
        boxes,
        torch.tensor([0, 1, 2]),
        ignore=torch.tensor([True, False, False]),
        uncertain=torch.tensor([False, False, True]),
    )
    (heatmap,) = lite().goals([target], (8, 8)).heatmap
    marked = heatmap == UNKNOWN
    corner, opposite = torch.zeros(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)
    corner[:4, :4] = opposite[4:, 4:] = True
    assert torch.equal(marked[0], corner) and torch.equal(marked[2], corner | opposite)
    assert heatmap[1, 2, 2] == 1 and marked[1].sum() == 15  # all of the corner but the object in it
    assert (heatmap == 1).sum() == 1

    boxes = torch.tensor([[4.0, 4, 12, 12]])
    known = Targets(boxes, torch.tensor([1]), known=torch.tensor([True, True, False]))
    both = lite().goals([known, Targets.empty()], (8, 8)).heatmap
    assert (both[0, 2] == UNKNOWN).all() and not (both[0, :2] == UNKNOWN).any() and (both[1] == 0).all()


# Losses


def slow_loss(stack: dict[str, Tensor], targets: list[Targets], *, smooth: bool = False) -> dict[str, float]:
    """Sections 3 and 4 and the authors' normalisers, object by object and cell by cell, in float64."""
    images, classes, height, width = stack["heatmap"].shape
    goal = torch.zeros(images, classes, height, width, dtype=torch.float64)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    offset = size = 0.0
    count = 0
    for image, target in enumerate(targets):
        for (x0, y0, x1, y1), label in zip((target.boxes / 4).tolist(), target.labels.tolist(), strict=True):
            w, h, x, y = x1 - x0, y1 - y0, (x0 + x1) / 2, (y0 + y1) / 2
            column, row = int(x), int(y)
            radius = int(gaussian_radius(torch.tensor([math.ceil(h), math.ceil(w)])))
            near = ((rows - row).abs() <= radius) & ((columns - column).abs() <= radius)
            squared = ((rows - row) ** 2 + (columns - column) ** 2).double()
            gaussian = torch.exp(-squared / (2 * ((2 * radius + 1) / 6) ** 2)) * near
            goal[image, label] = torch.maximum(goal[image, label], gaussian)
            for value, wanted in zip(
                stack["offset"][image, :, row, column].tolist(), (x - column, y - row), strict=True
            ):
                offset += abs(value - wanted)
            for value, wanted in zip(stack["size"][image, :, row, column].tolist(), (w, h), strict=True):
                distance = abs(value - wanted)
                size += (0.5 * distance**2 if distance < 1 else distance - 0.5) if smooth else distance
            count += 1
    p = stack["heatmap"].double().sigmoid()
    positive = goal == 1
    heatmap = -((1 - p) ** 2 * p.log())[positive].sum()
    heatmap = heatmap - ((1 - goal) ** 4 * p**2 * (1 - p).log())[~positive].sum()
    return {
        "heatmap": float(heatmap) / max(1, int(positive.sum())),
        "offset": offset / (2 * count + 1e-4),
        "size": 0.1 * size / ((1 if smooth else 2) * count + 1e-4),
    }


def crowded(count: int, height: int, width: int, classes: int) -> Targets:
    """Boxes of one pixel and of half the image, many with a common centre."""
    generator = torch.Generator().manual_seed(count)
    corner = (torch.rand(count, 2, generator=generator) * torch.tensor([width - 2, height - 2])).round()
    sides = 1 + (torch.rand(count, 2, generator=generator) ** 4 * torch.tensor([width / 2, height / 2])).round()
    boxes = torch.cat([corner, torch.minimum(corner + sides, torch.tensor([float(width), height]))], dim=1)
    return Targets(boxes, torch.randint(0, classes, (count,), generator=generator))


@pytest.mark.parametrize("size_loss", ["l1", "smooth_l1"])
@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (7, 500)])
def test_losses_are_those_of_a_slow_form(counts: tuple[int, int], size_loss: str) -> None:
    stack = outputs(2, 3, 20, 28)
    targets = [crowded(count, 80, 112, 3) for count in counts]
    losses = lite(size_loss=size_loss).loss([stack], targets)
    expected = slow_loss(stack, targets, smooth=size_loss == "smooth_l1")
    assert {name: float(value) for name, value in losses.items()} == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_stacks_count_alike_and_the_size_has_its_weight() -> None:
    targets = [crowded(5, 64, 64, 3)]
    first, second = outputs(1, 3, 16, 16, seed=1), outputs(1, 3, 16, 16, seed=2)
    model = lite()
    alone = [model.loss([stack], targets) for stack in (first, second)]
    together = model.loss([first, second], targets)
    for name, value in together.items():
        torch.testing.assert_close(value, (alone[0][name] + alone[1][name]) / 2)
    heavier = lite(size_weight=0.2).loss([first, second], targets)
    torch.testing.assert_close(heavier["size"], 2 * together["size"])
    assert all(torch.equal(heavier[name], together[name]) for name in ("heatmap", "offset"))


# Decoding


def test_what_is_learned_perfectly_is_found_exactly() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [10, 21, 40, 39], [40, 0, 96, 64], [3, 3, 93, 61], [95, 63, 96, 64]])
    target = Targets(boxes, torch.tensor([0, 1, 2, 0, 1]))
    model = lite()
    goals = model.goals([target], (16, 24))
    raw = {"heatmap": torch.logit(goals.heatmap * 0.9 + 0.05), "offset": torch.zeros(1, 2, 16, 24)}
    raw["size"] = torch.zeros(1, 2, 16, 24)
    for name, values in (("offset", goals.offset), ("size", goals.size)):
        raw[name].flatten(2)[0, :, goals.cell] = values.T
    model.score_threshold = 0.9
    (found,) = model.decode([raw], [(64, 96)])
    assert len(found) == 5 and np.abs(found.scores - 0.95).max() < 1e-6
    order = [
        int((np.abs(found.boxes - box).max(axis=1) + (found.labels != label)).argmin())
        for box, label in zip(boxes.tolist(), target.labels.tolist(), strict=True)
    ]
    np.testing.assert_allclose(found.boxes[order], boxes, atol=1e-4, rtol=0)
    np.testing.assert_array_equal(found.labels[order], target.labels)


def slow_decoding(stack: dict[str, Tensor], size_hw: tuple[int, int]) -> list[tuple[float, int, list[float]]]:
    """Of one image, of which cells that begin beyond `size_hw` are no part."""
    heatmap = stack["heatmap"][0, :, : math.ceil(size_hw[0] / 4), : math.ceil(size_hw[1] / 4)]
    found = []
    for label, row, column in (heatmap > -math.inf).nonzero().tolist():
        value = heatmap[label, row, column]
        if (heatmap[label, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] <= value).all():
            (dx, dy), (w, h) = (stack[name][0, :, row, column].tolist() for name in ("offset", "size"))
            x, y = 4 * (column + dx), 4 * (row + dy)
            ends = [x - 2 * w, y - 2 * h, x + 2 * w, y + 2 * h]
            limits = [size_hw[1], size_hw[0]] * 2
            found.append((float(value.sigmoid()), label, [min(max(0.0, e), limit) for e, limit in zip(ends, limits)]))
    return sorted(found, reverse=True)[:100]


@pytest.mark.parametrize("size_hw", [(64, 96), (41, 90)])
def test_decoding_is_that_of_a_slow_form(size_hw: tuple[int, int]) -> None:
    stack = outputs(1, 3, 16, 24)
    nonsense = outputs(1, 3, 16, 24, seed=1)  # the last stack alone predicts
    (found,) = lite().decode([nonsense, stack], [size_hw])
    expected = slow_decoding(stack, size_hw)
    assert len(found) == len(expected) == 100 if size_hw == (64, 96) else len(found) == len(expected) < 100
    for score, label, box, (s, c, b) in zip(found.scores, found.labels, found.boxes, expected, strict=True):
        assert float(score) == pytest.approx(s) and int(label) == c and box.tolist() == pytest.approx(b, abs=1e-4)


def test_a_negative_size_is_none() -> None:
    stack = outputs(1, 3, 16, 24)
    stack["size"] = -stack["size"]
    (found,) = lite().decode([stack], [(64, 96)])
    assert len(found) == 100
    np.testing.assert_array_equal(found.boxes[:, :2], found.boxes[:, 2:])


def test_suppression_is_off_and_can_be_put_on() -> None:
    stack = {"heatmap": torch.full((1, 3, 16, 24), -9.0), "offset": torch.zeros(1, 2, 16, 24)}
    stack["size"] = torch.full((1, 2, 16, 24), 8.0)
    stack["heatmap"][0, 1, 8, [8, 10]] = torch.tensor([3.0, 2.0])  # IoU 0.6
    model = lite()
    model.score_threshold = 0.5
    assert len(model.decode([stack], [(64, 96)])[0]) == 2
    model.nms = "class"
    assert len(model.decode([stack], [(64, 96)])[0]) == 1
    model.nms = "soft"
    (softened,) = model.decode([stack], [(64, 96)])
    assert len(softened) == 2 and softened.scores[1] < 0.5


def test_an_exported_graph_has_no_suppression() -> None:
    class Exported(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = lite().eval()

        def forward(self, pixels: Tensor, sizes_hw: Tensor) -> tuple[Tensor, ...]:
            return self.model.select(self.model.network(pixels), sizes_hw)

    program = torch.export.export(Exported(), (torch.rand(1, 3, 64, 64), torch.tensor([[64, 64]])), strict=False)
    called = [str(node.target) for node in program.graph.nodes]
    assert any("max_pool2d" in name for name in called) and not any("nms" in name for name in called)


# Networks


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_the_authors(name: str) -> None:
    with torch.device("meta"):
        model = create(name)
    assert sum(value.numel() for value in model.parameters()) == PARAMETERS[name]


def test_heads_are_a_mapping_and_every_heat_map_starts_at_a_tenth() -> None:
    heads = make_heads(8, {"heatmap": 3, "joint_heatmap": 17, "depth": 1}, hidden=4)
    x = torch.rand(2, 8, 6, 5)
    assert {name: tuple(head(x).shape) for name, head in heads.items()} == {
        "heatmap": (2, 3, 6, 5),
        "joint_heatmap": (2, 17, 6, 5),
        "depth": (2, 1, 6, 5),
    }
    for name, head in heads.items():
        start = float(head[-1].bias.detach().sigmoid().mean())
        assert start == pytest.approx(0.1 if "heatmap" in name else 0.5, abs=0.001)


def test_a_small_hourglass_network_learns_in_every_stack() -> None:
    torch.manual_seed(0)
    model = create("centernet_hourglass104", num_classes=3, stacks=3, **SMALL_HOURGLASS).train()
    assert model.stride_divisor == 16
    images = Images.stack([torch.rand(3, 48, 80), torch.rand(3, 40, 40)], divisor=model.stride_divisor)
    raw: CenterNetOutput = model.network(images.pixels)
    assert [stack["heatmap"].shape for stack in raw] == [(2, 3, 12, 20)] * 3
    sum(model.loss(raw, [crowded(4, 40, 40, 3)] * 2).values()).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())


def test_the_light_one_learns_a_picture_by_heart() -> None:
    model = lite(size_weight=1.0).train()
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.2
    image[0, 4:28, 8:40], image[2, 36:60, 40:56] = 1.0, 1.0
    target = Targets(torch.tensor([[8.0, 4, 40, 28], [40, 36, 56, 60]]), torch.tensor([1, 2]))
    images = Images.stack([image])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0)
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 60)
        optimizer.zero_grad()
        sum(model(images, [target]).values()).backward()
        optimizer.step()
    (found,) = model(images)  # in training mode, by the image's own statistics
    best = found[:2][found.labels[:2].argsort()]
    assert best.labels.tolist() == [1, 2] and np.abs(best.boxes - target.boxes.numpy()).max() < 4
    assert best.scores.min() > 0.5 and found.scores[2] < 0.3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"radius": "corected"}, "unknown radius 'corected'"),
        ({"size_loss": "l2"}, "unknown size_loss 'l2'"),
        ({"heads": 3}, "there is no option 'heads'|got multiple values"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        lite(**arguments)


def test_heads_for_other_classes_are_refused() -> None:
    model = lite(3)
    with pytest.raises(UsageError, match="head predicts 3 classes, but 2 classes are named"):
        CenterNet(model.backbone, model.neck, list(model.heads), classes=Classes.numbered(2))


def test_dla34_does_nothing_with_what_nothing_reads() -> None:
    body = DLA34().eval()
    x = torch.rand(1, 3, 64, 64)
    before = body(x)
    unread = [value for key, value in body.state_dict().items() if "level3.project" in key or "level4.project" in key]
    assert sum(value.numel() for value in body.parameters() if not value.requires_grad) == 41_728
    for value in unread:
        value.fill_(7)
    assert all(torch.equal(old, new) for old, new in zip(before, body(x), strict=True))


# Published weights


def test_published_weights_have_to_be_given_as_a_file() -> None:
    records = [record for name in BUILDERS if name in PUBLISHED for record in PUBLISHED[name].values()]
    assert len(records) == 5 and all(record.builder in DETECTORS for record in records)
    for record in records:
        with pytest.raises(AweighError, match=rf"without a checksum.*--weights {record.file}.*MIT"):
            locate(record)
    with pytest.raises(AweighError, match=r"--weights ctdet_coco_resdcn18\.pth"):
        create("centernet_resnet18_dcn", weights="authors")


def test_a_picture_stays_in_its_size_as_in_the_authors_tests() -> None:
    resize = Resize(**PUBLISHED["centernet_dla34"]["2x"].resize)
    model = lite()
    picture = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert resize.size_for(50, 70) == (50, 70)
    found = Predictor(model, resize, device="cpu")(picture, score=0)
    assert found.size_hw == (50, 70) and len(found) > 0 and found.boxes[:, 2].max() <= 70


# An image and its mirror image


def test_averaged_maps_by_hand() -> None:
    model = lite(2)

    def maps(heatmap: list[list[float]], size: list[float], offset: float) -> CenterNetOutput:
        """Of one row of two cells, from probabilities, one list a class."""
        wide = torch.tensor(size).view(1, 1, 1, 2).expand(1, 2, 1, 2)
        return [{"heatmap": torch.tensor(heatmap).view(1, 2, 1, 2).logit(), "size": wide, "offset": wide * offset}]

    plain = maps([[0.1, 0.2], [0.3, 0.4]], [3.0, 5.0], 0.1)
    mirrored = maps([[0.5, 0.7], [0.9, 0.6]], [7.0, 4.0], 9.0)
    (averaged,) = model.average_flipped(plain, mirrored, torch.tensor([0, 1]))
    expected = torch.tensor([[0.4, 0.35], [0.45, 0.65]]).view(1, 2, 1, 2)  # 0.1 with 0.7, 0.2 with 0.5, ...
    torch.testing.assert_close(averaged["heatmap"].sigmoid(), expected)
    assert averaged["size"][0, :, 0].tolist() == [[3.5, 6.0]] * 2
    assert torch.equal(averaged["offset"], plain[0]["offset"])
    (averaged,) = model.average_flipped(plain, mirrored, torch.tensor([1, 0]))  # left and right, say
    expected = torch.tensor([[0.35, 0.55], [0.5, 0.45]]).view(1, 2, 1, 2)  # 0.1 with 0.6, 0.2 with 0.9, ...
    torch.testing.assert_close(averaged["heatmap"].sigmoid(), expected)


def test_a_head_that_does_not_say_how_it_mirrors_is_refused() -> None:
    maps: CenterNetOutput = [{"heatmap": torch.zeros(1, 3, 2, 2), "depth": torch.zeros(1, 1, 2, 2)}]
    with pytest.raises(UsageError, match="how the head 'depth' mirrors is not known"):
        lite().average_flipped(maps, maps, torch.arange(3))


def test_a_mirrored_picture_gives_mirrored_detections() -> None:
    model = lite()
    last = model.heads[0]["offset"][-1]
    with torch.no_grad():  # every centre in the middle of its cell, as offsets are not averaged
        last.weight.zero_()
        last.bias.fill_(0.5)
        model.heads[0]["size"][-1].bias.fill_(2.0)
        model.heads[0]["heatmap"][-1].weight.mul_(50)  # so that no two scores are alike
    picture = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(1))
    plain = Predictor(model, Resize(None, None), device="cpu")(picture, score=0)
    predictor = Predictor(model, Resize(None, None), tta=TTA(flip=True), device="cpu")
    found, mirrored = predictor(picture, score=0), predictor(picture.flip(-1), score=0)
    assert len(found) == len(mirrored) > 20
    np.testing.assert_allclose(mirrored.scores, found.scores, rtol=1.3e-6, atol=1e-5)
    x0, y0, x1, y1 = found.boxes.T
    turned = np.stack([96 - x1, y0, 96 - x0, y1], axis=1)
    np.testing.assert_allclose(mirrored.boxes, turned, atol=1e-3, rtol=0)
    np.testing.assert_array_equal(mirrored.labels, found.labels)
    assert plain.scores.tolist() != found.scores.tolist()
