"""Our EfficientDet against effdet's, with the same random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from effdet import DetBenchPredict, get_efficientdet_config
from effdet import EfficientDet as Reference
from effdet.anchors import AnchorLabeler, Anchors
from effdet.config.model_config import efficientdet_model_param_dict
from effdet.loss import DetectionLoss
from tests.detections import assert_same_detections
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from aweigh.classes import Classes
from aweigh.errors import UsageError
from aweigh.images.resize import Resize
from aweigh.models import PUBLISHED, create
from aweigh.predictor import Predictor
from aweigh.structures import IMAGENET_MEAN, IMAGENET_STD, Images, Targets
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.convert.effdet import efficientdet_from_effdet
from aweigh.weights.load import load_strict

NUM_CLASSES = 7
# Sizes that effdet takes, with few cells; those of lite0 are no multiples of the strides.
CASES = {
    "tf_efficientdet_d0": ("efficientdet_d0", {}, (128, 192)),
    "efficientdet_d0": ("efficientdet_d0", {"form": "torch"}, (128, 192)),
    "tf_efficientdet_d3": ("efficientdet_d3", {}, (128, 128)),
    "tf_efficientdet_d6": ("efficientdet_d6", {}, (128, 128)),
    "tf_efficientdet_d7x": ("efficientdet_d7x", {}, (256, 256)),
    "tf_efficientdet_lite0": ("efficientdet_lite0", {}, (160, 96)),
}
LARGEST = "tf_efficientdet_d7x"  # d6 with a deeper body and a level more


def reference(name: str, size_hw: tuple[int, int], num_classes: int = NUM_CLASSES) -> nn.Module:
    """effdet's network with weights for which its outputs are far from constant, in evaluation mode."""
    torch.manual_seed(0)
    config = get_efficientdet_config(name)
    config.image_size, config.num_classes = size_hw, num_classes
    network = Reference(config, pretrained_backbone=False)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(take_statistics) for norm in norms]
    with torch.no_grad():
        for norm in norms:
            norm.bias.normal_(std=0.1)
        for key, value in network.named_parameters():
            if key.endswith("edge_weights"):
                value.uniform_(0.5, 1.5)
        mean, std = (
            torch.tensor(config.get(name, default))[:, None, None]
            for name, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
        )
        network.eval()((pictures(size_hw) - mean) / std)
        network.class_net.predict.conv_pw.bias.fill_(-2.0)
        network.box_net.predict.conv_pw.weight.mul_(0.3)  # enlargements stay below our limit of 62
    for hook in hooks:
        hook.remove()
    return network


def take_statistics(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
    """Make the statistics those of the input; channels that are almost constant keep a spread."""
    variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance.clamp(min=float(variance.median())))


def ours_like(network: nn.Module, name: str, num_classes: int = NUM_CLASSES) -> nn.Module:
    builder, arguments, _ = CASES[name]
    model = create(builder, classes=Classes.numbered(num_classes), **arguments)
    load_strict(model, efficientdet_from_effdet(network.state_dict(), keep_ids=None), what=name)
    return model.eval()


def pictures(size_hw: tuple[int, int]) -> torch.Tensor:
    """Patches of colour with some noise: of noise alone, every cell of the coarse levels would be the same."""
    generator = torch.Generator().manual_seed(sum(size_hw))
    patches = torch.rand(2, 3, 6, 6, generator=generator)
    noise = torch.rand(2, 3, *size_hw, generator=generator)
    return 0.8 * nn.functional.interpolate(patches, size=size_hw, mode="bilinear") + 0.2 * noise


def rows(maps: list[torch.Tensor], width: int) -> torch.Tensor:
    return torch.cat([each.permute(0, 2, 3, 1).reshape(len(each), -1, width) for each in maps], dim=1)


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, nn.Module, tuple[int, int]]:
    name = "tf_efficientdet_d0"
    network = reference(name, CASES[name][2])
    return network, ours_like(network, name), CASES[name][2]


