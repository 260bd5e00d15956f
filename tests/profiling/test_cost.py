"""The counter against arithmetic by hand, the paper's numbers and torchvision's own."""

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.ops import DeformConv2d

from aweigh.backbones.classifier import classifier
from aweigh.backbones.shufflenet_v2 import BUILDERS, ShuffleNetV2
from aweigh.errors import shortened
from aweigh.models import create
from aweigh.models.efficientdet import SCALING
from aweigh.profiling.cost import count
from aweigh.profiling.networks import find_network, run_network


def test_a_convolution_by_hand():
    # Guideline 2 of the paper: multiply-adds h w c1 c2 / g, memory access h w (c1 + c2) + c1 c2 / g.
    for groups in (1, 2, 4):
        cost = count(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1, groups=groups, bias=False)), (5, 7))
        layer = cost.layers[1]
        assert layer.multiply_adds == 5 * 7 * 8 * 16 // groups
        assert layer.memory_access == 5 * 7 * (8 + 16) + 8 * 16 // groups
        assert layer.parameters == 8 * 16 // groups
        assert (layer.name, layer.kind, layer.output, layer.calls) == ("1", "Conv2d", (16, 5, 7), 1)


def test_stride_linear_transposed_and_deformable_layers():
    strided = count(nn.Conv2d(3, 4, 3, stride=2, padding=1), (10, 10)).layers[0]
    assert strided.multiply_adds == 5 * 5 * 4 * 3 * 9
    assert strided.memory_access == 3 * 100 + 4 * 25 + 3 * 4 * 9
    linear = count(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (2, 2)).layers[0]
    assert (linear.multiply_adds, linear.memory_access, linear.parameters) == (60, 12 + 5 + 60, 65)
    transposed = count(nn.ConvTranspose2d(3, 6, 4, stride=2, padding=1), (5, 5)).layers[0]
    assert transposed.multiply_adds == 25 * 3 * 6 * 16
    deformable = DeformConv2d(3, 4, 3, padding=1)
    found = count(deformable, (6, 6), run=lambda layer, x: layer(x, x.new_empty(1, 18, 6, 6)))
    assert found.total.multiply_adds == 36 * 4 * 27


def test_a_layer_that_runs_twice_has_its_parameters_once():
    layer = nn.Conv2d(3, 3, 1, bias=False)
    once, twice = count(nn.Sequential(layer), (4, 4)), count(nn.Sequential(layer, layer), (4, 4))
    assert twice.total.multiply_adds == 2 * once.total.multiply_adds
    assert twice.total.parameters == once.total.parameters == 9
    assert [each.calls for each in twice.layers] == [2]


def test_the_module_stays_as_it_is():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout()).train()
    count(module, (8, 8))
    assert module.training and module[0].weight.device.type == "cpu" and not module[0]._forward_hooks


# Name, FLOPs of table 8 or of the appendix's table, and how far ours may be from it. The paper's form of the units.
PAPER = [
    ("shufflenet_v2_x0_5", 41e6, 0.013),  # ours is 40.48M: without anything else that is computed, 40 and not 41
    ("shufflenet_v2_x1_0", 146e6, 0.002),
    ("shufflenet_v2_x1_5", 299e6, 0.001),
    ("shufflenet_v2_x2_0", 591e6, 0.001),
    ("shufflenet_v2_x2_0_se", 597e6, 0.01),
    ("shufflenet_v2_50", 2.3e9, 0.01),
    ("shufflenet_v2_164_se", 12.7e9, 0.01),
]


@pytest.mark.parametrize(("name", "flops", "tolerance"), PAPER)
def test_the_numbers_of_the_paper(name, flops, tolerance):
    with torch.device("meta"):
        network = classifier(BUILDERS[name](form="authors"))
    found = count(network, (224, 224)).total.multiply_adds
    print(f"{name}: {found / 1e6:.3f}M, paper {flops / 1e6:g}M, {found / flops - 1:+.2%}")
    assert abs(found / flops - 1) <= tolerance


@pytest.mark.parametrize(
    "name", ["ResNet50", "MobileNet_V2", "ShuffleNet_V2_X0_5", "ShuffleNet_V2_X1_0", "ShuffleNet_V2_X2_0"]
)
def test_the_numbers_of_torchvision(name):
    meta = torchvision.models.get_model_weights(name.lower())["IMAGENET1K_V1"].meta
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)
    total = count(model, (224, 224)).total
    assert total.parameters == meta["num_params"]
    assert total.multiply_adds / 1e9 == pytest.approx(meta["_ops"], abs=6e-4)  # stated to three digits


def test_ours_costs_what_torchvisions_does():
    with torch.device("meta"):
        ours = classifier(ShuffleNetV2(1.5))
        theirs = torchvision.models.shufflenet_v2_x1_5(weights=None)
    assert count(ours, (160, 224)).total == count(theirs, (160, 224)).total


def test_parts_of_a_detector_are_its_backbone_neck_and_head():
    with torch.device("meta"):
        detector = create("fcos_shufflenet_v2_x0_5_fpn", num_classes=3)
    cost = count(detector, (256, 416), run=lambda model, x: model.network(x))
    assert [part.name for part in cost.parts] == ["backbone", "neck", "head"]
    assert cost.total.parameters == sum(each.numel() for each in detector.parameters())
    assert {layer.calls for layer in cost.layers if layer.name.startswith("head.")} == {5}
    assert sum(layer.multiply_adds for layer in cost.layers) == cost.total.multiply_adds
    body = count(ShuffleNetV2(0.5), (256, 416)).total
    assert (body.multiply_adds, body.memory_access) == (cost.parts[0].multiply_adds, cost.parts[0].memory_access)


# Multiply-adds of the README of the authors (google/automl), 90 classes at the size of the row. Its count has
# normalisation too, one multiply-add a value. D5: 130 there, 135 in the paper (table 2), which its size confirms.
EFFICIENTDET = {"d0": 2.54, "d1": 6.10, "d2": 11.0, "d3": 24.9, "d4": 55.2, "d5": 135, "d6": 226, "d7": 325, "d7x": 410}


@pytest.mark.parametrize(
    "row", [row if row in ("d0", "d7x") else pytest.param(row, marks=pytest.mark.thorough) for row in EFFICIENTDET]
)
def test_the_numbers_of_efficientdet(row):
    with torch.device("meta"):
        detector = create(f"efficientdet_{row}", num_classes=90)
    cost = count(detector, (SCALING[row].size,) * 2, run=run_network)
    normalised = sum(kind.read for kind in cost.kinds if kind.kind == "normalisation")
    assert (cost.total.multiply_adds + normalised) / 1e9 == pytest.approx(EFFICIENTDET[row], rel=4e-3)
    assert cost.total.multiply_adds / 1e9 == pytest.approx(EFFICIENTDET[row], rel=0.02)
    assert cost.unknown == ()


def test_the_number_of_torchvisions_fcos():
    with torch.device("meta"):
        detector = create("fcos_resnet50_fpn_torchvision")
    total = count(detector, (800, 800), run=run_network).total
    weights = torchvision.models.detection.FCOS_ResNet50_FPN_Weights.COCO_V1
    assert total.multiply_adds / 1e9 == pytest.approx(weights.meta["_ops"], rel=0.003)


def test_stages_are_the_parts_of_the_parts():
    with torch.device("meta"):
        detector = create("fcos_resnet50_fpn")
    cost = count(detector, (64, 64), run=run_network)
    names = [stage.name for stage in cost.stages]
    assert {f"backbone.body.layer{number}" for number in (1, 2, 3, 4)} < set(names)  # past what wraps the backbone
    assert "neck.lateral" in names and "head.logits" in names
    for figure in ("parameters", "multiply_adds", "memory_access", "activations"):
        assert sum(getattr(stage, figure) for stage in cost.stages) == getattr(cost.total, figure)


def test_what_has_no_multiply_adds_is_counted_by_its_kind():
    cost = count(nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)), (6, 8))
    kinds = {kind.kind: (kind.read, kind.written, kind.weights) for kind in cost.kinds}
    assert kinds == {
        "convolution": (144, 192, 12),
        "normalisation": (192, 200, 16),  # and two statistics of a channel; weight, bias, mean, variance
        "element-wise": (192, 192, 0),
        "pooling": (192, 96, 0),  # the values, and where they come from
    }
    assert cost.total.memory_access == 144 + 192 + 12 and cost.total.activations == 192
    assert cost.total.intensity == cost.total.multiply_adds / cost.total.memory_access


TIMM = [
    "resnet50", "vit_base_patch16_224", "vit_small_patch14_dinov2", "swin_tiny_patch4_window7_224", "convnext_tiny",
    "convnextv2_tiny", "efficientnet_b0", "tf_efficientnetv2_s", "mobilenetv3_large_100", "mobilenetv4_conv_small",
    "regnety_032", "densenet121", "inception_v3", "vgg16", "deit3_small_patch16_224", "beit_base_patch16_224",
    "maxvit_tiny_tf_224", "coatnet_0_rw_224", "hrnet_w18", "resnext50_32x4d",
]  # fmt: skip


@pytest.mark.parametrize("name", [*TIMM[:6], *(pytest.param(name, marks=pytest.mark.thorough) for name in TIMM[6:])])
def test_backbones_of_timm_have_no_unknown_operators(name):
    size = timm.get_pretrained_cfg(name).input_size[1]
    with torch.device("meta"):
        network = find_network(name)  # as the command finds it
    model = network.module
    cost = count(model, (size, size), run=network.run)
    assert cost.unknown == () and cost.total.multiply_adds > 1e8
    assert cost.total.parameters == sum(each.numel() for each in model.parameters())


@pytest.mark.parametrize(
    ("number", "text"), [(12, "12"), (1536, "1.54 k"), (145814296, "146 M"), (2.314e9, "2.31 G"), (12.6e9, "12.6 G")]
)
def test_shortened(number, text):
    assert shortened(number) == text