@pytest.mark.parametrize("name", [*sorted({*CASES} - {LARGEST}), pytest.param(LARGEST, marks=pytest.mark.thorough)])
def test_raw_outputs_and_anchors_are_equal(name: str) -> None:
    size_hw = CASES[name][2]
    network = reference(name, size_hw)
    model = ours_like(network, name)
    with torch.no_grad():
        logits, boxes = network(model.backbone.normalise(pictures(size_hw)))
        raw = model.network(pictures(size_hw))
    for got, expected in ((raw.logits, rows(logits, NUM_CLASSES)), (raw.deltas, rows(boxes, 4)[..., [1, 0, 3, 2]])):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
        assert expected.std() > 0.05  # a comparison of constants would prove nothing
    anchors = Anchors.from_config(network.config).boxes[:, [1, 0, 3, 2]]
    torch.testing.assert_close(raw.anchors, anchors, atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("counts", [(9, 1), (0, 4)])
def test_losses_are_equal(pair, counts: tuple[int, int]) -> None:
    network, model, (height, width) = pair
    generator = torch.Generator().manual_seed(1)
    targets = []
    for number in counts:
        corner = torch.rand(number, 2, generator=generator) * torch.tensor([width, height]) * 0.6
        # Of longer boxes several anchors lie wholly inside, and rounding decides which of them is the best.
        sides = 60 + torch.rand(number, 2, generator=generator) * 40
        boxes = torch.cat([corner, corner + sides], dim=1)
        # The last is as large as an anchor: two of its targets are exactly zero, which count for nothing.
        boxes[-1:] = torch.tensor([21.25, 5.75, 53.25, 37.75])
        targets.append(Targets(boxes, torch.randint(0, NUM_CLASSES, (number,), generator=generator)))
    with torch.no_grad():
        logits, boxes = network(model.backbone.normalise(pictures((height, width))))
        labeler = AnchorLabeler(Anchors.from_config(network.config), NUM_CLASSES)
        labels, deltas, positives = labeler.batch_label_anchors(
            [target.boxes[:, [1, 0, 3, 2]] for target in targets], [target.labels + 1 for target in targets]
        )
        _, classification, box = DetectionLoss(network.config)(logits, boxes, labels, deltas, positives)
        losses = model.loss(model.network(pictures((height, width))), targets)
    assert positives.sum() > 10 and (torch.cat([each.flatten() for each in deltas]) != 0).sum() < 4 * positives.sum()
    torch.testing.assert_close(losses["classification"], classification, rtol=1e-5, atol=0)
    torch.testing.assert_close(losses["box"], 50 * box, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("soft", "candidates"), [(False, 5000), (True, 400)])
def test_detections_are_equal(pair, soft: bool, candidates: int) -> None:
    network, model, size_hw = pair
    sizes = [(100, 192), (128, 150)]
    bench = DetBenchPredict(network)
    bench.soft_nms, bench.max_detection_points = soft, candidates
    information = {
        "img_scale": torch.ones(2),
        "img_size": torch.tensor([[width, height] for height, width in sizes]).float(),
    }
    before = model.nms, model.candidates_per_image
    model.nms, model.candidates_per_image = "soft" if soft else "class", candidates
    with torch.no_grad():
        expected = bench(model.backbone.normalise(pictures(size_hw)), information)
        found = model(Images(pictures(size_hw), sizes))
    model.nms, model.candidates_per_image = before
    for theirs, mine in zip(expected, found, strict=True):
        assert len(mine) == 100
        their_rows = theirs[:, :4], theirs[:, 4], theirs[:, 5].long() - 1
        assert_same_detections((mine.boxes, mine.scores, mine.labels), their_rows)


def test_a_published_file_gives_effdets_boxes_in_the_pixels_of_a_photograph(tmp_path: Path) -> None:
    """A file as effdet publishes it (90 rows), read and padded by us to its square: the boxes of its own model."""
    network = reference("tf_efficientdet_d0", (512, 512), num_classes=90)
    unnamed = [row for row in range(90) if row + 1 not in COCO_CLASSES.ids]
    with torch.no_grad():
        network.class_net.predict.conv_pw.bias.view(9, 90)[:, unnamed] = -30.0  # ours does not have these classes
    torch.save(network.state_dict(), tmp_path / "weights.pth")

    model = create("efficientdet_d0", weights=tmp_path / "weights.pth")
    photo = (pictures((512, 512))[0, :, :300] * 255).to(torch.uint8)
    found = Predictor(model, Resize(**model.record.resize), device="cpu")(photo, score=0)
    square = torch.zeros(1, 3, 512, 512)
    square[0, :, :300] = model.backbone.normalise(photo / 255)
    information = {"img_scale": torch.ones(1), "img_size": torch.tensor([[512.0, 300.0]])}
    with torch.no_grad():
        (expected,) = DetBenchPredict(network)(square, information)

    assert len(found) == 100
    ids = np.array(found.classes.ids)[found.labels]
    their_rows = expected[:, :4], expected[:, 4], expected[:, 5].long()
    assert_same_detections((found.boxes, found.scores, ids), their_rows, score_tolerance=1e-4)


# Trainable parameters of effdet's networks with 90 classes.
PARAMETERS = {
    "d0": 3_880_067,
    "d1": 6_625_898,
    "d2": 8_097_039,
    "d3": 12_032_296,
    "d4": 20_723_675,
    "d5": 33_653_315,
    "d6": 51_871_782,
    "d7": 51_871_782,
    "d7x": 77_147_166,
}


def count(*modules: nn.Module) -> int:
    return sum(value.numel() for module in modules for value in module.parameters())


@pytest.mark.parametrize("row", PARAMETERS)
def test_parameters_are_those_of_the_reference(row: str) -> None:
    with torch.device("meta"):
        assert count(create(f"efficientdet_{row}", classes=Classes.numbered(90))) == PARAMETERS[row]


def test_parameters_of_the_form_without_redundant_biases() -> None:
    with torch.device("meta"):
        assert count(create("efficientdet_d0", classes=Classes.numbered(90), form="torch")) == 3_877_763


# Table 4 of the paper: millions of parameters and milliards of multiply-adds; those of the second row as in table 2.
COMPARISON = {
    "ResNet-50 and FPN": ("retinanet_resnet50_fpn", {"top": "p5", "head_norm": "bn"}, 640, 34, 97),
    "EfficientNet-B3 and BiFPN": ("efficientdet_d3", {}, 896, 12, 25),
}


@pytest.mark.parametrize("name", COMPARISON)
def test_what_backbone_and_neck_are_worth(name: str) -> None:
    builder, arguments, size, millions, milliards = COMPARISON[name]
    parameters, multiply_adds = cost(create_on_nothing(builder, arguments), size)
    assert parameters == pytest.approx(millions, rel=0.02) and multiply_adds == pytest.approx(milliards, rel=0.02)


def test_of_b3_and_fpn_the_paper_counts_a_little_more() -> None:
    """It states 21 M and 75 G; what it holds more than RetinaNet on B3 is not described."""
    arguments = {"backbone": "tf_efficientnet_b3", "top": "p5", "head_norm": "bn"}
    parameters, multiply_adds = cost(create_on_nothing("retinanet_timm_fpn", arguments), 640)
    assert parameters == pytest.approx(19.87, rel=0.01) and multiply_adds == pytest.approx(69.6, rel=0.01)


def create_on_nothing(builder: str, arguments: dict[str, str]) -> nn.Module:
    with torch.device("meta"):
        return create(builder, classes=Classes.numbered(90), **arguments).eval()


def cost(model: nn.Module, size: int) -> tuple[float, float]:
    """Millions of parameters, and milliards of multiply-adds as torch counts them."""
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        model.network(torch.empty(1, 3, size, size))
    return count(model) / 1e6, counter.get_total_flops() / 2e9


def test_records_are_effdets_files_and_sizes() -> None:
    expected = {
        entry["url"]: entry["image_size"]
        for name, entry in efficientdet_model_param_dict.items()
        if name.startswith("tf_efficientdet_") or name in ("efficientdet_d0", "efficientdet_d1")
    }
    found = {}
    for builder in (name for name in PUBLISHED if name.startswith("efficientdet_")):
        for record in PUBLISHED[builder].values():
            assert record.builder == builder and record.file.endswith(f"-{record.sha256}.pth")
            found[record.url] = (record.resize["long"], record.arguments["stride_divisor"])
    assert found == expected and len(found) == 23


def test_other_weights_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'layer1\.weight' is not one of effdet's EfficientDet"):
        efficientdet_from_effdet({"layer1.weight": torch.zeros(1)})
    with pytest.raises(UsageError, match="has 63 rows, expected at least 90 for each of 9 anchors"):
        efficientdet_from_effdet({"class_net.predict.conv_pw.bias": torch.zeros(63)})
